"""Calibration pictures: frames from label files, folders and videos, scaled as the service scales the frames of a camera."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from stream.clock import SystemClock
from stream.config import SourceConfig
from stream.datasets.coco import pictures, read_coco
from stream.detectors.base import InputSpec
from stream.errors import DatasetError
from stream.evaluation.predictions import camera_frame
from stream.frame import Uint8Array
from stream.recording import read_frames
from stream.scale import Scaler
from stream.sources.file import FileSource

PICTURES = (".bmp", ".jpeg", ".jpg", ".png")
Item = TypeVar("Item")


def media_of(path: Path) -> list[Path]:
    """The picture and video files behind a label file, a folder of pictures, or a video.

    Raises:
        DatasetError: there is no such file, or it leads to no picture.
    """
    if path.suffix.lower() == ".json":
        found = sorted({path.parent / image.file_name for image in read_coco(path).images})
        if not found:
            raise DatasetError(f"{path}: lists no picture")
        return found
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURES)
        if not found:
            hint = f"; give {path / 'coco.json'} to take the pictures it lists" if (path / "coco.json").is_file() else ""
            raise DatasetError(f"{path}: holds no picture ({', '.join(PICTURES)}){hint}")
        return found
    if not path.is_file():
        raise DatasetError(f"{path}: no such file or folder")
    return [path]


def calibration_images(inputs: Sequence[Path], spec: InputSpec, count: int) -> list[Uint8Array]:
    """Frames for a model's input, spread evenly over each of the inputs, which give about equally many.

    Args:
        inputs: label files, folders of pictures, videos.
        spec: the model's input.
        count: at most so many in all, at least one of each input.

    Returns:
        uint8 (height, width, 3) each.

    Raises:
        DatasetError: a label file or picture cannot be read.
        SourceError: a video cannot be read.
    """
    share = max(1, count // len(inputs))
    return [image for path in inputs for image in islice(_images(path, spec, share), share)]


def _images(path: Path, spec: InputSpec, count: int) -> Iterator[Uint8Array]:
    scaler = Scaler(spec)
    if path.suffix.lower() == ".json":
        dataset = read_coco(path)
        for picture in pictures(dataset, path.parent, {image.id for image in _spread(dataset.images, count)}):
            yield scaler.scale(camera_frame(picture.bgr))
    elif path.is_dir():
        for file in _spread(media_of(path), count):
            bgr = cv2.imread(str(file), cv2.IMREAD_COLOR)
            if bgr is None:
                raise DatasetError(f"{file}: not a picture that can be read")
            yield scaler.scale(camera_frame(np.asarray(bgr, np.uint8)))
    else:
        source = SourceConfig(id="calibration", uri=f"file:{path.absolute()}")
        with FileSource(source, SystemClock()) as opened:
            duration_s = opened.duration_s
        fps = min(1000.0, count / duration_s) if duration_s else None
        with closing(read_frames(source.model_copy(update={"fps": fps}), spec)) as frames:
            yield from (frame.image for frame in frames)


def _spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most ``count`` of the items, evenly spread, in their order."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]
