"""Detections against labelled boxes: COCO's twelve figures, operating points, confusion, and the worst pictures.

The average precisions are COCO's (Lin et al., 2014): greedy matching by score at IoU 0.50 to 0.95, precision made monotonous
and read at 101 recalls, at most 100 boxes a picture; small, medium and large are areas below 32², 96² and above, of the labels'
``area``. Everything else is at one IoU, from ``matching``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stream.datasets.coco import CocoDataset
from stream.errors import DatasetError
from stream.evaluation.extra import extra
from stream.evaluation.matching import IGNORED, WRONG, Curve, Matches, OperatingPoint, curve, match, overlaps
from stream.evaluation.predictions import Prediction

Int64Array = npt.NDArray[np.int64]
COCO_FIGURES = (
    "ap",
    "ap50",
    "ap75",
    "ap_small",
    "ap_medium",
    "ap_large",
    "ar_1",
    "ar_10",
    "ar_100",
    "ar_small",
    "ar_medium",
    "ar_large",
)  # in the order of COCO's summary
AT_50, ALL_AREAS, MOST_BOXES = 0, 0, -1  # rows of the library's (IoU, recall, class, area, boxes) table


@dataclass(frozen=True)
class ClassReport:
    """One class.

    Attributes:
        name: of the category.
        objects, predictions: how many, without the ignored.
        ap, ap50: COCO's; nan where the class has no object.
        best_f1, at: operating points of the class: the best, and at the report's threshold.
        curve: at the report's IoU.
    """

    name: str
    objects: int
    predictions: int
    ap: float
    ap50: float
    best_f1: OperatingPoint
    at: OperatingPoint
    curve: Curve


@dataclass(frozen=True)
class PictureReport:
    """One picture at the report's threshold."""

    image_id: int
    point: OperatingPoint


@dataclass(frozen=True)
class DetectionReport:
    """How good the predictions are. Figures that cannot be measured are nan.

    Attributes:
        images, objects, ignored, predictions: how many.
        iou: least overlap of a match, for everything but COCO's figures.
        ap, ap50, ap75: over all classes; IoU 0.50:0.95, 0.50 and 0.75.
        ap_small, ap_medium, ap_large, ar_1, ar_10, ar_100, ar_small, ar_medium, ar_large: the rest of COCO's twelve.
        best_f1: all classes together, at the threshold of the highest F1.
        at: all classes together, at the wanted threshold, or again the best.
        curve: all classes together.
        classes: by category id.
        confusion: int64 (C + 1, C + 1) at the threshold of ``at``: truth by prediction; the last row holds predictions of
            nothing, the last column missed objects.
        matches: what found what.
        pictures: worst first: lowest F1, then most mistakes; those without objects and predictions are not among them.
    """

    images: int
    objects: int
    ignored: int
    predictions: int
    iou: float
    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar_1: float
    ar_10: float
    ar_100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    best_f1: OperatingPoint
    at: OperatingPoint
    curve: Curve
    classes: tuple[ClassReport, ...]
    confusion: Int64Array
    matches: Matches
    pictures: tuple[PictureReport, ...]


def evaluate_detections(
    truth: CocoDataset,
    predictions: Sequence[Prediction],
    *,
    confidence: float | None = None,
    iou: float = 0.5,
    min_visibility: float = 0.0,
) -> DetectionReport:
    """Measure predictions against labels.

    Args:
        truth: the labels; annotations with ``iscrowd`` are neither right nor wrong to find.
        predictions: down to a low score, so that the curves are whole.
        confidence: threshold of the operating point; that of the highest F1 if None.
        iou: least overlap of a match, for everything but COCO's figures.
        min_visibility: objects less visible than this count as crowds.

    Raises:
        DatasetError: the truth has no picture.
    """
    if not truth.images:
        raise DatasetError("the labels list no picture")
    truth = _without_hidden(truth, min_visibility)
    matches = match(truth, predictions, iou)
    whole = curve(matches)
    at = whole.best() if confidence is None else whole.at(confidence)
    twelve, per_class = _coco(truth, predictions)
    classes = []
    for kind, name in enumerate(truth.class_names):
        own = curve(matches, kind)
        counted = int(((matches.kind == kind) & (matches.found != IGNORED)).sum())
        best, here = own.best(), own.at(at.threshold)
        classes.append(ClassReport(name, own.objects, counted, *per_class[kind], best_f1=best, at=here, curve=own))
    return DetectionReport(
        images=len(truth.images),
        objects=whole.objects,
        ignored=int(matches.truth_ignored.sum()),
        predictions=len(predictions),
        iou=iou,
        **twelve,
        best_f1=whole.best(),
        at=at,
        curve=whole,
        classes=tuple(classes),
        confusion=_confusion(matches, len(classes), at.threshold, iou),
        matches=matches,
        pictures=_pictures(truth, matches, at.threshold),
    )


