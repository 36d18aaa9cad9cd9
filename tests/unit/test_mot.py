"""MOTChallenge files: what is read, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stream.datasets.mot import MotTable, read_mot, write_mot
from stream.errors import DatasetError


def written(folder: Path, text: str) -> Path:
    path = folder / "gt.txt"
    path.write_text(text)
    return path


def test_a_table_survives_writing_and_reading(tmp_path: Path) -> None:
    table = MotTable.of(
        [1, 1, 3], [7, 2, 7], [[1.25, -2, 10, 20], [0, 0, 1, 1], [4, 5, 6, 7]], [1, 0, 0.5], [1, 3, 1], [1, 0.25, 0]
    )
    path = tmp_path / "new" / "tracks.txt"
    write_mot(path, table)
    assert path.read_text().splitlines()[0] == "1,7,1.25,-2.00,10.00,20.00,1,1,1"
    assert [file.name for file in path.parent.iterdir()] == ["tracks.txt"]
    copy = read_mot(path)
    for name in ("frame", "track_id", "xywh", "confidence", "class_id", "visibility"):
        np.testing.assert_array_equal(getattr(copy, name), getattr(table, name))
    assert len(copy[copy.frame == 3]) == 1


def test_an_empty_file_is_an_empty_table(tmp_path: Path) -> None:
    table = read_mot(written(tmp_path, "\n"))
    assert len(table) == 0
    assert table.xywh.shape == (0, 4)


@pytest.mark.parametrize(
    ("row", "confidence", "class_id", "visibility"),
    [
        ("1,2,3,4,5,6", 1, 1, 1),  # no more than a box
        ("1,2,3,4,5,6,0.7", 0.7, 1, 1),
        ("1,2,3,4,5,6,0,8,0.25", 0, 8, 0.25),  # MOT16 and later
        ("1,2,3,4,5,6,1,4.48,5.5,0", 1, 1, 1),  # 2015: the last three are a place in the world
        ("1,2,3,4,5,6,-1,-1,-1,-1", -1, 1, 1),  # results
        ("1 2 3 4 5 6 1 7 -1", 1, 7, 1),  # spaces; unknown visibility
    ],
)
def test_columns(tmp_path: Path, row: str, confidence: float, class_id: int, visibility: float) -> None:
    table = read_mot(written(tmp_path, row))
    assert (table.frame[0], table.track_id[0], table.xywh[0].tolist()) == (1, 2, [3, 4, 5, 6])
    assert (table.confidence[0], table.class_id[0], table.visibility[0]) == (confidence, class_id, visibility)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("1,2,3,4,5", "has 5 columns"),
        ("1,2,3,4,5,6,7,8,9,10,11", "has 11 columns"),
        ("1,2,3,4,x,6", "could not convert"),
        ("1,2,3,4,nan,6", "not finite"),
        ("0,2,3,4,5,6", "frames count from 1"),
        ("1,2.5,3,4,5,6", "must be whole"),
        ("1,2,3,4,-5,6", "-5 wide"),
        ("1,2,3,4,5,6,1,1.5,1", "class 1.5 must be whole"),
        ("1,2,3,4,5,6,1,1,1.5", "visibility 1.5"),
        ("1,1,3,4,5,6", "track 1 is in frame 1 twice; first in line 1"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, row: str, reason: str) -> None:
    with pytest.raises(DatasetError, match=rf"gt\.txt:3: .*{reason}"):
        read_mot(written(tmp_path, f"1,1,3,4,5,6\n\n{row}\n"))


def test_a_missing_file_and_one_that_is_no_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.txt: No such file"):
        read_mot(tmp_path / "none.txt")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe1,2")
    with pytest.raises(DatasetError, match=r"b\.txt: is not text"):
        read_mot(tmp_path / "b.txt")


def test_a_table_of_unequal_columns_is_refused() -> None:
    with pytest.raises(ValueError, match=r"track_id must be int64 \(2,\), not int64 \(1,\)"):
        MotTable.of([1, 2], [1], [[0, 0, 1, 1]] * 2)
