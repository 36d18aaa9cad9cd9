"""What a detector finds in one picture that somebody sends."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from actors.api.access import viewer
from actors.api.backend import Backend, TheBackend
from actors.api.problems import Problem
from stream.config import DetectorConfig
from stream.detections import Detections
from stream.errors import DetectorError, Fault, PictureError
from stream.frame import FrameBatch, FrameInfo
from stream.logs import get_logger
from stream.redact import reason
from stream.still import input_of

logger = get_logger(__name__)

MEDIA_TYPES = ("image/jpeg", "image/png")
ANSWER_S = 30.0

router = APIRouter(tags=["detect"])


class DetectionView(BaseModel):
    """An object; ``xyxy`` in pixels of the picture that was sent."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    class_: str = Field(alias="class")
    confidence: float
    xyxy: tuple[float, float, float, float]


class DetectedView(BaseModel):
    """What was found in the picture, best first; its size as it was sent, not turned by its EXIF data."""

    width: int
    height: int
    model: str
    detections: list[DetectionView]


BODY = {"required": True, "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in MEDIA_TYPES}}


@router.post("/v1/detect", dependencies=[Depends(viewer)], openapi_extra={"requestBody": BODY})
async def detect(
    request: Request,
    backend: TheBackend,
    detector: str | None = None,
    confidence: Annotated[float | None, Query(gt=0, lt=1, allow_inf_nan=False)] = None,
) -> DetectedView:
    """Objects in one JPEG or PNG, the body of the request: at most 16 MiB and 50 million pixels.

    ``detector`` may be left out where there is only one. ``confidence`` is the detector's own by default, and not below
    what the tracker takes.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in MEDIA_TYPES:
        raise Problem(415, f"content-type must be {' or '.join(MEDIA_TYPES)}, not {media_type[:80]!r}")
    name, settings = _detector(detector, backend)
    low = min(backend.config.tracker.low_confidence, settings.confidence)
    if confidence is not None and confidence < low:
        raise Problem(422, "the request is not valid", [Fault("confidence", f"must be at least {low:g}, tracker.low_confidence")])
    data = await request.body()
    model = backend.models[name]
    async with backend.turn:
        try:
            image, width, height = await asyncio.to_thread(input_of, data, model.input)
        except PictureError as error:
            raise Problem(422, "the picture cannot be used", [Fault("", str(error))]) from None
        now_s = time.monotonic()
        info = FrameInfo("", "", 0, 0.0, time.time(), width, height, captured_s=now_s, decoded_s=now_s, batched_s=now_s)
        found = await _ask(name, FrameBatch(name, (info,), image[None]), backend)
    return DetectedView(
        width=width,
        height=height,
        model=model.model_id,
        detections=_views(found, model.classes, settings.confidence if confidence is None else confidence),
    )


def _detector(name: str | None, backend: Backend) -> tuple[str, DetectorConfig]:
    known = backend.config.detectors
    if name is None and len(known) == 1:
        name = next(iter(known))
    if name is None or name not in known:
        asked = "which detector is meant must be said" if name is None else f"there is no detector {name!r}"
        raise Problem(422, "the request is not valid", [Fault("detector", f"{asked}; there is {', '.join(sorted(known))}")])
    return name, known[name]


async def _ask(name: str, batch: FrameBatch, backend: Backend) -> Detections:
    """What the detector's deployment finds, in a batch of its own beside those of the streams."""
    try:
        detections: tuple[Detections, ...] = await asyncio.wait_for(backend.detectors[name].detect.remote(batch), ANSWER_S)
    except (DetectorError, RayTaskError) as error:
        logger.error("the detector failed on a picture that was sent", detector=name, reason=reason(error))
        raise Problem(500, f"detector {name!r} failed on the picture") from None
    except (RayError, RayServeException, TimeoutError):
        raise Problem(503, f"detector {name!r} does not answer at present", headers={"Retry-After": "2"}) from None
    return detections[0]


def _views(found: Detections, classes: tuple[str, ...], confidence: float) -> list[DetectionView]:
    rows = zip(found.class_id.tolist(), found.confidence.tolist(), found.xyxy.tolist(), strict=True)
    return [
        DetectionView(class_=classes[class_id], confidence=round(score, 4), xyxy=(x1, y1, x2, y2))
        for class_id, score, (x1, y1, x2, y2) in rows
        if score >= confidence
    ]
