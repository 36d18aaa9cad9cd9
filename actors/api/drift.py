"""Whether what is found in a source is what is usually found there."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from actors.api.access import viewer
from actors.api.backend import TheBackend
from actors.api.problems import Problem
from actors.api.sources import from_aggregator, source_named
from stream.drift import DriftReport

router = APIRouter(tags=["sources"])


@router.get("/v1/sources/{source_id}/drift", dependencies=[Depends(viewer)])
async def drift(source_id: str, backend: TheBackend) -> DriftReport:
    """Confidence, height and class of its tracks, and objects in a frame: histograms of the last days and of what is usual, and
    how far they are apart (``psi``: above 0.1 it is worth a look; null until it is judged)."""
    source_named(source_id, backend)
    report: DriftReport | None = await from_aggregator(source_id, backend, "drift", source_id)
    if report is None:
        raise Problem(503, f"no aggregator has source {source_id!r} as yet", headers={"Retry-After": "2"})
    return report
