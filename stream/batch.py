"""Batcher: frames of many sources become batches for one detector.

Decode threads ``put`` frames, one dispatcher thread takes batches. A batch goes out as soon as one of these holds:

1. ``batch_size`` frames are there;
2. a frame has waited for :func:`batch_window_s`, or one would be late if it waited any longer. What decoding a live one took
   is taken off its window, down to ``LEAST_WINDOW`` of it: who is late already waits less for company;
3. waiting brings nothing: a lossless source stands still because its buffer is full, or every source is finished, or is
   live and has a frame in (its next one is a frame period away), is live and stalled, or is live and, as its frames have come
   lately, has none to give before the batch goes out anyway.

A batch is filled round robin, one frame a source and round, and the next batch begins with the source after the last
one served: while other sources have frames waiting, none gets more than ``ceil(batch_size / sources waiting)``.
Frames of one source stay in order.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from stream.buffer import FrameBuffer, Policy
from stream.clock import Clock, SystemClock
from stream.expected import UNKNOWN, Expected, Usual
from stream.frame import Frame, FrameBatch, FrameInfo, Uint8Array

DropReason = Literal["queue_full", "stale"]

MAX_WINDOW_S = 0.1  # 8 cameras at 5 frames/s bring 4 frames in it; a batch costs about 1 ms of CPU, its frames apart
RESERVE = 0.2  # of the budget, for decoding before
MOST_DETECTOR, MOST_EMIT = 0.5, 0.25  # of the budget; one that was slow once must not have every frame shed for good
LEAST_WINDOW = 0.25  # of the window
WINDOW_SHARE = 0.4  # of what is left of the budget; the rest absorbs jitter and a detector call that is still running
STALE_PASS_S = 1.0  # a live source whose frames are all old when they come still gets one through in this time: late, not blind
BLIND_S = 10.0  # the same where it is we who are late, unless told another: seldom, as each such frame misses the objective
INTERVAL_WEIGHT = 0.2  # of one interval between a source's frames in their moving mean
STALLED_S, STALLED_INTERVALS = 0.5, 4.0  # without a frame for so long, and so many times what is usual: nothing is expected


def batch_window_s(latency_s: float, rest_s: float) -> float:
    """How long a frame may wait for company, in seconds.

    ``spare = latency_s * (1 - RESERVE) - rest_s`` is what the latency budget leaves; the window is ``WINDOW_SHARE`` of
    that, from 0 to ``MAX_WINDOW_S``. With 200 ms and 30 ms for the detector and what follows: (160 - 30) * 0.4 = 52 ms;
    with 100 ms: (80 - 30) * 0.4 = 20 ms.
    """
    spare_s = latency_s * (1 - RESERVE) - rest_s
    return min(max(spare_s * WINDOW_SHARE, 0.0), MAX_WINDOW_S)


@dataclass(slots=True)
class _Source:
    """One source's buffer, when a frame of it last went to the detector, and when and how often frames come."""

    buffer: FrameBuffer
    live: bool
    served_s: float
    came_s: float  # or added
    interval_s: float | None = None  # None before the first frame, 0 before the second

    @property
    def stuck(self) -> bool:
        """Decoding stands still until a batch goes out."""
        return not self.live and self.buffer.full

    def came(self, now_s: float) -> None:
        """A frame came."""
        gap_s, self.came_s = now_s - self.came_s, now_s
        if self.interval_s is None:
            self.interval_s = 0.0
        else:
            self.interval_s += (gap_s - self.interval_s) * (INTERVAL_WEIGHT if self.interval_s else 1.0)

    def complete(self, now_s: float, due_s: float) -> bool:
        """No further frame is to be expected before ``due_s``."""
        if not self.live or len(self.buffer):
            return self.buffer.closed or self.live
        interval_s = self.interval_s or 0.0
        stalled = now_s - self.came_s > max(STALLED_S, STALLED_INTERVALS * interval_s)
        return self.buffer.closed or stalled or (interval_s > 0 and self.came_s + interval_s > due_s)


def _empty_images(shape: tuple[int, ...]) -> Uint8Array:
    return np.empty(shape, np.uint8)


