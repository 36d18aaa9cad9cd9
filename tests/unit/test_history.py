"""History: steps, gaps, restarts, and that memory is bounded."""

import pytest

from stream.history import FINE_STEPS, MAX_CHANGES, MAX_COLUMNS, Change, History, Reading
from stream.testing import ManualClock

T0 = 1_700_000_040.0  # begins a minute


class Watch:
    """A source that analyses ``fps`` frames a second and is read once a second."""

    def __init__(self) -> None:
        self.clock = ManualClock(T0)
        self.history = History(self.clock)
        self.analysed = self.stale = self.entered = 0

    def run(self, seconds: int, fps: int = 5, inside: int = 1, every_s: float = 1.0, p99_s: float = 0.2) -> None:
        for _ in range(seconds):
            self.history.add("cam", self.reading(inside, p99_s))
            self.clock.advance(every_s)
            self.analysed += round(fps * every_s)
            self.stale += 2
            self.entered += 1

    def reading(self, inside: int = 1, p99_s: float = 0.2) -> Reading:
        return Reading(
            analysed=self.analysed,
            stages_ms={"detect": 20.0 * self.analysed},
            dropped={"stale": self.stale},
            crossings={"door": {"in": self.entered, "out": 0}},
            occupancy={"floor": inside},
            latency_s=(0.05, 0.1, p99_s),
        )


def test_a_step_holds_what_happened_in_it() -> None:
    watch = Watch()
    watch.run(20, inside=1)
    watch.run(20, inside=3, p99_s=0.4)
    span = watch.history.span("cam", 40)
    assert (span.step_s, span.t) == (2.0, [T0 + 2 * i for i in range(20)])
    assert span.fps[1:] == [5.0] * 19
    assert span.stages_ms["detect"][1:] == [20.0] * 19
    assert span.dropped["stale"][1:] == [4.0] * 19
    assert span.crossings["door"] == {"in": [1.0] + [2.0] * 19, "out": [0.0] * 20}
    assert span.occupancy["floor"] == [1.0] * 10 + [3.0] * 10
    assert span.latency_ms["p50"] == [50.0] * 20
    assert span.latency_ms["p99"] == [200.0] * 10 + [400.0] * 10
    assert watch.history.fps("cam") == 5.0


def test_readings_out_of_time_with_the_steps_give_no_false_rates() -> None:
    watch = Watch()
    watch.run(50, fps=10, every_s=0.7)
    assert set(watch.history.span("cam", 30).fps) == {10.0}


def test_a_reason_that_comes_up_later_was_none_before() -> None:
    watch = Watch()
    watch.run(10)
    watch.history.add("cam", Reading(analysed=watch.analysed, dropped={"queue_full": 3}))
    watch.clock.advance(2)
    assert watch.history.span("cam", 12).dropped["queue_full"] == [0.0] * 5 + [3.0]


def test_a_total_that_begins_anew_is_no_loss() -> None:
    watch = Watch()
    watch.run(10)
    watch.analysed = 3  # the aggregator was restarted 0.6 s ago
    watch.run(10)
    span = watch.history.span("cam", 20)
    assert span.fps[5] == pytest.approx((3 + 5) / 2)
    assert all(fps == 5.0 for fps in span.fps[6:])


def test_a_source_that_is_not_read_is_a_gap() -> None:
    watch = Watch()
    watch.run(4)
    watch.clock.advance(6)
    watch.run(4)
    span = watch.history.span("cam", 14)
    assert [fps is None for fps in span.fps] == [False, False, True, True, True, False, False]
    assert span.occupancy["floor"][2:5] == [None] * 3
    assert watch.history.span("other", 60).fps == [None] * 30


def test_a_day_comes_in_minutes_and_memory_does_not_grow() -> None:
    watch = Watch()
    watch.run(2 * 60 * 60, every_s=1.0)
    span = watch.history.span("cam", 86_400)
    assert (span.step_s, len(span.t)) == (60.0, 1439)
    assert span.fps[-119:] == [5.0] * 119
    assert span.dropped["stale"][-100] == 120.0
    assert span.fps[:1300] == [None] * 1300
    fine = watch.history.span("cam", 1800)
    assert len(fine.t) == FINE_STEPS - 1
    assert set(fine.fps) == {5.0}


def test_columns_and_changes_are_bounded() -> None:
    watch = Watch()
    for i in range(2 * MAX_COLUMNS):
        watch.history.add("cam", Reading(occupancy={f"zone-{i}": 1}))
        watch.history.changed("cam", Change(watch.clock.time(), "offline", str(i)))
    watch.clock.advance(2)
    span = watch.history.span("cam", 10)
    assert len(span.occupancy) < MAX_COLUMNS
    assert [change.reason for change in span.health] == [str(i) for i in range(2 * MAX_COLUMNS - MAX_CHANGES, 2 * MAX_COLUMNS)]


def test_health_is_that_of_the_time_asked_for() -> None:
    watch = Watch()
    watch.history.changed("cam", Change(T0, "offline", "stalled"))
    watch.clock.advance(100)
    watch.history.changed("cam", Change(T0 + 100, "online", ""))
    assert [change.state for change in watch.history.span("cam", 50).health] == ["online"]


def test_a_clock_set_back_harms_nothing() -> None:
    watch = Watch()
    watch.run(10)
    watch.history._clock._time_s -= 3600  # type: ignore[attr-defined]
    watch.run(10)
    assert watch.history.span("cam", 20).fps[-2:] == [5.0, 5.0]


def test_sources_that_are_gone_are_forgotten() -> None:
    watch = Watch()
    watch.run(10)
    watch.history.retain(["other"])
    assert watch.history.span("cam", 10).fps == [None] * 5
    assert watch.history.fps("cam") == 0
