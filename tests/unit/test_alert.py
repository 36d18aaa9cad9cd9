"""AlertEngine: every rule type through its states, cooldown, schedule, several sources, restore."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, time
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pydantic import TypeAdapter

from stream.alert import MAX_TRACK_IDS, AlertEngine, _active
from stream.events import AlertEvent, event_id
from stream.observation import Crossing, Observation
from stream.rules import AlertRule, Schedule

T0 = 1_764_000_000.0  # Monday, 24 November 2025, 16:00 UTC
RULE: TypeAdapter[AlertRule] = TypeAdapter(AlertRule)


def engine(*rules: Mapping[str, Any]) -> AlertEngine:
    return AlertEngine([RULE.validate_python(rule) for rule in rules])


def observation(
    t: float,
    n: int = 0,
    *,
    source: str = "hall",
    dwell: Mapping[int, float] | None = None,
    crossings: tuple[Crossing, ...] = (),
) -> Observation:
    """``n`` objects (ids 1..n, just come) in zone ``floor``, or those of ``dwell``, ``t`` seconds after T0."""
    dwells = dict(dwell) if dwell is not None else dict.fromkeys(range(1, n + 1), 0.0)
    nobody: dict[str, tuple[int, ...]] = {"floor": ()}
    return Observation(source, T0 + t, {"floor": len(dwells)}, nobody, nobody, {"door": crossings}, {"floor": dwells}, ())


def play(e: AlertEngine, *counts: tuple[float, int]) -> list[tuple[float, str, float]]:
    """(seconds, state, value) of what comes of these (seconds, count)."""
    return [told(event) for t, n in counts for event in e.observe(observation(t, n))]


def told(event: AlertEvent) -> tuple[float, str, float]:
    return round((event.at - datetime.fromtimestamp(T0, UTC)).total_seconds(), 6), event.state, event.value


CROWD = {"name": "crowd", "type": "crowd", "zone": "hall/floor", "above": 3}


def test_a_crowd_is_raised_and_cleared() -> None:
    e = engine(CROWD)
    assert play(e, (0, 3), (1, 4), (2, 4), (3, 3)) == [(1, "raised", 4), (3, "cleared", 3)]


def test_fields_of_the_event() -> None:
    e = engine(CROWD | {"severity": "critical"})
    (raised,) = e.observe(observation(1.25, 5))
    assert raised.alert_id == event_id("alert", "crowd", "hall/floor", round((T0 + 1.25) * 1e6))
    assert raised.event_id == event_id(raised.alert_id, "raised", round((T0 + 1.25) * 1e6))
    assert (raised.source_id, raised.zone, raised.line, raised.track_ids) == ("hall", "floor", None, None)
    assert (raised.rule, raised.type, raised.severity, raised.threshold) == ("crowd", "crowd", "critical", 3)
    assert raised.raised_at == raised.at == datetime.fromtimestamp(T0 + 1.25, UTC)
    (cleared,) = e.observe(observation(4))
    assert cleared.alert_id == raised.alert_id
    assert cleared.event_id != raised.event_id
    assert cleared.raised_at == raised.raised_at


def test_it_must_hold_for_for_s() -> None:
    e = engine(CROWD | {"for_s": 2})
    assert play(e, (0, 4), (1.8, 4), (1.9, 3), (2, 4), (3.8, 5), (4, 4)) == [(4, "raised", 4)]


def test_hold_times_are_exact_at_any_frame_rate() -> None:
    e = engine(CROWD | {"for_s": 2})
    assert play(e, *((0.1 + i / 5, 4) for i in range(20))) == [(2.1, "raised", 4)]


def test_hysteresis_and_clear_for_s() -> None:
    e = engine(CROWD | {"clear_below": 2, "clear_for_s": 3})
    counts = [(0, 4), (1, 2), (9, 3), (10, 1), (12.9, 1), (13, 1)]
    assert play(e, *counts) == [(0, "raised", 4), (13, "cleared", 1)]
    e = engine(CROWD | {"clear_below": 2, "clear_for_s": 3})
    assert play(e, (0, 4), (1, 1), (3, 2), (4, 1), (6.9, 1)) == [(0, "raised", 4)], "the band between begins it anew"


def test_between_the_thresholds_nothing_is_raised() -> None:
    assert play(engine(CROWD | {"clear_below": 1}), (0, 3), (1, 2), (2, 3)) == []


def test_time_that_passes_counts_without_observations() -> None:
    e = engine(CROWD | {"for_s": 2, "clear_for_s": 2})
    assert play(e, (0, 4)) == []
    assert [told(event) for event in e.advance("hall", T0 + 2)] == [(2, "raised", 4)]
    assert play(e, (3, 0)) == []
    assert e.advance("hall", T0 + 4) == []
    assert [told(event) for event in e.advance("hall", T0 + 5)] == [(5, "cleared", 0)]


def test_the_cooldown_runs_from_the_raise_and_a_raise_within_it_waits() -> None:
    e = engine(CROWD | {"cooldown_s": 10})
    assert play(e, (0, 4), (1, 0), (2, 4), (3, 0), (5, 4), (9.9, 4), (10, 4)) == [
        (0, "raised", 4),
        (1, "cleared", 0),
        (10, "raised", 4),
    ]
    assert play(e, (19, 0), (20, 4)) == [(19, "cleared", 0), (20, "raised", 4)]


def test_updated_at_a_new_maximum_once_a_second() -> None:
    e = engine(CROWD)
    counts = [(0, 4), (0.2, 5), (0.4, 6), (0.6, 5), (1.0, 5), (1.2, 5), (2.5, 6), (3, 7), (3.2, 5), (9, 7)]
    assert play(e, *counts) == [(0, "raised", 4), (1, "updated", 6), (3, "updated", 7)]


def test_no_update_while_clearing() -> None:
    e = engine(CROWD | {"clear_for_s": 5})
    assert play(e, (0, 4), (0.5, 9), (0.7, 0), (2, 0)) == [(0, "raised", 4)]


def test_time_that_falls_back_a_bit_counts_as_standing_still() -> None:
    e = engine(CROWD | {"for_s": 2})
    assert play(e, (0, 4), (-1, 4), (1.9, 4), (2, 4)) == [(2, "raised", 4)]


def test_a_rule_begins_anew_where_time_goes_back() -> None:
    """What waits does so for no longer than it would have, the cooldown too; the same moment makes another alert."""
    rule = CROWD | {"for_s": 2, "cooldown_s": 10}
    e = engine(rule)
    assert play(e, (0, 4), (2, 4), (5, 4)) == [(2, "raised", 4)]
    first = e.active()[0]
    assert play(e, (-3600, 4)) == [(5, "cleared", 4)]
    assert e.active() == []
    again = engine(rule)
    again.restore(json.loads(json.dumps(e.state())), 0.0)
    for one in (e, again):
        assert play(one, (-3598, 4), (-3593.1, 4), (-3593, 4)) == [(-3593, "raised", 4)], (
            "10 s after the raise, 3 of which had gone by"
        )
        assert play(one, (-3592, 0)) == [(-3592, "cleared", 0)]
        raised = [event for t in (0, 1, 2) for event in one.observe(observation(t, 4))]
        assert [told(event) for event in raised] == [(2, "raised", 4)]
        assert raised[0].alert_id != first.alert_id
        assert raised[0].raised_at == first.raised_at


def test_a_rule_over_several_sources_begins_anew_with_the_last_of_them() -> None:
    e = engine({"name": "site", "type": "crowd", "zones": ["hall/floor", "yard/floor"], "above": 3, "for_s": 1})
    for t in range(4):
        e.observe(observation(t, 4))
        assert e.observe(observation(t - 1800, 0, source="yard")) == [], "it has always lagged"
    assert len(e.active()) == 1
    assert e.observe(observation(-600, 4)) != []
    assert e.active() == []
    e.observe(observation(-1790, 0, source="yard"))
    assert [told(event) for event in e.observe(observation(-599, 4))] == [(-599, "raised", 4)]


def test_a_source_that_is_offline_stays_so_when_its_clock_is_put_right() -> None:
    e = engine({"name": "gone", "type": "source_offline", "for_s": 5})
    for t, states in ((0, []), (4, []), (5, ["raised"]), (-3, []), (-5.1, ["cleared"]), (-1, []), (0, ["raised"]), (1, [])):
        assert [event.state for event in e.source_state("hall", False, T0 + t)] == states, t
    assert [event.value for event in e.source_state("hall", True, T0 + 2)] == [pytest.approx(12.1)]


def test_a_crowd_over_several_sources() -> None:
    e = engine({"name": "site", "type": "crowd", "zones": ["hall/floor", "yard/floor"], "above": 3})
    assert e.observe(observation(0, 3)) == []
    (raised,) = e.observe(observation(0.1, 2, source="yard"))
    assert (raised.source_id, raised.zone, raised.value) == ("*", None, 5)
    assert e.observe(observation(0.2, 9, source="elsewhere")) == []
    (cleared,) = e.observe(observation(0.3, 0))
    assert cleared.value == 2


def test_a_crowd_over_zones_of_one_source_is_that_sources() -> None:
    e = engine({"name": "sum", "type": "crowd", "zones": ["hall/a", "hall/b"], "above": 1})
    seen = Observation("hall", T0, {"a": 1, "b": 1}, {}, {}, {}, {"a": {1: 0.0}, "b": {1: 0.0}}, ())
    (raised,) = e.observe(seen)
    assert (raised.source_id, raised.zone, raised.value) == ("hall", None, 2)


INTRUSION = {"name": "keep-out", "type": "intrusion", "zone": "hall/floor"}


def test_intrusion() -> None:
    e = engine(INTRUSION | {"for_s": 1, "clear_for_s": 2})
    assert play(e, (0, 1), (0.5, 0), (1, 1), (2, 2), (3, 0), (4, 1), (5, 0), (7, 0)) == [(2, "raised", 2), (7, "cleared", 0)]


def test_intrusion_names_the_tracks() -> None:
    (raised,) = engine(INTRUSION).observe(observation(0, dwell={7: 1.0, 3: 0.5}))
    assert (raised.track_ids, raised.value, raised.threshold, raised.zone) == ([3, 7], 2, 1, "floor")


def test_an_alert_names_a_bounded_number_of_tracks() -> None:
    (raised,) = engine(INTRUSION).observe(observation(0, 500))
    assert raised.value == 500
    assert raised.track_ids == list(range(501 - MAX_TRACK_IDS, 501))


LINE = {"name": "way-out", "type": "line", "line": "hall/door"}


def cross(e: AlertEngine, t: float, *crossings: tuple[int, str]) -> list[AlertEvent]:
    return e.observe(observation(t, crossings=tuple(Crossing(i, way) for i, way in crossings)))  # type: ignore[arg-type]


def test_line() -> None:
    e = engine(LINE | {"clear_for_s": 5})
    (raised,) = cross(e, 0, (4, "in"))
    assert (raised.value, raised.threshold, raised.line, raised.zone, raised.track_ids) == (1, 1, "door", None, [4])
    assert cross(e, 0.5, (9, "out")) == []
    (updated,) = cross(e, 3, (5, "out"))
    assert (updated.state, updated.value, updated.track_ids) == ("updated", 3, [4, 5, 9])
    assert cross(e, 7.9) == []
    assert [told(event) for event in e.advance("hall", T0 + 8)] == [(8, "cleared", 3)]
    assert [told(event) for event in cross(e, 9, (6, "in"))] == [(9, "raised", 1)]


@pytest.mark.parametrize(("direction", "ways"), [("in", ["in"]), ("out", ["out"]), ("any", ["in", "out"])])
def test_only_the_wanted_direction(direction: str, ways: list[str]) -> None:
    for way in ("in", "out"):
        assert len(cross(engine(LINE | {"direction": direction}), 0, (1, way))) == (way in ways)


def test_line_clears_at_once_without_clear_for_s_and_does_not_wait_for_for_s() -> None:
    e = engine(LINE | {"for_s": 10})
    assert [told(event) for t, *c in [(0, (1, "in")), (0.2,)] for event in cross(e, t, *c)] == [
        (0, "raised", 1),
        (0.2, "cleared", 1),
    ]


@pytest.mark.parametrize(("crossed_s", "expected"), [(5, []), (7, [(10, "raised", 2)])])
def test_a_crossing_in_the_cooldown_waits_for_as_long_as_it_would_hold(crossed_s: float, expected: list[object]) -> None:
    e = engine(LINE | {"cooldown_s": 10, "clear_for_s": 4})
    cross(e, 0, (1, "in"))
    assert [told(event) for event in e.advance("hall", T0 + 4)] == [(4, "cleared", 1)]
    assert cross(e, crossed_s - 0.5, (2, "in")) == cross(e, crossed_s, (3, "in")) == []
    assert [told(event) for t in (8, 9, 10) for event in e.advance("hall", T0 + t)] == expected


LOITERING = {"name": "waits", "type": "loitering", "zone": "hall/floor", "dwell_s": 10}


def test_loitering() -> None:
    e = engine(LOITERING)
    assert e.observe(observation(0, dwell={1: 9.9, 2: 3})) == []
    (raised,) = e.observe(observation(1, dwell={1: 10.9, 2: 4}))
    assert (raised.value, raised.threshold, raised.track_ids) == (10.9, 10, [1])
    assert e.observe(observation(5, dwell={1: 14.9, 2: 8})) == [], "a dwell that grows is no news"
    (updated,) = e.observe(observation(8, dwell={1: 17.9, 2: 11}))
    assert (updated.state, updated.value, updated.track_ids) == ("updated", 17.9, [1, 2])
    assert e.observe(observation(9, dwell={1: 18.9})) == []
    (updated,) = e.observe(observation(18, dwell={1: 27.9}))
    assert (updated.state, updated.value) == ("updated", 27.9)
    (cleared,) = e.observe(observation(20, dwell={3: 1}))
    assert (cleared.state, cleared.value, cleared.track_ids) == ("cleared", 1, [])


OFFLINE = {"name": "gone", "type": "source_offline"}


def test_source_offline() -> None:
    e = engine(OFFLINE | {"for_s": 5, "clear_for_s": 2})
    assert e.source_state("hall", True, T0) == []
    assert e.source_state("hall", False, T0 + 1) == []
    assert e.source_state("hall", False, T0 + 3) == []
    (raised,) = e.advance("hall", T0 + 6)
    assert (raised.source_id, raised.zone, raised.value, raised.threshold) == ("hall", None, 5, 5)
    assert e.advance("hall", T0 + 60) == [], "no updates: the value grows by itself"
    assert e.source_state("hall", True, T0 + 61) == []
    assert e.source_state("hall", False, T0 + 62) == []
    assert e.source_state("hall", True, T0 + 65) == []
    assert [told(event) for event in e.advance("hall", T0 + 67)] == [(67, "cleared", 3)]


def test_source_tampered() -> None:
    e = engine({"name": "covered", "type": "source_tampered", "for_s": 5}, OFFLINE)
    assert e.source_state("hall", True, T0) == []
    assert e.source_state("hall", True, T0 + 1, "covered") == []
    (raised,) = e.observe(observation(6))
    assert (raised.rule, raised.type, raised.source_id, raised.value) == ("covered", "source_tampered", "hall", 5)
    assert [event.rule for event in e.source_state("hall", False, T0 + 7, "covered")] == ["gone"]
    assert [event.rule for event in e.source_state("hall", True, T0 + 8, "covered")] == ["gone"]
    assert [told(event) for event in e.source_state("hall", True, T0 + 9, "")] == [(9, "cleared", 8)]


def test_each_source_has_its_own_alert() -> None:
    e = engine(OFFLINE)
    raised = [*e.source_state("hall", False, T0), *e.source_state("yard", False, T0)]
    assert [event.source_id for event in raised] == ["hall", "yard"]
    assert len({event.alert_id for event in raised}) == 2
    assert [event.source_id for event in e.source_state("hall", True, T0 + 1)] == ["hall"]
    assert [event.source_id for event in e.active()] == ["yard"]


def test_one_named_source() -> None:
    e = engine(OFFLINE | {"source": "yard"})
    assert e.source_state("hall", False, T0) == []
    assert len(e.source_state("yard", False, T0)) == 1


def test_a_crowd_does_not_care_whether_the_source_is_online() -> None:
    e = engine(CROWD)
    play(e, (0, 4))
    assert e.source_state("hall", False, T0 + 1) == []
    assert [event.rule for event in e.active()] == ["crowd"]


def test_events_come_in_the_order_of_the_rules_and_active_shows_the_last() -> None:
    e = engine(OFFLINE, CROWD, INTRUSION)
    e.source_state("hall", False, T0)
    assert [event.rule for event in e.observe(observation(1, 4))] == ["crowd", "keep-out"]
    e.observe(observation(5, 6))
    assert [(event.rule, event.state) for event in e.active()] == [
        ("crowd", "updated"),
        ("keep-out", "updated"),
        ("gone", "raised"),
    ]
    e.observe(observation(6))
    assert [event.rule for event in e.active()] == ["gone"]


@pytest.mark.parametrize(
    ("schedule", "day", "hour", "active"),
    [
        ({}, 24, 12, True),
        ({"start": "08:00", "end": "17:00"}, 24, 8, True),
        ({"start": "08:00", "end": "17:00"}, 24, 7.99, False),
        ({"start": "08:00", "end": "17:00"}, 24, 17, False),
        ({"days": ["tue"]}, 24, 12, False),  # 24 November 2025 was a Monday
        ({"days": ["tue"]}, 25, 0, True),
        ({"days": ["mon"], "start": "22:00", "end": "06:00"}, 24, 23, True),
        ({"days": ["mon"], "start": "22:00", "end": "06:00"}, 25, 5.9, True),
        ({"days": ["mon"], "start": "22:00", "end": "06:00"}, 25, 6, False),
        ({"days": ["mon"], "start": "22:00", "end": "06:00"}, 24, 5, False),
        ({"days": ["mon"], "start": "08:00", "end": "08:00"}, 25, 7, True),
        ({"start": "08:00", "end": "17:00", "timezone": "Asia/Tokyo"}, 24, 23.5, True),  # 08:30 on the 25th there
        ({"start": "08:00", "end": "17:00", "timezone": "Asia/Tokyo"}, 24, 12, False),
        ({"days": ["tue"], "timezone": "America/New_York"}, 25, 4.9, False),  # still Monday there
    ],
)
def test_schedule(schedule: dict[str, Any], day: int, hour: float, active: bool) -> None:
    e = engine(CROWD | {"schedule": schedule})
    t_s = datetime(2025, 11, day, tzinfo=UTC).timestamp() + 3600 * hour
    assert bool(e.observe(observation(t_s - T0, 4))) == active


def test_the_end_of_the_schedule_clears_at_once_and_its_begin_starts_the_hold() -> None:
    e = engine(CROWD | {"for_s": 60, "clear_for_s": 600, "schedule": {"start": "16:01", "end": "16:05"}})  # T0 is 16:00
    assert play(e, *((t, 4) for t in range(0, 400, 10))) == [(120, "raised", 4), (300, "cleared", 4)]


def test_a_schedule_with_an_offset_in_its_times_is_read_as_local() -> None:
    schedule = Schedule(start=time(8, tzinfo=UTC), end=time(17, tzinfo=UTC))
    assert _active(schedule, ZoneInfo("UTC"), T0)


def test_restore_clears_the_alerts_of_rules_that_are_no_more() -> None:
    e = engine(CROWD, INTRUSION, OFFLINE)
    play(e, (0, 4))
    e.source_state("hall", False, T0)
    state = json.loads(json.dumps(e.state()))
    raised = {event.rule: event for event in e.active()}
    again = engine(INTRUSION)
    cleared = again.restore(state, T0 + 99)
    assert [(event.rule, event.state, event.alert_id) for event in cleared] == [
        (name, "cleared", raised[name].alert_id) for name in ("crowd", "gone")
    ]
    assert {told(event)[0] for event in cleared} == {99}
    assert [event.rule for event in again.active()] == ["keep-out"]
    again = engine(CROWD, INTRUSION, OFFLINE)
    assert again.restore(state, T0 + 99) == []
    assert again.active() == e.active()
    assert json.loads(json.dumps(again.state())) == state
    assert again.source_state("hall", False, T0 + 1) == []


def rules(*settings: Mapping[str, Any]) -> list[AlertRule]:
    return [RULE.validate_python(one) for one in settings]


def test_rules_that_stay_go_on_where_they_stand() -> None:
    e = engine(CROWD, INTRUSION)
    play(e, (0, 4))
    before = e.active()
    assert e.set_rules(rules(INTRUSION, CROWD, LINE), T0 + 1) == []
    assert sorted(e.active(), key=lambda event: event.rule) == sorted(before, key=lambda event: event.rule)
    assert [(one.rule, one.state) for one in e.observe(observation(2, 0))] == [("keep-out", "cleared"), ("crowd", "cleared")]
    assert [one.rule for one in cross(e, 3, (1, "in"))] == ["way-out"]


def test_a_rule_that_was_taken_away_is_cleared_once() -> None:
    e = engine(CROWD, INTRUSION)
    raised = e.observe(observation(0, 4))[0]
    (cleared,) = e.set_rules(rules(INTRUSION), T0 + 1.5)
    assert (cleared.rule, cleared.state, cleared.alert_id) == ("crowd", "cleared", raised.alert_id)
    assert told(cleared)[0] == 1.5
    assert e.set_rules(rules(INTRUSION), T0 + 2) == []
    assert play(e, (3, 4)) == []
    assert e.set_rules([], T0 + 4)[0].rule == "keep-out"
    assert e.set_rules(rules(CROWD), T0 + 5) == []
    assert play(e, (6, 4)) == [(6, "raised", 4)]


def test_other_settings_of_a_rule_are_judged_from_where_it_stands() -> None:
    e = engine(CROWD)
    (raised,) = e.observe(observation(0, 4))
    assert e.set_rules(rules(CROWD | {"above": 5, "severity": "critical"}), T0 + 1) == []
    (cleared,) = e.observe(observation(2, 4))
    assert (cleared.state, cleared.alert_id, cleared.threshold) == ("cleared", raised.alert_id, 5)
    e.set_rules(rules(CROWD), T0 + 3)
    e.observe(observation(4, 4))
    (cleared,) = e.set_rules(rules({"name": "crowd", "type": "intrusion", "zone": "hall/floor"}), T0 + 5)
    assert cleared.type == "crowd"


def test_a_new_rule_over_a_known_zone_is_judged_by_the_next_observation() -> None:
    e = engine(CROWD | {"zone": None, "zones": ["hall/floor", "attic/floor"], "above": 5})
    play(e, (0, 4))
    e.set_rules(rules(CROWD | {"zone": None, "zones": ["hall/floor", "attic/floor"], "above": 5}, INTRUSION), T0 + 1)
    assert play(e, (2, 4)) == [(2, "raised", 4)]
    (crowd, *_) = e.observe(observation(3, 2, source="attic"))
    assert crowd.value == 6


def test_a_source_that_is_gone_takes_its_alerts_along() -> None:
    e = engine(CROWD, OFFLINE)
    play(e, (0, 4))
    e.source_state("hall", False, T0)
    e.source_state("attic", False, T0)
    assert [(one.rule, one.source_id, one.state) for one in e.forget("hall", T0 + 1)] == [
        ("crowd", "hall", "cleared"),
        ("gone", "hall", "cleared"),
    ]
    assert [one.source_id for one in e.active()] == ["attic"]
    assert e.forget("hall", T0 + 2) == []
    assert play(e, (3, 4)) == [(3, "raised", 4)]
    assert [machine["target"] for machine in e.state()["machines"]] == ["hall/floor", "attic"]
