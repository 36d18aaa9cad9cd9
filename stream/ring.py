"""Ring: batches in memory that the processes of a host share, so that only their places travel between them.

A :class:`Ring` belongs to one writer and has a fixed number of slots, each as large as the largest batch. Its memory has
no name in any file system: a reader finds it through the writer's open file (``/proc/PID/fd/FD``), and the kernel frees
it once the writer has ended, however it ended, and the last reader has let go of it. Nothing is left to be swept up.

Who owns a slot, and when:

1. The writer takes a free slot (``allocate``), which gives it a new sequence number, and fills it.
2. Readers get the :class:`Slot` and look at the memory itself; none of them writes.
3. The writer gives the slot back (``release``) when it awaits no answer about the batch any more. As long as it may send
   the batch once more, to another replica say, the slot stays as it is.
4. A reader that is still at work on a batch that was given up may see the next one in its place. It compares the sequence
   number when it has finished and raises :class:`SlotReused` instead of giving a result.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stream.boot import boot_id
from stream.errors import SlotReused, SlotUnavailable
from stream.frame import Uint8Array

MAX_RINGS = 256  # that one reader keeps mapped: more ingest processes than a host has
_TOKEN = struct.Struct("16s")
_SEQUENCE = struct.Struct("Q")


def host_id() -> str:
    """The same for all processes that can see each other's open files; differs between containers of one host."""
    with suppress(OSError):
        return f"{boot_id()}/{os.readlink('/proc/self/ns/pid')}"
    return f"{boot_id()}/{os.getpid()}"


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a batch lies.

    Attributes:
        host: see ``host_id``; elsewhere the slot cannot be read.
        pid, fd: the writer's process and its open file.
        token: 16 bytes that no other ring begins with.
        number: of the slot.
        sequence: of the batch in the slot; another one means that the slot was used again.
        offset: of the images in the file, in bytes.
        shape: (N, H, W, 3), uint8.
    """

    host: str
    pid: int
    fd: int
    token: bytes
    number: int
    sequence: int
    offset: int
    shape: tuple[int, ...]


class Ring:
    """The writer's side. Safe for any threads.

    Attributes:
        slots: how many there are.
        overflows: batches for which there was no slot, so far.

    Args:
        slots: batches that may be on their way at a time.
        slot_bytes: size of the largest batch. Memory is taken up only as far as slots are used.

    Raises:
        OSError: the system has no such memory; then batches must travel by value.
    """

    def __init__(self, slots: int, slot_bytes: int):
        self.slots = slots
        self.overflows = 0
        self._token, self._host, self._pid = uuid.uuid4().bytes, host_id(), os.getpid()
        page = mmap.PAGESIZE
        header = _aligned(_TOKEN.size + slots * _SEQUENCE.size, page)
        self._offsets = [header + number * _aligned(slot_bytes, page) for number in range(slots)]
        self._slot_bytes = slot_bytes
        if not hasattr(os, "memfd_create"):
            raise OSError("shared memory without a name needs Linux")
        self._fd = os.memfd_create("framewatch-ring", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self._fd, header + slots * _aligned(slot_bytes, page))
            self._memory = mmap.mmap(self._fd, 0)
        except BaseException:
            os.close(self._fd)
            raise
        _TOKEN.pack_into(self._memory, 0, self._token)
        self._lock = threading.Lock()
        self._free = list(reversed(range(slots)))  # the last one given back is taken first: its pages are in the cache
        self._taken: dict[int, tuple[int, int]] = {}  # by address of the images: slot, sequence
        self._sequence = 0

    def allocate(self, shape: tuple[int, ...]) -> Uint8Array:
        """An array for a batch of ``shape``: in a slot, or in memory of this process where none is free or large enough."""
        size = int(np.prod(shape))
        with self._lock:
            if size > self._slot_bytes or not self._free or self._fd < 0:
                self.overflows += 1
                return np.empty(shape, np.uint8)
            number = self._free.pop()
            self._sequence += 1
            sequence = self._sequence
            _SEQUENCE.pack_into(self._memory, _sequence_at(number), sequence)
            images = np.frombuffer(self._memory, np.uint8, size, self._offsets[number]).reshape(shape)
            self._taken[images.ctypes.data] = number, sequence
        return images

    def describe(self, images: Uint8Array) -> Slot | None:
        """Where a batch from ``allocate`` lies; None where that is in no slot."""
        with self._lock:
            number, sequence = self._taken.get(images.ctypes.data, (-1, 0))
        if number < 0:
            return None
        return Slot(self._host, self._pid, self._fd, self._token, number, sequence, self._offsets[number], images.shape)

    def release(self, images: Uint8Array) -> None:
        """Give the slot of a batch back, if it has one; call it when no answer about the batch is awaited any more."""
        with self._lock:
            number, _ = self._taken.pop(images.ctypes.data, (-1, 0))
            if number >= 0:
                self._free.append(number)

    @property
    def taken(self) -> int:
        """Slots in use."""
        return len(self._taken)

    def close(self) -> None:
        """Let go of the file; the memory goes with the last array and the last reader."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1


