"""Live: the newest pictures of watched sources, with what was found in them, fetched once for all who watch.

While somebody watches, each ingest actor is asked a few times a second for the pictures of its watched sources, in one call,
and the aggregators for what they found in those very frames. Nothing waits for a client: each has one place for each source,
which holds the newest picture that it has not taken yet.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from ray.exceptions import RayError

from stream.analyser import Seen
from stream.frame import FrameKey
from stream.logs import get_logger
from stream.viewfinder import Look, Picture, width_for

logger = get_logger(__name__)

MAX_WATCHERS = 128
MAX_SOURCES = 32  # of a watcher
MAX_FPS = 15.0
CALL_S = 2.0  # longest wait for an actor; meanwhile the others go on
FRESH_S = 5.0  # who begins to watch gets the picture that others have got, if it is not older
EARLY = 0.7  # of the interval: so much of it must have passed, as rounds come in intervals too


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture, and what was found in its frame; None where that is not known: it was dropped before the detector."""

    picture: Picture
    seen: Seen | None


class Ask(Protocol):
    """Calls a named actor, as ``Reconciler.ask`` does."""

    async def __call__(self, name: str, method: str, *what: object, timeout_s: float) -> Any:
        """The answer.

        Raises:
            RayError, TimeoutError: there is none.
        """


class Watcher:
    """One who watches; made by ``Live.watch``. ``watch`` may be called again at any time.

    Attributes:
        sources: ids.
        width_px: of the pictures, at most.
        interval_s: between two pictures of a source, at least.
    """

    def __init__(self) -> None:
        self.sources: frozenset[str] = frozenset()
        self.width_px, self.interval_s = width_for(640), 0.25
        self._newest: dict[str, Shown] = {}  # by source, the one that has waited longest first
        self._given_s: dict[str, float] = {}
        self._there = asyncio.Event()

    def watch(self, sources: Collection[str], width_px: int = 640, fps: float = 4.0) -> None:
        """Watch these sources instead.

        Raises:
            ValueError: they are more than ``MAX_SOURCES``.
        """
        if len(sources) > MAX_SOURCES:
            raise ValueError(f"at most {MAX_SOURCES} sources are shown at once, not {len(sources)}")
        self.sources, self.width_px, self.interval_s = frozenset(sources), width_for(width_px), 1 / min(fps, MAX_FPS)
        self._newest.clear()
        self._given_s.clear()
        self._there.clear()

    def begins(self, source_id: str) -> bool:
        """Whether it has had no picture of a source so far."""
        return source_id not in self._given_s

    def due(self, source_id: str, now_s: float) -> bool:
        """Whether it is time for the next picture of a source."""
        return source_id in self.sources and now_s - self._given_s.get(source_id, -1e9) >= EARLY * self.interval_s

    def give(self, source_id: str, shown: Shown, now_s: float) -> None:
        """Put the newest picture into its source's place."""
        self._given_s[source_id] = now_s
        self._newest[source_id] = shown
        self._there.set()

    async def next(self) -> Shown:
        """The next picture to be shown, once there is one."""
        while not self._newest:
            await self._there.wait()
        shown = self._newest.pop(next(iter(self._newest)))
        if not self._newest:
            self._there.clear()
        return shown


