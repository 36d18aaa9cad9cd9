"""The search for the greatest number of sources that is sustained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Found:
    """Where a search ended.

    Attributes:
        best: greatest number that was sustained; 0 where not even one was.
        failed: least number above it that was not; None where none was tried.
        complete: False where time was up before the two met.
    """

    best: int
    failed: int | None
    complete: bool


def search(sustains: Callable[[int], bool | None], most: int) -> Found:
    """Twice as many each time until it is too many, then the middle between what was and what was not sustained.

    Args:
        sustains: measures a number of sources; None where there is no time left to.
        most: never tries more.
    """
    best, failed, number = 0, None, 1
    while True:
        result = sustains(number)
        if result is None:
            return Found(best, failed, complete=False)
        if result:
            best = number
        else:
            failed = number
        if failed is None:
            if best == most:
                return Found(best, None, complete=True)
            number = min(2 * best, most)
        elif failed - best <= 1:
            return Found(best, failed, complete=True)
        else:
            number = (best + failed) // 2
