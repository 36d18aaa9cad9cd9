"""ZoneCounter: entry and exit, flicker, take-over, windows, lines, bounds, restore."""

import itertools
import json
from datetime import UTC, datetime

import pytest

from stream import count, windows
from stream.config import CountingConfig, LineConfig, ZoneConfig
from stream.count import Crossing, Observation, ZoneCounter
from stream.detections import NO_TRACK, Detections
from stream.events import CountsEvent, event_id

W, H = 800, 400
T0 = 1_764_000_000.0
CLASSES = ("person", "car")
RIGHT_HALF = ZoneConfig(name="right", polygon=[(0.5, 0), (1, 0), (1, 1), (0.5, 1)])
DOOR = LineConfig(name="door", points=((0.5, 0), (0.5, 1)))
IN, OUT = 600.0, 200.0  # x inside and outside the right half


def counter(zones: tuple[ZoneConfig, ...] = (RIGHT_HALF,), lines: tuple[LineConfig, ...] = (), **settings: float) -> ZoneCounter:
    defaults = {"enter_s": 0.0, "leave_s": 1.0, "window_s": 1.0}
    return ZoneCounter("cam", zones, lines, CountingConfig.model_validate(defaults | settings), CLASSES)


def at(**x_of: float) -> Detections:
    """Persons 50 x 100 px by track (``t3=600``: track 3 with its anchor at x 600)."""
    ids = [int(name[1:]) for name in x_of]
    boxes = [[x - 25, 200, x + 25, 300] for x in x_of.values()]
    return Detections.of(boxes, [0.9] * len(ids), [0] * len(ids), ids)


def step(c: ZoneCounter, t: float, **x_of: float) -> Observation:
    return c.update(T0 + t, W, H, at(**x_of))


def test_inside_and_out_again() -> None:
    c = counter()
    seen = step(c, 0, t1=IN, t2=OUT)
    assert seen.occupancy == {"right": 1}
    assert seen.entered == {"right": (1,)}
    assert seen.left == {"right": ()}
    assert seen.zones_of == (("right",), ())
    assert seen.dwell_s == {"right": {1: 0}}
    seen = step(c, 0.5, t1=IN, t2=OUT)
    assert seen.dwell_s == {"right": {1: 0.5}}
    seen = step(c, 1, t1=OUT, t2=OUT)
    assert seen.occupancy == {"right": 1}, "the grace has just begun"
    assert seen.zones_of == ((), ())
    assert seen.dwell_s == {"right": {1: 0.5}}, "nobody dwells where he is not"
    seen = step(c, 2.0, t1=OUT, t2=OUT)
    assert seen.left == {"right": (1,)}
    assert seen.occupancy == {"right": 0}


def test_who_is_hidden_stays_where_it_should_be_and_enters_nowhere() -> None:
    c = counter(leave_s=0.0, unseen_s=0.5, lines=(DOOR,))
    step(c, 0, t1=IN, t2=OUT)
    for i in range(1, 20):
        seen = c.update(T0 + i / 5, W, H, at(), at(t1=IN, t2=IN, t9=IN))
        assert seen.occupancy == {"right": 1}
        assert not any(seen.crossings.values())
    seen = c.update(T0 + 4, W, H, at(), at(t1=OUT))
    assert seen.left == {"right": (1,)}


def test_a_foot_inset_lifts_the_anchor_of_feet_only() -> None:
    """Boxes are 100 px tall with their lower edge at y 300."""
    zones = [
        ZoneConfig.model_validate({"name": anchor, "polygon": [(0, y), (1, y), (1, 1), (0, 1)], "anchor": anchor})
        for anchor, y in (("bottom_center", 295 / H), ("center", 250 / H), ("top_center", 200 / H))
    ]
    for inset, inside in ((0.0, 1), (0.04, 1), (0.06, 0)):
        seen = step(counter(tuple(zones), foot_inset=inset), 0, t1=IN)
        assert seen.occupancy == {"bottom_center": inside, "center": 1, "top_center": 1}


