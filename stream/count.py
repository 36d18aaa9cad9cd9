"""ZoneCounter: who is inside the zones of one source, who came and went, who crossed its lines.

An object counts as entered once it has been inside for ``enter_s``, and as gone once it has been outside for ``leave_s`` or
unseen for ``unseen_s``; what happens in between (a missed detection, a step over the border) changes nothing. Somebody seen
outside is gone soon; somebody hidden may still be there. Who the tracker knows to be behind another object stays or leaves by
where it should be, but neither enters nor crosses a line until it is seen again.

When an object's id changes, its counts go on under the new one: a track that was never seen before takes over from one
of its class that is missing in this frame, was seen less than ``unseen_s`` ago and whose last box was about as large
and not further off than half its longer side. The closest pairs are settled first. ``entered`` may therefore name
another id than ``left`` does for the same object.

Between frames nobody can tell whether an object is still there. Without a frame, the grace therefore lasts at least two
usual frame intervals, or a source with fewer frames than one per ``unseen_s`` would lose everybody after each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from stream.config import CountingConfig, LineConfig, ZoneConfig
from stream.detections import NO_TRACK, Detections
from stream.events import CountsEvent
from stream.lean import Lean
from stream.observation import Crossing, Observation
from stream.windows import Windows
from stream.zones import Anchor, Float64Array, LinePath, LineZone, PolygonZone, anchors

__all__ = ["Crossing", "Observation", "ZoneCounter"]

MAX_TRACKS = 4096
"""Tracks remembered per source; beyond it those unseen for longest are forgotten and so leave their zones."""
REMEMBER_S = 60.0  # a track unseen for longer is forgotten, so that memory follows the traffic
REACH = 0.5  # a take-over reaches this many longer sides
SIZE_RATIO = 1.5  # and to boxes whose longer side differs by no more than this
DEAD_BAND = 0.05  # of a box's longer side, either side of a line
LAST_INTERVALS = 3  # a median of three forgets one outage
FIRST_GRACE_S = 5.0  # until there are any
NOBODY = Detections.empty()
TOLERANCE_S = 1e-6  # POSIX seconds as floats are exact to 0.24 us


@dataclass(slots=True)
class _Track:
    """A track of this source. ``number`` names the object and stays when its id changes."""

    number: int
    class_id: int
    seen_s: float
    box: Sequence[float] | None  # cx, cy, longer side in pixels; None where the frame's size has changed since


@dataclass(slots=True)
class _Stay:
    """A track's stay in a zone; it counts once it ``entered``."""

    since_s: float
    inside_s: float  # last seen inside
    entered: bool = False
    outside_s: float | None = None  # first seen outside after that


class _Zone:
    """A zone with the stays in it, by track id."""

    def __init__(self, config: ZoneConfig, classes: Sequence[str]):
        self.name, self.anchor = config.name, config.anchor
        self.geometry = PolygonZone(config.polygon)
        self.class_ids = _class_ids(config.classes, classes)
        self.stays: dict[int, _Stay] = {}


class _Line:
    """A line with the paths of the tracks it has seen, by track id."""

    def __init__(self, config: LineConfig, classes: Sequence[str]):
        self.name, self.anchor, self.config = config.name, config.anchor, config
        self.geometry = LineZone(config.points)
        self.class_ids = _class_ids(config.classes, classes)
        self.paths: dict[int, LinePath] = {}


