"""Floor: which part of a picture feet may stand on.

A floor reaches the lower edge of the picture and changes its colour slowly. So it is what a flood fill covers that starts at
the lower edge, of a smoothed small copy. In a room it ends at the wall, on a road at the kerb; where it finds next to
nothing, the lower part of the picture is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

WIDTH_PX = 160  # of the small copy
STEP = (2, 2, 2)  # greatest change of L, a, b from one pixel of it to the next
SEEDS = 13  # on each of two rows at the lower edge
HIGHEST = 0.3  # share of the height from the top above which nothing is floor: the fill may climb a plain wall
LEAST = 0.05  # share of the picture that a floor covers
OTHERWISE = 0.6  # share of the height from the top from which all is floor if none was found


@dataclass(frozen=True)
class Floor:
    """Where feet may stand.

    Attributes:
        mask: bool (h, w), a small copy of the picture.
        width, height: of the picture, in pixels.
    """

    mask: npt.NDArray[np.bool_]
    width: int
    height: int

    def holds(self, x_px: float, y_px: float) -> bool:
        """Whether that point is floor; a point below the picture is what the picture shows at its lower edge."""
        rows, columns = self.mask.shape
        row = min(rows - 1, int(y_px * rows / self.height))
        return row >= 0 and bool(self.mask[row, min(columns - 1, max(0, int(x_px * columns / self.width)))])

    @property
    def top_px(self) -> float:
        """The row at which the floor begins, but for a tenth of it."""
        rows = np.nonzero(self.mask)[0]
        return float(np.percentile(rows, 10) * self.height / self.mask.shape[0])


def find_floor(bgr: npt.NDArray[np.uint8]) -> Floor:
    """The floor of a picture, uint8 (H, W, 3)."""
    height, width = bgr.shape[:2]
    rows = max(16, round(height * WIDTH_PX / width))
    small = cv2.resize(bgr, (WIDTH_PX, rows), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(cv2.bilateralFilter(small, 7, 30, 5), cv2.COLOR_BGR2LAB)
    filled = np.zeros((rows + 2, WIDTH_PX + 2), np.uint8)
    for x in np.linspace(0.04, 0.96, SEEDS) * WIDTH_PX:
        for y in (rows - 2, rows - 8):
            cv2.floodFill(lab, filled, (int(x), y), 0, STEP, STEP, 4 | cv2.FLOODFILL_MASK_ONLY | (1 << 8))
    square = np.ones((5, 5), np.uint8)
    mask = cv2.morphologyEx(filled[1:-1, 1:-1], cv2.MORPH_CLOSE, square)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, square).astype(np.bool_)
    mask[: int(HIGHEST * rows)] = False
    if mask.mean() < LEAST:
        mask[int(OTHERWISE * rows) :] = True
    return Floor(mask, width, height)
