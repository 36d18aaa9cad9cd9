"""Detectors under Ray Serve: the replica, and the client by which ingest actors call it.

On one host a batch lies in shared memory (``stream.ring``) and the call only says where. With its first answer a replica tells
of its door (``stream.door``), through which further batches come to it without Serve; now and then one goes by Serve all the
same, to hear of other replicas. A replica elsewhere says that it cannot see the memory; then the batch goes through Ray's
object store, and so do those of the next ``ELSEWHERE_S``.
"""

from __future__ import annotations

import asyncio
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import grpc
import numpy as np
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from actors import names
from actors.autoscaling import BATCHES_AT_ONCE, Load
from stream.config import DetectorConfig
from stream.detections import Detections
from stream.detectors.base import InputSpec
from stream.detectors.registry import load_detector
from stream.dispatch import BATCHES_AT_ONCE as BATCHES_OF_A_DISPATCHER
from stream.dispatch import PendingDetections
from stream.door import Address, Call, Caller, Door
from stream.errors import DetectorError, DetectorUnavailable, DoorUnavailable, SlotUnavailable
from stream.frame import FrameBatch, FrameInfo, Uint8Array
from stream.logs import LogSettings, configure_process, get_logger
from stream.metrics import Metrics
from stream.redact import reason
from stream.ring import Ring, RingReader, Slot
from stream.scaling import Replicas

logger = get_logger(__name__)

CALL_TIMEOUT_S = 30.0
LOOK_S = 5.0  # so often a batch goes by Serve, which hands it to a replica that may be new; also after all doors were closed
MAX_DOORS = 32  # replicas of this host that a client knows
ELSEWHERE_S = 30.0  # one call in vain in this time, to notice that a replica has come to this host


@dataclass(frozen=True, slots=True)
class BatchInRing:
    """A :class:`FrameBatch` whose images lie in shared memory."""

    detector: str
    frames: tuple[FrameInfo, ...]
    slot: Slot


@dataclass(frozen=True, slots=True)
class Answer:
    """What a replica answers by Serve to a batch in shared memory: the detections, and where its door is, if it has one."""

    detections: tuple[Detections, ...]
    door: Address | None = None


