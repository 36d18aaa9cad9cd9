"""Allowance: how much of their streams all sources of a process may decode, as the machine can bear."""

from __future__ import annotations

import threading

SETTLING_S = 1.5  # until a change has its effect: from the next key frames on, and when what waited has gone
JUDGED_S = 1.0  # what was seen in this time is judged together: a single late frame means nothing
MIN_FRAMES = 3  # of it, to say that they are late
LATE = 0.7  # of the latency budget, used up when a frame is detected
MANY, MOST = 0.1, 0.5  # of the frames of that time, late or given up
LESS = 0.7  # of the share is left each time that it proves too much
LEAST = 0.05  # a smaller share of GOPs is none
KEY_WORK = 0.2  # of a GOP's: its key frame alone (0.30 and 0.22 in perf/README.md; too little is the cautious side)
LEAST_KEYS = 0.1  # of key frames: nobody goes blind
STEP, MAX_STEP = 0.05, 0.5  # of the GOPs more; then twice as many more each time, but for where it failed
PATIENCE_S, MAX_PATIENCE_S = 0.5, 8.0  # in time before the share grows; doubled each time that more was too much
FORGIVEN_S = 30.0  # everything was decoded in time for so long: earlier failures say nothing any more


class Allowance:
    """Follows the latency of the frames of all live sources of a process, and lets them decode less while it is too great.

    What may be decoded is a share of the GOPs, and of the others the key frames alone; where even these are too many, a
    share of them. Once a second the frames of that second are judged. While many are late or given up, the share falls
    by a factor. Otherwise it grows: quickly up to what was borne before, slowly to what proved too much, and quickly
    again beyond it; later each time that this fails. What a source that leaves had goes to those that stay at once. All
    sources have the same share, so what the machine can bear is spread evenly. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gops = self._keys = 1.0
        self._reason = ""
        self._frames = self._late = 0  # since the last judgement
        self._judged_s: float | None = None
        self._in_time_s = 0.0  # since then
        self._too_much = 1.0  # the share of GOPs that failed last; 1: not known
        self._step, self._patience_s, self._grew = STEP, PATIENCE_S, False

    @property
    def gops(self) -> float:
        """Share of the GOPs that may be decoded beyond their key frames, 0..1."""
        return self._gops

    @property
    def keys(self) -> float:
        """Share of the key frames that may be decoded; 1 while ``gops`` is over 0."""
        return self._keys

    @property
    def reason(self) -> str:
        """Why not everything may be decoded; empty when it may."""
        return self._reason

    def frame(self, used: float | None, now_s: float) -> None:
        """A frame has its detections, or was given up by our own fault.

        Args:
            used: share of the latency budget that had passed since its packet was due; None for one that was given up.
            now_s: monotonic time.
        """
        with self._lock:
            if self._judged_s is None:
                self._judged_s = self._in_time_s = now_s
            if now_s < self._judged_s:
                return
            self._frames += 1
            self._late += used is None or used >= LATE
            if now_s - self._judged_s >= JUDGED_S:
                changed = self._judge(self._late / self._frames, now_s)
                self._judged_s = now_s + SETTLING_S if changed else now_s
                self._frames = self._late = 0

    def relieved(self, part: float, now_s: float) -> None:
        """``part`` of the sources (0..1) has left: those that stay have what these had, and what was too much may be borne now."""
        with self._lock:
            rest = max(1 - part, 0.1)
            work = (KEY_WORK + (1 - KEY_WORK) * self._gops) * self._keys / rest  # of a source, 1 where everything is decoded
            self._keys = min(1.0, work / KEY_WORK)
            self._gops = min(1.0, max(0.0, (work - KEY_WORK) / (1 - KEY_WORK)))
            self._reason = self._reason if self._gops < 1 else ""
            self._step, self._too_much = min(MAX_STEP, self._step + part), min(1.0, (self._too_much + part) / rest)
            self._patience_s, self._grew = PATIENCE_S, False
            self._judged_s = self._in_time_s = now_s + SETTLING_S
            self._frames = self._late = 0

    def _judge(self, late: float, now_s: float) -> bool:
        """Change what may be decoded; tells whether it did."""
        before = self._gops, self._keys
        if self._frames >= MIN_FRAMES and late >= MANY:
            self._shrink(late >= MOST)
            self._reason = self._reason or f"{late:.0%} of all frames late or given up: behind the camera"
            self._patience_s = min(2 * self._patience_s, MAX_PATIENCE_S) if self._grew else self._patience_s
            self._step, self._grew, self._in_time_s = STEP, False, now_s
        elif self._gops < 1 and now_s - self._in_time_s >= self._patience_s:
            self._grow()
        elif self._gops >= 1 and now_s - self._in_time_s >= FORGIVEN_S:
            self._patience_s, self._grew, self._too_much = PATIENCE_S, False, 1.0
        return (self._gops, self._keys) != before

    def _shrink(self, all_at_once: bool) -> None:
        if self._gops:
            if self._grew:
                self._too_much = LESS * self._gops if all_at_once else self._gops
            self._gops = 0.0 if all_at_once or LESS * self._gops < LEAST else LESS * self._gops
        else:
            self._keys = max(LEAST_KEYS, LESS * self._keys)

    def _grow(self) -> None:
        self._grew = True
        if self._keys < 1:
            self._keys = min(1.0, self._keys / LESS)
            return
        self._gops = min(1.0, self._gops + self._step)
        near = LESS * self._too_much <= self._gops < self._too_much < 1
        self._step = STEP if near else min(2 * self._step, MAX_STEP)
        self._reason = self._reason if self._gops < 1 else ""
