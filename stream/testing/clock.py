"""Time driven by hand."""


class ManualClock:
    """A ``Clock`` that moves only when told to; sleeping moves it."""

    def __init__(self, time_s: float = 1_700_000_000.0, monotonic_s: float = 1000.0):
        self._time_s, self._monotonic_s = time_s, monotonic_s

    def time(self) -> float:
        """POSIX seconds."""
        return self._time_s

    def monotonic(self) -> float:
        """Monotonic seconds."""
        return self._monotonic_s

    def sleep(self, seconds: float) -> None:
        """Move both clocks on."""
        self.advance(max(0.0, seconds))

    def advance(self, seconds: float) -> None:
        """Move both clocks on."""
        self._time_s += seconds
        self._monotonic_s += seconds
