"""Gate: when it closes, what opens it, and what does not. Packet sizes and pictures are made up, there is no video."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.detections import Detections
from stream.frame import FrameInfo, Uint8Array
from stream.gate import CALM_S, LOOK_S, SETTLE_S, Gate, Presence

pytestmark = pytest.mark.compute

FPS = 25


def info(pts_s: float, session: str = "") -> FrameInfo:
    return FrameInfo("cam", session, round(pts_s * FPS), pts_s, pts_s, 1920, 1080, 0.0, 0.0)


def people(*confidences: float, left: float = 100) -> Detections:
    boxes = [[left + 200 * i, 100, left + 200 * i + 50, 300] for i in range(len(confidences))]
    return Detections.of(boxes, confidences, [0] * len(confidences))


@dataclass
class Scene:
    """What a camera shows, and what becomes of it. Frames are sampled five times a second, key frames come each second."""

    size: Callable[[float], float] = lambda pts_s: 2000
    box: Callable[[float], bool] = lambda pts_s: False
    detected: Callable[[float], bool] | None = None  # by default as ``box``
    light: Callable[[float], float] = lambda pts_s: 0.0
    noise: float = 1.0
    key_every_s: float = 1.0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(3))
    gate: Gate = field(default_factory=lambda: Gate(Presence(0.5, 2.0)))
    asleep: list[tuple[float, bool]] = field(default_factory=list)
    analysed: list[float] = field(default_factory=list)

    def picture(self, pts_s: float) -> Uint8Array:
        pixels = 90 + np.linspace(0, 80, 176)[None, :, None] + self.light(pts_s) + self.rng.normal(0, self.noise, (176, 176, 3))
        if self.box(pts_s):
            left = int(40 + 20 * pts_s) % 150
            pixels[60:100, left : left + 12] -= 60
        return np.clip(pixels, 0, 255).astype(np.uint8)

    def run(self, start_s: float, end_s: float) -> "Scene":
        gate = self.gate
        for i in range(round(start_s * FPS), round(end_s * FPS)):
            pts_s = i / FPS
            key = i % round(self.key_every_s * FPS) == 0
            gate.packet(60_000 if key else round(self.size(pts_s)), key, pts_s)
            if key and gate.look_due(pts_s):
                if gate.look(self.picture(pts_s), pts_s):
                    self._analyse(pts_s)
            elif not gate.asleep and i % 5 == 0 and gate.admits(self.picture(pts_s), pts_s, lambda: True):
                self._analyse(pts_s)
            self.asleep.append((pts_s, gate.asleep))
        return self

    def _analyse(self, pts_s: float) -> None:
        self.analysed.append(pts_s)
        seen = (self.detected or self.box)(pts_s)
        self.gate.presence.saw(info(pts_s), people(0.9) if seen else people())

    def openings(self) -> list[float]:
        """When it opened."""
        return [b[0] for a, b in zip(self.asleep, self.asleep[1:], strict=False) if a[1] and not b[1]]

    def share_asleep(self, start_s: float, end_s: float) -> float:
        return float(np.mean([asleep for pts_s, asleep in self.asleep if start_s <= pts_s < end_s]))


def noisy(mean: float, deviation: float, seed: int = 5) -> Callable[[float], float]:
    rng = np.random.default_rng(seed)
    return lambda pts_s: max(50.0, rng.normal(mean, deviation))


def test_a_still_scene_closes_it_and_is_looked_at() -> None:
    scene = Scene().run(0, 60)
    assert scene.share_asleep(15, 60) == 1
    looks = [pts_s for pts_s in scene.analysed if pts_s > 15]
    assert len(looks) == pytest.approx(45 / LOOK_S, abs=1)
    assert all(pts_s == int(pts_s) for pts_s in looks)  # key frames
    assert scene.gate.reason == "still"


@pytest.mark.parametrize(
    ("name", "scene"),
    [
        ("noise at night", Scene(size=noisy(6000, 1500), noise=6.0)),
        ("no bytes at all", Scene(size=lambda pts_s: 40)),
        ("sizes that pulse with the GOP", Scene(size=lambda pts_s: 500 + 5000 * (pts_s % 1))),
        ("day becomes night over minutes", Scene(light=lambda pts_s: -pts_s / 4)),
        ("exposure that hunts", Scene(light=lambda pts_s: 6 * np.sin(pts_s))),
        ("more bits from now on", Scene(size=lambda pts_s: 2000 if pts_s < 60 else 5000)),
        ("key frames every four seconds", Scene(key_every_s=4)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_movement_does_not_keep_it_open(name: str, scene: Scene) -> None:
    scene.run(0, 240)
    assert scene.share_asleep(120, 240) > 0.9, name
    assert len(scene.openings()) <= 3


@pytest.mark.parametrize("start_s", [40.3, 41.0, 43.9])
def test_a_burst_of_bytes_opens_it_within_half_a_second(start_s: float) -> None:
    scene = Scene(size=lambda pts_s: 9000 if start_s <= pts_s < 50 else 2000, box=lambda pts_s: start_s <= pts_s < 50)
    scene.run(0, 46)
    assert scene.openings() == [pytest.approx(start_s, abs=0.5)]
    assert scene.gate.reason == "larger packets"


def test_with_a_constant_bit_rate_the_next_look_opens_it() -> None:
    scene = Scene(box=lambda pts_s: pts_s >= 41.3).run(0, 50)
    [opened] = scene.openings()
    assert 41.3 <= opened <= 41.3 + LOOK_S + 1
    assert scene.gate.reason == "a changed picture"


def test_somebody_whom_only_the_detector_sees_opens_it() -> None:
    scene = Scene(detected=lambda pts_s: pts_s >= 40).run(0, 50)
    [opened] = scene.openings()
    assert 40 <= opened <= 40 + LOOK_S + 1
    assert scene.gate.reason == "somebody was seen"


def test_it_stays_open_while_somebody_stands_still() -> None:
    scene = Scene(detected=lambda pts_s: pts_s >= 20, box=lambda pts_s: 20 <= pts_s < 21).run(0, 120)
    assert scene.share_asleep(25, 120) == 0
    assert len([pts_s for pts_s in scene.analysed if 30 <= pts_s < 120]) == 90 * 5


def test_after_an_event_it_closes_again() -> None:
    scene = Scene(size=lambda pts_s: 9000 if 40 <= pts_s < 50 else 2000, box=lambda pts_s: 40 <= pts_s < 50).run(0, 70)
    closed = next(pts_s for pts_s, asleep in scene.asleep if pts_s > 50 and asleep)
    assert 50 + SETTLE_S <= closed <= 50 + 2 + SETTLE_S + 1.5  # lost_s is 2, the key frame up to a second away


def test_bursts_without_anybody_are_doubted() -> None:
    rng = np.random.default_rng(11)
    gusts = set(rng.integers(30, 600, 120).tolist())
    scene = Scene(size=lambda pts_s: 4200 if int(pts_s) in gusts else 2000).run(0, 600)
    openings = scene.openings()
    assert sum(pts_s < 300 for pts_s in openings) >= sum(pts_s >= 300 for pts_s in openings)
    assert len(openings) < 20


@pytest.mark.parametrize("key_every_s", [0.04, 8.0, 1000.0])
def test_without_key_frames_at_a_bearable_distance_it_stays_open(key_every_s: float) -> None:
    scene = Scene(key_every_s=key_every_s).run(0, 40)
    assert scene.share_asleep(0, 40) == 0
    assert len([pts_s for pts_s in scene.analysed if pts_s > 10]) < 40  # of 150: still pictures are not analysed again


def test_after_too_much_was_held_it_stays_open_until_key_frames_come_again() -> None:
    scene = Scene().run(0, 30)
    assert scene.gate.asleep
    scene.gate.wake("key frames are too far apart")
    scene.key_every_s = 100
    scene.run(30.04, 60)
    assert not scene.gate.asleep
    scene.key_every_s = 1
    scene.run(60, 80)
    assert scene.gate.asleep


def test_a_new_opening_begins_open_and_forgets() -> None:
    scene = Scene().run(0, 30)
    scene.gate.begin("second")
    assert not scene.gate.asleep
    assert scene.gate.admits(scene.picture(0), 0.0, lambda: True)
    scene.gate.presence.saw(info(29.0, session="first"), people(0.9))
    assert scene.gate.presence.last_s() is None


def test_while_the_detector_owes_answers_every_picture_is_analysed() -> None:
    gate = Gate(Presence(0.5, 2.0))
    picture = np.full((96, 96, 3), 80, np.uint8)
    assert gate.admits(picture, 0.0, lambda: True)
    at_s = CALM_S + 1
    assert gate.admits(picture, at_s, lambda: False)
    assert not gate.admits(picture, at_s + 0.2, lambda: True)


# -- presence


def test_whoever_was_seen_clearly_stays_while_seen_faintly() -> None:
    presence = Presence(0.5, 2.0)
    presence.saw(info(0.0), people(0.2))
    assert not presence.there(0.0)
    presence.saw(info(1.0), people(0.8))
    for i in range(2, 30):
        presence.saw(info(i), people(0.15))
    assert presence.there(30.9)
    presence.saw(info(30.0), people(0.15, left=900))  # somewhere else: noise of the detector
    presence.saw(info(31.0), people())
    assert presence.there(30.9)
    assert not presence.there(31.0)


def test_somebody_who_was_lost_is_not_found_by_faint_detections() -> None:
    presence = Presence(0.5, 2.0)
    presence.saw(info(0.0), people(0.8))
    presence.saw(info(5.0), people(0.15))
    assert not presence.there(5.0)


# -- whatever comes


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 200_000), st.booleans(), st.floats(-0.2, 3.0), st.booleans(), st.integers(0, 255)),
        max_size=120,
    )
)
def test_it_never_fails_and_never_closes_without_a_look(steps: list[tuple[int, bool, float, bool, int]]) -> None:
    gate, pts_s = Gate(Presence(0.5, 2.0)), 0.0
    for size_bytes, key, step_s, answered, grey in steps:
        pts_s += step_s
        before = gate.asleep
        gate.packet(size_bytes, key, pts_s)
        assert before or not gate.asleep
        picture = np.full((88, 88, 3), grey, np.uint8)
        if key and gate.look_due(pts_s):
            assert gate.look(picture, pts_s) == gate.asleep
        elif not gate.asleep:
            gate.admits(picture, pts_s, lambda answered=answered: answered)  # type: ignore[misc]
            assert not gate.asleep
        assert gate.reason


def test_a_watched_scene_is_looked_at_each_second_and_still_sleeps() -> None:
    scene = Scene().run(0, 30)
    assert scene.gate.asleep
    scene.gate.watched = True
    scene.run(30, 60)
    looks = [pts_s for pts_s in scene.analysed if pts_s > 31]
    assert np.diff(looks).max() <= 1.0 + 1e-6
    assert scene.gate.asleep
