"""``framewatch tune``: thresholds, tracker and counting settings chosen on clips with known truth."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stream.commands.finite import Finite

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from stream.tuning.tune import Tuned

Folder = click.Path(path_type=Path)


@click.command()
@click.option("-c", "--config", "config_path", type=click.Path(path_type=Path), required=True, help="Config file (YAML).")
@click.option(
    "--data",
    type=Folder,
    multiple=True,
    required=True,
    metavar="DIR",
    help="Validation clips, as `framewatch simulate` writes them, or a folder of such folders; repeatable.",
)
@click.option("--test", type=Folder, multiple=True, metavar="DIR", help="Clips to measure the choice on at the end; repeatable.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, metavar="FILE.yaml", help="The fragment; the report is FILE.json."
)
@click.option(
    "--objective",
    type=click.Choice(["overall", "idf1", "hota", "occupancy", "crossings"]),
    default="overall",
    show_default=True,
    help="overall: mean of IDF1, 1 - occupancy error (both twice) and 1 - crossings error.",
)
@click.option("--detector", metavar="NAME", help="Which of the config's detectors (default: the first).")
@click.option(
    "--fps", type=Finite(min=0, min_open=True, max=1000), help="Analysed frames per second (default: the clip's, or all)."
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Different settings to search; a few more undo what was not worth it.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the search.")
def tune(**options: Any) -> None:
    """Choose confidence, suppression, tracker and counting settings on clips with known truth.

    Runs the model over the clips once for each nms_iou that may be tried, then tracks and counts again for every trial, with
    the service's own parts. Test clips play no part in the choice; one that is also in --data is refused.
    """
    from stream.tuning.tune import Request, report_path
    from stream.tuning.tune import tune as run

    request = Request(**options)
    with _bar() as progress:
        tuned = run(request, _Steps(progress))
    _print(tuned)
    click.echo(f"{request.out}: merge it into the config; all figures are in {report_path(request.out)}")


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


class _Steps:
    """One bar, for the step that is under way."""

    def __init__(self, progress: Progress):
        self._progress = progress
        self._task: TaskID | None = None

    def begin(self, what: str, total: float | None) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(what, total=total)

    def advance(self, by: float) -> None:
        assert self._task is not None
        self._progress.advance(self._task, by)


def _print(tuned: Tuned) -> None:
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    console = Console()
    settings = Table(title=f"settings of {tuned.detector} after {tuned.trials} trials")
    for column in ("", "before", "after"):
        settings.add_column(column, justify="right" if column else "left")
    before, after = asdict(tuned.before.settings), asdict(tuned.after.settings)
    for name, value in before.items():
        settings.add_row(name, f"{value:g}", f"{after[name]:g}" if after[name] != value else "same")
    console.print(settings)
    results = [("validation", tuned.before.validation, tuned.after.validation)]
    if tuned.before.test and tuned.after.test:
        results.append(("test", tuned.before.test, tuned.after.test))
    figures = Table(title=f"{len(tuned.validation)} validation and {len(tuned.test)} test clips")
    figures.add_column("")
    for what, _, _ in results:
        figures.add_column(f"{what} before", justify="right")
        figures.add_column("after", justify="right")
    for name in asdict(tuned.before.validation):
        row = [_shown(getattr(one, name)) for _, *pair in results for one in pair]
        figures.add_row(name, *row)
    console.print(figures)


def _shown(value: float | int | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4f}"
