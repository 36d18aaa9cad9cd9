"""Allowance: what is borne is found, spread evenly, and given back; on simulated machines of known speed."""

import pytest

from perf.overload import jain
from stream.allowance import FORGIVEN_S, KEY_WORK, LATE, LEAST_KEYS, LESS, MANY, MAX_PATIENCE_S, Allowance
from tests.support.machine import LATENCY_S, Camera, Costs, Machine


def seconds(allowance: Allowance, start_s: float, late: float, count: float = 1) -> float:
    """Twenty frames a second, of which ``late`` (a share) are late; returns the time behind them."""
    for i in range(round(20 * count)):
        allowance.frame(LATE if (i * late) % 1 + late > 0.999 else 0.3, start_s + i / 20)
    return start_s + count


def test_everything_is_allowed_until_many_frames_are_late() -> None:
    allowance = Allowance()
    now_s = seconds(allowance, 0, MANY / 2, 20)
    assert (allowance.gops, allowance.keys, allowance.reason) == (1.0, 1.0, "")
    seconds(allowance, now_s, 2 * MANY, 1.5)
    assert allowance.gops == LESS
    assert allowance.reason.endswith("behind the camera")


def test_frames_given_up_are_late_too() -> None:
    allowance = Allowance()
    for i in range(40):
        allowance.frame(None if i % 4 == 0 else 0.1, i / 20)
    assert allowance.gops == LESS


def test_a_few_frames_say_nothing() -> None:
    allowance = Allowance()
    for second_s in range(20):
        allowance.frame(None, 1.01 * second_s)
    assert allowance.gops == 1


def test_where_most_frames_are_late_key_frames_alone_are_left_at_once_and_then_fewer_of_them() -> None:
    allowance = Allowance()
    now_s = seconds(allowance, 0, 1.0, 1.5)
    assert (allowance.gops, allowance.keys) == (0.0, 1.0)
    now_s = seconds(allowance, now_s, 1.0, 60)
    assert (allowance.gops, allowance.keys) == (0.0, LEAST_KEYS)
    before_s = now_s
    while allowance.keys < 1:
        now_s = seconds(allowance, now_s, 0.0, 0.5)
        assert allowance.gops == 0  # key frames first
    assert now_s < before_s + 20


def test_it_is_all_back_within_seconds() -> None:
    allowance = Allowance()
    now_s = seconds(allowance, 0, 1.0, 1.5)
    seconds(allowance, now_s, 0.0, 16)
    assert allowance.gops == 1
    assert allowance.reason == ""


def test_those_that_stay_have_it_back_sooner_when_others_leave() -> None:
    alone, relieved = Allowance(), Allowance()
    for allowance in (alone, relieved):
        now_s = seconds(allowance, 0, 1.0, 1.5)
    relieved.relieved(0.5, now_s)
    for allowance in (alone, relieved):
        seconds(allowance, now_s, 0.0, 6)
    assert alone.gops < 0.5
    assert relieved.gops == 1


def work(allowance: Allowance) -> float:
    """Of a source, 1 where everything is decoded."""
    return (KEY_WORK + (1 - KEY_WORK) * allowance.gops) * allowance.keys


@pytest.mark.parametrize(("late", "lasting_s"), [(0.3, 2), (1.0, 1.5), (1.0, 60)])
def test_what_those_that_leave_had_is_shared_by_those_that_stay(late: float, lasting_s: float) -> None:
    allowance = Allowance()
    now_s = seconds(allowance, 0, late, lasting_s)
    before = work(allowance)
    allowance.relieved(0.1, now_s)
    assert work(allowance) == pytest.approx(before / 0.9)
    assert allowance.gops < 1
    assert allowance.reason


def test_nothing_is_held_back_from_a_few_that_stay_of_many() -> None:
    allowance = Allowance()
    now_s = seconds(allowance, 0, 0.3, 2)
    allowance.relieved(0.5, now_s)
    assert (allowance.gops, allowance.keys, allowance.reason) == (1, 1, "")


def test_it_does_not_flap_under_steady_pressure() -> None:
    allowance, now_s, failures, gops = Allowance(), 0.0, 0, []
    for _ in range(1200):
        before = allowance.gops
        now_s = seconds(allowance, now_s, 0.3 if allowance.gops > 0.4 else 0.0, 0.5)
        failures += allowance.gops < before
        gops.append(allowance.gops)
    assert failures <= 600 / MAX_PATIENCE_S
    assert sum(gops) / len(gops) > 0.3  # of the 0.4 that are borne
    now_s = seconds(allowance, now_s, 0.0, MAX_PATIENCE_S + 20)
    assert allowance.gops == 1
    now_s = seconds(allowance, now_s, 0.0, FORGIVEN_S + 1)
    now_s = seconds(allowance, now_s, 1.0, 1.5)
    seconds(allowance, now_s, 0.0, 16)
    assert allowance.gops == 1  # failures of long ago make nobody wait


# -- on a machine


def latency_s(cameras: list[Camera], since_s: float, until_s: float, percentile: float = 0.99) -> float:
    found = sorted(latency for camera in cameras for at_s, latency in camera.analysed if since_s <= at_s < until_s)
    return found[int(percentile * len(found))]


def fps(cameras: list[Camera], since_s: float, until_s: float) -> list[float]:
    return [sum(since_s <= at_s < until_s for at_s, _ in camera.analysed) / (until_s - since_s) for camera in cameras]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("times", [1.3, 2, 4])
def test_more_cameras_than_the_machine_carries_are_analysed_evenly_and_in_time(times: float, seed: int) -> None:
    costs, carried = Costs(), 6
    cores = carried * costs.camera(25) * 1.25  # at four fifths of its power it is in time
    machine = Machine(round(times * carried), cores, costs, seed=seed)
    machine.run(30)
    assert latency_s(machine.cameras, 5, 30) <= LATENCY_S
    analysed = fps(machine.cameras, 5, 30)
    assert jain(analysed) >= 0.95
    assert min(analysed) > 0.3
    if times < 3:
        assert min(analysed) >= 0.9  # the key frames, once a second
    leaving = machine.cameras[carried:]
    machine.leave(leaving)
    machine.run(40)
    good = [all(n >= 4 for n in fps(machine.cameras, at_s, at_s + 1)) for at_s in range(30, 40)]
    assert all(good[8:])
    assert machine.allowance.gops == 1


def test_a_machine_that_carries_them_all_is_left_alone() -> None:
    costs = Costs()
    machine = Machine(6, 1.25 * 6 * costs.camera(25), costs)
    machine.run(20)
    assert machine.allowance.gops == 1
    assert min(fps(machine.cameras, 2, 20)) > 4.8
