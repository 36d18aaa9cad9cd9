"""Model files, their YAML, and the OpenVINO detector, on small models made on the spot."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as ov
import pytest
import yaml

from stream.config import DetectorConfig
from stream.detectors.base import InputSpec
from stream.detectors.registry import describe_model, load_detector
from stream.errors import DetectorError, ModelError
from stream.frame import FrameBatch
from tests.support.models import CELL_PX, SIZE_PX, frame_batch, painted, write_onnx, write_spec

RED, GREEN = (255, 0, 0), (0, 255, 0)
FAINT_RED = (102, 0, 0)  # a score of 0.4


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = write_onnx(tmp_path / "cells.onnx")
    write_spec(path)
    return path


def config_of(model: Path, **settings: Any) -> DetectorConfig:
    return DetectorConfig(model=str(model), **settings)


def cell(row: int, column: int) -> list[float]:
    return [column * CELL_PX, row * CELL_PX, (column + 1) * CELL_PX, (row + 1) * CELL_PX]


@pytest.mark.parametrize("batch", ["N", 1])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_any_number_of_frames(tmp_path: Path, batch: int | str, layout: str) -> None:
    path = write_onnx(tmp_path / "cells.onnx", batch=batch, layout=layout)
    write_spec(path, {"input.layout": layout})
    detector = load_detector("d", config_of(path), 0.1)
    for n in (1, 2, 7):
        images = [painted((i // 4, i % 4, RED), (3, 3, GREEN)) for i in range(n)]
        found = detector.detect(frame_batch(*images, sizes=[(SIZE_PX * (i + 1), SIZE_PX * 2) for i in range(n)]))
        assert len(found) == n
        for i, detections in enumerate(found):
            scale = np.array([i + 1, 2, i + 1, 2])
            expected = {0: cell(i // 4, i % 4) * scale, 1: cell(3, 3) * scale}
            assert sorted(detections.class_id) == [0, 1]
            for box, class_id, confidence in zip(detections.xyxy, detections.class_id, detections.confidence, strict=True):
                np.testing.assert_allclose(box, expected[int(class_id)], atol=1e-3)
                assert confidence == pytest.approx(1, abs=1e-5)
    assert detector.detect(FrameBatch("d", (), np.zeros((0, SIZE_PX, SIZE_PX, 3), np.uint8))) == ()
    detector.close()


def test_thresholds(model: Path) -> None:
    """Down to the lesser of the config's confidence and the tracker's low one."""
    batch = frame_batch(painted((0, 0, FAINT_RED), (1, 1, RED)))
    for confidence, low, boxes in ((0.5, 0.1, 2), (0.5, 0.45, 1), (0.3, 0.45, 2), (0.5, 0.9, 1)):
        (found,) = load_detector("d", config_of(model, confidence=confidence), low).detect(batch)
        assert len(found) == boxes, (confidence, low)
        assert found.xyxy[0].tolist() == cell(1, 1)  # best first


def test_wanted_classes(model: Path) -> None:
    batch = frame_batch(painted((0, 0, RED), (1, 1, GREEN)))
    (found,) = load_detector("d", config_of(model, classes=["green"]), 0.1).detect(batch)
    assert found.class_id.tolist() == [1]
    (found,) = load_detector("d", config_of(model, classes=[]), 0.1).detect(batch)
    assert len(found) == 0


def test_pixels_are_scaled_as_the_yaml_says(tmp_path: Path) -> None:
    """(200 / 255 - 0.5) / 0.4 on the first channel."""
    path = write_onnx(tmp_path / "cells.onnx")
    write_spec(path, {"input.mean": [0.5, 0.5, 0.5], "input.std": [0.4, 1, 1]})
    (found,) = load_detector("d", config_of(path), 0.1).detect(frame_batch(painted((2, 1, (200, 0, 0)))))
    assert found.xyxy.tolist() == [cell(2, 1)]
    assert found.confidence[0] == pytest.approx((200 / 255 - 0.5) / 0.4, abs=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "f16"])
def test_low_precision(model: Path, precision: Any) -> None:
    detector = load_detector("d", config_of(model, precision=precision), 0.1)
    (found,) = detector.detect(frame_batch(painted((2, 1, (200, 0, 0)))))
    assert found.confidence[0] == pytest.approx(200 / 255, abs=0.01)


def test_integer_input_and_ready_boxes(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "ready.onnx", head="boxes", layout="NHWC", dtype=onnx.TensorProto.UINT8)
    changes: dict[str, Any] = {"input.layout": "NHWC", "input.scale": None}
    write_spec(path, changes | {"output": {"family": "boxes", "normalized": True, "box_format": "cxcywh"}})
    (found,) = load_detector("d", config_of(path), 0.1).detect(frame_batch(painted((2, 1, RED))))
    assert found.xyxy.tolist() == [cell(2, 1)]
    assert found.class_id.tolist() == [1]


def test_openvino_format(tmp_path: Path) -> None:
    """The digest covers the weights, which lie in a second file."""
    path = tmp_path / "cells.xml"
    ov.save_model(ov.Core().read_model(write_onnx(tmp_path / "source.onnx")), path)
    write_spec(path)
    detector = load_detector("d", config_of(path), 0.1)
    (found,) = detector.detect(frame_batch(painted((2, 1, RED))))
    assert found.xyxy.tolist() == [cell(2, 1)]
    weights = path.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes() + b"\0")
    assert describe_model(config_of(path), "d").model_id != detector.model_id


def test_description_is_the_detectors_own(model: Path) -> None:
    described = describe_model(config_of(model), "people")
    detector = load_detector("people", config_of(model), 0.1)
    assert described == (detector.input, detector.classes, detector.model_id)
    assert described.input == InputSpec(SIZE_PX, SIZE_PX, "RGB", "stretch", 114)
    assert described.classes == ("red", "green")
    name, digest = described.model_id.split("@sha256:")
    assert name == "people"
    assert len(digest) == 12
    assert describe_model(config_of(model), "people", check=False) == described


def test_unchecked_description_imports_no_backend(model: Path) -> None:
    code = (
        "import sys; from stream.config import DetectorConfig; from stream.detectors.registry import describe_model\n"
        f"describe_model(DetectorConfig(model={str(model)!r}), 'd', check=False)\n"
        "assert not {'openvino', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_yaml_named_after_the_whole_file(model: Path) -> None:
    model.with_suffix(".yaml").rename(model.with_name("cells.onnx.yaml"))
    assert describe_model(config_of(model), "d").classes == ("red", "green")


def test_coco_by_name(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "cells.onnx", weights=np.zeros((80, 3, CELL_PX, CELL_PX), np.float32))
    write_spec(path, {"classes": "coco80"})
    classes = describe_model(config_of(path), "d").classes
    assert (classes[0], classes[9], classes[79], len(classes)) == ("person", "traffic light", "toothbrush", 80)


def test_several_threads(model: Path) -> None:
    """More threads than requests, each with batches that need several: none waits for ever, none gets another's boxes."""
    detector = load_detector("d", config_of(model, threads=1), 0.1)
    wrong: list[int] = []

    def work(k: int) -> None:
        batch = frame_batch(*[painted((k, i % 4, RED)) for i in range(9)])
        for _ in range(5):
            for i, found in enumerate(detector.detect(batch)):
                if found.xyxy.tolist() != [cell(k, i % 4)]:
                    wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,), daemon=True) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong


