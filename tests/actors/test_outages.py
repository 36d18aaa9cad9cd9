"""The broker, a detector replica and Control die while the service runs."""

import os
import time
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.golden.scenario import CLIP
from tests.support import service as ray_service
from tests.support.kafka_broker import Broker
from tests.support.media import camera_clip, cut

pytestmark = pytest.mark.ray

OUTAGE_S = float(os.environ.get("FRAMEWATCH_OUTAGE_S", "12"))
WHOLE = [[0, 0], [1, 0], [1, 1], [0, 1]]
LIVE = ("east", "west")


@pytest.fixture
def clip(shared: Path, tmp_path: Path) -> Path:
    """10 s in which one person goes and another comes."""
    return camera_clip(shared / CLIP, tmp_path / "camera.mp4", 42, 10)


def live_config(clip: Path, sinks: list[dict[str, Any]]) -> dict[str, Any]:
    """Two cameras that repeat the clip for ever."""
    zones = [{"name": "all", "polygon": WHOLE}]
    return {
        "sources": [{"id": i, "uri": str(clip), "realtime": True, "loop": True, "fps": 5, "zones": zones} for i in LIVE],
        "alerts": [{"name": f"seen-{i}", "type": "intrusion", "zone": f"{i}/all", "clear_for_s": 1} for i in LIVE],
        "sinks": sinks,
        "slo": {"latency_ms": 2000},
    }


@pytest.mark.kafka
def test_no_count_and_no_alert_is_lost_while_the_broker_is_away(
    clip: Path, tmp_path: Path, start_broker: Callable[..., Broker], deploy: Callable[..., ray_service.Service]
) -> None:
    broker = start_broker()
    sinks = [{"type": "kafka", "bootstrap_servers": [broker.bootstrap]}, {"type": "jsonl", "path": "events.jsonl"}]
    service = deploy(live_config(clip, sinks))
    ray_service.wait_for(lambda: all(service.analysed(i) >= 15 for i in LIVE), 60, "frames of both cameras")
    (aggregator,) = service.cluster.processes("ray::AggregatorActor")
    memory = [aggregator.memory_info().rss]

    broker.kill()
    ray_service.wait_for(lambda: f"Kafka at {broker.bootstrap}" in service.get("/readyz")[1], 8, "readiness telling of it")
    assert not service.ready()
    for _ in range(10):
        time.sleep(OUTAGE_S / 10)
        memory.append(aggregator.memory_info().rss)
    during = {i: service.analysed(i) for i in LIVE}
    broker.start()
    ray_service.wait_for(lambda: pending(service) < 20, 60, "the spool drained")
    ray_service.wait_for(service.ready, 20, "readiness again")
    ray_service.wait_for(lambda: all(service.analysed(i) >= during[i] + 10 for i in LIVE), 30, "further frames")
    assert aggregator.is_running()
    memory.append(aggregator.memory_info().rss)
    events = ray_service.jsonl(tmp_path / "events.jsonl")

    for kind in ("counts", "alerts", "health"):
        told = {event["event_id"] for event in ray_service.of_schema(events, kind)}
        assert told
        arrived = lambda told=told, kind=kind: told <= kafka_ids(broker, kind)  # noqa: E731
        ray_service.wait_for(arrived, 20, f"all {len(told)} {kind} on Kafka")
    assert len(ray_service.of_schema(events, "alerts")) >= 4
    counts = ray_service.of_schema(events, "counts")
    for source_id in LIVE:
        windows = [e for e in counts if e["source_id"] == source_id]
        starts = [datetime.fromisoformat(e["window_start"]).timestamp() for e in windows]
        assert len(starts) > OUTAGE_S
        assert [after - before for before, after in pairwise(starts)] == [1.0] * (len(starts) - 1)
        assert all(e["frames"] for e in windows[1:]), "the analysis paused"
        assert sum(e["entered"] for e in windows) - sum(e["left"] for e in windows) == windows[-1]["occupancy"]["last"]
    assert max(memory) - memory[0] < 40 << 20, f"memory grew: {[m >> 20 for m in memory]} MiB"


def pending(service: ray_service.Service) -> float:
    lines = [line for line in service.get("/metrics")[1].splitlines() if line.startswith("framewatch_sink_pending{")]
    return sum(float(line.split()[-1]) for line in lines) if lines else float("inf")


