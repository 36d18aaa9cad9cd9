"""The metric families: the one list that the code, docs/metrics.md and the dashboard's test are made of.

Names follow Prometheus: base units, ``_total`` behind a counter's name. Labels hold ids and names of the config and fixed
words, so the number of series is bounded by the config, and that of ``source`` by ``metrics.max_sources`` as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

Kind = Literal["counter", "gauge", "histogram", "info"]
BUCKETS: dict[str, tuple[float, ...]] = {
    "stage_seconds": (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
    "end_to_end_seconds": (0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.0, 5.0, 15.0, 60.0),
    "batch_size": (1, 2, 4, 8, 16, 32, 64, 128, 256),
}
PREFIX = "framewatch_"
SUFFIX = {"counter": "_total", "info": "_info"}
DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family.

    Attributes:
        name: without ``framewatch_`` in front, and without a counter's ``_total`` behind.
        unit: of its values, for people.
        by: which actors have it.
        labels: besides ``actor``, which ``GET /metrics`` adds.
        text: what it means.
        buckets: of a histogram.
        ray: whether it is on Ray's own metrics too.
    """

    name: str
    kind: Kind
    unit: str
    by: tuple[str, ...]
    labels: tuple[str, ...]
    text: str
    buckets: tuple[float, ...] = ()
    ray: bool = False

    @property
    def full_name(self) -> str:
        """As prometheus_client and Ray name the family."""
        return PREFIX + self.name

    @property
    def by_source(self) -> bool:
        """Whether its series belong to a source."""
        return "source" in self.labels


def _family(kind: Kind, name: str, unit: str, by: str, labels: str, text: str, ray: bool = False) -> Family:
    actors = tuple(one for one in ("ingest", "aggregator", "control") if one in by.split())
    return Family(name, kind, unit, actors, tuple(labels.split()), text, BUCKETS.get(name, ()), ray)


