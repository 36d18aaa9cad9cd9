"""ByteTracker: ids on simple motion, the two stages, lifetimes, bounds, restore, and real trajectories."""

import json
from pathlib import Path

import numpy as np
import pytest

from stream.config import TrackerConfig
from stream.detections import NO_TRACK, Detections
from stream.track import ByteTracker

T0 = 1_764_000_000.0


def box(x: float, y: float = 300, w: float = 60, h: float = 180) -> list[float]:
    """A person-like box with its top left corner at x, y."""
    return [x, y, x + w, y + h]


def people(*boxes: list[float], confidence: list[float] | None = None, class_id: list[int] | None = None) -> Detections:
    return Detections.of(boxes, confidence or [0.9] * len(boxes), class_id or [0] * len(boxes))


def tracker(**settings: float) -> ByteTracker:
    return ByteTracker(TrackerConfig.model_validate(settings), 0.5)


def test_ids_start_at_one_and_are_given_at_once() -> None:
    assert tracker().update(people(box(0), box(300)), T0).track_id.tolist() == [1, 2]


def test_trackers_count_apart() -> None:
    assert [tracker().update(people(box(0)), T0).track_id.tolist() for _ in range(2)] == [[1], [1]]


def test_rows_come_back_unchanged_and_in_order() -> None:
    t = tracker()
    t.update(people(box(300), box(0), box(600)), T0)
    given = people(box(602), box(2), box(301), confidence=[0.7, 0.8, 0.9])
    out = t.update(given, T0 + 0.2)
    assert out.track_id.tolist() == [3, 2, 1]
    np.testing.assert_array_equal(out.xyxy, given.xyxy)
    np.testing.assert_array_equal(out.confidence, given.confidence)
    assert (given.track_id == NO_TRACK).all()


@pytest.mark.parametrize("fps", [25, 5, 2])
@pytest.mark.parametrize("speed", [30, 150, 250])
def test_a_walker_keeps_its_id(fps: float, speed: float) -> None:
    """180 px tall at up to 250 px a second, twice a walk; at 2 frames a second it leaves its own box each time."""
    t = tracker()
    ids = {t.update(people(box(100 + speed * i / fps)), T0 + i / fps).track_id.item() for i in range(int(6 * fps))}
    assert ids == {1}


def test_two_who_pass_each_other_keep_their_ids() -> None:
    t = tracker()
    for i in range(60):
        out = t.update(people(box(100 + 12 * i, 300), box(800 - 12 * i, 330)), T0 + i / 10)
        assert out.track_id.tolist() == [1, 2]


def test_uneven_frame_times() -> None:
    t, rng, now = tracker(), np.random.default_rng(1), 0.0
    for _ in range(50):
        assert t.update(people(box(100 + 140 * now)), T0 + now).track_id.tolist() == [1]
        now += rng.uniform(0.05, 0.6)


def test_a_faint_detection_carries_a_track_but_starts_none() -> None:
    t = tracker()
    assert len(t.update(people(box(0), confidence=[0.3]), T0)) == 0
    t.update(people(box(0)), T0 + 0.1)
    assert len(t.update(people(box(1), confidence=[0.3]), T0 + 0.2)) == 0  # seen once only: not to be kept by faint boxes
    t.update(people(box(1)), T0 + 0.3)
    out = t.update(people(box(2), box(500), confidence=[0.3, 0.3]), T0 + 0.4)
    assert out.track_id.tolist() == [1]
    assert out.confidence.tolist() == pytest.approx([0.3])


def test_a_track_needs_more_to_start_than_to_go_on() -> None:
    t = tracker(start_margin=0.2)
    assert t.update(people(box(0), box(300), confidence=[0.65, 0.75]), T0).track_id.tolist() == [1]
    assert t.update(people(box(0), box(300), confidence=[0.65, 0.55]), T0 + 0.2).xyxy.tolist() == [box(300)]


def test_below_low_confidence_is_ignored() -> None:
    t = tracker(low_confidence=0.2)
    t.update(people(box(0)), T0)
    assert len(t.update(people(box(0), confidence=[0.15]), T0 + 0.1)) == 0


def test_the_confident_are_served_first() -> None:
    t = tracker()
    t.update(people(box(0)), T0)
    out = t.update(people(box(0), box(8), confidence=[0.4, 0.9]), T0 + 0.1)
    assert out.track_id.tolist() == [1]
    assert out.xyxy[0, 0] == 8


