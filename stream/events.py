"""The events on framewatch's topics, and how their ids are made.

Values on Kafka and lines of a JSON Lines file are the same JSON; ``schema`` names the event and its version.
Adding a field keeps the version, changing or removing one raises it. Ids are hashes of what the event is about, so a
replay of the same input makes the same ids and a consumer can drop what it has seen.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer, TypeAdapter

from stream.redact import redact

Severity = Literal["info", "warning", "critical"]
AlertType = Literal["crowd", "intrusion", "line", "loitering", "source_offline", "source_tampered"]
HealthState = Literal["online", "offline", "tampered", "restored", "slo_breached", "slo_recovered"]
Timestamp = Annotated[
    AwareDatetime,
    PlainSerializer(lambda t: t.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"), return_type=str, when_used="json"),
]

Reason = Annotated[str, AfterValidator(redact)]
"""Why something happened, perhaps in the words of FFmpeg, Kafka or a camera: never with a secret."""


def timestamp(posix_s: float) -> datetime:
    """POSIX seconds as an aware UTC datetime, rounded to microseconds."""
    return datetime.fromtimestamp(round(posix_s, 6), UTC)


def event_id(*parts: object) -> str:
    """32 hex digits that depend on ``parts`` alone (BLAKE2b, 128 bits)."""
    return hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=16).hexdigest()


class Event(BaseModel):
    """What all events share."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, serialize_by_alias=True)

    schema_: str = Field(alias="schema")
    event_id: str
    source_id: str

    def to_json(self) -> bytes:
        """The record's value: one line of JSON without a line end; optional fields that are unset are left out."""
        return self.model_dump_json(exclude_none=True).encode()

    @property
    def key(self) -> str:
        """Key of the Kafka record."""
        return self.source_id


class TrackedObject(BaseModel):
    """One object in a frame; ``xyxy`` in pixels of the source frame."""

    model_config = ConfigDict(frozen=True, populate_by_name=True, serialize_by_alias=True)

    track_id: int
    class_: str = Field(alias="class")
    confidence: float
    xyxy: tuple[float, float, float, float]
    zones: list[str]


class TracksEvent(Event):
    """One analysed frame. ``stages_ms`` holds the milliseconds that each stage took."""

    schema_: Literal["framewatch.tracks/1"] = Field("framewatch.tracks/1", alias="schema")
    frame_index: int
    pts_s: float
    captured_at: Timestamp
    width: int
    height: int
    model: str
    objects: list[TrackedObject]
    stages_ms: dict[str, float]


class Occupancy(BaseModel):
    """Number of objects inside a zone over a window; ``mean`` is weighted by time."""

    model_config = ConfigDict(frozen=True)

    min: int
    mean: float
    max: int
    last: int


class CountsEvent(Event):
    """One window of one zone (``zone`` set) or one line (``line`` set)."""

    schema_: Literal["framewatch.counts/1"] = Field("framewatch.counts/1", alias="schema")
    zone: str | None = None
    line: str | None = None
    window_start: Timestamp
    window_end: Timestamp
    frames: int
    occupancy: Occupancy | None = None
    entered: int | None = None
    left: int | None = None
    tracks: int | None = None
    crossings: dict[Literal["in", "out"], int] | None = None

    @property
    def key(self) -> str:
        return f"{self.source_id}/{self.zone if self.zone is not None else self.line}"


class EvidenceLinks(BaseModel):
    """Where the picture and the clip of an alert lie. They follow within seconds, and expire; reading may need credentials."""

    model_config = ConfigDict(frozen=True)

    picture: str | None = None
    clip: str | None = None


class AlertEvent(Event):
    """A state change of an alert; all changes of one alert share ``alert_id``."""

    schema_: Literal["framewatch.alerts/1"] = Field("framewatch.alerts/1", alias="schema")
    alert_id: str
    rule: str
    type: AlertType
    state: Literal["raised", "updated", "cleared"]
    severity: Severity
    zone: str | None = None
    line: str | None = None
    value: float
    threshold: float
    raised_at: Timestamp
    at: Timestamp
    track_ids: list[int] | None = None
    evidence: EvidenceLinks | None = None

    @property
    def key(self) -> str:
        return self.alert_id


class HealthEvent(Event):
    """A state change of a source or of its SLO; ``source_id`` is ``*`` for the whole service."""

    schema_: Literal["framewatch.health/1"] = Field("framewatch.health/1", alias="schema")
    state: HealthState
    reason: Reason
    at: Timestamp


class DeadLetter(Event):
    """An input record that could not be read; ``payload`` is its value in base64, cut to ``payload_bytes`` bytes."""

    schema_: Literal["framewatch.dead_letter/1"] = Field("framewatch.dead_letter/1", alias="schema")
    topic: str
    partition: int
    offset: int
    reason: Reason
    at: Timestamp
    payload_bytes: int
    payload: str


TOPICS: dict[type[Event], str] = {
    TracksEvent: "tracks",
    CountsEvent: "counts",
    AlertEvent: "alerts",
    HealthEvent: "health",
    DeadLetter: "dead_letter",
}
"""Short topic name of each event, as ``framewatch tail`` and the sinks' ``topics`` setting take it."""

_ANY: TypeAdapter[TracksEvent | CountsEvent | AlertEvent | HealthEvent | DeadLetter] = TypeAdapter(
    Annotated[TracksEvent | CountsEvent | AlertEvent | HealthEvent | DeadLetter, Field(discriminator="schema_")]
)


def parse_event(value: bytes | str) -> Event:
    """The event that ``to_json`` made ``value`` of.

    Raises:
        ValueError: it is none of ours, or of another version.
    """
    return _ANY.validate_json(value)
