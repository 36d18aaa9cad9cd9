"""Tuning: files apart, calibration pictures, the search, and figures of replayed clips."""

import math
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from stream.config_file import load_config
from stream.datasets.coco import CocoAnnotation, CocoCategory, CocoDataset, CocoImage, write_coco
from stream.datasets.files import shared_file
from stream.datasets.mot import MotTable, write_mot
from stream.detections import Detections
from stream.detectors.base import InputSpec
from stream.errors import ConfigError, DatasetError
from stream.frame import FrameInfo
from stream.tuning.calibration import calibration_images, media_of
from stream.tuning.clips import WatchedClip, read_clips
from stream.tuning.quantize import Request, quantize
from stream.tuning.replay import Figures, Replay, Settings, replay
from stream.tuning.search import WORTH, search
from stream.tuning.tune import Request as TuneRequest
from stream.tuning.tune import tune
from tests.support.media import make_video
from tests.support.models import write_onnx, write_spec

START = Settings(0.5, 0.5, 0.1, 0.0, 0.2, 0.5, 2.0, 0.0, 0.3, 0.3, 1.0, 0.0, False)
GRID = {"confidence": (0.2, 0.3, 0.4, 0.6), "lost_s": (1.0, 3.0), "match_iou": (0.1, 0.3)}
SPEC_32 = InputSpec(32, 32)


def test_shared_file_finds_copies_under_other_names(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"two")
    (tmp_path / "copy").write_bytes(b"one")
    assert shared_file([tmp_path / "a"], [tmp_path / "b"]) is None
    assert shared_file([tmp_path / "b", tmp_path / "a"], [tmp_path / "copy"]) == (tmp_path / "a", tmp_path / "copy")
    with pytest.raises(DatasetError, match="gone: No such file"):
        shared_file([tmp_path / "a"], [tmp_path / "gone"])


# -- calibration


def _pictures(folder: Path, count: int, start: int = 0) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{i:03d}.png" for i in range(start, start + count)]
    for i, name in enumerate(names, start):
        cv2.imwrite(str(folder / name), np.full((40, 60, 3), i * 5, np.uint8))
    return names


def _labels(path: Path, names: list[str], category: str = "red") -> Path:
    images = [CocoImage(id=i, file_name=name, width=60, height=40) for i, name in enumerate(names)]
    boxes = [CocoAnnotation(id=i, image_id=i, category_id=1, bbox=(0.0, 0.0, 15.0, 10.0), area=150.0) for i in range(len(names))]
    write_coco(path, CocoDataset(images=images, annotations=boxes, categories=[CocoCategory(id=1, name=category)]))
    return path


def test_calibration_pictures_are_spread_over_every_kind_of_input(tmp_path: Path) -> None:
    names = _pictures(tmp_path / "folder", 20)
    labels = _labels(tmp_path / "folder" / "coco.json", names)
    video = make_video(tmp_path / "clip.mp4", 30)
    found = calibration_images([tmp_path / "folder", labels, video], SPEC_32, 12)
    assert len(found) == 12
    assert {image.shape for image in found} == {(32, 32, 3)}
    greys = [image.mean() for image in found[:4]]
    assert np.allclose(greys, [0, 25, 50, 75], atol=5), "pictures 0, 5, 10 and 15 of the folder"
    assert len({image.tobytes() for image in found[8:]}) == 4, "four different frames of the video"


def test_calibration_input_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="empty: holds no picture"):
        media_of(tmp_path / "empty")
    _labels(tmp_path / "empty" / "coco.json", ["video.mp4"])
    with pytest.raises(DatasetError, match=r"give .*empty/coco\.json"):
        media_of(tmp_path / "empty")
    with pytest.raises(DatasetError, match=r"gone\.mp4: no such file"):
        media_of(tmp_path / "gone.mp4")


# -- quantize, up to the quantization itself


