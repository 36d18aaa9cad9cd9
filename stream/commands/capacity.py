"""``framewatch capacity``: how many sources this machine sustains, and what keeps it from more."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stream.commands.finite import Finite

if TYPE_CHECKING:
    from stream.capacity.report import Report
    from stream.config import PipelineConfig
    from stream.simulation.video import Shot

FAILED, INTERRUPTED = 1, 130


@click.command()
@click.option("-c", "--config", "config_path", type=click.Path(path_type=Path), required=True, help="Config file (YAML).")
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The video that every source plays (default: the config's first file, else a simulated camera, filmed first).",
)
@click.option(
    "--seconds",
    type=Finite(2, 600),
    default=20,
    show_default=True,
    help="Of steady state that are measured for each number of sources.",
)
@click.option("--warmup", "warmup_s", type=Finite(0, 600), default=5, show_default=True, help="Seconds before that.")
@click.option("--max-sources", type=click.IntRange(1, 1000), default=128, show_default=True, help="Try no more.")
@click.option("--minutes", type=Finite(0.5, 600), default=20, show_default=True, help="Begin no step after so long.")
@click.option(
    "--sink",
    type=click.Choice(["file", "config"]),
    default="file",
    show_default=True,
    help="Where events go: to a temporary file, or to the sinks of the config, Kafka included.",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write everything.")
def capacity(
    config_path: Path,
    file: Path | None,
    seconds: float,
    warmup_s: float,
    max_sources: int,
    minutes: float,
    sink: str,
    json_path: Path | None,
) -> None:
    """Find how many sources this machine sustains within the SLO, and the stage that limits.

    Runs the Ray service, on a port and a cluster of its own, with more and more sources that have the settings of the config's
    and all play one video in real time. A setting of decoding that loses detections on that video is refused first. Give the
    machine nothing else to do meanwhile.
    """
    from stream.cli import stop_on_signal
    from stream.config_file import load_config
    from stream.models.cache import fetch_models
    from stream.processes import ProcessTree, adopt_orphans
    from stream.sinks import check_sinks

    if not sys.platform.startswith("linux"):
        raise click.UsageError("capacity needs Linux: it reads what processes cost from /proc")
    config = load_config(config_path)
    fetch_models(config)
    if sink == "config":
        check_sinks(config.sinks)
    adopt_orphans()
    # The cluster lies in this folder, so that no other one of this machine is seen; the path of its sockets must be short.
    with stop_on_signal() as stop, tempfile.TemporaryDirectory(prefix="fw-cap-", ignore_cleanup_errors=True) as name:
        os.environ["RAY_TMPDIR"] = name
        os.environ.pop("RAY_ADDRESS", None)
        try:
            report = _measure(config, file, sink == "file", (seconds, warmup_s, max_sources, 60 * minutes), Path(name), stop)
        finally:
            ProcessTree().end()
    if report is None:
        sys.exit(INTERRUPTED)
    _print(report)
    if json_path is not None:
        json_path.write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if report.best else FAILED)


def _measure(
    config: PipelineConfig,
    file: Path | None,
    own_sinks: bool,
    limits: tuple[float, float, int, float],
    folder: Path,
    stop: threading.Event,
) -> Report | None:
    """None where ``stop`` ended it."""
    from stream.capacity.check import check
    from stream.capacity.plan import choose_clip, plan
    from stream.capacity.report import Report, line
    from stream.capacity.step import Step

    clip = choose_clip(config, file, folder / "film", lambda shot, out: _film(shot, out, stop))
    if clip is None:
        return None
    planned = plan(config, clip, folder, own_sinks=own_sinks)
    agreements = check(planned, stop, _tell)
    if stop.is_set():
        return None
    from actors.capacity import Request, measure_capacity

    _tell("starting the service ...")
    steps: list[Step] = []

    def on_step(step: Step) -> None:
        steps.append(step)
        _tell(f"  {line(step)}")

    found = measure_capacity(planned, Request(*limits), stop, _tell, on_step)
    return None if found is None else Report(planned, agreements, steps, found)


def _film(shot: Shot, folder: Path, stop: threading.Event) -> bool:
    from stream.simulation.studio import make

    _tell(f"filming a simulated {shot.scene} for {shot.seconds:g} s ...")
    return make([shot], folder, stop, lambda done: None)


def _tell(text: str) -> None:
    click.echo(text, err=True)


def _print(report: Report) -> None:
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=180)
    console.print(report.table())
    console.print(report.closing(), highlight=False, soft_wrap=True)
    for remark in report.remarks():
        console.print(f"  {remark}", highlight=False, soft_wrap=True)
