"""PolygonZone and LineZone: the geometry of zones and lines, in pixels.

Coordinates are those of pictures: x to the right, y down. Zones and lines are given normalised, 0..1, and scaled to
the frame at hand. Anchors are first drawn into the frame (:func:`anchors`), because the box of somebody who stands at
its edge ends on the edge or beyond it, and a zone that reaches to the edge means them too. The zones have no state:
what a line must remember of an object is in a :class:`LinePath`, which the caller keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]
Anchor = Literal["bottom_center", "center", "top_center"]
Direction = Literal["in", "out"]
EDGE_PX = 2.0**-10
"""Anchors are kept this far inside the right and bottom edges of the frame."""


def anchors(xyxy: npt.NDArray[np.floating], anchor: Anchor, width: int, height: int, foot_inset: float = 0.0) -> Float64Array:
    """The anchor points of boxes, drawn into the frame.

    Args:
        xyxy: (N, 4), pixels.
        anchor: which point of the box.
        width, height: size of the frame in pixels.
        foot_inset: share of a box's height by which ``bottom_center`` lies above its lower edge.

    Returns:
        (N, 2), x within 0..width and y within 0..height, just short of the upper ends.
    """
    boxes = xyxy.astype(np.float64)
    foot = boxes[:, 3] - foot_inset * (boxes[:, 3] - boxes[:, 1])
    y = {"bottom_center": foot, "center": (boxes[:, 1] + boxes[:, 3]) / 2, "top_center": boxes[:, 1]}[anchor]
    return drawn_in(np.stack(((boxes[:, 0] + boxes[:, 2]) / 2, y), axis=1), width, height)


def drawn_in(points_px: Float64Array, width: int, height: int) -> Float64Array:
    """``points_px`` (N, 2), moved into a frame of this size where they are outside it."""
    least = np.maximum(points_px, 0)  # these two cost a third of np.clip
    return np.minimum(least, (width - EDGE_PX, height - EDGE_PX), out=least)


class PolygonZone:
    """A simple polygon.

    A point is inside where a ray from it to the right meets an odd number of edges. An edge owns its upper end but not
    its lower one, and a point on an edge lies right of it: left and top edges are inside, right and bottom edges are
    not. So of two zones that share an edge exactly one holds a point on it.

    Args:
        polygon: three or more corners, normalised, in either direction.

    Raises:
        ValueError: for fewer than three corners.
    """

    def __init__(self, polygon: Sequence[tuple[float, float]]):
        if len(polygon) < 3:
            raise ValueError(f"a polygon needs three corners, not {len(polygon)}")
        corners = np.asarray(polygon, np.float64)
        starts, ends = corners, np.roll(corners, -1, axis=0)
        # Every edge runs downwards, whichever way round the polygon goes, so that zones that share one compute the same.
        down = (starts[:, 1] <= ends[:, 1])[:, None]
        self._upper, self._lower = np.where(down, starts, ends), np.where(down, ends, starts)

    def contains(self, points_px: npt.NDArray[np.floating], width: int, height: int) -> npt.NDArray[np.bool_]:
        """Which of ``points_px`` (N, 2) lie inside, in a frame of this size: bool (N,)."""
        size = np.array((width, height), np.float64)
        (ax, ay), (bx, by) = (self._upper * size).T, (self._lower * size).T
        x, y = points_px.astype(np.float64).T[:, :, None]
        spanned = (ay <= y) & (y < by)
        left_of_edge = (bx - ax) * (y - ay) > (by - ay) * (x - ax)
        inside: npt.NDArray[np.bool_] = (spanned & left_of_edge).sum(axis=1) % 2 == 1
        return inside


@dataclass(slots=True)
class LinePath:
    """The way of one anchor past one line.

    Attributes:
        x, y: last position in pixels.
        distance_px: its distance from the endless line, see :meth:`LineZone.distance_px`.
        side: 1 (right) or -1 (left), where it was clear of the line last; 0 where it never was.
        net: crossings of the segment since then, left to right less right to left.
    """

    x: float
    y: float
    distance_px: float
    side: int = 0
    net: int = 0


class LineZone:
    """A directed segment from its first to its second point, seen in the picture as it is displayed.

    Who looks along it from the first to the second point has its left side at the left hand: of a line drawn from left
    to right, left is above; of one drawn from top to bottom, left is the right half of the picture. A path from left to
    right crosses ``in``, the other way ``out``.

    Args:
        points: the two ends, normalised.

    Raises:
        ValueError: if they are the same.
    """

    def __init__(self, points: Sequence[tuple[float, float]]):
        first, second = points
        if first == second:
            raise ValueError(f"a line needs two different points, not {first} twice")
        self._ends = np.array((first, second), np.float64)

    def distance_px(self, points_px: npt.NDArray[np.floating], width: int, height: int) -> Float64Array:
        """Distances (N,) of ``points_px`` (N, 2) from the endless line: positive on its right side, negative on its left."""
        (ax, ay), (bx, by) = (self._ends * (width, height)).tolist()
        x, y = points_px.astype(np.float64).T
        distance: Float64Array = ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / np.hypot(bx - ax, by - ay)
        return distance

    def follow(self, path: LinePath, step: LinePath, band_px: float, width: int, height: int) -> Direction | None:
        """Take one more step along ``path`` and say whether it has crossed the segment now.

        A crossing counts when the anchor has come clear of the line, further from it than ``band_px``, on the other
        side than it was clear of it before, and has passed through the segment on its way, not round one of its ends.
        So neither touching the line nor standing on it and swaying counts, however long.

        Args:
            path: where the anchor has been; changed in place.
            step: where it is now; its ``side`` and ``net`` do not matter.
            band_px: half the width of the dead band.
            width, height: size of the frame in pixels.
        """
        was_right, is_right = path.distance_px > 0, step.distance_px > 0  # on the line is left of it
        if was_right != is_right and self._spans(path, step, width, height):
            path.net += 1 if is_right else -1
        path.x, path.y, path.distance_px = step.x, step.y, step.distance_px
        if abs(step.distance_px) <= band_px:
            return None
        side, crossed = 1 if is_right else -1, path.net
        changed = path.side == -side
        path.side, path.net = side, 0
        if not changed or crossed * side <= 0:
            return None
        return "in" if is_right else "out"

    def _spans(self, start: LinePath, end: LinePath, width: int, height: int) -> bool:
        """True where the segment's ends lie on different sides of the step: a step over the endless line crosses the
        segment then. One exactly through an end crosses one of two segments that are joined there, not both, and the
        same one on the way back, so it is computed in one direction always."""
        (ax, ay), (bx, by) = (self._ends * (width, height)).tolist()
        (px, py), (qx, qy) = sorted(((start.x, start.y), (end.x, end.y)))
        a_right: bool = (qx - px) * (ay - py) > (qy - py) * (ax - px)
        b_right: bool = (qx - px) * (by - py) > (qy - py) * (bx - px)
        return a_right != b_right
