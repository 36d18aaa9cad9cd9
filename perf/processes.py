"""What the scripts need of a tree of processes beyond ``stream.processes``: its peak of memory, and to end on SIGTERM."""

from __future__ import annotations

import signal
import time
from typing import Self

from stream.processes import ProcessTree


class MemoryPeak:
    """Greatest sum of PSS of a tree; ``update`` looks at it at most every ``interval_s``, because looking takes time."""

    def __init__(self, tree: ProcessTree, interval_s: float = 2.0):
        self._tree, self._interval_s = tree, interval_s
        self._looked_s = -interval_s
        self.mib = 0.0

    def update(self) -> None:
        """Look, if it is time."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= self._interval_s:
            self._looked_s = now_s
            self.mib = max(self.mib, sum(memory.pss for memory in self._tree.memory().values()))


class Terminated(BaseException):
    """SIGTERM came; raised in the main thread, so that everything is cleaned up as on Ctrl-C."""

    @classmethod
    def on_signal(cls) -> type[Self]:
        """Raise it from now on."""

        def handle(_number: int, _frame: object) -> None:
            raise cls

        signal.signal(signal.SIGTERM, handle)
        return cls
