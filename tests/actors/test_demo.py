"""The demo runs as a newcomer runs it, and its counts are right."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.actors.test_start import NO_TOKEN

pytestmark = [pytest.mark.ray, pytest.mark.kafka, pytest.mark.rtsp, pytest.mark.quiet]

SECONDS = 40  # of 30, with half as many crossings as a minute has, 7 of 45 were wrong now and then


def leftovers() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("framewatch-demo-*"))


def test_the_demo_ends_by_itself_with_counts_within_the_promise(tmp_path: Path) -> None:
    command = [Path(sys.executable).parent / "framewatch", "demo", "--for", str(SECONDS)]
    before = leftovers()
    done = subprocess.run(command, env=NO_TOKEN, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ALERT raised: crowd at station" in done.stdout
    assert "ALERT cleared: crowd at station" in done.stdout
    [error] = re.findall(r"people in zones: error ([\d.]+) %", done.stdout)
    assert float(error) <= 15
    assert "demo@" not in done.stdout + done.stderr, "the cameras' password is nobody's business"
    assert leftovers() <= before
