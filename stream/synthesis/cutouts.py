"""Cut-outs: objects with their outlines, from masked pictures.

Three kinds of folders are known:

- COCO: ``coco.json`` (or the only ``.json``) with ``segmentation`` as polygons or run lengths, and its pictures;
- Penn-Fudan: ``PNGImages/NAME.png`` and ``PedMasks/NAME_mask.png``, whose grey values number the people;
- ``CLASS/NAME.png``: pictures with an alpha channel, the class is the folder's name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from stream.datasets.coco import pictures, read_coco
from stream.errors import DatasetError
from stream.synthesis.harmonize import Tone, tone
from stream.synthesis.masks import Mask, decode_mask

Uint8Array = npt.NDArray[np.uint8]

MOST_PX = 640  # taller or wider cut-outs are scaled down: they are seldom pasted larger
LEAST_HEIGHT_PX, LEAST_WIDTH_PX = 48, 12
LEAST_VISIBLE = 0.7  # where the labels state it
MOST_SCATTERED = 0.1  # share of a mask outside its largest piece: something lies across the object
MOST_COVERED = 0.25  # share of the box under boxes of objects that stand nearer
MOST_WIDE: Mapping[str, float] = {"person": 0.68}  # width over height: wider ones sit, or end at the waist
MARGIN_PX = 2
USUAL_TONE = Tone((50.0, 1.0, 5.0), (23.0, 7.0, 11.0))  # of a photograph, where the scene is not known

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Cutout:
    """One object.

    Attributes:
        source: the picture or video it is from, relative to the folder.
        category: its class.
        png: BGRA, kept encoded; outside the outline are the colours of the nearest inside, so that edges may be blurred.
        width, height: of the object, in pixels; the picture has a margin besides.
        scene: tone of the picture it is from.
    """

    source: str
    category: str
    png: bytes
    width: int
    height: int
    scene: Tone

    def bgra(self) -> Uint8Array:
        """uint8 (h, w, 4), with the margin."""
        return np.asarray(cv2.imdecode(np.frombuffer(self.png, np.uint8), cv2.IMREAD_UNCHANGED), np.uint8)


@dataclass(frozen=True)
class Cutouts:
    """What a folder holds: the usable, and how many were left out, by reason."""

    items: tuple[Cutout, ...]
    left_out: dict[str, int]


class _Object(NamedTuple):
    category: str
    mask: Mask | None
    visibility: float | None
    iscrowd: bool


class _Masked(NamedTuple):
    source: str
    bgr: Uint8Array
    scene: Tone | None  # None: the picture shows nothing but the object
    objects: list[_Object]


def read_cutouts(folder: Path, classes: Collection[str] = ()) -> Cutouts:
    """Read all cut-outs of a folder.

    Left out are objects cut by the picture's edge, too small, largely covered by others, people who do not stand, crowds,
    and those without a mask.

    Args:
        folder: of one of the three kinds.
        classes: only these; all if empty.

    Raises:
        DatasetError: the folder is of no known kind, a mask is missing or of another size than its picture, a file cannot
            be read, or nothing usable is left; names the file.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder")
    items: list[Cutout] = []
    left_out: Counter[str] = Counter()
    if (folder / "PNGImages").is_dir():
        found = _penn_fudan(folder)
    elif (labels := label_file(folder)) is not None:
        found = _coco(labels)
    else:
        found = _transparent(folder)
    for masked in found:
        boxes = [_box(thing.mask) for thing in masked.objects]
        for i, (thing, box) in enumerate(zip(masked.objects, boxes, strict=True)):
            if classes and thing.category not in classes:
                continue
            if thing.iscrowd:
                left_out["crowd"] += 1
            elif thing.mask is None or box is None:
                left_out["no mask"] += 1
            else:
                others = [other for k, other in enumerate(boxes) if other is not None and k != i]
                reason = _unusable(thing, thing.mask, box, others, in_scene=masked.scene is not None)
                if reason:
                    left_out[reason] += 1
                else:
                    items.append(_cut(masked, thing.category, thing.mask, box))
    if not items:
        why = ", ".join(f"{reason}: {count}" for reason, count in left_out.most_common())
        wanted = f" of {', '.join(sorted(classes))}" if classes else ""
        raise DatasetError(f"{folder}: no usable cut-out{wanted}" + (f" (left out: {why})" if why else ""))
    return Cutouts(tuple(items), dict(sorted(left_out.items())))


def label_file(folder: Path) -> Path | None:
    """The label file of a folder: ``coco.json``, else the only ``.json``; None if there is none.

    Raises:
        DatasetError: several, and none is called ``coco.json``.
    """
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".json")
    named = [path for path in found if path.name.lower() == "coco.json"]
    if len(found) > 1 and not named:
        raise DatasetError(f"{folder}: which is the label file, {' or '.join(path.name for path in found)}? Call it coco.json")
    return next(iter(named or found), None)


def _penn_fudan(folder: Path) -> Iterator[_Masked]:
    if not (folder / "PedMasks").is_dir():
        raise DatasetError(f"{folder}: has PNGImages but no PedMasks beside it")
    for path in sorted((folder / "PNGImages").glob("*.png")):
        bgr, mask_path = _read(path, cv2.IMREAD_COLOR), folder / "PedMasks" / f"{path.stem}_mask.png"
        numbers = _read(mask_path, cv2.IMREAD_UNCHANGED)
        if numbers.ndim != 2:
            raise DatasetError(f"{mask_path}: is no mask: it has {numbers.shape[2]} channels, not one of grey values")
        if numbers.shape != bgr.shape[:2]:
            raise DatasetError(f"{mask_path}: is {_size(numbers)}; its picture {path.name} is {_size(bgr)}")
        people = [_Object("person", numbers == number, None, False) for number in np.unique(numbers) if number]
        yield _Masked(f"PNGImages/{path.name}", bgr, tone(bgr), people)


