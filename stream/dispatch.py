"""From the batcher through a detector to the aggregators: one dispatcher per detector."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from stream.batch import Batcher
from stream.boot import boot_id
from stream.clock import Clock
from stream.deliver import Delivery
from stream.detections import Detections
from stream.detectors.base import Detector
from stream.errors import DetectorError, Retryable
from stream.frame import DetectedBatch, Frame, FrameBatch, Uint8Array
from stream.logs import get_logger
from stream.metrics import Metrics

logger = get_logger(__name__)

POLL_S = 0.5
ATTEMPTS = 3  # of a batch on which the model fails; a detector that cannot be reached is tried until the frames are stale
RETRY_S = 0.2
IN_FLIGHT = 2  # batches of a dispatcher that wait for their answer
BATCHES_AT_ONCE = IN_FLIGHT + 2  # and one that is being sent, and one whose answer is being delivered


class PendingDetections(Protocol):
    """A batch on its way through a detector."""

    def result(self) -> tuple[Detections, ...]:
        """Wait for the objects of each frame.

        Raises:
            DetectorError: the model failed on this batch.
            Retryable: the detector cannot be reached at present.
        """


class DetectorClient(Protocol):
    """A detector, here or behind Ray Serve."""

    def allocate(self, shape: tuple[int, ...]) -> Uint8Array:
        """An uninitialised uint8 array (N, H, W, 3) for the images of a batch, in the memory that suits ``submit`` best."""

    def submit(self, batch: FrameBatch) -> PendingDetections:
        """Start a batch; returns at once."""

    def release(self, batch: FrameBatch) -> None:
        """Nothing is awaited of the batch any more: the memory of its images may be used again."""


class LocalDetector:
    """A detector in this process, driven by one thread; the model's own threads do the work."""

    def __init__(self, detector: Detector):
        self._detector = detector
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="detect")

    def allocate(self, shape: tuple[int, ...]) -> Uint8Array:
        return np.empty(shape, np.uint8)

    def release(self, batch: FrameBatch) -> None:
        pass

    def submit(self, batch: FrameBatch) -> Future[tuple[Detections, ...]]:
        return self._executor.submit(self._detector.detect, batch)

    def close(self) -> None:
        """Stop the thread and close the model."""
        self._executor.shutdown()
        self._detector.close()


@dataclass(frozen=True, slots=True)
class _InFlight:
    batch: FrameBatch
    frames: tuple[Frame, ...]
    pending: PendingDetections


class Dispatcher:
    """Two threads: one submits batches, the other awaits them in order and delivers the results.

    So ``IN_FLIGHT`` batches overlap with detection and delivery while the results of each source stay in frame order.

    Args:
        batcher: where batches come from.
        client: the detector.
        model: identity of the model, for the events.
        delivery: where results go.
        clock: monotonic and wall time.
        metrics: counters.
        lossless: tells whether a source's frames must not be dropped.
        on_done: called once for every frame that left, with its detections; None where it was given up.
        on_failure: told of an error that should not be; the batch is given up and the next one goes on.
    """

    def __init__(
        self,
        batcher: Batcher,
        client: DetectorClient,
        model: str,
        delivery: Delivery,
        clock: Clock,
        metrics: Metrics,
        *,
        lossless: Callable[[str], bool],
        on_done: Callable[[Frame, Detections | None], None],
        on_failure: Callable[[Exception], None],
    ):
        self._batcher, self._client, self._model = batcher, client, model
        self._delivery, self._clock, self._metrics = delivery, clock, metrics
        self._lossless, self._on_done, self._on_failure = lossless, on_done, on_failure
        self._stopping = threading.Event()
        self._failing = False
        self._queue: queue.Queue[_InFlight | None] = queue.Queue(maxsize=IN_FLIGHT)
        self._threads = [
            threading.Thread(target=self._submit, name=f"submit-{batcher.detector}", daemon=True),
            threading.Thread(target=self._collect, name=f"collect-{batcher.detector}", daemon=True),
        ]

    def start(self) -> None:
        """Start both threads."""
        for thread in self._threads:
            thread.start()

    def _submit(self) -> None:
        while not self._stopping.is_set():
            batch = self._batcher.next_batch(POLL_S)
            if batch is not None:
                self._metrics.batch(self._batcher.detector, len(batch[0]))
                self._queue.put(_InFlight(*batch, self._client.submit(batch[0])))
        self._queue.put(None)

    def _collect(self) -> None:
        while (item := self._queue.get()) is not None:
            left = list(item.frames)
            try:
                found = self._deliver(item)
                if found is None:
                    self._count_dropped(left, "detector_error")
                for detections in found or [None] * len(left):
                    self._on_done(left.pop(0), detections)
            except Exception as error:
                logger.exception("internal error: a batch is given up", detector=self._batcher.detector)
                self._count_dropped(left, "internal_error")
                for frame in left:
                    self._on_done(frame, None)
                self._on_failure(error)
            finally:
                self._client.release(item.batch)

    def _deliver(self, item: _InFlight) -> tuple[Detections, ...] | None:
        """Await the detections of a batch and send them on; None when it had to be given up."""
        detections = self._await(item)
        if detections is None:
            return None
        detected_s = self._clock.monotonic()
        self._batcher.observe_detector_s(detected_s - item.batch.frames[0].batched_s, len(item.batch))
        self._delivery.send(
            DetectedBatch(
                detector=item.batch.detector,
                model=self._model,
                frames=item.batch.frames,
                detections=detections,
                detected_s=detected_s,
                boot_id=boot_id(),
                sent_at=self._clock.time(),
            )
        )
        self._batcher.observe_emit(self._delivery.emit())
        return detections

    def _count_dropped(self, frames: list[Frame], reason: str) -> None:
        for frame in frames:
            self._metrics.frames(frame.info.source_id, "dropped", reason)

    def _await(self, item: _InFlight) -> tuple[Detections, ...] | None:
        """The batch's detections, however often it takes; None when it had to be given up."""
        pending, failures = item.pending, 0
        while True:
            try:
                detections = pending.result()
            except Retryable as error:
                if self._stopping.is_set() or not self._worth_waiting(item.batch):
                    self._gave_up(error)
                    return None
            except DetectorError as error:
                failures += 1
                if failures == ATTEMPTS:
                    self._gave_up(error)
                    return None
            else:
                if self._failing:
                    logger.info("batches are detected again", detector=self._batcher.detector)
                    self._failing = False
                return detections
            self._stopping.wait(RETRY_S)
            pending = self._client.submit(item.batch)

    def _gave_up(self, error: Exception) -> None:
        """Log the first batch of those that are given up in a row; the others are only counted."""
        if not self._failing:
            logger.error("batches are given up", detector=self._batcher.detector, reason=str(error))
        self._failing = True

    def _worth_waiting(self, batch: FrameBatch) -> bool:
        """True while a frame of the batch must not be lost, or may still be in time."""
        now_s = self._clock.monotonic()
        return any(self._lossless(i.source_id) or not self._batcher.is_stale(i, now_s) for i in batch.frames)

    def give_up(self) -> None:
        """Take no more frames, and wait for no detector that is away."""
        self._stopping.set()
        self._batcher.close()

    def close(self) -> None:
        """Finish what is in flight, then stop both threads."""
        self.give_up()
        for thread in self._threads:
            thread.join()
