"""What the aggregator asks of the ingest that sent a frame: the evidence of the alert that this frame raised."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from stream.clock import Clock
from stream.config import LineConfig, ZoneConfig
from stream.detections import Detections
from stream.events import AlertEvent, TrackedObject
from stream.evidence.address import path_of
from stream.frame import FrameInfo
from stream.metrics import Metrics
from stream.observation import Observation
from stream.rules import AlertRule, CrowdRule

MAX_WAITING = 256
LIKELY = 0.5  # of the detector's confidence: who is detected so faintly is pixelated too; below, boxes are mostly wrong
WAITS_S = 60.0  # then no ingest process comes for it any more

Box = tuple[float, float, float, float]


class EvidenceRequest(BaseModel):
    """A picture, a clip or both of one alert.

    Attributes:
        alert_id: of the alert, which has one request.
        source_id, session, frame_index, pts_s, width, height: of the frame, as in ``FrameInfo``.
        objects: what was reported of the frame.
        others: boxes of what was detected too faintly to be reported, xyxy in pixels.
        members: track ids of the objects that the alert is about.
        zones, lines: of the source.
        picture, clip: paths below the store's root; None where none is wanted.
        before_s, after_s, blur: as in ``RuleEvidence``.
    """

    model_config = ConfigDict(frozen=True)

    alert_id: str
    source_id: str
    session: str
    frame_index: int
    pts_s: float
    width: int
    height: int
    objects: tuple[TrackedObject, ...]
    others: tuple[Box, ...]
    members: tuple[int, ...]
    zones: tuple[ZoneConfig, ...]
    lines: tuple[LineConfig, ...]
    picture: str | None
    clip: str | None
    before_s: float
    after_s: float
    blur: bool


@dataclass(frozen=True, slots=True)
class SeenFrame:
    """The newest frame of a source, as far as evidence needs it."""

    info: FrameInfo
    objects: Sequence[TrackedObject]
    detections: Detections
    confidence: float
    observation: Observation
    zones: Sequence[ZoneConfig]
    lines: Sequence[LineConfig]


@dataclass(slots=True)
class _Waiting:
    sender: str
    request: EvidenceRequest
    asked_s: float
    fetched: bool = False
    handed: int | None = None  # number of the sender's message with whose receipt it went out


class EvidenceRequests:
    """The requests of one aggregator that wait for the sender of their frame. Not thread-safe.

    A request goes out with every receipt to its sender until the sender's next message shows that it has read one of
    them; the sender does what it has done before only once. So a request survives lost answers, and, being in the
    checkpoint, the aggregator's death. What nobody comes for within ``WAITS_S`` is counted as lost.

    Args:
        rules: of all alerts.
        clock: monotonic time.
        metrics: counts what is lost.
    """

    def __init__(self, rules: Sequence[AlertRule], clock: Clock, metrics: Metrics):
        self._clock, self._metrics = clock, metrics
        self._seen: dict[str, tuple[str, SeenFrame]] = {}  # by source: the newest frame and its sender
        self._waiting: deque[_Waiting] = deque()
        self.set_rules(rules)

    def set_rules(self, rules: Sequence[AlertRule]) -> None:
        """These are all rules from now on."""
        self._rules = {rule.name: rule for rule in rules if rule.evidence is not None}

    def saw(self, sender: str, frame: SeenFrame) -> None:
        """A frame was analysed; called before the alerts that it raises are asked for."""
        if self._rules:
            self._seen[frame.info.source_id] = sender, frame

    def forget(self, source_id: str) -> None:
        """The source is no more."""
        self._seen.pop(source_id, None)

    def ask(self, alerts: Iterable[AlertEvent], source_id: str) -> None:
        """Ask for the evidence of those alerts that were raised just now, by the newest frame of this source."""
        for alert in alerts:
            rule = self._rules.get(alert.rule)
            if alert.state != "raised" or rule is None:
                continue
            if source_id not in self._seen:
                self._metrics.evidence("lost", "no_frame")
                continue
            sender, seen = self._seen[source_id]
            self._waiting.append(_Waiting(sender, request_of(rule, alert, seen), self._clock.monotonic()))
            if len(self._waiting) > MAX_WAITING:
                self._drop(self._waiting.popleft())

    def hand_out(self, sender: str, number: int | None) -> tuple[EvidenceRequest, ...]:
        """What goes into a receipt.

        Args:
            sender: whose receipt.
            number: of the message that it answers; None where it answers none.
        """
        if not self._waiting:
            return ()
        self._waiting = deque(one for one in self._waiting if one.sender != sender or not _read(one, number))
        mine = [one for one in self._waiting if one.sender == sender]
        for one in mine:
            one.fetched, one.handed = True, one.handed if number is None else number
        return tuple(one.request for one in mine)

    def expire(self) -> None:
        """Give up what waits for too long; to be called now and then."""
        now_s = self._clock.monotonic()
        while self._waiting and now_s - self._waiting[0].asked_s > WAITS_S:
            self._drop(self._waiting.popleft())

    def _drop(self, one: _Waiting) -> None:
        if not one.fetched:
            self._metrics.evidence("lost", "not_fetched")

    def state(self) -> list[dict[str, Any]]:
        """For the checkpoint."""
        return [{"sender": one.sender, "request": one.request.model_dump(mode="json")} for one in self._waiting]

    def restore(self, state: Iterable[Mapping[str, Any]]) -> None:
        """Take up what waited when the checkpoint was saved."""
        now_s = self._clock.monotonic()
        self._waiting.extend(_Waiting(one["sender"], EvidenceRequest.model_validate(one["request"]), now_s) for one in state)


def _read(one: _Waiting, number: int | None) -> bool:
    """A sender sends its next message only when it has read the receipt for the one before."""
    return one.handed is not None and number is not None and number > one.handed


def request_of(rule: AlertRule, alert: AlertEvent, seen: SeenFrame) -> EvidenceRequest:
    """The request for an alert that this frame raised."""
    evidence, info = rule.evidence, seen.info
    assert evidence is not None
    members = set(alert.track_ids or ())
    if isinstance(rule, CrowdRule):
        zones = [path.partition("/")[2] for path in rule.zone_paths if path.partition("/")[0] == info.source_id]
        members = {track_id for zone in zones for track_id in seen.observation.dwell_s.get(zone, ())}
    reported = {found.xyxy for found in seen.objects}
    likely = seen.detections.xyxy[seen.detections.confidence >= LIKELY * seen.confidence].tolist()
    boxes = [(round(x1, 2), round(y1, 2), round(x2, 2), round(y2, 2)) for x1, y1, x2, y2 in likely]
    return EvidenceRequest(
        alert_id=alert.alert_id,
        source_id=info.source_id,
        session=info.session,
        frame_index=info.frame_index,
        pts_s=info.pts_s,
        width=info.width,
        height=info.height,
        objects=tuple(seen.objects),
        others=tuple(box for box in boxes if box not in reported),
        members=tuple(sorted(members)),
        zones=tuple(seen.zones),
        lines=tuple(seen.lines),
        picture=path_of("picture", alert.source_id, alert.raised_at, alert.alert_id) if evidence.picture else None,
        clip=path_of("clip", alert.source_id, alert.raised_at, alert.alert_id) if evidence.clip else None,
        before_s=evidence.before_s,
        after_s=evidence.after_s,
        blur=evidence.blur,
    )
