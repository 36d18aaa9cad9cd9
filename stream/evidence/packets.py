"""PacketRing: the newest packets of a source, kept so that a frame can be decoded again or a clip be cut."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from stream.frame import REWIND_S, Packet, media_s
from stream.sources.base import Source
from stream.upright import Matrix

USUAL_INTERVAL_S = 1 / 25  # of frames whose packets carry no times, as the decoder has it
MAX_LAG_S = 120.0  # a frame whose detections come later than this is not waited for
PARAMETER_SETS = {"h264": (7, 8), "hevc": (32, 33, 34)}
START_CODE = b"\0\0\1"


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a decoder must know before the first packet: FFmpeg's name of the codec, and its parameter sets."""

    codec: str
    extradata: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeptPacket:
    """A copy of a packet.

    Attributes:
        number: of the packet in its opening of the source, in decode order, from 0.
        data: its bytes as the source gave them.
        pts, dts, duration: in units of ``time_base``; None where the stream tells none.
        time_base: seconds.
        key: decoding can begin here.
        at_s: media time of its frame, as in ``FrameInfo.pts_s``; where the packets carry no times, about that.
        position: as in ``Packet``.
        parameters: those that hold for it.
    """

    number: int
    data: bytes = field(repr=False)
    pts: int | None
    dts: int | None
    duration: int
    time_base: Fraction
    key: bool
    at_s: float
    position: int
    parameters: Parameters = field(repr=False)

    @property
    def timed(self) -> bool:
        """The packet says when its frame is shown."""
        return self.pts is not None


class PacketRing:
    """Packets of one opening of a source, from a key frame on.

    It keeps what came since the last frame that the detector has answered for, less the time asked for, and everything
    that somebody has pinned; whole groups (a key frame and what depends on it) are dropped, the oldest first. When more
    than ``max_bytes`` would be held, the oldest go whatever they are kept for. One thread adds, any others read.

    Attributes:
        session: of the source, as in ``FrameInfo``.
        newest_s: media time that the packets have reached.
        matrix: what makes the frames upright; a file has it beside its packets.
        ended: no more packets come.
    """

    def __init__(self, session: str, max_bytes: int):
        self.session, self.ended, self.newest_s = session, False, 0.0
        self.matrix: Matrix = ()
        self._max_bytes = max_bytes
        self._groups: deque[list[KeptPacket]] = deque()
        self._bytes = 0
        self._answered_s: float | None = None
        self._pins: dict[int, float] = {}
        self._pinned = 0
        self._lock = threading.Lock()

    def add(self, packet: KeptPacket, keep_s: float) -> None:
        """Keep a packet; those before the first key frame are of no use."""
        with self._lock:
            if packet.key and packet.timed and packet.at_s < self.newest_s - REWIND_S:  # what was held is of another video
                self._groups.clear()
                self._bytes, self.newest_s, self._answered_s = 0, packet.at_s, None
            self.newest_s = max(self.newest_s, packet.at_s)
            if packet.key:
                self._groups.append([packet])
            elif self._groups:
                self._groups[-1].append(packet)
            else:
                return
            self._bytes += len(packet.data)
            if packet.key:
                self._drop_unneeded(keep_s)
            while self._groups and self._bytes > self._max_bytes:
                self._drop_eldest()

    def _drop_unneeded(self, keep_s: float) -> None:
        answered_s = self.newest_s if self._answered_s is None else self._answered_s
        horizon_s = min([max(answered_s, self.newest_s - MAX_LAG_S) - keep_s, *self._pins.values()])
        while len(self._groups) > 1 and self._groups[1][0].at_s <= horizon_s:
            self._drop_eldest()

    def _drop_eldest(self) -> None:
        self._bytes -= sum(len(packet.data) for packet in self._groups.popleft())

    def sent(self, at_s: float) -> None:
        """A frame of this time is on its way to the detector; the first one is waited for."""
        if self._answered_s is None:
            self._answered_s = at_s

    def answered(self, at_s: float) -> None:
        """Nothing will be asked any more about a frame before this one."""
        self._answered_s = at_s

    def pin(self, from_s: float) -> int:
        """Keep everything from this time on until :meth:`unpin`, as far as ``max_bytes`` allows; returns the pin."""
        with self._lock:
            self._pinned += 1
            self._pins[self._pinned] = from_s
            return self._pinned

    def unpin(self, pin: int) -> None:
        """The packets are not needed any more."""
        with self._lock:
            self._pins.pop(pin, None)

    def packets(self) -> list[KeptPacket]:
        """All that is held, in decode order."""
        with self._lock:
            return [packet for group in self._groups for packet in group]

    @property
    def bytes(self) -> int:
        """Bytes held."""
        return self._bytes


