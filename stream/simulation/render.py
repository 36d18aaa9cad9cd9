"""Renderer: the picture of a scene with its people, and what of each of them can be seen in it.

1. The backdrop is painted once, with the distance of everything solid.
2. People are posed, projected and shaded together, their shadows laid on the ground.
3. Each person is drawn, far ones first, where nothing solid is nearer.
4. Going back from near to far, the pixels that nobody nearer covers are counted.
5. The camera adds its own faults.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stream.simulation.backdrop import MIST_BGR, mist_reach_m, paint_backdrop, sun
from stream.simulation.cast import Cast
from stream.simulation.crowd import Walkers
from stream.simulation.figure import Figure, Mesh, make_layouts
from stream.simulation.imaging import Imaging
from stream.simulation.pose import Motion, pose
from stream.simulation.raster import Easel, extents, project, skin
from stream.simulation.scene import Scene
from stream.simulation.shadow import Shadows

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
COARSE_BELOW_PX = 230.0  # figures that are lower are drawn with fewer triangles
SMALLEST_PX = 0.5  # of a figure's box within the picture; less is not drawn
TALLEST_M = 2.0
NEAREST_M = 0.8  # who comes nearer to the lens's plane is not drawn


@dataclass(frozen=True, slots=True)
class Rendered:
    """A picture and its truth; rows are in the order of the walkers.

    Attributes:
        bgr: uint8 (H, W, 3).
        boxes: float32 (N, 4), x0, y0, x1, y1 in pixels: the whole figure, occluded or not, clipped to the picture. Empty
            (all 0) for those outside it.
        full_boxes: float32 (N, 4), the same not clipped; all 0 for those behind the camera.
        visibility: float32 (N,), share of the figure's pixels that are in the picture and not occluded, 0..1.
    """

    bgr: NDArray[np.uint8]
    boxes: Floats
    full_boxes: Floats
    visibility: Floats


@dataclass(frozen=True, slots=True)
class _Person:
    """One figure of a frame, in ``row`` of the walkers, posed and projected (``seen``, 3 x V)."""

    row: int
    level: int
    figure: Figure
    mesh: Mesh
    seen: Floats
    shade: Floats
    box: Floats
    distance_m: float
    nearest_m: float


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Where a figure was drawn: all of it within the picture (``mask``), and what is not behind something solid (``shown``)."""

    here: tuple[slice, slice]
    mask: Bytes
    shown: Bytes


