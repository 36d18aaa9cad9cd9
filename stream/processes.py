"""Processes: how many to start, who of them hears Ctrl-C, and what a tree of them costs, read from /proc (Linux)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import resource_tracker
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
MIB = 1024  # KiB


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


@dataclass(frozen=True, slots=True)
class Process:
    """One process. ``cpu_s``: user and system time, with that of its children that have ended and were waited for;
    ``ended``: it has ended, but nobody has waited for it yet."""

    pid: int
    parent: int
    name: str
    cpu_s: float
    ended: bool


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one process, in MiB. ``rss``: resident; ``pss``: the same with each shared page divided among its users, so
    that a sum over processes counts nothing twice."""

    rss: float
    pss: float


def adopt_orphans() -> None:
    """Descendants whose parent ends become children of this process (else of init), so that none leaves the tree."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


class ProcessTree:
    """The descendants of this process, or with ``own`` also itself.

    Args:
        own: whether this process is counted.
        ignored: pids that are left out, with all below them.
    """

    def __init__(self, *, own: bool = False, ignored: Collection[int] = ()):
        self._own, self._ignored = own, frozenset(ignored)

    def processes(self) -> dict[int, Process]:
        """All of them by pid, ended ones that nobody has waited for included."""
        children: dict[int, list[Process]] = {}
        for entry in os.scandir("/proc"):
            if entry.name.isdigit() and (process := _read(int(entry.name))) is not None:
                children.setdefault(process.parent, []).append(process)
        found: dict[int, Process] = {}
        waiting = [os.getpid()]
        while waiting:
            for process in children.get(waiting.pop(), []):
                if process.pid not in self._ignored:
                    found[process.pid] = process
                    waiting.append(process.pid)
        return found

    def cpu_s(self) -> float:
        """CPU seconds so far. The difference of two calls is exact to a clock tick a process, whatever ended between
        them: a process that has ended is a zombie, or was waited for and is part of its parent's figure."""
        times = os.times()
        own_s = times.user + times.system if self._own else 0.0
        return own_s + times.children_user + times.children_system + sum(p.cpu_s for p in self.processes().values())

    def memory(self) -> dict[int, Memory]:
        """By pid, of all that can be read."""
        pids = [*self.processes(), *([os.getpid()] if self._own else [])]
        return {pid: memory for pid in pids if (memory := _memory(pid)) is not None}

    def end(self, wait_s: float = 5.0) -> list[str]:
        """Kill whatever is left, this process excepted, and wait until it is gone; returns the names of what was killed."""
        killed: list[str] = []
        deadline_s = time.monotonic() + wait_s
        while (left := self.processes()) and time.monotonic() < deadline_s:
            for process in left.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(process.pid, os.WNOHANG)
            killed = killed or [process.name for process in left.values() if not process.ended]
            time.sleep(0.05)
        return killed


@dataclass(frozen=True, slots=True)
class Measurement:
    """CPU time over a span of time: in all, and by name of the process."""

    wall_s: float
    cpu_s: float
    by_name: Mapping[str, float]


def measure(tree: ProcessTree, seconds: float, on_tick: Callable[[], None] = lambda: None) -> Measurement:
    """Sleep for ``seconds`` and say what ``tree`` used meanwhile; ``on_tick`` is called four times a second and may raise."""
    began_s, before, cpu_s = time.monotonic(), tree.processes(), tree.cpu_s()
    for _ in ticks(began_s + seconds):
        on_tick()
    wall_s, used_s = time.monotonic() - began_s, tree.cpu_s() - cpu_s
    by_name: dict[str, float] = {}
    for pid, process in tree.processes().items():
        earlier_s = before[pid].cpu_s if pid in before else 0.0
        by_name[process.name] = by_name.get(process.name, 0.0) + process.cpu_s - earlier_s
    return Measurement(wall_s, used_s, by_name)


def ticks(until_s: float, interval_s: float = 0.25) -> Iterator[None]:
    """Yields every ``interval_s`` until the monotonic time ``until_s``."""
    while (left_s := until_s - time.monotonic()) > 0:
        yield
        time.sleep(min(interval_s, left_s))


def idle_s() -> float:
    """Seconds in which cores of this machine had nothing to do so far, summed over all cores. What is missing of a span of
    time was used by some program, or taken by the host of a virtual machine, which need not say so."""
    _user, _nice, _system, idle, waiting = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:6])
    return (idle + waiting) * TICK_S


def _read(pid: int) -> Process | None:
    """None for a process that is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    name, fields = stat[stat.index("(") + 1 : stat.rindex(")")], stat[stat.rindex(")") + 2 :].split()
    ticks_used = sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return Process(pid, int(fields[1]), _name(command, name), ticks_used * TICK_S, fields[0] in "ZX")


def _name(command: bytes, name: str) -> str:
    """What people call the process: the title that Ray gives its workers, the module or script, or the program."""
    words = [word for word in command.decode(errors="replace").split("\0") if word]
    if not words:
        return name
    if len(words) == 1:  # a title
        words = words[0].split()
    if words[0].startswith("ray::"):
        return re.sub(r"^ray::(ServeReplica:)?|\.[a-z_]+$", "", words[0].split("(")[0])  # without the method that runs now
    for option, word in pairwise(words):
        if option in ("-c", "-m") or word.endswith(".py"):
            return {"-c": Path(words[0]).name, "-m": word}.get(option, Path(word).stem)
    return Path(words[0]).name


def _memory(pid: int) -> Memory | None:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    sizes = {key: int(kib) / MIB for key, kib in re.findall(r"^(Rss|Pss): +(\d+) kB", text, re.MULTILINE)}
    return Memory(sizes["Rss"], sizes["Pss"]) if sizes else None
