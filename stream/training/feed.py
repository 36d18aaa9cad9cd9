"""Feed: batches of augmented pictures, prepared ahead by threads (OpenCV works without Python's lock)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from stream.frame import Uint8Array
from stream.training.augment import augmented
from stream.training.data import Cache, Labels


class Batch(NamedTuple):
    """``images`` uint8 (N, H, W, 3) BGR and the labels of each."""

    images: Uint8Array
    labels: tuple[Labels, ...]


class Feed:
    """Batches by step number: step ``k`` holds the same pictures in every run with the same seed, whenever it is asked for,
    so that a resumed run sees what the interrupted one would have seen.

    Args:
        cache: the pictures.
        batch: pictures a step.
        seed: of the order and of the augmentation.
        threads: that prepare batches.
    """

    def __init__(self, cache: Cache, batch: int, seed: int, threads: int):
        self._cache, self._batch, self._seed, self._threads = cache, batch, seed, threads

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches only, so an epoch leaves out a few pictures, other ones each time; with few pictures they repeat."""
        return max(1, len(self._cache) // self._batch)

    def batches(self, start: int, mosaic: Callable[[int], float | None]) -> Generator[Batch, None, None]:
        """Batches from step ``start`` on, without end; close the iterator to stop the threads.

        Args:
            start: the first step.
            mosaic: asked for the share of mosaics when a step is prepared; see ``augmented``.
        """
        ahead: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(self._threads, thread_name_prefix="augment") as pool:
            try:
                step = start
                while True:
                    while len(ahead) < self._threads + 1:
                        ahead.append(pool.submit(self.batch, step, mosaic(step)))
                        step += 1
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def batch(self, step: int, mosaic: float | None) -> Batch:
        """The batch of one step."""
        epoch, row = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._cache))
        order = np.resize(order, self.steps_per_epoch * self._batch)
        chosen = order[row * self._batch : (row + 1) * self._batch]
        samples = [
            augmented(self._cache, int(index), np.random.default_rng((self._seed, step, slot)), mosaic)
            for slot, index in enumerate(chosen)
        ]
        return Batch(np.stack([sample.image for sample in samples]), tuple(sample.labels for sample in samples))
