"""FrameBuffer and Batcher: when a batch goes out, what is in it, what is dropped."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from stream.batch import BLIND_S, LEAST_WINDOW, MAX_WINDOW_S, STALE_PASS_S, STALLED_INTERVALS, Batcher, batch_window_s
from stream.buffer import FrameBuffer, Policy
from stream.expected import Usual
from stream.frame import Frame, FrameInfo, Uint8Array
from stream.testing.clock import ManualClock

LATENCY_S = 0.5


def make_frame(source_id: str = "a", index: int = 0, captured_s: float = 1000.0, size: int = 2) -> Frame:
    info = FrameInfo(source_id, "", index, index / 25, 0.0, 64, 48, captured_s, captured_s)
    return Frame(info, np.full((size, size, 3), index % 256, np.uint8))


def indices(frames: tuple[Frame, ...]) -> list[tuple[str, int]]:
    return [(frame.info.source_id, frame.info.frame_index) for frame in frames]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def dropped() -> list[tuple[str, int, str]]:
    return []


@pytest.fixture
def batcher(clock: ManualClock, dropped: list[tuple[str, int, str]]) -> Batcher:
    return Batcher("people", 4, LATENCY_S, clock, lambda f, why: dropped.append((f.info.source_id, f.info.frame_index, why)))


class TestFrameBuffer:
    def test_gives_frames_in_order(self) -> None:
        buffer = FrameBuffer(3, Policy.BLOCK)
        frames = [make_frame(index=i) for i in range(3)]
        assert [buffer.put(frame) for frame in frames] == [None] * 3
        assert buffer.full
        assert [buffer.pop() for _ in range(4)] == [*frames, None]

    @pytest.mark.parametrize(("policy", "gone", "kept"), [(Policy.DROP_OLDEST, 0, [1, 2]), (Policy.DROP_NEWEST, 2, [0, 1])])
    def test_full_buffer_drops_by_policy(self, policy: Policy, gone: int, kept: list[int]) -> None:
        buffer = FrameBuffer(2, policy)
        frames = [make_frame(index=i) for i in range(3)]
        assert buffer.put(frames[0]) is None
        assert buffer.put(frames[1]) is None
        assert buffer.put(frames[2]) is frames[gone]
        assert [buffer.pop() for _ in range(2)] == [frames[i] for i in kept]

    def test_block_waits_for_room(self) -> None:
        buffer = FrameBuffer(1, Policy.BLOCK)
        first, second = make_frame(index=0), make_frame(index=1)
        buffer.put(first)
        thread = threading.Thread(target=buffer.put, args=(second,), daemon=True)
        thread.start()
        thread.join(0.05)
        assert thread.is_alive()
        assert buffer.pop() is first
        thread.join(5)
        assert not thread.is_alive()
        assert buffer.pop() is second

    def test_close_wakes_a_blocked_put_and_keeps_what_is_there(self) -> None:
        buffer = FrameBuffer(1, Policy.BLOCK)
        first, second = make_frame(index=0), make_frame(index=1)
        buffer.put(first)
        returned: list[Frame | None] = []
        thread = threading.Thread(target=lambda: returned.append(buffer.put(second)), daemon=True)
        thread.start()
        buffer.close()
        thread.join(5)
        assert returned == [second]
        assert buffer.pop() is first
        assert buffer.put(first) is first

    def test_rejects_a_capacity_of_0(self) -> None:
        with pytest.raises(ValueError, match="capacity must be at least 1, not 0"):
            FrameBuffer(0, Policy.BLOCK)


class TestWindow:
    @pytest.mark.parametrize(
        ("latency_s", "detector_s", "window_s"), [(0.2, 0.03, 0.052), (0.5, 0.03, MAX_WINDOW_S), (0.1, 0.03, 0.02), (0.1, 0.5, 0.0)]
    )
    def test_follows_from_slo_and_detector_time(self, latency_s: float, detector_s: float, window_s: float) -> None:
        assert batch_window_s(latency_s, detector_s) == pytest.approx(window_s)

    def test_shrinks_as_the_detector_slows_down(self, batcher: Batcher) -> None:
        assert batcher.window_s == MAX_WINDOW_S
        batcher.observe_detector_s(0.01, 4)
        assert batcher.detector_s == 0.01  # the first is taken as it is
        for _ in range(30):
            batcher.observe_detector_s(0.38, 4)
        assert batcher.detector_s == pytest.approx(0.38, rel=0.01)
        assert batcher.window_s == pytest.approx((0.4 - 0.38) * 0.4, abs=0.001)

    def test_a_small_batch_moves_the_average_less(self, batcher: Batcher) -> None:
        other = Batcher("people", 4, LATENCY_S)
        for each, frames in ((batcher, 1), (other, 4)):
            each.observe_detector_s(0.1, 4)
            each.observe_detector_s(0.2, frames)
        assert 0.1 < batcher.detector_s < other.detector_s < 0.2


class TestWhenABatchGoesOut:
    def test_at_batch_size(self, batcher: Batcher) -> None:
        batcher.add_source("a", 10, Policy.BLOCK, live=False)
        for i in range(3):
            batcher.put(make_frame(index=i))
        assert batcher.next_batch(0) is None
        batcher.put(make_frame(index=3))
        batcher.put(make_frame(index=4))
        batch, frames = batcher.next_batch(0) or pytest.fail("no batch")
        assert batch.detector == "people"
        assert batch.frames == tuple(frame.info for frame in frames)
        assert indices(frames) == [("a", i) for i in range(4)]
        assert batch.images.shape == (4, 2, 2, 3)
        assert batch.images.flags.c_contiguous
        assert batch.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
        assert batcher.pending() == 1

    def test_when_the_oldest_has_waited_for_the_window(self, batcher: Batcher, clock: ManualClock) -> None:
        batcher.add_source("a", 10, Policy.BLOCK, live=False)
        batcher.put(make_frame(index=0))
        clock.advance(MAX_WINDOW_S * 0.6)
        batcher.put(make_frame(index=1))
        assert batcher.next_batch(0) is None
        clock.advance(MAX_WINDOW_S * 0.5)
        batch, _ = batcher.next_batch(0) or pytest.fail("no batch")
        assert [info.frame_index for info in batch.frames] == [0, 1]
        assert {info.batched_s for info in batch.frames} == {clock.monotonic()}

    def test_when_a_lossless_source_cannot_go_on(self, batcher: Batcher) -> None:
        batcher.add_source("a", 2, Policy.BLOCK, live=False)
        batcher.add_source("slow", 2, Policy.BLOCK, live=False)
        batcher.put(make_frame("a", 0))
        assert batcher.next_batch(0) is None
        batcher.put(make_frame("a", 1))
        assert indices((batcher.next_batch(0) or pytest.fail("no batch"))[1]) == [("a", 0), ("a", 1)]

    def test_when_every_live_source_has_a_frame_in(self, batcher: Batcher) -> None:
        for source_id in "ab":
            batcher.add_source(source_id, 4, Policy.DROP_OLDEST, live=True)
        batcher.put(make_frame("a"))
        assert batcher.next_batch(0) is None
        batcher.put(make_frame("b"))
        assert batcher.next_batch(0) is not None

    def test_a_live_source_that_is_stalled_holds_nobody_back(self, batcher: Batcher, clock: ManualClock) -> None:
        for source_id in ("a", "dead", "stalled"):
            batcher.add_source(source_id, 4, Policy.DROP_OLDEST, live=True)
        for i in range(3):
            clock.advance(0.2)
            now_s = clock.monotonic()
            batcher.put(make_frame("a", i, captured_s=now_s))
            batcher.put(make_frame("stalled", i, captured_s=now_s))
            clock.advance(batcher.window_s)
            assert batcher.next_batch(0) is not None
        clock.advance(STALLED_INTERVALS * (0.2 + MAX_WINDOW_S) - MAX_WINDOW_S - 0.05)
        batcher.put(make_frame("a", 3, captured_s=clock.monotonic()))
        assert batcher.next_batch(0) is None  # it may only be late
        clock.advance(0.1)
        assert indices((batcher.next_batch(0) or pytest.fail("no batch"))[1]) == [("a", 3)]

    @pytest.mark.parametrize(("behind_s", "together"), [(0.09, True), (0.11, False)])
    def test_waits_for_a_live_source_only_if_a_frame_of_it_may_come_in_time(
        self, batcher: Batcher, clock: ManualClock, behind_s: float, together: bool
    ) -> None:
        for source_id in "ab":
            batcher.add_source(source_id, 4, Policy.DROP_OLDEST, live=True)
        for i in range(3):  # a frame each 0.4 s, that of the other source so far behind
            for source_id, wait_s in (("a", behind_s), ("b", 0.4 - behind_s)):
                batcher.put(make_frame(source_id, i, captured_s=clock.monotonic()))
                clock.advance(wait_s)
            while batcher.pending():
                assert batcher.next_batch(0) is not None
        batcher.put(make_frame("a", 3, captured_s=clock.monotonic()))
        assert (batcher.next_batch(0) is None) == together
        clock.advance(behind_s)
        batcher.put(make_frame("b", 3, captured_s=clock.monotonic()))
        expected = [("a", 3), ("b", 3)] if together else [("b", 3)]
        assert indices((batcher.next_batch(0) or pytest.fail("no batch"))[1]) == expected

    def test_when_a_frame_would_be_late_if_it_waited(self, batcher: Batcher, clock: ManualClock) -> None:
        for source_id in "ab":
            batcher.add_source(source_id, 4, Policy.DROP_OLDEST, live=True)
        batcher.observe_detector_s(0.1, 4)
        batcher.put(make_frame("a", captured_s=clock.monotonic() - 0.385))
        assert batcher.next_batch(0) is None
        clock.advance(0.014)
        assert batcher.next_batch(0) is None
        clock.advance(0.001)
        assert LEAST_WINDOW * batcher.window_s > 0.02
        assert batcher.next_batch(0) is not None

    @pytest.mark.parametrize(("spent_s", "wait_s"), [(0.0, 0.1), (0.03, 0.07), (0.09, 0.025), (0.3, 0.025)])
    def test_what_decoding_took_is_taken_off_the_window(
        self, batcher: Batcher, clock: ManualClock, spent_s: float, wait_s: float
    ) -> None:
        for source_id in "ab":
            batcher.add_source(source_id, 4, Policy.DROP_OLDEST, live=True)
        batcher.put(make_frame("a", captured_s=clock.monotonic() - spent_s))
        clock.advance(wait_s - 0.001)
        assert batcher.next_batch(0) is None
        clock.advance(0.002)
        assert indices((batcher.next_batch(0) or pytest.fail("no batch"))[1]) == [("a", 0)]

    def test_a_late_frame_shortens_a_wait_that_has_begun(self) -> None:
        batcher = Batcher("people", 4, 60.0)
        for source_id in "abc":
            batcher.add_source(source_id, 4, Policy.DROP_OLDEST, live=True)
        came: list[float] = []
        thread = threading.Thread(target=lambda: came.append(time.monotonic()) if batcher.next_batch(5) else None, daemon=True)
        began_s = time.monotonic()
        batcher.put(make_frame("a", captured_s=began_s))
        thread.start()
        while batcher._waiting_until_s < began_s:
            time.sleep(0.001)
        batcher.put(make_frame("b", captured_s=began_s - 1))
        thread.join(5)
        assert came[0] - began_s < 0.9 * MAX_WINDOW_S

    def test_when_all_sources_are_finished(self, batcher: Batcher) -> None:
        batcher.add_source("a", 4, Policy.BLOCK, live=False)
        batcher.put(make_frame("a"))
        batcher.finish_source("a")
        assert not batcher.drained
        assert not batcher.put(make_frame("a", 1))
        assert indices((batcher.next_batch(0) or pytest.fail("no batch"))[1]) == [("a", 0)]
        assert batcher.drained
        assert batcher.next_batch(0) is None

    def test_a_waiting_dispatcher_is_woken(self) -> None:
        batcher = Batcher("people", 2, LATENCY_S)
        batcher.add_source("a", 4, Policy.BLOCK, live=False)
        timer = threading.Timer(0.05, lambda: [batcher.put(make_frame("a", i)) for i in range(2)])
        timer.start()
        start_s = time.monotonic()
        assert batcher.next_batch(30) is not None
        assert time.monotonic() - start_s < 5
        timer.join()

    def test_waits_no_longer_than_the_timeout(self) -> None:
        batcher = Batcher("people", 2, LATENCY_S)  # without a source too: one may be added while the dispatcher waits
        start_s = time.monotonic()
        assert batcher.next_batch(0.05) is None
        assert 0.045 <= time.monotonic() - start_s < 5

    def test_close_wakes_everybody(self) -> None:
        batcher = Batcher("people", 4, LATENCY_S)
        batcher.add_source("a", 1, Policy.BLOCK, live=False)
        other = Batcher("people", 4, LATENCY_S)
        batcher.put(make_frame("a", 0))
        returned: list[object] = []
        threads = [
            threading.Thread(target=lambda: returned.append(batcher.put(make_frame("a", 1))), daemon=True),
            threading.Thread(target=lambda: returned.append(other.next_batch(60)), daemon=True),
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.02)
        batcher.close()
        other.close()
        for thread in threads:
            thread.join(5)
        assert sorted(map(str, returned)) == ["False", "None"]
        assert batcher.drained


class TestFairness:
    def test_round_robin(self, batcher: Batcher) -> None:
        for source_id in "abc":
            batcher.add_source(source_id, 10, Policy.BLOCK, live=False)
        for i in range(6):
            batcher.put(make_frame("a", i))
        batcher.put(make_frame("b", 0))
        batcher.put(make_frame("b", 1))
        batcher.put(make_frame("c", 0))
        first = (batcher.next_batch(0) or pytest.fail("no batch"))[1]
        assert indices(first) == [("a", 0), ("b", 0), ("c", 0), ("a", 1)]
        second = (batcher.next_batch(0) or pytest.fail("no batch"))[1]
        assert indices(second) == [("b", 1), ("a", 2), ("a", 3), ("a", 4)]  # goes on after the last one served

    def test_a_removed_source_leaves_nothing_behind(self, batcher: Batcher) -> None:
        for source_id in "ab":
            batcher.add_source(source_id, 10, Policy.BLOCK, live=False)
            batcher.put(make_frame(source_id))
        batcher.remove_source("a")
        batcher.remove_source("never there")
        batcher.finish_source("b")
        assert indices((batcher.next_batch(0) or pytest.fail("no batch"))[1]) == [("b", 0)]
        assert not batcher.put(make_frame("a", 1))
        batcher.add_source("a", 10, Policy.BLOCK, live=False)
        assert batcher.put(make_frame("a", 2))


class TestDrops:
    def test_queue_full_is_told_and_counted(self, batcher: Batcher, dropped: list[tuple[str, int, str]]) -> None:
        batcher.add_source("a", 2, Policy.DROP_OLDEST, live=True)
        batcher.add_source("b", 1, Policy.DROP_NEWEST, live=True)
        for i in range(4):
            assert batcher.put(make_frame("a", i))
        assert batcher.put(make_frame("b", 0))
        assert batcher.put(make_frame("b", 1))
        assert dropped == [("a", 0, "queue_full"), ("a", 1, "queue_full"), ("b", 1, "queue_full")]
        assert batcher.drops() == {"a": {"queue_full": 2}, "b": {"queue_full": 1}}

    def test_live_frames_that_cannot_be_in_time_are_shed(
        self, batcher: Batcher, clock: ManualClock, dropped: list[tuple[str, int, str]]
    ) -> None:
        batcher.add_source("a", 8, Policy.DROP_OLDEST, live=True)
        batcher.observe_detector_s(0.1, 4)
        now_s = clock.monotonic()
        for i, age_s in enumerate((0.6, 0.41, 0.39, 0.0)):
            batcher.put(make_frame("a", i, captured_s=now_s - age_s))
        assert indices((batcher.next_batch(0) or pytest.fail("no batch"))[1]) == [("a", 2), ("a", 3)]
        assert dropped == [("a", 0, "stale"), ("a", 1, "stale")]
        assert batcher.drops() == {"a": {"stale": 2}}

    def test_lossless_frames_are_never_shed(self, batcher: Batcher, clock: ManualClock) -> None:
        batcher.add_source("a", 8, Policy.BLOCK, live=False)
        batcher.put(make_frame("a", captured_s=clock.monotonic() - 3600))
        batcher.finish_source("a")
        assert batcher.next_batch(0) is not None

    def test_a_slow_measurement_does_not_shed_fresh_frames_for_good(self, batcher: Batcher, clock: ManualClock) -> None:
        batcher.add_source("a", 8, Policy.DROP_OLDEST, live=True)
        batcher.observe_detector_s(30.0, 1)
        batcher.put(make_frame("a", captured_s=clock.monotonic()))
        assert batcher.next_batch(0) is not None

    @pytest.mark.parametrize(("line_s", "pass_s"), [(5.0, STALE_PASS_S), (0.0, BLIND_S)])
    def test_a_source_that_is_always_late_is_not_blind(
        self, batcher: Batcher, clock: ManualClock, dropped: list[tuple[str, int, str]], line_s: float, pass_s: float
    ) -> None:
        batcher.add_source("a", 8, Policy.DROP_OLDEST, live=True)
        passed, hopeless = [], 0
        for i in range(400):
            clock.advance(0.1)
            frame = make_frame("a", i, captured_s=clock.monotonic() - 5)
            hopeless += batcher.is_hopeless("a", frame.info.captured_s, line_s)
            batcher.put(replace(frame, info=replace(frame.info, line_s=line_s)))
            if batch := batcher.next_batch(0):
                passed += [info.frame_index for info in batch[0].frames]
        assert len(passed) == pytest.approx(40 / pass_s, rel=0.1, abs=1)
        assert len(dropped) == hopeless == 400 - len(passed)

    def test_a_line_is_too_long_where_it_and_what_follows_take_the_whole_budget(self, batcher: Batcher) -> None:
        assert not batcher.line_too_long(LATENCY_S)
        assert batcher.line_too_long(LATENCY_S + 0.01)
        batcher.observe_detector_s(0.1, 4)
        batcher.observe_emit(Usual(0.05, 0.05))
        assert not batcher.line_too_long(0.34)
        assert batcher.line_too_long(0.36)

    def test_what_follows_the_detector_is_charged_too(self, batcher: Batcher, clock: ManualClock) -> None:
        batcher.add_source("a", 8, Policy.DROP_OLDEST, live=True)
        info = make_frame(captured_s=clock.monotonic()).info
        clock.advance(0.42)
        assert not batcher.is_stale(info, clock.monotonic())
        assert not batcher.is_hopeless("a", info.captured_s, 0.0)
        assert not batcher.is_hopeless("unknown", info.captured_s - 9, 0.0)
        batcher.observe_emit(Usual(0.1, 0.1))
        assert batcher.is_stale(info, clock.monotonic())
        assert batcher.is_hopeless("a", info.captured_s, 0.0)
        batcher.observe_emit(Usual(60.0, 60.0))  # the broker is away: shedding does not bring it back
        assert batcher.rest_s == LATENCY_S / 4

    def test_where_nothing_makes_sure_of_the_deadline_the_mean_is_charged(self, batcher: Batcher, clock: ManualClock) -> None:
        batcher.add_source("a", 8, Policy.DROP_OLDEST, live=True)
        batcher.observe_detector_s(0.03, 8)
        batcher.observe_emit(Usual(0.03, 0.08))
        info = make_frame(captured_s=clock.monotonic()).info
        clock.advance(0.42)  # for sure another 0.11 s, usually 0.06
        for line_s, stale in ((0.0, True), (0.4, False)):
            assert batcher.is_stale(replace(info, line_s=line_s), clock.monotonic()) == stale
            assert batcher.is_hopeless("a", info.captured_s, line_s) == stale
        clock.advance(0.03)
        assert batcher.is_stale(replace(info, line_s=0.4), clock.monotonic())

    def test_an_unsteady_detector_is_charged_for_its_slow_batches(self, batcher: Batcher) -> None:
        steady = Batcher("people", 4, LATENCY_S)
        for i in range(100):
            steady.observe_detector_s(0.1, 1)
            batcher.observe_detector_s(0.05 if i % 2 else 0.15, 1)
        assert steady.rest_s == pytest.approx(0.1, abs=0.005)
        assert batcher.rest_s == pytest.approx(0.2, abs=0.02)

    def test_frames_that_the_gate_held_are_not_stale_for_that(self, batcher: Batcher) -> None:
        info = make_frame(captured_s=100.0).info
        assert batcher.is_stale(info, 103.0)
        assert not batcher.is_stale(replace(info, held_s=2.9), 103.0)

    def test_is_stale_charges_at_most_half_the_budget_for_the_detector(self, batcher: Batcher) -> None:
        info = make_frame(captured_s=100.0).info
        assert not batcher.is_stale(info, 100.5)
        assert batcher.is_stale(info, 100.51)
        batcher.observe_detector_s(9.0, 4)
        assert not batcher.is_stale(info, 100.25)
        assert batcher.is_stale(info, 100.26)


class TestBadUse:
    def test_lossless_source_with_a_dropping_policy(self, batcher: Batcher) -> None:
        with pytest.raises(ValueError, match="lossless source 'a' needs the policy BLOCK, not DROP_OLDEST"):
            batcher.add_source("a", 8, Policy.DROP_OLDEST, live=False)

    def test_same_source_twice(self, batcher: Batcher) -> None:
        batcher.add_source("a", 8, Policy.BLOCK, live=False)
        with pytest.raises(ValueError, match="'a' is there already"):
            batcher.add_source("a", 8, Policy.BLOCK, live=False)

    def test_images_of_two_sizes(self, batcher: Batcher) -> None:
        batcher.add_source("a", 8, Policy.BLOCK, live=False)
        batcher.put(make_frame("a", 0))
        with pytest.raises(ValueError, match=r"image must be \(2, 2, 3\), not \(4, 4, 3\)"):
            batcher.put(make_frame("a", 1, size=4))

    @pytest.mark.parametrize(("batch_size", "latency_s"), [(0, 1.0), (4, 0.0), (4, float("nan"))])
    def test_numbers_out_of_range(self, batch_size: int, latency_s: float) -> None:
        with pytest.raises(ValueError, match="must be"):
            Batcher("people", batch_size, latency_s)


def test_batches_are_written_where_the_caller_wants(clock: ManualClock) -> None:
    ring = np.zeros((16, 2, 2, 3), np.uint8)

    def allocate(shape: tuple[int, ...]) -> Uint8Array:
        return ring[: shape[0]]

    batcher = Batcher("people", 3, LATENCY_S, clock, allocate=allocate)
    batcher.add_source("a", 8, Policy.BLOCK, live=False)
    for i in range(3):
        batcher.put(make_frame("a", i + 5))
    batch, _ = batcher.next_batch(0) or pytest.fail("no batch")
    assert np.shares_memory(batch.images, ring)
    assert ring[:, 0, 0, 0].tolist()[:4] == [5, 6, 7, 0]


def test_threads_lose_nothing() -> None:
    batcher = Batcher("people", 8, LATENCY_S)
    count = 300

    def decode(source_id: str) -> None:
        for i in range(count):
            assert batcher.put(make_frame(source_id, i))
        batcher.finish_source(source_id)

    for source_id in "abcd":
        batcher.add_source(source_id, 4, Policy.BLOCK, live=False)
    threads = [threading.Thread(target=decode, args=(source_id,), daemon=True) for source_id in "abcd"]
    for thread in threads:
        thread.start()
    got: dict[str, list[int]] = {source_id: [] for source_id in "abcd"}
    while not batcher.drained:
        if batch := batcher.next_batch(1):
            for info in batch[0].frames:
                got[info.source_id].append(info.frame_index)
    for thread in threads:
        thread.join(5)
    assert got == {source_id: list(range(count)) for source_id in "abcd"}
