"""``framewatch train``."""

from __future__ import annotations

import os
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from stream.commands.finite import Finite
from stream.errors import ConfigError, Fault, TrainingError


def _size(_context: click.Context, _option: click.Parameter, text: str) -> tuple[int, int]:
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdigit() and height.isdigit()):
        raise click.BadParameter(f"{text!r} is not a size like 448x256")
    return int(width), int(height)


NEEDED = ("torch", "onnx", "matplotlib", "faster_coco_eval")
FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option("--data", type=FILE, multiple=True, metavar="COCO.json", help="Labels to train on; may be given several times.")
@click.option("--val", type=FILE, multiple=True, metavar="COCO.json", help="Labels to validate on; may be given several times.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, metavar="DIR", help="For all results.")
@click.option("--name", default="detector", show_default=True, help="Of the model files.")
@click.option("--epochs", type=click.IntRange(min=1), help="Times through the data.  [default: 100 without --minutes]")
@click.option("--minutes", type=Finite(min=0, min_open=True), help="Time for everything; the schedule fits into it.")
@click.option(
    "--input", "size", default="448x256", show_default=True, callback=_size, metavar="WxH", help="The model's, in multiples of 32."
)
@click.option("--from", "start_from", type=FILE, metavar="CHECKPOINT", help="Start from the weights of best.pt of another run.")
@click.option("--freeze", type=click.Choice(["backbone", "neck"]), help="Do not train it; neck: nor the backbone.")
@click.option(
    "--backbone",
    type=click.Choice(["csp", "efficientnet-lite0"]),
    default="csp",
    show_default=True,
    help="efficientnet-lite0 starts from pretrained weights out of a package.",
)
@click.option("--batch", type=click.IntRange(min=1), default=16, show_default=True, help="Pictures a step.")
@click.option("--lr", type=Finite(min=0, min_open=True), default=2e-3, show_default=True, help="Highest learning rate.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--precision", type=click.Choice(["auto", "f32", "bf16", "f16"]), default="auto", show_default=True)
@click.option(
    "--min-visibility",
    type=Finite(0, 1),
    default=0.25,
    show_default=True,
    help="Objects less visible are neither right nor wrong.",
)
@click.option(
    "--mosaic",
    type=Finite(0, 1),
    default=0.6,
    show_default=True,
    help="Share of training pictures put together from four; 0 where there are plenty.",
)
@click.option("--patience", type=click.IntRange(min=1), metavar="N", help="Stop where AP50 has not risen for N validations.")
@click.option("--val-every", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Epochs.")
@click.option("--cache-gb", type=Finite(min=0), default=4.0, show_default=True, help="Memory for pictures; then a file.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="Of the CPU; 0 lets torch choose.", show_default=True)
@click.option("--note", default="", help="Intended use and limits, for the model card.")
@click.option("--resume", is_flag=True, help="Go on with the training in --out; other options need not be repeated.")
@click.pass_context
def train(context: click.Context, /, out: Path, resume: bool, size: tuple[int, int], **options: Any) -> None:
    """Train a small detector on COCO labels and export it for the service.

    DIR then holds NAME.onnx, NAME.pt2 and NAME.yaml, model-card.md, curves.png, metrics.jsonl, and the checkpoints best.pt and
    last.pt. Ctrl-C saves a checkpoint; --resume goes on from it.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:  # before all the work, not at its end
        what = f"needs {', '.join(missing)}, not installed: pip install 'framewatch[train]'"
        raise ConfigError("framewatch train", [Fault("", what)])
    # Threads that wait for others sleep: those that spin take the cores from the threads that prepare pictures. On a busy
    # machine training is several times faster so. To be said before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from stream.cli import stop_on_signal
    from stream.training.request import settings_to_resume, settings_to_start

    asked = options | {"width": size[0], "height": size[1], "command": shlex.join(["framewatch", *sys.argv[1:]])}
    if resume:
        names = {name for name in context.params if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE}
        given = names & options.keys() | ({"width", "height"} if "size" in names else set())
        checkpoint = settings_to_resume(out, {name: asked[name] for name in sorted(given)})
        settings = checkpoint.settings
    else:
        checkpoint, settings = None, settings_to_start(out, asked)

    from stream.training.display import Display
    from stream.training.train import train as run

    try:
        with stop_on_signal() as stop, Display() as display:
            finished = run(settings, checkpoint, stop, display)
    except OSError as error:  # a full disk, a folder that may not be written to
        raise TrainingError(f"{error.filename or settings.out}: {error.strerror or error}") from error
    if not finished:
        sys.exit(130)
