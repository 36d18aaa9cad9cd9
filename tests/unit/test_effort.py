"""Effort: how much is decoded, by setting, stream and load."""

import pytest

from stream.allowance import Allowance
from stream.config import SourceConfig
from stream.effort import Effort

CAMERA = "rtsp://camera.example/hall"


def effort(uri: str = CAMERA, *, gated: bool = False, allowance: Allowance | None = None, **settings: object) -> Effort:
    return Effort(SourceConfig(**{"id": "cam", "uri": uri} | settings), gated=gated, allowance=allowance)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("uri", "settings", "gated", "level"),
    [
        (CAMERA, {"fps": 5}, False, "fast"),
        (CAMERA, {"fps": 5}, True, "fast"),
        (CAMERA, {}, False, "fast"),
        (CAMERA, {"decode": "full"}, True, "full"),
        (CAMERA, {"decode": "key"}, False, "key"),
        ("clip.mp4", {"fps": 5}, False, "full"),
        ("clip.mp4", {"fps": 5, "realtime": True}, False, "fast"),
        ("clip.mp4", {"fps": 5, "decode": "fast"}, False, "fast"),
        ("clip.mp4", {"gate": "on"}, True, "fast"),
        ("kafka://frames", {}, False, "full"),
        ("simulate://plaza", {"fps": 5}, False, "full"),
    ],
)
def test_what_it_begins_with(uri: str, settings: dict[str, object], gated: bool, level: str) -> None:
    choice = effort(uri, gated=gated, **settings).choice
    assert choice.level == level
    assert choice.reason


@pytest.mark.parametrize(
    ("fps", "key_interval_s", "level"), [(1, 1.0, "key"), (2, 1.0, "fast"), (0.5, 1.0, "key"), (None, 0.04, "fast")]
)
def test_key_frames_do_where_they_come_often_enough(fps: float | None, key_interval_s: float, level: str) -> None:
    chosen = effort(fps=fps)
    for i in range(10):
        chosen.key(i * key_interval_s)
    assert chosen.choice.level == level


def test_one_late_key_frame_is_not_often_enough() -> None:
    chosen = effort(fps=1)
    for at_s in (0, 1, 2, 3):
        chosen.key(at_s)
    assert chosen.choice.level == "key"
    chosen.key(8)
    assert chosen.choice.level == "fast"


class Fixed(Allowance):
    """Allows what it is told to."""

    def __init__(self, gops: float, keys: float = 1.0):
        super().__init__()
        self._gops, self._keys, self._reason = gops, keys, "frames take too long: behind the camera"


@pytest.mark.parametrize(
    ("uri", "settings", "level"),
    [
        (CAMERA, {"decode": "fast"}, "fast"),
        (CAMERA, {"decode": "full"}, "full"),
        (CAMERA, {"decode": "key"}, "key"),
        ("clip.mp4", {}, "full"),
        (CAMERA, {}, "key"),
    ],
)
def test_the_load_changes_only_what_is_left_to_us(uri: str, settings: dict[str, object], level: str) -> None:
    chosen = effort(uri, fps=5, allowance=Fixed(0.0), **settings)
    chosen.key(0.0)
    assert chosen.choice.level == level
    assert chosen.level == level


@pytest.mark.parametrize("gops", [0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_each_source_is_granted_its_share_of_gops_and_they_take_turns(gops: float) -> None:
    allowance = Fixed(gops)
    sources = [effort(id=f"cam{i:02d}", fps=5, allowance=allowance) for i in range(24)]
    granted = []
    for second in range(40):
        for source in sources:
            source.key(float(second))
        granted.append([source.level == "fast" for source in sources])
        assert {source.choice.level for source in sources} == {"fast" if gops == 1 else "key"}
    shares = [sum(of_source) / 40 for of_source in zip(*granted, strict=True)]
    assert all(share == pytest.approx(gops, abs=0.03) for share in shares)
    at_once = [sum(of_second) / 24 for of_second in granted]
    assert all(part == pytest.approx(gops, abs=0.25) for part in at_once)


def test_where_even_key_frames_are_too_many_each_source_has_its_share_of_them() -> None:
    chosen = effort(fps=5, allowance=Fixed(0.0, keys=0.25))
    granted = []
    for second in range(40):
        chosen.key(float(second))
        granted.append(chosen.key_granted)
    assert sum(granted) == 10


def test_a_grant_asks_for_no_more_than_key_frames_where_these_do() -> None:
    chosen = effort(fps=1, allowance=Fixed(0.9))
    for second in range(20):
        chosen.key(float(second))
        if second > 3:
            assert chosen.level == "key"


def test_frames_of_recorded_video_say_nothing_about_the_load() -> None:
    allowance = Allowance()
    recorded, live = effort("clip.mp4", allowance=allowance), effort(allowance=allowance)
    for source, gops in ((recorded, 1.0), (live, 0.0)):
        for i in range(60):
            source.frame(None, i / 5)
        assert allowance.gops == gops


def test_falling_back_lasts_until_the_source_is_opened_anew() -> None:
    chosen = effort(fps=5)
    chosen.fall_back("its packets carry no times")
    for i in range(10):
        chosen.key(i)
    assert chosen.choice.level == "full"
    assert chosen.choice.reason == "its packets carry no times"
    chosen.begin()
    assert chosen.choice.level != "full"
