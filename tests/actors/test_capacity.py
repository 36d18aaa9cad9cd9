"""``framewatch capacity`` on Ray, as a user runs it."""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from tests.actors.test_start import BIN, NO_TOKEN, assert_ended, children
from tests.support.media import make_video
from tests.support.service import wait_for

pytestmark = pytest.mark.ray
FAST = ["--seconds", "3", "--warmup", "0.5", "--max-sources", "2"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """``start(decode, *options)`` measures the settings of one small camera, whose broker is not to be asked."""
    make_video(tmp_path / "clip.mp4", 30, gop=10, size=(640, 480))
    started: list[subprocess.Popen[str]] = []

    def run(decode: str, *options: str | Path) -> subprocess.Popen[str]:
        source = {"id": "hall", "uri": "clip.mp4", "fps": 5, "decode": decode}
        config = {
            "detectors": {"people": {"model": "simulated-person", "threads": 1}},
            "sources": [source],
            "sinks": [{"type": "kafka", "bootstrap_servers": ["127.0.0.1:1"]}],
            "slo": {"latency_ms": 3000, "objective": 0.9},
        }
        (tmp_path / "framewatch.yaml").write_text(yaml.safe_dump(config))
        command = [BIN / "framewatch", "capacity", "-c", "framewatch.yaml", *options]
        process = subprocess.Popen(command, env=NO_TOKEN, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("fw-cap-*"))


def test_a_capacity_is_found(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    before = folders()
    process = start("fast", *FAST, "--json", tmp_path / "found.json")
    told, progress = process.communicate(timeout=200)
    assert process.returncode == 0, told + progress
    figures = json.loads((tmp_path / "found.json").read_text())
    assert figures["sources"] in (1, 2)
    assert figures["steps"][0]["sustained"]
    for step in figures["steps"]:
        assert step["frames_analysed"] > 0
        assert sum(step["cpu_s_by_stage"].values()) == pytest.approx(step["cpu_s"], rel=0.05)
        assert all(step["cpu_s_by_stage"][stage] > 0 for stage in ("decode", "scale", "detect", "Ray and the rest"))
    assert figures["agreement"][0]["share"] == 1.0
    assert figures["closing"] in told
    assert "1 source ..." in progress
    assert not (tmp_path / "framewatch-state").exists()
    assert folders() <= before


def test_ctrl_c_leaves_nothing_behind(start: Callable[..., subprocess.Popen[str]]) -> None:
    before = folders()
    process = start("fast", "--seconds", "60")
    assert process.stderr is not None
    wait_for(lambda: "1 source ..." in process.stderr.readline(), 120, "the first step")  # type: ignore[union-attr]
    spawned: set[psutil.Process] = children(process)
    assert len(spawned) > 5
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=90)
    assert process.returncode == 130
    assert_ended(spawned)
    assert folders() <= before


def test_a_setting_that_loses_detections_is_refused(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    before = folders()
    process = start("key", *FAST, "--json", tmp_path / "found.json")
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "framewatch: decode: key loses detections: only 20.0% of 15 sampled frames" in told
    assert "starting the service" not in told
    assert not (tmp_path / "found.json").exists()
    assert folders() <= before
