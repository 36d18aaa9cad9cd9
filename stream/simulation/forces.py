"""Forces: how people who walk keep off one another, off walls, and together.

The social force model of Helbing and Molnar (Physical Review E 51, 1995), with the interaction that Moussaid et al.
measured on walking people (Proc. R. Soc. B 276, 2009) and the cohesion of small groups (Moussaid et al., PLoS ONE 5, 2010).
All are accelerations in m/s^2 of N people.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stream.simulation.ground import Floats, nearest

# Moussaid et al. 2009, table 1
STRENGTH = 4.5
REACH = 0.35
SPEED_WEIGHT = 2.0
SIDEWAYS, SLOWING = 2.0, 3.0
BEHIND = 0.25  # share of the force from people one does not see
RANGE_M = 5.0  # beyond it the force is below 0.001

WALL_STRENGTH, WALL_RANGE_M = 3.0, 0.15  # Moussaid et al. 2009 for walls
COHESION = 3.0  # Moussaid et al. 2010
GROUP_SPACE_M = 0.75  # from shoulder to shoulder
BODY_M = 0.23  # radius of a body


def apart(position: Floats, velocity: Floats, heading: Floats, group: npt.NDArray[np.int64]) -> Floats:
    """What keeps people off one another, float64 (N, 2).

    Args:
        position, velocity: (N, 2).
        heading: unit vectors, (N, 2).
        group: (N,); equal numbers walk together and do not avoid each other, -1 is alone.
    """
    gap = position[None] - position[:, None]
    distance = np.sqrt((gap**2).sum(axis=2))
    near = (distance < RANGE_M) & ((group[:, None] != group[None]) | (group[:, None] < 0))
    np.fill_diagonal(near, False)
    i, j = np.nonzero(near)
    gap, distance = gap[i, j], np.maximum(distance[i, j], 1e-6)
    towards = gap / distance[:, None]
    interaction = SPEED_WEIGHT * (velocity[i] - velocity[j]) + towards
    length = np.maximum(np.sqrt((interaction**2).sum(axis=1)), 1e-6)
    tangent = interaction / length[:, None]
    normal = np.column_stack((-tangent[:, 1], tangent[:, 0]))
    angle = np.arctan2((normal * towards).sum(axis=1), (tangent * towards).sum(axis=1))
    reach = REACH * length
    sees = np.where((heading[i] * towards).sum(axis=1) > -0.2, 1.0, BEHIND)
    decay = -STRENGTH * sees * np.exp(-distance / reach)
    slow = decay * np.exp(-((SLOWING * reach * angle) ** 2))
    turn = decay * np.where(angle >= 0, 1.0, -1.0) * np.exp(-((SIDEWAYS * reach * angle) ** 2))
    pairs = slow[:, None] * tangent + turn[:, None] * normal
    sums = [np.bincount(i, pairs[:, axis], len(position)) for axis in (0, 1)]
    return np.column_stack(sums).astype(np.float64)  # of no pairs at all bincount makes integers


def off_walls(position: Floats, walls: Floats) -> Floats:
    """What keeps people off the nearest wall (M, 2, 2), float64 (N, 2)."""
    away, distance = from_wall(position, walls)
    return np.asarray(away * (WALL_STRENGTH * np.exp(-np.maximum(distance - BODY_M, 0) / WALL_RANGE_M))[:, None])


def from_wall(position: Floats, walls: Floats) -> tuple[Floats, Floats]:
    """Unit vectors (N, 2) away from the nearest wall, and the distance to it (N,)."""
    gaps = position[:, None] - nearest(position, walls)
    squares = (gaps**2).sum(axis=2)
    closest = squares.argmin(axis=1)
    rows = np.arange(len(position))
    distance = np.sqrt(squares[rows, closest])
    return np.asarray(gaps[rows, closest] / np.maximum(distance, 1e-6)[:, None]), distance


def together(position: Floats, heading: Floats, group: npt.NDArray[np.int64]) -> Floats:
    """What keeps the members of a group near their middle and a shoulder's width from each other, float64 (N, 2)."""
    force = np.zeros_like(position)
    same = (group[:, None] == group[None]) & (group[:, None] >= 0)
    size = same.sum(axis=1)
    member = size > 1
    if not member.any():
        return force
    middle = same[member].astype(np.float64) @ position / size[member, None]
    gap = middle - position[member]
    distance = np.sqrt((gap**2).sum(axis=1))
    far = distance > GROUP_SPACE_M * (size[member] - 1) / 2
    force[member] += COHESION * (gap / np.maximum(distance, 1e-6)[:, None]) * far[:, None]
    i, j = np.nonzero(same & ~np.eye(len(position), dtype=bool))
    gap = position[i] - position[j]
    distance = np.sqrt((gap**2).sum(axis=1))
    push = gap / np.maximum(distance, 1e-6)[:, None] * (np.maximum(GROUP_SPACE_M - distance, 0) * 8)[:, None]
    for axis in (0, 1):
        force[:, axis] += np.bincount(i, push[:, axis], len(position))
    return force


def separate(position: Floats, firm: npt.NDArray[np.bool_]) -> Floats:
    """Positions moved so far that no two bodies overlap by much; the ``firm`` (N,) yield least."""
    moved = position.copy()
    weight = np.where(firm, 0.05, 1.0)
    for _ in range(2):
        gap = moved[None] - moved[:, None]
        distance = np.sqrt((gap**2).sum(axis=2))
        i, j = np.nonzero(np.triu(distance < 2 * BODY_M, 1))
        if not len(i):
            break
        push = gap[i, j] / np.maximum(distance[i, j], 1e-6)[:, None] * (2 * BODY_M - distance[i, j])[:, None]
        share = (weight[i] / (weight[i] + weight[j]))[:, None]
        for axis in (0, 1):
            moved[:, axis] -= np.bincount(i, (push * share)[:, axis], len(moved))
            moved[:, axis] += np.bincount(j, (push * (1 - share))[:, axis], len(moved))
    return moved
