"""``framewatch quantize``: a model in int8, if its accuracy holds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from stream.commands.finite import Finite

FAILED = 1
AnyPath = click.Path(path_type=Path)


@click.command()
@click.argument("model")
@click.option(
    "--data",
    type=AnyPath,
    multiple=True,
    required=True,
    metavar="COCO.json|FOLDER|VIDEO",
    help="Frames to calibrate with: the pictures of a label file, of a folder, or of a video; repeatable.",
)
@click.option("--val", type=AnyPath, required=True, metavar="COCO.json", help="Labels that the accuracy is measured on.")
@click.option("--out", type=AnyPath, required=True, metavar="FILE.xml", help="The int8 model; .bin and .yaml lie beside it.")
@click.option("--metric", type=click.Choice(["ap50", "ap"]), default="ap50", show_default=True, help="What must hold.")
@click.option(
    "--max-drop",
    type=Finite(0, 1),
    default=0.01,
    show_default=True,
    help="Write nothing, and exit 1, if the metric falls by more.",
)
@click.option("--frames", type=click.IntRange(min=1), default=300, show_default=True, help="Calibrate with at most so many frames.")
def quantize(**options: Any) -> None:
    """Quantize MODEL (a file, or a name of the registry) to int8 and measure it against the original.

    No picture or video may be in both --data and --val.
    """
    from rich.console import Console
    from rich.table import Table

    from stream.tuning.quantize import Request
    from stream.tuning.quantize import quantize as run

    request = Request(**options)
    outcome = run(request, lambda line: click.echo(f"framewatch: {line}", err=True))
    table = Table(title=f"int8 after {outcome.frames} frames")
    for column in ("model", "kB", "CPU ms per frame, one thread", "AP", "AP50"):
        table.add_column(column, justify="left" if column == "model" else "right", overflow="fold")
    for row in (outcome.before, outcome.after):
        table.add_row(row.name, f"{row.size_bytes / 1e3:.0f}", f"{row.ms:.2f}", f"{row.ap:.4f}", f"{row.ap50:.4f}")
    Console().print(table)
    change = f"{request.metric.upper()} falls by {outcome.drop:.4f}; {request.max_drop:g} is allowed"
    if not outcome.accepted:
        click.echo(f"framewatch: {change}: nothing written", err=True)
        sys.exit(FAILED)
    click.echo(f"{request.out}: {change}")
