"""Dress: how people differ in build and clothes, and the painted texture (atlas) that a figure wears.

An atlas is one BGR picture with a rectangle for each kind of body part. In a rectangle, x runs around the limb from the back
(left edge) over one side to the front (middle), y from its top to its bottom.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]  # blue, green, red
Picture = NDArray[np.uint8]
Hair = Literal["", "short", "medium", "long", "bun", "afro", "cap", "beanie", "hood"]
Bottom = Literal["trousers", "shorts", "bare", "tights"]
Bag = Literal["", "backpack", "shoulder", "hand", "trolley"]
Stance = Literal["hang", "phone", "pockets", "folded", "strap", "behind"]

ATLAS_PX = 256
LEVELS = 4  # the atlas and its halvings, for figures that are small in the picture
REGIONS: dict[str, tuple[int, int, int, int]] = {  # x, y, width, height
    "torso": (0, 0, 128, 128),
    "head": (128, 0, 64, 64),
    "hair": (192, 0, 64, 64),
    "arm": (128, 64, 64, 64),
    "leg": (192, 64, 64, 128),
    "skirt": (0, 128, 128, 96),
    "bag": (128, 128, 64, 64),
    "foot": (128, 192, 64, 32),
}

# What people wear, roughly as often as they do: more dark and grey than bright.
_CLOTH: tuple[Colour, ...] = (
    (28, 26, 26), (34, 30, 28), (48, 36, 30), (60, 44, 34), (72, 48, 30), (70, 66, 62), (110, 106, 102),
    (160, 156, 152), (228, 226, 224), (240, 240, 238), (205, 214, 222), (150, 178, 196), (96, 122, 140), (60, 84, 104),
    (52, 72, 62), (60, 90, 84), (46, 46, 128), (40, 36, 168), (52, 40, 96), (132, 86, 46), (176, 124, 70),
    (198, 168, 130), (80, 160, 210), (64, 110, 60), (128, 96, 160), (176, 160, 206), (60, 190, 220),
)  # fmt: skip
_TROUSERS: tuple[Colour, ...] = (
    (26, 25, 25), (32, 30, 30), (44, 38, 36), (72, 50, 38), (96, 68, 48), (124, 92, 66), (150, 122, 98),
    (84, 82, 80), (60, 60, 64), (70, 92, 112), (120, 146, 166), (160, 184, 196), (52, 66, 62), (214, 216, 218),
)  # fmt: skip
_SKIN: tuple[Colour, ...] = (
    (168, 190, 232), (150, 176, 224), (134, 164, 214), (116, 148, 200), (98, 130, 184), (76, 108, 160), (58, 84, 130),
    (42, 62, 100), (32, 46, 74),
)  # fmt: skip
_HAIR: tuple[Colour, ...] = (
    (18, 18, 20), (24, 24, 28), (28, 32, 42), (34, 44, 62), (46, 66, 96), (80, 118, 156), (110, 160, 200), (120, 122, 126),
    (190, 190, 190), (36, 52, 112),
)  # fmt: skip
_SHOES: tuple[Colour, ...] = (
    (22, 22, 24), (30, 28, 28), (40, 50, 70), (60, 80, 110), (230, 230, 230), (200, 200, 205), (90, 88, 86),
    (60, 50, 140),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Build:
    """A body: ``height_m``, and breadths as multiples of the mean; ``head`` is above 1 for a child, ``bust`` 0 or 1 and more."""

    height_m: float
    girth: float
    shoulders: float
    hips: float
    head: float
    bust: float


@dataclass(frozen=True, slots=True)
class Dress:
    """What a person wears and carries, and how they stand.

    Attributes:
        skin, hair_colour, top_colour, inner_colour, bottom_colour, shoe_colour, bag_colour, accent: blue, green, red.
        hair: style or hat; "" is bald.
        top_pattern: of the cloth above; "open" is a jacket open over an inner shirt.
        top_looseness, bottom_looseness: 0 tight to 1 wide.
        hem_z: lower end of a skirt, dress or coat as share of the stature, 0 without one.
        flare: of that hem.
        hem_of_top: whether it is of the cloth of the top (a coat or dress) instead of the bottom's (a skirt).
        untucked: whether the top hangs over the hips.
        stance: what the arms do when standing, and a little when walking.
    """

    skin: Colour
    hair_colour: Colour
    top_colour: Colour
    inner_colour: Colour
    bottom_colour: Colour
    shoe_colour: Colour
    bag_colour: Colour
    accent: Colour
    hair: Hair
    top_pattern: Literal["plain", "stripes", "bands", "checks", "print", "open", "zip", "mottled"]
    long_sleeves: bool
    top_looseness: float
    bottom: Bottom
    bottom_looseness: float
    hem_z: float
    flare: float
    hem_of_top: bool
    untucked: bool
    bag: Bag
    bag_right: bool
    mask: bool
    beard: bool
    stance: Stance


def draw_build(rng: np.random.Generator) -> Build:
    """A body: one in fifteen is a child."""
    woman = rng.random() < 0.5
    girth = float(np.clip(rng.normal(1.04, 0.10) + (0.22 * rng.random() if rng.random() < 0.2 else 0), 0.86, 1.42))
    if rng.random() < 1 / 15:
        height = float(rng.uniform(1.05, 1.5))
        return Build(height, girth, 0.96, 0.95, 1.0 + 0.28 * (1.7 - height) / 0.6, 0.0)
    height = float(np.clip(rng.normal(1.64, 0.065) if woman else rng.normal(1.77, 0.07), 1.5, 2.0))
    if woman:
        return Build(
            height,
            girth,
            float(rng.uniform(0.88, 0.96)),
            float(rng.uniform(1.0, 1.14)),
            float(rng.uniform(0.98, 1.06)),
            float(rng.uniform(0.6, 1.6)),
        )
    return Build(height, girth, float(rng.uniform(0.98, 1.08)), float(rng.uniform(0.93, 1.02)), float(rng.uniform(0.97, 1.04)), 0.0)


def draw_dress(rng: np.random.Generator, build: Build, warm: bool) -> Dress:
    """Clothes for a body; ``warm`` weather means fewer coats and more bare arms."""

    def pick(colours: tuple[Colour, ...], spread: float = 10) -> Colour:
        blue, green, red = np.clip(
            np.array(colours[int(rng.integers(len(colours)))]) * rng.uniform(0.82, 1.14) + rng.normal(0, spread, 3), 8, 250
        )
        return int(blue), int(green), int(red)

    def choose(options: dict[str, float]) -> str:
        shares = np.array(list(options.values()))
        return str(rng.choice(list(options), p=shares / shares.sum()))

    woman = build.bust > 0
    outfit = choose(
        {
            "plain": 5,
            "jacket": 2.2 if warm else 5,
            "coat": 0.3 if warm else 2.5,
            "dress": 1.4 * woman * (1.6 if warm else 0.6),
            "skirt": 1.2 * woman,
        }
    )
    long_sleeves = outfit in ("jacket", "coat") or rng.random() < (0.35 if warm else 0.8)
    pattern = choose({"plain": 6, "stripes": 1, "bands": 1, "checks": 0.9, "print": 1.3, "mottled": 1.0})
    if outfit in ("jacket", "coat"):
        pattern = choose({"open": 4, "zip": 3, "plain": 2, "checks": 0.5, "mottled": 1})
    bottom: Bottom = "trousers"
    if outfit in ("dress", "skirt"):
        bottom = "bare" if rng.random() < (0.7 if warm else 0.25) else "tights"
    elif rng.random() < (0.3 if warm else 0.04):
        bottom = "shorts"
    hem = {
        "coat": rng.uniform(0.28, 0.45),
        "dress": rng.uniform(0.16, 0.38),
        "skirt": rng.uniform(0.2, 0.38),
        "jacket": rng.choice([0.0, 0.42]),
    }.get(outfit, 0.0)
    styles: dict[str, float] = (
        {"short": 1, "medium": 2, "long": 4, "bun": 1.6, "afro": 0.3}
        if woman
        else {"short": 6, "medium": 0.8, "afro": 0.3, "long": 0.2, "": 0.6}
    )
    hats: dict[str, float] = {"cap": 0.5, "beanie": 0.1 if warm else 0.7, "hood": 0.1 if warm else 0.4}
    colour_top = pick(_CLOTH)
    old = rng.random() < 0.15
    return Dress(
        skin=pick(_SKIN, 4),
        hair_colour=pick(_HAIR[7:9] if old else _HAIR[:7] + _HAIR[9:], 4),
        top_colour=colour_top,
        inner_colour=pick(_CLOTH),
        bottom_colour=pick(_CLOTH if outfit == "skirt" else _TROUSERS, 6),
        shoe_colour=pick(_SHOES, 5),
        bag_colour=pick(_CLOTH),
        accent=pick(_CLOTH, 25),
        hair=choose(styles | hats),  # type: ignore[arg-type]
        top_pattern=pattern,  # type: ignore[arg-type]
        long_sleeves=long_sleeves,
        top_looseness=float(rng.uniform(0.5, 1.2) if outfit in ("jacket", "coat") else rng.uniform(0.0, 0.8)),
        bottom=bottom,
        bottom_looseness=float(rng.uniform(0.1, 1.0) * (0.5 if woman else 1.0)),
        hem_z=float(hem),
        flare=float(rng.uniform(0.4, 1.3) if outfit in ("dress", "skirt") else rng.uniform(0.1, 0.5)),
        hem_of_top=outfit != "skirt",
        untucked=bool(outfit in ("plain", "jacket") and rng.random() < 0.6),
        bag=choose({"": 5, "backpack": 1.6, "shoulder": 1.2, "hand": 1.2, "trolley": 0.3}),  # type: ignore[arg-type]
        bag_right=bool(rng.random() < 0.5),
        mask=bool(rng.random() < 0.03),
        beard=bool(not woman and build.height_m > 1.6 and rng.random() < 0.25),
        stance=choose({"hang": 4, "phone": 2, "pockets": 1.5, "folded": 1, "strap": 0.7, "behind": 0.5}),  # type: ignore[arg-type]
    )


def paint(rng: np.random.Generator, dress: Dress) -> tuple[Picture, ...]:
    """The atlas of a dress, uint8 (256, 256, 3), and its halvings."""
    atlas = np.zeros((ATLAS_PX, ATLAS_PX, 3), np.float32)
    cloth = {part: atlas[y : y + h, x : x + w] for part, (x, y, w, h) in REGIONS.items()}
    bottom_cloth: Colour = {"bare": dress.skin, "tights": (36, 32, 32)}.get(dress.bottom, dress.bottom_colour)
    _paint_torso(cloth["torso"], dress, bottom_cloth)
    _paint_head(cloth["head"], dress)
    _paint_hair(cloth["hair"], rng, dress)
    _paint_arm(cloth["arm"], dress)
    leg = cloth["leg"]
    leg[:] = bottom_cloth
    if dress.bottom == "shorts":
        leg[58:] = dress.skin  # knees and below
        leg[114:] = (235, 235, 235)
    elif dress.bottom == "trousers":
        leg[:, 30:34] *= 0.9  # crease and seam
        leg[122:] *= 0.75
    cloth["skirt"][:] = dress.top_colour if dress.hem_of_top else dress.bottom_colour
    if dress.hem_of_top:
        _pattern(cloth["skirt"], dress, offset_px=66)
    cloth["skirt"][-4:] *= 0.8
    cloth["bag"][:] = dress.bag_colour
    cloth["bag"][20:23] *= 0.6
    cloth["bag"][30:52, 22:42] *= 1.15
    cloth["foot"][:] = dress.shoe_colour
    cloth["foot"][:, 26:38] = np.array((215, 215, 215) if sum(dress.shoe_colour) > 350 else (40, 40, 40))  # the sole, below
    _crease(atlas, rng)
    picture = np.clip(atlas, 0, 255).astype(np.uint8)
    levels = [picture]
    for _ in range(LEVELS - 1):
        levels.append(cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    return tuple(levels)


def _paint_torso(torso: NDArray[np.float32], dress: Dress, bottom_cloth: Colour) -> None:
    torso[:] = dress.top_colour
    _pattern(torso, dress)
    if dress.top_pattern in ("open", "zip"):
        half = 9 if dress.top_pattern == "open" else 1
        torso[:, 64 - half : 64 + half] = dress.inner_colour
        torso[:, [64 - half - 1, 64 + half]] *= 0.6
    elif dress.long_sleeves:
        torso[8:60, 63:65] *= 0.8
    if dress.top_pattern == "print":
        cv2.rectangle(torso, (52, 34), (76, 52), dress.accent, -1)
        cv2.circle(torso, (64, 43), 6, dress.inner_colour, -1)
    torso[:6] = dress.skin
    if not dress.long_sleeves:
        cv2.ellipse(torso, (64, 4), (14, 12), 0, 0, 360, dress.skin, -1)
    waist = 106 if dress.untucked or (dress.hem_z and dress.hem_of_top) else 84
    torso[waist:] = bottom_cloth if dress.hem_of_top or dress.bottom not in ("bare", "tights") else dress.bottom_colour
    if not dress.hem_z and not dress.untucked:
        torso[waist : waist + 4] = np.array((30, 34, 44))  # a belt
    if dress.bag in ("backpack", "shoulder"):
        for x in (44, 84) if dress.bag == "backpack" else (46,):
            cv2.line(torso, (x, 10), (x if dress.bag == "backpack" else 84, 70), tuple(0.7 * c for c in dress.bag_colour), 3)
    shade = 1 - 0.28 * np.abs(np.sin(np.linspace(0, 2 * np.pi, 128))) ** 3  # below the arms it is darker
    torso *= shade[None, :, None]
    torso[110:] *= 0.75


def _pattern(cloth: NDArray[np.float32], dress: Dress, offset_px: int = 0) -> None:
    height, width = cloth.shape[:2]
    y, x = np.arange(height)[:, None] + offset_px, np.arange(width)[None]
    accent = np.array(dress.accent, np.float32)
    if dress.top_pattern == "stripes":
        marked = np.broadcast_to(y % 12 < 5, (height, width))
    elif dress.top_pattern == "bands":
        marked = np.broadcast_to((y > 30) & (y < 48), (height, width))
    elif dress.top_pattern == "checks":
        cloth[np.broadcast_to(y % 14 < 6, (height, width))] *= 0.72
        marked = (x % 16 < 4) & (y % 14 < 12)
        cloth[marked] = 0.55 * cloth[marked] + 0.45 * accent
        return
    elif dress.top_pattern == "mottled":
        grain = np.random.default_rng(int(accent.sum())).normal(1, 0.22, (max(2, height // 5), max(2, width // 5)))
        cloth *= cv2.resize(grain.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
        return
    else:
        return
    cloth[marked] = accent


def _paint_head(head: NDArray[np.float32], dress: Dress) -> None:
    head[:] = dress.skin
    skin = np.array(dress.skin, np.float32)
    if dress.hair:
        head[:14] = dress.hair_colour
        head[14:40, :14] = head[14:40, -14:] = dress.hair_colour
    for x in (26, 38):  # eyes and brows
        cv2.ellipse(head, (x, 29), (3, 1), 0, 0, 360, _scalar(0.42 * skin), -1)
        cv2.line(head, (x - 4, 25), (x + 4, 25), _scalar(0.5 * np.array(dress.hair_colour) + 0.2 * skin), 1)
    cv2.line(head, (32, 28), (32, 36), _scalar(1.08 * skin), 2)
    cv2.line(head, (30, 37), (34, 37), _scalar(0.7 * skin), 1)
    cv2.ellipse(head, (32, 42), (5, 1), 0, 0, 360, _scalar(0.6 * skin * (1, 1, 1.25)), -1)
    if dress.beard:
        cv2.ellipse(head, (32, 46), (13, 7), 0, 0, 360, _scalar(0.6 * np.array(dress.hair_colour) + 0.25 * skin), -1)
    if dress.mask:
        cv2.rectangle(head, (19, 34), (45, 49), (225, 222, 214), -1)
    head[50:] *= 0.78  # below the chin


def _paint_hair(hair: NDArray[np.float32], rng: np.random.Generator, dress: Dress) -> None:
    hair[:] = {"cap": dress.accent, "beanie": dress.accent, "hood": dress.top_colour}.get(dress.hair, dress.hair_colour)
    if dress.hair == "beanie":
        hair[46:] *= 0.85
    strands = rng.normal(1, 0.10, (6, 32)).astype(np.float32)
    hair *= cv2.resize(strands, (64, 64), interpolation=cv2.INTER_CUBIC)[..., None]


def _paint_arm(arm: NDArray[np.float32], dress: Dress) -> None:
    """Rows follow the rings of the arm, not its length: shoulder to elbow 0..35, elbow to wrist 35..50, hand below."""
    arm[:] = dress.top_colour
    if dress.top_pattern in ("stripes", "checks", "mottled", "bands"):
        _pattern(arm, dress)
    arm[49 if dress.long_sleeves else 21 :] = dress.skin
    if dress.long_sleeves:
        arm[46:49] *= 0.75
    else:
        arm[19:21] *= 0.75


def _crease(atlas: NDArray[np.float32], rng: np.random.Generator) -> None:
    """Folds of cloth: smooth light and dark that runs across the limbs, and a fine grain."""
    folds = cv2.resize(rng.normal(1, 0.075, (40, 14)).astype(np.float32), (ATLAS_PX, ATLAS_PX), interpolation=cv2.INTER_CUBIC)
    drape = cv2.resize(rng.normal(1, 0.05, (12, 40)).astype(np.float32), (ATLAS_PX, ATLAS_PX), interpolation=cv2.INTER_CUBIC)
    shading = folds * drape * rng.normal(1, 0.025, (ATLAS_PX, ATLAS_PX)).astype(np.float32)
    x, y, w, h = REGIONS["head"]
    shading[y : y + h, x : x + w] = 1
    atlas *= shading[..., None]


def _scalar(colour: NDArray[np.floating]) -> tuple[float, ...]:
    return tuple(float(channel) for channel in colour)