class Renderer:
    """Draws a scene. The same scene, frame rate, walkers and frame index give the same picture.

    Needs about 45 MB at 1280x720 and up to 65 MB for figures (above 160 people in view, 0.4 MB for each); painting the backdrop
    takes 100 MB more for a second. Not safe for use by several threads at once.

    Args:
        scene: the scene.
        fps: frames per second, from which the time of a frame follows.

    Raises:
        ValueError: ``fps`` is not positive.
    """

    def __init__(self, scene: Scene, fps: float):
        if not fps > 0:
            raise ValueError(f"fps must be positive, not {fps}")
        self._scene, self._fps = scene, fps
        self._imaging = Imaging(scene, fps)
        backdrop = paint_backdrop(scene)
        self._backdrop = self._imaging.expose(backdrop.bgr * self._imaging.vignette[..., None])
        self._solid_m = backdrop.depth_m
        self._layouts = make_layouts()
        self._shadows = Shadows(scene, self._layouts, backdrop.ground)
        self._easel = Easel(scene.camera)
        self._cast = Cast(scene, self._layouts, self._imaging.expose)
        self._to_sun = sun(scene).astype(np.float32)
        self._mist_reach_m = mist_reach_m(scene)
        self._mist = np.full_like(self._backdrop, self._imaging.expose(np.full((1, 1, 3), MIST_BGR, np.float32)))

    def render(self, walkers: Walkers, frame_index: int) -> Rendered:
        """The picture of a frame.

        Args:
            walkers: who is where.
            frame_index: 0 or more.
        """
        count = len(walkers)
        picture = self._backdrop.copy()
        boxes, full_boxes = np.zeros((count, 4), np.float32), np.zeros((count, 4), np.float32)
        visibility = np.zeros(count, np.float32)
        rows, tall_px = self._before_the_lens(walkers.position_m)
        figures = self._cast.figures(walkers.person_id[rows].tolist())
        people = self._stand(picture, figures, rows, tall_px < COARSE_BELOW_PX, self._motion(walkers, rows, frame_index))
        people.sort(key=lambda person: -person.distance_m)
        height, width = picture.shape[:2]
        shown = []
        for person in people:
            x0, y0, x1, y1 = (float(v) for v in person.box)
            full_boxes[person.row] = person.box
            inside = max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height)
            if min(inside[2] - inside[0], inside[3] - inside[1]) > SMALLEST_PX:
                boxes[person.row] = inside
                shown.append((person, self._draw(picture, person)))
        covered = np.zeros((height, width), np.uint8)
        for person, drawn in reversed(shown):
            share = _share_seen(drawn, covered)
            if share and (boxes[person.row] != person.box).any():
                share *= self._easel.share_inside(person.mesh, person.seen, person.box)
            visibility[person.row] = share
        return Rendered(self._imaging.apply(picture, frame_index), boxes, full_boxes, visibility)

    def _stand(
        self, picture: Bytes, figures: list[Figure], rows: NDArray[np.int64], small: NDArray[np.bool_], motion: Motion
    ) -> list[_Person]:
        """Pose, project and light figures, the ``small`` ones in less detail, and lay their shadows."""
        if not figures:
            return []
        bones = pose(figures, motion)
        people: list[_Person] = []
        corners = []
        for level, layout in enumerate(self._layouts):
            chosen = np.flatnonzero(small == bool(level))
            if not len(chosen):
                continue
            meshes = [figures[k].meshes[level] for k in chosen]
            vertices, normals = skin(layout, meshes, bones[chosen])
            corners.append(self._shadows.corners(level, vertices))
            seen, shade = project(self._scene.camera, vertices), self._shade(normals)
            boxes = extents(layout, seen, np.stack([figures[k].worn for k in chosen]))
            nearest, mean = seen[:, 2].min(axis=1), seen[:, 2].mean(axis=1)
            people += [
                _Person(int(rows[k]), level, figures[k], meshes[i], seen[i], shade[i], boxes[i], float(mean[i]), float(nearest[i]))
                for i, k in enumerate(chosen)
            ]
        self._shadows.lay(picture, np.concatenate(corners))
        return people

    def _before_the_lens(self, position_m: NDArray[np.float64]) -> tuple[NDArray[np.int64], Floats]:
        """Rows of those who are wholly before the camera, where its lens reaches, and about how many pixels high they are."""
        camera = self._scene.camera
        feet = np.column_stack((position_m, np.zeros(len(position_m))))
        head = feet + np.array((0, 0, TALLEST_M))
        low, high = camera.project(feet), camera.project(head)
        depth_m = np.minimum(camera.depth_m(feet), camera.depth_m(head))
        rows = np.flatnonzero(~np.isnan(low).any(axis=1) & ~np.isnan(high).any(axis=1) & (depth_m > NEAREST_M))
        return rows, np.linalg.norm(high[rows] - low[rows], axis=1).astype(np.float32)

    def _motion(self, walkers: Walkers, rows: NDArray[np.int64], frame_index: int) -> Motion:
        habit = np.asarray(
            walkers.person_id[rows] * 0.6180339887 % 1.0, np.float64
        )  # the golden ratio spreads consecutive numbers evenly
        speed, gait = walkers.speed_m_s[rows], walkers.gait[rows]
        return Motion(walkers.position_m[rows], walkers.heading_rad[rows], speed, gait, habit, frame_index / self._fps)

    def _shade(self, normals: Floats) -> Floats:
        """Light on vertices with ``normals`` (N, 3, V), 0..1."""
        light = self._scene.light
        direct = np.maximum(np.tensordot(self._to_sun, normals, (0, 1)), 0)
        strength = 0.55 * light.direct if light.outdoors else 0.25 * light.direct + 0.1
        return np.clip(0.70 - 0.35 * strength + 0.20 * normals[:, 2] + strength * direct, 0.05, 1).astype(np.float32)

    def _draw(self, picture: Bytes, person: _Person) -> _Drawn | None:
        """Draw one person into the picture where nothing solid is nearer; None if that is nowhere."""
        height, width = picture.shape[:2]
        x0, y0 = max(0, math.floor(person.box[0])), max(0, math.floor(person.box[1]))
        x1, y1 = min(width, math.ceil(person.box[2])), min(height, math.ceil(person.box[3]))
        here = slice(y0, y1), slice(x0, x1)
        solid_m = self._solid_m[here]
        if float(solid_m.max()) < person.nearest_m:
            return None
        fall_off = self._imaging.vignette[(y0 + y1) // 2, (x0 + x1) // 2]
        layout, atlases = self._layouts[person.level], person.figure.atlases
        patch = self._easel.draw(person.mesh, layout, atlases, person.seen, person.shade * fall_off, (x0, y0, x1, y1))
        mist = 1 - math.exp(-person.distance_m / self._mist_reach_m)
        bgr = patch.bgr
        if mist > 0.02:
            bgr = cv2.addWeighted(bgr, 1 - mist, self._mist[: y1 - y0, : x1 - x0], mist, 0)
        shown = cv2.compare(patch.depth_m, solid_m, cv2.CMP_LT)
        cv2.copyTo(bgr, shown, picture[here])
        return _Drawn(here, patch.mask, shown)


def _share_seen(drawn: _Drawn | None, covered: Bytes) -> float:
    """Share of a figure's pixels within the picture that neither solid things nor figures before it cover; then it covers too."""
    if drawn is None:
        return 0.0
    there = covered[drawn.here]
    free = cv2.countNonZero(drawn.shown) - cv2.countNonZero(cv2.bitwise_and(drawn.shown, there))
    cv2.bitwise_or(there, drawn.shown, there)
    return free / max(1, cv2.countNonZero(drawn.mask))