def test_read_only_frames_are_not_kept(model: Path) -> None:
    """Frames may lie in memory that is not ours: it must be free for others as soon as detect returns."""
    detector = load_detector("d", config_of(model), 0.1)
    memory = bytearray(painted((2, 1, RED)).tobytes())
    images = np.frombuffer(memory, np.uint8).reshape(1, SIZE_PX, SIZE_PX, 3)
    images.flags.writeable = False
    batch = frame_batch(painted())
    (found,) = detector.detect(FrameBatch("d", batch.frames, images))
    assert found.xyxy.tolist() == [cell(2, 1)]
    del images
    memory.extend(b"x")  # BufferError while anybody holds a view


def test_frames_of_the_wrong_size(model: Path) -> None:
    with pytest.raises(DetectorError, match=r"must be \(N, 32, 32, 3\), not \(1, 16, 32, 3\)"):
        load_detector("d", config_of(model), 0.1).detect(frame_batch(painted()[:16]))


def test_a_closed_detector(model: Path) -> None:
    detector = load_detector("d", config_of(model), 0.1)
    detector.close()
    detector.close()
    for _ in range(5):
        with pytest.raises(DetectorError, match="is closed"):
            detector.detect(frame_batch(painted()))


def refused(config: DetectorConfig) -> str:
    """The message of both ways to the model, which must be the same."""
    with pytest.raises(ModelError) as described:
        describe_model(config, "d")
    with pytest.raises(ModelError) as loaded:
        load_detector("d", config, 0.1)
    assert str(described.value) == str(loaded.value)
    return str(described.value)


def test_missing_model(tmp_path: Path) -> None:
    assert refused(config_of(tmp_path / "none.onnx")) == f"{tmp_path / 'none.onnx'}: no such file"
    assert "nor its folder" in refused(config_of(tmp_path / "away" / "none.onnx"))
    assert "is not a file" in refused(config_of(tmp_path))
    write_onnx(tmp_path / "FastestDet.onnx")
    assert "there is FastestDet.onnx" in refused(config_of(tmp_path / "fastestdet.onnx"))


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\0" * 500, b"x" * 500])
def test_not_a_model(model: Path, content: bytes) -> None:
    model.write_bytes(content)
    message = refused(config_of(model))
    assert str(model) in message
    assert "is not a model" in message


def test_truncated_model(model: Path) -> None:
    model.write_bytes(model.read_bytes()[:-300])
    assert f"{model}: is not a model" in refused(config_of(model))


