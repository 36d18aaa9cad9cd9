"""Effort: how much is decoded, by setting, stream and load."""

import pytest

from stream.config import SourceConfig
from stream.effort import MAX_PATIENCE_S, PATIENCE_S, Effort

CAMERA = "rtsp://camera.example/hall"


def effort(uri: str = CAMERA, *, gated: bool = False, **settings: object) -> Effort:
    return Effort(SourceConfig(id="cam", uri=uri, **settings), gated=gated)  # type: ignore[arg-type]


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


def test_a_setting_is_obeyed_whatever_the_load_and_the_stream() -> None:
    chosen = effort(fps=1, decode="fast")
    for i in range(400):
        chosen.lag(2.0, i / 25)
        chosen.key(i)
    assert chosen.choice.level == "fast"


def drive(chosen: Effort, start_s: float, seconds: float, lag_s: float) -> float:
    """25 packets a second, all ``lag_s`` late; returns the time behind them."""
    for i in range(round(seconds * 25)):
        chosen.lag(lag_s, start_s + i / 25)
    return start_s + seconds


def test_one_late_packet_changes_nothing() -> None:
    chosen = effort(fps=5)
    drive(chosen, 100, 1, 0.0)
    chosen.lag(3.0, 101)
    drive(chosen, 101.04, 1, 0.01)
    assert chosen.choice.level == "fast"


def test_a_source_that_falls_behind_decodes_key_frames_until_it_has_not_for_long() -> None:
    chosen = effort(fps=5)
    now_s = drive(chosen, 100, 1.2, 0.5)
    assert chosen.choice.level == "key"
    assert "behind" in chosen.choice.reason
    now_s = drive(chosen, now_s, PATIENCE_S - 2, 0.0)
    assert chosen.choice.level == "key"
    drive(chosen, now_s, 4, 0.0)
    assert chosen.choice.level == "fast"


def test_it_does_not_flap_under_steady_pressure() -> None:
    chosen, now_s, changes, level = effort(fps=5), 100.0, 0, "fast"
    for _ in range(1200):  # 20 minutes: late whenever more than key frames are decoded
        now_s = drive(chosen, now_s, 1, 0.0 if level == "key" else 0.8)
        changes += chosen.choice.level != level
        level = chosen.choice.level
    assert changes <= 13
    assert level == "key"
    assert MAX_PATIENCE_S > 15 * PATIENCE_S


def test_falling_back_lasts_until_the_source_is_opened_anew() -> None:
    chosen = effort(fps=5)
    chosen.fall_back("its packets carry no times")
    for i in range(10):
        chosen.key(i)
        chosen.lag(1.0, 100 + i / 5)
    assert chosen.choice.level == "full"
    assert chosen.choice.reason == "its packets carry no times"
    chosen.begin()
    assert chosen.choice.level != "full"
