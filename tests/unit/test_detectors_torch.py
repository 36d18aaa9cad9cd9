"""The torch detector on a program exported on the spot, held against the same model in ONNX."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream.config import DetectorConfig
from stream.detectors.registry import describe_model, load_detector
from stream.errors import DetectorError, ModelError
from stream.frame import FrameBatch
from tests.support.models import (
    CELL_PX,
    SIZE_PX,
    Float32Array,
    cell_boxes,
    frame_batch,
    mean_weights,
    painted,
    write_onnx,
    write_spec,
)

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.compute
RED = (255, 0, 0)


class Cells(torch.nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """The grid model of ``tests.support.models``."""

    def __init__(self, weights: Float32Array):
        super().__init__()
        self.register_buffer("weights", torch.from_numpy(weights))
        self.register_buffer("cells", torch.from_numpy(cell_boxes().T.copy())[None])

    def forward(self, picture: Any) -> Any:
        scores = torch.nn.functional.conv2d(picture.float(), self.weights, stride=CELL_PX).flatten(2)
        return torch.cat((self.cells.expand(scores.shape[0], -1, -1), scores), 1)


def write_program(path: Path, *, batch: int | None = None, weights: Float32Array | None = None, dtype: Any = None) -> Path:
    """``batch`` None leaves the axis free."""
    sample = torch.zeros((batch or 2, 3, SIZE_PX, SIZE_PX), dtype=dtype or torch.float32)
    free = None if batch else {"picture": {0: torch.export.Dim("batch", min=1, max=64)}}
    module = Cells(mean_weights() if weights is None else weights).eval()
    torch.export.save(torch.export.export(module, (sample,), dynamic_shapes=free), path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = write_program(tmp_path / "cells.pt2")
    write_spec(path)
    return path


def config_of(model: Path, **settings: Any) -> DetectorConfig:
    return DetectorConfig(**{"model": str(model), "device": "cpu"} | settings)


@pytest.mark.parametrize("batch", [None, 1])
def test_any_number_of_frames(tmp_path: Path, batch: int | None) -> None:
    path = write_program(tmp_path / "cells.pt2", batch=batch)
    write_spec(path)
    detector = load_detector("d", config_of(path, batch_size=4), 0.1)
    for n in (1, 2, 7):
        found = detector.detect(frame_batch(*[painted((i // 4, i % 4, RED)) for i in range(n)]))
        boxes = [[[c * CELL_PX, r * CELL_PX, (c + 1) * CELL_PX, (r + 1) * CELL_PX]] for r, c in (divmod(i, 4) for i in range(n))]
        assert [detections.xyxy.tolist() for detections in found] == boxes
    assert detector.detect(FrameBatch("d", (), np.zeros((0, SIZE_PX, SIZE_PX, 3), np.uint8))) == ()


def test_agrees_with_openvino(tmp_path: Path) -> None:
    """The same weights, noise for pictures: the two backends find the same."""
    rng = np.random.default_rng(5)
    weights = rng.normal(0, 0.1, (2, 3, CELL_PX, CELL_PX)).astype(np.float32)
    changes = {"input.mean": [0.4, 0.5, 0.6], "input.std": [0.2, 0.3, 0.4], "input.resize": "letterbox_center"}
    models = [write_program(tmp_path / "cells.pt2", weights=weights), write_onnx(tmp_path / "other.onnx", weights=weights)]
    batch = frame_batch(*rng.integers(0, 256, (5, SIZE_PX, SIZE_PX, 3), np.uint8), sizes=[(640, 480)] * 5)
    batch.images.flags.writeable = False
    results = []
    for path in models:
        write_spec(path, changes)
        results.append(load_detector("d", DetectorConfig(model=str(path), device="cpu"), 0.1).detect(batch))
    for ours, theirs in zip(*results, strict=True):
        assert len(ours) > 3
        np.testing.assert_allclose(ours.confidence, theirs.confidence, atol=1e-4)
        order, other = (np.lexsort((*d.xyxy.T, d.class_id)) for d in (ours, theirs))
        np.testing.assert_array_equal(ours.class_id[order], theirs.class_id[other])
        np.testing.assert_allclose(ours.xyxy[order], theirs.xyxy[other], atol=1e-3)


def test_low_precision(model: Path) -> None:
    (found,) = load_detector("d", config_of(model, precision="bf16"), 0.1).detect(frame_batch(painted((2, 1, (200, 0, 0)))))
    assert found.confidence[0] == pytest.approx(200 / 255, abs=0.01)
    assert found.confidence[0] != pytest.approx(200 / 255, abs=1e-6)


def test_half_and_integer_inputs(tmp_path: Path) -> None:
    for dtype, changes in ((torch.float16, {}), (torch.uint8, {"input.scale": None})):
        path = write_program(tmp_path / "cells.pt2", dtype=dtype)
        write_spec(path, changes)
        (found,) = load_detector("d", config_of(path), 0.1).detect(frame_batch(painted((2, 1, RED))))
        assert found.xyxy.tolist() == [[CELL_PX, 2 * CELL_PX, 2 * CELL_PX, 3 * CELL_PX]]


def test_description(model: Path) -> None:
    detector = load_detector("people", config_of(model), 0.1)
    assert describe_model(config_of(model), "people") == (detector.input, detector.classes, detector.model_id)


def test_a_closed_detector(model: Path) -> None:
    detector = load_detector("d", config_of(model), 0.1)
    detector.close()
    detector.close()
    with pytest.raises(DetectorError, match="is closed"):
        detector.detect(frame_batch(painted()))


def test_frames_of_the_wrong_size(model: Path) -> None:
    with pytest.raises(DetectorError, match=r"must be \(N, 32, 32, 3\)"):
        load_detector("d", config_of(model), 0.1).detect(frame_batch(painted()[:16]))


def refused(config: DetectorConfig) -> str:
    with pytest.raises(ModelError) as described:
        describe_model(config, "d")
    with pytest.raises(ModelError) as loaded:
        load_detector("d", config, 0.1)
    assert str(described.value) == str(loaded.value)
    return str(described.value)


def test_not_a_program(model: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    model.write_bytes(b"x" * 500)
    assert refused(config_of(model)).startswith(f"{model}: is not a torch.export program")
    with zipfile.ZipFile(model, "w") as archive:
        archive.writestr("folder/something", "else")
    assert refused(config_of(model)).startswith(f"{model}: is not a torch.export program")
    assert not capfd.readouterr().err
    assert not caplog.records


def test_yaml_that_disagrees(tmp_path: Path, model: Path) -> None:
    spec = write_spec(model, {"input.width": 64})
    message = refused(config_of(model))
    assert "[?, 3, 32, 32], not NCHW of width 64 and height 32" in message
    assert str(spec) in message
    write_spec(model, {"classes": ["a", "b", "c"]})
    assert "room for 2 classes, but 3 are listed" in refused(config_of(model))
    fixed = write_program(tmp_path / "fixed.pt2", batch=4)
    write_spec(fixed)
    assert "has a fixed batch of 4" in refused(config_of(fixed))


def test_devices(model: Path) -> None:
    with pytest.raises(ModelError, match="unknown device 'tpu'"):
        load_detector("d", config_of(model, device="tpu"), 0.1)
    for device in ("cuda:99", "tensorrt:99"):
        with pytest.raises(ModelError, match=f"there is no device '{device}'"):
            load_detector("d", config_of(model, device=device), 0.1)
    assert refused(config_of(model, backend="openvino")).endswith("backend 'openvino' cannot run .pt2 files")


def test_without_torch(model: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from stream.config import DetectorConfig; from stream.detectors.registry import describe_model\n"
        "from stream.errors import ModelError\n"
        "try:\n"
        f"    describe_model(DetectorConfig(model={str(model)!r}), 'd')\n"
        "except ModelError as error:\n"
        "    print(error)"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, timeout=240, capture_output=True, text=True)
    assert result.stdout.strip() == f"{model}: needs torch, which is not installed: pip install 'framewatch[torch]'"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_cuda_agrees_with_the_cpu(model: Path, device: str) -> None:
    if device == "tensorrt":
        pytest.importorskip("torch_tensorrt", reason="needs torch-tensorrt on a GPU")
    batch = frame_batch(*[painted((i // 4, i % 4, RED)) for i in range(5)])
    expected = load_detector("d", config_of(model), 0.1).detect(batch)
    for ours, theirs in zip(load_detector("d", config_of(model, device=device), 0.1).detect(batch), expected, strict=True):
        np.testing.assert_allclose(ours.xyxy, theirs.xyxy, atol=0.1)
        np.testing.assert_allclose(ours.confidence, theirs.confidence, atol=0.01)
