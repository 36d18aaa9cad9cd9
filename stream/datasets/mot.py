"""MOTChallenge rows: the boxes of tracked objects, one row per frame and object.

The format is that of Leal-Taixé et al., MOTChallenge 2015, and Milan et al., MOT16 (2016):
``frame,id,left,top,width,height,confidence,class,visibility``, frames counted from 1. Results, and truth of the 2015 challenge,
have ten columns, of which the last three are a place in the world (or -1); such rows are of class 1 and wholly visible.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stream.errors import DatasetError
from stream.files import replacing

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]
COLUMNS = (6, 10)  # least and most in a row


@dataclass(frozen=True)
class MotTable:
    """Parallel arrays, one row per box, in the order of the file.

    Attributes:
        frame: int64 (N,), from 1.
        track_id: int64 (N,).
        xywh: float64 (N, 4), left, top, width, height in pixels.
        confidence: float64 (N,); a truth row with 0 is to be left out of any measure.
        class_id: int64 (N,), 1 for pedestrians.
        visibility: float64 (N,), visible share of the object, 0..1.
    """

    frame: Int64Array
    track_id: Int64Array
    xywh: Float64Array
    confidence: Float64Array
    class_id: Int64Array
    visibility: Float64Array

    def __post_init__(self) -> None:
        n = len(self.frame)
        for name, dtype in (
            ("frame", np.int64),
            ("track_id", np.int64),
            ("xywh", np.float64),
            ("confidence", np.float64),
            ("class_id", np.int64),
            ("visibility", np.float64),
        ):
            array, shape = getattr(self, name), (n, 4) if name == "xywh" else (n,)
            if array.dtype != dtype or array.shape != shape:
                raise ValueError(f"{name} must be {np.dtype(dtype)} {shape}, not {array.dtype} {array.shape}")

    @classmethod
    def of(
        cls,
        frame: npt.ArrayLike,
        track_id: npt.ArrayLike,
        xywh: npt.ArrayLike,
        confidence: npt.ArrayLike | None = None,
        class_id: npt.ArrayLike | None = None,
        visibility: npt.ArrayLike | None = None,
    ) -> MotTable:
        """Build from anything array-like; by default sure, of class 1 and wholly visible."""
        frames = np.asarray(frame, np.int64)
        n = len(frames)
        return cls(
            frames,
            np.asarray(track_id, np.int64),
            np.asarray(xywh, np.float64).reshape(-1, 4),
            np.ones(n) if confidence is None else np.asarray(confidence, np.float64),
            np.ones(n, np.int64) if class_id is None else np.asarray(class_id, np.int64),
            np.ones(n) if visibility is None else np.asarray(visibility, np.float64),
        )

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> MotTable:
        """The chosen rows, in the order of the index."""
        return MotTable(
            self.frame[rows],
            self.track_id[rows],
            self.xywh[rows],
            self.confidence[rows],
            self.class_id[rows],
            self.visibility[rows],
        )


def read_mot(path: Path) -> MotTable:
    """Read a MOTChallenge file; columns are parted by commas or spaces.

    Raises:
        DatasetError: it is missing, or a row is not of this format; names the file and the line.
    """
    rows: list[tuple[float, ...]] = []
    seen: dict[tuple[int, int], int] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: is not text: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = _row(line)
        except ValueError as error:
            raise DatasetError(f"{path}:{number}: {error}") from error
        key = (int(row[0]), int(row[1]))
        if key in seen:
            raise DatasetError(f"{path}:{number}: track {key[1]} is in frame {key[0]} twice; first in line {seen[key]}")
        seen[key] = number
        rows.append(row)
    data = np.array(rows, np.float64).reshape(-1, 9)
    return MotTable.of(data[:, 0], data[:, 1], data[:, 2:6], data[:, 6], data[:, 7], data[:, 8])


def write_mot(path: Path, table: MotTable) -> None:
    """Write a MOTChallenge file of nine columns, sizes to a hundredth of a pixel; it is renamed into place when whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        for i in range(len(table)):
            x, y, width, height = table.xywh[i]
            file.write(
                f"{table.frame[i]},{table.track_id[i]},{x:.2f},{y:.2f},{width:.2f},{height:.2f},"
                f"{table.confidence[i]:.6g},{table.class_id[i]},{table.visibility[i]:.4g}\n"
            )


def _row(line: str) -> tuple[float, ...]:
    cells = [float(cell) for cell in (line.split(",") if "," in line else line.split())]
    if not COLUMNS[0] <= len(cells) <= COLUMNS[1]:
        raise ValueError(f"has {len(cells)} columns; a row is frame,id,left,top,width,height,confidence,class,visibility")
    if not all(map(math.isfinite, cells)):
        raise ValueError("holds a number that is not finite")
    frame, track_id = cells[:2]
    if frame < 1 or frame != int(frame) or track_id != int(track_id):
        raise ValueError(f"frame {frame:g} and id {track_id:g} must be whole, and frames count from 1")
    if cells[4] < 0 or cells[5] < 0:
        raise ValueError(f"the box is {cells[4]:g} wide and {cells[5]:g} high")
    confidence = cells[6] if len(cells) > 6 else 1.0
    kind, visibility = (cells[7:9] + [1.0] * 2)[:2] if len(cells) in (8, 9) else (1.0, 1.0)
    if kind != int(kind) or not -1 <= visibility <= 1:
        raise ValueError(f"class {kind:g} must be whole, and visibility {visibility:g} in 0..1")
    if visibility < 0:
        visibility = 1.0
    return frame, track_id, *cells[2:6], confidence, kind, visibility
