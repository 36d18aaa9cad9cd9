"""Alerts against true alerts."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from stream.errors import DatasetError
from stream.evaluation.alerts import Episode, episodes_of_events, evaluate_alerts, read_episodes
from stream.events import AlertEvent, timestamp
from tests.support.sample_events import counts

START_S = 1_795_381_200.0


def alert(alert_id: str, state: str, at_s: float, raised_s: float = 0, rule: str = "busy") -> AlertEvent:
    return AlertEvent.model_validate(
        {
            "event_id": f"{alert_id}{state}",
            "source_id": "hall",
            "alert_id": alert_id,
            "rule": rule,
            "type": "crowd",
            "state": state,
            "severity": "warning",
            "value": 5,
            "threshold": 4,
            "raised_at": timestamp(START_S + raised_s),
            "at": timestamp(START_S + at_s),
        }
    )


def test_right_missed_and_wrong() -> None:
    truth = [Episode("busy", 10, 20), Episode("busy", 50, 60), Episode("door", 10, 20)]
    result = [Episode("busy", 11, 23), Episode("busy", 100, 110), Episode("late", 10, 20)]
    report = evaluate_alerts(truth, result)
    assert [(m.truth.start_s, m.raise_delay_s, m.clear_delay_s) for m in report.matches] == [(10, 1, 3)]
    assert report.missed == (Episode("door", 10, 20), Episode("busy", 50, 60))
    assert report.wrong == (Episode("late", 10, 20), Episode("busy", 100, 110))
    assert (report.precision, report.recall, report.f1) == pytest.approx((1 / 3, 1 / 3, 1 / 3))


def test_each_alert_is_paired_once_and_the_delays_are_least() -> None:
    truth = [Episode("busy", 0, 10), Episode("busy", 12, 20)]
    result = [Episode("busy", 11, 19), Episode("busy", 13, 20)]
    report = evaluate_alerts(truth, result)
    assert report.raise_delays_s == [11, 1]  # 13 seconds and -1 would be more
    flapping = evaluate_alerts([Episode("busy", 0, 20)], [Episode("busy", 1, 5), Episode("busy", 8, 20)])
    assert (len(flapping.matches), len(flapping.wrong), flapping.raise_delays_s) == (1, 1, [1])


@pytest.mark.parametrize(("start_s", "right"), [(25, True), (25.1, False)])
def test_a_pair_may_be_apart_by_the_tolerance(start_s: float, right: bool) -> None:
    report = evaluate_alerts([Episode("busy", 10, 20)], [Episode("busy", start_s, 40)], tolerance_s=5)
    assert bool(report.matches) == right
    early = evaluate_alerts([Episode("busy", start_s, 40)], [Episode("busy", 10, 20)], tolerance_s=5)
    assert bool(early.matches) == right


def test_an_alert_that_lasts_has_no_clearing_delay() -> None:
    report = evaluate_alerts([Episode("busy", 0, None)], [Episode("busy", 500, None)], tolerance_s=0)
    assert (report.raise_delays_s, report.clear_delays_s) == ([500], [])
    assert evaluate_alerts([Episode("busy", 0, 5)], [Episode("busy", 3, None)]).clear_delays_s == []


def test_an_offset_moves_the_truth() -> None:
    report = evaluate_alerts([Episode("busy", 10, 20)], [Episode("busy", START_S + 11, START_S + 21)], offset_s=START_S)
    assert (report.raise_delays_s, report.clear_delays_s) == ([1], [1])


def test_without_any_alert_nothing_can_be_said() -> None:
    report = evaluate_alerts([], [])
    assert math.isnan(report.precision)
    assert math.isnan(report.recall)
    assert math.isnan(report.f1)
    assert evaluate_alerts([Episode("a", 0, 1)], []).recall == 0


def test_events_become_episodes() -> None:
    events = [
        alert("1", "raised", 0.5),
        alert("1", "updated", 1),
        alert("2", "raised", 3, 3),
        alert("1", "cleared", 5),
        alert("1", "raised", 0.5),  # a replay
    ]
    assert episodes_of_events(events) == [Episode("busy", START_S, START_S + 5), Episode("busy", START_S + 3, None)]


def test_files(tmp_path: Path) -> None:
    expected = [Episode("busy", 1.5, 4), Episode("door", 1_767_225_600, None)]
    csv = tmp_path / "t.csv"
    csv.write_text("rule,start,end\nbusy,1.5,4\ndoor,2026-01-01T00:00:00,\n")
    assert read_episodes(csv) == expected
    jsonl = tmp_path / "t.jsonl"
    jsonl.write_text('{"rule": "busy", "start": 1.5, "end": 4}\n\n{"rule": "door", "start": "2026-01-01T01:00:00+01:00"}\n')
    assert read_episodes(jsonl) == expected
    jsonl.write_bytes(b"\n".join(event.to_json() for event in [counts(0), alert("1", "raised", 0), alert("1", "cleared", 2)]))
    assert read_episodes(jsonl) == [Episode("busy", START_S, START_S + 2)]
    jsonl.write_text("")
    assert read_episodes(jsonl) == []


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("t.csv", "a,b\n1,2\n", r"t\.csv:1: the head line must name rule, start and end"),
        ("t.csv", "rule,start,end\n,1,2\n", r"t\.csv:2: rule: is missing"),
        ("t.csv", "rule,start,end\nx,,2\n", r"t\.csv:2: start: is missing"),
        ("t.csv", "rule,start,end\nx,soon,2\n", r"t\.csv:2: start: 'soon' is neither"),
        ("t.csv", "rule,start,end\nx,inf,2\n", r"t\.csv:2: start: 'inf' is not finite"),
        ("t.csv", "rule,start,end\nx,3,2\n", r"t\.csv:2: end: is before start"),
        ("t.jsonl", "\n[]\n", r"t\.jsonl:2: is not an object"),
        ("t.jsonl", "{", r"t\.jsonl:1: is not valid JSON"),
        ("t.jsonl", '{"rule": 3, "start": 1}', r"t\.jsonl:1: rule: is missing"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, name: str, text: str, reason: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DatasetError, match=reason):
        read_episodes(path)