def _request(tmp_path: Path, **changes: object) -> Request:
    model = write_onnx(tmp_path / "grid.onnx")
    write_spec(model)
    val = _labels(tmp_path / "val" / "coco.json", _pictures(tmp_path / "val", 2, start=30))
    _pictures(tmp_path / "data", 3)
    request = Request(str(model), (tmp_path / "data",), val, tmp_path / "out" / "int8.xml", "ap50", 0.01, 8)
    return replace(request, **changes)  # type: ignore[arg-type]


def test_calibrating_with_a_validation_picture_is_refused(tmp_path: Path) -> None:
    request = _request(tmp_path)
    (tmp_path / "data" / "renamed.png").write_bytes((tmp_path / "val" / "031.png").read_bytes())
    with pytest.raises(DatasetError, match=r"renamed\.png: is used to calibrate and to validate .*031\.png"):
        quantize(request, print)
    assert not request.out.parent.exists()


def test_quantize_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.xml"):
        quantize(_request(tmp_path, out=tmp_path / "int8.onnx"), print)
    with pytest.raises(ConfigError, match=r"would overwrite .*grid\.yaml"):
        quantize(_request(tmp_path, out=tmp_path / "grid.xml"), print)
    others = _labels(tmp_path / "others.json", ["val/030.png"], category="blue")
    with pytest.raises(DatasetError, match=r"has the classes blue; grid\.onnx knows none of them"):
        quantize(_request(tmp_path, val=others), print)


# -- the search


def _score(settings: Settings) -> float:
    """Best at confidence 0.3 and lost_s 3; match_iou matters less than ``WORTH``."""
    return 1 - abs(settings.confidence - 0.3) - abs(settings.lost_s - 3) / 10 + WORTH / 2 * (settings.match_iou == 0.1)


def test_search_finds_the_peak_and_undoes_what_is_luck() -> None:
    done: list[int] = []
    choice = search(START, GRID, lambda some: [_score(one) for one in some], trials=45, seed=1, progress=done.append)
    assert choice.best.settings == replace(START, confidence=0.3, lost_s=3.0), "match_iou is as it was"
    assert choice.trials == sum(done) == 5 * 3 * 3, "the whole grid, since there were trials enough; no more"


def test_search_keeps_to_its_trials_and_is_the_same_each_time() -> None:
    asked: list[Settings] = []

    def score(some: list[Settings]) -> list[float]:
        asked.extend(some)
        return [_score(one) for one in some]

    first = search(START, GRID, score, trials=7, seed=3, progress=lambda _: None)  # type: ignore[arg-type]
    assert 7 < first.trials == len(asked) == len(set(asked)) <= 7 + len(GRID), "and what it took to undo luck"
    assert first == search(START, GRID, score, trials=7, seed=3, progress=lambda _: None)  # type: ignore[arg-type]
    assert asked[0] == START


def test_search_of_what_cannot_be_bettered_changes_nothing() -> None:
    choice = search(START, GRID, lambda some: [0.5] * len(some), trials=30, seed=0, progress=lambda _: None)
    assert choice.best.settings == START


KILLED = """
import multiprocessing, sys
from pathlib import Path
from stream.config_file import load_config
from stream.errors import DatasetError
from stream.tuning.replay import Replay, Settings
from stream.tuning.scorer import Scorer

config = load_config(Path(sys.argv[1]))
with Scorer(Replay(config, "d", (), []), "idf1") as score:
    try:
        score([Settings.of(config, "d")] * 2)
    except DatasetError as error:
        print(*(process.pid for process in multiprocessing.active_children()), error, flush=True)
    sys.stdin.read()
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(_config(tmp_path))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split() if word.isdigit()]
        assert pids
        assert all(map(_runs, pids))
        parent.kill()
    deadline_s = time.monotonic() + 30
    while any(map(_runs, pids)):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    """Whether the process is there and is not merely waiting for somebody to take note of its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


# -- what is refused before anything is done


class _NoStep:
    def begin(self, what: str, total: float | None) -> None:
        pytest.fail(f"began with {what}")

    def advance(self, by: float) -> None:
        """Nothing."""


