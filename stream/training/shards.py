"""Shards: a batch learned from in parts, each on a core of its own.

The convolutions of a small network do not fill several cores: two threads within each of them were a tenth faster than one,
two threads with half of the pictures each nearly twice as fast.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Self, TypeVar

import torch
from torch import nn

LEAST_PICTURES = 4  # in a part: batch norm takes mean and spread from them

Picture = TypeVar("Picture")


def part_count(batch: int, threads: int) -> int:
    """Into how many parts a batch is cut where there are so many threads."""
    return max(1, min(threads, batch // LEAST_PICTURES))


class Shards:
    """Copies of a network that share its weights and have gradients and statistics of batch norm of their own.

    A context manager that owns threads. The network's running statistics are those of the first part.

    Args:
        network: in the mode in which it is to be trained.
        count: of parts; 1 computes in the caller's thread.
        threads: that torch has; the parts share them.
    """

    def __init__(self, network: nn.Module, count: int, threads: int):
        self._networks = [network, *(copy.deepcopy(network) for _ in range(count - 1))]
        for other in self._networks[1:]:
            for theirs, mine in zip(other.parameters(), network.parameters(), strict=True):
                theirs.data = mine.data
        self._pool = ThreadPoolExecutor(count, "learn", torch.set_num_threads, (max(1, threads // count),)) if count > 1 else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def learn(self, pictures: Sequence[Picture], backward: Callable[[nn.Module, Sequence[Picture]], torch.Tensor]) -> torch.Tensor:
        """Leave the mean of the parts' gradients in the network; the mean of what ``backward`` gave.

        Args:
            pictures: at least one for each part.
            backward: called with a network and its share of the pictures, in a thread of its own: adds to the network's gradients.
        """
        if self._pool is None:
            return backward(self._networks[0], pictures)
        count = len(self._networks)
        parts = [pictures[i * len(pictures) // count : (i + 1) * len(pictures) // count] for i in range(count)]
        results = list(self._pool.map(backward, self._networks, parts))
        for weights in zip(*(network.parameters() for network in self._networks), strict=True):
            _gather(weights, count)
        return torch.stack(results).mean(0)


@contextmanager
def one_thread() -> Iterator[None]:
    """For work on many small tensors: to wake another thread for each takes longer than the work (with two threads, a step of
    the optimiser five times as long)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _gather(weights: tuple[Any, ...], count: int) -> None:
    """Move the gradients of the copies of one weight to the first; a part without objects has none for some."""
    mine, *others = weights
    for other in others:
        if other.grad is not None:
            mine.grad = other.grad if mine.grad is None else mine.grad.add_(other.grad)
            other.grad = None
    if mine.grad is not None:
        mine.grad.div_(count)
