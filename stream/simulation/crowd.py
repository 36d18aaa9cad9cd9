"""Crowd: who is where in a scene, frame by frame.

People come in by gates, alone or in parties of up to four, walk through, stop at spots, queue, and leave by another gate.
``paths`` finds their ways, ``forces`` keeps them off each other. The same scene, number and seed make the same crowd, to
the last bit on one kind of machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import numpy.typing as npt

from stream.simulation import forces
from stream.simulation.ground import Floats, clearance, contains
from stream.simulation.paths import Paths, cut
from stream.simulation.scene import Scene

LONGEST_STEP_S = 0.05  # of the equations of motion; longer frames take several
SPEED_M_S = (1.34, 0.26)  # mean and deviation of free walking (Helbing and Molnar 1995)
SLOWEST_M_S, FASTEST_M_S = 0.7, 2.1
RELAX_S = 0.5  # to the speed one wishes (Helbing and Molnar 1995)
PARTY_SIZES, PARTY_SHARES = (2, 3, 4), (0.62, 0.25, 0.13)  # Moussaid et al. 2010: pairs are most frequent
PARTY_SPEED = 0.9  # Moussaid et al. 2010: those who talk walk slower
LINGER_S = (8.0, 45.0)
SERVED_S = (4.0, 12.0)
TURN_RAD_S = 3.5
TURNING_POINT_M = 0.6  # a corner that is this close is passed
ARRIVED_M = 0.35
ROOM_M = 0.7  # that a newcomer finds free
WARM_UP_S = 4.0  # before the first frame, so that nobody starts from standstill
LOOK_AGAIN = 10  # frames between two looks whether the way is still free
STUCK_S, STUCK_M = 3.0, 0.4  # who moves less in this time pushes through for a while


@dataclass(frozen=True)
class Walkers:
    """The people of one frame; all arrays have one row a person.

    Attributes:
        person_id: int64 (N,), ascending; never used again.
        position_m: float64 (N, 2), where the feet are.
        heading_rad: float64 (N,), where the body looks; 0 is along x, counter-clockwise.
        speed_m_s: float64 (N,).
        gait: float64 (N,), phase of the walking cycle (two steps) from 0 to 1; stays where it is while somebody stands.
        group: int64 (N,), equal for those who belong together, -1 for those alone.
    """

    person_id: npt.NDArray[np.int64]
    position_m: Floats
    heading_rad: Floats
    speed_m_s: Floats
    gait: Floats
    group: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.person_id)


@dataclass(slots=True, eq=False)
class _Party:
    """Those who belong together, and what they still want to do."""

    number: int
    members: list[_Person]
    lingers: int
    queues: bool
    exit: int
    doing: str = "walk"  # walk (to where they leave), linger, approach (a queue), queue
    spot: int = -1
    queue: int = -1
    rest_s: float = 0.0  # of a stop, once it began


@dataclass(slots=True, eq=False)
class _Person:
    """What one person is up to; position and speed are in the crowd's arrays."""

    person_id: int
    wish_m_s: float
    goal: Floats
    face_rad: float | None
    way: list[Floats] = field(default_factory=list)
    party: _Party = field(init=False)
    pushing_s: float = 0.0
    since_s: float = 0.0  # when, and where, it was last seen to make progress
    mark: Floats = field(default_factory=lambda: np.zeros(2))


