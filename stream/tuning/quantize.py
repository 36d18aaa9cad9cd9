"""Int8 models: post-training quantization by nncf, accepted only if the accuracy holds.

Weights and activations are quantized to eight bits (Nagel et al., "A White Paper on Neural Network Quantization", 2021);
activations asymmetrically where they are (SiLU and its kin), which costs no time on a CPU and is a good deal more accurate
for small detectors.
"""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import yaml

from stream.config import DetectorConfig
from stream.datasets.coco import CocoDataset, read_coco
from stream.datasets.files import shared_file
from stream.detectors.base import Detector
from stream.detectors.files import ModelFile, named_model_file, read_model_file
from stream.detectors.registry import load_detector
from stream.detectors.spec import CLASS_LISTS, ModelInput, ModelSpec
from stream.errors import ConfigError, DatasetError, Fault, ModelError
from stream.evaluation.detections import evaluate_detections, only_classes
from stream.evaluation.predictions import predict
from stream.files import check_writable, replacing
from stream.frame import FrameBatch, FrameInfo, Uint8Array
from stream.tuning.calibration import calibration_images, media_of

if TYPE_CHECKING:
    import openvino as ov

Metric = Literal["ap", "ap50"]
LEAST_CONFIDENCE = 0.01  # an average precision needs the faint ones as well
SPEED_ROUNDS, SPEED_FRAMES = 15, 8


@dataclass(frozen=True, slots=True)
class Request:
    """The command line of ``framewatch quantize``.

    Attributes:
        model: file, or name of a model of the registry.
        data: what to calibrate with: label files, folders of pictures, videos.
        val: label file that the accuracy is measured on.
        out: the ``.xml`` to write; ``.bin`` and ``.yaml`` lie beside it.
        metric: what must hold.
        max_drop: by how much it may fall.
        frames: to calibrate with, at most.
    """

    model: str
    data: tuple[Path, ...]
    val: Path
    out: Path
    metric: Metric
    max_drop: float
    frames: int


@dataclass(frozen=True, slots=True)
class Measured:
    """A model through the service's own detector.

    Attributes:
        name: file name.
        size_bytes: of the model and its weights.
        ms: CPU time per frame on one thread, postprocessing included; median.
        ap, ap50: COCO's, over the classes that model and labels share.
    """

    name: str
    size_bytes: int
    ms: float
    ap: float
    ap50: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """The model before and after; ``accepted`` if the drop is within bounds, and only then anything was written.

    Attributes:
        before, after: measured in one run.
        frames: that were calibrated with.
        drop: of the metric; below 0 where it rose.
        accepted: whether the files were written.
    """

    before: Measured
    after: Measured
    frames: int
    drop: float
    accepted: bool


def quantize(request: Request, say: Callable[[str], None]) -> Outcome:
    """Quantize a model, measure it, and write it if its accuracy holds.

    Args:
        request: what to do.
        say: told what is being done.

    Raises:
        ConfigError: ``out`` is no ``.xml``, or would overwrite the model.
        DatasetError: labels or pictures cannot be used, or calibration and validation share a file.
        ModelError: the model cannot be read or quantized, or nncf is not installed.
        SourceError: a calibration video cannot be read.
    """
    named = DetectorConfig(model=request.model).model_name
    file = named_model_file(named) if named else read_model_file(request.model)
    _check(request, file)
    truth = _common_classes(read_coco(request.val), file, request.val)
    shared = shared_file((path for given in request.data for path in media_of(given)), media_of(request.val))
    if shared is not None:
        raise DatasetError(f"{shared[0]}: is used to calibrate and to validate ({shared[1]}); the accuracy would flatter")
    nncf, model = _nncf(), _float_model(file)
    images = calibration_images(request.data, file.spec.input.picture, request.frames)
    say(f"calibrating with {len(images)} frames")
    model = _quantized(nncf, model, file, images)
    with tempfile.TemporaryDirectory() as folder:
        made = _save(model, file, Path(folder) / request.out.name)
        before, after = _measure((file.path, made), truth, request.val.parent, images[:SPEED_FRAMES], say)
        drop = getattr(before, request.metric) - getattr(after, request.metric)
        accepted = bool(drop <= request.max_drop)
        if accepted:
            _move(made, request.out)
    return Outcome(before, after, len(images), drop, accepted)


def _check(request: Request, file: ModelFile) -> None:
    if request.out.suffix != ".xml":
        raise ConfigError(
            "framewatch quantize", [Fault("--out", f"must end in .xml, as OpenVINO's models do (found {request.out})")]
        )
    theirs = {path.resolve() for path in _files(file.path)} | {Path(file.described_by).resolve()}
    for path in (*_files(request.out), request.out.with_suffix(".yaml")):
        if path.resolve() in theirs:
            raise ConfigError("framewatch quantize", [Fault("--out", f"would overwrite {path}, which belongs to the model")])
    try:
        check_writable(request.out)
    except OSError as error:
        reason = f"{request.out} cannot be written: {error.strerror or error}"
        raise ConfigError("framewatch quantize", [Fault("--out", reason)]) from error
    if file.is_torch:
        raise ModelError(f"{file.path}: only models that OpenVINO reads can be quantized; export it to ONNX")


def _files(model: Path) -> tuple[Path, ...]:
    return (model, model.with_suffix(".bin")) if model.suffix == ".xml" else (model,)


