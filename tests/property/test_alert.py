"""AlertEngine under arbitrary observations."""

import json
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from stream.alert import AlertEngine
from stream.events import AlertEvent
from stream.observation import Crossing, Observation
from stream.rules import AlertRule

pytestmark = pytest.mark.compute

RULES: TypeAdapter[list[AlertRule]] = TypeAdapter(list[AlertRule])
seconds = st.sampled_from([0.0, 0.0, 0.5, 2.0, 7.0])
SCHEDULE = {"start": "16:00", "end": "16:00:20"}  # T0 is 16:00 UTC


@st.composite
def rule_lists(draw: st.DrawFn) -> list[AlertRule]:
    kinds = [
        {"type": "crowd", "zone": "a/z", "above": 2},
        {"type": "crowd", "zone": "a/z", "above": 2, "clear_below": 1},
        {"type": "crowd", "zones": ["a/z", "b/z"], "above": 3},
        {"type": "intrusion", "zone": "b/z"},
        {"type": "line", "line": "a/l", "direction": "in"},
        {"type": "loitering", "zone": "a/z", "dwell_s": 1.5},
        {"type": "source_offline"},
        {"type": "source_tampered"},
    ]
    return RULES.validate_python(
        [
            kind
            | {"name": f"r{i}", "for_s": draw(seconds), "clear_for_s": draw(seconds), "cooldown_s": draw(seconds)}
            | ({"schedule": SCHEDULE} if draw(st.integers(0, 4)) == 0 else {})
            for i, kind in enumerate(kinds)
        ]
    )


dt = st.sampled_from([0.0, 0.04, 0.2, 0.5, 1.0, 3.0])
observed = st.tuples(st.integers(0, 5), st.integers(0, 2), st.floats(0, 6))
state = st.tuples(st.booleans(), st.sampled_from(["", "black"]))
what = st.one_of(observed, state, st.none())
steps = st.lists(st.tuples(dt, st.sampled_from("ab"), what), max_size=40)


def take(engine: AlertEngine, t_s: float, source: str, one: object) -> list[AlertEvent]:
    if one is None:
        return engine.advance(source, t_s)
    assert isinstance(one, tuple)
    if len(one) == 2:
        online, tampered = one
        return engine.source_state(source, online, t_s, tampered)
    inside, crossed, dwell_s = one
    dwells = {i: dwell_s / i for i in range(1, inside + 1)}
    crossings = tuple(Crossing(i, "in" if i % 2 else "out") for i in range(1, crossed + 1))
    return engine.observe(Observation(source, t_s, {"z": inside}, {"z": ()}, {"z": ()}, {"l": crossings}, {"z": dwells}, ()))


def timed(given_steps: list) -> list[tuple[float, str, object]]:
    t_s, out = 1_764_000_000.0, []
    for step_s, source, one in given_steps:
        t_s += step_s
        out.append((t_s, source, one))
    return out


@given(rule_lists(), steps)
def test_raised_and_cleared_alternate(rules: list[AlertRule], given_steps: list) -> None:
    engine = AlertEngine(rules)
    by_name = {rule.name: rule for rule in rules}
    of_target: dict[tuple[str, str], list[AlertEvent]] = defaultdict(list)
    ids = set()
    for t_s, source, one in timed(given_steps):
        for event in take(engine, t_s, source, one):
            assert abs(event.at.timestamp() - t_s) < 1e-6
            assert event.event_id not in ids
            ids.add(event.event_id)
            of_target[event.rule, event.source_id].append(event)
        active = {(event.rule, event.source_id): event for event in engine.active()}
        assert active == {target: events[-1] for target, events in of_target.items() if events[-1].state != "cleared"}
    for (name, _), events in of_target.items():
        rule, raised, last_raise, sent = by_name[name], None, None, None
        for event in events:
            at = event.at.timestamp()
            if event.state == "raised":
                assert raised is None, "raised twice"
                assert last_raise is None or at - last_raise >= rule.cooldown_s - 1e-5, "raised in the cooldown"
                raised, last_raise = event, at
            else:
                assert raised is not None, f"{event.state} without a raise"
                assert (event.alert_id, event.raised_at) == (raised.alert_id, raised.raised_at)
                if event.state == "updated":
                    assert sent is not None
                    assert at - sent.at.timestamp() >= 1 - 1e-5
                    assert event.value >= sent.value
                else:
                    raised = None
            sent = event


@given(rule_lists(), steps, st.integers(0, 40))
def test_restore_goes_on_exactly(rules: list[AlertRule], given_steps: list, cut: int) -> None:
    whole, first, second = AlertEngine(rules), AlertEngine(rules), AlertEngine(rules)
    todo = timed(given_steps)
    expected = [take(whole, *one) for one in todo]
    got = [take(first, *one) for one in todo[:cut]]
    saved = json.loads(json.dumps(first.state()))
    assert second.restore(saved, 0.0) == []
    assert json.loads(json.dumps(second.state())) == saved
    got += [take(second, *one) for one in todo[cut:]]
    assert got == expected
    assert second.active() == whole.active()


@given(st.lists(st.tuples(dt, st.integers(0, 6)), max_size=60), seconds, seconds)
def test_crowd_agrees_with_a_plain_reading_of_the_rule(counts: list[tuple[float, int]], for_s: float, clear_for_s: float) -> None:
    """Raised where every count of the last ``for_s`` is above 2, cleared where every one of ``clear_for_s`` is below 2."""
    rules = RULES.validate_python(
        [{"name": "r", "type": "crowd", "zone": "a/z", "above": 2, "clear_below": 2, "for_s": for_s, "clear_for_s": clear_for_s}]
    )
    engine, history, raised, changed_s = AlertEngine(rules), [], False, -1.0
    for t_s, _, n in timed([(step_s, "a", n) for step_s, n in counts]):
        history.append((t_s, n))
        states = [event.state for event in take(engine, t_s, "a", (n, 0, 0.0)) if event.state != "updated"]
        wanted, hold_s = ((lambda k: k < 2), clear_for_s) if raised else ((lambda k: k > 2), for_s)
        run = []
        for when, k in reversed(history):
            if not wanted(k) or when < changed_s:
                break
            run.append(when)
        due = bool(run) and t_s - run[-1] >= hold_s - 1e-6
        assert states == ([("cleared" if raised else "raised")] if due else [])
        if due:
            # What was seen up to here was used up by this change.
            raised, changed_s, history = not raised, t_s, []