def test_who_is_hidden_inside_again_has_not_left() -> None:
    c = counter(leave_s=0.5, unseen_s=0.5)
    step(c, 0, t1=IN)
    step(c, 0.2, t1=OUT)
    for i in range(2, 10):
        seen = c.update(T0 + i / 5, W, H, at(), at(t1=IN))
        assert seen.occupancy == {"right": 1}


def test_of_upright_people_the_feet_are_sought_where_they_lean_to_even_after_a_restart() -> None:
    """Who stands further out has a wider box, as a camera sees it that looks down steeply."""
    width, height = 1280, 720
    outwards = {x: [x - 30 - 0.15 * abs(x - 640), 200, x + 30 + 0.15 * abs(x - 640), 360] for x in (140, 340, 940, 1140)}
    boxes = Detections.of(list(outwards.values()), [0.9] * 4, [0] * 4, [1, 2, 3, 4])
    edges = [ZoneConfig.model_validate({"name": f"{x}", "polygon": [(0, 0), (x / W, 0), (x / W, 1), (0, 1)]}) for x in (95, 130)]
    plain, upright = counter(tuple(edges)), counter(tuple(edges), upright=True)
    for i in range(60):
        seen = [c.update(T0 + i / 5, width, height, boxes) for c in (plain, upright)]
    assert [one.occupancy for one in seen] == [{"95": 1, "130": 1}, {"95": 0, "130": 1}]
    restored = counter(tuple(edges), upright=True)
    restored.restore(json.loads(json.dumps(upright.state())))
    assert restored.update(T0 + 20, width, height, boxes).zones_of == seen[1].zones_of


def test_entry_needs_enter_s_and_dwell_counts_from_the_first_sight() -> None:
    c = counter(enter_s=0.3)
    assert [step(c, t, t1=IN).occupancy["right"] for t in (0, 0.1, 0.2)] == [0, 0, 0]
    seen = step(c, 0.3, t1=IN)
    assert seen.entered == {"right": (1,)}
    assert seen.dwell_s["right"][1] == pytest.approx(0.3)


def test_passing_through_quickly_counts_nowhere() -> None:
    c = counter(enter_s=0.3)
    for i in range(20):
        seen = step(c, i / 10, t1=IN if i == 5 else OUT)
        assert seen.entered == {"right": ()}
        assert seen.left == {"right": ()}


def test_a_flicker_changes_nothing() -> None:
    c = counter(enter_s=0.3)
    entered = left = 0
    for i in range(50):
        seen = step(c, i / 10, **({"t1": IN} if i % 5 in (0, 4) else {}))
        entered, left = entered + len(seen.entered["right"]), left + len(seen.left["right"])
    assert (entered, left) == (1, 0)


def test_who_is_seen_outside_is_gone_sooner_than_who_is_not_seen() -> None:
    c = counter(leave_s=0.2, unseen_s=1.0)
    step(c, 0, t1=IN, t2=IN, t3=IN)
    step(c, 0.1, t1=OUT, t3=OUT)
    assert step(c, 0.2, t1=OUT).left == {"right": ()}
    assert step(c, 0.3, t1=OUT).left == {"right": (1, 3)}, "hidden outside is outside"
    assert step(c, 0.9).occupancy == {"right": 1}, "hidden inside may still be there"
    assert step(c, 1.0).left == {"right": (2,)}


@pytest.mark.parametrize("fps", [5, 10, 25])
def test_with_equal_graces_mean_occupancy_has_no_bias(fps: int) -> None:
    c = counter(enter_s=0.3, leave_s=0.3)
    for i in range(12 * fps):
        step(c, i / fps, t1=IN if 2 * fps <= i < 8 * fps else OUT)
    means = [event.occupancy.mean for event in c.finish() if event.occupancy]
    assert sum(means) == pytest.approx(6)


