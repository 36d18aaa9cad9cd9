"""SloTracker: is the latency objective held? Attainment, error budget, burn rates, breach and recovery.

An analysed frame is *good* when its tracks event was acknowledged within ``latency_ms`` of the frame's capture. One whose
event is not acknowledged is late all the same; ``arrivals`` says when it is given up. Frames that were dropped were not
analysed and are not counted here (they have their own counters). Nor are those that the gate held back: they come late so
that an event has its beginning, not because the service is slow.

- *attainment*: good frames / frames, over ``window_s``.
- *burn rate* over a window: (bad / frames) / (1 - objective). At 1 the error budget is used up exactly as fast as the
  objective allows, at 10 ten times as fast.
- *budget remaining*: 1 - burn rate over the longest window; 1 is untouched, 0 spent, below 0 overspent.

Burn rates over several windows are those of the Google SRE Workbook, chapter 5, "Alerting on SLOs".
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from stream.clock import Clock, SystemClock
from stream.config import SloConfig
from stream.frame import FrameInfo

SERVICE = "*"
"""The source id that stands for all sources together."""

BURN_WINDOWS_S = {"5m": 300.0, "1h": 3600.0, "6h": 21_600.0}
LONGEST_S = max(BURN_WINDOWS_S.values())
LONG_PERIOD_S = 60.0  # 6 h in 360 rows
WINDOW_ROWS = 60  # the judged window in as many rows, none shorter than a second
MIN_FRAMES = 10  # fewer frames in the window are not judged: a source at 0.1 frames/s needs a window of 100 s
PERCENTS = (50, 95, 99)
MIN_LATE = 2  # a single late frame breaches nothing, however few frames there are
RECOVERY_SHARE = 0.25  # of window_s: the objective must be held again without a break for this long
BOUNDS_S = tuple(0.005 * 2 ** (i / 4) for i in range(56))  # 5 ms to 69 s, 19 % apart: a percentile is off by less than that


def stages_ms(info: FrameInfo, detected_s: float, tracked_s: float) -> dict[str, float]:
    """How long a frame spent in each stage, in milliseconds rounded to microseconds.

    Args:
        info: with all its stamps set.
        detected_s: monotonic seconds when the detector had answered.
        tracked_s: monotonic seconds when the tracker was done.
    """
    stamps = (info.captured_s + info.held_s, info.decoded_s, info.batched_s, detected_s, tracked_s)
    names = ("decode", "batch", "detect", "track")
    held = {"gate": round(info.held_s * 1000, 3)} if info.held_s else {}
    return held | {name: round((end - start) * 1000, 3) for name, start, end in zip(names, stamps, stamps[1:], strict=False)}


@dataclass(frozen=True, slots=True)
class SloChange:
    """A source (``*``: all of them) began to miss its objective, or holds it again; ``reason`` gives the figures."""

    source_id: str
    state: Literal["slo_breached", "slo_recovered"]
    reason: str


@dataclass(frozen=True, slots=True)
class SloReport:
    """The figures of one source at one moment.

    Attributes:
        frames: analysed frames in the window.
        attainment: 0..1; None without frames.
        latency_s: seconds at the 50th, 95th and 99th percentile of the window, by ``p50``, ``p95``, ``p99``; NaN
            without frames.
        burn_rates: by window, as named in ``BURN_WINDOWS_S``.
        budget_remaining: see the module's docstring.
        breached: True between a breach and the recovery from it.
    """

    frames: int
    attainment: float | None
    latency_s: dict[str, float]
    burn_rates: dict[str, float]
    budget_remaining: float
    breached: bool


@dataclass(frozen=True, slots=True)
class SloCounts:
    """What a report is made of; those of several processes may be added.

    Attributes:
        good, frames: frames within the latency, and all that were analysed, in the window.
        histogram: of their latencies, by ``BOUNDS_S``.
        burn: good frames and frames by window of ``BURN_WINDOWS_S``.
        breached: as in :class:`SloReport`.
    """

    good: int
    frames: int
    histogram: tuple[int, ...]
    burn: dict[str, tuple[int, int]]
    breached: bool

    def __add__(self, other: SloCounts) -> SloCounts:
        histogram = tuple(map(int.__add__, self.histogram, other.histogram))
        burn = {name: (good + other.burn[name][0], frames + other.burn[name][1]) for name, (good, frames) in self.burn.items()}
        return SloCounts(self.good + other.good, self.frames + other.frames, histogram, burn, self.breached or other.breached)

    def report(self, objective: float) -> SloReport:
        """The figures."""
        burn = {name: (frames - good) / max(frames, 1) / (1 - objective) for name, (good, frames) in self.burn.items()}
        attainment = self.good / self.frames if self.frames else None
        latency_s = {f"p{percent}": _quantile(self.histogram, percent / 100) for percent in PERCENTS}
        longest = max(BURN_WINDOWS_S, key=lambda name: BURN_WINDOWS_S[name])
        return SloReport(self.frames, attainment, latency_s, burn, 1 - burn[longest], self.breached)


class _Ring:
    """Counters over a sliding span of time: a row of ``columns`` counters for each period, the oldest reused."""

    def __init__(self, span_s: float, period_s: float, columns: int):
        self.period_s = period_s
        self._rows = np.zeros((math.ceil(span_s / period_s), columns), np.int64)
        self._period_of_row = np.full(len(self._rows), -1, np.int64)  # -1: never used

    def add(self, now_s: float, *columns: int, n: int = 1) -> None:
        period = int(now_s // self.period_s)
        row = period % len(self._rows)
        if self._period_of_row[row] > period:
            return  # older than the whole span
        if self._period_of_row[row] != period:
            self._period_of_row[row] = period
            self._rows[row] = 0
        for column in columns:
            self._rows[row, column] += n

    def sums(self, now_s: float, span_s: float) -> npt.NDArray[np.int64]:
        """Each column over the last ``span_s`` (to the period; the running period counts as a whole one)."""
        period = int(now_s // self.period_s)
        recent = (self._period_of_row > period - math.ceil(span_s / self.period_s)) & (self._period_of_row >= 0)
        total: npt.NDArray[np.int64] = self._rows[recent].sum(axis=0)
        return total

    def periods(self) -> list[tuple[float, list[int]]]:
        """Start of each period in use, and its counters."""
        used = np.flatnonzero(self._period_of_row >= 0)
        return [(float(self._period_of_row[row]) * self.period_s, self._rows[row].tolist()) for row in used]


_GOOD, _ALL = 0, 1  # columns of both rings; the histogram follows in the window's


class _Judged:
    """What is known of one source. About 30 kB for a window of 60 s."""

    def __init__(self, config: SloConfig, now_s: float):
        self.seen_s = now_s
        self.window = _Ring(config.window_s, max(1.0, config.window_s / WINDOW_ROWS), 2 + len(BOUNDS_S) + 1)
        self.long = _Ring(LONGEST_S, LONG_PERIOD_S, 2)
        self.breached = False
        self.held_since_s: float | None = None  # since when a breached source holds its objective again


class SloTracker:
    """Latencies of every source and of all together (``*``), held against the objective. Safe for any threads.

    Memory is bounded per source; a source that is removed, or silent for the longest window, is forgotten.
    """

    def __init__(self, config: SloConfig, clock: Clock | None = None):
        self._config = config
        self._clock = clock or SystemClock()
        self._limit_s = config.latency_ms / 1000
        self._lock = threading.Lock()
        self._judged = {SERVICE: _Judged(config, self._now_s())}

    def record(self, source_id: str, latency_s: float) -> bool:
        """A frame's tracks event was acknowledged ``latency_s`` after the frame's capture, or has not been for so long; True where
        that is in time."""
        good = latency_s <= self._limit_s
        bucket = 2 + bisect_left(BOUNDS_S, latency_s)
        columns = (_GOOD, _ALL) if good else (_ALL,)
        with self._lock:
            now_s = self._now_s()
            for judged in (self._judged_of(source_id, now_s), self._judged[SERVICE]):
                judged.seen_s = now_s
                judged.window.add(now_s, *columns, bucket)
                judged.long.add(now_s, *columns)
        return good

    def evaluate(self) -> list[SloChange]:
        """What changed since the last call; call it about once a second.

        A source is breached when its attainment over ``window_s`` is below the objective, with at least ``MIN_FRAMES``
        frames of which ``MIN_LATE`` are late. It has recovered when it has held the objective, with ``MIN_FRAMES``
        again, for a quarter of ``window_s`` without a break. A source without enough frames stays as it is.
        """
        changes = []
        with self._lock:
            now_s = self._now_s()
            for source_id, judged in list(self._judged.items()):
                if source_id != SERVICE and now_s - judged.seen_s > LONGEST_S:
                    del self._judged[source_id]
                elif self._changed(judged, now_s):
                    state: Literal["slo_breached", "slo_recovered"] = "slo_breached" if judged.breached else "slo_recovered"
                    changes.append(SloChange(source_id, state, self._reason(judged, now_s)))
        return changes

    def report(self, source_id: str = SERVICE) -> SloReport:
        """The figures of a source; all empty for one that has recorded nothing."""
        with self._lock:
            now_s = self._now_s()
            return self._report(self._judged.get(source_id) or _Judged(self._config, now_s), now_s)

    def counts(self) -> dict[str, SloCounts]:
        """What each source's report is made of, and that of ``*``."""
        with self._lock:
            now_s = self._now_s()
            return {source_id: self._counts(judged, now_s) for source_id, judged in self._judged.items()}

    def latencies(self, span_s: float) -> dict[str, tuple[float, float, float]]:
        """Seconds at the 50th, 95th and 99th percentile of the last ``span_s`` (at most ``window_s``, whole rows of it), by
        source; without those that had no frames in it."""
        found = {}
        with self._lock:
            now_s = self._now_s()
            for source_id, judged in self._judged.items():
                _, frames, *histogram = judged.window.sums(now_s, min(span_s, self._config.window_s)).tolist()
                if frames:
                    p50, p95, p99 = (_quantile(histogram, percent / 100) for percent in PERCENTS)
                    found[source_id] = p50, p95, p99
        return found

    def attainments(self) -> dict[str, float]:
        """Attainment over ``window_s`` of every source that had frames in it, and of ``*``."""
        found = {}
        with self._lock:
            now_s = self._now_s()
            for source_id, judged in self._judged.items():
                good, frames, *_ = judged.window.sums(now_s, self._config.window_s).tolist()
                if frames:
                    found[source_id] = good / frames
        return found

    def remove(self, source_id: str) -> None:
        """Forget a source; its frames stay in the figures of ``*``."""
        with self._lock:
            if source_id != SERVICE:
                self._judged.pop(source_id, None)

    def state(self) -> dict[str, Any]:
        """What must survive a restart, as JSON: who is breached, and the service's counts of the longest window."""
        with self._lock:
            now_s, at = self._now_s(), self._clock.time()
            counts = [[at - (now_s - start_s), *row] for start_s, row in self._judged[SERVICE].long.periods()]
            return {"breached": sorted(s for s, judged in self._judged.items() if judged.breached), "counts": counts}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a ``state()`` again. Ages are counted on the wall clock, as the monotonic one may have begun anew."""
        with self._lock:
            now_s, at = self._now_s(), self._clock.time()
            for source_id in state["breached"]:
                self._judged_of(source_id, now_s).breached = True
            for start_at, good, frames in sorted(state["counts"]):
                age_s = at - start_at
                if 0 <= age_s < LONGEST_S:
                    self._judged[SERVICE].long.add(now_s - age_s, _GOOD, n=good)
                    self._judged[SERVICE].long.add(now_s - age_s, _ALL, n=frames)

    def _now_s(self) -> float:
        """Monotonic seconds, moved so that all of the longest window lies above 0 even just after a boot."""
        return self._clock.monotonic() + LONGEST_S

    def _judged_of(self, source_id: str, now_s: float) -> _Judged:
        judged = self._judged.get(source_id)
        if judged is None:
            judged = self._judged[source_id] = _Judged(self._config, now_s)
        return judged

    def _changed(self, judged: _Judged, now_s: float) -> bool:
        """Move ``judged`` on; True when it was breached or recovered just now."""
        good, frames, *_ = judged.window.sums(now_s, self._config.window_s).tolist()
        if frames < MIN_FRAMES:
            judged.held_since_s = None
            return False
        held = good / frames >= self._config.objective
        if not judged.breached:
            judged.breached = not held and frames - good >= MIN_LATE
            return judged.breached
        if not held:
            judged.held_since_s = None
            return False
        judged.held_since_s = now_s if judged.held_since_s is None else judged.held_since_s
        if now_s - judged.held_since_s < self._config.window_s * RECOVERY_SHARE:
            return False
        judged.breached, judged.held_since_s = False, None
        return True

    def _report(self, judged: _Judged, now_s: float) -> SloReport:
        return self._counts(judged, now_s).report(self._config.objective)

    def _counts(self, judged: _Judged, now_s: float) -> SloCounts:
        good, frames, *histogram = judged.window.sums(now_s, self._config.window_s).tolist()
        burn = {}
        for name, span_s in BURN_WINDOWS_S.items():
            long_good, long_frames = judged.long.sums(now_s, span_s).tolist()
            burn[name] = long_good, long_frames
        return SloCounts(good, frames, tuple(histogram), burn, judged.breached)

    def _reason(self, judged: _Judged, now_s: float) -> str:
        report, config = self._report(judged, now_s), self._config
        percentiles = ", ".join(f"{name} {value * 1000:.0f} ms" for name, value in report.latency_s.items())
        return (
            f"{100 * (report.attainment or 0):.2f} % of {report.frames} frames within {config.latency_ms:g} ms over "
            f"{config.window_s:g} s, objective {100 * config.objective:g} %; {percentiles}; "
            f"burn rate {report.burn_rates['5m']:.1f} over 5 min"
        )


def _quantile(histogram: Sequence[int], share: float) -> float:
    """The value below which ``share`` of the frames lie, interpolated inside its bucket; NaN without frames.

    Latencies over the last bound are given as that bound.
    """
    total = sum(histogram)
    if not total:
        return math.nan
    wanted, below = share * total, 0
    for i, count in enumerate(histogram[:-1]):
        if count and below + count >= wanted:
            low = BOUNDS_S[i - 1] if i else 0.0
            return low + (BOUNDS_S[i] - low) * (wanted - below) / count
        below += count
    return BOUNDS_S[-1]
