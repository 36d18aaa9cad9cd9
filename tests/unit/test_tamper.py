"""Tamper: what is wrong with a view is told, what happens in front of it is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from stream.frame import Uint8Array
from stream.tamper import CLEAR_S, FAULT_S, LEARN, LOOK_S, RELEARN_S, Tamper

pytestmark = pytest.mark.compute

Change = Callable[[Uint8Array], Uint8Array]
SIZE = 176
REAL_SIZE = 352
CLIPS = ("retail02_h264_1080p25.mp4", "one-by-one-person-detection.mp4", "crowd12.mp4", "bottle-detection.mp4")


def flat(level: int) -> Change:
    def change(image: Uint8Array) -> Uint8Array:
        noise = np.random.default_rng(int(image[0, 0, 0])).normal(level, 2, image.shape)
        return np.clip(noise, 0, 255).astype(np.uint8)

    return change


def blurred(image: Uint8Array) -> Uint8Array:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 2), np.uint8)


def turned(share: float) -> Change:
    """The camera points to the side by this share of its view."""

    def change(image: Uint8Array) -> Uint8Array:
        size = len(image)
        by = np.array([[1, 0, share * size], [0, 1, share * size / 3]], np.float32)
        return np.asarray(cv2.warpAffine(image, by, (size, size), borderMode=cv2.BORDER_REFLECT), np.uint8)

    return change


def darker(image: Uint8Array) -> Uint8Array:
    return (image * 0.4).astype(np.uint8)


class Camera:
    """A room of 12 pieces of furniture in which people walk about, and the sensor's noise."""

    def __init__(self, seed: int = 1):
        self._rng = np.random.default_rng(seed)
        self._room = np.full((SIZE, SIZE, 3), 90, np.float32)
        for _ in range(12):
            x, y, w, h = self._rng.integers((0, 0, 10, 10), (SIZE - 20, SIZE - 20, 60, 60))
            cv2.rectangle(self._room, (int(x), int(y)), (int(x + w), int(y + h)), self._rng.uniform(30, 220, 3).tolist(), -1)
        self._room += self._rng.normal(0, 12, self._room.shape)  # what things are made of
        self._noise = [self._rng.normal(0, 2, self._room.shape).astype(np.float32) for _ in range(7)]
        self.tamper, self.t_s = Tamper(), 1000.0

    def picture(self) -> Uint8Array:
        shown = self._room.copy()
        for _ in range(4):
            x, y = (int(v) for v in self._rng.integers(0, SIZE - 40, 2))
            cv2.rectangle(shown, (x, y), (x + 15, y + 40), self._rng.uniform(0, 255, 3).tolist(), -1)
        return np.clip(shown + self._noise[self._rng.integers(7)], 0, 255).astype(np.uint8)

    def show(
        self, seconds: float, change: Change | None = None, *, still: bool = False, every_s: float = LOOK_S
    ) -> list[tuple[float, str | None]]:
        """What is told meanwhile, and after how many seconds."""
        began_s, told, image = self.t_s, [], self.picture()
        while self.t_s < began_s + seconds:
            image = image if still else self.picture()
            if self.tamper.look(change(image) if change else image, self.t_s):
                told.append((self.t_s - began_s, self.tamper.fault))
            self.t_s += every_s
        return told


def known() -> Camera:
    """A camera whose view is known."""
    camera = Camera()
    assert [fault for _, fault in camera.show(60)] == [""]
    return camera


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (flat(8), "black"),
        (flat(120), "covered"),
        (blurred, "blurred"),
        (turned(0.15), "moved"),
        (lambda image: np.ascontiguousarray(np.rot90(image)), "moved"),
    ],
    ids=["black", "covered", "blurred", "turned", "hung up anew"],
)
def test_a_fault_is_told_once_and_when_it_is_over(change: Change, fault: str) -> None:
    camera = known()
    (told,) = camera.show(120, change)
    assert told == (pytest.approx(FAULT_S, abs=LOOK_S), fault)
    assert camera.show(60) == [(pytest.approx(CLEAR_S, abs=LOOK_S), "")]


