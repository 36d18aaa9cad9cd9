"""What it costs to hand a batch to another process of the host: through the ring, and by value.

Both write a batch, make the bytes of a message of it, and read the batch from these; the ring's message has only the
place in it. What carries the message is not part of either.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from actors.detector import BatchInRing
from stream.frame import FrameBatch, FrameInfo, Uint8Array
from stream.ring import Ring, RingReader

SIZES = [1, 8, 16]
SIDE = 352


@pytest.fixture(params=SIZES)
def pictures(request: pytest.FixtureRequest) -> list[Uint8Array]:
    """Model-sized pictures of a batch."""
    return list(np.random.default_rng(1).integers(0, 255, (request.param, SIDE, SIDE, 3), np.uint8))


@pytest.fixture
def ring() -> Iterator[Ring]:
    """A ring as an ingest actor has."""
    ring = Ring(4, max(SIZES) * SIDE * SIDE * 3)
    yield ring
    ring.close()


def infos(count: int) -> tuple[FrameInfo, ...]:
    """What travels with the pictures."""
    return tuple(FrameInfo(f"cam{i}", "s", 7, 1.5, 1.7e9, 1920, 1080, 100.0, 100.1, 100.2) for i in range(count))


def test_through_the_ring(benchmark: BenchmarkFixture, pictures: list[Uint8Array], ring: Ring) -> None:
    """Written into a slot; the place pickled; read through another mapping."""
    reader, frames = RingReader(), infos(len(pictures))
    shape = (len(pictures), SIDE, SIDE, 3)

    def pass_on() -> int:
        images = ring.allocate(shape)
        np.stack(pictures, out=images)
        slot = ring.describe(images)
        assert slot is not None
        received: BatchInRing = pickle.loads(pickle.dumps(BatchInRing("people", frames, slot)))  # noqa: S301 # our own bytes
        with reader.images(received.slot) as seen:
            size = len(FrameBatch("people", received.frames, seen))
        ring.release(images)
        return size

    assert benchmark(pass_on) == len(pictures)


def test_by_value(benchmark: BenchmarkFixture, pictures: list[Uint8Array]) -> None:
    """The whole batch pickled."""
    frames = infos(len(pictures))

    def pass_on() -> int:
        received: FrameBatch = pickle.loads(pickle.dumps(FrameBatch("people", frames, np.stack(pictures))))  # noqa: S301 # our own
        return len(received)

    assert benchmark(pass_on) == len(pictures)
