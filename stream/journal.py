"""Journal: events that are numbered and kept until a reader has confirmed that it holds them for good."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from stream.events import Event

E = TypeVar("E", bound=Event)


class Journal(Generic[E]):
    """The last events of one kind that its one reader has not confirmed yet. Not thread-safe.

    Attributes:
        lost: events that were given up, unread, because there were more than ``capacity``.

    Args:
        capacity: most events kept.
    """

    def __init__(self, capacity: int):
        self._entries: deque[tuple[int, E]] = deque()
        self._capacity, self._number = capacity, 0
        self.lost = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, event: E) -> None:
        """Append an event under the next number."""
        self._number += 1
        self._entries.append((self._number, event))
        if len(self._entries) > self._capacity:
            self._entries.popleft()
            self.lost += 1

    def confirm(self, number: int) -> None:
        """The reader holds all events up to this one."""
        while self._entries and self._entries[0][0] <= number:
            self._entries.popleft()

    def read(self, most: int) -> tuple[int, list[E]]:
        """The eldest events, at most so many, and the number to confirm once they are held."""
        entries = [self._entries[i] for i in range(min(most, len(self._entries)))]
        return (entries[-1][0] if entries else self._number), [event for _, event in entries]

    def state(self) -> list[dict[str, Any]]:
        """What was not confirmed, as JSON types."""
        return [event.model_dump(mode="json", by_alias=True) for _, event in self._entries]

    def restore(self, state: list[Mapping[str, Any]], of: Callable[[Mapping[str, Any]], E]) -> None:
        """Take up a ``state()``, under new numbers; ``of`` makes an event of its JSON types."""
        for one in state:
            self.add(of(one))