@pytest.mark.parametrize("fps", [5, 10])
def test_one_frame_outside_is_no_exit(fps: int) -> None:
    c = counter(enter_s=0.3, leave_s=0.3)
    assert [step(c, i / fps, t1=OUT if i == 6 else IN).occupancy["right"] for i in range(12)][5:] == [1] * 7


@pytest.mark.parametrize(("unseen_s", "fps"), [(1.0, 0.5), (0.0, 5), (1.0, 5)])
def test_a_slow_source_keeps_its_objects_between_frames(unseen_s: float, fps: float) -> None:
    c = counter(unseen_s=unseen_s)
    for i in range(5):
        assert step(c, i / fps, t1=IN).occupancy == {"right": 1}
        assert c.advance(T0 + (i + 0.9) / fps).occupancy == {"right": 1}


@pytest.mark.parametrize("advance", [True, False])
def test_an_outage_empties_the_zones(advance: bool) -> None:
    c = counter()
    for i in range(5):
        step(c, i / 5, t1=IN)
    if advance:
        assert c.advance(T0 + 1.7).left == {"right": ()}
        seen = c.advance(T0 + 1.9)
        assert seen.left == {"right": (1,)}
        assert seen.occupancy == {"right": 0}
        assert seen.zones_of == ()
    seen = step(c, 30, t1=IN)
    assert seen.left == {"right": () if advance else (1,)}
    assert seen.entered == {"right": (1,)}
    assert seen.dwell_s == {"right": {1: 0}}


def test_the_same_moment_twice_and_time_that_falls_back() -> None:
    c = counter(leave_s=0)
    step(c, 0, t1=IN)
    assert c.advance(T0).occupancy == {"right": 1}
    assert step(c, 0, t1=IN).entered == {"right": ()}
    seen = step(c, -50, t1=IN)
    assert seen.t_s == T0
    assert seen.occupancy == {"right": 1}


def test_a_new_id_at_the_same_place_takes_over() -> None:
    c = counter(enter_s=0.3)
    for i in range(5):
        step(c, i / 10, t1=IN)
    entered = left = 0
    for i in range(5, 30):
        seen = step(c, i / 10, **({"t2": IN + 10} if i > 7 else {}))
        entered, left = entered + len(seen.entered["right"]), left + len(seen.left["right"])
    assert (entered, left) == (0, 0)
    assert seen.dwell_s["right"] == {2: pytest.approx(2.9)}
    c.finish()


@pytest.mark.parametrize("second", [{"t1": IN, "t2": IN + 10}, {"t2": IN + 60}], ids=["the old one is still there", "too far away"])
def test_another_object_does_not_take_over(second: dict[str, float]) -> None:
    c = counter()
    step(c, 0, t1=IN)
    step(c, 0.1, t1=IN)
    assert step(c, 0.2, **second).entered == {"right": (2,)}


def test_another_class_or_size_does_not_take_over() -> None:
    for boxes, class_id in (([[575, 200, 625, 300]], 1), ([[560, 120, 640, 300]], 0)):
        c = counter()
        step(c, 0, t1=IN)
        assert c.update(T0 + 0.1, W, H, Detections.of(boxes, [0.9], [class_id], [2])).entered == {"right": (2,)}


def test_the_closest_takes_over() -> None:
    c = counter()
    step(c, 0, t1=IN, t2=IN + 30)
    seen = step(c, 0.1, t3=IN + 25, t4=IN + 5)
    assert seen.entered == {"right": ()}
    seen = step(c, 0.2, t3=OUT, t4=IN + 5)
    assert seen.dwell_s["right"].keys() == {3, 4}


def test_a_take_over_goes_on_along_the_line() -> None:
    c = counter(zones=(), lines=(DOOR,))
    step(c, 0, t1=410)
    assert step(c, 0.1, t2=390).crossings == {"door": (Crossing(2, "in"),)}


