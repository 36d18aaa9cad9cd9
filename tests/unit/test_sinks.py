"""JSON lines and the fan-out; Kafka is in tests/integration."""

import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stream.config import JsonlSinkConfig
from stream.errors import SinkError
from stream.events import Event
from stream.sinks import FanOut, open_sinks
from stream.sinks.jsonl import FLUSH_EVERY_S, JsonlSink
from stream.sinks.kafka import _Entry
from tests.conftest import ROOT
from tests.support.sample_events import counts, one_of_each, tracks


def jsonl(path: Path | str, events: list[str] | None = None) -> JsonlSinkConfig:
    return JsonlSinkConfig.model_validate({"type": "jsonl", "path": str(path), "events": events})


def test_lines_are_the_events_in_order(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "events.jsonl"
    sink = JsonlSink(jsonl(path))
    acknowledged: list[str] = []
    for event in one_of_each():
        sink.write(event, lambda event=event: acknowledged.append(event.event_id))
    assert (sink.written, sink.safe, sink.pending(), acknowledged) == (6, 0, 6, [])
    assert sink.flush(1)
    assert (sink.safe, sink.pending()) == (6, 0)
    assert acknowledged == [event.event_id for event in one_of_each()]
    assert path.read_bytes().splitlines() == [event.to_json() for event in one_of_each()]
    sink.close()
    sink = JsonlSink(jsonl(path))
    sink.write(tracks(1))
    sink.close()
    assert len(path.read_text().splitlines()) == 7, "an existing file is appended to"


def test_filter(tmp_path: Path) -> None:
    sink = JsonlSink(jsonl(tmp_path / "alerts.jsonl", ["alerts", "health"]))
    acknowledged = []
    for event in one_of_each():
        sink.write(event, lambda: acknowledged.append(1))
    sink.close()
    assert (sink.safe, len(acknowledged)) == (6, 6), "events that are not wanted count as done"
    schemas = [json.loads(line)["schema"] for line in (tmp_path / "alerts.jsonl").read_text().splitlines()]
    assert schemas == ["framewatch.alerts/1", "framewatch.health/1"]


def test_lines_come_within_a_second(tmp_path: Path) -> None:
    sink = JsonlSink(jsonl(tmp_path / "events.jsonl"))
    sink.write(tracks(1))
    deadline_s = time.monotonic() + FLUSH_EVERY_S + 2
    while not (tmp_path / "events.jsonl").stat().st_size:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    assert sink.safe == 1
    sink.close()


def test_a_full_buffer_is_written_at_once(tmp_path: Path) -> None:
    sink = JsonlSink(jsonl(tmp_path / "events.jsonl"))
    number = 0
    while not sink.safe:
        sink.write(tracks(number, objects=50))
        number += 1
        assert number < 200
    sink.close()
    assert len((tmp_path / "events.jsonl").read_bytes().splitlines()) == number


@pytest.mark.parametrize(("path", "reason"), [("file/events.jsonl", "Not a directory|File exists"), ("folder", "Is a directory")])
def test_a_file_that_cannot_be_opened(tmp_path: Path, path: str, reason: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SinkError, match=f"cannot write to {tmp_path / path}: ({reason})"):
        JsonlSink(jsonl(tmp_path / path))


def test_disk_full() -> None:
    sink = JsonlSink(jsonl("/dev/full"))
    sink.write(tracks(1))
    assert not sink.flush(1)
    with pytest.raises(SinkError, match="cannot write to /dev/full: No space left on device"):
        sink.write(counts(2))
    assert (sink.written, sink.safe, sink.dropped()) == (2, 0, {"counts": 1})
    sink.close()


FULL = """
import resource, signal, sys
from stream.config import JsonlSinkConfig
from stream.errors import SinkError
from stream.sinks.jsonl import JsonlSink
from tests.support.sample_events import counts
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sink = JsonlSink(JsonlSinkConfig(type="jsonl", path=sys.argv[1]))
for number in range(10):
    sink.write(counts(number))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, -1))  # a write beyond it is cut short, as on a full disk
assert not sink.flush(1)
try:
    sink.write(counts(10))
    sys.exit("no error")
except SinkError as error:
    assert "File too large" in str(error), error
with open(sys.argv[1]) as file:
    print(len(file.readlines()), flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
assert sink.flush(1) and sink.safe == 11
sink.write(counts(11))
sink.close()
"""


def test_room_again_after_a_full_disk(tmp_path: Path) -> None:
    """Only whole lines are left behind, and what did not fit is written once there is room."""
    path = tmp_path / "events.jsonl"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FULL, path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 0 < int(done.stdout) < 10
    lines = path.read_bytes().splitlines()
    assert lines == [counts(number).to_json() for number in (*range(10), 11)]


STDOUT = """
import time
from stream.config import JsonlSinkConfig
from stream.errors import SinkError
from stream.sinks.jsonl import JsonlSink
from tests.support.sample_events import tracks
print("first", flush=False)
sink = JsonlSink(JsonlSinkConfig(type="jsonl", path="-"))
try:
    for number in range(1_000_000):
        sink.write(tracks(number))
except SinkError as error:
    raise SystemExit(f"ended: {error}")
"""


def test_broken_pipe_on_standard_output() -> None:
    """As in ``framewatch process FILE --out - | head -2``."""
    command = [sys.executable, "-W", "ignore", "-c", STDOUT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"first\n"
        assert json.loads(process.stdout.readline())["frame_index"] == 0
        process.stdout.close()
        assert process.stderr.read() == b"ended: cannot write to standard output: Broken pipe\n"
        assert process.wait(20) == 1


def test_two_writers_never_mix_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    sinks = [JsonlSink(jsonl(path)) for _ in range(2)]
    for number in range(50):
        for i, sink in enumerate(sinks):
            sink.write(tracks(number, f"cam{i}"))
            if number % 7 == i:
                sink.flush(1)
    for sink in sinks:
        sink.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for i in range(2):
        assert [line["frame_index"] for line in lines if line["source_id"] == f"cam{i}"] == list(range(50))


class ManualSink:
    """A sink whose acknowledgements the test gives."""

    def __init__(self, fails: bool = False) -> None:
        self.written = self.safe = 0
        self.events: list[bytes] = []
        self.callbacks: list[Callable[[], None] | None] = []
        self.fails = fails
        self.droppable: list[bool] = []
        self.closed = False

    def write(
        self,
        event: Event,
        on_acknowledged: Callable[[], None] | None = None,
        *,
        droppable: bool = False,
        traceparent: str | None = None,
    ) -> None:
        self.written += 1
        self.droppable.append(droppable)
        if self.fails:
            raise SinkError("it failed")
        self.events.append(event.to_json())
        self.callbacks.append(on_acknowledged)

    def unsafe(self) -> list[bytes]:
        return self.events[self.safe :]

    def flush(self, timeout_s: float) -> bool:
        self.flushed_in_s = timeout_s
        return self.safe == self.written

    def fault(self) -> str:
        return ""

    def spooled(self) -> tuple[int, int]:
        return 100, 1000

    def dropped(self) -> dict[str, int]:
        return {"tracks": 2}

    def pending(self) -> int:
        return self.written - self.safe

    def close(self, timeout_s: float = 10) -> None:
        self.closed = True


def test_fan_out_waits_for_the_last() -> None:
    slow, quick = ManualSink(), ManualSink()
    both = FanOut([slow, quick])
    acknowledged: list[str] = []
    for number in range(3):
        both.write(tracks(number), lambda number=number: acknowledged.append(f"{number}"), droppable=number == 1)
    assert slow.droppable == [False, True, False]
    quick.safe, slow.safe = 3, 1
    assert (both.written, both.safe, both.pending(), both.dropped()) == (3, 1, 2, {"tracks": 4})
    assert both.unsafe() == [tracks(1).to_json(), tracks(2).to_json()]
    for callback in quick.callbacks:
        assert callback
        callback()
    assert acknowledged == []
    assert slow.callbacks[1]
    slow.callbacks[1]()
    assert acknowledged == ["1"]
    assert not both.flush(5)
    assert 0 < quick.flushed_in_s <= 5
    both.close()
    assert slow.closed
    assert quick.closed


def test_fan_out_writes_to_the_others_when_one_fails() -> None:
    bad, good = ManualSink(fails=True), ManualSink()
    both = FanOut([bad, good])
    with pytest.raises(SinkError, match="it failed"):
        both.write(tracks(1))
    assert (good.written, both.written) == (1, 1)


def test_without_sinks_everything_is_safe() -> None:
    nothing = open_sinks([], None)
    acknowledged: list[int] = []
    nothing.write(tracks(1), lambda: acknowledged.append(1))
    assert (nothing.written, nothing.safe, nothing.pending(), acknowledged) == (1, 1, 0, [1])
    assert nothing.flush(0)
    assert nothing.unsafe() == []
    nothing.check()
    nothing.close()


def test_open_sinks_closes_what_it_opened_when_one_fails(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(SinkError, match="Is a directory"):
        open_sinks([jsonl(tmp_path / "a.jsonl"), jsonl(tmp_path)], None)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_spooled_event_keeps_its_trace_context() -> None:
    entry = _Entry("tracks", "framewatch.tracks/1", b"hall", b"{}", traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    again = _Entry.unpack(entry.pack())
    assert (again.topic, again.schema, again.key, again.value) == ("tracks", "framewatch.tracks/1", b"hall", b"{}")
    assert again.traceparent == entry.traceparent


def test_a_spool_from_before_there_were_traces_can_be_read() -> None:
    record = struct.pack("<BBH", 6, 19, 4) + b"tracksframewatch.tracks/1hall{}"
    assert _Entry("tracks", "framewatch.tracks/1", b"hall", b"{}").pack() == record
    assert _Entry.unpack(record).traceparent == ""
