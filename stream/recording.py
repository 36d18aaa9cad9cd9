"""Recordings: the frames of a video file, as the service sees them. A picture is a recording of one frame."""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

from stream.clock import SystemClock
from stream.config import SourceConfig
from stream.decode import DecodedFrame, Decoder
from stream.detectors.base import InputSpec
from stream.frame import FrameInfo, Packet, Uint8Array
from stream.sample import FrameSampler
from stream.scale import Scaler
from stream.sources.file import FileSource


class ScaledFrame(NamedTuple):
    """A frame that is to be analysed.

    Attributes:
        info: see ``FrameInfo``.
        image: uint8 (H, W, 3) at the model's input size.
    """

    info: FrameInfo
    image: Uint8Array


def decoded_frames(source: SourceConfig) -> Generator[DecodedFrame, None, None]:
    """The frames of a file source that the service would analyse, decoded and sampled by the service's own parts.

    Raises:
        SourceError: the file cannot be read, or not to its end.
    """
    sampler = FrameSampler(source.fps)
    with FileSource(source, SystemClock()) as opened:
        decoder = Decoder(opened)
        for packet in opened.packets():
            if isinstance(packet, Packet):
                yield from (frame for frame in decoder.decode(packet) if sampler.keep(frame.pts_s))
        yield from (frame for frame in decoder.flush() if sampler.keep(frame.pts_s))


def read_frames(source: SourceConfig, spec: InputSpec) -> Generator[ScaledFrame, None, None]:
    """``decoded_frames``, scaled as the service scales them. Raises as that does."""
    scaler = Scaler(spec)
    for frame in decoded_frames(source):
        yield ScaledFrame(_info(source.id, frame), scaler.scale(frame.frame))


def _info(source_id: str, frame: DecodedFrame) -> FrameInfo:
    return FrameInfo(
        source_id=source_id,
        session="",
        frame_index=frame.frame_index,
        pts_s=frame.pts_s,
        captured_at=frame.captured_at,
        width=frame.width,
        height=frame.height,
        captured_s=frame.captured_s,
        decoded_s=frame.captured_s,
    )