def test_unknown_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "model.h5").write_bytes(b"x")
    assert "not a kind of model that can be run; known are .onnx" in refused(config_of(tmp_path / "model.h5"))


def test_model_without_its_yaml(model: Path) -> None:
    model.with_suffix(".yaml").unlink()
    message = refused(config_of(model))
    assert str(model) in message
    assert "no cells.yaml beside it" in message


def test_described_twice(model: Path) -> None:
    model.with_name("cells.onnx.yaml").write_text("{}")
    assert "described twice, by cells.yaml and cells.onnx.yaml" in refused(config_of(model))


SPEC_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"input.widht": 3}, "input.widht: unknown key"),
    "unknown key of the family": ({"output.strides": [8]}, "output.strides: unknown key"),
    "missing key": ({"input.height": None}, "input.height: is required"),
    "no family": ({"output.family": None}, "output: family is required"),
    "unknown family": ({"output.family": "ssd"}, "'ssd'"),
    "boxes without normalized": ({"output": {"family": "boxes"}}, "output.normalized: is required"),
    "wrong type": ({"input.pad": "grey"}, "input.pad: Input should be a valid integer"),
    "zero std": ({"input.std": [1, 0, 1]}, "input.std: must be above 0"),
    "unknown class list": ({"classes": "coco91"}, "no class list 'coco91'; known is coco80"),
    "class twice": ({"classes": ["a", "a"]}, "'a' is listed twice"),
    "half named": ({"output": {"family": "nanodet", "scores": ["a", "b", "c"]}}, "output: name both scores and boxes"),
    "too few names": ({"output": {"family": "nanodet", "scores": ["a"], "boxes": ["b"]}}, "one name for each of the 3 strides"),
}


@pytest.mark.parametrize(("changes", "message"), SPEC_FAULTS.values(), ids=SPEC_FAULTS.keys())
def test_wrong_yaml(model: Path, changes: dict[str, Any], message: str) -> None:
    path = write_spec(model, changes)
    found = refused(config_of(model))
    assert found.startswith(f"{path}: ")
    assert message in found


def test_every_fault_of_a_yaml_is_listed(model: Path) -> None:
    write_spec(model, {"input.width": 0, "classes": []})
    assert len(refused(config_of(model)).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "not valid YAML"), ("- a", "must be a mapping, not list"), ("", "NoneType")]
)
def test_not_a_yaml(model: Path, text: str, message: str) -> None:
    model.with_suffix(".yaml").write_text(text)
    assert message in refused(config_of(model))


CONTRADICTIONS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "size": ({}, {"input.width": 64}, "its input is picture [1, 3, 32, 32], not NCHW of width 64 and height 32"),
    "layout": ({}, {"input.layout": "NHWC"}, "the layout looks like NCHW"),
    "classes": ({}, {"classes": ["red", "green", "blue"]}, "room for 2 classes, but 3 are listed"),
    "family": ({}, {"output.family": "fastestdet"}, "3 axes, not FastestDet's 4"),
    "outputs": ({"head": "boxes"}, {}, "has 3 outputs; give the name of one"),
    "batch": ({"batch": 4}, {}, "has a fixed batch of 4"),
    "integers": ({"dtype": onnx.TensorProto.UINT8}, {}, "takes integer pixels, so scale, mean and std must be left out"),
}


@pytest.mark.parametrize(("made", "changes", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_yaml_that_disagrees_with_the_model(tmp_path: Path, made: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    path = write_onnx(tmp_path / "cells.onnx", **({"batch": 1} | made))
    spec = write_spec(path, changes)
    found = refused(config_of(path))
    assert found.startswith(f"{path}: ")
    assert message in found
    assert str(spec) in found


def test_a_model_that_takes_more_than_a_picture(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "cells.onnx")
    model = onnx.load(path)
    model.graph.input.append(onnx.helper.make_tensor_value_info("sizes", onnx.TensorProto.INT64, [1, 2]))
    onnx.save(model, path)
    write_spec(path)
    assert "has 2 inputs" in refused(config_of(path))


def test_unknown_class(model: Path) -> None:
    message = refused(config_of(model, classes=["red", "gren"]))
    assert message == f"{model}: knows no class 'gren'; did you mean 'green'? it knows red, green"


def test_backend_that_cannot_run_the_file(model: Path) -> None:
    assert "backend 'torch' cannot run .onnx files" in refused(config_of(model, backend="torch"))


def test_unknown_device(model: Path) -> None:
    with pytest.raises(ModelError, match="OpenVINO has no device 'tpu'; there is CPU"):
        load_detector("d", config_of(model, device="tpu"), 0.1)


def test_broken_yaml_is_named_even_where_the_model_is_broken_too(model: Path) -> None:
    model.write_bytes(b"x")
    model.with_suffix(".yaml").write_text(yaml.safe_dump({"classes": []}))
    assert f"{model.with_suffix('.yaml')}: input: is required" in refused(config_of(model))