def _refused(tmp_path: Path, out: str) -> str:
    request = TuneRequest(tmp_path / "config.yaml", (tmp_path / "clips",), (), tmp_path / out, "idf1", None, None, 5, 0)
    with pytest.raises(ConfigError) as caught:
        tune(request, _NoStep())
    return str(caught.value)


def test_a_fragment_must_not_lie_on_what_is_needed(tmp_path: Path) -> None:
    write_spec(write_onnx(tmp_path / "grid.onnx"))
    _clip(tmp_path / "clips" / "walk")
    _config(tmp_path, model="grid.onnx", classes=["red"])
    (tmp_path / "link").symlink_to(tmp_path / "clips" / "walk")
    (tmp_path / "folder.json").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert "must end in .yaml" in _refused(tmp_path, "t.json")
    assert "config.yaml is the config; it would be overwritten" in _refused(tmp_path, "clips/../config.yaml")
    assert "clips/walk/source.yaml would lie among the files of a clip" in _refused(tmp_path, "clips/walk/source.yaml")
    assert "link/coco.yaml would lie among the files of a clip" in _refused(tmp_path, "link/coco.yaml")
    assert "folder.json is a folder" in _refused(tmp_path, "folder.yaml")
    assert "grid.onnx/t.yaml cannot be written: File exists" in _refused(tmp_path, "grid.onnx/t.yaml")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


# -- clips and replay


def _clip(folder: Path, config: Path | None = None) -> Path:
    """One object that walks from left to right for three seconds, and the truth."""
    folder.mkdir(parents=True)
    make_video(folder / "video.mp4", 30, creation_time="2026-01-01T00:00:00Z")
    frames = np.arange(1, 31)
    boxes = np.column_stack((frames * 3.0, np.full(30, 40.0), np.full(30, 20.0), np.full(30, 40.0)))
    write_mot(folder / "tracks.txt", MotTable.of(frames, np.ones(30), boxes))
    source = {
        "id": "walk",
        "uri": "video.mp4",
        "zones": [{"name": "all", "polygon": [[0, 0], [1, 0], [1, 1], [0, 1]]}],
        "lines": [{"name": "middle", "points": [[0.5, 0], [0.5, 1]]}],
    }
    (folder / "source.yaml").write_text(yaml.safe_dump({"detectors": {"d": {"model": "m.onnx"}}, "sources": [source]}))
    return folder


def _watched(folder: Path, confidence: float = 0.6) -> WatchedClip:
    """The clip, its object found in each frame with this confidence."""
    (clip,) = read_clips(folder)
    start_s = 1_767_225_600.0
    frames = tuple(FrameInfo("walk", "", i, i / 10, start_s + i / 10, 128, 96, 0.0, 0.0) for i in range(30))
    found = tuple(Detections.of([[3.0 * (i + 1), 40, 3.0 * (i + 1) + 20, 80]], [confidence], [0]) for i in range(30))
    return WatchedClip(clip, frames, {0.5: found})


def _config(folder: Path, model: str = "m.onnx", **detector: object) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"detectors": {"d": {"model": model} | detector}}))
    return path


def _with_counts(folder: Path) -> WatchedClip:
    """The clip with what perfect settings count as its truth."""
    watched = _watched(folder)
    _, events = replay(watched, load_config(folder / "source.yaml"), "d", ("person",))
    (folder / "counts.jsonl").write_bytes(b"".join(event.to_json() + b"\n" for event in events))
    return replace(watched, clip=read_clips(folder)[0])


def test_replay_measures_tracks_and_counts(tmp_path: Path) -> None:
    watched = _with_counts(_clip(tmp_path / "walk"))
    config = load_config(_config(tmp_path))
    bench = Replay(config, "d", ("person",), [watched])
    figures = bench.measure(Settings.of(config, "d"))
    assert figures.idf1 == pytest.approx(1)
    assert (figures.occupancy_error, figures.crossings_error, figures.true_crossings) == (0, 0, 1)
    assert figures.score("overall") == pytest.approx(1)
    blind = bench.measure(replace(Settings.of(config, "d"), confidence=0.7))
    assert (blind.idf1, blind.occupancy_error, blind.crossings_error) == (0, 1, 1)
    assert blind.score("overall") == 0
    assert bench.measure(Settings.of(config, "d"), ["tracking"]).occupancy_error is None


