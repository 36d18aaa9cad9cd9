"""Augmentation: from kept pictures to the varied ones that are trained on. All randomness comes from the generator passed in.

Geometry: flip, scale, stretch, shift and crop, alone or as one of four tiles of a mosaic (Bochkovskiy et al., "YOLOv4", 2020).
Light and camera: hue, saturation and value, grey, blur, noise, JPEG.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from stream.frame import Uint8Array
from stream.training.data import Cache, Labels
from stream.training.settings import PAD

SCALE = (0.7, 1.4)  # of a picture on its own
PLAIN_SCALE = (0.9, 1.15)  # at the end of the training, when pictures are nearly as they are
TILE_SCALE = (0.35, 1.0)  # of a tile's picture
STRETCH = 0.1  # width against height
LEAST_SIDE_PX = 3.0  # smaller objects are ignored, not learned
LEAST_LEFT = 0.25  # objects cut down to less of their area are ignored too
HUE, SATURATION, VALUE = 0.02, 0.5, 0.35
GREY, BLUR, NOISE, JPEG = 0.05, 0.1, 0.15, 0.2  # share of the pictures


class Sample(NamedTuple):
    """A picture, uint8 (H, W, 3) BGR, and what is in it."""

    image: Uint8Array
    labels: Labels


def augmented(cache: Cache, index: int, rng: np.random.Generator, mosaic: float | None) -> Sample:
    """Picture ``index`` of the cache, varied.

    Args:
        cache: the pictures.
        index: which.
        rng: where all chance comes from.
        mosaic: share of the pictures that become a mosaic with three others; None keeps every one nearly as it is.
    """
    arrangement = arranged(cache, index, rng, mosaic)
    return Sample(with_camera(arrangement.image, rng), arrangement.labels)


def arranged(cache: Cache, index: int, rng: np.random.Generator, mosaic: float | None) -> Sample:
    """The geometry of ``augmented``."""
    height, width = cache.images.shape[1:3]
    image = np.full((height, width, 3), PAD, np.uint8)
    if mosaic is None or rng.random() >= mosaic:
        scale = PLAIN_SCALE if mosaic is None else SCALE
        parts = [_paste(cache, index, image, (0, 0, width, height), scale, rng)]
    else:
        x, y = (round(side * rng.uniform(0.3, 0.7)) for side in (width, height))
        quarters = (0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)
        others = rng.integers(0, len(cache), 3)
        parts = [_paste(cache, int(i), image, q, TILE_SCALE, rng) for i, q in zip((index, *others), quarters, strict=True)]
    labels = Labels(*(np.concatenate(fields) for fields in zip(*((p.xyxy, p.class_id, p.ignored) for p in parts), strict=True)))
    return Sample(image, labels)


def _paste(
    cache: Cache,
    index: int,
    image: Uint8Array,
    into: tuple[int, int, int, int],
    scales: tuple[float, float],
    rng: np.random.Generator,
) -> Labels:
    """Write a picture, flipped, scaled and shifted, into a rectangle of ``image``; its labels there."""
    left, top, right, bottom = into
    size = np.array([right - left, bottom - top])
    placed = cache.placed[index]
    scale = np.exp(rng.uniform(*np.log(scales))) * np.exp(np.array([1, -1]) * rng.uniform(-STRETCH, STRETCH) / 2)
    room = size - placed * scale  # negative where the picture is larger than the rectangle
    shift = rng.uniform(np.minimum(room, 0), np.maximum(room, 0))
    flip = rng.random() < 0.5
    matrix = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]])
    if flip:
        matrix[0] = -scale[0], 0, shift[0] + placed[0] * scale[0]
    source = cache.images[index, : placed[1], : placed[0]]
    # OpenCV's pixels are points at whole numbers, boxes are measured from the pixels' edges: half a pixel apart.
    in_points = matrix.copy()
    in_points[:, 2] += matrix[:, :2].sum(1) / 2 - 0.5
    image[top:bottom, left:right] = cv2.warpAffine(
        source, in_points, (int(size[0]), int(size[1])), flags=cv2.INTER_LINEAR, borderValue=(PAD, PAD, PAD)
    )
    labels = cache.labels[index]
    corners = labels.xyxy.reshape(-1, 2) * matrix[[0, 1], [0, 1]] + matrix[:, 2]
    corners = corners.reshape(-1, 2, 2)
    xyxy = np.hstack((corners.min(1), corners.max(1))).astype(np.float32)
    return clipped(Labels(xyxy, labels.class_id, labels.ignored), into, (left, top))


def clipped(labels: Labels, into: tuple[int, int, int, int], origin: tuple[int, int]) -> Labels:
    """Labels of a tile, moved by ``origin`` and cut at the rectangle ``into``.

    Objects of which little is left are ignored, those of which nothing is left dropped.
    """
    moved = labels.xyxy + np.array([*origin, *origin], np.float32)
    cut = np.clip(moved, np.array([*into[:2]] * 2, np.float32), np.array([*into[2:]] * 2, np.float32))
    sides, whole = cut[:, 2:] - cut[:, :2], (moved[:, 2:] - moved[:, :2]).prod(1)
    poor = (sides.min(1) < LEAST_SIDE_PX) | (sides.prod(1) < LEAST_LEFT * whole)
    there = (sides > 0).all(1)
    return Labels(cut[there], labels.class_id[there], (labels.ignored | poor)[there])


def with_camera(image: Uint8Array, rng: np.random.Generator) -> Uint8Array:
    """The same scene in other light, by another camera."""
    image = _other_light(image, rng.uniform(-1, 1, 3))
    if rng.random() < GREY:
        image = np.repeat(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None], 3, 2)
    if rng.random() < BLUR:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.2))), np.uint8)
    if rng.random() < NOISE:
        noise = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(2, 9))
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < JPEG:
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 90))])
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return image


def _other_light(image: Uint8Array, gains: npt.NDArray[np.float64]) -> Uint8Array:
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV))
    steps = np.arange(256)
    tables = (
        (steps + 180 * HUE * gains[0]) % 180,  # OpenCV's hue runs from 0 to 179
        steps * (1 + SATURATION * gains[1]),
        steps * (1 + VALUE * gains[2]),
    )
    channels = [
        cv2.LUT(channel, np.clip(table, 0, 255).astype(np.uint8))
        for channel, table in zip((hue, saturation, value), tables, strict=True)
    ]
    return np.asarray(cv2.cvtColor(cv2.merge(channels), cv2.COLOR_HSV2BGR), np.uint8)