class RingReader:
    """The readers' side. Safe for any threads. Keeps the rings mapped that it has read from, at most ``MAX_RINGS``."""

    def __init__(self) -> None:
        self._host = host_id()
        self._lock = threading.Lock()
        self._mapped: OrderedDict[bytes, _Mapping] = OrderedDict()  # by token; the one used last is the last

    @contextmanager
    def images(self, slot: Slot) -> Iterator[Uint8Array]:
        """The batch in a slot, uint8 (N, H, W, 3), read-only; not to be kept beyond the block.

        Raises:
            SlotUnavailable: it lies on another host, or its writer has ended.
            SlotReused: on leaving: the slot was used for another batch meanwhile, so what was read is worth nothing.
        """
        memory = self._memory(slot)
        images = np.frombuffer(memory, np.uint8, int(np.prod(slot.shape)), slot.offset).reshape(slot.shape)
        yield images
        (sequence,) = _SEQUENCE.unpack_from(memory, _sequence_at(slot.number))
        if sequence != slot.sequence:
            raise SlotReused(f"slot {slot.number} of process {slot.pid} was used again while it was read")

    def sweep(self) -> None:
        """Let go of the rings whose writers have ended."""
        with self._lock:
            for token in [token for token, mapping in self._mapped.items() if not mapping.alive()]:
                del self._mapped[token]

    def __len__(self) -> int:
        return len(self._mapped)

    def _memory(self, slot: Slot) -> mmap.mmap:
        if slot.host != self._host:
            raise SlotUnavailable(f"the batch lies on another host ({slot.host}), this is {self._host}")
        with self._lock:
            mapping = self._mapped.get(slot.token)
            if mapping is None:
                mapping = self._mapped[slot.token] = _Mapping.of(slot)
                while len(self._mapped) > MAX_RINGS:
                    self._mapped.popitem(last=False)
            self._mapped.move_to_end(slot.token)
            return mapping.memory


@dataclass(frozen=True, slots=True)
class _Mapping:
    """A writer's memory. ``path`` leads to its open file, ``inode`` tells whether it still does."""

    path: Path
    inode: int
    memory: mmap.mmap

    @classmethod
    def of(cls, slot: Slot) -> _Mapping:
        path = Path(f"/proc/{slot.pid}/fd/{slot.fd}")
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                inode, memory = os.fstat(file).st_ino, mmap.mmap(file, 0, prot=mmap.PROT_READ)
            finally:
                os.close(file)
        except (OSError, ValueError) as error:  # ValueError: an empty file, so not a ring
            raise SlotUnavailable(f"the memory of process {slot.pid} cannot be opened: {error}") from error
        if memory[: _TOKEN.size] != slot.token:
            raise SlotUnavailable(f"process {slot.pid} is not the writer of the batch")
        return cls(path, inode, memory)

    def alive(self) -> bool:
        """True while the writer has the file open."""
        try:
            return os.stat(self.path).st_ino == self.inode
        except OSError:
            return False


def _sequence_at(number: int) -> int:
    return _TOKEN.size + number * _SEQUENCE.size


def _aligned(size: int, page: int) -> int:
    return -(-size // page) * page
