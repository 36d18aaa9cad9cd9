"""Detectors under Ray Serve: the replica, and the client by which ingest actors call it."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from actors import names
from stream.config import DetectorConfig
from stream.detections import Detections
from stream.detectors.registry import load_detector
from stream.errors import DetectorError, DetectorUnavailable
from stream.frame import FrameBatch
from stream.redact import redact

CALL_TIMEOUT_S = 30.0
BATCHES_AT_ONCE = 2  # one on the model while the next is being unpacked


class DetectorReplica:
    """A compiled model, nothing else; one Serve deployment per configured detector."""

    def __init__(self, name: str, config: DetectorConfig, low_confidence: float):
        self._detector = load_detector(name, config, low_confidence)
        self._executor = ThreadPoolExecutor(BATCHES_AT_ONCE, thread_name_prefix="detect")

    async def detect(self, batch: FrameBatch) -> tuple[Detections, ...]:
        """Objects in each frame of the batch, in pixels of the source frames.

        Raises:
            DetectorError: the model failed on the batch.
        """
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._detector.detect, batch)


def deployment(name: str, config: DetectorConfig, low_confidence: float) -> serve.Application:
    """The Serve deployment of one configured detector."""
    replicas = config.replicas
    scale: dict[str, Any] = {"num_replicas": replicas.min}
    if replicas.max > replicas.min:
        scale = {
            "autoscaling_config": {
                "min_replicas": replicas.min,
                "max_replicas": replicas.max,
                "target_ongoing_requests": BATCHES_AT_ONCE,
            }
        }
    replica: serve.Deployment = serve.deployment(
        name=names.detector(name),
        max_ongoing_requests=2 * BATCHES_AT_ONCE,
        ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
        health_check_period_s=2,
        health_check_timeout_s=10,
        **scale,
    )(DetectorReplica)
    return replica.bind(name, config, low_confidence)


class ServeDetector:
    """A detector behind Ray Serve, as the dispatcher sees it. A batch lost with its replica is retried elsewhere."""

    def __init__(self, name: str):
        self._handle: DeploymentHandle[Any] = serve.get_deployment_handle(names.detector(name), names.APPLICATION)

    def submit(self, batch: FrameBatch) -> ServeDetections:
        """Send a batch; returns at once."""
        try:
            response: Any = self._handle.detect.remote(batch)
            return ServeDetections(response)
        except (RayError, RayServeException) as error:
            return ServeDetections(error)


class ServeDetections:
    """The answer that is on its way, or the reason why there is none."""

    def __init__(self, response: DeploymentResponse[Any] | Exception):
        self._response = response

    def result(self) -> tuple[Detections, ...]:
        """Wait for the detections.

        Raises:
            DetectorError: the model failed on the batch.
            DetectorUnavailable: no replica could be asked, or it died; the batch may be sent again.
        """
        try:
            if isinstance(self._response, Exception):
                raise self._response
            detections: tuple[Detections, ...] = self._response.result(timeout_s=CALL_TIMEOUT_S)
            return detections
        except DetectorError:
            raise
        except RayTaskError as error:  # the replica lives: it is the batch that it cannot take
            raise DetectorError(redact(error.cause).splitlines()[0] if str(error.cause) else type(error.cause).__name__) from error
        except (RayError, RayServeException, TimeoutError) as error:
            raise DetectorUnavailable(f"{type(error).__name__}: {redact(error).splitlines()[0]}") from error
