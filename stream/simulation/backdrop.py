"""Backdrop: the empty scene as its camera sees it, and how far away what stands in it is.

Every pixel's ray is met with the ground, the sides and tops of all solid things, and the ceiling or the sky, so that
perspective and lens distortion are those of the camera; the nearest hit is painted from a texture, of which a halving is
taken that suits the size of a pixel there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from stream.simulation.scene import Obstacle, Scene, SurfaceKind
from stream.simulation.textures import TILE_M, Picture, car_cabin, face_texture, ground_texture, top_texture

Floats = NDArray[np.float32]
MAP_PX_PER_M = 24.0  # of the maps of the ground, seen from above
MAP_MARGIN_M = 8.0
GRID_PX = 8  # rays are computed on a grid of this step and interpolated; the lens is smooth
CAR_CABIN = 0.74  # breadth and length of a car's cabin, as share of its body
CAR_WAIST = 0.58  # height of a car's body without its cabin, as share of the whole
EAVES_M = 0.02  # how far a ray may miss a face's edge, so that no gap shows between two faces
SKY_M = 5e3  # beyond everything that is drawn


@dataclass(frozen=True, slots=True)
class Backdrop:
    """The empty scene: ``bgr`` uint8 (H, W, 3), ``depth_m`` float32 (H, W) of solid things (``SKY_M`` where there is only ground or
    sky), and ``ground``, bool (H, W), where the ground shows."""

    bgr: Picture
    depth_m: Floats
    ground: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Face:
    """A plane patch: points origin + s * along + t * up for s, t in metres within ``size_m``."""

    origin: NDArray[np.float64]
    along: NDArray[np.float64]
    up: NDArray[np.float64]
    size_m: tuple[float, float]
    texture: Picture
    light: float
    outline: Floats | None = None  # of a top: the polygon in s, t


def paint_backdrop(scene: Scene) -> Backdrop:
    """Paint a scene without people. It takes about a second."""
    rng = np.random.default_rng((scene.seed, 0xBAC))
    canvas = _Canvas(scene)
    canvas.paint_sky(rng)
    canvas.paint_ground(rng)
    for style, obstacle in enumerate(scene.obstacles):
        for face in _faces(
            scene, obstacle, rng, 1000 * scene.seed + (style if obstacle.kind in ("car", "building") else len(obstacle.kind))
        ):
            canvas.paint_face(face)
    canvas.mist()
    return Backdrop(np.clip(canvas.bgr, 0, 255).astype(np.uint8), canvas.depth_m, canvas.ground & (canvas.depth_m == SKY_M))


class _Canvas:
    """The picture while it is painted."""

    def __init__(self, scene: Scene):
        camera = scene.camera
        self.scene, self.eye = scene, np.asarray(camera.position_m)
        self.rays = _rays(scene)
        self.bgr = np.zeros((camera.height, camera.width, 3), np.float32)
        self.depth_m = np.full((camera.height, camera.width), SKY_M, np.float32)
        self.distance_m = self.depth_m.copy()  # as depth_m, but of the ground too, for mist
        self.ground = np.zeros(self.depth_m.shape, np.bool_)

    def paint_sky(self, rng: np.random.Generator) -> None:
        """The sky, or a ceiling with its lamps."""
        up = self.rays[..., 2]
        light = self.scene.light
        if light.outdoors:
            height = np.clip(up / np.linalg.norm(self.rays, axis=2), 0, 1)[..., None]
            clear = np.array((235, 190, 150)) * (1 - height) + np.array((190, 120, 70)) * height
            grey = np.array((205, 203, 200)) * (1 - 0.3 * height)
            clouds = cv2.resize(rng.random((9, 16)).astype(np.float32), (up.shape[1], up.shape[0]), interpolation=cv2.INTER_CUBIC)[
                ..., None
            ]
            cover = np.clip(clouds - 0.2, 0, 0.8) if light.weather == "clear" else np.clip(clouds + 0.4, 0.7, 1)
            self.bgr[:] = clear * (1 - cover) + grey * cover
            return
        self.bgr[:] = (120, 120, 122)
        tall = max((o.height_m for o in self.scene.obstacles if o.kind == "wall"), default=4.0)
        where = up > 1e-3
        scale = (tall - self.eye[2]) / np.where(where, up, 1)
        x, y = (self.eye[0] + self.rays[..., 0] * scale), (self.eye[1] + self.rays[..., 1] * scale)
        panel = rng.uniform(0.55, 0.8)
        tile = _ceiling(rng)
        ceiling = _sample(
            _pyramid(tile),
            x / TILE_M * tile.shape[1],
            y / TILE_M * tile.shape[0],
            scale / self.scene.camera.focal_px / TILE_M * tile.shape[0] * 3,
        )
        self.bgr[where] = ceiling[where] * panel
        self.distance_m[where] = scale[where]

    def paint_ground(self, rng: np.random.Generator) -> None:
        """The ground and its surfaces, with the shadows that things cast on it."""
        scene = self.scene
        down = -self.rays[..., 2]
        where = down > 1e-3
        scale = self.eye[2] / np.where(where, down, 1).astype(np.float32)
        x, y = (self.eye[0] + self.rays[..., 0] * scale), (self.eye[1] + self.rays[..., 1] * scale)
        across = scale / scene.camera.focal_px  # metres a pixel sideways; in depth it is longer by the slope
        footprint = across * np.sqrt(np.clip(scale / self.eye[2], 1, 12)).astype(np.float32)
        maps = _GroundMaps(scene, x[where], y[where])

        def lay(kind: SurfaceKind) -> Floats:
            texture = ground_texture(kind, rng)
            texel = texture.shape[0] / TILE_M
            return _sample(_pyramid(texture), x * texel, y * texel, footprint * texel)

        ground = lay(scene.ground)
        for kind in dict.fromkeys(surface.kind for surface in scene.surfaces):
            share = maps.look_up(maps.surface(kind), x, y)[..., None]
            if share.any():
                ground += share * (lay(kind) - ground)
        ground *= maps.look_up(maps.light(rng), x, y)[..., None]
        self.bgr[where] = ground[where]
        self.distance_m[where] = scale[where]
        self.ground = where

    def paint_face(self, face: _Face) -> None:
        """Paint a face where it is nearer than what is there."""
        window = self._window(face)
        if window is None:
            return
        rays = self.rays[window]
        normal = np.cross(face.along, face.up)
        towards = rays @ normal.astype(np.float32)
        distance = float((face.origin - self.eye) @ normal)
        depth = np.divide(distance, towards, out=np.full(towards.shape, -1.0, np.float32), where=np.abs(towards) > 1e-6)
        offset = self.eye - face.origin
        s = (rays @ face.along.astype(np.float32)) * depth + np.float32(offset @ face.along)
        t = (rays @ face.up.astype(np.float32)) * depth + np.float32(offset @ face.up)
        width, height = face.size_m
        hit = (depth > 0.05) & (depth < self.distance_m[window])
        hit &= (s >= -EAVES_M) & (s <= width + EAVES_M) & (t >= -EAVES_M) & (t <= height + EAVES_M)
        if face.outline is not None:
            hit &= _inside(face.outline, s, t)
        if not hit.any():
            return
        texel_x, texel_y = (
            (face.texture.shape[1] / width, face.texture.shape[0] / height) if face.outline is None else (256 / TILE_M,) * 2
        )
        slant = np.clip(np.linalg.norm(rays, axis=2) / np.maximum(np.abs(towards), 1e-3), 1, 9) ** 0.5
        footprint = depth / self.scene.camera.focal_px * texel_y * slant
        colour = _sample(_pyramid(face.texture), s * texel_x, (height - t) * texel_y, np.maximum(footprint, 0))
        grime = 0.8 + 0.2 * np.clip(t / 0.35, 0, 1) if face.outline is None else 1.0  # little light reaches the foot of a wall
        np.copyto(
            self.bgr[window],
            colour * (face.light * np.broadcast_to(grime, hit.shape))[..., None].astype(np.float32),
            where=hit[..., None],
        )
        np.copyto(self.depth_m[window], depth, where=hit)
        np.copyto(self.distance_m[window], depth, where=hit)

    def mist(self) -> None:
        """Air takes colour from what is far away: much in fog, hardly any on a clear day."""
        light = self.scene.light
        reach_m = mist_reach_m(self.scene)
        share = (1 - np.exp(-np.minimum(self.distance_m, 4000) / reach_m))[..., None].astype(np.float32)
        if light.weather in ("clear", "overcast"):
            share = np.where((self.distance_m >= SKY_M)[..., None], 0, share)
        self.bgr += share * (np.array(MIST_BGR, np.float32) - self.bgr)

    def _window(self, face: _Face) -> tuple[slice, slice] | None:
        """The part of the picture that a face can lie in; none if it lies outside."""
        s, t = np.meshgrid(np.linspace(0, face.size_m[0], 24), np.linspace(0, face.size_m[1], 6))
        points = face.origin + s.reshape(-1, 1) * face.along + t.reshape(-1, 1) * face.up
        camera = self.scene.camera
        depth = camera.depth_m(points)
        if (depth <= 0.1).all():
            return None
        pixels = camera.project(points)
        if np.isnan(pixels).any() or (depth <= 0.3).any():
            return slice(0, camera.height), slice(0, camera.width)
        margin = 12
        x0, y0 = np.maximum(np.floor(pixels.min(0)) - margin, 0).astype(int)
        x1, y1 = np.minimum(np.ceil(pixels.max(0)) + margin, (camera.width, camera.height)).astype(int)
        return (slice(y0, y1), slice(x0, x1)) if x1 > x0 and y1 > y0 else None


MIST_BGR = (202, 200, 196)


def mist_reach_m(scene: Scene) -> float:
    """Distance at which all but a third of a thing's colour is lost to the air."""
    if not scene.light.outdoors:
        return 900.0
    return {"clear": 700.0, "overcast": 400.0, "rain": 110.0, "fog": 38.0}[scene.light.weather]


