"""CPU time of the stages: who has it first, telling it to the metrics, and estimating it where timing would cost too much."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time

from stream.metrics import Metrics

PORTION_S = 0.005  # telling the metrics costs as much as handing on a packet
EVERY = 7  # a look at a thread's CPU clock costs up to 4 us; prime, so that no regular pattern is met at the same place


def give_way(nice: int) -> None:
    """Let other threads, of this process too, have the CPU before the calling one; only Linux can do that to a thread."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # it is nicer already
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)


class SampledCpu:
    """CPU seconds of the calling thread in ``with`` blocks, estimated from every ``EVERY``-th of them.

    Blocks may not be nested. For one thread at a time.

    Attributes:
        cpu_s: the estimate so far.
    """

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self._blocks = 0
        self._began_s: float | None = None

    def __enter__(self) -> None:
        self._began_s = time.thread_time() if self._blocks % EVERY == 0 else None
        self._blocks += 1

    def __exit__(self, *exc: object) -> None:
        if self._began_s is not None:
            self.cpu_s += EVERY * (time.thread_time() - self._began_s)


class CpuReport:
    """Tells a process's metrics how much CPU time stages have used, a portion of ``PORTION_S`` at a time. For one thread.

    Args:
        metrics: of this process.
    """

    def __init__(self, metrics: Metrics):
        self._metrics = metrics
        self._told_s: dict[str, float] = {}
        self._sum_s = 0.0

    def tell(self, **total_s: float) -> None:
        """CPU seconds so far by stage; always the same stages."""
        sum_s = sum(total_s.values())
        if sum_s - self._sum_s >= PORTION_S:
            self._metrics.cpu({stage: seconds - self._told_s.get(stage, 0.0) for stage, seconds in total_s.items()})
            self._told_s, self._sum_s = total_s, sum_s
