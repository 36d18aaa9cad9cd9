"""Camera: where a point of the world lies in the picture, and where a point of the picture lies on the ground.

The world's axes are x to the right, y forward, z up, in metres; the ground is z = 0. A camera with no pan and no tilt
looks along y. Pixel coordinates run from 0 to ``width`` and ``height``; the centre of the first pixel is (0.5, 0.5).

The lens is a pinhole with the radial part of the Brown-Conrady model (D. C. Brown, Decentering distortion of lenses,
Photogrammetric Engineering 32, 1966): a ray at the distance r from the axis on the plane one focal length away lands at
r (1 + k1 r^2 + k2 r^4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

NEAR_M = 0.05  # points closer to the lens plane than this count as behind it
NEWTON_STEPS = 30  # the inversion below converges in five to eight; the rest is for rays at the very edge


@dataclass(frozen=True)
class Camera:
    """A camera on a pole or a wall. ``k1`` below 0 is a barrel, as of most surveillance lenses.

    Attributes:
        width, height: of the picture, in pixels.
        focal_px: focal length in pixels.
        position_m: x, y, and height above the ground.
        tilt_rad: how far it looks down; 0 is level.
        pan_rad: how far it is turned to the left of y.
        k1, k2: distortion.

    Raises:
        ValueError: a size, the focal length or the height is not positive, or the lens is bent so far that the
            picture's corners lie where the distortion folds over.
    """

    width: int
    height: int
    focal_px: float
    position_m: tuple[float, float, float]
    tilt_rad: float
    pan_rad: float
    k1: float = 0.0
    k2: float = 0.0

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"the picture has no area: {self.width}x{self.height}")
        if not self.focal_px > 0:
            raise ValueError(f"focal_px must be positive, not {self.focal_px}")
        if not self.position_m[2] > 0:
            raise ValueError(f"the camera must be above the ground, not at {self.position_m[2]} m")
        corner = math.hypot(self.width, self.height) / 2 / self.focal_px
        if self._reach < math.inf and self._bent(np.float64(self._reach)) <= corner:
            raise ValueError(f"k1={self.k1}, k2={self.k2} fold the picture's corners over")

    @cached_property
    def axes(self) -> Floats:
        """The camera's right, down and forward as rows, float64 (3, 3)."""
        pan, tilt = self.pan_rad, self.tilt_rad
        right = np.array([math.cos(pan), math.sin(pan), 0.0])
        forward = np.array([-math.sin(pan) * math.cos(tilt), math.cos(pan) * math.cos(tilt), -math.sin(tilt)])
        return np.stack([right, np.cross(forward, right), forward])

    @cached_property
    def _reach(self) -> float:
        """The radius up to which the distortion grows: the first root of its derivative, 1 + 3 k1 s + 5 k2 s^2 in s = r^2."""
        a, b = 5 * self.k2, 3 * self.k1
        if a == 0:
            return math.sqrt(-1 / b) if b < 0 else math.inf
        root = b * b - 4 * a
        roots = [] if root < 0 else [(-b - math.sqrt(root)) / (2 * a), (-b + math.sqrt(root)) / (2 * a)]
        return min((math.sqrt(s) for s in roots if s > 0), default=math.inf)

    def _bent(self, r: Floats | np.float64) -> Floats:
        return np.asarray(r * (1 + r**2 * (self.k1 + self.k2 * r**2)))

    def _centred(self, points_m: npt.ArrayLike) -> Floats:
        """Points in the camera's own axes, float64 (N, 3)."""
        points = np.asarray(points_m, np.float64).reshape(-1, 3)
        return np.asarray((points - np.asarray(self.position_m)) @ self.axes.T)

    def depth_m(self, points_m: npt.ArrayLike) -> Floats:
        """Distance along the optical axis of points (N, 3), float64 (N,); negative behind the camera."""
        return np.asarray(self._centred(points_m)[:, 2])

    def project(self, points_m: npt.ArrayLike) -> Floats:
        """Where points of the world lie in the picture.

        Args:
            points_m: (N, 3).

        Returns:
            float64 (N, 2) pixels, which may lie outside the picture; nan for points behind the camera and for those so far
            off the axis that the lens model does not reach them.
        """
        centred = self._centred(points_m)
        depth = np.where(centred[:, 2] > NEAR_M, centred[:, 2], np.nan)
        flat = centred[:, :2] / depth[:, None]
        square = (flat**2).sum(axis=1)
        scale = np.where(square < self._reach**2, 1 + square * (self.k1 + self.k2 * square), np.nan)
        return np.asarray(flat * (self.focal_px * scale)[:, None] + (self.width / 2, self.height / 2))

    def rays(self, points_px: npt.ArrayLike) -> Floats:
        """Directions in the world of the rays through pixels (N, 2), float64 (N, 3), one long along the optical axis.

        nan where the lens lets no ray through.
        """
        points = np.asarray(points_px, np.float64).reshape(-1, 2)
        bent = (points - (self.width / 2, self.height / 2)) / self.focal_px
        radius = np.hypot(bent[:, 0], bent[:, 1])
        scale = np.divide(self._straight(radius), radius, out=np.ones_like(radius), where=radius > 0)
        flat = bent * scale[:, None]
        return np.asarray(np.column_stack((flat, np.ones(len(flat)))) @ self.axes)

    def _straight(self, bent: Floats) -> Floats:
        """The radii that the lens bends to ``bent``, by Newton's method."""
        r = np.minimum(bent, self._reach)
        for _ in range(NEWTON_STEPS):
            slope = 1 + r**2 * (3 * self.k1 + 5 * self.k2 * r**2)
            r = np.clip(r - (self._bent(r) - bent) / np.maximum(slope, 1e-9), 0, self._reach)
        return np.where(np.abs(self._bent(r) - bent) < 1e-6, r, np.nan)

    def ground(self, points_px: npt.ArrayLike) -> Floats:
        """Where the rays through pixels (N, 2) meet the ground, float64 (N, 2) metres; nan at and above the horizon."""
        rays = self.rays(points_px)
        x, y, height = self.position_m
        down = np.where(rays[:, 2] < -1e-9, -rays[:, 2], np.nan)
        return np.asarray(rays[:, :2] * (height / down)[:, None] + (x, y))

    def inside(self, points_px: Floats) -> npt.NDArray[np.bool_]:
        """Which pixels (N, 2) lie in the picture; nan does not."""
        x, y = points_px[:, 0], points_px[:, 1]
        return np.asarray((x >= 0) & (x < self.width) & (y >= 0) & (y < self.height))
