"""Cutting a clip out of packets, without encoding anything anew."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import av

from stream.errors import EvidenceError
from stream.evidence.packets import KeptPacket
from stream.frame import encoded
from stream.upright import Matrix, is_on_its_side

ANY_PACKET = b"\0\0\1\x09\x10"  # an access unit delimiter of H.264; other codecs are not asked to understand it
CODECS = ("h264", "hevc", "av1", "mpeg4", "mjpeg")  # of which MP4 tells all that a player must know
MP4 = {"movflags": "+faststart"}
TAGS = {"hevc": "hvc1"}  # what Apple's players and browsers want


def select(packets: Sequence[KeptPacket], at_s: float, from_s: float, to_s: float) -> list[KeptPacket]:
    """The packets of a clip: from the last key frame at or before ``from_s``, or the first that there is, to ``to_s``.

    All have the parameter sets of the frame at ``at_s``: a camera that changed its picture's size would make a clip
    that no player shows.

    Raises:
        EvidenceError: ``not_in_buffer``: nothing is held of that moment; ``untimed``.
    """
    if any(not packet.timed for packet in packets):
        raise EvidenceError("untimed")
    moments = [i for i, packet in enumerate(packets) if packet.at_s <= at_s]
    if not moments:
        raise EvidenceError("not_in_buffer")
    moment = max(moments, key=lambda i: packets[i].at_s)
    first = last = moment
    while first > 0 and packets[first - 1].parameters == packets[moment].parameters:
        first -= 1
    while last + 1 < len(packets) and packets[last + 1].parameters == packets[moment].parameters:
        last += 1
    keys = [i for i in range(first, moment + 1) if packets[i].key]
    if not keys:
        raise EvidenceError("not_in_buffer")
    begin = max((i for i in keys if packets[i].at_s <= from_s), default=keys[0])
    end = max((i for i in range(moment, last + 1) if packets[i].at_s <= to_s), default=moment)
    start_s = packets[begin].at_s
    return [packet for packet in packets[begin : end + 1] if packet.at_s >= start_s]  # less what leads up to the key frame


def cut(packets: Sequence[KeptPacket], width: int, height: int, matrix: Matrix = ()) -> bytes:
    """An MP4 of these packets, its index in front; the first is a key frame, and times begin at 0. ``matrix`` makes its frames
    upright, and then they are of this size in pixels.

    The packets' bytes are the source's own; Annex B ones get their lengths in front instead of start codes, as MP4 has it.

    Raises:
        EvidenceError: ``codec``: MP4 does not take it.
    """
    with tempfile.TemporaryDirectory(prefix="framewatch-") as folder:
        path = Path(folder) / "clip.mp4"  # a file, because the index is moved to the front at the end
        try:
            _write(path, packets, width, height, matrix)
        except (av.FFmpegError, ValueError) as error:
            raise EvidenceError("codec", f"{packets[0].parameters.codec}: {error}") from error
        return path.read_bytes()


def _write(path: Path, packets: Sequence[KeptPacket], width: int, height: int, matrix: Matrix) -> None:
    if is_on_its_side(matrix):
        width, height = height, width
    parameters, time_base = packets[0].parameters, packets[0].time_base
    name = av.Codec(parameters.codec, "r").canonical_name
    if name not in CODECS:
        raise EvidenceError("codec", f"no clips are made of {name}")
    with av.open(_template(name), "r", format="nut") as template, av.open(str(path), "w", options=MP4) as container:
        stream = container.add_stream_from_template(template.streams.video[0], opaque=True)
        context = stream.codec_context
        context.extradata, context.width, context.height = parameters.extradata or None, width, height
        if matrix:
            stream.set_display_matrix(matrix)
        if name in TAGS:
            context.codec_tag = TAGS[name]
        stream.time_base = time_base
        start = _dts(packets[0])
        last = -1
        usual = (_dts(packets[-1]) - start) // max(1, len(packets) - 1)  # the last picture must be shown for a while, too
        for packet in packets:
            data = encoded(packet.data)
            last = max(last + 1, round((_dts(packet) - start) * packet.time_base / time_base))
            shown = round(((packet.pts or 0) - start) * packet.time_base / time_base)
            data.time_base, data.dts, data.pts = time_base, last, max(last, shown)
            data.duration, data.is_keyframe, data.stream = packet.duration or usual, packet.key, stream
            container.mux(data)


def _dts(packet: KeptPacket) -> int:
    dts = packet.pts if packet.dts is None else packet.dts
    assert dts is not None
    return dts


def _template(codec: str) -> io.BytesIO:
    """A file with a stream of that codec. PyAV makes a stream for packets with parameter sets only from such a template."""
    file = io.BytesIO()
    with av.open(file, "w", format="nut") as container:
        stream = container.add_mux_stream(codec, width=2, height=2)
        data = av.Packet(ANY_PACKET)
        data.pts = data.dts = 0
        data.is_keyframe, data.stream = True, stream
        container.mux(data)
    file.seek(0)
    return file
