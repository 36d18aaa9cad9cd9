"""From a detector's config to a detector, and what a model is without loading it."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from types import ModuleType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stream.config import DetectorConfig
from stream.detectors.base import Detector, InputSpec
from stream.detectors.decoders import Decoder, build_decoder
from stream.detectors.files import ModelFile, named_model_file, read_model_file
from stream.detectors.ports import Port
from stream.detectors.postprocess import Postprocess
from stream.detectors.spec import BoxesOutput
from stream.errors import ModelError
from stream.models.cache import is_intact
from stream.models.registry import read_registry


class ModelDescription(NamedTuple):
    """What is known of a detector without running it: see ``Detector``."""

    input: InputSpec
    classes: tuple[str, ...]
    model_id: str


def load_detector(name: str, config: DetectorConfig, low_confidence: float) -> Detector:
    """Load and compile the detector that the config calls ``name``.

    Args:
        name: becomes part of ``model_id``.
        config: its settings; a model that they name is fetched where it is not in the cache.
        low_confidence: the tracker's; objects down to the lesser of this and ``config.confidence`` are reported.

    Raises:
        ModelError: the model or its YAML is missing, unreadable or contradicts itself, a wanted class is unknown, or what
            is needed to run it is not installed.
    """
    file = _model_file(config)
    wanted = _wanted(file, config.classes)

    def postprocess(outputs: Sequence[Port]) -> Postprocess:
        suppresses_itself = isinstance(file.spec.output, BoxesOutput) and not file.spec.output.nms
        iou = None if suppresses_itself else config.nms_iou
        threshold = min(config.confidence, low_confidence)
        return Postprocess(_decoder(file, outputs), file.spec.input.picture, wanted, threshold, iou)

    detector: Detector
    if file.is_torch:
        torch = _torch(file)
        program, ports = torch.read_program(file)
        detector = torch.TorchDetector(file, program, _model_id(name, file), config, postprocess(ports))
    else:
        from stream.detectors import openvino  # here, so that describing a model needs no OpenVINO

        model, ports = openvino.read_model(file)
        detector = openvino.OpenVinoDetector(file, model, _model_id(name, file), config, postprocess(ports))
    return detector


def describe_model(config: DetectorConfig, name: str, *, check: bool = True, fetch: bool = True) -> ModelDescription:
    """What the detector will take and give, without compiling it.

    Args:
        config: its settings.
        name: becomes part of ``model_id``.
        check: also read the model's own inputs and outputs and compare; without it only its YAML is read, and neither
            OpenVINO nor torch is imported.
        fetch: fetch a named model that is not whole in the cache; without it such a model is described as the registry does.

    Raises:
        ModelError: as ``load_detector``, as far as can be seen without compiling.
    """
    file = _model_file(config, fetch)
    _wanted(file, config.classes)
    if check and (fetch or not config.model_name or is_intact(read_registry().named(config.model_name))):
        if file.is_torch:
            _, ports = _torch(file).read_program(file)
        else:
            from stream.detectors import openvino

            _, ports = openvino.read_model(file)
        _decoder(file, ports)
    return ModelDescription(file.spec.input.picture, file.spec.classes, _model_id(name, file))


def _model_file(config: DetectorConfig, fetch: bool = True) -> ModelFile:
    file = named_model_file(config.model_name, fetch=fetch) if config.model_name else read_model_file(config.model)
    if config.backend != "auto" and (config.backend == "torch") != file.is_torch:
        raise ModelError(f"{file.path}: backend {config.backend!r} cannot run {file.path.suffix} files")
    return file


def _model_id(name: str, file: ModelFile) -> str:
    return f"{name}@sha256:{file.sha256[:12]}"


def _wanted(file: ModelFile, names: list[str] | None) -> npt.NDArray[np.bool_]:
    """bool (classes,): True for the classes that the config asks for."""
    known = file.spec.classes
    for name in names or ():
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            shown = ", ".join(known[:10]) + (f" and {len(known) - 10} more" if len(known) > 10 else "")
            raise ModelError(f"{file.path}: knows no class {name!r}; {hint}it knows {shown}")
    return np.array([names is None or name in names for name in known])


def _decoder(file: ModelFile, outputs: Sequence[Port]) -> Decoder:
    try:
        return build_decoder(file.spec, outputs)
    except ValueError as error:
        raise ModelError(f"{file.path}: {error} (according to {file.described_by})") from error


def _torch(file: ModelFile) -> ModuleType:
    """The torch backend, imported only for the models that need it."""
    try:
        from stream.detectors import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ModelError(f"{file.path}: needs torch, which is not installed: pip install 'framewatch[torch]'") from error
    return torch
