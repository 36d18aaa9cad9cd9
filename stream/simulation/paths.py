"""Paths: the shortest ways around the things that stand in a scene.

A visibility graph (Lozano-Perez and Wesley 1979) whose nodes stand off the corners that one walks around.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse.csgraph import shortest_path

from stream.simulation.ground import Floats, area, clearance, contains, edges, gap, outset

CLEARANCE_M = 0.28  # what a way leaves free to a thing
CORNER_M = 0.5  # how far from a corner a way turns


class Paths:
    """Ways in a scene.

    Args:
        walkable: polygon (K, 2), counter-clockwise.
        obstacles: convex polygons; those outside ``walkable`` do not matter.
    """

    def __init__(self, walkable: Floats, obstacles: Sequence[Floats]):
        solid = [obstacle for obstacle in obstacles if gap(obstacle, walkable) == 0]
        self.walls = edges([walkable, *solid])
        self._kept_off = edges([walkable, *(outset(obstacle, CLEARANCE_M) for obstacle in solid)])
        corners = [_turns(walkable), *(outset(_four(obstacle), CORNER_M) for obstacle in solid)]
        nodes = np.concatenate(corners)
        free = contains(walkable, nodes) & (clearance(nodes, [walkable]) > 0.2)
        for obstacle in solid:
            free &= ~contains(outset(obstacle, CLEARANCE_M + 0.02), nodes)
        self._nodes = nodes[free]
        lengths = np.zeros((len(self._nodes), len(self._nodes)))
        for i, node in enumerate(self._nodes):
            seen = self.sees(np.broadcast_to(node, self._nodes.shape), self._nodes)
            lengths[i, seen] = np.linalg.norm(self._nodes[seen] - node, axis=1)
        self._lengths, self._before = (
            shortest_path(np.maximum(lengths, lengths.T), directed=False, return_predecessors=True)
            if len(self._nodes)
            else (lengths, np.zeros((0, 0), np.int32))
        )

    def sees(self, starts: Floats, ends: Floats) -> npt.NDArray[np.bool_]:
        """Whether one can go straight from each of ``starts`` (N, 2) to its one of ``ends``, float64 (N, 2)."""
        return ~cut(starts, ends, self._kept_off)

    def find(self, start: Floats, end: Floats) -> list[Floats]:
        """Points to walk to one after the other, ``end`` the last. Straight to it where there is no way."""
        if self.sees(start[None], end[None])[0] or not len(self._nodes):
            return [end]
        first, last = self._reach(start), self._reach(end)
        total = first[:, None] + self._lengths + last[None]
        i, j = np.unravel_index(int(np.argmin(total)), total.shape)
        if not np.isfinite(total[i, j]):
            return [end]
        way = [end, self._nodes[j]]
        while j != i:
            j = self._before[i, j]
            way.append(self._nodes[j])
        return way[::-1]

    def _reach(self, point: Floats) -> Floats:
        """Lengths of the straight ways to the nodes, float64 (M,); infinite where there is none."""
        starts = np.broadcast_to(point, self._nodes.shape)
        seen = self.sees(starts, self._nodes)
        if not seen.any():  # the point is close to a thing
            seen = ~cut(starts, self._nodes, self.walls)
        return np.where(seen, np.linalg.norm(self._nodes - point, axis=1), np.inf)


def cut(starts: Floats, ends: Floats, walls: Floats) -> npt.NDArray[np.bool_]:
    """Whether the segments from ``starts`` to ``ends`` (N, 2) cross any of ``walls`` (M, 2, 2), bool (N,)."""
    px, py = starts[:, 0, None], starts[:, 1, None]
    dx, dy = ends[:, 0, None] - px, ends[:, 1, None] - py
    ax, ay, bx, by = walls[:, 0, 0], walls[:, 0, 1], walls[:, 1, 0], walls[:, 1, 1]
    side_a = dx * (ay - py) - dy * (ax - px)
    side_b = dx * (by - py) - dy * (bx - px)
    wx, wy = bx - ax, by - ay
    side_p = wx * (py - ay) - wy * (px - ax)
    side_q = side_p + wx * dy - wy * dx
    return np.asarray(((side_a * side_b < 0) & (side_p * side_q < 0)).any(axis=1))


def _turns(polygon: Floats) -> Floats:
    """Points inside a counter-clockwise polygon, off those of its corners that stick into it."""
    before, after = polygon - np.roll(polygon, 1, axis=0), np.roll(polygon, -1, axis=0) - polygon
    into = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0] < 0
    a = before[into] / np.linalg.norm(before[into], axis=1, keepdims=True)
    b = after[into] / np.linalg.norm(after[into], axis=1, keepdims=True)
    inward = a - b
    return np.asarray(polygon[into] + inward / np.linalg.norm(inward, axis=1, keepdims=True) * CORNER_M * 2**0.5)


def _four(polygon: Floats) -> Floats:
    """The upright rectangle around a polygon with many corners; others as they are."""
    if len(polygon) <= 4:
        return polygon if area(polygon) > 0 else polygon[::-1]
    (left, near), (right, far) = polygon.min(axis=0), polygon.max(axis=0)
    return np.array([(left, near), (right, near), (right, far), (left, far)])
