"""Control: the HTTP ingress of the service; its reconciler keeps the actors at what the config asks for."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Response
from pydantic import BaseModel
from ray import serve
from ray.serve.handle import DeploymentHandle

from actors.reconcile import Reconciler
from stream.config import PipelineConfig, SourceConfig
from stream.detectors.registry import ModelDescription
from stream.metrics import merge_expositions
from stream.redact import redact
from stream.worker import SourceStatus

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
api = FastAPI(title="framewatch")


class Readiness(BaseModel):
    """``ready`` once every actor answers and events reach their sinks."""

    ready: bool
    reasons: list[str]


class SourceView(BaseModel):
    """A source as the API shows it; ``uri`` without its password. ``decode`` tells how much of it is decoded (``full``,
    ``fast``, ``key``) and ``decode_reason`` why; of ``frames``, ``decoded`` were; ``asleep`` while its scene is still."""

    id: str
    uri: str
    detector: str
    actor: str | None
    state: str
    reason: str
    frames: int
    decoded: int
    analysed: int
    decode: str
    decode_reason: str
    asleep: bool
    reconnects: int
    slo_attainment: float | None


@serve.deployment(
    num_replicas=1,
    max_ongoing_requests=64,
    ray_actor_options={"num_cpus": 0.1},
    health_check_period_s=5,
    graceful_shutdown_timeout_s=10,
)
@serve.ingress(api)
class Control:
    """One replica. Its restart leaves the actors at work: the new one finds them and renews their leases.

    Args:
        config: the whole config.
        models: by detector.
        detectors: handles of the detector deployments, so that Serve deploys them with this one.
    """

    def __init__(self, config: PipelineConfig, models: dict[str, ModelDescription], *detectors: DeploymentHandle[Any]):
        self._config, self._detectors = config, detectors
        self._reconciler = Reconciler(config, models)

    async def check_health(self) -> None:
        """For Serve: fails when the reconcile loop has ended."""
        if not self._reconciler.alive:
            raise RuntimeError("the reconcile loop has ended")

    async def set_sources(self, sources: list[SourceConfig]) -> None:
        """Run exactly these sources from now on; for ``framewatch capacity``. A restart of this replica forgets them."""
        self._config = self._config.model_copy(update={"sources": sources})
        self._reconciler.set_sources(sources)

    async def stop(self) -> None:
        """Stop all actors; for ``framewatch up``."""
        await self._reconciler.stop()

    @api.get("/healthz")
    async def healthz(self) -> dict[str, str]:
        """The process is alive."""
        return {"status": "ok"}

    @api.get("/readyz")
    async def readyz(self, response: Response) -> Readiness:
        """Everything is in place; 503 and the reasons otherwise."""
        reasons = [f"{name}: {reason}" for name, reason in self._reconciler.faults.items()]
        reasons += [f"{a.name}: {a.sink_fault}" for a in self._reconciler.aggregates.values() if a.sink_fault]
        if reasons:
            response.status_code = 503
        return Readiness(ready=not reasons, reasons=reasons)

    @api.get("/metrics")
    async def metrics(self) -> Response:
        """OpenMetrics text of all actors, told apart by the label ``actor``."""
        return Response(merge_expositions(await self._reconciler.metrics()), media_type=OPENMETRICS)

    @api.get("/v1/sources")
    async def list_sources(self) -> list[SourceView]:
        """All sources and how they are."""
        return [self._view(source) for source in self._config.sources]

    def _view(self, source: SourceConfig) -> SourceView:
        status = self._reconciler.sources.get(source.id, SourceStatus(source.id, "connecting"))
        attainment, analysed = None, 0
        for aggregate in self._reconciler.aggregates.values():
            if source.id in aggregate.tallies:
                attainment = aggregate.attainment.get(source.id)
                analysed = aggregate.tallies[source.id].frames
        return SourceView(
            id=source.id,
            uri=redact(source.uri),
            detector=self._config.detector_of(source),
            actor=self._reconciler.placement.get(source.id),
            state=status.state,
            reason=status.reason,
            frames=status.frames,
            decoded=status.decoded,
            decode=status.decode,
            decode_reason=status.decode_reason,
            asleep=status.asleep,
            analysed=analysed,
            reconnects=status.reconnects,
            slo_attainment=attainment,
        )