class Recorder:
    """Fills the rings of one source. ``begin``, ``keep`` and ``end`` are called by the source's thread.

    Args:
        max_bytes: of a ring.
    """

    def __init__(self, max_bytes: int):
        self.keep_s: float | None = None
        """How far back packets are wanted, from the oldest frame that has no answer yet; None: nothing is kept."""
        self._max_bytes = max_bytes
        self._source: Source | None = None
        self._ring: PacketRing | None = None
        self._before: PacketRing | None = None  # of the opening before; frames of it may be on their way
        self._number = 0
        self._parameters: Parameters | None = None

    def begin(self, source: Source) -> None:
        """The source has been opened."""
        self.end()
        self._source, self._parameters, self._number = source, None, 0

    def end(self) -> None:
        """The source has been closed. What is held stays, until it has been opened again and packets come."""
        self._source = None
        if self._ring is not None:
            self._ring.ended = True

    def keep(self, packet: Packet) -> None:
        """Copy one packet of the opened source."""
        if self._source is None or not packet.data.size:
            return
        if self.keep_s is None:
            self._ring = self._before = None
            return
        if self._number == 0 or self._ring is None:
            self._ring, self._before = PacketRing(self._source.session, self._max_bytes), self._ring
        self._ring.add(self._copy(packet), self.keep_s)

    def _copy(self, packet: Packet) -> KeptPacket:
        data, raw = packet.data, bytes(packet.data)
        if data.is_keyframe or self._parameters is None:
            self._parameters = self._parameters_of(packet, raw)
        number, self._number = self._number, self._number + 1
        interval_s = media_s(data.duration, data.time_base) if data.duration and data.time_base else USUAL_INTERVAL_S
        return KeptPacket(
            number=number,
            data=raw,
            pts=data.pts,
            dts=data.dts,
            duration=data.duration or 0,
            time_base=data.time_base or Fraction(1, 90_000),
            key=bool(data.is_keyframe),
            at_s=number * interval_s if data.pts is None else media_s(data.pts, data.time_base),
            position=packet.position,
            parameters=self._parameters,
        )

    def _parameters_of(self, packet: Packet, raw: bytes) -> Parameters:
        assert self._source is not None
        context = self._source.codec_context()
        extradata = context.extradata or b""
        if packet.data.has_sidedata("new_extradata"):
            extradata = bytes(packet.data.get_sidedata("new_extradata"))
        elif extradata[:1] != b"\1":  # Annex B: the packet's own count, then those that came before
            known = self._parameters.extradata if self._parameters is not None else extradata
            extradata = parameter_sets(context.name, raw) or known
        found = Parameters(context.name, extradata)
        return self._parameters if found == self._parameters and self._parameters is not None else found

    def answered(self, session: str, at_s: float) -> None:
        """As :meth:`PacketRing.answered`; called by any thread."""
        ring = self._ring
        if ring is not None and ring.session == session:
            ring.answered(at_s)
            if self._before is not None and self._before is not ring:
                self._before = None

    def sent(self, at_s: float, matrix: Matrix = ()) -> None:
        """As :meth:`PacketRing.sent`; ``matrix`` made the frame upright."""
        if self._ring is not None:
            self._ring.matrix = matrix
            self._ring.sent(at_s)

    def ring(self, session: str) -> PacketRing | None:
        """The ring of an opening of the source; None where nothing is held of it. Called by any thread."""
        return next((ring for ring in (self._ring, self._before) if ring is not None and ring.session == session), None)


def parameter_sets(codec: str, data: bytes) -> bytes:
    """The parameter sets in front of the picture in an access unit in Annex B form; empty where it has none."""
    kinds = PARAMETER_SETS.get(codec)
    found = b""
    for unit in _units(data) if kinds else ():
        kind = unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63
        if kinds and kind in kinds:
            found += b"\0" + START_CODE + unit
        elif kind in range(1, 6) if codec == "h264" else kind < 32:
            break  # slices follow
    return found


def _units(data: bytes) -> Iterator[bytes]:
    at = data.find(START_CODE)
    while at >= 0:
        end = data.find(START_CODE, at + 3)
        unit = data[at + 3 :] if end < 0 else data[at + 3 : end].rstrip(b"\0")
        if unit:
            yield unit
        at = end
