"""Which prediction found which object: COCO's greedy matching at one IoU, and what follows from it.

Within a picture and a class the predictions choose in the order of their scores; each takes the free object that it overlaps
most, at least by the wanted IoU (Lin et al., Microsoft COCO, 2014, as in its reference evaluation). What a prediction takes does
not depend on fainter ones, so one matching serves every threshold.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stream.datasets.coco import CocoDataset
from stream.evaluation.predictions import Prediction

BoolArray = npt.NDArray[np.bool_]
Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
WRONG, IGNORED = -1, -2


@dataclass(frozen=True)
class Matches:
    """Parallel arrays over predictions, and over objects.

    Attributes:
        image: int64 (N,), row of the prediction's picture in ``CocoDataset.images``.
        kind: int64 (N,), dense class, in the order of the category ids.
        score: float64 (N,).
        xyxy: float64 (N, 4).
        found: int64 (N,), row of the object that it found; ``WRONG``, or ``IGNORED`` where it lies on an ignored object.
        truth_image, truth_kind, truth_xyxy: the same of the objects, (M,), (M,), (M, 4).
        truth_ignored: bool (M,), crowds and what the caller leaves out.
    """

    image: Int64Array
    kind: Int64Array
    score: Float64Array
    xyxy: Float64Array
    found: Int64Array
    truth_image: Int64Array
    truth_kind: Int64Array
    truth_xyxy: Float64Array
    truth_ignored: BoolArray


@dataclass(frozen=True)
class OperatingPoint:
    """What a threshold gives.

    Attributes:
        threshold: least score of a prediction that counts.
        right, wrong, missed: true positives, false positives, false negatives.
    """

    threshold: float
    right: int
    wrong: int
    missed: int

    @property
    def precision(self) -> float:
        """Share of the predictions that are right; nan where there is none."""
        return _ratio(self.right, self.right + self.wrong)

    @property
    def recall(self) -> float:
        """Share of the objects that are found; nan where there is none."""
        return _ratio(self.right, self.right + self.missed)

    @property
    def f1(self) -> float:
        """Harmonic mean of the two; nan where there is neither prediction nor object."""
        return _ratio(2 * self.right, 2 * self.right + self.wrong + self.missed)


@dataclass(frozen=True)
class Curve:
    """What every threshold gives, one point per distinct score, best score first.

    Attributes:
        threshold: float64 (K,), predictions from this score up count.
        right, claimed: int64 (K,), predictions that are right, and all that count.
        objects: how many there are to find.
    """

    threshold: Float64Array
    right: Int64Array
    claimed: Int64Array
    objects: int

    @property
    def precision(self) -> Float64Array:
        """float64 (K,)."""
        return self.right / self.claimed

    @property
    def recall(self) -> Float64Array:
        """float64 (K,); nan where there is no object."""
        return self.right / self.objects if self.objects else np.full(len(self.right), np.nan)

    @property
    def f1(self) -> Float64Array:
        """float64 (K,)."""
        return 2 * self.right / (self.claimed + self.objects)

    def at(self, threshold: float) -> OperatingPoint:
        """The operating point of a threshold."""
        points = int(np.searchsorted(-self.threshold, -threshold, side="right"))
        right, claimed = (int(self.right[points - 1]), int(self.claimed[points - 1])) if points else (0, 0)
        return OperatingPoint(threshold, right, claimed - right, self.objects - right)

    def best(self) -> OperatingPoint:
        """The operating point of the highest F1; its threshold lies half-way to the first score that is left out."""
        if not len(self.threshold):
            return self.at(0.0)
        i = int(np.argmax(self.f1))
        return self.at(float(self.threshold[i : i + 2].mean()) if i + 1 < len(self.threshold) else float(self.threshold[i]))


def match(truth: CocoDataset, predictions: Sequence[Prediction], iou: float) -> Matches:
    """Match the predictions to the objects of their picture and class.

    Args:
        truth: the labels; annotations with ``iscrowd`` may be found or not, and as often as one likes.
        predictions: in any order.
        iou: least overlap of a match; for crowds the share of the prediction that lies in them.
    """
    rows = {image.id: row for row, image in enumerate(truth.images)}
    kinds = {category.id: kind for kind, category in enumerate(sorted(truth.categories, key=lambda category: category.id))}
    objects = truth.annotations
    truth_xyxy = np.array([annotation.xyxy for annotation in objects], np.float64).reshape(-1, 4)
    xywh = np.array([prediction.bbox for prediction in predictions], np.float64).reshape(-1, 4)
    matches = Matches(
        image=np.array([rows[p.image_id] for p in predictions], np.int64),
        kind=np.array([kinds[p.category_id] for p in predictions], np.int64),
        score=np.array([p.score for p in predictions], np.float64),
        xyxy=np.hstack((xywh[:, :2], xywh[:, :2] + xywh[:, 2:])),
        found=np.full(len(predictions), WRONG, np.int64),
        truth_image=np.array([rows[a.image_id] for a in objects], np.int64),
        truth_kind=np.array([kinds[a.category_id] for a in objects], np.int64),
        truth_xyxy=truth_xyxy,
        truth_ignored=np.array([a.iscrowd for a in objects], np.bool_),
    )
    theirs = _groups(matches.truth_image, matches.truth_kind)
    for key, mine in _groups(matches.image, matches.kind).items():
        if key in theirs:
            ranked = mine[np.argsort(-matches.score[mine], kind="stable")]
            _assign(matches, ranked, theirs[key], iou)
    return matches


def curve(matches: Matches, kind: int | None = None) -> Curve:
    """The curve of one class, or of all predictions together where ``kind`` is None."""
    objects = ~matches.truth_ignored
    counted = matches.found != IGNORED
    if kind is not None:
        objects, counted = objects & (matches.truth_kind == kind), counted & (matches.kind == kind)
    order = np.argsort(-matches.score[counted], kind="stable")
    score, right = matches.score[counted][order], (matches.found[counted][order] >= 0).cumsum()
    last = np.append(np.flatnonzero(np.diff(score)), len(score) - 1) if len(score) else np.zeros(0, np.int64)
    return Curve(score[last], right[last], last + 1, int(objects.sum()))


def overlaps(boxes: Float64Array, others: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Overlap of boxes (N, 4) and others (M, 4), left, top, right, bottom.

    Returns:
        float64 (N, M): intersection over union, and intersection over the first box; 0 for boxes without area.
    """
    corner = np.minimum(boxes[:, None, 2:], others[None, :, 2:]) - np.maximum(boxes[:, None, :2], others[None, :, :2])
    common = corner.clip(0).prod(2)
    area, other = (boxes[:, 2:] - boxes[:, :2]).prod(1)[:, None], (others[:, 2:] - others[:, :2]).prod(1)[None]
    union = area + other - common
    return (
        np.divide(common, union, out=np.zeros_like(common), where=union > 0),
        np.divide(common, area, out=np.zeros_like(common), where=area > 0),
    )


def _assign(matches: Matches, mine: Int64Array, theirs: Int64Array, iou: float) -> None:
    """Fill ``found`` for the predictions ``mine``, best first, of one picture and class."""
    ignored = matches.truth_ignored[theirs]
    shared, inside = overlaps(matches.xyxy[mine], matches.truth_xyxy[theirs])
    free = ~ignored
    for row, prediction in enumerate(mine):
        candidates = np.where(free, shared[row], -1.0)
        best = int(np.argmax(candidates))
        if candidates[best] >= iou:
            matches.found[prediction], free[best] = theirs[best], False
        elif ignored.any() and inside[row, ignored].max() >= iou:
            matches.found[prediction] = IGNORED


def _groups(image: Int64Array, kind: Int64Array) -> dict[tuple[int, int], Int64Array]:
    """Rows by picture and class."""
    rows: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row, key in enumerate(zip(image.tolist(), kind.tolist(), strict=True)):
        rows[key].append(row)
    return {key: np.array(members, np.int64) for key, members in rows.items()}


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
