"""Upright: pictures that lie on their side, as a phone's do, turned as a player shows them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, cast

import av
from av.filter import Graph

Matrix = tuple[int, ...]
"""FFmpeg's display matrix, row by row: 9 numbers, or none where the picture is upright. It moves (x, y) to (ax + cy, bx + dy)."""


def matrix_of(frame: av.VideoFrame) -> Matrix:
    """How the frame's file or stream wants it to be shown. One that is only mirrored top to bottom is left so: to look for that
    would cost every frame 10 us, where the angle costs 0.2."""
    if not frame.rotation:
        return ()
    return struct.unpack("=9i", bytes(cast("Any", frame.side_data)["DISPLAYMATRIX"]))


def is_on_its_side(matrix: Matrix) -> bool:
    """Whether width and height change places."""
    return bool(matrix) and abs(matrix[1]) > abs(matrix[0])


class Upright:
    """Turns frames by quarters, and mirrors them. Not thread-safe: one per source."""

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._made_for: tuple[object, ...] = ()

    def turn(self, frame: av.VideoFrame, matrix: Matrix) -> av.VideoFrame:
        """The frame as it is to be shown, with its time, type and ``opaque``; the very frame where nothing is to be done."""
        filters = _filters(matrix)
        if not filters:
            return frame
        kind = (frame.width, frame.height, frame.format.name, frame.time_base, frame.colorspace, frame.color_range, matrix)
        if self._graph is None or self._made_for != kind:
            self._graph, self._made_for = _graph(frame, filters), kind
        self._graph.vpush(frame)
        turned = self._graph.vpull()
        assert isinstance(turned, av.VideoFrame)
        return turned


def _filters(matrix: Matrix) -> Sequence[tuple[str, str | None]]:
    """FFmpeg's filters that do what the matrix says, as its own players choose them; angles between go to the next quarter."""
    if not matrix:
        return []
    a, b, _, c, d = matrix[:5]
    if is_on_its_side(matrix):
        if b > 0:
            return [("transpose", "cclock_flip" if c > 0 else "clock")]
        return [("transpose", "clock_flip" if c < 0 else "cclock")]
    return [("vflip", None)] * (d < 0) + [("hflip", None)] * (a < 0)  # the last one writes the rows from the top again


def _graph(frame: av.VideoFrame, filters: Sequence[tuple[str, str | None]]) -> Graph:
    graph = Graph()
    graph.threads = 1
    size, time_base = f"{frame.width}x{frame.height}", str(frame.time_base or Fraction(1, 90_000))
    color = {"colorspace": str(int(frame.colorspace)), "range": str(int(frame.color_range))}
    source = graph.add("buffer", video_size=size, pix_fmt=frame.format.name, time_base=time_base, **color)
    graph.link_nodes(source, *(graph.add(name, how) for name, how in filters), graph.add("buffersink"))
    graph.configure()
    return graph