def kafka_ids(broker: Broker, kind: str) -> set[str]:
    return {event["event_id"] for event in ray_service.topic_events(broker.bootstrap, f"framewatch.{kind}")}


@pytest.fixture
def mixed(clip: Path, shared: Path, tmp_path: Path, deploy: Callable[..., ray_service.Service]) -> tuple[ray_service.Service, Path]:
    """Two cameras and, begun last, a file that must not lose a frame; and the file of events."""
    cut(shared / CLIP, tmp_path / "file.mp4", 100)
    config = live_config(clip, [{"type": "jsonl", "path": "events.jsonl"}])
    service = deploy(config | {"service": {"access": {"enabled": False, "allowed_schemes": ["file"]}}})
    ray_service.wait_for(lambda: all(service.analysed(i) >= 5 for i in LIVE), 60, "frames of both cameras")
    added = httpx.post(f"{service.url}/v1/sources", json={"id": "file", "uri": str(tmp_path / "file.mp4")}, timeout=30)
    assert added.status_code == 201, added.text
    return service, tmp_path / "events.jsonl"


def test_detector_and_control_are_killed(mixed: tuple[ray_service.Service, Path]) -> None:
    service, path = mixed

    def frames(source_id: str) -> list[int]:
        return [e["frame_index"] for e in ray_service.of_schema(ray_service.jsonl(path), "tracks") if e["source_id"] == source_id]

    ray_service.wait_for(lambda: len(frames("file")) >= 100, 60, "frames of the file")
    service.kill("ServeReplica:framewatch:detector-people")
    assert len(frames("file")) < 900, "it was too late to hurt anybody"
    at_kill = len(frames("east"))
    ray_service.wait_for(lambda: len(frames("east")) >= at_kill + 10, 40, "the camera going on with a new replica")
    ray_service.wait_for(lambda: service.finished("file"), 90, "the end of the file")
    assert frames("file") == list(range(len(frames("file"))))
    assert len(frames("file")) >= 1000

    titles = ("ray::IngestActor", "ray::AggregatorActor")
    workers = [process.pid for title in titles for process in service.cluster.processes(title)]
    ray_service.wait_for(service.ready, 20, "readiness")
    at_kill = len(frames("west"))
    service.kill("ServeReplica:framewatch:Control")
    ray_service.wait_for(service.ready, 40, "Control being back")  # Serve's proxy lets requests wait for the new replica
    ray_service.wait_for(lambda: len(frames("west")) >= at_kill + 10, 20, "the camera going on without Control")
    assert [process.pid for title in titles for process in service.cluster.processes(title)] == workers
    assert psutil.pid_exists(workers[0])
    events = ray_service.jsonl(path)
    for source_id in LIVE:
        assert ray_service.health_states(events, source_id) == ["online"]
    east = [e["captured_at"] for e in ray_service.of_schema(events, "tracks") if e["source_id"] == "west"]
    assert max_gap_s(east[-10:]) < 2


def max_gap_s(times: list[str]) -> float:
    at = [datetime.fromisoformat(time) for time in times]
    return max((after - before).total_seconds() for before, after in pairwise(at))


def test_an_objective_out_of_reach_is_one_breach(clip: Path, tmp_path: Path, deploy: Callable[..., ray_service.Service]) -> None:
    config = live_config(clip, [{"type": "jsonl", "path": "events.jsonl"}]) | {"slo": {"latency_ms": 1, "window_s": 12}}
    deploy(config)

    def breaches() -> list[dict[str, Any]]:
        path = tmp_path / "events.jsonl"
        events = ray_service.jsonl(path) if path.exists() else []
        return [event for event in ray_service.of_schema(events, "health") if event["state"].startswith("slo_")]

    ray_service.wait_for(lambda: len(breaches()) >= 3, 60, "the breaches of both cameras and of the service")
    time.sleep(2)
    assert sorted((event["source_id"], event["state"]) for event in breaches()) == [
        ("*", "slo_breached"),
        ("east", "slo_breached"),
        ("west", "slo_breached"),
    ]
    assert all("within 1 ms" in event["reason"] for event in breaches())
