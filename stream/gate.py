"""Gate: while a scene is still, its packets are not decoded and its pictures are not analysed.

It is told of every packet's size, of what the detector saw, and of pictures. Three signs keep it open, or open it:

1. somebody is there, as far as detections tell (:class:`Presence`);
2. a picture differs from the last analysed one;
3. packets are larger than is usual for this scene: an encoder spends bits on what it could not predict.

Without any of them for ``SETTLE_S`` it closes, and only key frames are looked at, one every ``LOOK_S``. Sizes tell of
movement before a picture is decoded; a camera with a constant bit rate hides it there, and then the next look shows it.
Whoever holds the packets since the last look decodes them when the gate opens, so nothing of the event is lost.

What is usual is learned: median and MAD of the last minute in which nobody was there and nothing moved. So noise at
night is no movement, and new light is usual after half a minute. Opening for nothing makes it doubt sizes more. A change
of all the picture's cells by the same amount, as of exposure, is no movement; a turning camera is one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from statistics import median

import cv2
import numpy as np
import numpy.typing as npt

from stream.detections import Detections
from stream.frame import FrameInfo, Uint8Array

SETTLE_S = 3.0  # of stillness before the gate closes
LOOK_S = 4.0  # between two looks at a still scene: a key frame of 1080p at 27 ms of CPU costs 7 ms a second then
WATCHED_LOOK_S = 0.9  # while somebody watches: a picture a second, where key frames come that often
CALM_S = 2.0  # after a movement every frame is analysed for this long: the detector's answer is on its way
MAX_KEY_INTERVAL_S = 5.0  # key frames that are further apart would mean to hold too much: the gate stays open
BURST_S = 0.4  # packets of so much time are judged together: key frames apart, B-frames are smaller than others
BASELINE = 150  # spans of ``BURST_S``: a minute
MIN_BASELINE = 8
MAD_TO_SIGMA = 1.4826
SIGMAS = 6.0
MIN_GROWTH = 0.5  # of the median
MIN_GROWTH_BYTES = 300  # a still scene's packets may hold nothing but headers
DOUBT, MAX_DOUBT = 1.5, 8.0
CELLS = 88  # of a picture, each way: 4 x 4 pixels of a model's input of 352
MIN_CHANGE, MAX_CHANGE = 8.0, 24.0  # grey levels of a cell; a person in shade differs from the floor by more
NOISE_SIGMAS = 8.0  # the largest of 88 x 88 normal deviates is 4; codecs make them less normal
SAME_IOU = 0.2


class Presence:
    """Whether somebody is there, from detections alone: who was seen at ``confidence`` or above is there, and stays for as
    long as fainter detections in the same place go on, as a tracker would have it. Safe for two threads.

    Args:
        confidence: the detector's operating point.
        lost_s: who is unseen for this long has gone.
    """

    def __init__(self, confidence: float, lost_s: float):
        self._confidence, self._lost_s = confidence, lost_s
        self._lock = threading.Lock()
        self._seen_s: float | None = None
        self.begin("")

    def begin(self, session: str) -> None:
        """Another opening of the source: what was seen before is forgotten, and late news of it are ignored."""
        with self._lock:
            self._session, self._seen_s = session, None
            self._boxes: npt.NDArray[np.float32] = np.zeros((0, 4), np.float32)

    def saw(self, info: FrameInfo, detections: Detections) -> None:
        """The detector has answered for a frame; in frame order."""
        with self._lock:
            if info.session != self._session:
                return
            if self._seen_s is not None and info.pts_s - self._seen_s >= self._lost_s:
                self._boxes = self._boxes[:0]
            there = (detections.confidence >= self._confidence) | _overlaps(detections.xyxy, self._boxes)
            if there.any():
                self._boxes = detections.xyxy[there]
                self._seen_s = info.pts_s

    def last_s(self) -> float | None:
        """Media time at which somebody was seen last; None if nobody was."""
        return self._seen_s

    def there(self, pts_s: float) -> bool:
        """True while somebody is there at this media time."""
        seen_s = self._seen_s
        return seen_s is not None and pts_s - seen_s < self._lost_s


class Gate:
    """The gate of one source. ``Presence`` apart, it is used from one thread. Times are media times in seconds.

    Attributes:
        asleep: closed; ``reason`` tells why it opened or closed last.
        presence: told of the detector's answers, by another thread.
        watched: somebody looks at the pictures, so looks at a still scene come more often.
    """

    def __init__(self, presence: Presence):
        self.presence = presence
        self.watched = False
        self.begin("")

    def begin(self, session: str) -> None:
        """Another opening of the source begins."""
        self.presence.begin(session)
        self.asleep, self.reason = False, "starting"
        self._drowsy = False  # closes with the next key frame, from which on packets can be held
        self._key_s: float | None = None
        self._key_interval_s: float | None = None
        self._recent: deque[tuple[float, int]] = deque()
        self._recent_bytes = 0
        self._measured_s: float | None = None
        self._baseline: deque[int] = deque(maxlen=BASELINE)
        self._limit: float | None = None
        self._doubt, self._woken_by_size = 1.0, False
        self._opened_s: float | None = None  # because of larger packets
        self._reference: npt.NDArray[np.float32] | None = None
        self._stirred_s = self._moved_s = self._analysed_s = float("-inf")

    # -- packets

    def packet(self, size_bytes: int, key: bool, pts_s: float) -> None:
        """A packet arrives, in decode order; it may open the gate."""
        if key:
            if self._key_s is not None:
                self._key_interval_s = pts_s - self._key_s
            self._key_s = pts_s
            return
        if self._measured_s is None or pts_s < self._measured_s - 1:
            self._measured_s = pts_s
        self._recent.append((pts_s, size_bytes))
        self._recent_bytes += size_bytes
        while abs(pts_s - self._recent[0][0]) >= BURST_S:
            self._recent_bytes -= self._recent.popleft()[1]
        level = self._recent_bytes
        if (self.asleep or self._drowsy) and self.presence.there(pts_s):
            self._open("somebody was seen")
        if self._limit is not None and level > self._limit:
            self._stirred_s = pts_s
            self._drowsy = False
            if self.asleep:
                self._woken_by_size, self._opened_s = True, pts_s
                self._open("larger packets")
        if pts_s - self._measured_s >= BURST_S:
            self._measured_s = pts_s
            if not self.presence.there(pts_s) and pts_s - self._moved_s >= CALM_S:
                self._learn(level)

    def _learn(self, level: int) -> None:
        self._baseline.append(level)
        if len(self._baseline) >= MIN_BASELINE:
            usual = median(self._baseline)
            deviation = MAD_TO_SIGMA * median(abs(one - usual) for one in self._baseline)
            margin = max(SIGMAS * deviation, MIN_GROWTH * usual, MIN_GROWTH_BYTES)
            self._limit = usual + self._doubt * margin

    @property
    def seekable(self) -> bool:
        """True while key frames come often enough for packets to be held from one to the next."""
        return self._key_interval_s is not None and 0 < self._key_interval_s <= MAX_KEY_INTERVAL_S

    def wake(self, reason: str) -> None:
        """Open: whoever holds the packets cannot hold more."""
        self._key_interval_s = None
        self._open(reason)

    def _open(self, reason: str) -> None:
        self.asleep, self._drowsy, self.reason = False, False, reason

    # -- pictures

    def look_due(self, pts_s: float) -> bool:
        """Whether the key frame at this time should be decoded by itself and shown: the gate is closed, or may close now."""
        return self._drowsy or (self.asleep and pts_s - self._analysed_s >= self._look_s)

    @property
    def _look_s(self) -> float:
        return WATCHED_LOOK_S if self.watched else LOOK_S

    def look(self, image: Uint8Array, pts_s: float) -> bool:
        """A picture of the still scene, of a key frame. With it the gate closes, or stays closed.

        Args:
            image: uint8 (H, W, 3), as for the detector.
            pts_s: its time.

        Returns:
            False if something has changed: the gate opens, and this picture comes again, in its turn. True otherwise; it
            is to be analysed all the same, so that the scene is seen to be empty, and packets are held from it on.
        """
        cells = _cells(image)
        if self._changed(cells):
            self._moved_s = pts_s
            self._open("a changed picture")
            return False
        if not self.asleep:
            self.asleep, self.reason = True, "still"
            if self._woken_by_size:  # and nobody came
                self._doubt, self._woken_by_size = min(self._doubt * DOUBT, MAX_DOUBT), False
        self._drowsy = False
        self._reference, self._analysed_s = cells, pts_s
        return True

    def admits(self, image: Uint8Array, pts_s: float, answered: Callable[[], bool]) -> bool:
        """Whether a picture is to be analysed while the gate is open; it may close at the next key frame.

        Args:
            image: uint8 (H, W, 3), as for the detector.
            pts_s: its time.
            answered: tells whether the detector has answered for all pictures before; asked when that matters.
        """
        cells = _cells(image)
        if self._changed(cells):
            self._moved_s = pts_s
        if (
            pts_s - self._moved_s < CALM_S
            or pts_s - self._stirred_s < CALM_S
            or pts_s - self._analysed_s >= self._look_s
            or self.presence.there(pts_s)
            or not answered()
            or self.presence.there(pts_s)
        ):
            self._reference, self._analysed_s = cells, pts_s
            return True
        seen_s = self.presence.last_s()
        if seen_s is not None and self._opened_s is not None and seen_s >= self._opened_s:
            self._doubt, self._woken_by_size = 1.0, False
        last_s = max(self._stirred_s, self._moved_s, float("-inf") if seen_s is None else seen_s)
        self._drowsy = pts_s - last_s >= SETTLE_S and self.seekable and self._limit is not None
        return False

    def _changed(self, cells: npt.NDArray[np.float32]) -> bool:
        """Whether a cell has changed since the last analysed picture by more than all of them have, and than noise does."""
        if self._reference is None:
            return True
        differences = cells - self._reference
        some = np.s_[::2, ::2]  # of the cells: medians cost most
        differences -= np.median(differences[some])
        sizes = np.abs(differences)
        noise = MAD_TO_SIGMA * float(np.median(sizes[some]))  # of most cells: a person covers few
        return float(sizes.max()) > min(max(NOISE_SIGMAS * noise, MIN_CHANGE), MAX_CHANGE)


def _cells(image: Uint8Array) -> npt.NDArray[np.float32]:
    """The picture as grey cells, float32 (``CELLS``, ``CELLS``)."""
    small = cv2.resize(image, (CELLS, CELLS), interpolation=cv2.INTER_AREA)
    cells: npt.NDArray[np.float32] = small.astype(np.float32).mean(axis=2)
    return cells


def _overlaps(boxes: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """For each box, xyxy, whether its IoU with one of the others is at least ``SAME_IOU``."""
    if not len(boxes) or not len(others):
        return np.zeros(len(boxes), np.bool_)
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)[:, None] + np.prod(others[:, 2:] - others[:, :2], axis=1)[None]
    return np.asarray((shared / np.maximum(areas - shared, 1e-9)).max(axis=1) >= SAME_IOU, np.bool_)
