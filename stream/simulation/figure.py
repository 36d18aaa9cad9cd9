"""Figures: the shape of a human body in rest pose, as a skinned mesh that clothes, hair and bags change.

The mesh is made of tubes (rings of an ellipse along a limb). Joint heights and breadths are the body segment lengths of
Drillis and Contini (1966) as shares of the stature. Every figure has the same vertices in the same order, so that a whole crowd
is posed by a few array operations; what a figure does not wear is left out of its triangles.

Body axes: x to the figure's left, y forward, z up, origin on the ground between the feet.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream.simulation.dress import REGIONS, Build, Dress

Floats = NDArray[np.float32]

BONES = (
    "pelvis", "chest", "head",
    "left_arm", "left_forearm", "right_arm", "right_forearm",
    "left_thigh", "left_shin", "left_foot", "right_thigh", "right_shin", "right_foot",
    "bag",
)  # fmt: skip
BONE = {name: index for index, name in enumerate(BONES)}

SHOULDER_Z, ELBOW_Z, HIP_Z, KNEE_Z, ANKLE_Z, WAIST_Z, NECK_Z = 0.812, 0.632, 0.520, 0.285, 0.042, 0.60, 0.850
SHOULDER_X, HIP_X = 0.108, 0.050

# Rings as (z, rx, ry, cy), shares of the stature, from top to bottom.
_TORSO = (
    (0.856, 0.032, 0.034, 0.004), (0.843, 0.050, 0.042, 0.000), (0.830, 0.084, 0.046, -0.002), (0.806, 0.108, 0.054, 0.000),
    (0.760, 0.104, 0.066, 0.006), (0.715, 0.100, 0.068, 0.008), (0.665, 0.090, 0.062, 0.006), (0.615, 0.087, 0.060, 0.004),
    (0.570, 0.095, 0.064, 0.000), (0.530, 0.101, 0.069, -0.005), (0.490, 0.096, 0.066, -0.006), (0.462, 0.060, 0.045, 0.000),
)  # fmt: skip
_HEAD = (
    (1.000, 0.004, 0.005, 0.004), (0.993, 0.020, 0.026, 0.004), (0.978, 0.034, 0.043, 0.004), (0.955, 0.042, 0.054, 0.005),
    (0.930, 0.0435, 0.056, 0.007), (0.905, 0.041, 0.053, 0.010), (0.885, 0.036, 0.045, 0.016), (0.870, 0.029, 0.036, 0.016),
    (0.860, 0.030, 0.032, 0.004), (0.830, 0.034, 0.034, 0.000),
)  # fmt: skip
_ARM = (
    (0.827, 0.0005, 0.0005, 0.0), (0.821, 0.018, 0.023, 0.0), (0.802, 0.027, 0.034, 0.0), (0.760, 0.028, 0.033, 0.0),
    (0.705, 0.026, 0.029, 0.0), (0.655, 0.024, 0.026, 0.0), (0.610, 0.023, 0.025, 0.0), (0.555, 0.021, 0.023, 0.0),
    (0.500, 0.018, 0.021, 0.0), (0.484, 0.013, 0.020, 0.002), (0.450, 0.015, 0.025, 0.004), (0.418, 0.007, 0.012, 0.006),
)  # fmt: skip
_LEG = (
    (0.530, 0.040, 0.050, -0.004), (0.495, 0.053, 0.062, -0.006), (0.440, 0.052, 0.060, -0.002), (0.380, 0.046, 0.052, 0.002),
    (0.325, 0.039, 0.044, 0.004), (0.285, 0.035, 0.040, 0.003), (0.245, 0.034, 0.038, -0.003), (0.195, 0.034, 0.038, -0.008),
    (0.130, 0.028, 0.031, -0.008), (0.075, 0.023, 0.026, -0.008), (0.030, 0.022, 0.026, -0.006),
)  # fmt: skip
# The foot lies along y: rings as (y, half width, height).
_FOOT = ((-0.048, 0.004, 0.016), (-0.040, 0.021, 0.046), (0.000, 0.026, 0.062), (0.045, 0.029, 0.045), (0.088, 0.029, 0.030),
         (0.114, 0.013, 0.016))  # fmt: skip
_HAIR_RINGS, _SKIRT_RINGS, _BAG_RINGS = 8, 6, 5

PARTS = ("torso", "head", "hair", "left_arm", "right_arm", "left_leg", "right_leg", "left_foot", "right_foot", "skirt", "bag")
_SHAPE = {
    "torso": (len(_TORSO), 16), "head": (len(_HEAD), 12), "hair": (_HAIR_RINGS, 12),
    "left_arm": (len(_ARM), 10), "right_arm": (len(_ARM), 10), "left_leg": (len(_LEG), 10), "right_leg": (len(_LEG), 10),
    "left_foot": (len(_FOOT), 8), "right_foot": (len(_FOOT), 8), "skirt": (_SKIRT_RINGS, 16), "bag": (_BAG_RINGS, 12),
}  # fmt: skip
_COARSE_RINGS = {
    "torso": (0, 2, 3, 5, 7, 9, 11), "head": (0, 2, 4, 7, 9), "hair": (0, 2, 4, 5, 7), "arm": (0, 2, 4, 6, 8, 10, 11),
    "leg": (0, 2, 4, 5, 7, 10), "foot": (0, 1, 3, 5), "skirt": (0, 2, 5), "bag": (0, 1, 3, 4),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layout:
    """What all figures of one degree of detail share.

    Attributes:
        kept: (V,) which vertices of the full mesh it has.
        starts: (P,) number of each part's first vertex.
        triangles: of each part, (M, 3).
        uv: (V, 2) places in the atlas, in pixels.
        weights: (B, V) share of each bone in a vertex's motion; columns sum to 1.
    """

    kept: NDArray[np.int64]
    starts: NDArray[np.int64]
    triangles: tuple[NDArray[np.int32], ...]
    uv: Floats
    weights: Floats

    def part(self, name: str) -> slice:
        """The vertices of a part."""
        number = PARTS.index(name)
        return slice(int(self.starts[number]), int(self.starts[number + 1]) if number + 1 < len(PARTS) else len(self.uv))


@dataclass(frozen=True, slots=True)
class Mesh:
    """A body in rest pose in one degree of detail: ``vertices`` in metres, unit ``normals``, (3, V) each; ``triangles`` (T, 3)."""

    vertices: Floats
    normals: Floats
    triangles: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Figure:
    """One person.

    Attributes:
        dress: clothes.
        meshes: one for each layout of ``make_layouts``.
        worn: bool (P,), which parts there are.
        joints: (B, 3), the points about which the bones turn.
        atlases: BGR texture and its halvings.
    """

    dress: Dress
    meshes: tuple[Mesh, ...]
    worn: NDArray[np.bool_]
    joints: Floats
    atlases: tuple[NDArray[np.uint8], ...]


def make_layouts() -> tuple[Layout, Layout]:
    """The full mesh of about 1200 vertices, and one of a third of them for small figures."""
    return _layout(coarse=False), _layout(coarse=True)


def make_figure(layouts: tuple[Layout, ...], build: Build, dress: Dress, atlases: tuple[NDArray[np.uint8], ...]) -> Figure:
    """The body of ``build`` in ``dress``, whose painted texture is ``atlases``."""
    shapes = {
        "torso": _torso(build, dress), "head": _head(build), "hair": _hair(build, dress),
        "left_arm": _arm(build, dress, 1), "right_arm": _arm(build, dress, -1),
        "left_leg": _leg(build, dress, 1), "right_leg": _leg(build, dress, -1),
        "left_foot": _foot(build, 1), "right_foot": _foot(build, -1),
        "skirt": _skirt(build, dress), "bag": _bag(build, dress),
    }  # fmt: skip
    vertices = np.concatenate([shapes[part].reshape(-1, 3) for part in PARTS]).astype(np.float32) * np.float32(build.height_m)
    normals = np.concatenate([_normals(shapes[part]) for part in PARTS]).astype(np.float32)
    absent = {part for part, there in (("skirt", dress.hem_z), ("bag", dress.bag), ("hair", dress.hair)) if not there}
    worn = np.array([part not in absent for part in PARTS])
    meshes = []
    for layout in layouts:
        triangles = np.concatenate([faces for faces, there in zip(layout.triangles, worn, strict=True) if there])
        kept = layout.kept
        meshes.append(Mesh(np.ascontiguousarray(vertices[kept].T), np.ascontiguousarray(normals[kept].T), triangles))
    return Figure(dress, tuple(meshes), worn, _joints(build), atlases)


def _layout(coarse: bool) -> Layout:
    kept, starts, triangles, uvs = [], [], [], []
    full = size = 0
    for part in PARTS:
        rings, sides = _SHAPE[part]
        few = _COARSE_RINGS[part.removeprefix("left_").removeprefix("right_")]
        ring, side = (np.array(few), np.arange(0, sides + 1, 2)) if coarse else (np.arange(rings), np.arange(sides + 1))
        kept.append((full + ring[:, None] * (sides + 1) + side).ravel())
        triangles.append(_tube_triangles(len(ring), len(side) - 1) + np.int32(size))
        x, y, width, height = REGIONS[part.removeprefix("left_").removeprefix("right_")]
        v, u = np.meshgrid(ring / (rings - 1), side / sides, indexing="ij")
        if part.startswith("right"):
            u = 1 - u  # the outer side of both sleeves shows the same cloth
        uvs.append(np.stack([x + 1 + u * (width - 3), y + 1 + v * (height - 3)], -1).reshape(-1, 2))
        starts.append(size)
        full, size = full + rings * (sides + 1), size + ring.size * side.size
    indices = np.concatenate(kept)
    weights = np.ascontiguousarray(_bone_weights()[:, indices])
    return Layout(indices, np.array(starts), tuple(triangles), np.concatenate(uvs).astype(np.float32), weights)


def _tube_triangles(rings: int, sides: int) -> NDArray[np.int32]:
    ring, side = np.meshgrid(np.arange(rings - 1), np.arange(sides), indexing="ij")
    a = (ring * (sides + 1) + side).ravel()
    b, c, d = a + 1, a + sides + 1, a + sides + 2
    return np.concatenate([np.stack([a, b, c], 1), np.stack([b, d, c], 1)]).astype(np.int32)


def _bone_weights() -> Floats:
    """Share of each bone in the motion of each vertex of the full mesh, (B, V)."""
    slices, count = {}, 0
    for part in PARTS:
        rings, sides = _SHAPE[part]
        slices[part] = slice(count, count + rings * (sides + 1))
        count += rings * (sides + 1)
    weights = np.zeros((len(BONES), count), np.float32)

    def blend(part: str, upper: str, lower: str, z: NDArray[np.float64], joint: float, band: float) -> None:
        share = np.clip((joint + band - z) / (2 * band), 0, 1)
        columns = np.repeat(share, _SHAPE[part][1] + 1)
        weights[BONE[lower], slices[part]] += columns
        weights[BONE[upper], slices[part]] += 1 - columns

    def heights(rings: tuple[tuple[float, ...], ...]) -> NDArray[np.float64]:
        return np.array([ring[0] for ring in rings])

    blend("torso", "chest", "pelvis", heights(_TORSO), WAIST_Z, 0.07)
    blend("head", "head", "chest", heights(_HEAD), NECK_Z, 0.02)
    weights[BONE["head"], slices["hair"]] = 1
    weights[BONE["bag"], slices["bag"]] = 1
    for side in ("left", "right"):
        blend(f"{side}_arm", f"{side}_arm", f"{side}_forearm", heights(_ARM), ELBOW_Z, 0.03)
        weights[BONE[f"{side}_foot"], slices[f"{side}_foot"]] = 1
        blend(f"{side}_leg", f"{side}_thigh", f"{side}_shin", heights(_LEG), KNEE_Z, 0.03)
        for limb, trunk, rings in (("leg", "pelvis", 1), ("arm", "chest", 2)):  # so that buttock and shoulder stay closed
            first = slices[f"{side}_{limb}"].start
            top = slice(first, first + rings * (_SHAPE[f"{side}_{limb}"][1] + 1))
            weights[:, top] *= 0.5
            weights[BONE[trunk], top] += 0.5
    # A skirt hangs from the pelvis and is pushed by the thigh of its side the more the further down.
    rings, sides = _SHAPE["skirt"]
    down = np.repeat(np.linspace(0, 1, rings) ** 1.2 * 0.75, sides + 1)
    left = np.tile((np.sin(_angles(sides)) * -0.5 + 0.5), rings)
    weights[BONE["pelvis"], slices["skirt"]] = 1 - down
    weights[BONE["left_thigh"], slices["skirt"]] = down * left
    weights[BONE["right_thigh"], slices["skirt"]] = down * (1 - left)
    return weights


def _angles(sides: int) -> NDArray[np.float64]:
    """Angles of a ring's points: from the back (0) by the right side to the front (pi) and on by the left to the back."""
    return np.linspace(0, 2 * np.pi, sides + 1)


