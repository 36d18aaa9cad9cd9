"""Truth: who really is in the zones of a simulated camera and who really crosses its lines.

It knows where everybody's feet are and does not look at the picture: people count while the point between their feet is in
the picture, however much of them is hidden. Nothing here is shared with ``stream.count``: a person is in a zone while
the foot point is in its polygon, without any grace, and crosses a line when the foot point passes through the segment and
comes clear of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from stream.config import LineConfig
from stream.events import CountsEvent
from stream.simulation.crowd import Crowd, Walkers
from stream.simulation.ground import Floats, contains
from stream.simulation.scene import Scene
from stream.windows import Windows

CLEAR_M = 0.2  # from a line, measured on the ground: who stands on it and sways does not cross it


@dataclass(frozen=True)
class TrueCrossing:
    """Somebody has crossed a line in this frame."""

    frame_index: int
    line: str
    direction: Literal["in", "out"]
    person_id: int


@dataclass(frozen=True)
class FrameTruth:
    """One frame: the people inside each zone, and the crossings."""

    frame_index: int
    inside: dict[str, frozenset[int]]
    crossings: tuple[TrueCrossing, ...]


@dataclass(frozen=True)
class Truth:
    """A whole video."""

    fps: float
    zones: tuple[str, ...]
    lines: tuple[str, ...]
    frames: tuple[FrameTruth, ...]

    def occupancy(self, zone: str) -> npt.NDArray[np.int64]:
        """People in a zone, int64, one a frame."""
        return np.array([len(frame.inside[zone]) for frame in self.frames], np.int64)

    @property
    def crossings(self) -> tuple[TrueCrossing, ...]:
        """All crossings in the order of the frames."""
        return tuple(crossing for frame in self.frames for crossing in frame.crossings)

    def events(self, source_id: str, started_at: float, window_s: float = 1.0) -> list[CountsEvent]:
        """The counts as framewatch would write them if it saw everything.

        The windows are those of ``stream.windows``, so that they pair with what the service writes. Who is in a zone in
        the first frame has entered it; ``tracks`` are people.

        Args:
            source_id: of the events.
            started_at: POSIX seconds of the first frame.
            window_s: length of a window.
        """
        windows = Windows(source_id, self.zones, self.lines, window_s)
        before: dict[str, frozenset[int]] = {zone: frozenset() for zone in self.zones}
        for frame in self.frames:
            windows.move_to(round((started_at + frame.frame_index / self.fps) * 1e6))
            windows.add_frame()
            for zone, inside in frame.inside.items():
                windows.set_zone(zone, set(inside), len(inside - before[zone]), len(before[zone] - inside))
            before = frame.inside
            for crossing in frame.crossings:
                windows.add_crossing(crossing.line, crossing.direction)
        windows.finish()
        return windows.take()


class TruthCounter:
    """Follows the people of a scene frame by frame. Not thread-safe."""

    def __init__(self, scene: Scene):
        self._scene = scene
        size = np.array((scene.camera.width, scene.camera.height))
        self._polygons = {zone.name: np.array(zone.polygon) * size for zone in scene.zones}
        self._lines = [_Line(line, scene) for line in scene.lines]
        self._frames: list[FrameTruth] = []

    def observe(self, walkers: Walkers) -> FrameTruth:
        """Take in the next frame."""
        camera = self._scene.camera
        feet = camera.project(np.column_stack((walkers.position_m, np.zeros(len(walkers)))))
        seen = camera.inside(feet)
        ids, feet, places = walkers.person_id[seen], feet[seen], walkers.position_m[seen]
        inside = {name: frozenset(ids[contains(polygon, feet)].tolist()) for name, polygon in self._polygons.items()}
        index = len(self._frames)
        crossings = [
            TrueCrossing(index, line.name, direction, person_id)
            for line in self._lines
            for person_id, direction in line.follow(ids.tolist(), feet, places)
        ]
        frame = FrameTruth(index, inside, tuple(crossings))
        self._frames.append(frame)
        return frame

    def truth(self, fps: float) -> Truth:
        """All frames so far."""
        return Truth(fps, tuple(self._polygons), tuple(line.name for line in self._lines), tuple(self._frames))


class _Line:
    """One line and, by person: last foot point, on which side it was clear of the line last, and passages since then."""

    def __init__(self, config: LineConfig, scene: Scene):
        self.name = config.name
        self._ends = np.array(config.points) * (scene.camera.width, scene.camera.height)
        self._ends_m = scene.camera.ground(self._ends)
        self._people: dict[int, tuple[Floats, int, int]] = {}

    def follow(self, ids: list[int], feet: Floats, places: Floats) -> Iterable[tuple[int, Literal["in", "out"]]]:
        """The crossings that are complete now. In the picture's axes (y down) the right side is where the product is positive."""
        side_px = _side(self._ends, feet)
        from_m = _side(self._ends_m, places) / float(np.linalg.norm(self._ends_m[1] - self._ends_m[0]))
        people, self._people = self._people, {}
        for i, person_id in enumerate(ids):
            last, clear, passed = people.get(person_id, (feet[i], 0, 0))
            right = bool(side_px[i] > 0)
            if (bool(_side(self._ends, last[None])[0] > 0) != right) and _through(self._ends, last, feet[i]):
                passed += 1 if right else -1
            if abs(from_m[i]) > CLEAR_M:
                now = 1 if right else -1
                if clear == -now and passed == now:
                    yield person_id, "in" if right else "out"
                clear, passed = now, 0
            self._people[person_id] = (feet[i], clear, passed)


def _side(ends: Floats, points: Floats) -> Floats:
    """Twice the area of the triangles between a segment and points (N, 2), float64 (N,)."""
    (ax, ay), (bx, by) = ends
    return np.asarray((bx - ax) * (points[:, 1] - ay) - (by - ay) * (points[:, 0] - ax))


def _through(ends: Floats, start: Floats, end: Floats) -> bool:
    """Whether the ends of a segment lie on different sides of a step."""
    a, b = _side(np.stack((start, end)), ends)
    return bool((a > 0) != (b > 0))


def true_counts(scene: Scene, people: int, fps: float, seconds: float) -> Truth:
    """The truth about a video without drawing it; the same as that of the video."""
    crowd, counter = Crowd(scene, people, scene.seed, fps), TruthCounter(scene)
    for _ in range(frame_count(seconds, fps)):
        counter.observe(crowd.step())
    return counter.truth(fps)


def frame_count(seconds: float, fps: float) -> int:
    """Frames in so many seconds, one at least."""
    return max(1, round(seconds * fps))
