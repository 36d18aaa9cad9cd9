"""Training pictures: label files merged, pictures scaled once to the size of the network's input and kept."""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stream.datasets.coco import CocoAnnotation, CocoCategory, CocoDataset, CocoImage, pictures, read_coco
from stream.datasets.files import sha256, shared_file
from stream.detectors.base import InputSpec
from stream.errors import DatasetError
from stream.evaluation.predictions import camera_frame
from stream.frame import Uint8Array
from stream.scale import Scaler

Float32Array = npt.NDArray[np.float32]
MOST_READ = 8  # pictures that wait to be scaled


@dataclass(frozen=True)
class DataFile:
    """A label file as the model card names it."""

    path: Path
    sha256: str
    images: int
    objects: int


@dataclass(frozen=True)
class Merged:
    """Several label files as one: ``file_name`` is absolute, ids are new, category ``i + 1`` is ``classes[i]``."""

    dataset: CocoDataset
    files: tuple[DataFile, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names by class id."""
        return self.dataset.class_names


def read_merged(paths: Sequence[Path], classes: Sequence[str] | None = None) -> Merged:
    """Read label files and merge their classes by name, in the order in which they first appear.

    Args:
        paths: the files.
        classes: the only ones there may be, in this order; those of the files if None.

    Raises:
        DatasetError: a file cannot be read, has a class twice, writes a class otherwise than another file does, has one
            that is not among ``classes``, lists a picture that was listed before, or there is no picture or no object in all
            of them.
    """
    read = [(path, read_coco(path)) for path in paths]
    names = _class_names(read, classes)
    images: list[CocoImage] = []
    annotations: list[CocoAnnotation] = []
    files: list[DataFile] = []
    listed: dict[tuple[str, int | None], Path] = {}
    for path, dataset in read:
        category = {c.id: names.index(c.name) + 1 for c in dataset.categories}
        image_id = {image.id: len(images) + i for i, image in enumerate(dataset.images, 1)}
        for image in dataset.images:
            file_name = str((path.parent / image.file_name).resolve())
            if (file_name, image.frame_index) in listed:
                frame = "" if image.frame_index is None else f", frame {image.frame_index},"
                first = listed[file_name, image.frame_index]
                raise DatasetError(f"{path}: {image.file_name}{frame} is listed twice; first in {first}")
            listed[file_name, image.frame_index] = path
            images.append(image.model_copy(update={"id": image_id[image.id], "file_name": file_name}))
        start = len(annotations) + 1
        annotations += [
            a.model_copy(update={"id": start + i, "image_id": image_id[a.image_id], "category_id": category[a.category_id]})
            for i, a in enumerate(dataset.annotations)
        ]
        objects = sum(not a.iscrowd for a in dataset.annotations)
        files.append(DataFile(path, sha256(path), len(dataset.images), objects))
    where = ", ".join(map(str, paths))
    if not images:
        raise DatasetError(f"{where}: no picture is listed")
    if not any(file.objects for file in files):
        raise DatasetError(f"{where}: no object is labelled")
    categories = [CocoCategory(id=i, name=name) for i, name in enumerate(names, 1)]
    return Merged(CocoDataset(images=images, annotations=annotations, categories=categories), tuple(files))


def check_apart(train: Merged, val: Merged) -> None:
    """No picture or video file is both trained and validated on, not even as a copy under another name.

    Raises:
        DatasetError: one is, or a file cannot be read.
    """
    ours, theirs = ({Path(image.file_name) for image in merged.dataset.images} for merged in (train, val))
    shared = shared_file(sorted(ours), sorted(theirs))
    if shared is not None:
        raise DatasetError(f"{shared[0]}: is in --data and in --val ({shared[1]}); the validation would flatter")


def _class_names(read: Sequence[tuple[Path, CocoDataset]], allowed: Sequence[str] | None) -> list[str]:
    names, first_in = list(allowed or ()), dict.fromkeys(allowed or (), Path("the training data"))
    for path, dataset in read:
        for name in dataset.class_names:
            if name in first_in:
                continue
            alike = next((other for other in first_in if other.strip().lower() == name.strip().lower()), None)
            if alike is not None:
                raise DatasetError(f"{path}: category {name!r} is written {alike!r} in {first_in[alike]}; write them the same way")
            if allowed is not None:
                raise DatasetError(f"{path}: category {name!r} is not in the training data, which has {', '.join(allowed)}")
            names.append(name)
            first_in[name] = path
    return names


@dataclass(frozen=True)
class Labels:
    """What is in a picture, in its own pixels or in those of an input.

    Attributes:
        xyxy: float32 (M, 4).
        class_id: int64 (M,).
        ignored: bool (M,), True for crowds and for what is hardly visible: neither right nor wrong to find.
    """

    xyxy: Float32Array
    class_id: npt.NDArray[np.int64]
    ignored: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.xyxy.shape != (len(self.class_id), 4) or len(self.ignored) != len(self.class_id):
            raise ValueError(f"boxes {self.xyxy.shape}, classes {self.class_id.shape}, ignored {self.ignored.shape} do not fit")


@dataclass(frozen=True)
class Cache:
    """Pictures of one size with their labels.

    Attributes:
        images: uint8 (N, H, W, 3) BGR, as the service would hand them to the network.
        placed: int64 (N, 2), width and height of the picture within; the rest is padding at the right and below.
        labels: in pixels of the input.
        ids: image ids of the dataset.
    """

    images: Uint8Array
    placed: npt.NDArray[np.int64]
    labels: tuple[Labels, ...]
    ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)


def load_pictures(
    dataset: CocoDataset,
    picture: InputSpec,
    *,
    min_visibility: float,
    limit_bytes: float,
    folder: Path,
    progress: Callable[[int], None] | None = None,
) -> Cache:
    """Read every picture once and scale it as the service scales frames.

    Args:
        dataset: with absolute file names.
        picture: the network's input; ``letterbox_top_left``.
        min_visibility: objects less visible than this are ignored.
        limit_bytes: of memory; above it the pictures lie in a nameless file in ``folder``, which the system drops with the process.
        folder: must exist.
        progress: called with the number of pictures done since the last call.

    Raises:
        DatasetError: a picture cannot be read, or there is no room for the file.
    """
    shape = (len(dataset.images), picture.height, picture.width, 3)
    images = _allocate(shape, limit_bytes, folder)
    scaler, by_image = Scaler(picture), dataset.by_image()
    placed, labels, ids = np.zeros((shape[0], 2), np.int64), [], []
    scaling: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1, "scale") as pool:  # while the next picture is read here
        for i, (image, bgr) in enumerate(pictures(dataset, Path())):
            scaling.append(pool.submit(_scale, scaler, bgr, images[i]))
            if len(scaling) > MOST_READ:
                scaling.popleft().result()
            _, _, width, height = picture.placement(image.width, image.height)
            placed[i] = width, height
            labels.append(_labels(by_image[image.id], width / image.width, height / image.height, min_visibility))
            ids.append(image.id)
            if progress is not None:
                progress(1)
        for last in scaling:
            last.result()
    return Cache(images, placed, tuple(labels), tuple(ids))


def _scale(scaler: Scaler, bgr: Uint8Array, out: Uint8Array) -> None:
    scaler.scale(camera_frame(bgr), out=out)


def _allocate(shape: tuple[int, ...], limit_bytes: float, folder: Path) -> Uint8Array:
    if int(np.prod(shape)) <= limit_bytes:
        return np.empty(shape, np.uint8)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, int(np.prod(shape)))  # a full disk is found out now, not by a SIGBUS later
            return np.memmap(file, np.uint8, "r+", shape=shape)
    except OSError as error:
        raise DatasetError(f"{folder}: no room for {np.prod(shape) / 1e9:.1f} GB of scaled pictures: {error}") from error


def _labels(annotations: Sequence[CocoAnnotation], scale_x: float, scale_y: float, min_visibility: float) -> Labels:
    kept = [a for a in annotations if a.bbox[2] > 0 and a.bbox[3] > 0]
    xyxy = np.array([a.xyxy for a in kept], np.float32).reshape(-1, 4)
    xyxy *= np.array([scale_x, scale_y, scale_x, scale_y], np.float32)
    hidden = [bool(a.iscrowd) or (a.visibility is not None and a.visibility < min_visibility) for a in kept]
    return Labels(xyxy, np.array([a.category_id - 1 for a in kept], np.int64), np.array(hidden, np.bool_))
