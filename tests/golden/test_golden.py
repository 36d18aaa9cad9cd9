"""The golden test: the one-process path says what it said before, and the Ray path says the same, event for event."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.golden.make import GOLDEN, run
from tests.golden.scenario import PRESENCE_S, config, summary

pytestmark = pytest.mark.compute

BOX_TOLERANCE_PX = 2.0  # CPUs differ in how they round


@pytest.fixture(scope="module")
def local(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Events of the one-process path."""
    return run(shared, tmp_path_factory.mktemp("local") / "events.jsonl")


def test_the_summary_is_as_committed(local: list[dict[str, Any]]) -> None:
    expected, found = json.loads(GOLDEN.read_text()), summary(local)
    boxes, expected_boxes = found.pop("boxes"), expected.pop("boxes")
    assert found == expected
    assert boxes.keys() == expected_boxes.keys()
    for index, frame in boxes.items():
        assert len(frame) == len(expected_boxes[index])
        for box, expected_box in zip(frame, expected_boxes[index], strict=True):
            assert box == pytest.approx(expected_box, abs=BOX_TOLERANCE_PX)


def test_the_people_are_found_when_they_are_there(local: list[dict[str, Any]]) -> None:
    tracks = [event for event in local if event["schema"].startswith("framewatch.tracks/")]
    assert len(tracks) == 697  # 139.4 s at 5 frames/s
    clear = [e for e in tracks if all(abs(e["pts_s"] - edge) > 0.3 for span in PRESENCE_S for edge in span)]
    right = sum(len(e["objects"]) == any(a <= e["pts_s"] <= b for a, b in PRESENCE_S) for e in tracks)
    right_when_clear = sum(len(e["objects"]) == any(a <= e["pts_s"] <= b for a, b in PRESENCE_S) for e in clear)
    assert right / len(tracks) >= 0.97, f"{right} of {len(tracks)} frames agree with the reference"
    assert right_when_clear / len(clear) >= 0.98, f"{right_when_clear} of {len(clear)} frames that are not at an edge"


def without_times(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in event.items() if key != "stages_ms"} for event in events]


@pytest.mark.parametrize("mode", ["full", "fast"])
def test_decoding_only_what_is_needed_gives_the_same_events(
    local: list[dict[str, Any]], shared: Path, tmp_path: Path, mode: str
) -> None:
    assert without_times(run(shared, tmp_path / "events.jsonl", decode=mode)) == without_times(local)


def test_key_frames_alone_find_the_same_people_a_second_later_at_most(
    local: list[dict[str, Any]], shared: Path, tmp_path: Path
) -> None:
    events = run(shared, tmp_path / "events.jsonl", decode="key")
    full = {event["frame_index"]: len(event["objects"]) for event in local if event["schema"].startswith("framewatch.tracks/")}
    tracks = [event for event in events if event["schema"].startswith("framewatch.tracks/")]
    assert [event["frame_index"] for event in tracks] == list(range(0, 1394, 10))
    assert sum(len(event["objects"]) == full[event["frame_index"]] for event in tracks) >= 0.98 * len(tracks)
    raised = {rule: raised_at(events, rule) for rule in ("crowd", "intrusion")}
    for rule, times in raised.items():
        expected = raised_at(local, rule)
        assert all(any(timedelta(0) <= at - one <= timedelta(seconds=2) for one in expected) for at in times), rule


def test_a_gate_changes_neither_counts_nor_alerts(local: list[dict[str, Any]], shared: Path, tmp_path: Path) -> None:
    events = run(shared, tmp_path / "events.jsonl", gate="on")
    expected, found = summary(local), summary(events)
    assert found["zones"] == expected["zones"]
    assert found["lines"] == expected["lines"]
    assert found["frames"] < expected["frames"] - 20
    assert [alert[1:3] for alert in found["alerts"]] == [alert[1:3] for alert in expected["alerts"]]
    for rule in ("crowd", "intrusion", "crossing", "loitering"):
        late = [after - before for before, after in zip(raised_at(local, rule), raised_at(events, rule), strict=True)]
        assert all(abs(one) <= timedelta(seconds=1) for one in late), rule


def raised_at(events: list[dict[str, Any]], rule: str) -> list[datetime]:
    return [
        datetime.fromisoformat(event["at"])
        for event in events
        if event["schema"].startswith("framewatch.alerts/") and event["rule"] == rule and event["state"] == "raised"
    ]


@pytest.mark.ray
def test_the_ray_path_gives_the_same_events(
    local: list[dict[str, Any]], shared: Path, tmp_path: Path, deploy: Callable[..., Any]
) -> None:
    from tests.support.service import jsonl, wait_for

    sink = tmp_path / "ray.jsonl"
    service = deploy(config(shared, sink))
    wait_for(lambda: service.finished("shop"), 120, "the end of the clip")
    wait_for(lambda: sink.exists() and '"window_start":"2017-09-26T17:00:08.0' in sink.read_text(), 10, "the last window")
    remote = [event for event in jsonl(sink) if not event["schema"].startswith("framewatch.health/")]
    assert without_times(remote) == without_times(local)
