"""Compose: one synthetic picture from a background and some cut-outs.

Cut, paste and learn (D. Dwibedi, I. Misra, M. Hebert, ICCV 2017), with a ground to stand on: objects are drawn from far to
near, each on its contact shadow, in the tone, sharpness and noise of the place. Things that are no objects go in the same
way, so that the seam of a paste says nothing about what was pasted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from stream.datasets.coco import Box
from stream.errors import ConfigError, Fault
from stream.synthesis import harmonize
from stream.synthesis.backgrounds import Background, Label
from stream.synthesis.cutouts import Cutout
from stream.synthesis.floor import Floor, find_floor
from stream.synthesis.ground import Ground, settle
from stream.synthesis.harmonize import Floats, Tone, Uint8Array
from stream.synthesis.settings import Settings

ATTEMPTS = 40  # to find a place for an object
TALLEST = 0.92  # of an object, as a share of the picture's height
ENLARGED = 1.4  # a cut-out may be shown that much larger than it was seen
BELOW = 0.25  # share of an object that may lie below the picture's lower edge
STATURE = (0.06, 0.14)  # spread and limit of an object's height around its class's
ROTATION_DEG = 3.0
COMPANION = 0.35  # share of the objects that stand beside another
MOST_HIDDEN = 0.75  # share of a pasted box that nearer boxes may cover
MOST_BEHIND = 0.1  # share of a pasted box that may lie over an own object of the background which is nearer
SUNNY = 0.35  # share of the pictures with cast shadows
AWAY = (0.06, 0.3)  # how far up the picture those reach, in heights of the object; towards the viewer less
DISTRACTORS = (1, 4)
TALLEST_DISTRACTOR = 0.6  # as a share of the picture's height
SHREDS = 0.4  # share of the distractors that are a piece of an object
SOLID = 0.5  # alpha from which a pixel belongs to an object


class Layer(NamedTuple):
    """Something to paste, at ``left`` and ``top`` of the picture; ``category`` is None for what is no object."""

    bgr: Uint8Array
    alpha: Floats
    left: int
    top: int
    foot_px: float
    scene: Tone
    category: str | None


class Light(NamedTuple):
    """Of one picture: darkness of contact and cast shadows, and where the cast fall, in heights of the object."""

    contact: float
    cast: float
    aside: float
    away: float


@dataclass(frozen=True)
class Composed:
    """A finished picture.

    Attributes:
        bgr: uint8 (H, W, 3).
        labels: of the pasted objects, then of the background's own.
        pasted: how many of the labels are of pasted objects.
        distractors: how many things without a label were pasted.
        ground: on which the objects stand.
    """

    bgr: Uint8Array
    labels: tuple[Label, ...]
    pasted: int
    distractors: int
    ground: Ground


class _Spot(NamedTuple):
    """Where something is to stand: middle of its foot, and its height."""

    x_px: float
    foot_px: float
    height_px: float


def check_room(cutouts: Sequence[Cutout], backgrounds: Sequence[Background], settings: Settings) -> None:
    """Whether on the ground that was given there is room for objects of at least one class in one background.

    Raises:
        ConfigError: there is not.
    """
    if settings.horizon is None or settings.camera_height_m is None or not settings.objects[1]:
        return
    classes = {cutout.category for cutout in cutouts}
    for height in {background.height for background in backgrounds}:
        ground = Ground("given", settings.horizon * height, settings.camera_height_m)
        for name in classes:
            least, most = _sizes_px(settings.heights_m[name], height, ground, settings)
            if least <= most:
                return
    reason = f"leaves no room for an object of {settings.min_height_px} px in any background"
    raise ConfigError("synthesize", [Fault("--horizon, --camera-height", reason)])


def compose(
    background: Background,
    cutouts: Sequence[Cutout],
    others: Sequence[Background],
    settings: Settings,
    rng: np.random.Generator,
) -> Composed:
    """Paste objects into a background.

    Args:
        background: the place.
        cutouts: to draw from.
        others: backgrounds to take pieces of, for things that are no objects.
        settings: of the run.
        rng: everything is drawn from it.
    """
    canvas = background.bgr()
    floor = find_floor(canvas)
    ground = settle(background.ground, settings.horizon, settings.camera_height_m, floor, rng)
    layers = _objects(background, cutouts, ground, floor, settings, rng)
    if rng.random() < settings.negatives:
        for _ in range(rng.integers(DISTRACTORS[0], DISTRACTORS[1] + 1)):
            tries = (_distractor(background, cutouts, others, ground, settings, rng) for _ in range(ATTEMPTS))
            layers += islice((thing for thing in tries if thing), 1)
    layers.sort(key=lambda layer: layer.foot_px)
    owner = np.zeros(canvas.shape[:2], np.int16)
    _draw(canvas, owner, layers, rng)
    pasted = [label for number, layer in enumerate(layers, 1) if (label := _label(number, layer, owner, settings))]
    own = [label for label in (_own_label(own, owner, settings) for own in background.labels) if label]
    distractors = sum(layer.category is None for layer in layers)
    return Composed(canvas, (*pasted, *own), len(pasted), distractors, ground)


def _objects(
    background: Background,
    cutouts: Sequence[Cutout],
    ground: Ground,
    floor: Floor,
    settings: Settings,
    rng: np.random.Generator,
) -> list[Layer]:
    wanted = int(rng.integers(settings.objects[0], settings.objects[1] + 1))
    layers: list[Layer] = []
    spots: list[_Spot] = []
    boxes: list[Box] = []
    for _ in range(wanted):
        for _ in range(ATTEMPTS):
            cutout = cutouts[int(rng.integers(len(cutouts)))]
            height_m = settings.heights_m[cutout.category] * (1 + np.clip(rng.normal(0, STATURE[0]), -STATURE[1], STATURE[1]))
            beside = spots[int(rng.integers(len(spots)))] if spots and rng.random() < COMPANION else None
            spot = _spot(cutout, height_m, beside, background, ground, settings, rng)
            if spot is None or not floor.holds(spot.x_px, spot.foot_px):
                continue
            width = spot.height_px * cutout.width / cutout.height
            box = (spot.x_px - width / 2, spot.foot_px - spot.height_px, width, spot.height_px)
            if _has_room(box, boxes, background):
                layers.append(_standing(cutout, spot, rng))
                spots.append(spot)
                boxes.append(box)
                break
    return layers


def _spot(
    cutout: Cutout,
    height_m: float,
    beside: _Spot | None,
    background: Background,
    ground: Ground,
    settings: Settings,
    rng: np.random.Generator,
) -> _Spot | None:
    """A place for an object of that height, at a distance drawn so that all sizes occur; None if there is none."""
    least, most = _sizes_px(height_m, background.height, ground, settings)
    most = min(most, ENLARGED * cutout.height)
    if most < least:
        return None
    if beside is None:
        height_px = float(np.exp(rng.uniform(np.log(least), np.log(most))))
        return _Spot(rng.uniform(0, background.width), ground.foot_px(height_px, height_m), height_px)
    foot_px = beside.foot_px + rng.uniform(-0.08, 0.08) * beside.height_px
    height_px = ground.height_px(foot_px, height_m)
    x_px = beside.x_px + rng.choice([-1, 1]) * rng.uniform(0.25, 0.6) * beside.height_px
    return _Spot(x_px, foot_px, height_px) if least <= height_px <= most and 0 <= x_px < background.width else None


def _sizes_px(height_m: float, picture_px: int, ground: Ground, settings: Settings) -> tuple[float, float]:
    """Least and most height of an object of that height wherever it stands; the most is below the least if it has no room."""
    least, most = float(settings.min_height_px), TALLEST * picture_px
    ratio = ground.camera_m / height_m  # the foot is that many heights below the horizon
    if ratio > BELOW:
        most = min(most, (picture_px - ground.horizon_px) / (ratio - BELOW))
    return max(least, -ground.horizon_px / ratio), most  # feet lie in the picture


def _has_room(box: Box, boxes: list[Box], background: Background) -> bool:
    for other in boxes:
        farther = box if box[1] + box[3] < other[1] + other[3] else other
        if _common(box, other) > MOST_HIDDEN * farther[2] * farther[3]:
            return False
    for own in background.labels:
        if own.bbox[1] + own.bbox[3] > box[1] + box[3] and _common(box, own.bbox) > MOST_BEHIND * box[2] * box[3]:
            return False
    return True


def _common(one: Box, other: Box) -> float:
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def _standing(cutout: Cutout, spot: _Spot, rng: np.random.Generator) -> Layer:
    bgra = cutout.bgra()
    if rng.random() < 0.5:
        bgra = np.asarray(bgra[:, ::-1], np.uint8)
    bgra = _rotated(bgra, rng.uniform(-ROTATION_DEG, ROTATION_DEG))
    return _layer(bgra, spot.height_px / cutout.height, spot, cutout.scene, cutout.category)


def _rotated(bgra: Uint8Array, degrees: float) -> Uint8Array:
    height, width = bgra.shape[:2]
    more_x, more_y = (int(abs(np.sin(np.radians(degrees))) * side) + 1 for side in (height, width))
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    turn[:, 2] += more_x / 2, more_y / 2
    size = (width + more_x, height + more_y)
    bgr = cv2.warpAffine(bgra[..., :3], turn, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpAffine(bgra[..., 3], turn, size, flags=cv2.INTER_LINEAR)
    return np.dstack([bgr, alpha])


def _layer(bgra: Uint8Array, factor: float, spot: _Spot, scene: Tone, category: str | None) -> Layer:
    """Scaled, with its lowest solid row at the foot and its middle at x."""
    size = max(1, round(bgra.shape[1] * factor)), max(1, round(bgra.shape[0] * factor))
    scaled = cv2.resize(bgra, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    alpha = np.asarray(scaled[..., 3] / np.float32(255), np.float32)
    rows = np.flatnonzero((alpha > SOLID).any(axis=1))
    bottom = int(rows[-1]) + 1 if len(rows) else size[1]
    left, top = round(spot.x_px - size[0] / 2), round(spot.foot_px) - bottom
    return Layer(np.asarray(scaled[..., :3], np.uint8), alpha, left, top, spot.foot_px, scene, category)


def _distractor(
    background: Background,
    cutouts: Sequence[Cutout],
    others: Sequence[Background],
    ground: Ground,
    settings: Settings,
    rng: np.random.Generator,
) -> Layer | None:
    """Something that is no object: a piece of another background, or of an object one too small to be known. None if there
    is no room for it."""
    cutout = cutouts[int(rng.integers(len(cutouts)))]
    most = max(settings.min_height_px + 1.0, min(TALLEST_DISTRACTOR * background.height, ENLARGED * cutout.height))
    height_px = float(np.exp(rng.uniform(np.log(settings.min_height_px), np.log(most))))
    foot_px = min(ground.foot_px(height_px, settings.heights_m[cutout.category]), float(background.height))
    spot = _Spot(rng.uniform(0, background.width), foot_px, height_px)
    if rng.random() < SHREDS:
        bgra = cutout.bgra()
        rows = max(3, int(bgra.shape[0] * rng.uniform(0.1, 0.2)))
        start = int(bgra.shape[0] * rng.uniform(0.3, 0.6))  # cloth of the middle: no head, no feet
        return _layer(bgra[start : start + rows], height_px / cutout.height, spot, cutout.scene, None)
    other = others[int(rng.integers(len(others)))]
    height = int(rng.uniform(0.3, 0.9) * other.height)
    width = min(other.width, max(4, int(height * rng.uniform(0.2, 0.7))))
    x, y = int(rng.integers(other.width - width + 1)), int(rng.integers(other.height - height + 1))
    wide = height_px * width / height
    if any(_common((x, y, width, height), own.bbox) for own in other.labels):
        return None  # it would show an object without a label
    if not _has_room((spot.x_px - wide / 2, foot_px - height_px, wide, height_px), [], background):
        return None
    alpha = np.zeros((height, width), np.uint8)
    if rng.random() < 0.5:
        alpha[1:-1, 1:-1] = 255
    else:
        cv2.ellipse(alpha, (width // 2, height // 2), (width // 2 - 1, height // 2 - 1), 0, 0, 360, 255, -1)
    picture = other.bgr()
    bgra = np.dstack([picture[y : y + height, x : x + width], alpha])
    return _layer(bgra, height_px / height, spot, harmonize.tone(picture), None)


def _draw(canvas: Uint8Array, owner: npt.NDArray[np.int16], layers: Sequence[Layer], rng: np.random.Generator) -> None:
    """Draw all layers, far ones first; ``owner`` gets the number of the layer that each pixel shows."""
    place, blur_px, noise = harmonize.tone(canvas), harmonize.blur_px(canvas), harmonize.noise_level(canvas)
    amount, strength = rng.uniform(0.4, 0.8), rng.uniform(0.45, 0.8)
    cast = rng.uniform(0.15, 0.4) if rng.random() < SUNNY else 0.0
    light = Light(strength, cast, rng.uniform(-0.9, 0.9), rng.choice([1, 1, -0.4]) * rng.uniform(*AWAY))
    before = canvas.copy()
    for number, layer in enumerate(layers, 1):
        around = _around(before, layer)
        tone = harmonize.blend_tones(place, harmonize.tone(around), 0.35) if around.size else place
        bgr = harmonize.match_tone(layer.bgr, layer.scene, tone, amount)
        bgr = harmonize.jitter(bgr, rng)
        alpha = np.asarray(cv2.GaussianBlur(layer.alpha, (0, 0), rng.uniform(0.4, 0.9)), np.float32)
        bgr, alpha = harmonize.soften(bgr, alpha, harmonize.blur_px(bgr), blur_px)
        bgr = harmonize.roughen(bgr, harmonize.noise_level(bgr), noise, rng)
        _shade(canvas, layer, light)
        seen = _window(canvas.shape, layer.left, layer.top, *layer.alpha.shape)
        if seen is None:
            continue
        target, part = seen
        share = alpha[part][..., None]
        canvas[target] = np.clip(canvas[target] * (1 - share) + bgr[part] * share + 0.5, 0, 255).astype(np.uint8)
        owner[target][layer.alpha[part] > SOLID] = number


def _around(canvas: Uint8Array, layer: Layer) -> Uint8Array:
    """The place that a layer will stand in, half as wide again."""
    height, width = layer.alpha.shape
    seen = _window(canvas.shape, layer.left - width // 4, layer.top, height, width + width // 2)
    return np.asarray(canvas[seen[0]] if seen else canvas[:0], np.uint8)


def _shade(canvas: Uint8Array, layer: Layer, light: Light) -> None:
    """Darken the ground: close under the foot, and where the light does not reach."""
    height, width = layer.alpha.shape
    pad = max(3, round(0.08 * height))
    foot = round(layer.foot_px) - layer.top
    low = max(1, round(0.1 * foot))
    contact = np.zeros((low + 2 * pad, width + 2 * pad), np.float32)
    contact[pad : pad + low, pad : pad + width] = layer.alpha[foot - low : foot]
    sigma = max(0.8, 0.02 * height)
    contact = cv2.GaussianBlur(contact, (0, 0), 2 * sigma, sigmaY=sigma)
    down = max(1, round(0.006 * height))
    _darken(canvas, light.contact * contact, layer.left - pad, layer.top + foot - low - pad + down)
    if not light.cast:
        return
    aside, away = light.aside * height, light.away * height
    left, top = int(min(0, aside)) - pad, int(min(foot, foot - away)) - pad
    size = (width + int(abs(aside)) + 2 * pad, int(abs(away)) + 2 * pad)
    # A point at the height u above the foot throws its shadow u * aside to the side and u * away up the picture.
    fall = np.array([[1, -light.aside, light.aside * foot - left], [0, light.away, foot * (1 - light.away) - top]], np.float32)
    shadow = cv2.warpAffine(layer.alpha, fall, size, flags=cv2.INTER_LINEAR)
    shadow = cv2.GaussianBlur(shadow, (0, 0), max(0.8, 0.012 * height))
    _darken(canvas, light.cast * shadow, layer.left + left, layer.top + top)


def _darken(canvas: Uint8Array, shadow: Floats, left: int, top: int) -> None:
    seen = _window(canvas.shape, left, top, *shadow.shape)
    if seen is not None:
        target, part = seen
        canvas[target] = (canvas[target] * (1 - shadow[part])[..., None]).astype(np.uint8)


def _window(
    shape: tuple[int, ...], left: int, top: int, height: int, width: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
    """The part of a picture that a patch at ``left``, ``top`` covers, and that part of the patch; None if outside."""
    x0, y0, x1, y1 = max(0, left), max(0, top), min(shape[1], left + width), min(shape[0], top + height)
    if x0 >= x1 or y0 >= y1:
        return None
    return (slice(y0, y1), slice(x0, x1)), (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))


def _label(number: int, layer: Layer, owner: npt.NDArray[np.int16], settings: Settings) -> Label | None:
    """None for what is no object, and for an object of which nothing is visible."""
    solid = layer.alpha > SOLID
    seen = _window(owner.shape, layer.left, layer.top, *solid.shape)
    if layer.category is None or seen is None:
        return None
    target, part = seen
    inside = solid[part]
    visible = int(np.count_nonzero(owner[target] == number))
    if not visible:
        return None
    columns, rows = np.flatnonzero(inside.any(axis=0)), np.flatnonzero(inside.any(axis=1))
    left, top = target[1].start + columns[0], target[0].start + rows[0]
    box = (float(left), float(top), float(columns[-1] - columns[0] + 1), float(rows[-1] - rows[0] + 1))
    visibility = round(visible / int(np.count_nonzero(solid)), 4)
    return Label(layer.category, box, float(np.count_nonzero(inside)), visibility < settings.min_visible, visibility)


def _own_label(own: Label, owner: npt.NDArray[np.int16], settings: Settings) -> Label | None:
    """A label of the background, as far as nothing was pasted over it; None if nothing of it is left."""
    left, top, width, height = own.bbox
    rows = slice(max(0, int(top)), max(0, int(np.ceil(top + height))))
    box = owner[rows, max(0, int(left)) : max(0, int(np.ceil(left + width)))]
    if not box.size:
        return None
    visibility = round(own.visibility * float(np.mean(box == 0)), 4)
    hidden = own.iscrowd or visibility < settings.min_visible
    return Label(own.category, own.bbox, own.area, hidden, visibility) if visibility else None
