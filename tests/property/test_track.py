"""ByteTracker under arbitrary detections."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.config import TrackerConfig
from stream.detections import Detections
from stream.track import ByteTracker

pytestmark = pytest.mark.compute

coordinate = st.floats(-50, 700, width=32)
size = st.floats(-1, 300, width=32)
row = st.tuples(coordinate, coordinate, size, size, st.floats(0, 1, width=32), st.integers(0, 1))
frame = st.tuples(st.floats(-0.5, 3), st.lists(row, max_size=6))
frames = st.lists(frame, max_size=15)


def detections(rows: list[tuple[float, float, float, float, float, int]]) -> Detections:
    return Detections.of([(x, y, x + w, y + h) for x, y, w, h, _, _ in rows], [r[4] for r in rows], [r[5] for r in rows])


def run(tracker: ByteTracker, clip: list[tuple[float, Detections]]) -> list[Detections]:
    return [tracker.update(found, t_s) for t_s, found in clip]


def clip_of(given_frames: list) -> list[tuple[float, Detections]]:
    times = 1_764_000_000 + np.cumsum([dt for dt, _ in given_frames])
    return [(float(t), detections(rows)) for t, (_, rows) in zip(times, given_frames, strict=True)]


@given(frames, st.integers(1, 8))
def test_invariants(given_frames: list, max_tracks: int) -> None:
    config = TrackerConfig(max_tracks=max_tracks)
    tracker, born, class_of = ByteTracker(config, 0.5), 0, {}
    for t_s, found in clip_of(given_frames):
        out = tracker.update(found, t_s)
        ids = out.track_id.tolist()
        assert len(set(ids)) == len(ids), "an id twice in a frame"
        assert len(tracker) <= max_tracks
        assert len(out) <= max_tracks
        assert (out.confidence >= np.float32(config.low_confidence)).all()
        for track_id, class_id in zip(ids, out.class_id.tolist(), strict=True):
            assert class_of.setdefault(track_id, class_id) == class_id, "a track changed its class"
        fresh = [i for i in ids if i > born]
        assert fresh == sorted(fresh)
        born = max([born, *ids])
        # Rows keep their order: each output row is found in the input behind the one before.
        position = -1
        for xyxy, confidence in zip(out.xyxy, out.confidence, strict=True):
            position += 1
            while not (np.array_equal(found.xyxy[position], xyxy) and found.confidence[position] == confidence):
                position += 1


@given(frames)
def test_every_usable_confident_row_has_a_track(given_frames: list) -> None:
    tracker = ByteTracker(TrackerConfig(), 0.5)
    for t_s, found in clip_of(given_frames):
        out = tracker.update(found, t_s)
        usable = ((found.xyxy[:, 2:] - found.xyxy[:, :2]) > 0).all(1)
        assert (out.confidence >= 0.5).sum() == (usable & (found.confidence >= 0.5)).sum()


@given(frames)
def test_ended_ids_never_come_back(given_frames: list) -> None:
    tracker = ByteTracker(TrackerConfig(lost_s=1), 0.5)
    ended: set[int] = set()
    alive: set[int] = set()
    for t_s, found in clip_of(given_frames):
        ids = set(tracker.update(found, t_s).track_id.tolist())
        assert not ids & ended
        now = set(tracker.state()["id"])
        ended |= (alive | ids) - now
        alive = now


@given(frames, st.integers(0, 15))
def test_restore_goes_on_exactly(given_frames: list, cut: int) -> None:
    clip = clip_of(given_frames)
    whole = run(ByteTracker(TrackerConfig(), 0.5), clip)
    first, second = ByteTracker(TrackerConfig(), 0.5), ByteTracker(TrackerConfig(), 0.5)
    halves = run(first, clip[:cut])
    saved = json.loads(json.dumps(first.state()))
    second.restore(saved)
    assert second.state() == saved
    halves += run(second, clip[cut:])
    for a, b in zip(whole, halves, strict=True):
        np.testing.assert_array_equal(a.track_id, b.track_id)
        np.testing.assert_array_equal(a.xyxy, b.xyxy)
