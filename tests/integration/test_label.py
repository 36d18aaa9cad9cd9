"""``framewatch label`` as a person uses it: on recordings, and then for holding another model against its labels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from stream.cli import cli
from stream.datasets.coco import pictures, read_coco
from stream.errors import FramewatchError
from tests.golden.scenario import CLIP
from tests.support.media import cut

pytestmark = pytest.mark.compute


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def model(shared: Path) -> Path:
    return shared / "data/models/FastestDet.onnx"


@pytest.fixture
def clip(shared: Path, tmp_path: Path) -> Path:
    """20 s at 10 frames a second in which persons come and go."""
    return cut(shared / CLIP, tmp_path / "door.mp4", 19.9)


def test_another_model_is_held_against_the_labels_of_this_one(clip: Path, model: Path, shared: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    said = call("label", clip, "--model", model, "--class", "person", "--fps", 2, "--out", out).output
    labels = read_coco(out / "coco.json")
    assert [category.name for category in labels.categories] == ["person"]
    assert [image.file_name for image in labels.images[:3]] == [f"images/door-{index:06d}.jpg" for index in (0, 5, 10)]
    assert f"{len(labels.images)} pictures; {len(labels.annotations)} person" in said
    assert len(labels.images) == 40
    assert len(list(pictures(labels, out))) == 40
    scores = [annotation["score"] for annotation in json.loads((out / "coco.json").read_text())["annotations"]]
    assert scores
    assert min(scores) >= 0.5

    def agreement(other: Path) -> dict[str, float]:
        figures = tmp_path / "figures.json"
        call("evaluate", "detections", out / "coco.json", "--model", other, "--at", 0.5, "--json", figures)
        found: dict[str, float] = json.loads(figures.read_text())["metrics"]
        return found

    itself, other = agreement(model), agreement(shared / "data/models/yolox_nano.onnx")
    assert (itself["f1"], itself["ap"]) == (1, 1), "it disagrees with itself"
    assert 0.8 < other["f1"] <= 1
    assert 0.5 < other["ap"] < 0.99


def test_folders_of_pictures_and_videos_keep_all_names_apart(clip: Path, model: Path, tmp_path: Path) -> None:
    for folder in ("east", "west"):
        (tmp_path / "cameras" / folder).mkdir(parents=True)
        shutil.copy(clip, tmp_path / "cameras" / folder / "door.mp4")
    cv2.imwrite(str(tmp_path / "cameras/still.png"), np.full((90, 120, 3), 128, np.uint8))
    (tmp_path / "cameras/notes.txt").write_text("neither picture nor video")
    out = tmp_path / "new" / "labels"
    call("label", tmp_path / "cameras", "--model", model, "--fps", 0.1, "--out", out)
    labels = read_coco(out / "coco.json")
    names = ["door-000000", "door-000100", "still-000000", "door-2-000000", "door-2-000100"]
    assert [Path(image.file_name).stem for image in labels.images] == names
    assert (labels.images[2].width, labels.images[2].height) == (120, 90)


def test_what_cannot_be_read_is_named_and_the_rest_is_labelled(clip: Path, model: Path, tmp_path: Path) -> None:
    broken, out = tmp_path / "broken.mp4", tmp_path / "labels"
    broken.write_bytes(clip.read_bytes()[:20_000])
    result = call("label", broken, clip, "--model", model, "--out", out, code=1)
    assert f"framewatch: {broken}: " in result.output
    assert len(read_coco(out / "coco.json").images) == 20
    with pytest.raises(FramewatchError, match=r"broken\.mp4"):
        call("label", broken, "--model", model, "--out", tmp_path / "none")
    assert not list(tmp_path.glob("*none*")), "a run that found nothing left something behind"


def test_bad_input_is_named(clip: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for given, fault in (("missing.mp4", "missing.mp4: no such file or folder"), ("empty", "holds neither a picture nor a video")):
        with pytest.raises(FramewatchError, match=fault):
            call("label", tmp_path / given, "--model", model, "--out", tmp_path / "labels")
    with pytest.raises(FramewatchError, match="is there already, and is no empty folder"):
        call("label", clip, "--model", model, "--out", tmp_path)
    with pytest.raises(FramewatchError, match="dragon"):
        call("label", clip, "--model", model, "--class", "dragon", "--out", tmp_path / "labels")
