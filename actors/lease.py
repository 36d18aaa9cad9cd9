"""Detached actors live as long as somebody wants them: a lease that Control renews."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import ray

from stream.logs import get_logger

logger = get_logger(__name__)

LEASE_S = 90.0  # much longer than a restart of Control (about 3 s) or of its node's replacement


class Lease:
    """Calls ``tick`` every ``interval_s``; ends the actor for good once nobody has renewed for ``LEASE_S``.

    The application's deletion does not reach detached actors, and Control's death must not stop them: silence is what
    tells the two apart.
    """

    def __init__(self, tick: Callable[[], None], stop: Callable[[], None], interval_s: float):
        self._tick, self._stop, self._interval_s = tick, stop, interval_s
        self._renewed_s = time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self._thread.start()

    def renew(self) -> None:
        """Somebody still wants this actor."""
        self._renewed_s = time.monotonic()

    def close(self) -> None:
        """Stop the thread."""
        self._closed.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        actor = ray.get_runtime_context().current_actor
        while not self._closed.wait(self._interval_s):
            try:
                self._tick()
            except Exception:
                logger.exception("tick failed")
            if time.monotonic() - self._renewed_s > LEASE_S:
                logger.warning("nobody asks for this actor any more: it stops", after_s=LEASE_S)
                self._stop()
                ray.kill(actor)
                return
