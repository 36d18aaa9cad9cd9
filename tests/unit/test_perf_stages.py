"""The stages' benchmarks: they run, and their ratios are held against the committed ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from perf.stages import BASELINE, REFERENCE, SPARED, ratios, regressions

pytestmark = pytest.mark.compute

ROOT = Path(__file__).resolve().parents[2]


def test_ratios_are_of_the_reference_and_of_what_is_spared() -> None:
    (spared, (much, little)), *_ = SPARED.items()
    found = ratios({REFERENCE: 0.001, much: 0.08, little: 0.02, "test_spool_append": 1.0})
    assert found == {much: 0.0125, little: 0.05, spared: 4.0}


def test_what_became_slower_or_is_missing_is_a_fault() -> None:
    before = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}
    faults = regressions({"a": 0.91, "b": 0.89, "c": 5.0, "new": 0.1}, before)
    assert faults == ["b: 0.89, was 1: a REGRESSION", "d: not measured, was 1"]


def test_the_committed_ratios_are_of_the_benchmarks_that_there_are() -> None:
    committed = json.loads(BASELINE.read_text())
    assert SPARED.keys() <= committed.keys()
    benches = "".join((ROOT / "perf" / name).read_text() for name in ("bench_stages.py", "bench_ring.py"))
    assert {name for name in committed if name.startswith("test_") and f"def {name.split('[')[0]}(" not in benches} == set()
    assert all(ratio > 0 for ratio in committed.values())


def test_the_benchmarks_run(shared: Path, tmp_path: Path) -> None:
    files = [ROOT / "perf" / name for name in ("bench_stages.py", "bench_ring.py")]
    options = [
        "-q",
        "-o",
        "python_files=bench_*.py",
        "-p",
        "no:cacheprovider",
        "--benchmark-disable",
        "--basetemp",
        tmp_path / "bench",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *files],
        cwd=ROOT,
        env=os.environ | {"FRAMEWATCH_SHARED": str(shared)},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout
    assert " passed" in done.stdout.splitlines()[-1]
