"""``framewatch process`` and ``validate`` as a program: what they write, say and return, on real video and bad input."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import pytest
import yaml

from stream.cli import main

PEOPLE = "one-by-one-person-detection.mp4"
IN_VIEW_S = [(6.4, 19.4), (23.0, 44.4), (50.6, 69.6), (74.6, 86.6), (93.2, 119.6), (123.8, 135.8)]  # by eye, see the MANIFEST
EDGE_S = 0.6  # somebody half in the picture may or may not be found


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


Framewatch = Callable[..., Done]


@pytest.fixture
def framewatch(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Framewatch:
    """The command, run in this process: starting Python and OpenVINO anew for each call would take most of the time."""

    def run(*args: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["framewatch", *map(str, args)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        return Done(code, *capfd.readouterr())

    return run


def test_it_is_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "stream.cli", "process", "x.mp4", "--bogus"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--bogus" in done.stderr


@pytest.fixture(scope="module")
def model(shared: Path) -> Path:
    return shared / "data" / "models" / "FastestDet.onnx"


@pytest.fixture
def config(shared: Path, model: Path, tmp_path: Path) -> dict[str, Any]:
    """A config whose one source is the person clip by a relative path."""
    (tmp_path / "clip.mp4").symlink_to(shared / "data" / "videos" / PEOPLE)
    (tmp_path / "model.onnx").symlink_to(model)
    return {
        "detectors": {"people": {"model": "model.onnx", "classes": ["person"], "confidence": 0.5}},
        "sources": [
            {
                "id": "hall",
                "uri": "clip.mp4",
                "fps": 5,
                "zones": [{"name": "floor", "polygon": [[0, 0.3], [1, 0.3], [1, 1], [0, 1]]}],
                "lines": [{"name": "door", "points": [[0.5, 0], [0.5, 1]]}],
            }
        ],
        "alerts": [{"name": "anybody", "type": "crowd", "zone": "hall/floor", "above": 0, "for_s": 2, "clear_for_s": 2}],
    }


def write(config: dict[str, Any], folder: Path) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def events(path: Path, name: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [event for event in found if event["schema"] == f"framewatch.{name}/1"]


@pytest.mark.compute
def test_the_people_of_the_clip_are_found_counted_and_alerted(
    framewatch: Framewatch, config: dict[str, Any], tmp_path: Path
) -> None:
    path, out, annotated = write(config, tmp_path), tmp_path / "out.jsonl", tmp_path / "boxes.mp4"
    done = framewatch("process", "-c", path, "--out", out, "--annotate", annotated)
    assert done.returncode == 0, done.stderr
    tracks = events(out, "tracks")
    assert len(tracks) == 697  # 139.4 s at 5 frames a second
    assert len({event["event_id"] for event in tracks}) == 697
    sure = [event for event in tracks if all(abs(event["pts_s"] - edge) > EDGE_S for span in IN_VIEW_S for edge in span)]
    right = [event for event in sure if len(event["objects"]) == any(a < event["pts_s"] < b for a, b in IN_VIEW_S)]
    assert len(right) >= 0.98 * len(sure)
    assert [event["state"] for event in events(out, "alerts")] == ["raised", "cleared"] * 6
    entered = sum(event.get("entered", 0) for event in events(out, "counts"))
    assert 6 <= entered <= 7  # six people; FastestDet sees one of them twice for a moment
    with av.open(str(annotated)) as video:
        assert sum(1 for _ in video.decode(video=0)) == 697
    assert "hall" in done.stderr
    assert "697" in done.stderr


@pytest.mark.compute
def test_a_replay_gives_the_same_events(framewatch: Framewatch, config: dict[str, Any], tmp_path: Path) -> None:
    config["sources"][0]["fps"] = 1
    path = write(config, tmp_path)
    texts = []
    for name in ("a.jsonl", "b.jsonl"):
        assert framewatch("process", "-c", path, "--out", tmp_path / name).returncode == 0
        found = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        for event in found:
            event.pop("stages_ms", None)
        texts.append(found)
    assert texts[0] == texts[1]


def test_inputs_take_settings_by_id_by_uri_or_none(
    framewatch: Framewatch, config: dict[str, Any], shared: Path, tmp_path: Path
) -> None:
    path, other = write(config, tmp_path), shared / "data" / "hostile" / "made" / "plain_h264.mp4"
    out = tmp_path / "out.jsonl"
    done = framewatch("process", f"hall={other}", other, "-c", path, "--out", out, "--fps", 2)
    assert done.returncode == 0, done.stderr
    sources = {event["source_id"] for event in events(out, "tracks")}
    assert sources == {"hall", "plain_h264"}
    assert {event["source_id"] for event in events(out, "counts")} == {"hall"}


def test_events_go_to_standard_output(framewatch: Framewatch, shared: Path, model: Path) -> None:
    clip = shared / "data" / "hostile" / "made" / "one_frame.mp4"
    done = framewatch("process", clip, "--model", model, "--out", "-")
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    event = json.loads(line)
    assert event["source_id"] == "one_frame"
    assert set(event["stages_ms"]) == {"decode", "batch", "detect", "track"}
    assert event["model"].startswith("default@sha256:31cb14c017fc")


def test_a_truncated_file_gives_what_could_be_read_and_exit_1(
    framewatch: Framewatch, shared: Path, model: Path, tmp_path: Path
) -> None:
    made, out = shared / "data" / "hostile" / "made", tmp_path / "out.jsonl"
    done = framewatch("process", made / "truncated_faststart.mp4", made / "plain_h264.mp4", "--model", model, "--out", out)
    assert done.returncode == 1
    assert "framewatch: source 'truncated_faststart': " in done.stderr
    assert "truncated" in done.stderr
    read = {name: sum(e["source_id"] == name for e in events(out, "tracks")) for name in ("truncated_faststart", "plain_h264")}
    assert read["truncated_faststart"] > 10
    assert read["plain_h264"] == 60


@pytest.mark.parametrize(
    ("name", "reason"), [("missing.mp4", "no such file"), ("text.mp4", "text.mp4"), ("audio_only.mp4", "no video")]
)
def test_an_unreadable_input_is_named_and_exit_1(framewatch: Framewatch, shared: Path, model: Path, name: str, reason: str) -> None:
    done = framewatch("process", shared / "data" / "hostile" / "made" / name, "--model", model)
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("framewatch: ")]
    assert reason in line
    assert "Traceback" not in done.stderr


def test_an_input_is_never_written_over(framewatch: Framewatch, shared: Path, model: Path, tmp_path: Path) -> None:
    clip = tmp_path / "in.mp4"
    shutil.copyfile(shared / "data" / "hostile" / "made" / "plain_h264.mp4", clip)
    shutil.copyfile(clip, tmp_path / "boxes-in.mp4")
    (tmp_path / "link").symlink_to(clip)
    before = clip.read_bytes()
    for args, reason in [
        (["--out", clip], "--out"),
        (["--out", tmp_path / "link"], "--out"),
        (["--annotate", clip], "--annotate"),
        ([tmp_path / "boxes-in.mp4", "--annotate", tmp_path / "boxes.mp4"], "boxes-in.mp4 is an input"),
    ]:
        done = framewatch("process", clip, "--model", model, *args)
        assert done.returncode == 2, args
        assert reason in done.stderr
    assert clip.read_bytes() == (tmp_path / "boxes-in.mp4").read_bytes() == before


def test_out_may_be_a_pipe_and_a_link(framewatch: Framewatch, shared: Path, model: Path, tmp_path: Path) -> None:
    clip = shared / "data" / "hostile" / "made" / "plain_h264.mp4"
    pipe, link, old = tmp_path / "pipe", tmp_path / "link", tmp_path / "old.jsonl"
    os.mkfifo(pipe)
    old.write_text("of yesterday\n")
    link.symlink_to(old)
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(pipe.read_text().splitlines()))
    reader.start()
    assert framewatch("process", clip, "--model", model, "--out", pipe).returncode == 0
    reader.join(10)
    assert framewatch("process", clip, "--model", model, "--out", link).returncode == 0
    assert pipe.is_fifo()
    assert link.is_symlink()
    written = old.read_text().splitlines()
    assert len(written) == len(lines) >= 60
    assert all(json.loads(line)["schema"].startswith("framewatch.") for line in written)


def test_bad_usage_exits_2(framewatch: Framewatch, model: Path, tmp_path: Path) -> None:
    for args, reason in [
        (["process", "--model", model], "give an INPUT"),
        (["process", "x.mp4", "--bogus"], "--bogus"),
        (["process", "x.mp4", "--fps", "nan"], "not a finite number"),
        (["process", "x.mp4", "--model", model, "--annotate", "boxes.txt"], "boxes.txt must end in one of .mp4"),
        (["process", "x.mp4", "--model", tmp_path / "none.onnx"], "none.onnx: no such file"),
        (["process", "x.mp4", "-c", tmp_path / "none.yaml"], "none.yaml: No such file"),
        (["validate"], "--config"),
        (["tail", "nothing", "--bootstrap", "x:1"], "nothing"),
    ]:
        done = framewatch(*args)
        assert done.returncode == 2, args
        assert reason in done.stderr
        assert "Traceback" not in done.stderr


def test_validate_names_every_fault_at_once(framewatch: Framewatch, config: dict[str, Any], tmp_path: Path) -> None:
    hall = config["sources"][0]
    config["sources"] += [
        hall | {"zones": [{"name": "a", "polygon": [[0, 0], [1, 1]]}]},
        {"id": "two", "uri": "rtsp://u:${UNSET}@h/x"},
    ]
    config["sources"][0]["zones"][0]["polygon"][0] = [0, 1.5]
    config["extra"] = 1
    done = framewatch("validate", "-c", write(config, tmp_path))
    assert done.returncode == 2
    for part in (
        "sources.0.zones.0.polygon.0.1: ",
        "sources.1.zones.0.polygon: ",
        "environment variable UNSET is not set",
        "extra: unknown key",
    ):
        assert part in done.stderr
    assert all(line.startswith("framewatch: ") or "config.yaml: " in line for line in done.stderr.splitlines())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"classes": ["persn"]}, "detectors.people: "),
        ({"model": "config.yaml"}, "detectors.people: "),
        ({"model": "missing.onnx"}, "missing.onnx: no such file"),
    ],
)
def test_validate_checks_the_model(
    framewatch: Framewatch, config: dict[str, Any], tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    config["detectors"]["people"] |= change
    done = framewatch("validate", "-c", write(config, tmp_path))
    assert done.returncode == 2
    assert reason in done.stderr


def test_validate_accepts_a_good_config_and_duplicate_ids_are_named(
    framewatch: Framewatch, config: dict[str, Any], tmp_path: Path
) -> None:
    assert framewatch("validate", "-c", write(config, tmp_path)).returncode == 0
    config["sources"].append(config["sources"][0])
    done = framewatch("validate", "-c", write(config, tmp_path))
    assert done.returncode == 2
    assert "sources.1.id: 'hall' is used twice" in done.stderr