def _tube(rings: NDArray[np.float64], sides: int, boxy: float = 1.0) -> NDArray[np.float64]:
    """Points (R, S + 1, 3) of rings (z, rx, ry, cy); ``boxy`` below 1 squares the ellipse."""
    angle = _angles(sides)
    x, y = -np.sin(angle), -np.cos(angle)
    x, y = np.sign(x) * np.abs(x) ** boxy, np.sign(y) * np.abs(y) ** boxy
    z, rx, ry, cy = (rings[:, i, None] for i in range(4))
    return np.stack(np.broadcast_arrays(x * rx, y * ry + cy, z), -1)


def _torso(build: Build, dress: Dress) -> NDArray[np.float64]:
    rings = np.array(_TORSO)
    z = rings[:, 0]
    chest, hips = _bump(z, 0.78, 0.09), _bump(z, 0.52, 0.07)
    rings[:, 1] *= 1 + (build.shoulders - 1) * chest + (build.hips - 1) * hips
    rings[:, 1:3] *= (1 + (build.girth - 1) * (1 - _bump(z, 0.85, 0.03)))[:, None]
    belly = np.maximum(build.girth - 1, 0) * _bump(z, 0.63, 0.08)
    rings[:, 2] *= 1 + 1.1 * belly
    rings[:, 3] += 0.06 * belly + 0.012 * build.bust * _bump(z, 0.745, 0.035)
    rings[:, 2] *= 1 + 0.12 * build.bust * _bump(z, 0.745, 0.035)
    loose = dress.top_looseness * np.clip((0.86 - z) / 0.06, 0, 1)
    rings[:, 1:3] += (0.010 * loose)[:, None]
    return _tube(rings, _SHAPE["torso"][1], 0.86)


