"""History: what each source did over the last half hour and the last day, in steps of fixed length.

It is fed with readings, about one a second for each source: totals, of which it keeps what they grew by, and what holds now.
Memory is bounded: about 150 kB a source with one zone and one line. A step that nobody has read anything in is a gap.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from stream.clock import Clock
from stream.observation import Direction

FINE_S, FINE_STEPS = 2.0, 900  # half an hour
COARSE_S, COARSE_STEPS = 60.0, 1440  # a day
MAX_COLUMNS = 256  # of a source: 100 zones and 30 lines; what is beyond has no history
MAX_CHANGES = 200
LATELY_S = 10.0

Numbers = list[float | None]
"""One value a step; None where there is none."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at a source. Totals begin at 0 with the process that counts.

    Attributes:
        analysed: frames, in total.
        stages_ms: milliseconds that these spent in each stage, in total.
        dropped: frames that were not analysed, by reason, in total.
        crossings: by line and direction, in total.
        occupancy: objects in each zone now.
        latency_s: seconds from capture to acknowledgement of the last frames at the 50th, 95th and 99th percentile.
    """

    analysed: int = 0
    stages_ms: Mapping[str, float] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    crossings: Mapping[str, Mapping[Direction, int]] = field(default_factory=dict)
    occupancy: Mapping[str, int] = field(default_factory=dict)
    latency_s: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A source's state changed at a POSIX time."""

    at: float
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class Span:
    """A source's history, one value a step.

    Attributes:
        step_s: length of a step.
        t: POSIX seconds at which each begins.
        fps: analysed frames per second.
        latency_ms: the highest ``p50``, ``p95`` and ``p99`` that was read in the step.
        stages_ms: mean milliseconds of an analysed frame, by stage.
        dropped: frames, by reason.
        occupancy: mean number of objects, by zone.
        crossings: by line and direction.
        health: changes of state within the time of ``t``.
    """

    step_s: float
    t: list[float]
    fps: Numbers
    latency_ms: dict[str, Numbers]
    stages_ms: dict[str, Numbers]
    dropped: dict[str, Numbers]
    occupancy: dict[str, Numbers]
    crossings: dict[str, dict[Direction, Numbers]]
    health: list[Change]


Column = tuple[str, ...]
SECONDS, READINGS, ANALYSED = ("seconds",), ("readings",), ("analysed",)
PERCENTILES = ("p50", "p95", "p99")


class History:
    """The history of all sources. Not thread-safe.

    Args:
        clock: wall time dates the steps, monotonic time says how long they were.
    """

    def __init__(self, clock: Clock):
        self._clock = clock
        self._sources: dict[str, _Source] = {}

    def add(self, source_id: str, reading: Reading) -> None:
        """Take in a look at a source. The first one of a source only says where its totals begin."""
        source = self._sources.setdefault(source_id, _Source())
        source.add(reading, self._clock.time(), self._clock.monotonic())

    def changed(self, source_id: str, change: Change) -> None:
        """Note a change of a source's state; the last ``MAX_CHANGES`` are kept."""
        self._sources.setdefault(source_id, _Source()).changes.append(change)

    def retain(self, source_ids: Collection[str]) -> None:
        """Forget all other sources."""
        for source_id in self._sources.keys() - set(source_ids):
            del self._sources[source_id]

    def fps(self, source_id: str) -> float:
        """Analysed frames per second over the last ten seconds."""
        source, now = self._sources.get(source_id), self._clock.time()
        return source.fine.rate(now - LATELY_S, now) if source else 0.0

    def span(self, source_id: str, seconds: float) -> Span:
        """The last ``seconds``, in steps of 2 s up to half an hour and of a minute up to a day; the running step is left out."""
        source, now = self._sources.get(source_id) or _Source(), self._clock.time()
        steps = source.fine if seconds <= FINE_S * FINE_STEPS else source.coarse
        return steps.span(now - seconds, now, source.changes)


class _Source:
    def __init__(self) -> None:
        self.fine, self.coarse = _Steps(FINE_S, FINE_STEPS), _Steps(COARSE_S, COARSE_STEPS)
        self.changes: deque[Change] = deque(maxlen=MAX_CHANGES)
        self._totals: dict[Column, float] | None = None
        self._read_s = 0.0

    def add(self, reading: Reading, at: float, now_s: float) -> None:
        totals: dict[Column, float] = {ANALYSED: reading.analysed}
        totals |= {("stages_ms", stage): value for stage, value in reading.stages_ms.items()}
        totals |= {("dropped", reason): frames for reason, frames in reading.dropped.items()}
        for line, counts in reading.crossings.items():
            totals |= {("crossings", line, direction): n for direction, n in counts.items()}
        before, self._totals = self._totals, totals
        elapsed_s, self._read_s = now_s - self._read_s, now_s
        sums: dict[Column, float] = {READINGS: 1}
        sums |= {("occupancy", zone): n for zone, n in reading.occupancy.items()}
        if before is not None:
            sums[SECONDS] = elapsed_s
            for column, total in totals.items():
                earlier = before.get(column, 0)
                sums[column] = total - earlier if total >= earlier else total  # its process has begun anew
        highest: dict[Column, float] = {
            ("latency_ms", name): 1000 * s for name, s in zip(PERCENTILES, reading.latency_s or (), strict=False)
        }
        for steps in (self.fine, self.coarse):
            steps.add(at, sums, highest)


