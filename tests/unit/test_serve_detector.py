"""The client of a detector under Serve, with a handle that answers as replicas here and elsewhere do."""

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from grpc import RpcError
from ray.exceptions import ActorUnavailableError

from actors import detector as module
from actors.detector import LOOK_S, Answer, BatchInRing, ServeDetector
from stream.detections import Detections
from stream.detectors.base import InputSpec
from stream.dispatch import BATCHES_AT_ONCE
from stream.door import Address
from stream.errors import DetectorError, DetectorUnavailable, DoorUnavailable, FramewatchError, SlotUnavailable
from stream.frame import FrameBatch, FrameInfo
from stream.metrics import Metrics
from stream.ring import RingReader

INFO = FrameInfo("a", "", 0, 0.0, 0.0, 64, 64, 0.0, 0.0)
SHAPE = (1, 8, 8, 3)
DOOR = Address("here", "door")


class Handle:
    """A deployment handle. ``answer`` gets the batch as the replica would, from its pickle."""

    def __init__(self, answer: Callable[[Any], Any]):
        self._answer, self.sent = answer, []

    def _init(self, **_: Any) -> None:
        pass

    def options(self, **_: Any) -> "Handle":
        return self

    def remote(self, batch: Any) -> "Handle":
        self.sent.append(type(batch).__name__)
        self._batch = pickle.dumps(batch)
        return self

    def result(self, timeout_s: float) -> Any:
        batch = pickle.loads(self._batch)
        found = self._answer(batch)
        return Answer(found, DOOR) if isinstance(batch, BatchInRing) else found


class Replica:
    """What is behind the door: answers as ``answer`` does, unless it is ``closed``."""

    def __init__(self, answer: Callable[[Any], Any]):
        self._answer, self.closed, self.calls = answer, False, 0

    def __call__(self, address: Address) -> "Replica":
        if self.closed:
            raise DoorUnavailable("nobody is there")
        self.address = address
        return self

    def call(self, batch: Any) -> "Replica":
        self.calls += 1
        self._batch = pickle.dumps(batch)
        return self

    def result(self, timeout_s: float) -> Any:
        if self.closed:
            raise DoorUnavailable("it has ended")
        try:
            return self._answer(pickle.loads(self._batch))
        except FramewatchError:
            raise
        except Exception as error:
            raise RuntimeError(str(error)) from error

    def close(self) -> None:
        pass


def client(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[Any], Any], replica: Replica | None = None
) -> tuple[ServeDetector, Handle, Metrics]:
    handle, metrics = Handle(answer), Metrics()
    monkeypatch.setattr(module.serve, "get_deployment_handle", lambda *_: handle)
    monkeypatch.setattr(module, "Caller", replica or no_door)
    return ServeDetector("people", 4, InputSpec(8, 8), metrics), handle, metrics


def no_door(_: Address) -> Replica:
    raise DoorUnavailable("it is on another host")


def filled(detector: ServeDetector, value: int) -> FrameBatch:
    images = detector.allocate(SHAPE)
    images[:] = value
    return FrameBatch("people", (INFO,), images)


def brightness(images: np.ndarray) -> tuple[Detections, ...]:
    assert images.min() == images.max()
    value = float(images.max())
    return (Detections.of([[0, 0, value, value]], [1], [0]),)


def test_on_one_host_only_the_place_of_a_batch_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = RingReader()

    def replica(batch: BatchInRing) -> tuple[Detections, ...]:
        with reader.images(batch.slot) as images:
            return brightness(images)

    detector, handle, metrics = client(monkeypatch, replica)
    for value in range(1, 3 * BATCHES_AT_ONCE):
        batch = filled(detector, value)
        (found,) = detector.submit(batch).result()
        assert found.xyxy[0, 2] == value
        detector.release(batch)
    assert set(handle.sent) == {"BatchInRing"}
    assert b'batches_sent_total{detector="people",way="ring"} 11.0' in metrics.expose()
    detector.close()


