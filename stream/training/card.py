"""The model card: what was trained on what, how good and how fast it is, and what it is for."""

from __future__ import annotations

import math
import os
import platform
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch.utils.flop_counter import FlopCounterMode

from stream.config import DetectorConfig
from stream.detectors.registry import load_detector
from stream.evaluation.detections import DetectionReport
from stream.files import write_text
from stream.frame import FrameBatch, FrameInfo, Uint8Array
from stream.training.data import DataFile
from stream.training.export import OPSET, TOLERANCE, Exported
from stream.training.settings import TrainingSettings
from stream.training.validate import NMS_IOU

JSON, TEXT = "model-card.json", "model-card.md"
TIMED_FRAMES = 100
PACKAGES = ("framewatch", "torch", "openvino", "numpy", "opencv-python-headless")
SIZES = {"small": "area below 32² px", "medium": "32² to 96² px", "large": "above 96² px"}


class File(BaseModel):
    """A file of labels or of the model."""

    model_config = ConfigDict(frozen=True)

    path: str
    sha256: str
    images: int
    objects: int


class ModelCard(BaseModel):
    """``model-card.json``; figures that cannot be measured are null."""

    model_config = ConfigDict(frozen=True)

    name: str
    date: str
    note: str
    command: str
    classes: tuple[str, ...]
    input: tuple[int, int]
    backbone: str
    parameters: int
    gflops: float
    training: dict[str, Any]
    data: tuple[File, ...]
    validation: tuple[File, ...]
    min_visibility: float
    kpis: dict[str, float | None]
    operating_point: dict[str, float | None]
    speed: dict[str, int | float | str]
    files: dict[str, int]
    export: dict[str, Any]
    versions: dict[str, str]


