"""Timeline: media time that goes on where a stream's clock starts again or steps."""

from __future__ import annotations

RESTART_S = 1.0  # a step back by more is a restart; less is the jitter of a careless muxer
STEP_S = 10.0  # media time that runs ahead of the time of arrival by more is a stepped clock
USUAL_INTERVAL_S = 0.04  # until two packets have told the real one


class Timeline:
    """Finds the offset that makes the decode times of a stream continuous. Not thread-safe.

    Args:
        start_s: media time that becomes zero.
    """

    def __init__(self, start_s: float = 0.0):
        self.offset_s = -start_s
        self._last_dts_s: float | None = None
        self._last_arrived_s: float | None = None
        self._interval_s = USUAL_INTERVAL_S
        self._join = False

    def restart(self) -> None:
        """The next packet begins another pass, whatever its time says."""
        self._join = True

    def place(self, dts_s: float, arrived_s: float | None = None) -> float:
        """The offset to add to this packet's times.

        Args:
            dts_s: decode time as the stream gives it.
            arrived_s: monotonic time of arrival of a live packet; with it, steps forward are found as well.
        """
        if self._last_dts_s is not None:
            step_s = dts_s - self._last_dts_s
            arrival_step_s = None if arrived_s is None or self._last_arrived_s is None else arrived_s - self._last_arrived_s
            stepped = arrival_step_s is not None and step_s - arrival_step_s > STEP_S
            if self._join or step_s < -RESTART_S or stepped:
                self.offset_s += (self._interval_s if arrival_step_s is None else arrival_step_s) - step_s
                self._join = False
            elif 0 < step_s <= RESTART_S:
                self._interval_s = step_s
        self._last_dts_s, self._last_arrived_s = dts_s, arrived_s
        return self.offset_s
