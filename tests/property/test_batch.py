"""Batcher under any order of events: nothing lost or doubled, order kept, shares fair, drops add up."""

from collections import Counter
from math import ceil

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.batch import Batcher
from stream.buffer import Policy
from stream.frame import Frame, FrameInfo
from stream.testing.clock import ManualClock

IMAGE = np.zeros((1, 1, 3), np.uint8)
LATENCY_S = 0.5


def make_frame(source_id: str, index: int, captured_s: float) -> Frame:
    return Frame(FrameInfo(source_id, "", index, 0.0, 0.0, 1, 1, captured_s, captured_s), IMAGE)


PUT, TAKE, WAIT = "put", "take", "wait"
steps = st.lists(
    st.one_of(
        st.tuples(st.just(PUT), st.sampled_from("abc"), st.floats(0, 1)),
        st.tuples(st.just(TAKE)),
        st.tuples(st.just(WAIT), st.floats(0, 0.3)),
        st.tuples(st.just("detector"), st.floats(0.001, 2), st.integers(1, 8)),
    ),
    max_size=120,
)
sources = st.fixed_dictionaries(
    {
        s: st.tuples(st.integers(1, 6), st.sampled_from([(Policy.BLOCK, False), *[(policy, True) for policy in Policy]]))
        for s in "abc"
    }
)


@settings(deadline=None)
@given(steps, sources, st.integers(1, 8))
def test_every_frame_goes_one_way(
    steps: list[tuple[object, ...]], sources: dict[str, tuple[int, tuple[Policy, bool]]], batch_size: int
) -> None:
    clock = ManualClock()
    dropped: list[tuple[str, int, str]] = []
    batcher = Batcher(
        "d", batch_size, LATENCY_S, clock, lambda f, reason: dropped.append((f.info.source_id, f.info.frame_index, reason))
    )
    for source_id, (capacity, (policy, live)) in sources.items():
        batcher.add_source(source_id, capacity, policy, live)
    put: Counter[str] = Counter()
    held: Counter[str] = Counter()
    got: list[tuple[str, int]] = []

    def account() -> None:
        held.clear()
        held.update(put)
        held.subtract(source_id for source_id, _ in got)
        held.subtract(source_id for source_id, _, _ in dropped)

    def take() -> bool:
        batch = batcher.next_batch(0)
        if batch is not None:
            frames = batch[1]
            assert 1 <= len(frames) <= batch_size
            got.extend((frame.info.source_id, frame.info.frame_index) for frame in frames)
        account()
        return batch is not None

    for step in steps:
        match step:
            case ("put", str(source_id), float(age_s)):
                capacity, (policy, _) = sources[source_id]
                if policy is Policy.BLOCK and held[source_id] >= capacity:
                    continue  # would wait for the dispatcher, which is this very thread
                assert batcher.put(make_frame(source_id, put[source_id], clock.monotonic() - age_s))
                put[source_id] += 1
                account()
            case ("take",):
                take()
            case ("wait", float(seconds)):
                clock.advance(seconds)
            case ("detector", float(seconds), int(frames)):
                batcher.observe_detector_s(seconds, frames)
        assert batcher.pending() == held.total()
    counted = batcher.drops()
    for source_id in sources:
        batcher.finish_source(source_id)
    before_end = Counter((source_id, reason) for source_id, _, reason in dropped)
    assert before_end == Counter({(s, reason): n for s, reasons in counted.items() for reason, n in reasons.items()})
    while take():
        pass
    assert batcher.drained
    gone = got + [(source_id, index) for source_id, index, _ in dropped]
    assert sorted(gone) == sorted((source_id, i) for source_id, n in put.items() for i in range(n))
    for source_id, (_, (policy, live)) in sources.items():
        order = [index for s, index in got if s == source_id]
        assert order == sorted(order)
        if not live:
            assert not any(s == source_id for s, _, _ in dropped)
        if policy is Policy.BLOCK:
            assert (source_id, "queue_full") not in before_end


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abcdefg"), st.integers(0, 30), min_size=1), st.integers(1, 16))
def test_no_source_takes_more_than_its_share(waiting: dict[str, int], batch_size: int) -> None:
    batcher = Batcher("d", batch_size, LATENCY_S, ManualClock())
    for source_id, count in waiting.items():
        batcher.add_source(source_id, 30, Policy.BLOCK, live=False)
        for i in range(count):
            batcher.put(make_frame(source_id, i, 0.0))
        batcher.finish_source(source_id)
    left = Counter(waiting)
    while batch := batcher.next_batch(0):
        taken = Counter(info.source_id for info in batch[0].frames)
        crowd = sum(count > 0 for count in left.values())
        left.subtract(taken)
        assert len(batch[0]) == min(batch_size, left.total() + len(batch[0]))
        short = [taken[source_id] for source_id, count in left.items() if count > 0]
        if short:  # who still waits got at most one less than anybody else, and never less than an equal share
            assert max(taken.values()) <= min(short) + 1
            assert min(short) >= batch_size // crowd
        if len(short) == crowd:
            assert max(taken.values()) <= ceil(batch_size / crowd)
    assert left.total() == 0
