"""SloTracker: figures, breach and recovery, restarts, bounded memory."""

import json
import math
import tracemalloc

import pytest

from stream.config import SloConfig
from stream.frame import FrameInfo
from stream.slo import BOUNDS_S, LONGEST_S, MIN_FRAMES, SloTracker, stages_ms
from stream.testing.clock import ManualClock

CONFIG = SloConfig(latency_ms=500, objective=0.9, window_s=60)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def tracker(clock: ManualClock) -> SloTracker:
    return SloTracker(CONFIG, clock)


def record(tracker: SloTracker, source_id: str, good: int, late: int = 0) -> None:
    for _ in range(good):
        tracker.record(source_id, 0.1)
    for _ in range(late):
        tracker.record(source_id, 0.8)


def changes(tracker: SloTracker) -> list[tuple[str, str]]:
    return [(change.source_id, change.state) for change in tracker.evaluate()]


def test_stages_ms() -> None:
    info = FrameInfo("a", "", 0, 0.0, 0.0, 1, 1, captured_s=10.0, decoded_s=10.012, batched_s=10.0321234)
    stages = stages_ms(info, detected_s=10.04, tracked_s=10.0405)
    assert stages == {"decode": 12.0, "batch": 20.123, "detect": 7.877, "track": 0.5}
    assert list(stages) == ["decode", "batch", "detect", "track"]


def test_time_behind_a_closed_gate_is_a_stage_of_its_own() -> None:
    info = FrameInfo("a", "", 1, 0.0, 0.0, 64, 48, captured_s=10.0, decoded_s=12.1, batched_s=12.2, held_s=2.0)
    assert stages_ms(info, detected_s=12.3, tracked_s=12.4) == {
        "gate": 2000,
        "decode": 100,
        "batch": 100,
        "detect": 100,
        "track": 100,
    }


class TestFigures:
    def test_attainment_per_source_and_together(self, tracker: SloTracker) -> None:
        record(tracker, "a", 8, 2)
        record(tracker, "b", 10)
        assert tracker.attainments() == {"*": 0.9, "a": 0.8, "b": 1.0}
        assert tracker.report("a").frames == 10
        assert tracker.report().frames == 20

    def test_exactly_at_the_limit_is_good(self, tracker: SloTracker) -> None:
        tracker.record("a", 0.5)
        assert tracker.attainments()["a"] == 1.0

    def test_no_frames_no_figures(self, tracker: SloTracker) -> None:
        report = tracker.report("never seen")
        assert (report.frames, report.attainment, report.breached, report.budget_remaining) == (0, None, False, 1.0)
        assert all(math.isnan(value) for value in report.latency_s.values())
        assert tracker.attainments() == {}

    def test_window_slides(self, tracker: SloTracker, clock: ManualClock) -> None:
        record(tracker, "a", 0, 10)
        clock.advance(30)
        record(tracker, "a", 10)
        assert tracker.attainments()["a"] == 0.5
        clock.advance(31)
        assert tracker.attainments()["a"] == 1.0
        clock.advance(61)
        assert tracker.attainments() == {}

    def test_percentiles_are_within_a_bucket(self, tracker: SloTracker) -> None:
        for i in range(1, 1001):
            tracker.record("a", i / 1000)
        latency_s = tracker.report("a").latency_s
        for name, true_s in {"p50": 0.5, "p95": 0.95, "p99": 0.99}.items():
            assert latency_s[name] == pytest.approx(true_s, rel=2**0.25 - 1)

    @pytest.mark.parametrize(("seconds", "shown_s"), [(1000.0, BOUNDS_S[-1]), (0.0, 0.0025), (0.0055, 0.0055)])
    def test_percentiles_at_the_edges(self, tracker: SloTracker, seconds: float, shown_s: float) -> None:
        tracker.record("a", seconds)
        assert tracker.report("a").latency_s["p50"] == pytest.approx(shown_s, rel=0.02)

    def test_buckets_reach_from_5_ms_to_60_s(self) -> None:
        assert BOUNDS_S[0] == 0.005
        assert BOUNDS_S[-1] > 60

    def test_burn_rate_and_budget(self, tracker: SloTracker, clock: ManualClock) -> None:
        record(tracker, "a", 80, 20)  # 20 % bad, 10 % allowed
        assert tracker.report("a").burn_rates == pytest.approx({"5m": 2.0, "1h": 2.0, "6h": 2.0})
        assert tracker.report("a").budget_remaining == pytest.approx(-1.0)
        clock.advance(600)
        record(tracker, "a", 300)
        report = tracker.report("a")
        assert report.burn_rates == pytest.approx({"5m": 0.0, "1h": 0.5, "6h": 0.5})
        assert report.budget_remaining == pytest.approx(0.5)
        clock.advance(3 * 3600)
        assert tracker.report("a").burn_rates == pytest.approx({"5m": 0.0, "1h": 0.0, "6h": 0.5})
        clock.advance(6 * 3600)
        assert tracker.report("a").budget_remaining == 1.0


