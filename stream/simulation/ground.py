"""Plane geometry of the ground: rectangles, polygons, distances. Points are metres, float64 (N, 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Point = tuple[float, float]


def rectangle(centre: Point, along_m: float, across_m: float, turn_rad: float = 0.0) -> Floats:
    """Corners, counter-clockwise, of a rectangle whose side ``along_m`` lies in the direction ``turn_rad``."""
    cos, sin = math.cos(turn_rad), math.sin(turn_rad)
    corners = box(-along_m / 2, -across_m / 2, along_m / 2, across_m / 2)
    return np.asarray(corners @ np.array([[cos, sin], [-sin, cos]]) + centre)


def box(x0: float, y0: float, x1: float, y1: float) -> Floats:
    """The upright rectangle with two opposite corners at (x0, y0) and (x1, y1), counter-clockwise."""
    left, right, near, far = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
    return np.array([(left, near), (right, near), (right, far), (left, far)], np.float64)


def disc(centre: Point, radius_m: float, corners: int = 12) -> Floats:
    """A regular polygon that stands for a disc."""
    angles = np.arange(corners) * 2 * math.pi / corners
    return np.column_stack((np.cos(angles), np.sin(angles))) * radius_m + centre


def area(polygon: Floats) -> float:
    """Signed area; positive when the corners go counter-clockwise."""
    following = np.roll(polygon, -1, axis=0)
    return float((polygon[:, 0] * following[:, 1] - following[:, 0] * polygon[:, 1]).sum() / 2)


def contains(polygon: Floats, points: Floats) -> npt.NDArray[np.bool_]:
    """Which points lie inside (even-odd rule)."""
    x, y = points[:, None, 0], points[:, None, 1]
    ax, ay = polygon[:, 0], polygon[:, 1]
    bx, by = np.roll(ax, -1), np.roll(ay, -1)
    rise = np.where(by == ay, 1.0, by - ay)  # a level edge is crossed by no level ray
    crossed = ((ay > y) != (by > y)) & (x < ax + (y - ay) * (bx - ax) / rise)
    return np.asarray(crossed.sum(axis=1) % 2 == 1)


def edges(polygons: Sequence[Floats]) -> Floats:
    """All sides of the polygons, float64 (M, 2, 2)."""
    if not polygons:
        return np.zeros((0, 2, 2))
    return np.concatenate([np.stack((polygon, np.roll(polygon, -1, axis=0)), axis=1) for polygon in polygons])


def nearest(points: Floats, segments: Floats) -> Floats:
    """The points of segments (M, 2, 2) that are nearest to each of ``points``, float64 (N, M, 2)."""
    start, along = segments[:, 0], segments[:, 1] - segments[:, 0]
    length2 = np.maximum((along**2).sum(axis=1), 1e-12)
    share = np.clip(((points[:, None] - start) * along).sum(axis=2) / length2, 0, 1)
    return np.asarray(start + share[:, :, None] * along)


def clearance(points: Floats, polygons: Sequence[Floats]) -> Floats:
    """Distance of each point to the nearest side of the polygons, float64 (N,); infinite where there are none."""
    segments = edges(polygons)
    if not len(segments):
        return np.full(len(points), np.inf)
    return np.asarray(np.linalg.norm(points[:, None] - nearest(points, segments), axis=2).min(axis=1))


def gap(a: Floats, b: Floats) -> float:
    """Distance between two polygons; 0 where they touch or one holds the other."""
    if contains(a, b).any() or contains(b, a).any() or _cross(a, b):
        return 0.0
    return float(min(clearance(a, [b]).min(), clearance(b, [a]).min()))


def _cross(a: Floats, b: Floats) -> bool:
    """Whether a side of ``a`` cuts a side of ``b``."""
    p, q = edges([a])[:, None], edges([b])[None]

    def side(o: Floats, s: Floats, t: Floats) -> Floats:
        return np.asarray((s[..., 0] - o[..., 0]) * (t[..., 1] - o[..., 1]) - (s[..., 1] - o[..., 1]) * (t[..., 0] - o[..., 0]))

    p0, p1, q0, q1 = p[..., 0, :], p[..., 1, :], q[..., 0, :], q[..., 1, :]
    return bool(((side(p0, p1, q0) * side(p0, p1, q1) < 0) & (side(q0, q1, p0) * side(q0, q1, p1) < 0)).any())


def outset(polygon: Floats, by_m: float) -> Floats:
    """A convex counter-clockwise polygon with every side moved out."""
    before, after = polygon - np.roll(polygon, 1, axis=0), np.roll(polygon, -1, axis=0) - polygon
    n0, n1 = _outward(before), _outward(after)
    bisector = n0 + n1
    return np.asarray(polygon + bisector * (by_m * 2 / (bisector**2).sum(axis=1))[:, None])


def _outward(sides: Floats) -> Floats:
    normals = np.column_stack((sides[:, 1], -sides[:, 0]))
    return np.asarray(normals / np.linalg.norm(normals, axis=1, keepdims=True))


def clip(polygon: Floats, left: float, top: float, right: float, bottom: float) -> Floats:
    """The part of a polygon inside a rectangle (Sutherland and Hodgman 1974); may be empty."""
    for axis, bound, sign in ((0, left, 1), (0, right, -1), (1, top, 1), (1, bottom, -1)):
        kept: list[Floats] = []
        for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            inside_a, inside_b = sign * (a[axis] - bound) >= 0, sign * (b[axis] - bound) >= 0
            if inside_a:
                kept.append(a)
            if inside_a != inside_b:
                kept.append(a + (b - a) * (bound - a[axis]) / (b[axis] - a[axis]))
        polygon = np.array(kept).reshape(-1, 2)
    return polygon
