"""The demo's tally: what it makes of the records, and whether the promise is kept."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from actors.demo import crowd_limit, read_truth, shots
from actors.tally import Tally
from stream.config_file import parse_config
from stream.events import AlertEvent, CountsEvent, Occupancy
from stream.simulation.scene import build_scene
from stream.simulation.truth import Truth, true_counts

T0 = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = parse_config(
    {"detectors": {"people": {"model": "person"}}, "sources": [{"id": "cam", "uri": "rtsp://127.0.0.1/cam", "detector": "people"}]},
    "test",
    Path(),
)


def zone(second: int, people: float) -> CountsEvent:
    start = T0 + timedelta(seconds=second)
    n = round(people)
    occupancy = Occupancy(min=n, mean=people, max=n, last=n)
    return CountsEvent(
        event_id="e", source_id="cam", zone="floor", window_start=start, window_end=start + timedelta(seconds=1), frames=5,
        occupancy=occupancy, entered=0, left=0, tracks=n,
    )  # fmt: skip


def line(second: int, into: int, out: int) -> CountsEvent:
    start = T0 + timedelta(seconds=second)
    return CountsEvent(
        event_id="e", source_id="cam", line="door", window_start=start, window_end=start + timedelta(seconds=1), frames=5,
        crossings={"in": into, "out": out},
    )  # fmt: skip


def tally_of(truth: Sequence[CountsEvent], counted: Sequence[CountsEvent]) -> Tally:
    tally = Tally(CONFIG, {"cam": truth})
    for event in counted:
        assert tally.add("framewatch.counts", event.to_json(), 0.0) is None
    return tally


def test_the_error_is_that_of_the_windows_after_settling_and_before_the_last() -> None:
    truth = [zone(second, 10) for second in range(20)]
    counted = [zone(second, 0) for second in range(3)] + [zone(second, 9) for second in range(3, 9)] + [zone(9, 0)]
    score = tally_of(truth, counted).score(["cam"])
    assert score.occupancy_percent == pytest.approx(10)
    assert score.kept
    assert tally_of(truth, [*counted[:8], zone(8, 1), zone(9, 0)]).score(["cam"]).kept is False


def test_a_few_crossings_may_be_wrong_but_not_more() -> None:
    truth = [event for second in range(20) for event in (zone(second, 1), line(second, 1, 0))]
    for wrong, kept in ((4, True), (5, False)):
        counted = [event for s in range(19) for event in (zone(s, 1), line(s, 1, 1 if s in range(5, 5 + wrong) else 0))]
        score = tally_of(truth, counted).score(["cam"])
        assert (score.crossings_wrong, score.kept) == (wrong, kept)


def test_without_counts_the_promise_is_not_kept() -> None:
    score = tally_of([zone(0, 1)], []).score(["cam"])
    assert (score.unscored, score.kept) == (("cam",), False)


def test_a_crowd_that_is_plain_in_the_truth_is_known() -> None:
    people = [2] * 5 + [8] * 3 + [4] * 3 + [1] * 3
    truth = [zone(second, n) for second, n in enumerate(people)]
    assert tally_of(truth, truth).true_crowd("cam/floor", 7, 2) == (True, True)
    assert tally_of(truth, truth).true_crowd("cam/floor", 7, 1) == (True, False)
    assert tally_of(truth, truth).true_crowd("cam/floor", 8, 2) == (False, False)
    assert tally_of(truth, truth[:7]).true_crowd("cam/floor", 7, 2) == (False, False), "what was not analysed does not count"


def test_an_alert_is_told_with_the_truth_at_that_moment() -> None:
    tally = tally_of([zone(second, 7) for second in range(9)], [])
    alert = AlertEvent(
        event_id="e", source_id="cam", alert_id="a", rule="crowd", type="crowd", state="raised", severity="warning", zone="floor",
        value=6, threshold=5, raised_at=T0, at=T0 + timedelta(seconds=4.5),
    )  # fmt: skip
    assert tally.add("framewatch.alerts", alert.to_json(), 0.0) == "ALERT raised: crowd at cam/floor (6 counted, 7 in truth)"
    assert tally.alerts == {"raised": 1}


def test_the_table_shows_counts_beside_the_truth() -> None:
    tally = tally_of([zone(second, 8) for second in range(20)], [zone(second, 7.6) for second in range(15)])
    console = Console(width=160, file=io.StringIO())
    console.print(tally.table())
    assert isinstance(console.file, io.StringIO)
    assert "5.0 %" in console.file.getvalue()


def test_a_film_that_is_played_again_has_its_truth_again(tmp_path: Path) -> None:
    cameras = {"plaza": shots(5)["plaza"]}
    [shot] = cameras.values()
    scene = build_scene(shot.scene, shot.seed, shot.width, shot.height)
    truth: Truth = true_counts(scene, shot.people[0], shot.fps, shot.seconds)
    (tmp_path / shot.name).mkdir()
    events = truth.events(shot.name, T0.timestamp())
    (tmp_path / shot.name / "counts.jsonl").write_bytes(b"\n".join(event.to_json() for event in events))
    begin_at = 1_800_000_000.0
    [played] = read_truth(tmp_path, cameras, begin_at, 2 * shot.seconds).values()
    assert len(played) == 2 * len(events)
    assert {event.source_id for event in played} == {"plaza"}
    starts = sorted({event.window_start.timestamp() - begin_at for event in played})
    assert starts == [float(second) for second in range(round(2 * shot.seconds))]


def test_the_crowd_is_what_half_of_the_time_is_not() -> None:
    people = [zone(second, n) for second, n in enumerate([2, 2, 3, 4, 6, 7, 8, 9])]
    assert crowd_limit(people, "floor") == 6
