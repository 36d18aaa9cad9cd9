"""JSON Schemas of the events, made from their models: ``python -m stream.schemas [FOLDER]`` writes docs/schemas."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from stream.events import TOPICS, Event

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "schemas"


def schema(model: type[Event]) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of what ``to_json`` writes."""
    made = model.model_json_schema(by_alias=True, mode="serialization")
    name = model.model_fields["schema_"].default
    for field, described in model.model_json_schema(by_alias=True, mode="validation")["properties"].items():
        if "format" in described:  # lost where a field has its own serializer
            made["properties"][field]["format"] = described["format"]
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    made["$id"] = f"urn:framewatch:{name}"
    # In serialization mode every field counts as present; a consumer may rely only on those that have no default, and on
    # the event's own name.
    made["required"] = sorted(
        field.alias or key for key, field in model.model_fields.items() if field.is_required() or key == "schema_"
    )
    return made


def schemas() -> dict[str, str]:
    """Text of every schema file by its name, ``framewatch.tracks.1.json`` and so on."""
    return {
        f"{model.model_fields['schema_'].default.replace('/', '.')}.json": json.dumps(schema(model), indent=2, sort_keys=True)
        + "\n"
        for model in TOPICS
    }


def main(folder: Path) -> None:
    """Write the schema files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in schemas().items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
