"""What the API shows: pydantic models of answers, for the service and for its client."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel

from stream.access import Role
from stream.config import LineConfig, ZoneConfig
from stream.slo import SloReport

Origin = Literal["config", "api", "changed"]


class Readiness(BaseModel):
    """``ready`` once every actor answers and events reach their sinks."""

    ready: bool
    reasons: list[str]


class LatencyView(BaseModel):
    """From capture to acknowledgement, milliseconds; null without frames."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


def latency_view(latency_s: Sequence[float] | None) -> LatencyView:
    """Of seconds at the 50th, 95th and 99th percentile; NaN is null."""
    p50, p95, p99 = (None if math.isnan(s) else round(1000 * s, 1) for s in latency_s or (math.nan,) * 3)
    return LatencyView(p50=p50, p95=p95, p99=p99)


class StatusView(BaseModel):
    """How a source is.

    ``since``: of the state, POSIX seconds. Of ``frames``, ``decoded`` went through the codec and ``analysed`` through the
    detector; ``dropped`` counts the others by reason. ``measured_fps`` (analysed) and ``latency_ms`` are of the last ten
    seconds, ``slo_attainment`` of the SLO's window. ``decode`` tells how much is decoded (``full``, ``fast``, ``key``) and
    ``decode_reason`` why; ``asleep`` while the scene is still; ``tampered``: what is wrong with the view. ``occupancy``: objects
    now, by zone.
    """

    state: str
    reason: str = ""
    since: float | None = None
    measured_fps: float | None = None
    frames: int = 0
    decoded: int = 0
    analysed: int = 0
    dropped: dict[str, int] = {}
    decode: str = "full"
    decode_reason: str = ""
    asleep: bool = False
    tampered: str = ""
    reconnects: int = 0
    width: int | None = None
    height: int | None = None
    latency_ms: LatencyView = LatencyView()
    slo_attainment: float | None = None
    occupancy: dict[str, int] = {}


class SourceView(BaseModel):
    """A source: its settings, ``uri`` without the password, and how it is.

    ``decode_setting``, ``gate_setting`` and ``tamper_setting`` are ``decode``, ``gate`` and ``tamper`` of the config. ``origin``:
    of the config file, added over the API, or of the file and changed over the API. ``actor`` reads it.
    """

    id: str
    uri: str
    scheme: str
    detector: str
    fps: float | None
    realtime: bool
    loop: bool
    decode_setting: str
    gate_setting: str
    tamper_setting: str
    zones: list[ZoneConfig]
    lines: list[LineConfig]
    origin: Origin
    actor: str | None
    status: StatusView


class SizeView(BaseModel):
    """Of a detector's input, pixels."""

    width: int
    height: int


class DetectorView(BaseModel):
    """A configured detector; ``replicas`` is how many are at work, null where that is not known."""

    model: str
    model_id: str
    classes: list[str]
    input: SizeView
    replicas: int | None


class ObjectiveView(BaseModel):
    """The SLO of the config."""

    latency_ms: float
    objective: float
    window_s: float


class CallerView(BaseModel):
    """Who asked."""

    role: Role
    name: str


class ServiceView(BaseModel):
    """The service as a whole."""

    version: str
    started_at: float
    uptime_s: float
    slo: ObjectiveView
    detectors: dict[str, DetectorView]
    sources: int
    access: CallerView


class SloView(BaseModel):
    """How well the objective is held: share of good frames, latency, what is left of the error budget (1: all of it), and how
    many times faster than allowed it is used up, by window. Null without frames."""

    attainment: float | None
    latency_ms: LatencyView
    error_budget_remaining: float
    burn_rates: dict[str, float]
    breached: bool


def slo_view(report: SloReport) -> SloView:
    """Of a report."""
    return SloView(
        attainment=report.attainment,
        latency_ms=latency_view(list(report.latency_s.values())),
        error_budget_remaining=report.budget_remaining,
        burn_rates=report.burn_rates,
        breached=report.breached,
    )


class ServiceSloView(BaseModel):
    """The objective, and how well it is held by all sources together and by each."""

    objective: float
    latency_ms: float
    total: SloView
    sources: dict[str, SloView]
