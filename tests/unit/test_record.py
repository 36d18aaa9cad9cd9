"""Record: what of the actors' answers is kept, and what they are told is held."""

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.aggregator import AggregatorStatus
from actors.record import Record
from stream.aggregate import News
from stream.analyser import SourceTally
from stream.events import AlertEvent, HealthEvent, timestamp
from stream.testing import ManualClock
from stream.worker import SourceStatus

T0 = 1_700_000_000.0


def alert(i: int) -> AlertEvent:
    return AlertEvent(
        event_id=f"e{i}", alert_id=f"id{i}", source_id="cam", rule="crowd", type="crowd", state="raised", severity="warning",
        zone="floor", value=4, threshold=3, raised_at=timestamp(T0 + i), at=timestamp(T0 + i),
    )  # fmt: skip


def status(*alerts: AlertEvent, frames: int = 0, number: int = 0, active: tuple[str, ...] = (), lost: int = 0) -> AggregatorStatus:
    offline = HealthEvent(event_id="h", source_id="cam", state="offline", reason="stalled", at=timestamp(T0))
    news = News(("incarnation", number, 0), alerts, (offline,) if number == 1 else (), frozenset(active), lost)
    tally = SourceTally(frames=frames, duplicates=frames, occupancy={"floor": 2})
    return AggregatorStatus("aggregator-0", "", 0, {}, {"cam": tally, "gone": tally}, {"cam": (0.1, 0.2, 0.3)}, news)


class Round:
    def __init__(self, folder: Path):
        self.clock = ManualClock(T0)
        self.record = Record(folder, self.clock)

    def take(self, answer: AggregatorStatus, complete: bool = True) -> None:
        sources = {"cam": SourceStatus("cam", "online", dropped={"stale": 3})}
        asyncio.run(self.record.take({"cam"}, sources, {"aggregator-0": answer}, complete))
        self.clock.advance(1)

    def alerts(self, active: bool = False) -> list[str]:
        return [one.event.alert_id for one in self.record.alerts.page(active=active)[0]]


@pytest.fixture
def rounds(tmp_path: Path) -> Iterator[Round]:
    rounds = Round(tmp_path)
    yield rounds
    rounds.record.close()


def test_readings_become_history(rounds: Round) -> None:
    for second in range(6):
        rounds.take(status(frames=5 * second, number=1 if second == 0 else 2))
    span = rounds.record.history.span("cam", 6)
    assert span.fps == [5.0, 5.0, 5.0]
    assert span.latency_ms["p95"] == [200.0] * 3
    assert (span.dropped["stale"][-1], span.dropped["duplicate"][-1]) == (0, 10)
    assert span.occupancy == {"floor": [2.0] * 3}
    assert [(change.state, change.reason) for change in span.health] == [("offline", "stalled")]
    assert rounds.record.history.span("gone", 6).fps == [None] * 3


def test_alerts_are_confirmed_once_they_are_on_disk(rounds: Round, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(events: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(rounds.record.alerts, "add", full)
        rounds.take(status(alert(1), number=1, active=("id1",)))
    assert rounds.record.confirmed == {}
    rounds.take(status(alert(1), alert(2), number=2, active=("id1", "id2")))
    assert rounds.record.confirmed == {"aggregator-0": ("incarnation", 2, 0)}
    assert rounds.alerts() == ["id2", "id1"]


def test_an_alert_is_over_when_all_aggregators_have_forgotten_it(rounds: Round) -> None:
    rounds.take(status(alert(1), alert(2), number=2, active=("id1", "id2")))
    rounds.take(status(number=2, active=("id2",)), complete=False)
    assert rounds.alerts(active=True) == ["id2", "id1"]
    rounds.take(status(number=2, active=("id2",)))
    assert rounds.alerts(active=True) == ["id2"]


def test_lost_alerts_are_told_once(rounds: Round, caplog: pytest.LogCaptureFixture) -> None:
    rounds.take(status(lost=3))
    rounds.take(status(lost=3))
    [record] = caplog.records
    assert (record.getMessage(), record.__dict__["alerts"]) == ("alerts were given up before they were logged", 3)
