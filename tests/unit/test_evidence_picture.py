"""The picture of an alert: whom it shows, and whom it does not."""

import cv2
import numpy as np
import pytest

from stream.events import TrackedObject
from stream.evidence.picture import compose, pixelate
from stream.evidence.requests import EvidenceRequest

MEMBER, OUTSIDER = (100.0, 100.0, 160.0, 280.0), (300.0, 80.0, 350.0, 260.0)


def noise() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (360, 480, 3), np.uint8)


def request(blur: bool = True, **changes: object) -> EvidenceRequest:
    objects = [
        TrackedObject(track_id=i, class_="person", confidence=0.9, xyxy=box, zones=[])
        for i, box in enumerate((MEMBER, OUTSIDER), 1)
    ]
    values = {
        "alert_id": "0" * 32,
        "source_id": "hall",
        "session": "",
        "frame_index": 0,
        "pts_s": 0.0,
        "width": 480,
        "height": 360,
        "objects": objects,
        "others": [],
        "members": [1],
        "zones": [],
        "lines": [],
        "picture": "p",
        "clip": None,
        "before_s": 0,
        "after_s": 0,
        "blur": blur,
    }
    return EvidenceRequest.model_validate(values | changes)


def detail(picture: np.ndarray, box: tuple[float, float, float, float]) -> float:
    """How much neighbouring pixels differ within a box, away from the lines around it."""
    left, top, right, bottom = (round(v) for v in box)
    part = picture[top + 4 : bottom - 4, left + 4 : right - 4].astype(int)
    return float(np.abs(np.diff(part, axis=1)).mean())


def test_everybody_outside_the_alert_is_pixelated() -> None:
    shown = cv2.imdecode(np.frombuffer(compose(noise(), request()), np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (360, 480, 3)
    assert detail(shown, MEMBER) > 0.6 * detail(noise(), MEMBER)
    assert detail(shown, OUTSIDER) < 0.15 * detail(noise(), OUTSIDER)
    assert detail(shown, (200, 100, 250, 200)) > 0.6 * detail(noise(), (200, 100, 250, 200))
    assert np.abs(shown[100, 110:150].astype(int) - (60, 60, 230)).mean() < 60  # red around who is meant
    assert np.abs(shown[80, 310:340].astype(int) - (80, 200, 80)).mean() < 60  # green around others


def test_unless_it_is_not_wanted() -> None:
    shown = cv2.imdecode(np.frombuffer(compose(noise(), request(blur=False)), np.uint8), cv2.IMREAD_COLOR)
    assert detail(shown, OUTSIDER) > 0.6 * detail(noise(), OUTSIDER)


def test_without_members_everybody_is_pixelated() -> None:
    shown = cv2.imdecode(np.frombuffer(compose(noise(), request(members=[])), np.uint8), cv2.IMREAD_COLOR)
    assert detail(shown, MEMBER) < 0.15 * detail(noise(), MEMBER)


@pytest.mark.parametrize(
    ("faint", "pixelated"),
    [
        ((200.0, 100.0, 250.0, 280.0), True),
        ((102.0, 98.0, 158.0, 282.0), False),  # the member once more
        ((105.0, 105.0, 150.0, 180.0), False),  # a part of it
        ((20.0, 20.0, 290.0, 340.0), False),  # a box that is far too large
    ],
)
def test_faint_boxes_are_pixelated_where_they_are_somebody_else(faint: tuple[float, ...], pixelated: bool) -> None:
    shown = cv2.imdecode(np.frombuffer(compose(noise(), request(others=[faint])), np.uint8), cv2.IMREAD_COLOR)
    place = (max(faint[0], 100), faint[1], min(faint[2], 290), faint[3])
    assert (detail(shown, place) < 0.5 * detail(noise(), place)) == pixelated  # type: ignore[arg-type]


def test_who_stands_in_front_is_seen() -> None:
    behind, picture = (130.0, 90.0, 190.0, 250.0), noise()
    pixelate(picture, [behind], [MEMBER])
    assert np.array_equal(picture[105:275, 105:155], noise()[105:275, 105:155])
    assert detail(picture, (164, 95, 188, 245)) < 0.3 * detail(noise(), behind)
    in_front, picture = (130.0, 120.0, 190.0, 300.0), noise()
    pixelate(picture, [in_front], [MEMBER])
    assert detail(picture, (132, 125, 158, 275)) < 0.3 * detail(noise(), in_front)
    assert np.array_equal(picture[105:275, 102:122], noise()[105:275, 102:122])


@pytest.mark.parametrize("box", [(-50, -50, 30, 40), (470, 350, 900, 900), (-90, 0, -10, 50), (10, 10, 10.2, 10.2), (5, 5, 6, 300)])
def test_boxes_at_and_over_the_edge(box: tuple[float, float, float, float]) -> None:
    picture = noise()
    pixelate(picture, [box], [box])
    pixelate(picture, [box])
    assert picture.shape == (360, 480, 3)
