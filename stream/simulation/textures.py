"""Textures: painted pictures of grounds and of the faces of solid things, BGR uint8, drawn from a random generator."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from stream.simulation.scene import ObstacleKind, SurfaceKind

Picture = NDArray[np.uint8]
Canvas = NDArray[np.float32]
TILE_PX = 768
TILE_M = 6.0  # side of a ground texture before it repeats
FACE_PX_PER_M = 72
FACE_PX_MAX = 2400


def ground_texture(kind: SurfaceKind, rng: np.random.Generator) -> Picture:
    """A square of ground, ``TILE_M`` wide, whose opposite edges fit together."""
    return _byte(_GROUNDS[kind](rng) * _noise(rng, TILE_PX, 1.0, (0.04, 0.03))[..., None])


def face_texture(kind: ObstacleKind, width_m: float, height_m: float, rng: np.random.Generator, style: int) -> Picture:
    """The side of a solid thing; things of one ``style`` look alike."""
    scale = min(FACE_PX_PER_M, FACE_PX_MAX / max(width_m, height_m))
    width, height = max(4, int(width_m * scale)), max(4, int(height_m * scale))
    canvas = np.zeros((height, width, 3), np.float32)
    _FACES[kind](canvas, scale, rng, np.random.default_rng(style))
    grain = rng.normal(1, 0.03, (max(2, height // 2), max(2, width // 2))).astype(np.float32)
    return _byte(canvas * cv2.resize(grain, (width, height))[..., None])


def top_texture(kind: ObstacleKind, rng: np.random.Generator, style: int) -> Picture:
    """The top of a solid thing, ``TILE_M`` wide and repeating."""
    look = np.random.default_rng(style)
    canvas = np.empty((256, 256, 3), np.float32)
    colours: dict[ObstacleKind, tuple[float, float, float]] = {
        "planter": (50, 92, 62), "fountain": (150, 140, 110), "bench": (70, 100, 140), "building": (110, 112, 116),
        "wall": (150, 152, 155),
    }  # fmt: skip
    canvas[:] = _paintwork(look) if kind == "car" else colours.get(kind, _tint(look, 60, 190, 12))
    if kind == "shelf":
        for _ in range(60):
            x, y = rng.integers(0, 256, 2)
            cv2.rectangle(canvas, (int(x), int(y)), (int(x) + 10, int(y) + 8), _goods(rng), -1)
    strength = {"planter": 0.5, "car": 0.02}.get(kind, 0.08)
    return _byte(canvas * np.maximum(rng.normal(1, strength, (256, 256, 1)).astype(np.float32), 0.2))


def _byte(canvas: Canvas) -> Picture:
    return np.clip(canvas, 0, 255).astype(np.uint8)


def _tint(rng: np.random.Generator, low: float, high: float, spread: float) -> tuple[float, float, float]:
    blue, green, red = np.clip(rng.uniform(low, high) + rng.normal(0, spread, 3), 5, 250)
    return float(blue), float(green), float(red)


def _stone(rng: np.random.Generator, low: float, high: float) -> tuple[float, float, float]:
    """A grey that is a little warm or cool, as grounds and walls are."""
    grey, warmth = rng.uniform(low, high), rng.normal(0.03, 0.04)
    return grey * (1 - warmth), grey, grey * (1 + warmth)


def _paintwork(look: np.random.Generator) -> tuple[float, float, float]:
    """The colour of a car: mostly grey, black, white."""
    return _goods(look) if look.random() < 0.35 else _tint(look, 25, 235, 4)


def _goods(rng: np.random.Generator) -> tuple[float, float, float]:
    hue = np.array([[[rng.integers(0, 180), 20 + 170 * rng.random() ** 1.5, rng.integers(60, 240)]]]).astype(np.uint8)
    blue, green, red = cv2.cvtColor(hue, cv2.COLOR_HSV2BGR)[0, 0]
    return float(blue), float(green), float(red)


def _noise(rng: np.random.Generator, side: int, mean: float, strengths: tuple[float, ...]) -> Canvas:
    """Noise whose opposite edges fit: one octave per strength, the first of single pixels, each next four times coarser."""
    total = np.full((side, side), mean, np.float32)
    for octave, strength in enumerate(strengths):
        cells = max(4, side // 4**octave)
        grid = rng.normal(0, strength, (cells, cells)).astype(np.float32)
        wrapped = np.pad(grid, 2, mode="wrap")
        scale = side / cells
        big = cv2.resize(wrapped, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC) if cells < side else wrapped
        start = round(2 * scale)
        total += big[start : start + side, start : start + side]
    return total


def _slabs(
    rng: np.random.Generator, colour: tuple[float, float, float], across: int, down: int, varied: float, joint: float, shift: bool
) -> Canvas:
    """Rectangular slabs with joints; every second row is moved by half a slab where ``shift``."""
    canvas = np.empty((TILE_PX, TILE_PX, 3), np.float32)
    y, x = np.mgrid[0:TILE_PX, 0:TILE_PX]
    row = y * down // TILE_PX
    column = ((x * across / TILE_PX + (0.5 * (row % 2) if shift else 0)) % across).astype(int)
    tone = rng.normal(1, varied, (down, across, 1)) * rng.normal(1, varied / 8, (down, across, 3))
    canvas[:] = np.array(colour) * tone[row, column]
    width_x = (x * across / TILE_PX + (0.5 * (row % 2) if shift else 0)) % 1 * TILE_PX / across
    width_y = (y * down / TILE_PX) % 1 * TILE_PX / down
    canvas[(width_x < 2) | (width_y < 2)] *= joint
    return canvas


def _paving(rng: np.random.Generator) -> Canvas:
    across = int(rng.choice([5, 8, 12, 15]))
    return _slabs(
        rng,
        _stone(rng, 105, 180),
        across,
        int(across * rng.choice([1, 2])),
        rng.uniform(0.03, 0.09),
        rng.uniform(0.6, 0.85),
        bool(rng.random() < 0.6),
    )


def _asphalt(rng: np.random.Generator) -> Canvas:
    canvas = np.ones((TILE_PX, TILE_PX, 3), np.float32) * np.array(_tint(rng, 70, 115, 3), np.float32)
    canvas *= _noise(rng, TILE_PX, 1.0, (0.10, 0.03, 0.04, 0.04))[..., None]
    for _ in range(int(rng.integers(2, 7))):
        points = np.cumsum(rng.normal(0, 30, (12, 2)), 0) + rng.uniform(100, TILE_PX - 100, 2)
        cv2.polylines(canvas, [points.astype(np.int32)], False, (45, 45, 45), 1)
    return canvas


def _tiles(rng: np.random.Generator) -> Canvas:
    across = int(rng.choice([10, 12, 20]))
    canvas = _slabs(rng, _stone(rng, 130, 210), across, across, rng.uniform(0.01, 0.04), rng.uniform(0.7, 0.9), False)
    if rng.random() < 0.3:
        y, x = np.mgrid[0:TILE_PX, 0:TILE_PX] * across // TILE_PX
        canvas[(x + y) % 2 == 0] *= rng.uniform(0.55, 0.8)
    return canvas


def _carpet(rng: np.random.Generator) -> Canvas:
    canvas = _slabs(rng, _tint(rng, 60, 130, 14), 12, 12, 0.03, 1.0, False)
    return canvas * _noise(rng, TILE_PX, 1.0, (0.12, 0.05))[..., None]


def _concrete(rng: np.random.Generator) -> Canvas:
    canvas = _slabs(rng, _stone(rng, 115, 180), 2, 2, 0.02, 0.75, False)
    return canvas * _noise(rng, TILE_PX, 1.0, (0.03, 0.03, 0.05, 0.05))[..., None]


def _terrazzo(rng: np.random.Generator) -> Canvas:
    canvas = _slabs(rng, _stone(rng, 150, 205), 6, 6, 0.015, 0.85, False)
    specks = rng.random((TILE_PX, TILE_PX))
    canvas[specks < 0.05] *= 0.7
    canvas[specks > 0.97] *= 1.15
    return canvas


def _grass(rng: np.random.Generator) -> Canvas:
    canvas = np.ones((TILE_PX, TILE_PX, 3), np.float32) * np.array((50, 105, 85), np.float32) * rng.uniform(0.7, 1.2)
    return canvas * _noise(rng, TILE_PX, 1.0, (0.22, 0.12, 0.10))[..., None]


def _marking(rng: np.random.Generator) -> Canvas:
    colour = (70, 190, 225) if rng.random() < 0.2 else (205, 208, 210)
    return (
        np.ones((TILE_PX, TILE_PX, 3), np.float32)
        * np.array(colour, np.float32)
        * _noise(rng, TILE_PX, 0.95, (0.08, 0.06, 0.06))[..., None]
    )


def _wood(rng: np.random.Generator) -> Canvas:
    warm = np.array(_tint(rng, 95, 150, 4)) * (0.62, 0.9, 1.22)
    canvas = _slabs(rng, (float(warm[0]), float(warm[1]), float(warm[2])), 4, 48, 0.09, 0.7, True)
    fibres = cv2.resize(
        rng.normal(1, 0.07, (TILE_PX // 2, 24)).astype(np.float32), (TILE_PX, TILE_PX), interpolation=cv2.INTER_LINEAR
    )
    return np.asarray(canvas * fibres[..., None], np.float32)


_GROUNDS: dict[SurfaceKind, Callable[[np.random.Generator], Canvas]] = {
    "paving": _paving, "asphalt": _asphalt, "tiles": _tiles, "carpet": _carpet, "concrete": _concrete, "terrazzo": _terrazzo,
    "grass": _grass, "marking": _marking, "wood": _wood,
}  # fmt: skip


def _box(
    canvas: Canvas, scale: float, x: float, y: float, width: float, height: float, colour: tuple[float, ...], filled: bool = True
) -> None:
    """A rectangle in metres, ``y`` measured up from the ground."""
    bottom = canvas.shape[0] - y * scale
    start, end = (round(x * scale), round(bottom - height * scale)), (round((x + width) * scale), round(bottom))
    cv2.rectangle(canvas, start, end, colour, -1 if filled else 2)


def _building(canvas: Canvas, scale: float, rng: np.random.Generator, look: np.random.Generator) -> None:
    height, width = canvas.shape[0] / scale, canvas.shape[1] / scale
    canvas[:] = np.array(_stone(look, 90, 205)) * (1, 1, look.uniform(1, 1.15))
    if look.random() < 0.4:
        canvas[:: max(3, int(0.08 * scale))] *= 0.86
    glass, frame = _tint(look, 40, 110, 10), _tint(look, 30, 220, 5)
    for x in np.arange(0.6, width - 2.0, 3.2):  # shop fronts and doors
        colour = tuple(0.7 * c for c in _goods(rng)) if rng.random() < 0.25 else glass
        _box(canvas, scale, x, 0.25 if rng.random() < 0.7 else 0.0, 2.5, 2.3, colour)
        for _ in range(9):
            dull = tuple(0.5 * c + 0.4 * g for c, g in zip(_goods(rng), glass, strict=True))
            _box(
                canvas,
                scale,
                x + rng.uniform(0, 2.1),
                0.35 + rng.uniform(0, 1.4),
                rng.uniform(0.1, 0.4),
                rng.uniform(0.1, 0.6),
                dull,
            )
        left, right, top = round(x * scale), round((x + 2.5) * scale), max(0, canvas.shape[0] - round(2.55 * scale))
        gleam = cv2.resize(rng.uniform(0.75, 1.5, (4, 3)).astype(np.float32), (right - left, canvas.shape[0] - top))
        canvas[top:, left:right] *= gleam[:, : canvas[top:, left:right].shape[1], None]
        _box(canvas, scale, x, 0.25, 2.5, 2.3, frame, filled=False)
        _box(canvas, scale, x, 2.75, 2.5, 0.5, _goods(rng))
    for y in np.arange(4.2, height - 1.8, 3.0):
        for x in np.arange(0.9, width - 1.3, 2.4):
            _box(canvas, scale, x, y, 1.2, 1.6, tuple(c * rng.uniform(0.7, 1.4) for c in glass))
            _box(canvas, scale, x, y, 1.2, 1.6, frame, filled=False)


def _wall(canvas: Canvas, scale: float, rng: np.random.Generator, look: np.random.Generator) -> None:
    height, width = canvas.shape[0] / scale, canvas.shape[1] / scale
    canvas[:] = _stone(look, 150, 228)
    if look.random() < 0.4:
        _box(canvas, scale, 0, 0, width, 1.1, _tint(look, 90, 190, 20))
    _box(canvas, scale, 0, 0, width, 0.12, _tint(look, 40, 120, 8))
    door = _tint(look, 60, 170, 22)
    x = rng.uniform(0.4, 2.0)
    while x < width - 1.5:
        what = rng.random()
        if what < 0.22:
            _box(canvas, scale, x, 0, 0.95, 2.05, door)
            _box(canvas, scale, x, 0, 0.95, 2.05, tuple(0.6 * c for c in door), filled=False)
            _box(canvas, scale, x + 0.8, 1.0, 0.06, 0.06, (200, 200, 200))
        elif what < 0.55:
            w, h = rng.uniform(0.5, 1.3), rng.uniform(0.6, 1.3)
            _box(canvas, scale, x, 1.1, w, h, _goods(rng))
            for _ in range(4):
                _box(canvas, scale, x + rng.uniform(0, 0.6) * w, 1.1 + rng.uniform(0, 0.7) * h, 0.3 * w, 0.2 * h, _goods(rng))
        elif what < 0.7:
            _box(canvas, scale, x, 0.9, 1.4, min(1.5, height - 1.1), _tint(rng, 120, 235, 12))
            _box(canvas, scale, x, 0.9, 1.4, min(1.5, height - 1.1), (90, 90, 90), filled=False)
        x += rng.uniform(1.6, 4.0)


def _shelf(canvas: Canvas, scale: float, rng: np.random.Generator, look: np.random.Generator) -> None:
    height, width = canvas.shape[0] / scale, canvas.shape[1] / scale
    canvas[:] = _tint(look, 25, 70, 4)
    edge = _tint(look, 60, 230, 10)
    boards = max(2, round(height / 0.38))
    for board in range(boards):
        y = 0.1 + board * (height - 0.12) / boards
        x, room = 0.03, (height - 0.2) / boards
        while x < width - 0.1:
            colour, wide, high = _goods(rng), rng.uniform(0.07, 0.3), room * rng.uniform(0.5, 0.85)
            for _ in range(int(rng.integers(1, 6))):  # the same article several times over
                if x + wide > width:
                    break
                _box(canvas, scale, x, y, wide * 0.92, high, tuple(c * rng.uniform(0.85, 1.1) for c in colour))
                _box(canvas, scale, x + wide * 0.2, y + high * 0.35, wide * 0.5, high * 0.3, (225, 228, 230))
                x += wide
        _box(canvas, scale, 0, y - 0.05, width, 0.05, edge)


def _plain(low: float, high: float, spread: float) -> Callable[[Canvas, float, np.random.Generator, np.random.Generator], None]:
    def fill(canvas: Canvas, scale: float, rng: np.random.Generator, look: np.random.Generator) -> None:
        canvas[:] = _tint(look, low, high, spread)
        canvas *= np.linspace(1.05, 0.85, canvas.shape[0])[:, None, None]  # darker towards the ground

    return fill


def _counter(canvas: Canvas, scale: float, rng: np.random.Generator, look: np.random.Generator) -> None:
    height, width = canvas.shape[0] / scale, canvas.shape[1] / scale
    canvas[:] = _tint(look, 60, 220, 15)
    _box(canvas, scale, 0, 0.4 * height, width, 0.18 * height, _goods(look))
    _box(canvas, scale, 0, height - 0.06, width, 0.06, _tint(look, 30, 120, 8))
    _box(canvas, scale, 0, 0, width, 0.1, (40, 40, 40))


def _machine(canvas: Canvas, scale: float, rng: np.random.Generator, look: np.random.Generator) -> None:
    height, width = canvas.shape[0] / scale, canvas.shape[1] / scale
    canvas[:] = _goods(look)
    canvas *= 0.8
    _box(canvas, scale, 0.15 * width, 0.55 * height, 0.7 * width, 0.28 * height, (190, 170, 130))
    _box(canvas, scale, 0.2 * width, 0.25 * height, 0.6 * width, 0.2 * height, (50, 50, 55))
    _box(canvas, scale, 0.05 * width, 0.87 * height, 0.9 * width, 0.09 * height, (230, 230, 230))


def _kiosk(canvas: Canvas, scale: float, rng: np.random.Generator, look: np.random.Generator) -> None:
    height, width = canvas.shape[0] / scale, canvas.shape[1] / scale
    canvas[:] = _tint(look, 50, 190, 30)
    _box(canvas, scale, 0.1 * width, 0.38 * height, 0.8 * width, 0.42 * height, (70, 66, 60))
    for _ in range(30):
        _box(canvas, scale, rng.uniform(0.12, 0.8) * width, rng.uniform(0.4, 0.7) * height, 0.18, 0.2, _goods(rng))
    _box(canvas, scale, 0, 0.84 * height, width, 0.16 * height, _goods(look))


def _bench(canvas: Canvas, scale: float, rng: np.random.Generator, look: np.random.Generator) -> None:
    height, width = canvas.shape[0] / scale, canvas.shape[1] / scale
    canvas[:] = (40, 42, 46)
    _box(canvas, scale, 0, 0.7 * height, width, 0.3 * height, (62, 92, 132))


def _barrier(canvas: Canvas, scale: float, rng: np.random.Generator, look: np.random.Generator) -> None:
    height, width = canvas.shape[0] / scale, canvas.shape[1] / scale
    canvas[:] = _tint(look, 140, 200, 5)
    _box(canvas, scale, 0, 0.75 * height, width, 0.25 * height, (60, 58, 56))
    _box(
        canvas,
        scale,
        0.35 * width,
        0.8 * height,
        0.3 * width,
        0.12 * height,
        (60, 200, 80) if rng.random() < 0.7 else (50, 50, 210),
    )


def _car(canvas: Canvas, scale: float, rng: np.random.Generator, look: np.random.Generator) -> None:
    """The lower body; the cabin above it is a face of its own (glass)."""
    height, width = canvas.shape[0] / scale, canvas.shape[1] / scale
    colour = _paintwork(look)
    canvas[:] = colour
    canvas[: canvas.shape[0] // 3] *= 1.1
    _box(canvas, scale, 0, 0, width, 0.22 * height, (25, 25, 25))
    if width > 2.5:
        for x in (0.18, 0.80):
            cv2.circle(canvas, (int(x * width * scale), int(canvas.shape[0] - 0.3 * scale)), int(0.33 * scale), (22, 22, 22), -1)
            cv2.circle(canvas, (int(x * width * scale), int(canvas.shape[0] - 0.3 * scale)), int(0.19 * scale), (140, 140, 140), -1)
        for x in (0.36, 0.62):
            _box(canvas, scale, x * width, 0.2, 0.02, height - 0.2, tuple(0.6 * c for c in colour))
    else:
        for x in (0.04, 0.8):
            _box(
                canvas,
                scale,
                x * width,
                0.62 * height,
                0.16 * width,
                0.16 * height,
                (60, 60, 200) if rng.random() < 0.5 else (230, 235, 235),
            )
        _box(canvas, scale, 0.36 * width, 0.35 * height, 0.28 * width, 0.14, (225, 225, 225))


def car_cabin(width_m: float, height_m: float, style: int) -> Picture:
    """The windows of a car between their pillars."""
    canvas = np.empty((64, max(8, int(width_m * 64)), 3), np.float32)
    canvas[:] = np.linspace(70, 38, 64)[:, None, None]
    paintwork = _paintwork(np.random.default_rng(style))
    canvas[:5] = paintwork
    for share in (0.0, 0.48, 0.97) if width_m > 1.8 else (0.0, 0.97):
        canvas[:, int(share * canvas.shape[1]) : int(share * canvas.shape[1]) + 4] = paintwork
    return _byte(canvas)


_FACES: dict[ObstacleKind, Callable[[Canvas, float, np.random.Generator, np.random.Generator], None]] = {
    "building": _building, "wall": _wall, "shelf": _shelf, "pillar": _plain(110, 215, 8), "lamp": _plain(25, 70, 4),
    "bench": _bench,
    "planter": _plain(70, 170, 12), "fountain": _plain(120, 180, 6), "car": _car, "kiosk": _kiosk, "counter": _counter,
    "bollard": _plain(60, 190, 8),
    "machine": _machine, "barrier": _barrier,
}  # fmt: skip
