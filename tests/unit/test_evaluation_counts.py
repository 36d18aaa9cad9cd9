"""Counts against true counts."""

from __future__ import annotations

import math

import pytest

from stream.errors import DatasetError
from stream.evaluation.counts import evaluate_counts
from stream.events import CountsEvent, Occupancy, timestamp

START_S = 1_795_381_200.0


def zone(
    number: int, mean: float, *, source: str = "hall", name: str = "floor", entered: int = 0, left: int = 0, at_s: float = START_S
) -> CountsEvent:
    return CountsEvent(
        event_id=f"{source}{name}{number}{mean}",
        source_id=source,
        zone=name,
        window_start=timestamp(at_s + number),
        window_end=timestamp(at_s + number + 1),
        frames=5,
        occupancy=Occupancy(min=0, mean=mean, max=9, last=0),
        entered=entered,
        left=left,
        tracks=0,
    )


def line(number: int, into: int, out: int, name: str = "door") -> CountsEvent:
    return CountsEvent(
        event_id=f"{name}{number}{into}{out}",
        source_id="hall",
        line=name,
        window_start=timestamp(START_S + number),
        window_end=timestamp(START_S + number + 1),
        frames=5,
        crossings={"in": into, "out": out},
    )


def test_occupancy_errors() -> None:
    truth = [zone(0, 4), zone(1, 6), zone(2, 0), zone(0, 10, name="stairs")]
    result = [zone(2, 0.5), zone(0, 3), zone(1, 6), zone(0, 11, name="stairs")]
    report = evaluate_counts(truth, result)
    floor, stairs = report.zones
    assert (floor.zone, floor.start_s.tolist(), floor.truth.tolist(), floor.result.tolist()) == (
        "floor",
        [0, 1, 2],
        [4, 6, 0],
        [3, 6, 0.5],
    )
    assert (floor.mae, floor.mae_percent, floor.bias, floor.max_error) == pytest.approx((0.5, 15, -0.5 / 3, 1))
    assert (stairs.mae, stairs.mae_percent, stairs.bias) == (1, 10, 1)
    assert report.occupancy_mae == pytest.approx(2.5 / 4)  # by window, not by zone
    assert report.occupancy_mae_percent == pytest.approx(100 * 2.5 / 20)
    assert report.occupancy_bias == pytest.approx(0.5 / 4)
    assert report.occupancy_max_error == 1
    assert (report.paired, report.only_truth, report.only_result) == (4, 0, 0)


def test_passages_are_compared_as_totals() -> None:
    """A crossing that is seen one window late is no error; one in the wrong direction is two."""
    truth = [line(0, 2, 0), line(1, 0, 1), zone(0, 1, entered=3, left=1), zone(1, 1)]
    result = [line(0, 1, 0), line(1, 1, 1), zone(0, 1, entered=1), zone(1, 1, entered=1, left=2)]
    report = evaluate_counts(truth, result)
    assert [(way.direction, way.truth, way.result) for way in report.lines] == [("in", 2, 2), ("out", 1, 1)]
    assert report.crossings_error_percent == 0
    assert (report.zones[0].entered, report.zones[0].left) == ((3, 2), (1, 2))
    assert report.entered_error_percent == pytest.approx(100 / 3)
    assert report.left_error_percent == 100
    assert evaluate_counts([line(0, 3, 1)], [line(0, 2, 2)]).crossings_error_percent == 50


def test_windows_on_one_side_are_told() -> None:
    report = evaluate_counts([zone(0, 1), zone(1, 1), zone(2, 1)], [zone(1, 1), zone(2, 1), zone(3, 9), zone(1, 1, name="attic")])
    assert (report.paired, report.only_truth, report.only_result) == (2, 1, 2)
    assert report.occupancy_mae == 0


def test_the_last_event_of_a_window_counts() -> None:
    """Delivery is at least once."""
    report = evaluate_counts([zone(0, 1)], [zone(0, 5), zone(0, 1)])
    assert (report.paired, report.occupancy_mae) == (1, 0)


def test_nothing_true_has_no_relative_error() -> None:
    report = evaluate_counts([zone(0, 0)], [zone(0, 2)])
    assert report.occupancy_mae == 2
    assert math.isnan(report.occupancy_mae_percent)
    assert math.isnan(report.crossings_error_percent)


def test_sources_are_paired_by_name() -> None:
    truth = [zone(0, 1, source="a"), zone(0, 5, source="b")]
    result = [zone(0, 1, source="x"), zone(0, 5, source="y")]
    report = evaluate_counts(truth, result, sources={"a": "x", "b": "y"})
    assert [(part.source_id, part.mae) for part in report.zones] == [("a", 0), ("b", 0)]
    assert evaluate_counts(truth, result, sources={"a": "y", "b": "x"}).occupancy_mae == 4
    assert evaluate_counts(truth[:1], result[:1]).paired == 1  # one on either side needs no name
    with pytest.raises(DatasetError, match="no window is in both"):
        evaluate_counts(truth, result)
    with pytest.raises(DatasetError, match="the truth has no source 'c'; it has a, b"):
        evaluate_counts(truth, result, sources={"c": "x"})
    with pytest.raises(DatasetError, match="the result has no source 'z'"):
        evaluate_counts(truth, result, sources={"a": "z"})


@pytest.mark.parametrize("late_s", [0.0, 0.3, -0.4])
def test_an_offset_pairs_a_video_with_the_wall_clock(late_s: float) -> None:
    truth = [zone(i, i, at_s=0) for i in range(3)]
    result = [zone(i, i) for i in range(3)]
    assert evaluate_counts(truth, result, offset_s=START_S + late_s).occupancy_mae == 0


@pytest.mark.parametrize("length_s", [1.0, 0.1])
def test_no_window_is_lost_where_the_offset_is_half_of_one(length_s: float) -> None:
    """Each is as near to the one before as to the one after it; but no two may go to the same one."""

    def windows(offset_s: float) -> list[CountsEvent]:
        at_s = [START_S + i * length_s + offset_s for i in range(20)]
        return [
            zone(i, 1).model_copy(update={"window_start": timestamp(start_s), "window_end": timestamp(start_s + length_s)})
            for i, start_s in enumerate(at_s)
        ]

    report = evaluate_counts(windows(0), windows(0), offset_s=length_s / 2)
    assert report.paired + report.only_truth == 20
    assert report.paired >= 19


def test_what_cannot_be_compared_is_told() -> None:
    with pytest.raises(DatasetError, match="no counts events in the truth"):
        evaluate_counts([], [zone(0, 1)])
    with pytest.raises(DatasetError, match="no counts events in the result"):
        evaluate_counts([zone(0, 1)], [])
    longer = zone(0, 1).model_copy(update={"window_end": timestamp(START_S + 5)})
    with pytest.raises(DatasetError, match="differ in length: 1 s, 5 s"):
        evaluate_counts([zone(0, 1)], [longer])
    with pytest.raises(
        DatasetError, match=r"no window is in both .*hall/floor from 2026-.* result has hall/floor from 1970-01-01 00:00:00"
    ):
        evaluate_counts([zone(0, 1)], [zone(0, 1, at_s=0)])
