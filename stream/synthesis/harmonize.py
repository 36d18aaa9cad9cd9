"""Making a cut-out look as if it had been seen by the camera of its new place: colours, light, sharpness, noise."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

Uint8Array = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

GAIN = (0.7, 1.2)  # of the spread of colours: beyond, skin turns into plastic
LIGHT = (0.6, 1.3)  # of lightness
SHIFT = 9.0  # greatest change of the mean a and b
GREY = 2.0  # a picture whose a and b spread less than this is black and white
REBLUR_PX = 1.0
EDGES = 97.0  # percentile of gradients that count as edges
SHARPER = 30.0  # percentile of the blur of those edges: what lies in focus
LEAST_EDGES = 40  # fewer pixels say nothing about sharpness
UNKNOWN_BLUR_PX = 0.6
MOST_BLUR_PX, MOST_NOISE = 3.0, 12.0


class Tone(NamedTuple):
    """Mean and spread of L (0..100), a and b of CIE Lab over a picture, each three values."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def tone(bgr: Uint8Array) -> Tone:
    """The tone of a picture, uint8 (H, W, 3)."""
    small = bgr[:: max(1, bgr.shape[0] // 128), :: max(1, bgr.shape[1] // 128)]
    lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_BGR2LAB).reshape(-1, 3)
    mean, std = lab.mean(axis=0).tolist(), lab.std(axis=0).tolist()
    return Tone((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


def blend_tones(one: Tone, other: Tone, share: float) -> Tone:
    """``share`` of the other, the rest of the one."""
    mean = np.array(one.mean) * (1 - share) + np.array(other.mean) * share
    std = np.array(one.std) * (1 - share) + np.array(other.std) * share
    return Tone((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


def match_tone(bgr: Uint8Array, scene: Tone, place: Tone, amount: float) -> Uint8Array:
    """Move the colours of an object by what lies between the scene it was seen in and its new place.

    The statistics transfer of E. Reinhard, M. Ashikhmin, B. Gooch, P. Shirley, Color transfer between images, IEEE CG&A
    21(5), 2001, in Lab; but measured on the scenes, not on the object, so that a dark coat remains one; limited, and
    blended partly. Lightness is scaled, not shifted, as more light does it: black stays black. In a black and white place
    the object loses its colours wholly.

    Args:
        bgr: uint8 (h, w, 3).
        scene: tone of the picture it was cut from.
        place: tone of the picture it is pasted into.
        amount: 0 leaves it as it is, 1 moves it all the way.
    """
    source, target = np.array(scene.mean, np.float32), np.array(place.mean, np.float32)
    gain = np.clip(np.array(place.std, np.float32) / np.maximum(np.array(scene.std, np.float32), 1e-3), *GAIN)
    lab = cv2.cvtColor(bgr.astype(np.float32) / 255, cv2.COLOR_BGR2LAB)
    moved = (lab - source) * gain + source + np.clip(target - source, -SHIFT, SHIFT)
    moved[..., 0] = lab[..., 0] * np.clip(target[0] / max(source[0], 1.0), *LIGHT)
    out = lab + np.float32(amount) * (moved - lab)
    if max(place.std[1:]) < GREY:
        out[..., 1:] = target[1:]
    out[..., 0] = np.clip(out[..., 0], 0, 100)
    back = cv2.cvtColor(out, cv2.COLOR_LAB2BGR)
    return np.asarray(np.clip(back * 255 + 0.5, 0, 255), np.uint8)


def jitter(bgr: Uint8Array, rng: np.random.Generator) -> Uint8Array:
    """A little more or less light, contrast and warmth."""
    gain = rng.uniform(0.9, 1.1) * rng.uniform(0.96, 1.04, 3)
    offset = rng.uniform(-8, 8)
    return np.asarray(np.clip(bgr * gain.astype(np.float32) + np.float32(offset), 0, 255), np.uint8)


def blur_px(bgr: Uint8Array) -> float:
    """How blurred a picture's sharper edges are: the sigma, in pixels, of the Gaussian that would blur a step so.

    By how much an edge loses when it is blurred once more (S. Zhuo, T. Sim, Defocus map estimation from a single image,
    Pattern Recognition 44(9), 2011).
    """
    grey = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY).astype(np.float32)
    steep = _gradient(grey)
    edges = steep > max(float(np.percentile(steep, EDGES)), 8.0)
    if np.count_nonzero(edges) < LEAST_EDGES:
        return UNKNOWN_BLUR_PX
    ratio = steep[edges] / np.maximum(_gradient(cv2.GaussianBlur(grey, (0, 0), REBLUR_PX))[edges], 1e-3)
    sigma = REBLUR_PX / np.sqrt(np.maximum(ratio**2 - 1, 0.05))
    return float(min(np.percentile(sigma, SHARPER), MOST_BLUR_PX))


def noise_level(bgr: Uint8Array) -> float:
    """Standard deviation of the noise in grey levels.

    J. Immerkær, Fast noise variance estimation, CVIU 64(2), 1996, with the median in place of the mean, so that texture
    counts for less.
    """
    grey = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY).astype(np.float32)
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    rough = np.abs(cv2.filter2D(grey, -1, kernel))
    return float(min(np.median(rough) / 0.6745 / 6, MOST_NOISE))


def soften(bgr: Uint8Array, alpha: Floats, now_px: float, wanted_px: float) -> tuple[Uint8Array, Floats]:
    """Blur an object that is sharper than its place. Blurs add up in squares."""
    missing = float(np.sqrt(max(0.0, wanted_px**2 - now_px**2)))
    if missing < 0.25:
        return bgr, alpha
    return np.asarray(cv2.GaussianBlur(bgr, (0, 0), missing), np.uint8), np.asarray(
        cv2.GaussianBlur(alpha, (0, 0), missing), np.float32
    )


def roughen(bgr: Uint8Array, now: float, wanted: float, rng: np.random.Generator) -> Uint8Array:
    """Add noise to an object that has less of it than its place."""
    missing = float(np.sqrt(max(0.0, wanted**2 - now**2)))
    if missing < 0.5:
        return bgr
    grain = rng.standard_normal(bgr.shape[:2], np.float32)[..., None] + 0.4 * rng.standard_normal(bgr.shape, np.float32)
    return np.asarray(np.clip(bgr + missing * grain, 0, 255), np.uint8)


def _gradient(grey: Floats) -> Floats:
    return np.asarray(cv2.magnitude(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)), np.float32)
