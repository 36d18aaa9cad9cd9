"""Whether what is found in a source is what is usually found there."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from ray.exceptions import RayError

from actors.api.access import viewer
from actors.api.backend import TheBackend
from actors.api.problems import Problem
from actors.api.sources import source_named
from stream.drift import DriftReport

router = APIRouter(tags=["sources"])


@router.get("/v1/sources/{source_id}/drift", dependencies=[Depends(viewer)])
async def drift(source_id: str, backend: TheBackend) -> DriftReport:
    """Confidence, height and class of its tracks, and objects in a frame: histograms of the last days and of what is usual, and
    how far they are apart (``psi``: above 0.1 it is worth a look; null until it is judged)."""
    source_named(source_id, backend)
    aggregator = backend.reconciler.shards.get(source_id, "its aggregator")
    try:
        report: DriftReport | None = await backend.reconciler.ask(aggregator, "drift", source_id)
    except (RayError, TimeoutError):
        report = None
    if report is None:
        raise Problem(503, f"{aggregator} does not answer for it at present", headers={"Retry-After": "2"})
    return report
