"""Scorer: the scores of many settings at once, on all cores."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from stream.errors import DatasetError
from stream.processes import core_count
from stream.tuning.replay import PARTS, Objective, Replay, Settings


@dataclass(frozen=True)
class _Task:
    """What a worker process scores by."""

    replay: Replay
    objective: Objective

    def __call__(self, settings: Settings) -> float | None:
        return self.replay.measure(settings, PARTS[self.objective]).score(self.objective)


class Scorer:
    """A context manager; called with settings it gives their scores, in their order.

    Args:
        replay: the clips.
        objective: see ``Figures.score``.
    """

    def __init__(self, replay: Replay, objective: Objective):
        self._objective = objective
        self._pool = ProcessPoolExecutor(
            core_count(),
            mp_context=multiprocessing.get_context("spawn"),  # a fork would copy the locks of native threads
            initializer=_begin,
            initargs=(_Task(replay, objective),),
        )

    def __call__(self, settings: Sequence[Settings]) -> list[float]:
        """The scores; higher is better.

        Raises:
            DatasetError: the truth does not hold what the objective needs, or a worker process has died.
        """
        try:
            scores = list(self._pool.map(_score, settings))
        except BrokenProcessPool as error:
            raise DatasetError("a process that was scoring settings has died; is there enough memory?") from error
        known = [score for score in scores if score is not None]
        if len(known) < len(scores):
            raise DatasetError(f"the truth of the validation clips holds nothing to measure {self._objective} by")
        return known

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)


_tasks: list[_Task] = []  # of this process, once it is a worker: what the pool's initializer was given has no other place


def _begin(task: _Task) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _tasks.append(task)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for tasks for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _score(settings: Settings) -> float | None:
    return _tasks[0](settings)
