"""The ring: slots, their reuse, readers in other processes, and what is left after a SIGKILL."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stream.errors import SlotReused, SlotUnavailable
from stream.ring import Ring, RingReader, Slot
from tests.conftest import ROOT

SHAPE = (4, 8, 8, 3)
BYTES = 4 * 8 * 8 * 3


@pytest.fixture
def ring() -> Iterator[Ring]:
    ring = Ring(2, BYTES)
    yield ring
    ring.close()


def written(ring: Ring, value: int, shape: tuple[int, ...] = SHAPE) -> tuple[np.ndarray, Slot]:
    images = ring.allocate(shape)
    images[:] = value
    slot = ring.describe(images)
    assert slot is not None
    return images, slot


def test_a_reader_sees_what_was_written(ring: Ring) -> None:
    reader = RingReader()
    _, first = written(ring, 7)
    _, second = written(ring, 9, (3, 8, 8, 3))
    with reader.images(first) as images:
        assert images.shape == SHAPE
        assert (images == 7).all()
        assert not images.flags.writeable
    with reader.images(second) as images:
        assert images.shape == (3, 8, 8, 3)
        assert (images == 9).all()
    assert len(reader) == 1


def test_a_slot_is_used_again_only_after_its_release(ring: Ring) -> None:
    first, slot = written(ring, 1)
    second, _ = written(ring, 2)
    assert ring.taken == 2
    overflow = ring.allocate(SHAPE)
    assert ring.describe(overflow) is None
    assert ring.overflows == 1
    ring.release(overflow)
    assert ring.taken == 2
    ring.release(first)
    third, again = written(ring, 3)
    assert (again.number, again.offset) == (slot.number, slot.offset)
    assert again.sequence > slot.sequence
    ring.release(second)
    ring.release(third)
    ring.release(third)
    assert ring.taken == 0
    assert {written(ring, n)[1].number for n in range(2)} == {0, 1}


def test_a_batch_that_is_too_large_goes_elsewhere(ring: Ring) -> None:
    assert ring.describe(ring.allocate((5, 8, 8, 3))) is None
    assert ring.overflows == 1
    assert ring.taken == 0


def test_a_torn_batch_gives_no_result(ring: Ring) -> None:
    reader = RingReader()
    images, slot = written(ring, 1)
    reading = reader.images(slot)
    reading.__enter__()
    ring.release(images)
    written(ring, 2)
    with pytest.raises(SlotReused, match="used again"):
        reading.__exit__(None, None, None)
    with pytest.raises(SlotReused), reader.images(slot):
        pass


def test_what_a_reader_cannot_see(ring: Ring) -> None:
    reader = RingReader()
    images, slot = written(ring, 1)
    for other in (replace(slot, host="elsewhere"), replace(slot, token=bytes(16)), replace(slot, fd=999_999)):
        with pytest.raises(SlotUnavailable), reader.images(other):
            pass
    assert len(reader) == 0
    with reader.images(slot) as seen:
        assert (seen == 1).all()
    ring.release(images)
    ring.close()
    assert ring.describe(ring.allocate(SHAPE)) is None
    with pytest.raises(SlotUnavailable), RingReader().images(slot):
        pass
    reader.sweep()
    assert len(reader) == 0


def test_memory_is_taken_up_as_slots_are_used() -> None:
    size = 1 << 20
    ring = Ring(8, size)
    assert resident(ring) < 64 << 10
    images = [ring.allocate((1, 512, 512, 3))]
    images[0][:] = 1
    assert resident(ring) < 2 * size
    for _ in range(20):
        ring.release(images.pop())
        images.append(ring.allocate((1, 512, 512, 3)))
        images[0][:] = 1
    assert resident(ring) < 2 * size
    ring.close()


def resident(ring: Ring) -> int:
    return os.stat(f"/proc/self/fd/{ring._fd}").st_blocks * 512


WRITER = """
import sys
from stream.ring import Ring
ring = Ring(2, 1 << 20)
images = ring.allocate((1, 512, 512, 3))
images[:] = 42
slot = ring.describe(images)
print(slot.host, slot.pid, slot.fd, slot.token.hex(), slot.number, slot.sequence, slot.offset, flush=True)
sys.stdin.read()
"""


def test_nothing_is_left_of_a_writer_that_was_killed() -> None:
    others = set(mapped_rings())  # of tests before
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as writer:
        assert writer.stdout is not None
        *host, pid, fd, token, number, sequence, offset = writer.stdout.readline().split()
        slot = Slot(
            " ".join(host), int(pid), int(fd), bytes.fromhex(token), int(number), int(sequence), int(offset), (1, 512, 512, 3)
        )
        reader = RingReader()
        with reader.images(slot) as images:
            assert (images == 42).all()
        reader.sweep()
        assert len(reader) == 1
        os.kill(writer.pid, signal.SIGKILL)
    with reader.images(slot) as images:  # a batch that is being read is read to its end
        assert (images == 42).all()
    del images
    assert set(mapped_rings()) - others
    reader.sweep()
    assert len(reader) == 0
    assert not set(mapped_rings()) - others
    assert [name for name in os.listdir("/dev/shm") if "framewatch" in name] == []


def mapped_rings() -> list[str]:
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if "framewatch-ring" in line]