_counter, _gauge = partial(_family, "counter"), partial(_family, "gauge")
_histogram, _info = partial(_family, "histogram"), partial(_family, "info")
FAMILIES = (
    # what happens to frames
    _counter(
        "frames", "frames", "ingest aggregator", "source outcome reason", "Frames analysed or dropped, those by reason.", ray=True
    ),
    _counter("frames_removed", "frames", "aggregator", "", "Frames dropped behind the detector: their source had been removed."),
    _histogram("stage_seconds", "seconds", "aggregator", "detector stage", "Time of an analysed frame in one stage."),
    _histogram(
        "end_to_end_seconds", "seconds", "aggregator", "source", "Capture to acknowledgement; has a bound at slo.latency_ms."
    ),
    # the SLO
    _counter("slo_frames", "frames", "aggregator", "source", "Frames of cameras and Kafka that were held against the objective."),
    _counter(
        "slo_frames_late",
        "frames",
        "aggregator",
        "source",
        "Those of slo_frames_total that came after slo.latency_ms, or not at all.",
    ),
    _gauge("slo_attainment_ratio", "ratio", "aggregator", "source", "Share in time over slo.window_s; source * is all.", ray=True),
    _gauge("slo_latency_seconds", "seconds", "aggregator", "percentile", "Latency over slo.window_s: p50, p95, p99.", ray=True),
    _gauge("slo_burn_rate", "ratio", "aggregator", "window", "How many times too fast the error budget is used up.", ray=True),
    _gauge("slo_budget_remaining_ratio", "ratio", "aggregator", "", "Error budget left of 6 h; below 0: overspent.", ray=True),
    _gauge("slo_objective_ratio", "ratio", "control", "", "slo.objective: the share of frames that shall be in time."),
    _gauge("slo_latency_objective_seconds", "seconds", "control", "", "slo.latency_ms: what in time means."),
    # sources
    _gauge("sources", "sources", "control", "state", "Sources: connecting, online, offline, finished, failed.", ray=True),
    _gauge("source_up", "0 or 1", "aggregator", "source", "1 while frames arrive from a camera or topic.", ray=True),
    _gauge(
        "source_decode", "0 or 1", "ingest", "source mode", "1 at the mode in which the source is decoded at present.", ray=True
    ),
    _gauge("source_asleep", "0 or 1", "ingest", "source", "1 while the source's gate is closed: its scene is still.", ray=True),
    _gauge("source_tampered", "0 or 1", "ingest", "source", "1 while the view is covered, frozen, blurred or moved.", ray=True),
    _gauge("drift_psi", "index", "aggregator", "source feature", "How far recent detections are from usual ones; above 0.1, look."),
    _gauge("track_confidence_ratio", "ratio", "aggregator", "source", "Mean confidence of recent tracks."),
    _gauge("decode_allowance_ratio", "ratio", "ingest", "", "Share of GOPs decoded whole; below 1 it does not keep up.", ray=True),
    _counter("reconnects", "attempts", "ingest", "source", "Attempts to reach a lost source again."),
    _counter("pictures", "pictures", "ingest", "", "Pictures encoded for whoever looks at a source."),
    # detectors
    _gauge("detector_replicas", "replicas", "control", "detector", "Replicas of a detector that run.", ray=True),
    _histogram("batch_size", "frames", "ingest", "detector", "Frames per batch."),
    _counter("batches_sent", "batches", "ingest", "detector way", "Batches by where their images travelled: ring, object_store."),
    # queues and sinks
    _gauge("queue_depth", "entries", "ingest", "queue", "Frames before a detector, slots of its ring, unsafe_messages.", ray=True),
    _counter("events", "events", "aggregator", "topic", "Events handed to the sinks."),
    _counter("events_dropped", "events", "aggregator", "topic", "Events given up by the sinks.", ray=True),
    _gauge(
        "sink_pending", "events", "aggregator", "", "Events that have not reached their destination; spooled ones too.", ray=True
    ),
    _gauge("sink_spool_bytes", "bytes", "aggregator", "", "What the sinks' spools hold on disk.", ray=True),
    _gauge("sink_spool_limit_bytes", "bytes", "aggregator", "", "Room of the sinks' spools together."),
    _counter("spans", "spans", "aggregator", "outcome", "Spans of traced frames: sent, failed, dropped."),
    _gauge("alerts_active", "alerts", "aggregator", "rule", "Alerts raised and not cleared.", ray=True),
    _counter("evidence", "files", "ingest aggregator", "outcome reason", "Pictures and clips: written, failed, lost, expired."),
    # the service
    _info("build", "1", "control", "version python ray", "What runs."),
    _gauge("actors", "actors", "control", "kind", "Actors that answer: ingest, aggregator.", ray=True),
    _gauge("actor_faults", "actors", "control", "", "Actors that do not answer, or could not be made.", ray=True),
    _counter("reconcile_failures", "rounds", "control", "", "Rounds of Control's loop that ended in an error."),
    _counter("cpu_seconds", "seconds", "ingest aggregator", "stage", "CPU seconds: decode, scale, track, emit."),
)
BY_NAME = {family.name: family for family in FAMILIES}
PROCESS = {
    "process_cpu_seconds": ("counter", "seconds", "CPU time of the actor's process, user and system."),
    "process_resident_memory_bytes": ("gauge", "bytes", "Its resident memory."),
    "process_virtual_memory_bytes": ("gauge", "bytes", "Its virtual memory."),
    "process_start_time_seconds": ("gauge", "POSIX seconds", "When it began."),
    "process_open_fds": ("gauge", "files", "Its open file descriptors."),
    "process_max_fds": ("gauge", "files", "How many it may have."),
}
"""What prometheus_client tells of each actor's process: kind, unit and meaning by name."""


PAGE = """# Metrics

Made by `python -m stream.families`; do not edit. `GET /metrics` gives them in OpenMetrics, one scrape for the whole service. Every
series has the label `actor` too: `Control`, `ingest-0`, `aggregator-0` and so on. "Ray": also in Ray's own metrics, for its
dashboard, as `ray_` and the name. A family is there once it has a value.

The other labels hold ids and names of the config and fixed words, so the config bounds the number of series; a source has some
40 of them. With `metrics: {source_labels: false}`, and for sources beyond the first `metrics.max_sources` (1000) of an actor,
counters and histograms are kept without `source`, for all those sources together, and gauges of a source are not kept.

Some latencies in `framewatch_end_to_end_seconds` carry the trace of their frame as an exemplar, where `tracing` is on.

"""


def page() -> str:
    """Text of docs/metrics.md."""
    rows = ["| name | type | unit | labels | of | Ray | meaning |", "|---|---|---|---|---|---|---|"]
    for family in FAMILIES:
        labels = ", ".join(f"`{label}`" for label in family.labels)
        rows.append(
            f"| `{family.full_name}{SUFFIX.get(family.kind, '')}` | {family.kind} | {family.unit} | {labels} "
            f"| {', '.join(family.by)} | {'yes' if family.ray else ''} | {family.text} |"
        )
    for name, (kind, unit, text) in PROCESS.items():
        rows.append(f"| `{PREFIX}{name}{SUFFIX.get(kind, '')}` | {kind} | {unit} |  | every actor |  | {text} |")
    return PAGE + "\n".join(rows) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(page(), encoding="utf-8")
