"""FrameSampler: picks the frames to analyse, by media time."""

from __future__ import annotations

import math

EPSILON_S = 1e-6  # media times are doubles; POSIX seconds among them are exact to 0.2 us


class FrameSampler:
    """Keeps ``fps`` frames per second of media time, whatever the rate of the source.

    Frames are due on a grid that begins at the first frame, so nothing drifts: the one nearest to a due time is kept
    (half the last frame interval early at most), one frame per due time, and a gap is not made up for. A source slower
    than ``fps`` is kept whole. The choice depends on the media times alone. Not thread-safe.

    Args:
        fps: frames per second to keep; None keeps every frame.
    """

    def __init__(self, fps: float | None):
        if fps is not None and not fps > 0:
            raise ValueError(f"fps must be positive, not {fps}")
        self._fps = fps
        self.reset()

    def reset(self) -> None:
        """A new session begins: its first frame is kept, and the grid begins there."""
        self._origin_s: float | None = None
        self._last_s = 0.0
        self._next = 0

    def keep(self, pts_s: float) -> bool:
        """Whether to analyse the frame at this media time; asked for every frame, in order."""
        if self._fps is None:
            return True
        if self._origin_s is None or pts_s < self._last_s:
            self._origin_s, self._last_s, self._next = pts_s, pts_s, 1
            return True
        interval_s = min(pts_s - self._last_s, 1 / self._fps)
        self._last_s = pts_s
        reached = (pts_s + interval_s / 2 + EPSILON_S - self._origin_s) * self._fps  # in due times, the origin is number 0
        if reached < self._next:
            return False
        self._next = math.floor(reached) + 1
        return True