def only_classes(dataset: CocoDataset, names: Iterable[str]) -> CocoDataset:
    """The labels of some classes; all pictures are kept.

    Raises:
        DatasetError: the labels have no such class.
    """
    wanted = set(names)
    unknown = wanted - set(dataset.class_names)
    if unknown:
        raise DatasetError(
            f"the labels have no class {', '.join(map(repr, sorted(unknown)))}; they have {', '.join(dataset.class_names)}"
        )
    categories = [category for category in dataset.categories if category.name in wanted]
    ids = {category.id for category in categories}
    annotations = [annotation for annotation in dataset.annotations if annotation.category_id in ids]
    return dataset.model_copy(update={"categories": categories, "annotations": annotations})


def _without_hidden(truth: CocoDataset, min_visibility: float) -> CocoDataset:
    """Hidden objects as crowds."""
    if not any(a.visibility is not None and a.visibility < min_visibility for a in truth.annotations):
        return truth
    annotations = [
        a.model_copy(update={"iscrowd": 1}) if a.visibility is not None and a.visibility < min_visibility else a
        for a in truth.annotations
    ]
    return truth.model_copy(update={"annotations": annotations})


def _coco(truth: CocoDataset, predictions: Sequence[Prediction]) -> tuple[dict[str, float], list[tuple[float, float]]]:
    """COCO's twelve figures by name, and AP and AP50 of each class."""
    library = extra("faster_coco_eval")
    # Numbered anew from 1: the library keeps ids as floats, in which large ones are the same, and takes 0 for "not matched".
    image_of = {image.id: i for i, image in enumerate(truth.images, 1)}
    category_of = {category.id: i for i, category in enumerate(sorted(truth.categories, key=lambda one: one.id), 1)}
    labels: dict[str, Any] = {
        "images": [{"id": image_of[image.id], "width": image.width, "height": image.height} for image in truth.images],
        "categories": [{"id": category_of[category.id], "name": category.name} for category in truth.categories],
        "annotations": [
            {
                "id": i,
                "image_id": image_of[a.image_id],
                "category_id": category_of[a.category_id],
                "bbox": [*a.bbox],
                "area": a.area,
                "iscrowd": a.iscrowd,
            }
            for i, a in enumerate(truth.annotations, 1)
        ],
    }
    reference = library.COCO(labels)
    results = [
        {
            "image_id": image_of[prediction.image_id],
            "category_id": category_of[prediction.category_id],
            "bbox": [*prediction.bbox],
            "score": prediction.score,
        }
        for prediction in predictions
    ]
    evaluation = library.COCOeval_faster(reference, reference.loadRes(results), iouType="bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    twelve = {name: _or_nan(value) for name, value in zip(COCO_FIGURES, evaluation.stats[:12], strict=True)}
    precision = np.asarray(evaluation.eval["precision"], np.float64)[:, :, :, ALL_AREAS, MOST_BOXES]
    per_class = [(_or_nan(precision[:, :, k].mean()), _or_nan(precision[AT_50, :, k].mean())) for k in range(precision.shape[2])]
    return twelve, per_class


def _or_nan(value: float) -> float:
    """The library says -1 where there is nothing to measure."""
    return float(value) if value >= 0 else float("nan")


def _confusion(matches: Matches, classes: int, threshold: float, iou: float) -> Int64Array:
    """Truth by prediction: first the matches within a class, then what is left over, by overlap, across classes (within a
    class nothing is left that overlaps: it would be a match)."""
    table = np.zeros((classes + 1, classes + 1), np.int64)
    counts = (matches.score >= threshold) & (matches.found != IGNORED)
    right = counts & (matches.found >= 0)
    np.add.at(table, (matches.kind[right], matches.kind[right]), 1)
    missed = ~matches.truth_ignored
    missed[matches.found[right]] = False
    wrong = counts & (matches.found == WRONG)
    for image in np.intersect1d(matches.image[wrong], matches.truth_image[missed]):
        mine = np.flatnonzero(wrong & (matches.image == image))
        theirs = np.flatnonzero(missed & (matches.truth_image == image))
        shared, _ = overlaps(matches.xyxy[mine], matches.truth_xyxy[theirs])
        while shared.max() >= iou:
            row, column = np.unravel_index(int(shared.argmax()), shared.shape)
            table[matches.truth_kind[theirs[column]], matches.kind[mine[row]]] += 1
            wrong[mine[row]], missed[theirs[column]] = False, False
            shared[row], shared[:, column] = 0, 0
    np.add.at(table, (np.full(int(wrong.sum()), classes), matches.kind[wrong]), 1)
    np.add.at(table, (matches.truth_kind[missed], np.full(int(missed.sum()), classes)), 1)
    return table


def _pictures(truth: CocoDataset, matches: Matches, threshold: float) -> tuple[PictureReport, ...]:
    counts, n = matches.score >= threshold, len(truth.images)
    right = np.bincount(matches.image[counts & (matches.found >= 0)], minlength=n)
    wrong = np.bincount(matches.image[counts & (matches.found == WRONG)], minlength=n)
    objects = np.bincount(matches.truth_image[~matches.truth_ignored], minlength=n)
    found = [
        PictureReport(image.id, OperatingPoint(threshold, int(right[i]), int(wrong[i]), int(objects[i] - right[i])))
        for i, image in enumerate(truth.images)
        if objects[i] or wrong[i]
    ]
    return tuple(sorted(found, key=lambda p: (p.point.f1, -(p.point.wrong + p.point.missed), p.image_id)))
