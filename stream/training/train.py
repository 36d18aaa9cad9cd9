"""The whole of ``framewatch train``: read, scale, train, measure, export, describe."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from stream.errors import DatasetError, ModelError
from stream.training.backbones import build_network
from stream.training.card import TEXT, make_card, write_card
from stream.training.checkpoint import BEST, LAST, WEIGHTS, Checkpoint, fitting, read_checkpoint, transfer
from stream.training.data import Cache, Merged, check_apart, load_pictures, read_merged
from stream.training.display import Display
from stream.training.export import CHECKED_BATCHES, export_model
from stream.training.feed import Feed
from stream.training.loop import Device, Trainer, choose_device
from stream.training.metrics import PICTURE, draw_curves
from stream.training.model import Network
from stream.training.request import alone_in
from stream.training.schedule import Budget
from stream.training.settings import TrainingSettings
from stream.training.validate import PICTURES, Validation, model_spec, to_pixels

EXPORT_S = 20.0  # of the time limit, kept for exporting and for the card
LEAST_SHARE = 0.5  # of the time limit, for training itself, however long the rest takes
MOST_THREADS = 8  # that prepare pictures


class Data(NamedTuple):
    """What is trained and what is validated on."""

    train: Merged
    val: Merged
    pictures: Cache
    val_pictures: Cache


def train(settings: TrainingSettings, resumed: Checkpoint | None, stop: threading.Event, display: Display) -> bool:
    """Train, or go on from a checkpoint, and leave everything in ``settings.out``.

    Args:
        settings: see there; those of the checkpoint where there is one.
        resumed: what to go on from.
        stop: ends the training early; it can then be resumed.
        display: where progress is shown.

    Returns:
        False where it was stopped.

    Raises:
        ConfigError, DatasetError, ModelError, TrainingError: see where they come from.
    """
    began = time.monotonic()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    device = choose_device(settings.device, settings.precision)
    labels = read_merged(settings.data)
    val_labels = read_merged(settings.val, labels.classes)
    check_apart(labels, val_labels)
    if resumed is not None:
        _check_same_labels(resumed, settings.out, (labels, val_labels))
    network = _network(settings, labels.classes, resumed is None, display)
    settings.out.mkdir(parents=True, exist_ok=True)
    with alone_in(settings.out, fresh=resumed is None):
        data = _load(settings, labels, val_labels, stop, display)
        return data is not None and _train(settings, resumed, network, data, device, began, stop, display)


def _train(
    settings: TrainingSettings,
    resumed: Checkpoint | None,
    network: Network,
    data: Data,
    device: Device,
    began: float,
    stop: threading.Event,
    display: Display,
) -> bool:
    """With the pictures at hand; ``began`` is when the command did, on the monotonic clock."""
    classes = data.train.classes
    display.line(
        f"{len(data.pictures)} pictures to train on, {len(data.val_pictures)} to validate on, {len(classes)} classes; "
        f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f} M parameters; {device.device.type} in "
        f"{str(device.precision).removeprefix('torch.')}"
    )
    validation = Validation(data.val_pictures, data.val.dataset, model_spec(settings, classes), settings.min_visibility)
    feed = Feed(data.pictures, settings.batch, settings.seed, max(1, min(MOST_THREADS, (os.cpu_count() or 2) // 2)))
    spent_s = time.monotonic() - began
    budget = _budget(settings, feed, spent_s, _validation_s(network, data.val_pictures, device.device))
    trainer = Trainer(settings, network, feed, validation, device, budget, _digests((data.train, data.val)))
    if resumed is not None:
        with fitting(settings.out / LAST):
            trainer.restore(resumed.state, settings.out)
        display.line(f"going on after step {trainer.step}")
    display.bar("training", 1.0)
    ending = trainer.run(stop, display.at, display.line)
    if trainer.metrics:
        draw_curves(settings.out / PICTURE, trainer.metrics)
    if ending == "interrupted":
        display.line(f"interrupted at step {trainer.step}; go on with: framewatch train --resume --out {settings.out}")
        return False
    if ending == "no better":
        display.line(f"AP50 has not risen for {settings.patience} validations: stopped early")
    _finish(settings, data, trainer, device, validation, display)
    return True


def _network(settings: TrainingSettings, classes: tuple[str, ...], fresh: bool, display: Display) -> Network:
    """Initialised; of a resumed training all weights come later."""
    if not fresh or settings.start_from is None:
        return build_network(settings.backbone, len(classes), pretrained=fresh)
    start = read_checkpoint(settings.start_from)
    if start.settings.backbone != settings.backbone:
        raise ModelError(
            f"{settings.start_from}: has backbone {start.settings.backbone!r}, not {settings.backbone!r}; choose it by --backbone"
        )
    network = build_network(settings.backbone, len(classes), pretrained=False)
    with fitting(settings.start_from):
        new = transfer(network, classes, start)
    display.line(f"weights from {settings.start_from}")
    if classes != start.classes:
        kept = [name for name in classes if name not in new]
        display.line(
            f"classes differ from the checkpoint's ({', '.join(start.classes)}): the class layers are made anew"
            + (f", {', '.join(kept)} taken over" if kept else "")
        )
    return network


def _load(settings: TrainingSettings, labels: Merged, val_labels: Merged, stop: threading.Event, display: Display) -> Data | None:
    """All pictures, scaled; None where it was stopped."""
    total = len(labels.dataset.images) + len(val_labels.dataset.images)
    display.bar("scaling pictures", total)

    def advance(count: int) -> None:
        display.advance(count)
        if stop.is_set():
            raise _StoppedError

    caches, room = [], settings.cache_gb * 1e9
    try:
        for merged in (val_labels, labels):  # the smaller first: it is the more likely to fit into memory
            cache = load_pictures(
                merged.dataset,
                settings.picture,
                min_visibility=settings.min_visibility,
                limit_bytes=room,
                folder=settings.out,
                progress=advance,
            )
            in_file = isinstance(cache.images, np.memmap)
            room -= 0 if in_file else cache.images.nbytes
            if in_file:
                display.line(f"{cache.images.nbytes / 1e9:.1f} GB of scaled pictures in a file: over the limit of --cache-gb")
            caches.append(cache)
    except _StoppedError:
        return None
    return Data(labels, val_labels, caches[1], caches[0])


class _StoppedError(Exception):
    """Raised out of reading pictures."""


def _digests(labels: Sequence[Merged]) -> tuple[str, ...]:
    return tuple(file.sha256 for merged in labels for file in merged.files)


def _check_same_labels(resumed: Checkpoint, out: Path, labels: Sequence[Merged]) -> None:
    with fitting(out / LAST):
        digests = tuple(resumed.state["label_sha256"])
    if digests != _digests(labels):
        files = [file for merged in labels for file in merged.files]
        changed = next(file.path for file, was in zip(files, digests, strict=True) if file.sha256 != was)
        raise DatasetError(f"{changed}: has changed since the training in {out} was started; start it anew")


def _budget(settings: TrainingSettings, feed: Feed, spent_s: float, validation_s: float) -> Budget:
    """Of the minutes given, what reading the pictures, the last validations and exporting leave for training."""
    steps = settings.epochs * feed.steps_per_epoch if settings.epochs else None
    if settings.minutes is None:
        return Budget(steps, None)
    whole_s = settings.minutes * 60
    return Budget(steps, max(LEAST_SHARE * whole_s, whole_s - spent_s - 2 * validation_s - EXPORT_S))


def _validation_s(network: Network, cache: Cache, device: torch.device) -> float:
    """A guess at how long a validation takes: as often as a forward pass of some pictures, and as much again to measure."""
    pixels = to_pixels(cache.images[:PICTURES], device)
    network.to(device).eval()
    began = time.monotonic()
    with torch.inference_mode():
        network(pixels).cpu()
    return 2 * (time.monotonic() - began) * len(cache) / len(pixels)


def _finish(
    settings: TrainingSettings,
    data: Data,
    trainer: Trainer,
    device: Device,
    validation: Validation,
    display: Display,
) -> None:
    """Measure, export and describe the best weights."""
    display.bar("exporting", 1.0)
    best = read_checkpoint(settings.out / BEST)
    network = build_network(settings.backbone, len(best.classes), pretrained=False).eval()
    with fitting(settings.out / BEST):
        network.load_state_dict(best.state[WEIGHTS])
    report = validation.measure(network.to(device.device), device.device)
    network = network.cpu()
    count = max(CHECKED_BATCHES)
    images = np.resize(data.val_pictures.images[:count], (count, *data.val_pictures.images.shape[1:]))
    exported = export_model(network, validation.spec, settings.out, settings.name, images)
    training = {
        "steps": trainer.step,
        "epochs": round(trainer.step * settings.batch / len(data.pictures), 1),
        "images_seen": trainer.step * settings.batch,
        "elapsed_s": round(trainer.elapsed_s, 1),
        "best_step": best.state["step"],
        "device": device.device.type,
        "precision": str(device.precision).removeprefix("torch."),
        "batch": settings.batch,
        "lr": settings.lr,
        "seed": settings.seed,
        "started_from": settings.start_from.name if settings.start_from else None,
        "frozen": settings.freeze,
    }
    files = data.train.files, data.val.files
    frames = np.ascontiguousarray(data.val_pictures.images[:100])
    card = make_card(settings, best.classes, files, network, report, exported, training, frames)
    write_card(settings.out, card)
    display.line(
        f"{exported.onnx} and {exported.program.name}: AP50 {report.ap50:.3f}, AP {report.ap:.3f}; use confidence "
        f"{report.best_f1.threshold:.2f} (F1 {report.best_f1.f1:.3f}); see {settings.out / TEXT}"
    )
