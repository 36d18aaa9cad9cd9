"""Poses: how a body stands and walks, as one rigid motion per bone, for a whole crowd at once.

Hip and knee angles over the walking cycle follow the usual curves of gait analysis (Perry, Gait Analysis, 1992): the thigh
swings like a cosine, the knee gives way by about 15 degrees when the foot lands and bends by 60 in mid swing. Arms swing
against the legs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream.simulation.dress import Stance
from stream.simulation.figure import BONE, BONES, Figure

Floats = NDArray[np.float32]
WALKING_M_S = 0.5  # at this speed and above a person walks rather than stands
SWAY_HZ = 0.17
SWING_LEAD = 0.35  # radians of the cycle by which the thigh is furthest forward before the heel lands

# What the arms do in each stance: shoulder forward, shoulder out, elbow, turn inward (radians) of the left and of the right
# arm, and how much of it is kept when walking.
_ARMS: dict[Stance, tuple[float, ...]] = {
    "hang": (0.02, 0.10, 0.18, 0.0, 0.02, 0.10, 0.18, 0.0, 0.0),
    "phone": (0.05, 0.10, 0.25, 0.0, 0.45, 0.08, 1.85, 0.45, 0.7),
    "pockets": (-0.18, 0.22, 0.55, 0.35, -0.18, 0.22, 0.55, 0.35, 0.7),
    "folded": (0.38, 0.12, 1.65, 1.0, 0.38, 0.12, 1.65, 1.0, 0.0),
    "strap": (0.02, 0.10, 0.20, 0.0, 0.25, 0.15, 2.2, 0.2, 0.8),
    "behind": (-0.40, 0.15, 0.55, 0.8, -0.40, 0.15, 0.55, 0.8, 0.0),
}


@dataclass(frozen=True, slots=True)
class Motion:
    """How a crowd moves in one frame; all arrays (N,).

    Attributes:
        position_m: (N, 2) on the ground.
        heading_rad: where the body looks, 0 along x.
        speed_m_s, gait: walking speed, and phase of the walking cycle (0..1, the left heel lands at 0).
        habit: a number in 0..1 that is each person's own.
        time_s: of the frame.
    """

    position_m: NDArray[np.float64]
    heading_rad: NDArray[np.float64]
    speed_m_s: NDArray[np.float64]
    gait: NDArray[np.float64]
    habit: NDArray[np.float64]
    time_s: float


def pose(figures: list[Figure], motion: Motion) -> Floats:
    """World motions of all bones, float32 (N, B, 3, 4)."""
    count = len(figures)
    joints = np.stack([figure.joints for figure in figures]).astype(np.float64)
    arms = np.array([_ARMS[figure.dress.stance] for figure in figures])
    walk = np.clip(motion.speed_m_s / WALKING_M_S, 0, 1)
    swing = walk * np.clip(motion.speed_m_s / 1.35, 0.35, 1.6) ** 0.6
    zero = np.zeros(count)
    bones: NDArray[np.float64] = np.zeros((count, len(BONES), 3, 4))

    def hinge(name: str, parent: str | None, rotation: NDArray[np.float64]) -> None:
        joint = joints[:, BONE[name]]
        shift = joint - _turn(rotation, joint)
        if parent is None:
            bones[:, BONE[name], :, :3], bones[:, BONE[name], :, 3] = rotation, shift
        else:
            base = bones[:, BONE[parent]]
            bones[:, BONE[name], :, :3] = base[:, :, :3] @ rotation
            bones[:, BONE[name], :, 3] = _turn(base[:, :, :3], shift) + base[:, :, 3]

    sway = np.sin(2 * np.pi * (SWAY_HZ * motion.time_s + motion.habit)) * (1 - walk)
    beat = np.cos(2 * np.pi * motion.gait) * swing
    hinge("pelvis", None, _rotation(zero, 0.025 * sway, motion.heading_rad - np.pi / 2 + 0.05 * beat))
    bones[:, BONE["pelvis"], :2, 3] += motion.position_m
    lean = 0.03 + 0.06 * motion.habit + 0.04 * walk
    hinge("chest", "pelvis", _rotation(-lean, -0.035 * sway, -0.14 * beat))
    looking = np.array([figure.dress.stance == "phone" for figure in figures])
    glance = 0.45 * np.sin(2 * np.pi * (0.05 * motion.time_s + 7 * motion.habit)) * (0.4 + 0.6 * (1 - walk))
    hinge("head", "chest", _rotation(lean * 0.6 - 0.5 * looking - 0.05, zero, glance * ~looking))
    kept = 1 - walk * (1 - arms[:, 8])
    for side, sign, column in (("left", 1, 0), ("right", -1, 4)):
        phase = motion.gait if side == "left" else motion.gait + 0.5
        thigh, knee = _leg(phase, swing)
        relaxed = (1 - walk) * np.where((motion.habit > 0.5) == (side == "left"), 0.16, 0.0)  # standing, one knee is soft
        spread = sign * (0.035 * (1 - walk) + 0.01)
        hinge(f"{side}_thigh", "pelvis", _rotation(thigh + relaxed * 0.7, -spread, zero))
        hinge(f"{side}_shin", f"{side}_thigh", _rotation(-(knee + relaxed), zero, zero))
        hinge(f"{side}_foot", f"{side}_shin", _rotation(-0.62 * (thigh - knee) + 0.3 * relaxed, zero, zero - sign * 0.12))
        forward, out, elbow, inward = (arms[:, column + i] for i in range(4))
        pendulum = -0.50 * np.cos(2 * np.pi * phase) * swing
        hinge(
            f"{side}_arm",
            "chest",
            _rotation(
                lean + forward * kept + pendulum * (1 - kept), -sign * (out * kept + 0.09 * (1 - kept)), sign * inward * kept
            ),
        )
        bend = elbow * kept + (1 - kept) * (0.25 + 0.25 * np.maximum(pendulum, 0) + 0.25 * motion.habit)
        hinge(f"{side}_forearm", f"{side}_arm", _rotation(bend, zero, zero))
    for i, figure in enumerate(figures):
        carrier = "chest" if figure.dress.bag == "backpack" else "pelvis"
        if figure.dress.bag == "hand":
            carrier = "right_arm" if figure.dress.bag_right else "left_arm"
        bones[i, BONE["bag"]] = bones[i, BONE[carrier]]
    return bones.astype(np.float32)


def _leg(phase: NDArray[np.float64], swing: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Thigh forward and knee bend, radians, of a leg whose heel lands at phase 0."""
    phase = phase % 1.0
    thigh = (0.40 * np.cos(2 * np.pi * phase + SWING_LEAD) + 0.07) * swing
    landing, mid_swing = np.exp(-(((phase - 0.14) / 0.09) ** 2)), np.exp(-(((phase - 0.72) / 0.12) ** 2))
    return thigh, 0.04 + (0.25 * landing + 1.05 * mid_swing) * np.minimum(swing, 1.1)


def _turn(rotation: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    return (rotation @ points[..., None])[..., 0]


def _rotation(x: NDArray[np.float64], y: NDArray[np.float64], z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotations (N, 3, 3): about z first, then x, then y."""
    cx, sx, cy, sy, cz, sz = np.cos(x), np.sin(x), np.cos(y), np.sin(y), np.cos(z), np.sin(z)
    rotation = np.empty((len(cx), 3, 3))
    rotation[:, 0, 0], rotation[:, 0, 1], rotation[:, 0, 2] = cy * cz + sy * sx * sz, -cy * sz + sy * sx * cz, sy * cx
    rotation[:, 1, 0], rotation[:, 1, 1], rotation[:, 1, 2] = cx * sz, cx * cz, -sx
    rotation[:, 2, 0], rotation[:, 2, 1], rotation[:, 2, 2] = -sy * cz + cy * sx * sz, sy * sz + cy * sx * cz, cy * cx
    return rotation
