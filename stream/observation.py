"""Observation: what one frame says about the zones and lines of its source. It travels from counting to alerts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Direction = Literal["in", "out"]


@dataclass(frozen=True, slots=True)
class Crossing:
    """Track ``track_id`` crossed a line in ``direction``."""

    track_id: int
    direction: Direction


@dataclass(frozen=True, slots=True)
class Observation:
    """The zones and lines of one source at one moment.

    Attributes:
        source_id: id of the source.
        t_s: POSIX seconds, event time; falls from one observation of a source to the next only where its time begins
            anew, and then nothing seen before counts any more.
        occupancy: zone -> objects that count as inside (after entry inertia and exit grace).
        entered: zone -> ids of the tracks that began to count as inside at this moment; every zone is present.
        left: zone -> ids that ceased to.
        crossings: line -> crossings at this moment; every line is present.
        dwell_s: zone -> track id -> seconds from when the track was first to when it was last seen inside, for those
            that count as inside.
        zones_of: one entry per row of the frame's detections: the zones in which its anchor lies now, without
            inertia or grace; empty where no frame was involved.
    """

    source_id: str
    t_s: float
    occupancy: Mapping[str, int]
    entered: Mapping[str, tuple[int, ...]]
    left: Mapping[str, tuple[int, ...]]
    crossings: Mapping[str, tuple[Crossing, ...]]
    dwell_s: Mapping[str, Mapping[int, float]]
    zones_of: tuple[tuple[str, ...], ...]
