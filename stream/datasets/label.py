"""Labels that a model makes: pictures of recordings, with what it finds in them.

Nobody has looked at such labels. They are where correcting by hand begins, what a small model can learn of a large one, and
what another model is held against before it takes this one's place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2

from stream.config import SourceConfig
from stream.datasets.coco import CocoAnnotation, CocoCategory, CocoDataset, CocoImage
from stream.datasets.files import PICTURES, VIDEOS
from stream.detectors.base import Detector
from stream.errors import DatasetError, SourceError
from stream.evaluation.predictions import predict
from stream.recording import decoded_frames
from stream.scale import to_picture

IMAGES = "images"
QUALITY = 95  # of JPEG


def find_recordings(paths: Sequence[Path]) -> list[Path]:
    """The files among ``paths``, and the pictures and videos in the folders among them and in their sub-folders.

    Raises:
        DatasetError: a path does not exist, or a folder holds neither pictures nor videos.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in (*PICTURES, *VIDEOS))
            if not inside:
                raise DatasetError(f"{path}: holds neither a picture nor a video")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise DatasetError(f"{path}: no such file or folder")
    return list(dict.fromkeys(found))


class Collection:
    """The frames of recordings as JPEG files in ``folder``/images.

    Attributes:
        images: what was written so far, without labels.
        faults: why a recording could not be read, or not to its end.
    """

    def __init__(self, folder: Path):
        """The folder must exist.

        Raises:
            OSError: it cannot be written to.
        """
        self.images: list[CocoImage] = []
        self.faults: list[str] = []
        self._folder = folder
        self._names: set[str] = set()
        (folder / IMAGES).mkdir()

    def add(self, recording: Path, fps: float | None) -> Iterator[CocoImage]:
        """Write ``fps`` frames a second of a recording (None: all), one after another; yields each.

        Raises:
            DatasetError: a picture cannot be written.
        """
        name = self._name(recording.stem)
        try:
            for frame in decoded_frames(SourceConfig(id="recording", uri=str(recording.absolute()), fps=fps)):
                bgr = to_picture(frame.frame)
                file_name = f"{IMAGES}/{name}-{frame.frame_index:06d}.jpg"
                if not cv2.imwrite(str(self._folder / file_name), bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY]):
                    raise DatasetError(f"{self._folder / file_name}: cannot be written")
                height, width = bgr.shape[:2]
                self.images.append(CocoImage(id=len(self.images) + 1, file_name=file_name, width=width, height=height))
                yield self.images[-1]
        except SourceError as error:
            self.faults.append(f"{recording}: {error.reason}")

    def _name(self, stem: str) -> str:
        """``stem``, with a number where a recording of another folder has it already."""
        name, number = stem, 1
        while name in self._names:
            number += 1
            name = f"{stem}-{number}"
        self._names.add(name)
        return name


def label(
    images: Sequence[CocoImage],
    folder: Path,
    detector: Detector,
    classes: Sequence[str],
    progress: Callable[[int], None] | None = None,
) -> CocoDataset:
    """What a detector finds in pictures, as labels; each annotation has its confidence as ``score``.

    Args:
        images: the pictures, in ``folder``.
        folder: of the label file.
        detector: reports objects down to the confidence from which on they are to be labels.
        classes: that become categories; the detector has them all.
        progress: called with the number of pictures done since the last call.

    Raises:
        DatasetError: a picture cannot be read.
        DetectorError: the detector failed.
    """
    categories = [CocoCategory(id=i, name=name) for i, name in enumerate(classes, 1)]
    unlabelled = CocoDataset(images=list(images), annotations=[], categories=categories)
    annotations = [
        CocoAnnotation(
            id=i,
            image_id=found.image_id,
            category_id=found.category_id,
            bbox=found.bbox,
            area=found.bbox[2] * found.bbox[3],
            score=round(found.score, 4),
        )
        for i, found in enumerate(predict(detector, unlabelled, folder, progress=progress), 1)
    ]
    info = {"description": f"found by {detector.model_id}, looked at by nobody"}
    return CocoDataset(images=list(images), annotations=annotations, categories=categories, info=info)
