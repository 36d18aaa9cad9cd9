"""Whether a mode of decoding, or the gate, loses objects: what a clip's analysed frames hold with it and without.

A clip is read as fast as it goes, sampled, scaled and detected on the calling thread, as a live source would be read.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from stream.clock import SystemClock
from stream.config import GATE_HOLD_S, SourceConfig
from stream.detectors.base import Detector
from stream.effort import Effort
from stream.frame import FrameBatch, FrameInfo, Packet
from stream.gate import Gate, Presence
from stream.intake import Intake, IntakeTally, Outcomes
from stream.scale import Scaler
from stream.sources.file import FileSource

MARGIN_S = GATE_HOLD_S + 1.0  # of media time read beyond the last frame that counts: it may be held that long


@dataclass(slots=True)
class Reading:
    """What came of one clip in one mode.

    Attributes:
        objects: at or above the detector's confidence, by number of the analysed frame.
        dropped: frames that were not analysed, by reason.
        cpu_s: CPU seconds of the whole process.
        media_s: length of what was read.
        tally: what was decoded, and what that cost.
    """

    objects: dict[int, int] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    cpu_s: float = 0.0
    media_s: float = 0.0
    tally: IntakeTally = field(default_factory=IntakeTally)


@dataclass(frozen=True, slots=True)
class Clip:
    """The part of a file that is read: CPU counts from media time ``from_s`` on, frames before ``until_s`` (None: all)."""

    from_s: float = 0.0
    until_s: float | None = None


WHOLE = Clip()


def read(
    source: SourceConfig,
    detector: Detector,
    confidence: float,
    lost_s: float,
    clip: Clip = WHOLE,
    stop: threading.Event | None = None,
) -> Reading:
    """Read a file.

    Args:
        source: a file, and how it is read; ``gate`` must be ``on`` for there to be one.
        detector: finds the objects.
        confidence: at or above which an object counts.
        lost_s: see ``Presence``.
        clip: the part that is read.
        stop: ends it early.

    Raises:
        SourceError: the file cannot be read.
        DetectorError: the model failed.
    """
    gate = Gate(Presence(confidence, lost_s)) if source.gated else None
    reading, clock, scaler = Reading(), SystemClock(), Scaler(detector.input)
    began_s, from_pts_s = time.process_time(), 0.0

    def dropped(reason: str, frames: int) -> None:
        reading.dropped[reason] += frames

    with FileSource(source.model_copy(update={"realtime": False, "loop": False}), clock) as opened:
        outcomes = Outcomes(reading.tally, dropped, lambda: True)
        effort = Effort(source, gated=gate is not None)
        intake = Intake(source, opened, lambda decoded: scaler.scale(decoded.frame), effort, gate, clock, outcomes)
        for packet in opened.packets():
            if stop is not None and stop.is_set():
                break
            if clip.until_s is not None and reading.tally.pts_s >= clip.until_s + MARGIN_S:
                break
            if clip.from_s and not from_pts_s and reading.tally.pts_s >= clip.from_s:
                began_s, from_pts_s = time.process_time(), reading.tally.pts_s
            for sampled in intake.frames(packet) if isinstance(packet, Packet) else ():
                frame = sampled.decoded
                info = FrameInfo(source.id, "", frame.frame_index, frame.pts_s, 0.0, frame.width, frame.height, 0.0, 0.0)
                [found] = detector.detect(FrameBatch("agreement", (info,), sampled.image[None]))
                if gate is not None:
                    gate.presence.saw(info, found)
                if clip.until_s is None or frame.pts_s < clip.until_s:
                    reading.objects[frame.frame_index] = int((found.confidence >= confidence).sum())
    reading.cpu_s = time.process_time() - began_s
    reading.media_s = reading.tally.pts_s - from_pts_s
    return reading


@dataclass(frozen=True, slots=True)
class Agreement:
    """A mode held against full decoding without a gate.

    Attributes:
        sampled: frames that full decoding analyses.
        analysed: those that the mode analyses.
        same_analysed: those of ``analysed`` in which it finds as many objects.
        same: those of ``sampled`` in which it says there are as many; it says of a frame behind the gate that it holds what
            the last analysed one held, and nothing of a frame that is left out otherwise.
        objects: that full decoding finds.
    """

    sampled: int
    analysed: int
    same_analysed: int
    same: int
    objects: int

    @property
    def share(self) -> float:
        """``same`` of ``sampled``; 1 where there was nothing to compare."""
        return self.same / self.sampled if self.sampled else 1.0


def compare(full: Reading, other: Reading) -> Agreement:
    """Hold a reading against one with full decoding and without a gate."""
    same_analysed = sum(objects == full.objects.get(index) for index, objects in other.objects.items())
    last, carried = 0, 0
    for index, objects in sorted(full.objects.items()):
        if index in other.objects:
            last = other.objects[index]
        elif objects == last:
            carried += 1
    same = same_analysed + min(carried, other.dropped["gated"])
    return Agreement(len(full.objects), len(other.objects), same_analysed, same, sum(full.objects.values()))
