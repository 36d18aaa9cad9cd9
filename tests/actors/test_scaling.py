"""Detector replicas and ingest actors become more under load and fewer without; a node that dies is made up for."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import serve

from actors import names
from tests.conftest import ROOT
from tests.golden.scenario import CLIP
from tests.support import service as ray_service
from tests.support.media import camera_clip, cut

pytestmark = pytest.mark.ray

SOON = {"up_after_s": 1, "down_after_s": 2}


def replicas() -> int:
    """Detector replicas that run."""
    deployment = serve.status().applications[names.APPLICATION].deployments[names.detector("people")]
    return deployment.replica_states.get("RUNNING", 0)


def ingests() -> set[str]:
    """Names of the ingest actors."""
    return {name["name"] for name in ray.util.list_named_actors(all_namespaces=True) if name["name"].startswith(names.INGEST)}


@pytest.mark.filterwarnings("ignore:The `metrics_interval_s` field:DeprecationWarning")  # Serve's own, in its status too
def test_more_under_load_and_fewer_without(shared: Path, tmp_path: Path, deploy: Callable[..., ray_service.Service]) -> None:
    files = [f"file{i}" for i in range(4)]
    for name in files:
        cut(shared / CLIP, tmp_path / f"{name}.mp4", 100)
    camera_clip(shared / CLIP, tmp_path / "camera.mp4", 42, 10)
    sources: list[dict[str, Any]] = [{"id": name, "uri": f"{name}.mp4"} for name in files]
    sources += [{"id": "camera", "uri": "camera.mp4", "realtime": True, "loop": True, "fps": 1}]
    model = {"model": str(shared / "data/models/FastestDet.onnx"), "classes": ["person"], "threads": 1}
    service = deploy(
        {
            "detectors": {"people": model | {"replicas": {"min": 1, "max": 2, "interval_s": 0.5} | SOON}},
            "sources": sources,
            "sinks": [{"type": "jsonl", "path": "events.jsonl"}],
            "service": {"ingest_cpus": 0.1, "ingest_actors": {"min": 1, "max": 2} | SOON},
            "slo": {"latency_ms": 5000},
        }
    )
    ray_service.wait_for(lambda: replicas() == 2, 90, "a second replica")
    ray_service.wait_for(lambda: ingests() == {"ingest-0", "ingest-1"}, 60, "a second ingest actor")
    ray_service.wait_for(lambda: len({s["actor"] for s in service.sources().values()}) == 2, 60, "sources on both actors")
    ray_service.wait_for(lambda: service.finished(*files), 200, "the end of the files")
    ray_service.wait_for(lambda: replicas() == 1, 60, "a single replica")
    ray_service.wait_for(lambda: ingests() == {"ingest-0"}, 60, "a single ingest actor")
    events = ray_service.jsonl(tmp_path / "events.jsonl")
    for name in files:
        indices = [
            e["frame_index"] for e in ray_service.of_schema(ray_service.distinct(events), "tracks") if e["source_id"] == name
        ]
        assert sorted(indices) == list(range(len(indices))), f"{name} lost frames"
        assert len(indices) >= 700
    seen = service.analysed("camera")
    ray_service.wait_for(lambda: service.analysed("camera") > seen, 20, "the camera going on")


def test_the_death_of_a_node_moves_its_sources(shared: Path, tmp_path: Path) -> None:
    """Two nodes on this machine, in a process of their own: the session's cluster has one."""
    camera_clip(shared / CLIP, tmp_path / "camera.mp4", 42, 10)
    command = [sys.executable, "-m", "tests.support.two_nodes", str(shared), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