def test_counts_are_compared_in_windows_of_the_truth(tmp_path: Path) -> None:
    watched = _with_counts(_clip(tmp_path / "walk"))
    config = load_config(_config(tmp_path))
    config = config.model_copy(update={"counting": config.counting.model_copy(update={"window_s": 5.0})})
    assert Replay(config, "d", ("person",), [watched]).measure(Settings.of(config, "d")).occupancy_error == 0


def test_overall_leaves_out_what_has_no_truth() -> None:
    assert Figures(idf1=0.8).score("overall") == pytest.approx(0.8)
    assert Figures(idf1=0.8, occupancy_error=1.5, crossings_error=0.5).score("overall") == pytest.approx((1.6 + 0 + 0.5) / 5)
    assert Figures(idf1=0.8).score("crossings") is None


def test_fragment_merged_into_a_config_gives_the_settings(tmp_path: Path) -> None:
    chosen = Settings(0.35, 0.6, 0.2, 0.15, 0.3, 0.4, 3.0, 4.0, 0.1, 0.5, 1.5, 0.02, True)
    data = yaml.safe_load(_config(tmp_path).read_text())
    fragment = yaml.safe_load(yaml.safe_dump(chosen.fragment("d")))
    data["detectors"]["d"] |= fragment.pop("detectors")["d"]
    (tmp_path / "merged.yaml").write_text(yaml.safe_dump(data | fragment))
    merged = load_config(tmp_path / "merged.yaml")
    assert Settings.of(merged, "d") == chosen
    assert merged == chosen.applied(load_config(_config(tmp_path)), "d")
    assert set(asdict(chosen)) == {name for part in (fragment["tracker"], fragment["counting"]) for name in part} | {
        "confidence",
        "nms_iou",
    }


def test_zone_of_an_unknown_class_is_named(tmp_path: Path) -> None:
    folder = _clip(tmp_path / "walk")
    text = (folder / "source.yaml").read_text().replace("name: all", "name: all\n    classes: [dog]")
    (folder / "source.yaml").write_text(text)
    with pytest.raises(ConfigError, match="no class 'dog'"):
        Replay(load_config(_config(tmp_path)), "d", ("person",), [_watched(folder)])


def test_clips_are_found_in_a_folder_of_folders(tmp_path: Path) -> None:
    for name in ("b", "a"):
        _clip(tmp_path / name)
    clips = read_clips(tmp_path, fps=5)
    assert [clip.folder.name for clip in clips] == ["a", "b"]
    assert {clip.source.fps for clip in clips} == {5}
    assert clips[0].video == tmp_path / "a" / "video.mp4"


def test_clip_faults_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="gone: no such folder"):
        read_clips(tmp_path / "gone")
    with pytest.raises(DatasetError, match=r"no video\.mp4 in it, nor in its folders"):
        read_clips(tmp_path)
    folder = _clip(tmp_path / "walk")
    _with_counts(folder)
    (folder / "source.yaml").write_text((folder / "source.yaml").read_text().replace("middle", "door"))
    with pytest.raises(DatasetError, match=r"counts\.jsonl: counts 'middle', but the source of .* has all, door"):
        read_clips(folder)
    (folder / "counts.jsonl").unlink()
    (folder / "tracks.txt").unlink()
    with pytest.raises(DatasetError, match=r"walk: holds no truth: neither tracks\.txt nor counts\.jsonl"):
        read_clips(folder)


def test_figures_without_tracks_are_none(tmp_path: Path) -> None:
    folder = _clip(tmp_path / "walk")
    watched = _with_counts(folder)
    config = load_config(_config(tmp_path))
    alone = replace(watched, clip=replace(watched.clip, tracks=None))
    figures = Replay(config, "d", ("person",), [alone]).measure(Settings.of(config, "d"))
    assert figures.idf1 is None
    assert not math.isnan(figures.score("overall") or math.nan)
