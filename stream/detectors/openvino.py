"""OpenVinoDetector: ONNX and other models that OpenVINO reads, on the CPU."""

from __future__ import annotations

import queue
from collections import deque
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import openvino as ov
import openvino.properties.hint as hint
from openvino.frontend import (
    FrontEndManager,
    GeneralFailure,
    InitializationFailure,
    NotImplementedFailure,
    OpConversionFailure,
    OpValidationFailure,
)
from openvino.preprocess import PrePostProcessor
from openvino.properties import inference_num_threads

from stream.config import DetectorConfig
from stream.detections import Detections
from stream.detectors.files import ModelFile
from stream.detectors.ports import Port, check_input
from stream.detectors.postprocess import Postprocess
from stream.detectors.spec import ModelInput
from stream.errors import DetectorError, ModelError
from stream.frame import FrameBatch

_FAILURES = (
    RuntimeError,
    GeneralFailure,
    InitializationFailure,
    NotImplementedFailure,
    OpConversionFailure,
    OpValidationFailure,
)
_PRECISIONS = {"f32": ov.Type.f32, "bf16": ov.Type.bf16, "f16": ov.Type.f16}


def read_model(file: ModelFile) -> tuple[ov.Model, tuple[Port, ...]]:
    """The model for one picture at a time, and its outputs.

    Raises:
        ModelError: not a model, or its input is not what its spec says.
    """
    try:
        if file.path.suffix.lower() == ".onnx":
            # Asked directly, because with a broken file Core.read_model lets every other reader try and complain.
            reader = FrontEndManager().load_by_framework("onnx")
            model = reader.convert(reader.load(str(file.path)))
        else:
            model = ov.Core().read_model(file.path)
    except _FAILURES as error:
        raise ModelError(f"{file.path}: is not a model that OpenVINO can read ({_summary(error)})") from error
    if not model.inputs or not model.outputs:
        raise ModelError(f"{file.path}: is not a model (it has no inputs or no outputs)")
    try:
        batch = check_input(file.spec.input, [_port(port) for port in model.inputs])
        if batch not in (None, 1):
            raise ValueError(f"has a fixed batch of {batch}; export it with a batch of 1 or a free one")
        if model.is_dynamic():
            model.reshape(_shape(file.spec.input))
    except ValueError as error:
        raise ModelError(f"{file.path}: {error} (according to {file.described_by})") from error
    except _FAILURES as error:
        raise ModelError(f"{file.path}: cannot take one picture of its size ({_summary(error)})") from error
    return model, tuple(_port(port) for port in model.outputs)


class _Slot(NamedTuple):
    """A request that can run, and the memory of its input, uint8 (1, height, width, 3)."""

    request: ov.InferRequest
    picture: npt.NDArray[np.uint8]