def test_no_take_over_across_a_change_of_the_frame_size() -> None:
    c = counter()
    step(c, 0, t1=IN)
    assert c.update(T0 + 0.1, 2 * W, 2 * H, at(t2=IN)).occupancy == {"right": 1}
    assert c.update(T0 + 0.2, 2 * W, 2 * H, at(t2=1000)).entered == {"right": (2,)}


def test_rows_without_a_track_count_nowhere() -> None:
    seen = counter(lines=(DOOR,)).update(T0, W, H, Detections.of([[575, 200, 625, 300]], [0.9], [0], [NO_TRACK]))
    assert seen.zones_of == (("right",),)
    assert seen.occupancy == {"right": 0}


def test_zones_and_lines_look_at_their_classes_only() -> None:
    cars = ZoneConfig(name="cars", polygon=RIGHT_HALF.polygon, classes=["car"])
    c = counter((RIGHT_HALF, cars), (LineConfig(name="cars-in", points=DOOR.points, classes=["car"]), DOOR))
    frames = [Detections.of([[x - 25, 200, x + 25, 300]] * 2, [0.9, 0.9], [0, 1], [1, 2]) for x in (600.0, 200.0)]
    seen = c.update(T0, W, H, frames[0])
    assert seen.zones_of == (("right",), ("right", "cars"))
    assert seen.occupancy == {"right": 2, "cars": 1}
    seen = c.update(T0 + 0.2, W, H, frames[1])
    assert seen.crossings == {"cars-in": (Crossing(2, "in"),), "door": (Crossing(1, "in"), Crossing(2, "in"))}


def test_the_anchor_decides() -> None:
    lower = [(0, 0.7), (1, 0.7), (1, 1), (0, 1)]  # from y 280: boxes end at 300, have their centre at 250
    zones = [ZoneConfig(name=a, polygon=lower, anchor=a) for a in ("bottom_center", "center", "top_center")]
    assert step(counter(tuple(zones)), 0, t1=100).zones_of == (("bottom_center",),)


def test_crossings_and_their_dead_band() -> None:
    c = counter(zones=(), lines=(DOOR,))
    path = [600, 404, 397, 403, 398, 300, 500]  # the band is 5 % of 100 px
    found = [step(c, i / 5, t1=x).crossings["door"] for i, x in enumerate(path)]
    assert found == [(), (), (), (), (), (Crossing(1, "in"),), (Crossing(1, "out"),)]


def close(c: ZoneCounter) -> list[CountsEvent]:
    return c.windows() + c.finish()


def test_a_window() -> None:
    c = counter(lines=(DOOR,))
    step(c, 0, t1=IN, t2=OUT)
    step(c, 0.25, t1=IN, t2=IN)
    step(c, 0.75, t1=IN, t2=IN, t3=IN + 100)
    assert c.windows() == []
    step(c, 1.0, t1=IN, t2=IN, t3=IN + 100)
    zone, line = c.windows()
    assert zone.zone == "right"
    assert zone.line is None
    assert zone.occupancy is not None
    assert zone.occupancy.model_dump() == {"min": 1, "mean": (0.25 + 2 * 0.5 + 3 * 0.25), "max": 3, "last": 3}
    assert (zone.entered, zone.left, zone.tracks, zone.frames) == (3, 0, 3, 3)
    assert zone.window_start == datetime.fromtimestamp(T0, UTC)
    assert zone.window_end == datetime.fromtimestamp(T0 + 1, UTC)
    assert zone.event_id == event_id("framewatch.counts/1", "cam", "right", round(T0 * 1e6))
    assert (line.line, line.crossings, line.frames) == ("door", {"in": 0, "out": 1}, 3)
    assert line.event_id == event_id("framewatch.counts/1", "cam", "door", round(T0 * 1e6))
    assert c.windows() == []


