"""How long to wait before trying again."""

from __future__ import annotations

import random


class Backoff:
    """Exponential back-off with full jitter: the n-th delay is uniform between 0 and ``min(max_s, initial_s * 2**n)``.

    Jitter keeps cameras that went down together from coming back in one burst (M. Brooker, "Exponential Backoff And
    Jitter", AWS Architecture Blog, 2015). Not thread-safe.

    Args:
        initial_s: upper bound of the first delay.
        max_s: upper bound of every delay.
        rng: where the jitter comes from.
    """

    def __init__(self, initial_s: float, max_s: float, rng: random.Random | None = None):
        if initial_s <= 0 or max_s < 0:
            raise ValueError(f"delays must be positive, not {initial_s} and {max_s}")
        self._initial_s, self._max_s = min(initial_s, max_s), max_s
        self._rng = rng or random.Random()
        self._bound_s = self._initial_s

    def next_delay_s(self) -> float:
        """Seconds to wait before the next try; the bound doubles each time."""
        delay_s = self._rng.uniform(0, self._bound_s)
        self._bound_s = min(self._max_s, self._bound_s * 2)
        return delay_s

    def reset(self) -> None:
        """The last try succeeded: begin again with ``initial_s``."""
        self._bound_s = self._initial_s
