"""Synthetic pictures from real cut-outs: several processes, Ctrl-C, and whether a detector knows the people in them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from stream.config import DetectorConfig
from stream.datasets.coco import read_coco
from stream.detectors.base import Detector
from stream.detectors.registry import load_detector
from stream.evaluation.detections import evaluate_detections
from stream.evaluation.predictions import predict
from stream.synthesis.produce import synthesize
from stream.synthesis.settings import Settings
from tests.support.synthesis import penn_fudan, places

pytestmark = pytest.mark.compute

COMMAND = "from stream import cli; from stream.commands.synthesize import synthesize; cli.cli.add_command(synthesize); cli.main()"


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_files_are_the_same_whatever_the_number_of_processes(tmp_path: Path) -> None:
    cut, back = penn_fudan(tmp_path / "cut", 3), places(tmp_path / "back", 3)
    outs = [tmp_path / name for name in ("one", "two", "other")]
    for out, workers, seed in zip(outs, (1, 2, 1), (5, 5, 6), strict=True):
        synthesize(cut, back, 20, out, Settings(seed=seed, negatives=0.5), workers=workers)
    one, two, other = map(content, outs)
    assert one == two
    assert one != other
    assert len(one) == 22


def test_ctrl_c_ends_all_processes_and_leaves_nothing(tmp_path: Path) -> None:
    cut, back, out = penn_fudan(tmp_path / "cut"), places(tmp_path / "back"), tmp_path / "out"
    options = {"--cutouts": cut, "--backgrounds": back, "--count": 100_000, "--out": out, "--workers": 2}
    arguments = [str(part) for pair in options.items() for part in pair]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "synthesize", *arguments], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".out.*/images/*.jpg")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert list(tmp_path.glob(".out.*/images/*.jpg"))
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 2
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in said
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert {path.name for path in tmp_path.iterdir()} == {"cut", "back"}


@pytest.fixture(scope="module")
def detector(shared: Path) -> Detector:
    config = DetectorConfig(model=str(shared / "data/models/yolox_nano.onnx"), confidence=0.01, classes=["person"], threads=1)
    return load_detector("people", config, 0.01)


def test_a_detector_knows_the_people_of_real_cutouts(shared: Path, detector: Detector, tmp_path: Path) -> None:
    back = tmp_path / "back"
    back.mkdir()
    shutil.copy(shared / "data/videos/bottle-detection.mp4", back)
    out = tmp_path / "out"
    summary = synthesize(shared / "data/images/PennFudanPed", back, 30, out, Settings(seed=1), workers=2)
    assert summary.cutouts["person"] > 350
    assert summary.cutouts_left_out["partly covered"] > 20
    truth = read_coco(out / "coco.json")
    assert len(truth.annotations) > 90
    report = evaluate_detections(truth, predict(detector, truth, out))
    assert report.ap50 > 0.75  # 0.85 over many places; on real photographs of these people 0.96
    assert report.best_f1.precision > 0.85


def test_frames_with_people_are_rejected_and_tell_the_ground(shared: Path, tmp_path: Path) -> None:
    back = tmp_path / "back"
    back.mkdir()
    shutil.copy(shared / "data/videos/one-by-one-person-detection.mp4", back)
    config = DetectorConfig(model=str(shared / "data/models/yolox_nano.onnx"), confidence=0.3, threads=1)

    def load() -> Detector:
        return load_detector("backgrounds", config, 0.3)

    out = tmp_path / "out"
    summary = synthesize(penn_fudan(tmp_path / "cut"), back, 10, out, Settings(frames=20), detector=load)
    assert summary.backgrounds + summary.backgrounds_rejected == 20
    assert summary.backgrounds_rejected >= 10  # people are in view for 120 of the 139 s
    assert summary.grounds == {"estimated": 10}
