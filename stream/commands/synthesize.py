"""``framewatch synthesize``."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from stream.commands.finite import Finite

SEEN = 0.3  # confidence from which a background counts as showing an object: a missed one spoils labels, a false one costs little


def _pair(option: str, text: str, separator: str) -> tuple[str, str]:
    left, found, right = text.rpartition(separator)
    if not found:
        raise click.UsageError(f"{option}: {text!r} must have the form {'1:8' if separator == ':' else 'CLASS=METRES'}")
    return left.strip(), right.strip()


def _objects(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[int, int]:
    least, most = _pair("--objects", text, ":")
    try:
        return int(least), int(most)
    except ValueError:
        raise click.UsageError(f"--objects: {text!r} must have the form 1:8") from None


def _heights(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, float]:
    heights = {}
    for text in texts:
        name, metres = _pair("--height", text, "=")
        try:
            heights[name] = float(metres)
        except ValueError:
            raise click.UsageError(f"--height: {text!r}: {metres!r} is not a number of metres") from None
    return heights


@click.command()
@click.option(
    "--cutouts", type=click.Path(path_type=Path), required=True, help="Objects with masks: COCO, Penn-Fudan or CLASS/*.png."
)
@click.option("--backgrounds", type=click.Path(path_type=Path), required=True, help="Pictures, videos, or COCO labels of such.")
@click.option("--count", type=click.IntRange(min=1), required=True, help="Pictures to make.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write: images/, coco.json, synthesis.json.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--class", "classes", multiple=True, metavar="NAME", help="Only cut-outs of this class; may be repeated.")
@click.option("--objects", default="1:8", show_default=True, callback=_objects, metavar="MIN:MAX", help="Objects a picture.")
@click.option("--horizon", type=Finite(), metavar="SHARE", help="Horizon as a share of the height from the top.")
@click.option("--camera-height", type=Finite(), metavar="METRES", help="Of the camera above the ground.")
@click.option("--height", "heights", multiple=True, callback=_heights, metavar="CLASS=METRES", help="How tall a class is.")
@click.option("--min-height", type=int, default=24, show_default=True, metavar="PX", help="Of a pasted object.")
@click.option("--negatives", type=Finite(), default=0.2, show_default=True, help="Share of pictures with pasted non-objects.")
@click.option("--min-visible", type=Finite(), default=0.25, show_default=True, help="Objects of which less is seen: iscrowd=1.")
@click.option(
    "--val-share", type=Finite(), default=0.0, show_default=True, help="Write train.json and val.json, no source in both."
)
@click.option("--frames", type=int, default=20, show_default=True, help="Frames taken from each video without labels.")
@click.option("--max-side", type=int, default=1280, show_default=True, metavar="PX", help="Larger backgrounds are scaled down.")
@click.option(
    "--detector", metavar="MODEL|none", default="none", show_default=True, help="Rejects unlabelled backgrounds that show objects."
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes (default: one a core).")
@click.option("--overwrite", is_flag=True, help="Replace what an earlier run wrote to --out.")
def synthesize(
    cutouts: Path,
    backgrounds: Path,
    count: int,
    out: Path,
    seed: int,
    classes: tuple[str, ...],
    objects: tuple[int, int],
    horizon: float | None,
    camera_height: float | None,
    heights: dict[str, float],
    min_height: int,
    negatives: float,
    min_visible: float,
    val_share: float,
    frames: int,
    max_side: int,
    detector: str,
    workers: int | None,
    overwrite: bool,
) -> None:
    """Make labelled pictures: real objects, cut out, pasted into other places.

    Objects stand on the ground of the background: given by --horizon and --camera-height, else estimated from the boxes
    that its labels or the detector give, else assumed. Each picture's is written beside its labels.
    """
    from rich.console import Console
    from rich.progress import Progress

    from stream.config import DetectorConfig
    from stream.detectors.base import Detector
    from stream.processes import core_count
    from stream.synthesis.produce import synthesize as run
    from stream.synthesis.settings import HEIGHTS_M, Settings

    settings = Settings(
        seed=seed,
        classes=classes,
        objects=objects,
        horizon=horizon,
        camera_height_m=camera_height,
        heights_m={**HEIGHTS_M, **heights},
        negatives=negatives,
        min_visible=min_visible,
        min_height_px=min_height,
        val_share=val_share,
        frames=frames,
        max_side_px=max_side,
    )

    def load() -> Detector:
        from stream.detectors.registry import load_detector

        return load_detector("backgrounds", DetectorConfig(model=detector, confidence=SEEN), SEEN)

    console = Console(stderr=True)
    started = time.monotonic()
    with _term_as_interrupt(), Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("pictures", total=count)
        summary = run(
            cutouts,
            backgrounds,
            count,
            out,
            settings,
            detector=None if detector == "none" else load,
            workers=workers or core_count(),
            overwrite=overwrite,
            progress=lambda done: bar.advance(task, done),
        )
    seconds = time.monotonic() - started
    click.echo(f"cut-outs: {_counts(summary.cutouts)}; left out: {_counts(summary.cutouts_left_out)}")
    click.echo(f"backgrounds: {summary.backgrounds}; rejected by the detector: {summary.backgrounds_rejected}")
    click.echo(f"ground: {_counts(summary.grounds)}")
    click.echo(f"objects: {_counts(summary.objects)}; pasted: {summary.pasted}; hidden (iscrowd): {summary.hidden}")
    click.echo(f"things without a label: {summary.distractors}")
    files = ", ".join(f"{name}: {pictures}" for name, pictures in summary.pictures.items())
    click.echo(f"{out}: {count} pictures ({files}) in {seconds:.1f} s ({count / seconds:.1f}/s)")


@contextmanager
def _term_as_interrupt() -> Iterator[None]:
    """SIGTERM cleans up as Ctrl-C does."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"
