"""Viewfinder: the newest picture of any source, for whoever looks. It costs nothing while nobody does.

A request makes a source *watched*. Of a watched source the analysed frames are kept, a few at a time, from the decoder until
they have left the detector; the last one that has is the newest picture, so its boxes are known when it is shown. While the
gate is closed these are the key frames that it looks at, and it looks more often. Nothing is scaled or encoded before a
picture is asked for, and then once for each frame and width, on the thread that asks. Some seconds after the last
request all of it is let go.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import av
import cv2

from stream.clock import Clock
from stream.detectors.base import InputSpec
from stream.frame import FrameInfo, FrameKey
from stream.metrics import Metrics
from stream.scale import Scaler

WATCH_S = 5.0  # a source stays watched for so long after it was asked for last
PENDING = 4  # frames kept while the detector works on them: 4 x 3 MB at 1080p, 20 pictures/s at 200 ms
ANSWER_S = 1.0  # one without an answer by then is shown all the same: the detector may be away
FRESH_S = 10.0  # an older picture is no picture of a live scene any more; key frames may be so far apart
WIDTHS_PX = (160, 320, 480, 640, 960, 1280, 1920)
QUALITY = 80  # of the JPEG: 40 kB at 640 x 360


@dataclass(frozen=True, slots=True)
class Look:
    """A wish for a picture: at most ``width_px`` wide, and of another frame than ``after``, which was seen already."""

    width_px: int
    after: FrameKey | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """An analysed frame as JPEG; ``info`` is that of the source frame, which may be larger."""

    info: FrameInfo
    jpeg: bytes


def width_for(asked_px: int) -> int:
    """The widest of ``WIDTHS_PX`` that is not over ``asked_px``, so that different wishes share their pictures."""
    return WIDTHS_PX[max(0, bisect_right(WIDTHS_PX, asked_px) - 1)]


class Viewfinder:
    """The pictures of all sources of one process. Thread-safe.

    Args:
        clock: monotonic time.
        metrics: counters.
    """

    def __init__(self, clock: Clock, metrics: Metrics):
        self._clock, self._metrics = clock, metrics
        self._lock = threading.Lock()
        self._views: dict[str, _View] = {}

    def watches(self, source_id: str) -> bool:
        """Whether somebody has looked at the source lately."""
        return source_id in self._views

    def see(self, info: FrameInfo, frame: av.VideoFrame) -> None:
        """A frame goes to the detector."""
        view = self._views.get(info.source_id)
        if view is not None:
            view.see(info, frame, self._clock.monotonic())

    def left(self, info: FrameInfo) -> None:
        """A frame has left the detector, or was dropped before it."""
        view = self._views.get(info.source_id)
        if view is not None:
            view.left(info)

    def pictures(self, looks: Mapping[str, Look]) -> dict[str, Picture]:
        """The newest pictures of these sources, by source id; without those that have nothing new. Does not wait.

        Each source is watched from the first call on, so that one gives none.
        """
        now_s, found = self._clock.monotonic(), {}
        for source_id, look in looks.items():
            with self._lock:
                view = self._views.setdefault(source_id, _View(now_s))
                view.asked_s = now_s
            picture = view.picture(look, now_s, self._metrics)
            if picture is not None:
                found[source_id] = picture
        return found

    def forget(self, source_id: str) -> None:
        """The source's input is another one from now on."""
        with self._lock:
            self._views.pop(source_id, None)

    def rest(self) -> None:
        """Let go of the sources that nobody looks at any more; to be called now and then."""
        if not self._views:
            return
        with self._lock:
            now_s = self._clock.monotonic()
            for source_id in [i for i, view in self._views.items() if now_s - view.asked_s > WATCH_S]:
                del self._views[source_id]


class _View:
    """What is kept of one watched source."""

    def __init__(self, asked_s: float):
        self.asked_s = asked_s
        self._lock = threading.Lock()
        self._pending: deque[tuple[float, FrameInfo, av.VideoFrame]] = deque()
        self._newest: tuple[float, FrameInfo, av.VideoFrame] | None = None
        self._encoding = threading.Lock()  # the fields below, and what can take milliseconds
        self._scaler: Scaler | None = None
        self._encoded: dict[int, Picture] = {}  # of one frame, by width

    def see(self, info: FrameInfo, frame: av.VideoFrame, now_s: float) -> None:
        with self._lock:
            while self._pending and now_s - self._pending[0][0] > ANSWER_S:
                self._newest = self._pending.popleft()
            if len(self._pending) < PENDING:
                self._pending.append((now_s, info, frame))

    def left(self, info: FrameInfo) -> None:
        with self._lock:
            if any(pending.key == info.key for _, pending, _ in self._pending):
                while (newest := self._pending.popleft())[1].key != info.key:
                    pass  # frames leave in order: one before it was given up on its way
                self._newest = newest

    def picture(self, look: Look, now_s: float, metrics: Metrics) -> Picture | None:
        """The newest picture, if it is another one than was seen already."""
        with self._lock:
            newest = self._newest
        if newest is None or newest[1].key == look.after or now_s - newest[0] > FRESH_S:
            return None
        _, info, frame = newest
        width = min(width_for(look.width_px), info.width)
        with self._encoding:
            known = self._encoded.get(width)
            if known is not None and known.info.key == info.key:
                return known
            if any(picture.info.key != info.key for picture in self._encoded.values()):
                self._encoded.clear()
            picture = self._encoded[width] = Picture(info, self._encode(frame, width))
            metrics.picture()
            return picture

    def _encode(self, frame: av.VideoFrame, width: int) -> bytes:
        size = InputSpec(width, max(1, round(frame.height * width / frame.width)))
        if self._scaler is None or self._scaler.spec != size:
            self._scaler = Scaler(size)
        _, jpeg = cv2.imencode(".jpg", self._scaler.scale(frame), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        return bytes(jpeg)
