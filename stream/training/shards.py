"""Shards: a batch learned from in parts, each on a core of its own.

The convolutions of a small network do not fill several cores: two threads within each of them were a tenth faster than one,
two threads with half of the pictures each nearly twice as fast.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Self, TypeVar

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
        self._weights = [list(one.parameters()) for one in self._networks]
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
        with one_thread():
            self._gather()
        return torch.stack(results).mean(0)

    def _gather(self) -> None:
        """Move the gradients of the copies to the first network; a part without objects has none for some weights."""
        mine, *others = self._weights
        for weights in others:
            for my, their in zip(mine, weights, strict=True):
                if my.grad is None and their.grad is not None:
                    my.grad = torch.zeros_like(their.grad)
            pairs = [(my.grad, their.grad) for my, their in zip(mine, weights, strict=True) if their.grad is not None]
            torch._foreach_add_([my for my, _ in pairs], [their for _, their in pairs])
            for their in weights:
                their.grad = None
        torch._foreach_div_([my.grad for my in mine if my.grad is not None], len(self._networks))


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
