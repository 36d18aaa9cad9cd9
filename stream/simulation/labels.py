"""Labels: the boxes of a film as they gather, 64 bytes each, and their files."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stream.datasets.coco import CocoAnnotation, CocoCategory, CocoImage, Part
from stream.datasets.mot import MotTable
from stream.files import replacing
from stream.simulation.crowd import Walkers
from stream.simulation.render import Rendered

LEAST_VISIBLE = 0.15  # of a body: less is a shoe or the top of a head, which nobody can be blamed for missing
LEAST_HEIGHT_PX = 12  # of the visible part of a box: smaller ones show no more than a smudge
VIDEO = "video.mp4"
PERSON = CocoCategory(id=1, name="person")
COLUMNS = 8  # frame index, person, left, top, width, height, whether it is judged, visibility


class Labels:
    """Boxes of the frames of one film, and which of the frames ``coco.json`` lists.

    Args:
        width, height: of the picture.
        as_files: whether the listed frames are pictures with files of their own (``picture_name``), else frames of the video.
    """

    def __init__(self, width: int, height: int, as_files: bool):
        self._width, self._height, self._as_files = width, height, as_files
        self._rows = array("d")
        self._listed = array("q")  # frame indices

    def add(self, index: int, walkers: Walkers, rendered: Rendered, listed: bool) -> None:
        """Take the boxes of a frame; later frames come later."""
        for row, box in _boxes(rendered):
            visibility = round(min(1.0, max(0.0, float(rendered.visibility[row]))), 3)
            tall = float(rendered.boxes[row, 3] - rendered.boxes[row, 1]) >= LEAST_HEIGHT_PX
            judged = tall and visibility >= LEAST_VISIBLE  # one can be expected to find it
            self._rows.extend((index, float(walkers.person_id[row]), *box, judged, visibility))
        if listed:
            self._listed.append(index)

    def table(self) -> MotTable:
        """The boxes of all frames."""
        rows = self._table()
        ones = np.full(len(rows), PERSON.id, np.int64)
        return MotTable(rows[:, 0].astype(np.int64) + 1, rows[:, 1].astype(np.int64), rows[:, 2:6], rows[:, 6], ones, rows[:, 7])

    def write_coco(self, path: Path) -> None:
        """Write the boxes of the listed frames as a label file, one after the other: as pydantic objects those of a long film
        would take gigabytes."""
        with replacing(path) as whole, whole.open("w", encoding="utf-8") as file:
            lists: dict[str, Iterable[Part]] = {
                "images": self._images(),
                "annotations": self._annotations(),
                "categories": [PERSON],
            }
            for before, (key, parts) in zip("{,,", lists.items(), strict=True):
                file.write(f'{before}"{key}":[')
                for number, part in enumerate(parts):
                    file.write("," * bool(number) + part.model_dump_json(exclude_none=True))
                file.write("]")
            file.write("}")

    def _images(self) -> Iterator[CocoImage]:
        for number, index in enumerate(self._listed, 1):
            name, frame_index = (picture_name(index), None) if self._as_files else (VIDEO, index)
            yield CocoImage(id=number, file_name=name, width=self._width, height=self._height, frame_index=frame_index)

    def _annotations(self) -> Iterator[CocoAnnotation]:
        rows = self._table()
        starts, ends = (np.searchsorted(rows[:, 0], self._listed, side) for side in ("left", "right"))
        number = 0
        for image_id, (start, end) in enumerate(zip(starts, ends, strict=True), 1):
            for _, _, x, y, w, h, judged, visibility in rows[start:end].tolist():
                number += 1
                yield CocoAnnotation(
                    id=number,
                    image_id=image_id,
                    category_id=PERSON.id,
                    bbox=(x, y, w, h),
                    area=round(w * h, 2),
                    iscrowd=0 if judged else 1,
                    visibility=visibility,
                )

    def _table(self) -> npt.NDArray[np.float64]:
        return np.frombuffer(self._rows, np.float64).reshape(-1, COLUMNS)


def picture_name(index: int) -> str:
    """File of a frame that is a picture."""
    return f"images/{index:06d}.jpg"


def _boxes(rendered: Rendered) -> Iterator[tuple[int, tuple[float, float, float, float]]]:
    """Row and x, y, width, height of the boxes that lie in the picture."""
    for row, (x0, y0, x1, y1) in enumerate(rendered.boxes.astype(np.float64).round(2).tolist()):
        if x1 > x0 and y1 > y0:
            yield row, (x0, y0, round(x1 - x0, 2), round(y1 - y0, 2))
