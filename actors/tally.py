"""Tally: what a consumer of the topics has seen of simulated cameras, held against what really happened."""

from __future__ import annotations

import math
import threading
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rich.table import Table

from stream.config import PipelineConfig, Topics
from stream.errors import DatasetError
from stream.evaluation.counts import CountsReport, evaluate_counts
from stream.events import AlertEvent, CountsEvent, HealthEvent, TracksEvent
from stream.slo import SloTracker

SETTLE = timedelta(seconds=3)
"""The first windows of a camera are not held against the truth: its people must be seen a few times before they count."""
OCCUPANCY_PERCENT = 10.0
CROSSINGS_PERCENT = 15.0
"""The promised error: that of every second's occupancy, and that of the crossings of every line and direction."""
FEW_CROSSINGS = 4
"""So many crossings may be missed or made up, whatever share of a short run's that is."""


PLAIN_S = 3  # windows: a crowd that lasts so long with a person to spare cannot be overlooked


@dataclass(frozen=True)
class Score:
    """Counts against truth, over all windows that both sides have.

    Attributes:
        occupancy_percent: sum of the absolute errors by the sum of true occupancies; nan where nothing could be compared.
        crossings: true and counted.
        crossings_wrong: absolute errors of every line and direction, summed.
        unscored: cameras of which no window could be compared.
    """

    occupancy_percent: float
    crossings: tuple[int, int]
    crossings_wrong: int
    unscored: tuple[str, ...]

    @property
    def kept(self) -> bool:
        """Whether the promise is kept."""
        allowed = max(FEW_CROSSINGS, CROSSINGS_PERCENT / 100 * self.crossings[0])
        return not self.unscored and self.occupancy_percent <= OCCUPANCY_PERCENT and self.crossings_wrong <= allowed


