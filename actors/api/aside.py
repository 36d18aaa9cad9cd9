"""Calls that wait for another machine, on threads of their own: a slow one holds up neither the actors nor the API."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Answer = TypeVar("Answer")


class Aside:
    """A few threads for one kind of call. ``asyncio.to_thread`` is for what is at hand: its threads are Control's too.

    Args:
        name: of the threads.
        threads: calls at once; others wait for them.
    """

    def __init__(self, name: str, threads: int):
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def call(self, call: Callable[..., Answer], *what: object, timeout_s: float) -> Answer:
        """What ``call`` returns, or raises.

        Raises:
            TimeoutError: it did not within ``timeout_s``, the wait for a thread included. One that had begun keeps its thread
                until it returns, one that had not never begins.
        """
        async with asyncio.timeout(timeout_s):
            return await asyncio.get_running_loop().run_in_executor(self._executor, call, *what)

    def close(self) -> None:
        """Begin nothing any more; what has begun is not waited for."""
        self._executor.shutdown(wait=False, cancel_futures=True)
