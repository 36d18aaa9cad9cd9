"""The golden test: the one-process path says what it said before, and the Ray path says the same, event for event."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.golden.make import GOLDEN, run
from tests.golden.scenario import PRESENCE_S, config, summary

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
    strip = lambda events: [{k: v for k, v in event.items() if k != "stages_ms"} for event in events]  # noqa: E731
    assert strip(remote) == strip(local)
