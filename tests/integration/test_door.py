"""Calls through a door, within this process and to one that dies."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stream import door as module
from stream.door import Address, Caller, Door
from stream.errors import DoorUnavailable, SlotReused

ROOT = Path(__file__).resolve().parents[2]
DEAF = """
import time
from stream.door import Door
door = Door(lambda request: time.sleep(60))
print(door.address.name, flush=True)
time.sleep(60)
"""


def answer(request: Any) -> Any:
    if isinstance(request, Exception):
        raise request
    return request


@pytest.fixture
def opened() -> Iterator[Door]:
    door = Door(answer)
    yield door
    door.close()


def door_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("door")]


def test_answers_and_errors_come_back(opened: Door) -> None:
    caller = Caller(opened.address)
    assert caller.call({"a": (1, b"2")}).result(5) == {"a": (1, b"2")}
    with pytest.raises(SlotReused, match="slot 3"):
        caller.call(SlotReused("slot 3")).result(5)
    with pytest.raises(RuntimeError, match=r"ValueError: rtsp://.*@camera") as raised:
        caller.call(ValueError("rtsp://user:secret@camera")).result(5)
    assert "secret" not in str(raised.value)
    assert caller.call("after errors").result(5) == "after errors"
    caller.close()


def test_calls_from_many_threads_get_their_own_answers_over_few_connections(opened: Door) -> None:
    caller = Caller(opened.address)
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda n: caller.call(n).result(5), range(200))) == list(range(200))
    assert len(door_threads()) <= 1 + 4
    caller.close()


def test_a_closed_door_answers_nobody_and_leaves_no_thread() -> None:
    door = Door(answer)
    caller = Caller(door.address)
    assert caller.call(1).result(5) == 1
    door.close()
    with pytest.raises(DoorUnavailable):
        caller.call(2).result(5)
    with pytest.raises(DoorUnavailable):
        Caller(door.address)
    deadline_s = time.monotonic() + 5
    while door_threads() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert not door_threads()


def test_a_process_that_dies_in_the_middle_of_a_call_is_noticed_at_once() -> None:
    process = subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    try:
        caller = Caller(Address(module.host_id(), process.stdout.readline().strip()))
        with pytest.raises(DoorUnavailable, match="within"):
            caller.call(1).result(0.05)
        call = caller.call(2)
        process.kill()
        began_s = time.monotonic()
        with pytest.raises(DoorUnavailable):
            call.result(30)
        assert time.monotonic() - began_s < 10
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_doors_of_other_hosts_and_users_are_not_opened(opened: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DoorUnavailable, match="another host"):
        Caller(replace(opened.address, host="elsewhere"))
    monkeypatch.setattr(module.os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(DoorUnavailable, match="another user"):
        Caller(opened.address)


def test_no_more_callers_than_a_door_bears(opened: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 2)
    callers = [Caller(opened.address) for _ in range(2)]
    assert [caller.call(n).result(5) for n, caller in enumerate(callers)] == [0, 1]
    with pytest.raises(DoorUnavailable):
        Caller(opened.address).call(3).result(5)
    assert callers[0].call(4).result(5) == 4
    for caller in callers:
        caller.close()