def make_card(
    settings: TrainingSettings,
    classes: tuple[str, ...],
    data: tuple[tuple[DataFile, ...], tuple[DataFile, ...]],
    network: torch.nn.Module,
    report: DetectionReport,
    exported: Exported,
    training: dict[str, Any],
    frames: Uint8Array,
) -> ModelCard:
    """Gather what there is to say, and measure the speed.

    Args:
        settings: of the training.
        classes: of the model.
        data: label files that were trained and validated on.
        network: that was exported.
        report: of the network on the validation pictures.
        exported: its files.
        training: how it went: epochs, steps, seconds.
        frames: uint8 (N, H, W, 3) pictures of the input's size, to measure the speed on.
    """
    kpis = {name: getattr(report, name) for name in ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar_100")} | {
        f"ap50_{one.name}": one.ap50 for one in report.classes
    }
    best = report.best_f1
    point = {"confidence": best.threshold, "precision": best.precision, "recall": best.recall, "f1": best.f1}
    return ModelCard(
        name=settings.name,
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        note=settings.note,
        command=settings.command,
        classes=classes,
        input=(settings.width, settings.height),
        backbone=settings.backbone,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        gflops=_gflops(network, settings),
        training=training,
        data=_files(data[0]),
        validation=_files(data[1]),
        min_visibility=settings.min_visibility,
        kpis={name: None if math.isnan(value) else round(value, 4) for name, value in kpis.items()},
        operating_point={name: None if math.isnan(value) else round(value, 4) for name, value in point.items()},
        speed=_speed(exported.onnx, frames),
        files={path.name: path.stat().st_size for path in (exported.onnx, exported.program, exported.spec)},
        export={"opset": OPSET, "greatest_difference": exported.difference, "allowed_difference": TOLERANCE},
        versions={name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
    )


def write_card(folder: Path, card: ModelCard) -> None:
    """Write ``model-card.json`` and ``model-card.md``."""
    for name, text in ((JSON, card.model_dump_json(indent=2) + "\n"), (TEXT, as_markdown(card))):
        write_text(folder / name, text)


def as_markdown(card: ModelCard) -> str:
    """The card for people."""
    kpis, point = card.kpis, card.operating_point
    lines = [
        f"# {card.name}",
        "",
        card.note or "No note on use and limits was given (`--note`).",
        "",
        f"- Finds: {', '.join(card.classes)}",
        f"- Input: {card.input[0]} x {card.input[1]} pixels, BGR, 0 to 255, letterbox at the top left",
        f"- Network: YOLOX (Ge et al., 2021) with backbone {card.backbone}; {card.parameters / 1e6:.2f} M parameters, "
        f"{card.gflops:.2f} GFLOPs",
        f"- Trained: {card.date}, {card.training['images_seen']} images seen in {card.training['steps']} steps "
        f"({card.training['epochs']} epochs, {card.training['elapsed_s'] / 60:.1f} minutes on {card.training['device']}); "
        f"the weights of step {card.training['best_step']} were the best",
        f"- Speed: {card.speed['ms_per_frame']} ms a frame by the service's own detector on {card.speed['threads']} CPU thread "
        f"({card.speed['cpu']})",
        "",
        "## Quality on the validation data",
        "",
        f"Objects less than {card.min_visibility:.0%} visible are neither right nor wrong to find.",
        "",
        "| figure | value |",
        "|---|---|",
        *(f"| {_title(name)} | {_shown(value)} |" for name, value in kpis.items()),
        "",
        f"Operate it at `confidence: {_shown(point['confidence'])}`, the threshold of the highest F1, with `nms_iou: {NMS_IOU}`, "
        f"as all of this was measured: precision {_shown(point['precision'])}, recall {_shown(point['recall'])}, F1 "
        f"{_shown(point['f1'])}. The threshold was chosen on these same pictures.",
        "",
        "## Data",
        "",
        "| used for | labels | images | objects | sha256 |",
        "|---|---|---|---|---|",
        *(f"| training | {f.path} | {f.images} | {f.objects} | `{f.sha256}` |" for f in card.data),
        *(f"| validation | {f.path} | {f.images} | {f.objects} | `{f.sha256}` |" for f in card.validation),
        "",
        "## Made by",
        "",
        f"    {card.command}",
        "",
        ", ".join(f"{name} {number}" for name, number in card.versions.items()) + ".",
        "",
        "The exported files differ from the trained network by at most "
        f"{card.export['greatest_difference']:.1g} ({card.export['allowed_difference']:g} is allowed); ONNX opset "
        f"{card.export['opset']}.",
        "",
    ]
    return "\n".join(lines)


def _title(name: str) -> str:
    figure, _, size = name.partition("_")
    return f"{figure.upper()} {size} ({SIZES[size]})" if size in SIZES else f"{figure.upper()} {size}".strip()


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _files(files: tuple[DataFile, ...]) -> tuple[File, ...]:
    return tuple(File(path=_relative(f.path), sha256=f.sha256, images=f.images, objects=f.objects) for f in files)


def _relative(path: Path) -> str:
    """As seen from where the command runs, so that a card names no home folder; the name alone where it lies elsewhere."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name


def _gflops(network: torch.nn.Module, settings: TrainingSettings) -> float:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 3, settings.height, settings.width))
    return float(round(counter.get_total_flops() / 1e9, 3))


def _speed(model: Path, frames: Uint8Array) -> dict[str, int | float | str]:
    """Milliseconds a frame, decoding and suppression included, on one thread."""
    detector = load_detector("card", DetectorConfig(model=str(model), threads=1), 0.1)
    chosen = np.resize(np.arange(len(frames)), TIMED_FRAMES)
    height, width = frames.shape[1:3]
    infos = tuple(FrameInfo("card", "", i, float(i), 0.0, width, height, 0.0, 0.0) for i in range(TIMED_FRAMES))
    batch = FrameBatch("card", infos, frames[chosen])
    try:
        detector.detect(batch)
        began = time.perf_counter()
        detector.detect(batch)
        elapsed_s = time.perf_counter() - began
    finally:
        detector.close()
    return {"ms_per_frame": round(1000 * elapsed_s / TIMED_FRAMES, 2), "threads": 1, "cpu": _cpu()}


def _cpu() -> str:
    name = str(torch.cpu.get_capabilities().get("cpu_name") or platform.machine())
    return f"{name}, {os.cpu_count()} cores"
