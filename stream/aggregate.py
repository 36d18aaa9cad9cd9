"""Behind the detector: detections of all sources become tracks, counts, alerts and health events in the sinks.

One :class:`Aggregator` serves any number of sources, in the one-process pipeline as well as inside a Ray actor. It
keeps the commit order that ``checkpoint`` describes and answers every message with a ``Receipt`` (see ``deliver``).
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stream.alert import AlertEngine
from stream.analyser import RECENT, Seen, SourceAnalyser, SourceTally, tracks_event
from stream.arrivals import Arrivals, Underway
from stream.boot import boot_id
from stream.checkpoint import Checkpoint, without_files
from stream.clock import Clock
from stream.config import PipelineConfig, SourceConfig
from stream.cpu import CpuReport, SampledCpu
from stream.deliver import Message, Receipt, SourceFinished, SourceState
from stream.detections import Detections
from stream.drift import DriftReport
from stream.errors import SinkError
from stream.events import AlertEvent, DeadLetter, Event, HealthEvent, HealthState, TracksEvent, event_id, parse_event, timestamp
from stream.evidence.requests import EvidenceRequests, SeenFrame
from stream.frame import DetectedBatch, FrameInfo, FrameKey
from stream.journal import Journal
from stream.logs import get_logger
from stream.metrics import Metrics
from stream.rules import AlertRule
from stream.sinks.base import Sink
from stream.slo import SloCounts, SloTracker, stages_ms

if TYPE_CHECKING:  # opentelemetry is loaded only where frames are traced
    from stream.tracing import Tracer

logger = get_logger(__name__)

COMMIT_INTERVAL_S = 2.0
MAX_SENDERS = 256  # ingest processes remembered, restarts included
MAX_NEWS = 1000  # alerts that nobody has asked for yet: Control does once a second, and is back after some seconds
NEWS_AT_ONCE = 200
IDLE_S = 1.0  # a live source without frames for this long is moved on in time by hand


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """State after some frames, to be saved once the events of those frames are safe, or with those that are not."""

    written: int
    numbers: dict[str, int]
    state: dict[str, Any]


@dataclass(frozen=True, slots=True)
class News:
    """Alerts and changes of health since the last time.

    Attributes:
        confirm: to be handed back with the next question, once these are held for good.
        alerts, health: in the order of their events.
        active: ids of the alerts that are raised now.
        lost: alerts that were given up since the start because nobody asked for too long.
    """

    confirm: tuple[str, int, int]
    alerts: tuple[AlertEvent, ...]
    health: tuple[HealthEvent, ...]
    active: frozenset[str]
    lost: int


class Aggregator:
    """All sources' state behind the detector.

    Thread-safe: every public method takes one lock. Frames of a source must be delivered in frame order; a frame that
    was seen before is counted as a duplicate and otherwise ignored.

    Attributes:
        incarnation: see ``deliver``.
        sink_fault: why an event was lost within the last second; empty when none was.
        cpu_s: spent on batches so far; ``emitting`` is the part of it (and of others) that went to the sink.

    Args:
        config: the whole config; its sources are analysed from the start.
        classes: class names by detector.
        sink: where events go; the caller closes it after ``close``.
        clock: wall and monotonic time.
        metrics: counters and histograms.
        checkpoint: where state survives a restart; None keeps none.
        on_tracks: sees every tracks event, on the thread that delivers its frame.
        run: names one start of the whole service. In another run than the checkpoint's, files are read from their
            beginning, so nothing is remembered of them.
        tracer: makes spans of some frames; None makes none.
    """

    def __init__(
        self,
        config: PipelineConfig,
        classes: Mapping[str, tuple[str, ...]],
        sink: Sink,
        clock: Clock,
        metrics: Metrics,
        checkpoint: Checkpoint | None = None,
        on_tracks: Callable[[TracksEvent], None] | None = None,
        run: str = "",
        tracer: Tracer | None = None,
    ):
        self._run, self._tracer = run, tracer
        self._traceparent: str | None = None  # of the frame that is being processed
        self.incarnation = uuid.uuid4().hex
        self._config, self._classes, self._sink = config, classes, sink
        self._clock, self._metrics, self._checkpoint = clock, metrics, checkpoint
        self._on_tracks = on_tracks
        self.cpu_s, self.emitting, self._cpu = 0.0, SampledCpu(), CpuReport(metrics)
        self.sink_fault = ""
        self._sink_failed = self._save_failed = False
        self._lock = threading.RLock()
        self._alerts = AlertEngine(config.alerts, config.evidence)
        metrics.rules([rule.name for rule in config.alerts])
        self._evidence = EvidenceRequests(config.alerts, clock, metrics)
        self._slo = SloTracker(config.slo, clock)
        self._sources: dict[str, SourceAnalyser] = {}
        self._arrivals = Arrivals(config.slo, self._slo, clock, metrics, tracer)
        self._alert_news, self._health_news = Journal[AlertEvent](MAX_NEWS), Journal[HealthEvent](MAX_NEWS)
        self._snapshot: _Snapshot | None = None
        self._numbers: dict[str, int] = {}  # by sender: last message processed
        self._safe: dict[str, int] = {}  # by sender: last message whose events and state are safe
        self._committed_s = clock.monotonic()
        self._saved = (checkpoint and checkpoint.load()) or {}
        cleared: list[AlertEvent] = []
        if self._saved:
            gone = self._saved["sources"].keys() - {source.id for source in config.sources}
            if self._saved["run"] != run:
                self._saved = without_files(self._saved, config)
            cleared = self._alerts.restore(self._saved["alerts"], clock.time())
            for source_id in gone:
                self._saved["sources"].pop(source_id, None)
                cleared += self._alerts.forget(source_id, clock.time())
            self._slo.restore(self._saved["slo"])
            self._evidence.restore(self._saved.get("evidence", ()))
            self._numbers |= self._saved["numbers"]
            self._safe |= self._numbers
            self._alert_news.restore(self._saved.get("news", []), AlertEvent.model_validate)
        cleared += self._analyse(config.sources)
        for event in map(parse_event, self._saved.get("unsafe", [])):
            source = self._sources.get(event.source_id)
            self._write(event, droppable=isinstance(event, TracksEvent) and source is not None and source.config.live)
        for alert in self._saved.get("pending_alerts", []):
            self._write_alert(AlertEvent.model_validate(alert))
        self._raise(cleared)

    # -- sources and rules

    def set_sources(self, sources: Sequence[SourceConfig], rules: Sequence[AlertRule] | None = None) -> None:
        """Analyse exactly these sources from now on, and judge by exactly these rules (None: those there are).

        Tracks of a source go on when its zones and lines change, counts in those that stay too. The alerts of rules and
        sources that are no more are cleared, as are those of one whose fingerprint is another: it is another camera's now.
        """
        with self._lock:
            self._raise(self._analyse(sources))
            if rules is not None:
                self._evidence.set_rules(rules)
                self._raise(self._alerts.set_rules(rules, self._clock.time()))
                self._metrics.rules([rule.name for rule in rules])

    def _analyse(self, sources: Sequence[SourceConfig]) -> list[AlertEvent]:
        """Analyse exactly these sources; what clears the alerts that nothing would clear any more."""
        cleared: list[AlertEvent] = []
        wanted = {source.id: source for source in sources}
        for source_id in [known for known in self._sources if known not in wanted]:
            cleared += self._forget(source_id)
        for source_id, source in wanted.items():
            known = self._sources.get(source_id)
            if known is not None and known.seen_s and known.config == source:
                continue  # as nearly always: Control says it once a second
            fresh = SourceAnalyser.of(self._config, source, self._classes[self._config.detector_of(source)])
            if known is not None and known.fingerprint == fresh.fingerprint:
                self._write_all(known.set_source(source))
                known.seen_s = known.seen_s or self._clock.monotonic()  # after a restart: frames are on their way again
                continue
            if known is not None:
                self._write_all(known.counter.finish())
            saved = None if known is not None else self._saved.get("sources", {}).pop(source_id, None)
            if known is not None or (saved is not None and not fresh.restore(saved)):
                cleared += self._alerts.forget(source_id, self._clock.time())
            self._sources[source_id] = fresh
        return cleared

    def _forget(self, source_id: str) -> list[AlertEvent]:
        self._write_all(self._sources.pop(source_id).counter.finish())
        self._slo.remove(source_id)
        self._evidence.forget(source_id)
        self._metrics.remove_source(source_id)
        return self._alerts.forget(source_id, self._clock.time())

    # -- input

    def process(self, sender: str, number: int, message: Message, expected: str | None) -> Receipt:
        """Process one message of a sender; see ``deliver`` for the protocol.

        An event that a sink refuses for good is counted and noted in ``sink_fault``; it holds up nothing.
        """
        with self._lock:
            if expected not in (None, self.incarnation):
                return Receipt(self.incarnation, False, self._safe.get(sender, 0))
            if number > self._numbers.get(sender, 0):
                match message:
                    case DetectedBatch():
                        self._process_batch(message, sender)
                    case SourceState():
                        self._source_state(message)
                    case SourceFinished():
                        self._finish(message.source_id)
                    case DeadLetter():
                        self._write(message)
                self._numbers.pop(sender, None)  # the newest sender last, so that the eldest is forgotten first
                self._numbers[sender] = number
                if len(self._numbers) > MAX_SENDERS:
                    self._numbers.pop(next(iter(self._numbers)))
            self._commit()
            return self._receipt(sender, number)

    def progress(self, sender: str) -> Receipt:
        """Commit what can be committed, and tell how far the sender's messages are safe."""
        with self._lock:
            self._commit()
            return self._receipt(sender, None)

    def _receipt(self, sender: str, number: int | None) -> Receipt:
        safe, evidence = self._safe.get(sender, 0), self._evidence.hand_out(sender, number)
        return Receipt(self.incarnation, True, safe, self._arrivals.emit.usual, evidence)

    def _process_batch(self, batch: DetectedBatch, sender: str) -> None:
        cpu_s, shift_s = time.thread_time(), 0.0
        if batch.boot_id != boot_id():  # another host's monotonic clock: bridge it by wall time
            shift_s = self._clock.monotonic() - (batch.detected_s + self._clock.time() - batch.sent_at)
        try:
            for info, detections in zip(batch.frames, batch.detections, strict=True):
                self._process_frame(batch, info, detections, shift_s, sender)
        finally:
            self._traceparent = None
        self.cpu_s += time.thread_time() - cpu_s
        self._cpu.tell(track=self.cpu_s - self.emitting.cpu_s, emit=self.emitting.cpu_s)

    def _process_frame(self, batch: DetectedBatch, info: FrameInfo, detections: Detections, shift_s: float, sender: str) -> None:
        analyser = self._sources.get(info.source_id)
        if analyser is None:
            self._metrics.removed()  # not by source: that would begin its series again
            return
        if not analyser.accepts(info):
            self._metrics.frames(info.source_id, "dropped", "duplicate")
            analyser.tally.duplicates += 1
            return
        tracked, observation = analyser.update(info, detections, self._clock.monotonic())
        tracked_s = self._clock.monotonic()
        stages = stages_ms(info, batch.detected_s, tracked_s - shift_s)
        objects = analyser.objects(tracked, observation)
        event = tracks_event(info, batch.model, objects, stages)
        captured_s, traced = info.captured_s + shift_s, None
        if self._tracer:
            captured_at_s = self._clock.time() - (tracked_s - captured_s)
            traced = self._tracer.begin(info, batch.detector, len(objects), stages, captured_at_s)
        self._traceparent = traced.traceparent if traced else None
        underway = Underway(info.source_id, captured_s, batch.detected_s + shift_s, info.held_s > 0, traced)
        self._write(event, analyser.config.live, self._arrivals.expect(underway))
        if self._on_tracks:
            self._on_tracks(event)
        self._metrics.analysed(info.source_id, batch.detector, stages)
        analyser.tally.add(len(objects), stages)
        analyser.tally.observe(observation)
        if analyser.drift.add(batch.model, analyser.t_s, info.height, objects):
            self._metrics.drift(info.source_id, analyser.drift.psi, analyser.drift.confidence)
        analyser.recent = (*analyser.recent[1 - RECENT :], Seen(info.key, event, observation.occupancy))
        self._write_all(analyser.counter.windows())
        source = analyser.config
        seen = SeenFrame(info, objects, detections, analyser.confidence, observation, source.zones, source.lines)
        self._evidence.saw(sender, seen)
        self._raise(self._alerts.observe(observation), info.source_id)

    def _source_state(self, change: SourceState) -> None:
        analyser = self._sources.get(change.source_id)
        if analyser is None:
            return
        if change.online != analyser.online:  # an ingest process that was restarted says again what is known
            analyser.online = change.online
            self._write_health(change.source_id, "online" if change.online else "offline", change.reason, change.at_s)
        if change.tampered is not None and change.tampered != analyser.tampered:
            analyser.tampered, reason = change.tampered, change.tampered or "the usual view"
            self._write_health(change.source_id, "tampered" if change.tampered else "restored", reason, change.at_s)
        self._raise(self._alerts.source_state(change.source_id, change.online, change.at_s, analyser.tampered), change.source_id)

    def _finish(self, source_id: str) -> None:
        analyser = self._sources.get(source_id)
        if analyser is not None:
            self._write_all(analyser.counter.finish())

    def tick(self) -> None:
        """To be called about twice a second: moves idle live sources on in time, judges the SLO, commits."""
        with self._lock:
            now_s, at_s = self._clock.monotonic(), self._clock.time()
            for source_id, analyser in self._sources.items():
                if analyser.online is not None:
                    self._metrics.source_up(source_id, analyser.online)
                if analyser.online is False:
                    self._raise(self._alerts.source_state(source_id, False, at_s, analyser.tampered), source_id)
                idle_s = now_s - analyser.seen_s - analyser.patience_s
                if analyser.config.live and analyser.t_s and analyser.seen_s and idle_s > IDLE_S:
                    observation = analyser.counter.advance(analyser.t_s + idle_s)
                    analyser.tally.observe(observation)
                    self._raise(self._alerts.observe(observation), source_id)
                    self._write_all(analyser.counter.windows())
            if not self._sink_failed:
                self.sink_fault = ""
            self._sink_failed = False
            self._judge_slo()
            self._evidence.expire()
            self._commit()
            self._metrics.sink(self._sink.pending(), self._sink.dropped(), self._sink.spooled())

    def _judge_slo(self) -> None:
        self._arrivals.judge(self._sources)
        at_s = self._clock.time()
        for change in self._slo.evaluate():
            self._write_health(change.source_id, change.state, change.reason, at_s)
        self._metrics.slo(self._slo)

    # -- output

    def _write_health(self, source_id: str, state: HealthState, reason: str, at_s: float) -> None:
        identity = event_id("health", source_id, state, round(at_s * 1e6))
        event = HealthEvent(event_id=identity, source_id=source_id, state=state, reason=reason, at=timestamp(at_s))
        self._write(event)
        self._health_news.add(event)

    def _write(self, event: Event, droppable: bool = False, acknowledged: Callable[[], None] | None = None) -> None:
        try:
            with self.emitting:
                self._sink.write(event, acknowledged, droppable=droppable, traceparent=self._traceparent)
        except SinkError as error:
            if not self.sink_fault:
                logger.error("an event is lost", reason=str(error))
            self.sink_fault, self._sink_failed = str(error), True
        self._metrics.event(event)

    def _write_all(self, events: Iterable[Event]) -> None:
        for event in events:
            self._write(event)

    def _raise(self, alerts: list[AlertEvent], source_id: str = "") -> None:
        """Alerts are in the checkpoint, together with the state that raised them, before they go out; what was written before
        them and is not safe is in it too, so nothing waits for a sink. What was observed of ``source_id`` raised those that
        are new."""
        if not alerts:
            return
        self._evidence.ask(alerts, source_id)
        if self._checkpoint:
            self._save(self._take_snapshot(self._sink.unsafe(), alerts))
            self._snapshot = None  # older than the one just saved
        for alert in alerts:
            self._write_alert(alert)
        self._metrics.alerts(Counter(alert.rule for alert in self._alerts.active()))

    def _write_alert(self, alert: AlertEvent) -> None:
        self._write(alert)
        self._alert_news.add(alert)
        analyser = self._sources.get(alert.source_id)
        if analyser is not None and alert.state == "raised":
            analyser.tally.alerts += 1

    # -- commit

    def _commit(self) -> None:
        """Save the waiting snapshot once its events are safe, and take the next one when it is time."""
        snapshot = self._snapshot
        if snapshot is not None and self._sink.safe >= snapshot.written:
            self._save(snapshot)
            self._snapshot = None
        now_s = self._clock.monotonic()
        if self._snapshot is None and now_s - self._committed_s >= COMMIT_INTERVAL_S:
            self._snapshot = self._take_snapshot()
            self._committed_s = now_s

    def _take_snapshot(self, unsafe: Sequence[bytes] = (), alerts: Sequence[AlertEvent] = ()) -> _Snapshot:
        """The state now; with what is to be written once more after a crash, and the alerts that are to be written next."""
        state: dict[str, Any] = {}
        if self._checkpoint:
            state = {
                "sources": {source_id: analyser.state() for source_id, analyser in self._sources.items()},
                "run": self._run,
                "alerts": self._alerts.state(),
                "slo": self._slo.state(),
                "numbers": dict(self._numbers),
                "news": self._alert_news.state(),
                "evidence": self._evidence.state(),
                "unsafe": [event.decode() for event in unsafe],
                "pending_alerts": [alert.model_dump(mode="json", by_alias=True) for alert in alerts],
            }
        return _Snapshot(self._sink.written, dict(self._numbers), state)

    def _save(self, snapshot: _Snapshot) -> None:
        if self._checkpoint:
            try:
                self._checkpoint.save(snapshot.state)
            except OSError as error:  # the disk is full, say: go on, and let the sources commit nothing
                if not self._save_failed:
                    logger.error("the checkpoint cannot be saved", reason=str(error))
                self._save_failed = True
                return
            self._save_failed = False
        self._safe = snapshot.numbers

    # -- looking in

    def tallies(self) -> dict[str, SourceTally]:
        """What was found so far, by source."""
        with self._lock:
            return {source_id: analyser.tally.copy() for source_id, analyser in self._sources.items()}

    def seen(self, wanted: Mapping[str, FrameKey | None]) -> dict[str, Seen]:
        """The event of one frame of each source, or (None) of its newest; without those that are not at hand.

        Takes no lock: the aggregator may be waiting for a sink, and a picture does not wait for that.
        """
        found = {}
        for source_id, key in wanted.items():
            analyser = self._sources.get(source_id)
            for seen in reversed(analyser.recent if analyser else ()):
                if key in (None, seen.key):
                    found[source_id] = seen
                    break
        return found

    def news(self, confirmed: tuple[str, int, int] | None) -> News:
        """What has happened since; ``confirmed`` is the last answer's ``confirm``, once what it gave is held for good."""
        with self._lock:
            if confirmed is not None and confirmed[0] == self.incarnation:
                self._alert_news.confirm(confirmed[1])
                self._health_news.confirm(confirmed[2])
            number, alerts = self._alert_news.read(NEWS_AT_ONCE)
            health_number, health = self._health_news.read(NEWS_AT_ONCE)
            active = frozenset(alert.alert_id for alert in self._alerts.active())
            confirm = (self.incarnation, number, health_number)
            return News(confirm, tuple(alerts), tuple(health), active, self._alert_news.lost)

    def drift(self, source_id: str) -> DriftReport | None:
        """What the model finds in a source, lately and usually; None where there is no such source."""
        with self._lock:
            analyser = self._sources.get(source_id)
            return analyser.drift.report() if analyser else None

    def slo_counts(self) -> dict[str, SloCounts]:
        """What the objective is judged by, of each source and of all (``*``)."""
        return self._slo.counts()

    def latencies(self, span_s: float) -> dict[str, tuple[float, float, float]]:
        """See ``SloTracker.latencies``."""
        return self._slo.latencies(span_s)

    def slo_attainment(self) -> dict[str, float]:
        """Share of frames within the SLO by source and for all (``*``), over the SLO's window."""
        with self._lock:
            return self._slo.attainments()

    def close(self, timeout_s: float = 10) -> None:
        """Flush the sink and save a last checkpoint. Open windows stay open in the checkpoint; events that could not be written
        in time are in it too, for the next start."""
        with self._lock:
            self._judge_slo()
            for analyser in self._sources.values():
                analyser.online = analyser.online and None  # whoever starts next says so when it comes online
            if not self._sink.flush(timeout_s):
                self.sink_fault = self.sink_fault or "events could not be written in time"
            self._save(self._take_snapshot(self._sink.unsafe()))
            self._judge_slo()
