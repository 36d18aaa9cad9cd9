"""From posed bones to pixels: skinning, projecting, and drawing one figure with OpenCV's z-buffered triangle rasteriser."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stream.simulation.camera import Camera
from stream.simulation.figure import Layout, Mesh

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Bounds = tuple[int, int, int, int]  # x0, y0, x1, y1 in whole pixels
FAR_M = 1e4
FINE_PX = 44  # figures lower than this are drawn at twice the size and averaged, so that thin limbs do not flicker
OUTLINE_PX = 64
TEXELS_PER_STATURE = 330.0  # rows of the atlas over a whole body; decides which halving of it is sharp enough
NO_TURN = np.eye(4, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Patch:
    """A drawn figure with its upper left corner at ``x``, ``y``: ``bgr`` (h, w, 3), ``mask`` (255 where it is, else 0) and the
    distance ``depth_m`` there (``FAR_M`` elsewhere), (h, w) each."""

    x: int
    y: int
    bgr: Bytes
    mask: Bytes
    depth_m: Floats


def skin(layout: Layout, meshes: list[Mesh], bones: Floats) -> tuple[Floats, Floats]:
    """Vertices and normals in the world, float32 (N, 3, V) each, of meshes of one layout moved by ``bones`` (N, B, 3, 4).

    Figures are set down on the ground: their lowest point has z = 0.
    """
    vertices, normals = np.empty((2, len(meshes), 3, len(layout.uv)), np.float32)
    matrices = np.ascontiguousarray(bones.reshape(len(meshes), -1, 12).transpose(0, 2, 1))
    for row, mesh in enumerate(meshes):  # one at a time: what is worked on stays in the processor's cache
        blended = (matrices[row] @ layout.weights).reshape(3, 4, -1)
        np.einsum("ijv,jv->iv", blended[:, :3], mesh.vertices, out=vertices[row])
        np.einsum("ijv,jv->iv", blended[:, :3], mesh.normals, out=normals[row])
        vertices[row] += blended[:, 3]
    feet = np.minimum(vertices[:, 2, layout.part("left_foot")].min(axis=1), vertices[:, 2, layout.part("right_foot")].min(axis=1))
    vertices[:, 2] -= feet[:, None]
    return vertices, normals


def project(camera: Camera, points: Floats) -> Floats:
    """Pixels and depths (N, 3, P), as x, y, metres along the axis, of points (N, 3, P) before the camera.

    In single precision: within 0.01 px of ``Camera.project``.
    """
    seen = camera.axes.astype(np.float32) @ (points - np.asarray(camera.position_m, np.float32)[:, None])
    seen[:, :2] /= seen[:, 2:]
    square = seen[:, 0] * seen[:, 0]
    square += seen[:, 1] * seen[:, 1]
    scale = square * np.float32(camera.k2)
    scale += np.float32(camera.k1)
    scale *= square
    scale += 1
    scale *= np.float32(camera.focal_px)
    seen[:, :2] *= scale[:, None]
    seen[:, 0] += np.float32(camera.width / 2)
    seen[:, 1] += np.float32(camera.height / 2)
    return np.asarray(seen)


def extents(layout: Layout, seen: Floats, worn: NDArray[np.bool_]) -> Floats:
    """Boxes x0, y0, x1, y1 (N, 4) around the ``worn`` parts (N, P) of figures with projected vertices ``seen`` (N, 3, V)."""
    low = np.minimum.reduceat(seen[:, :2], layout.starts, axis=2)
    high = np.maximum.reduceat(seen[:, :2], layout.starts, axis=2)
    low[~np.repeat(worn[:, None], 2, axis=1)] = np.inf
    high[~np.repeat(worn[:, None], 2, axis=1)] = -np.inf
    return np.concatenate([low.min(axis=2), high.max(axis=2)], axis=1)


class Easel:
    """Draws figures of one camera's pictures, one after another, in memory that it keeps (16 bytes a pixel of the picture)."""

    def __init__(self, camera: Camera):
        self._camera = camera
        pixels = camera.width * camera.height + 4 * FINE_PX * camera.width
        self._colours, self._depth_m = np.zeros(pixels * 3, np.float32), np.zeros(pixels, np.float32)
        self._settings = cv2.TriangleRasterizeSettings()
        self._settings.setShadingType(cv2.RASTERIZE_SHADING_SHADED)
        self._settings.setCullingMode(cv2.RASTERIZE_CULLING_CW)

    def draw(self, mesh: Mesh, layout: Layout, atlases: tuple[Bytes, ...], seen: Floats, shade: Floats, bounds: Bounds) -> Patch:
        """Draw one figure.

        Args:
            mesh: what to draw.
            layout: of the mesh.
            atlases: its texture and its halvings.
            seen: (3, V) where its vertices lie in the picture, and their depths, above 0.
            shade: (V,) light on them, 0..1.
            bounds: the part of the picture to draw.

        Returns:
            The figure; its depths are overwritten by the next drawing.
        """
        x0, y0, x1, y1 = bounds
        height, width = y1 - y0, x1 - x0
        stature = float(np.ptp(seen[1]))
        fine = 2 if stature < FINE_PX else 1
        level = min(max(int(math.log2(TEXELS_PER_STATURE / max(stature * fine, 1.0)) + 0.3), 0), len(atlases) - 1)
        surface = np.empty((len(shade), 3), np.float32)
        np.multiply(layout.uv, np.float32(0.5**level), out=surface[:, :2])
        surface[:, 2] = shade
        size = height * fine, width * fine
        colours = self._colours[: 3 * size[0] * size[1]].reshape(*size, 3)  # left as they are where the figure is not
        depth_m = self._depth_m[: size[0] * size[1]].reshape(size)
        depth_m.fill(FAR_M)
        eye = _eye(seen, bounds)
        cv2.triangleRasterize(eye, mesh.triangles, surface, colours, depth_m, NO_TURN, np.pi / 2, 0.01, FAR_M, self._settings)
        u, v, light = cv2.split(colours)
        smooth = cv2.INTER_LINEAR if level == 0 else cv2.INTER_NEAREST
        cloth = cv2.remap(atlases[level], u, v, smooth, borderMode=cv2.BORDER_REPLICATE)
        grey = cv2.convertScaleAbs(light, alpha=255)
        bgr = cv2.multiply(cloth, cv2.merge([grey, grey, grey]), scale=1 / 255)
        mask = _mask(depth_m < FAR_M / 2)
        if fine == 1:
            return Patch(x0, y0, bgr, mask, depth_m)
        share = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)
        bright = cv2.resize(cv2.copyTo(bgr, mask), (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) * 255
        bgr = np.minimum(bright / np.maximum(share, 64)[..., None], 255).astype(np.uint8)
        near = np.minimum(np.minimum(depth_m[::2, ::2], depth_m[1::2, ::2]), np.minimum(depth_m[::2, 1::2], depth_m[1::2, 1::2]))
        mask = _mask(share > 127)
        near[mask == 0] = FAR_M
        return Patch(x0, y0, bgr, mask, near)

    def share_inside(self, mesh: Mesh, seen: Floats, box: Floats) -> float:
        """Share of a figure's outline that lies in the picture, from a drawing of it that is ``OUTLINE_PX`` long."""
        left, top = float(box[0]), float(box[1])
        scale = OUTLINE_PX / max(float(box[2]) - left, float(box[3]) - top)
        width, height = max(1, math.ceil((float(box[2]) - left) * scale)), max(1, math.ceil((float(box[3]) - top) * scale))
        small = seen * np.float32(scale)
        small[0] -= np.float32(left * scale)
        small[1] -= np.float32(top * scale)
        depth_m = np.full((height, width), FAR_M, np.float32)
        eye = _eye(small, (0, 0, width, height))
        cv2.triangleRasterizeDepth(eye, mesh.triangles, depth_m, NO_TURN, np.pi / 2, 1e-3, FAR_M, self._settings)
        mask = _mask(depth_m < FAR_M / 2)
        x0, y0 = max(0, round(-left * scale)), max(0, round(-top * scale))
        x1, y1 = max(x0, round((self._camera.width - left) * scale)), max(y0, round((self._camera.height - top) * scale))
        inside = mask[y0:y1, x0:x1]
        return cv2.countNonZero(inside) / max(1, cv2.countNonZero(mask)) if inside.size else 0.0


def _mask(chosen: NDArray[np.bool_]) -> Bytes:
    """uint8, 255 where ``chosen``. Not by cv2.compare, which takes a number for a picture where the picture is one pixel."""
    return chosen.view(np.uint8) * np.uint8(255)


def _eye(seen: Floats, bounds: Bounds) -> Floats:
    """Points (V, 3), x right, y up, z back, that an eye with a field of view of 90 degrees sees where ``seen`` has them."""
    x0, y0, x1, y1 = bounds
    eye = np.empty((seen.shape[1], 3), np.float32)
    ahead = seen[2] * np.float32(2 / (y1 - y0))
    eye[:, 0] = (seen[0] - np.float32((x0 + x1) / 2)) * ahead
    eye[:, 1] = (np.float32((y0 + y1) / 2) - seen[1]) * ahead
    eye[:, 2] = -seen[2]
    return eye