def test_a_replica_is_called_through_its_door_once_it_has_told_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, now_s = RingReader(), 100.0

    def answer(batch: BatchInRing) -> tuple[Detections, ...]:
        with reader.images(batch.slot) as images:
            return brightness(images)

    def ask(value: int) -> None:
        batch = filled(detector, value)
        (found,) = detector.submit(batch).result()
        assert found.xyxy[0, 2] == value
        detector.release(batch)

    monkeypatch.setattr(module.time, "monotonic", lambda: now_s)
    replica = Replica(answer)
    detector, handle, metrics = client(monkeypatch, answer, replica)
    for value in (1, 2, 3):
        ask(value)
    assert (len(handle.sent), replica.calls) == (1, 2)
    now_s += LOOK_S
    for value in (4, 5):
        ask(value)  # Serve is asked for others now and then
    assert (len(handle.sent), replica.calls) == (2, 3)
    replica.closed = True
    for value in (6, 7):
        ask(value)  # the batch that was lost with the replica goes by Serve
    assert (len(handle.sent), replica.calls) == (4, 4)
    assert b'batches_sent_total{detector="people",way="ring"} 8.0' in metrics.expose()
    detector.close()


def test_what_goes_wrong_behind_a_door_is_told_as_by_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[Exception] = []

    def answer(batch: Any) -> tuple[Detections, ...]:
        if errors and isinstance(batch, BatchInRing):
            raise errors[0]
        return brightness(batch.images) if isinstance(batch, FrameBatch) else ()

    detector, handle, _ = client(monkeypatch, answer, Replica(answer))
    detector.submit(filled(detector, 1)).result()
    errors[:] = [ValueError("a bug")]
    with pytest.raises(DetectorError, match="a bug"):
        detector.submit(filled(detector, 2)).result()
    errors[:] = [SlotUnavailable("in another container")]
    (found,) = detector.submit(filled(detector, 3)).result()
    assert found.xyxy[0, 2] == 3
    assert handle.sent == ["BatchInRing", "FrameBatch"]
    detector.close()


def test_a_replica_elsewhere_gets_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    def replica(batch: Any) -> tuple[Detections, ...]:
        if isinstance(batch, BatchInRing):
            raise SlotUnavailable("on another host")
        return brightness(batch.images)

    detector, handle, metrics = client(monkeypatch, replica)
    for value in (5, 6, 7):
        batch = filled(detector, value)
        (found,) = detector.submit(batch).result()
        assert found.xyxy[0, 2] == value
        detector.release(batch)
    assert handle.sent == ["BatchInRing", "FrameBatch", "FrameBatch", "FrameBatch"]
    assert b'batches_sent_total{detector="people",way="object_store"} 3.0' in metrics.expose()
    monkeypatch.setattr(module, "ELSEWHERE_S", 0.0)
    detector._elsewhere_until_s = 0.0
    detector.submit(filled(detector, 8)).result()
    assert handle.sent[-2:] == ["BatchInRing", "FrameBatch"]
    detector.close()


def test_without_shared_memory_batches_travel_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("not here")

    told: list[str] = []
    monkeypatch.setattr(module, "Ring", refuse)
    monkeypatch.setattr(module.logger, "warning", lambda event, **facts: told.append(f"{event}: {facts}"))
    detector, handle, _ = client(monkeypatch, lambda batch: brightness(batch.images))
    batch = filled(detector, 3)
    (found,) = detector.submit(batch).result()
    assert found.xyxy[0, 2] == 3
    detector.release(batch)
    assert handle.sent == ["FrameBatch"]
    assert "not here" in told[0]
    detector.close()


@pytest.mark.parametrize("error", [RpcError("reset"), TimeoutError(), ActorUnavailableError("gone", b"a" * 16)])
def test_a_replica_that_cannot_be_reached_may_be_asked_again(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> None:
        raise error

    detector, _, _ = client(monkeypatch, fail)
    with pytest.raises(DetectorUnavailable):
        detector.submit(filled(detector, 1)).result()
    detector.close()


def test_an_error_of_the_model_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> None:
        raise DetectorError("m: is broken")

    detector, _, _ = client(monkeypatch, fail)
    with pytest.raises(DetectorError, match="is broken"):
        detector.submit(filled(detector, 1)).result()
    detector.close()
