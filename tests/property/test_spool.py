"""The spool against a model: a list of records on disk, a crash at any byte, and any order of calls."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stream.errors import SinkError
from stream.sinks.spool import OVERHEAD_BYTES, Spool

pytestmark = pytest.mark.compute

RECORDS = st.lists(st.binary(max_size=60), min_size=1, max_size=6)


def everything(spool: Spool) -> list[bytes]:
    """Drain ``spool``."""
    found = []
    while records := spool.peek(7, 100):
        found += records
        spool.done(records)
    return found


class SpoolMachine(RuleBasedStateMachine):
    """``kept`` are the records that were appended and are not done."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="spool"))
        self.kept: list[bytes] = []
        self.last_done: list[bytes] = []

    @initialize(max_bytes=st.sampled_from([200, 1000, 100_000]))  # segments of 25, 125 and 12,500 bytes
    def open(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.spool = Spool(self.folder, max_bytes)

    @rule(records=RECORDS)
    def append(self, records: list[bytes]) -> None:
        self.spool.append(records)
        self.kept += records
        self.last_done = []

    @rule(count=st.integers(1, 8), size=st.integers(1, 200))
    def read(self, count: int, size: int) -> None:
        records = self.spool.peek(count, size)
        assert bool(records) == bool(self.kept)
        assert records == self.kept[: len(records)]
        assert len(records) <= count
        assert records == self.spool.peek(count, size), "peek takes nothing off"
        self.spool.done(records)
        del self.kept[: len(records)]
        self.last_done = records

    @rule()
    def reopen(self) -> None:
        self.spool.close()
        self.spool = Spool(self.folder, self.max_bytes)

    @rule(torn=st.binary(min_size=1, max_size=40), zeros=st.booleans())
    def crash_while_appending(self, torn: bytes, zeros: bool) -> None:
        """Leave any bytes after what was fsynced, as a crash in the middle of a batch does."""
        self.spool.close()
        segments = sorted(path for path in self.folder.iterdir() if path.name.isdigit())
        if segments:
            with segments[-1].open("ab") as file:
                file.write(bytes(len(torn)) if zeros else b"\x20\x00\x00\x00" + torn[:20])
        self.spool = Spool(self.folder, self.max_bytes)

    @precondition(lambda self: self.last_done)
    @rule(damage=st.sampled_from(["missing", "cut", "garbage"]))
    def lose_the_cursor(self, damage: str) -> None:
        """After a power cut the cursor may be old or gone: records come again, none is lost, the order stays."""
        self.spool.close()
        cursor = self.folder / "cursor"
        if damage == "missing":
            cursor.unlink()
        else:
            cursor.write_bytes(cursor.read_bytes()[:7] if damage == "cut" else bytes(20))
        self.spool = Spool(self.folder, self.max_bytes)
        found = everything(self.spool)
        assert found[len(found) - len(self.kept) :] == self.kept
        self.kept, self.last_done = [], []

    @invariant()
    def counts(self) -> None:
        if hasattr(self, "spool"):
            assert self.spool.pending == len(self.kept)
            on_disk = sum(path.stat().st_size for path in self.folder.iterdir() if path.name.isdigit())
            assert self.spool.size_bytes == on_disk
            assert on_disk >= sum(len(record) + OVERHEAD_BYTES for record in self.kept)

    def teardown(self) -> None:
        if hasattr(self, "spool"):
            assert everything(self.spool) == self.kept
            assert not [path for path in self.folder.iterdir() if path.name.isdigit()], "drained segments are deleted"
            self.spool.close()
        shutil.rmtree(self.folder)


TestSpool = SpoolMachine.TestCase
TestSpool.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)


@settings(max_examples=60, deadline=None)
@given(batches=st.lists(RECORDS, min_size=1, max_size=5), data=st.data())
def test_cut_at_any_byte_keeps_a_prefix(batches: list[list[bytes]], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spool = Spool(folder, 100_000)
        for batch in batches:
            spool.append(batch)
        spool.close()
        (segment,) = (path for path in folder.iterdir() if path.name.isdigit())
        cut = data.draw(st.integers(0, segment.stat().st_size))
        with segment.open("r+b") as file:
            file.truncate(cut)
        records = [record for batch in batches for record in batch]
        whole, size = 0, 0
        while whole < len(records) and size + len(records[whole]) + OVERHEAD_BYTES <= cut:
            size += len(records[whole]) + OVERHEAD_BYTES
            whole += 1
        spool = Spool(folder, 100_000)
        spool.append([b"after"])
        assert everything(spool) == [*records[:whole], b"after"]
        spool.close()


@settings(max_examples=60, deadline=None)
@given(records=st.lists(st.binary(min_size=1, max_size=60), min_size=2, max_size=12), data=st.data())
def test_a_flipped_bit_is_never_read_as_a_record(records: list[bytes], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spool = Spool(folder, 100_000)
        spool.append(records)
        spool.close()
        (segment,) = (path for path in folder.iterdir() if path.name.isdigit())
        content = bytearray(segment.read_bytes())
        bit = data.draw(st.integers(0, len(content) * 8 - 1))
        content[bit // 8] ^= 1 << bit % 8
        segment.write_bytes(content)
        spool = Spool(folder, 100_000)
        found = everything(spool)
        spool.close()
        assert found == records[: len(found)]
        assert len(found) < len(records)


def test_segments_go_as_they_are_read(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 8000)
    for number in range(100):
        spool.append([b"%050d" % number])
    full = spool.size_bytes
    spool.done(spool.peek(50, 10_000))
    assert spool.size_bytes < 0.9 * full
    assert not spool.fits(8000)
    assert spool.fits(8000 - spool.size_bytes - OVERHEAD_BYTES)
    assert not spool.fits(8000 - spool.size_bytes)
    spool.close()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", 1000)
    with pytest.raises(SinkError, match=r"spool.* in use by another process"):
        Spool(tmp_path / "spool", 1000)
    spool.close()
    Spool(tmp_path / "spool", 1000).close()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match=r"file/spool cannot be used: Not a directory"):
        Spool(tmp_path / "file" / "spool", 1000)


def test_damage_while_running_loses_that_segment_only(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 800)  # 100 bytes a segment
    for number in range(6):
        spool.append([b"%080d" % number])
    first = min(path for path in tmp_path.iterdir() if path.name.isdigit())
    first.write_bytes(bytes(first.stat().st_size))
    assert [int(record) for record in everything(spool)] == [2, 3, 4, 5]
    assert spool.pending == 0
    spool.close()
