"""Backgrounds: the places that objects are pasted into, with the labels they have and the ground they show."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt

from stream.datasets.coco import Box, CocoCategory, CocoDataset, CocoImage, pictures, read_coco
from stream.datasets.files import PICTURES, VIDEOS
from stream.detectors.base import Detector
from stream.errors import DatasetError
from stream.synthesis.cutouts import label_file
from stream.synthesis.ground import Ground, estimate
from stream.synthesis.settings import Settings

Uint8Array = npt.NDArray[np.uint8]

QUALITY = 97
EDGE_PX = 2  # a box as near as this to the picture's edge may be cut by it


@dataclass(frozen=True)
class Label:
    """An object of a picture; fields as of ``CocoAnnotation``."""

    category: str
    bbox: Box
    area: float
    iscrowd: bool
    visibility: float


@dataclass(frozen=True)
class Background:
    """One place.

    Attributes:
        name: file, and ``#frame`` of a video, relative to the folder.
        source: file: pictures with the same are never divided between training and validation.
        jpeg: the picture, kept encoded.
        width, height: in pixels.
        labels: of what it shows.
        ground: estimated; None if nothing is known of it.
    """

    name: str
    source: str
    jpeg: bytes
    width: int
    height: int
    labels: tuple[Label, ...]
    ground: Ground | None

    def bgr(self) -> Uint8Array:
        """uint8 (height, width, 3)."""
        return np.asarray(cv2.imdecode(np.frombuffer(self.jpeg, np.uint8), cv2.IMREAD_COLOR), np.uint8)


@dataclass(frozen=True)
class Backgrounds:
    """What a folder holds: places to paste into, and how many were rejected for an object that a detector found."""

    items: tuple[Background, ...]
    rejected: int


def read_backgrounds(folder: Path, settings: Settings, classes: Collection[str], detector: Detector | None = None) -> Backgrounds:
    """Read all backgrounds of a folder.

    With a label file (``coco.json``, or the only ``.json``) they are its pictures, and keep their labels. Without one they
    are the pictures and videos in the folder and its sub-folders, and must show no object of the classes; ``detector``
    rejects those that do. Labels, else what the detector found, tell where the ground is: of the frames of a video together,
    since its camera is taken to stand still, of a picture by itself.

    Args:
        folder: pictures or videos.
        settings: of the run.
        classes: of the cut-outs.
        detector: reports objects at its operating point.

    Raises:
        DatasetError: there is none, a file cannot be read, or all were rejected; names it.
        DetectorError: the detector failed.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder")
    labels = label_file(folder)
    dataset = read_coco(labels) if labels else _unlabelled(folder, settings.frames, classes)
    if not dataset.images:
        raise DatasetError(f"{labels or folder}: holds no background, neither a picture nor a video")
    names = {category.id: category.name for category in dataset.categories}
    boxes: dict[int, list[tuple[str, Box]]] = defaultdict(list)
    rejected: set[int] = set()
    if labels:
        for annotation in dataset.annotations:
            if not annotation.iscrowd:
                boxes[annotation.image_id].append((names[annotation.category_id], annotation.bbox))
    elif detector is not None:
        from stream.evaluation.predictions import predict

        for found in predict(detector, dataset, folder):
            boxes[found.image_id].append((names[found.category_id], found.bbox))
            rejected.add(found.image_id)
    grounds = _grounds(dataset, boxes, settings.heights_m)
    annotations, items = dataset.by_image(), []
    for image, bgr in pictures(dataset, folder, only=[image.id for image in dataset.images if image.id not in rejected]):
        factor = min(1.0, settings.max_side_px / max(image.width, image.height))
        if factor < 1:
            bgr = np.asarray(cv2.resize(bgr, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8)
        own = tuple(
            Label(
                names[a.category_id],
                (a.bbox[0] * factor, a.bbox[1] * factor, a.bbox[2] * factor, a.bbox[3] * factor),
                a.area * factor**2,
                bool(a.iscrowd),
                1.0 if a.visibility is None else a.visibility,
            )
            for a in annotations[image.id]
        )
        jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
        ground = grounds.get(_camera(image))
        items.append(
            Background(
                _name(image),
                image.file_name,
                jpeg,
                bgr.shape[1],
                bgr.shape[0],
                own,
                ground.scaled(factor) if ground else None,
            )
        )
    if not items:
        raise DatasetError(f"{folder}: the detector found objects in all {len(rejected)} backgrounds")
    return Backgrounds(tuple(items), len(rejected))


def _unlabelled(folder: Path, frames: int, classes: Collection[str]) -> CocoDataset:
    """All pictures and frames of videos under the folder, without annotations."""
    images: list[CocoImage] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() in PICTURES:
            data = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if data is None:
                raise DatasetError(f"{path}: not a picture that can be read")
            images.append(CocoImage(id=len(images), file_name=name, width=data.shape[1], height=data.shape[0]))
        elif path.suffix.lower() in VIDEOS:
            width, height, count = _measure(path)
            for index in sorted({int((k + 0.5) * count / frames) for k in range(frames)}):
                images.append(CocoImage(id=len(images), file_name=name, width=width, height=height, frame_index=index))
    categories = [CocoCategory(id=i, name=name) for i, name in enumerate(sorted(classes), start=1)]
    return CocoDataset(images=images, annotations=[], categories=categories)


def _measure(path: Path) -> tuple[int, int, int]:
    """Width, height and number of frames of a video."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DatasetError(f"{path}: has no video stream")
            stream = container.streams.video[0]
            count = sum(1 for packet in container.demux(stream) if packet.size)
            width, height = stream.width, stream.height
    except (OSError, av.FFmpegError) as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error
    if not count:
        raise DatasetError(f"{path}: has no frame")
    return width, height, count


def _name(image: CocoImage) -> str:
    return image.file_name if image.frame_index is None else f"{image.file_name}#{image.frame_index}"


def _camera(image: CocoImage) -> tuple[str, int]:
    """Pictures of the same camera at the same size."""
    return image.file_name, image.height


def _grounds(
    dataset: CocoDataset, boxes: Mapping[int, list[tuple[str, Box]]], heights_m: Mapping[str, float]
) -> dict[tuple[str, int], Ground]:
    """The ground by camera, from the boxes of objects whose height is known and that the picture's edge does not cut."""
    rows: dict[tuple[str, int], list[tuple[float, float, float]]] = defaultdict(list)
    for image in dataset.images:
        for name, (left, top, width, height) in boxes.get(image.id, ()):
            inside = left > EDGE_PX and top > EDGE_PX and left + width < image.width - EDGE_PX
            if inside and top + height < image.height - EDGE_PX and height > 0 and name in heights_m:
                rows[_camera(image)].append((top + height, height, heights_m[name]))
    found = {}
    for camera, measured in rows.items():
        feet, tall, metres = np.array(measured, np.float64).T
        ground = estimate(feet, tall, metres, camera[1])
        if ground:
            found[camera] = ground
    return found
