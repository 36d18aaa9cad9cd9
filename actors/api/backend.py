"""What the routers work with: the config as it is at present, and the actors that run it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends
from ray.serve.handle import DeploymentHandle
from starlette.requests import HTTPConnection

from actors.api.aside import Aside
from actors.api.problems import Problem
from actors.api.turn import Turn
from actors.desired import Changes, Desired
from actors.live import Live
from actors.reconcile import Reconciler
from actors.record import Record
from stream.access import Caller, Guard
from stream.clock import SystemClock
from stream.config import PipelineConfig
from stream.detectors.registry import ModelDescription
from stream.errors import Fault
from stream.logs import get_logger

logger = get_logger(__name__)

STORE_THREADS = RESOLVE_THREADS = 2


@dataclass(frozen=True, slots=True)
class Edit:
    """A change that somebody wants.

    Attributes:
        changes: what is to be kept instead.
        what: it is about: ``source hall``.
        source_id, rule: what the request holds settings of; faults of others than this are conflicts.
        part: of the source that the request holds, as ``zones.2``.
    """

    changes: Changes
    what: str
    source_id: str | None = None
    rule: str | None = None
    part: str = ""

    def key_in(self, config: PipelineConfig) -> str:
        """With what the keys of faults begin that concern the request."""
        for i, source in enumerate(config.sources):
            if source.id == self.source_id:
                return f"sources.{i}.{self.part + '.' if self.part else ''}"
        for i, rule in enumerate(config.alerts):
            if rule.name == self.rule:
                return f"alerts.{i}."
        return "nothing."


class Backend:
    """One for the whole app; lives on its event loop.

    Attributes:
        config: the whole config; its sources and alerts are those that are wanted now.
        desired: the changes to the config file.
        models: by detector.
        detectors: Serve handles by detector.
        reconciler: the actors.
        record: history and alerts.
        live: the pictures that are watched.
        turn: for pictures that are sent for detection.
        store: for what is read out of the store of evidence.
        resolver: for names of hosts.
        guard: who may ask.
        started_at: POSIX seconds.
        stopping: set when the service stops, for answers that would go on for ever.
    """

    def __init__(
        self,
        desired: Desired,
        models: Mapping[str, ModelDescription],
        detectors: Mapping[str, DeploymentHandle[Any]],
        reconciler: Reconciler,
        record: Record,
    ):
        self.config, self.desired, self.models, self.detectors = desired.config, desired, models, detectors
        self.reconciler, self.record = reconciler, record
        self.live = Live(reconciler.ask, lambda: reconciler.placement, lambda: reconciler.shards)
        self.turn = Turn()
        self.store, self.resolver = Aside("evidence", STORE_THREADS), Aside("resolve", RESOLVE_THREADS)
        service = desired.config.service
        self.guard = Guard(service.access, service.state_dir, SystemClock())
        self.started_at = time.time()
        self.stopping = asyncio.Event()
        self._changing = asyncio.Lock()

    async def change(self, edit: Callable[[], Edit], by: Caller) -> None:
        """Make a change: checked as a whole, on disk, then told to the actors. One at a time.

        Args:
            edit: says what is wanted instead of what there is now; may raise a Problem.
            by: who wants it.

        Raises:
            Problem: 412 or what ``edit`` raises; 422 where what was given is wrong, with the keys; 409 where something else
                does not fit it; 503 where it cannot be kept.
        """
        await asyncio.shield(self._change(edit, by))  # a caller who hangs up leaves nothing half done

    async def _change(self, edit: Callable[[], Edit], by: Caller) -> None:
        async with self._changing:
            wanted = edit()
            config = self.desired.applied(wanted.changes)
            classes = {name: model.classes for name, model in self.models.items()}
            faults = config.faults() + config.class_faults(classes)
            prefix = wanted.key_in(config)
            if mine := [Fault(f.key.removeprefix(prefix), f.reason) for f in faults if f.key.startswith(prefix)]:
                raise Problem(422, "the request is not valid", mine)
            if faults:
                raise Problem(409, f"this does not fit {_parties(faults, config)}", faults)
            try:
                await asyncio.to_thread(self.desired.keep, wanted.changes)
            except OSError as error:
                raise Problem(503, f"the change cannot be kept: {error.strerror or error}") from error
            self.run(self.desired.config)
        logger.info("changed over the API", what=wanted.what, by=by.name)

    def run(self, config: PipelineConfig) -> None:
        """Make the sources and rules of ``config`` those that are wanted, but for the file of changes."""
        self.config = config
        self.reconciler.set_wanted(config.sources, config.alerts)

    def close(self) -> None:
        """End the threads, and those answers that would go on for ever."""
        self.stopping.set()
        self.store.close()
        self.resolver.close()


def _parties(faults: Sequence[Fault], config: PipelineConfig) -> str:
    """The rules and sources that have these faults."""
    names: dict[str, None] = {}
    for fault in faults:
        part, number = fault.key.split(".")[:2]
        named = f"rule {config.alerts[int(number)].name!r}" if part == "alerts" else f"source {config.sources[int(number)].id!r}"
        names[named] = None
    return ", ".join(names)


def backend_of(connection: HTTPConnection) -> Backend:
    """The backend of the app that serves a request or a websocket."""
    backend: Backend = connection.app.state.backend
    return backend


async def _served_by(connection: HTTPConnection) -> Backend:
    return backend_of(connection)  # not on another thread, as FastAPI calls what is not async


TheBackend = Annotated[Backend, Depends(_served_by)]
"""Type of a route's argument that is the backend."""
