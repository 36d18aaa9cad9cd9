"""TorchDetector: ``torch.export`` programs (``.pt2``) on CPU, CUDA, or TensorRT by way of torch-tensorrt.

Only this module imports torch, and ``registry`` imports it only for a ``.pt2``.
"""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.export.passes import move_to_device_pass
from torch.utils import _pytree as pytree

from stream.config import DetectorConfig
from stream.detections import Detections
from stream.detectors.files import ModelFile
from stream.detectors.ports import Port, check_input
from stream.detectors.postprocess import Postprocess
from stream.errors import DetectorError, ModelError
from stream.frame import FrameBatch

logger = logging.getLogger(__name__)
_PRECISIONS = {"bf16": torch.bfloat16, "f16": torch.float16}
# What torch.export.load raises on files that are not its own, and what programs raise when they run.
_LOAD_FAILURES = (RuntimeError, ValueError, KeyError, TypeError, AttributeError, AssertionError, OSError, zipfile.BadZipFile)
_RUN_FAILURES = (RuntimeError, ValueError, TypeError, AssertionError)


def read_program(file: ModelFile) -> tuple[torch.export.ExportedProgram, tuple[Port, ...]]:
    """The program, on the device where it was exported, and its outputs.

    Raises:
        ModelError: not a ``torch.export`` program, or its input is not what its spec says.
    """
    if not zipfile.is_zipfile(file.path):
        raise ModelError(f"{file.path}: is not a torch.export program (not even an archive)")
    exporter = logging.getLogger("torch.export")
    level = exporter.level
    exporter.setLevel(logging.ERROR)  # it logs whole stack traces on its way to the error that we report in one line
    try:
        program = torch.export.load(file.path)
    except _LOAD_FAILURES as error:
        raise ModelError(f"{file.path}: is not a torch.export program that torch {torch.__version__} can read") from error
    finally:
        exporter.setLevel(level)
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    inputs, outputs = (
        [_port(name, values.get(name)) for name in names if isinstance(values.get(name), torch.Tensor)]
        for names in (program.graph_signature.user_inputs, program.graph_signature.user_outputs)
    )
    try:
        batch = check_input(file.spec.input, inputs)
        if batch not in (None, 1):
            raise ValueError(f"has a fixed batch of {batch}; export it with a batch of 1 or a dynamic one")
    except ValueError as error:
        raise ModelError(f"{file.path}: {error} (according to {file.described_by})") from error
    return program, tuple(outputs)