def test_what_somebody_inside_means_for_the_next_window() -> None:
    c = counter(leave_s=0, unseen_s=0)
    step(c, 0.9, t1=IN)
    step(c, 1.0, t1=OUT, t2=IN + 100)
    step(c, 1.5)
    first, second = close(c)
    assert (first.tracks, second.tracks) == (1, 1), "the one who left as the window began is not in it"
    assert second.occupancy is not None
    assert second.occupancy.model_dump() == {"min": 0, "mean": 1.0, "max": 1, "last": 0}
    assert (second.entered, second.left) == (1, 2)


def test_one_frame_makes_a_window() -> None:
    c = counter()
    step(c, 0.5, t1=IN)
    (event,) = c.finish()
    assert event.occupancy is not None
    assert event.occupancy.model_dump() == {"min": 1, "mean": 1.0, "max": 1, "last": 1}
    assert event.window_end == datetime.fromtimestamp(T0 + 1, UTC)
    assert c.finish() == []


@pytest.mark.parametrize("window_s", [0.1, 0.04, 1 / 3, 7])
def test_windows_touch_and_are_aligned(window_s: float) -> None:
    c = counter(window_s=window_s)
    for i in range(200):
        step(c, i * 0.04, t1=IN)
    events = close(c)
    length_us = round(window_s * 1e6)
    for a, b in itertools.pairwise(events):
        assert a.window_end == b.window_start
    for event in events:
        delta = event.window_start - datetime(1970, 1, 1, tzinfo=UTC)
        assert (delta.days * 86_400_000_000 + delta.seconds * 1_000_000 + delta.microseconds) % length_us == 0
    assert sum(event.frames for event in events) == 200


@pytest.mark.parametrize("advance", [True, False])
@pytest.mark.parametrize(("gap_s", "expected"), [(4, 4), (11, 11), (500, 11)])
def test_empty_windows_are_told_for_a_while(gap_s: int, expected: int, advance: bool) -> None:
    c = counter()
    step(c, 0)
    if advance:
        for t in range(1, gap_s * 4):
            c.advance(T0 + t / 4)
    step(c, gap_s)
    events = c.windows()
    assert [event.frames for event in events] == [1] + [0] * (expected - 1)
    assert c.finish()[0].window_start == datetime.fromtimestamp(T0 + gap_s, UTC)


def test_who_leaves_long_after_the_last_frame_is_told() -> None:
    c = counter(unseen_s=30)
    step(c, 0, t1=IN)
    step(c, 0.2, t1=IN)
    for t in range(1, 100):
        c.advance(T0 + t)
    events = c.windows()
    assert len(events) == 12
    assert events[-1].left == 1
    assert events[-1].window_start == datetime.fromtimestamp(T0 + 31, UTC)


def test_a_year_of_silence_is_no_work() -> None:
    c = counter(window_s=0.001)
    step(c, 0, t1=IN)
    c.advance(T0 + 86_400 * 365)
    assert len(c.windows()) == 11


def test_advance_before_any_frame() -> None:
    c = counter()
    assert c.advance(T0).occupancy == {"right": 0}
    c.advance(T0 + 5)
    assert c.windows() == []
    assert c.finish() == []


def test_tracks_are_bounded_and_whoever_is_forgotten_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count, "MAX_TRACKS", 3)
    c = counter(lines=(DOOR,), leave_s=100, unseen_s=100)
    entered = left = 0
    for i in range(1, 20):
        seen = step(c, i, **{f"t{i}": 450.0 + 90 * (i % 4)})
        entered, left = entered + len(seen.entered["right"]), left + len(seen.left["right"])
        assert seen.occupancy["right"] == entered - left <= 3
    state = c.state()
    assert len(state["tracks"]) == len(state["stays"]["right"]) == len(state["paths"]["door"]) == 3


def test_more_objects_than_tracks_in_one_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count, "MAX_TRACKS", 2)
    seen = step(counter(lines=(DOOR,)), 0, t1=450, t2=550, t3=650)
    assert seen.occupancy == {"right": 2}
    assert seen.zones_of == (("right",),) * 3


