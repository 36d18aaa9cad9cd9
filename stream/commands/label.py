"""``framewatch label``."""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

import click

from stream.commands.finite import Finite
from stream.commands.progress import progress_bar

INCOMPLETE = 1


@click.command()
@click.argument("recordings", nargs=-1, required=True, metavar="RECORDING...", type=click.Path(path_type=Path))
@click.option("--model", required=True, help="Whose boxes become labels: a file, or a name of the registry.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write: images/, coco.json.")
@click.option("--fps", type=Finite(0, 1000, min_open=True), default=1.0, show_default=True, help="Pictures a second of a video.")
@click.option(
    "--confidence",
    type=Finite(0, 1, min_open=True, max_open=True),
    default=0.5,
    show_default=True,
    help="From which on an object becomes a label.",
)
@click.option("--nms-iou", type=Finite(0, 1, min_open=True), default=0.5, show_default=True, help="As in the config.")
@click.option("--class", "classes", multiple=True, metavar="NAME", help="Only this class; repeatable.")
def label(
    recordings: tuple[Path, ...],
    model: str,
    out: Path,
    fps: float,
    confidence: float,
    nms_iou: float,
    classes: tuple[str, ...],
) -> None:
    """Label videos and pictures with what a model finds in them (COCO).

    RECORDING is a file, or a folder with such. The labels are for correcting by hand in a labelling tool, for `train` on
    what a larger model finds, or for holding a new model against the one that it shall replace: `evaluate detections
    OUT/coco.json --model NEW` then says how far the two agree, not which of them is right.

    Exit code 1 where a recording could not be read to its end; the others are labelled all the same.
    """
    from stream.config import DetectorConfig
    from stream.datasets.coco import write_coco
    from stream.datasets.label import Collection, find_recordings
    from stream.datasets.label import label as label_pictures
    from stream.detectors.registry import describe_model, load_detector
    from stream.errors import DatasetError

    config = DetectorConfig(model=model, classes=list(classes) or None, confidence=confidence, nms_iou=nms_iou)
    name = Path(model).stem
    known = describe_model(config, name).classes
    files = find_recordings(recordings)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DatasetError(f"{out}: is there already, and is no empty folder; give a new one")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".part", dir=out.parent) as part:
            folder = Path(part) / "labels"
            folder.mkdir()
            pictures = Collection(folder)
            with progress_bar("Recordings", len(files)) as advance:
                for file in files:
                    for _ in pictures.add(file, fps):
                        pass
                    advance(1)
            if not pictures.images:
                raise DatasetError("; ".join(pictures.faults) or f"{files[0]}: has no frame")
            detector = load_detector(name, config, confidence)
            try:
                with progress_bar("Pictures", len(pictures.images)) as advance:
                    labels = label_pictures(pictures.images, folder, detector, classes or known, advance)
            finally:
                detector.close()
            write_coco(folder / "coco.json", labels)
            os.replace(folder, out)
    except OSError as error:
        raise DatasetError(f"{out}: cannot be written: {error.strerror or error}") from error
    names = {category.id: category.name for category in labels.categories}
    counts = Counter(names[annotation.category_id] for annotation in labels.annotations)
    found = ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "no object"
    click.echo(f"{out / 'coco.json'}: {len(labels.images)} pictures; {found}")
    for fault in pictures.faults:
        click.echo(f"framewatch: {fault}", err=True)
    if pictures.faults:
        sys.exit(INCOMPLETE)
