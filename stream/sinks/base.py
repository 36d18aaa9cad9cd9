"""The Sink protocol: where events go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from stream.events import Event


class Sink(Protocol):
    """Takes events in order. ``write`` is called from one thread; callbacks may come from another.

    An event is *safe* when it cannot be lost any more by a crash of this process: acknowledged by every broker asked,
    written to a file, or on the disk spool. Events are counted in the order of ``write``, from 1.
    """

    def check(self, timeout_s: float = 10) -> None:
        """Connect once to whatever the events go to over a network.

        Raises:
            SinkUnavailable: one line with the addresses and the likely cause.
        """

    def write(
        self,
        event: Event,
        on_acknowledged: Callable[[], None] | None = None,
        *,
        droppable: bool = False,
        traceparent: str | None = None,
    ) -> None:
        """Take one event; returns quickly, except when a bounded buffer is full and the event must not be dropped.

        ``on_acknowledged`` is called at most once, from any thread, when the event has reached its destination (the
        broker's acknowledgement, not the spool); never when it is dropped. It must be quick and must not raise.

        Args:
            droppable: the event may be given up, and counted, when there is no room (tracks of live sources).
            traceparent: trace context to hand on, where the destination has a place for it.

        Raises:
            SinkError: the event can never be written. It is counted in ``written`` and ``dropped`` all the same.
        """

    @property
    def written(self) -> int:
        """How many events were taken."""

    @property
    def safe(self) -> int:
        """The largest n such that the first n events are all safe (or were dropped and counted)."""

    def unsafe(self) -> list[bytes]:
        """What a crash of this process would lose now: the JSON of the events that are not safe, oldest first."""

    def flush(self, timeout_s: float) -> bool:
        """Push what is buffered and wait until ``safe == written``; True when that was reached in time."""

    def dropped(self) -> dict[str, int]:
        """Events given up, by short topic name: droppable ones, and what the destination refuses for good (too large)."""

    def pending(self) -> int:
        """Events that have not reached their destination yet, spooled ones included."""

    def spooled(self) -> tuple[int, int]:
        """Bytes on the disk spool, and how many there may be; 0 and 0 without one."""

    def fault(self) -> str:
        """Why events do not reach their destination at present, without secrets; empty while they do."""

    def close(self, timeout_s: float = 10) -> None:
        """Flush, then stop all threads; what is left stays in the spool for the next start."""