def _head(build: Build) -> NDArray[np.float64]:
    rings = np.array(_HEAD)
    above = rings[:, 0] > NECK_Z
    rings[above, 1:] *= build.head
    rings[above, 0] = 1 - (1 - rings[above, 0]) * build.head
    return _tube(rings, _SHAPE["head"][1])


def _hair(build: Build, dress: Dress) -> NDArray[np.float64]:
    """A shell over the head, open at the face; hats are the same shell with another outline."""
    low = {
        "short": 0.925,
        "medium": 0.885,
        "long": 0.775,
        "bun": 0.915,
        "afro": 0.90,
        "cap": 0.945,
        "beanie": 0.94,
        "hood": 0.83,
    }.get(dress.hair, 0.92)
    thick = {"afro": 0.030, "beanie": 0.010, "hood": 0.016, "long": 0.009, "medium": 0.010}.get(dress.hair, 0.006)
    top = 1.0 + thick * 0.9
    z = top - (top - low) * np.linspace(0, 1, _HAIR_RINGS) ** 1.5
    head = np.array(_HEAD)[::-1]
    rx, ry = np.interp(z - thick * 0.5, head[:, 0], head[:, 1]), np.interp(z - thick * 0.5, head[:, 0], head[:, 2])
    fall = np.clip((0.90 - z) / 0.12, 0, 1)  # below the ears long hair hangs straight instead of following the neck
    rx, ry = np.maximum(rx, 0.040 * (z < 0.92)) + thick, np.maximum(ry, 0.040 * (z < 0.92)) + thick
    rx[0], ry[0] = 0.003, 0.003
    cy = 0.002 - 0.012 * fall
    rings = np.stack([1 - (1 - z) * build.head, rx * build.head, ry * build.head, cy], 1)
    points = _tube(rings, _SHAPE["hair"][1])
    front = np.cos(_angles(_SHAPE["hair"][1])) < -0.2
    hairline = 0.972 if dress.hair not in ("cap", "beanie") else 0.948
    if dress.hair == "cap":
        brim = np.cos(_angles(_SHAPE["hair"][1])) < -0.6
        points[-1, brim, 1] += 0.045
    else:
        hidden = (z < hairline)[:, None] & front[None]
        centre = np.array([0, 0.0])
        points[..., :2] = np.where(hidden[..., None], centre + (points[..., :2] - centre) * 0.72, points[..., :2])
    if dress.hair == "bun":
        back = np.cos(_angles(_SHAPE["hair"][1])) > 0.75
        points[3:6, back, 1] -= 0.030
    return points


