"""How events are shown; reading them from a broker is in tests/integration/test_kafka_sink.py."""

import pytest

from stream.config import KafkaConnection
from stream.events import TOPICS, Event
from stream.tail import Record, render, tail
from tests.support.sample_events import one_of_each, tracks

LINES = [
    "21:00:01.400 hall frame 7 (18 ms) 2 objects: person #0 0.87 in floor, person #1 0.87 in floor",
    "21:00:07..21:00:08 hall/floor occupancy 0..3, mean 1.20, last 2, entered 1, left 0, tracks 3",
    "21:00:00..21:00:01 hall/door in 1, out 0",
    "21:00:02 WARNING raised crowd-in-hall (crowd) at hall/floor: 4 (threshold 3)",
    "21:00:00 gate offline: timed out",
    "21:00:00 yard unreadable record frames/0@41, 3 bytes kept: not an image",
]


def record(kind: str, value: bytes) -> Record:
    return Record(kind, f"framewatch.{kind}", 0, 12, 0, b"hall", value)


@pytest.mark.parametrize(("event", "line"), [*zip(one_of_each(), LINES, strict=True)], ids=lambda p: getattr(p, "event_id", ""))
def test_one_line_per_event(event: Event, line: str) -> None:
    assert render(record(TOPICS[type(event)], event.to_json())) == line


@pytest.mark.parametrize(
    "value", [b"", b"\xff\x00", b"{}", b"[1]", tracks(1).to_json()[:-5], b'{"schema":"framewatch.tracks/2"}'], ids=repr
)
def test_what_is_no_event_is_shown_as_such(value: bytes) -> None:
    line = render(record("tracks", value))
    assert line.startswith("[not a tracks record at framewatch.tracks/0@12: ")
    assert "\n" not in line
    assert len(line) < 300


def test_line_ends_inside_an_event_are_folded() -> None:
    event = one_of_each()[4].model_copy(update={"reason": "two\nlines"})
    assert render(record("health", event.to_json())) == "21:00:00 gate offline: two lines"


def test_json_passes_through() -> None:
    assert record("tracks", b'{"a": 1}').json() == '{"a": 1}'
    assert record("tracks", b"\xff").json() == "\ufffd"


def test_unknown_topic() -> None:
    with pytest.raises(ValueError, match="unknown topic 'frames'; known are tracks, counts, alerts, health, dead_letter"):
        next(tail("frames", KafkaConnection(bootstrap_servers=["127.0.0.1:9092"])))
