"""Detections: parallel arrays, one row per object."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]
NO_TRACK = -1


@dataclass(frozen=True, slots=True)
class Detections:
    """What a detector, and after it a tracker, found in one frame.

    Attributes:
        xyxy: float32 (N, 4), left, top, right, bottom in pixels of the source frame.
        confidence: float32 (N,), 0..1.
        class_id: int64 (N,), index into the model's class names.
        track_id: int64 (N,), ``NO_TRACK`` where no tracker has spoken.
    """

    xyxy: Float32Array
    confidence: Float32Array
    class_id: Int64Array
    track_id: Int64Array

    def __post_init__(self) -> None:
        n = len(self.xyxy)
        if self.xyxy.shape != (n, 4):
            raise ValueError(f"xyxy must be (N, 4), not {self.xyxy.shape}")
        for name, dtype in (("xyxy", np.float32), ("confidence", np.float32), ("class_id", np.int64), ("track_id", np.int64)):
            array = getattr(self, name)
            if array.dtype != dtype:
                raise ValueError(f"{name} must be {np.dtype(dtype)}, not {array.dtype}")
            if len(array) != n or (name != "xyxy" and array.ndim != 1):
                raise ValueError(f"{name} must have {n} rows, not shape {array.shape}")

    @classmethod
    def of(
        cls, xyxy: npt.ArrayLike, confidence: npt.ArrayLike, class_id: npt.ArrayLike, track_id: npt.ArrayLike | None = None
    ) -> Detections:
        """Build from anything array-like; dtypes are converted, ``track_id`` defaults to ``NO_TRACK``."""
        boxes = np.asarray(xyxy, np.float32).reshape(-1, 4)
        ids = np.full(len(boxes), NO_TRACK, np.int64) if track_id is None else np.asarray(track_id, np.int64)
        return cls(boxes, np.asarray(confidence, np.float32), np.asarray(class_id, np.int64), ids)

    @classmethod
    def empty(cls) -> Detections:
        """No objects."""
        return cls.of(np.zeros((0, 4)), [], [])

    def __len__(self) -> int:
        return len(self.xyxy)

    def __getitem__(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.intp] | slice) -> Detections:
        """The chosen rows, in the order of the index."""
        return Detections(self.xyxy[rows], self.confidence[rows], self.class_id[rows], self.track_id[rows])

    def with_track_id(self, track_id: Int64Array) -> Detections:
        """The same rows under these track ids."""
        return replace(self, track_id=track_id)
