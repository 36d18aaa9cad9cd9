"""Alerts against true alerts: which were raised, which wrongly, and how late."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from stream.errors import DatasetError
from stream.evaluation.records import read_events, read_lines
from stream.events import AlertEvent

UNPAIRED = 1e12  # cost of a pair that cannot be, in seconds


class Episode(NamedTuple):
    """An alert from its raising to its clearing.

    Attributes:
        rule: its name.
        start_s, end_s: POSIX seconds, or seconds of the video; ``end_s`` is None while it lasts.
    """

    rule: str
    start_s: float
    end_s: float | None


class AlertMatch(NamedTuple):
    """A true alert and the one that was raised for it."""

    truth: Episode
    result: Episode

    @property
    def raise_delay_s(self) -> float:
        """Below 0 where it was raised early."""
        return self.result.start_s - self.truth.start_s

    @property
    def clear_delay_s(self) -> float | None:
        """None where one of the two never ended."""
        return None if self.truth.end_s is None or self.result.end_s is None else self.result.end_s - self.truth.end_s


@dataclass(frozen=True)
class AlertsReport:
    """How good the alerts are. Figures that cannot be measured are nan.

    Attributes:
        matches: in the order of time.
        missed: true alerts that nothing was raised for.
        wrong: raised for nothing.
    """

    matches: tuple[AlertMatch, ...]
    missed: tuple[Episode, ...]
    wrong: tuple[Episode, ...]

    @property
    def precision(self) -> float:
        """Share of the raised alerts that are true."""
        raised = len(self.matches) + len(self.wrong)
        return len(self.matches) / raised if raised else float("nan")

    @property
    def recall(self) -> float:
        """Share of the true alerts that were raised."""
        true = len(self.matches) + len(self.missed)
        return len(self.matches) / true if true else float("nan")

    @property
    def f1(self) -> float:
        """Harmonic mean of the two."""
        total = 2 * len(self.matches) + len(self.missed) + len(self.wrong)
        return 2 * len(self.matches) / total if total else float("nan")

    @property
    def raise_delays_s(self) -> list[float]:
        """Of every match."""
        return [match.raise_delay_s for match in self.matches]

    @property
    def clear_delays_s(self) -> list[float]:
        """Of the matches that ended on both sides."""
        return [delay for match in self.matches if (delay := match.clear_delay_s) is not None]


def evaluate_alerts(
    truth: Sequence[Episode], result: Sequence[Episode], *, tolerance_s: float = 5.0, offset_s: float = 0.0
) -> AlertsReport:
    """Pair true alerts with raised ones of the same rule, so that the delays are least in total.

    Args:
        truth: what should have been raised.
        result: what was.
        tolerance_s: two can be a pair when, both made longer by this at their end, they overlap.
        offset_s: added to the truth's times.
    """
    truth = [
        Episode(rule, start + offset_s, None if end is None else end + offset_s) for rule, start, end in sorted(truth, key=_start)
    ]
    matches, missed, wrong = [], [], []
    for rule in sorted({episode.rule for episode in (*truth, *result)}):
        mine = [episode for episode in truth if episode.rule == rule]
        theirs = [episode for episode in result if episode.rule == rule]
        cost = np.array([[_cost(a, b, tolerance_s) for b in theirs] for a in mine]).reshape(len(mine), len(theirs))
        rows, columns = linear_sum_assignment(cost)
        pairs = {int(a): int(b) for a, b in zip(rows, columns, strict=True) if cost[a, b] < UNPAIRED}
        matches += [AlertMatch(mine[a], theirs[b]) for a, b in pairs.items()]
        missed += [episode for i, episode in enumerate(mine) if i not in pairs]
        wrong += [episode for i, episode in enumerate(theirs) if i not in pairs.values()]
    return AlertsReport(
        tuple(sorted(matches, key=lambda match: match.truth.start_s)),
        tuple(sorted(missed, key=_start)),
        tuple(sorted(wrong, key=_start)),
    )


def read_episodes(path: Path) -> list[Episode]:
    """Read alerts from a CSV file with a head line ``rule,start,end``, or from JSON Lines.

    JSON Lines are framewatch's own events (others than alerts are passed over) or objects with the same three keys. Times
    are numbers of seconds, or ISO 8601 (UTC unless they name a zone); an empty or missing end is an alert that lasts.

    Raises:
        DatasetError: the file is missing or a line is not like that; names the line.
    """
    lines = read_lines(path)
    if path.suffix.lower() == ".csv":
        reader = csv.DictReader(lines)
        if not {"rule", "start"} <= set(reader.fieldnames or ()):
            raise DatasetError(f"{path}:1: the head line must name rule, start and end, not {reader.fieldnames}")
        return [_episode(row, f"{path}:{reader.line_num}") for row in reader]
    records = [(f"{path}:{number}", _object(line, f"{path}:{number}")) for number, line in enumerate(lines, 1) if line.strip()]
    if any("schema" in record for _, record in records):
        return episodes_of_events(read_events(path, AlertEvent))
    return [_episode(record, place) for place, record in records]


def episodes_of_events(events: Iterable[AlertEvent]) -> list[Episode]:
    """One episode per alert, in the order of raising; events that come twice change nothing."""
    found: dict[str, Episode] = {}
    for event in events:
        known = found.get(event.alert_id, Episode(event.rule, event.raised_at.timestamp(), None))
        found[event.alert_id] = known._replace(end_s=event.at.timestamp()) if event.state == "cleared" else known
    return sorted(found.values(), key=_start)


def _start(episode: Episode) -> float:
    return episode.start_s


def _cost(truth: Episode, result: Episode, tolerance_s: float) -> float:
    true_end = math.inf if truth.end_s is None else truth.end_s
    end = math.inf if result.end_s is None else result.end_s
    apart = result.start_s > true_end + tolerance_s or truth.start_s > end + tolerance_s
    return UNPAIRED if apart else abs(result.start_s - truth.start_s)


def _object(line: str, place: str) -> dict[str, object]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DatasetError(f"{place}: is not valid JSON: {error}") from error
    if not isinstance(record, dict):
        raise DatasetError(f"{place}: is not an object")
    return record


def _episode(record: Mapping[str, object], place: str) -> Episode:
    rule = record.get("rule")
    if not isinstance(rule, str) or not rule:
        raise DatasetError(f"{place}: rule: is missing")
    start, end = _seconds(record.get("start"), f"{place}: start"), _seconds(record.get("end"), f"{place}: end")
    if start is None:
        raise DatasetError(f"{place}: start: is missing")
    if end is not None and end < start:
        raise DatasetError(f"{place}: end: is before start")
    return Episode(rule, start, end)


def _seconds(value: object, key: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        number = float(str(value))
    except ValueError:
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError as error:
            raise DatasetError(f"{key}: {value!r} is neither a number of seconds nor an ISO 8601 time") from error
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(number):
        raise DatasetError(f"{key}: {value!r} is not finite")
    return number
