"""Time as stages see it, so that tests can drive it by hand."""

import time
from typing import Protocol


class Clock(Protocol):
    """Wall time for stamps on events, monotonic time for deadlines and durations, and sleeping."""

    def time(self) -> float:
        """POSIX seconds, UTC."""

    def monotonic(self) -> float:
        """Seconds on a clock that never steps; comparable between processes of one host."""

    def sleep(self, seconds: float) -> None:
        """Wait; a negative or zero duration returns at once."""


class SystemClock:
    """The clocks of the operating system. On Linux ``monotonic`` counts from boot in every process alike."""

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        if seconds > 0:
            time.sleep(seconds)
