"""No body of a request may be too large, announced or not: it is refused before it is read to its end."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actors.api.problems import Problem

BODY_BYTES = 2**20
LARGER_BODIES: Mapping[str, int] = {"/v1/detect": 16 * 2**20}


class BodyLimit:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit, came = LARGER_BODIES.get(scope["path"], BODY_BYTES), 0
        reason = f"a body of at most {limit} bytes is taken"
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > limit:
            await Problem(413, reason).response()(scope, receive, send)
            return

        async def limited() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > limit:
                raise HTTPException(413, reason)  # FastAPI would hide any other
            return message

        await self._app(scope, limited, send)
