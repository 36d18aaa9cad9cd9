"""FrameBuffer: frames of one source on their way from its decode thread to the batcher, bounded, with a named policy."""

from __future__ import annotations

import threading
from collections import deque
from enum import StrEnum

from stream.clock import Clock, SystemClock
from stream.frame import Frame


class Policy(StrEnum):
    """What a full buffer does with one frame more."""

    BLOCK = "block"
    DROP_OLDEST = "drop_oldest"
    DROP_NEWEST = "drop_newest"


class FrameBuffer:
    """Frames of one source, first in, first out. Safe for any number of threads.

    Attributes:
        capacity: most frames held.
        policy: what ``put`` does when that many are there.
    """

    def __init__(self, capacity: int, policy: Policy, clock: Clock | None = None, lock: threading.RLock | None = None):
        """``lock`` may be shared with others, so that they look at several buffers at one instant.

        Raises:
            ValueError: ``capacity`` is below 1.
        """
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, not {capacity}")
        self.capacity, self.policy = capacity, policy
        self._clock = clock or SystemClock()
        self._lock = lock or threading.RLock()
        self._room = threading.Condition(self._lock)
        self._entries: deque[tuple[float, Frame]] = deque()
        self._closed = False

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def full(self) -> bool:
        """True when ``put`` would block or drop."""
        return len(self._entries) >= self.capacity

    @property
    def closed(self) -> bool:
        """True after ``close``."""
        return self._closed

    @property
    def oldest(self) -> tuple[float, Frame] | None:
        """The oldest frame and the monotonic seconds at which it came in."""
        with self._lock:
            return self._entries[0] if self._entries else None

    def put(self, frame: Frame) -> Frame | None:
        """Add a frame; with ``BLOCK``, wait until there is room or the buffer is closed.

        Returns:
            The frame that had to go: an older one, or ``frame`` itself (always when closed); None if all were kept.
        """
        with self._room:
            if self.policy is Policy.BLOCK:
                self._room.wait_for(lambda: self._closed or not self.full)
            if self._closed:
                return frame
            victim = None
            if self.full:
                if self.policy is Policy.DROP_NEWEST:
                    return frame
                victim = self._entries.popleft()[1]
            self._entries.append((self._clock.monotonic(), frame))
            return victim

    def pop(self) -> Frame | None:
        """Take the oldest frame; None when empty. Works on a closed buffer too, until it is empty."""
        with self._room:
            if not self._entries:
                return None
            self._room.notify()
            return self._entries.popleft()[1]

    def close(self, *, discard: bool = False) -> None:
        """Take no more frames and wake blocked ``put`` calls; with ``discard``, forget those held."""
        with self._room:
            self._closed = True
            if discard:
                self._entries.clear()
            self._room.notify_all()