def test_a_frozen_picture() -> None:
    camera = known()
    ((after_s, fault),) = camera.show(60, still=True)
    assert (fault, after_s) == ("frozen", pytest.approx(FAULT_S, abs=2 * LOOK_S))
    assert [fault for _, fault in camera.show(20)] == [""]


def test_a_camera_that_begins_in_the_dark() -> None:
    camera = Camera()
    assert [fault for _, fault in camera.show(30, flat(5))] == ["black"]
    assert [fault for _, fault in camera.show(60)] == [""]


@pytest.mark.parametrize("change", [darker, turned(0.01), None], ids=["a cloud", "wind", "nothing"])
def test_what_is_no_fault(change: Change | None) -> None:
    camera = known()
    assert camera.show(120, change) == []
    assert camera.show(60) == []


def test_somebody_who_stands_before_the_lens_for_a_moment() -> None:
    camera = known()
    for _ in range(5):
        assert camera.show(FAULT_S - 2 * LOOK_S, flat(30)) == []
        assert camera.show(3) == []


def test_evening_comes_slowly() -> None:
    camera = known()
    for light in np.linspace(1, 0.35, 20):
        assert camera.show(20, lambda image, light=light: (image * light).astype(np.uint8)) == []  # type: ignore[misc]


def test_a_view_that_stays_is_learned() -> None:
    camera = known()
    ((after_s, fault),) = camera.show(20, turned(0.3))
    assert fault == "moved"
    assert camera.show(RELEARN_S + after_s - 20, turned(0.3), every_s=30) == []
    ((after_s, fault),) = camera.show(120, turned(0.3))
    assert fault == ""
    assert after_s < FAULT_S + (LEARN + 1) * LOOK_S + CLEAR_S + LOOK_S
    assert [fault for _, fault in camera.show(60)] == ["moved"]


def test_looks_are_a_second_apart() -> None:
    camera = known()
    looks = [camera.tamper.look(flat(5)(camera.picture()), camera.t_s + 0.1 * i) for i in range(95)]
    assert not any(looks)
    assert camera.tamper.look(flat(5)(camera.picture()), camera.t_s + 10)


def test_what_was_suspected_before_an_outage_is_not_held_against_it() -> None:
    camera = known()
    assert camera.show(5, flat(5)) == []
    camera.t_s += 300
    camera.tamper.begin()
    assert camera.show(FAULT_S - LOOK_S, flat(5)) == []
    assert camera.tamper.fault == ""


@pytest.mark.parametrize("name", CLIPS)
def test_real_cameras(name: str, shared: Path) -> None:
    """Nothing is wrong with these; then they are blurred, and turned away. The clips go on and on, with a sensor's noise."""
    pictures = []
    with av.open(str(shared / "data" / "videos" / name)) as container:
        for frame in container.decode(video=0):
            if frame.time >= len(pictures):
                pictures.append(cv2.resize(frame.to_ndarray(format="bgr24"), (REAL_SIZE, REAL_SIZE), interpolation=cv2.INTER_AREA))
            if len(pictures) == 20:
                break
    tamper, t_s = Tamper(), 0.0
    noise = [np.random.default_rng(i).normal(0, 1, pictures[0].shape).astype(np.float32) for i in range(7)]

    def told(seconds: int, change: Change | None = None) -> list[str | None]:
        nonlocal t_s
        found = []
        for i in range(seconds):
            image = pictures[i % len(pictures)]
            image = change(image) if change else image
            noisy = np.clip(image + noise[i % 7], 0, 255).astype(np.uint8)
            if tamper.look(noisy, t_s):
                found.append(tamper.fault)
            t_s += LOOK_S
        return found

    assert told(60) == [""]
    assert told(20, lambda image: np.asarray(cv2.GaussianBlur(image, (0, 0), 6), np.uint8)) == ["blurred"]
    assert told(20) == [""]
    assert told(20, turned(0.3)) == ["moved"]
