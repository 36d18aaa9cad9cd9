"""The API without Ray: the real app over a reconciler that stands still."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
from fastapi import FastAPI

from actors.api.app import build_api
from actors.api.backend import Backend
from actors.desired import Desired
from actors.record import Record
from stream.clock import SystemClock
from stream.config import SourceConfig
from stream.config_file import parse_config
from stream.detectors.base import InputSpec
from stream.detectors.registry import ModelDescription
from stream.rules import AlertRule

OPERATOR, VIEWER = "operator-0123456789", "viewer-0123456789abc"
TOKENS = [{"name": "olga", "role": "operator", "token": OPERATOR}, {"name": "victor", "role": "viewer", "token": VIEWER}]
ZONE = {"name": "floor", "polygon": [[0, 0.3], [1, 0.3], [1, 1], [0, 1]]}
LINE = {"name": "door", "points": [[0.5, 0], [0.5, 1]]}


class StillReconciler:
    """What the API needs of a ``Reconciler`` whose actors tell nothing."""

    def __init__(self) -> None:
        self.placement: dict[str, str] = {"hall": "ingest-0"}
        self.shards: dict[str, str] = {"hall": "aggregator-0"}
        self.sources: dict[str, Any] = {}
        self.aggregates: dict[str, Any] = {}
        self.faults: dict[str, str] = {}
        self.overview = SimpleNamespace(replicas={"people": 1})

    async def ask(self, name: str, method: str, *what: object, timeout_s: float = 1.0) -> Any:
        raise TimeoutError(f"{name} stands still")

    def silent(self) -> dict[str, str]:
        return {}

    def set_wanted(self, sources: Sequence[SourceConfig], rules: Sequence[AlertRule]) -> None:
        self.wanted = [source.id for source in sources], [rule.name for rule in rules]

    async def metrics(self) -> dict[str, bytes]:
        return {"ingest-0": b"# EOF\n"}


def config_of(**service: Any) -> dict[str, Any]:
    """A config with one camera, and these settings of the service."""
    return {
        "detectors": {"people": {"model": "people.onnx"}},
        "sources": [{"id": "hall", "uri": "rtsp://viewer:secret@192.0.2.1/hall", "fps": 5, "zones": [ZONE], "lines": [LINE]}],
        "alerts": [{"name": "crowd", "type": "crowd", "zone": "hall/floor", "above": 3}],
        "service": {"state_dir": "state", "access": {"tokens": TOKENS}} | service,
    }


def app_of(config: dict[str, Any], base: Path) -> FastAPI:
    """The app for a config whose paths are relative to ``base``."""
    model = ModelDescription(InputSpec(352, 352), ("person", "car"), "people@sha256:0123456789ab")
    record = Record(base / "control", SystemClock())
    backend = Backend(Desired(parse_config(config, "test", base)), {"people": model}, {}, StillReconciler(), record)  # type: ignore[arg-type]
    return build_api(backend)


class Client:
    """Calls the app directly, without a socket.

    Args:
        app: the app.
        token: shown with every request.
        host: of the caller and of the service as the caller knows it.
    """

    def __init__(self, app: FastAPI, token: str | None = None, host: str = "127.0.0.1"):
        self._app, self._host = app, host
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._app, raise_app_exceptions=False, client=(self._host, 1))
            async with httpx.AsyncClient(transport=transport, base_url=f"http://{self._host}", headers=self._headers) as client:
                return await client.request(method, path, **options)

        return asyncio.run(ask())

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)


class Closed(Exception):
    """The service has closed a websocket, with ``code`` and ``reason``."""

    def __init__(self, code: int, reason: str):
        self.code, self.reason = code, reason
        super().__init__(f"{code} {reason}")


class Socket:
    """The client's end of a websocket that is not one: messages go through two queues."""

    def __init__(self) -> None:
        self.up: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.down: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def send(self, message: Any) -> None:
        """Send a message as JSON text."""
        await self.up.put({"type": "websocket.receive", "text": json.dumps(message)})

    async def receive(self) -> bytes:
        """The next binary message.

        Raises:
            Closed: there will be none.
        """
        message = await asyncio.wait_for(self.down.get(), 5)
        if message["type"] == "websocket.close":
            raise Closed(message["code"], message.get("reason") or "")
        return bytes(message["bytes"])


@asynccontextmanager
async def websocket(app: FastAPI, path: str) -> AsyncIterator[Socket]:
    """An accepted websocket to the app."""
    socket = Socket()
    scope = {"type": "websocket", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": [], "subprotocols": []}
    scope |= {"client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "scheme": "ws", "root_path": ""}
    await socket.up.put({"type": "websocket.connect"})
    serving = asyncio.create_task(app(scope, socket.up.get, socket.down.put))  # type: ignore[arg-type]
    try:
        assert (await socket.down.get())["type"] == "websocket.accept"
        yield socket
        await socket.up.put({"type": "websocket.disconnect", "code": 1000})
        await asyncio.wait_for(serving, 5)
    finally:
        serving.cancel()
