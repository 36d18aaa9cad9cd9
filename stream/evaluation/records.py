"""JSON Lines of framewatch's own events, read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from stream.errors import DatasetError
from stream.events import Event

AnyEvent = TypeVar("AnyEvent", bound=Event)


def read_events(path: Path, kind: type[AnyEvent]) -> list[AnyEvent]:
    """The events of one kind; lines with events of other kinds are passed over.

    Raises:
        DatasetError: the file is missing, or a line is not an event; names the line.
    """
    schema = str(kind.model_fields["schema_"].default)
    found = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
        except ValueError as error:
            raise DatasetError(f"{path}:{number}: is not valid JSON: {error}") from error
        if not isinstance(data, dict) or not isinstance(data.get("schema"), str):
            raise DatasetError(f"{path}:{number}: is not an event: it has no schema")
        if data["schema"] != schema:
            continue
        try:
            found.append(kind.model_validate(data))
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            raise DatasetError(f"{path}:{number}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return found


def read_lines(path: Path) -> list[str]:
    """The lines of a text file.

    Raises:
        DatasetError: it is missing or not text.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()  # Excel marks its UTF-8
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: is not text: {error}") from error
