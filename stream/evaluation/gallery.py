"""Pictures for the page: the worst ones, with what is true and what was found drawn in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from stream.datasets.coco import CocoDataset, pictures
from stream.evaluation.detections import DetectionReport
from stream.evaluation.matching import IGNORED, WRONG, Matches
from stream.evaluation.segmentation import Masks, SegmentationReport
from stream.evaluation.summary import Snapshot
from stream.frame import Uint8Array

WIDTH_PX = 640
QUALITY = 80  # of JPEG
# BGR, and the same as CSS. Chosen to be told apart by people who see red and green alike.
FOUND, RIGHT, MISSED, FALSE, LEFT_OUT = (150, 158, 0), (242, 176, 86), (0, 190, 255), (60, 20, 220), (160, 160, 160)
BOX_LEGEND = (
    ("#009e96", "true, found"),
    ("#56b0f2", "found, right"),
    ("#ffbe00", "true, missed"),
    ("#dc143c", "found, wrong"),
    ("#a0a0a0", "left out"),
)
MASK_LEGEND = (("#009e96", "right"), ("#ffbe00", "true, missed"), ("#dc143c", "found, wrong"), ("#a0a0a0", "left out"))


def worst_pictures(truth: CocoDataset, report: DetectionReport, folder: Path, count: int) -> tuple[Snapshot, ...]:
    """The worst pictures of a report that are not free of mistakes, at its operating point.

    Args:
        truth: the labels that the report was made of.
        report: says which are the worst.
        folder: the label file's.
        count: so many at most.

    Raises:
        DatasetError: a picture cannot be read.
    """
    chosen = [picture for picture in report.pictures if picture.point.wrong or picture.point.missed][:count]
    row = {image.id: i for i, image in enumerate(truth.images)}
    classes = truth.class_names if len(truth.class_names) > 1 else ("",)
    drawn = {
        picture.image.id: _boxes(picture.bgr, report.matches, row[picture.image.id], report.at.threshold, classes)
        for picture in pictures(truth, folder, [picture.image_id for picture in chosen])
    }
    names = {
        image.id: image.file_name if image.frame_index is None else f"{image.file_name} #{image.frame_index}"
        for image in truth.images
    }
    return tuple(
        Snapshot(
            f"{names[picture.image_id]}: F1 {picture.point.f1:.2f}, {picture.point.right} right, "
            f"{picture.point.missed} missed, {picture.point.wrong} wrong",
            drawn[picture.image_id],
        )
        for picture in chosen
    )


def worst_masks(
    truth: Masks, result: Masks, report: SegmentationReport, count: int, *, binary: bool = False, ignore: int | None = None
) -> tuple[Snapshot, ...]:
    """The worst masks of a report, true and found on top of each other; ``binary`` and ``ignore`` as the report was made."""
    found = []
    for picture in report.pictures[:count]:
        true = truth.read[picture.name]()
        mask = result.read[picture.name]() if picture.name in result.read else np.zeros_like(true)
        canvas = np.full((*true.shape, 3), 40, np.uint8)
        canvas[(true > 0) & (mask == 0)] = MISSED
        canvas[mask > 0] = FALSE
        canvas[(true > 0) & ((mask > 0) if binary else (mask == true))] = FOUND
        if ignore is not None:
            canvas[true == ignore] = LEFT_OUT
        found.append(Snapshot(f"{picture.name}: mean IoU {picture.mean_iou:.3f}", _jpeg(canvas)))
    return tuple(found)


def _boxes(bgr: Uint8Array, matches: Matches, row: int, threshold: float, classes: Sequence[str]) -> bytes:
    scale = min(1.0, WIDTH_PX / bgr.shape[1])
    canvas = np.asarray(cv2.resize(bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
    shown = (matches.image == row) & (matches.score >= threshold)
    found = set(matches.found[shown].tolist())
    for i in np.flatnonzero(matches.truth_image == row):
        color = LEFT_OUT if matches.truth_ignored[i] else FOUND if i in found else MISSED
        _box(canvas, matches.truth_xyxy[i] * scale, color, 3 if color is MISSED else 2)
    for i in np.flatnonzero(shown):
        color = {WRONG: FALSE, IGNORED: LEFT_OUT}.get(int(matches.found[i]), RIGHT)
        _box(
            canvas,
            matches.xyxy[i] * scale,
            color,
            1 if color is RIGHT else 2,
            f"{classes[matches.kind[i]]} {matches.score[i]:.2f}".strip(),
        )
    return _jpeg(canvas)


def _box(
    canvas: Uint8Array, xyxy: npt.NDArray[np.float64], color: tuple[int, int, int], thickness: int, text: str | None = None
) -> None:
    left, top, right, bottom = np.rint(xyxy).astype(int).tolist()
    cv2.rectangle(canvas, (left, top), (right, bottom), color, thickness, cv2.LINE_AA)
    if text is not None:
        place = (left + 2, max(top - 4, 10))
        cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 3, cv2.LINE_AA)
        cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, color, 1, cv2.LINE_AA)


def _jpeg(bgr: Uint8Array) -> bytes:
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return bytes(data)
