"""Masks against true masks: IoU, Dice and pixel accuracy.

All figures are of pixels summed over the whole set, so that large pictures weigh more, as in the PASCAL VOC challenge
(Everingham et al., 2010); class 0, the background, is a class like the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from stream.datasets.coco import CocoAnnotation, CocoDataset, CocoImage, read_coco
from stream.errors import DatasetError
from stream.evaluation.extra import extra

Int64Array = npt.NDArray[np.int64]
Mask = npt.NDArray[np.uint8]
VALUES = 256  # of a mask's pixels
BACKGROUND = "background"
SUFFIXES = (".png", ".bmp", ".tif", ".tiff")  # lossless ones


class Masks(NamedTuple):
    """Masks by name, read when asked for.

    Attributes:
        read: uint8 (height, width) by name; a pixel's value is its class.
        names: of the classes, by value; those without a name go by their number.
    """

    read: dict[str, Callable[[], Mask]]
    names: dict[int, str]


class MaskFigures(NamedTuple):
    """One class: pixels in truth, in the result, and in both."""

    value: int
    name: str
    truth: int
    result: int
    both: int

    @property
    def iou(self) -> float:
        """Intersection over union."""
        return self.both / (self.truth + self.result - self.both)

    @property
    def dice(self) -> float:
        """Twice the intersection over the sum of both."""
        return 2 * self.both / (self.truth + self.result)

    @property
    def accuracy(self) -> float:
        """Share of the true pixels that are found; nan where there is none."""
        return self.both / self.truth if self.truth else float("nan")


class PictureFigures(NamedTuple):
    """One picture: mean IoU of the classes in it."""

    name: str
    mean_iou: float


@dataclass(frozen=True)
class SegmentationReport:
    """How good the masks are.

    Attributes:
        pictures: worst first.
        missing: true masks without a result; all of their pixels count as background.
        unknown: results without a true mask; no figure holds them.
        classes: by value, those that occur.
        pixel_accuracy: share of all pixels that have the right class.
        confusion: int64 (C, C), truth by result, in pixels, in the order of ``classes``.
    """

    pictures: tuple[PictureFigures, ...]
    missing: int
    unknown: int
    classes: tuple[MaskFigures, ...]
    pixel_accuracy: float
    confusion: Int64Array

    @property
    def mean_iou(self) -> float:
        """Over the classes, the background included."""
        return float(np.mean([figures.iou for figures in self.classes]))

    @property
    def mean_dice(self) -> float:
        """Over the classes, the background included."""
        return float(np.mean([figures.dice for figures in self.classes]))

    @property
    def foreground_iou(self) -> float:
        """Mean over the classes without the background; nan where there is no other."""
        others = [figures.iou for figures in self.classes if figures.value]
        return float(np.mean(others)) if others else float("nan")


def evaluate_segmentation(
    truth: Masks,
    result: Masks,
    *,
    binary: bool = False,
    ignore: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> SegmentationReport:
    """Measure masks against true masks.

    Args:
        truth, result: paired by name.
        binary: every value but 0 is one class (masks whose values number the objects).
        ignore: true pixels of this value are in no figure.
        progress: called with the number of pictures done since the last call.

    Raises:
        DatasetError: no mask is on both sides, two differ in size, or a class has another value or name on the other side.
    """
    if not truth.read.keys() & result.read.keys():
        raise DatasetError(f"no mask is in both; the truth has {_shown(truth.read)}, the result {_shown(result.read)}")
    names = {1: "object"} if binary else _names(truth.names, result.names)
    table, pictures = np.zeros((VALUES, VALUES), np.int64), []
    for name, read in truth.read.items():
        true = read()
        found = result.read[name]() if name in result.read else np.zeros_like(true)
        if found.shape != true.shape:
            sizes = " and ".join(f"{mask.shape[1]}x{mask.shape[0]}" for mask in (true, found))
            raise DatasetError(f"the two masks {name!r} differ in size: {sizes}")
        counted = np.ones(true.shape, np.bool_) if ignore is None else true != ignore
        true, found = true[counted], found[counted]
        if binary:
            true, found = (true > 0).astype(np.uint8), (found > 0).astype(np.uint8)
        own = np.bincount(true.astype(np.int64) * VALUES + found, minlength=VALUES * VALUES).reshape(VALUES, VALUES)
        table += own
        if len(true):
            pictures.append(PictureFigures(name, float(np.mean([figures.iou for figures in _figures(own, {})]))))
        if progress is not None:
            progress(1)
    classes = _figures(table, names)
    values = [figures.value for figures in classes]
    return SegmentationReport(
        pictures=tuple(sorted(pictures, key=lambda picture: (picture.mean_iou, picture.name))),
        missing=len(truth.read.keys() - result.read.keys()),
        unknown=len(result.read.keys() - truth.read.keys()),
        classes=tuple(classes),
        pixel_accuracy=float(table.diagonal().sum() / table.sum()) if table.any() else float("nan"),
        confusion=table[np.ix_(values, values)],
    )


def open_masks(path: Path) -> Masks:
    """Masks from a folder of one-channel pictures, or from the ``segmentation`` of a COCO label file.

    A folder's masks go by their file names without the suffix, as do COCO's pictures. COCO's classes have the values of
    their category ids; smaller objects lie on larger ones.

    Raises:
        DatasetError: there is no mask, two have the same name, or the label file is wrong.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        if not files:
            raise DatasetError(f"{path}: holds no mask ({', '.join(SUFFIXES)})")
        by_name = {file.stem: file for file in files}
        for file in files:
            if by_name[file.stem] != file:
                raise DatasetError(f"{path}: {file.name} and {by_name[file.stem].name} have the same name; which is the mask?")
        return Masks({name: lambda file=file: _read(file) for name, file in by_name.items()}, {})  # type: ignore[misc]
    dataset = read_coco(path)
    names = {category.id: category.name for category in dataset.categories}
    if not all(0 < value < VALUES for value in names):
        raise DatasetError(f"{path}: categories: ids must be in 1..{VALUES - 1} for masks")
    return Masks(_painted(dataset, path), names)


