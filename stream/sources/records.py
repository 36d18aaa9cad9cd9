"""Records of a video topic: what a record's headers and first bytes say about its payload.

===================  ======================================================================================
header               meaning
===================  ======================================================================================
``content-type``     ``image/jpeg``, ``image/png``, ``video/h264`` or ``video/hevc``
``codec``            ``jpeg``, ``png``, ``h264`` or ``hevc``, for producers that send no ``content-type``
``pts_s``            media time in seconds, as text; gives encoded video with B-frames its exact times
``keyframe``         ``1`` on a key frame; without it the payload is looked at
``traceparent``      W3C trace context of the sender, which the frame's trace goes on with
``end-of-stream``    ``1`` on an empty record behind the last one of a video: nothing follows that depends on it
===================  ======================================================================================

A record without headers is taken for what its first bytes say: JPEG or PNG. The value of a video record is one access
unit in Annex B form, with parameter sets in front of each key frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from stream.errors import RecordError

Codec = Literal["mjpeg", "png", "h264", "hevc"]  # FFmpeg's names
MAX_RECORD_BYTES = 32 * 2**20
CODECS: dict[str, Codec] = {
    "image/jpeg": "mjpeg",
    "image/png": "png",
    "video/h264": "h264",
    "video/hevc": "hevc",
    "jpeg": "mjpeg",
    "png": "png",
    "h264": "h264",
    "hevc": "hevc",
    "h265": "hevc",
    "video/h265": "hevc",
}
PNG_SIGNATURE, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
MAX_PTS_S = 1e10  # either way: six times the seconds since 1970; what a container's clock cannot count stops the source
TRACEPARENT_CHARS = 55
START_CODE = b"\0\0\1"


@dataclass(frozen=True, slots=True)
class Payload:
    """One record's picture or access unit.

    Attributes:
        codec: FFmpeg's name; None for the end of a stream.
        key: decoding can begin here.
        pts_s: media time, where the record tells it.
        traceparent: as the header holds it; empty where there is none.
    """

    codec: Codec | None
    key: bool
    pts_s: float | None
    traceparent: str = ""

    @property
    def picture(self) -> bool:
        """True for a whole picture, False for a part of a video."""
        return self.codec in ("mjpeg", "png")


def parse(value: bytes, headers: Sequence[tuple[str, bytes | None]]) -> Payload:
    """What the record holds.

    Raises:
        RecordError: it is none of the above, too large, or a picture that was cut.
    """
    named = {name.lower(): (raw or b"").decode("utf-8", "replace").strip() for name, raw in headers}
    if named.get("end-of-stream") == "1":
        return Payload(None, False, None)
    if not value:
        raise RecordError("the record is empty")
    if len(value) > MAX_RECORD_BYTES:
        raise RecordError(f"the record has {len(value)} bytes, more than {MAX_RECORD_BYTES}")
    codec, pts_s, traceparent = _codec(value, named), _pts_s(named), named.get("traceparent", "")[:TRACEPARENT_CHARS]
    if codec in ("mjpeg", "png"):
        _check_picture(codec, value)
        return Payload(codec, True, pts_s, traceparent)
    if START_CODE not in value[:8]:
        raise RecordError(f"not an access unit in Annex B form ({codec}): it begins with {value[:8].hex()}")
    return Payload(codec, named.get("keyframe") == "1" or is_key(codec, value), pts_s, traceparent)


def _codec(value: bytes, named: dict[str, str]) -> Codec:
    name = named.get("content-type") or named.get("codec")
    if name:
        codec = CODECS.get(name.lower().partition(";")[0].strip())
        if codec is None:
            raise RecordError(f"unknown content-type or codec {name[:80]!r}; known are {', '.join(CODECS)}")
        return codec
    if value.startswith(JPEG_START):
        return "mjpeg"
    if value.startswith(PNG_SIGNATURE):
        return "png"
    raise RecordError(f"no content-type, and neither JPEG nor PNG: it begins with {value[:8].hex()}")


def _pts_s(named: dict[str, str]) -> float | None:
    text = named.get("pts_s")
    if not text:
        return None
    try:
        pts_s = float(text)
    except ValueError:
        pts_s = math.nan
    if not abs(pts_s) <= MAX_PTS_S:  # nor NaN
        raise RecordError(f"header pts_s is not a number of seconds: {text[:80]!r}")
    return pts_s


def _check_picture(codec: Codec, value: bytes) -> None:
    """Find what FFmpeg would decode without a word: it paints the missing part of a JPEG grey."""
    start, end = (JPEG_START, JPEG_END) if codec == "mjpeg" else (PNG_SIGNATURE, PNG_END)
    name = "JPEG" if codec == "mjpeg" else "PNG"
    if not value.startswith(start):
        raise RecordError(f"not a {name}: it begins with {value[:8].hex()}")
    if not value.rstrip(b"\0").endswith(end):  # some cameras pad with zeros
        raise RecordError(f"the {name} is cut off: it has {len(value)} bytes and no end marker")


def is_key(codec: Codec, value: bytes) -> bool:
    """Whether decoding can begin with this access unit (H.264: IDR or recovery point; HEVC: any IRAP picture).

    After ITU-T H.264 (table 7-1, annex D) and H.265 (table 7-1).
    """
    for at in _nal_units(value):
        if codec == "h264":
            kind = value[at] & 0x1F
            if kind == 5 or (kind == 6 and 6 in _sei_types(value, at + 1)):
                return True
            if 1 <= kind <= 4:
                return False
        else:
            kind = value[at] >> 1 & 0x3F
            if kind < 32:
                return 16 <= kind <= 23
    return False


def _nal_units(value: bytes) -> Iterator[int]:
    """Where each NAL unit begins."""
    at = value.find(START_CODE)
    while 0 <= at < len(value) - 3:
        yield at + 3
        at = value.find(START_CODE, at + 3)


def _sei_types(value: bytes, at: int) -> Iterator[int]:
    """Payload types of an H.264 SEI NAL unit."""
    end = value.find(START_CODE, at)
    end = len(value) if end < 0 else end
    while at + 2 <= end and value[at] != 0x80:
        kind, at = _sei_number(value, at, end)
        yield kind
        size, at = _sei_number(value, at, end)
        at += size


def _sei_number(value: bytes, at: int, end: int) -> tuple[int, int]:
    number = 0
    while at < end and value[at] == 0xFF:
        number, at = number + 255, at + 1
    return (number + value[at], at + 1) if at < end else (number, end)
