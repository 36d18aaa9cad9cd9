"""Postprocess: from the outputs for one frame to detections in pixels of its source."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from stream.detections import Detections
from stream.detectors.base import InputSpec
from stream.detectors.decoders import Candidates, Decoder, Outputs

MAX_CANDIDATES = 3000  # the best ones; 200 objects of about 10 anchors each fit, and noise cannot stall the suppression
MIN_SIDE_PX = 1.0  # of a box in the source frame


@dataclass(frozen=True, slots=True)
class Postprocess:
    """Decode, choose classes, suppress, map back to the source. Safe to call from several threads.

    Attributes:
        decoder: of the model's output family.
        picture: how frames were placed in the model's input.
        wanted: bool (classes,), True for the classes to report.
        threshold: least score.
        nms_iou: boxes of one class that overlap a better one by more than this are dropped; None where the model did so.
    """

    decoder: Decoder
    picture: InputSpec
    wanted: npt.NDArray[np.bool_]
    threshold: float
    nms_iou: float | None

    def __call__(self, outputs: Outputs, width: int, height: int) -> Detections:
        """Detections, best first, in a source frame of ``width`` x ``height`` pixels, clipped to it."""
        with np.errstate(over="ignore", invalid="ignore"):  # a model may give inf or NaN; such boxes are dropped
            found = self.decoder(outputs, self.threshold)
            if not len(found.score):
                return Detections.empty()
            kept = self.wanted[found.class_id] & np.isfinite(found.xyxy).all(1)
            found = Candidates(found.xyxy[kept], found.score[kept], found.class_id[kept])
            best = suppress(found, self.nms_iou)
            xyxy = to_source(found.xyxy[best], self.picture, width, height)
            real = ((xyxy[:, 2:] - xyxy[:, :2]) >= MIN_SIDE_PX).all(1)
        best = best[real]
        return Detections.of(xyxy[real], np.minimum(found.score[best], 1), found.class_id[best])


def suppress(found: Candidates, iou: float | None) -> npt.NDArray[np.intp]:
    """Rows that survive greedy non-maximum suppression within each class, best first; equal scores keep their order.

    Boxes must be finite. With ``iou`` None all rows survive. Only the best ``MAX_CANDIDATES`` are looked at.
    """
    order = np.argsort(-found.score, kind="stable")[:MAX_CANDIDATES]
    if iou is None or len(order) < 2:
        return order
    boxes = found.xyxy[order].astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    # Classes are moved apart, further than the widest extent, so that only boxes of one class can overlap.
    extent = boxes[:, 0].max() + boxes[:, 2].max() - boxes[:, 0].min() + 1
    boxes[:, 0] += found.class_id[order] * extent
    kept = cv2.dnn.NMSBoxes(boxes, found.score[order], 0.0, iou)  # type: ignore[arg-type]  # arrays are taken as well
    return order[np.asarray(kept, np.intp)]


def to_source(xyxy: npt.NDArray[np.float32], picture: InputSpec, width: int, height: int) -> npt.NDArray[np.float32]:
    """Boxes (N, 4) from pixels of the input to pixels of a ``width`` x ``height`` source frame, clipped to it."""
    left, top, placed_width, placed_height = picture.placement(width, height)
    scale = np.array([width / placed_width, height / placed_height] * 2, np.float32)
    mapped = (xyxy - np.array([left, top] * 2, np.float32)) * scale
    clipped: npt.NDArray[np.float32] = np.clip(mapped, 0, np.array([width, height] * 2, np.float32))
    return clipped
