"""Roster: the named actors that are there; others are started, replaced and ended beside the rounds of the reconciler."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, RayError

from actors import names
from actors.lease import LEASE_S
from stream.logs import get_logger
from stream.redact import reason

logger = get_logger(__name__)

CALL_TIMEOUT_S = 15.0
START_TIMEOUT_S = 60.0  # then it is tried again: an actor that the cluster has no room for stays pending meanwhile
HUNG_S = 30.0  # the same for one that has answered before
STOP_TIMEOUT_S = 60.0


class Roster:
    """Lives on one event loop. What takes long has a task of its own, one for each name.

    Attributes:
        there: actors that have answered and are of this config, by name.

    Args:
        make: gives the actor of a name: the one that is there, or a new one, which need not have begun.
        digest: that of the config and models that the actors should have been made with.
        on_change: called when an actor has come or gone.
        mandated: whether actors may be ended; asked on another thread.
    """

    def __init__(
        self,
        make: Callable[[str], ActorHandle[Any]],
        digest: str,
        on_change: Callable[[], None],
        mandated: Callable[[], bool],
    ):
        self.there: dict[str, ActorHandle[Any]] = {}
        self._make, self._digest, self._on_change, self._mandated = make, digest, on_change, mandated
        self._tasks: dict[str, asyncio.Task[None]] = {}  # what is being done about an actor
        self._ending: set[str] = set()  # of those with a task: the ones that are on their way out, also to be replaced
        self._known: set[str] | None = None  # every name that may have an actor in the cluster
        self._heard_s: dict[str, float] = {}  # monotonic, when it was there last
        self._missed_s: dict[str, float] = {}  # monotonic, since when it is wanted and not there
        self._why: dict[str, str] = {}  # the last attempt to start it failed

    def want(self, wanted: Collection[str]) -> None:
        """Begin to start those of these that are missing, and to end all others."""
        if self._known is None:  # there may be actors of an older config, or more than are needed now
            self._known = {name for name in named_actors() if name.startswith((names.INGEST, names.AGGREGATOR))}
        now_s = time.monotonic()
        for name in self._known.difference(wanted, self._ending):
            self._begin(name, self._end(name))
            self._ending.add(name)
        for name in wanted:
            if name not in self.there:
                self._missed_s.setdefault(name, now_s)
                self._known.add(name)
                if name not in self._tasks:
                    self._begin(name, self._start(name))
        for name in self._missed_s.keys() - set(wanted):
            self._forget(name)

    def lose(self, name: str, error: Exception) -> None:
        """An actor did not answer. It may be gone for good: it is looked up, or made, again."""
        if self.there.pop(name, None) is not None:
            self._heard_s[name] = time.monotonic()
            logger.warning("an actor does not answer", of=name, reason=reason(error))
        self._note(name, error)

    def late(self) -> set[str]:
        """Actors that do not answer at present but may be at work: they were there, and their lease may not have run out."""
        now_s = time.monotonic()
        return {name for name, heard_s in self._heard_s.items() if name not in self.there and now_s - heard_s < LEASE_S}

    def ending(self) -> set[str]:
        """Actors that are being ended, or replaced, and may be at work as yet."""
        return set(self._ending)

    def at_work(self) -> set[str]:
        """All actors that may be at work."""
        return self.there.keys() | self.late() | self._ending

    def gone(self, name: str) -> bool:
        """Whether there is no actor of that name, as far as is known."""
        return self._known is not None and name not in self._known

    def faults(self) -> dict[str, str]:
        """Why actors that are wanted are not there, by name."""
        now_s = time.monotonic()
        found = {}
        for name, missed_s in self._missed_s.items():
            known, missing_s = name in self._heard_s, now_s - missed_s
            room = "the cluster may have no room for it" if missing_s > CALL_TIMEOUT_S and not known else ""
            why = self._why.get(name, room)
            state = "does not answer" if known else "is being started"
            found[name] = f"{state} for {missing_s:.0f} s" + (f": {why}" if why else "")
        return found

    async def close(self) -> None:
        """End all tasks; the actors stay."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        before = self._tasks.pop(name, None)
        if before is not None:
            before.cancel()
        task = self._tasks[name] = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(lambda done: self._done(name, done))

    def _done(self, name: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(name) is not task:
            return  # something else is being done about it
        del self._tasks[name]
        self._ending.discard(name)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("an actor can be neither started nor ended", of=name, reason=reason(error))
            self._note(name, error)

    async def _start(self, name: str) -> None:
        try:
            actor = self._make(name)
            digest = await answer(actor.config_digest.remote(), HUNG_S if name in self._heard_s else START_TIMEOUT_S)
            if digest != self._digest:
                if not await asyncio.to_thread(self._mandated):
                    return  # it is that of a younger Control
                logger.info("an actor of an older config is replaced", of=name)
                self._ending.add(name)
                await _end(actor)  # the next round makes the new one, once the name is free
                self._heard_s.pop(name, None)
                return
        except TimeoutError:
            self._why.pop(name, None)
            if await asyncio.to_thread(_is_alive, actor):
                await self._begin_anew(name, actor)
            else:
                logger.warning("an actor is still not up", of=name, reason=self.faults().get(name))
        except RayError as error:
            if self._why.get(name) != reason(error):
                logger.warning("an actor does not begin", of=name, reason=reason(error))
            self._note(name, error)
        else:
            self._forget(name)
            self.there[name] = actor
            self._on_change()

    async def _begin_anew(self, name: str, actor: ActorHandle[Any]) -> None:
        """It hangs: it is there, but does not answer what it answers beside all else. Ray begins it anew, as if it had died."""
        if await asyncio.to_thread(self._mandated):
            logger.error("an actor hangs: it is killed and begins anew", of=name, reason=self.faults().get(name))
            ray.kill(actor, no_restart=False)

    async def _end(self, name: str) -> None:
        if not await asyncio.to_thread(self._mandated):
            return
        actor = self.there.pop(name, None) or _find(name)
        if actor is not None:
            await _end(actor)
        self._forget(name)
        if self._known is not None:
            self._known.discard(name)
        self._on_change()

    def _note(self, name: str, error: BaseException) -> None:
        self._why[name] = reason(error)
        if isinstance(error, ActorDiedError):
            self._heard_s.pop(name, None)

    def _forget(self, name: str) -> None:
        for notes in (self._heard_s, self._missed_s, self._why):
            notes.pop(name, None)


def named_actors() -> list[str]:
    """Names of this cluster's framewatch actors."""
    return [one["name"] for one in ray.util.list_named_actors(all_namespaces=True) if one["namespace"] == names.NAMESPACE]


async def end_actors() -> None:
    """Stop all actors of this cluster's framewatch: ingest actors first, so that what they have read passes through, then
    aggregators."""
    for prefix in (names.INGEST, names.AGGREGATOR):
        actors = [_find(name) for name in named_actors() if name.startswith(prefix)]
        await asyncio.gather(*(_end(actor) for actor in actors if actor is not None))


async def answer(reference: Awaitable[Any], timeout_s: float = CALL_TIMEOUT_S) -> Any:
    """What an actor answers.

    Raises:
        RayError: it does not.
        TimeoutError: not in time.
    """
    return await asyncio.wait_for(asyncio.ensure_future(reference), timeout_s)


def _is_alive(actor: ActorHandle[Any]) -> bool:
    """Whether Ray has made the actor and takes its process for one at work; there is no public way to ask without the dashboard."""
    state: str | None = ray._private.state.actors(actor._actor_id.hex()).get("State")
    return state == "ALIVE"


def _find(name: str) -> ActorHandle[Any] | None:
    try:
        return ray.get_actor(name, names.NAMESPACE)
    except ValueError:  # it has just ended
        return None


async def _end(actor: ActorHandle[Any]) -> None:
    with contextlib.suppress(RayError, TimeoutError):
        # One that has not begun for want of room is not waited for any longer than this.
        await answer(actor.config_digest.remote(), CALL_TIMEOUT_S)
        await answer(actor.stop.remote(), STOP_TIMEOUT_S)
    ray.kill(actor)
