"""Ingest: which sources are read, and that none is read twice."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, call

import numpy as np
import pytest

from actors.ingest import IngestActor
from stream import ingest
from stream.allowance import Allowance
from stream.batch import Batcher
from stream.clock import SystemClock
from stream.config import DetectorConfig, PipelineConfig, RtspConfig, SourceConfig
from stream.deliver import Delivery, Message, Receipt, SourceState
from stream.detections import Detections
from stream.detectors.base import InputSpec
from stream.detectors.registry import ModelDescription
from stream.errors import SourceUnavailable, SourceUnreadable
from stream.frame import FrameBatch
from stream.gate import Gate
from stream.ingest import Ingest
from stream.metrics import Metrics
from stream.sources.file import FileSource
from tests.support.media import make_video


class Detector:
    """Never asked."""

    def allocate(self, shape: tuple[int, ...]) -> Any:
        return np.empty(shape, np.uint8)

    def submit(self, batch: Any) -> Any:
        raise NotImplementedError

    def release(self, batch: Any) -> None:
        raise NotImplementedError


class SlowDetector(Detector):
    """Answers when it is told to, and finds nothing. ``under_way``: batches without an answer."""

    def __init__(self) -> None:
        self.under_way, self.answer = 0, threading.Event()

    def submit(self, batch: FrameBatch) -> Any:
        self.under_way += 1
        answer, frames = self.answer, len(batch)

        class Pending:
            def result(self) -> tuple[Detections, ...]:
                assert answer.wait(20)
                return (Detections.empty(),) * frames

        return Pending()

    def release(self, batch: Any) -> None:
        self.under_way -= 1


class Aggregator:
    """Everything is safe at once."""

    def __init__(self) -> None:
        self.states: list[SourceState] = []

    def process(self, sender: str, number: int, message: Message, expected: str | None) -> Receipt:
        if isinstance(message, SourceState):
            self.states.append(message)
        return Receipt("", True, number)

    def progress(self, sender: str) -> Receipt:
        return Receipt("", True, 0)


class Playback(FileSource):
    """A camera that shows a file again and again, with a clock that is 2 s behind."""

    def __init__(self, path: Path, config: SourceConfig):
        super().__init__(SourceConfig(id=config.id, uri=str(path), realtime=True, loop=True), SystemClock())

    def packets(self) -> Iterator[Any]:
        for packet in super().packets():
            yield packet and replace(packet, age_s=packet.age_s + 2)  # type: ignore[arg-type]


class Worker:
    """Ends when it is let go, as one does that waits for a camera."""

    made: list["Worker"] = []  # noqa: RUF012

    def __init__(self, config: SourceConfig, *_parts: object):
        self.config, self.done, self.stops = config, False, 0
        self.stubborn = "stubborn" in config.uri
        Worker.made.append(self)

    def start(self) -> None:
        pass

    def stop(self) -> None:
        self.stops += 1
        self.done = self.done or not self.stubborn

    def join(self, timeout_s: float | None = None) -> None:
        assert self.done or timeout_s is not None


def begin(detector: Detector, delivery: Delivery | None = None) -> Ingest:
    config = PipelineConfig(detectors={"people": DetectorConfig(model="m.onnx")})
    models = {"people": ModelDescription(InputSpec(8, 8), ("person",), "people@sha256:0")}
    delivery = delivery or Delivery([Aggregator()], lambda _: 0)
    return Ingest(config, models, {"people": detector}, delivery, SystemClock(), Metrics())


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ingest]:
    monkeypatch.setattr(ingest, "SourceWorker", Worker)
    monkeypatch.setattr(Worker, "made", [])
    running = begin(Detector())
    yield running
    for worker in Worker.made:
        worker.done = True
    running.close()


def camera(name: str, host: str = "h") -> SourceConfig:
    return SourceConfig(id=name, uri=f"rtsp://{host}/{name}")


def wait_for(what: Callable[[], object]) -> None:
    end_s = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_sources_that_stay_are_not_touched(reading: Ingest) -> None:
    reading.set_sources([camera("a"), camera("b")])
    reading.set_sources([camera("a"), camera("b", "other"), camera("c")])
    reading.set_sources([camera("a"), camera("b", "other"), camera("c")])
    stops = {worker.config.uri: worker.stops for worker in Worker.made}
    assert stops == {"rtsp://h/a": 0, "rtsp://h/b": 1, "rtsp://other/b": 0, "rtsp://h/c": 0}
    assert len(Worker.made) == 4
    assert reading.leaving() == []


def test_one_that_does_not_end_holds_up_no_other_and_is_not_read_twice(reading: Ingest) -> None:
    reading.set_sources([camera("a", "stubborn")])
    for _ in range(3):
        reading.set_sources([camera("a"), camera("b")])
    (old, new) = Worker.made
    assert (old.stops > 0, new.config.id) == (True, "b")
    assert reading.leaving() == ["a"]
    old.done = True
    reading.set_sources([camera("a"), camera("b")])
    assert [worker.config.uri for worker in Worker.made[2:]] == ["rtsp://h/a"]
    assert reading.leaving() == []


def test_one_that_is_wanted_again_while_it_ends_begins_anew(reading: Ingest) -> None:
    reading.set_sources([camera("a", "stubborn")])
    reading.set_sources([])
    reading.set_sources([camera("a", "stubborn")])
    assert (len(Worker.made), reading.leaving()) == (1, ["a"])
    Worker.made[0].done = True
    reading.set_sources([camera("a", "stubborn")])
    assert (len(Worker.made), reading.leaving()) == (2, [])


def test_those_that_stay_are_relieved_by_those_that_go_or_end(reading: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    monkeypatch.setattr(Allowance, "relieved", lambda _, part, now_s: told.append(part))
    looked = threading.Semaphore(0)
    monkeypatch.setattr(reading.viewfinder, "rest", looked.release)
    reading.set_sources([camera(name) for name in "abcd"])

    def look() -> list[float]:
        while looked.acquire(blocking=False):
            pass
        for _ in range(2):  # the first may have begun before
            assert looked.acquire(timeout=10)
        return told

    assert look() == []
    Worker.made[3].done = True
    assert look() == [1 / 4]
    reading.set_sources([camera("a"), camera("c"), camera("d"), camera("e")])
    assert look() == [1 / 4, 1 / 3]  # one that has ended does not leave once more, and one that comes relieves nobody


def test_frames_of_before_an_edit_that_come_back_late_do_not_keep_the_gate_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []  # whether all frames sent were answered
    edited = threading.Event()

    def admits(_gate: Gate, _image: object, _pts_s: float, answered: Callable[[], bool]) -> bool:
        told.append(answered())
        return not edited.is_set()

    monkeypatch.setattr(Gate, "admits", admits)
    detector, path = SlowDetector(), make_video(tmp_path / "clip.mp4")
    source = SourceConfig(id="a", uri=str(path), realtime=True, loop=True, gate="on", fps=10)
    running = begin(detector)
    running.set_sources([source])
    wait_for(lambda: detector.under_way)
    edited.set()
    running.set_sources([source.model_copy(update={"fps": 9})])
    assert detector.under_way
    detector.answer.set()
    wait_for(lambda: not detector.under_way)
    told.clear()
    wait_for(lambda: told)
    running.close()
    assert told[0]


@pytest.mark.parametrize("early", [True, False])  # whether frames are given up before they are decoded, or in the batcher
def test_a_camera_whose_clock_is_wrong_does_not_look_like_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, early: bool
) -> None:
    told: list[float | None] = []
    path = make_video(tmp_path / "clip.mp4")
    monkeypatch.setattr("stream.worker.open_source", lambda config, _kafka, _clock: Playback(path, config))
    monkeypatch.setattr(Allowance, "frame", lambda _, used, now_s: told.append(used))
    if not early:
        monkeypatch.setattr(Batcher, "is_hopeless", lambda *_: False)
    detector = SlowDetector()
    detector.answer.set()
    running = begin(detector)
    running.set_sources([camera("a")])
    wait_for(lambda: running.status()[0].dropped.get("stale", 0) >= 5 and told)
    running.close()
    assert None not in told


def test_a_camera_whose_video_cannot_be_decoded_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, reasons = make_video(tmp_path / "clip.mp4"), ["its codec cannot be opened"]

    def opened(config: SourceConfig, *_: object) -> Playback:
        if reasons:
            raise SourceUnreadable(config.id, reasons.pop())
        return Playback(path, config)

    monkeypatch.setattr("stream.worker.open_source", opened)
    detector = SlowDetector()
    detector.answer.set()
    running = begin(detector)
    running.set_sources([camera("a").model_copy(update={"rtsp": RtspConfig(backoff_initial_s=0.01)})])
    wait_for(lambda: running.status()[0].state in ("online", "failed"))
    status = running.status()[0]
    running.close()
    assert (status.state, status.reconnects) == ("online", 1)


def test_the_aggregator_that_a_source_has_moved_to_hears_that_it_is_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(config: SourceConfig, *_: object) -> Playback:
        raise SourceUnavailable(config.id, "connection refused")

    monkeypatch.setattr("stream.worker.open_source", refused)
    aggregators, shard = [Aggregator(), Aggregator()], {"a": 0, "b": 0}
    running = begin(Detector(), Delivery(aggregators, lambda source_id: shard[source_id]))
    running.set_sources([camera("a"), camera("b")])
    wait_for(lambda: len(aggregators[0].states) == 2)
    shard["a"] = 1
    running.say_again(["a", "gone"])
    wait_for(lambda: aggregators[1].states)
    running.close()
    (state,) = aggregators[1].states
    assert (state.source_id, state.online, state.reason) == ("a", False, "connection refused")
    assert len(aggregators[0].states) == 2


def test_an_ingest_actor_knows_which_sources_have_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("configure_process", "RayMetrics", "RemoteAggregator", "ServeDetector", "Ingest", "Lease"):
        monkeypatch.setattr(f"actors.ingest.{name}", MagicMock())
    actor = IngestActor("ingest-0", PipelineConfig(detectors={"people": DetectorConfig(model="m.onnx")}), MagicMock(), "digest")
    for shards in ({"a": 0, "b": 1}, {"a": 0, "b": 1, "c": 0}, {"a": 1, "b": 1, "c": 0}):
        actor.set_sources([], shards, [])
    assert actor._ingest.say_again.mock_calls == [call(["a"])]  # type: ignore[attr-defined]
