"""PolygonZone, LineZone and anchors: tables of points and paths."""

import numpy as np
import pytest

from stream.zones import EDGE_PX, LinePath, LineZone, PolygonZone, anchors

SIZE = (800, 400)
SQUARE = [(0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75)]  # 200..600 x 100..300 px
ELL = [(0, 0), (1, 0), (1, 0.5), (0.5, 0.5), (0.5, 1), (0, 1)]  # all but the lower right quarter


def inside(polygon: list[tuple[float, float]], *points: tuple[float, float]) -> list[bool]:
    return PolygonZone(polygon).contains(np.array(points, np.float64).reshape(-1, 2), *SIZE).tolist()


@pytest.mark.parametrize(
    ("polygon", "point", "expected"),
    [
        (SQUARE, (400, 200), True),
        (SQUARE, (199, 200), False),
        (SQUARE, (601, 200), False),
        (SQUARE, (400, 99), False),
        (SQUARE, (400, 301), False),
        (SQUARE, (200, 200), True),  # left edge
        (SQUARE, (400, 100), True),  # top edge
        (SQUARE, (600, 200), False),  # right edge
        (SQUARE, (400, 300), False),  # bottom edge
        (SQUARE, (200, 100), True),
        (SQUARE, (600, 300), False),
        (SQUARE[::-1], (400, 200), True),
        (SQUARE[::-1], (600, 200), False),
        (SQUARE[::-1], (200, 200), True),
        (ELL, (100, 350), True),
        (ELL, (700, 100), True),
        (ELL, (700, 350), False),
        (ELL, (400, 300), False),  # on the right edge of the lower part
        ([(0, 0), (1, 1), (0, 1)], (100, 300), True),
        ([(0, 0), (1, 1), (0, 1)], (300, 100), False),
        ([(0.5, 0), (1, 1), (0.5, 0.5), (0, 1)], (400, 300), False),  # in the notch
        ([(0.5, 0), (1, 1), (0.5, 0.5), (0, 1)], (200, 250), True),
    ],
)
def test_contains(polygon: list[tuple[float, float]], point: tuple[float, float], expected: bool) -> None:
    assert inside(polygon, point) == [expected]


def test_contains_many_and_none() -> None:
    assert inside(SQUARE, (400, 200), (0, 0), (500, 250)) == [True, False, True]
    assert inside(SQUARE) == []


@pytest.mark.parametrize("y", [0.0, 37.0, 200.0, 399.0])
def test_zones_that_share_an_edge_hold_a_point_on_it_once(y: float) -> None:
    left, right = [(0, 0), (0.5, 0), (0.5, 1), (0, 1)], [(0.5, 0), (1, 0), (1, 1), (0.5, 1)]
    assert inside(left, (400, y))[0] + inside(right, (400, y))[0] == 1
    above, below = [(0, 0), (1, 0), (1, 1)], [(0, 0), (1, 1), (0, 1)]
    assert inside(above, (2 * y, y))[0] + inside(below, (2 * y, y))[0] == 1


def test_a_polygon_needs_three_corners() -> None:
    with pytest.raises(ValueError, match="three corners, not 2"):
        PolygonZone([(0, 0), (1, 1)])


@pytest.mark.parametrize(("anchor", "point"), [("bottom_center", (20, 60)), ("center", (20, 40)), ("top_center", (20, 20))])
def test_anchors(anchor: str, point: tuple[float, float]) -> None:
    assert anchors(np.array([[10, 20, 30, 60]], np.float32), anchor, *SIZE).tolist() == [list(point)]


def test_somebody_at_the_edge_of_the_picture_stands_in_a_zone_that_reaches_to_it() -> None:
    points = anchors(np.array([[700, 300, 800, 400], [780, 300, 860, 460], [-90, 10, -10, 90]], np.float32), "bottom_center", *SIZE)
    assert points.tolist() == [[750, 400 - EDGE_PX], [800 - EDGE_PX, 400 - EDGE_PX], [0, 90]]
    assert PolygonZone([(0, 0), (1, 0), (1, 1), (0, 1)]).contains(points, *SIZE).all()


