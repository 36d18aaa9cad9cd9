"""AlertLog: every alert that was raised, what became of it and who has acknowledged it, on disk.

An alert is one row, made by its first event and moved on by later ones; an event that comes twice, or after a later one,
changes nothing. The log is bounded by number and by age, counted from when an alert was logged: a recording's alerts may be
from long ago. It is a SQLite file that only its owner can read; what a method has
returned from is on the disk.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from stream.clock import Clock
from stream.events import AlertEvent, timestamp
from stream.logs import get_logger

logger = get_logger(__name__)

MAX_ALERTS = 10_000
MAX_AGE_S = 90 * 86_400.0
MAX_PAGE = 1000
LATER = {"raised": 0, "updated": 1, "cleared": 2}  # of events at the same time

_SCHEMA = """
CREATE TABLE IF NOT EXISTS alerts (
    alert_id TEXT PRIMARY KEY, rule TEXT NOT NULL, source_id TEXT NOT NULL, active INTEGER NOT NULL,
    logged_us INTEGER NOT NULL, raised_us INTEGER NOT NULL, at_us INTEGER NOT NULL, later INTEGER NOT NULL, cleared_us INTEGER,
    event TEXT NOT NULL, evidence TEXT, by TEXT, acknowledged_us INTEGER, note TEXT
);
CREATE INDEX IF NOT EXISTS alerts_by_time ON alerts (raised_us DESC, alert_id DESC);
CREATE INDEX IF NOT EXISTS alerts_by_age ON alerts (logged_us);
"""


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """Who has taken notice of an alert, when, and what they said."""

    by: str
    at: datetime
    note: str


@dataclass(frozen=True, slots=True)
class LoggedAlert:
    """An alert as it stands.

    Attributes:
        event: the latest one.
        cleared_at: when it was cleared, or when nobody knew of it any more; None while it is raised.
        evidence: where its picture and clip are or will be, by ``picture`` and ``clip``.
        acknowledged: None until somebody has.
    """

    event: AlertEvent
    cleared_at: datetime | None
    evidence: dict[str, str] | None
    acknowledged: Acknowledgement | None


class AlertLog:
    """The log in a folder. Thread-safe; a call may wait for the disk.

    A file that is damaged is moved aside (``.damaged``) with a line in the log, and a new one is begun.

    Args:
        folder: of the file ``alerts.sqlite3``.
        clock: wall time.
        max_alerts, max_age_s: what was logged longer ago, or before the last so many, is deleted.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, folder: Path, clock: Clock, *, max_alerts: int = MAX_ALERTS, max_age_s: float = MAX_AGE_S):
        self._clock, self._max_alerts, self._max_age_s = clock, max_alerts, max_age_s
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / "alerts.sqlite3"
        try:
            self._database = _opened(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # locked, no space: not the file's fault
                raise OSError(f"{path}: {error}") from error
            logger.error("the log of alerts is damaged: moved aside", path=f"{path}.damaged", reason=str(error))
            os.replace(path, path.with_name(path.name + ".damaged"))
            for rest in ("-wal", "-shm"):
                path.with_name(path.name + rest).unlink(missing_ok=True)
            self._database = _opened(path)

    def add(self, events: Iterable[AlertEvent]) -> None:
        """Take in events, in any order and any number of times.

        Raises:
            sqlite3.Error: they could not be written; none of them was.
        """
        with self._lock, self._database:
            for event in events:
                self._add(event)
            self._prune()

    def _add(self, event: AlertEvent) -> None:
        body = event.model_dump_json(exclude_none=True)
        evidence = json.loads(body).get("evidence")
        at_us, cleared = _us(event.at), event.state == "cleared"
        self._database.execute(
            """
            INSERT INTO alerts (alert_id, rule, source_id, active, logged_us, raised_us, at_us, later, cleared_us, event, evidence)
            VALUES (:id, :rule, :source, :active, :logged, :raised, :at, :later, :cleared, :event, :evidence)
            ON CONFLICT (alert_id) DO UPDATE SET active = excluded.active, at_us = excluded.at_us, later = excluded.later,
                cleared_us = excluded.cleared_us, event = excluded.event, evidence = coalesce(excluded.evidence, evidence)
            WHERE (excluded.at_us, excluded.later) > (at_us, later)
            """,
            {
                "id": event.alert_id,
                "rule": event.rule,
                "source": event.source_id,
                "active": not cleared,
                "logged": self._now_us(),
                "raised": _us(event.raised_at),
                "at": at_us,
                "later": LATER[event.state],
                "cleared": at_us if cleared else None,
                "event": body,
                "evidence": json.dumps(evidence) if evidence else None,
            },
        )

    def settle(self, active: Collection[str]) -> int:
        """Mark as cleared what is raised but not among ``active``: its rule, or its source, is no more. Returns how many."""
        with self._lock, self._database:
            raised = [row[0] for row in self._database.execute("SELECT alert_id FROM alerts WHERE active")]
            gone = [(self._now_us(), alert_id) for alert_id in raised if alert_id not in active]
            self._database.executemany("UPDATE alerts SET active = 0, cleared_us = ? WHERE alert_id = ?", gone)
        return len(gone)

    def _prune(self) -> None:
        oldest_us = self._now_us() - round(self._max_age_s * 1e6)
        self._database.execute("DELETE FROM alerts WHERE logged_us < ?", (oldest_us,))
        newest = "SELECT alert_id FROM alerts ORDER BY logged_us DESC, raised_us DESC, alert_id DESC LIMIT -1 OFFSET ?"
        self._database.execute(f"DELETE FROM alerts WHERE alert_id IN ({newest})", (self._max_alerts,))  # noqa: S608 - a constant

    def page(
        self, *, active: bool = False, rule: str | None = None, source_id: str | None = None, limit: int = 100, before: str = ""
    ) -> tuple[list[LoggedAlert], str | None]:
        """Alerts, the newest first, and a cursor for those that follow (None at the end).

        Args:
            active: only those that are raised now.
            rule, source_id: only those of one.
            limit: most of them, 1 to ``MAX_PAGE``.
            before: the cursor of the page before.

        Raises:
            ValueError: ``before`` is no cursor, or ``limit`` is out of range.
        """
        if not 1 <= limit <= MAX_PAGE:
            raise ValueError(f"limit must be 1 to {MAX_PAGE}, not {limit}")
        raised_us, _, alert_id = before.partition("-")
        if before and not (raised_us.isascii() and raised_us.isdigit() and len(raised_us) <= 18 and alert_id):
            raise ValueError(f"{before[:80]!r} is no cursor")
        wanted = {"rule": rule, "source": source_id, "us": int(raised_us or 0), "id": alert_id, "limit": limit + 1}
        conditions = [
            *(["active"] if active else []),
            *(["rule = :rule"] if rule is not None else []),
            *(["source_id = :source"] if source_id is not None else []),
            *(["(raised_us, alert_id) < (:us, :id)"] if before else []),
        ]
        where = "WHERE " + " AND ".join(conditions) if conditions else ""
        query = f"SELECT * FROM alerts {where} ORDER BY raised_us DESC, alert_id DESC LIMIT :limit"  # noqa: S608 - of constants
        with self._lock:
            rows = self._database.execute(query, wanted).fetchall()
        last = rows[limit - 1] if len(rows) > limit else None
        return [_logged(row) for row in rows[:limit]], f"{last['raised_us']}-{last['alert_id']}" if last else None

    def get(self, alert_id: str) -> LoggedAlert | None:
        """One alert; None if it is not, or not any more, in the log."""
        with self._lock:
            row = self._database.execute("SELECT * FROM alerts WHERE alert_id = ?", (alert_id,)).fetchone()
        return _logged(row) if row else None

    def acknowledge(self, alert_id: str, by: str, note: str) -> LoggedAlert | None:
        """Note who has taken notice of an alert; the first one to do so stays. None if it is not in the log."""
        now_us = self._now_us()
        with self._lock, self._database:
            self._database.execute(
                "UPDATE alerts SET by = ?, acknowledged_us = ?, note = ? WHERE alert_id = ? AND acknowledged_us IS NULL",
                (by, now_us, note, alert_id),
            )
        return self.get(alert_id)

    def _now_us(self) -> int:
        return round(self._clock.time() * 1e6)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()


def _opened(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite gives its other files the same mode
    path.chmod(0o600)
    database = sqlite3.connect(path, timeout=10, check_same_thread=False)
    try:
        database.row_factory = sqlite3.Row
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.executescript(_SCHEMA)
    except sqlite3.Error:
        database.close()
        raise
    return database


def _logged(row: sqlite3.Row) -> LoggedAlert:
    acknowledged = None
    if row["acknowledged_us"] is not None:
        acknowledged = Acknowledgement(row["by"], timestamp(row["acknowledged_us"] / 1e6), row["note"])
    evidence: dict[str, Any] | None = json.loads(row["evidence"]) if row["evidence"] else None
    cleared_at = None if row["active"] else timestamp(row["cleared_us"] / 1e6)
    return LoggedAlert(AlertEvent.model_validate_json(row["event"]), cleared_at, evidence, acknowledged)


def _us(t: datetime) -> int:
    return round(t.timestamp() * 1e6)
