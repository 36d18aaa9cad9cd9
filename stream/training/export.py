"""Export: the trained network as ONNX and as a ``torch.export`` program, with the YAML that the service reads.

Nothing is left behind unless both files, run as the service runs them, say what the network says.
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import openvino as ov
import torch
import yaml
from torch import nn

from stream.detectors.spec import ModelSpec
from stream.errors import TrainingError
from stream.frame import Uint8Array
from stream.training.model import Scored
from stream.training.validate import to_pixels

OPSET = 17
MAX_BATCH = 64  # of the torch.export program
CHECKED_BATCHES = (1, 3)
# Of every output: offsets and logarithms of sizes in cells, scores from 0 to 1. Float32 sums in another order differ by a
# hundredth of that; a wrong layer by a thousand times as much.
TOLERANCE = 1e-3


class Exported(NamedTuple):
    """The files, and the greatest difference of any output from the network's."""

    onnx: Path
    program: Path
    spec: Path
    difference: float


def export_model(network: nn.Module, spec: ModelSpec, folder: Path, name: str, images: Uint8Array) -> Exported:
    """Write ``NAME.onnx``, ``NAME.pt2`` and ``NAME.yaml``, which describes both.

    Args:
        network: trained, on the CPU.
        spec: goes into the YAML.
        folder: must exist.
        name: without suffix.
        images: uint8 (N, H, W, 3), pictures on which the files are compared with the network; at least 3.

    Raises:
        TrainingError: a file does not say what the network says.
    """
    scored = Scored(network).eval()
    pixels = to_pixels(images, torch.device("cpu")).contiguous()
    with torch.inference_mode():
        expected = [scored(pixels[:count]).numpy() for count in CHECKED_BATCHES]
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as part:
        onnx, program, described = (Path(part) / f"{name}{suffix}" for suffix in (".onnx", ".pt2", ".yaml"))
        _write_onnx(scored, pixels, onnx)
        _write_program(scored, pixels, program)
        content = spec.model_dump(mode="json", exclude_none=True)
        described.write_text(yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120))
        worst = 0.0
        for path, results in ((onnx, _run_onnx(onnx, pixels)), (program, _run_program(program, pixels))):
            for count, want, got in zip(CHECKED_BATCHES, expected, results, strict=True):
                difference = _difference(want, got)
                if not difference <= TOLERANCE:
                    raise TrainingError(
                        f"{folder / path.name}: not exported: at batch {count} it differs from the network by {difference:.2g}; "
                        f"{TOLERANCE:g} is allowed"
                    )
                worst = max(worst, difference)
        for path in (described, program, onnx):
            os.replace(path, folder / path.name)
    return Exported(folder / onnx.name, folder / program.name, folder / described.name, worst)


def _write_onnx(scored: nn.Module, pixels: torch.Tensor, path: Path) -> None:
    # The exporter by tracing: the newer one needs packages that nothing else here does.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", "Constant folding", UserWarning)  # OpenVINO folds what it leaves
        torch.onnx.export(
            scored,
            (pixels[:2],),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["output"],
            dynamic_axes={"images": {0: "batch"}, "output": {0: "batch"}},
        )


def _write_program(scored: nn.Module, pixels: torch.Tensor, path: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        torch.export.save(torch.export.export(scored, (pixels[:2],), dynamic_shapes=({0: batch},)), path)
    finally:
        logger.setLevel(level)


def _run_onnx(path: Path, pixels: torch.Tensor) -> list[npt.NDArray[Any]]:
    core = ov.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [np.array(compiled(pixels[:count].numpy())[0]) for count in CHECKED_BATCHES]


def _run_program(path: Path, pixels: torch.Tensor) -> list[npt.NDArray[Any]]:
    module = torch.export.load(path).module()
    with torch.inference_mode():
        return [module(pixels[:count]).numpy() for count in CHECKED_BATCHES]


def _difference(want: npt.NDArray[Any], got: npt.NDArray[Any]) -> float:
    """The greatest of any output; infinite where the shapes differ."""
    return float(np.abs(want - got).max()) if want.shape == got.shape else float("inf")