def _names(truth: Mapping[int, str], result: Mapping[int, str]) -> dict[int, str]:
    """The names of both sides, which must not contradict each other."""
    values = {name: value for value, name in truth.items()}
    for value, name in result.items():
        if truth.get(value, name) != name:
            raise DatasetError(f"class {value} is {truth[value]!r} in the truth and {name!r} in the result")
        if values.get(name, value) != value:
            raise DatasetError(f"class {name!r} has the value {values[name]} in the truth and {value} in the result")
    return {**truth, **result}


def _figures(table: Int64Array, names: Mapping[int, str]) -> list[MaskFigures]:
    truth, result = table.sum(1), table.sum(0)
    return [
        MaskFigures(
            value,
            names.get(value, str(value) if value else BACKGROUND),
            *map(int, (truth[value], result[value], table[value, value])),
        )
        for value in np.flatnonzero(truth + result).tolist()
    ]


def _read(path: Path) -> Mask:
    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if mask is None:
        raise DatasetError(f"{path}: not a picture that can be read")
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise DatasetError(f"{path}: a mask is one channel of 8 bits, not {mask.shape} {mask.dtype}")
    return np.asarray(mask, np.uint8)


def _painted(dataset: CocoDataset, path: Path) -> dict[str, Callable[[], Mask]]:
    objects = dataset.by_image()
    named = {Path(image.file_name).stem: image for image in dataset.images}
    if len(named) != len(dataset.images):
        raise DatasetError(f"{path}: images: two have the same file name")
    return {name: lambda image=image: _paint(image, objects[image.id], path) for name, image in named.items()}  # type: ignore[misc]


def _paint(image: CocoImage, objects: Iterable[CocoAnnotation], path: Path) -> Mask:
    mask = np.zeros((image.height, image.width), np.uint8)
    reader = extra("faster_coco_eval").COCO(
        {"images": [{"id": image.id, "width": image.width, "height": image.height}], "annotations": [], "categories": []}
    )
    for thing in sorted(objects, key=lambda thing: -thing.area):
        annotation: dict[str, Any] = {"image_id": image.id, "segmentation": thing.segmentation}
        if not thing.segmentation:
            raise DatasetError(f"{path}: annotation {thing.id} has no segmentation")
        try:
            mask[np.asarray(reader.annToMask(annotation), np.bool_)] = thing.category_id
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DatasetError(f"{path}: annotation {thing.id}: segmentation: {error}") from error
    return mask


def _shown(names: Iterable[str]) -> str:
    known = sorted(names)
    return ", ".join(known[:3]) + (f" and {len(known) - 3} more" if len(known) > 3 else "")
