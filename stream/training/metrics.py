"""metrics.jsonl: one line per epoch, and the learning curves drawn from it."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from stream.errors import DatasetError
from stream.files import replacing, write_text

FILE, PICTURE = "metrics.jsonl", "curves.png"


class EpochMetrics(BaseModel):
    """One line. Losses are means over the steps since the last line; the figures of validation are null where there was none.

    ``images_per_s`` is the training's own, without validation.
    """

    model_config = ConfigDict(frozen=True)

    epoch: int
    step: int
    elapsed_s: float
    lr: float
    loss: float
    loss_box: float
    loss_objectness: float
    loss_class: float
    images_per_s: float
    ap: float | None = None
    ap50: float | None = None
    ap75: float | None = None
    f1: float | None = None


def read_metrics(path: Path, up_to_step: int) -> list[EpochMetrics]:
    """The lines up to a step; what a killed training wrote after its last checkpoint is left out.

    Raises:
        DatasetError: a line is not what it should be.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.exists() else [], 1):
        try:
            metrics = EpochMetrics.model_validate_json(line)
        except ValidationError as error:
            raise DatasetError(f"{path}:{number}: is not a line of metrics: {error.errors()[0]['msg']}") from None
        if metrics.step <= up_to_step:
            found.append(metrics)
    return found


def write_metrics(path: Path, lines: list[EpochMetrics]) -> None:
    """Write all lines anew; the file is renamed into place when whole."""
    write_text(path, "".join(json.dumps(line.model_dump(), allow_nan=False) + "\n" for line in lines))


def draw_curves(path: Path, lines: list[EpochMetrics]) -> None:
    """Loss, average precision and learning rate over the steps, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    FigureCanvasAgg(figure)
    losses, precision, rate = figure.subplots(1, 3)
    steps, mark = [line.step for line in lines], "o" if len(lines) < 3 else None
    for name in ("loss", "loss_box", "loss_objectness", "loss_class"):
        losses.plot(steps, [getattr(line, name) for line in lines], label=name.replace("_", " "), marker=mark)
    losses.set(title="training loss", xlabel="step", ylim=(0, None))
    measured = [line for line in lines if line.ap50 is not None]
    at = [line.step for line in measured]
    for name in ("ap50", "ap75", "ap", "f1"):
        precision.plot(at, [getattr(line, name) for line in measured], label=name.upper(), marker=mark)
    precision.set(title="validation", xlabel="step", ylim=(0, 1))
    rate.plot(steps, [line.lr for line in lines], marker=mark)
    rate.set(title="learning rate", xlabel="step", ylim=(0, None))
    for axes in (losses, precision, rate):
        axes.grid(alpha=0.3)
    for axes in (losses, precision):
        axes.legend()
    with replacing(path) as part:
        figure.savefig(part, dpi=110, format="png")
