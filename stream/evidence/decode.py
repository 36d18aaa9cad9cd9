"""Decoding one frame again, from the packets that were kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import cast

import av

from stream.decode import MAX_PIXELS
from stream.errors import EvidenceError
from stream.evidence.packets import KeptPacket
from stream.frame import encoded

MAX_DISTANCE_S = 0.05  # where no packet has the frame's very time, as after a step of the media clock
PICTURES = ("mjpeg", "png")


def packet_of(packets: Sequence[KeptPacket], pts_s: float, frame_index: int) -> int:
    """Which packet a frame came from: its place in ``packets``.

    Packets without times are counted, which is right for streams without B-frames, and within a few frames for others.

    Raises:
        EvidenceError: ``not_in_buffer``.
    """
    for i, packet in enumerate(packets):
        if _number(packet) == frame_index:
            return i
    timed = [i for i, packet in enumerate(packets) if packet.timed]
    nearest = min(timed, key=lambda i: abs(packets[i].at_s - pts_s), default=None)
    if nearest is None or abs(packets[nearest].at_s - pts_s) > MAX_DISTANCE_S:
        raise EvidenceError("not_in_buffer")
    return nearest


def _number(packet: KeptPacket) -> int | None:
    """Number of the packet's frame, where it follows from the packet rather than from its time."""
    if packet.position >= 0 and packet.parameters.codec in PICTURES:
        return packet.position  # a Kafka record that is a picture
    return None if packet.timed else packet.number


def decode_frame(packets: Sequence[KeptPacket], pts_s: float, frame_index: int) -> av.VideoFrame:
    """One frame, decoded from the key frame before it on.

    Args:
        packets: in decode order, of one opening.
        pts_s, frame_index: of the frame, as in ``FrameInfo``.

    Raises:
        EvidenceError: ``not_in_buffer``: it or the key frame before it is missing; ``undecodable``.
    """
    target = packet_of(packets, pts_s, frame_index)
    keys = [i for i in range(target, -1, -1) if packets[i].key]
    if keys and packets[target].timed and packets[target].at_s < packets[keys[0]].at_s:
        keys = keys[1:]  # shown before the key frame that it follows: it may refer to the frames before that
    if not keys:
        raise EvidenceError("not_in_buffer")
    first, wanted = packets[keys[0]], packets[target]
    if _number(wanted) is None or wanted.key:
        leading = _frames(packets[keys[0] : target + 1], wanted)
        frames: Iterator[av.VideoFrame] = (frame for frame in leading if frame.opaque == wanted.number)
    else:
        frames = islice(_frames(packets[keys[0] :], None), frame_index - first.number, None)  # in the order of presentation
    frame = next(frames, None)
    if frame is None:
        raise EvidenceError("undecodable")
    return frame


def _frames(packets: Sequence[KeptPacket], wanted: KeptPacket | None) -> Iterator[av.VideoFrame]:
    """The frames of these packets; those that nothing refers to are left out, but for the wanted one, if one is named."""
    context = cast(av.VideoCodecContext, av.CodecContext.create(packets[0].parameters.codec, "r"))
    context.extradata = packets[0].parameters.extradata or None
    context.thread_count, context.copy_opaque = 1, True
    context.options = {"max_pixels": str(MAX_PIXELS)}
    for packet in [*packets, None]:
        data = None
        if packet is not None:
            data = encoded(packet.data)
            data.pts, data.dts, data.time_base, data.opaque = packet.pts, packet.dts, packet.time_base, packet.number
            context.skip_frame = "DEFAULT" if wanted in (None, packet) else "NONREF"
        try:
            yield from context.decode(data)
        except (av.FFmpegError, ValueError):
            continue  # damaged; what follows may still be whole
