"""The service as a whole: probes, metrics, what it is made of."""

from __future__ import annotations

import time
from importlib.metadata import version

from fastapi import APIRouter, Request, Response

from actors.api.access import Viewer, viewer
from actors.api.backend import TheBackend
from actors.api.views import CallerView, DetectorView, ObjectiveView, Readiness, ServiceView, SizeView
from stream.metrics import merge_expositions

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
    reasons = [f"{name}: {reason}" for name, reason in reconciler.faults.items()]
    reasons += [f"{a.name}: {a.sink_fault}" for a in reconciler.aggregates.values() if a.sink_fault]
    if reasons:
        response.status_code = 503
    return Readiness(ready=not reasons, reasons=reasons)


@router.get("/metrics", response_class=Response, responses={200: {"content": {OPENMETRICS: {}}}})
async def metrics(request: Request, backend: TheBackend) -> Response:
    """OpenMetrics text of all actors, told apart by the label ``actor``."""
    if not backend.config.service.access.open_metrics:
        viewer(request, backend)
    return Response(merge_expositions(await backend.reconciler.metrics()), media_type=OPENMETRICS)


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