class OpenVinoDetector:
    """A compiled model; see ``stream.detectors.base.Detector``. ``detect`` may be called from several threads.

    The frames of a batch run as requests of one picture, several at a time: on a CPU that is faster than one request with
    a batch, and any number of frames runs without padding. Conversion to float, layout and normalisation are part of
    the compiled graph.
    """

    def __init__(self, file: ModelFile, model: ov.Model, model_id: str, config: DetectorConfig, postprocess: Postprocess):
        """Compile ``model`` as it came from ``read_model``.

        Raises:
            ModelError: it cannot be compiled or run, or the device does not exist.
        """
        self.input = file.spec.input.picture
        self.classes = file.spec.classes
        self.model_id = model_id
        self._postprocess = postprocess
        self._closed = False
        device = "CPU" if config.device == "auto" else config.device.upper()
        core = ov.Core()
        if device.partition(".")[0] not in {name.partition(".")[0] for name in core.available_devices}:
            raise ModelError(f"{file.path}: OpenVINO has no device {config.device!r}; there is {', '.join(core.available_devices)}")
        options: dict[str, Any] = {
            hint.performance_mode(): hint.PerformanceMode.THROUGHPUT,
            hint.inference_precision(): _PRECISIONS[config.precision],
        }
        if device == "CPU":
            # Replicas on one host would all be pinned to the same first cores.
            options |= {hint.enable_cpu_pinning(): False}
            options |= {inference_num_threads(): config.threads} if config.threads else {}
        try:
            compiled = core.compile_model(_with_preprocessing(model, file.spec.input), device, options)
            # One request more than run at a time: a core that has finished need not wait for us to collect its result.
            count = 1 + int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
            requests = [compiled.create_infer_request() for _ in range(count)]
            slots = [_Slot(request, request.input_tensors[0].data) for request in requests]
            slots[0].picture[:] = 0
            slots[0].request.infer()
            self._detections(slots[0], self.input.width, self.input.height)
        except (*_FAILURES, ValueError) as error:
            raise ModelError(f"{file.path}: does not run ({_summary(error)})") from error
        self._free: queue.SimpleQueue[_Slot | None] = queue.SimpleQueue()  # None wakes those who wait when it is closed
        for slot in slots:
            self._free.put(slot)

    def detect(self, batch: FrameBatch) -> tuple[Detections, ...]:
        """See ``Detector.detect``."""
        expected = (self.input.height, self.input.width, 3)
        if batch.images.shape[1:] != expected:
            raise DetectorError(f"{self.model_id}: images must be (N, {', '.join(map(str, expected))}), not {batch.images.shape}")
        results: list[Detections] = []
        running: deque[_Slot] = deque()

        def collect() -> None:
            running[0].request.wait()
            frame = batch.frames[len(results)]
            results.append(self._detections(running[0], frame.width, frame.height))
            self._free.put(running.popleft())

        try:
            for image in batch.images:
                # Wait for a slot of another thread only while holding none: so no two threads wait for each other.
                while (slot := self._take(block=not running)) is None:
                    collect()
                running.append(slot)
                slot.picture[0] = image  # cheaper than handing the array over, and keeps no hold on the caller's memory
                slot.request.start_async()
            while running:
                collect()
        except (RuntimeError, ValueError) as error:
            raise DetectorError(f"{self.model_id}: {_summary(error)}") from error
        finally:
            for slot in running:  # only after an error
                with suppress(RuntimeError):
                    slot.request.wait()
                self._free.put(slot)
        return tuple(results)

    def close(self) -> None:
        """Give back memory and threads; a later ``detect`` raises DetectorError."""
        self._closed = True
        with suppress(queue.Empty):
            while True:
                self._free.get_nowait()
        self._free.put(None)

    def _take(self, block: bool) -> _Slot | None:
        """A free slot; None where there is none and ``block`` is not set."""
        try:
            slot = self._free.get(block)
        except queue.Empty:
            return None
        if slot is None or self._closed:
            self._free.put(None)
            raise DetectorError(f"{self.model_id}: is closed")
        return slot

    def _detections(self, slot: _Slot, width: int, height: int) -> Detections:
        return self._postprocess([tensor.data for tensor in slot.request.output_tensors], width, height)


def _with_preprocessing(model: ov.Model, spec: ModelInput) -> ov.Model:
    """The model taking uint8 (1, height, width, 3)."""
    builder = PrePostProcessor(model)
    picture = builder.input(0)
    picture.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    picture.model().set_layout(ov.Layout(spec.layout))
    if not spec.raw:
        picture.preprocess().convert_element_type(ov.Type.f32).mean(list(spec.shift)).scale(list(spec.divisor))
    return builder.build()


def _shape(spec: ModelInput) -> list[int]:
    return [1, 3, spec.height, spec.width] if spec.layout == "NCHW" else [1, spec.height, spec.width, 3]


def _port(port: Any) -> Port:
    shape = port.partial_shape
    sizes = () if shape.rank.is_dynamic else tuple(None if axis.is_dynamic else int(axis.get_length()) for axis in shape)
    return Port(frozenset(port.get_names()), sizes, port.element_type.is_integral())


def _summary(error: Exception) -> str:
    """The last line of OpenVINO's many: the one that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
