"""The picture of an alert: the frame as it was, those outside the alert pixelated, boxes drawn, as a JPEG."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from stream.annotate import draw
from stream.errors import EvidenceError
from stream.evidence.requests import EvidenceRequest
from stream.frame import Uint8Array

JPEG_QUALITY = 85
BLOCKS = 6  # a pixelated box shows so many blocks along its shorter side: enough to see a person, not who
GROWTH = 0.1  # of a box's size on each side: detectors cut off hair and hands
SAME_SHARE = 0.7  # a faint box that lies in that of an object of the alert by so much, or the other way round, is no other object

Box = tuple[float, float, float, float]


def compose(picture: Uint8Array, request: EvidenceRequest) -> bytes:
    """The JPEG of one alert.

    Args:
        picture: uint8 (height, width, 3) BGR, the frame of the alert; changed in place.
        request: what was found in it.

    Raises:
        EvidenceError: it cannot be encoded.
    """
    members = [found.xyxy for found in request.objects if found.track_id in request.members]
    if request.blur:
        others = [found.xyxy for found in request.objects if found.track_id not in request.members]
        others += [box for box in request.others if not any(_same(box, member) for member in members)]
        pixelate(picture, others, members)
    draw(picture, request.zones, request.lines, request.objects, request.members)
    done, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise EvidenceError("undecodable", "no JPEG can be made of the frame")
    return bytes(jpeg)


def pixelate(picture: Uint8Array, boxes: Sequence[Box], clear: Sequence[Box] = ()) -> None:
    """Make who is in ``boxes`` unrecognisable. Where a box of ``clear`` overlaps one of them, its content stays if its
    lower edge is the lower one: then it stands in front. All are xyxy in pixels; ``picture`` is changed in place."""
    kept = [(box, part.copy()) for box in clear if (part := _part(picture, box, 0.0)) is not None]
    for box in boxes:
        part = _part(picture, box, GROWTH)
        if part is None:
            continue
        height, width = part.shape[:2]
        block = max(4.0, min(height, width) / BLOCKS)
        small = cv2.resize(part, (max(1, round(width / block)), max(1, round(height / block))), interpolation=cv2.INTER_AREA)
        part[:] = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
    for clear_box, content in sorted(kept, key=lambda one: one[0][3]):
        part = _part(picture, clear_box, 0.0)
        assert part is not None
        in_front = [box for box in boxes if box[3] > clear_box[3]]
        behind = np.ones(part.shape[:2], np.bool_)
        left, top = max(0, round(clear_box[0])), max(0, round(clear_box[1]))
        for box in in_front:
            x1, y1, x2, y2 = _grown(picture, box, GROWTH)
            behind[max(0, y1 - top) : max(0, y2 - top), max(0, x1 - left) : max(0, x2 - left)] = False
        part[behind] = content[behind]


def _grown(picture: Uint8Array, box: Box, growth: float) -> tuple[int, int, int, int]:
    """The box, larger by ``growth`` on each side, within the picture."""
    height, width = picture.shape[:2]
    x, y = growth * (box[2] - box[0]), growth * (box[3] - box[1])
    left, top = max(0, round(box[0] - x)), max(0, round(box[1] - y))
    return left, top, min(width, round(box[2] + x)), min(height, round(box[3] + y))


def _part(picture: Uint8Array, box: Box, growth: float) -> Uint8Array | None:
    """A view of the picture; None where nothing of the box is in it."""
    left, top, right, bottom = _grown(picture, box, growth)
    return picture[top:bottom, left:right] if right > left and bottom > top else None


def _same(box: Box, member: Box) -> bool:
    return max(_share(box, member), _share(member, box)) >= SAME_SHARE


def _share(box: Box, other: Box) -> float:
    """How much of ``box`` lies in ``other``, 0 to 1."""
    width, height = min(box[2], other[2]) - max(box[0], other[0]), min(box[3], other[3]) - max(box[1], other[1])
    area = (box[2] - box[0]) * (box[3] - box[1])
    return max(0.0, width) * max(0.0, height) / area if area > 0 else 0.0
