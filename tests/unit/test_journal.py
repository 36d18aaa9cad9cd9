"""Journal: numbers, confirmation, bounds and restarts."""

from stream.events import HealthEvent, timestamp
from stream.journal import Journal


def event(i: int) -> HealthEvent:
    return HealthEvent(event_id=str(i), source_id="cam", state="online", reason="", at=timestamp(i))


def filled(n: int, capacity: int = 10) -> Journal[HealthEvent]:
    journal = Journal[HealthEvent](capacity)
    for i in range(n):
        journal.add(event(i))
    return journal


def ids(journal: Journal[HealthEvent], most: int = 100) -> list[str]:
    return [one.event_id for one in journal.read(most)[1]]


def test_events_are_given_until_they_are_confirmed() -> None:
    journal = filled(5)
    number, _ = journal.read(3)
    assert ids(journal, 3) == ["0", "1", "2"]
    assert ids(journal, 3) == ["0", "1", "2"], "nothing was confirmed"
    journal.confirm(number)
    assert ids(journal, 3) == ["3", "4"]
    journal.confirm(journal.read(3)[0])
    assert ids(journal) == []
    journal.add(event(9))
    journal.confirm(journal.read(0)[0] - 1)
    assert ids(journal) == ["9"]


def test_it_is_bounded_and_tells_what_was_lost() -> None:
    journal = filled(25)
    assert len(journal) == 10
    assert journal.lost == 15
    assert ids(journal)[0] == "15"


def test_what_was_not_confirmed_survives() -> None:
    journal = filled(5)
    journal.confirm(3)
    again = Journal[HealthEvent](10)
    again.restore(journal.state(), HealthEvent.model_validate)
    assert ids(again) == ["3", "4"]
