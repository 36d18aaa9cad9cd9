"""Scaler: a decoded frame to the small picture that a model takes."""

from __future__ import annotations

from typing import Literal

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from stream.detectors.base import InputSpec
from stream.frame import Uint8Array

PLANAR_8_BIT = frozenset({"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p"})
MATRICES = frozenset({0, 1, 4, 5, 6, 7, 9})
"""AVCOL_SPC of RGB, BT.709, FCC, BT.601 (two), SMPTE 240M and BT.2020: those that FFmpeg's scaler has."""
BT601 = 5  # AVCOL_SPC_BT470BG: what FFmpeg, and with it OpenCV's VideoCapture, assumes for untagged video; here for all others too


class Scaler:
    """Scales frames to a model's input. Not thread-safe: one per source.

    The planes of 8-bit YUV pictures are scaled where they lie, halved by 2x2 averages while they are at least twice too
    large, then bilinearly; only the small picture is converted to BGR or RGB, with the frame's own matrix and range.
    All other formats go through FFmpeg's area scaler. OpenCV is told to work on the calling thread, for the whole process:
    parallelism comes from many sources.

    Args:
        spec: size, colour order and padding of the model's input.
    """

    def __init__(self, spec: InputSpec):
        cv2.setNumThreads(1)
        self.spec = spec
        self._reformatter = VideoReformatter()
        self._format: Literal["bgr24", "rgb24"] = "bgr24" if spec.color == "BGR" else "rgb24"
        self._small: av.VideoFrame | None = None

    def scale(self, frame: av.VideoFrame, out: Uint8Array | None = None) -> Uint8Array:
        """``frame`` as uint8 (height, width, 3) of the model's input.

        Args:
            frame: of any size and pixel format; these may change from frame to frame.
            out: where to write, for instance a row of a batch; every pixel of it is written.

        Returns:
            ``out``, or a new array.

        Raises:
            ValueError: ``out`` has another shape or dtype.
        """
        shape = (self.spec.height, self.spec.width, 3)
        if out is None:
            out = np.empty(shape, np.uint8)
        elif out.shape != shape or out.dtype != np.uint8:
            raise ValueError(f"out must be uint8 {shape}, not {out.dtype} {out.shape}")
        left, top, width, height = self.spec.placement(frame.width, frame.height)
        if (width, height) != (self.spec.width, self.spec.height):
            out[:top], out[top + height :] = self.spec.pad, self.spec.pad
            out[top : top + height, :left], out[top : top + height, left + width :] = self.spec.pad, self.spec.pad
        if frame.format.name in PLANAR_8_BIT and all(plane.line_size > 0 for plane in frame.planes):
            frame = self._shrink(frame, width, height)
        small = _convert(self._reformatter, frame, self._format, width, height)
        out[top : top + height, left : left + width] = _pixels(small)
        return out

    def _shrink(self, frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
        """``frame`` at another size in its own pixel format; the result is used again for the next frame."""
        small = self._small
        if small is None or (small.width, small.height, small.format.name) != (width, height, frame.format.name):
            self._small = small = av.VideoFrame(width, height, frame.format.name)
        small.colorspace, small.color_range = frame.colorspace, frame.color_range
        for source, target in zip(frame.planes, small.planes, strict=True):
            pixels, size = _plane(source), (target.width, target.height)
            while pixels.shape[1] >= 2 * size[0] and pixels.shape[0] >= 2 * size[1]:
                half = (pixels.shape[1] // 2, pixels.shape[0] // 2)
                pixels = cv2.resize(pixels, half, interpolation=cv2.INTER_AREA)
            cv2.resize(pixels, size, dst=_plane(target), interpolation=cv2.INTER_LINEAR)
        return small


def to_picture(frame: av.VideoFrame) -> Uint8Array:
    """``frame`` at its own size as uint8 (height, width, 3) BGR, contiguous."""
    return np.ascontiguousarray(_pixels(_convert(VideoReformatter(), frame, "bgr24", frame.width, frame.height)))


def _convert(
    reformatter: VideoReformatter, frame: av.VideoFrame, pixel_format: Literal["bgr24", "rgb24"], width: int, height: int
) -> av.VideoFrame:
    return reformatter.reformat(
        frame,
        width,
        height,
        pixel_format,
        src_colorspace=None if frame.colorspace in MATRICES else BT601,
        interpolation=Interpolation.AREA,
        threads=1,
    )


def _rows(plane: av.video.plane.VideoPlane) -> Uint8Array:
    """All bytes of a plane, (rows, line size), without a copy."""
    rows: Uint8Array = np.frombuffer(plane, np.uint8)  # type: ignore[call-overload] # planes are buffers; the stubs do not say so
    return rows.reshape(-1, plane.line_size)


def _plane(plane: av.video.plane.VideoPlane) -> Uint8Array:
    """The samples of an 8-bit plane, (height, width), without a copy."""
    return _rows(plane)[: plane.height, : plane.width]


def _pixels(frame: av.VideoFrame) -> Uint8Array:
    """The pixels of a packed 24-bit frame, (height, width, 3), without a copy; valid while the frame lives."""
    return _rows(frame.planes[0])[: frame.height, : frame.width * 3].reshape(frame.height, frame.width, 3)
