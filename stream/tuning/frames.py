"""Frames of video files as the service sees them."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
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


def read_frames(source: SourceConfig, spec: InputSpec) -> Generator[ScaledFrame, None, None]:
    """The frames of a file source that the service would analyse, decoded, sampled and scaled by the service's own parts.

    Raises:
        SourceError: the file cannot be read, or not to its end.
    """
    scaler, sampler = Scaler(spec), FrameSampler(source.fps)

    def analysed(frames: Iterable[DecodedFrame]) -> Iterator[ScaledFrame]:
        for frame in frames:
            if sampler.keep(frame.pts_s):
                yield ScaledFrame(_info(source.id, opened.session, frame), scaler.scale(frame.frame))

    with FileSource(source, SystemClock()) as opened:
        decoder = Decoder(opened)
        for packet in opened.packets():
            if isinstance(packet, Packet):
                yield from analysed(decoder.decode(packet))
        yield from analysed(decoder.flush())


def _info(source_id: str, session: str, frame: DecodedFrame) -> FrameInfo:
    return FrameInfo(
        source_id=source_id,
        session=session,
        frame_index=frame.frame_index,
        pts_s=frame.pts_s,
        captured_at=frame.captured_at,
        width=frame.width,
        height=frame.height,
        captured_s=frame.captured_s,
        decoded_s=frame.captured_s,
    )
