"""Writes ``golden.json``, the summary that the golden test compares with: ``python -m tests.golden.make``.

Run it after a change that is meant to alter what is found, and look at the difference before it is committed.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

from stream.config_file import parse_config
from stream.pipeline import Pipeline
from stream.sinks import open_sinks
from tests.golden.scenario import config, summary

GOLDEN = Path(__file__).with_name("golden.json")


def run(shared: Path, sink: Path, **source: str) -> list[dict[str, Any]]:
    """All events of the scenario, from the one-process pipeline. ``source``: further settings of the source."""
    parsed = parse_config(config(shared, sink, **source), "golden", sink.parent)
    with Pipeline(parsed, open_sinks(parsed.sinks, None)) as pipeline:
        pipeline.run(threading.Event())
    return [json.loads(line) for line in sink.read_text().splitlines()]


def main() -> None:
    """Write the file."""
    shared = Path(os.environ.get("FRAMEWATCH_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    with tempfile.TemporaryDirectory() as folder:
        events = run(shared, Path(folder) / "events.jsonl")
    found = summary(events)
    lists = {"alerts": found.pop("alerts")}
    text = json.dumps(found, indent=2)[:-2]
    rows = ",\n".join(f"    {json.dumps(row)}" for row in lists["alerts"])
    GOLDEN.write_text(f'{text},\n  "alerts": [\n{rows}\n  ]\n}}\n')
    print(f"{GOLDEN}: {found['frames']} frames, {len(lists['alerts'])} alerts")


if __name__ == "__main__":
    main()
