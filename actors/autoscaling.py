"""How many detector replicas and ingest actors there should be: pure functions of what was measured, and the measuring.

Serve calls :func:`detector_replicas` with the averages of what replicas have recorded, and keeps the result between the
config's ``min`` and ``max``, with its ``up_after_s`` and ``down_after_s``. Control calls :func:`ingest_actors`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

TARGET_BUSY = 0.7  # of a replica's time; at 0.8 of a random load the wait is four times the service time
LATE = 0.7  # of the latency budget used up when a batch is answered; tracking and the broker come after it
BATCHES_AT_ONCE = 2  # that a replica works on: one on the model while the next is being unpacked
TARGET_USE = 0.8  # of the CPUs that an ingest actor reserves
SLACK = 0.8  # of the remaining actors' target must suffice before one is given up, so that it is not missed at once


class Context(Protocol):
    """What :func:`detector_replicas` reads of Serve's ``AutoscalingContext``."""

    current_num_replicas: int
    target_num_replicas: int

    @property
    def total_num_requests(self) -> float:
        """Batches on their way, those that wait in handles included; the average of the last look-back period."""

    @property
    def aggregated_metrics(self) -> Mapping[str, Mapping[Any, float]] | None:
        """Averages of what ``Load.take`` gave, by its names and by replica."""


def detector_replicas(context: Context) -> tuple[float, dict[str, Any]]:
    """Replicas that a detector should have; a policy function of Ray Serve.

    The greatest of three: so many that each is busy for ``TARGET_BUSY`` of its time; so many that none has more batches
    on their way than it works on at once; and, while batches are answered late (``LATE``) by replicas that have more
    than half of their time taken, one more. Lateness alone is no reason: decoding may be what is slow. Before anything
    was measured all stays as it is.
    """
    metrics = context.aggregated_metrics or {}
    busy = metrics.get("busy", {})
    if not busy:
        return context.target_num_replicas, {}
    under_way = max(context.total_num_requests, sum(metrics.get("batches", {}).values()))  # Serve sees not those of doors
    wanted = max(sum(busy.values()) / TARGET_BUSY, under_way / BATCHES_AT_ONCE)
    late = max(metrics.get("late", {}).values(), default=0.0)
    if late > LATE and sum(busy.values()) > len(busy) / 2:
        wanted = max(wanted, context.current_num_replicas + 1)
    return max(1.0, wanted), {}


def ingest_actors(use: float, current: int, least: int, most: int) -> int:
    """Ingest actors that there should be.

    Args:
        use: CPU seconds a second that all of them use, in units of what one reserves.
        current: how many there are.
        least, most: the config's range.

    Returns:
        As many as keep each within ``TARGET_USE``; fewer than now only where those that stay have ``SLACK``.
    """
    wanted = math.ceil(use / TARGET_USE - 1e-9)
    if wanted < current:
        wanted = min(current, math.ceil(use / (TARGET_USE * SLACK) - 1e-9))
    return min(max(wanted, least), most)


@dataclass(slots=True)
class Steady:
    """A number that follows another one once that has asked for more, or for less, all the time for a while.

    Attributes:
        value: the number.
        up_after_s, down_after_s: how long.
    """

    value: int
    up_after_s: float
    down_after_s: float
    _direction: int = 0
    _since_s: float = 0.0

    def follow(self, wanted: int, now_s: float) -> int:
        """Take notice of what is wanted at the monotonic time ``now_s``; returns the number."""
        direction = (wanted > self.value) - (wanted < self.value)
        if direction != self._direction:
            self._direction, self._since_s = direction, now_s
        if direction and now_s - self._since_s >= (self.up_after_s if direction > 0 else self.down_after_s):
            self.value, self._direction = wanted, 0
        return self.value


class Load:
    """What a replica measures of itself. Thread-safe.

    Args:
        latency_s: the budget from capture to acknowledgement.
        monotonic: the clock.
    """

    def __init__(self, latency_s: float, monotonic: Callable[[], float] = time.monotonic):
        self._latency_s, self._monotonic = latency_s, monotonic
        self._lock = threading.Lock()
        self._batches = 0
        self._busy_s = self._batch_s = self._late = 0.0
        self._changed_s = self._taken_s = monotonic()

    def begin(self) -> None:
        """A batch is being worked on from now on."""
        with self._lock:
            self._pass()
            self._batches += 1

    def end(self, due_s: float | None) -> None:
        """It is done; ``due_s`` is the monotonic time at which its oldest frame was due here, None where that is another host's."""
        with self._lock:
            self._pass()
            self._batches -= 1
            if due_s is not None:
                self._late = max(self._late, (self._changed_s - due_s) / self._latency_s)

    def take(self) -> dict[str, float]:
        """Since the last call: ``busy``, the share of the time in which there was a batch, ``batches``, how many there were on
        average, and ``late``, the greatest share of the latency budget that was used up when a batch was done."""
        with self._lock:
            self._pass()
            elapsed_s = max(self._changed_s - self._taken_s, 1e-9)
            taken = {"busy": self._busy_s / elapsed_s, "batches": self._batch_s / elapsed_s, "late": self._late}
            self._busy_s = self._batch_s = self._late = 0.0
            self._taken_s = self._changed_s
        return taken

    def _pass(self) -> None:
        now_s = self._monotonic()
        if self._batches:
            self._busy_s += now_s - self._changed_s
            self._batch_s += self._batches * (now_s - self._changed_s)
        self._changed_s = now_s
