"""Zones against exact arithmetic: coordinates are sixteenths and frames powers of two, so floats are exact too."""

from fractions import Fraction
from math import atan2

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stream.zones import LinePath, LineZone, PolygonZone

pytestmark = pytest.mark.compute

W, H = 1024, 512
sixteenth = st.integers(0, 16)
corner = st.tuples(sixteenth, sixteenth)
# Quarter pixels, and often exactly on the lattice of the corners.
point = st.tuples(
    st.one_of(st.integers(0, 4 * W - 1), sixteenth.map(lambda n: min(n * W // 4, 4 * W - 1))),
    st.one_of(st.integers(0, 4 * H - 1), sixteenth.map(lambda n: min(n * H // 4, 4 * H - 1))),
).map(lambda p: (p[0] / 4, p[1] / 4))
Polygon = list[tuple[int, int]]


@st.composite
def star_shaped(draw: st.DrawFn) -> Polygon:
    """A simple polygon: corners in the order of their angle round a point off the lattice."""
    corners = draw(st.lists(corner, min_size=3, max_size=9, unique=True))
    cx, cy = draw(st.tuples(st.integers(1, 15), st.integers(1, 15)))
    cx, cy = cx + 1 / 3, cy + 1 / 7
    angles = {atan2(y - cy, x - cx): (x, y) for x, y in corners}
    polygon = [angles[a] for a in sorted(angles)]
    gaps = np.diff([*sorted(angles), min(angles) + 2 * np.pi])
    assume(len(polygon) >= 3 and max(gaps) < 3.1)  # the point sees all of it
    return polygon


def edges(polygon: Polygon) -> list[tuple[Fraction, Fraction, Fraction, Fraction]]:
    px = [(Fraction(x * W, 16), Fraction(y * H, 16)) for x, y in polygon]
    return [(*a, *b) for a, b in zip(px, px[1:] + px[:1], strict=True)]


def on_edge(polygon: Polygon, x: Fraction, y: Fraction) -> bool:
    return any(
        (bx - ax) * (y - ay) == (by - ay) * (x - ax) and min(ax, bx) <= x <= max(ax, bx) and min(ay, by) <= y <= max(ay, by)
        for ax, ay, bx, by in edges(polygon)
    )


def winding(polygon: Polygon, x: Fraction, y: Fraction) -> int:
    """Exact winding number round a point that is on no edge, by a ray downwards (the code under test shoots right)."""
    turns = 0
    for ax, ay, bx, by in edges(polygon):
        if (ax <= x) != (bx <= x) and ay + (by - ay) * (x - ax) / (bx - ax) > y:
            turns += 1 if bx > ax else -1
    return turns


def contains(polygon: Polygon, points: list[tuple[float, float]]) -> list[bool]:
    zone = PolygonZone([(x / 16, y / 16) for x, y in polygon])
    return zone.contains(np.array(points, np.float64).reshape(-1, 2), W, H).tolist()


@given(star_shaped(), st.lists(point, min_size=1, max_size=20), st.booleans())
def test_agrees_with_the_winding_number(polygon: Polygon, points: list[tuple[float, float]], turned: bool) -> None:
    polygon = polygon[::-1] if turned else polygon
    for (x, y), got in zip(points, contains(polygon, points), strict=True):
        if not on_edge(polygon, Fraction(x), Fraction(y)):
            assert got == (winding(polygon, Fraction(x), Fraction(y)) != 0)


@given(st.integers(1, 15), st.integers(1, 15), st.lists(point, min_size=1, max_size=20), sixteenth)
def test_a_frame_cut_into_zones_holds_every_point_once(x: int, y: int, points: list[tuple[float, float]], t: int) -> None:
    """Four triangles round an inner point tile the frame, and so do the two sides of a cut; edges and corners included."""
    outline = [(0, 0), (16, 0), (16, 16), (0, 16)]
    fan = [[a, b, (x, y)] for a, b in zip(outline, outline[1:] + outline[:1], strict=True)]
    cut = [[(0, 0), (t, 0), (16 - t, 16), (0, 16)], [(t, 0), (16, 0), (16, 16), (16 - t, 16)]]
    # Every point of the lattice, the inner point and points on the edges among them.
    points = [*points, (x * W / 16, y * H / 16), (x * W / 32, y * H / 32), (t * W / 16 if t < 16 else 0.0, 0.0)]
    for tiling in (fan, cut):
        held = np.sum([contains(zone, points) for zone in tiling], axis=0)
        assert held.tolist() == [1] * len(points)


@given(corner, corner, st.lists(point, min_size=1, max_size=30), st.floats(0, 20))
def test_crossings_alternate_with_the_side(
    first: tuple[int, int], second: tuple[int, int], path: list[tuple[float, float]], band_px: float
) -> None:
    """Whatever the path: each crossing ends clear of the line on the side it says, having started clear of it on the
    other; and a path that goes back the same way undoes its crossings."""
    assume(first != second)
    zone = LineZone([(first[0] / 16, first[1] / 16), (second[0] / 16, second[1] / 16)])
    there_and_back = path + path[::-1]
    distances = zone.distance_px(np.array(there_and_back), W, H).tolist()
    clear = [0 if abs(d) <= band_px else 1 if d > 0 else -1 for d in distances]
    so_far = LinePath(*there_and_back[0], distances[0])
    last_clear, total = 0, 0
    for (x, y), d, side in zip(there_and_back, distances, clear, strict=True):
        direction = zone.follow(so_far, LinePath(x, y, d), band_px, W, H)
        if direction:
            assert side == (1 if direction == "in" else -1)
            assert last_clear == -side
            total += side
        last_clear = side or last_clear
    if clear[0]:
        assert total == 0


@given(corner, corner, point, point)
def test_one_step_agrees_with_exact_intersection(
    first: tuple[int, int], second: tuple[int, int], start: tuple[float, float], end: tuple[float, float]
) -> None:
    assume(first != second)
    a, b = ((Fraction(x * W, 16), Fraction(y * H, 16)) for x, y in (first, second))
    p, q = ((Fraction(x), Fraction(y)) for x, y in (start, end))

    def side(o: tuple[Fraction, Fraction], d: tuple[Fraction, Fraction], r: tuple[Fraction, Fraction]) -> int:
        cross = (d[0] - o[0]) * (r[1] - o[1]) - (d[1] - o[1]) * (r[0] - o[0])
        return (cross > 0) - (cross < 0)

    sides = [side(a, b, p), side(a, b, q), side(p, q, a), side(p, q, b)]
    assume(all(sides))  # general position; touching is in the table of the unit tests
    zone = LineZone([(first[0] / 16, first[1] / 16), (second[0] / 16, second[1] / 16)])
    steps = [LinePath(*r, zone.distance_px(np.array([r]), W, H).item()) for r in (start, end)]
    zone.follow(steps[0], steps[0], 0, W, H)
    expected = None if sides[0] == sides[1] or sides[2] == sides[3] else "in" if sides[1] > 0 else "out"
    assert zone.follow(steps[0], steps[1], 0, W, H) == expected
