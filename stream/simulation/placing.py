"""Placing: putting things, gates, queues and places to stand where they are in nobody's way."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from stream.simulation.ground import Floats, Point, clearance, contains, disc, gap, outset, rectangle
from stream.simulation.scene import Gate, Obstacle, ObstacleKind, Queue, Spot, SurfaceKind, View

PASSAGE_M = 1.7  # left free between two things, so that two people can pass
TALL_M = 1.2  # what is taller must not stand between the camera and a zone
TRIES = 60  # places tried for a thing before it is left out
QUEUE_STEP_M = 0.85  # from one person in a queue to the next
OUT_OF_SIGHT_M = 1.5  # how far outside the picture people come and go


class Placer:
    """Puts things where they are in nobody's way.

    Args:
        rng: where random numbers come from.
        view: the camera's view.
        walkable: polygon that things stand in.
        gates: kept free, with room to pass.
        zones: kept free, and in the camera's sight.
    """

    def __init__(self, rng: np.random.Generator, view: View, walkable: Floats, gates: Sequence[Gate], zones: Sequence[Floats]):
        self.rng, self.view, self.walkable, self.zones = rng, view, walkable, zones
        self.clear = [*zones, *(_forecourt(gate) for gate in gates)]
        self.obstacles: list[Obstacle] = []

    def put(self, kind: ObstacleKind, polygon: Floats, height_m: float) -> None:
        """Put a thing where it is told to be."""
        self.obstacles.append(Obstacle(polygon, height_m, kind))

    def fits(self, polygon: Floats, height_m: float) -> bool:
        """Whether a thing can stand there."""
        if not contains(self.walkable, polygon).all() or clearance(polygon, [self.walkable]).min() < PASSAGE_M:
            return False
        if any(gap(polygon, other) < 0.3 for other in self.clear):
            return False
        if any(gap(polygon, other.polygon_m) < PASSAGE_M for other in self.obstacles):
            return False
        return height_m <= TALL_M or not any(hides(self.view, polygon, height_m, zone) for zone in self.zones)

    def scatter(
        self, kind: ObstacleKind, along_m: float, across_m: float, height_m: float, count: int, turned: bool = True
    ) -> None:
        """Put up to ``count`` things somewhere; round ones where ``across_m`` is 0."""
        low, high = self.walkable.min(axis=0), self.walkable.max(axis=0)
        for _ in range(count):
            for _ in range(TRIES):
                centre = self.rng.uniform(low, high)
                turn = self.rng.uniform(0, math.pi) if turned else 0.0
                spot = (float(centre[0]), float(centre[1]))
                polygon = rectangle(spot, along_m, across_m, turn) if across_m else disc(spot, along_m / 2)
                if self.fits(polygon, height_m):
                    self.put(kind, polygon, height_m)
                    break


def hides(view: View, polygon: Floats, height_m: float, zone: Floats) -> bool:
    """Whether a thing stands between the camera and some of a zone's ground."""
    mount = np.asarray(view.camera.position_m)
    stretch = mount[2] / max(mount[2] - height_m, 0.05 * mount[2])
    shadow = mount[:2] + (polygon - mount[:2]) * stretch
    hull = cv2.convexHull(np.concatenate((polygon, shadow)).astype(np.float32))[:, 0].astype(np.float64)
    return gap(hull, zone) <= 0


def _forecourt(gate: Gate) -> Floats:
    inward = np.array([math.cos(gate.inward_rad), math.sin(gate.inward_rad)]) * 2.0
    a, b = np.array(gate.a_m), np.array(gate.b_m)
    return np.stack([a, b, b + inward, a + inward])


def open_gate(a: Sequence[float], b: Sequence[float], inside: Sequence[float]) -> Gate:
    """A gate that opens to the side on which ``inside`` lies."""
    across = math.atan2(b[1] - a[1], b[0] - a[0])
    left = (b[0] - a[0]) * (inside[1] - a[1]) - (b[1] - a[1]) * (inside[0] - a[0]) > 0
    return Gate((float(a[0]), float(a[1])), (float(b[0]), float(b[1])), across + (math.pi / 2 if left else -math.pi / 2))


def gate_in(polygon: Floats, side: int, share: float, width_m: float) -> Gate:
    """A gate in a side of a convex polygon, its middle at ``share`` of the side."""
    a, b = polygon[side], polygon[(side + 1) % len(polygon)]
    along = (b - a) / np.linalg.norm(b - a)
    middle = a + (b - a) * share
    return open_gate(middle - along * width_m / 2, middle + along * width_m / 2, polygon.mean(axis=0))


def line_up(head: Point, away_rad: float, places: int) -> Queue:
    """A straight queue from its head in the direction ``away_rad``."""
    step = np.array([math.cos(away_rad), math.sin(away_rad)]) * QUEUE_STEP_M
    return Queue(np.array(head) + np.arange(places)[:, None] * step, np.full(places, away_rad + math.pi))


def find_spots(placer: Placer, count: int) -> tuple[Spot, ...]:
    """Places to stand, 1 m from anything and from the edges of zones, 2 m from one another; none before a gate."""
    low, high = placer.walkable.min(axis=0), placer.walkable.max(axis=0)
    apart = [placer.walkable, *placer.zones, *(obstacle.polygon_m for obstacle in placer.obstacles)]
    gates = placer.clear[len(placer.zones) :]
    found: list[Spot] = []
    for _ in range(TRIES * count):
        point = placer.rng.uniform(low, high)[None]
        if not contains(placer.walkable, point)[0] or clearance(point, apart)[0] < 1.0:
            continue
        if any(contains(other.polygon_m, point)[0] for other in placer.obstacles) or any(contains(g, point)[0] for g in gates):
            continue
        if all(math.dist(point[0], spot.position_m) >= 2.0 for spot in found):
            found.append(Spot((float(point[0, 0]), float(point[0, 1])), placer.rng.uniform(-math.pi, math.pi)))
        if len(found) == count:
            break
    return tuple(found)


def strip(view: View, near_m: float, far_m: float, left: float, right: float) -> Floats:
    """A rectangle in the camera's directions; ``left`` and ``right`` as shares of what it sees at ``near_m``."""
    least, most = view.span(near_m, border=0.05)
    u0, u1 = least + left * (most - least), least + right * (most - least)
    return view.world((u0, near_m), (u1, near_m), (u1, far_m), (u0, far_m))


def across(view: View, v: float) -> tuple[Point, Point]:
    """A line over the whole picture."""
    left, right = view.world(*((u, v) for u in view.span(v, border=0.04)))
    return (float(left[0]), float(left[1])), (float(right[0]), float(right[1]))


def visible_field(view: View, far_m: float) -> Floats:
    """What the camera sees up to ``far_m``, and a little more: near left, near right, far right, far left."""
    (nl, nr), (fl, fr) = view.span(view.near_m), view.span(far_m)
    return outset(view.world((nl, view.near_m), (nr, view.near_m), (fr, far_m), (fl, far_m)), OUT_OF_SIGHT_M)


def wall_height_m(rng: np.random.Generator, view: View) -> float:
    """Height of a room's walls: the camera hangs below the ceiling and does not look over them."""
    return view.camera.position_m[2] + rng.uniform(0.2, 0.8)


def one_of(rng: np.random.Generator, *kinds: SurfaceKind) -> SurfaceKind:
    """One of the kinds, at random."""
    return kinds[int(rng.integers(len(kinds)))]
