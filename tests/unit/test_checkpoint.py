"""Checkpoint: a state survives everything that can be done to a process, and damage is noticed."""

import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from stream.checkpoint import Checkpoint

STATE = {"alerts": {"crowd": "raised"}, "numbers": [1, 2.5, None, "ü\n"], "nested": {"deep": [{}, []]}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "checkpoint.json"


def test_nothing_saved_nothing_loaded(path: Path) -> None:
    assert Checkpoint(path).load() is None


def test_round_trip(path: Path) -> None:
    Checkpoint(path).save(STATE)
    assert Checkpoint(path).load() == STATE


def test_the_last_save_counts_and_only_two_generations_stay(path: Path) -> None:
    checkpoint = Checkpoint(path)
    for n in range(5):
        checkpoint.save({"n": n})
    assert Checkpoint(path).load() == {"n": 4}
    assert sorted(os.listdir(path.parent)) == ["checkpoint.json", "checkpoint.json.previous"]


def test_what_cannot_be_written_is_refused_and_harms_nothing(path: Path) -> None:
    checkpoint = Checkpoint(path)
    checkpoint.save({"n": 1})
    with pytest.raises(ValueError, match="object"):
        checkpoint.save({"n": object()})
    assert checkpoint.load() == {"n": 1}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: b"", "no header"),
        (lambda data: b"\0" * len(data), "no header"),
        (lambda data: b"[]\n" + data, "no header"),
        (lambda data: data[: len(data) // 2], "checksum|header"),
        (lambda data: data[:-3], "checksum does not match"),
        (lambda data: data.replace(b'"n":2', b'"n":7'), "checksum does not match"),
        (lambda data: data.replace(b"checkpoint/1", b"checkpoint/9"), "its schema is 'framewatch.checkpoint/9'"),
    ],
)
def test_a_damaged_file_is_moved_aside_for_the_one_before(
    path: Path, caplog: pytest.LogCaptureFixture, damage: object, reason: str
) -> None:
    checkpoint = Checkpoint(path)
    checkpoint.save({"n": 1})
    checkpoint.save({"n": 2})
    assert callable(damage)
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with caplog.at_level(logging.ERROR):
        assert Checkpoint(path).load() == {"n": 1}
    [record] = [vars(record) for record in caplog.records]
    assert record["path"] == str(path)
    assert re.search(reason, record["reason"])
    assert path.with_name("checkpoint.json.damaged").read_bytes() == damaged
    assert Checkpoint(path).load() == {"n": 1}
    Checkpoint(path).save({"n": 3})
    assert Checkpoint(path).load() == {"n": 3}


def test_both_generations_damaged(path: Path) -> None:
    checkpoint = Checkpoint(path)
    checkpoint.save({"n": 1})
    checkpoint.save({"n": 2})
    for file in path.parent.iterdir():
        file.write_bytes(b"\xff\xfe")
    assert checkpoint.load() is None
    checkpoint.save({"n": 3})
    assert checkpoint.load() == {"n": 3}


def test_a_crash_between_the_renames_leaves_the_previous_one(path: Path) -> None:
    checkpoint = Checkpoint(path)
    checkpoint.save({"n": 1})
    os.replace(path, path.with_name("checkpoint.json.previous"))
    path.with_name("checkpoint.json.tmp").write_bytes(b"half a")
    assert Checkpoint(path).load() == {"n": 1}
    Checkpoint(path).save({"n": 2})
    assert Checkpoint(path).load() == {"n": 2}


def test_an_error_while_writing_keeps_the_last_one(path: Path) -> None:
    checkpoint = Checkpoint(path)
    checkpoint.save({"n": 1})
    path.with_name("checkpoint.json.tmp").mkdir()
    with pytest.raises(OSError, match="directory"):
        checkpoint.save({"n": 2})
    assert checkpoint.load() == {"n": 1}


WRITER = """
import sys
from stream.checkpoint import Checkpoint
checkpoint = Checkpoint(sys.argv[1])
n = (checkpoint.load() or {"n": 0})["n"]
while True:
    n += 1
    checkpoint.save({"n": n, "ballast": [n] * 20_000})
    print(n, flush=True)
"""


def test_kill_9_in_the_middle_of_saves(path: Path) -> None:
    saved = 0
    for attempt in range(8):
        writer = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert writer.stdout is not None
        first = writer.stdout.readline()
        assert int(first) > saved
        time.sleep(0.003 * attempt)
        writer.send_signal(signal.SIGKILL)
        told = [int(first), *(int(line) for line in writer.stdout if line.endswith("\n"))]
        writer.stdout.close()
        writer.wait(10)
        state = Checkpoint(path).load()
        assert state is not None
        assert state["n"] in (told[-1], told[-1] + 1)  # saved, and killed before it could say so
        assert state["ballast"] == [state["n"]] * 20_000
        assert not path.with_name("checkpoint.json.damaged").exists()
        saved = state["n"]
