"""Produce: a whole data set of synthetic pictures, on all cores, the same whatever their number."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np

from stream.datasets.coco import CocoAnnotation, CocoCategory, CocoDataset, CocoImage, write_coco
from stream.detectors.base import Detector
from stream.errors import ConfigError, DatasetError, Fault, FramewatchError
from stream.processes import deaf_children
from stream.synthesis.backgrounds import Background, Label, read_backgrounds
from stream.synthesis.compose import check_room, compose
from stream.synthesis.cutouts import Cutout, read_cutouts
from stream.synthesis.ground import Ground
from stream.synthesis.settings import Settings

QUALITY = (60, 96)  # of the JPEG files: cameras differ
WORTH_A_PROCESS = 15  # pictures: a process takes about as long to start
SPLIT, PICTURE = 0, 1  # first numbers of the seeds
WRITTEN = ("images", "coco.json", "train.json", "val.json", "synthesis.json")

Item = TypeVar("Item", Cutout, Background)


@dataclass(frozen=True)
class Stock:
    """What pictures are made from.

    Attributes:
        parts: cut-outs and backgrounds of the training part, then those of the validation part; one part if not split.
        training: how many of the pictures are made from the first part.
    """

    parts: tuple[tuple[tuple[Cutout, ...], tuple[Background, ...]], ...]
    training: int


class Made(NamedTuple):
    """Picture ``number`` (from 0) is finished, its file written."""

    number: int
    background: str
    width: int
    height: int
    ground: Ground
    labels: tuple[Label, ...]
    pasted: int
    distractors: int


@dataclass(frozen=True)
class Summary:
    """What was made, as ``synthesis.json`` says it: pictures by label file, objects and cut-outs by class, grounds by kind."""

    pictures: dict[str, int]
    objects: dict[str, int]
    pasted: int
    hidden: int
    distractors: int
    grounds: dict[str, int]
    cutouts: dict[str, int]
    cutouts_left_out: dict[str, int]
    backgrounds: int
    backgrounds_rejected: int
    detector: str | None


def synthesize(
    cutouts: Path,
    backgrounds: Path,
    count: int,
    out: Path,
    settings: Settings,
    *,
    detector: Callable[[], Detector] | None = None,
    workers: int = 1,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Summary:
    """Make ``count`` pictures: ``images/*.jpg``, ``coco.json`` (or ``train.json`` and ``val.json``), ``synthesis.json``.

    The same folders and settings give the same bytes, whatever ``workers`` is. The files appear in ``out`` when all are
    whole; a run that ends early, by Ctrl-C too, leaves nothing behind.

    Args:
        cutouts: see ``read_cutouts``.
        backgrounds: see ``read_backgrounds``.
        count: of pictures.
        out: the folder to write.
        settings: of the run.
        detector: makes the detector that rejects backgrounds; called once the cut-outs are read.
        workers: processes.
        overwrite: replace what an earlier run wrote to ``out``.
        progress: called with the number of pictures done since the last call.

    Raises:
        ConfigError: ``out`` cannot be written to, or a setting does not fit the folders.
        DatasetError: see ``read_cutouts`` and ``read_backgrounds``.
    """
    _check_out(out, (cutouts, backgrounds), overwrite)
    cut = read_cutouts(cutouts, settings.classes)
    settings.check_heights({item.category for item in cut.items})
    names = {item.category for item in cut.items}
    judge = detector() if detector else None
    places = read_backgrounds(backgrounds, settings, names, judge)
    check_room(cut.items, places.items, settings)
    stock = _stock(cut.items, places.items, count, settings)
    names |= {label.category for place in places.items for label in place.labels}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    except OSError as error:
        raise ConfigError("synthesize", [Fault("--out", f"{out} cannot be written: {error.strerror}")]) from error
    try:
        (part / "images").mkdir()
        made: list[Made] = []
        for picture in _make_all(stock, count, part / "images", settings, min(workers, -(-count // WORTH_A_PROCESS))):
            made.append(picture)
            if progress:
                progress(1)
        made.sort()
        files = {"coco.json": made}
        if settings.val_share:
            files = {"train.json": made[: stock.training], "val.json": made[stock.training :]}
        for name, pictures in files.items():
            write_coco(part / name, _dataset(pictures, sorted(names)))
        summary = Summary(
            pictures={name: len(pictures) for name, pictures in files.items()},
            objects=dict(sorted(Counter(label.category for picture in made for label in picture.labels).items())),
            pasted=sum(picture.pasted for picture in made),
            hidden=sum(label.iscrowd for picture in made for label in picture.labels),
            distractors=sum(picture.distractors for picture in made),
            grounds=dict(sorted(Counter(picture.ground.kind for picture in made).items())),
            cutouts=dict(sorted(Counter(item.category for item in cut.items).items())),
            cutouts_left_out=cut.left_out,
            backgrounds=len(places.items),
            backgrounds_rejected=places.rejected,
            detector=judge.model_id if judge else None,
        )
        text = json.dumps({"settings": asdict(settings), **asdict(summary)}, indent=2)
        (part / "synthesis.json").write_text(text + "\n", encoding="utf-8")
        _move(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return summary


def _check_out(out: Path, inputs: Sequence[Path], overwrite: bool) -> None:
    def refuse(reason: str) -> ConfigError:
        return ConfigError("synthesize", [Fault("--out", f"{out} {reason}")])

    for folder in inputs:
        if folder.resolve().is_relative_to(out.resolve()):
            raise refuse(f"holds the input {folder}")
        if out.resolve().is_relative_to(folder.resolve()):  # the next run would read it
            raise refuse(f"lies in the input {folder}")
    if out.exists() and not out.is_dir():
        raise refuse("is not a folder")
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise refuse("is not empty; --overwrite replaces what an earlier run wrote there")
        if not (out / "synthesis.json").is_file():
            raise refuse("was not written by synthesize (it holds no synthesis.json), so it is not overwritten")


def _move(part: Path, out: Path) -> None:
    out.mkdir(exist_ok=True)
    for name in WRITTEN:
        old = out / name
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)
    for path in part.iterdir():
        os.replace(path, out / path.name)


def _stock(cutouts: Sequence[Cutout], backgrounds: Sequence[Background], count: int, settings: Settings) -> Stock:
    if not settings.val_share:
        return Stock(((tuple(cutouts), tuple(backgrounds)),), count)
    rng = np.random.default_rng([SPLIT, settings.seed])
    train_cutouts, val_cutouts = _split(cutouts, settings.val_share, rng, "cut-outs")
    train_places, val_places = _split(backgrounds, settings.val_share, rng, "backgrounds")
    training = count - round(count * settings.val_share)
    if training in (0, count):
        raise ConfigError("synthesize", [Fault("--val-share", f"{settings.val_share} of {count} pictures leaves one part empty")])
    return Stock(((train_cutouts, train_places), (val_cutouts, val_places)), training)


def _split(items: Sequence[Item], share: float, rng: np.random.Generator, what: str) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """By source: what comes from one picture or video is all in one part."""
    sources = sorted({item.source for item in items})
    if len(sources) < 2:
        raise DatasetError(f"--val-share: all {what} come from {sources[0]}, so they cannot be divided")
    chosen = min(len(sources) - 1, max(1, round(len(sources) * share)))
    kept = {sources[i] for i in rng.permutation(len(sources))[:chosen]}
    return tuple(item for item in items if item.source not in kept), tuple(item for item in items if item.source in kept)


def _make_all(stock: Stock, count: int, folder: Path, settings: Settings, workers: int) -> Iterator[Made]:
    """All pictures, in no certain order."""
    if workers <= 1:
        for index in range(count):
            yield _make(stock, index, folder, settings)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of OpenCV's and FFmpeg's threads
    processes, pipes = [], []
    try:
        with deaf_children():
            for first in range(workers):
                receiver, sender = context.Pipe(duplex=False)
                indices = range(first, count, workers)
                process = context.Process(target=_work, args=(stock, indices, folder, settings, sender), daemon=True)
                process.start()
                sender.close()
                processes.append(process)
                pipes.append(receiver)
        while pipes:
            for ready in wait(pipes):
                assert isinstance(ready, Connection)
                try:
                    result = ready.recv()
                except EOFError as error:
                    raise DatasetError("a process that made pictures ended before its time; was it short of memory?") from error
                if isinstance(result, FramewatchError):
                    raise result
                if result is None:
                    pipes.remove(ready)
                else:
                    yield result
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
        for pipe in pipes:
            pipe.close()


def _work(stock: Stock, indices: range, folder: Path, settings: Settings, results: Connection[Any, Any]) -> None:
    """A process: makes its share of the pictures, reports each, then None; ends early when nobody listens any more."""
    cv2.setNumThreads(1)
    try:
        for index in indices:
            results.send(_make(stock, index, folder, settings))
        results.send(None)
    except FramewatchError as error:
        results.send(error)
    except BrokenPipeError:
        return


def _make(stock: Stock, index: int, folder: Path, settings: Settings) -> Made:
    rng = np.random.default_rng([PICTURE, settings.seed, index])
    cutouts, places = stock.parts[0 if index < stock.training else 1]
    place = places[rng.integers(len(places))]
    picture = compose(place, cutouts, places, settings, rng)
    path, quality = folder / _file_name(index), int(rng.integers(*QUALITY))
    if not cv2.imwrite(str(path), picture.bgr, [cv2.IMWRITE_JPEG_QUALITY, quality]):
        raise DatasetError(f"{path}: cannot be written")
    height, width = picture.bgr.shape[:2]
    return Made(index, place.name, width, height, picture.ground, picture.labels, picture.pasted, picture.distractors)


def _file_name(index: int) -> str:
    return f"{index:06d}.jpg"


def _dataset(pictures: Sequence[Made], names: Sequence[str]) -> CocoDataset:
    ids = {name: i for i, name in enumerate(names, start=1)}
    images = [
        CocoImage.model_validate(
            {
                "id": made.number + 1,
                "file_name": f"images/{_file_name(made.number)}",
                "width": made.width,
                "height": made.height,
                "background": made.background,
                "ground": asdict(made.ground),
            }
        )
        for made in pictures
    ]
    labels = [(made.number + 1, label) for made in pictures for label in made.labels]
    annotations = [
        CocoAnnotation(
            id=i,
            image_id=image_id,
            category_id=ids[label.category],
            bbox=label.bbox,
            area=label.area,
            iscrowd=1 if label.iscrowd else 0,
            visibility=label.visibility,
        )
        for i, (image_id, label) in enumerate(labels, start=1)
    ]
    return CocoDataset(images=images, annotations=annotations, categories=[CocoCategory(id=i, name=n) for n, i in ids.items()])