def test_memory_follows_the_traffic() -> None:
    c = counter(lines=(DOOR,))
    for i in range(1, 200):
        step(c, i, **{f"t{i}": IN if i % 2 else OUT})
    state = c.state()
    assert len(state["tracks"]) == len(state["paths"]["door"]) == count.REMEMBER_S + 1


def test_objects_of_a_window_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "MAX_TRACKS", 5)
    c = counter(window_s=3600, leave_s=0)
    for i in range(1, 50):
        step(c, i, **{f"t{i}": IN})
    (event,) = c.finish()
    assert event.tracks == 5
    assert event.entered == 49


def test_restore_keeps_windows_that_nobody_has_taken() -> None:
    a, b = counter(lines=(DOOR,)), counter(lines=(DOOR,))
    step(a, 0.1, t1=IN)
    step(a, 1.1, t1=OUT)
    b.restore(json.loads(json.dumps(a.state())))
    assert close(a) == close(b)


LEFT_HALF = ZoneConfig(name="left", polygon=[(0, 0), (0.5, 0), (0.5, 1), (0, 1)])


def test_zones_change_while_somebody_is_inside() -> None:
    c = counter(lines=(DOOR,), leave_s=0, window_s=10)
    step(c, 0, t1=IN, t2=OUT)
    step(c, 1, t1=IN, t2=OUT)
    assert c.set_zones([RIGHT_HALF, LEFT_HALF], [DOOR], CLASSES) == []
    seen = step(c, 1, t1=IN, t2=OUT)
    assert seen.entered == {"right": (), "left": (2,)}, "who was inside has not entered again"
    assert seen.dwell_s["right"] == {1: 1}
    seen = step(c, 2, t1=OUT, t2=OUT)
    assert [(one.track_id, one.direction) for one in seen.crossings["door"]] == [(1, "in")]
    (ended, *_) = c.set_zones([LEFT_HALF], [], CLASSES)
    assert isinstance(ended, CountsEvent)
    assert (ended.zone, ended.entered, ended.left, ended.occupancy.last if ended.occupancy else None) == ("right", 1, 1, 0)
    (left,) = close(c)
    assert (left.zone, left.entered, left.left) == ("left", 2, 0)
    assert left.occupancy
    assert left.occupancy.mean == 1.0, "counted since there is such a zone"


def test_a_zone_that_was_moved_lets_go_of_who_is_outside_now() -> None:
    c = counter(leave_s=0)
    step(c, 0, t1=IN, t2=700)
    c.set_zones([RIGHT_HALF.model_copy(update={"polygon": [(0.8, 0), (1, 0), (1, 1), (0.8, 1)]})], [], CLASSES)
    seen = step(c, 1, t1=IN, t2=700)
    assert (seen.left, seen.entered, seen.occupancy) == ({"right": (1,)}, {"right": ()}, {"right": 1})


def test_a_line_that_was_moved_has_seen_nobody() -> None:
    c = counter(lines=(DOOR,))
    step(c, 0, t1=450)
    c.set_zones([RIGHT_HALF], [DOOR.model_copy(update={"points": ((0.75, 0), (0.75, 1))})], CLASSES)
    assert step(c, 1, t1=450).crossings == {"door": ()}
    assert len(step(c, 2, t1=700).crossings["door"]) == 1


def test_restore_under_other_zones_keeps_those_that_stayed() -> None:
    a = counter(lines=(DOOR,), leave_s=0)
    step(a, 0, t1=IN)
    b = counter((RIGHT_HALF, LEFT_HALF), (DOOR.model_copy(update={"points": ((0.75, 0), (0.75, 1))}),), leave_s=0)
    b.restore(json.loads(json.dumps(a.state())))
    seen = step(b, 1, t1=IN)
    assert seen.entered == {"right": (), "left": ()}
    assert seen.dwell_s["right"] == {1: 1}
    assert step(b, 2, t1=OUT).crossings == {"door": ()}
