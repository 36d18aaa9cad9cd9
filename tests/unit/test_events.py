"""Events: their JSON keeps its names, ids depend on content alone, times are UTC."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stream.events import (
    TOPICS,
    AlertEvent,
    CountsEvent,
    DeadLetter,
    Event,
    HealthEvent,
    Occupancy,
    TrackedObject,
    TracksEvent,
    event_id,
    timestamp,
)

AT = datetime(2026, 11, 22, 21, 0, 0, 123456, UTC)
PERSON = TrackedObject.model_validate(
    {"track_id": 7, "class": "person", "confidence": 0.83, "xyxy": (1, 2, 3, 4), "zones": ["floor"]}
)
EXAMPLES: list[tuple[Event, dict[str, Any], str]] = [
    (
        TracksEvent(
            event_id="e", source_id="hall", frame_index=123, pts_s=4.92, captured_at=AT, width=1920, height=1080,
            model="people@sha256:0123", objects=[PERSON], stages_ms={"decode": 1.5},
        ),
        {
            "schema": "framewatch.tracks/1", "event_id": "e", "source_id": "hall", "frame_index": 123, "pts_s": 4.92,
            "captured_at": "2026-11-22T21:00:00.123456Z", "width": 1920, "height": 1080, "model": "people@sha256:0123",
            "objects": [{"track_id": 7, "class": "person", "confidence": 0.83, "xyxy": [1.0, 2.0, 3.0, 4.0], "zones": ["floor"]}],
            "stages_ms": {"decode": 1.5},
        },
        "hall",
    ),
    (
        CountsEvent(
            event_id="e", source_id="hall", zone="floor", window_start=AT, window_end=AT, frames=5,
            occupancy=Occupancy(min=0, mean=1.2, max=3, last=2), entered=1, left=0, tracks=3,
        ),
        {
            "schema": "framewatch.counts/1", "event_id": "e", "source_id": "hall", "zone": "floor",
            "window_start": "2026-11-22T21:00:00.123456Z", "window_end": "2026-11-22T21:00:00.123456Z", "frames": 5,
            "occupancy": {"min": 0, "mean": 1.2, "max": 3, "last": 2}, "entered": 1, "left": 0, "tracks": 3,
        },
        "hall/floor",
    ),
    (
        CountsEvent(
            event_id="e", source_id="hall", line="door", window_start=AT, window_end=AT, frames=5, crossings={"in": 1, "out": 0}
        ),
        {
            "schema": "framewatch.counts/1", "event_id": "e", "source_id": "hall", "line": "door",
            "window_start": "2026-11-22T21:00:00.123456Z", "window_end": "2026-11-22T21:00:00.123456Z", "frames": 5,
            "crossings": {"in": 1, "out": 0},
        },
        "hall/door",
    ),
    (
        AlertEvent(
            event_id="e", alert_id="al", rule="crowd-in-hall", type="crowd", state="raised", severity="warning", source_id="hall",
            zone="floor", value=4, threshold=3, raised_at=AT, at=AT,
        ),
        {
            "schema": "framewatch.alerts/1", "event_id": "e", "alert_id": "al", "rule": "crowd-in-hall", "type": "crowd",
            "state": "raised", "severity": "warning", "source_id": "hall", "zone": "floor", "value": 4.0, "threshold": 3.0,
            "raised_at": "2026-11-22T21:00:00.123456Z", "at": "2026-11-22T21:00:00.123456Z",
        },
        "al",
    ),
    (
        HealthEvent(event_id="e", source_id="hall", state="offline", reason="timed out", at=AT),
        {
            "schema": "framewatch.health/1", "event_id": "e", "source_id": "hall", "state": "offline", "reason": "timed out",
            "at": "2026-11-22T21:00:00.123456Z",
        },
        "hall",
    ),
    (
        DeadLetter(
            event_id="e", source_id="hall", topic="t", partition=1, offset=2, reason="no JPEG", at=AT,
            payload_bytes=3, payload="AAAA",
        ),
        {
            "schema": "framewatch.dead_letter/1", "event_id": "e", "source_id": "hall", "topic": "t", "partition": 1, "offset": 2,
            "reason": "no JPEG", "at": "2026-11-22T21:00:00.123456Z", "payload_bytes": 3, "payload": "AAAA",
        },
        "hall",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("event", "record", "key"), EXAMPLES, ids=lambda part: type(part).__name__)
def test_the_record_is_the_contract(event: Event, record: dict[str, Any], key: str) -> None:
    text = event.to_json()
    assert b"\n" not in text
    assert json.loads(text) == record
    assert event.key == key
    assert type(event).model_validate_json(text) == event


@pytest.mark.parametrize(("event", "record", "key"), EXAMPLES, ids=lambda part: type(part).__name__)
def test_a_later_version_may_add_fields(event: Event, record: dict[str, Any], key: str) -> None:
    assert type(event).model_validate(record | {"added_later": 1}) == event


def test_another_schema_is_refused() -> None:
    with pytest.raises(ValidationError):
        HealthEvent.model_validate(EXAMPLES[4][1] | {"schema": "framewatch.health/2"})


def test_every_event_has_a_topic() -> None:
    assert {type(event) for event, _, _ in EXAMPLES} == set(TOPICS)
    assert len(set(TOPICS.values())) == len(TOPICS)


def test_events_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        EXAMPLES[4][0].source_id = "x"  # type: ignore[misc]


def test_times_need_a_zone_and_come_out_as_utc() -> None:
    with pytest.raises(ValidationError):
        HealthEvent(event_id="e", source_id="a", state="online", reason="", at=datetime(2026, 1, 1))
    there = AT.astimezone(timezone(timedelta(hours=5, minutes=30)))
    event = HealthEvent(event_id="e", source_id="a", state="online", reason="", at=there)
    assert json.loads(event.to_json())["at"] == "2026-11-22T21:00:00.123456Z"


@given(st.floats(0, 4e9))
def test_timestamp_is_within_a_microsecond(posix_s: float) -> None:
    assert abs(timestamp(posix_s).timestamp() - posix_s) <= 1e-6
    assert timestamp(posix_s).tzinfo is UTC


@given(st.lists(st.text("ab1", max_size=3), max_size=3), st.lists(st.text("ab1", max_size=3), max_size=3))
def test_ids_depend_on_the_parts_and_where_they_end(one: list[str], other: list[str]) -> None:
    assert (event_id("x", *one) == event_id("x", *other)) is (one == other)


def test_ids_never_change() -> None:
    """Consumers drop events that they have seen by these: another value here breaks a replay over an upgrade."""
    assert event_id("tracks", "hall", "", 123) == "f4dbf86539fb56661109544d93cb4aaa"


def test_reasons_hold_no_secret_whoever_made_the_event() -> None:
    reason = "Connection to rtsp://viewer:Z9secret@camera/1 failed"
    health = HealthEvent(event_id="1", source_id="hall", state="offline", reason=reason, at=timestamp(0))
    assert health.reason == "Connection to rtsp://viewer:***@camera/1 failed"
    assert b"Z9secret" not in health.to_json()
