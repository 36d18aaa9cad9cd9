"""Decoders against slow loops that follow the papers, suppression, and the way back to the source frame."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from stream.detectors.base import InputSpec
from stream.detectors.decoders import Candidates, Outputs, build_decoder
from stream.detectors.ports import Port
from stream.detectors.postprocess import MAX_CANDIDATES, Postprocess, suppress, to_source
from stream.detectors.spec import ModelSpec

RNG_SEED = 7
WIDTH, HEIGHT = 96, 64  # not square, so that swapped axes show
Row = tuple[float, float, float, float, float, int]


def spec_of(classes: int, **output: Any) -> ModelSpec:
    return ModelSpec.model_validate(
        {"input": {"width": WIDTH, "height": HEIGHT}, "output": output, "classes": [f"class {c}" for c in range(classes)]}
    )


def port(shape: tuple[int | None, ...], name: str = "out", is_integer: bool = False) -> Port:
    return Port(frozenset({name}), shape, is_integer)


def rows_of(found: Candidates) -> list[Row]:
    rows = [(*map(float, box), float(s), int(c)) for box, s, c in zip(found.xyxy, found.score, found.class_id, strict=True)]
    return sorted(rows, key=lambda row: (row[5], row[0], row[1], row[4]))


def assert_same(found: Candidates, expected: list[Row]) -> None:
    assert found.xyxy.dtype == np.float32
    assert found.score.dtype == np.float32
    assert found.class_id.dtype == np.int64
    expected = sorted(expected, key=lambda row: (row[5], row[0], row[1], row[4]))
    assert expected, "a comparison of nothing with nothing proves nothing"
    np.testing.assert_allclose(rows_of(found), expected, rtol=1e-4, atol=1e-3)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_fastestdet_as_a_loop() -> None:
    rng = np.random.default_rng(RNG_SEED)
    out = rng.normal(size=(1, 5 + 3, 4, 6)).astype(np.float32)
    out[0, 0], out[0, 5:] = rng.uniform(size=(4, 6)), rng.uniform(size=(3, 4, 6))
    expected: list[Row] = []
    for gy in range(4):
        for gx in range(6):
            obj, dx, dy, w, h, *scores = map(float, out[0, :, gy, gx])
            score = obj**0.6 * max(scores) ** 0.4
            if score >= 0.5:
                cx, cy = (gx + math.tanh(dx)) / 6 * WIDTH, (gy + math.tanh(dy)) / 4 * HEIGHT
                bw, bh = sigmoid(w) * WIDTH, sigmoid(h) * HEIGHT
                expected.append((cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2, score, scores.index(max(scores))))
    decoder = build_decoder(spec_of(3, family="fastestdet"), [port((1, 8, 4, 6))])
    assert_same(decoder([out], 0.5), expected)
    assert len(expected) < 24


@pytest.mark.parametrize("decoded", [False, True])
def test_yolox_as_a_loop(decoded: bool) -> None:
    rng = np.random.default_rng(RNG_SEED)
    anchors = [(x, y, s) for s in (16, 32) for y in range(HEIGHT // s) for x in range(WIDTH // s)]
    out = rng.normal(size=(1, len(anchors), 5 + 3)).astype(np.float32)
    out[0, :, 4:] = rng.uniform(size=(len(anchors), 4))
    expected: list[Row] = []
    for (gx, gy, stride), row in zip(anchors, out[0], strict=True):
        x, y, w, h, obj, *scores = map(float, row)
        if not decoded:
            x, y, w, h = (x + gx) * stride, (y + gy) * stride, math.exp(w) * stride, math.exp(h) * stride
        if obj * max(scores) >= 0.4:
            expected.append((x - w / 2, y - h / 2, x + w / 2, y + h / 2, obj * max(scores), scores.index(max(scores))))
    spec = spec_of(3, family="yolox", strides=[16, 32], decoded=decoded)
    assert_same(build_decoder(spec, [port((1, len(anchors), 8))])([out], 0.4), expected)
    assert len(expected) < len(anchors)


def test_yolov8_as_a_loop() -> None:
    rng = np.random.default_rng(RNG_SEED)
    out = rng.uniform(size=(1, 4 + 3, 50)).astype(np.float32)
    out[0, :4] *= 60
    expected: list[Row] = []
    for column in out[0].T:
        cx, cy, w, h, *scores = map(float, column)
        if max(scores) >= 0.8:
            expected.append((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, max(scores), scores.index(max(scores))))
    assert_same(build_decoder(spec_of(3, family="yolov8"), [port((1, 7, 50))])([out], 0.8), expected)
    assert len(expected) < 50


def nanodet_reference(scores: npt.NDArray[Any], bins: npt.NDArray[Any], offset: float, threshold: float) -> list[Row]:
    """``scores`` (anchors, classes) and ``bins`` (anchors, 4, 8), over strides 16 and 32."""
    anchors = [(x, y, s) for s in (16, 32) for y in range(HEIGHT // s) for x in range(WIDTH // s)]
    expected: list[Row] = []
    for (gx, gy, stride), classes, sides in zip(anchors, scores, bins, strict=True):
        distances = []
        for side in sides:
            weights = [math.exp(value) for value in side]
            distances.append(sum(i * w for i, w in enumerate(weights)) / sum(weights) * stride)
        left, top, right, bottom = distances
        cx, cy = (gx + offset) * stride, (gy + offset) * stride
        if max(classes) >= threshold:
            box = (cx - left, cy - top, cx + right, cy + bottom)
            expected.append((*box, float(max(classes)), int(np.argmax(classes))))
    return expected


def test_nanodet_with_two_outputs_a_stride() -> None:
    rng = np.random.default_rng(RNG_SEED)
    counts = [24, 6]
    scores = [rng.uniform(size=(1, n, 3)).astype(np.float32) for n in counts]
    bins = [rng.normal(size=(1, n, 32)).astype(np.float32) for n in counts]
    decoder = build_decoder(
        spec_of(3, family="nanodet", strides=[16, 32]),
        [port((1, 6, 3)), port((1, 24, 32)), port((1, 24, 3)), port((1, 6, 32))],  # in any order
    )
    expected = nanodet_reference(np.concatenate(scores, 1)[0], np.concatenate(bins, 1)[0].reshape(-1, 4, 8), 0.5, 0.8)
    assert_same(decoder([scores[1], bins[0], scores[0], bins[1]], 0.8), expected)
    assert len(expected) < 30


def test_nanodet_plus_with_one_output() -> None:
    rng = np.random.default_rng(RNG_SEED)
    out = np.concatenate((rng.uniform(size=(1, 30, 3)), rng.normal(size=(1, 30, 32))), 2).astype(np.float32)
    decoder = build_decoder(spec_of(3, family="nanodet", strides=[16, 32]), [port((1, 30, 35))])
    assert_same(decoder([out], 0.8), nanodet_reference(out[0, :, :3], out[0, :, 3:].reshape(-1, 4, 8), 0.0, 0.8))


def test_nanodet_whose_outputs_look_alike_is_named() -> None:
    """32 classes have the shape of 4 x 8 bins."""
    ports = [port((1, 24, 32), "a"), port((1, 24, 32), "b")]
    with pytest.raises(ValueError, match="name the outputs"):
        build_decoder(spec_of(32, family="nanodet", strides=[16]), ports)
    decoder = build_decoder(spec_of(32, family="nanodet", strides=[16], scores=["b"], boxes=["a"]), ports)
    scores, bins = np.zeros((1, 24, 32), np.float32), np.zeros((1, 24, 32), np.float32)
    scores[0, 7, 5] = 0.9  # row 1, column 1; equal bins mean a distance of 3.5 strides
    assert_same(decoder([bins, scores], 0.5), [(24 - 56, 24 - 56, 24 + 56, 24 + 56, 0.9, 5)])


BOX = (10.0, 20.0, 30.0, 60.0)  # xyxy in pixels
FORMATS = {"xyxy": (10, 20, 30, 60), "yxyx": (20, 10, 60, 30), "xywh": (10, 20, 20, 40), "cxcywh": (20, 40, 20, 40)}


@pytest.mark.parametrize("box_format", FORMATS)
@pytest.mark.parametrize("normalized", [False, True])
def test_box_formats(box_format: str, normalized: bool) -> None:
    unit = np.array([HEIGHT, WIDTH] * 2 if box_format == "yxyx" else [WIDTH, HEIGHT] * 2) if normalized else np.ones(4)
    boxes = (np.array(FORMATS[box_format]) / unit).astype(np.float32)[None, None]
    spec = spec_of(2, family="boxes", box_format=box_format, normalized=normalized)
    ports = [port((1, 1, 4), "boxes"), port((1, 1), "scores"), port((1, 1), "labels", is_integer=True)]
    assert_same(build_decoder(spec, ports)([boxes, np.array([[0.9]], np.float32), np.array([[1]])], 0.5), [(*BOX, 0.9, 1)])


def boxes_case(ports: list[Port], outputs: Outputs, classes: int = 2, **output: Any) -> Candidates:
    decoder = build_decoder(spec_of(classes, family="boxes", **{"normalized": False} | output), ports)
    return decoder(outputs, 0.5)


def test_boxes_as_one_output_of_six_columns() -> None:
    rows = np.array([[[*BOX, 0.9, 1], [*BOX, 0.4, 0]]], np.float32)
    assert_same(boxes_case([port((1, 2, 6))], [rows]), [(*BOX, 0.9, 1)])


def test_ssd_output_with_labels_from_one_and_unused_rows() -> None:
    scale = np.array([WIDTH, HEIGHT] * 2)
    used = [0, 2, 0.9, *(np.array(BOX) / scale)]
    unused = [-1, 2, 0.9, *(np.array(BOX) / scale)]
    background = [0, 0, 0.9, *(np.array(BOX) / scale)]
    rows = np.array([[[used, background, unused]]], np.float32)
    assert_same(boxes_case([port((1, 1, 3, 7))], [rows], normalized=True, first_label=1), [(*BOX, 0.9, 1)])


def test_labels_that_no_class_has_are_dropped() -> None:
    rows = np.array([[[*BOX, 0.9, 1], [*BOX, 0.9, 2], [*BOX, 0.9, -1]]], np.float32)
    assert_same(boxes_case([port((1, None, 6))], [rows]), [(*BOX, 0.9, 1)])


def test_detr_logits_with_no_object_last() -> None:
    boxes = np.array([[[20, 40, 20, 40]] * 2], np.float32)
    logits = np.array([[[0.0, 5.0, 1.0], [0.0, 1.0, 5.0]]], np.float32)  # the second says: nothing
    score = math.exp(5) / (1 + math.exp(5) + math.exp(1))
    found = boxes_case(
        [port((1, 2, 3), "logits"), port((1, 2, 4), "pred_boxes")],
        [logits, boxes],
        box_format="cxcywh",
        activation="softmax",
        background="last",
    )
    assert_same(found, [(*BOX, score, 1)])


def test_sigmoid_logits_by_class() -> None:
    found = boxes_case(
        [port((1, 1, 4), "boxes"), port((1, 1, 2), "logits")],
        [np.array([[BOX]], np.float32), np.array([[[-200.0, 2.0]]], np.float32)],
        activation="sigmoid",
    )
    assert_same(found, [(*BOX, sigmoid(2), 1)])


def test_class_probabilities_with_background_first() -> None:
    found = boxes_case(
        [port((1, 2, 4), "boxes"), port((1, 2, 3), "scores")],
        [np.array([[BOX, BOX]], np.float32), np.array([[[0.1, 0.2, 0.7], [0.9, 0.1, 0.0]]], np.float32)],
        background="first",
    )
    assert_same(found, [(*BOX, 0.7, 1)])


def test_boxes_without_a_batch_axis() -> None:
    found = boxes_case(
        [port((None, 4), "boxes"), port((None,), "labels", is_integer=True), port((None,), "scores")],
        [np.array([BOX], np.float32), np.array([1]), np.array([0.9], np.float32)],
    )
    assert_same(found, [(*BOX, 0.9, 1)])


def test_tensorflow_names() -> None:
    """Floating-point labels, a count to be ignored, and a word of labels in the name of the scores."""
    ports = [
        Port(frozenset({"MultiClassNMS/a:0", "detection_boxes:0"}), (1, 100, 4)),
        Port(frozenset({"add:0", "detection_classes:0"}), (1, 100)),
        Port(frozenset({"MultiClassNMS/b:0", "detection_scores:0"}), (1, 100)),
        Port(frozenset({"num_detections:0"}), (1,)),
    ]
    outputs = [np.array([[BOX]], np.float32), np.array([[1.0]], np.float32), np.array([[0.9]], np.float32), np.array([1.0])]
    assert_same(boxes_case(ports, outputs), [(*BOX, 0.9, 1)])
    named = {"boxes": "detection_boxes", "scores": "detection_scores", "labels": "detection_classes"}
    assert_same(boxes_case(ports, outputs, **named), [(*BOX, 0.9, 1)])


AMBIGUOUS: dict[str, tuple[int, dict[str, Any], list[Port], str]] = {
    "fastestdet classes": (3, {"family": "fastestdet"}, [port((1, 85, 22, 22))], "room for 80 classes, but 3 are listed"),
    "fastestdet axes": (3, {"family": "fastestdet"}, [port((1, 8, 22))], "3 axes, not FastestDet's 4"),
    "yolox classes": (3, {"family": "yolox"}, [port((1, 126, 85))], "room for 80 classes, but 3 are listed"),
    "yolox anchors": (3, {"family": "yolox"}, [port((1, 3549, 8))], "3549 anchors; input size and strides make 126"),
    "yolov8 classes": (3, {"family": "yolov8"}, [port((1, 84, 8400))], "room for 80 classes, but 3 are listed"),
    "yolov8 turned": (3, {"family": "yolov8"}, [port((1, 126, 7))], "room for 122 classes"),
    "two outputs": (3, {"family": "yolov8"}, [port((1, 7, 9), "a"), port((1, 32, 9), "b")], "give the name of one"),
    "no such name": (3, {"family": "yolov8", "name": "c"}, [port((1, 7, 9), "a")], r"no output 'c'; its outputs are a \[1, 7, 9\]"),
    "nanodet anchors": (3, {"family": "nanodet"}, [port((1, 99, 35))], "126 anchors that size and strides make"),
    "nanodet outputs": (3, {"family": "nanodet", "strides": [16]}, [port((1, 24, 3)), port((1, 24, 16))], "no output with box"),
    "boxes or not": (3, {}, [port((5, 7))], r"neither \[1, N, 6\] nor \[1, 1, N, 7\]"),
    "no boxes": (3, {}, [port((1, 9), "scores"), port((1, 9), "labels")], "no output gives boxes"),
    "no scores": (3, {}, [port((1, 9, 4), "boxes"), port((1, 9), "labels", True)], "no output gives scores"),
    "no labels": (3, {}, [port((1, 9, 4), "boxes"), port((1, 9), "scores")], "no output gives labels"),
    "which scores": (3, {}, [port((1, 9, 4), "a"), port((1, 9), "b"), port((1, 9), "c")], "which output gives scores"),
    "which boxes": (4, {}, [port((1, 9, 4), "a"), port((1, 9, 4), "b")], "which output gives boxes"),
    "boxes classes": (3, {}, [port((1, 9, 4), "boxes"), port((1, 9, 80), "scores")], "room for 80 classes"),
}


@pytest.mark.parametrize(("classes", "output", "ports", "message"), AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_outputs_that_contradict_the_spec(classes: int, output: dict[str, Any], ports: list[Port], message: str) -> None:
    output = output or {"family": "boxes", "normalized": False}
    with pytest.raises(ValueError, match=message):
        build_decoder(spec_of(classes, **output), ports)


def candidates(*rows: tuple[float, float, float, float, float, int]) -> Candidates:
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Candidates(table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(np.int64))


def iou(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    common = max(w, 0) * max(h, 0)
    return float(common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common))


def test_suppression_as_a_loop() -> None:
    rng = np.random.default_rng(RNG_SEED)
    corners = rng.uniform(-20, 100, (400, 2))
    found = Candidates(
        np.hstack((corners, corners + rng.uniform(5, 50, (400, 2)))).astype(np.float32),
        rng.uniform(0.1, 1, 400).astype(np.float32),
        rng.integers(0, 4, 400),
    )
    kept: list[int] = []
    for i in np.argsort(-found.score, kind="stable"):
        same = [k for k in kept if found.class_id[k] == found.class_id[i]]
        if all(iou(found.xyxy[k].astype(float), found.xyxy[i].astype(float)) <= 0.3 for k in same):
            kept.append(int(i))
    assert list(suppress(found, 0.3)) == kept
    assert 50 < len(kept) < 320


def test_boxes_of_two_classes_do_not_suppress_each_other() -> None:
    found = candidates((0, 0, 10, 10, 0.5, 0), (0, 0, 10, 10, 0.9, 1), (0, 0, 10, 9, 0.8, 1))
    assert list(suppress(found, 0.5)) == [1, 0]
    assert list(suppress(found, None)) == [1, 2, 0]


def test_suppression_is_bounded() -> None:
    n = MAX_CANDIDATES + 500
    left = np.arange(n, dtype=np.float32) * 20
    xyxy = np.stack((left, np.zeros(n), left + 10, np.full(n, 10)), 1).astype(np.float32)
    score = np.linspace(0.2, 0.9, n).astype(np.float32)
    kept = suppress(Candidates(xyxy, score, np.zeros(n, np.int64)), 0.5)
    assert list(kept) == list(range(n - 1, 499, -1))


@pytest.mark.parametrize(
    ("resize", "expected"),
    [
        ("stretch", [160, 180, 320, 360]),  # 640x360 in 64x64: 10 px and 5.625 px a pixel
        ("letterbox_top_left", [160, 320, 320, 360]),  # 36 rows at the top, 10 px a pixel
        ("letterbox_center", [160, 180, 320, 360]),  # the same, 14 rows down
    ],
)
def test_boxes_go_back_to_the_source(resize: Any, expected: list[float]) -> None:
    mapped = to_source(np.array([[16, 32, 32, 64]], np.float32), InputSpec(64, 64, resize=resize), 640, 360)
    np.testing.assert_allclose(mapped, [expected], atol=1e-3)


def test_odd_boxes_are_clipped_or_dropped() -> None:
    found = candidates(
        (-5, -5, 20, 200, 0.6, 0),
        (70, 10, 90, 20, 0.9, 0),  # outside
        (10, 10, 10.5, 20, 0.9, 0),  # thinner than a pixel
        (30, 20, 10, 10, 0.9, 0),  # inside out
        (math.nan, 10, 20, 20, 0.9, 0),
        (-math.inf, 10, math.inf, 20, 0.9, 0),
        (-1e30, 40, 1e30, 64, 0.7, 1),
    )
    process = Postprocess(lambda outputs, threshold: found, InputSpec(64, 64), np.array([True, True]), 0.1, 0.5)
    detections = process([], 64, 64)
    assert detections.xyxy.tolist() == [[0, 40, 64, 64], [0, 0, 20, 64]]


def test_unwanted_classes_are_left_out() -> None:
    found = candidates((0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.8, 1), (20, 20, 30, 30, 1.5, 1))
    process = Postprocess(lambda outputs, threshold: found, InputSpec(64, 64), np.array([False, True]), 0.1, 0.5)
    detections = process([], 64, 64)
    assert detections.class_id.tolist() == [1, 1]
    assert detections.confidence.tolist() == [1.0, np.float32(0.8)]  # a score over 1 is 1