class TestBreachAndRecovery:
    def test_one_breach_one_recovery(self, tracker: SloTracker, clock: ManualClock) -> None:
        record(tracker, "a", 20)
        record(tracker, "b", 100)
        assert changes(tracker) == []
        record(tracker, "a", 0, 5)
        assert changes(tracker) == [("a", "slo_breached")]  # all together still hold 96 %
        assert changes(tracker) == []
        found = []
        for _ in range(90):
            clock.advance(1)
            record(tracker, "a", 2)
            found += [(clock.monotonic() - 1000.0, *change) for change in changes(tracker)]
        assert len(found) == 1
        at_s, source_id, state = found[0]
        assert (source_id, state) == ("a", "slo_recovered")
        # 5 late in 25 frames: from 50 frames on 90 % are good, at 13 s; a quarter of the window later it is settled.
        assert at_s == pytest.approx(13 + 15, abs=1)

    def test_a_relapse_starts_the_wait_again(self, tracker: SloTracker, clock: ManualClock) -> None:
        record(tracker, "a", 0, 10)
        assert ("a", "slo_breached") in changes(tracker)
        clock.advance(61)
        record(tracker, "a", 20)
        assert changes(tracker) == []
        clock.advance(14)
        record(tracker, "a", 0, 10)
        assert changes(tracker) == []
        record(tracker, "a", 200)
        clock.advance(2)
        assert changes(tracker) == []
        clock.advance(16)
        assert ("a", "slo_recovered") in changes(tracker)

    def test_all_sources_together_have_a_state_of_their_own(self, tracker: SloTracker) -> None:
        record(tracker, "a", 0, 9)  # too few to be judged alone
        record(tracker, "b", 0, 9)
        assert changes(tracker) == [("*", "slo_breached")]
        assert tracker.report().breached
        assert not tracker.report("a").breached

    @pytest.mark.parametrize(
        ("good", "late", "breached"), [(0, MIN_FRAMES - 1, False), (0, MIN_FRAMES, True), (9, 1, False), (8, 1, False)]
    )
    def test_few_frames_prove_nothing(self, tracker: SloTracker, good: int, late: int, breached: bool) -> None:
        record(tracker, "a", good, late)
        assert (("a", "slo_breached") in changes(tracker)) is breached

    def test_one_late_frame_is_no_breach(self, clock: ManualClock) -> None:
        tracker = SloTracker(SloConfig(latency_ms=500, objective=0.99, window_s=60), clock)
        record(tracker, "a", 30, 1)
        assert changes(tracker) == []
        record(tracker, "a", 0, 1)
        assert changes(tracker) == [("*", "slo_breached"), ("a", "slo_breached")]

    def test_silence_is_no_recovery(self, tracker: SloTracker, clock: ManualClock) -> None:
        record(tracker, "a", 0, 20)
        changes(tracker)
        for _ in range(200):
            clock.advance(1)
            assert changes(tracker) == []
        assert tracker.report("a").breached

    def test_reason_gives_the_figures(self, tracker: SloTracker) -> None:
        record(tracker, "a", 60, 40)
        reason = {change.source_id: change.reason for change in tracker.evaluate()}["a"]
        assert "60.00 % of 100 frames within 500 ms over 60 s, objective 90 %" in reason
        assert "p50 110 ms, p95 887 ms, p99 901 ms" in reason
        assert "burn rate 4.0" in reason


