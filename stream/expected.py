"""Expected: how long something takes, from how long it took lately."""

from __future__ import annotations

from typing import NamedTuple

WEIGHT = 0.05  # of one observation: a step is followed to 90 % after 45 of them
SPREADS = 2.0  # mean deviations above the mean: nine of ten or more take no longer


class Usual(NamedTuple):
    """What something takes, as an ``Expected`` tells it: ``mean_s``, and ``most_s``, enough nine times in ten."""

    mean_s: float
    most_s: float


UNKNOWN = Usual(0.0, 0.0)


class Expected:
    """Moving mean of a duration and of its deviation from that (V. Jacobson, Congestion avoidance and control, 1988).

    Written by one thread, read by any.

    Attributes:
        mean_s: expected duration in seconds; 0 before the first observation.
        spread_s: mean deviation.
    """

    def __init__(self) -> None:
        self.mean_s = self.spread_s = 0.0

    @property
    def most_s(self) -> float:
        """Enough nine times in ten, or more often."""
        return self.mean_s + SPREADS * self.spread_s

    @property
    def usual(self) -> Usual:
        """Both figures, to be handed on."""
        return Usual(self.mean_s, self.most_s)

    def observe(self, seconds: float, times: int = 1) -> None:
        """It took so long, ``times`` times; the first observation is taken as it is."""
        weight = 1 - (1 - WEIGHT) ** times if self.mean_s else 1.0
        self.spread_s += (abs(seconds - self.mean_s) - self.spread_s) * weight if self.mean_s else 0.0
        self.mean_s += (seconds - self.mean_s) * weight
