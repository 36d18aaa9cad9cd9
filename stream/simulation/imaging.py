"""Imaging: what the camera itself does to a picture: exposure and its drift, the lens, the sensor's noise, rain, the clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import cv2
import numpy as np
from numpy.typing import NDArray

from stream.simulation.scene import SCENES, Scene

Picture = NDArray[np.uint8]
NOISE_SPARE_PX = 96  # by how much the noise tile is larger than the picture, so that it can be shifted
DRIFT_S = (17.0, 41.0)  # periods of two slow swings of the light, as of passing clouds
FIRST_DAY = datetime(2025, 3, 1, 8, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Optics:
    """Of one camera.

    Attributes:
        gain: of the blue, green and red channel.
        blur_px: sigma of the lens's blur.
        shake_px: width of a sideways blur.
        noise: deviation in grey levels.
        vignette: loss of light in the corners, as a share.
        drift, flicker: of the light, as shares.
        clock: whether the time is burnt in.
    """

    gain: tuple[float, float, float]
    blur_px: float
    shake_px: int
    noise: float
    vignette: float
    drift: float
    flicker: float
    clock: bool


def draw_optics(scene: Scene) -> Optics:
    """The camera of a scene: light and weather are the scene's, the rest is drawn from its seed."""
    rng = np.random.default_rng((scene.seed, SCENES.index(scene.name), 0x1E45))
    light = scene.light
    cast = 0.13 * light.warmth + rng.normal(0, 0.02)
    exposure = light.brightness**0.7 * rng.uniform(0.95, 1.15)  # automatic exposure makes up for part of it
    if light.weather in ("rain", "fog"):
        exposure *= 0.88
    kind = rng.choice(["sharp", "soft", "defocused", "shaken"], p=[0.5, 0.35, 0.1, 0.05])
    return Optics(
        gain=(float(exposure * (1 - cast)), float(exposure), float(exposure * (1 + cast))),
        blur_px={"sharp": 0.55, "soft": 0.8, "defocused": float(rng.uniform(1.1, 1.8)), "shaken": 0.6}[str(kind)],
        shake_px=5 if kind == "shaken" else 0,
        noise=float(rng.uniform(1.0, 3.0) * (1.6 if light.brightness < 0.65 else 1.0)),
        vignette=float(rng.uniform(0.05, 0.35)),
        drift=float(rng.uniform(0.02, 0.07) if light.outdoors else rng.uniform(0, 0.02)),
        flicker=float(0 if light.outdoors else rng.choice([0, 0.008, 0.015])),
        clock=bool(rng.random() < 0.4),
    )


class Imaging:
    """Turns what is before the lens into what comes out of the camera."""

    def __init__(self, scene: Scene, fps: float):
        self.optics = draw_optics(scene)
        self._fps = fps
        rng = np.random.default_rng((scene.seed, SCENES.index(scene.name), 0x401E))
        self._key = int(rng.integers(1 << 30))
        self._start = FIRST_DAY + timedelta(days=int(rng.integers(0, 300)), seconds=int(rng.integers(0, 9 * 3600)))
        self._name = f"CAM {int(rng.integers(1, 33)):02d}" if rng.random() < 0.5 else scene.name.upper()
        height, width = scene.camera.height, scene.camera.width
        self._brighter, self._darker = _noise_tiles(rng, height + NOISE_SPARE_PX, width + NOISE_SPARE_PX, self.optics.noise)
        self._rain = _rain_tile(rng, height, width) if scene.light.weather == "rain" else None
        y, x = np.mgrid[0:height, 0:width]
        square = ((x + 0.5 - width / 2) ** 2 + (y + 0.5 - height / 2) ** 2) / (width**2 + height**2) * 4
        self.vignette = (1 - self.optics.vignette * square).astype(np.float32)

    def expose(self, picture: NDArray[np.floating] | Picture) -> Picture:
        """Colours as the sensor sees them in steady light: exposure and colour temperature, with a soft shoulder to white."""
        linear = np.asarray(picture, np.float32) * np.array(self.optics.gain, np.float32)
        return np.where(linear > 200, 255 - 55 * np.exp(-(linear - 200) / 55), linear).astype(np.uint8)

    def apply(self, picture: Picture, frame_index: int) -> Picture:
        """The finished picture of a frame. ``picture``, already exposed, may be written over."""
        time_s, optics = frame_index / self._fps, self.optics
        swing = sum(np.sin(2 * np.pi * time_s / period + self._key % 7) for period in DRIFT_S) / 2
        random = np.random.default_rng((self._key, frame_index))
        gain = 1 + optics.drift * swing + optics.flicker * random.standard_normal()
        kernel = 3 if optics.blur_px < 0.9 else 5
        picture = cv2.GaussianBlur(picture, (kernel, kernel), optics.blur_px)
        if optics.shake_px:
            picture = cv2.blur(picture, (optics.shake_px, 1))
        if abs(gain - 1) > 1e-3:
            cv2.convertScaleAbs(picture, picture, alpha=gain)
        height, width = picture.shape[:2]
        if self._rain is not None:
            fall = int(frame_index * 137) % height
            cv2.add(picture[fall:], self._rain[: height - fall], picture[fall:])
            cv2.add(picture[:fall], self._rain[height - fall :], picture[:fall])
        for tile, change in ((self._brighter, cv2.add), (self._darker, cv2.subtract)):
            x, y = random.integers(0, NOISE_SPARE_PX, 2)
            change(picture, tile[y : y + height, x : x + width], picture)
        if optics.clock:
            self._burn_in(picture, time_s)
        return picture

    def _burn_in(self, picture: Picture, time_s: float) -> None:
        scale = picture.shape[0] / 720
        now = (self._start + timedelta(seconds=time_s)).strftime("%Y-%m-%d %H:%M:%S")
        for text, where in (
            (now, (picture.shape[1] - int(395 * scale), int(44 * scale))),
            (self._name, (int(24 * scale), picture.shape[0] - int(30 * scale))),
        ):
            for colour, thick in (((20, 20, 20), 4), ((245, 245, 245), 2)):
                cv2.putText(
                    picture, text, where, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, max(1, round(thick * scale)), cv2.LINE_AA
                )


def _noise_tiles(rng: np.random.Generator, height: int, width: int, deviation: float) -> tuple[Picture, Picture]:
    """What noise adds and what it takes away, apart, because pictures are unsigned. Mostly grey, a little coloured and coarse."""
    grey = rng.standard_normal((height, width, 1), np.float32) * (0.8 * deviation)
    colour = cv2.resize(rng.standard_normal((height // 2, width // 2, 3), np.float32), (width, height)) * (0.7 * deviation)
    noise = np.rint(grey + colour)
    return np.clip(noise, 0, 255).astype(np.uint8), np.clip(-noise, 0, 255).astype(np.uint8)


def _rain_tile(rng: np.random.Generator, height: int, width: int) -> Picture:
    tile = np.zeros((height, width, 3), np.uint8)
    slant = rng.uniform(-0.15, 0.15)
    for _ in range(width * height // 2600):
        x, y, long = int(rng.integers(0, width)), int(rng.integers(0, height)), rng.uniform(0.015, 0.05) * height
        grey = int(rng.integers(8, 34))
        cv2.line(tile, (x, y), (int(x + slant * long), int(y + long)), (grey, grey, grey), 1, cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(tile, (3, 3), 0.7), np.uint8)