class TestRestart:
    def test_a_breach_is_not_told_twice(self, tracker: SloTracker, clock: ManualClock) -> None:
        record(tracker, "a", 0, 20)
        assert len(changes(tracker)) == 2
        state = json.loads(json.dumps(tracker.state()))
        again = SloTracker(CONFIG, ManualClock(clock.time() + 30, monotonic_s=3.0))  # after a reboot
        again.restore(state)
        assert changes(again) == []
        record(again, "a", 0, 20)
        assert changes(again) == []
        assert again.report("a").breached

    def test_the_error_budget_survives(self, tracker: SloTracker, clock: ManualClock) -> None:
        record(tracker, "a", 90, 10)
        clock.advance(3000)
        record(tracker, "a", 100)
        state = json.loads(json.dumps(tracker.state()))
        before = tracker.report()
        clock_again = ManualClock(clock.time() + 120, monotonic_s=3.0)
        again = SloTracker(CONFIG, clock_again)
        again.restore(state)
        assert again.report().burn_rates == pytest.approx(before.burn_rates)
        clock_again.advance(LONGEST_S)
        assert again.report().budget_remaining == 1.0

    def test_state_from_the_future_is_left_out(self, tracker: SloTracker, clock: ManualClock) -> None:
        tracker.restore({"breached": [], "counts": [[clock.time() + 1e6, 0, 50], [clock.time() - 1e6, 0, 50]]})
        assert tracker.report().budget_remaining == 1.0


class TestBoundedMemory:
    def test_removed_sources_are_forgotten(self, tracker: SloTracker) -> None:
        record(tracker, "a", 20)
        tracker.remove("a")
        tracker.remove("a")
        tracker.remove("*")
        assert set(tracker.attainments()) == {"*"}

    def test_silent_sources_are_forgotten(self, tracker: SloTracker, clock: ManualClock) -> None:
        record(tracker, "a", 0, 20)
        changes(tracker)
        clock.advance(LONGEST_S + 1)
        changes(tracker)
        assert tracker.state()["breached"] == ["*"]  # that of all sources stays

    def test_a_day_of_frames_takes_no_more_than_an_hour(self, tracker: SloTracker, clock: ManualClock) -> None:
        def hours(count: int) -> None:
            for _ in range(count * 360):
                clock.advance(10)
                record(tracker, "a", 1)

        hours(7)
        tracemalloc.start()
        hours(24)
        grown, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert grown < 10_000


def test_counts_of_several_processes_add_up_to_one_report(clock: ManualClock) -> None:
    whole, parts = SloTracker(CONFIG, clock), [SloTracker(CONFIG, clock) for _ in range(3)]
    for i in range(90):
        latency_s = 0.01 * (1 + i)
        whole.record("cam", latency_s)
        parts[i % 3].record("cam", latency_s)
    first, second, third = (part.counts()["*"] for part in parts)
    assert (first + second + third).report(CONFIG.objective) == whole.report()
    assert whole.counts()["cam"].report(CONFIG.objective) == whole.report("cam")


def test_latencies_are_those_of_the_last_frames(tracker: SloTracker, clock: ManualClock) -> None:
    record(tracker, "cam", 50)
    record(tracker, "gone", 50)
    clock.advance(20)
    record(tracker, "cam", 0, 50)
    latencies = tracker.latencies(10)
    assert latencies["cam"] == pytest.approx((0.8, 0.8, 0.8), rel=0.2)
    assert "gone" not in latencies
    assert tracker.latencies(60)["cam"][0] == pytest.approx(0.1, rel=0.2)
