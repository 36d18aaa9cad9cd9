"""Windows: counts of one source's zones and lines over spans of equal length, aligned to the epoch.

Times are whole microseconds of POSIX time, so that windows begin exactly where they should and means are exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from stream.events import CountsEvent, Occupancy, event_id, timestamp
from stream.observation import Direction

SCHEMA = "framewatch.counts/1"
MAX_EMPTY = 10
"""So many windows after the last one with a frame are reported though they hold none; then there are none until the
next frame, however long that takes, except those in which something changed. So the work of a step is bounded."""
MAX_TRACKS = 100_000
"""A window tells no more different objects than this apart."""


@dataclass(slots=True)
class _Zone:
    """One zone in the open window; ``inside`` and thus the occupancy go on into the next."""

    inside: set[int] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)
    least: int | None = None
    most: int | None = None
    area_us: int = 0  # occupancy x microseconds
    from_us: int = 0  # since when there is this zone
    entered: int = 0
    left: int = 0

    def note(self) -> None:
        """Take the present occupancy into account."""
        n = len(self.inside)
        self.least = n if self.least is None else min(self.least, n)
        self.most = n if self.most is None else max(self.most, n)
        if len(self.seen) < MAX_TRACKS:
            self.seen |= self.inside

    def state(self) -> dict[str, Any]:
        """As JSON types (``dataclasses.asdict`` copies the sets' elements one by one)."""
        sets = {"inside": sorted(self.inside), "seen": sorted(self.seen)}
        return {name: sets[name] if name in sets else getattr(self, name) for name in self.__slots__}


class Windows:
    """The open window of one source, and the closed ones that nobody has taken yet. Not thread-safe.

    Args:
        source_id: id of the source.
        zones, lines: names, in the order in which a window's events come.
        window_s: length of a window.
    """

    def __init__(self, source_id: str, zones: Iterable[str], lines: Iterable[str], window_s: float):
        self._source_id = source_id
        self._length_us = max(1, round(window_s * 1e6))
        self._zones = {name: _Zone() for name in zones}
        self._lines: dict[str, dict[Direction, int]] = {name: {"in": 0, "out": 0} for name in lines}
        self._era = 0  # how often time has begun anew
        self._start_us: int | None = None  # of the open window
        self._from_us = 0  # from here on the window's occupancies are known
        self._now_us = 0
        self._frames = 0
        self._last_frame_us = 0  # start of the last window that has a frame
        self._closed: list[CountsEvent] = []

    def move_to(self, t_us: int) -> None:
        """Let time pass up to ``t_us``, which must not fall, and close the windows that end by then."""
        if self._start_us is None:
            self._open(t_us - t_us % self._length_us)
            self._from_us = self._now_us = t_us
        assert self._start_us is not None
        while t_us >= self._start_us + self._length_us:
            end_us = self._start_us + self._length_us
            self._hold(end_us)
            self._close()
            # Nothing can have changed in the windows in between; those too far from a frame are left out.
            too_far = end_us - self._last_frame_us > MAX_EMPTY * self._length_us
            self._open(t_us - t_us % self._length_us if too_far else end_us)
        self._hold(t_us)

    def add_frame(self) -> None:
        """A frame was analysed now."""
        assert self._start_us is not None
        self._frames += 1
        self._last_frame_us = self._start_us

    def set_zone(self, name: str, inside: set[int], entered: int, left: int) -> None:
        """From now on the objects ``inside`` are in the zone; so many have entered and left just now."""
        zone = self._zones[name]
        zone.inside = inside
        zone.entered += entered
        zone.left += left
        zone.note()

    def add_crossing(self, name: str, direction: Direction) -> None:
        """A line was crossed now."""
        self._lines[name][direction] += 1

    def set_names(self, zones: Iterable[str], lines: Iterable[str]) -> list[CountsEvent]:
        """Count for these zones and lines from now on; what the open window holds of those that are no more.

        One that is taken away and comes back within the window has two events of one id.
        """
        before_zones, before_lines = self._zones, self._lines
        self._zones = {name: before_zones.get(name) or _Zone(from_us=self._now_us) for name in zones}
        self._lines = {name: before_lines.get(name) or {"in": 0, "out": 0} for name in lines}
        if self._start_us is None:
            return []
        ended = [self._zone_event(name, zone) for name, zone in before_zones.items() if name not in self._zones]
        return ended + [self._line_event(name, counts) for name, counts in before_lines.items() if name not in self._lines]

    def take(self) -> list[CountsEvent]:
        """The windows closed since the last call: by time, zones before lines, each in the order of the config."""
        closed, self._closed = self._closed, []
        return closed

    def finish(self) -> None:
        """The input has ended: close the open window. Its end is the nominal one."""
        if self._start_us is not None:
            self._close()
            self._start_us = None

    def begin_anew(self) -> None:
        """Time has gone back: close the open window. Those from here on have other event ids, as they may be of the same span."""
        self.finish()
        self._era += 1
        self._zones = {name: _Zone() for name in self._zones}
        self._last_frame_us = 0

    def state(self) -> dict[str, Any]:
        """Everything that :meth:`restore` needs, as JSON types."""
        return {
            "era": self._era,
            "zones": {name: zone.state() for name, zone in self._zones.items()},
            "lines": {name: dict(counts) for name, counts in self._lines.items()},
            "start_us": self._start_us,
            "from_us": self._from_us,
            "now_us": self._now_us,
            "frames": self._frames,
            "last_frame_us": self._last_frame_us,
            "closed": [event.model_dump(mode="json") for event in self._closed],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where the one that wrote ``state`` stood, with the same length; zones and lines that are new begin empty."""
        for name in self._zones.keys() & state["zones"].keys():
            zone = state["zones"][name]
            self._zones[name] = _Zone(**zone | {"inside": set(zone["inside"]), "seen": set(zone["seen"])})
        for name in self._lines.keys() & state["lines"].keys():
            self._lines[name] = dict(state["lines"][name])
        self._era = state.get("era", 0)
        self._start_us, self._from_us, self._now_us = state["start_us"], state["from_us"], state["now_us"]
        self._frames, self._last_frame_us = state["frames"], state["last_frame_us"]
        self._closed = [CountsEvent.model_validate(event) for event in state["closed"]]

    def _open(self, start_us: int) -> None:
        self._start_us = self._from_us = self._now_us = start_us
        self._frames = 0
        for zone in self._zones.values():
            zone.seen, zone.least, zone.most, zone.area_us, zone.entered, zone.left = set(), None, None, 0, 0, 0
        for counts in self._lines.values():
            counts["in"] = counts["out"] = 0

    def _hold(self, t_us: int) -> None:
        """The occupancies were what they are from the last moment to ``t_us``."""
        if t_us > self._now_us:
            for zone in self._zones.values():
                zone.area_us += len(zone.inside) * (t_us - self._now_us)
                zone.note()
            self._now_us = t_us

    def _close(self) -> None:
        """Report the open window, unless it is empty and far from any frame."""
        assert self._start_us is not None
        near = self._start_us - self._last_frame_us <= MAX_EMPTY * self._length_us
        changed = any(zone.entered or zone.left for zone in self._zones.values())
        if not (near or changed):
            return
        self._closed += [self._zone_event(name, zone) for name, zone in self._zones.items()]
        self._closed += [self._line_event(name, counts) for name, counts in self._lines.items()]

    def _zone_event(self, name: str, zone: _Zone) -> CountsEvent:
        n, known_us = len(zone.inside), self._now_us - max(self._from_us, zone.from_us)
        occupancy = Occupancy(
            min=n if zone.least is None else zone.least,
            mean=zone.area_us / known_us if known_us else float(n),
            max=n if zone.most is None else zone.most,
            last=n,
        )
        counts = {"occupancy": occupancy, "entered": zone.entered, "left": zone.left, "tracks": len(zone.seen)}
        return self._event(name).model_copy(update={"zone": name, **counts})

    def _line_event(self, name: str, counts: dict[Direction, int]) -> CountsEvent:
        return self._event(name).model_copy(update={"line": name, "crossings": dict(counts)})

    def _event(self, name: str) -> CountsEvent:
        assert self._start_us is not None
        return CountsEvent(
            event_id=event_id(SCHEMA, self._source_id, name, self._start_us, *([self._era] if self._era else [])),
            source_id=self._source_id,
            window_start=timestamp(self._start_us / 1e6),
            window_end=timestamp((self._start_us + self._length_us) / 1e6),
            frames=self._frames,
        )
