"""Decoder: packets in, numbered frames out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import av

from stream.errors import SourceUnreadable
from stream.frame import REWIND_S, Packet, Ticket, media_s
from stream.logs import get_logger
from stream.sources.base import MAX_REORDER_S, Source
from stream.upright import Matrix, Upright, matrix_of

MAX_PIXELS = 64 * 2**20  # 8192 x 8192: a larger frame is taken for an attack or a broken header (96 MiB as YUV 4:2:0)
DEFAULT_INTERVAL_S = 1 / 25  # FFmpeg's own assumption for streams that tell no rate

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """A frame in the decoder's own picture format.

    Attributes:
        frame: the picture, upright; its planes are only valid while this object lives.
        frame_index, pts_s, captured_at, captured_s, width, height: as in ``FrameInfo``.
        ticket: of the frame's packet.
        matrix: what made it upright.
    """

    frame: av.VideoFrame
    frame_index: int
    pts_s: float
    captured_at: float
    captured_s: float
    width: int
    height: int
    ticket: Ticket
    matrix: Matrix = ()


class Decoder:
    """Decodes the packets of one source on the calling thread; used from one thread.

    Frames come in presentation order, later than their packets where the stream has B-frames. ``pts_s`` never falls,
    unless the source gives another codec context whose first packet lies more than ``REWIND_S`` back. A packet that
    cannot be decoded is counted in ``undecodable``, reported to the source, and skipped. The size may change between
    frames. An empty packet, or ``flush``, gives out all frames that are held back; decoding can go on after it with a
    key frame.

    Attributes:
        decoded: packets that were given to the codec.
        undecodable: packets that could not be decoded.
    """

    def __init__(self, source: Source, *, paced: bool = False):
        """``paced``: packets come late by their age when the reader is late (a file played in real time)."""
        self._paced = paced
        self.decoded = self.undecodable = 0
        self._source = source
        self._context: av.VideoCodecContext | None = None
        self._upright = Upright()
        self._last_pts_s: float | None = None
        self._last_ticket: Ticket | None = None
        self._due_s = -math.inf  # of the packets that the codec has had
        self._ahead_s = 0.0  # how far presentation runs ahead of decoding

    def ticket(self, packet: Packet) -> Ticket:
        """A new ticket for a packet that is not empty."""
        data = packet.data
        base, pts, dts, duration = data.time_base, data.pts, data.dts, data.duration
        captured_s = packet.arrived_s - packet.age_s
        pts_s = None if pts is None else media_s(pts, base)
        dts_s = None if dts is None else media_s(dts, base)
        return Ticket(
            pts_s=pts_s,
            dts_s=dts_s,
            interval_s=media_s(duration, base) if duration else DEFAULT_INTERVAL_S,
            captured_at=packet.captured_at,
            captured_s=captured_s,
            due_s=captured_s + self._behind_s(pts_s, dts_s) if self._paced else packet.arrived_s,
            position=packet.position,
            key=bool(data.is_keyframe),
            traceparent=packet.traceparent,
        )

    def _behind_s(self, pts_s: float | None, dts_s: float | None) -> float:
        """How long after its picture was taken a camera sends a packet, as it sends them in the order of decoding."""
        if pts_s is None or dts_s is None:
            return 0.0
        self._ahead_s = max(self._ahead_s, min(pts_s - dts_s, MAX_REORDER_S))
        return max(0.0, self._ahead_s - (pts_s - dts_s))

    def decode(self, packet: Packet, ticket: Ticket | None = None, *, skippable: bool = False) -> list[DecodedFrame]:
        """The frames that are complete now; often none or one.

        Args:
            packet: the next one, in decode order.
            ticket: what its frame is to carry; a new one by default.
            skippable: the frame itself is not needed. It is left out if no other one refers to it.

        Raises:
            SourceUnreadable: the codec cannot be opened.
        """
        data = packet.data
        if not data.size:
            return self.flush()
        ticket = ticket or self.ticket(packet)
        frames = self._follow_codec(ticket)
        self._last_ticket = data.opaque = ticket
        context = self._context
        assert context is not None
        context.skip_frame = "NONREF" if skippable else "DEFAULT"
        self.decoded += 1
        self._due_s = max(self._due_s, ticket.due_s)
        try:
            decoded = context.decode(data)
        except (av.FFmpegError, ValueError) as error:  # ValueError: parameters that changed to something impossible
            self._count_undecodable(packet, error)
            return frames
        numbered = [self._number(frame) for frame in decoded]
        for frame in numbered:  # it could not be had before these packets
            frame.ticket.due_s = max(frame.ticket.due_s, self._due_s)
        return frames + numbered

    def decode_alone(self, packet: Packet, ticket: Ticket) -> list[DecodedFrame]:
        """The frame of a key frame's packet at once, behind what was held back; the next packet must be a key frame's."""
        return self.flush() + self.decode(packet, ticket) + self.flush()

    def flush(self) -> list[DecodedFrame]:
        """All frames that the codec holds back."""
        if self._context is None or not self._context.is_open:
            return []
        try:
            frames = [self._number(frame) for frame in self._context.decode(None)]
        except (av.FFmpegError, ValueError):
            self.undecodable += 1
            frames = []
        self._context.flush_buffers()
        self._due_s = -math.inf
        return frames

    def _follow_codec(self, ticket: Ticket) -> list[DecodedFrame]:
        """Take the source's codec for this ticket's packet; returns what the one before still held."""
        context = self._source.codec_context()
        if context is self._context:
            return []
        frames = self.flush()
        if ticket.pts_s is not None and self._last_pts_s is not None and ticket.pts_s < self._last_pts_s - REWIND_S:
            self._last_pts_s = None
        if not context.is_open:
            self._open(context)
        self._context = context
        return frames

    def _open(self, context: av.VideoCodecContext) -> None:
        context.thread_count = 1  # frame threads cost 13 to 19 % more CPU; there is one decoder per source instead
        context.copy_opaque = True
        context.options = {**context.options, "max_pixels": str(MAX_PIXELS)}
        try:
            context.open(strict=False)
        except (av.FFmpegError, ValueError) as error:
            raise SourceUnreadable(self._source.source_id, f"codec {context.name} cannot be opened: {error}") from error

    def _count_undecodable(self, packet: Packet, error: Exception) -> None:
        if not self.undecodable:
            logger.warning("packets cannot be decoded", source_id=self._source.source_id, first=str(error))
        self.undecodable += 1
        self._source.reject(packet, f"cannot be decoded: {error}")

    def _number(self, frame: av.VideoFrame) -> DecodedFrame:
        ticket = frame.opaque if isinstance(frame.opaque, Ticket) else self._last_ticket
        assert ticket is not None
        pts_s = ticket.pts_s
        if pts_s is None:  # a bare elementary stream
            pts_s = 0.0 if self._last_pts_s is None else self._last_pts_s + ticket.interval_s
        if not ticket.planned:
            pts_s = pts_s if self._last_pts_s is None else max(pts_s, self._last_pts_s)
        self._last_pts_s = pts_s
        if matrix := matrix_of(frame):
            frame = self._upright.turn(frame, matrix)
        return DecodedFrame(
            frame=frame,
            frame_index=ticket.frame_index if ticket.planned else self._source.number(ticket.position),
            pts_s=pts_s,
            captured_at=ticket.captured_at,
            captured_s=ticket.captured_s,
            width=frame.width,
            height=frame.height,
            ticket=ticket,
            matrix=matrix,
        )
