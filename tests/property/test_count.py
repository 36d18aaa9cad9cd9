"""ZoneCounter under arbitrary traffic."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.config import CountingConfig, LineConfig, ZoneConfig
from stream.count import Observation, ZoneCounter
from stream.detections import Detections

pytestmark = pytest.mark.compute

W, H = 800, 400
ZONES = [
    ZoneConfig(name="right", polygon=[(0.5, 0), (1, 0), (1, 1), (0.5, 1)]),
    ZoneConfig(name="middle", polygon=[(0.25, 0), (0.75, 0), (0.75, 1), (0.25, 1)], anchor="center"),
]
LINES = [LineConfig(name="door", points=((0.5, 0), (0.5, 1)))]

# A step: seconds since the last, and where tracks are (None: no frame, time passes only).
traffic = st.dictionaries(st.integers(1, 9), st.integers(0, 16).map(lambda n: 50.0 * n), max_size=5)
steps = st.lists(st.tuples(st.sampled_from([0.0, 0.04, 0.1, 0.2, 0.5, 1.0, 2.5, 40.0]), st.one_of(st.none(), traffic)), max_size=30)
settings = st.builds(
    CountingConfig,
    window_s=st.sampled_from([0.5, 1.0, 3.0]),
    enter_s=st.sampled_from([0.0, 0.3]),
    leave_s=st.sampled_from([0.0, 0.3, 1.0]),
    unseen_s=st.sampled_from([0.0, 0.3, 1.0]),
)


def new(config: CountingConfig) -> ZoneCounter:
    return ZoneCounter("cam", ZONES, LINES, config, ("person",))


def take(counter: ZoneCounter, t_s: float, where: dict[int, float] | None) -> Observation:
    if where is None:
        return counter.advance(t_s)
    boxes = [[x - 25, 200, x + 25, 300] for x in where.values()]
    return counter.update(t_s, W, H, Detections.of(boxes, [0.9] * len(where), [0] * len(where), list(where)))


def timed(given_steps: list) -> list[tuple[float, dict[int, float] | None]]:
    t_s, out = 1_764_000_000.3, []
    for dt, where in given_steps:
        t_s += dt
        out.append((t_s, where))
    return out


@given(steps, settings)
def test_the_books_balance(given_steps: list, config: CountingConfig) -> None:
    counter, events = new(config), []
    occupancy = {zone.name: 0 for zone in ZONES}
    entered, left, crossed, frames = dict(occupancy), dict(occupancy), {"in": 0, "out": 0}, 0
    for t_s, where in timed(given_steps):
        seen = take(counter, t_s, where)
        frames += where is not None
        assert len(seen.zones_of) == len(where or {})
        for name in occupancy:
            assert seen.occupancy[name] == occupancy[name] + len(seen.entered[name]) - len(seen.left[name])
            assert seen.occupancy[name] == len(seen.dwell_s[name]) >= 0
            assert all(dwell >= 0 for dwell in seen.dwell_s[name].values())
            occupancy[name] = seen.occupancy[name]
            entered[name] += len(seen.entered[name])
            left[name] += len(seen.left[name])
        for crossing in seen.crossings["door"]:
            crossed[crossing.direction] += 1
        events += counter.windows()
    events += counter.finish()
    assert len({event.event_id for event in events}) == len(events)
    assert [event.window_start for event in events] == sorted(event.window_start for event in events)
    for name in occupancy:
        of_zone = [event for event in events if event.zone == name]
        assert sum(event.entered or 0 for event in of_zone) == entered[name]
        assert sum(event.left or 0 for event in of_zone) == left[name]
        assert sum(event.frames for event in of_zone) == frames
        for event in of_zone:
            assert event.occupancy is not None
            o = event.occupancy
            assert 0 <= o.min <= o.mean <= o.max
            assert o.min <= o.last <= o.max
            assert (event.tracks or 0) >= o.max
        if of_zone and of_zone[-1].occupancy and given_steps[-1][1] is not None:
            assert of_zone[-1].occupancy.last == occupancy[name]
    totals = [event.crossings for event in events if event.line == "door" and event.crossings]
    assert {way: sum(one[way] for one in totals) for way in crossed} == crossed


@given(st.lists(st.sampled_from(["seen", "unseen", "outside", "new id"]), max_size=60), st.sampled_from([0.0, 0.3]))
def test_a_flicker_shorter_than_the_grace_changes_nothing(frames: list[str], enter_s: float) -> None:
    """At 10 frames a second and with 0.51 s of either grace, no run of misses is longer than four frames here."""
    counter = new(CountingConfig(enter_s=enter_s, leave_s=0.51, unseen_s=0.51))
    track_id, missed, t_s = 1, 0, 1_764_000_000.0
    entered = left = 0
    for what in ["seen"] * 5 + frames + ["seen"]:
        missed = 0 if what in ("seen", "new id") or missed == 4 else missed + 1
        if what == "new id":
            track_id += 1
        # The middle zone ends at 600; a step outside goes to 605 and back.
        where = {track_id: 580.0} if missed == 0 else {track_id: 605.0} if what == "outside" else {}
        seen = take(counter, t_s, where)
        entered, left = entered + len(seen.entered["middle"]), left + len(seen.left["middle"])
        t_s += 0.1
    assert (entered, left) == (1, 0)


@given(steps, settings, st.integers(0, 30))
def test_restore_goes_on_exactly(given_steps: list, config: CountingConfig, cut: int) -> None:
    whole, first, second = new(config), new(config), new(config)
    todo = timed(given_steps)
    expected = [(take(whole, *one), whole.windows() if i % 3 else []) for i, one in enumerate(todo)]
    got = [(take(first, *one), first.windows() if i % 3 else []) for i, one in enumerate(todo[:cut])]
    saved = json.loads(json.dumps(first.state()))
    second.restore(saved)
    assert json.loads(json.dumps(second.state())) == saved
    got += [(take(second, *one), second.windows() if i % 3 else []) for i, one in enumerate(todo[cut:], cut)]
    assert got == expected
    assert second.finish() == whole.finish()
