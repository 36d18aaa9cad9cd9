"""Counts against true counts: how far the occupancy of zones, the entries and the line crossings are off.

Windows are paired by source, zone or line, and time. Occupancy is a window's mean, which is weighted by time. Entries and
crossings are compared as totals over all paired windows: a crossing seen a moment late is no error.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stream.errors import DatasetError
from stream.events import CountsEvent

Float64Array = npt.NDArray[np.float64]
DIRECTIONS = ("in", "out")


@dataclass(frozen=True)
class ZoneReport:
    """One zone, over its paired windows.

    Attributes:
        source_id, zone: the truth's names.
        start_s: float64 (W,), start of each window in seconds after the first of all.
        length_s: of a window.
        truth, result: float64 (W,), mean occupancy in each.
        entered, left: true and measured totals.
    """

    source_id: str
    zone: str
    start_s: Float64Array
    length_s: float
    truth: Float64Array
    result: Float64Array
    entered: tuple[int, int]
    left: tuple[int, int]

    @property
    def mae(self) -> float:
        """Mean absolute error in objects."""
        return float(np.abs(self.result - self.truth).mean())

    @property
    def mae_percent(self) -> float:
        """Sum of the absolute errors in percent of the sum of the true occupancies; nan where nobody ever was."""
        return percent(float(np.abs(self.result - self.truth).sum()), float(self.truth.sum()))

    @property
    def bias(self) -> float:
        """Mean error in objects; below 0 where too few are counted."""
        return float((self.result - self.truth).mean())

    @property
    def max_error(self) -> float:
        """Greatest absolute error in objects."""
        return float(np.abs(self.result - self.truth).max())


class LineReport(NamedTuple):
    """Crossings of one line in one direction, over its paired windows."""

    source_id: str
    line: str
    direction: str
    truth: int
    result: int


@dataclass(frozen=True)
class CountsReport:
    """How good the counts are. Figures that cannot be measured are nan.

    Attributes:
        zones, lines: each, in order of name.
        paired: windows on both sides.
        only_truth, only_result: windows on one side only; no figure holds them.
        first: start of the first paired window, by the truth's clock.
    """

    zones: tuple[ZoneReport, ...]
    lines: tuple[LineReport, ...]
    paired: int
    only_truth: int
    only_result: int
    first: datetime

    @property
    def occupancy_mae(self) -> float:
        """Mean absolute error over all windows of all zones, in objects."""
        errors = self._errors()
        return float(np.abs(errors).mean()) if len(errors) else float("nan")

    @property
    def occupancy_mae_percent(self) -> float:
        """The same in percent of the true occupancy: sum of absolute errors by sum of true means."""
        return percent(float(np.abs(self._errors()).sum()), sum(float(zone.truth.sum()) for zone in self.zones))

    @property
    def occupancy_bias(self) -> float:
        """Mean error over all windows, in objects."""
        errors = self._errors()
        return float(errors.mean()) if len(errors) else float("nan")

    @property
    def occupancy_max_error(self) -> float:
        """Greatest absolute error of a window, in objects."""
        errors = self._errors()
        return float(np.abs(errors).max()) if len(errors) else float("nan")

    @property
    def crossings_error_percent(self) -> float:
        """Absolute errors of the totals of every line and direction, summed, in percent of the true crossings."""
        return _total_error_percent((line.truth, line.result) for line in self.lines)

    @property
    def entered_error_percent(self) -> float:
        """The same of the objects that entered each zone."""
        return _total_error_percent(zone.entered for zone in self.zones)

    @property
    def left_error_percent(self) -> float:
        """The same of the objects that left each zone."""
        return _total_error_percent(zone.left for zone in self.zones)

    def _errors(self) -> Float64Array:
        return np.concatenate([zone.result - zone.truth for zone in self.zones] or [np.zeros(0)])


class _Window(NamedTuple):
    """A pair."""

    truth: CountsEvent
    result: CountsEvent


_Key = tuple[str, str, str]  # source, "zone" or "line", name


def evaluate_counts(
    truth: Sequence[CountsEvent], result: Sequence[CountsEvent], *, sources: Mapping[str, str] | None = None, offset_s: float = 0
) -> CountsReport:
    """Measure counts against true counts.

    Args:
        truth: one event per window; of events for the same window the last counts.
        result: the same from the service.
        sources: id in the result by id in the truth, where they differ; a single source on either side needs none.
        offset_s: added to the truth's times; after that windows are paired when less than half a window apart.

    Raises:
        DatasetError: there are no counts, their windows differ in length, or none is on both sides.
    """
    if not truth or not result:
        raise DatasetError(f"there are no counts events in the {'truth' if not truth else 'result'}")
    lengths = {event.window_end - event.window_start for event in (*truth, *result)}
    if len(lengths) > 1:
        raise DatasetError(f"the windows differ in length: {', '.join(f'{t.total_seconds():g} s' for t in sorted(lengths))}")
    length_s = lengths.pop().total_seconds()
    theirs = _renamed(truth, result, sources or {})
    expected, measured = _by_window(truth, length_s, offset_s, theirs), _by_window(result, length_s, 0, {})
    both = sorted(expected.keys() & measured.keys())
    if not both:
        raise DatasetError(_nothing_paired(truth, result, offset_s))
    pairs: dict[_Key, list[_Window]] = defaultdict(list)
    for key, number in both:
        pairs[key].append(_Window(expected[key, number], measured[key, number]))
    first = min(window.truth.window_start for windows in pairs.values() for window in windows)
    return CountsReport(
        zones=tuple(_zone(windows, first) for (_, kind, _), windows in pairs.items() if kind == "zone"),
        lines=tuple(line for (_, kind, _), windows in pairs.items() if kind == "line" for line in _lines(windows)),
        paired=len(both),
        only_truth=len(expected) - len(both),
        only_result=len(measured) - len(both),
        first=first,
    )


def percent(part: float, whole: float) -> float:
    """``part`` in percent of ``whole``; nan where that is 0."""
    return 100 * part / whole if whole else float("nan")


def _renamed(truth: Sequence[CountsEvent], result: Sequence[CountsEvent], sources: Mapping[str, str]) -> dict[str, str]:
    """Source ids of the result by those of the truth."""
    mine, theirs = {event.source_id for event in truth}, {event.source_id for event in result}
    for name, known, side in [(n, mine, "truth") for n in sources] + [(n, theirs, "result") for n in sources.values()]:
        if name not in known:
            raise DatasetError(f"the {side} has no source {name!r}; it has {', '.join(sorted(known))}")
    if not sources and len(mine) == len(theirs) == 1:
        return {mine.pop(): theirs.pop()}
    return dict(sources)


def _by_window(
    events: Iterable[CountsEvent], length_s: float, offset_s: float, names: Mapping[str, str]
) -> dict[tuple[_Key, int], CountsEvent]:
    found = {}
    for event in events:
        kind, name = ("zone", event.zone) if event.zone is not None else ("line", event.line)
        if name is not None and (kind == "line" or event.occupancy is not None):
            # Not round(): it goes to the even number, so that two windows that lie between two numbers would get the same.
            number = math.floor(round((event.window_start.timestamp() + offset_s) / length_s, 3) + 0.5)
            found[(names.get(event.source_id, event.source_id), kind, name), number] = event
    return found


def _nothing_paired(truth: Sequence[CountsEvent], result: Sequence[CountsEvent], offset_s: float) -> str:
    sides = []
    for side, events in (("truth", truth), ("result", result)):
        names = sorted({event.key for event in events})
        shown = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
        starts = [event.window_start for event in events]
        sides.append(f"the {side} has {shown} from {min(starts):%Y-%m-%d %H:%M:%S} to {max(starts):%Y-%m-%d %H:%M:%S} UTC")
    return f"no window is in both truth and result (offset {offset_s:g} s): {'; '.join(sides)}"


def _zone(windows: Sequence[_Window], first: datetime) -> ZoneReport:
    truth, result = [window.truth for window in windows], [window.result for window in windows]
    assert truth[0].zone is not None
    return ZoneReport(
        source_id=truth[0].source_id,
        zone=truth[0].zone,
        start_s=np.array([(event.window_start - first).total_seconds() for event in truth]),
        length_s=(truth[0].window_end - truth[0].window_start).total_seconds(),
        truth=np.array([event.occupancy.mean for event in truth if event.occupancy]),
        result=np.array([event.occupancy.mean for event in result if event.occupancy]),
        entered=(sum(event.entered or 0 for event in truth), sum(event.entered or 0 for event in result)),
        left=(sum(event.left or 0 for event in truth), sum(event.left or 0 for event in result)),
    )


def _lines(windows: Sequence[_Window]) -> list[LineReport]:
    def total(events: Iterable[CountsEvent], direction: str) -> int:
        return sum(count for event in events for name, count in (event.crossings or {}).items() if name == direction)

    event = windows[0].truth
    assert event.line is not None
    truth, result = [window.truth for window in windows], [window.result for window in windows]
    return [LineReport(event.source_id, event.line, way, total(truth, way), total(result, way)) for way in DIRECTIONS]


def _total_error_percent(totals: Iterable[tuple[int, int]]) -> float:
    known = list(totals)
    return percent(sum(abs(result - truth) for truth, result in known), sum(truth for truth, _ in known))
