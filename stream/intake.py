"""Intake: from the packets of a source to the pictures that are analysed, decoding no more than that takes.

A packet is decoded at once (``full``), or waits in a backlog until a frame is to be analysed for which it is needed
(``fast``); a key frame that comes first makes what waits needless. Which frames are analysed follows from their times
alone, so it is known before they are decoded, and it is the same choice. While the gate is closed everything waits,
from the last key frame that was looked at on, and is decoded when the gate opens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

from av.video.frame import PictureType

from stream.backlog import Backlog
from stream.clock import Clock
from stream.config import GATE_HOLD_S, SourceConfig
from stream.decode import DecodedFrame, Decoder
from stream.effort import Effort
from stream.frame import Packet, Ticket, Uint8Array
from stream.gate import Gate
from stream.logs import get_logger
from stream.sample import FrameSampler
from stream.sources.base import Source

MAX_ASLEEP_BYTES = 32 * 2**20  # held while the gate is closed: 10 s at 25 Mbit/s
MAX_ASLEEP_PACKETS = 1200  # 10 s at 120 frames/s
CAUGHT_UP_S = 0.1  # packets are again decoded when they come
KEYLESS_PACKETS = 500  # without one key frame: the stream has none, but refreshes its pictures bit by bit
MAX_MISSING = 5  # pictures in a row that did not come out of their own packets: fields, say, two packets to a picture

logger = get_logger(__name__)


@dataclass(slots=True)
class IntakeTally:
    """What has been done for a source so far; it goes on over all openings.

    Attributes:
        frames: of the source, decoded or not.
        decoded: packets given to the codec.
        pts_s: media time reached.
        decode_cpu_s, scale_cpu_s: CPU seconds.
    """

    frames: int = 0
    decoded: int = 0
    pts_s: float = 0.0
    decode_cpu_s: float = 0.0
    scale_cpu_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What an intake has to do with others: where it counts, and when it may decode.

    Attributes:
        tally: what has been done.
        dropped: told of frames that are not analysed, by reason and number.
        answered: whether the detector has answered for all frames given so far; may wait for it where that loses nothing.
        hopeless: whether the frame of a ticket could not be in time any more if it went to the detector now.
        line_too_long: whether that is so because of the camera's line or clock, so that decoding less would not help.
        turn: held while decoding, so that no more sources decode at once than there are cores.
    """

    tally: IntakeTally
    dropped: Callable[[str, int], None]
    answered: Callable[[], bool]
    hopeless: Callable[[Ticket], bool] = lambda ticket: False
    line_too_long: Callable[[Ticket], bool] = lambda ticket: False
    turn: AbstractContextManager[object] = field(default_factory=nullcontext)


@dataclass(frozen=True, slots=True)
class Sampled:
    """A frame to be analysed, its picture for the detector, and how long the gate held it."""

    decoded: DecodedFrame
    image: Uint8Array
    held_s: float


