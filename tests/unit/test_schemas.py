"""The committed JSON Schemas: they are what the models give, events fit them, and version 1 stays readable."""

import json
from typing import Any

import jsonschema
import pytest

from stream.events import TOPICS, Event
from stream.schemas import FOLDER, schema, schemas
from tests.support.sample_events import one_of_each

# What consumers of version 1 rely on: field, JSON type or types. Only ever add to this.
VERSION_1: dict[str, dict[str, str]] = {
    "tracks": {
        "schema": "string",
        "event_id": "string",
        "source_id": "string",
        "frame_index": "integer",
        "pts_s": "number",
        "captured_at": "string",
        "width": "integer",
        "height": "integer",
        "model": "string",
        "objects": "array",
        "stages_ms": "object",
    },
    "counts": {
        "schema": "string",
        "event_id": "string",
        "source_id": "string",
        "window_start": "string",
        "window_end": "string",
        "frames": "integer",
    },
    "alerts": {
        "schema": "string",
        "event_id": "string",
        "source_id": "string",
        "alert_id": "string",
        "rule": "string",
        "type": "string",
        "state": "string",
        "severity": "string",
        "value": "number",
        "threshold": "number",
        "raised_at": "string",
        "at": "string",
    },
    "health": {
        "schema": "string",
        "event_id": "string",
        "source_id": "string",
        "state": "string",
        "reason": "string",
        "at": "string",
    },
    "dead_letter": {
        "schema": "string",
        "event_id": "string",
        "source_id": "string",
        "topic": "string",
        "partition": "integer",
        "offset": "integer",
        "reason": "string",
        "at": "string",
        "payload_bytes": "integer",
        "payload": "string",
    },
}
OPTIONAL_1: dict[str, dict[str, str]] = {
    "counts": {
        "zone": "string",
        "line": "string",
        "occupancy": "#/$defs/Occupancy",
        "entered": "integer",
        "left": "integer",
        "tracks": "integer",
        "crossings": "object",
    },
    "alerts": {"zone": "string", "line": "string", "evidence": "#/$defs/EvidenceLinks"},
}
NESTED_1: dict[str, dict[str, dict[str, str]]] = {
    "tracks": {
        "TrackedObject": {"track_id": "integer", "class": "string", "confidence": "number", "xyxy": "array", "zones": "array"}
    },
    "counts": {"Occupancy": {"min": "integer", "mean": "number", "max": "integer", "last": "integer"}},
}


def committed(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"framewatch.{kind}.1.json").read_text())
    return found


def test_committed_schemas_are_the_generated_ones() -> None:
    on_disk = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    assert on_disk == schemas(), "run: python -m stream.schemas"


@pytest.mark.parametrize("kind", VERSION_1)
def test_version_1_keeps_its_fields(kind: str) -> None:
    found = committed(kind)
    for field, kind_of_value in VERSION_1[kind].items():
        assert field in found["required"]
        assert found["properties"][field]["type"] == kind_of_value, field
    for field, kind_of_value in OPTIONAL_1.get(kind, {}).items():
        choices = found["properties"][field]["anyOf"]
        assert kind_of_value in [choice.get("type", choice.get("$ref")) for choice in choices], field
    for name, fields in NESTED_1.get(kind, {}).items():
        for field, kind_of_value in fields.items():
            assert field in found["$defs"][name]["required"]
            assert found["$defs"][name]["properties"][field]["type"] == kind_of_value, field


@pytest.mark.parametrize("event", one_of_each(), ids=lambda event: event.event_id)
def test_events_fit_their_schema(event: Event) -> None:
    kind = TOPICS[type(event)]
    validator = jsonschema.Draft202012Validator(committed(kind), format_checker=jsonschema.FormatChecker())
    validator.check_schema(committed(kind))
    written = json.loads(event.to_json())
    validator.validate(written)
    for field in VERSION_1[kind]:
        with pytest.raises(jsonschema.ValidationError):
            validator.validate({key: value for key, value in written.items() if key != field})


def test_a_newer_version_gets_its_own_file() -> None:
    class Newer(Event):
        schema_: str = "framewatch.newer/2"

    assert schema(Newer)["$id"] == "urn:framewatch:framewatch.newer/2"
    assert len(schemas()) == len(TOPICS)
