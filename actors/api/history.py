"""What a source did over the last half hour or day."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from actors.api.access import viewer
from actors.api.backend import TheBackend
from actors.api.sources import source_named
from stream.history import COARSE_S, COARSE_STEPS, FINE_S, FINE_STEPS, Span

router = APIRouter(tags=["sources"])


@router.get("/v1/sources/{source_id}/history", dependencies=[Depends(viewer)])
async def history(
    source_id: str,
    backend: TheBackend,
    seconds: Annotated[int, Query(ge=10, le=round(COARSE_S * COARSE_STEPS))] = round(FINE_S * FINE_STEPS),
) -> Span:
    """The last ``seconds``: steps of 2 s up to half an hour, of a minute up to a day. A null is a step of which nothing is
    known. It begins anew when Control is restarted."""
    source_named(source_id, backend)
    return backend.record.history.span(source_id, seconds)
