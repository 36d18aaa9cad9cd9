"""Shadows of people: the shape of body and legs thrown on the ground by the light, and the dark spot below the feet."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from stream.simulation.backdrop import sun
from stream.simulation.figure import Layout
from stream.simulation.raster import project
from stream.simulation.scene import Scene

Floats = NDArray[np.float32]
COARSE = 4  # shadows are drawn at a quarter of the size: they are soft
SOFT_PX = 1.1  # sigma of their blur, in coarse pixels
SPOT_M = 0.24  # radius of the dark spot below a body
LONGEST = 3.0  # of a shadow, in heights of what throws it
OUTLINES = (("torso", "head"), ("left_leg", "left_foot"), ("right_leg", "right_foot"))  # parts whose hulls make up a shadow
CORNERS = 16  # vertices taken of each outline


class Shadows:
    """Lays shadows on the ground of one scene, of which ``ground`` (H, W) says where it shows."""

    def __init__(self, scene: Scene, layouts: tuple[Layout, ...], ground: NDArray[np.bool_]):
        self._camera = scene.camera
        to_sun, light = sun(scene), scene.light
        self._slope = np.clip(to_sun[:2] / to_sun[2], -LONGEST, LONGEST).astype(np.float32)[:, None]
        self._cast = 255 * (1 - 0.6 * light.direct)
        self._spot = 255 * (0.62 if light.outdoors else 0.68)
        self._elsewhere = np.where(ground, 0, 255).astype(np.uint8)
        self._corners = [_corners(layout) for layout in layouts]
        turn = np.linspace(0, 2 * np.pi, CORNERS + 1)[:-1]
        self._ring = np.stack([np.cos(turn), np.sin(turn), 0 * turn]).astype(np.float32) * SPOT_M

    def corners(self, level: int, vertices: Floats) -> Floats:
        """The points (N, 3, C) that make the shadows of figures whose posed ``vertices`` (N, 3, V) are of the layout ``level``."""
        return np.asarray(vertices[:, :, self._corners[level]])

    def lay(self, picture: NDArray[np.uint8], corners: Floats) -> None:
        """Darken the ground of ``picture`` below and behind figures with ``corners`` (N, 3, C)."""
        height, width = picture.shape[:2]
        coarse = np.full((-(-height // COARSE), -(-width // COARSE)), 255, np.uint8)
        ring = self._ring + corners.mean(axis=2, keepdims=True)
        flat = np.concatenate([corners, ring], axis=2)
        flat[:, :2, : corners.shape[2]] -= self._slope * corners[:, 2:]
        flat[:, 2] = 0
        seen = project(self._camera, flat)
        points = np.clip(seen[:, :2] * (16 / COARSE) - 8, -(1 << 20), 1 << 20).astype(np.int32).transpose(0, 2, 1)
        outlines = points[seen[:, 2].min(axis=1) > 0.3].reshape(-1, len(OUTLINES) + 1, CORNERS, 2)
        for outline in outlines[:, :-1].reshape(-1, CORNERS, 2):
            cv2.fillConvexPoly(coarse, cv2.convexHull(outline), self._cast, cv2.LINE_8, 4)
        for outline in outlines[:, -1]:
            cv2.fillConvexPoly(coarse, np.ascontiguousarray(outline), self._spot, cv2.LINE_8, 4)
        rows = np.flatnonzero(cv2.reduce(coarse, 1, cv2.REDUCE_MIN) < 255)
        if not len(rows):
            return
        soft = cv2.resize(cv2.GaussianBlur(coarse, (5, 5), SOFT_PX), (width, height), interpolation=cv2.INTER_LINEAR)
        top, bottom = max(0, (int(rows[0]) - 3) * COARSE), min(height, (int(rows[-1]) + 4) * COARSE)
        band = cv2.max(soft[top:bottom], self._elsewhere[top:bottom])
        cv2.multiply(picture[top:bottom], cv2.merge([band, band, band]), picture[top:bottom], scale=1 / 255)


def _corners(layout: Layout) -> NDArray[np.int64]:
    """Vertices that stand for the outlines of a shadow, ``CORNERS`` of each."""
    every = np.arange(layout.uv.shape[0])
    groups = [np.concatenate([every[layout.part(part)] for part in outline]) for outline in OUTLINES]
    return np.concatenate([group[np.linspace(0, len(group) - 1, CORNERS).astype(int)] for group in groups])
