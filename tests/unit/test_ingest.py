"""Ingest: which sources are read, and that none is read twice."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from stream import ingest
from stream.allowance import Allowance
from stream.clock import SystemClock
from stream.config import DetectorConfig, PipelineConfig, SourceConfig
from stream.deliver import Delivery
from stream.detectors.base import InputSpec
from stream.detectors.registry import ModelDescription
from stream.ingest import Ingest
from stream.metrics import Metrics


class Detector:
    """Never asked."""

    def allocate(self, shape: tuple[int, ...]) -> Any:
        return np.empty(shape, np.uint8)

    def submit(self, batch: Any) -> Any:
        raise NotImplementedError

    def release(self, batch: Any) -> None:
        raise NotImplementedError


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


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ingest]:
    monkeypatch.setattr(ingest, "SourceWorker", Worker)
    monkeypatch.setattr(Worker, "made", [])
    config = PipelineConfig(detectors={"people": DetectorConfig(model="m.onnx")})
    models = {"people": ModelDescription(InputSpec(8, 8), ("person",), "people@sha256:0")}
    running = Ingest(config, models, {"people": Detector()}, Delivery([], lambda _: 0), SystemClock(), Metrics())
    yield running
    for worker in Worker.made:
        worker.done = True
    running.close()


def camera(name: str, host: str = "h") -> SourceConfig:
    return SourceConfig(id=name, uri=f"rtsp://{host}/{name}")


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
