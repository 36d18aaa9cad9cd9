"""``framewatch simulate``: film simulated scenes, with the truth beside the video."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from stream.commands.finite import Finite
from stream.simulation.address import SCENES

INTERRUPTED = 130
MOST_FILMS = 10_000  # of one run


def numbers(context: click.Context, option: click.Parameter, value: str) -> tuple[tuple[int, int], ...]:
    """``7``, ``1-20``, or several of these separated by commas, as pairs of first and last."""
    pairs = []
    for part in value.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
        if not match:
            raise click.BadParameter(f"{part!r} is neither a number nor a range like 1-20", context, option)
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise click.BadParameter(f"{part!r} ends before it begins", context, option)
        pairs.append((first, last))
    return tuple(pairs)


@click.command()
@click.option("--scene", "scenes", multiple=True, type=click.Choice(SCENES), required=True, help="May be given several times.")
@click.option("--people", callback=numbers, default="20", show_default=True, metavar="N|A-B", help="In the scene at once.")
@click.option("--seed", "--seeds", "seeds", callback=numbers, default="1", show_default=True, metavar="N|A-B[,...]")
@click.option("--seconds", type=Finite(min=0, min_open=True), default=60.0, show_default=True)
@click.option("--fps", type=Finite(min=1, max=120), default=25.0, show_default=True)
@click.option("--width", type=click.IntRange(160, 3840), default=1280, show_default=True)
@click.option("--height", type=click.IntRange(120, 2160), default=720, show_default=True)
@click.option("--pictures-fps", type=Finite(min=0, min_open=True), help="Write so many JPEGs per second, labelled.")
@click.option("--video/--no-video", default=True, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, metavar="DIR", help="A new folder.")
def simulate(
    scenes: tuple[str, ...],
    people: tuple[tuple[int, int], ...],
    seeds: tuple[tuple[int, int], ...],
    seconds: float,
    fps: float,
    width: int,
    height: int,
    pictures_fps: float | None,
    video: bool,
    out: Path,
) -> None:
    """Film simulated scenes: video or pictures, boxes, tracks and true counts in DIR.

    Each scene is filmed with each seed. Several go to folders of their own, on all cores; DIR/coco.json then lists all
    their pictures. With --people A-B each film has its own number of people, drawn by its seed.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from stream.cli import stop_on_signal
    from stream.simulation.studio import make
    from stream.simulation.video import Shot

    if len(people) > 1:
        raise click.BadParameter("must be one number or one range", param_hint="--people")
    if width % 2 or height % 2:
        raise click.BadParameter(f"must be even for H.264, not {width}x{height}", param_hint="--width/--height")
    if not video and pictures_fps is None:
        raise click.UsageError("--no-video leaves nothing to write; give --pictures-fps")
    films = len(scenes) * sum(last - first + 1 for first, last in seeds)
    if films > MOST_FILMS:
        raise click.BadParameter(f"asks for {films:,} films; at most {MOST_FILMS:,} at once", param_hint="--seeds")
    shots = [
        Shot(scene, seed, people[0], seconds, fps, width, height, pictures_fps, video)
        for scene in scenes
        for first, last in seeds
        for seed in range(first, last + 1)
    ]
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    with stop_on_signal() as stop, bar:
        task = bar.add_task(str(out), total=sum(shot.frames for shot in shots))
        complete = make(shots, out, stop, lambda done: bar.update(task, completed=done))
    if not complete:
        click.echo(f"framewatch: {out} is not complete", err=True)
        sys.exit(INTERRUPTED)
    click.echo(f"{out}: {len(shots)} film{'s' if len(shots) > 1 else ''} of {shots[0].frames / fps:g} s", err=True)