class DetectorReplica:
    """A compiled model, nothing else; one Serve deployment per configured detector.

    Args:
        name: of the detector in the config.
        config: its settings.
        low_confidence: down to which objects are given, for the tracker.
        latency_s: the SLO's budget from capture to acknowledgement.
        logs: how the replica logs.
    """

    def __init__(self, name: str, config: DetectorConfig, low_confidence: float, latency_s: float, logs: LogSettings):
        configure_process(logs, actor=names.detector(name))
        self._detector = load_detector(name, config, low_confidence)
        self._executor = ThreadPoolExecutor(BATCHES_AT_ONCE, thread_name_prefix="detect")
        self._reader = RingReader()
        self._load = Load(latency_s)
        self._door: Door | None = None
        with suppress(OSError):
            self._door = Door(self._detect)

    async def detect(self, batch: FrameBatch | BatchInRing) -> tuple[Detections, ...] | Answer:
        """Objects in each frame of the batch, in pixels of the source frames.

        Raises:
            DetectorError: the model failed on the batch.
            SlotUnavailable: its images cannot be seen from here.
        """
        detections = await asyncio.get_running_loop().run_in_executor(self._executor, self._detect, batch)
        return detections if isinstance(batch, FrameBatch) else Answer(detections, self._door.address if self._door else None)

    def _detect(self, batch: FrameBatch | BatchInRing) -> tuple[Detections, ...]:
        here = isinstance(batch, BatchInRing)
        self._load.begin()
        try:
            if isinstance(batch, FrameBatch):
                return self._detector.detect(batch)
            with self._reader.images(batch.slot) as images:
                return self._detector.detect(FrameBatch(batch.detector, batch.frames, images))
        finally:
            self._load.end(min(info.due_s for info in batch.frames) if here else None)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For Serve, where the number of replicas is not fixed: see ``actors.autoscaling``."""
        return self._load.take()

    def check_health(self) -> None:
        """For Serve; lets go of the memory of ingest actors that have ended."""
        self._reader.sweep()


def deployment(name: str, config: DetectorConfig, low_confidence: float, latency_s: float, logs: LogSettings) -> serve.Application:
    """The Serve deployment of one configured detector; arguments as of :class:`DetectorReplica`."""
    replicas = config.replicas
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of metrics_interval_s; what shall replace it has no effect yet
        replica: serve.Deployment = serve.deployment(
            name=names.detector(name),
            max_ongoing_requests=2 * BATCHES_AT_ONCE,
            ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
            health_check_period_s=2,
            health_check_timeout_s=10,
            logging_config={"enable_access_log": False},  # a line for every batch
            **_scale(replicas),
        )(DetectorReplica)
    return replica.bind(name, config, low_confidence, latency_s, logs)


def _scale(replicas: Replicas) -> dict[str, Any]:
    if replicas.max == replicas.min:
        return {"num_replicas": replicas.min}
    return {
        "autoscaling_config": {
            "min_replicas": replicas.min,
            "max_replicas": replicas.max,
            "upscale_delay_s": replicas.up_after_s,
            "downscale_delay_s": replicas.down_after_s,
            "metrics_interval_s": replicas.interval_s,
            "look_back_period_s": 2 * replicas.interval_s,
            "policy": {"policy_function": "actors.autoscaling:detector_replicas"},
        }
    }


class ServeDetector:
    """A detector behind Ray Serve, as the dispatcher sees it. A batch lost with its replica is retried elsewhere.

    Args:
        name: of the detector in the config.
        batch_size: most frames of a batch.
        spec: what its pictures look like.
        metrics: counters.
    """

    def __init__(self, name: str, batch_size: int, spec: InputSpec, metrics: Metrics):
        self._name, self._metrics = name, metrics
        handle: DeploymentHandle[Any] = serve.get_deployment_handle(names.detector(name), names.APPLICATION)
        handle._init(_prefer_local_routing=True)  # type: ignore[no-untyped-call] # Ray leaves it bare
        # By value over gRPC a small message costs a third of an actor call; images go through the object store.
        self._small = handle.options(method_name="detect", _by_reference=False, request_serialization="pickle")
        self._large = handle.options(method_name="detect", _by_reference=True)
        self._elsewhere_until_s = self._look_s = 0.0
        self._callers: deque[Caller] = deque()  # of replicas on this host, the one that is to be asked next first
        self._lock = threading.Lock()
        self._ring: Ring | None = None
        try:
            self._ring = Ring(BATCHES_OF_A_DISPATCHER, batch_size * spec.width * spec.height * 3)
        except OSError as error:
            logger.warning("no shared memory: batches travel by value", detector=name, reason=str(error))

    def allocate(self, shape: tuple[int, ...]) -> Uint8Array:
        """See ``DetectorClient``."""
        return self._ring.allocate(shape) if self._ring else np.empty(shape, np.uint8)

    def release(self, batch: FrameBatch) -> None:
        """See ``DetectorClient``."""
        if self._ring:
            self._ring.release(batch.images)

    def submit(self, batch: FrameBatch) -> PendingDetections:
        """Send a batch; returns at once."""
        slot = self._ring.describe(batch.images) if self._ring and time.monotonic() >= self._elsewhere_until_s else None
        if slot is None:
            return ServeDetections(self._send(batch))
        request, elsewhere = BatchInRing(batch.detector, batch.frames, slot), partial(self._submit_elsewhere, batch)
        while (caller := self._next_caller()) is not None:
            with suppress(DoorUnavailable):
                call = caller.call(request)
                self._count("ring")
                return DoorDetections(call, partial(self._submit_again, caller, request, elsewhere), elsewhere)
            self._forget(caller)
        return ServeDetections(self._send(request), elsewhere, self._learn)

    def _submit_again(self, caller: Caller, request: BatchInRing, elsewhere: Callable[[], ServeDetections]) -> ServeDetections:
        """The replica has gone: let Serve find another one."""
        self._forget(caller)
        return ServeDetections(self._send(request), elsewhere, self._learn)

    def _next_caller(self) -> Caller | None:
        """The replica of this host whose turn it is; None where none is known, or Serve should choose one."""
        with self._lock:
            now_s = time.monotonic()
            if not self._callers or now_s >= self._look_s:
                self._look_s = now_s + LOOK_S
                return None
            self._callers.rotate(-1)
            return self._callers[-1]

    def _learn(self, door: Address) -> None:
        """A replica has told where its door is."""
        with self._lock:
            known = len(self._callers) == MAX_DOORS or any(caller.address == door for caller in self._callers)
        if not known:
            with suppress(DoorUnavailable):
                caller = Caller(door)
                with self._lock:
                    self._callers.append(caller)

    def _forget(self, caller: Caller) -> None:
        caller.close()
        with self._lock, suppress(ValueError):
            self._callers.remove(caller)

    def _submit_elsewhere(self, batch: FrameBatch) -> ServeDetections:
        self._elsewhere_until_s = time.monotonic() + ELSEWHERE_S
        return ServeDetections(self._send(batch))

    def close(self) -> None:
        """Let go of the shared memory, and of the doors."""
        for caller in list(self._callers):
            self._forget(caller)
        if self._ring:
            self._ring.close()

    def _send(self, batch: FrameBatch | BatchInRing) -> DeploymentResponse[Any] | Exception:
        try:
            small = isinstance(batch, BatchInRing)
            self._count("ring" if small else "object_store")
            response: DeploymentResponse[Any] = (self._small if small else self._large).remote(batch)  # type: ignore[assignment]
            return response
        except (RayError, RayServeException) as error:
            return error

    def _count(self, way: Literal["ring", "object_store"]) -> None:
        self._metrics.batch_sent(self._name, way)
        if self._ring:
            self._metrics.queue_depth(f"ring_{self._name}", self._ring.taken)


class DoorDetections:
    """The answer that is on its way through a door.

    Args:
        call: to the replica.
        again: sends the batch by Serve, where the replica is not there any more.
        elsewhere: sends it by value, where the replica cannot see the shared memory.
    """

    def __init__(self, call: Call, again: Callable[[], ServeDetections], elsewhere: Callable[[], ServeDetections]):
        self._call, self._again, self._elsewhere = call, again, elsewhere

    def result(self) -> tuple[Detections, ...]:
        """See ``ServeDetections.result``."""
        try:
            detections: tuple[Detections, ...] = self._call.result(CALL_TIMEOUT_S)
            return detections
        except DoorUnavailable:
            return self._again().result()
        except SlotUnavailable:
            return self._elsewhere().result()
        except RuntimeError as error:
            raise DetectorError(str(error)) from error


class ServeDetections:
    """The answer that is on its way, or the reason why there is none.

    Args:
        response: either.
        again: sends the batch in another way, for a replica that cannot see the shared memory; None where there is none.
        learn: is told of the replica's door.
    """

    def __init__(
        self,
        response: DeploymentResponse[Any] | Exception,
        again: Callable[[], ServeDetections] | None = None,
        learn: Callable[[Address], None] | None = None,
    ):
        self._response, self._again, self._learn = response, again, learn

    def result(self) -> tuple[Detections, ...]:
        """Wait for the detections.

        Raises:
            DetectorError: the model failed on the batch.
            DetectorUnavailable: no replica could be asked, or it died; the batch may be sent again.
        """
        try:
            if isinstance(self._response, Exception):
                raise self._response
            answer: tuple[Detections, ...] | Answer = self._response.result(timeout_s=CALL_TIMEOUT_S)
            if not isinstance(answer, Answer):
                return answer
            if answer.door and self._learn:
                self._learn(answer.door)
            return answer.detections
        except SlotUnavailable:
            if self._again is None:
                raise
            return self._again().result()
        except DetectorError:
            raise
        except RayTaskError as error:  # the replica lives: it is the batch that it cannot take
            raise DetectorError(reason(error.cause)) from error
        except (RayError, RayServeException, grpc.RpcError, TimeoutError) as error:
            raise DetectorUnavailable(f"{type(error).__name__}: {reason(error)}") from error