class _Steps:
    """A row of numbers for each step, the oldest reused."""

    def __init__(self, step_s: float, count: int):
        self._step_s, self._count = step_s, count
        self._step_of_row = np.full(count, -1, np.int64)
        self._columns: dict[Column, int] = {}
        self._values: npt.NDArray[np.float32] = np.full((count, 0), np.nan, np.float32)

    def add(self, at: float, sums: Mapping[Column, float], highest: Mapping[Column, float]) -> None:
        step = int(at // self._step_s)
        row = step % self._count
        if self._step_of_row[row] > step:
            return  # the wall clock was set back by more than all of the history
        if self._step_of_row[row] != step:
            self._step_of_row[row] = step
            self._values[row] = np.nan
        for column, value in sums.items():
            place = self._place(column)
            if place is not None:
                so_far = self._values[row, place]
                self._values[row, place] = value if math.isnan(so_far) else so_far + value
        for column, value in highest.items():
            place = self._place(column)
            if place is not None:
                self._values[row, place] = np.fmax(self._values[row, place], value)

    def _place(self, column: Column) -> int | None:
        place = self._columns.get(column)
        if place is None and len(self._columns) < MAX_COLUMNS:
            place = self._columns[column] = len(self._columns)
            if place >= self._values.shape[1]:
                more = np.full((self._count, 8), np.nan, np.float32)
                self._values = np.hstack([self._values, more])
        return place

    def rate(self, start: float, end: float) -> float:
        steps = np.arange(int(start // self._step_s), int(end // self._step_s) + 1)
        seconds = np.nansum(self._read(SECONDS, steps))
        return float(np.nansum(self._read(ANALYSED, steps)) / seconds) if seconds else 0.0

    def span(self, start: float, end: float, changes: Iterable[Change]) -> Span:
        last = int(end // self._step_s)  # still running
        steps = np.arange(max(last - self._count + 1, math.ceil(start / self._step_s)), last)
        seconds, readings, analysed = (self._read(column, steps) for column in (SECONDS, READINGS, ANALYSED))

        def counted(column: Column) -> npt.NDArray[np.float64]:
            """What was not counted yet when the step was read is 0."""
            values = self._read(column, steps)
            return np.where(np.isnan(values) & ~np.isnan(seconds), 0.0, values)

        crossings: dict[str, dict[Direction, Numbers]] = {}
        for column in self._columns:
            if column[0] == "crossings":
                direction: Direction = "in" if column[2] == "in" else "out"
                crossings.setdefault(column[1], {})[direction] = _numbers(counted(column))

        def by_name(kind: str, divide_by: npt.NDArray[np.float64] | float = 1.0) -> dict[str, Numbers]:
            columns = [column for column in self._columns if column[0] == kind]
            return {column[1]: _numbers(_divided(self._read(column, steps), divide_by)) for column in columns}

        return Span(
            step_s=self._step_s,
            t=(steps * self._step_s).tolist(),
            fps=_numbers(_divided(analysed, seconds)),
            latency_ms=dict.fromkeys(PERCENTILES, _numbers(np.full(len(steps), np.nan))) | by_name("latency_ms"),
            stages_ms=by_name("stages_ms", analysed),
            dropped={column[1]: _numbers(counted(column)) for column in self._columns if column[0] == "dropped"},
            occupancy=by_name("occupancy", readings),
            crossings=crossings,
            health=[change for change in changes if start <= change.at <= end],
        )

    def _read(self, column: Column, steps: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """One value for each step; NaN where there is none."""
        place = self._columns.get(column)
        if place is None:
            return np.full(len(steps), np.nan)
        rows = steps % self._count
        return np.where(self._step_of_row[rows] == steps, self._values[rows, place], np.nan)


def _divided(values: npt.NDArray[np.float64], by: npt.NDArray[np.float64] | float) -> npt.NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        quotients = values / by
    return np.where(np.isfinite(quotients), quotients, np.nan)


def _numbers(values: npt.NDArray[np.float64]) -> Numbers:
    return [None if math.isnan(value) else round(value, 3) for value in values.tolist()]