class Crowd:
    """The people in a scene. Not thread-safe.

    Args:
        scene: where they are.
        people: how many at once; newcomers replace those who leave, so that it stays about so many.
        seed: of everything they do.
        fps: frames per second.

    Raises:
        ValueError: ``people`` is negative or more than the scene holds, or ``fps`` is not positive; names it.
    """

    def __init__(self, scene: Scene, people: int, seed: int, fps: float):
        if not 0 <= people <= scene.capacity:
            raise ValueError(f"people must be 0 to {scene.capacity} in this {scene.name} (seed {scene.seed}), not {people}")
        if not fps > 0:
            raise ValueError(f"fps must be positive, not {fps}")
        self.scene, self.people, self.fps = scene, people, fps
        self._rng = np.random.default_rng((seed, scene.seed, 1))
        self._solid = [o.polygon_m for o in scene.obstacles]
        self._paths = Paths(scene.walkable, self._solid)
        self._ids, self._numbers = count(1), count(0)
        self._persons: list[_Person] = []
        self._position = np.zeros((0, 2))
        self._velocity = np.zeros((0, 2))
        self._heading = np.zeros(0)
        self._gait = np.zeros(0)
        self._lines: list[list[_Party]] = [[] for _ in scene.queues]
        self._taken: set[int] = set()  # spots
        self._now_s = 0.0
        self._frame = 0
        self._populate()
        for _ in range(round(WARM_UP_S / 0.04)):
            self._move(0.04)

    def step(self) -> Walkers:
        """Let one frame's time pass, and tell where everybody is then."""
        pieces = math.ceil(1 / self.fps / LONGEST_STEP_S)
        for _ in range(pieces):
            self._move(1 / self.fps / pieces)
        return Walkers(
            person_id=np.array([person.person_id for person in self._persons], np.int64),
            position_m=self._position.copy(),
            heading_rad=self._heading.copy(),
            speed_m_s=np.hypot(self._velocity[:, 0], self._velocity[:, 1]),
            gait=self._gait.copy(),
            group=np.array([p.party.number if len(p.party.members) > 1 else -1 for p in self._persons], np.int64),
        )

    # -- motion

    def _move(self, dt_s: float) -> None:
        self._now_s += dt_s
        self._frame += 1
        self._decide(dt_s)
        self._arrive(dt_s)
        if not self._persons:
            return
        wished, walks, cohesive, eager = self._wishes(dt_s)
        facing = np.column_stack((np.cos(self._heading), np.sin(self._heading)))
        parties = np.array([p.party.number for p in self._persons], np.int64)
        push = forces.apart(self._position, self._velocity, facing, parties)
        push *= np.where(eager, 0.15, np.where(walks, 1.0, 0.1))[:, None]
        push += forces.together(self._position, facing, np.where(cohesive, parties, -1))
        push += forces.off_walls(self._position, self._paths.walls) * walks[:, None]
        push += self._rng.normal(0, 0.15, push.shape) * walks[:, None]
        velocity = self._velocity + dt_s * ((wished - self._velocity) / RELAX_S + push)
        limit = np.array([1.3 * p.wish_m_s for p in self._persons])
        speed = np.hypot(velocity[:, 0], velocity[:, 1])
        velocity *= np.minimum(1, limit / np.maximum(speed, 1e-6))[:, None]
        self._go(velocity, dt_s, walks)

    def _go(self, velocity: Floats, dt_s: float, walks: npt.NDArray[np.bool_]) -> None:
        """Move everybody, but nobody into another or through a wall."""
        moved = forces.separate(self._position + velocity * dt_s, ~walks)
        away, distance = forces.from_wall(moved, self._paths.walls)
        into_m = np.maximum(forces.BODY_M - distance, 0) * ~cut(self._position, moved, self._paths.walls)
        moved += away * into_m[:, None]
        through = cut(self._position, moved, self._paths.walls)
        moved[through] = self._position[through]
        self._velocity = np.where(through[:, None], 0.0, velocity)
        speed = np.hypot(self._velocity[:, 0], self._velocity[:, 1])
        self._velocity[~walks & (speed < 0.1)] = 0
        self._position = moved
        step_m = 0.32 + 0.3 * speed  # 0.72 m at 1.34 m/s
        self._gait = (self._gait + speed * dt_s / (2 * step_m)) % 1.0
        direction = np.arctan2(self._velocity[:, 1], self._velocity[:, 0])
        faces = np.array([np.nan if p.face_rad is None or walks[i] else p.face_rad for i, p in enumerate(self._persons)])
        wanted = np.where(np.isfinite(faces), faces, np.where(speed > 0.2, direction, self._heading))
        turn = (wanted - self._heading + math.pi) % (2 * math.pi) - math.pi
        self._heading = self._heading + np.clip(turn * min(1.0, 6 * dt_s), -TURN_RAD_S * dt_s, TURN_RAD_S * dt_s)

    def _wishes(self, dt_s: float) -> tuple[Floats, npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """The velocity everybody wishes (N, 2); who walks, walks as a group, and pushes through, bool (N,)."""
        n = len(self._persons)
        wished = np.zeros((n, 2))
        walks, cohesive, eager = np.ones(n, bool), np.zeros(n, bool), np.zeros(n, bool)
        look = [i for i in range(n) if (i + self._frame) % LOOK_AGAIN == 0]
        if look:
            ahead = np.array([self._persons[i].way[0] for i in look])
            for i, free in zip(look, self._paths.sees(self._position[look], ahead), strict=True):
                if not free:
                    self._persons[i].way = self._paths.find(self._position[i], self._persons[i].goal)
        for i, person in enumerate(self._persons):
            x, y = self._position[i].tolist()
            while len(person.way) > 1 and math.hypot(person.way[0][0] - x, person.way[0][1] - y) < TURNING_POINT_M:
                person.way.pop(0)
            target = person.way[0]
            dx, dy = float(target[0]) - x, float(target[1]) - y
            gap = math.hypot(dx, dy)
            stops = person.party.doing != "walk"
            if stops and len(person.way) == 1 and gap < ARRIVED_M:
                walks[i] = False
                wished[i] = (dx, dy)  # gently back to the place
                continue
            pace = person.wish_m_s
            if stops and len(person.way) == 1:
                pace = min(pace, 0.25 + gap)
            wished[i] = (dx / gap * pace, dy / gap * pace) if gap > 1e-6 else (0.0, 0.0)
            cohesive[i] = not (stops and gap < 3.0)
            eager[i] = self._pushes(person, (x, y), dt_s)
        return wished, walks, cohesive, eager

    def _pushes(self, person: _Person, at: tuple[float, float], dt_s: float) -> bool:
        """Whether somebody who has not moved on for long pushes through now."""
        person.pushing_s = max(0.0, person.pushing_s - dt_s)
        if self._now_s - person.since_s >= STUCK_S:
            if math.dist(at, person.mark) < STUCK_M:
                person.pushing_s = STUCK_S
                person.way = self._paths.find(np.array(at), person.goal)
            person.since_s, person.mark = self._now_s, np.array(at)
        return person.pushing_s > 0

    # -- decisions

    def _decide(self, dt_s: float) -> None:
        """Let parties that are done with something begin the next, and take away those who have left."""
        where = {person: self._position[i] for i, person in enumerate(self._persons)}
        for queue, line in enumerate(self._lines):
            self._serve(queue, line, where, dt_s)
        gone: list[_Person] = []
        for party in dict.fromkeys(person.party for person in self._persons):
            lead = party.members[0]
            near = math.dist(where[lead], lead.goal)
            if party.doing == "linger" and near < ARRIVED_M:
                party.rest_s -= dt_s
                if party.rest_s <= 0:
                    self._taken.discard(party.spot)
                    self._next(party, where)
            elif party.doing == "approach":
                line, places = self._lines[party.queue], self.scene.queues[party.queue].places_m
                if len(line) >= len(places):
                    self._next(party, where)
                else:
                    self._send(lead, places[len(line)], where[lead])
                    if near < 1.5:
                        party.doing = "queue"
                        line.append(party)
            elif party.doing == "walk":
                gone += [person for person in party.members if math.dist(where[person], person.goal) < 0.5]
        if gone:
            for person in gone:
                person.party.members.remove(person)
            kept = [i for i, person in enumerate(self._persons) if person not in gone]
            self._persons = [self._persons[i] for i in kept]
            self._position, self._velocity = self._position[kept], self._velocity[kept]
            self._heading, self._gait = self._heading[kept], self._gait[kept]

    def _serve(self, queue: int, line: list[_Party], where: dict[_Person, Floats], dt_s: float) -> None:
        places = self.scene.queues[queue]
        for place, party in enumerate(line):
            lead = party.members[0]
            self._send(lead, places.places_m[place], where[lead])
            lead.face_rad = float(places.heading_rad[place])
        if line and math.dist(where[line[0].members[0]], places.places_m[0]) < ARRIVED_M:
            line[0].rest_s -= dt_s
            if line[0].rest_s <= 0:
                self._next(line.pop(0), where)

    def _next(self, party: _Party, where: dict[_Person, Floats]) -> None:
        """Begin the next thing: a queue, a stop, at last the way out."""
        party.spot = -1
        if party.queues:
            party.queues = False
            free = [i for i, line in enumerate(self._lines) if len(line) < len(self.scene.queues[i].places_m)]
            if free and len(party.members) == 1:
                party.doing, party.queue = "approach", free[int(self._rng.integers(len(free)))]
                party.rest_s = self._rng.uniform(*SERVED_S)
                tail = self.scene.queues[party.queue].places_m[len(self._lines[party.queue])]
                self._send(party.members[0], tail, where[party.members[0]])
                return
        while party.lingers > 0:
            party.lingers -= 1
            spots = [i for i in range(len(self.scene.spots)) if i not in self._taken]
            if spots:
                self._linger(party, spots[int(self._rng.integers(len(spots)))], where)
                return
        party.doing = "walk"
        gate = self.scene.gates[party.exit]
        a, b = np.array(gate.a_m), np.array(gate.b_m)
        inward = np.array([math.cos(gate.inward_rad), math.sin(gate.inward_rad)])
        share = self._rng.uniform(0.15, 0.85)
        for person in party.members:
            share = float(np.clip(share + self._rng.uniform(-0.1, 0.1), 0.1, 0.9))
            person.face_rad = None
            self._send(person, a + (b - a) * share + inward * forces.BODY_M, where[person])

    def _linger(self, party: _Party, spot: int, where: dict[_Person, Floats]) -> None:
        """Stop at a spot: alone looking where it looks, together in a circle."""
        party.doing, party.spot, party.rest_s = "linger", spot, self._rng.uniform(*LINGER_S)
        self._taken.add(spot)
        middle, heading = np.array(self.scene.spots[spot].position_m), self.scene.spots[spot].heading_rad
        n = len(party.members)
        radius = 0.42 / math.sin(math.pi / n) if n > 1 else 0.0
        for k, person in enumerate(party.members):
            angle = heading + math.pi + 2 * math.pi * k / n
            person.face_rad = angle + math.pi
            self._send(person, middle + radius * np.array([math.cos(angle), math.sin(angle)]), where[person])

    def _send(self, person: _Person, goal: Floats, at: Floats) -> None:
        if not person.way or not np.array_equal(goal, person.goal):
            person.goal = goal
            person.way = self._paths.find(at, goal)
            person.since_s, person.mark = self._now_s, at

    # -- coming in

    def _arrive(self, dt_s: float) -> None:
        """About two newcomers a second for each one missing."""
        missing = self.people - len(self._persons)
        if missing <= 0 or self._rng.random() >= 1 - math.exp(-2 * missing * dt_s):
            return
        entry = int(self._rng.integers(len(self.scene.gates)))
        gate = self.scene.gates[entry]
        a, b = np.array(gate.a_m), np.array(gate.b_m)
        inward = np.array([math.cos(gate.inward_rad), math.sin(gate.inward_rad)])
        size = min(self._size(), missing + 1, max(1, int(np.linalg.norm(b - a) / ROOM_M)))
        step = (b - a) / np.linalg.norm(b - a) * ROOM_M
        first = a + (b - a) * self._rng.random()
        row = first + (np.arange(size)[:, None] - (size - 1) / 2) * step
        shares = np.clip((row - a) @ (b - a) / ((b - a) ** 2).sum(), 0.08, 0.92)
        places = a + (b - a) * shares[:, None] + inward * (forces.BODY_M + 0.02)
        others = np.concatenate((self._position, places))
        gaps = np.linalg.norm(others[None] - places[:, None], axis=2)
        gaps[np.arange(size), len(self._position) + np.arange(size)] = np.inf
        if gaps.min() < 0.55 or (len(self._position) and gaps[:, : len(self._position)].min() < ROOM_M):
            return
        party = self._party(size, entry)
        self._enter(party, places, gate.inward_rad)
        self._next(party, dict(zip(party.members, places, strict=True)))

    def _size(self) -> int:
        share, mean = self.scene.mix.groups, sum(n * p for n, p in zip(PARTY_SIZES, PARTY_SHARES, strict=True))
        if self._rng.random() >= share / (share + (1 - share) * mean):
            return 1
        return int(self._rng.choice(PARTY_SIZES, p=PARTY_SHARES))

    def _party(self, size: int, entry: int | None) -> _Party:
        exits = [i for i in range(len(self.scene.gates)) if i != entry]
        mix = self.scene.mix
        lingers = int(self._rng.random() < mix.linger) * int(self._rng.integers(1, 3))
        queues = bool(self.scene.queues) and size == 1 and self._rng.random() < mix.queue
        wish = np.clip(self._rng.normal(*SPEED_M_S, size), SLOWEST_M_S, FASTEST_M_S)
        pace = float(wish.min()) * (PARTY_SPEED if size > 1 else 1.0)
        members = [_Person(next(self._ids), pace, np.zeros(2), None) for _ in range(size)]
        party = _Party(next(self._numbers), members, lingers, queues, exits[int(self._rng.integers(len(exits)))])
        for person in members:
            person.party = party
        return party

    def _enter(self, party: _Party, places: Floats, heading_rad: float) -> None:
        n = len(party.members)
        self._persons += party.members
        self._position = np.concatenate((self._position, places))
        direction = np.array([math.cos(heading_rad), math.sin(heading_rad)])
        pace = np.array([person.wish_m_s for person in party.members])
        self._velocity = np.concatenate((self._velocity, pace[:, None] * direction))
        self._heading = np.concatenate((self._heading, np.full(n, heading_rad)))
        self._gait = np.concatenate((self._gait, self._rng.random(n)))
        for person, place in zip(party.members, places, strict=True):
            person.since_s, person.mark = self._now_s, place

    def _populate(self) -> None:
        """The people that are there from the beginning, spread over the scene; some of them in the middle of a stop."""
        while len(self._persons) < self.people:
            party = self._party(min(self._size(), self.people - len(self._persons)), None)
            places = self._free_places(len(party.members))
            self._enter(party, places, self._rng.uniform(-math.pi, math.pi))
            self._next(party, dict(zip(party.members, places, strict=True)))
            if party.doing == "linger" and self._rng.random() < 0.7:
                party.rest_s *= self._rng.random()
                self._position[-len(places) :] = [person.goal for person in party.members]

    def _free_places(self, size: int) -> Floats:
        """Places for a party, free of things and, unless it is very full, of others."""
        low, high = self.scene.walkable.min(axis=0), self.scene.walkable.max(axis=0)
        for room in np.repeat((ROOM_M, 2 * forces.BODY_M, 0.0), 200):
            turn, middle = self._rng.uniform(0, math.pi), self._rng.uniform(low, high)
            abreast = (np.arange(size) - (size - 1) / 2)[:, None] * forces.GROUP_SPACE_M
            places = middle + abreast * np.array([math.cos(turn), math.sin(turn)])
            if not contains(self.scene.walkable, places).all() or any(contains(p, places).any() for p in self._solid):
                continue
            if clearance(places, [self.scene.walkable, *self._solid]).min() < 0.35:
                continue
            if not len(self._position) or np.linalg.norm(self._position[None] - places[:, None], axis=2).min() >= room:
                return np.asarray(places)
        raise ValueError(f"no room for {self.people} people in this {self.scene.name} (seed {self.scene.seed})")
