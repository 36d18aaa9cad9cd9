"""Named actors without Ray: they answer as told here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from actors import names, reconcile, roster
from actors.aggregator import AggregatorStatus
from actors.ingest import IngestStatus
from stream.aggregate import News


class Method:
    """A method of an actor; the answer never comes where ``call`` raises ``NoAnswer``."""

    def __init__(self, call: Callable[..., Any]):
        self._call = call

    def remote(self, *what: Any) -> asyncio.Future[Any]:
        answer = asyncio.get_running_loop().create_future()
        try:
            answer.set_result(self._call(*what))
        except NoAnswer:
            pass
        except Exception as error:
            answer.set_exception(error)
        return answer


class NoAnswer(Exception):
    """The actor is pending, or hangs."""


class Actor:
    """A named actor of a :class:`Cluster`; the last of ``args`` is its digest."""

    def __init__(self, cluster: Cluster, name: str, args: tuple[Any, ...]):
        self.cluster, self.name, self.args = cluster, name, args
        self.dead = False
        self._actor_id = SimpleNamespace(hex=lambda: name)
        self.config_digest = Method(lambda: self._answer(lambda: args[-1]))
        self.set_sources = Method(lambda *what: self._answer(lambda: cluster.tell(name, *what)))
        self.stop = Method(lambda: self._answer(lambda: cluster.stopped.append(name)))

    def _answer(self, call: Callable[[], Any]) -> Any:
        if self.dead:
            raise ActorDiedError
        if self.name in self.cluster.silent | self.cluster.hanging:
            raise NoAnswer
        return call()


class Cluster:
    """What the reconciler sees of Ray.

    Attributes:
        address: of the cluster.
        actors: by name.
        silent: names of actors that do not answer: there is no room for them.
        hanging: nor do these, though Ray has made them.
        told: what each actor was told, in order.
        made, stopped, killed, restarted: names, in order.
        leaving, cores, pending, active: by name, what actors tell of themselves.
    """

    def __init__(self) -> None:
        self.address = "127.0.0.1:6379"
        self.actors: dict[str, Actor] = {}
        self.silent: set[str] = set()
        self.hanging: set[str] = set()
        self.told: dict[str, list[tuple[Any, ...]]] = {}
        self.made: list[str] = []
        self.stopped: list[str] = []
        self.killed: list[str] = []
        self.restarted: list[str] = []
        self.leaving: dict[str, list[str]] = {}
        self.cores: dict[str, float] = {}
        self.pending: dict[str, int] = {}
        self.active: dict[str, set[str]] = {}

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Take Ray's place."""
        fake = SimpleNamespace(
            remote=lambda **_options: lambda _kind: SimpleNamespace(options=self._options),
            kill=self._kill,
            get_actor=self._get,
            util=SimpleNamespace(list_named_actors=self._list),
            _private=SimpleNamespace(state=SimpleNamespace(actors=self._state)),
            get_runtime_context=lambda: SimpleNamespace(gcs_address=self.address),
        )
        monkeypatch.setattr(reconcile, "ray", fake)
        monkeypatch.setattr(roster, "ray", fake)

    def tell(self, name: str, *what: Any) -> Any:
        self.told.setdefault(name, []).append(what)
        if name.startswith(names.INGEST):
            return IngestStatus(self.cores.get(name, 0.0), [], self.leaving.get(name, []))
        news = News(("", 0, 0), (), (), frozenset(self.active.get(name, ())), 0)
        return AggregatorStatus(name, "", self.pending.get(name, 0), {}, {}, {}, news)

    def read(self) -> dict[str, list[str]]:
        """Ids of the sources that each ingest actor was told last."""
        return {name: [source.id for source in each[-1][0]] for name, each in self.told.items() if name.startswith(names.INGEST)}

    def _options(self, name: str, **_options: Any) -> Any:
        def get_or_make(*args: Any) -> Actor:
            if name not in self.actors:
                self.actors[name] = Actor(self, name, args)
                self.made.append(name)
            return self.actors[name]

        return SimpleNamespace(remote=get_or_make)

    def _state(self, name: str) -> dict[str, str]:
        return {"State": "PENDING_CREATION" if name in self.silent else "ALIVE"}

    def _kill(self, actor: Actor, no_restart: bool = True) -> None:
        if not no_restart:
            self.restarted.append(actor.name)
            self.hanging.discard(actor.name)
            return
        actor.dead = True
        self.killed.append(actor.name)
        self.actors.pop(actor.name, None)

    def _get(self, name: str, _namespace: str) -> Actor:
        if name not in self.actors:
            raise ValueError(name)
        return self.actors[name]

    def _list(self, all_namespaces: bool) -> list[dict[str, str]]:
        return [{"name": name, "namespace": names.NAMESPACE} for name in self.actors]
