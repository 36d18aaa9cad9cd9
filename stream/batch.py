"""Batcher: frames of many sources become batches for one detector.

Decode threads ``put`` frames, one dispatcher thread takes batches. A batch goes out as soon as one of these holds:

1. ``batch_size`` frames are there;
2. the frame that waits longest has waited for :func:`batch_window_s`;
3. waiting brings nothing: a lossless source stands still because its buffer is full, or every source is finished or
   is live and has a frame in (its next one is a frame period away).

A batch is filled round robin, one frame a source and round, and the next batch begins with the source after the last
one served: while other sources have frames waiting, none gets more than ``ceil(batch_size / sources waiting)``.
Frames of one source stay in order.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from stream.buffer import FrameBuffer, Policy
from stream.clock import Clock, SystemClock
from stream.frame import Frame, FrameBatch, FrameInfo, Uint8Array

DropReason = Literal["queue_full", "stale"]

MAX_WINDOW_S = 0.15  # 8 cameras at 5 frames/s bring 6 frames in it; a Serve call of 1 costs 5 ms of CPU a frame, of 8 0.8 ms
RESERVE = 0.2  # of the budget, for decoding before, and tracking and the broker's acknowledgement (13 ms measured) behind
WINDOW_SHARE = 0.4  # of what is left of the budget; the rest absorbs jitter and a detector call that is still running
FRAME_WEIGHT = 0.05  # of a frame in the moving average of the detector time: a step is followed to 90 % after 45 frames
STALE_PASS_S = 1.0  # a live source whose frames all come too late still gets one through in this time: late, not blind


def batch_window_s(latency_s: float, detector_s: float) -> float:
    """How long a frame may wait for company, in seconds.

    ``spare = latency_s * (1 - RESERVE) - detector_s`` is what the latency budget leaves; the window is ``WINDOW_SHARE``
    of that, from 0 to ``MAX_WINDOW_S``. With 500 ms and a detector of 30 ms: (400 - 30) * 0.4 = 148 ms; with 100 ms:
    (80 - 30) * 0.4 = 20 ms.
    """
    spare_s = latency_s * (1 - RESERVE) - detector_s
    return min(max(spare_s * WINDOW_SHARE, 0.0), MAX_WINDOW_S)


@dataclass(slots=True)
class _Source:
    """One source's buffer, and when a frame of it last went to the detector."""

    buffer: FrameBuffer
    live: bool
    served_s: float

    @property
    def stuck(self) -> bool:
        """Decoding stands still until a batch goes out."""
        return not self.live and self.buffer.full

    @property
    def complete(self) -> bool:
        """No further frame is to be expected soon."""
        return self.buffer.closed or (self.live and len(self.buffer) > 0)


def _empty_images(shape: tuple[int, ...]) -> Uint8Array:
    return np.empty(shape, np.uint8)


