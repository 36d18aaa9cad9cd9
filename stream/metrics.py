"""Metrics of one process in Prometheus' terms, and joining those of several.

Each :class:`Metrics` has a registry of its own. Labels are ids and names of the config and fixed words, so the number of
series is bounded by the config: histograms of stages are kept by detector, only the end-to-end latency by source.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.openmetrics.exposition import generate_latest

from stream.config import SloConfig
from stream.events import TOPICS, Event
from stream.slo import SERVICE, SloTracker

STAGE_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
LATENCY_BUCKETS_S = (0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.0, 5.0, 15.0, 60.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """What one process counts. Safe for any threads; a call costs about a microsecond.

    Attributes:
        registry: holds the families, for other ways to publish them.

    Args:
        latency_s: the SLO's; the histogram of latencies has a bound there, so that what is within it can be told exactly.
    """

    def __init__(self, latency_s: float = SloConfig().latency_ms / 1000) -> None:
        latency_buckets_s = tuple(sorted({*LATENCY_BUCKETS_S, latency_s}))
        self.registry = registry = CollectorRegistry()
        self._children: dict[tuple[str, tuple[str, ...]], Any] = {}
        self._sink_dropped: dict[str, int] = {}
        self._dropped: dict[str, dict[str, int]] = {}
        self._families: dict[str, Counter | Gauge | Histogram] = {}

        def counter(name: str, text: str, *labels: str) -> None:
            self._families[name] = Counter(f"framewatch_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> None:
            self._families[name] = Gauge(f"framewatch_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> None:
            self._families[name] = Histogram(f"framewatch_{name}", text, labels, registry=registry, buckets=buckets)

        counter("frames", "Frames by what became of them; dropped ones by reason.", "source", "outcome", "reason")
        counter("frames_removed", "Frames dropped behind the detector because their source had been removed.")
        histogram("stage_seconds", "Time of an analysed frame in one stage.", STAGE_BUCKETS_S, "detector", "stage")
        histogram("end_to_end_seconds", "From capture to acknowledgement of the tracks event.", latency_buckets_s, "source")
        histogram("batch_size", "Frames per batch.", BATCH_BUCKETS, "detector")
        counter("batches_sent", "Batches sent to a detector replica, by where their images travelled.", "detector", "way")
        gauge("queue_depth", "Entries waiting in a queue.", "queue")
        gauge("slo_attainment_ratio", "Share of analysed frames within the latency objective; source * is all.", "source")
        gauge("slo_burn_rate", "How many times faster than allowed the error budget is used up.", "window")
        gauge("slo_budget_remaining_ratio", "Error budget left over the longest window; below 0 when overspent.")
        gauge("source_up", "1 while frames arrive from the source.", "source")
        gauge("source_decode", "1 at the mode in which the source is decoded at present.", "source", "mode")
        gauge("source_asleep", "1 while the source's gate is closed: its scene is still.", "source")
        counter("reconnects", "Attempts to reach a lost source again.", "source")
        counter("cpu_seconds", "CPU seconds by stage.", "stage")
        counter("events", "Events handed to the sinks.", "topic")
        counter("events_dropped", "Events given up by the sinks.", "topic")
        gauge("sink_pending", "Events that have not reached their destination, spooled ones included.")
        gauge("alerts_active", "Alerts raised and not cleared.", "rule")

    def frames(self, source_id: str, outcome: Literal["analysed", "dropped"], reason: str = "", n: int = 1) -> None:
        """Count ``n`` frames; dropped ones with the reason (``sampled``, ``key_frames_only``, ``gated``, ``stale``,
        ``queue_full``, ``undecodable``, ``detector_error``, ...)."""
        self._counter("frames", source_id, outcome, reason).inc(n)
        if outcome == "dropped":
            dropped = self._dropped.setdefault(source_id, {})
            dropped[reason] = dropped.get(reason, 0) + n

    def dropped(self, source_id: str) -> dict[str, int]:
        """Frames of the source that were not analysed so far, by reason."""
        return self._dropped.get(source_id, {}).copy()

    def removed(self) -> None:
        """Count a frame whose source was removed while it was on its way."""
        self._counter("frames_removed").inc()

    def analysed(self, source_id: str, detector: str, stages_ms: Mapping[str, float]) -> None:
        """Count an analysed frame and the milliseconds that it spent in each stage."""
        self.frames(source_id, "analysed")
        for stage, milliseconds in stages_ms.items():
            self._histogram("stage_seconds", detector, stage).observe(max(milliseconds, 0.0) / 1000)

    def end_to_end(self, source_id: str, latency_s: float) -> None:
        """A tracks event was acknowledged ``latency_s`` after its frame's capture."""
        self._histogram("end_to_end_seconds", source_id).observe(max(latency_s, 0.0))

    def batch(self, detector: str, frames: int) -> None:
        """A batch went to the detector."""
        self._histogram("batch_size", detector).observe(frames)

    def batch_sent(self, detector: str, way: Literal["ring", "object_store"]) -> None:
        """A batch went to a replica, a repeated one too: through shared memory or through Ray's object store."""
        self._counter("batches_sent", detector, way).inc()

    def cpu(self, used_s: Mapping[str, float]) -> None:
        """CPU seconds of threads of this process, by stage: ``decode``, ``scale``, ``track`` (with count and alert), ``emit``."""
        for stage, seconds in used_s.items():
            self._counter("cpu_seconds", stage).inc(max(seconds, 0.0))

    def queue_depth(self, queue: str, entries: int) -> None:
        """How much waits in a queue now."""
        self._gauge("queue_depth", queue).set(entries)

    def slo(self, tracker: SloTracker) -> None:
        """Take over the tracker's figures; sources without frames in its window have none."""
        attainments = tracker.attainments()
        for name, labels in list(self._children):
            if name == "slo_attainment_ratio" and labels[0] not in attainments:
                self._drop(name, labels)
        for source_id, ratio in attainments.items():
            self._gauge("slo_attainment_ratio", source_id).set(ratio)
        report = tracker.report(SERVICE)
        for window, rate in report.burn_rates.items():
            self._gauge("slo_burn_rate", window).set(rate)
        self._gauge("slo_budget_remaining_ratio").set(report.budget_remaining)

    def source_up(self, source_id: str, up: bool) -> None:
        """A source came online or went offline."""
        self._gauge("source_up", source_id).set(up)

    def decode(self, source_id: str, mode: str) -> None:
        """A source is decoded in this mode from now on."""
        for name, labels in list(self._children):
            if name == "source_decode" and labels[0] == source_id:
                self._gauge(name, *labels).set(0)
        self._gauge("source_decode", source_id, mode).set(1)

    def source_asleep(self, source_id: str, asleep: bool) -> None:
        """A source's gate closed or opened."""
        self._gauge("source_asleep", source_id).set(asleep)

    def reconnect(self, source_id: str) -> None:
        """A lost source is tried again."""
        self._counter("reconnects", source_id).inc()

    def event(self, event: Event) -> None:
        """An event was handed to the sinks."""
        self._counter("events", TOPICS[type(event)]).inc()

    def sink(self, pending: int, dropped: Mapping[str, int]) -> None:
        """The sinks' state; ``dropped`` counts by topic since the start of the process. Called from one thread."""
        self._gauge("sink_pending").set(pending)
        for topic, total in dropped.items():
            self._counter("events_dropped", topic).inc(max(0, total - self._sink_dropped.get(topic, 0)))
            self._sink_dropped[topic] = total

    def alerts(self, active: Mapping[str, int]) -> None:
        """How many alerts are raised at present, by rule; a rule that is not named has none."""
        for name, labels in list(self._children):
            if name == "alerts_active" and labels[0] not in active:
                self._gauge(name, *labels).set(0)
        for rule, count in active.items():
            self._gauge("alerts_active", rule).set(count)

    def remove_source(self, source_id: str) -> None:
        """Take the source's series away. A later call about it would begin them anew, so call this last."""
        self._dropped.pop(source_id, None)
        for name, labels in list(self._children):
            if labels and labels[0] == source_id and name in _BY_SOURCE:
                self._drop(name, labels)

    def expose(self) -> bytes:
        """All families as OpenMetrics text."""
        return cast(bytes, generate_latest(self.registry))  # type: ignore[no-untyped-call] # its module has no annotations

    def _child(self, name: str, labels: tuple[str, ...]) -> Any:
        """The series; looked up once, as ``labels()`` costs more than counting."""
        child = self._children.get((name, labels))
        if child is None:
            family = self._families[name]
            child = self._children[name, labels] = family.labels(*labels) if labels else family
        return child

    def _counter(self, name: str, *labels: str) -> Counter:
        return cast(Counter, self._child(name, labels))

    def _gauge(self, name: str, *labels: str) -> Gauge:
        return cast(Gauge, self._child(name, labels))

    def _histogram(self, name: str, *labels: str) -> Histogram:
        return cast(Histogram, self._child(name, labels))

    def _drop(self, name: str, labels: tuple[str, ...]) -> None:
        if self._children.pop((name, labels), None) is not None:
            self._families[name].remove(*labels)


