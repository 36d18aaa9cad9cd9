"""Puts the routers together."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from actors.api import alerts, console, detect, drift, edits, history, pictures, rules, service, sources, zones
from actors.api.backend import Backend
from actors.api.limits import BodyLimit
from actors.api.problems import PROBLEMS, answer_with_problems

ROUTERS = (
    service.router,
    sources.router,
    edits.router,
    zones.router,
    rules.router,
    pictures.router,
    history.router,
    drift.router,
    alerts.router,
    detect.router,
    console.router,
)


def build_api(backend: Backend) -> FastAPI:
    """The app that answers for ``backend``; ``/docs`` too comes from here alone."""
    app = FastAPIOffline(
        redoc_url=None, title="framewatch", version=version("framewatch"), responses=PROBLEMS, redirect_slashes=False
    )
    app.state.backend = backend
    app.add_middleware(BodyLimit)
    answer_with_problems(app)
    for router in ROUTERS:
        app.include_router(router)
    return app