def _common_classes(labels: CocoDataset, file: ModelFile, path: Path) -> CocoDataset:
    common = [name for name in labels.class_names if name in file.spec.classes]
    if not common:
        raise DatasetError(
            f"{path}: has the classes {', '.join(labels.class_names[:10])}; {file.path.name} knows none of them "
            f"({', '.join(file.spec.classes[:10])})"
        )
    labels = only_classes(labels, common)
    if not labels.annotations:
        raise DatasetError(f"{path}: has no object of the classes {', '.join(common[:10])}; no accuracy can be measured on it")
    return labels


def _nncf() -> ModuleType:
    # Without this variable it reports every use to its makers.
    os.environ.setdefault("NNCF_CI", "1")
    try:
        nncf = importlib.import_module("nncf")  # by name: it has no types, and is an extra
    except ModuleNotFoundError as error:
        if error.name != "nncf":
            raise
        raise ModelError("int8 needs nncf, which is not installed: pip install 'framewatch[quantize]'") from error
    nncf.set_log_level(logging.ERROR)
    return nncf


def _float_model(file: ModelFile) -> ov.Model:
    from openvino.passes import ConstantFolding, Manager

    from stream.detectors.openvino import read_model

    model, _ = read_model(file)
    if any(op.get_type_name() == "FakeQuantize" for op in model.get_ops()):
        raise ModelError(f"{file.path}: is quantized already")
    # Biases that are still computed (reshaped, that is) are not seen as such, and then not corrected.
    passes = Manager()
    passes.register_pass(ConstantFolding())
    passes.run_passes(model)
    return model


def _quantized(nncf: ModuleType, model: ov.Model, file: ModelFile, images: Sequence[Uint8Array]) -> ov.Model:
    dtype = model.inputs[0].element_type.to_dtype()
    frames = nncf.Dataset(images, lambda image: _fed(image, file.spec.input, dtype))
    with open(os.devnull, "w") as nowhere, redirect_stdout(sys.stderr if sys.stderr.isatty() else nowhere):
        try:
            quantized = nncf.quantize(model, frames, preset=nncf.QuantizationPreset.MIXED, subset_size=len(images))
        except (RuntimeError, nncf.UnsupportedModelError) as error:
            raise ModelError(f"{file.path}: cannot be quantized: {' '.join(str(error).split())[:300]}") from error
    if not any(op.get_type_name() == "FakeQuantize" for op in quantized.get_ops()):
        raise ModelError(f"{file.path}: has nothing that runs in int8")
    return quantized


def _fed(image: Uint8Array, spec: ModelInput, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A scaled frame as the model itself takes it: (1, 3, H, W) or (1, H, W, 3)."""
    shift, divisor = (np.array(values, np.float32) for values in (spec.shift, spec.divisor))
    pixels = (image.astype(np.float32) - shift) / divisor
    if spec.layout == "NCHW":
        pixels = pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(pixels[None].astype(dtype))


def _save(model: ov.Model, file: ModelFile, path: Path) -> Path:
    import openvino as ov

    ov.save_model(model, path, compress_to_fp16=False)
    head = f"# Int8 by framewatch quantize, from {file.path.name} (sha256 {file.sha256[:12]}...).\n"
    path.with_suffix(".yaml").write_text(head + _described(file.spec), encoding="utf-8")
    return path


def _described(spec: ModelSpec) -> str:
    data = spec.model_dump(mode="json", exclude_unset=True)
    data["classes"] = next((name for name, classes in CLASS_LISTS.items() if classes == spec.classes), data["classes"])
    return yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=120)


def _move(made: Path, out: Path) -> None:
    """Put the files in their place, each whole, the one that a reader asks for last."""
    out.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".yaml", ".bin", ".xml"):
        with replacing(out.with_suffix(suffix)) as part:
            shutil.copyfile(made.with_suffix(suffix), part)


def _measure(
    models: tuple[Path, Path], truth: CocoDataset, folder: Path, images: Sequence[Uint8Array], say: Callable[[str], None]
) -> tuple[Measured, Measured]:
    def load(model: Path) -> Detector:
        config = DetectorConfig(model=str(model), threads=1)
        return load_detector("quantize", config, LEAST_CONFIDENCE)

    with closing(load(models[0])) as before, closing(load(models[1])) as after:
        times = _ms_per_frame((before, after), images)
        measured = []
        for model, detector, ms in zip(models, (before, after), times, strict=True):
            say(f"measuring {model.name} on {len(truth.images)} pictures")
            report = evaluate_detections(truth, predict(detector, truth, folder))
            size = sum(path.stat().st_size for path in _files(model))
            measured.append(Measured(model.name, size, ms, report.ap, report.ap50))
    return measured[0], measured[1]


def _ms_per_frame(detectors: Sequence[Detector], images: Sequence[Uint8Array]) -> list[float]:
    """Median CPU time per frame of each, taken in turns: what else the machine does meets all alike."""
    height, width = images[0].shape[:2]
    frames = tuple(FrameInfo("quantize", "", i, float(i), 0.0, width, height, 0.0, 0.0) for i in range(len(images)))
    batch = FrameBatch("quantize", frames, np.stack(images))
    taken_s: list[list[float]] = [[] for _ in detectors]
    for detector in detectors:
        detector.detect(batch)
    for _ in range(SPEED_ROUNDS):
        for detector, times in zip(detectors, taken_s, strict=True):
            started_s = time.process_time()
            detector.detect(batch)
            times.append(time.process_time() - started_s)
    return [1e3 * median(times) / len(images) for times in taken_s]