class TorchDetector:
    """A program on a device; see ``stream.detectors.base.Detector``. ``detect`` may be called from several threads.

    A batch goes to the device as uint8 and is converted there. ``device`` is ``auto`` (CUDA where there is one), ``cpu``,
    ``cuda``, ``cuda:N``, ``tensorrt`` or ``tensorrt:N``. A program with a fixed batch of 1 runs frame by frame.
    ``threads`` sets torch's threads for the whole process.
    """

    def __init__(
        self,
        file: ModelFile,
        program: torch.export.ExportedProgram,
        model_id: str,
        config: DetectorConfig,
        postprocess: Postprocess,
    ):
        """Move ``program``, as it came from ``read_program``, to the device.

        Raises:
            ModelError: the device does not exist, or the program does not run on it.
        """
        self.input = file.spec.input.picture
        self.classes = file.spec.classes
        self.model_id = model_id
        self._postprocess = postprocess
        self._device, tensorrt = _device(file, config.device)
        if config.threads:
            torch.set_num_threads(config.threads)
        takes = program.graph_signature.user_inputs
        picture = next(
            n.meta["val"] for n in program.graph.nodes if n.name in takes and isinstance(n.meta.get("val"), torch.Tensor)
        )
        self._dtype = picture.dtype
        self._channels_first = file.spec.input.layout == "NCHW"
        self._limit = config.batch_size if not isinstance(picture.shape[0], int) else 1
        if not file.spec.input.raw:
            self._shift = torch.tensor(file.spec.input.shift, dtype=torch.float32, device=self._device)
            self._divisor = torch.tensor(file.spec.input.divisor, dtype=torch.float32, device=self._device)
        self._raw = file.spec.input.raw
        self._low_precision = None if tensorrt else _PRECISIONS.get(config.precision)
        blank = torch.zeros((1, self.input.height, self.input.width, 3), dtype=torch.uint8)
        self._run: Callable[[torch.Tensor], Any] | None
        try:
            program = move_to_device_pass(program, str(self._device)) if self._device.type != "cpu" else program
            sample = self._prepared(blank)
            self._run = _tensorrt_module(file, program, sample, self._limit, config.precision) if tensorrt else program.module()
            postprocess(self._outputs(blank), self.input.width, self.input.height)
        except _RUN_FAILURES as error:
            raise ModelError(f"{file.path}: does not run on {self._device} ({_summary(error)})") from error
        logger.info("%s runs on %s%s", model_id, self._device, " by TensorRT" if tensorrt else "")

    def detect(self, batch: FrameBatch) -> tuple[Detections, ...]:
        """See ``Detector.detect``."""
        expected = (self.input.height, self.input.width, 3)
        if batch.images.shape[1:] != expected:
            raise DetectorError(f"{self.model_id}: images must be (N, {', '.join(map(str, expected))}), not {batch.images.shape}")
        # torch warns about arrays it could write to but must not; frames out of shared memory are such.
        images = torch.from_numpy(batch.images if batch.images.flags.writeable else batch.images.copy())
        results: list[Detections] = []
        try:
            for start in range(0, len(batch), self._limit):
                frames = batch.frames[start : start + self._limit]
                outputs = self._outputs(images[start : start + self._limit])
                for i, frame in enumerate(frames):
                    row = outputs if len(frames) == 1 else [array[i : i + 1] for array in outputs]
                    results.append(self._postprocess(row, frame.width, frame.height))
        except _RUN_FAILURES as error:
            raise DetectorError(f"{self.model_id}: {_summary(error)}") from error
        return tuple(results)

    def close(self) -> None:
        """Give back the memory; a later ``detect`` raises DetectorError."""
        self._run = None

    def _outputs(self, images: torch.Tensor) -> list[Any]:
        """Arrays of all outputs for uint8 (N, H, W, 3)."""
        run = self._run
        if run is None:
            raise DetectorError(f"{self.model_id}: is closed")
        precision: AbstractContextManager[Any] = nullcontext()
        if self._low_precision is not None:
            precision = torch.autocast(self._device.type, self._low_precision)
        with torch.inference_mode(), precision:
            leaves = pytree.tree_leaves(run(self._prepared(images)))
            tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
            return [(t.float() if t.is_floating_point() else t).cpu().numpy() for t in tensors]

    def _prepared(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (N, H, W, 3) on the host -> what the program takes, on its device."""
        pixels = images.to(self._device, non_blocking=True)
        if not self._raw:
            pixels = (pixels.float() - self._shift) / self._divisor
        if self._channels_first:
            pixels = pixels.permute(0, 3, 1, 2)
        return pixels.to(self._dtype).contiguous()


def _device(file: ModelFile, wanted: str) -> tuple[torch.device, bool]:
    """The device, and whether TensorRT is asked for."""
    kind, _, number = wanted.partition(":")
    tensorrt = kind == "tensorrt"
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind not in ("cpu", "cuda", "tensorrt") or (number and not number.isdigit()):
        raise ModelError(f"{file.path}: unknown device {wanted!r}; known are auto, cpu, cuda, cuda:N, tensorrt and tensorrt:N")
    if kind == "cpu":
        return torch.device("cpu"), False
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(number or 0) >= there:
        raise ModelError(f"{file.path}: there is no device {wanted!r}; torch {torch.__version__} sees {there} CUDA devices")
    return torch.device("cuda", int(number or 0)), tensorrt


def _tensorrt_module(
    file: ModelFile, program: torch.export.ExportedProgram, sample: torch.Tensor, limit: int, precision: str
) -> Callable[[torch.Tensor], Any]:
    """The program compiled for batches of 1 to ``limit``; engines are kept in ``$XDG_CACHE_HOME/framewatch/engines``."""
    try:
        import torch_tensorrt  # fails without an NVIDIA driver, so only after a CUDA device was found
    except ImportError as error:
        raise ModelError(f"{file.path}: device 'tensorrt' needs torch-tensorrt: pip install 'framewatch[gpu]'") from error
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "framewatch" / "engines"
    cache.mkdir(parents=True, exist_ok=True)
    size = tuple(sample.shape[1:])
    picture = torch_tensorrt.Input(
        min_shape=(1, *size), opt_shape=(max(1, limit // 2), *size), max_shape=(limit, *size), dtype=sample.dtype
    )
    compiled: Callable[[torch.Tensor], Any] = torch_tensorrt.dynamo.compile(
        program,
        arg_inputs=[picture],
        enable_autocast=precision != "f32",
        autocast_low_precision_type=_PRECISIONS.get(precision, torch.float16),
        cache_built_engines=True,
        reuse_cached_engines=True,
        engine_cache_dir=str(cache),
        timing_cache_path=str(cache / "timing.bin"),
    )
    return compiled


def _port(name: str, value: Any) -> Port:
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return Port(frozenset({name}), shape, not value.dtype.is_floating_point)


def _summary(error: Exception) -> str:
    """The first line, which says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
