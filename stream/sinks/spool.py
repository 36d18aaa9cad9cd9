"""Spool: records that wait on disk.

A folder of segment files, read and written in order::

    lock                    held (flock) by the process that has the spool open
    cursor                  segment and offset of the first record that is not done, CRC-protected
    00000000000000000007    a segment: records of [length u32][crc32 u32][payload], little-endian

The checksum covers the length too, so a tail of zeros (as some file systems leave after a power cut) is no record.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stream.errors import SinkError
from stream.logs import get_logger

_log = get_logger(__name__)

_HEADER = struct.Struct("<II")
_CURSOR = struct.Struct("<QQI")
OVERHEAD_BYTES = _HEADER.size
"""What a record takes on disk beyond its payload."""
SEGMENT_BYTES = 8 << 20


@dataclass(slots=True)
class _Segment:
    number: int
    path: Path
    size: int  # bytes of whole records
    records: int


def _frame(record: bytes) -> bytes:
    return _HEADER.pack(len(record), zlib.crc32(record, zlib.crc32(len(record).to_bytes(4, "little")))) + record


def _records(data: bytes) -> Iterator[bytes]:
    """The whole records at the start of ``data``; ends at the first that is cut off or damaged."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, checksum = _HEADER.unpack_from(data, offset)
        record = data[offset + _HEADER.size : offset + _HEADER.size + length]
        if len(record) < length or zlib.crc32(record, zlib.crc32(length.to_bytes(4, "little"))) != checksum:
            return
        offset += _HEADER.size + length
        yield record