def test_classes_do_not_mix() -> None:
    t = tracker()
    t.update(people(box(0), class_id=[0]), T0)
    assert t.update(people(box(0), class_id=[1]), T0 + 0.1).track_id.tolist() == [2]


def test_best_total_overlap_wins() -> None:
    t = tracker()
    t.update(people(box(0), box(40)), T0)
    assert t.update(people(box(38), box(-3)), T0 + 0.04).track_id.tolist() == [2, 1]


def test_a_track_survives_a_gap_shorter_than_lost_s_and_not_a_longer_one() -> None:
    for gap, expected in ((1.9, [1]), (2.2, [2])):
        t = tracker(lost_s=2)
        t.update(people(box(0)), T0)
        t.update(people(box(1)), T0 + 0.1)
        assert t.update(people(box(3)), T0 + 0.1 + gap).track_id.tolist() == expected


def test_seen_once_ends_after_a_second() -> None:
    t = tracker(lost_s=10)
    t.update(people(box(0)), T0)
    t.update(people(), T0 + 0.9)
    assert len(t) == 1
    t.update(people(), T0 + 1.2)
    assert len(t) == 0


def test_one_frame_in_two_seconds_still_tracks() -> None:
    t = tracker(lost_s=5)
    assert [t.update(people(box(2 * i)), T0 + 2 * i).track_id.item() for i in range(5)] == [1] * 5


def test_time_that_falls_back_counts_as_standing_still() -> None:
    t = tracker()
    t.update(people(box(0)), T0)
    assert t.update(people(box(0)), T0 - 100).track_id.tolist() == [1]
    assert t.update(people(box(0)), T0 + 0.1).track_id.tolist() == [1]


def test_unusable_boxes_are_left_out() -> None:
    t = tracker()
    broken = [[np.nan, 0, 10, 10], [0, 0, np.inf, 10], [-np.inf, 0, np.inf, 10], [5, 5, 5, 9], [9, 9, 3, 3]]
    assert t.update(people(box(0), *broken), T0).track_id.tolist() == [1]


def test_tracks_are_bounded_and_the_longest_unseen_go_first() -> None:
    t = tracker(max_tracks=3)
    t.update(people(box(0), box(300)), T0)
    t.update(people(box(300)), T0 + 0.1)
    assert t.update(people(box(600), box(900)), T0 + 0.2).track_id.tolist() == [3, 4]
    assert len(t) == 3
    assert t.update(people(box(0), box(300)), T0 + 0.3).track_id.tolist() == [5, 2]


def test_more_objects_than_tracks() -> None:
    t = tracker(max_tracks=2)
    assert t.update(people(*(box(300 * i) for i in range(5))), T0).track_id.tolist() == [1, 2]
    assert len(t) == 2


def test_empty_frames() -> None:
    t = tracker()
    assert len(t.update(Detections.empty(), T0)) == 0
    t.update(people(box(0)), T0 + 0.1)
    assert len(t.update(Detections.empty(), T0 + 0.2)) == 0
    assert t.update(people(box(0)), T0 + 0.3).track_id.tolist() == [1]


def test_restore_of_a_fresh_tracker() -> None:
    t = tracker()
    t.restore(json.loads(json.dumps(tracker().state())))
    assert t.update(people(box(0)), T0).track_id.tolist() == [1]


def frames_of(path: Path, step: int, least_visible: float = 0.0) -> list[tuple[float, list[int], list[list[float]]]]:
    """(time, identities, boxes) of every ``step``-th frame of a MOTChallenge ground truth at 25 frames a second."""
    by_frame: dict[int, list[list[float]]] = {}
    for line in path.read_text().splitlines():
        row = [float(value) for value in line.split(",")]
        if not least_visible or row[8] >= least_visible:
            by_frame.setdefault(int(row[0]), []).append(row)
    last = max(by_frame)
    return [
        (T0 + i / 25, [int(r[1]) for r in rows], [[r[2], r[3], r[2] + r[4], r[3] + r[5]] for r in rows])
        for i in range(1, last + 1, step)
        for rows in [by_frame.get(i, [])]
    ]


