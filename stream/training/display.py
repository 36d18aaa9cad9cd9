"""Display: progress bars and lines on stderr; without a terminal only the lines."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Display:
    """A context manager; ``bar`` starts a bar and ends the one before it."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
            console=self._console,
            disable=not sys.stderr.isatty(),
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def bar(self, what: str, total: float) -> None:
        """Start a bar that is full at ``total``."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(what, total=total, detail="")

    def advance(self, by: float) -> None:
        """Move the bar on."""
        if self._task is not None:
            self._progress.advance(self._task, by)

    def at(self, value: float, detail: str = "") -> None:
        """Move the bar to ``value``; ``detail`` is shown behind it."""
        if self._task is not None:
            self._progress.update(self._task, completed=value, detail=detail)

    def line(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
