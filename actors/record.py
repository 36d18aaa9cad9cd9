"""Record: what Control keeps of what the actors tell it: the history of the sources, and the log of alerts."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Collection, Mapping
from pathlib import Path

from actors.aggregator import AggregatorStatus
from actors.alert_log import AlertLog
from stream.clock import Clock
from stream.history import Change, History, Reading
from stream.logs import get_logger
from stream.worker import SourceStatus

logger = get_logger(__name__)


class Record:
    """Lives on Control's event loop; the log is written on other threads.

    Attributes:
        history: of the sources, in memory.
        alerts: on disk.
        confirmed: by aggregator, what of its news is held for good; it is told so with the next question.

    Args:
        folder: of the log.
        clock: wall and monotonic time.

    Raises:
        OSError: the log cannot be opened.
    """

    def __init__(self, folder: Path, clock: Clock):
        self.history = History(clock)
        self.alerts = AlertLog(folder, clock)
        self.confirmed: dict[str, tuple[str, int, int]] = {}
        self._lost: dict[str, int] = {}
        self._active: set[str] | None = None  # as the log was settled last
        self._failed = False

    async def take(
        self,
        source_ids: Collection[str],
        sources: Mapping[str, SourceStatus],
        aggregates: Mapping[str, AggregatorStatus],
        complete: bool,
    ) -> None:
        """Take in one round of answers.

        Args:
            source_ids: of all sources that are wanted.
            sources: what the ingest actors told of them.
            aggregates: what those aggregators told that have answered this time.
            complete: whether these are all.
        """
        self.history.retain(source_ids)
        for status in aggregates.values():
            for source_id in status.tallies.keys() & set(source_ids):
                self.history.add(source_id, _reading(status, source_id, sources.get(source_id)))
            for event in status.news.health:
                if event.source_id in source_ids:
                    self.history.changed(event.source_id, Change(event.at.timestamp(), event.state, event.reason))
        await self._log(aggregates, complete)

    def close(self) -> None:
        """Close the log's file."""
        self.alerts.close()

    async def _log(self, aggregates: Mapping[str, AggregatorStatus], complete: bool) -> None:
        events = [event for status in aggregates.values() for event in status.news.alerts]
        active = {alert_id for status in aggregates.values() for alert_id in status.news.active}
        try:
            if events:
                await asyncio.to_thread(self.alerts.add, events)
            if complete and (events or active != self._active):
                await asyncio.to_thread(self.alerts.settle, active)
                self._active = active
        except sqlite3.Error as error:  # the disk is full, say: the aggregators keep their news meanwhile
            if not self._failed:
                logger.error("the log of alerts cannot be written", reason=str(error))
            self._failed = True
            return
        self._failed = False
        for name, status in aggregates.items():
            self.confirmed[name] = status.news.confirm
            if status.news.lost > self._lost.get(name, 0):
                lost = status.news.lost - self._lost.get(name, 0)
                logger.error("alerts were given up before they were logged", aggregator=name, alerts=lost)
            self._lost[name] = status.news.lost


def _reading(status: AggregatorStatus, source_id: str, source: SourceStatus | None) -> Reading:
    tally = status.tallies[source_id]
    dropped = dict(source.dropped) if source else {}
    if tally.duplicates:
        dropped["duplicate"] = tally.duplicates
    return Reading(
        analysed=tally.frames,
        stages_ms=tally.stages_ms,
        dropped=dropped,
        crossings=tally.crossings,
        occupancy=tally.occupancy,
        latency_s=status.latency_s.get(source_id),
    )