class Tally:
    """Thread-safe: one thread adds records while others look. It keeps every counts event, so it is for short runs.

    Args:
        config: of the service.
        truth: true counts by source id, in order of time.
    """

    def __init__(self, config: PipelineConfig, truth: Mapping[str, Sequence[CountsEvent]]):
        self.frames: Counter[str] = Counter()
        self.alerts: Counter[str] = Counter()
        self._config, self._truth = config, truth
        self._people = {
            (event.key, event.window_start): event.occupancy.mean for e in truth.values() for event in e if event.occupancy
        }
        self._counts: dict[str, list[CountsEvent]] = defaultdict(list)
        self._slo = SloTracker(config.slo)
        self._lock = threading.Lock()

    def add(self, topic: str, value: bytes, broker_time_s: float) -> str | None:
        """Take one record; returns a line worth printing, if it is one."""
        topics = Topics()
        with self._lock:
            if topic == topics.tracks:
                tracks = TracksEvent.model_validate_json(value)
                self.frames[tracks.source_id] += 1
                self._slo.record(tracks.source_id, max(0.0, broker_time_s - tracks.captured_at.timestamp()))
            elif topic == topics.counts:
                counts = CountsEvent.model_validate_json(value)
                self._counts[counts.source_id].append(counts)
            elif topic == topics.alerts:
                return self._alert(AlertEvent.model_validate_json(value))
            elif topic == topics.health:
                health = HealthEvent.model_validate_json(value)
                return f"{health.source_id}: {health.state} ({health.reason})"
        return None

    def score(self, source_ids: Sequence[str]) -> Score:
        """How good the counts of these cameras are so far."""
        with self._lock:
            return _score({source_id: self._report(source_id) for source_id in source_ids})

    def true_crowd(self, zone: str, above: int, clear_below: int) -> tuple[bool, bool]:
        """Whether there really was a crowd in a zone (``SOURCE/ZONE``) while its camera was analysed, and whether it dissolved:
        for ``PLAIN_S`` one more than the alert needs, then for as long one fewer."""
        with self._lock:
            seen = sorted(event.window_start for event in self._counts[zone.split("/")[0]])
        people = [self._people.get((zone, start), 0.0) for start in dict.fromkeys(seen)]
        raised, run = False, 0
        for n in people:
            run = run + 1 if (n <= clear_below - 1 if raised else n >= above + 1) else 0
            if run == PLAIN_S:
                if raised:
                    return True, True
                raised, run = True, 0
        return raised, False

    def table(self) -> Table:
        """The state so far, a row for each camera and one for all."""
        table = Table(title="framewatch demo: read back from Kafka, held against the truth")
        table.add_column("camera")
        for column in (
            "analysed",
            "inside: counted",
            "true",
            "error",
            "crossed: counted",
            "true",
            "p50 ms",
            "p99 ms",
            "within SLO",
        ):
            table.add_column(column, justify="right")
        ids = [source.id for source in self._config.sources]
        with self._lock:
            reports = {source_id: self._report(source_id) for source_id in ids}
            for source_id in ids:
                row = self._row({source_id: reports[source_id]}, source_id)
                table.add_row(source_id, *row, end_section=source_id == ids[-1])
            table.add_row("all", *self._row(reports, "*"))
        return table

    def _row(self, reports: Mapping[str, CountsReport | None], slo_of: str) -> list[str]:
        score, slo = _score(reports), self._slo.report(slo_of)
        counted, true = map(sum, zip(*(self._inside(source_id) for source_id in reports), strict=True))
        return [
            str(sum(self.frames[source_id] for source_id in reports)),
            f"{counted:.0f}",
            f"{true:.0f}",
            "-" if math.isnan(score.occupancy_percent) else f"{score.occupancy_percent:.1f} %",
            str(score.crossings[1]),
            str(score.crossings[0]),
            f"{1e3 * slo.latency_s['p50']:.0f}",
            f"{1e3 * slo.latency_s['p99']:.0f}",
            f"{slo.attainment:.1%}" if slo.attainment is not None else "-",
        ]

    def _alert(self, alert: AlertEvent) -> str | None:
        if alert.state == "updated":
            return None
        self.alerts[alert.state] += 1
        people = self._people.get((f"{alert.source_id}/{alert.zone}", _whole_second(alert.at)))
        truth = "" if people is None else f", {people:.0f} in truth"
        return f"ALERT {alert.state}: {alert.rule} at {alert.source_id}/{alert.zone} ({alert.value:g} counted{truth})"

    def _inside(self, source_id: str) -> tuple[float, float]:
        """People in all zones of a camera in its last window, counted and true."""
        last: dict[str, CountsEvent] = {event.key: event for event in self._counts[source_id] if event.occupancy}
        counted = sum(event.occupancy.mean for event in last.values() if event.occupancy)
        return counted, sum(self._people.get((key, event.window_start), 0.0) for key, event in last.items())

    def _report(self, source_id: str) -> CountsReport | None:
        """Truth and counts, without the first windows and without the last one, which the end may have cut short."""
        counts = self._counts[source_id]
        if not counts:
            return None
        first, last = min(event.window_start for event in counts), max(event.window_start for event in counts)
        settled = [event for event in counts if first + SETTLE <= event.window_start < last]
        try:
            return evaluate_counts(self._truth[source_id], settled) if settled else None
        except DatasetError:  # no window of these is in the truth
            return None


def _score(reports: Mapping[str, CountsReport | None]) -> Score:
    known = [report for report in reports.values() if report is not None]
    zones = [zone for report in known for zone in report.zones]
    lines = [line for report in known for line in report.lines]
    people = sum(float(zone.truth.sum()) for zone in zones)
    wrong = sum(float(abs(zone.result - zone.truth).sum()) for zone in zones)
    return Score(
        100 * wrong / people if people else math.nan,
        (sum(line.truth for line in lines), sum(line.result for line in lines)),
        sum(abs(line.result - line.truth) for line in lines),
        tuple(source_id for source_id, report in reports.items() if report is None),
    )


def _whole_second(t: datetime) -> datetime:
    return t.replace(microsecond=0)
