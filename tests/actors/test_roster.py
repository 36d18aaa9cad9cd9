"""The roster on real Ray: an actor that hangs, as a driver or a file system may make it, is no actor that is busy."""

import asyncio
import os
import threading
from typing import Any

import psutil
import pytest
import ray
from ray.actor import ActorHandle

from actors import names, roster
from actors.roster import Roster
from tests.support.service import Cluster

pytestmark = pytest.mark.ray

NAME, DIGEST = names.ingest(0), "a digest"


class Waiting:
    """As an ingest actor or an aggregator is made; ``wait`` does so for ever."""

    def wait(self) -> None:
        """Holds one of the actor's threads."""
        threading.Event().wait()

    @ray.method(concurrency_group=names.BESIDE)
    def config_digest(self) -> str:
        """As the roster wants it."""
        return DIGEST

    @ray.method(concurrency_group=names.BESIDE)
    def pid(self) -> int:
        """Of its process."""
        return os.getpid()


def make(_name: str) -> ActorHandle[Any]:
    kind: Any = ray.remote(concurrency_groups={names.BESIDE: 1})(Waiting)  # type: ignore[call-overload] # Ray's types lack it
    options = {"name": NAME, "namespace": names.NAMESPACE, "lifetime": "detached", "get_if_exists": True, "max_restarts": -1}
    actor: ActorHandle[Any] = kind.options(**options, max_concurrency=4, num_cpus=0).remote()
    return actor


def test_one_that_hangs_is_killed_and_begins_anew_and_one_that_is_busy_is_not(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster, "HUNG_S", 2.0)

    async def pid(known: Roster) -> int:
        """The actor's, once it is there."""
        for _ in range(120):
            known.want([NAME])
            await asyncio.sleep(0.25)
            if NAME in known.there:
                return int(await asyncio.wait_for(known.there[NAME].pid.remote(), 10))
        raise AssertionError(known.faults())

    async def scene() -> None:
        known = Roster(make, DIGEST, lambda: None, lambda: True)
        process = psutil.Process(await pid(known))
        for _ in range(8):
            known.there[NAME].wait.remote()
        known.lose(NAME, TimeoutError())
        assert await pid(known) == process.pid
        process.suspend()
        known.lose(NAME, TimeoutError())
        assert await pid(known) != process.pid
        assert not process.is_running()
        await known.close()

    try:
        asyncio.run(scene())
    finally:
        ray.kill(ray.get_actor(NAME, names.NAMESPACE))
