"""Packet, Ticket, Frame and FrameBatch: what travels before the detector; DetectedBatch: what travels behind it."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import cast

import av
import numpy as np
import numpy.typing as npt

from stream.detections import Detections

Uint8Array = npt.NDArray[np.uint8]
FrameKey = tuple[str, int]
"""Names a frame of a source: session and frame index."""
REWIND_S = 1.0
"""Where time goes back by more, in a topic or a file, another recording begins; less is the jitter of a careless producer."""


def media_s(ticks: int, base: Fraction) -> float:
    """So many ticks of a time base in seconds: the double nearest to the fraction, at a tenth of the price of making one."""
    return ticks * base.numerator / base.denominator


def encoded(data: bytes) -> av.Packet[av.VideoStream]:
    """A packet with a copy of these bytes and, behind them, the zeros that FFmpeg's decoders read.

    ``av.Packet(data)`` refers to the bytes where they lie (PyAV pull request 2119), and what follows them in memory gets into
    the picture.
    """
    packet = cast("av.Packet[av.VideoStream]", av.Packet(len(data)))
    packet.update(data)
    return packet


@dataclass(frozen=True, slots=True)
class Packet:
    """One encoded access unit or one encoded picture, as a source hands it to the decoder.

    Attributes:
        data: the PyAV packet (its ``stream`` or the decoder's codec knows how to decode it). An empty one asks the
            decoder to give out all that it holds back.
        captured_at: POSIX seconds, UTC; when the camera took the picture as far as the source can tell.
        arrived_s: monotonic seconds at which the packet was in our hands.
        position: where the packet lies in its source (a Kafka offset); -1 where that has no meaning.
        age_s: how old the picture was on arrival, where the source's clock tells it.
        traceparent: of a Kafka record, where it has one.
    """

    data: av.Packet[av.VideoStream]
    captured_at: float
    arrived_s: float
    position: int = -1
    age_s: float = 0.0
    traceparent: str = ""


@dataclass(slots=True, eq=False)
class Ticket:
    """What FFmpeg carries from a packet to its frame (AV_CODEC_FLAG_COPY_OPAQUE). A new one for each packet: it must
    not refer to the packet, which refers to it.

    Attributes:
        pts_s, dts_s: media time of presentation and of decoding; None where the stream tells none.
        interval_s: duration of the frame, as far as the stream tells.
        captured_at, captured_s: as in ``FrameInfo``.
        due_s: monotonic seconds at which the packet should have been in our hands; of a frame, also those that the codec had to
            have first (B-frames).
        position: of the packet.
        key: decoding can begin with this packet.
        traceparent: of the packet.
        planned: the two below are set before the packet is decoded, as soon as its place in presentation order is certain.
        frame_index: number in the source; -1 until then.
        wanted: whether the frame is to be analysed; None until then, and False again once it was given out.
    """

    pts_s: float | None
    dts_s: float | None
    interval_s: float
    captured_at: float
    captured_s: float
    due_s: float
    position: int
    key: bool
    traceparent: str = ""
    planned: bool = False
    frame_index: int = -1
    wanted: bool | None = None

    @property
    def line_s(self) -> float:
        """As in ``FrameInfo``."""
        return self.due_s - self.captured_s


@dataclass(frozen=True, slots=True)
class FrameInfo:
    """All that is known of a frame besides its pixels.

    Attributes:
        source_id: id of its source.
        session: names one opening of a live source; empty for inputs whose ``frame_index`` is the same on every
            replay (files, Kafka). ``frame_index`` rises strictly within a session.
        frame_index: number of the frame in its source, counted before sampling.
        pts_s: media time in seconds, never falling within a session but where records of Kafka go back in time.
        captured_at: POSIX seconds, UTC.
        width, height: size of the source frame in pixels.
        captured_s, decoded_s, batched_s: monotonic seconds of the stages passed so far (``captured_s`` is moved
            back by the age that the frame had on arrival, where the source's clock tells it).
        held_s: how long the gate held the frame's packet before it had it decoded; 0 for all other frames.
        line_s: how old the picture was when its packet, and those that the codec had to have first (B-frames), should have been
            in our hands; 0 where that is not known.
        traceparent: of the frame's Kafka record; empty for all other frames.
    """

    source_id: str
    session: str
    frame_index: int
    pts_s: float
    captured_at: float
    width: int
    height: int
    captured_s: float
    decoded_s: float
    batched_s: float = 0.0
    held_s: float = 0.0
    line_s: float = 0.0
    traceparent: str = ""

    @property
    def due_s(self) -> float:
        """Monotonic seconds at which the frame could have been decoded here: line, codec and gate had it until then."""
        return self.captured_s + self.line_s + self.held_s

    @property
    def key(self) -> FrameKey:
        """Tells the frame from all others of its source."""
        return self.session, self.frame_index


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded, sampled and scaled frame.

    Attributes:
        info: see :class:`FrameInfo`.
        image: uint8 (H, W, 3) at the model's input size, in the model's colour order, letterboxed if it wants so.
        picture: uint8 (height, width, 3) BGR at source size, only where somebody asked for it.
    """

    info: FrameInfo
    image: Uint8Array
    picture: Uint8Array | None = None

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise ValueError(f"image must be uint8 (H, W, 3), not {self.image.dtype} {self.image.shape}")


@dataclass(frozen=True, slots=True)
class FrameBatch:
    """Frames of any sources for one detector: the unit of traffic between processes.

    Attributes:
        detector: name of the detector in the config.
        frames: one entry per row of ``images``.
        images: uint8 (N, H, W, 3), contiguous.
    """

    detector: str
    frames: tuple[FrameInfo, ...]
    images: Uint8Array

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.shape[3] != 3 or self.images.dtype != np.uint8:
            raise ValueError(f"images must be uint8 (N, H, W, 3), not {self.images.dtype} {self.images.shape}")
        if len(self.frames) != len(self.images):
            raise ValueError(f"{len(self.frames)} frames but {len(self.images)} images")

    def __len__(self) -> int:
        return len(self.frames)


@dataclass(frozen=True, slots=True)
class DetectedBatch:
    """Frames with what was found in them; small, so it is kept until its events are safe.

    Attributes:
        detector: name of the detector in the config.
        model: identity of the model, ``name@sha256:...``.
        frames: as in the batch, in frame order within each source.
        detections: one per frame, in pixels of the source frame.
        detected_s: monotonic seconds when the detector had answered.
        boot_id: host on whose monotonic clock the stamps were taken.
        sent_at: POSIX seconds of sending, to bridge to another host's monotonic clock.
    """

    detector: str
    model: str
    frames: tuple[FrameInfo, ...]
    detections: tuple[Detections, ...]
    detected_s: float
    boot_id: str = ""
    sent_at: float = field(default=0.0)

    def __post_init__(self) -> None:
        if len(self.frames) != len(self.detections):
            raise ValueError(f"{len(self.frames)} frames but {len(self.detections)} detections")

    def __len__(self) -> int:
        return len(self.frames)
