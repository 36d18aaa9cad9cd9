"""What the terminal shows of a running service."""

from __future__ import annotations

import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from stream.client import Client, RequestRefused
from stream.errors import FramewatchError, Retryable
from stream.views import Readiness, ServiceSloView, ServiceView, SourceView

LOST = ("stale", "queue_full", "undecodable", "detector_error", "internal_error")
"""Reasons for which a frame is not analysed that are no choice of the config."""
STYLES = {
    "online": "green",
    "asleep": "green",
    "connecting": "yellow",
    "offline": "bold red",
    "tampered": "bold red",
    "failed": "bold red",
    "finished": "dim",
}
HEADER_LINES = 7


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A service at one moment; ``slo`` is None while no aggregator answers."""

    url: str
    at_s: float
    ready: Readiness
    service: ServiceView
    slo: ServiceSloView | None
    sources: list[SourceView]

    @classmethod
    def take(cls, client: Client) -> Self:
        """Ask for all of it.

        Raises:
            FramewatchError: it does not answer, or not to us.
        """
        service = client.service()
        try:
            slo = client.slo()
        except RequestRefused as error:
            if error.status != 503:
                raise
            slo = None
        return cls(client.url, time.monotonic(), client.ready(), service, slo, client.sources())

    def as_json(self) -> dict[str, Any]:
        """For other programs."""
        return {
            "ready": self.ready.model_dump(mode="json"),
            "service": self.service.model_dump(mode="json"),
            "slo": self.slo and self.slo.model_dump(mode="json"),
            "sources": [source.model_dump(mode="json") for source in self.sources],
        }


def overview(snapshot: Snapshot) -> RenderableType:
    """The service as a whole, in a few lines."""
    service, ready = snapshot.service, snapshot.ready
    about = f"{service.version} at {snapshot.url}, up {_span(service.uptime_s)}, as {service.access.name}"
    lines = [Text.assemble(("framewatch ", "bold"), about)]
    lines.append(Text("ready", "green") if ready.ready else Text("not ready", "bold red"))
    lines += [Text(f"  {reason}", "red") for reason in ready.reasons]
    states: dict[str, int] = {}
    for source in snapshot.sources:
        states[source.status.state] = states.get(source.status.state, 0) + 1
    told = ", ".join(f"{n} {state}" for state, n in sorted(states.items())) or "none"
    lines.append(Text(f"sources: {told}"))
    for name, detector in service.detectors.items():
        replicas = "?" if detector.replicas is None else detector.replicas
        lines.append(Text(f"detector {name}: {detector.model}, {replicas} replica{'s' * (replicas != 1)}"))
    if snapshot.slo is None:
        lines.append(Text("SLO: not known, no aggregator answers", "yellow"))
    else:
        slo, total = snapshot.slo, snapshot.slo.total
        held = f"SLO {100 * slo.objective:g} % in {slo.latency_ms:g} ms: {_share(total.attainment)}"
        held += f", p99 {_ms(total.latency_ms.p99)} ms"
        burn = ", ".join(f"{window} {rate:.1f}" for window, rate in total.burn_rates.items())
        style = "bold red" if total.breached else ""
        lines.append(Text(held, style))
        lines.append(Text(f"error budget left {100 * total.error_budget_remaining:.0f} %, burn rate {burn}", style))
    return Group(*lines)


def table_of(snapshot: Snapshot, before: Snapshot | None = None, rows: int | None = None) -> RenderableType:
    """The service and its sources, those in trouble first.

    Args:
        snapshot: now.
        before: what frames were lost since; without it, since the start.
        rows: how many sources there is room for.
    """
    table = Table(box=None, pad_edge=False, expand=True, header_style="bold")
    table.add_column("source", overflow="ellipsis", no_wrap=True, ratio=3, min_width=8)
    table.add_column("state", no_wrap=True)
    for title in ("fps", "p50", "p99 ms", "SLO %", "lost/s" if before else "lost"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("in zones", overflow="ellipsis", no_wrap=True, ratio=3, min_width=8)
    known = {source.id: source for source in before.sources} if before else {}
    span_s = max(0.001, snapshot.at_s - before.at_s) if before else 1.0
    ordered = sorted(snapshot.sources, key=lambda s: (s.status.state in ("online", "finished"), s.id))
    for source in ordered[:rows]:
        status = source.status
        lost = _lost(source) - (_lost(known[source.id]) if source.id in known else 0)
        state = status.state
        if state == "online":
            state = "tampered" if status.tampered else "asleep" if status.asleep else state
        late = status.slo_attainment is not None and status.slo_attainment < snapshot.service.slo.objective
        table.add_row(
            source.id,
            Text(state, STYLES.get(state, "")),
            f"{status.measured_fps or 0:.1f}",
            _ms(status.latency_ms.p50),
            _ms(status.latency_ms.p99),
            Text(_share(status.slo_attainment).removesuffix(" %"), "bold red" if late else ""),
            Text(f"{max(0, lost) / span_s:.1f}" if before else str(lost), "red" if lost > 0 else ""),
            " ".join(f"{zone} {n}" for zone, n in status.occupancy.items()) if state != "offline" else Text(status.reason, "red"),
        )
    parts: list[RenderableType] = [overview(snapshot), Text(), table]
    if rows is not None and len(ordered) > rows:
        parts.append(Text(f"and {len(ordered) - rows} more", "dim"))
    return Group(*parts)


def list_of(sources: Sequence[SourceView]) -> RenderableType:
    """Sources and what they are."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("source", "state", "origin", "fps", "uri"):
        table.add_column(title, overflow="fold", no_wrap=title != "uri")
    for source in sources:
        fps = "all" if source.fps is None else f"{source.fps:g}"
        state = Text(source.status.state, STYLES.get(source.status.state, ""))
        table.add_row(source.id, state, source.origin, fps, source.uri)
    return table


def follow(client: Client, console: Console, interval_s: float) -> None:
    """Show the table and keep it up to date until q or Ctrl-C. A service that is away for a while is waited for.

    Raises:
        FramewatchError: the service refuses the token.
    """
    before: Snapshot | None = None
    with _keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            try:
                snapshot = Snapshot.take(client)
                room = max(1, console.height - HEADER_LINES - len(snapshot.ready.reasons) - len(snapshot.service.detectors))
                live.update(table_of(snapshot, before, room), refresh=True)
                before = snapshot
            except FramewatchError as error:
                if not isinstance(error, Retryable) and not (isinstance(error, RequestRefused) and error.status >= 500):
                    raise
                live.update(Text(str(error), "red"), refresh=True)
            try:
                if any(key in ("q", "Q", "\x03") for key in keys(interval_s)):
                    return
            except KeyboardInterrupt:
                return


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Gives what reads the keys that are pressed within some seconds, without a line's end; ends early with the first."""
    if not sys.stdin.isatty():
        yield _nothing_pressed
        return
    settings = termios.tcgetattr(sys.stdin)

    def pressed(seconds: float) -> str:
        return sys.stdin.read(1) if select.select([sys.stdin], [], [], seconds)[0] else ""

    try:
        tty.setcbreak(sys.stdin)
        yield pressed
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, settings)


def _nothing_pressed(seconds: float) -> str:
    time.sleep(seconds)
    return ""


def _lost(source: SourceView) -> int:
    return sum(source.status.dropped.get(reason, 0) for reason in LOST)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _share(attainment: float | None) -> str:
    return "-" if attainment is None else f"{100 * attainment:.1f} %"


def _span(seconds: float) -> str:
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"