class Batcher:
    """Gathers frames of many sources for one detector.

    ``put`` may be called from one thread per source, ``next_batch`` from one thread, everything else from any. Frames
    of lossless sources are never dropped. A frame of a live source goes without a detector call when its age since
    capture, plus what the detector and all behind it are expected to take, is over the latency budget (``stale``). So
    that a camera with a slow line or a wrong clock is late but not blind, the newest frame of a source that had none
    analysed for ``STALE_PASS_S`` is let through all the same; where it is we who are late, after ``blind_s``.

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
        blind_s: float = BLIND_S,
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
            blind_s: see above.

        Raises:
            ValueError: a number is out of range.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        if not latency_s > 0:
            raise ValueError(f"latency_s must be over 0, not {latency_s}")
        self.detector, self._batch_size, self._latency_s = detector, batch_size, latency_s
        self._clock = clock or SystemClock()
        self._on_drop, self._allocate, self._blind_s = on_drop, allocate, blind_s
        self._lock = threading.RLock()
        self._ready = threading.Condition(self._lock)
        self._sources: dict[str, _Source] = {}
        self._turn: deque[str] = deque()
        self._drops: dict[str, Counter[DropReason]] = {}
        self._image_shape: tuple[int, ...] | None = None
        self._detector, self._emit = Expected(), UNKNOWN
        self._waiting_until_s = -math.inf  # what the dispatcher waits for, while it does
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
            now_s = self._clock.monotonic()
            self._sources[source_id] = _Source(buffer, live, served_s=now_s, came_s=now_s)
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
            now_s = self._clock.monotonic()
            source.came(now_s)
            dropped = source.buffer.put(frame)
            if dropped is frame and source.buffer.closed:
                return False
            if dropped is not None:
                self._drops[source_id]["queue_full"] += 1
            # The dispatcher, if it waits, is woken where that changes: a first frame starts the window, others may end or cut it.
            if self._waiting_until_s > -math.inf:
                queued, due_s = self.pending(), min(self._due_s([source]), self._waiting_until_s)
                if queued == 1 or due_s < self._waiting_until_s or self._is_complete(queued, now_s, due_s):
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
            self._detector.observe(seconds, frames)

    def observe_emit(self, usual: Usual) -> None:
        """Tell how long frames take from the detector's answer to the acknowledgement; moves the window too."""
        self._emit = usual

    @property
    def rest_s(self) -> float:
        """Time that nine in ten frames take at most from the batch to the acknowledgement, as far as it is charged to them.

        A detector that was slow once must not have every frame shed for good, so that it is never measured again: no
        more than half the budget is charged for it; and a quarter for what follows, as shedding brings no broker back.
        """
        return self._charged_s(self._detector.most_s, self._emit.most_s)

    def _charged_s(self, detector_s: float, emit_s: float) -> float:
        return min(detector_s, MOST_DETECTOR * self._latency_s) + min(emit_s, MOST_EMIT * self._latency_s)

    def deadline_s(self, info: FrameInfo) -> float:
        """Monotonic time at which the frame must be acknowledged. The time for which the gate held it is not charged: an
        event must not lose its beginning."""
        return info.captured_s + info.held_s + self._latency_s

    def is_stale(self, info: FrameInfo, now_s: float) -> bool:
        """True when a frame that goes to the detector at ``now_s`` is expected to miss its deadline."""
        return now_s + self._rest_of_s(info.line_s) > self.deadline_s(info)

    def _rest_of_s(self, line_s: float) -> float:
        """What a frame is charged for the rest of its way. Where its line, or the B-frames of its stream, leave less than the
        reserve, the mean is charged: an idle machine is not sure of the deadline either, and would shed most frames to be it."""
        unsure = line_s + self.rest_s > (1 - RESERVE) * self._latency_s
        return self._charged_s(self._detector.mean_s, self._emit.mean_s) if unsure else self.rest_s

    def is_hopeless(self, source_id: str, captured_s: float, line_s: float) -> bool:
        """True when a live source's frame would be shed even if it came into the batch at once, so that it need not be
        decoded or scaled; both times as in ``FrameInfo``."""
        source, now_s = self._sources.get(source_id), self._clock.monotonic()
        if source is None or now_s + self._rest_of_s(line_s) <= captured_s + self._latency_s:
            return False
        return now_s - source.served_s < self._pass_s(line_s)

    def used(self, info: FrameInfo, now_s: float) -> float:
        """Share of the latency budget that has passed at ``now_s``, without what passed before the frame was with us."""
        return (now_s - info.due_s) / self._latency_s

    def line_too_long(self, line_s: float) -> bool:
        """True when a frame would be late even if we lost no time with it; ``line_s`` as in ``FrameInfo``."""
        return line_s + self.rest_s > self._latency_s

    def _pass_s(self, line_s: float) -> float:
        """After so long without one, a stale frame passes."""
        return STALE_PASS_S if self.line_too_long(line_s) else self._blind_s

    @property
    def detector_s(self) -> float:
        """Expected detector time of a batch (moving average); 0 before the first."""
        return self._detector.mean_s

    @property
    def window_s(self) -> float:
        """How long a frame waits for company at present."""
        return batch_window_s(self._latency_s, self._detector.mean_s + min(self._emit.most_s, MOST_EMIT * self._latency_s))

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

    def _is_complete(self, queued: int, now_s: float, due_s: float) -> bool:
        """Whether waiting until ``due_s`` brings nothing."""
        if queued >= self._batch_size or not queued:
            return queued > 0
        sources = self._sources.values()
        return any(s.stuck for s in sources) or all(s.complete(now_s, due_s) for s in sources)

    def _due_s(self, sources: Iterable[_Source]) -> float:
        """When a batch with the frames of these sources must go out: infinity where none waits."""
        window_s, rest_s, due_s = self.window_s, self.rest_s, math.inf
        for source in sources:
            if (oldest := source.buffer.oldest) is None:
                continue
            since_s, info = oldest[0], oldest[1].info
            if source.live:
                wait_s = min(window_s, max(window_s - (since_s - info.due_s), LEAST_WINDOW * window_s))
                due_s = min(due_s, since_s + wait_s, self.deadline_s(info) - rest_s)
            else:
                due_s = min(due_s, since_s + window_s)
        return due_s

    def _wait_until_due(self, deadline_s: float) -> bool:
        """Wait until a batch should go out; False when the time is over or after ``close``. The lock is held."""
        while not self._closed:
            now_s, due_s = self._clock.monotonic(), self._due_s(self._sources.values())
            if due_s <= now_s or self._is_complete(self.pending(), now_s, due_s):
                return True
            if now_s >= deadline_s:
                return False
            self._waiting_until_s = due_s
            self._ready.wait(min(due_s, deadline_s) - now_s)
            self._waiting_until_s = -math.inf
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
            if not too_late or (not source.buffer and now_s - source.served_s >= self._pass_s(frame.info.line_s)):
                source.served_s = now_s
                return frame
            stale.append(frame)
        return None

    def _forget_drained(self) -> None:
        for source_id in [s for s, source in self._sources.items() if source.buffer.closed and not source.buffer]:
            del self._sources[source_id], self._drops[source_id]
            self._turn.remove(source_id)
