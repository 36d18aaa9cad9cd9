"""Detections: parallel arrays that stay parallel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.detections import NO_TRACK, Detections


def two() -> Detections:
    return Detections.of([[0, 1, 2, 3], [4, 5, 6, 7]], [0.9, 0.4], [0, 2])


def test_of_converts_and_leaves_tracks_open() -> None:
    detections = two()
    assert (detections.xyxy.dtype, detections.confidence.dtype, detections.class_id.dtype) == (np.float32, np.float32, np.int64)
    assert detections.track_id.tolist() == [NO_TRACK, NO_TRACK]
    assert len(detections) == 2


def test_empty() -> None:
    assert len(Detections.empty()) == 0
    assert Detections.empty().xyxy.shape == (0, 4)
    assert len(Detections.of([], [], [])) == 0


def test_with_track_id_leaves_the_original() -> None:
    detections = two()
    assert detections.with_track_id(np.array([5, 6])).track_id.tolist() == [5, 6]
    assert detections.track_id.tolist() == [NO_TRACK, NO_TRACK]
    with pytest.raises(ValueError, match="track_id must have 2 rows"):
        detections.with_track_id(np.array([5]))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("xyxy", np.zeros((2, 3), np.float32), r"xyxy must be \(N, 4\), not \(2, 3\)"),
        ("xyxy", np.zeros((2, 4)), "xyxy must be float32, not float64"),
        ("confidence", np.zeros(3, np.float32), r"confidence must have 2 rows, not shape \(3,\)"),
        ("confidence", np.zeros((2, 1), np.float32), r"confidence must have 2 rows, not shape \(2, 1\)"),
        ("class_id", np.zeros(2, np.int32), "class_id must be int64, not int32"),
        ("track_id", np.zeros(1, np.int64), "track_id must have 2 rows"),
    ],
)
def test_arrays_that_do_not_fit(field: str, value: np.ndarray, message: str) -> None:
    fields = {
        "xyxy": np.zeros((2, 4), np.float32),
        "confidence": np.zeros(2, np.float32),
        "class_id": np.zeros(2, np.int64),
        "track_id": np.zeros(2, np.int64),
    }
    with pytest.raises(ValueError, match=message):
        Detections(**(fields | {field: value}))


@given(st.lists(st.booleans(), max_size=20))
def test_rows_stay_together(wanted: list[bool]) -> None:
    n = np.arange(len(wanted))
    detections = Detections.of(np.repeat(n, 4).reshape(-1, 4), n / 100, n, n)
    mask = np.array(wanted, bool)
    for rows in (mask, np.flatnonzero(mask)):
        chosen = detections[rows]
        for array in (chosen.class_id, chosen.track_id, chosen.xyxy[:, 0], np.rint(chosen.confidence * 100)):
            assert array.tolist() == n[mask].tolist()
    assert len(detections[:3]) == min(3, len(wanted))
