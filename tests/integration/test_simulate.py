"""``framewatch simulate`` as a program: what it writes, and that it agrees with what it says."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import av
import cv2
import numpy as np
import psutil
import pytest
import yaml
from av.video.frame import PictureType
from click.testing import CliRunner, Result

from stream.commands.simulate import simulate
from stream.config_file import load_config
from stream.datasets.coco import pictures, read_coco
from stream.datasets.mot import read_mot
from stream.errors import ConfigError, DatasetError
from stream.process import Request, build_config
from stream.simulation.labels import LEAST_VISIBLE
from stream.simulation.scene import build_scene
from stream.simulation.truth import true_counts

SIZE = ("--width", 640, "--height", 360)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(simulate, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("film") / "shop"
    result = run("--scene", "shop", "--people", 15, "--seconds", 4, "--seed", 3, *SIZE, "--out", out)
    assert result.exit_code == 0, result.output
    return out


def test_the_folder_is_whole(film: Path) -> None:
    names = {"video.mp4", "coco.json", "tracks.txt", "counts.jsonl", "source.yaml"}
    assert {path.name for path in film.iterdir()} == names
    with av.open(str(film / "video.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        kinds = [PictureType(frame.pict_type).name for frame in container.decode(stream)]
    assert Counter(kinds) == {"I": 2, "P": 98}  # a key frame every 2 s, no B-frames


def test_boxes_and_tracks_say_the_same(film: Path) -> None:
    dataset, table = read_coco(film / "coco.json"), read_mot(film / "tracks.txt")
    assert [image.frame_index for image in dataset.images] == list(range(100))
    assert len(dataset.annotations) == len(table.frame) > 500
    np.testing.assert_allclose([a.bbox for a in dataset.annotations], table.xywh)
    frame_of = {image.id: (image.frame_index or 0) + 1 for image in dataset.images}
    assert [frame_of[a.image_id] for a in dataset.annotations] == table.frame.tolist()
    for annotation in dataset.annotations:
        left, top, right, bottom = annotation.xyxy
        assert 0 <= left < right <= 640.01
        assert 0 <= top < bottom <= 360.01
        assert annotation.visibility is not None
        assert annotation.iscrowd or annotation.visibility >= LEAST_VISIBLE


def test_people_are_where_the_boxes_are(film: Path) -> None:
    """What moves between two frames lies in the boxes."""
    dataset = read_coco(film / "coco.json")
    boxes = dataset.by_image()
    first, second = (p.bgr.astype(np.int16) for p in pictures(dataset, film, [dataset.images[i].id for i in (50, 58)]))
    moved = cv2.blur(np.abs(second - first).max(axis=2).astype(np.float32), (5, 5)) > 25
    inside = np.zeros(moved.shape, bool)
    for index in (50, 58):
        for annotation in boxes[dataset.images[index].id]:
            left, top, right, bottom = (round(value) for value in annotation.xyxy)
            inside[max(0, top - 3) : bottom + 3, max(0, left - 3) : right + 3] = True
    assert moved.sum() > 300
    assert (moved & inside).sum() > 0.75 * moved.sum()  # the rest are shadows
    assert inside.mean() < 0.6


def test_counts_are_those_of_the_crowd(film: Path) -> None:
    truth = true_counts(build_scene("shop", 3, 640, 360), 15, 25, 4)
    written = [json.loads(line) for line in (film / "counts.jsonl").read_text().splitlines()]
    for zone in truth.zones:
        means = [event["occupancy"]["last"] for event in written if event.get("zone") == zone]
        assert means == truth.occupancy(zone)[24::25].tolist()


def test_the_config_runs_it_with_the_same_windows(film: Path, shared: Path, tmp_path: Path) -> None:
    config = load_config(film / "source.yaml")
    assert [source.uri for source in config.sources] == [str(film / "video.mp4")]
    assert [zone.name for zone in config.sources[0].zones] == ["lobby", "till"]
    data = yaml.safe_load((film / "source.yaml").read_text())
    data["detectors"]["default"]["model"] = str(shared / "data" / "models" / "FastestDet.onnx")
    (film / "other.yaml").write_text(yaml.safe_dump(data))
    out = tmp_path / "events.jsonl"
    command = [sys.executable, "-m", "stream.cli", "process", "-c", str(film / "other.yaml"), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    (film / "other.yaml").unlink()
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in out.read_text().splitlines()]
    truth = [json.loads(line) for line in (film / "counts.jsonl").read_text().splitlines()]

    def windows(records: list[dict[str, str]]) -> list[tuple[str | None, ...]]:
        keys = ("source_id", "zone", "line", "window_start", "window_end", "frames", "event_id")
        return sorted((tuple(r.get(key) for key in keys) for r in records if r["schema"] == "framewatch.counts/1"), key=str)

    assert windows(events) == windows(truth)


def test_the_same_seed_makes_the_same_video(film: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert run("--scene", "shop", "--people", 15, "--seconds", 4, "--seed", 3, *SIZE, "--out", again).exit_code == 0
    for path in film.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.compute
def test_many_scenes_make_one_set_of_pictures(tmp_path: Path) -> None:
    out = tmp_path / "set"
    options = ("--people", "2-20", "--seconds", 1, "--pictures-fps", 2, "--no-video", *SIZE)
    result = run("--scene", "street", "--scene", "station", "--seeds", "1-2,9", *options, "--out", out)
    assert result.exit_code == 0, result.output
    dataset = read_coco(out / "coco.json")
    assert len(dataset.images) == 6 * 2
    assert {image.file_name.partition("/")[0] for image in dataset.images} == {
        f"{scene}-{seed}" for scene in ("street", "station") for seed in (1, 2, 9)
    }
    assert sum(1 for _ in pictures(dataset, out)) == 12
    assert not list(out.rglob("*.mp4*"))
    counts = Counter(annotation.image_id for annotation in dataset.annotations)
    assert max(counts.values()) <= 23


class TestMisuse:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--scene", "plazza"), "plazza"),
            (("--scene", "plaza", "--people", "many"), "'many' is neither a number nor a range"),
            (("--scene", "plaza", "--people", "1,2"), "--people"),
            (("--scene", "plaza", "--seeds", "5-2"), "ends before it begins"),
            (("--scene", "plaza", "--width", "641"), "641x720"),
            (("--scene", "plaza", "--no-video"), "--pictures-fps"),
            (("--scene", "plaza", "--seconds", "0"), "--seconds"),
            (("--scene", "plaza", "--seconds", "inf"), "'--seconds': inf is not a finite number"),
            (("--scene", "plaza", "--fps", "nan"), "'--fps': nan is not a finite number"),
            (("--scene", "plaza", "--pictures-fps", "nan"), "'--pictures-fps': nan is not a finite number"),
            (("--scene", "plaza", "--scene", "shop", "--seeds", "1-999999999"), "asks for 1,999,999,998 films; at most 10,000"),
        ],
    )
    def test_it_is_named(self, arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
        result = run(*arguments, "--out", tmp_path / "out")
        assert result.exit_code == 2
        assert message in result.output
        assert not (tmp_path / "out").exists()

    def test_what_the_scene_cannot_hold_is_a_config_error(self, tmp_path: Path) -> None:
        for scenes in (("--scene", "shop"), ("--scene", "shop", "--scene", "corridor")):
            result = run(*scenes, "--people", 900, "--seconds", 1, "--out", tmp_path / "out")
            assert isinstance(result.exception, ConfigError)
            assert "not 900" in str(result.exception)

    def test_a_folder_with_something_in_it_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "coco.json").write_text("mine")
        result = run("--scene", "shop", "--seconds", 1, "--out", tmp_path)
        assert isinstance(result.exception, DatasetError)
        assert "is not empty" in str(result.exception)
        assert (tmp_path / "coco.json").read_text() == "mine"


def test_simulated_sources_of_a_config_are_processed(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    sources = [{"id": "a", "uri": "simulate://plaza?seconds=1"}, {"id": "b", "uri": "rtsp://camera.example/1"}]
    config.write_text(yaml.safe_dump({"detectors": {"d": {"model": "m.onnx"}}, "sources": sources}))
    assert [source.id for source in build_config(Request(config_path=config)).sources] == ["a"]
    assert build_config(Request(("simulate://plaza?seed=2",))).sources[0].id == "plaza"


SCENES = {"one": ("--scene", "shop"), "several": ("--scene", "shop", "--scene", "plaza")}


@contextmanager
def filming(scenes: Iterable[str], out: Path) -> Iterator[subprocess.Popen[str]]:
    """A program that films for ten minutes."""
    command = [sys.executable, "-c", "from stream.commands.simulate import simulate; simulate()", *scenes]
    command += ["--seconds", "600", "--width", "160", "--height", "120", "--out", str(out)]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield running
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.communicate()


def wait_until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert condition()


def workers(running: subprocess.Popen[str]) -> list[psutil.Process]:
    return [child for child in psutil.Process(running.pid).children() if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.parametrize("scenes", list(SCENES))
def test_ctrl_c_ends_it_soon_and_cleanly(scenes: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with filming(SCENES[scenes], out) as running:
        # Several: in the first moment of the first process, while it still imports.
        wait_until(lambda: list(out.rglob(".video.mp4.part")) if scenes == "one" else workers(running))
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does: the whole group
        _, stderr = running.communicate(timeout=20)
    assert running.returncode == 130
    assert stderr.strip() == f"framewatch: {out} is not complete"
    assert not list(tmp_path.rglob("*.mp4*"))
    assert not list(tmp_path.rglob("coco.json"))


def test_processes_end_when_the_program_is_killed(tmp_path: Path) -> None:
    with filming(SCENES["several"], tmp_path / "out") as running:
        wait_until(lambda: list(tmp_path.rglob(".video.mp4.part")))
        left = workers(running)
        assert left
        running.kill()
        assert psutil.wait_procs(left, timeout=20)[1] == []
    assert not list(tmp_path.rglob("*.mp4*"))


@pytest.mark.parametrize("uri", ["simulate://plazza", "simulate://plaza?peple=3"])
def test_a_wrong_address_on_the_command_line_is_a_config_error(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"did you mean (plaza|people)\?"):
        build_config(Request((uri,)))
