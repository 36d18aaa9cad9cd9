"""Studio: films several shots at once, one process a core."""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import Queue
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path

import cv2

from stream.datasets.coco import read_coco, write_coco
from stream.errors import ConfigError, DatasetError, Fault, FramewatchError
from stream.processes import core_count, deaf_children
from stream.simulation.video import Interrupted, Shot, film, merge

POLL_S = 0.2  # between two looks at the stop flag


def make(shots: Sequence[Shot], out: Path, stop: threading.Event, on_progress: Callable[[int], None]) -> bool:
    """Film the shots: one into ``out``, several each into a folder of its name there.

    Where pictures are asked for, ``out/coco.json`` lists those of all shots.

    Args:
        shots: one or more.
        out: new or empty folder.
        stop: ends the work.
        on_progress: called now and then with the number of frames done.

    Returns:
        False where ``stop`` ended it.

    Raises:
        ConfigError: a scene cannot be filmed as asked.
        DatasetError: a folder cannot be written.
    """
    names = [shot.name for shot in shots]
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise ConfigError("framewatch simulate", [Fault("seed", f"{', '.join(twice)} is asked for twice")])
    if len(shots) == 1:
        return _alone(shots[0], out, stop, on_progress)
    if not _together(shots, out, stop, on_progress):
        return False
    if all(shot.pictures_fps is not None for shot in shots):
        write_coco(out / "coco.json", merge({name: read_coco(out / name / "coco.json") for name in names}))
    return True


def _alone(shot: Shot, out: Path, stop: threading.Event, on_progress: Callable[[int], None]) -> bool:
    done = 0

    def tick() -> bool:
        nonlocal done
        done += 1
        on_progress(done)
        return not stop.is_set()

    try:
        film(shot, out, tick)
    except Interrupted:
        return False
    return True


def _together(shots: Sequence[Shot], out: Path, stop: threading.Event, on_progress: Callable[[int], None]) -> bool:
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of native threads
    board = _Board(context.Value("q", 0), context.Value("q", 0), context.Event())
    results: Queue[FramewatchError | None] = context.Queue()
    count = min(len(shots), core_count())
    workers = []
    try:
        with deaf_children():
            for _ in range(count):
                worker = context.Process(target=_work, args=(tuple(shots), out, board, results), daemon=True)
                worker.start()
                workers.append(worker)
        left = len(shots)
        while left and not stop.is_set():
            with contextlib.suppress(queue.Empty):
                error = results.get(timeout=POLL_S)
                if error is not None:
                    raise error
                left -= 1
            if any(worker.exitcode for worker in workers):
                raise DatasetError(f"{out}: a process that was writing it has died; is there enough memory?")
            on_progress(board.frames.value)
    finally:
        board.enough.set()
        for worker in workers:
            worker.join()
    return not stop.is_set()


@dataclass(frozen=True)
class _Board:
    """What the processes share: the next shot to take, the frames done so far, and whether it is enough."""

    next: Synchronized[int]
    frames: Synchronized[int]
    enough: Event


def _work(shots: tuple[Shot, ...], out: Path, board: _Board, results: Queue[FramewatchError | None]) -> None:
    """Film one shot after the other on one core, until the parent says that it is enough, or is gone."""
    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()

    def wanted() -> bool:
        return not board.enough.is_set() and parent is not None and parent.is_alive()

    def tick() -> bool:
        with board.frames.get_lock():
            board.frames.value += 1
        return wanted()

    while wanted():
        with board.next.get_lock():
            index = board.next.value
            board.next.value += 1
        if index >= len(shots):
            return
        try:
            film(shots[index], out / shots[index].name, tick)
            results.put(None)
        except Interrupted:
            return
        except FramewatchError as error:
            results.put(error)
            return
