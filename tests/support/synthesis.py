"""Made-up pictures for the tests of the synthesis: red figures before a green wall, on a grey floor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from stream.synthesis.backgrounds import Background, Label
from stream.synthesis.ground import Ground

Uint8Array = npt.NDArray[np.uint8]

WIDTH, HEIGHT = 320, 240
FIGURE = (30, 90)  # of a figure in the test pictures: width and height


def scenery(seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> Uint8Array:
    """A green wall above, a plain grey floor below."""
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), (60, 140, 60), np.float64)
    picture[height // 2 :] = (120, 120, 120)
    return np.clip(picture + rng.normal(0, 1.5, picture.shape), 0, 255).astype(np.uint8)


def figure(picture: Uint8Array, mask: Uint8Array, left: int, top: int, number: int, size: tuple[int, int] = FIGURE) -> None:
    width, height = size
    inside = np.zeros(mask.shape, np.uint8)
    cv2.ellipse(inside, (left + width // 2, top + height // 2), (width // 2, height // 2), 0, 0, 360, 1, -1)
    picture[inside > 0] = (40, 60, 200)
    mask[inside > 0] = number


def penn_fudan(folder: Path, pictures: int = 2) -> Path:
    """Two figures in each picture that can be used."""
    for i in range(pictures):
        picture, mask = scenery(i), np.zeros((HEIGHT, WIDTH), np.uint8)
        figure(picture, mask, 40, 100, 1)
        figure(picture, mask, 200, 120, 2)
        write(folder / "PNGImages" / f"P{i}.png", picture)
        write(folder / "PedMasks" / f"P{i}_mask.png", mask)
    return folder


def write(path: Path, picture: Uint8Array) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture)
    return path


def places(folder: Path, count: int = 2) -> Path:
    for i in range(count):
        write(folder / f"b{i}.png", scenery(10 + i))
    return folder


def coco(folder: Path, segmentation: object, **extra: Any) -> Path:
    picture, mask = scenery(), np.zeros((HEIGHT, WIDTH), np.uint8)
    figure(picture, mask, 40, 100, 1)
    write(folder / "a.png", picture)
    annotation = {"id": 5, "image_id": 1, "category_id": 1, "bbox": [40, 100, 30, 90], "area": 2000, "segmentation": segmentation}
    data = {
        "images": [{"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
        "annotations": [annotation | extra],
        "categories": [{"id": 1, "name": "person"}],
    }
    (folder / "coco.json").write_text(json.dumps(data))
    return folder


POLYGON = [[40.0, 100.0, 70.0, 100.0, 70.0, 190.0, 40.0, 190.0]]


def background(labels: tuple[Label, ...] = (), ground: Ground | None = None) -> Background:
    jpeg = cv2.imencode(".jpg", scenery(3))[1].tobytes()
    return Background("b.jpg", "b.jpg", jpeg, WIDTH, HEIGHT, labels, ground)
