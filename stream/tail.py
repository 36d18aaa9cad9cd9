"""Tail: events read back from their topics, for people and for scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer
from kafka.errors import KafkaError
from pydantic import ValidationError

from stream.config import KafkaConnection, Topics
from stream.errors import SinkUnavailable
from stream.events import TOPICS, AlertEvent, CountsEvent, DeadLetter, Event, HealthEvent, TracksEvent
from stream.kafka_client import client_options, explain, open_client

POLL_MS = 500
_MODELS: dict[str, type[Event]] = {name: model for model, name in TOPICS.items()}
_BAD_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Record:
    """One record of an events topic. ``kind`` is the topic's short name (``tracks``); times in POSIX milliseconds."""

    kind: str
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes
    value: bytes

    def json(self) -> str:
        """The value as it is, for ``--json``; bytes that are no UTF-8 are replaced."""
        return self.value.decode(errors="replace")


def tail(
    topic_name: str,
    connection: KafkaConnection,
    from_beginning: bool = False,
    max_records: int | None = None,
    topics: Topics | None = None,
) -> Iterator[Record]:
    """Records of one events topic as they come, for ever or until ``max_records`` were read.

    Reads all partitions without a consumer group, so it moves nobody's offsets.

    Args:
        topic_name: short name: tracks, counts, alerts, health or dead_letter.
        from_beginning: start with the oldest record kept; otherwise with what comes from now on.
        topics: full names of the topics.

    Raises:
        SinkUnavailable: no broker can be reached; one line with the likely cause. Raised before the first record.
        ValueError: there is no such topic name.
    """
    if topic_name not in _MODELS:
        raise ValueError(f"unknown topic {topic_name!r}; known are {', '.join(_MODELS)}")
    topic: str = getattr(topics or Topics(), topic_name)
    consumer: Any = None
    seen = 0
    try:
        consumer = open_client(
            KafkaConsumer,
            topic,
            **client_options(connection),
            group_id=None,
            auto_offset_reset="earliest" if from_beginning else "latest",
        )
        while max_records is None or seen < max_records:
            batches = consumer.poll(timeout_ms=POLL_MS, max_records=None if max_records is None else max_records - seen)
            for raw in (raw for batch in batches.values() for raw in batch):
                seen += 1
                yield Record(topic_name, topic, raw.partition, raw.offset, raw.timestamp, raw.key or b"", raw.value or b"")
    except (KafkaError, OSError, AssertionError) as error:
        raise SinkUnavailable(explain(error, connection)) from None  # the cause may hold secrets
    finally:
        if consumer is not None:
            consumer.close()


def render(record: Record) -> str:
    """One readable line. A record that is no event of its topic is shown as such, with its beginning."""
    try:
        event = _MODELS[record.kind].model_validate_json(record.value)
    except ValidationError as error:
        reason = error.errors(include_url=False, include_input=False)[0]["msg"]
        shown = repr(record.value[:_BAD_SHOWN])[2:-1] + ("..." if len(record.value) > _BAD_SHOWN else "")
        return f"[not a {record.kind} record at {record.topic}/{record.partition}@{record.offset}: {reason}] {shown}"
    lines: dict[type[Event], Callable[[Any], str]] = {
        TracksEvent: _tracks,
        CountsEvent: _counts,
        AlertEvent: _alert,
        HealthEvent: _health,
        DeadLetter: _dead_letter,
    }
    return " ".join(lines[type(event)](event).splitlines())


def _tracks(event: TracksEvent) -> str:
    objects = ", ".join(
        f"{o.class_} #{o.track_id} {o.confidence:.2f}" + (f" in {'+'.join(o.zones)}" if o.zones else "") for o in event.objects
    )
    took_ms = sum(event.stages_ms.values())
    return (
        f"{event.captured_at.time().isoformat('milliseconds')} {event.source_id} frame {event.frame_index} ({took_ms:.0f} ms) "
        f"{len(event.objects)} objects" + (f": {objects}" if objects else "")
    )


def _counts(event: CountsEvent) -> str:
    parts = []
    if event.occupancy:
        o = event.occupancy
        parts.append(f"occupancy {o.min}..{o.max}, mean {o.mean:.2f}, last {o.last}")
    for name, value in (("entered", event.entered), ("left", event.left), ("tracks", event.tracks)):
        if value is not None:
            parts.append(f"{name} {value}")
    parts += [f"{direction} {number}" for direction, number in (event.crossings or {}).items()]
    return f"{event.window_start:%H:%M:%S}..{event.window_end:%H:%M:%S} {event.key} {', '.join(parts)}"


def _alert(event: AlertEvent) -> str:
    place = f"{event.source_id}/{event.zone or event.line}" if event.zone or event.line else event.source_id
    since = "" if event.state == "raised" else f", raised {event.raised_at:%H:%M:%S}"
    return (
        f"{event.at:%H:%M:%S} {event.severity.upper()} {event.state} {event.rule} ({event.type}) at {place}: "
        f"{event.value:g} (threshold {event.threshold:g}){since}"
    )


def _health(event: HealthEvent) -> str:
    return f"{event.at:%H:%M:%S} {event.source_id} {event.state}: {event.reason}"


def _dead_letter(event: DeadLetter) -> str:
    where = f"{event.topic}/{event.partition}@{event.offset}"
    return f"{event.at:%H:%M:%S} {event.source_id} unreadable record {where}, {event.payload_bytes} bytes kept: {event.reason}"