class Live:
    """All watchers. Lives on one event loop; asks nobody anything while there are none.

    Args:
        ask: calls an actor.
        placement, shards: name of the ingest actor and of the aggregator by source id; looked up in each round.
    """

    def __init__(self, ask: Ask, placement: Callable[[], Mapping[str, str]], shards: Callable[[], Mapping[str, str]]):
        self._ask, self._placement, self._shards = ask, placement, shards
        self._watchers: set[Watcher] = set()
        self._newest: dict[tuple[str, int], tuple[Shown, float]] = {}  # by source and width, with the time; of what is watched
        self._asking: dict[str, asyncio.Task[None]] = {}  # by ingest actor
        self._rounds: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[Watcher]:
        """A watcher, for as long as the block lasts.

        Raises:
            OverflowError: there are too many.
        """
        if len(self._watchers) >= MAX_WATCHERS:
            raise OverflowError(f"at most {MAX_WATCHERS} can watch at once")
        watcher = Watcher()
        self._watchers.add(watcher)
        if self._rounds is None:
            self._rounds = asyncio.get_running_loop().create_task(self._keep_asking())
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)
            if not self._watchers:
                await self._end()

    async def _end(self) -> None:
        tasks = [task for task in (self._rounds, *self._asking.values()) if task is not None]
        self._rounds, self._asking = None, {}
        self._newest.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_asking(self) -> None:
        while True:
            began_s = time.monotonic()
            for actor, looks in self._wanted(began_s).items():
                if actor not in self._asking:  # one that is slow is not asked again meanwhile
                    self._asking[actor] = asyncio.create_task(self._ask_for(actor, looks))
            interval_s = min((watcher.interval_s for watcher in self._watchers), default=1.0)
            await asyncio.sleep(max(0.01, began_s + interval_s - time.monotonic()))

    def _wanted(self, now_s: float) -> dict[str, dict[int, dict[str, Look]]]:
        """Looks by ingest actor, width and source, of the sources for which it is time."""
        placement = self._placement()
        wanted: dict[str, dict[int, dict[str, Look]]] = defaultdict(lambda: defaultdict(dict))
        watched = set()
        for watcher in self._watchers:
            for source_id in watcher.sources & placement.keys():
                at = source_id, watcher.width_px
                watched.add(at)
                shown, shown_s = self._newest.get(at, (None, 0.0))
                if shown and watcher.begins(source_id) and now_s - shown_s < FRESH_S:
                    watcher.give(source_id, shown, now_s)
                elif watcher.due(source_id, now_s):
                    after = shown.picture.info.key if shown else None
                    wanted[placement[source_id]][watcher.width_px][source_id] = Look(watcher.width_px, after)
        for at in self._newest.keys() - watched:
            del self._newest[at]
        return wanted

    async def _ask_for(self, actor: str, looks: Mapping[int, Mapping[str, Look]]) -> None:
        try:
            for width_px, of_width in looks.items():
                pictures: dict[str, Picture] = await self._ask(actor, "pictures", dict(of_width), timeout_s=CALL_S)
                seen = await self._seen(pictures)
                for source_id, picture in pictures.items():
                    self._show(source_id, width_px, Shown(picture, seen.get(source_id)))
        except (RayError, TimeoutError) as error:
            logger.debug("no pictures", asked=actor, reason=type(error).__name__)
        except Exception:
            logger.exception("pictures failed", asked=actor)
        finally:
            if self._asking.get(actor) is asyncio.current_task():
                del self._asking[actor]

    async def _seen(self, pictures: Mapping[str, Picture]) -> dict[str, Seen]:
        """What was found in the frames of these pictures, as far as it is at hand."""
        shards = self._shards()
        by_aggregator: dict[str, dict[str, FrameKey]] = defaultdict(dict)
        for source_id, picture in pictures.items():
            if source_id in shards:
                by_aggregator[shards[source_id]][source_id] = picture.info.key
        asked = [self._ask(name, "seen", keys, timeout_s=CALL_S) for name, keys in by_aggregator.items()]
        found: dict[str, Seen] = {}
        for answer in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(answer, dict):
                found |= answer
            elif not isinstance(answer, RayError | TimeoutError):
                raise TypeError(f"an aggregator answered {answer!r}")
        return found

    def _show(self, source_id: str, width_px: int, shown: Shown) -> None:
        now_s = time.monotonic()
        self._newest[source_id, width_px] = shown, now_s
        for watcher in self._watchers:
            if watcher.width_px == width_px and watcher.due(source_id, now_s):
                watcher.give(source_id, shown, now_s)