class Intake:
    """One opening of one source. Not thread-safe.

    Args:
        config: the source.
        source: its opening.
        scale: makes the detector's picture of a decoded frame, uint8 (H, W, 3).
        effort: how much is decoded.
        gate: the source's gate; None has every sampled frame analysed.
        clock: monotonic time.
        outcomes: what to count in, and where to tell of frames that are not analysed.
    """

    def __init__(
        self,
        config: SourceConfig,
        source: Source,
        scale: Callable[[DecodedFrame], Uint8Array],
        effort: Effort,
        gate: Gate | None,
        clock: Clock,
        outcomes: Outcomes,
    ):
        self._source, self._scale, self._effort, self._gate = source, scale, effort, gate
        self._clock, self._out, self._live = clock, outcomes, config.live
        self._decoder = Decoder(source, paced=config.recorded)
        self._sampler, self._key_sampler = FrameSampler(config.fps), FrameSampler(config.fps)
        self._backlog = Backlog()
        effort.begin()
        self._level = effort.level
        self._untimed = False  # everything is decoded until a key frame carries its times
        self._keyless: int | None = 0  # packets so far, as long as there was no key frame
        self._owed: set[Ticket] = set()  # wanted, or it may be, given to the codec, not come out yet
        self._missing = 0
        self._first: Ticket | None = None  # key frame
        self._proving: Ticket | None = None  # the second one, until it has been decoded
        self._proven = False  # key frames are whole pictures: decoding can begin with any
        self._late = False  # packets that the gate held are being made up for
        if gate is not None:
            gate.begin(source.session)

    def frames(self, packet: Packet) -> Iterator[Sampled]:
        """The frames to be analysed that this packet completes, in presentation order.

        Raises:
            SourceUnreadable: the codec cannot be opened.
        """
        if not packet.data.size:
            yield from self.flush()
            return
        ticket = self._decoder.ticket(packet)
        self._late = self._late and self._clock.monotonic() - ticket.due_s >= CAUGHT_UP_S
        timed = ticket.pts_s is not None and ticket.dts_s is not None
        if self._level != "full" and not timed:
            self._untimed = True
            yield from self._fall_back("its packets carry no times")
        elif self._untimed and timed and ticket.key:
            yield from self._plan_again()
        if self._level == "full":
            yield from self._pick(self._decode(packet, ticket))
            return
        assert ticket.dts_s is not None
        yield from self._plan(packet, ticket, ticket.dts_s)

    def _plan_again(self) -> Iterator[Sampled]:
        """Packets carry times now, as some cameras' do not at first: from this key frame on, decode what is needed."""
        yield from self._drain()
        self._untimed, self._keyless = False, 0
        self._effort.begin()
        self._level = self._effort.level

    def flush(self) -> Iterator[Sampled]:
        """All frames that are held back, at the end of the input."""
        for ticket in self._backlog.settle():
            yield from self._decide(ticket)
        if self._gate is not None and self._gate.asleep:
            self._leave_out([self._backlog.take()[1] for _ in range(len(self._backlog))])
        else:
            yield from self._work()
        yield from self._drain()
        self._backlog.broken = True

    # -- deciding before decoding

    def _plan(self, packet: Packet, ticket: Ticket, dts_s: float) -> Iterator[Sampled]:
        assert ticket.pts_s is not None
        if self._keyless is not None:
            self._keyless += 1
            if not ticket.key:
                if self._keyless >= KEYLESS_PACKETS:
                    yield from self._fall_back("it has no key frames")
                return
            self._keyless, self._first = None, ticket
        ticket.planned = True
        if ticket.key:
            self._effort.key(ticket.pts_s)
        asleep = self._asleep
        if self._gate is not None:
            self._gate.packet(packet.data.size, ticket.key, ticket.pts_s)
        for certain in self._backlog.push(packet, ticket, dts_s):
            yield from self._decide(certain)
        if self._gate is not None and self._asleep and self._overflows():
            self._gate.wake("key frames are too far apart")
        if not self._asleep:
            self._late = self._late or asleep
            late = self._hopeless(ticket)
            if late:
                self._shed()
            if not late or self._level == "key" or self._backlog.full:
                yield from self._work()

    def _hopeless(self, ticket: Ticket) -> bool:
        """The frame would be late whatever is done. Those that the gate held are not: they are late on purpose."""
        return self._live and not self._late and not self._asleep and self._out.hopeless(ticket)

    def _shed(self) -> None:
        """The newest packet is too late, and with it all before it: none is decoded for its own sake any more."""
        for _, ticket in self._backlog.wanted():
            self._give_up(ticket)
        if self._proven and self._backlog.full:
            self._level = "key"  # until the next key frame: what is held would take too long

    def _give_up(self, ticket: Ticket) -> None:
        ticket.wanted = False
        self._owed.discard(ticket)
        self._out.dropped("stale", 1)
        if not self._out.line_too_long(ticket):
            self._effort.frame(None, self._clock.monotonic())

    @property
    def _asleep(self) -> bool:
        return self._gate is not None and self._gate.asleep

    def _overflows(self) -> bool:
        held = self._backlog
        return held.span_s() > GATE_HOLD_S or held.bytes > MAX_ASLEEP_BYTES or len(held) > MAX_ASLEEP_PACKETS

    def _decide(self, ticket: Ticket) -> Iterator[Sampled]:
        """The ticket's place is certain: number its frame, and say whether it is to be analysed."""
        assert ticket.pts_s is not None
        if ticket.key and self._level != self._effort.level:
            self._level = self._effort.level
            self._key_sampler.reset()
        ticket.frame_index = self._source.number(ticket.position)
        self._count(ticket.pts_s)
        due = self._sampler.keep(ticket.pts_s)
        wanted = due
        if self._level == "key":
            wanted = ticket.key and self._effort.key_granted and self._key_sampler.keep(ticket.pts_s)
        packet = self._to_look_at(ticket)
        ticket.wanted = wanted or packet is not None
        if not ticket.wanted:
            self._owed.discard(ticket)
            self._out.dropped("key_frames_only" if due else "sampled", 1)
        elif packet is None and self._hopeless(ticket):
            self._give_up(ticket)
        if packet is not None:
            yield from self._look(packet, ticket)
        elif ticket.key and not self._asleep:
            if self._proven or self._level == "key":
                self._drop_before(ticket)
            elif ticket is not self._first:
                self._proving = ticket

    def _to_look_at(self, ticket: Ticket) -> Packet | None:
        """The packet of a key frame that the gate wants to see, if it can be decoded by itself now."""
        if self._gate is None or not ticket.key or not self._proven or not self._gate.look_due(ticket.pts_s or 0.0):
            return None
        if not self._asleep and self._backlog.needed_before(ticket):
            return None
        return self._backlog.find(ticket)

    def _look(self, packet: Packet, key: Ticket) -> Iterator[Sampled]:
        """Decode one key frame of a still scene by itself."""
        assert self._gate is not None
        if not self._asleep:
            yield from self._drain()
        self._backlog.broken = True
        for frame in self._decode(packet, key, alone=True):
            image = self._picture(frame)
            if not self._gate.look(image, frame.pts_s):
                return  # it opened: the picture comes again, in its turn
            key.wanted = False  # it is analysed now
            yield Sampled(frame, image, 0.0)
            self._drop_before(key)
        if key.wanted:
            self._gate.wake("a key frame cannot be decoded")

    def _drop_before(self, key: Ticket) -> None:
        """Nothing before this key frame is needed, unless a frame of it waits to be analysed."""
        if self._asleep or not self._backlog.needed_before(key):
            self._leave_out(self._backlog.drop_before(key))

    def _leave_out(self, tickets: Iterable[Ticket]) -> None:
        left = sum(bool(ticket.wanted) for ticket in tickets)
        if left:
            self._out.dropped("gated", left)

    # -- decoding what has been decided

    def _work(self, *, everything: bool = False) -> Iterator[Sampled]:
        """Decode what is held, as far as it is needed."""
        if self._level == "key":
            yield from self._work_on_keys()
            return
        held = self._backlog
        needed = max(held.needed, held.position(self._proving) if self._proving is not None else 0)
        if everything or (self._live and (needed or self._owed)):  # a codec may give out a frame only behind later ones
            needed = len(held)
        while len(held) and (needed > 0 or held.full):
            if held.broken:
                held.broken = False
                yield from self._drain()
                continue
            packet, ticket = held.take()
            needed -= 1
            if ticket.planned and ticket.wanted is not False:
                self._owed.add(ticket)
            # A codec gives out a frame when it has so many later ones: were some left out, a live one would come later.
            skippable = ticket.wanted is False and not (held.reorders and self._live)
            yield from self._pick(self._decode(packet, ticket, skippable=skippable))

    def _work_on_keys(self) -> Iterator[Sampled]:
        for packet, ticket in self._backlog.wanted():
            if not ticket.key:  # from before the level changed
                ticket.wanted = False
                self._out.dropped("key_frames_only", 1)
                continue
            if self._hopeless(ticket):
                self._give_up(ticket)
                continue
            self._owed.add(ticket)
            self._backlog.broken = True
            yield from self._pick(self._decode(packet, ticket, alone=True))
            yield from self._miss([one for one in self._owed if one.wanted])
        while self._backlog.full:
            self._backlog.take()
            self._backlog.broken = True

    def _decode(self, packet: Packet, ticket: Ticket, *, skippable: bool = False, alone: bool = False) -> list[DecodedFrame]:
        cpu_s, decoded, undecodable = time.thread_time(), self._decoder.decoded, self._decoder.undecodable
        decoder = self._decoder
        with self._out.turn:
            frames = decoder.decode_alone(packet, ticket) if alone else decoder.decode(packet, ticket, skippable=skippable)
        failed = self._decoder.undecodable - undecodable
        if failed:
            self._out.dropped("undecodable", failed)
            self._owed.discard(ticket)
        self._out.tally.decoded += self._decoder.decoded - decoded
        self._out.tally.decode_cpu_s += time.thread_time() - cpu_s
        return frames

    def _drain(self) -> Iterator[Sampled]:
        cpu_s = time.thread_time()
        frames = self._decoder.flush()
        self._out.tally.decode_cpu_s += time.thread_time() - cpu_s
        yield from self._pick(frames)
        yield from self._miss([one for one in self._owed if one.wanted])

    # -- what comes out of the codec

    def _pick(self, frames: Iterable[DecodedFrame]) -> Iterator[Sampled]:
        for frame in frames:
            ticket = frame.ticket
            if not ticket.planned:
                self._count(frame.pts_s)
                if self._sampler.keep(frame.pts_s):
                    yield from self._give(frame)
                else:
                    self._out.dropped("sampled", 1)
                continue
            if ticket.key and ticket is not self._first and not self._proven:
                self._proving, self._proven = None, frame.frame.pict_type == PictureType.I
                if not self._proven and self._level != "full":
                    yield from self._fall_back("its key frames are no whole pictures")
            if ticket.wanted is None:  # the codec knows of no frame before it, so it is its turn
                for certain in self._backlog.settle_to(ticket):
                    yield from self._decide(certain)
            if ticket.wanted:
                ticket.wanted, self._missing = False, 0
                self._owed.discard(ticket)
                assert ticket.pts_s is not None
                yield from self._give(replace(frame, frame_index=ticket.frame_index, pts_s=ticket.pts_s))
            yield from self._miss([one for one in self._owed if one.wanted and (one.pts_s or 0.0) < frame.pts_s])

    def _miss(self, tickets: list[Ticket]) -> Iterator[Sampled]:
        """These frames were to be analysed, and will not come."""
        for ticket in tickets:
            self._owed.discard(ticket)
            ticket.wanted = False
            self._out.dropped("undecodable", 1)
            self._missing += 1
        if self._missing >= MAX_MISSING and self._level != "full":
            yield from self._fall_back("its pictures do not match its packets")

    def _give(self, frame: DecodedFrame) -> Iterator[Sampled]:
        if self._hopeless(frame.ticket):
            self._give_up(frame.ticket)
            return
        image = self._picture(frame)
        if self._gate is not None and not self._gate.admits(image, frame.pts_s, self._out.answered):
            self._out.dropped("gated", 1)
            return
        held_s = self._clock.monotonic() - frame.ticket.due_s if self._late and self._live else 0.0
        yield Sampled(frame, image, max(0.0, held_s))

    def _picture(self, frame: DecodedFrame) -> Uint8Array:
        cpu_s = time.thread_time()
        image = self._scale(frame)
        self._out.tally.scale_cpu_s += time.thread_time() - cpu_s
        return image

    def _count(self, pts_s: float) -> None:
        self._out.tally.frames += 1
        self._out.tally.pts_s = pts_s

    def _fall_back(self, reason: str) -> Iterator[Sampled]:
        """Decode everything from now on."""
        logger.info("everything is decoded", source_id=self._source.source_id, reason=reason)
        self._effort.fall_back(reason)
        self._level = "full"
        if self._gate is not None:
            self._gate.wake(reason)
        for ticket in self._backlog.settle():  # the codec will tell their order
            ticket.planned = False
            self._owed.discard(ticket)
        yield from self._work(everything=True)
