"""Alerts: what was raised, who has taken notice of it, and its evidence."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from actors.alert_log import MAX_PAGE, LoggedAlert
from actors.api.access import Operator, viewer
from actors.api.backend import Backend, TheBackend
from actors.api.problems import Problem
from stream.errors import EvidenceError, EvidenceMissing, Fault
from stream.events import AlertType, Severity, Timestamp
from stream.evidence.address import CONTENT_TYPE
from stream.evidence.settings import EvidenceConfig
from stream.evidence.store import open_evidence
from stream.redact import reason

MAX_EVIDENCE_BYTES = 64 * 2**20
STORE_S = 20.0  # a clip of 64 MiB over 30 Mbit/s

router = APIRouter(prefix="/v1/alerts", tags=["alerts"])


class EvidenceView(BaseModel):
    """Whether there is, or will be, a picture and a clip, and where they are kept."""

    picture: str | None = None
    clip: str | None = None


class AcknowledgementView(BaseModel):
    """Who has taken notice, when, and what they said."""

    by: str
    at: Timestamp
    note: str


class AlertView(BaseModel):
    """An alert as it stands; ``at`` is the time of its last event, ``value`` that event's."""

    alert_id: str
    rule: str
    type: AlertType
    state: Literal["raised", "cleared"]
    severity: Severity
    source_id: str
    zone: str | None
    line: str | None
    value: float
    threshold: float
    raised_at: Timestamp
    at: Timestamp
    cleared_at: Timestamp | None
    track_ids: list[int] | None
    evidence: EvidenceView | None
    acknowledged: AcknowledgementView | None


class AlertPage(BaseModel):
    """Alerts, the newest first; ``next`` as ``before`` gives those that follow, null at the end."""

    items: list[AlertView]
    next: str | None


class Acknowledge(BaseModel):
    """What to note."""

    model_config = ConfigDict(extra="forbid")

    note: str = Field("", max_length=1000)


@router.get("", dependencies=[Depends(viewer)])
async def list_alerts(
    backend: TheBackend,
    state: Literal["active", "all"] = "all",
    rule: str | None = None,
    source: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
    before: Annotated[str, Query(max_length=100)] = "",
) -> AlertPage:
    """Alerts of the last 90 days, 10,000 at most."""
    wanted = {"active": state == "active", "rule": rule, "source_id": source, "limit": limit, "before": before}
    try:
        alerts, following = await asyncio.to_thread(backend.record.alerts.page, **wanted)  # type: ignore[arg-type]
    except ValueError as error:
        raise Problem(422, "the request is not valid", [Fault("before", str(error))]) from None
    return AlertPage(items=[_view(alert) for alert in alerts], next=following)


@router.get("/{alert_id}", dependencies=[Depends(viewer)])
async def read_alert(alert_id: str, backend: TheBackend) -> AlertView:
    """One alert."""
    return _view(await _alert(alert_id, backend))


@router.post("/{alert_id}/acknowledge")
async def acknowledge(alert_id: str, caller: Operator, backend: TheBackend, body: Acknowledge | None = None) -> AlertView:
    """Take notice of an alert. Whoever was first stays; the alert goes on as it is."""
    note = body.note if body else ""
    alert = await asyncio.to_thread(backend.record.alerts.acknowledge, alert_id, caller.name, note)
    if alert is None:
        raise _unknown(alert_id)
    return _view(alert)


@router.get("/{alert_id}/picture", dependencies=[Depends(viewer)], response_class=Response)
async def picture(alert_id: str, backend: TheBackend) -> Response:
    """The picture of the moment, as JPEG; 404 where there is none, or not yet, or not any more."""
    return await _evidence(alert_id, "picture", backend)


@router.get("/{alert_id}/clip", dependencies=[Depends(viewer)], response_class=Response)
async def clip(alert_id: str, backend: TheBackend) -> Response:
    """The video around the moment, as MP4; 404 as of the picture."""
    return await _evidence(alert_id, "clip", backend)


async def _alert(alert_id: str, backend: Backend) -> LoggedAlert:
    alert = await asyncio.to_thread(backend.record.alerts.get, alert_id)
    if alert is None:
        raise _unknown(alert_id)
    return alert


def _unknown(alert_id: str) -> Problem:
    return Problem(404, f"there is no alert {alert_id!r}, or it is too old to be in the log")


async def _evidence(alert_id: str, kind: Literal["picture", "clip"], backend: Backend) -> Response:
    alert = await _alert(alert_id, backend)
    url = (alert.evidence or {}).get(kind)
    if not url:
        raise Problem(404, f"the rule {alert.event.rule!r} asked for no {kind}")
    try:
        data = await backend.store.call(_read, backend.config.evidence, url, timeout_s=STORE_S)
    except TimeoutError:
        raise Problem(503, f"the store of evidence did not answer within {STORE_S:g} s", headers={"Retry-After": "5"}) from None
    if data is None:
        raise Problem(404, f"the {kind} is not there yet, or it has expired")
    return Response(data, media_type=CONTENT_TYPE[kind], headers={"Cache-Control": "private, max-age=3600"})


def _read(config: EvidenceConfig | None, url: str) -> bytes | None:
    """The file, or None where it is not there, or not in the place that the config names now.

    Raises:
        Problem: it is too large, or its store cannot be reached.
    """
    if config is None:
        return None
    try:
        with open_evidence(config, url) as file:
            data = file.read(MAX_EVIDENCE_BYTES + 1)
    except EvidenceMissing:
        return None
    except (EvidenceError, OSError) as error:
        raise Problem(503, f"the store of evidence cannot be read: {reason(error)}") from None
    if len(data) > MAX_EVIDENCE_BYTES:
        raise Problem(413, f"it has more than {MAX_EVIDENCE_BYTES} bytes; take it from its store")
    return data


def _view(alert: LoggedAlert) -> AlertView:
    event, acknowledged = alert.event, alert.acknowledged
    cleared_at: datetime | None = alert.cleared_at
    return AlertView(
        **event.model_dump(include=AlertView.model_fields.keys() - {"state", "evidence"}),
        state="raised" if cleared_at is None else "cleared",
        cleared_at=cleared_at,
        evidence=EvidenceView.model_validate(alert.evidence) if alert.evidence else None,
        acknowledged=AcknowledgementView(by=acknowledged.by, at=acknowledged.at, note=acknowledged.note) if acknowledged else None,
    )
