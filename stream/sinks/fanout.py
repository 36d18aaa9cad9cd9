"""FanOut: one sink made of many."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from stream.errors import SinkError
from stream.events import Event
from stream.sinks.base import Sink


class FanOut:
    """Writes every event to all ``sinks``.

    An event is safe when it is safe in every sink, and acknowledged when every sink acknowledged it. Without sinks
    that is at once.
    """

    def __init__(self, sinks: Sequence[Sink]):
        self._sinks = tuple(sinks)
        self._written = 0

    def check(self, timeout_s: float = 10) -> None:
        """See ``Sink.check``. Raises the first sink's error."""
        for sink in self._sinks:
            sink.check(timeout_s)

    def write(
        self,
        event: Event,
        on_acknowledged: Callable[[], None] | None = None,
        *,
        droppable: bool = False,
        traceparent: str | None = None,
    ) -> None:
        """See ``Sink.write``. Every sink gets the event; then the first error is raised."""
        self._written += 1
        if on_acknowledged:
            on_acknowledged = _after(len(self._sinks), on_acknowledged)
        failed: SinkError | None = None
        for sink in self._sinks:
            try:
                sink.write(event, on_acknowledged, droppable=droppable, traceparent=traceparent)
            except SinkError as error:
                failed = failed or error
        if failed:
            raise failed

    @property
    def written(self) -> int:
        return min((sink.written for sink in self._sinks), default=self._written)

    @property
    def safe(self) -> int:
        return min((sink.safe for sink in self._sinks), default=self._written)

    def unsafe(self) -> list[bytes]:
        slowest_first = sorted(self._sinks, key=lambda sink: sink.safe)
        return list(dict.fromkeys(event for sink in slowest_first for event in sink.unsafe()))

    def flush(self, timeout_s: float) -> bool:
        deadline_s = time.monotonic() + timeout_s
        flushed = [sink.flush(max(0.0, deadline_s - time.monotonic())) for sink in self._sinks]  # every one, in any case
        return all(flushed)

    def dropped(self) -> dict[str, int]:
        total: Counter[str] = Counter()
        for sink in self._sinks:
            total.update(sink.dropped())
        return dict(total)

    def pending(self) -> int:
        return max((sink.pending() for sink in self._sinks), default=0)

    def fault(self) -> str:
        return "; ".join(fault for sink in self._sinks if (fault := sink.fault()))

    def spooled(self) -> tuple[int, int]:
        sizes = [sink.spooled() for sink in self._sinks]
        return sum(held for held, _ in sizes), sum(room for _, room in sizes)

    def close(self, timeout_s: float = 10) -> None:
        deadline_s = time.monotonic() + timeout_s
        for sink in self._sinks:
            sink.close(max(0.0, deadline_s - time.monotonic()))


def _after(calls: int, callback: Callable[[], None]) -> Callable[[], None] | None:
    """What calls ``callback`` at its ``calls``-th call; calls it now for none."""
    if calls == 0:
        callback()
        return None
    if calls == 1:
        return callback
    lock = threading.Lock()
    left = calls

    def count_down() -> None:
        nonlocal left
        with lock:
            left -= 1
            last = left == 0
        if last:
            callback()

    return count_down
