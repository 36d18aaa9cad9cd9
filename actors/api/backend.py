"""What the routers work with: the config as it is at present, and the actors that run it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends
from ray.serve.handle import DeploymentHandle
from starlette.requests import HTTPConnection

from actors.api.turn import Turn
from actors.live import Live
from actors.reconcile import Reconciler
from actors.record import Record
from stream.access import Guard
from stream.clock import SystemClock
from stream.config import PipelineConfig
from stream.detectors.registry import ModelDescription


class Backend:
    """One for the whole app; lives on its event loop.

    Attributes:
        config: the whole config; its sources and alerts are those that are wanted now.
        models: by detector.
        detectors: Serve handles by detector.
        reconciler: the actors.
        record: history and alerts.
        live: the pictures that are watched.
        turn: for pictures that are sent for detection.
        guard: who may ask.
        started_at: POSIX seconds.
        stopping: set when the service stops, for answers that would go on for ever.
    """

    def __init__(
        self,
        config: PipelineConfig,
        models: Mapping[str, ModelDescription],
        detectors: Mapping[str, DeploymentHandle[Any]],
        reconciler: Reconciler,
        record: Record,
    ):
        self.config, self.models, self.detectors = config, models, detectors
        self.reconciler, self.record = reconciler, record
        self.live = Live(reconciler.ask, lambda: reconciler.placement, lambda: reconciler.shards)
        self.turn = Turn()
        self.guard = Guard(config.service.access, config.service.state_dir, SystemClock())
        self.started_at = time.time()
        self.stopping = asyncio.Event()


def backend_of(connection: HTTPConnection) -> Backend:
    """The backend of the app that serves a request or a websocket."""
    backend: Backend = connection.app.state.backend
    return backend


TheBackend = Annotated[Backend, Depends(backend_of)]
"""Type of a route's argument that is the backend."""