_BY_SOURCE = frozenset(
    {"frames", "end_to_end_seconds", "slo_attainment_ratio", "source_up", "source_decode", "source_asleep", "reconnects"}
)


def merge_expositions(parts: Mapping[str, bytes]) -> bytes:
    """One OpenMetrics text out of those of several processes; every series gets the label ``actor``.

    Works on the lines that ``expose`` writes (which carry no such label), without parsing their values: that is 50
    times faster than prometheus_client's parser, and a scrape must not hold up an event loop.

    Args:
        parts: OpenMetrics text by name of the actor.

    Raises:
        ValueError: a part is not OpenMetrics, was cut short, or disagrees with another on a family's type.
    """
    headers: dict[str, dict[str, str]] = {}
    samples: dict[str, list[str]] = {}
    for actor, text in parts.items():
        body, end, _ = text.decode().rpartition("# EOF\n")
        if not end:
            raise ValueError(f"the exposition of {actor!r} was cut short")
        escaped = actor.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
        family = ""
        for line in body.split("\n")[:-1]:
            if line.startswith("# "):
                _, keyword, family, *_ = line.split(" ", 3)
                known = headers.setdefault(family, {}).setdefault(keyword, line)
                if keyword == "TYPE" and known != line:
                    raise ValueError(f"{actor!r} says {line!r}, another process {known!r}")
                samples.setdefault(family, [])
                continue
            name, _, rest = line.partition("{")
            if " " in name:
                name, _, rest = line.partition(" ")
                rest = "} " + rest
            else:
                rest = "," + rest
            if not family or not name.startswith(family):
                raise ValueError(f"{actor!r} has a line that belongs to no family: {line!r}")
            samples[family].append(f'{name}{{actor="{escaped}"{rest}')
    lines = [line for family in headers for line in (*headers[family].values(), *samples[family])]
    return "\n".join([*lines, "# EOF\n"]).encode()
