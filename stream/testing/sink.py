"""A sink that keeps events in memory."""

from collections.abc import Callable
from typing import TypeVar

from stream.events import Event

E = TypeVar("E", bound=Event)


class MemorySink:
    """A ``Sink`` whose events are safe at once, or, with ``hold``, only when ``release`` is called."""

    def __init__(self, hold: bool = False):
        self.events: list[Event] = []
        self._hold = hold
        self._callbacks: list[Callable[[], None]] = []
        self._safe = 0

    def check(self, timeout_s: float = 10) -> None:
        """Nothing is connected to."""

    def write(
        self,
        event: Event,
        on_acknowledged: Callable[[], None] | None = None,
        *,
        droppable: bool = False,
        traceparent: str | None = None,
    ) -> None:
        """Keep the event."""
        self.events.append(event)
        if on_acknowledged:
            self._callbacks.append(on_acknowledged)
        if not self._hold:
            self.release()

    def release(self) -> None:
        """Everything written so far is safe and acknowledged."""
        callbacks, self._callbacks = self._callbacks, []
        self._safe = len(self.events)
        for callback in callbacks:
            callback()

    def of(self, kind: type[E]) -> list[E]:
        """The events of one kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def written(self) -> int:
        """Events taken."""
        return len(self.events)

    @property
    def safe(self) -> int:
        """Events that are safe."""
        return self._safe

    def unsafe(self) -> list[bytes]:
        """Events held back."""
        return [event.to_json() for event in self.events[self._safe :]]

    def flush(self, timeout_s: float) -> bool:
        """True unless events are held back."""
        return self._safe == self.written

    def fault(self) -> str:
        return ""

    def spooled(self) -> tuple[int, int]:
        """There is no spool."""
        return 0, 0

    def dropped(self) -> dict[str, int]:
        """Nothing is ever dropped."""
        return {}

    def pending(self) -> int:
        """Events held back."""
        return self.written - self._safe

    def close(self, timeout_s: float = 10) -> None:
        """Nothing to close."""
