"""The gate on a camera over RTSP: a still scene costs little, and when somebody comes nothing is missed."""

import json
import threading
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from stream.config_file import parse_config
from stream.pipeline import Pipeline
from stream.sinks import open_sinks
from stream.testing.rtsp_server import CameraServer
from stream.worker import SourceStatus
from tests.golden.scenario import CLIP
from tests.support.media import camera_clip

pytestmark = pytest.mark.rtsp

Seen = tuple[list[dict[str, Any]], list[dict[str, SourceStatus]], str]
STILL_S, SHOWN_S = 16, 12  # somebody comes 6.4 s into the clip


def config(camera: str, shared: Path, sink: Path) -> dict[str, Any]:
    """One camera twice, with a gate and without."""
    sources = ("gated", "plain")
    whole = [[0, 0], [1, 0], [1, 1], [0, 1]]
    return {
        "detectors": {"people": {"model": str(shared / "data/models/FastestDet.onnx"), "classes": ["person"], "threads": 1}},
        "sources": [
            {
                "id": name,
                "uri": camera,
                "fps": 5,
                "decode": "fast",  # whatever the load
                "gate": name == "gated",
                "tamper": False,  # the clip is the same second again and again: frozen
                "zones": [{"name": "all", "polygon": whole}],
                "lines": [{"name": "middle", "points": [[0.5, 0], [0.5, 1]]}],
            }
            for name in sources
        ],
        "alerts": [
            *({"name": f"intrusion-{name}", "type": "intrusion", "zone": f"{name}/all"} for name in sources),
            *({"name": f"crossing-{name}", "type": "line", "line": f"{name}/middle"} for name in sources),
            {"name": "lost", "type": "source_offline"},
        ],
        "sinks": [{"type": "jsonl", "path": str(sink)}],
        "slo": {"latency_ms": 30_000},  # a busy machine is no failure
    }


@pytest.fixture(scope="module")
def seen(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Events, statuses as they went, and metrics of one showing of the clip."""
    folder = tmp_path_factory.mktemp("gate")
    clip = camera_clip(shared / CLIP, folder / "camera.mp4", 0, SHOWN_S, still_s=STILL_S)
    stop, statuses = threading.Event(), []
    with CameraServer({"hall": clip}) as server:
        parsed = parse_config(config(server.url("hall"), shared, folder / "events.jsonl"), "gate", folder)
        with Pipeline(parsed, open_sinks(parsed.sinks, None)) as pipeline:
            timer = threading.Timer(STILL_S + SHOWN_S - 2.5, stop.set)
            timer.start()
            pipeline.run(stop, lambda now: statuses.append({status.source_id: status for status in now}))
            timer.cancel()
            metrics = pipeline.metrics.expose().decode()
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return events, statuses, metrics


def of(events: list[dict[str, Any]], kind: str, source_id: str) -> list[dict[str, Any]]:
    return [event for event in events if event["schema"].startswith(f"framewatch.{kind}/") and event["source_id"] == source_id]


def test_the_gate_closed_and_opened(seen: Seen) -> None:
    _, statuses, metrics = seen
    asleep = [now["gated"].asleep for now in statuses if "gated" in now]
    assert True in asleep
    assert not asleep[-1]
    assert not any(now["plain"].asleep for now in statuses if "plain" in now)
    last = statuses[-1]
    assert last["gated"].decoded < 0.85 * last["plain"].decoded
    assert last["gated"].frames == pytest.approx(last["plain"].frames, abs=12)
    assert {last["gated"].state, last["plain"].state} == {"online"}
    assert last["gated"].decode == "fast"
    assert 'framewatch_frames_total{outcome="dropped",reason="gated",source="gated"}' in metrics
    assert 'framewatch_source_decode{mode="fast",source="gated"} 1.0' in metrics
    assert 'framewatch_source_asleep{source="gated"} 0.0' in metrics


def test_alerts_are_raised_at_the_same_time(seen: Seen) -> None:
    events, _, _ = seen

    def raised(source_id: str) -> dict[str, list[datetime]]:
        at: dict[str, list[datetime]] = {}
        for event in of(events, "alerts", source_id):
            if event["state"] == "raised":
                at.setdefault(event["rule"].split("-")[0], []).append(datetime.fromisoformat(event["at"]))
        return at

    gated, plain = raised("gated"), raised("plain")
    assert "intrusion" in plain
    assert {rule: len(times) for rule, times in gated.items()} == {rule: len(times) for rule, times in plain.items()}
    for rule, times in gated.items():
        assert all(abs(a - b) <= timedelta(seconds=1) for a, b in zip(times, plain[rule], strict=True)), rule


def test_counts_are_the_same_and_a_still_scene_has_windows(
    seen: Seen,
) -> None:
    events, _, _ = seen
    windows = {name: [e for e in of(events, "counts", name) if e.get("zone")] for name in ("gated", "plain")}
    entered = {name: sum(event["entered"] for event in found) for name, found in windows.items()}
    assert entered["gated"] == entered["plain"] >= 1
    starts = [datetime.fromisoformat(event["window_start"]) for event in windows["gated"]]
    assert all(b - a == timedelta(seconds=1) for a, b in pairwise(starts))
    empty = [event for event in windows["gated"][:-8] if not event["entered"]]
    assert all(event["occupancy"]["max"] == 0 for event in empty[: STILL_S - 4])


def test_the_event_is_analysed_from_its_beginning(seen: Seen) -> None:
    events, _, _ = seen
    somebody = {name: [e for e in of(events, "tracks", name) if e["objects"]] for name in ("gated", "plain")}
    first = {name: datetime.fromisoformat(found[0]["captured_at"]) for name, found in somebody.items()}
    assert abs(first["gated"] - first["plain"]) <= timedelta(seconds=0.5)
    assert len(somebody["gated"]) >= 0.8 * len(somebody["plain"])  # fewer on a machine that cannot keep up
    analysed = {name: len(of(events, "tracks", name)) for name in somebody}
    assert analysed["gated"] < analysed["plain"] - 20


def test_nothing_is_said_to_be_wrong(seen: Seen) -> None:
    events, _, _ = seen
    health = [event["state"] for event in events if event["schema"].startswith("framewatch.health/")]
    assert set(health) == {"online"}
    assert not of(events, "alerts", "hall")
