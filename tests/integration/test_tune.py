"""``framewatch tune`` on simulated clips with a real detector; its figures are those of ``framewatch process``."""

import json
import shutil
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from stream.commands.tune import tune
from stream.config_file import load_config
from stream.datasets.mot import read_mot
from stream.errors import ConfigError, DatasetError
from stream.evaluation.counts import evaluate_counts
from stream.evaluation.records import read_events
from stream.evaluation.tracking import evaluate_tracking, tracks_of_events
from stream.events import CountsEvent
from stream.process import Request, run
from stream.simulation.video import Shot, film
from stream.tuning.search import GRID

pytestmark = pytest.mark.compute

TRIALS = 8


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``val/one``, ``val/two`` and ``test/three``, of seeds in which somebody crosses the line."""
    folder = tmp_path_factory.mktemp("clips")
    for seed, name in enumerate(("val/one", "val/two", "test/three"), 5):
        (folder / name).parent.mkdir(exist_ok=True)
        film(Shot("corridor", seed, (8, 8), 6.0, fps=10, width=640, height=360), folder / name, lambda: True)
    return folder


def _config(shared: Path, folder: Path, **detector: Any) -> Path:
    path = folder / "config.yaml"
    model = {"model": str(shared / "data/models/FastestDet.onnx"), "classes": ["person"]} | detector
    path.write_text(yaml.safe_dump({"detectors": {"people": model}}))
    return path


def _tune(config: Path, out: Path, *options: str) -> Result:
    return CliRunner().invoke(tune, ["-c", str(config), "--out", str(out), *options], standalone_mode=False)


def test_choice_is_what_process_then_does(shared: Path, clips: Path, tmp_path: Path) -> None:
    config, out = _config(shared, tmp_path), tmp_path / "made" / "tuned.yaml"
    data = ["--data", str(clips / "val"), "--trials", str(TRIALS), "--seed", "4"]
    result = _tune(config, out, *data, "--test", str(clips / "test"))
    assert result.exception is None, result.output
    assert "2 validation and 1 test clips" in result.stdout
    report = json.loads(out.with_suffix(".json").read_text())
    assert TRIALS <= report["trials"] <= TRIALS + len(GRID)

    def overall(figures: dict[str, float]) -> float:
        return 2 * figures["idf1"] + 2 * max(0, 1 - figures["occupancy_error"]) + max(0, 1 - figures["crossings_error"])

    assert overall(report["after"]["validation"]) > overall(report["before"]["validation"])

    (clip,) = (clips / "test").iterdir()
    fragment = yaml.safe_load(out.read_text())
    merged = yaml.safe_load(config.read_text())
    merged["detectors"]["people"] |= fragment.pop("detectors")["people"]
    merged |= fragment | {"sources": yaml.safe_load((clip / "source.yaml").read_text())["sources"]}
    merged["sources"][0]["uri"] = str(clip / "video.mp4")
    (tmp_path / "merged.yaml").write_text(yaml.safe_dump(merged))
    assert load_config(tmp_path / "merged.yaml").tracker.lost_s == report["after"]["settings"]["lost_s"]
    events = tmp_path / "events.jsonl"
    assert run(Request(config_path=tmp_path / "merged.yaml", out=str(events)), Event()) == 0
    tracking = evaluate_tracking(read_mot(clip / "tracks.txt"), tracks_of_events(events).table)
    counts = evaluate_counts(read_events(clip / "counts.jsonl", CountsEvent), read_events(events, CountsEvent))
    measured = report["after"]["test"]
    # Events hold boxes rounded to 0.01 px, which takes one to the other side of IoU 0.5 now and then.
    assert measured["idf1"] == pytest.approx(tracking.idf1, abs=5e-3)
    assert measured["hota"] == pytest.approx(tracking.hota, abs=1e-3)
    assert measured["occupancy_error"] == pytest.approx(counts.occupancy_mae_percent / 100, abs=1e-9)
    assert measured["true_crossings"] == sum(line.truth for line in counts.lines)

    again = tmp_path / "again.yaml"
    assert _tune(config, again, *data).exception is None
    assert again.read_text() == out.read_text(), "the same seed chooses the same"


def test_a_clip_on_both_sides_is_refused(shared: Path, clips: Path, tmp_path: Path) -> None:
    shutil.copytree(clips / "val" / "one", tmp_path / "renamed")
    config = _config(shared, tmp_path)
    result = _tune(config, tmp_path / "t.yaml", "--data", str(clips / "val"), "--test", str(tmp_path / "renamed"))
    assert isinstance(result.exception, DatasetError)
    assert "one/video.mp4: is in --data and in --test" in str(result.exception)
    result = _tune(config, tmp_path / "t.yaml", "--data", str(clips / "val"), "--data", str(tmp_path / "renamed"))
    assert isinstance(result.exception, DatasetError)
    assert "is given twice" in str(result.exception)
    assert not (tmp_path / "t.yaml").exists()


def test_what_is_missing_is_named(shared: Path, clips: Path, tmp_path: Path) -> None:
    clip = shutil.copytree(clips / "val" / "one", tmp_path / "clip")
    (clip / "counts.jsonl").unlink()
    config, out = _config(shared, tmp_path), tmp_path / "t.yaml"
    result = _tune(config, out, "--data", str(clip))
    assert isinstance(result.exception, DatasetError)
    assert "objective overall needs counts.jsonl" in str(result.exception)
    result = _tune(config, out, "--data", str(clip), "--detector", "cars")
    assert isinstance(result.exception, ConfigError)
    assert "no detector 'cars'; there is people" in str(result.exception)
    result = _tune(_config(shared, tmp_path, classes=None), out, "--data", str(clip))
    assert isinstance(result.exception, ConfigError)
    assert "detectors.people.classes: name the classes that the truth is of; the model knows 80" in str(result.exception)
