"""Who may call a route: dependencies that every router names, and the same for websockets."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Annotated

from fastapi import Depends, WebSocket, WebSocketDisconnect
from fastapi.security import HTTPBearer
from starlette.requests import HTTPConnection, Request

from actors.api.backend import Backend, TheBackend
from actors.api.problems import Problem
from stream.access import AccessDenied, Caller, is_loopback

BAD_TOKEN = 4401
"""Close code of a websocket whose first message shows no good token."""
FIRST_MESSAGE_S = 10.0
_BEARER = Depends(HTTPBearer(auto_error=False))  # for the OpenAPI document; what it finds is not used


async def viewer(request: Request, backend: TheBackend, _bearer: Annotated[object, _BEARER] = None) -> Caller:
    """The caller, who may look.

    Raises:
        Problem: 401, 429, or 403 for a page of another site while access is off.
    """
    return caller_of(request, backend)


async def operator(caller: Annotated[Caller, Depends(viewer)]) -> Caller:
    """The caller, who may change things.

    Raises:
        Problem: as of ``viewer``, or 403.
    """
    if caller.role != "operator":
        raise Problem(403, f"{caller.name!r} is a viewer: this takes an operator's token")
    return caller


Viewer = Annotated[Caller, Depends(viewer)]
Operator = Annotated[Caller, Depends(operator)]


def caller_of(request: Request, backend: Backend) -> Caller:
    """See ``viewer``; on the event loop, as the guard wants it."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    try:
        _refuse_other_sites(request, backend)
        return backend.guard.caller(token.strip() if scheme.lower() == "bearer" and token.strip() else None, address(request))
    except AccessDenied as denied:
        raise _problem(denied, backend) from None


def _problem(denied: AccessDenied, backend: Backend) -> Problem:
    if denied.retry_after_s is not None:
        return Problem(429, denied.reason, headers={"Retry-After": str(math.ceil(denied.retry_after_s))})
    if not backend.guard.enabled:
        return Problem(403, denied.reason)
    return Problem(401, denied.reason, headers={"WWW-Authenticate": 'Bearer realm="framewatch"'})


def _refuse_other_sites(connection: HTTPConnection, backend: Backend) -> None:
    """Without tokens a page of another site could have its visitor's browser ask: by a name that leads to this machine, or
    from its own origin."""
    if backend.guard.enabled:
        return
    origin = connection.headers.get("origin")
    if not is_loopback(connection.url.hostname or "") or (origin and origin.partition("://")[2] != connection.url.netloc):
        raise AccessDenied("access is off, so only this machine is answered")


def address(connection: HTTPConnection) -> str:
    """Where a request comes from."""
    return connection.client.host if connection.client else "unknown"


async def admit(websocket: WebSocket, backend: Backend) -> Caller | None:
    """Accept a websocket and read its first message, ``{"token": ...}``; None after closing it with ``BAD_TOKEN``."""
    await websocket.accept()
    try:
        first = json.loads(await asyncio.wait_for(websocket.receive_text(), FIRST_MESSAGE_S))
        token = first.get("token") if isinstance(first, dict) else None
        _refuse_other_sites(websocket, backend)
        return backend.guard.caller(token if isinstance(token, str) else None, address(websocket))
    except WebSocketDisconnect:
        return None
    except AccessDenied as denied:
        await websocket.close(BAD_TOKEN, denied.reason)
    except (ValueError, KeyError, TimeoutError):  # KeyError: a binary message
        await websocket.close(BAD_TOKEN, 'the first message must be {"token": ...}')
    return None