def _arm(build: Build, dress: Dress, side: int) -> NDArray[np.float64]:
    rings = np.array(_ARM)
    sleeve = np.clip((rings[:, 0] - (0.495 if dress.long_sleeves else 0.70)) / 0.02, 0, 1)
    rings[:, 1:3] *= (1 + (build.girth - 1) * 0.7) * (1 + 0.22 * dress.top_looseness * sleeve)[:, None]
    points = _tube(rings, _SHAPE["left_arm"][1])
    points[..., 0] += side * (SHOULDER_X * build.shoulders * (1 + (build.girth - 1) * 0.6) + 0.004 * dress.top_looseness)
    return points


def _leg(build: Build, dress: Dress, side: int) -> NDArray[np.float64]:
    rings = np.array(_LEG)
    z = rings[:, 0]
    cloth = np.clip((z - {"trousers": 0.0, "shorts": 0.27}.get(dress.bottom, 0.9)) / 0.02, 0, 1)
    rings[:, 1:3] *= (1 + (build.girth - 1) * 0.8 * np.clip(z / 0.3, 0.4, 1))[:, None]
    rings[:, 1:3] += (cloth * (0.004 + 0.010 * dress.bottom_looseness * np.clip((0.5 - z) / 0.2, 0, 1)))[:, None]
    points = _tube(rings, _SHAPE["left_leg"][1])
    points[..., 0] += side * HIP_X * build.hips
    return points


