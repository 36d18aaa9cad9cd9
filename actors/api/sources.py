"""Sources: what they are and how they are."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Response
from ray.exceptions import RayError

from actors.api.access import viewer
from actors.api.backend import Backend, TheBackend
from actors.api.etags import etag
from actors.api.problems import Problem
from stream.analyser import SourceTally
from stream.config import SourceConfig
from stream.redact import redact
from stream.views import SourceView, StatusView, latency_view
from stream.worker import SourceStatus

router = APIRouter(prefix="/v1/sources", tags=["sources"])


@router.get("", dependencies=[Depends(viewer)])
async def list_sources(backend: TheBackend) -> list[SourceView]:
    """All sources and how they are."""
    return [view_of(source, backend) for source in backend.config.sources]


@router.get("/{source_id}", dependencies=[Depends(viewer)])
async def read_source(source_id: str, backend: TheBackend, response: Response) -> SourceView:
    """One source."""
    source = source_named(source_id, backend)
    response.headers["ETag"] = etag(source)
    return view_of(source, backend)


def find_source(source_id: str, backend: Backend) -> SourceConfig | None:
    """The source of that id; None where there is none."""
    return next((source for source in backend.config.sources if source.id == source_id), None)


def source_named(source_id: str, backend: Backend) -> SourceConfig:
    """The source of that id.

    Raises:
        Problem: 404.
    """
    source = find_source(source_id, backend)
    if source is None:
        raise Problem(404, f"there is no source {source_id!r}")
    return source


async def from_aggregator(source_id: str, backend: Backend, method: str, *what: object) -> Any:
    """What the source's aggregator answers; None where it has none as yet.

    Raises:
        Problem: 503, it does not answer.
    """
    aggregator = backend.reconciler.shards.get(source_id)
    try:
        return await backend.reconciler.ask(aggregator, method, *what) if aggregator else None
    except (RayError, TimeoutError):
        raise Problem(503, f"{aggregator} does not answer at present", headers={"Retry-After": "2"}) from None


def view_of(source: SourceConfig, backend: Backend) -> SourceView:
    """A source as the API shows it."""
    return SourceView(
        id=source.id,
        uri=redact(source.uri),
        scheme=source.scheme,
        detector=backend.config.detector_of(source),
        fps=source.fps,
        realtime=source.realtime,
        loop=source.loop,
        decode_setting=source.decode,
        gate_setting=source.gate,
        tamper_setting=source.tamper,
        zones=source.zones,
        lines=source.lines,
        origin=backend.desired.origin(source.id),
        actor=backend.reconciler.placement.get(source.id),
        status=_status(source, backend),
    )


def _status(source: SourceConfig, backend: Backend) -> StatusView:
    status = backend.reconciler.sources.get(source.id, SourceStatus(source.id, "connecting"))
    attainment, latency_s, tally = None, None, SourceTally()
    for aggregate in backend.reconciler.aggregates.values():
        if source.id in aggregate.tallies:
            attainment, latency_s = aggregate.attainment.get(source.id), aggregate.latency_s.get(source.id)
            tally = aggregate.tallies[source.id]
    return StatusView(
        state=status.state,
        reason=status.reason,
        since=status.since_at or None,
        measured_fps=round(backend.record.history.fps(source.id), 2),
        frames=status.frames,
        decoded=status.decoded,
        analysed=tally.frames,
        dropped=dict(status.dropped) | ({"duplicate": tally.duplicates} if tally.duplicates else {}),
        decode=status.decode,
        decode_reason=status.decode_reason,
        asleep=status.asleep,
        tampered=status.tampered,
        reconnects=status.reconnects,
        width=status.width or None,
        height=status.height or None,
        latency_ms=latency_view(latency_s),
        slo_attainment=attainment,
        occupancy=dict(tally.occupancy),
    )
