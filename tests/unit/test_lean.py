"""Lean: feet found in the boxes of people as a tilted camera projects them, and what is not to be learned from."""

from __future__ import annotations

import json
import math

import numpy as np
import numpy.typing as npt
import pytest

from stream.lean import MOST, Lean
from stream.simulation.camera import Camera
from stream.zones import anchors

W, H = 1280, 720
Float64Array = npt.NDArray[np.float64]


def camera(tilt_deg: float) -> Camera:
    return Camera(W, H, 900.0, (0.0, 0.0, 5.0), math.radians(tilt_deg), 0.0)


def people(seen_by: Camera, count: int, seed: int = 0) -> tuple[Float64Array, Float64Array]:
    """Boxes (N, 4) of upright cylinders, 1.7 m tall and half a metre thick, whole in the picture, and their feet (N, 2)."""
    rng = np.random.default_rng(seed)
    boxes: list[Float64Array] = []
    feet: list[Float64Array] = []
    turn = np.linspace(0, 2 * np.pi, 17)[:-1]
    while len(boxes) < count:
        x, y = rng.uniform(-9, 9), rng.uniform(1, 20)
        ring = np.stack((x + 0.25 * np.cos(turn), y + 0.25 * np.sin(turn)), 1)
        body = np.concatenate([np.column_stack((ring, np.full(16, z))) for z in (0.0, 1.7)])
        seen, foot = seen_by.project(body), seen_by.project([(x, y, 0.0)])[0]
        if seen_by.inside(seen).all():
            boxes.append(np.concatenate((seen.min(0), seen.max(0))))
            feet.append(foot)
    return np.array(boxes), np.array(feet)


def error(found: Float64Array, feet: Float64Array, boxes: Float64Array) -> float:
    """Root of the mean square of the horizontal error, in the boxes' heights."""
    return float(np.sqrt((((found - feet)[:, 0] / (boxes[:, 3] - boxes[:, 1])) ** 2).mean()))


@pytest.mark.parametrize("tilt_deg", [30, 45, 60])
def test_a_few_dozen_boxes_tell_where_the_feet_are(tilt_deg: float) -> None:
    seen_by = camera(tilt_deg)
    lean = Lean()
    lean.learn(people(seen_by, 60, seed=1)[0], W, H)
    boxes, feet = people(seen_by, 300)
    below = error(anchors(boxes, "bottom_center", W, H), feet, boxes)
    assert error(lean.feet(boxes, W, H, 0.0), feet, boxes) < min(0.04, below / 2)


def test_nobody_leans_where_nothing_was_learned_or_people_are_seen_from_the_side() -> None:
    boxes = np.array([[100.0, 200, 160, 380], [1000, 300, 1090, 500]])
    lean = Lean()
    np.testing.assert_array_equal(lean.feet(boxes, W, H, 0.0), anchors(boxes, "bottom_center", W, H))
    rng = np.random.default_rng(0)
    left, top = rng.uniform((20, 20), (1100, 400), (500, 2)).T
    tall = rng.uniform(100, 250, 500)
    lean.learn(np.stack((left, top, left + tall * rng.uniform(0.25, 0.55, 500), top + tall), 1), W, H)
    np.testing.assert_allclose(lean.feet(boxes, W, H, 0.0), anchors(boxes, "bottom_center", W, H), atol=4)


def test_of_a_box_cut_off_by_the_side_the_inner_edge_counts() -> None:
    lean = Lean()
    lean.learn(people(camera(50), 60)[0], W, H)
    cut = np.array([[0.0, 300, 80, 500], [1200, 300, W, 500]])
    left, right = lean.feet(cut, W, H, 0.0)[:, 0]
    assert 0 < 80 - left < 60
    assert right - 1200 == pytest.approx(80 - left)


def test_the_inset_grows_towards_the_lower_edge_and_is_none_on_it() -> None:
    boxes = np.array([[600.0, 80, 680, 180], [600, 440, 680, 540], [600, 620, 680, H]])
    np.testing.assert_allclose(Lean().feet(boxes, W, H, 0.2)[:, 1], [180 - 5, 540 - 15, H], atol=0.01)


def test_boxes_that_are_cut_off_or_lie_teach_nothing() -> None:
    lean, untaught = Lean(), Lean().state()
    lean.learn(np.array([[0.0, 100, 90, 300], [50, 0, 90, 300], [1200, 300, W, 500], [50, 600, 99, H], [50, 300, 450, 400]]), W, H)
    lean.learn(np.zeros((0, 4)), W, H)
    assert lean.state() == untaught


def test_it_goes_on_after_a_restart_and_forgets_what_is_long_past() -> None:
    before, after = (people(camera(tilt), 200)[0] for tilt in (60, 30))
    lean = Lean()
    lean.learn(before, W, H)
    restored = Lean()
    restored.restore(json.loads(json.dumps(lean.state())))
    np.testing.assert_array_equal(restored.feet(after, W, H, 0.1), lean.feet(after, W, H, 0.1))
    for _ in range(int(4 * MOST / len(after))):
        lean.learn(after, W, H)
    boxes, feet = people(camera(30), 100, seed=2)
    assert lean.state()["boxes"] <= MOST
    assert error(lean.feet(boxes, W, H, 0.0), feet, boxes) < 0.04
