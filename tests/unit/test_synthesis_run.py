"""A run of the synthesis: its files, what it refuses, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from stream.commands.synthesize import synthesize as command
from stream.datasets.coco import CocoDataset, pictures, read_coco
from stream.errors import ConfigError, DatasetError
from stream.synthesis.produce import synthesize
from stream.synthesis.settings import Settings
from tests.support.synthesis import HEIGHT, WIDTH, figure, penn_fudan, places, scenery, write

pytestmark = pytest.mark.compute


def test_a_run_writes_pictures_labels_and_what_it_did(tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = synthesize(penn_fudan(tmp_path / "cut"), places(tmp_path / "back"), 4, out, Settings(seed=3))
    dataset = read_coco(out / "coco.json")
    assert [image.file_name for image in dataset.images] == [f"images/{i:06d}.jpg" for i in range(4)]
    assert [picture.bgr.shape for picture in pictures(dataset, out)] == [(HEIGHT, WIDTH, 3)] * 4
    assert {path.name for path in out.iterdir()} == {"images", "coco.json", "synthesis.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"cut", "back", "out"}
    said = json.loads((out / "synthesis.json").read_text())
    assert said["objects"] == summary.objects == {"person": len(dataset.annotations)}
    assert said["pasted"] == len(dataset.annotations)
    assert said["settings"]["seed"] == 3
    assert said["grounds"] == {"assumed": 4}
    assert dataset.images[0].model_extra is not None
    assert dataset.images[0].model_extra["ground"]["kind"] == "assumed"


def test_nothing_is_in_both_parts_of_a_split(tmp_path: Path) -> None:
    out = tmp_path / "out"
    cut, back = penn_fudan(tmp_path / "cut", 4), places(tmp_path / "back", 4)
    summary = synthesize(cut, back, 12, out, Settings(val_share=0.25))
    assert summary.pictures == {"train.json": 9, "val.json": 3}

    def seen(dataset: CocoDataset) -> set[Any]:
        return {(image.model_extra or {})["background"] for image in dataset.images}

    train, val = read_coco(out / "train.json"), read_coco(out / "val.json")
    assert len(seen(train)) == 3
    assert seen(train).isdisjoint(seen(val))
    with pytest.raises(DatasetError, match=r"all backgrounds come from b0\.png"):
        synthesize(cut, places(tmp_path / "one", 1), 12, tmp_path / "x", Settings(val_share=0.25))
    with pytest.raises(ConfigError, match="one part empty"):
        synthesize(cut, back, 2, tmp_path / "x", Settings(val_share=0.1))


def test_only_what_an_earlier_run_wrote_is_replaced(tmp_path: Path) -> None:
    cut, back, out = penn_fudan(tmp_path / "cut"), places(tmp_path / "back"), tmp_path / "out"
    synthesize(cut, back, 2, out, Settings(), workers=1)
    with pytest.raises(ConfigError, match=r"out is not empty"):
        synthesize(cut, back, 1, out, Settings())
    (out / "notes.txt").write_text("mine")
    synthesize(cut, back, 1, out, Settings(), overwrite=True)
    assert len(list((out / "images").iterdir())) == 1
    assert (out / "notes.txt").read_text() == "mine"
    with pytest.raises(ConfigError, match=r"back was not written by synthesize"):
        synthesize(cut, places(tmp_path / "other"), 1, back, Settings(), overwrite=True)
    with pytest.raises(ConfigError, match=r"holds the input"):
        synthesize(cut, back, 1, tmp_path, Settings(), overwrite=True)
    for folder in (cut, back):
        with pytest.raises(ConfigError, match=rf"{folder}/made lies in the input {folder}"):
            synthesize(cut, back, 1, folder / "made", Settings())
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file is not a folder"):
        synthesize(cut, back, 1, tmp_path / "file", Settings())
    with pytest.raises(ConfigError, match=r"file/out cannot be written: File exists"):
        synthesize(cut, back, 1, tmp_path / "file" / "out", Settings())


def test_a_failed_run_leaves_nothing_behind(tmp_path: Path) -> None:
    cut, back = penn_fudan(tmp_path / "cut"), places(tmp_path / "back")
    with pytest.raises(ConfigError, match="no room"):
        synthesize(cut, back, 3, tmp_path / "out", Settings(horizon=0.9, camera_height_m=30.0))

    def interrupt(_done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(cut, back, 3, tmp_path / "out", Settings(), progress=interrupt)
    assert {path.name for path in tmp_path.iterdir()} == {"cut", "back"}


def test_the_command_says_what_it_made(tmp_path: Path) -> None:
    cut, back = penn_fudan(tmp_path / "cut"), places(tmp_path / "back")
    arguments = ["--cutouts", cut, "--backgrounds", back, "--count", 2, "--out", tmp_path / "out", "--objects", "2:3"]
    result = CliRunner().invoke(command, [*map(str, arguments), "--workers", "1"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "cut-outs: 4 person; left out: none" in result.output
    assert "ground: 2 assumed" in result.output
    assert f"{tmp_path / 'out'}: 2 pictures" in result.output


@pytest.mark.parametrize("wrong", [["--objects", "3"], ["--objects", "a:b"], ["--height", "person"], ["--height", "person=tall"]])
def test_the_command_refuses_wrong_options(tmp_path: Path, wrong: list[str]) -> None:
    needed = ["--cutouts", str(tmp_path), "--backgrounds", str(tmp_path), "--count", "1", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(command, [*needed, *wrong])
    assert result.exit_code == 2
    assert wrong[0] in result.output


def test_a_class_of_unknown_height_is_asked_for(tmp_path: Path) -> None:
    picture, mask = scenery(), np.zeros((HEIGHT, WIDTH), np.uint8)
    figure(picture, mask, 40, 100, 255)
    write(tmp_path / "cut" / "gnome" / "a.png", np.dstack([picture, mask])[100:190, 40:70])
    back = places(tmp_path / "back")
    with pytest.raises(ConfigError, match=r"how tall is 'gnome'\? Say so, as in --height 'gnome=1\.2'"):
        synthesize(tmp_path / "cut", back, 1, tmp_path / "out", Settings())
    summary = synthesize(tmp_path / "cut", back, 2, tmp_path / "out", Settings(heights_m={"gnome": 0.4}))
    assert summary.cutouts == {"gnome": 1}
