"""Checkpoint: what is saved, and in which order.

State (trackers, zone counters, alert machines, SLO) lives in memory and is saved whole. The order of commits, which the
pipeline and the aggregator both keep to:

1. An alert's change of state and the alert event itself are saved together, the event as *pending*, before the event
   goes to the sinks. So that this waits for no sink, events before it that are not safe yet are saved with it (*unsafe*).
2. The events of all frames up to N go to the sinks and are flushed: acknowledged, or safe on the disk spool.
3. The checkpoint with the state after frame N, and without those events, is saved.
4. The source commits its offset for frame N.

A crash between any two steps repeats work and loses nothing. After 1, the unsafe and the pending events are sent again,
under the same event ids. After 2, the frames since the last checkpoint are read again and make the same events again.
After 3, the same, and the restored state knows by their numbers that it has seen those frames. A consumer that drops
event ids it has seen gets each event once.

On disk a checkpoint is two lines: a header (schema, SHA-256 of the second line) and the state as JSON. The generation
before is kept beside it, under ``.previous``.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from pydantic_core import to_json  # an aggregator waits for it: 0.05 ms a source, json.dumps takes seven times as long

from stream.config import PipelineConfig
from stream.logs import get_logger

SCHEMA = "framewatch.checkpoint/1"
logger = get_logger(__name__)


class Checkpoint:
    """One state in one file, replaced as a whole. For one process and one thread at a time."""

    def __init__(self, path: str | Path):
        """The folder of ``path`` is made when it is not there."""
        self.path = Path(path)
        self._previous = self.path.with_name(self.path.name + ".previous")
        self._temporary = self.path.with_name(self.path.name + ".tmp")
        self._damaged = self.path.with_name(self.path.name + ".damaged")
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def save(self, state: dict[str, Any]) -> None:
        """Put ``state`` (JSON types, keys are strings) in the place of the last one.

        When this returns the state is on the disk; when the process or the machine dies before, the last one is.

        Raises:
            OSError: it could not be written; the last one is still there.
            ValueError: ``state`` holds something that cannot be written.
        """
        body = to_json(state)
        header = json.dumps({"schema": SCHEMA, "sha256": hashlib.sha256(body).hexdigest()}).encode()
        with self._temporary.open("wb") as file:
            file.write(b"%s\n%s\n" % (header, body))
            file.flush()
            os.fsync(file.fileno())
        if self.path.exists():
            os.replace(self.path, self._previous)  # between this and the next line, load() takes the previous one
        os.replace(self._temporary, self.path)
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)  # the renames themselves
        finally:
            os.close(folder)

    def load(self) -> dict[str, Any] | None:
        """The state saved last; None when there is none.

        A damaged file is moved aside (``.damaged``, for a person to look at) with a line in the log, and the generation
        before it is given. That one may lie behind the offsets that were committed since, so counts of the time in
        between are lost; alerts go on from there.

        Raises:
            OSError: a file is there but cannot be read.
        """
        for path in (self.path, self._previous):
            try:
                return _parse(path.read_bytes())
            except FileNotFoundError:
                continue
            except ValueError as error:
                os.replace(path, self._damaged)
                logger.error("a checkpoint is damaged", path=str(path), reason=str(error), moved_to=str(self._damaged))
        return None


def _parse(data: bytes) -> dict[str, Any]:
    """The state in ``data``.

    Raises:
        ValueError: says what is wrong with it.
    """
    head, _, rest = data.partition(b"\n")
    try:
        header = json.loads(head)
        schema, digest = header["schema"], header["sha256"]
    except (ValueError, KeyError, TypeError):
        raise ValueError("no header") from None
    if schema != SCHEMA:
        raise ValueError(f"its schema is {schema!r}, not {SCHEMA!r}")
    body = rest.removesuffix(b"\n")
    if hashlib.sha256(body).hexdigest() != digest:
        raise ValueError("checksum does not match")
    state: dict[str, Any] = json.loads(body)
    return state


def without_files(state: dict[str, Any], config: PipelineConfig) -> dict[str, Any]:
    """A checkpoint without what it holds of files and simulations. An alert that watches something else as well goes on."""
    files = {source.id for source in config.sources if source.recorded}
    alerts = state["alerts"]
    return state | {
        "sources": {source_id: one for source_id, one in state["sources"].items() if source_id not in files},
        "alerts": {
            "occupancy": {path: n for path, n in alerts["occupancy"].items() if path.split("/")[0] not in files},
            "machines": [machine for machine in alerts["machines"] if not _sources_of(machine["target"]) <= files],
        },
    }


def _sources_of(target: str) -> set[str]:
    """The sources that an alert's target names: ``source/zone`` or ``source``, several joined by ``+``."""
    return {path.partition("/")[0] for path in target.split("+")}
