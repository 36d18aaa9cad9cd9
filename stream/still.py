"""Still pictures that somebody sent: their size is read from their header before they are decoded."""

from __future__ import annotations

import struct
from typing import Literal

import av
import cv2
import numpy as np

from stream.detectors.base import InputSpec
from stream.errors import PictureError, RecordError
from stream.frame import Uint8Array
from stream.scale import Scaler
from stream.sources.records import JPEG_START, PNG_SIGNATURE, parse

MAX_PIXELS = 50_000_000  # 150 MB decoded
PLAIN_PIXELS = 8_000_000  # larger JPEGs are decoded at a half, a quarter or an eighth of their size, as far as the model needs
REDUCED = ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2))
NO_FRAME_HEADERS = (0xC4, 0xC8, 0xCC)  # among the markers 0xC0 to 0xCF of JPEG


def size_of(data: bytes) -> tuple[Literal["jpeg", "png"], int, int]:
    """Format, width and height of a whole JPEG or PNG, from its header.

    Raises:
        PictureError: it is neither, is cut off, or has more than ``MAX_PIXELS``.
    """
    try:
        parse(data, [])
    except RecordError as error:
        raise PictureError(str(error).replace("the record", "the picture").replace("no content-type, and ", "")) from None
    kind: Literal["jpeg", "png"] = "png" if data.startswith(PNG_SIGNATURE) else "jpeg"
    width, height = _png_size(data) if kind == "png" else _jpeg_size(data)
    if not width * height:
        raise PictureError(f"the picture has {width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise PictureError(f"the picture has {width} x {height} pixels, more than {MAX_PIXELS}")
    return kind, width, height


def input_of(data: bytes, spec: InputSpec) -> tuple[Uint8Array, int, int]:
    """A JPEG or PNG as a model takes it, uint8 (H, W, 3), and its own width and height. It is not turned by its EXIF data.

    Raises:
        PictureError: as of :func:`size_of`, or it cannot be decoded.
    """
    kind, width, height = size_of(data)
    flag = cv2.IMREAD_COLOR
    if kind == "jpeg" and width * height > PLAIN_PIXELS:
        _, _, least_width, least_height = spec.placement(width, height)
        flag = next((f for n, f in REDUCED if width >= 2 * n * least_width and height >= 2 * n * least_height), flag)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise PictureError(f"the {kind.upper()} is damaged: it cannot be decoded")
    return Scaler(spec).scale(av.VideoFrame.from_ndarray(pixels, "bgr24")), width, height


def _png_size(data: bytes) -> tuple[int, int]:
    """After the PNG specification, 11.2.2: IHDR is the first chunk."""
    at = len(PNG_SIGNATURE)
    if data[at + 4 : at + 8] != b"IHDR" or len(data) < at + 16:
        raise PictureError("the PNG is damaged: it does not begin with its header")
    width, height = struct.unpack(">II", data[at + 8 : at + 16])
    return width, height


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """After ITU-T T.81, B.1 and B.2.2: segments up to the frame header."""
    at = len(JPEG_START) - 1
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # without a length
            at += 2
        elif 0xC0 <= marker <= 0xCF and marker not in NO_FRAME_HEADERS and at + 9 <= len(data):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        elif marker in (0xD9, 0xDA):  # end, or data before any frame header
            break
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise PictureError("the JPEG is damaged: it has no frame header")