class ZoneCounter:
    """Counts in the zones and at the lines of one source. Not thread-safe.

    Times must not fall; one that does counts as the last one. Where they are to, ``begin_anew``.

    Args:
        source_id: id of the source.
        zones, lines: its zones and lines.
        config: window length, entry inertia, exit grace.
        classes: the model's class names; zones and lines that name classes look at those only.
    """

    def __init__(
        self,
        source_id: str,
        zones: Sequence[ZoneConfig],
        lines: Sequence[LineConfig],
        config: CountingConfig,
        classes: tuple[str, ...],
    ):
        self._source_id = source_id
        self._config = config
        self._zones = [_Zone(zone, classes) for zone in zones]
        self._lines = [_Line(line, classes) for line in lines]
        self._windows = Windows(source_id, [z.name for z in zones], [line.name for line in lines], config.window_s)
        self._tracks: dict[int, _Track] = {}
        self._lean = Lean() if config.upright else None
        self._next_number = 1
        self._size: tuple[int, int] | None = None
        self._t_s: float | None = None
        self._frame_s: float | None = None
        self._intervals_s: list[float] = []

    def set_zones(self, zones: Sequence[ZoneConfig], lines: Sequence[LineConfig], classes: tuple[str, ...]) -> list[CountsEvent]:
        """Count in these zones and at these lines from now on; arguments as of the class.

        Who is inside a zone is still inside the one of the same name, until seen outside of it. A line that has changed has seen
        nobody yet.

        Returns:
            The open window's counts of zones and lines that are no more.
        """
        stays, paths = {zone.name: zone.stays for zone in self._zones}, {line.name: line for line in self._lines}
        self._zones = [_Zone(zone, classes) for zone in zones]
        self._lines = [_Line(line, classes) for line in lines]
        for zone in self._zones:
            zone.stays = stays.get(zone.name, {})
        for line in self._lines:
            if line.name in paths and paths[line.name].config == line.config:
                line.paths = paths[line.name].paths
        return self._windows.set_names([zone.name for zone in zones], [line.name for line in lines])

    def update(self, t_s: float, width: int, height: int, tracked: Detections, hidden: Detections = NOBODY) -> Observation:
        """Take in a frame.

        Args:
            t_s: POSIX seconds of the frame.
            width, height: its size in pixels.
            tracked: its detections; rows without a track count nowhere but have their ``zones_of``.
            hidden: further tracks, which are not seen now, where they should be.

        Returns:
            What holds after this frame.
        """
        t_s = self._move_to(t_s)
        dt_s = 0.0 if self._frame_s is None else t_s - self._frame_s
        self._frame_s = t_s
        entered, left = self._nobody(), self._nobody()
        self._end_stays(t_s, self._least_grace_s(), left)
        if dt_s:
            self._intervals_s = [*self._intervals_s, dt_s][-LAST_INTERVALS:]
        self._windows.add_frame()

        self._see(t_s, (width, height), tracked)
        if self._lean:
            self._lean.learn(tracked.xyxy, width, height)
        for track_id in hidden.track_id.tolist():
            if track_id in self._tracks:
                self._tracks[track_id].seen_s = t_s
        self._forget(t_s, left)
        zones_of: list[list[str]] = [[] for _ in range(len(tracked))]
        ids, hidden_ids = tracked.track_id.tolist(), hidden.track_id.tolist()
        for zone in self._zones:
            points = self._points(tracked, zone.anchor, width, height)
            inside = zone.geometry.contains(points, width, height) & _of_class(tracked, zone.class_ids)
            for row in np.flatnonzero(inside).tolist():
                zones_of[row].append(zone.name)
                if ids[row] in self._tracks:
                    stay = zone.stays.setdefault(ids[row], _Stay(t_s, t_s))
                    stay.inside_s, stay.outside_s = t_s, None
                    if not stay.entered and t_s - stay.since_s >= self._config.enter_s - TOLERANCE_S:
                        stay.entered = True
                        entered[zone.name].append(ids[row])
            if hidden_ids:
                behind = self._points(hidden, zone.anchor, width, height)
                for row in np.flatnonzero(zone.geometry.contains(behind, width, height)).tolist():
                    if hidden_ids[row] in zone.stays:
                        stay = zone.stays[hidden_ids[row]]
                        stay.inside_s, stay.outside_s = t_s, None
            for track_id, stay in zone.stays.items():
                if stay.outside_s is None and stay.inside_s < t_s == self._tracks[track_id].seen_s:
                    stay.outside_s = t_s
        self._end_stays(t_s, 0.0, left)
        crossings = {line.name: self._cross(line, width, height, tracked) for line in self._lines}
        return self._observe(t_s, entered, left, crossings, tuple(map(tuple, zones_of)))

    def advance(self, t_s: float) -> Observation:
        """Let time pass without a frame: grace runs out and windows close. What holds then."""
        t_s = self._move_to(t_s)
        left = self._nobody()
        self._end_stays(t_s, self._least_grace_s(), left)
        self._forget(t_s, left)
        return self._observe(t_s, self._nobody(), left, {line.name: () for line in self._lines}, ())

    def begin_anew(self) -> None:
        """Time may go back now: the open window is closed, and nobody has been seen yet. What is known of the camera stays."""
        self._windows.begin_anew()
        self._tracks.clear()
        for zone in self._zones:
            zone.stays.clear()
        for line in self._lines:
            line.paths.clear()
        self._t_s = self._frame_s = None
        self._intervals_s = []

    def windows(self) -> list[CountsEvent]:
        """The windows closed since the last call, in time order.

        A window without a frame is reported too, up to ten after the last one with a frame; in longer gaps only windows
        in which somebody left.
        """
        return self._windows.take()

    def finish(self) -> list[CountsEvent]:
        """The input has ended: the windows not taken yet and the open one, whose ``window_end`` is the nominal end."""
        self._windows.finish()
        return self._windows.take()

    def state(self) -> dict[str, Any]:
        """Everything that :meth:`restore` needs, as JSON types; floats survive exactly."""
        return {
            "tracks": _rows(self._tracks),
            "stays": {zone.name: _rows(zone.stays) for zone in self._zones},
            "points": {line.name: [list(point) for point in line.config.points] for line in self._lines},
            "paths": {line.name: _rows(line.paths) for line in self._lines},
            "windows": self._windows.state(),
            "lean": self._lean.state() if self._lean else None,
            "next_number": self._next_number,
            "size": self._size,
            "t_s": self._t_s,
            "frame_s": self._frame_s,
            "intervals_s": self._intervals_s,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where the counter that wrote ``state`` stood; zones and lines may be others than they were then."""
        self._tracks = {track_id: _Track(*fields) for track_id, *fields in state["tracks"]}
        for zone in self._zones:
            zone.stays = {track_id: _Stay(*fields) for track_id, *fields in state["stays"].get(zone.name, [])}
        for line in self._lines:
            if state["points"].get(line.name) == [list(point) for point in line.config.points]:
                line.paths = {track_id: LinePath(*fields) for track_id, *fields in state["paths"][line.name]}
        if self._lean and state["lean"]:
            self._lean.restore(state["lean"])
        self._windows.restore(state["windows"])
        self._next_number, self._t_s, self._frame_s = state["next_number"], state["t_s"], state["frame_s"]
        self._size = tuple(state["size"]) if state["size"] else None
        self._intervals_s = list(state["intervals_s"])

    def _points(self, objects: Detections, anchor: Anchor, width: int, height: int) -> Float64Array:
        """The anchors of objects."""
        if self._lean and anchor == "bottom_center":
            return self._lean.feet(objects.xyxy, width, height, self._config.foot_inset)
        return anchors(objects.xyxy, anchor, width, height, self._config.foot_inset)

    def _move_to(self, t_s: float) -> float:
        self._t_s = t_s if self._t_s is None else max(t_s, self._t_s)
        self._windows.move_to(round(self._t_s * 1e6))
        return self._t_s

    def _nobody(self) -> dict[str, list[int]]:
        return {zone.name: [] for zone in self._zones}

    def _least_grace_s(self) -> float:
        """What any grace lasts at least while there is no frame."""
        return 2 * median(self._intervals_s) if self._intervals_s else FIRST_GRACE_S

    def _end_stays(self, t_s: float, least_s: float, left: Mapping[str, list[int]]) -> None:
        """End the stays whose grace, ``least_s`` or longer, is over and whose track was not seen inside just now."""
        outside_s, unseen_s = max(self._config.leave_s, least_s), max(self._config.unseen_s, least_s)
        for zone in self._zones:
            over = []
            for track_id, stay in zone.stays.items():
                since_s, grace_s = (stay.inside_s, unseen_s) if stay.outside_s is None else (stay.outside_s, outside_s)
                if stay.inside_s < t_s and t_s - since_s >= grace_s - TOLERANCE_S:
                    over.append(track_id)
            for track_id in over:
                if zone.stays.pop(track_id).entered:
                    left[zone.name].append(track_id)

    def _see(self, t_s: float, size: tuple[int, int], tracked: Detections) -> None:
        """Remember the frame's tracks, new ones under the number of the one they take over from."""
        if size != self._size:
            self._size = size
            for track in self._tracks.values():
                track.box = None
            for line in self._lines:
                line.paths.clear()
        corners = tracked.xyxy.astype(np.float64)
        sides = np.maximum(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1])
        boxes = np.column_stack(((corners[:, :2] + corners[:, 2:]) / 2, sides)).tolist()
        rows = list(zip(tracked.track_id.tolist(), tracked.class_id.tolist(), boxes, strict=True))
        new = [row for row in rows if row[0] not in self._tracks and row[0] != NO_TRACK]
        if new:
            self._take_over(t_s, {row[0] for row in rows}, new)
        for track_id, class_id, box in rows:
            if track_id == NO_TRACK:
                continue
            known = self._tracks.get(track_id)
            if known is None:
                self._tracks[track_id] = _Track(self._next_number, class_id, t_s, box)
                self._next_number += 1
            else:
                known.seen_s, known.box = t_s, box

    def _take_over(self, t_s: float, present: set[int], new: Iterable[tuple[int, int, Sequence[float]]]) -> None:
        """Let each of the ``new`` (id, class, box) go on for a track that has just vanished, if there is one."""
        vanished = [
            (track_id, track.class_id, track.box)
            for track_id, track in self._tracks.items()
            if track_id not in present and track.box and t_s - track.seen_s < self._config.unseen_s
        ]
        pairs = []
        for new_id, new_class, (x, y, side) in new:
            for old_id, old_class, (old_x, old_y, old_side) in vanished:
                distance = math.hypot(x - old_x, y - old_y)
                alike = max(side, old_side) <= SIZE_RATIO * min(side, old_side)
                if new_class == old_class and alike and distance <= REACH * old_side:
                    pairs.append((distance / old_side if old_side else 0.0, old_id, new_id))
        for _, old_id, new_id in sorted(pairs):
            if old_id in self._tracks and new_id not in self._tracks:
                self._tracks[new_id] = self._tracks.pop(old_id)
                for zone in self._zones:
                    if old_id in zone.stays:
                        zone.stays[new_id] = zone.stays.pop(old_id)
                for line in self._lines:
                    if old_id in line.paths:
                        line.paths[new_id] = line.paths.pop(old_id)

    def _forget(self, t_s: float, left: Mapping[str, list[int]]) -> None:
        """Drop tracks unseen for long, and the longest unseen beyond ``MAX_TRACKS``."""
        unseen_s = max(REMEMBER_S, self._config.unseen_s, self._least_grace_s())
        gone = [track_id for track_id, track in self._tracks.items() if t_s - track.seen_s > unseen_s]
        surplus = len(self._tracks) - len(gone) - MAX_TRACKS
        if surplus > 0:
            gone = sorted(self._tracks, key=lambda track_id: (self._tracks[track_id].seen_s, track_id))[: len(gone) + surplus]
        for track_id in gone:
            del self._tracks[track_id]
            for zone in self._zones:
                stay = zone.stays.pop(track_id, None)
                if stay and stay.entered:
                    left[zone.name].append(track_id)
            for line in self._lines:
                line.paths.pop(track_id, None)

    def _cross(self, line: _Line, width: int, height: int, tracked: Detections) -> tuple[Crossing, ...]:
        """Move every track along its path past the line."""
        points = self._points(tracked, line.anchor, width, height)
        distances = line.geometry.distance_px(points, width, height).tolist()
        rows = zip(tracked.track_id.tolist(), points.tolist(), distances, _of_class(tracked, line.class_ids).tolist(), strict=True)
        found = []
        for track_id, (x, y), distance_px, counts in rows:
            track = self._tracks.get(track_id)
            if not counts or track is None or track.box is None:
                continue
            step = LinePath(x, y, distance_px)
            path = line.paths.setdefault(track_id, step)
            direction = line.geometry.follow(path, step, DEAD_BAND * track.box[2], width, height)
            if direction:
                found.append(Crossing(track_id, direction))
                self._windows.add_crossing(line.name, direction)
        return tuple(found)

    def _observe(
        self,
        t_s: float,
        entered: Mapping[str, list[int]],
        left: Mapping[str, list[int]],
        crossings: Mapping[str, tuple[Crossing, ...]],
        zones_of: tuple[tuple[str, ...], ...],
    ) -> Observation:
        """Report the state after a step, to the windows too."""
        dwell_s = {}
        for zone in self._zones:
            counted = {track_id: stay for track_id, stay in sorted(zone.stays.items()) if stay.entered}
            dwell_s[zone.name] = {track_id: stay.inside_s - stay.since_s for track_id, stay in counted.items()}
            numbers = {self._tracks[track_id].number for track_id in counted}
            self._windows.set_zone(zone.name, numbers, len(entered[zone.name]), len(left[zone.name]))
        return Observation(
            source_id=self._source_id,
            t_s=t_s,
            occupancy={name: len(dwell) for name, dwell in dwell_s.items()},
            entered={name: tuple(sorted(ids)) for name, ids in entered.items()},
            left={name: tuple(sorted(ids)) for name, ids in left.items()},
            crossings=crossings,
            dwell_s=dwell_s,
            zones_of=zones_of,
        )


def _class_ids(names: Sequence[str] | None, classes: Sequence[str]) -> list[int] | None:
    """Class ids of the named classes; None for all."""
    return None if names is None else [i for i, name in enumerate(classes) if name in names]


def _of_class(tracked: Detections, class_ids: list[int] | None) -> npt.NDArray[np.bool_]:
    return np.ones(len(tracked), np.bool_) if class_ids is None else np.isin(tracked.class_id, class_ids)


def _rows(by_track: Mapping[int, _Track | _Stay | LinePath]) -> list[list[Any]]:
    """Track id and fields in order (``dataclasses.asdict`` takes ten times as long)."""
    return [[track_id, *(getattr(one, name) for name in one.__slots__)] for track_id, one in by_track.items()]