def _foot(build: Build, side: int) -> NDArray[np.float64]:
    rings = np.array(_FOOT)
    angle = _angles(_SHAPE["left_foot"][1])
    across, up = np.sin(angle), np.cos(angle) * 0.5 + 0.5
    x = across[None] * rings[:, 1, None] + side * HIP_X * build.hips
    # Rings run against the tube's usual direction (towards the toe), hence the mirrored angle above keeps faces outward.
    return np.stack(np.broadcast_arrays(x, rings[:, 0, None], up[None] * rings[:, 2, None]), -1)


def _skirt(build: Build, dress: Dress) -> NDArray[np.float64]:
    hem = dress.hem_z or 0.4
    z = np.linspace(0.615, hem, _SKIRT_RINGS)
    torso = np.array(_TORSO)[::-1]
    cloth = 0.006 + 0.013 * dress.top_looseness * (1.0 if dress.hem_of_top else 0.5)  # it lies over the torso's own looseness
    down = np.clip((0.53 - z) / max(0.53 - hem, 0.02), 0, 1)
    rx = np.interp(np.maximum(z, 0.53), torso[:, 0], torso[:, 1]) * build.girth * (1 + (build.hips - 1) * 0.9) + cloth
    ry = np.interp(np.maximum(z, 0.53), torso[:, 0], torso[:, 2]) * build.girth + cloth
    flare = dress.flare * down * (0.53 - hem) / 0.25
    return _tube(np.stack([z, rx + 0.05 * flare, ry + 0.05 * flare, 0 * z], 1), _SHAPE["skirt"][1], 0.86)


