"""What must not go wrong when a part fails: found by review and by the tests that kill processes."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream.aggregate import Aggregator
from stream.batch import Batcher
from stream.buffer import Policy
from stream.checkpoint import Checkpoint
from stream.clock import SystemClock
from stream.deliver import Delivery, Message, Receipt, SourceState
from stream.detections import Detections
from stream.dispatch import Dispatcher
from stream.errors import SinkError
from stream.events import AlertEvent, CountsEvent, Event, HealthEvent, TracksEvent
from stream.frame import DetectedBatch, Frame, FrameBatch
from stream.metrics import Metrics
from stream.testing import ManualClock, MemorySink
from tests.unit.test_aggregate import CLASSES, T0, aggregator, batch, config, frame, people, send
from tests.unit.test_deliver import Receiver
from tests.unit.test_deliver import batch as sent


def health(sink: MemorySink) -> list[str]:
    return [event.state for event in sink.of(HealthEvent)]


def test_a_waiting_snapshot_does_not_replace_a_newer_checkpoint(tmp_path: Path) -> None:
    """One that was taken before the alert and is saved after it would forget the alert."""
    clock, sink = ManualClock(T0), MemorySink()
    rules = [{"name": "crowd", "type": "crowd", "zone": "a/all", "above": 1, "for_s": 0.6}]
    to = aggregator(sink, tmp_path, clock, alerts=rules)
    for number in range(1, 8):
        clock.advance(0.5)  # a snapshot is taken every second, with messages 2, 4 and 6, and saved with the next
        to.process("sender", number, batch((frame("a", number - 1), people(2))), None)
    assert [alert.state for alert in sink.of(AlertEvent)] == ["raised"]
    saved = Checkpoint(tmp_path / "checkpoint.json").load()
    assert saved is not None
    assert [machine["memory"]["phase"] for machine in saved["alerts"]["machines"]] == ["raised"]


def test_a_state_that_is_known_is_not_told_again(tmp_path: Path) -> None:
    sink, clock = MemorySink(), ManualClock(T0)
    to = aggregator(sink, tmp_path, clock)
    changes = [SourceState("a", online, "", T0 + at) for at, online in enumerate([True, True, False, False, True])]
    send(to, *changes)
    assert health(sink) == ["online", "offline", "online"]
    to.close()
    second = MemorySink()
    send(aggregator(second, tmp_path, clock), SourceState("a", True, "", T0 + 9), start=6)
    assert health(second) == ["online"]  # a new start of the service says so


def test_a_covered_camera_stays_covered_over_restarts_until_its_view_is_known(tmp_path: Path) -> None:
    clock, first = ManualClock(T0), MemorySink()
    rules = [{"name": "covered", "type": "source_tampered"}]
    states = [SourceState("a", True, "", T0, None), *(SourceState("a", True, "", T0 + 1, "black") for _ in range(2))]
    to = aggregator(first, tmp_path, clock, alerts=rules)
    send(to, *states)
    to.tick()
    to.close()
    assert [(event.state, event.reason) for event in first.of(HealthEvent)] == [("online", ""), ("tampered", "black")]
    assert [event.state for event in first.of(AlertEvent)] == ["raised"]
    second = MemorySink()
    to = aggregator(second, tmp_path, clock, alerts=rules)
    send(to, SourceState("a", True, "", T0 + 9, None), start=4)  # an ingest process that has not seen it yet
    assert [event.state for event in second.of(HealthEvent)] == ["online"]
    send(to, SourceState("a", True, "", T0 + 20, ""), start=5)
    assert [event.state for event in second.of(HealthEvent)] == ["online", "restored"]
    assert [event.state for event in second.of(AlertEvent)] == ["cleared"]


def test_an_aggregator_that_is_left_without_sources_clears_its_alerts(tmp_path: Path) -> None:
    """There are fewer aggregators than before, and its sources have gone to others: which know nothing of its alerts."""
    clock, first, second = ManualClock(T0), MemorySink(), MemorySink()
    rules = [
        {"name": "lost", "type": "source_offline"},
        {"name": "crowd", "type": "crowd", "zones": ["a/all", "b/all"], "above": 1},
    ]
    to = aggregator(first, tmp_path, clock, alerts=rules)
    send(to, SourceState("a", False, "cable", T0), batch((frame("b", 0), people(2))))
    to.close()
    raised = {event.alert_id for event in first.of(AlertEvent)}
    assert (len(raised), {event.state for event in first.of(AlertEvent)}) == (2, {"raised"})
    without = config(alerts=rules).model_copy(update={"sources": []})
    to = Aggregator(without, CLASSES, second, clock, Metrics(), Checkpoint(tmp_path / "checkpoint.json"), run="run")
    assert {(event.alert_id, event.state) for event in second.of(AlertEvent)} == {(alert_id, "cleared") for alert_id in raised}
    news = to.news(None)
    assert (news.active, [event.state for event in news.alerts][-2:]) == (frozenset(), ["cleared", "cleared"])
    assert to.news(news.confirm).alerts == (), "there is something left to wait for"


def test_a_source_offline_rule_with_a_hold_time_raises_for_any_kind_of_source() -> None:
    sink, clock = MemorySink(), ManualClock(T0)
    rules = [{"name": "lost", "type": "source_offline", "for_s": 5}]
    kafka = [{"id": "a", "uri": "kafka://video", "kafka": {"bootstrap_servers": ["h:9092"]}}]
    to = aggregator(sink, clock=clock, sources=kafka, alerts=rules)
    send(to, SourceState("a", False, "no broker", T0))
    for _ in range(12):
        clock.advance(0.5)
        to.tick()
    assert [alert.state for alert in sink.of(AlertEvent)] == ["raised"]


class Refuses(MemorySink):
    """Refuses tracks events for good."""

    def write(self, event: Event, *args: Any, **options: Any) -> None:
        super().write(event, *args, **options)
        if isinstance(event, TracksEvent):
            raise SinkError("the disk is full")


def test_an_event_that_a_sink_refuses_holds_up_nothing() -> None:
    sink = Refuses()
    to = aggregator(sink)
    send(to, *(batch((frame("a", index), people(2))) for index in range(25)))
    assert to.sink_fault == "the disk is full"
    assert len(sink.of(CountsEvent)) == 2
    assert len(sink.of(AlertEvent)) == 1
    to.tick()
    to.tick()
    assert to.sink_fault == ""


def test_alerts_go_out_when_the_checkpoint_cannot_be_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stream.checkpoint.Checkpoint.save", full)
    sink = MemorySink()
    to = aggregator(sink, tmp_path)
    send(to, *(batch((frame("a", index), people(2))) for index in range(10)))
    assert len(sink.of(AlertEvent)) == 1
    assert to.progress("sender").safe == 0  # so that no source commits what would be lost


def test_another_input_of_the_same_id_begins_anew() -> None:
    sink = MemorySink()
    to = aggregator(sink)
    send(to, batch((frame("a", 9), people(1))))
    (source,) = [source for source in config().sources if source.id == "a"]
    to.set_sources([source.model_copy(update={"uri": "/other.mp4"})])
    assert len(sink.of(CountsEvent)) == 1  # the window that was open
    send(to, batch((frame("a", 0), people(1))), start=2)
    assert [event.frame_index for event in sink.of(TracksEvent)] == [9, 0]


def test_what_was_sent_of_a_former_input_says_nothing_about_the_new_one() -> None:
    receiver = Receiver()
    sender = Delivery([receiver], lambda _: 0)
    sender.send(sent(("a", 100)))
    sender.forget("a")
    sender.send(sent(("b", 7)))
    receiver.save()
    assert sender.progress() == {"b": 7}
    sender.send(sent(("a", 0)))
    receiver.save()
    assert sender.progress() == {"a": 0, "b": 7}


class Away:
    """An aggregator that processes what it gets."""

    def __init__(self) -> None:
        self.frames: list[int] = []

    def process(self, sender: str, number: int, message: Message, expected: str | None) -> Receipt:
        assert isinstance(message, DetectedBatch)
        self.frames += [info.frame_index for info in message.frames]
        return Receipt("1", True, number)

    def progress(self, sender: str) -> Receipt:
        return Receipt("1", True, 0)


class FailsOnce:
    """A detector with a bug that shows on its first batch."""

    def __init__(self) -> None:
        self.batches = 0
        self.released = 0

    def allocate(self, shape: tuple[int, ...]) -> Any:
        return np.empty(shape, np.uint8)

    def release(self, batch: FrameBatch) -> None:
        self.released += 1

    def submit(self, batch: FrameBatch) -> "FailsOnce":
        self._size = len(batch)
        return self

    def result(self) -> tuple[Detections, ...]:
        self.batches += 1
        if self.batches == 1:
            raise KeyError("a bug, rtsp://viewer:secret@camera/1")
        return tuple(Detections.empty() for _ in range(self._size))


def test_a_bug_costs_its_batch_and_not_the_thread(picture: Any, log_lines: Callable[[], list[dict[str, Any]]]) -> None:
    done: list[tuple[int, bool]] = []
    failures: list[Exception] = []
    both = threading.Event()

    def note(frame: Frame, detections: Detections | None) -> None:
        done.append((frame.info.frame_index, detections is not None))
        if len(done) == 2:
            both.set()

    batcher, receiver = Batcher("people", 1, 10.0), Away()
    batcher.add_source("a", 4, Policy.BLOCK, live=False)
    detector = FailsOnce()
    dispatcher = Dispatcher(
        batcher,
        detector,
        "m",
        Delivery([receiver], lambda _: 0),
        SystemClock(),
        Metrics(),
        lossless=lambda _: True,
        on_done=note,
        on_failure=failures.append,
    )
    dispatcher.start()
    for index in range(2):
        batcher.put(Frame(frame("a", index), picture))
    assert both.wait(10)
    dispatcher.close()
    assert done == [(0, False), (1, True)]
    assert detector.released == 2
    assert receiver.frames == [1]
    assert [type(failure) for failure in failures] == [KeyError]
    [line] = log_lines()
    assert (line["event"], line["detector"]) == ("internal error: a batch is given up", "people")
    assert "KeyError: 'a bug, rtsp://viewer:***@camera/1'" in line["exception"]
    assert "secret" not in str(line)


@pytest.fixture
def picture() -> Any:
    return np.zeros((8, 8, 3), np.uint8)
