"""Control: the HTTP ingress of the service; its reconciler keeps the actors at what the config asks for."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from actors import names
from actors.api.app import build_api
from actors.api.backend import Backend
from actors.desired import Desired
from actors.reconcile import Reconciler
from actors.record import Record
from stream.clock import SystemClock
from stream.config import PipelineConfig, SourceConfig
from stream.detectors.registry import ModelDescription
from stream.logs import configure_process

MAX_REQUESTS = 1000  # at once; live views are requests that last


@serve.deployment(
    num_replicas=1,
    max_ongoing_requests=MAX_REQUESTS,
    ray_actor_options={"num_cpus": 0.1},
    health_check_period_s=5,
    health_check_timeout_s=10,  # three times, and one that hangs is replaced; the leases of the actors last longer
    graceful_shutdown_timeout_s=10,
    logging_config={"enable_access_log": False},  # the proxy keeps one
)
@serve.ingress()
class Control:
    """One replica. Its restart leaves the actors at work: the new one finds them and renews their leases.

    Args:
        config: the whole config.
        models: by detector.
        detectors: handles of the detector deployments in the order of the config, so that Serve deploys them with this one.
    """

    def __init__(self, config: PipelineConfig, models: dict[str, ModelDescription], *detectors: DeploymentHandle[Any]):
        configure_process(config.service.logs, actor=names.CONTROL)
        record = Record(config.service.state_dir / "control", SystemClock())
        desired = Desired(config)
        self._reconciler = Reconciler(desired.config, models, record)
        by_name = dict(zip(config.detectors, detectors, strict=True))
        self._backend = Backend(desired, models, by_name, self._reconciler, record)

    def __serve_build_asgi_app__(self) -> FastAPI:  # Serve's name for it
        return build_api(self._backend)

    async def check_health(self) -> None:
        """For Serve: fails when the reconcile loop has ended."""
        if not self._reconciler.alive:
            raise RuntimeError("the reconcile loop has ended")

    async def set_sources(self, sources: list[SourceConfig]) -> None:
        """Run exactly these sources from now on; for ``framewatch capacity``. A restart of this replica forgets them."""
        self._backend.run(self._backend.config.model_copy(update={"sources": sources}))

    async def stop(self) -> None:
        """Stop all actors; for ``framewatch up``."""
        self._backend.close()
        await self._reconciler.stop()
        self._backend.record.close()