def switches(frames: list[tuple[float, list[int], list[list[float]]]], missed: float, faint: float, seed: int) -> int:
    """Id switches with this share of detections missed and faint, and boxes shaken by 1.5 % of their height."""
    t, rng, last, count = tracker(), np.random.default_rng(seed), {}, 0
    for now, identities, boxes in frames:
        luck = rng.random(len(boxes))
        kept = luck >= missed
        xyxy = np.array(boxes, np.float32).reshape(-1, 4)
        if missed:
            xyxy += rng.normal(0, 0.015, xyxy.shape).astype(np.float32) * (xyxy[:, 3:] - xyxy[:, 1:2])
        confidence = np.where(luck < missed + faint, 0.3, 0.8)
        out = t.update(Detections.of(xyxy[kept], confidence[kept], np.zeros(kept.sum())), now)
        identity_of = {tuple(row): identity for row, identity in zip(xyxy.tolist(), identities, strict=True)}
        for row, track_id in zip(out.xyxy.tolist(), out.track_id.tolist(), strict=True):
            identity = identity_of[tuple(row)]
            count += last.get(identity, track_id) != track_id
            last[identity] = track_id
    return count


TRUTHS = ["videos/crowd12.gt.txt", "gt/motmetrics_TUD-Campus_gt.txt", "gt/motmetrics_TUD-Stadtmitte_gt.txt"]


@pytest.mark.parametrize("truth", TRUTHS)
def test_no_switch_on_true_boxes_at_five_frames_a_second(shared: Path, truth: str) -> None:
    assert switches(frames_of(shared / "data" / truth, 5, 0.3 if "crowd12" in truth else 0), 0, 0, 0) == 0


@pytest.mark.parametrize("truth", TRUTHS)
def test_few_switches_with_missed_faint_and_shaken_boxes(shared: Path, truth: str) -> None:
    frames = frames_of(shared / "data" / truth, 5, 0.3 if "crowd12" in truth else 0)
    assert np.mean([switches(frames, 0.1, 0.15, seed) for seed in range(5)]) <= 5


FRONT, BEHIND = box(300, 320), box(310, 300)  # of the same size; the lower one stands nearer to the camera


def test_who_is_behind_another_one_is_hidden_and_not_lost() -> None:
    t = tracker(hidden_s=10, lost_s=1)
    for i in range(3):
        t.update(people(FRONT, BEHIND), T0 + i / 5)
    assert len(t.hidden) == 0
    for i in range(3, 40):
        t.update(people(FRONT), T0 + i / 5)
        assert t.hidden.track_id.tolist() == [2]
    np.testing.assert_allclose(t.hidden.xyxy, [BEHIND], atol=8)
    assert t.update(people(FRONT, BEHIND), T0 + 8).track_id.tolist() == [1, 2]
    assert len(t.hidden) == 0


def test_who_could_be_seen_and_is_not_is_lost() -> None:
    for gone in (box(600), box(310, 420)):  # in the open; nearer to the camera than the other one
        t = tracker(hidden_s=10, lost_s=1)
        for i in range(3):
            t.update(people(FRONT, gone), T0 + i / 5)
        t.update(people(FRONT), T0 + 0.6)
        assert len(t.hidden) == 0
        t.update(people(FRONT), T0 + 2)
        assert len(t) == 1


def test_nobody_is_hidden_for_longer_than_hidden_s() -> None:
    for hidden_s in (0, 2):
        t = tracker(hidden_s=hidden_s, lost_s=1)
        for i in range(3):
            t.update(people(FRONT, BEHIND), T0 + i / 5)
        for i in range(3, 20):
            t.update(people(FRONT), T0 + i / 5)
        assert len(t.hidden) == 0
        assert len(t) == 1


def test_the_hidden_survive_a_restart() -> None:
    t = tracker(hidden_s=10, lost_s=0.3)
    for i in range(3):
        t.update(people(FRONT, BEHIND), T0 + i / 5)
    t.update(people(FRONT), T0 + 0.6)
    again = tracker(hidden_s=10, lost_s=0.3)
    again.restore(json.loads(json.dumps(t.state())))
    np.testing.assert_array_equal(again.hidden.xyxy, t.hidden.xyxy)
    for one in (t, again):
        one.update(people(FRONT), T0 + 0.8)
        assert one.hidden.track_id.tolist() == [2]
