"""Pictures: one of a source, what was found last, and the live view of many."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import cv2
import numpy as np
from fastapi import APIRouter, Depends, Query, Response, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from actors.api.access import admit, viewer
from actors.api.backend import Backend, TheBackend, backend_of
from actors.api.problems import Problem
from actors.api.sources import from_aggregator, source_named
from actors.live import MAX_FPS, MAX_SOURCES, Shown, Watcher
from stream.annotate import draw
from stream.config import SourceConfig
from stream.events import Timestamp, TrackedObject, TracksEvent, timestamp
from stream.viewfinder import QUALITY, WIDTHS_PX

PICTURE_S = 3.0
ASLEEP_PICTURE_S = 6.0  # key frames of a scene behind its gate may be so far apart
PICTURE_FPS = 10.0
AHEAD, LEAST_AHEAD = 2, 4  # pictures of each source, and in all, that may be on their way to a client: 40 kB each at 640 x 360
WRONG_MESSAGE, TOO_MANY, GOING_AWAY = 4400, 1013, 1001

router = APIRouter(tags=["pictures"])


class WatchRequest(BaseModel):
    """What a client of the live view sends: what it wants to see from now on, or how many pictures it has received."""

    model_config = ConfigDict(extra="forbid")

    watch: list[str] | None = Field(None, max_length=MAX_SOURCES)
    width: int = Field(640, ge=WIDTHS_PX[0], le=WIDTHS_PX[-1])
    fps: float = Field(4.0, ge=0.1, le=MAX_FPS)
    received: int | None = Field(None, ge=0)


class LiveHeader(BaseModel):
    """What goes before each JPEG; ``width`` and ``height`` are those of the source frame, in whose pixels the objects are.

    ``analysed`` is false where the frame was dropped before the detector answered; then nothing is known of objects.
    """

    source_id: str
    frame_index: int
    captured_at: Timestamp
    width: int
    height: int
    analysed: bool
    objects: list[TrackedObject]
    occupancy: dict[str, int]


@router.get("/v1/sources/{source_id}/picture", dependencies=[Depends(viewer)], response_class=Response)
async def picture(
    source_id: str,
    backend: TheBackend,
    boxes: bool = False,
    width: Annotated[int, Query(ge=WIDTHS_PX[0], le=WIDTHS_PX[-1])] = 640,
) -> Response:
    """The newest picture as JPEG, at most so wide; with ``boxes`` also zones, lines and what was found in it."""
    source = source_named(source_id, backend)
    status = backend.reconciler.sources.get(source_id)
    wait_s = ASLEEP_PICTURE_S if status and status.asleep else PICTURE_S
    async with _watching(backend) as watcher:
        watcher.watch([source_id], width, PICTURE_FPS)
        try:
            shown = await asyncio.wait_for(watcher.next(), wait_s)
        except TimeoutError:
            reason = f"no picture of source {source_id!r} came within {wait_s:g} s"
            raise Problem(503, reason, headers={"Retry-After": "2"}) from None
    jpeg = await asyncio.to_thread(_with_boxes, shown, source) if boxes else shown.picture.jpeg
    info = shown.picture.info
    headers = {
        "X-Frame-Index": str(info.frame_index),
        "X-Captured-At": timestamp(info.captured_at).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "Cache-Control": "no-store",
    }
    return Response(jpeg, media_type="image/jpeg", headers=headers)


@router.get("/v1/sources/{source_id}/tracks", dependencies=[Depends(viewer)], responses={204: {"description": "None so far"}})
async def tracks(source_id: str, backend: TheBackend) -> TracksEvent:
    """What was found in the last analysed frame; 204 where there was none lately."""
    source_named(source_id, backend)
    seen = await from_aggregator(source_id, backend, "seen", {source_id: None}) or {}
    if source_id not in seen:
        return Response(status_code=204)  # type: ignore[return-value] # FastAPI passes it on
    event: TracksEvent = seen[source_id].event
    return event


@router.websocket("/v1/live")
async def live(websocket: WebSocket) -> None:
    """Pictures of many sources over one websocket.

    First message: ``{"token": ...}``. Then, at any time, ``{"watch": [ids], "width": 640, "fps": 4}`` says what is wanted, and
    ``{"received": N}`` how many pictures have come so far. Each picture is a binary message: the length of the header (4
    bytes, big-endian), the header as JSON, the JPEG. No more than two pictures for each source, and four in all, are sent
    ahead of what is known to have come; then the newest follow.
    """
    backend = backend_of(websocket)
    if await admit(websocket, backend) is None:
        return
    try:
        async with _watching(backend) as watcher:
            await _Client(websocket, watcher).serve(backend.stopping)
    except Problem as problem:
        await websocket.close(TOO_MANY, problem.detail)


@asynccontextmanager
async def _watching(backend: Backend) -> AsyncIterator[Watcher]:
    try:
        async with backend.live.watch() as watcher:
            yield watcher
    except OverflowError as error:
        raise Problem(503, str(error), headers={"Retry-After": "5"}) from None


class _Client:
    """One websocket of the live view."""

    def __init__(self, websocket: WebSocket, watcher: Watcher):
        self._websocket, self._watcher = websocket, watcher
        self._sent = self._received = 0
        self._room = asyncio.Event()
        self._room.set()

    async def serve(self, stopping: asyncio.Event) -> None:
        """Until the client goes, breaks the rules, or the service stops."""
        tasks = [asyncio.create_task(work) for work in (self._listen(), self._show(), stopping.wait())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            await self._websocket.close(GOING_AWAY)
        except WebSocketDisconnect:
            pass
        except ValueError as error:
            await self._websocket.close(WRONG_MESSAGE, _first_fault(error))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self) -> None:
        while True:
            message: Any = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1006))
            request = WatchRequest.model_validate_json(message.get("text") or message.get("bytes") or b"")
            if request.watch is not None:
                self._watcher.watch(request.watch, request.width, request.fps)
            if request.received is not None:
                self._received = max(self._received, min(request.received, self._sent))
                self._room.set()

    async def _show(self) -> None:
        while True:
            while self._sent - self._received >= max(LEAST_AHEAD, AHEAD * len(self._watcher.sources)):
                self._room.clear()
                await self._room.wait()
            shown = await self._watcher.next()
            self._sent += 1
            await self._websocket.send_bytes(_message(shown))


def _message(shown: Shown) -> bytes:
    info, seen = shown.picture.info, shown.seen
    header = LiveHeader(
        source_id=info.source_id,
        frame_index=info.frame_index,
        captured_at=timestamp(info.captured_at),
        width=info.width,
        height=info.height,
        analysed=seen is not None,
        objects=seen.event.objects if seen else [],
        occupancy=dict(seen.occupancy) if seen else {},
    )
    text = header.model_dump_json(by_alias=True).encode()
    return struct.pack(">I", len(text)) + text + shown.picture.jpeg


def _with_boxes(shown: Shown, source: SourceConfig) -> bytes:
    info = shown.picture.info
    pixels: Any = cv2.imdecode(np.frombuffer(shown.picture.jpeg, np.uint8), cv2.IMREAD_COLOR)
    scale_x, scale_y = pixels.shape[1] / info.width, pixels.shape[0] / info.height
    objects = []
    for found in shown.seen.event.objects if shown.seen else ():
        x1, y1, x2, y2 = found.xyxy
        objects.append(found.model_copy(update={"xyxy": (x1 * scale_x, y1 * scale_y, x2 * scale_x, y2 * scale_y)}))
    draw(pixels, source.zones, source.lines, objects)
    full_colour = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]  # else thin lines are pale
    _, jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY, *full_colour])
    return bytes(jpeg)


def _first_fault(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        return f"{where}: {first['msg']}"[:100] if where else first["msg"][:100]
    return str(error)[:100]
