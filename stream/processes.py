"""Processes: how many to start, and who of them hears Ctrl-C."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


def core_count() -> int:
    """Cores that this process may run on, as far as the system tells; so many processes are worth starting."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes started meanwhile hear neither Ctrl-C, which goes to all of a terminal's, nor SIGTERM, from their first moment
    on: it is for the parent, which hears it afterwards, to end them."""
    resource_tracker.ensure_running()  # beforehand: its start, which is part of the first process's, unblocks the signals
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
