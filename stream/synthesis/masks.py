"""Masks: COCO's ``segmentation``, which is a list of polygons, or run lengths down the columns, plain or as text."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]

SUBPIXEL_BITS = 4  # of the corners that OpenCV takes
FARTHEST_PX = 1e5  # a corner; beyond, OpenCV's fixed point numbers overflow


def decode_mask(segmentation: Any, width: int, height: int) -> Mask:
    """A segmentation as bool (height, width).

    Raises:
        ValueError: it is of no known kind, or of another size than the picture.
    """
    if isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if size != [height, width]:
            raise ValueError(f"its size is {size}, of its picture {[height, width]}")
        runs = _runs(counts) if isinstance(counts, str) else counts
        if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs) or sum(runs) != width * height:
            raise ValueError(f"its counts are no run lengths of {width * height} pixels")
        values = np.arange(len(runs)) % 2 == 1  # the first run is outside
        return np.repeat(values, runs).reshape(width, height).T
    if not isinstance(segmentation, list) or not all(_is_polygon(part) for part in segmentation):
        raise ValueError("is neither a list of polygons (x1, y1, x2, y2, x3, y3, ...) nor run lengths")
    mask = np.zeros((height, width), np.uint8)
    for part in segmentation:
        corners = np.array(part, np.float64).reshape(-1, 1, 2) - 0.5  # COCO counts from a pixel's corner, OpenCV from its centre
        cv2.fillPoly(mask, [np.round(corners * (1 << SUBPIXEL_BITS)).astype(np.int32)], 1, shift=SUBPIXEL_BITS)
    return mask.astype(np.bool_)


def _is_polygon(part: object) -> bool:
    if not isinstance(part, list) or len(part) < 6 or len(part) % 2:
        return False
    return all(isinstance(x, int | float) and abs(x) <= FARTHEST_PX for x in part)


def _runs(text: str) -> list[int] | None:
    """Run lengths from COCO's text: numbers of 5 bits a character (from "0" on, low ones first, bit 6 says that more follow,
    the last one's highest bit is the sign); from the fourth on each is the difference to the one before the last.

    None if it is no such text.
    """
    runs: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - ord("0")
        if not 0 <= bits < 64:
            return None
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                number -= 1 << shift
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number = shift = 0
    return None if shift else runs
