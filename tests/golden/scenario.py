"""The golden scenario: one real clip with zones, a line and a rule of each kind, and its events boiled down to a summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CLIP = "data/videos/one-by-one-person-detection.mp4"
PRESENCE_S = ((6.4, 19.4), (23.0, 44.4), (50.6, 69.6), (74.6, 86.6), (93.2, 119.6), (123.8, 135.8))
"""When one of the six people of the clip is in view, by eye, to about 0.3 s (the MANIFEST of the test media)."""


def config(shared: Path, sink: Path, **source: str) -> dict[str, Any]:
    """The scenario's config; events go to the file ``sink``. ``source``: further settings of the source."""
    whole = [[0, 0], [1, 0], [1, 1], [0, 1]]
    left = [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]
    model = {"model": str(shared / "data/models/FastestDet.onnx"), "classes": ["person"], "confidence": 0.5}
    return {
        "detectors": {"people": model},
        "sources": [
            {
                "id": "shop",
                "uri": str(shared / CLIP),
                "fps": 5,
                "zones": [{"name": "all", "polygon": whole}, {"name": "left", "polygon": left}],
                "lines": [{"name": "middle", "points": [[0.5, 0], [0.5, 1]]}],
            }
            | source
        ],
        "alerts": [
            {"name": "crowd", "type": "crowd", "zone": "shop/all", "above": 0, "for_s": 1, "clear_for_s": 1},
            {"name": "intrusion", "type": "intrusion", "zone": "shop/left", "cooldown_s": 10, "severity": "critical"},
            {"name": "crossing", "type": "line", "line": "shop/middle", "clear_for_s": 2, "severity": "info"},
            {"name": "loitering", "type": "loitering", "zone": "shop/all", "dwell_s": 8},
        ],
        "sinks": [{"type": "jsonl", "path": str(sink)}],
    }


def summary(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What must not change unless somebody means it: alerts in their order, totals by zone and line, objects, some boxes."""
    tracks = [event for event in events if event["schema"].startswith("framewatch.tracks/")]
    counts = [event for event in events if event["schema"].startswith("framewatch.counts/")]
    alerts = [event for event in events if event["schema"].startswith("framewatch.alerts/")]
    zones: dict[str, Counter[str]] = {}
    lines: dict[str, Counter[str]] = {}
    for event in counts:
        if "zone" in event:
            zones.setdefault(event["zone"], Counter()).update(windows=1, entered=event["entered"], left=event["left"])
        else:
            lines.setdefault(event["line"], Counter()).update(event["crossings"])
    return {
        "frames": len(tracks),
        "frames_by_objects": {str(n): frames for n, frames in sorted(Counter(len(e["objects"]) for e in tracks).items())},
        "zones": {name: dict(totals) for name, totals in zones.items()},
        "lines": {name: dict(totals) for name, totals in lines.items()},
        "alerts": [[event["at"], event["rule"], event["state"], event["value"]] for event in alerts],
        "boxes": {str(e["frame_index"]): [o["xyxy"] for o in e["objects"]] for e in tracks if e["frame_index"] % 100 == 0},
    }
