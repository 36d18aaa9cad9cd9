"""Four cameras behind a password, one of which goes away and comes back."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from stream import families
from stream.testing.rtsp_server import CameraServer
from tests.golden.scenario import CLIP
from tests.support import service as ray_service
from tests.support.media import camera_clip

pytestmark = [pytest.mark.ray, pytest.mark.rtsp]

PASSWORD = "s3cret-Pa55w0rd"
CAMERAS = ("cam0", "cam1", "cam2", "cam3")
FAMILIES = {
    "framewatch_frames": "counter",
    "framewatch_stage_seconds": "histogram",
    "framewatch_end_to_end_seconds": "histogram",
    "framewatch_batch_size": "histogram",
    "framewatch_queue_depth": "gauge",
    "framewatch_slo_attainment_ratio": "gauge",
    "framewatch_source_up": "gauge",
    "framewatch_reconnects": "counter",
    "framewatch_events": "counter",
    "framewatch_sink_pending": "gauge",
}


@pytest.fixture
def cameras(shared: Path, tmp_path: Path) -> Iterator[CameraServer]:
    clip = camera_clip(shared / CLIP, tmp_path / "camera.mp4", 24, 10)
    with CameraServer(dict.fromkeys(CAMERAS, clip), user="viewer", password=PASSWORD) as server:
        yield server


def config(cameras: CameraServer) -> dict[str, Any]:
    patience = {"read_timeout_s": 2, "open_timeout_s": 4, "backoff_initial_s": 0.2, "backoff_max_s": 1}
    return {
        "sources": [{"id": name, "uri": cameras.url(name), "fps": 5, "rtsp": patience} for name in CAMERAS],
        "alerts": [{"name": "lost", "type": "source_offline", "clear_for_s": 0}],
        "sinks": [{"type": "jsonl", "path": "events.jsonl"}],
        "slo": {"latency_ms": 2000},
    }


def gaps_s(events: list[dict[str, Any]], source_id: str) -> list[float]:
    """Seconds between the analysed frames of a source."""
    mine = [
        datetime.fromisoformat(e["captured_at"]) for e in ray_service.of_schema(events, "tracks") if e["source_id"] == source_id
    ]
    return [(after - before).total_seconds() for before, after in pairwise(mine)]


def test_one_camera_goes_and_comes_back(cameras: CameraServer, tmp_path: Path, deploy: Callable[..., ray_service.Service]) -> None:
    service = deploy(config(cameras))

    def states() -> dict[str, str]:
        return {name: source["status"]["state"] for name, source in service.sources().items()}

    ray_service.wait_for(lambda: all(service.analysed(name) >= 10 for name in CAMERAS), 60, "frames of all cameras")
    before = service.analysed("cam1")
    cameras.down("cam1")
    ray_service.wait_for(lambda: states().get("cam1") == "offline", 20, "cam1 offline")
    others = [service.analysed(name) for name in CAMERAS if name != "cam1"]
    ray_service.wait_for(lambda: service.analysed("cam0") >= others[0] + 15, 30, "the others going on")
    cameras.up("cam1")
    ray_service.wait_for(lambda: states().get("cam1") == "online", 20, "cam1 online again")
    ray_service.wait_for(lambda: service.analysed("cam1") >= before + 15, 30, "frames of cam1 again")

    status, metrics = service.get("/metrics")
    assert status == 200
    assert_all_families(metrics)
    own = {f"ray_{family.full_name}" for family in families.FAMILIES if family.ray and family.kind == "gauge"}
    own.add("ray_framewatch_frames_total")

    def exported() -> set[str]:
        return set(re.findall(r"^\w+(?={)", service.cluster.exported_metrics(), re.MULTILINE))

    ray_service.wait_for(lambda: own <= exported(), 2 * ray_service.METRICS_INTERVAL_S, "all gauges among Ray's metrics")
    answers = metrics + "".join(service.get(path)[1] for path in ("/v1/sources", "/readyz", "/openapi.json"))
    assert "viewer" in answers  # the address is shown, the password is not
    assert_no_password("the API", answers)

    text = (tmp_path / "events.jsonl").read_text()
    assert_no_password("the events", text)
    events = ray_service.jsonl(tmp_path / "events.jsonl")
    assert ray_service.health_states(events, "cam1") == ["online", "offline", "online"]
    assert [e["state"] for e in ray_service.of_schema(events, "alerts")] == ["raised", "cleared"]
    for name in ("cam0", "cam2", "cam3"):
        assert ray_service.health_states(events, name) == ["online"]
        assert max(gaps_s(events, name)) < 1.5, f"{name} paused"
    assert max(gaps_s(events, "cam1")) > 3

    files = [path for path in service.cluster.logs.rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        assert_no_password(path.name, path.read_text(errors="replace"))
    assert_log([line for path in files for line in path.read_text(errors="replace").splitlines() if line.startswith('{"')])


def assert_no_password(where: str, text: str) -> None:
    assert PASSWORD not in text, f"the password is in {where}"


def assert_log(lines: list[str]) -> None:
    """Ray's log files hold our lines: JSON, one per change of a source's state and none per frame; FFmpeg's among them."""
    said = [json.loads(line) for line in lines]
    of_cam1 = [line for line in said if line.get("source_id") == "cam1"]
    states = [line["state"] for line in of_cam1 if line["event"] == "source state" and line["logger"] == "stream.worker"]
    assert states[-3:] == ["online", "offline", "online"]
    assert {line["actor"] for line in of_cam1} == {"ingest-0"}
    assert {"timestamp", "level", "logger", "event", "actor"} <= set.intersection(*map(set, of_cam1))
    assert any(line["logger"].startswith("libav.") for line in of_cam1), "FFmpeg's own message about the lost camera"
    assert len(of_cam1) < 25


def assert_all_families(metrics: str) -> None:
    """The families are there, with values for what has just been running."""
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", metrics, re.MULTILINE))
    assert FAMILIES.items() <= kinds.items()
    samples = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in metrics.splitlines() if line[0] != "#"}

    def total(name: str, *labels: str) -> float:
        return sum(value for key, value in samples.items() if key.startswith(name + "{") and all(f in key for f in labels))

    assert total("framewatch_frames_total", 'source="cam0"', 'outcome="analysed"') >= 10
    assert total("framewatch_frames_total", 'source="cam0"', 'reason="sampled"') >= 10  # 10 frames/s, 5 are analysed
    for stage in ("decode", "batch", "detect", "track"):
        assert total("framewatch_stage_seconds_count", f'stage="{stage}"') >= 40
    assert total("framewatch_end_to_end_seconds_count", 'source="cam2"') >= 10
    assert total("framewatch_batch_size_count", 'detector="people"') >= 10
    assert total("framewatch_slo_frames_total", 'source="cam2"') >= 10
    assert total("framewatch_detector_replicas", 'detector="people"') == 1
    assert total("framewatch_sources", 'state="online"') == 4
    assert total("framewatch_actors") == 2
    assert total("framewatch_process_resident_memory_bytes", 'actor="Control"') > 1e7
    assert total("framewatch_reconnects_total", 'source="cam1"') >= 1
    assert 0 <= samples['framewatch_slo_attainment_ratio{actor="aggregator-0",source="*"}'] <= 1
    assert {key for key in samples if key.startswith('framewatch_queue_depth{actor="ingest-0"')}
