"""One synthetic picture: where objects stand, how they are made to fit, what their labels say."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from stream.errors import ConfigError
from stream.synthesis import harmonize
from stream.synthesis.backgrounds import Label
from stream.synthesis.compose import check_room, compose
from stream.synthesis.cutouts import Cutout, read_cutouts
from stream.synthesis.floor import find_floor
from stream.synthesis.ground import Ground, estimate, settle
from stream.synthesis.settings import Settings
from tests.support.synthesis import HEIGHT, WIDTH, background, penn_fudan, scenery

pytestmark = pytest.mark.compute


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cutout, ...]:
    return read_cutouts(penn_fudan(tmp_path_factory.mktemp("people"))).items


# -- ground and floor


def test_the_ground_is_found_from_boxes_a_quarter_of_which_is_wrong() -> None:
    truth = Ground("given", horizon_px=100.0, camera_m=3.0)
    rng = np.random.default_rng(0)
    feet = rng.uniform(200, 700, 40)
    metres = rng.normal(1.7, 0.05, 40)
    tall = np.array([truth.height_px(foot, height) for foot, height in zip(feet, metres, strict=True)])
    tall[:10] *= rng.uniform(0.2, 0.6, 10)  # people behind a counter
    found = estimate(feet, tall, np.full(40, 1.7), 720)
    assert found is not None
    assert found.kind == "estimated"
    assert found.height_px(600, 1.7) == pytest.approx(truth.height_px(600, 1.7), rel=0.08)
    assert found.height_px(250, 1.7) == pytest.approx(truth.height_px(250, 1.7), rel=0.15)


def test_one_box_tells_the_cameras_height_and_none_tells_nothing() -> None:
    found = estimate(np.array([500.0]), np.array([200.0]), np.array([1.7]), 720)
    assert found is not None
    assert found.height_px(500, 1.7) == pytest.approx(200)
    assert estimate(np.zeros(0), np.zeros(0), np.zeros(0), 720) is None
    assert estimate(np.array([700.0]), np.array([4.0]), np.array([1.7]), 720) is None  # a camera 220 m up


def test_what_the_user_gives_goes_before_an_estimate() -> None:
    floor, rng, known = find_floor(scenery()), np.random.default_rng(0), Ground("estimated", 20.0, 2.0)
    assert settle(known, None, None, floor, rng) == known
    given = settle(known, 0.25, 4.0, floor, rng)
    assert given == Ground("given", 0.25 * HEIGHT, 4.0)
    assert given.height_px(given.foot_px(55.0, 1.7), 1.7) == pytest.approx(55.0)
    half = settle(None, 0.25, None, floor, rng)
    assert (half.kind, half.horizon_px) == ("assumed", 0.25 * HEIGHT)
    assert settle(known, 0.25, None, floor, rng) == Ground("estimated", 0.25 * HEIGHT, 2.0)
    assert settle(known, None, 4.0, floor, rng) == Ground("estimated", 20.0, 4.0)
    assert settle(None, None, None, floor, rng).horizon_px < HEIGHT / 2


def test_the_floor_ends_at_the_wall() -> None:
    floor = find_floor(scenery())
    assert floor.top_px == pytest.approx(HEIGHT * 0.55, abs=10)
    assert floor.holds(10, HEIGHT - 2)
    assert floor.holds(10, HEIGHT + 50)
    assert not floor.holds(10, HEIGHT * 0.4)
    assert not floor.holds(10, -5)


def test_without_a_plain_floor_the_lower_part_is_taken() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    coarse = np.asarray(cv2.resize(noise[:30, :40], (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST), np.uint8)
    floor = find_floor(coarse)
    assert floor.holds(WIDTH / 2, HEIGHT * 0.9)
    assert not floor.holds(WIDTH / 2, HEIGHT * 0.2)


# -- harmonising


def test_an_object_gets_darker_in_a_dark_place_and_grey_in_a_grey_one() -> None:
    scene = scenery()
    coat = np.full((20, 10, 3), (40, 60, 200), np.uint8)
    bright, dark = harmonize.tone(scene), harmonize.tone((scene * 0.3).astype(np.uint8))
    assert harmonize.match_tone(coat, bright, dark, 1.0).mean() < 0.8 * coat.mean()
    assert np.abs(harmonize.match_tone(coat, bright, bright, 1.0).astype(int) - coat).max() <= 1
    assert np.abs(harmonize.match_tone(coat, bright, dark, 0.0).astype(int) - coat).max() <= 1
    grey = np.repeat(scene[..., :1], 3, axis=2)
    assert np.ptp(harmonize.match_tone(coat, bright, harmonize.tone(grey), 0.5).astype(int), axis=2).max() <= 2
    black = np.zeros((4, 4, 3), np.uint8)
    assert harmonize.match_tone(black, dark, bright, 1.0)[..., 2].max() < 40  # more light leaves black black


def test_blur_and_noise_are_measured() -> None:
    rng = np.random.default_rng(0)
    sharp = np.asarray(cv2.resize(rng.integers(0, 255, (24, 32, 3)).astype(np.uint8), (640, 480), interpolation=cv2.INTER_NEAREST))
    for sigma in (1.0, 2.0):
        assert harmonize.blur_px(np.asarray(cv2.GaussianBlur(sharp, (0, 0), sigma), np.uint8)) == pytest.approx(sigma, rel=0.25)
    for level in (0.0, 3.0, 8.0):
        noisy = np.clip(128 + np.repeat(rng.normal(0, level, (200, 200, 1)), 3, axis=2), 0, 255).astype(np.uint8)
        assert harmonize.noise_level(noisy) == pytest.approx(level, abs=0.7)


def test_an_object_gets_the_missing_blur_and_noise() -> None:
    rng = np.random.default_rng(0)
    plain, alpha = np.full((100, 100, 3), 128, np.uint8), np.zeros((100, 100), np.float32)
    alpha[:, 50:] = 1
    assert harmonize.noise_level(harmonize.roughen(plain, 0.0, 6.0, rng)) == pytest.approx(6.0, rel=0.25)
    assert harmonize.roughen(plain, 6.0, 6.0, rng) is plain
    _, softer = harmonize.soften(plain, alpha, 0.5, 2.0)
    assert 0.05 < softer[50, 48] < 0.45
    assert harmonize.soften(plain, alpha, 2.0, 1.0)[1] is alpha


# -- composing


def test_objects_stand_on_the_given_ground_and_farther_ones_are_hidden(people: tuple[Cutout, ...]) -> None:
    settings = Settings(objects=(6, 6), horizon=0.1, camera_height_m=2.5, negatives=0)
    ground, hidden, standing = Ground("given", 0.1 * HEIGHT, 2.5), 0, 0
    for seed in range(8):
        made = compose(background(), people, [background()], settings, np.random.default_rng(seed))
        assert made.ground == ground
        assert made.pasted == len(made.labels) <= 6
        for label in made.labels:
            left, top, width, height = label.bbox
            assert 0 <= left < left + width <= WIDTH
            assert 0 <= top < top + height <= HEIGHT
            assert 0 < label.area <= width * height
            assert label.iscrowd == (label.visibility < settings.min_visible)
            hidden += label.visibility < 0.9
            if left > 0 and left + width < WIDTH and top + height < HEIGHT:
                standing += 1
                assert height == pytest.approx(ground.height_px(top + height, 1.7), rel=0.2, abs=3)
                assert top + height > 0.45 * HEIGHT  # on the floor, not on the wall
    assert hidden > 3
    assert standing > 20


def test_the_box_is_where_the_picture_changed(people: tuple[Cutout, ...]) -> None:
    settings = Settings(objects=(1, 1), negatives=0, horizon=0.1, camera_height_m=2.5)
    made = compose(background(), people, [background()], settings, np.random.default_rng(5))
    (label,) = made.labels
    reddish = (made.bgr[..., 2].astype(int) - made.bgr[..., 1]) > 60
    columns, rows = np.flatnonzero(reddish.any(axis=0)), np.flatnonzero(reddish.any(axis=1))
    left, top, width, height = label.bbox
    assert (columns[0], rows[0]) == pytest.approx((left, top), abs=2)
    assert (columns[-1] + 1, rows[-1] + 1) == pytest.approx((left + width, top + height), abs=2)
    assert label.visibility == 1.0


def test_labels_of_the_background_stay_and_lose_what_is_pasted_over(people: tuple[Cutout, ...]) -> None:
    whole = Label("car", (100.0, 60.0, 160.0, 90.0), 9000.0, False, 1.0)
    settings = Settings(objects=(8, 8), negatives=0, horizon=0.1, camera_height_m=2.5)
    own = []
    for seed in range(5):
        made = compose(background((whole,)), people, [background()], settings, np.random.default_rng(seed))
        assert made.labels[made.pasted :][0].bbox == whole.bbox
        own.append(made.labels[-1].visibility)
    assert min(own) < 0.95
    assert max(own) <= 1.0


def test_negatives_have_no_label(people: tuple[Cutout, ...]) -> None:
    settings = Settings(objects=(0, 0), negatives=1)
    made = compose(background(), people, [background()], settings, np.random.default_rng(0))
    assert made.distractors >= 1
    assert made.labels == ()
    assert (np.abs(made.bgr.astype(int) - background().bgr()) > 20).any()


def test_negatives_show_no_object_of_a_labelled_background(people: tuple[Cutout, ...]) -> None:
    everywhere = background((Label("car", (0.0, 0.0, float(WIDTH), float(HEIGHT)), 9000.0, False, 1.0),))
    red = np.full((HEIGHT, WIDTH, 3), (0, 0, 255), np.uint8)
    spoilt = replace(everywhere, jpeg=cv2.imencode(".jpg", red)[1].tobytes())
    plain = tuple(replace(person, png=_plain(person)) for person in people)
    for seed in range(10):
        made = compose(background(), plain, [spoilt], Settings(objects=(0, 0), negatives=1), np.random.default_rng(seed))
        assert made.distractors >= 1  # shreds of cut-outs, here green
        assert not (made.bgr[..., 2].astype(int) - made.bgr[..., 1] > 60).any()


def _plain(person: Cutout) -> bytes:
    bgra = person.bgra()
    bgra[..., :3] = (40, 200, 60)
    return cv2.imencode(".png", bgra)[1].tobytes()


def test_what_was_pasted_hides_nothing_of_a_label_that_lies_outside_the_picture(people: tuple[Cutout, ...]) -> None:
    outside = Label("car", (-90.0, -80.0, 60.0, 50.0), 3000.0, False, 1.0)
    made = compose(background((outside,)), people, [background()], Settings(negatives=0), np.random.default_rng(0))
    assert all(label.category == "person" for label in made.labels)


def test_a_ground_without_room_for_any_class_is_refused(people: tuple[Cutout, ...]) -> None:
    settings = Settings(horizon=0.9, camera_height_m=30.0, min_height_px=40)
    with pytest.raises(ConfigError, match=r"--horizon, --camera-height: leaves no room for an object of 40 px in any background"):
        check_room(people, [background()], settings)
    check_room(people, [background()], replace(settings, objects=(0, 0)))
    check_room(people, [background()], replace(settings, camera_height_m=None))


def test_a_class_without_room_is_not_pasted_while_another_is(people: tuple[Cutout, ...]) -> None:
    cutouts = [replace(person, category="cat") for person in people] + list(people)
    settings = Settings(objects=(4, 4), horizon=0.1, camera_height_m=6.0, negatives=0)  # a cat is at most 11 px tall
    check_room(cutouts, [background()], settings)
    made = compose(background(), cutouts, [background()], settings, np.random.default_rng(0))
    assert {label.category for label in made.labels} == {"person"}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"objects": (3, 2)}, "--objects"),
        ({"horizon": 1.0}, "--horizon"),
        ({"camera_height_m": 0.0}, "--camera-height"),
        ({"heights_m": {"person": math.nan}}, "--height"),
        ({"negatives": 1.5}, "--negatives"),
        ({"val_share": 1.0}, "--val-share"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=f"synthesize: {key}: "):
        Settings(**change)