DOWN = [(0.5, 0), (0.5, 1)]  # x = 400, drawn from top to bottom: its left is the right half of the picture
RIGHT = [(0, 0.5), (1, 0.5)]  # y = 200, drawn from left to right: its left is above
SHORT = [(0.5, 0.25), (0.5, 0.75)]  # x = 400, y = 100..300


def walk(points: list[tuple[float, float]], path: list[tuple[float, float]], band_px: float = 4) -> list[str]:
    zone = LineZone(points)
    so_far, found = None, []
    for x, y in path:
        step = LinePath(x, y, zone.distance_px(np.array([[x, y]], np.float64), *SIZE).item())
        so_far = so_far or step
        direction = zone.follow(so_far, step, band_px, *SIZE)
        if direction:
            found.append(direction)
    return found


def test_distance_is_positive_on_the_right() -> None:
    points = np.array([[300, 200], [500, 200], [400, 50]], np.float64)
    assert LineZone(DOWN).distance_px(points, *SIZE).tolist() == [100, -100, 0]
    assert LineZone(RIGHT).distance_px(points, *SIZE).tolist() == [0, 0, -150]


@pytest.mark.parametrize(
    ("line", "path", "expected"),
    [
        (DOWN, [(500, 200), (300, 200)], ["in"]),  # left hand to right hand of who looks down the picture
        (DOWN, [(300, 200), (500, 200)], ["out"]),
        (RIGHT, [(100, 100), (100, 300)], ["in"]),
        (RIGHT, [(100, 300), (100, 100)], ["out"]),
        (DOWN[::-1], [(500, 200), (300, 200)], ["out"]),
        (DOWN, [(500, 200), (300, 200), (500, 200)], ["in", "out"]),
        (DOWN, [(500, 200), (450, 200), (420, 200)], []),
        (DOWN, [(500, 200), (400, 200), (500, 200)], []),  # touched from the left
        (DOWN, [(300, 200), (400, 200), (300, 200)], []),  # touched from the right
        (DOWN, [(500, 200), (400, 200), (300, 200)], ["in"]),  # through a step on the line
        (DOWN, [(300, 200), (400, 200), (500, 200)], ["out"]),
        (DOWN, [(500, 200), (398, 200), (402, 200), (397, 200), (403, 200), (500, 200)], []),  # swaying on the line
        (DOWN, [(500, 200), (398, 200), (402, 200), (397, 200), (300, 200)], ["in"]),
        (DOWN, [(402, 200), (398, 200), (300, 200)], []),  # first seen on the line: nobody knows where from
        (DOWN, [(402, 200), (300, 200), (500, 200)], ["out"]),
        (SHORT, [(500, 200), (300, 200)], ["in"]),
        (SHORT, [(500, 50), (300, 50)], []),  # past its end
        (SHORT, [(500, 200), (500, 50), (300, 50), (300, 200)], []),  # round its end
        (SHORT, [(500, 200), (300, 200), (300, 50), (500, 50), (500, 200), (300, 200)], ["in", "in"]),
        (SHORT, [(500, 200), (399, 200), (399, 50), (401, 50), (401, 200), (500, 200)], []),
        (SHORT, [(500, 50), (399, 50), (399, 200), (300, 200)], []),  # past the end, then along the line
        (SHORT, [(500, 200), (399, 200), (399, 50), (300, 50)], ["in"]),  # through, then along the line
    ],
)
def test_follow(line: list[tuple[float, float]], path: list[tuple[float, float]], expected: list[str]) -> None:
    assert walk(line, path) == expected


def test_slanted_line() -> None:
    assert walk([(0, 0), (1, 1)], [(600, 100), (200, 300)]) == ["in"]


def test_through_the_joint_of_two_lines_counts_once() -> None:
    upper, lower = [(0.5, 0), (0.5, 0.5)], [(0.5, 0.5), (0.5, 1)]
    for path in ([(500, 200), (300, 200)], [(300, 200), (500, 200)]):
        assert len(walk(upper, path) + walk(lower, path)) == 1
        assert len(walk(upper, path) + walk(lower[::-1], path)) == 1
    assert len(walk(upper, [*path, path[0]])) in (0, 2)


def test_a_line_needs_two_points() -> None:
    with pytest.raises(ValueError, match="two different points"):
        LineZone([(0.5, 0.5), (0.5, 0.5)])