class Spool:
    """An append-only queue of records on disk, bounded in bytes, that survives a crash at any point.

    ``append`` returns once its records are fsynced; from then on they are read, in order, until ``done``. A torn tail
    is cut off at the last whole record when the spool is opened. After a crash, records that were done may be
    read again, never the other way round. Not thread-safe; one process at a time.

    Args:
        folder: created where missing.
        max_bytes: bound of the segment files together.

    Raises:
        SinkError: another process has the spool open, or the folder cannot be used.
    """

    def __init__(self, folder: Path, max_bytes: int):
        self.folder, self.max_bytes = folder, max_bytes
        self._segment_bytes = max(1, min(SEGMENT_BYTES, max_bytes // 8))  # small parts: room comes back before all is read
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise SinkError(f"the spool {folder} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._recover()
        except BlockingIOError:
            os.close(self._lock)
            raise SinkError(f"the spool {folder} is in use by another process") from None
        except OSError as error:
            os.close(self._lock)
            raise SinkError(f"the spool {folder} cannot be read: {error.strerror}") from error
        self._closed = False

    def _recover(self) -> None:
        self._segments: deque[_Segment] = deque()
        self._file: int | None = None  # the last segment, opened to append
        self._offset = 0  # in the first segment, of the first record that is not done
        self._size = self._pending = 0
        at, offset = self._read_cursor()
        paths = sorted(path for path in self.folder.iterdir() if path.name.isdigit())
        for path in paths:
            number = int(path.name)
            if number < at:
                path.unlink()
                continue
            data = path.read_bytes()
            start = offset if number == at and offset <= len(data) else 0
            size, records = start, 0
            for record in _records(data[start:]):
                size += _HEADER.size + len(record)
                records += 1
            if size < len(data):
                _log.warning(
                    "damaged bytes were cut off",
                    spool=str(self.folder),
                    segment=number,
                    cut_bytes=len(data) - size,
                )
                os.truncate(path, size)
            if not self._segments:
                self._offset = start
            self._segments.append(_Segment(number, path, size, records))
            self._size += size
            self._pending += records
        # Never a number that the cursor may name: its offset must not be applied to another segment.
        self._next_number = max(int(paths[-1].name) if paths else 0, at) + 1
        self._drop_read_segments()

    def _read_cursor(self) -> tuple[int, int]:
        try:
            raw = (self.folder / "cursor").read_bytes()
        except FileNotFoundError:
            return 0, 0
        if len(raw) != _CURSOR.size or zlib.crc32(raw[:16]) != _CURSOR.unpack(raw)[2]:
            return 0, 0  # read again from the oldest record
        number, offset, _ = _CURSOR.unpack(raw)
        return number, offset

    def _write_cursor(self, number: int) -> None:
        """Replace the cursor file. Not fsynced: an older cursor costs duplicates only."""
        body = struct.pack("<QQ", number, self._offset)
        path = self.folder / "cursor.new"
        with contextlib.suppress(OSError):  # a full disk, for one
            path.write_bytes(body + struct.pack("<I", zlib.crc32(body)))
            path.replace(self.folder / "cursor")

    @property
    def pending(self) -> int:
        """Records that are not done."""
        return self._pending

    @property
    def size_bytes(self) -> int:
        """Bytes of all segment files."""
        return self._size

    def append(self, records: Sequence[bytes]) -> None:
        """Add ``records`` as one batch and fsync. The caller keeps ``size_bytes`` within ``max_bytes`` (see ``fits``).

        Raises:
            SinkError: the disk is full or failed; none of the batch was taken.
        """
        if not records:
            return
        data = b"".join(map(_frame, records))
        try:
            if self._file is None or self._segments[-1].size >= self._segment_bytes:
                self._start_segment()
            assert self._file is not None
            view = memoryview(data)
            while view:
                view = view[os.write(self._file, view) :]
            os.fdatasync(self._file)
        except OSError as error:
            self._abandon_segment()
            raise SinkError(f"the spool {self.folder} cannot be written: {error.strerror}") from error
        self._segments[-1].size += len(data)
        self._segments[-1].records += len(records)
        self._size += len(data)
        self._pending += len(records)

    def fits(self, payload_bytes: int, records: int = 1, share: float = 1) -> bool:
        """True when so much more stays within ``share`` of ``max_bytes``."""
        return self._size + payload_bytes + records * OVERHEAD_BYTES <= share * self.max_bytes

    def _start_segment(self) -> None:
        self._close_file()
        path = self.folder / f"{self._next_number:020d}"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._segments.append(_Segment(self._next_number, path, 0, 0))
        self._next_number += 1
        folder = os.open(self.folder, os.O_RDONLY)  # makes the new name durable
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _abandon_segment(self) -> None:
        """After a failed write or fsync nothing is known of the tail: cut it off and never append there again."""
        self._close_file()
        if not self._segments:
            return
        last = self._segments[-1]
        try:
            if last.size:
                os.truncate(last.path, last.size)
            else:
                self._segments.pop().path.unlink(missing_ok=True)
        except OSError as error:  # then what was written of the batch may be read twice after a crash, which is allowed
            _log.warning("a failed batch cannot be cut off the spool", spool=str(self.folder), reason=error.strerror)

    def peek(self, max_records: int, max_bytes: int) -> list[bytes]:
        """The first records that are not done, oldest first: up to ``max_records`` of about ``max_bytes``, at least
        one if there is any.

        Raises:
            SinkError: the disk failed.
        """
        offset = self._offset
        for segment in self._segments:
            if offset < segment.size:
                found = self._read(segment, offset, max_records, max_bytes)
                if found:
                    return found
                _log.error(
                    "spooled records are damaged and lost",
                    spool=str(self.folder),
                    segment=segment.number,
                    lost=segment.records,
                )
                self._pending -= segment.records
                self._size -= segment.size - offset
                segment.size, segment.records = offset, 0
            offset = 0
        return []

    def _read(self, segment: _Segment, offset: int, max_records: int, max_bytes: int) -> list[bytes]:
        try:
            with segment.path.open("rb") as file:
                file.seek(offset)
                data = file.read(min(max(max_bytes, OVERHEAD_BYTES), segment.size - offset))
                if len(data) >= _HEADER.size:  # the first record always comes whole
                    missing = _HEADER.size + _HEADER.unpack_from(data)[0] - len(data)
                    data += file.read(max(0, missing))
        except OSError as error:
            raise SinkError(f"the spool {self.folder} cannot be read: {error.strerror}") from error
        found: list[bytes] = []
        for record in _records(data):
            found.append(record)
            if len(found) == max_records:
                break
        return found

    def done(self, records: Sequence[bytes]) -> None:
        """Take the ``records`` that ``peek`` returned off the spool; segments that were read to their end are deleted."""
        if not records:
            return
        self._drop_read_segments()
        self._offset += sum(map(len, records)) + OVERHEAD_BYTES * len(records)
        self._segments[0].records -= len(records)
        self._pending -= len(records)
        self._drop_read_segments()
        self._write_cursor(self._segments[0].number if self._segments else self._next_number)

    def _drop_read_segments(self) -> None:
        while self._segments and self._offset >= self._segments[0].size:
            segment = self._segments.popleft()
            if not self._segments:
                self._close_file()
            self._offset = 0
            self._size -= segment.size
            with contextlib.suppress(OSError):  # then the next start deletes it
                segment.path.unlink()

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def close(self) -> None:
        """Let another process open the spool. Records stay."""
        if not self._closed:
            self._closed = True
            self._close_file()
            os.close(self._lock)
