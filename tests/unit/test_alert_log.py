"""AlertLog: what becomes of an alert, twice and out of order too; pages; bounds; restarts."""

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from actors.alert_log import AlertLog
from stream.events import AlertEvent, timestamp
from stream.testing import ManualClock

T0 = 1_700_000_000.0


def event(
    alert: int, state: Literal["raised", "updated", "cleared"] = "raised", after_s: float = 0.0, value: float = 4
) -> AlertEvent:
    raised_at = T0 + 10 * alert
    return AlertEvent(
        event_id=f"{alert}-{state}-{after_s}", alert_id=f"id{alert}", source_id=f"cam{alert % 2}", rule=f"rule{alert % 3}",
        type="crowd", state=state, severity="warning", zone="floor", value=value, threshold=3,
        raised_at=timestamp(raised_at), at=timestamp(raised_at + after_s),
    )  # fmt: skip


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(T0)


@pytest.fixture
def log(tmp_path: Path, clock: ManualClock) -> Iterator[AlertLog]:
    log = AlertLog(tmp_path / "control", clock)
    yield log
    log.close()


def ids(log: AlertLog, **wanted: object) -> list[str]:
    return [alert.event.alert_id for alert in log.page(**wanted)[0]]  # type: ignore[arg-type]


def test_an_alert_is_one_entry_that_moves_on(log: AlertLog) -> None:
    log.add([event(1), event(1, "updated", 2, value=7)])
    [alert] = log.page(active=True)[0]
    assert (alert.event.state, alert.event.value, alert.cleared_at) == ("updated", 7, None)
    log.add([event(1, "cleared", 5, value=2)])
    assert ids(log, active=True) == []
    [alert] = log.page()[0]
    assert (alert.event.value, alert.cleared_at) == (2, timestamp(T0 + 15))


def test_events_that_come_twice_or_late_change_nothing(log: AlertLog) -> None:
    cleared, updated = event(1, "cleared", 5), event(1, "updated", 2)
    log.add([cleared])
    log.add([event(1), updated, cleared, event(1)])
    [alert] = log.page()[0]
    assert alert.event == cleared
    log.add([event(2, "cleared", 0), event(2)])  # at the same moment
    assert ids(log, active=True) == []


def test_pages_and_filters(log: AlertLog) -> None:
    log.add(event(i) for i in range(10))
    log.add(event(i, "cleared", 1) for i in range(8))
    assert ids(log, active=True) == ["id9", "id8"]
    assert ids(log, rule="rule0") == ["id9", "id6", "id3", "id0"]
    assert ids(log, source_id="cam1", rule="rule0") == ["id9", "id3"]
    seen, cursor = [], ""
    while cursor is not None:
        page, cursor = log.page(limit=4, before=cursor)
        seen.append([alert.event.alert_id for alert in page])
    assert [len(page) for page in seen] == [4, 4, 2]
    assert [alert_id for page in seen for alert_id in page] == [f"id{i}" for i in range(9, -1, -1)]


@pytest.mark.parametrize("before", ["x", "12", "12-", "-id1", "9" * 30 + "-id1", "²-id1"])
def test_a_wrong_cursor_is_refused(log: AlertLog, before: str) -> None:
    with pytest.raises(ValueError, match="no cursor"):
        log.page(before=before)


def test_an_acknowledgement_stays_over_later_events_and_restarts(log: AlertLog, tmp_path: Path, clock: ManualClock) -> None:
    log.add([event(1)])
    clock.advance(60)
    assert log.acknowledge("unknown", "kim", "") is None
    log.acknowledge("id1", "kim", "on my way")
    log.acknowledge("id1", "lee", "me too")
    log.add([event(1, "cleared", 70)])
    log.close()
    again = AlertLog(tmp_path / "control", clock)
    alert = again.get("id1")
    again.close()
    assert alert is not None
    assert alert.acknowledged is not None
    assert (alert.acknowledged.by, alert.acknowledged.note, alert.acknowledged.at) == ("kim", "on my way", timestamp(T0 + 60))
    assert alert.event.state == "cleared"


def test_what_nobody_knows_of_any_more_is_over(log: AlertLog, clock: ManualClock) -> None:
    log.add([event(1), event(2)])
    clock.advance(100)
    assert log.settle(["id2"]) == 1
    assert ids(log, active=True) == ["id2"]
    gone = log.get("id1")
    assert gone is not None
    assert gone.cleared_at == timestamp(T0 + 100)
    assert log.settle(["id2"]) == 0
    log.add([event(1)])
    assert ids(log, active=True) == ["id2"]


def test_it_is_bounded_by_number_and_by_age(tmp_path: Path, clock: ManualClock) -> None:
    log = AlertLog(tmp_path, clock, max_alerts=5, max_age_s=1000)
    for i in range(100, 120):  # of a recording: raised after they are logged, here
        log.add([event(i)])
        clock.advance(1)
    assert ids(log) == [f"id{i}" for i in range(119, 114, -1)]
    clock.advance(998)
    log.add([event(7)])
    assert ids(log) == ["id119", "id118", "id7"]
    log.close()


def test_only_the_owner_can_read_it(log: AlertLog, tmp_path: Path) -> None:
    log.add([event(1)])
    files = list((tmp_path / "control").iterdir())
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "control").stat().st_mode) == 0o700


def test_a_damaged_file_is_moved_aside(tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "alerts.sqlite3").write_bytes(b"this is no database, but long enough to be looked at" * 100)
    log = AlertLog(tmp_path, clock)
    log.add([event(1)])
    assert ids(log) == ["id1"]
    log.close()
    assert (tmp_path / "alerts.sqlite3.damaged").exists()
    assert "damaged" in caplog.text
