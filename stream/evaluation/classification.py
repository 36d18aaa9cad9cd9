"""Classes of whole pictures (or of anything with an id) against the true classes."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stream.errors import DatasetError
from stream.evaluation.matching import OperatingPoint
from stream.evaluation.records import read_lines

Int64Array = npt.NDArray[np.int64]
SEVERAL = 5  # of top-5
NOT_SCORES = ("id", "label")


class Answer(NamedTuple):
    """What was said of one id: the classes, best first; with only a label there is one."""

    id: str
    ranking: tuple[str, ...]


class ClassFigures(NamedTuple):
    """One class; ``point`` has no threshold: the best class counts."""

    name: str
    objects: int
    point: OperatingPoint


@dataclass(frozen=True)
class ClassificationReport:
    """How good the classes are.

    Attributes:
        samples: in the truth.
        unanswered: of those without a result; they count as wrong.
        unknown: results whose id is not in the truth; no figure holds them.
        top1, top5: share of the samples whose class is the best, among the best five (nan where no result has a ranking).
        classes: by name, those of the truth and of the results.
        confusion: int64 (C, C + 1), truth by best class; the last column holds the unanswered.
    """

    samples: int
    unanswered: int
    unknown: int
    top1: float
    top5: float
    classes: tuple[ClassFigures, ...]
    confusion: Int64Array

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that occur in the truth."""
        return float(np.mean([figures.point.f1 for figures in self.classes if figures.objects]))


def evaluate_classification(truth: Mapping[str, str], answers: Sequence[Answer]) -> ClassificationReport:
    """Measure answers against the true classes.

    Args:
        truth: class by id.
        answers: at most one per id.

    Raises:
        DatasetError: there is no truth, or no answer is to an id of the truth.
    """
    if not truth:
        raise DatasetError("the truth holds no sample")
    ranking = {answer.id: answer.ranking for answer in answers}
    known = truth.keys() & ranking.keys()
    if not known:
        raise DatasetError(f"no result is to an id of the truth, whose first is {next(iter(truth))!r}")
    names = sorted(set(truth.values()) | {ranking[sample][0] for sample in known})
    row = {name: i for i, name in enumerate(names)}
    table = np.zeros((len(names), len(names) + 1), np.int64)
    for sample, label in truth.items():
        table[row[label], row[ranking[sample][0]] if sample in known else len(names)] += 1
    right, objects, claimed = table.diagonal(), table.sum(1), table[:, :-1].sum(0)
    ranked = any(len(ranking[sample]) > 1 for sample in known)
    return ClassificationReport(
        samples=len(truth),
        unanswered=len(truth) - len(known),
        unknown=len(ranking.keys() - truth.keys()),
        top1=float(right.sum() / len(truth)),
        top5=sum(truth[sample] in ranking[sample][:SEVERAL] for sample in known) / len(truth) if ranked else math.nan,
        classes=tuple(
            ClassFigures(
                name,
                int(objects[i]),
                OperatingPoint(0.0, int(right[i]), int(claimed[i] - right[i]), int(objects[i] - right[i])),
            )
            for i, name in enumerate(names)
        ),
        confusion=table,
    )


def read_labels(path: Path) -> dict[str, str]:
    """The true classes, from CSV (``id,label``) or JSON Lines (the same keys).

    Raises:
        DatasetError: the file is missing, a line is not like that, or an id comes twice.
    """
    found: dict[str, str] = {}
    for place, record in _records(path):
        sample, label = _id(record, place, found), record.get("label")
        if label is None or label == "":
            raise DatasetError(f"{place}: label: is missing")
        found[sample] = str(label)
    return found


def read_answers(path: Path) -> list[Answer]:
    """Results, from CSV (``id`` and either ``label`` or a column of scores per class) or JSON Lines (``id`` and either
    ``label`` or ``scores``, an object of scores by class). Equal scores are ranked by name; what stands beside a label, as
    its confidence or a note, is passed over.

    Raises:
        DatasetError: the file is missing, a line is not like that, or an id comes twice.
    """
    found: dict[str, Answer] = {}
    for place, record in _records(path):
        sample = _id(record, place, found)
        label = record.get("label")
        others = {name: value for name, value in record.items() if name not in NOT_SCORES} if label in (None, "") else {}
        scores = record.get("scores", others)
        if not isinstance(scores, dict):
            raise DatasetError(f"{place}: scores: must be an object of scores by class")
        if scores:
            found[sample] = Answer(sample, _ranking(scores, place))
        elif label in (None, ""):
            raise DatasetError(f"{place}: has neither label nor scores")
        else:
            found[sample] = Answer(sample, (str(label),))
    return list(found.values())


def _ranking(scores: Mapping[str, object], place: str) -> tuple[str, ...]:
    values = {}
    for name, value in scores.items():
        try:
            values[name] = float(str(value))
        except ValueError as error:
            raise DatasetError(f"{place}: score of {name!r}: {value!r} is not a number") from error
        if not math.isfinite(values[name]):
            raise DatasetError(f"{place}: score of {name!r}: {value!r} is not finite")
    return tuple(sorted(values, key=lambda name: (-values[name], name)))


def _id(record: Mapping[str, object], place: str, seen: Mapping[str, object]) -> str:
    sample = record.get("id")
    if sample is None or sample == "":
        raise DatasetError(f"{place}: id: is missing")
    if str(sample) in seen:
        raise DatasetError(f"{place}: id: {sample!r} comes twice")
    return str(sample)


def _records(path: Path) -> list[tuple[str, dict[str, object]]]:
    """Each record with the place it comes from."""
    lines = read_lines(path)
    if path.suffix.lower() == ".csv":
        reader = csv.DictReader(lines)
        if "id" not in (reader.fieldnames or ()):
            raise DatasetError(f"{path}:1: the head line must name id, not {reader.fieldnames}")
        found: list[tuple[str, dict[str, object]]] = []
        for row in reader:
            if None in row or None in row.values():
                raise DatasetError(f"{path}:{reader.line_num}: has another number of columns than the head line")
            found.append((f"{path}:{reader.line_num}", dict(row)))
        return found
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                record = json.loads(line)
            except ValueError as error:
                raise DatasetError(f"{path}:{number}: is not valid JSON: {error}") from error
            if not isinstance(record, dict):
                raise DatasetError(f"{path}:{number}: is not an object")
            found.append((f"{path}:{number}", record))
    return found
