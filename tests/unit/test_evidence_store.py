"""Where evidence is kept: its addresses, what may be read, and what is deleted when."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
import pytest
from pydantic import ValidationError

from stream.errors import EvidenceError, EvidenceMissing
from stream.evidence.address import path_of, place_of, public_root
from stream.evidence.retention import DELETED_AT_ONCE, PASS_INTERVAL_S, Retention
from stream.evidence.settings import EvidenceConfig
from stream.evidence.store import Store, open_evidence
from stream.metrics import Metrics
from stream.testing import ManualClock

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAY_S = 86_400.0


def path(age_s: float = 0.0, source_id: str = "hall", number: int = 0, kind: str = "picture") -> str:
    return path_of("clip" if kind == "clip" else "picture", source_id, NOW - timedelta(seconds=age_s), f"{number:032x}")


@pytest.fixture(params=["folder", "memory"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EvidenceConfig]:
    if request.param == "folder":
        yield EvidenceConfig(url=str(tmp_path / "evidence"))
        return
    yield EvidenceConfig(url="memory://alerts/here")
    fsspec.filesystem("memory").store.clear()
    fsspec.filesystem("memory").pseudo_dirs.clear()


def test_paths_tell_the_time_and_the_alert_and_nothing_else_is_ours() -> None:
    assert path() == f"2026-11-24/hall/120000-{'0' * 32}.jpg"
    assert path_of("clip", "*", NOW, "a" * 32) == f"2026-11-24/all/120000-{'a' * 32}.mp4"
    place = place_of(path(61))
    assert place is not None
    assert (place.raised_at, place.alert_id) == (NOW - timedelta(seconds=61), "0" * 32)
    for other in ("notes.txt", path() + ".part", "../" + path(), path().replace("hall", "ha/ll"), path().replace("-24/", "-99/")):
        assert place_of(other) is None


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("/srv/my alerts", "file:///srv/my%20alerts"),
        ("file:///srv/alerts/", "file:///srv/alerts"),
        ("memory://alerts/", "memory://alerts"),
        ("ftp://user:se/cret@host:21/alerts", "ftp://host:21/alerts"),
        ("ftp://user@host/alerts", "ftp://host/alerts"),
    ],
)
def test_the_root_that_events_show_has_no_secret(url: str, root: str) -> None:
    if "se/cret" in url:
        with pytest.raises(ValidationError):
            EvidenceConfig(url=url)
        url = url.replace("se/cret", "se%2Fcret")
    config = EvidenceConfig(url=url)
    assert public_root(config) == root
    assert "cret" not in repr(config)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nosuch://a/b", "nosuch:// cannot be used"),
        ("memory://a/b?token=x", "neither query nor fragment"),
        ("simplecache::memory://a", "chained"),
        ("memory://", "names no place"),
    ],
)
def test_addresses_that_cannot_be_used_are_faults(url: str, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        EvidenceConfig(url=url)


def test_what_is_written_can_be_read_by_its_address_and_only_that(config: EvidenceConfig, tmp_path: Path) -> None:
    store, url = Store(config), f"{public_root(config)}/{path()}"
    with pytest.raises(EvidenceMissing):
        open_evidence(config, url)
    store.write(path(), b"first")
    store.write(path(), b"picture")
    with open_evidence(config, url) as file:
        assert file.read() == b"picture"
        file.seek(3)
        assert file.read(2) == b"tu"
    assert [one.size_bytes for one in store.files("2026-11-24/hall")] == [7]
    (tmp_path / "secret").write_text("x")
    for other in ("file:///etc/passwd", f"{public_root(config)}/../secret", url + "x", path(), "", "memory://elsewhere/" + path()):
        with pytest.raises(EvidenceMissing):
            open_evidence(config, other)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = EvidenceConfig(url=str(tmp_path / "evidence"))
    store = Store(config)

    def refuse(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device: token=abcdef")

    monkeypatch.setattr(fsspec.get_filesystem_class("file"), "mv", refuse)
    with pytest.raises(EvidenceError, match="No space left") as failed:
        store.write(path(), b"picture")
    assert "abcdef" not in str(failed.value)
    assert [file for _, _, files in os.walk(tmp_path) for file in files] == []


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EvidenceError, match=r"store: (NotADirectory|FileExists)Error"):
        Store(EvidenceConfig(url=str(tmp_path / "file"))).write(path(), b"")


# -- retention


class Keeper:
    def __init__(self, config: EvidenceConfig):
        self.store, self.metrics, self.clock = Store(config), Metrics(), ManualClock(NOW.timestamp())
        self.retention = Retention(self.store, config, self.clock, self.metrics)

    def steps(self) -> int:
        """One pass; how many steps it took."""
        taken = 0
        while self.retention.step():
            taken += 1
        self.clock.advance(PASS_INTERVAL_S)
        return taken

    def paths(self) -> list[str]:
        store = self.store
        return [one.path for day in store.folders() for source in store.folders(day) for one in store.files(f"{day}/{source}")]

    def expired(self, why: str) -> float:
        return self.metrics.registry.get_sample_value("framewatch_evidence_total", {"outcome": "expired", "reason": why}) or 0.0


def test_old_evidence_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    keeper = Keeper(EvidenceConfig(url=str(tmp_path), max_age_s=2 * DAY_S, max_bytes=None))
    ages = [0.0, DAY_S, 1.9 * DAY_S, 3.1 * DAY_S, 30 * DAY_S]
    for number, age_s in enumerate(ages):
        keeper.store.write(path(age_s, number=number), b"x")
        at_s = NOW.timestamp() - age_s
        os.utime(tmp_path / path(age_s, number=number), (at_s, at_s))
    keeper.store.write(path(90 * DAY_S, "replayed", 9), b"x")  # of a recording, analysed just now
    os.utime(tmp_path / path(90 * DAY_S, "replayed", 9), (NOW.timestamp(),) * 2)
    stranger = tmp_path / path(30 * DAY_S).rpartition("/")[0] / "notes.txt"
    stranger.write_text("mine")
    os.utime(stranger, (0, 0))
    keeper.steps()
    left = sorted(path(age_s, number=number) for number, age_s in enumerate(ages[:3]))
    assert keeper.paths() == sorted([*left, path(90 * DAY_S, "replayed", 9)])
    assert keeper.expired("age") == 2
    assert stranger.exists()
    assert not (tmp_path / path(3.1 * DAY_S)[:10]).exists()  # the folder of a day goes with its last file
    assert (tmp_path / path(90 * DAY_S)[:10]).exists()


def test_the_oldest_go_when_there_is_too_much(config: EvidenceConfig) -> None:
    keeper = Keeper(config.model_copy(update={"max_bytes": 1000, "max_age_s": None}))
    made = [path(3600.0 * hour, source_id=f"cam{hour % 3}", number=hour) for hour in range(40)]
    for name in made:
        keeper.store.write(name, bytes(100))
    keeper.steps()
    assert keeper.paths() == sorted(made[:10])
    assert keeper.expired("size") == 30
    keeper.steps()
    assert keeper.expired("size") == 30


def test_a_step_is_small_and_a_pass_is_not_begun_all_the_time(config: EvidenceConfig) -> None:
    keeper = Keeper(config.model_copy(update={"max_age_s": DAY_S / 10**6}))
    for number in range(3 * DELETED_AT_ONCE):
        keeper.store.write(path(3 * DAY_S, number=number), b"")
    keeper.clock.advance(10 * DAY_S * 365)  # the files' own times are of today
    before = 3 * DELETED_AT_ONCE
    while keeper.retention.step():
        left = len(keeper.paths())
        assert before - left <= DELETED_AT_ONCE
        before = left
    assert keeper.paths() == []
    assert not keeper.retention.step()


def test_two_processes_may_look_after_one_store(config: EvidenceConfig) -> None:
    config = config.model_copy(update={"max_bytes": 500, "max_age_s": None})
    one, two = Keeper(config), Keeper(config)
    for number in range(20):
        one.store.write(path(number=number), bytes(100))
    while one.retention.step() | two.retention.step():
        pass
    assert len(one.paths()) == 5
    assert one.expired("size") + two.expired("size") == 15
