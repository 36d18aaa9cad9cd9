"""Step: what was measured with one number of sources, and whether that was sustained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stream.capacity.plan import Plan
from stream.config import PipelineConfig, SourceConfig
from stream.processes import Measurement
from stream.scrape import Scrape, attainment, histogram, interpolated_ms

SUSTAINED = 0.99  # of the expected frames must be analysed, or left out by the gate
EDGE = 1  # frame of each source may be on its way at both ends of a measurement, and be told of behind it
ON_PURPOSE = ("sampled", "gated")
REST = "Ray and the rest"
STAGES = ("decode", "scale", "detect", "track", "emit", REST)
DETECTOR, INGEST, AGGREGATOR = "detector-", "IngestActor", "AggregatorActor"  # in the names of processes


@dataclass(frozen=True, slots=True)
class Lane:
    """What a stage cannot leave: threads that do its work one thing after the other.

    Attributes:
        stage: one of ``STAGES``.
        what: in words.
        used: cores that each of them uses, on average.
        room: cores that each of them could use.
        remedy: what would help.
    """

    stage: str
    what: str
    used: float
    room: float
    remedy: str

    @property
    def load(self) -> float:
        """``used`` of ``room``."""
        return self.used / self.room


@dataclass(frozen=True, slots=True)
class Step:
    """Figures of one number of sources, over ``wall_s`` of steady state.

    Attributes:
        sources: how many.
        expected: frames that should have been analysed.
        analysed, gated: frames that were, and that the gate left out.
        dropped: frames given up, by reason.
        latency_ms: percentiles from capture to acknowledgement by name; None where there is no figure.
        attainment: share of the analysed frames within the SLO's latency; None where none was analysed.
        objective: the least share that the SLO asks for.
        cpu_s: CPU seconds of all processes of the service.
        stages_s: those of each of ``STAGES``.
        machine_s: seconds in which the machine's cores were not idle, summed over them.
        cores: of the machine.
        lanes: how busy each stage's own threads were.
        processes_s: CPU seconds by name of the process.
    """

    sources: int
    wall_s: float
    expected: float
    analysed: int
    gated: int
    dropped: Mapping[str, int]
    latency_ms: Mapping[str, float | None]
    attainment: float | None
    objective: float
    cpu_s: float
    stages_s: Mapping[str, float]
    machine_s: float
    cores: int
    lanes: Sequence[Lane]
    processes_s: Mapping[str, float]

    @property
    def served(self) -> float:
        """Share of the expected frames that were analysed or left out by the gate."""
        return min(1.0, (self.analysed + self.gated) / self.expected) if self.expected else 0.0

    @property
    def sustained(self) -> bool:
        """Nearly every expected frame was served, and the SLO was held, in which a single late frame is none too many. Of a
        still scene nothing need be analysed."""
        if self.attainment is None:
            return self.served >= SUSTAINED and self.gated > 0
        late = (1 - self.attainment) * self.analysed
        return self.served >= SUSTAINED and late <= max(1.0, (1 - self.objective) * self.analysed) + 1e-6

    @property
    def cores_used(self) -> float:
        """By the service."""
        return self.cpu_s / self.wall_s

    def share(self, stage: str) -> float:
        """A stage's part of the service's CPU."""
        return self.stages_s[stage] / self.cpu_s if self.cpu_s else 0.0


def step_of(
    plan: Plan,
    copies: Sequence[SourceConfig],
    scrapes: tuple[Scrape, Scrape],
    used: Measurement,
    machine_s: float,
    cores: int,
) -> Step:
    """The figures of a measurement.

    Args:
        plan: what is measured.
        copies: the sources that ran.
        scrapes: before and after the measurement.
        used: what the service's processes used.
        machine_s: seconds in it in which the machine's cores were not idle, summed over them.
        cores: of the machine.
    """
    before, after = scrapes
    span_s = after.at_s - before.at_s
    frames = "framewatch_frames_total"

    def grown(**labels: str) -> dict[str, int]:
        counts = after.by(frames, "source", **labels)
        counts.subtract(before.by(frames, "source", **labels))
        return {source.id: max(0, round(counts[source.id])) for source in copies}

    reasons = after.by(frames, "reason", outcome="dropped").keys() - set(ON_PURPOSE)
    analysed, gated = grown(outcome="analysed"), grown(outcome="dropped", reason="gated")
    lost = {reason: grown(outcome="dropped", reason=reason) for reason in reasons}
    expected = 0.0
    for source in copies:
        if source.gated:  # the gate tells of frames when it is done with them, many at once: count what it told of
            expected += analysed[source.id] + gated[source.id] + sum(counts[source.id] for counts in lost.values())
        else:
            expected += max(1.0, plan.fps(source) * span_s - EDGE)
    buckets = histogram(before, after)
    stages_s = _stages_s(before, after, used)
    return Step(
        sources=len(copies),
        wall_s=used.wall_s,
        expected=expected,
        analysed=sum(analysed.values()),
        gated=sum(gated.values()),
        dropped={reason: n for reason, counts in sorted(lost.items()) if (n := sum(counts.values()))},
        latency_ms=interpolated_ms(buckets),
        attainment=attainment(buckets, plan.config.slo.latency_ms / 1000),
        objective=plan.config.slo.objective,
        cpu_s=used.cpu_s,
        stages_s=stages_s,
        machine_s=machine_s,
        cores=cores,
        lanes=lanes(plan.config, len(copies), stages_s, used, cores),
        processes_s=used.by_name,
    )


def _stages_s(before: Scrape, after: Scrape, used: Measurement) -> dict[str, float]:
    """CPU seconds by stage: the detectors' are those of their processes, the others' are told by the stages themselves."""
    told = after.by("framewatch_cpu_seconds_total", "stage")
    told.subtract(before.by("framewatch_cpu_seconds_total", "stage"))
    part = used.wall_s / (after.at_s - before.at_s)  # the scrapes lie a little outside the measurement
    stages_s = {stage: max(0.0, told[stage] * part) for stage in STAGES if stage != REST}
    stages_s["detect"] = sum(cpu_s for name, cpu_s in used.by_name.items() if DETECTOR in name)
    return stages_s | {REST: max(0.0, used.cpu_s - sum(stages_s.values()))}


def lanes(config: PipelineConfig, sources: int, stages_s: Mapping[str, float], used: Measurement, cores: int) -> list[Lane]:
    """How busy each stage's own threads are."""
    service = config.service

    def cores_of(word: str) -> float:
        return sum(cpu_s for name, cpu_s in used.by_name.items() if word in name) / used.wall_s

    decoding = (stages_s["decode"] + stages_s["scale"]) / used.wall_s
    ingests, aggregators = service.ingest_actors.max, service.aggregators
    found = [
        Lane("decode", "the thread of each source", decoding / max(1, sources), 1.0, "a lower resolution, or decode: key"),
        Lane(
            "track",
            f"{aggregators} aggregator{'s' * (aggregators > 1)}",
            cores_of(AGGREGATOR) / aggregators,
            1.0,
            f"service.aggregators: {aggregators + 1}",
        ),
        Lane(
            REST,
            f"{ingests} ingest actor{'s' * (ingests > 1)}, decoding apart",
            max(0.0, cores_of(INGEST) - decoding) / ingests,
            1.0,
            f"service.ingest_actors: {ingests + 1}",
        ),
    ]
    for name, detector in config.detectors.items():
        replicas, threads = detector.replicas.max, min(detector.threads or cores, cores)
        what = f"{replicas} replica{'s' * (replicas > 1)} of detector {name}, {threads} thread{'s' * (threads > 1)} each"
        used_by_each = cores_of(f"{DETECTOR}{name}") / replicas
        found.append(Lane("detect", what, used_by_each, float(threads), f"detectors.{name}.replicas: more, or threads: more"))
    return found
