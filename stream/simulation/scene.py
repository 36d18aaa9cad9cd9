"""Scene: a place, its camera, what stands in it, and where people come from, wait and go to.

``layouts`` says what the places look like; here is what they are made of. The same name and seed make the same scene.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from stream.config import LineConfig, ZoneConfig
from stream.simulation.address import ASPECT
from stream.simulation.address import SCENES as SCENES
from stream.simulation.camera import Camera
from stream.simulation.ground import Floats, Point, area, clip

ObstacleKind = Literal[
    "building",
    "wall",
    "shelf",
    "pillar",
    "lamp",
    "bollard",
    "bench",
    "planter",
    "fountain",
    "car",
    "kiosk",
    "counter",
    "machine",
    "barrier",
]
SurfaceKind = Literal["paving", "asphalt", "tiles", "carpet", "concrete", "terrazzo", "grass", "marking", "wood"]
Weather = Literal["clear", "overcast", "rain", "fog"]
WEATHERS: tuple[Weather, ...] = ("clear", "overcast", "rain", "fog")
WEATHER_SHARES = (0.5, 0.3, 0.12, 0.08)
BORDER = 0.03  # of the picture, that zones and lines keep free
ZONE_STEPS = 4  # pieces that a side of a zone is cut into, so that it follows the lens
HEADROOM_M = 1.9  # a person of this height at the far side of what a camera watches touches the upper edge of its picture
SPAN_M = 60  # how far to either side of the camera's axis it is looked for what it sees
DENSEST_PER_M2 = 0.6  # people that can still walk freely; Fruin's level of service D begins at 0.72


@dataclass(frozen=True)
class Obstacle:
    """A solid thing: a vertical prism over ``polygon_m`` (K, 2), counter-clockwise, from the ground up to ``height_m``."""

    polygon_m: Floats
    height_m: float
    kind: ObstacleKind


@dataclass(frozen=True)
class Surface:
    """A patch of ground of its own kind; later ones lie over earlier ones."""

    polygon_m: Floats
    kind: SurfaceKind


@dataclass(frozen=True)
class Gate:
    """Where people come in and leave: a segment on the edge of what can be walked on, and the direction inwards."""

    a_m: Point
    b_m: Point
    inward_rad: float


@dataclass(frozen=True)
class Spot:
    """A place to stand for a while, alone or in a small group, and where to look."""

    position_m: Point
    heading_rad: float


@dataclass(frozen=True)
class Queue:
    """A queue: its places (K, 2), the first one being served, and where each looks (K,)."""

    places_m: Floats
    heading_rad: Floats


@dataclass(frozen=True)
class Light:
    """How the place is lit.

    Attributes:
        outdoors: under the sky; shadows of the sun, otherwise soft ones below lamps.
        azimuth_rad, elevation_rad: where the light comes from (0 is along x, counter-clockwise).
        direct: share of direct light, from 0 (overcast) to 1 (bright sun): how dark shadows are.
        brightness: of a grey surface, about 0.45 (dusk) to 1.1.
        warmth: -1 (blue) to 1 (orange).
        weather: of an outdoor scene.
    """

    outdoors: bool
    azimuth_rad: float
    elevation_rad: float
    direct: float
    brightness: float
    warmth: float
    weather: Weather


@dataclass(frozen=True)
class Mix:
    """How people behave: share of newcomers that come in groups, that stop somewhere, and that queue on their way."""

    groups: float
    linger: float
    queue: float


@dataclass(frozen=True)
class Plan:
    """A place on the ground, in world metres, before it is seen by a camera."""

    ground: SurfaceKind
    walkable: Floats
    surfaces: tuple[Surface, ...]
    obstacles: tuple[Obstacle, ...]
    gates: tuple[Gate, ...]
    spots: tuple[Spot, ...]
    queues: tuple[Queue, ...]
    zones: dict[str, Floats]
    lines: dict[str, tuple[Point, Point]]
    mix: Mix


@dataclass(frozen=True)
class Scene:
    """A place and the camera that watches it.

    Attributes:
        name, seed: what it was made from.
        camera: the camera.
        walkable: polygon (K, 2) that people stay in; obstacles that stand in it are walked around.
        ground: what the ground is made of where no surface lies.
        surfaces: patches of other ground, in drawing order.
        obstacles: everything solid, walls and buildings around the walkable polygon included.
        gates, spots, queues: where people come from and go to, stand, and queue.
        zones, lines: in the picture, normalised, as a source's config has them.
        light: the light.
        mix: how people behave here.
    """

    name: str
    seed: int
    camera: Camera
    walkable: Floats
    ground: SurfaceKind
    surfaces: tuple[Surface, ...]
    obstacles: tuple[Obstacle, ...]
    gates: tuple[Gate, ...]
    spots: tuple[Spot, ...]
    queues: tuple[Queue, ...]
    zones: tuple[ZoneConfig, ...]
    lines: tuple[LineConfig, ...]
    light: Light
    mix: Mix

    @property
    def capacity(self) -> int:
        """The most people that can still walk here."""
        solid = sum(area(obstacle.polygon_m) for obstacle in self.obstacles if obstacle.kind not in ("building", "wall"))
        return max(1, int((area(self.walkable) - solid) * DENSEST_PER_M2))


@dataclass(frozen=True)
class Site:
    """Ranges from which a scene's camera is drawn, each (least, most).

    Attributes:
        height_m: of the camera.
        view_deg: horizontal angle of view.
        far_m: how far away people in the middle of the picture are still seen with their heads.
        aside_m: how far the camera stands from x = 0.
        aim_m: x of the point at two thirds of ``far_m`` that it is turned to.
    """

    height_m: tuple[float, float]
    view_deg: tuple[float, float]
    far_m: tuple[float, float]
    aside_m: tuple[float, float]
    aim_m: tuple[float, float]
    outdoors: bool


def build_scene(name: str, seed: int, width: int = 1280, height: int = 720) -> Scene:
    """Make a scene.

    Args:
        name: one of ``SCENES``.
        seed: 0 or more; varies the camera, the layout, the light.
        width, height: of the picture in pixels.

    Raises:
        ValueError: there is no such scene, or a number is out of range; names it.
    """
    from stream.simulation.layouts import LAYOUTS  # it needs the parts above

    if name not in SCENES:
        raise ValueError(f"no scene {name!r}; there is {', '.join(SCENES)}")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, not {seed}")
    if not ASPECT[0] <= width / height <= ASPECT[1]:
        raise ValueError(f"{width}x{height} is too tall or too wide: from 5:4 to 12:5")
    site, layout = LAYOUTS[name]
    rng = np.random.default_rng((SCENES.index(name), seed))
    camera = _camera(rng, site, width, height)
    plan: Plan = layout(rng, View(camera))
    return Scene(
        name=name,
        seed=seed,
        camera=camera,
        walkable=plan.walkable,
        ground=plan.ground,
        surfaces=plan.surfaces,
        obstacles=plan.obstacles,
        gates=plan.gates,
        spots=plan.spots,
        queues=plan.queues,
        zones=tuple(_zone(camera, zone, polygon) for zone, polygon in plan.zones.items()),
        lines=tuple(_line(camera, line, ends) for line, ends in plan.lines.items()),
        light=_light(rng, site.outdoors),
        mix=plan.mix,
    )


Layout = Callable[[np.random.Generator, "View"], Plan]


class View:
    """What a camera sees of the ground, measured along its own directions: u to the right, v forward, in metres.

    Attributes:
        camera: the camera.
        near_m: v of the ground at the lower edge of the picture, in the middle.
        far_m: v of people whose heads are at its upper edge.
    """

    def __init__(self, camera: Camera):
        self.camera = camera
        right = camera.axes[0, :2]
        self._axes = np.stack([right, (-right[1], right[0])])
        middle = camera.width / 2
        self.near_m = float(self.local(camera.ground([(middle, camera.height)]))[0, 1])
        heads = camera.rays([(middle, 0)])[0]
        self.far_m = float(np.hypot(*heads[:2]) / -heads[2] * (camera.position_m[2] - HEADROOM_M))

    def world(self, *points: Point) -> Floats:
        """Points (u, v) in the world, (N, 2)."""
        return np.asarray(np.asarray(points, np.float64) @ self._axes + self.camera.position_m[:2])

    def local(self, points_m: Floats) -> Floats:
        """Points of the world (N, 2) as u, v."""
        return np.asarray((points_m - self.camera.position_m[:2]) @ self._axes.T)

    def span(self, v: float, border: float = 0.0) -> tuple[float, float]:
        """The least and most u that the picture shows at ``v``, but for a ``border`` (share of its width)."""
        u = np.linspace(-SPAN_M, SPAN_M, 16 * SPAN_M + 1)
        points = _normalised(self.camera, self.world(*((float(one), v) for one in u)))
        seen = u[(points[:, 0] >= border) & (points[:, 0] <= 1 - border)]
        return float(seen[0]), float(seen[-1])

    def depth(self, share: float) -> float:
        """v at ``share`` of the way from ``near_m`` to ``far_m``."""
        return self.near_m + share * (self.far_m - self.near_m)


def _camera(rng: np.random.Generator, site: Site, width: int, height: int) -> Camera:
    mount_m, far_m = rng.uniform(*site.height_m), rng.uniform(*site.far_m)
    focal = 0.5 / math.tan(math.radians(rng.uniform(*site.view_deg)) / 2)  # of the width
    aside_m, aim_m = rng.uniform(*site.aside_m), rng.uniform(*site.aim_m)
    barrel = rng.uniform(0.0, 0.16)
    level = Camera(width, height, focal * width, (aside_m, 0.0, mount_m), 0.0, 0.0, -barrel, 0.15 * barrel)
    upper = level.rays([(width / 2, max(0.0, height / 2 - 0.375 * width))])[0]  # of a tall picture, that of 4:3
    tilt = math.atan((mount_m - HEADROOM_M) / far_m) + math.atan2(upper[2], upper[1])
    return replace(level, tilt_rad=tilt, pan_rad=math.atan2(aside_m - aim_m, far_m * 2 / 3))


def _light(rng: np.random.Generator, outdoors: bool) -> Light:
    weather = WEATHERS[int(rng.choice(len(WEATHERS), p=WEATHER_SHARES))] if outdoors else "clear"
    azimuth, elevation = rng.uniform(0, 2 * math.pi), rng.uniform(math.radians(25), math.radians(65))
    direct = rng.uniform(0.5, 0.95) if weather == "clear" else rng.uniform(0.0, 0.2)
    return Light(
        outdoors=outdoors,
        azimuth_rad=azimuth,
        elevation_rad=elevation if outdoors else math.radians(80),
        direct=direct if outdoors else rng.uniform(0.1, 0.4),
        brightness=rng.uniform(0.55, 1.1) if outdoors else rng.uniform(0.6, 1.0),
        warmth=rng.uniform(-0.5, 0.6),
        weather=weather,
    )


def _zone(camera: Camera, name: str, polygon_m: Floats) -> ZoneConfig:
    steps = np.arange(ZONE_STEPS)[:, None] / ZONE_STEPS
    sides = [a + (b - a) * steps for a, b in zip(polygon_m, np.roll(polygon_m, -1, axis=0), strict=True)]
    picture = _normalised(camera, np.concatenate(sides))
    return ZoneConfig(name=name, polygon=_rounded(clip(picture, BORDER, BORDER, 1 - BORDER, 1 - BORDER)))


def _line(camera: Camera, name: str, ends_m: tuple[Point, Point]) -> LineConfig:
    """The longest part of the segment that lies in the picture, sought in hundredths."""
    shares = np.linspace(0, 1, 101)[:, None]
    points = _normalised(camera, (1 - shares) * np.array(ends_m[0]) + shares * np.array(ends_m[1]))
    inside = points[((points > BORDER) & (points < 1 - BORDER)).all(axis=1)]
    start, end = _rounded(inside[[0, -1]])
    return LineConfig(name=name, points=(start, end))


def _normalised(camera: Camera, points_m: Floats) -> Floats:
    pixels = camera.project(np.column_stack((points_m, np.zeros(len(points_m)))))
    return np.asarray(pixels / (camera.width, camera.height))


def _rounded(points: Floats) -> list[Point]:
    return [(round(float(x), 4), round(float(y), 4)) for x, y in points]
