"""Tracks against true tracks, on cases small enough to count by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from stream.datasets.mot import MotTable
from stream.errors import DatasetError
from stream.evaluation.tracking import Switch, evaluate_tracking, tracks_of_events
from tests.support.sample_events import counts, tracks

FRAMES = 10


def walk(track_id: int, x: float, frames: range = range(1, FRAMES + 1)) -> list[tuple[int, int, float]]:
    """(frame, id, left edge) of somebody who stands."""
    return [(frame, track_id, x) for frame in frames]


def table(*walks: list[tuple[int, int, float]], visibility: float = 1.0, confidence: float = 1.0) -> MotTable:
    rows = [row for walk in walks for row in walk]
    n = len(rows)
    return MotTable.of(
        [frame for frame, _, _ in rows],
        [track_id for _, track_id, _ in rows],
        [[x, 0, 40, 100] for _, _, x in rows],
        np.full(n, confidence),
        visibility=np.full(n, visibility),
    )


def test_perfect_tracks() -> None:
    truth = table(walk(1, 0), walk(2, 100))
    report = evaluate_tracking(truth, table(walk(8, 100), walk(9, 0)))
    assert (report.mota, report.motp, report.idf1, report.hota, report.deta, report.assa, report.loca) == pytest.approx((1,) * 7)
    assert (report.frames, report.last_frame, report.objects, report.tracks) == (10, 10, 2, 2)
    assert (report.mostly_tracked, report.fragments, report.switches, report.ids_per_object) == (2, 0, (), 1)


def test_a_switch_costs_one_error_and_half_the_identity() -> None:
    truth = table(walk(1, 0))
    report = evaluate_tracking(truth, table(walk(5, 0, range(1, 6)), walk(6, 0, range(6, 11))))
    assert report.switches == (Switch(6, 1, 5, 6),)
    assert report.mota == pytest.approx(1 - 1 / 10)
    assert (report.idf1, report.idp, report.idr) == pytest.approx((0.5, 0.5, 0.5))
    assert report.deta == pytest.approx(1)
    assert report.assa == pytest.approx(0.5)  # each half is associated with 5 of 10
    assert report.hota == pytest.approx(math.sqrt(0.5))
    assert report.ids_per_object == 2


def test_a_gap_is_a_fragment_and_no_switch() -> None:
    report = evaluate_tracking(table(walk(1, 0)), table(walk(5, 0, range(1, 4)), walk(5, 0, range(7, 11))))
    assert (report.fragments, report.switches, report.missed, report.wrong) == (1, (), 3, 0)
    assert report.mota == pytest.approx(0.7)
    assert (report.mostly_tracked, report.partly_tracked, report.mostly_lost) == (0, 1, 0)


def test_an_object_stays_with_its_track_while_they_overlap() -> None:
    """Another track that fits better does not take it over."""
    truth = table(walk(1, 0))
    result = table(walk(5, 5), walk(6, 0, range(3, 11)))
    report = evaluate_tracking(truth, result)
    assert (report.switches, report.found, report.wrong) == ((), 10, 8)


def test_two_objects_never_share_a_track() -> None:
    """Both have had track 5 before; when they stand together one of them has it."""
    truth = table(walk(1, 0, range(1, 4)), walk(1, 0, range(5, 11)), walk(2, 2, range(4, 11)))
    report = evaluate_tracking(truth, table(walk(5, 1)))
    assert (report.boxes, report.found, report.missed, report.wrong) == (16, 10, 6, 0)


def test_wrong_places_are_wrong_and_missed() -> None:
    report = evaluate_tracking(table(walk(1, 0)), table(walk(5, 300)))
    assert (report.mota, report.recall, report.precision, report.idf1, report.hota) == (-1, 0, 0, 0, 0)
    assert math.isnan(report.motp)


def test_no_tracks_at_all() -> None:
    report = evaluate_tracking(table(walk(1, 0)), table())
    assert (report.mota, report.recall, report.idf1, report.hota, report.mostly_lost) == (0, 0, 0, 0, 1)
    assert math.isnan(report.precision)


@pytest.mark.parametrize("hidden", [table(walk(2, 100), visibility=0.1), table(walk(2, 100), confidence=0)])
def test_hidden_and_uncertain_objects_may_be_found_or_not(hidden: MotTable) -> None:
    truth = MotTable.of(
        *(np.concatenate([getattr(part, name) for part in (table(walk(1, 0)), hidden)]) for name in MotTable.__dataclass_fields__)
    )
    for result in (table(walk(5, 0)), table(walk(5, 0), walk(6, 100))):
        report = evaluate_tracking(truth, result, min_visibility=0.2)
        assert (report.mota, report.objects, report.wrong) == (1, 1, 0)
    assert evaluate_tracking(truth, table(walk(5, 0), walk(6, 300)), min_visibility=0.2).wrong == FRAMES


def test_a_looser_match_needs_a_lower_iou() -> None:
    truth, result = table(walk(1, 0)), table(walk(5, 20))  # IoU 20 / 60
    assert evaluate_tracking(truth, result).found == 0
    assert evaluate_tracking(truth, result, iou=0.3).found == FRAMES
    assert evaluate_tracking(truth, result).deta == pytest.approx(6 / 19)  # IoU 0.05 to 0.30


def test_a_truth_without_a_box_is_refused() -> None:
    with pytest.raises(DatasetError, match="no box that counts"):
        evaluate_tracking(table(), table(walk(1, 0)))


def test_tracks_of_events(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    lines = [tracks(0), counts(0), tracks(5, objects=0), tracks(0)]  # another kind, an empty frame, a replay
    path.write_bytes(b"\n".join(line.to_json() for line in lines))
    found, frames = tracks_of_events(path)
    assert frames.tolist() == [1, 6]
    assert (found.frame.tolist(), found.track_id.tolist()) == ([1, 1], [0, 1])
    assert found.xywh[0].tolist() == [10.5, 20.25, 100.25, 200.25]
    path.write_bytes(counts(0).to_json())
    with pytest.raises(DatasetError, match=r"e\.jsonl: has no tracks events"):
        tracks_of_events(path)