class Batcher:
    """Gathers frames of many sources for one detector.

    ``put`` may be called from one thread per source, ``next_batch`` from one thread, everything else from any. Frames
    of lossless sources are never dropped. A frame of a live source goes without a detector call when its age since
    capture plus the expected detector time is over the latency budget (``stale``); so that a camera with a slow line
    or a wrong clock is late but not blind, the newest frame of a source that had none analysed for ``STALE_PASS_S``
    is let through all the same.

    Attributes:
        detector: name in the config.
    """

    def __init__(
        self,
        detector: str,
        batch_size: int,
        latency_s: float,
        clock: Clock | None = None,
        on_drop: Callable[[Frame, DropReason], None] | None = None,
        allocate: Callable[[tuple[int, ...]], Uint8Array] = _empty_images,
    ):
        """
        Args:
            detector: name in the config, written on each batch.
            batch_size: most frames of a batch.
            latency_s: the SLO's budget from capture to acknowledgement.
            clock: system clocks by default. With a clock driven by hand, call ``next_batch(0)``.
            on_drop: told of each frame that the policy or its age drops, on the thread that called ``put`` or
                ``next_batch``.
            allocate: gives the uint8 array of shape (N, H, W, 3) that a batch is written into.

        Raises:
            ValueError: a number is out of range.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        if not latency_s > 0:
            raise ValueError(f"latency_s must be over 0, not {latency_s}")
        self.detector, self._batch_size, self._latency_s = detector, batch_size, latency_s
        self._clock = clock or SystemClock()
        self._on_drop, self._allocate = on_drop, allocate
        self._lock = threading.RLock()
        self._ready = threading.Condition(self._lock)
        self._sources: dict[str, _Source] = {}
        self._turn: deque[str] = deque()
        self._drops: dict[str, Counter[DropReason]] = {}
        self._image_shape: tuple[int, ...] | None = None
        self._detector_s = 0.0
        self._closed = False

    def add_source(self, source_id: str, capacity: int, policy: Policy, live: bool) -> None:
        """Begin to take frames of a source.

        Raises:
            ValueError: the id is in use, or a lossless source was given a policy that drops.
        """
        if not live and policy is not Policy.BLOCK:
            raise ValueError(f"lossless source {source_id!r} needs the policy BLOCK, not {policy.name}")
        with self._lock:
            if source_id in self._sources:
                raise ValueError(f"source {source_id!r} is there already")
            buffer = FrameBuffer(capacity, policy, self._clock, self._lock)
            if self._closed:
                buffer.close()
            self._sources[source_id] = _Source(buffer, live, self._clock.monotonic())
            self._turn.append(source_id)
            self._drops[source_id] = Counter()

    def finish_source(self, source_id: str) -> None:
        """No more frames come; those that wait are still given out, then the source is forgotten."""
        with self._lock:
            if source_id in self._sources:
                self._sources[source_id].buffer.close()
                self._forget_drained()
                self._ready.notify_all()

    def remove_source(self, source_id: str) -> None:
        """Forget a source and the frames of it that wait."""
        with self._lock:
            if source_id in self._sources:
                self._sources[source_id].buffer.close(discard=True)
                self._forget_drained()
                self._ready.notify_all()

    def put(self, frame: Frame) -> bool:
        """Hand over a decoded frame; blocks where the source's policy says so.

        Returns:
            True: the frame comes out of ``next_batch``, or ``on_drop`` is told of it. False: its source is finished,
            removed or unknown, and the frame is the caller's again.

        Raises:
            ValueError: the image is not of the size that the other frames have.
        """
        source_id = frame.info.source_id
        with self._lock:
            self._image_shape = self._image_shape or frame.image.shape
            if frame.image.shape != self._image_shape:
                raise ValueError(f"source {source_id!r}: image must be {self._image_shape}, not {frame.image.shape}")
            source = self._sources.get(source_id)
            if source is None:
                return False
            dropped = source.buffer.put(frame)
            if dropped is frame and source.buffer.closed:
                return False
            if dropped is not None:
                self._drops[source_id]["queue_full"] += 1
            # The dispatcher is woken where its wait changes: a first frame starts the window, the others may end it.
            queued = self.pending()
            if queued == 1 or self._is_complete(queued):
                self._ready.notify_all()
        if dropped is not None and self._on_drop:
            self._on_drop(dropped, "queue_full")
        return True

    def next_batch(self, timeout_s: float) -> tuple[FrameBatch, tuple[Frame, ...]] | None:
        """Wait for the next batch, at most ``timeout_s``.

        Returns:
            The batch and its frames (with their pictures), all stamped with ``batched_s``; None when the time is over
            or the batcher was closed.
        """
        deadline_s = self._clock.monotonic() + timeout_s
        frames: list[Frame] = []
        while not frames:
            with self._lock:
                if not self._wait_until_due(deadline_s):
                    return None
                batched_s = self._clock.monotonic()
                frames, stale = self._take(batched_s)
            if self._on_drop:
                for frame in stale:
                    self._on_drop(frame, "stale")
        stamped = tuple(replace(frame, info=replace(frame.info, batched_s=batched_s)) for frame in frames)
        images = self._allocate((len(stamped), *stamped[0].image.shape))
        np.stack([frame.image for frame in stamped], out=images)
        return FrameBatch(self.detector, tuple(frame.info for frame in stamped), images), stamped

    def observe_detector_s(self, seconds: float, frames: int) -> None:
        """Tell how long the detector took for a batch of ``frames``, from ``batched_s`` to its answer; moves the window."""
        with self._lock:
            weight = 1 - (1 - FRAME_WEIGHT) ** frames if self._detector_s else 1.0
            self._detector_s += (seconds - self._detector_s) * weight

    def is_stale(self, info: FrameInfo, now_s: float) -> bool:
        """True when a frame that goes to the detector at ``now_s`` is expected to miss the latency budget.

        A detector that was slow once must not have every frame shed for good, so that it is never measured again: no
        more than half the budget is charged for it. The time for which the gate held a frame is not charged: an event
        must not lose its beginning.
        """
        return now_s - info.captured_s - info.held_s + min(self._detector_s, self._latency_s / 2) > self._latency_s

    @property
    def detector_s(self) -> float:
        """Expected detector time of a batch (moving average); 0 before the first."""
        return self._detector_s

    @property
    def window_s(self) -> float:
        """How long a frame waits for company at present."""
        return batch_window_s(self._latency_s, self._detector_s)

    @property
    def drained(self) -> bool:
        """True when no frame waits and none can come: no source is left, or the batcher is closed."""
        return self._closed or not self._sources

    def pending(self) -> int:
        """Frames that wait, over all sources."""
        return sum(len(source.buffer) for source in list(self._sources.values()))

    def drops(self) -> dict[str, dict[DropReason, int]]:
        """Frames given up so far, by source and reason, for the sources that are there."""
        with self._lock:
            return {source_id: dict(counts) for source_id, counts in self._drops.items()}

    def close(self) -> None:
        """Wake every blocked call; frames that wait are forgotten."""
        with self._lock:
            self._closed = True
            for source in self._sources.values():
                source.buffer.close(discard=True)
            self._ready.notify_all()

    def _is_complete(self, queued: int) -> bool:
        sources = self._sources.values()
        return queued >= self._batch_size or (queued > 0 and (any(s.stuck for s in sources) or all(s.complete for s in sources)))

    def _wait_until_due(self, deadline_s: float) -> bool:
        """Wait until a batch should go out; False when the time is over or after ``close``. The lock is held."""
        while not self._closed:
            if self._is_complete(self.pending()):
                return True
            now_s = self._clock.monotonic()
            since_s = [s for source in self._sources.values() if (s := source.buffer.waiting_since_s) is not None]
            due_s = min(since_s) + self.window_s if since_s else float("inf")
            if due_s <= now_s:
                return True
            if now_s >= deadline_s:
                return False
            self._ready.wait(min(due_s, deadline_s) - now_s)
        return False

    def _take(self, now_s: float) -> tuple[list[Frame], list[Frame]]:
        """Frames for one batch, round robin, and the stale ones shed on the way. The lock is held."""
        frames: list[Frame] = []
        stale: list[Frame] = []
        empty = 0  # sources in a row that had nothing
        while len(frames) < self._batch_size and empty < len(self._turn):
            source_id = self._turn[0]
            self._turn.rotate(-1)
            frame = self._pop_fresh(self._sources[source_id], now_s, stale)
            if frame is None:
                empty += 1
            else:
                empty = 0
                frames.append(frame)
        for frame in stale:
            self._drops[frame.info.source_id]["stale"] += 1
        self._forget_drained()
        return frames, stale

    def _pop_fresh(self, source: _Source, now_s: float, stale: list[Frame]) -> Frame | None:
        """The source's oldest frame worth a detector call; the stale ones before it go to ``stale``."""
        while (frame := source.buffer.pop()) is not None:
            too_late = source.live and self.is_stale(frame.info, now_s)
            if not too_late or (not source.buffer and now_s - source.served_s >= STALE_PASS_S):
                source.served_s = now_s
                return frame
            stale.append(frame)
        return None

    def _forget_drained(self) -> None:
        for source_id in [s for s, source in self._sources.items() if source.buffer.closed and not source.buffer]:
            del self._sources[source_id], self._drops[source_id]
            self._turn.remove(source_id)