def sun(scene: Scene) -> NDArray[np.float64]:
    """Unit vector towards the light."""
    light = scene.light
    flat = np.cos(light.elevation_rad)
    return np.array([flat * np.cos(light.azimuth_rad), flat * np.sin(light.azimuth_rad), np.sin(light.elevation_rad)])


class _GroundMaps:
    """Pictures of the ground from above: where surfaces lie, and how much light falls."""

    def __init__(self, scene: Scene, x: Floats, y: Floats):
        self.scene = scene
        low, high = scene.walkable.min(axis=0) - MAP_MARGIN_M, scene.walkable.max(axis=0) + MAP_MARGIN_M
        seen = np.array([np.percentile(x, (2, 98)), np.percentile(y, (2, 98))]).T
        self.low = np.maximum(low, np.minimum(seen[0], low + 40))
        high = np.minimum(high, np.maximum(seen[1], high - 40))
        self.size = tuple(int(n) for n in np.minimum(np.ceil((high - self.low) * MAP_PX_PER_M), 2400))

    def look_up(self, ground_map: Floats, x: Floats, y: Floats) -> Floats:
        """The map's value at points of the ground; at its edge beyond it."""
        u, v = (x - self.low[0]) * MAP_PX_PER_M - 0.5, (y - self.low[1]) * MAP_PX_PER_M - 0.5
        found = cv2.remap(ground_map, u.astype(np.float32), v.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(found, np.float32)

    def surface(self, kind: SurfaceKind) -> Floats:
        """Share of each cell that is covered by surfaces of ``kind``, those hidden below later ones excluded."""
        cover = np.zeros(self.size[::-1], np.uint8)
        for surface in self.scene.surfaces:
            self._fill(cover, surface.polygon_m, 255 if surface.kind == kind else 0)
        return cover.astype(np.float32) / np.float32(255)

    def light(self, rng: np.random.Generator) -> Floats:
        """Brightness of the ground: shadows of things, the darker ground at their feet, stains, and pools below lamps."""
        scene, shade = self.scene, np.zeros(self.size[::-1], np.uint8)
        feet = np.zeros_like(shade)
        to_sun = sun(scene)
        for obstacle in scene.obstacles:
            self._fill(feet, obstacle.polygon_m, 255)
            if scene.light.outdoors:
                tip = obstacle.polygon_m - to_sun[:2] / to_sun[2] * obstacle.height_m
                hull = cv2.convexHull(np.concatenate([obstacle.polygon_m, tip]).astype(np.float32))[:, 0]
                self._fill(shade, hull, 255)
        small = (max(1, self.size[0] // 8), max(1, self.size[1] // 8))
        around = cv2.GaussianBlur(cv2.resize(feet, small, interpolation=cv2.INTER_AREA), (0, 0), 1.6)
        contact = cv2.resize(around, self.size, interpolation=cv2.INTER_LINEAR).astype(np.float32) / 255
        stains = cv2.resize(rng.normal(1, 0.05, (9, 11)).astype(np.float32), self.size, interpolation=cv2.INTER_CUBIC)
        spots = cv2.resize(rng.normal(1, 0.04, (60, 70)).astype(np.float32), self.size, interpolation=cv2.INTER_CUBIC)
        cast = cv2.GaussianBlur(shade, (0, 0), 2.5).astype(np.float32) / 255
        light = stains * spots * (1 - 0.55 * scene.light.direct * cast) * (1 - 0.5 * contact)
        if not scene.light.outdoors:
            x, y = np.arange(self.size[0]) / MAP_PX_PER_M, np.arange(self.size[1]) / MAP_PX_PER_M
            step, phase = rng.uniform(2.4, 4.0), rng.uniform(0, 6, 2)
            pools = np.cos(2 * np.pi * x / step + phase[0])[None] * np.cos(2 * np.pi * y / step + phase[1])[:, None]
            light *= (1 + 0.10 * pools).astype(np.float32)
        return np.asarray(light, np.float32)

    def _fill(self, ground_map: NDArray[np.uint8], polygon_m: NDArray[np.floating], value: int) -> None:
        points = ((np.asarray(polygon_m) - self.low) * MAP_PX_PER_M - 0.5) * 16
        cv2.fillPoly(ground_map, [np.clip(points, -1e6, 1e6).astype(np.int32)], value, cv2.LINE_AA, 4)


def _rays(scene: Scene) -> Floats:
    """The ray through each pixel's centre, float32 (H, W, 3), one long along the camera's axis."""
    camera = scene.camera
    xs, ys = np.arange(0, camera.width + GRID_PX, GRID_PX), np.arange(0, camera.height + GRID_PX, GRID_PX)
    grid = np.stack(np.meshgrid(np.minimum(xs, camera.width), np.minimum(ys, camera.height)), -1).reshape(-1, 2)
    coarse = np.nan_to_num(camera.rays(grid)).reshape(len(ys), len(xs), 3).astype(np.float32)
    u, v = np.meshgrid(_between(xs, camera.width), _between(ys, camera.height))
    return np.asarray(cv2.remap(coarse, u, v, cv2.INTER_LINEAR), np.float32)


def _between(steps: NDArray[np.int64], size: int) -> Floats:
    """Where the centres of ``size`` pixels lie between grid ``steps``, the last of which is cut off at ``size``."""
    between = np.interp(np.arange(size) + 0.5, np.minimum(steps, size), np.arange(len(steps)))
    return np.asarray(between, np.float32)


def _faces(scene: Scene, obstacle: Obstacle, rng: np.random.Generator, style: int) -> list[_Face]:
    """Sides that look at the camera, and the top if it is seen from above."""
    if obstacle.kind != "car":
        return _prism(scene, obstacle, obstacle.polygon_m, 0.0, obstacle.height_m, rng, style)
    waist, middle = obstacle.height_m * CAR_WAIST, obstacle.polygon_m.mean(axis=0)
    body = _prism(scene, obstacle, obstacle.polygon_m, 0.0, waist, rng, style)
    roof = middle + (obstacle.polygon_m - middle) * CAR_CABIN
    cabin = _prism(scene, obstacle, roof, waist, obstacle.height_m, rng, style)
    glazed = [replace(face, texture=car_cabin(*face.size_m, style)) if face.outline is None else face for face in cabin]
    return body + glazed


def _prism(
    scene: Scene, obstacle: Obstacle, polygon: NDArray[np.float64], bottom: float, top: float, rng: np.random.Generator, style: int
) -> list[_Face]:
    eye, to_sun, light = np.asarray(scene.camera.position_m), sun(scene), scene.light
    faces = []
    up = np.array([0.0, 0.0, 1.0])
    for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        length = float(np.linalg.norm(b - a))
        outward = np.array([b[1] - a[1], a[0] - b[0], 0.0]) / max(length, 1e-9)
        if length < 1e-3 or outward[:2] @ (eye[:2] - a) <= 0:
            continue
        lit = 0.62 + 0.12 * outward[0] + 0.5 * light.direct * max(0.0, float(outward @ to_sun)) + 0.12 * (1 - light.direct)
        if not light.outdoors:
            lit = 0.80 + 0.10 * outward[0]
        texture = face_texture(obstacle.kind, length, top - bottom, rng, style)
        faces.append(_Face(np.array([*a, bottom]), np.array([*(b - a), 0.0]) / length, up, (length, top - bottom), texture, lit))
    if eye[2] > top:
        low, size = polygon.min(axis=0), np.ptp(polygon, axis=0)
        texture = top_texture(obstacle.kind, rng, style)
        outline = (polygon - low).astype(np.float32)
        lit = 0.75 + 0.3 * light.direct if light.outdoors else 0.95
        faces.append(
            _Face(
                np.array([*low, top]),
                np.array([1.0, 0, 0]),
                np.array([0, 1.0, 0]),
                (float(size[0]), float(size[1])),
                texture,
                lit,
                outline,
            )
        )
    return faces


def _inside(polygon: Floats, x: Floats, y: Floats) -> NDArray[np.bool_]:
    """Which points lie in a polygon (even-odd rule)."""
    inside = np.zeros(x.shape, np.bool_)
    for (ax, ay), (bx, by) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if ay != by:
            inside ^= ((ay > y) != (by > y)) & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
    return inside


def _pyramid(texture: Picture) -> list[Picture]:
    levels = [texture]
    while min(levels[-1].shape[:2]) >= 8 and len(levels) < 7:
        levels.append(cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    return levels


def _sample(levels: list[Picture], x: Floats, y: Floats, footprint: Floats) -> Floats:
    """The texture's colour at texels x, y, smoothed to about ``footprint`` texels a pixel; the texture repeats."""
    level = cv2.log(np.maximum(footprint, 1).astype(np.float32)) * np.float32(1 / math.log(2))
    level = np.minimum(level, len(levels) - 1)
    first, last = math.floor(float(level.min())), math.ceil(float(level.max()))
    result = np.zeros((*x.shape, 3), np.float32)
    height, width = levels[0].shape[:2]
    x, y = x.astype(np.float32, copy=False), y.astype(np.float32, copy=False)
    for number in range(first, last + 1):
        picture = levels[number]
        share = np.maximum(1 - np.abs(level - np.float32(number)), 0)
        u, v = (
            x * np.float32(picture.shape[1] / width) - np.float32(0.5),
            y * np.float32(picture.shape[0] / height) - np.float32(0.5),
        )
        colours = cv2.remap(picture, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        result += colours * share[..., None]
    return result


def _ceiling(rng: np.random.Generator) -> Picture:
    tile = np.full((384, 384, 3), rng.uniform(150, 235), np.float32)
    step = int(rng.choice([38, 64, 96]))
    tile[::step] *= 0.8
    tile[:, ::step] *= 0.8
    for y in (60, 250):
        cv2.rectangle(tile, (100, y), (260, y + 28), (255, 255, 255), -1)
    return np.clip(tile, 0, 255).astype(np.uint8)
