"""The service as a whole: probes, metrics, what it is made of."""

from __future__ import annotations

import asyncio
import time
from importlib.metadata import version

from fastapi import APIRouter, Depends, Request, Response

from actors.api.access import Viewer, caller_of, viewer
from actors.api.backend import TheBackend
from actors.api.problems import Problem
from stream.metrics import merge_expositions
from stream.slo import SERVICE, SloCounts
from stream.views import (
    CallerView,
    DetectorView,
    ObjectiveView,
    Readiness,
    ServiceSloView,
    ServiceView,
    SizeView,
    slo_view,
)

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
router = APIRouter(tags=["service"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process is alive."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"model": Readiness}})
async def readyz(response: Response, backend: TheBackend) -> Readiness:
    """Everything is in place; 503 and the reasons otherwise."""
    reconciler = backend.reconciler
    reasons = [f"{name}: {reason}" for name, reason in (reconciler.faults | reconciler.silent()).items()]
    reasons += [f"{a.name}: {a.sink_fault}" for a in reconciler.aggregates.values() if a.sink_fault]
    replicas = reconciler.overview.replicas
    reasons += [f"detector {name}: no replica is at work" for name in backend.config.detectors if replicas.get(name) == 0]
    if reasons:
        response.status_code = 503
    return Readiness(ready=not reasons, reasons=reasons)


@router.get("/metrics", response_class=Response, responses={200: {"content": {OPENMETRICS: {}}}})
async def metrics(request: Request, backend: TheBackend) -> Response:
    """OpenMetrics text of all actors, told apart by the label ``actor``."""
    if not backend.config.service.access.open_metrics:
        caller_of(request, backend)
    return Response(merge_expositions(await backend.reconciler.metrics()), media_type=OPENMETRICS)


@router.get("/v1/slo", dependencies=[Depends(viewer)])
async def slo(backend: TheBackend) -> ServiceSloView:
    """How well the objective is held, in all and by source, over the SLO's window."""
    config, reconciler = backend.config.slo, backend.reconciler
    answers = await asyncio.gather(*(reconciler.ask(name, "slo_counts") for name in reconciler.aggregates), return_exceptions=True)
    counts: dict[str, SloCounts] = {}
    for answer in answers:
        if isinstance(answer, dict):
            for source_id, of_source in answer.items():
                counts[source_id] = counts[source_id] + of_source if source_id in counts else of_source
    if SERVICE not in counts:
        raise Problem(503, "no aggregator answers at present", headers={"Retry-After": "2"})
    views = {source_id: slo_view(of_source.report(config.objective)) for source_id, of_source in counts.items()}
    return ServiceSloView(
        objective=config.objective,
        latency_ms=config.latency_ms,
        total=views[SERVICE],
        sources={source.id: views[source.id] for source in backend.config.sources if source.id in views},
    )


@router.get("/v1/service")
async def service(caller: Viewer, backend: TheBackend) -> ServiceView:
    """What runs, since when, and who asks."""
    config = backend.config
    return ServiceView(
        version=version("framewatch"),
        started_at=backend.started_at,
        uptime_s=time.time() - backend.started_at,
        slo=ObjectiveView(**config.slo.model_dump()),
        detectors={
            name: DetectorView(
                model=config.detectors[name].model_name or config.detectors[name].model.rpartition("/")[2],
                model_id=model.model_id,
                classes=list(model.classes),
                input=SizeView(width=model.input.width, height=model.input.height),
                replicas=backend.reconciler.overview.replicas.get(name),
            )
            for name, model in backend.models.items()
        },
        sources=len(config.sources),
        access=CallerView(role=caller.role, name=caller.name),
    )