def _coco(labels: Path) -> Iterator[_Masked]:
    dataset = read_coco(labels)
    if not any(annotation.segmentation for annotation in dataset.annotations):
        raise DatasetError(f"{labels}: no annotation has a segmentation, so nothing can be cut out")
    names = {category.id: category.name for category in dataset.categories}
    annotations = dataset.by_image()
    for image, bgr in pictures(dataset, labels.parent, only=[key for key, found in annotations.items() if found]):
        objects = []
        for annotation in annotations[image.id]:
            try:
                mask = decode_mask(annotation.segmentation, image.width, image.height) if annotation.segmentation else None
            except ValueError as error:
                raise DatasetError(f"{labels}: segmentation of annotation {annotation.id}: {error}") from error
            objects.append(_Object(names[annotation.category_id], mask, annotation.visibility, bool(annotation.iscrowd)))
        yield _Masked(image.file_name, bgr, tone(bgr), objects)


def _transparent(folder: Path) -> Iterator[_Masked]:
    found = sorted(path for path in folder.glob("*/*") if path.suffix.lower() == ".png")
    if not found:
        raise DatasetError(
            f"{folder}: holds no cut-outs: neither coco.json with segmentations, nor PNGImages and PedMasks, nor CLASS/NAME.png"
        )
    for path in found:
        bgra = _read(path, cv2.IMREAD_UNCHANGED)
        if bgra.dtype != np.uint8 or bgra.ndim != 3 or bgra.shape[2] != 4:
            raise DatasetError(f"{path}: is no 8-bit picture with an alpha channel, so there is no mask")
        thing = _Object(path.parent.name, bgra[..., 3] > 127, None, False)
        yield _Masked(f"{path.parent.name}/{path.name}", bgra[..., :3], None, [thing])


def _read(path: Path, flags: int) -> Uint8Array:
    data = cv2.imread(str(path), flags)
    if data is None:
        raise DatasetError(f"{path}: no such file, or not a picture that can be read")
    return np.asarray(data)


def _size(picture: Uint8Array) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"


def _box(mask: Mask | None) -> Box | None:
    """Left, top, right, bottom of a mask; None if it is empty."""
    if mask is None or not mask.any():
        return None
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _unusable(thing: _Object, mask: Mask, box: Box, others: list[Box], in_scene: bool) -> str | None:
    """Why an object cannot be used; None if it can."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    if in_scene and (left <= 0 or top <= 0 or right >= mask.shape[1] or bottom >= mask.shape[0]):
        return "cut by the picture's edge"
    if height < LEAST_HEIGHT_PX or width < LEAST_WIDTH_PX:
        return "too small"
    nearer = [other for other in others if other[3] > bottom]
    covered = max((_overlap(box, other) for other in nearer), default=0) / (width * height)
    if covered > MOST_COVERED or (thing.visibility is not None and thing.visibility < LEAST_VISIBLE) or _scattered(mask, box):
        return "partly covered"
    if width > height * MOST_WIDE.get(thing.category, np.inf):
        return "not upright"
    return None


def _overlap(one: Box, other: Box) -> int:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0, width) * max(0, height)


def _scattered(mask: Mask, box: Box) -> bool:
    left, top, right, bottom = box
    _, _, parts, _ = cv2.connectedComponentsWithStats(mask[top:bottom, left:right].astype(np.uint8), connectivity=8)
    areas = parts[1:, cv2.CC_STAT_AREA]
    return bool(areas.max() < (1 - MOST_SCATTERED) * areas.sum())


def _cut(masked: _Masked, category: str, mask: Mask, box: Box) -> Cutout:
    left, top, right, bottom = box
    inside = np.pad(mask[top:bottom, left:right].astype(np.uint8), MARGIN_PX)
    bgr = cv2.copyMakeBorder(masked.bgr[top:bottom, left:right], MARGIN_PX, MARGIN_PX, MARGIN_PX, MARGIN_PX, cv2.BORDER_REPLICATE)
    factor = min(1.0, MOST_PX / max(right - left, bottom - top))
    # The outermost pixels of an object hold half of what was behind it: their colours are taken from further in.
    pure = cv2.erode(inside, np.ones((3, 3), np.uint8)).astype(np.float32)
    pure = pure if pure.any() else inside.astype(np.float32)
    weight = cv2.GaussianBlur(pure, (0, 0), 2.5)[..., None]
    spread = cv2.GaussianBlur(bgr * pure[..., None], (0, 0), 2.5) / np.maximum(weight, 1e-4)
    clean = np.where(pure[..., None] > 0, bgr, spread)
    bgra = np.dstack([np.clip(clean, 0, 255).astype(np.uint8), inside * 255])
    if factor < 1:
        bgra = cv2.resize(bgra, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    png = cv2.imencode(".png", bgra, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
    width, height = max(1, round((right - left) * factor)), max(1, round((bottom - top) * factor))
    return Cutout(masked.source, category, png, width, height, masked.scene or USUAL_TONE)
