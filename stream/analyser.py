"""SourceAnalyser: the tracker and the counter of one source, and how far it has come.

Time (``captured_at``) rises from frame to frame, however late the frames come. Small steps back count as standing still. Where
it goes back further, because a camera's clock was put right or a recording was sent once more, the source begins anew: its
open windows are closed, nobody has been seen yet, and its alerts are cleared (see ``alert``). The alternative would be to
count nothing until the old time is reached again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from stream.config import GATE_HOLD_S, PipelineConfig, SourceConfig
from stream.count import ZoneCounter
from stream.detections import Detections
from stream.drift import Drift
from stream.events import CountsEvent, TrackedObject, TracksEvent, event_id, timestamp
from stream.frame import REWIND_S, FrameInfo, FrameKey
from stream.logs import get_logger
from stream.observation import Direction, Observation
from stream.redact import redact
from stream.track import ByteTracker

BACK_S = 10.0  # of a camera: so far apart may its own clock and the time of arrival be, which takes its place now and then
GATED_S = GATE_HOLD_S + 2.0  # one whose gate may be closed: older frames may still come, decoded and detected late
RECENT = 16  # analysed frames of a source whose events are kept: 0.6 s at 25 frames/s, for whoever looks at a picture

logger = get_logger(__name__)


@dataclass(slots=True)
class SourceTally:
    """What was found so far in one source, and in its zones now.

    Attributes:
        frames, objects, alerts: analysed, reported, raised.
        duplicates: frames that came again and were left out.
        stages_ms: milliseconds that the frames spent in each stage, summed.
        crossings: by line and direction.
        occupancy: objects in each zone after the last frame.
    """

    frames: int = 0
    objects: int = 0
    alerts: int = 0
    duplicates: int = 0
    stages_ms: dict[str, float] = field(default_factory=dict)
    crossings: dict[str, dict[Direction, int]] = field(default_factory=dict)
    occupancy: Mapping[str, int] = field(default_factory=dict)

    def add(self, objects: int, stages_ms: Mapping[str, float]) -> None:
        """Count an analysed frame."""
        self.frames += 1
        self.objects += objects
        for stage, milliseconds in stages_ms.items():
            self.stages_ms[stage] = self.stages_ms.get(stage, 0.0) + milliseconds

    def observe(self, observation: Observation) -> None:
        """Take in what holds in the zones and happened at the lines."""
        self.occupancy = observation.occupancy
        for line, crossings in observation.crossings.items():
            counts = self.crossings.setdefault(line, {"in": 0, "out": 0})
            for crossing in crossings:
                counts[crossing.direction] += 1

    def copy(self) -> SourceTally:
        """One that does not change any more."""
        crossings = {line: dict(counts) for line, counts in self.crossings.items()}
        return replace(self, stages_ms=dict(self.stages_ms), crossings=crossings)


@dataclass(frozen=True, slots=True)
class Seen:
    """An analysed frame: its event, and the objects in each zone after it."""

    key: FrameKey
    event: TracksEvent
    occupancy: Mapping[str, int]


@dataclass(slots=True)
class SourceAnalyser:
    """Tracker and counter of one source, what is usual in it, and how far it has come."""

    config: SourceConfig
    classes: tuple[str, ...]
    confidence: float
    tracker: ByteTracker
    counter: ZoneCounter
    drift: Drift
    fingerprint: str
    online: bool | None = None
    tampered: str = ""
    session: str | None = None
    frame_index: int = -1
    t_s: float = 0.0
    seen_s: float = 0.0
    tally: SourceTally = field(default_factory=SourceTally)
    recent: tuple[Seen, ...] = ()

    @classmethod
    def of(cls, config: PipelineConfig, source: SourceConfig, classes: tuple[str, ...]) -> SourceAnalyser:
        """A fresh analyser with the settings of ``source``; ``fingerprint`` tells those apart under which tracks go on."""
        detector = config.detectors[config.detector_of(source)]
        uri = redact(source.uri)  # a new password is no other camera
        settings = (uri, source.detector, config.tracker, config.counting, detector.confidence)
        return cls(
            config=source,
            classes=classes,
            confidence=detector.confidence,
            tracker=ByteTracker(config.tracker, detector.confidence),
            counter=ZoneCounter(source.id, source.zones, source.lines, config.counting, classes),
            drift=Drift(config.drift, classes),
            fingerprint=hashlib.sha256(repr(settings).encode()).hexdigest()[:16],
        )

    def set_source(self, source: SourceConfig) -> list[CountsEvent]:
        """Go on with other settings of the same fingerprint; the last counts of zones and lines that are no more."""
        self.config = source
        return self.counter.set_zones(source.zones, source.lines, self.classes)

    @property
    def patience_s(self) -> float:
        """How late frames may come before time is moved on without them."""
        return GATED_S if self.config.gated and self.online is not False else 0.0

    def accepts(self, info: FrameInfo) -> bool:
        """False for a frame that was analysed before (a replay after a crash)."""
        return info.session != self.session or info.frame_index > self.frame_index

    def update(self, info: FrameInfo, detections: Detections, now_s: float) -> tuple[Detections, Observation]:
        """Analyse one frame: what is reported of it, and what it says about the zones."""
        self.session, self.frame_index, self.seen_s = info.session, info.frame_index, now_s
        back_s = self.t_s - info.captured_at
        if back_s > (BACK_S if self.config.live else REWIND_S):
            logger.warning("time goes back: the source begins anew", source_id=self.config.id, back_s=round(back_s, 3))
            self.tracker.begin_anew()
            self.counter.begin_anew()
            self.t_s = 0.0
        self.t_s = max(self.t_s, info.captured_at)
        tracked = self.tracker.update(detections, self.t_s)
        return tracked, self.counter.update(self.t_s, info.width, info.height, tracked, self.tracker.hidden)

    def objects(self, tracked: Detections, observation: Observation) -> list[TrackedObject]:
        """What the tracks event shows: objects at or above the detector's confidence."""
        rows = zip(
            tracked.track_id.tolist(),
            tracked.class_id.tolist(),
            tracked.confidence.tolist(),
            tracked.xyxy.tolist(),
            observation.zones_of,
            strict=True,
        )
        return [
            TrackedObject.model_construct(
                track_id=track_id,
                class_=self.classes[class_id],
                confidence=round(confidence, 4),
                xyxy=tuple(round(v, 2) for v in xyxy),
                zones=list(zones),
            )
            for track_id, class_id, confidence, xyxy, zones in rows
            if confidence >= self.confidence
        ]

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {
            "fingerprint": self.fingerprint,
            "online": self.online,
            "tampered": self.tampered,
            "session": self.session,
            "frame_index": self.frame_index,
            "t_s": self.t_s,
            "tracker": self.tracker.state(),
            "counter": self.counter.state(),
            "drift": self.drift.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> bool:
        """Take up a checkpoint; False where the source's settings have changed since, so that nothing of it holds."""
        if state["fingerprint"] != self.fingerprint:
            return False
        self.online, self.tampered, self.session = state["online"], state.get("tampered", ""), state["session"]
        self.frame_index, self.t_s = state["frame_index"], state["t_s"]
        self.tracker.restore(state["tracker"])
        self.counter.restore(state["counter"])
        if "drift" in state:
            self.drift.restore(state["drift"])
        return True


def tracks_event(info: FrameInfo, model: str, objects: list[TrackedObject], stages: dict[str, float]) -> TracksEvent:
    """The event of an analysed frame; ``model`` as in ``DetectedBatch``, ``stages`` in milliseconds."""
    return TracksEvent.model_construct(
        schema_="framewatch.tracks/1",
        event_id=event_id("tracks", info.source_id, info.session, info.frame_index),
        source_id=info.source_id,
        frame_index=info.frame_index,
        pts_s=round(info.pts_s, 6),
        captured_at=timestamp(info.captured_at),
        width=info.width,
        height=info.height,
        model=model,
        objects=objects,
        stages_ms=stages,
    )
