"""Metrics of one process in Prometheus' terms, and joining those of several.

Each :class:`Metrics` has a registry of its own; ``families`` lists what there is. A family appears with its first value, so
that no process tells a zero of what it does not have.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Mapping
from typing import Any, Literal, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, disable_created_metrics
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.process_collector import ProcessCollector

from stream.config import SloConfig
from stream.drift import FEATURES
from stream.events import TOPICS, Event
from stream.families import BY_NAME, PREFIX
from stream.redact import redact
from stream.slo import SERVICE, SloTracker
from stream.telemetry import MetricsConfig

ALL = ""
"""Label of the sources without series of their own: to Prometheus, an empty label is none."""
SHED = ("stale", "queue_full", "detector_error")
"""Reasons to drop a frame because the service does not keep up; told as 0 from a source's start, so that rates begin there."""


class Metrics:
    """What one process counts. Safe for any threads; a call costs about a microsecond.

    Attributes:
        registry: holds the families, for other ways to publish them.

    Args:
        latency_s: the SLO's; the histogram of latencies has a bound there, so that what is within it can be told exactly.
        config: which sources get series of their own.
    """

    def __init__(self, latency_s: float = SloConfig().latency_ms / 1000, config: MetricsConfig | None = None) -> None:
        config = config or MetricsConfig()
        disable_created_metrics()  # type: ignore[no-untyped-call] # a series more for each counter, which nobody asks for
        self.registry = CollectorRegistry()
        ProcessCollector(namespace=PREFIX.rstrip("_"), registry=self.registry)
        self._latency_s = latency_s
        self._max_sources = config.max_sources if config.source_labels else 0
        self._sources: set[str] = set()  # with series of their own
        self._children: dict[tuple[str, tuple[str, ...]], Any] = {}
        self._families: dict[str, Counter | Gauge | Histogram | Info] = {}
        self._sink_dropped: dict[str, int] = {}
        self._dropped: dict[str, dict[str, int]] = {}
        self._lock = threading.Lock()

    def source_begins(self, source_id: str) -> None:
        """A source is about to be read: what may happen to it is told from now on, as 0 at first."""
        self._counter("reconnects", self._of(source_id))
        for reason in SHED:
            self._counter("frames", self._of(source_id), "dropped", reason)

    def frames(self, source_id: str, outcome: Literal["analysed", "dropped"], reason: str = "", n: int = 1) -> None:
        """Count ``n`` frames; dropped ones with the reason (``sampled``, ``key_frames_only``, ``gated``, ``stale``,
        ``queue_full``, ``undecodable``, ``detector_error``, ...)."""
        self._counter("frames", self._of(source_id), outcome, reason).inc(n)
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

    def end_to_end(self, source_id: str, latency_s: float, trace_id: str = "") -> None:
        """A tracks event was acknowledged ``latency_s`` after its frame's capture; ``trace_id`` of one that is traced."""
        self._histogram("end_to_end_seconds", self._of(source_id)).observe(
            max(latency_s, 0.0), {"trace_id": trace_id} if trace_id else None
        )

    def judged(self, source_id: str, in_time: bool) -> None:
        """A frame was held against the objective."""
        late = self._counter("slo_frames_late", self._of(source_id))
        self._counter("slo_frames", self._of(source_id)).inc()
        if not in_time:
            late.inc()

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
            if source_id == SERVICE or self._of(source_id):
                self._gauge("slo_attainment_ratio", source_id).set(ratio)
        report = tracker.report(SERVICE)
        for window, rate in report.burn_rates.items():
            self._gauge("slo_burn_rate", window).set(rate)
        self._gauge("slo_budget_remaining_ratio").set(report.budget_remaining)
        for percentile, latency_s in report.latency_s.items():
            if math.isnan(latency_s):
                self._drop("slo_latency_seconds", (percentile,))
            else:
                self._gauge("slo_latency_seconds", percentile).set(latency_s)

    def source_up(self, source_id: str, up: bool) -> None:
        """A source came online or went offline."""
        if self._of(source_id):
            self._gauge("source_up", source_id).set(up)

    def decode(self, source_id: str, mode: str) -> None:
        """A source is decoded in this mode from now on."""
        for name, labels in list(self._children):
            if name == "source_decode" and labels[0] == source_id:
                self._gauge(name, *labels).set(0)
        if self._of(source_id):
            self._gauge("source_decode", source_id, mode).set(1)

    def decode_allowance(self, share: float) -> None:
        """So much of the GOPs may be decoded beyond their key frames; see ``allowance``."""
        self._gauge("decode_allowance_ratio").set(share)

    def source_asleep(self, source_id: str, asleep: bool) -> None:
        """A source's gate closed or opened."""
        if self._of(source_id):
            self._gauge("source_asleep", source_id).set(asleep)

    def source_tampered(self, source_id: str, tampered: bool) -> None:
        """Something is wrong with a source's view, or is so no more."""
        if self._of(source_id):
            self._gauge("source_tampered", source_id).set(tampered)

    def drift(self, source_id: str, psi: Mapping[str, float], confidence: float | None) -> None:
        """How far what is found in a source is from what is usual there, by feature; see ``drift``."""
        for feature in FEATURES:
            if feature not in psi:
                self._drop("drift_psi", (source_id, feature))
            elif self._of(source_id):
                self._gauge("drift_psi", source_id, feature).set(psi[feature])
        if confidence is not None and self._of(source_id):
            self._gauge("track_confidence_ratio", source_id).set(confidence)

    def picture(self) -> None:
        """A picture was encoded for whoever looks at a source."""
        self._counter("pictures").inc()

    def reconnect(self, source_id: str) -> None:
        """A lost source is tried again."""
        self._counter("reconnects", self._of(source_id)).inc()

    def event(self, event: Event) -> None:
        """An event was handed to the sinks."""
        self._counter("events", TOPICS[type(event)]).inc()

    def sink(self, pending: int, dropped: Mapping[str, int], spool: tuple[int, int] = (0, 0)) -> None:
        """The sinks' state; ``dropped`` counts by topic since the start of the process, ``spool`` is what their spools hold
        and may hold, in bytes. Called from one thread."""
        self._gauge("sink_pending").set(pending)
        self._gauge("sink_spool_bytes").set(spool[0])
        self._gauge("sink_spool_limit_bytes").set(spool[1])
        for topic in TOPICS.values():
            self._counter("events_dropped", topic)
        for topic, total in dropped.items():
            self._counter("events_dropped", topic).inc(max(0, total - self._sink_dropped.get(topic, 0)))
            self._sink_dropped[topic] = total

    def spans(self, outcome: Literal["sent", "failed", "dropped"], n: int) -> None:
        """What became of spans of traced frames."""
        self._counter("spans", outcome).inc(n)

    def rules(self, names: Collection[str]) -> None:
        """There are exactly these rules; the others' series go."""
        for name, labels in list(self._children):
            if name == "alerts_active" and labels[0] not in names:
                self._drop(name, labels)
        for rule in names:
            self._gauge("alerts_active", rule)

    def alerts(self, active: Mapping[str, int]) -> None:
        """How many alerts are raised at present, by rule; a rule that is not named has none."""
        for name, labels in list(self._children):
            if name == "alerts_active" and labels[0] not in active:
                self._gauge(name, *labels).set(0)
        for rule, count in active.items():
            self._gauge("alerts_active", rule).set(count)

    def evidence(self, outcome: Literal["written", "failed", "lost", "expired"], reason: str) -> None:
        """Count a picture or clip: ``written`` (the reason is its kind), ``failed`` and ``lost`` (why: see ``EvidenceError``),
        or deleted because of its ``age`` or the store's ``size``."""
        self._counter("evidence", outcome, reason).inc()

    def remove_source(self, source_id: str) -> None:
        """Take the source's series away. A later call about it would begin them anew, so call this last."""
        self._dropped.pop(source_id, None)
        for name, labels in list(self._children):
            if labels and labels[0] == source_id and BY_NAME[name].by_source:
                self._drop(name, labels)
        with self._lock:
            self._sources.discard(source_id)

    # -- of Control

    def objective(self, slo: SloConfig) -> None:
        """What was promised."""
        self._gauge("slo_objective_ratio").set(slo.objective)
        self._gauge("slo_latency_objective_seconds").set(slo.latency_ms / 1000)

    def build(self, version: str, python: str, ray: str) -> None:
        """What runs."""
        cast(Info, self._child("build", ())).info({"version": version, "python": python, "ray": ray})

    def service(self, name: Literal["sources", "actors", "detector_replicas"], counts: Mapping[str, int]) -> None:
        """How many there are at present of each state, kind or detector."""
        for label, count in counts.items():
            self._gauge(name, label).set(count)

    def actor_faults(self, actors: int) -> None:
        """So many actors do not answer."""
        self._gauge("actor_faults").set(actors)
        self._counter("reconcile_failures")

    def reconcile_failed(self) -> None:
        """A round of Control's loop ended in an error."""
        self._counter("reconcile_failures").inc()

    # -- giving it out

    def expose(self) -> bytes:
        """All families as OpenMetrics text."""
        return cast(bytes, generate_latest(self.registry))  # type: ignore[no-untyped-call] # its module has no annotations

    def _of(self, source_id: str) -> str:
        """The source's label: its id as long as there is room for series of its own, else ``ALL``."""
        if source_id in self._sources:
            return source_id
        with self._lock:
            if len(self._sources) >= self._max_sources:
                return ALL
            self._sources.add(source_id)
        return source_id

    def _child(self, name: str, labels: tuple[str, ...]) -> Any:
        """The series; looked up once, as ``labels()`` costs more than counting."""
        child = self._children.get((name, labels))
        if child is None:
            with self._lock:
                if name not in self._families:
                    self._families[name] = self._family(name)
                family = self._families[name]
                child = self._children[name, labels] = family.labels(*map(redact, labels)) if labels else family
        return child

    def _family(self, name: str) -> Counter | Gauge | Histogram | Info:
        family = BY_NAME[name]
        match family.kind:
            case "counter":
                return Counter(family.full_name, family.text, family.labels, registry=self.registry)
            case "gauge":
                return Gauge(family.full_name, family.text, family.labels, registry=self.registry)
            case "info":
                return Info(family.full_name, family.text, registry=self.registry)
            case "histogram":
                more = (self._latency_s,) if name == "end_to_end_seconds" else ()
                buckets = sorted({*family.buckets, *more})
                return Histogram(family.full_name, family.text, family.labels, registry=self.registry, buckets=buckets)

    def _counter(self, name: str, *labels: str) -> Counter:
        return cast(Counter, self._child(name, labels))

    def _gauge(self, name: str, *labels: str) -> Gauge:
        return cast(Gauge, self._child(name, labels))

    def _histogram(self, name: str, *labels: str) -> Histogram:
        return cast(Histogram, self._child(name, labels))

    def _drop(self, name: str, labels: tuple[str, ...]) -> None:
        if self._children.pop((name, labels), None) is not None:
            self._families[name].remove(*map(redact, labels))


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
