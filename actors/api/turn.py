"""One request after the other, where several at once would take too much from the streams."""

from __future__ import annotations

import asyncio

from actors.api.problems import Problem

WAITING = 8


class Turn:
    """One at a time, and a bounded number that wait."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._here = 0

    async def __aenter__(self) -> None:
        if self._here > WAITING:
            raise Problem(503, f"{WAITING} requests are waiting already", headers={"Retry-After": "1"})
        self._here += 1
        try:
            await self._lock.acquire()
        except BaseException:
            self._here -= 1
            raise

    async def __aexit__(self, *_: object) -> None:
        self._here -= 1
        self._lock.release()
