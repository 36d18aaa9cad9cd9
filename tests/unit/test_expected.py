"""Expected: what something takes, and what nearly always suffices."""

import random

import pytest

from stream.expected import Expected


def test_the_first_observation_is_taken_as_it_is() -> None:
    expected = Expected()
    assert (expected.mean_s, expected.most_s) == (0.0, 0.0)
    expected.observe(0.2)
    assert (expected.mean_s, expected.most_s) == (0.2, 0.2)


def test_a_step_is_followed() -> None:
    expected = Expected()
    expected.observe(0.1)
    for _ in range(45):
        expected.observe(0.3)
    assert expected.mean_s == pytest.approx(0.28, abs=0.005)
    for _ in range(200):
        expected.observe(0.3)
    assert expected.most_s == pytest.approx(0.3, abs=0.001)


def test_many_at_once_count_as_so_many() -> None:
    one_by_one, at_once = Expected(), Expected()
    for expected in (one_by_one, at_once):
        expected.observe(0.1)
    for _ in range(8):
        one_by_one.observe(0.2)
    at_once.observe(0.2, times=8)
    assert at_once.mean_s == pytest.approx(one_by_one.mean_s)


@pytest.mark.parametrize(
    "draw", [lambda rng: rng.uniform(0.0, 0.2), lambda rng: rng.expovariate(10), lambda rng: rng.gauss(0.1, 0.02)]
)
def test_nine_in_ten_take_no_longer_than_most(draw) -> None:  # type: ignore[no-untyped-def]
    rng, expected, within = random.Random(3), Expected(), 0
    for i in range(2000):
        seconds = abs(draw(rng))
        within += i >= 100 and seconds <= expected.most_s
        expected.observe(seconds)
    assert 0.9 < within / 1900 <= 1
