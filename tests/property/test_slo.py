"""SloTracker against a plain list of all frames."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from stream.config import SloConfig
from stream.slo import BOUNDS_S, SloTracker
from stream.testing.clock import ManualClock

WINDOW_S = 60
frames = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40), st.floats(0.0, 65.0)), min_size=1, max_size=60)


@settings(deadline=None)
@given(frames)
def test_agrees_with_counting_by_hand(frames: list[tuple[str, int, float]]) -> None:
    clock = ManualClock(monotonic_s=5000)
    config = SloConfig(latency_ms=500, objective=0.9, window_s=WINDOW_S)
    tracker = SloTracker(config, clock)
    seen: list[tuple[float, str, float]] = []
    for source_id, pause_s, latency_s in frames:
        clock.advance(pause_s)
        tracker.record(source_id, latency_s)
        seen.append((clock.monotonic(), source_id, latency_s))
    for source_id in "ab*":
        # Times are whole seconds, as the window's rows are: the last 60 rows are the frames younger than 60 s.
        recent = sorted(lat for t, s, lat in seen if source_id in (s, "*") and t > clock.monotonic() - WINDOW_S)
        report = tracker.report(source_id)
        assert report.frames == len(recent)
        if not recent:
            assert report.attainment is None
            continue
        assert report.attainment == sum(lat <= 0.5 for lat in recent) / len(recent)
        for name, percent in (("p50", 50), ("p95", 95), ("p99", 99)):
            true_s = recent[math.ceil(percent * len(recent) / 100) - 1]
            low = max((bound for bound in BOUNDS_S if bound < true_s), default=0.0)
            high = min((bound for bound in BOUNDS_S if bound >= true_s), default=BOUNDS_S[-1])
            assert low <= report.latency_s[name] <= high


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 5), st.integers(0, 5)), max_size=200))
def test_breaches_and_recoveries_alternate(steps: list[tuple[float, int, int]]) -> None:
    clock = ManualClock()
    tracker = SloTracker(SloConfig(latency_ms=500, objective=0.9, window_s=10), clock)
    states: dict[str, list[str]] = {"a": [], "*": []}
    for pause_s, good, late in steps:
        clock.advance(pause_s)
        for latency_s, count in ((0.1, good), (0.9, late)):
            for _ in range(count):
                tracker.record("a", latency_s)
        for change in tracker.evaluate():
            states[change.source_id].append(change.state)
            attainment = tracker.report(change.source_id).attainment
            assert attainment is not None
            assert (attainment < 0.9) is (change.state == "slo_breached")
    for told in states.values():
        assert told == ["slo_breached", "slo_recovered"] * (len(told) // 2) + ["slo_breached"] * (len(told) % 2)
