"""Decoders: from a model's outputs to candidate boxes, one class per output family.

A decoder is built from the spec and the outputs that the model's file declares, and checks that they agree; so building
it is how a YAML is validated without running anything. Called with the outputs for one frame (with or without their
batch axis) it drops what is below the threshold before it decodes the rest. Stateless after that: any thread may call it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from stream.detections import Float32Array, Int64Array
from stream.detectors.ports import Port, agrees, find_named, listed
from stream.detectors.spec import (
    BoxesOutput,
    FastestDetOutput,
    ModelInput,
    ModelSpec,
    NanodetOutput,
    Yolov8Output,
    YoloxOutput,
)

Outputs = Sequence[npt.NDArray[Any]]
SCORE_WORDS = ("score", "conf", "prob", "logit")  # in the names of outputs
LABEL_WORDS = ("label", "class")


class Candidates(NamedTuple):
    """Boxes before suppression: float32 (N, 4) left, top, right, bottom in pixels of the input; float32 (N,); int64 (N,)."""

    xyxy: Float32Array
    score: Float32Array
    class_id: Int64Array


class Decoder(Protocol):
    """Outputs for one frame -> candidates with a score of at least ``threshold``, in no particular order."""

    def __call__(self, outputs: Outputs, threshold: float) -> Candidates: ...


def build_decoder(spec: ModelSpec, outputs: Sequence[Port]) -> Decoder:
    """The decoder of the spec's output family.

    Raises:
        ValueError: the model's outputs are not what the spec says; the text continues a sentence about the model.
    """
    classes = len(spec.classes)
    match spec.output:
        case FastestDetOutput():
            return FastestDet(spec.output, spec.input, classes, outputs)
        case YoloxOutput():
            return Yolox(spec.output, spec.input, classes, outputs)
        case Yolov8Output():
            return Yolov8(spec.output, classes, outputs)
        case NanodetOutput():
            return Nanodet(spec.output, spec.input, classes, outputs)
        case BoxesOutput():
            return Boxes(spec.output, spec.input, classes, outputs)


class FastestDet:
    """FastestDet (https://github.com/dog-qiuqiu/FastestDet): score = objectness^0.6 * class^0.4."""

    def __init__(self, spec: FastestDetOutput, picture: ModelInput, classes: int, outputs: Sequence[Port]):
        self._index, port = _only(outputs, spec.name)
        if len(port.shape) != 4:
            raise ValueError(f"its output {port} has {len(port.shape)} axes, not FastestDet's 4")
        _check_classes(port, port.shape[1], 5, classes)
        rows, columns = port.shape[2:]
        if rows is None or columns is None:
            raise ValueError(f"its output {port} has no fixed number of cells")
        self._channels, self._columns = 5 + classes, columns
        self._cell = np.array([[picture.width / columns], [picture.height / rows]], np.float32)
        self._size = np.array([[picture.width], [picture.height]], np.float32)

    def __call__(self, outputs: Outputs, threshold: float) -> Candidates:
        maps = _float32(outputs[self._index]).reshape(self._channels, -1)
        # A class score is at most 1, so objectness alone rules out nearly every cell.
        cells = np.flatnonzero(maps[0] >= threshold ** (1 / 0.6))
        values = maps[:, cells]
        class_id = values[5:].argmax(0)
        score = values[0] ** 0.6 * values[5:].max(0, initial=0) ** 0.4
        kept = score >= threshold
        cells, values = cells[kept], values[:5, kept]
        center = (np.stack((cells % self._columns, cells // self._columns)) + np.tanh(values[1:3])) * self._cell
        half = _sigmoid(values[3:5]) * self._size / 2
        return _candidates(np.concatenate((center - half, center + half)).T, score[kept], class_id[kept])


class Yolox:
    """YOLOX (Ge et al., "YOLOX: Exceeding YOLO Series in 2021", arXiv:2107.08430): score = objectness * class."""

    def __init__(self, spec: YoloxOutput, picture: ModelInput, classes: int, outputs: Sequence[Port]):
        self._index, port = _only(outputs, spec.name)
        if len(port.shape) != 3:
            raise ValueError(f"its output {port} has {len(port.shape)} axes, not YOLOX's 3")
        _check_classes(port, port.shape[2], 5, classes)
        self._channels, self._decoded = 5 + classes, spec.decoded
        cells, self._stride = _grid(picture, spec.strides)
        self._origin = cells * self._stride
        if not spec.decoded and not agrees(port.shape[1], len(cells)):
            raise ValueError(f"its output {port} has {port.shape[1]} anchors; input size and strides make {len(cells)}")

    def __call__(self, outputs: Outputs, threshold: float) -> Candidates:
        anchors = _float32(outputs[self._index]).reshape(-1, self._channels)
        rows = np.flatnonzero(anchors[:, 4] >= threshold)
        values = anchors[rows]
        class_id = values[:, 5:].argmax(1)
        score = values[:, 4] * values[:, 5:].max(1, initial=0)
        kept = score >= threshold
        rows, values = rows[kept], values[kept]
        center, size = values[:, :2], values[:, 2:4]
        if not self._decoded:
            center, size = center * self._stride[rows] + self._origin[rows], np.exp(size) * self._stride[rows]
        return _candidates(np.hstack((center - size / 2, center + size / 2)), score[kept], class_id[kept])


class Yolov8:
    """YOLOv8 (https://docs.ultralytics.com): ready cx, cy, w, h and class scores, one column per anchor."""

    def __init__(self, spec: Yolov8Output, classes: int, outputs: Sequence[Port]):
        self._index, port = _only(outputs, spec.name)
        if len(port.shape) != 3:
            raise ValueError(f"its output {port} has {len(port.shape)} axes, not YOLOv8's 3")
        _check_classes(port, port.shape[1], 4, classes)
        self._channels = 4 + classes

    def __call__(self, outputs: Outputs, threshold: float) -> Candidates:
        columns = _float32(outputs[self._index]).reshape(self._channels, -1)
        best = columns[4:].max(0)
        kept = np.flatnonzero(best >= threshold)
        values = columns[:, kept]
        center, half = values[:2], values[2:4] / 2
        return _candidates(np.concatenate((center - half, center + half)).T, best[kept], values[4:].argmax(0))


class Nanodet:
    """NanoDet and NanoDet-Plus (https://github.com/RangiLyu/nanodet).

    The distance to each side is the mean of a distribution over ``reg_max + 1`` bins (Li et al., "Generalized Focal
    Loss", arXiv:2006.04388).
    """

    def __init__(self, spec: NanodetOutput, picture: ModelInput, classes: int, outputs: Sequence[Port]):
        self._classes, self._bins = classes, spec.reg_max + 1
        counts = [len(_grid(picture, [stride])[0]) for stride in spec.strides]
        self._joined = len(outputs) == 1
        if self._joined:
            _check_classes(outputs[0], outputs[0].shape[-1] if outputs[0].shape else None, 4 * self._bins, classes)
            if not agrees(outputs[0].shape[-2] if len(outputs[0].shape) > 1 else None, sum(counts)):
                raise ValueError(f"its output {outputs[0]} does not have the {sum(counts)} anchors that size and strides make")
        else:
            self._scores = self._pick(spec.scores, outputs, counts, classes, "class scores")
            self._boxes = self._pick(spec.boxes, outputs, counts, 4 * self._bins, "box distributions")
            if set(self._scores) & set(self._boxes):
                raise ValueError(
                    f"class scores and boxes have the same shape: name the outputs in scores and boxes ({listed(outputs)})"
                )
        cells, self._stride = _grid(picture, spec.strides)
        offset = spec.cell_offset if spec.cell_offset is not None else 0.0 if self._joined else 0.5
        self._center = (cells + np.float32(offset)) * self._stride

    @staticmethod
    def _pick(names: list[str] | None, outputs: Sequence[Port], counts: list[int], channels: int, what: str) -> list[int]:
        """For each stride the output with its number of anchors and with ``channels``."""
        found = []
        for level, count in enumerate(counts):
            fit = [i for i, port in enumerate(outputs) if port.shape[-2:] == (count, channels)]
            if names is not None:
                fit = [i for i in fit if i == find_named(outputs, names[level])]
            if not fit:
                raise ValueError(f"has no output with {what} [{count}, {channels}]; its outputs are {listed(outputs)}")
            found.append(fit[0])
        return found

    def __call__(self, outputs: Outputs, threshold: float) -> Candidates:
        if self._joined:
            joined = _float32(outputs[0]).reshape(-1, self._classes + 4 * self._bins)
            levels = [(joined[:, : self._classes], joined[:, self._classes :])]
        else:
            levels = [
                (_float32(outputs[i]).reshape(-1, self._classes), _float32(outputs[k]).reshape(-1, 4 * self._bins))
                for i, k in zip(self._scores, self._boxes, strict=True)
            ]
        kept = [_rows_above(scores, threshold) for scores, _ in levels]
        starts = np.cumsum([0] + [len(scores) for scores, _ in levels])
        rows = np.concatenate([level + start for level, start in zip(kept, starts, strict=False)])
        scores = np.concatenate([scores[level] for level, (scores, _) in zip(kept, levels, strict=True)])
        bins = np.concatenate([bins[level] for level, (_, bins) in zip(kept, levels, strict=True)])
        weights = _softmax(bins.reshape(-1, 4, self._bins))
        distance = weights @ np.arange(self._bins, dtype=np.float32) * self._stride[rows]
        center = self._center[rows]
        boxes = np.hstack((center - distance[:, :2], center + distance[:, 2:]))
        return _candidates(boxes, scores.max(1, initial=0), scores.argmax(1))


class Boxes:
    """Ready boxes; see ``BoxesOutput`` for the forms."""

    def __init__(self, spec: BoxesOutput, picture: ModelInput, classes: int, outputs: Sequence[Port]):
        self._spec, self._classes = spec, classes
        self._unit = np.array([picture.width, picture.height] * 2 if spec.normalized else [1] * 4, np.float32)
        self._columns = self._per_class = 0
        if len(outputs) == 1:
            shape = outputs[0].shape
            if not (len(shape) in (2, 3) and shape[-1] == 6) and not (len(shape) == 4 and shape[-1] == 7):
                raise ValueError(f"its only output {outputs[0]} is neither [1, N, 6] nor [1, 1, N, 7]")
            self._columns = shape[-1] or 0
            return
        self._assign(outputs)
        rank = len(outputs[self._boxes].shape)
        scores = outputs[self._scores]
        if len(scores.shape) == rank:
            skipped = int(spec.background != "none")
            _check_classes(scores, scores.shape[-1], skipped, classes)
            self._per_class = classes + skipped
            if self._labels is not None:
                raise ValueError(f"scores {scores} are given class by class, so labels make no sense")
        elif len(scores.shape) != rank - 1:
            raise ValueError(f"scores {scores} do not belong to boxes {outputs[self._boxes]}")
        elif self._labels is None and classes > 1:
            raise ValueError(f"knows {classes} classes but no output gives labels; its outputs are {listed(outputs)}")

    def _assign(self, outputs: Sequence[Port]) -> None:
        """Which output is which: by name where the spec has one, else by shape, type and words in the name."""
        spec = self._spec
        named = {role: find_named(outputs, n) for role in ("boxes", "scores", "labels") if (n := getattr(spec, role))}
        free = [i for i in range(len(outputs)) if i not in named.values()]

        def called(i: int, words: tuple[str, ...]) -> bool:
            return any(word in name.lower() for name in outputs[i].names for word in words)

        def choose(role: str, fit: list[int], words: tuple[str, ...]) -> int | None:
            if role in named:
                return named[role]
            telling = [i for i in fit if called(i, words)]
            chosen = telling if len(telling) == 1 else fit
            if len(chosen) > 1:
                raise ValueError(f"which output gives {role}? Name it in the YAML; its outputs are {listed(outputs)}")
            free[:] = [i for i in free if i not in chosen]
            return chosen[0] if chosen else None

        fit = [i for i in free if len(outputs[i].shape) in (2, 3) and outputs[i].shape[-1] == 4]
        boxes = choose("boxes", fit, ("box",))
        if boxes is None:
            raise ValueError(f"no output gives boxes [1, N, 4]; its outputs are {listed(outputs)}")
        rank = len(outputs[boxes].shape)
        fit = [i for i in free if len(outputs[i].shape) == rank - 1 and not called(i, SCORE_WORDS)]
        labels = choose("labels", [i for i in fit if outputs[i].is_integer or called(i, LABEL_WORDS)], LABEL_WORDS)
        fit = [i for i in free if len(outputs[i].shape) in (rank - 1, rank) and not outputs[i].is_integer]
        scores = choose("scores", fit, SCORE_WORDS)
        if scores is None:
            raise ValueError(f"no output gives scores; its outputs are {listed(outputs)}")
        self._boxes, self._scores, self._labels = boxes, scores, labels

    def __call__(self, outputs: Outputs, threshold: float) -> Candidates:
        boxes, score, label = self._rows(outputs)
        kept = score >= threshold
        if not self._per_class:
            label = label - self._spec.first_label
            kept &= (label >= 0) & (label < self._classes)
        x, y, z, w = boxes[kept].T
        match self._spec.box_format:
            case "xyxy":
                sides = x, y, z, w
            case "yxyx":
                sides = y, x, w, z
            case "xywh":
                sides = x, y, x + z, y + w
            case "cxcywh":
                sides = x - z / 2, y - w / 2, x + z / 2, y + w / 2
        return _candidates(np.stack(sides, 1) * self._unit, score[kept], label[kept])

    def _rows(self, outputs: Outputs) -> tuple[Float32Array, Float32Array, npt.NDArray[Any]]:
        """Boxes (N, 4) in the model's own format, activated scores (N,), labels (N,)."""
        if self._columns:
            rows = _float32(outputs[0]).reshape(-1, self._columns)
            if self._columns == 6:
                return rows[:, :4], self._activated(rows[:, 4]), rows[:, 5]
            rows = rows[rows[:, 0] >= 0]  # SSD marks the rows that it does not use with image -1
            return rows[:, 3:], self._activated(rows[:, 2]), rows[:, 1]
        boxes = _float32(outputs[self._boxes]).reshape(-1, 4)
        if not self._per_class:
            score = self._activated(_float32(outputs[self._scores]).reshape(-1))
            first = np.full(len(score), self._spec.first_label)
            return boxes, score, first if self._labels is None else outputs[self._labels].reshape(-1)
        scores = _float32(outputs[self._scores]).reshape(-1, self._per_class)
        scores = _softmax(scores) if self._spec.activation == "softmax" else self._activated(scores)
        scores = {"none": scores, "first": scores[:, 1:], "last": scores[:, :-1]}[self._spec.background]
        return boxes, scores.max(1), scores.argmax(1)

    def _activated(self, scores: Float32Array) -> Float32Array:
        return _sigmoid(scores) if self._spec.activation == "sigmoid" else scores


def _only(outputs: Sequence[Port], name: str | None) -> tuple[int, Port]:
    """The output called ``name``, or the only one there is."""
    if name is None and len(outputs) != 1:
        raise ValueError(f"has {len(outputs)} outputs; give the name of one ({listed(outputs)})")
    index = 0 if name is None else find_named(outputs, name)
    return index, outputs[index]


def _check_classes(port: Port, channels: int | None, others: int, classes: int) -> None:
    """Raise where ``channels`` is not ``others + classes``."""
    if not agrees(channels, others + classes):
        raise ValueError(f"its output {port} has room for {(channels or 0) - others} classes, but {classes} are listed")


def _grid(picture: ModelInput, strides: Sequence[int]) -> tuple[Float32Array, Float32Array]:
    """Columns and rows (N, 2) of all cells, level by level and row by row, and their strides (N, 1)."""
    cells = []
    for stride in strides:
        rows, columns = np.indices((math.ceil(picture.height / stride), math.ceil(picture.width / stride)))
        cells.append(np.stack((columns.ravel(), rows.ravel()), 1))
    stride_of = np.repeat(np.array(strides), [len(level) for level in cells])
    return np.concatenate(cells).astype(np.float32), stride_of.astype(np.float32)[:, None]


def _rows_above(scores: Float32Array, threshold: float) -> npt.NDArray[np.intp]:
    """Rows of (N, classes) with any score of at least ``threshold``; quicker than finding each row's best."""
    return np.unique(np.flatnonzero(scores >= threshold) // scores.shape[1])


def _float32(array: npt.NDArray[Any]) -> Float32Array:
    return array.astype(np.float32, copy=False)


def _sigmoid(values: Float32Array) -> Float32Array:
    """In a form that does not overflow."""
    return np.asarray((np.tanh(values / 2) + 1) / 2, np.float32)


def _softmax(values: Float32Array) -> Float32Array:
    """Over the last axis."""
    exponents: Float32Array = np.exp(values - values.max(-1, keepdims=True))
    result: Float32Array = exponents / exponents.sum(-1, keepdims=True)
    return result


def _candidates(xyxy: npt.NDArray[Any], score: npt.NDArray[Any], class_id: npt.NDArray[Any]) -> Candidates:
    return Candidates(
        xyxy.astype(np.float32, copy=False), score.astype(np.float32, copy=False), class_id.astype(np.int64, copy=False)
    )