def _bag(build: Build, dress: Dress) -> NDArray[np.float64]:
    side = -1 if dress.bag_right else 1
    back = -0.062 * build.girth - 0.012 * dress.top_looseness
    centre_x, centre_y, bottom, top, rx, ry = {
        "backpack": (0, back - 0.045, 0.595, 0.805, 0.080, 0.050),
        "shoulder": (side * 0.125 * build.girth * build.hips, -0.02, 0.46, 0.57, 0.030, 0.085),
        "hand": (side * (SHOULDER_X * build.shoulders + 0.01), 0.01, 0.25, 0.41, 0.030, 0.085),
        "trolley": (side * 0.16, -0.20, 0.02, 0.36, 0.10, 0.065),
    }.get(dress.bag, (0, 0, 0.5, 0.6, 0.01, 0.01))
    z = np.array([top, top - 0.02, (top + bottom) / 2, bottom + 0.015, bottom])
    size = np.array([0.25, 0.92, 1.0, 1.0, 0.3])
    points = _tube(np.stack([z, rx * size, ry * size, np.full(5, centre_y)], 1), _SHAPE["bag"][1], 0.55)
    points[..., 0] += centre_x
    return points


def _bump(z: NDArray[np.float64], centre: float, width: float) -> NDArray[np.float64]:
    return np.exp(-(((z - centre) / width) ** 2))


def _joints(build: Build) -> Floats:
    shoulder = SHOULDER_X * build.shoulders
    joints = np.zeros((len(BONES), 3))
    joints[BONE["pelvis"]] = (0, 0, HIP_Z)
    joints[BONE["chest"]] = (0, 0, WAIST_Z)
    joints[BONE["head"]] = (0, 0, NECK_Z)
    for side, sign in (("left", 1), ("right", -1)):
        joints[BONE[f"{side}_arm"]] = (sign * shoulder, 0, SHOULDER_Z)
        joints[BONE[f"{side}_forearm"]] = (sign * shoulder, 0, ELBOW_Z)
        joints[BONE[f"{side}_thigh"]] = (sign * HIP_X * build.hips, 0, HIP_Z)
        joints[BONE[f"{side}_shin"]] = (sign * HIP_X * build.hips, 0, KNEE_Z)
        joints[BONE[f"{side}_foot"]] = (sign * HIP_X * build.hips, -0.006, ANKLE_Z)
    return (joints * build.height_m).astype(np.float32)


def _normals(tube: NDArray[np.float64]) -> NDArray[np.float64]:
    """Outward unit normals (R * (S + 1), 3) of a tube's points: across its rings and round them, joined at the seam."""
    down = np.gradient(tube, axis=0)
    ring = tube[:, :-1]
    around = np.roll(ring, -1, axis=1) - np.roll(ring, 1, axis=1)
    around = np.concatenate([around, around[:, :1]], axis=1)
    normals = np.cross(around, down)
    length = np.linalg.norm(normals, axis=2, keepdims=True)
    return np.asarray((normals / np.maximum(length, 1e-12)).reshape(-1, 3))
