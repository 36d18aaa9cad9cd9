"""One thread per source: read, take in, hand to the batcher; reconnect when a live source is lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Literal

from stream.allowance import Allowance
from stream.batch import Batcher
from stream.clock import Clock
from stream.config import KafkaInput, SourceConfig
from stream.cpu import CpuReport, give_way
from stream.decode import DecodedFrame
from stream.deliver import Delivery, SourceFinished, SourceState
from stream.detections import Detections
from stream.detectors.base import InputSpec
from stream.effort import Effort, Level
from stream.errors import Retryable, SourceError
from stream.events import DeadLetter
from stream.evidence.packets import Recorder
from stream.frame import Frame, FrameInfo, FrameKey, Ticket, Uint8Array
from stream.gate import Gate
from stream.intake import Intake, IntakeTally, Outcomes, Sampled
from stream.logs import bind_source, get_logger
from stream.metrics import Metrics
from stream.retry import Backoff
from stream.scale import Scaler, to_picture
from stream.sources import open_source
from stream.sources.base import Source
from stream.tamper import Tamper
from stream.viewfinder import Viewfinder

logger = get_logger(__name__)

State = Literal["connecting", "online", "offline", "finished", "failed"]
DECODE_NICE = 8  # a frame that is decoded already goes before those that are not: what comes late is shed before it costs much
DRAIN_POLL_S = 0.02
DRAIN_S = 30.0  # longest wait, when stopping, for the frames of a lossless source to be safe
HELD_AT_ONCE = 4  # frames that the gate held go to the batcher as they leave it, half as many as it has room for
HELD_POLL_S = 0.005
HELD_WAIT_S = 2.0  # longest wait for one of them; a detector that takes longer sees what the batcher's policy leaves


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """Where a source stands. ``reason`` is free of secrets; ``pts_s`` is the media time reached.

    ``decode`` is how much of it is decoded at present (``full``, ``fast`` or ``key``) and ``decode_reason`` why; of
    ``frames``, ``decoded`` went through the codec. ``asleep``: its gate is closed, the scene is still.
    ``tampered``: what is wrong with its view, see ``tamper``. ``since_at``: POSIX seconds at which the state began;
    ``dropped``: frames that were not analysed, by reason.
    """

    source_id: str
    state: State
    reason: str = ""
    frames: int = 0
    pts_s: float = 0.0
    reconnects: int = 0
    decode_cpu_s: float = 0.0
    scale_cpu_s: float = 0.0
    decoded: int = 0
    decode: Level = "full"
    decode_reason: str = ""
    asleep: bool = False
    tampered: str = ""
    since_at: float = 0.0
    width: int = 0
    height: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SourceParts:
    """What a source needs besides its config.

    Attributes:
        spec: what the source's detector wants pictures to look like.
        kafka: where the brokers are, for ``kafka://``.
        gate: of this source; None analyses every sampled frame.
        pictures: keep each analysed frame at full size as well.
        viewfinder: shows the frames to whoever looks; nobody does without one.
        allowance: what the machine can bear, shared by the sources of a process.
        recorder: keeps the newest packets, for the evidence of alerts.
        turn: held while decoding, see ``Outcomes``; shared likewise.
    """

    spec: InputSpec
    kafka: KafkaInput | None = None
    gate: Gate | None = None
    pictures: bool = False
    viewfinder: Viewfinder | None = None
    allowance: Allowance | None = None
    recorder: Recorder | None = None
    turn: AbstractContextManager[object] = field(default_factory=nullcontext)


class SourceWorker:
    """Feeds one source into a batcher.

    A live source that is lost is opened again, with exponential back-off, until ``stop``. Each outage makes one
    ``offline`` and one ``online`` message. A finite one ends with ``SourceFinished``, once all its frames were sent.

    Args:
        config: the source.
        parts: what else it needs.
        batcher: of the source's detector.
        delivery: for health and dead letters.
        clock: wall and monotonic time.
        metrics: counters.
    """

    def __init__(
        self,
        config: SourceConfig,
        parts: SourceParts,
        batcher: Batcher,
        delivery: Delivery,
        clock: Clock,
        metrics: Metrics,
    ):
        self.config = config
        self._parts, self._batcher, self._delivery = parts, batcher, delivery
        self._clock, self._metrics = clock, metrics
        self._scaler = Scaler(parts.spec)
        self._viewfinder = parts.viewfinder or Viewfinder(clock, metrics)
        self._effort = Effort(config, gated=parts.gate is not None, allowance=parts.allowance)
        self._tamper = Tamper() if config.guarded else None
        self._tally = IntakeTally()
        self._stopping = threading.Event()
        self._source: Source | None = None
        self._status = SourceStatus(config.id, "connecting", since_at=clock.time())
        self._size_px = (0, 0)
        self._announced: bool | None = None
        self._told: SourceState | None = None  # the last one
        self._telling = threading.Lock()  # what is told last holds
        self._told_level: Level | None = None
        self._told_asleep: bool | None = None
        self._sent: set[FrameKey] = set()  # given to the batcher, and not left it or the detector yet
        self._cpu = CpuReport(metrics)
        self._last_sent = -1
        self._safe = -1
        self._thread = threading.Thread(target=self._run, name=f"source-{config.id}", daemon=True)

    # -- called from other threads

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def status(self) -> SourceStatus:
        """How it is at this moment."""
        tally, choice, gate = self._tally, self._effort.choice, self._parts.gate
        return replace(
            self._status,
            frames=tally.frames,
            pts_s=tally.pts_s,
            decoded=tally.decoded,
            decode_cpu_s=tally.decode_cpu_s,
            scale_cpu_s=tally.scale_cpu_s,
            decode=choice.level,
            decode_reason=choice.reason,
            asleep=gate is not None and gate.asleep,
            tampered=(self._tamper and self._tamper.fault) or "",
            width=self._size_px[0],
            height=self._size_px[1],
            dropped=self._metrics.dropped(self.config.id),
        )

    @property
    def done(self) -> bool:
        """True when the thread has ended."""
        return not self._thread.is_alive()

    def frame_done(self, info: FrameInfo, detections: Detections | None) -> None:
        """One frame has left: delivered with its detections, or (None) dropped behind the batcher's entrance.

        A frame of the worker that read the source before, with other settings, is none of ours.
        """
        if info.key not in self._sent:
            return
        if detections is not None and self._parts.gate is not None:
            self._parts.gate.presence.saw(info, detections)
        self._viewfinder.left(info)
        now_s = self._clock.monotonic()
        if detections is not None:
            self._effort.frame(self._batcher.used(info, now_s), now_s)
        elif not self._batcher.line_too_long(info.line_s):
            self._effort.frame(None, now_s)
        if self._parts.recorder is not None:
            self._parts.recorder.answered(info.session, info.pts_s)
        self._sent.discard(info.key)

    def safe(self, frame_index: int) -> None:
        """All frames up to this one are safe; the thread commits them at its source."""
        self._safe = max(self._safe, frame_index)

    def say_again(self) -> None:
        """Tell once more how the source is: its aggregator is another one now."""
        with self._telling:
            if self._told is not None:
                self._delivery.send(replace(self._told, at_s=self._clock.time()))

    def stop(self) -> None:
        """Ask the thread to end; ``join`` waits for it."""
        self._stopping.set()
        source = self._source
        if source is not None:
            source.close()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until the thread has ended, at most for so long."""
        self._thread.join(timeout_s)

    # -- the thread

    def _run(self) -> None:
        bind_source(self.config.id)
        if self.config.live:
            give_way(DECODE_NICE)
        self._metrics.source_begins(self.config.id)
        if self._tamper is not None:
            self._metrics.source_tampered(self.config.id, False)
        backoff = Backoff(self.config.rtsp.backoff_initial_s, self.config.rtsp.backoff_max_s)
        while not self._stopping.is_set():
            frames = self._tally.frames
            try:
                self._read()
            except SourceError as error:
                if not (isinstance(error, Retryable) or self.config.camera):
                    self._end("failed", error.reason)
                    return
                self._went_offline(error.reason)  # a camera may send what can be decoded when it is opened again
            except Exception as error:
                logger.exception("internal error", source_id=self.config.id)
                reason = f"internal error: {type(error).__name__}"
                if not self.config.live:
                    self._end("failed", reason)
                    return
                self._went_offline(reason)
            else:
                if not self._stopping.is_set():
                    self._end("finished", "end of input")
                return
            if self._tally.frames > frames:
                backoff.reset()
            self._stopping.wait(backoff.next_delay_s())
            self._status = replace(self._status, reconnects=self._status.reconnects + 1)
            self._metrics.reconnect(self.config.id)

    def _read(self) -> None:
        """Open the source and read it to its end."""
        gate, scaler, recorder = self._parts.gate, self._scaler, self._parts.recorder

        def scale(decoded: DecodedFrame) -> Uint8Array:
            return scaler.scale(decoded.frame)

        def dropped(reason: str, frames: int) -> None:
            self._metrics.frames(self.config.id, "dropped", reason, frames)

        def hopeless(ticket: Ticket) -> bool:
            return self._batcher.is_hopeless(self.config.id, ticket.captured_s, ticket.line_s)

        def line_too_long(ticket: Ticket) -> bool:
            return self._batcher.line_too_long(ticket.line_s)

        with open_source(self.config, self._parts.kafka, self._clock) as source:
            self._source = source
            if self._tamper is not None:
                self._tamper.begin()
            outcomes = Outcomes(self._tally, dropped, self._answered, hopeless, line_too_long, self._parts.turn)
            intake = Intake(self.config, source, scale, self._effort, gate, self._clock, outcomes)
            committed, ended = self._safe, False
            if recorder is not None:
                recorder.begin(source)
            try:
                for packet in source.packets():
                    if self._stopping.is_set():
                        break
                    if isinstance(packet, DeadLetter):
                        self._delivery.send(packet)
                    elif packet is not None:
                        if recorder is not None:
                            recorder.keep(packet)
                        self._take(source, intake.frames(packet))
                    if self._safe > committed:
                        committed = self._safe
                        source.commit(committed)
                else:
                    ended = True
            finally:
                if recorder is not None:
                    recorder.end()
                if not self._stopping.is_set():
                    self._take(source, intake.flush())
                if not self.config.live:
                    if ended:
                        self._batcher.finish_source(self.config.id)  # its last frames wait for no company
                    self._drain()
                    if self._safe > committed:
                        source.commit(self._safe)
                self._source = None

    def _take(self, source: Source, frames: Iterable[Sampled]) -> None:
        """Hand over what is to be analysed, and note how far the source is."""
        if self._parts.gate is not None:
            self._parts.gate.watched = self._viewfinder.watches(self.config.id)
        for sampled in frames:
            self._came_online()
            self._look(sampled)
            frame = self._frame(source, sampled)
            self._viewfinder.see(frame.info, sampled.decoded.frame)
            if self._parts.recorder is not None:
                self._parts.recorder.sent(frame.info.pts_s, sampled.decoded.matrix)
            self._put(frame)
        self._note()

    def _note(self) -> None:
        tally, gate, choice = self._tally, self._parts.gate, self._effort.choice
        if choice.level != self._told_level:
            self._told_level = choice.level
            logger.info("decode mode", source_id=self.config.id, mode=choice.level, reason=choice.reason)
            self._metrics.decode(self.config.id, choice.level)
        if gate is not None and gate.asleep != self._told_asleep:
            self._told_asleep = gate.asleep
            logger.debug("gate", source_id=self.config.id, state="closed" if gate.asleep else "open", reason=gate.reason)
            self._metrics.source_asleep(self.config.id, gate.asleep)
        self._cpu.tell(decode=tally.decode_cpu_s, scale=tally.scale_cpu_s)

    def _frame(self, source: Source, sampled: Sampled) -> Frame:
        decoded = sampled.decoded
        self._size_px = decoded.width, decoded.height
        info = FrameInfo(
            source_id=self.config.id,
            session=source.session,
            frame_index=decoded.frame_index,
            pts_s=decoded.pts_s,
            captured_at=decoded.captured_at,
            width=decoded.width,
            height=decoded.height,
            captured_s=decoded.captured_s,
            decoded_s=self._clock.monotonic(),
            held_s=sampled.held_s,
            line_s=decoded.ticket.line_s,
            traceparent=decoded.ticket.traceparent,
        )
        return Frame(info, sampled.image, to_picture(decoded.frame) if self._parts.pictures else None)

    def _answered(self) -> bool:
        """Whether the detector has answered for every frame; a source that loses nothing waits for it."""
        while not self.config.live and self._sent and not self._stopping.is_set():
            self._clock.sleep(HELD_POLL_S)
        return not self._sent

    def _put(self, frame: Frame) -> None:
        if frame.info.held_s:
            deadline_s = self._clock.monotonic() + HELD_WAIT_S
            while len(self._sent) >= HELD_AT_ONCE and self._clock.monotonic() < deadline_s and not self._stopping.is_set():
                self._clock.sleep(HELD_POLL_S)
        self._sent.add(frame.info.key)
        self._last_sent = frame.info.frame_index
        if not self._batcher.put(frame):
            self.frame_done(frame.info, None)

    def _drain(self) -> None:
        """Wait until every frame has left, and, when stopping, until it is safe too."""
        deadline_s = self._clock.monotonic() + DRAIN_S
        while self._sent and not (self._stopping.is_set() and self._clock.monotonic() > deadline_s):
            self._clock.sleep(DRAIN_POLL_S)
        while self.config.scheme == "kafka" and self._safe < self._last_sent and self._clock.monotonic() < deadline_s:
            self._clock.sleep(DRAIN_POLL_S)

    # -- health

    def _came_online(self) -> None:
        if self._status.state != "online":
            self._become("online", "")
        if self._announced is not True and (self.config.live or self.config.scheme == "kafka"):
            self._announce(True, "frames arrive")

    def _look(self, sampled: Sampled) -> None:
        """Say so where the view is tampered with, or is so no more."""
        if self._tamper is None:
            return
        decoded = sampled.decoded
        view = self._parts.spec.without_padding(sampled.image, decoded.width, decoded.height)
        if self._tamper.look(view, decoded.captured_s):
            level = logging.WARNING if self._tamper.fault else logging.INFO
            logger.log(level, "view", source_id=self.config.id, fault=self._tamper.fault or "none")
            self._metrics.source_tampered(self.config.id, bool(self._tamper.fault))
            self._tell(True, "frames arrive")

    def _went_offline(self, reason: str) -> None:
        self._become("offline", reason)
        if self._announced is not False:
            self._announce(False, reason)

    def _announce(self, online: bool, reason: str) -> None:
        self._announced = online
        level = logging.INFO if online or self.config.recorded else logging.WARNING
        logger.log(level, "source state", source_id=self.config.id, state="online" if online else "offline", reason=reason)
        self._tell(online, reason)

    def _tell(self, online: bool, reason: str) -> None:
        tampered = self._tamper.fault if self._tamper else ""
        with self._telling:
            self._told = SourceState(self.config.id, online, reason, self._clock.time(), tampered)
            self._delivery.send(self._told)

    def _end(self, state: State, reason: str) -> None:
        while self._sent and not self._stopping.is_set():
            self._clock.sleep(DRAIN_POLL_S)
        if state == "failed" or self.config.live:
            self._went_offline(reason)
        self._delivery.send(SourceFinished(self.config.id))
        self._become(state, reason)

    def _become(self, state: State, reason: str) -> None:
        since_at = self._clock.time() if state != self._status.state else self._status.since_at
        self._status = replace(self._status, state=state, reason=reason, since_at=since_at)
