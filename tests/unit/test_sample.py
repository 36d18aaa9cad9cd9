"""FrameSampler: which frames are analysed."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.sample import FrameSampler


def kept(fps: float | None, times: list[float]) -> list[int]:
    sampler = FrameSampler(fps)
    return [i for i, pts_s in enumerate(times) if sampler.keep(pts_s)]


def grid(rate: float, seconds: float, start_s: float = 0.0) -> list[float]:
    return [start_s + i / rate for i in range(round(rate * seconds))]


def test_every_frame_without_a_rate() -> None:
    assert kept(None, grid(25, 2)) == list(range(50))


def test_every_fifth_of_25() -> None:
    assert kept(5, grid(25, 2)) == list(range(0, 50, 5))


def test_every_other_of_10() -> None:
    assert kept(5, grid(10, 3)) == list(range(0, 30, 2))


def test_a_slow_source_is_kept_whole() -> None:
    assert kept(25, grid(10, 3)) == list(range(30))


def test_a_camera_with_jitter_loses_none_at_its_own_rate() -> None:
    times = [i / 25 + 0.008 * math.sin(i * 2.1) for i in range(500)]
    assert kept(25, times) == list(range(500))


def test_no_burst_after_a_gap() -> None:
    times = grid(25, 1) + grid(25, 1, start_s=31.0)
    chosen = [times[i] for i in kept(5, times)]
    assert len([t for t in chosen if t >= 31]) == 5


def test_times_may_be_posix_seconds() -> None:
    assert kept(5, grid(25, 60, start_s=1_763_900_000.04)) == list(range(0, 1500, 5))


def test_falling_time_begins_a_new_grid() -> None:
    times = [10.0, 10.1, 10.2, 0.0, 0.1, 0.2]
    assert kept(5, times) == [0, 2, 3, 5]


def test_reset_keeps_the_next_frame() -> None:
    sampler = FrameSampler(1)
    assert sampler.keep(0.0)
    assert not sampler.keep(0.1)
    sampler.reset()
    assert sampler.keep(0.2)


@pytest.mark.parametrize("fps", [0, -1, math.nan])
def test_nonsense_is_refused(fps: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        FrameSampler(fps)


@given(
    fps=st.floats(0.5, 30),
    rate=st.floats(1, 120),
    start_s=st.sampled_from([0.0, 1.4, 86_000.0]),
)
def test_the_rate_is_exact_over_long_runs(fps: float, rate: float, start_s: float) -> None:
    seconds = 120.0
    times = grid(rate, seconds, start_s)
    wanted = min(fps, rate) * seconds
    assert abs(len(kept(fps, times)) - wanted) <= 1 + wanted * 1e-3


@given(
    fps=st.floats(0.5, 30),
    steps=st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.033, 0.04, 0.1, 0.5, 3.0]), min_size=1, max_size=300),
)
def test_any_timing(fps: float, steps: list[float]) -> None:
    """One frame per due time at most, none missed where frames are there, and the choice is repeatable."""
    times, now_s = [], 0.0
    for step in steps:
        times.append(now_s)
        now_s += step
    chosen = kept(fps, times)
    assert chosen[0] == 0
    assert len(chosen) <= times[-1] * fps + 1.5
    assert chosen == kept(fps, times)
    for before, after in pairwise(chosen):  # a frame left out is never much later than its due time
        assert all(times[i] - times[before] <= 1 / fps + 0.5 / fps + 1e-6 for i in range(before + 1, after))
