"""Labels of the test pictures as COCO datasets."""

from __future__ import annotations

import re
from pathlib import Path

import cv2

from stream.datasets.coco import CocoAnnotation, CocoCategory, CocoDataset, CocoImage

PENN_FUDAN_BOX = re.compile(r"\(Xmin, Ymin\) - \(Xmax, Ymax\) : \((\d+), (\d+)\) - \((\d+), (\d+)\)")


def penn_fudan(folder: Path, every: int = 1) -> CocoDataset:
    """Each ``every``-th of the 170 pictures of ``PennFudanPed``; paths are relative to ``folder``."""
    images, annotations = [], []
    for i, text in enumerate(sorted((folder / "Annotation").glob("*.txt"))[::every]):
        name = f"PNGImages/{text.stem}.png"
        height, width = cv2.imread(str(folder / name)).shape[:2]
        images.append(CocoImage(id=i, file_name=name, width=width, height=height))
        for corners in PENN_FUDAN_BOX.findall(text.read_text(errors="replace")):
            left, top, right, bottom = map(float, corners)
            annotations.append(_box(len(annotations), i, left - 1, top - 1, right, bottom))  # from 1, the last pixel included
    return CocoDataset(images=images, annotations=annotations, categories=[CocoCategory(id=1, name="person")])


def yolo_persons(folder: Path) -> CocoDataset:
    """Class 0 of YOLO labels (``labels/NAME.txt``: class, centre and size as shares of the picture ``images/NAME.jpg``)."""
    images, annotations = [], []
    for i, path in enumerate(sorted((folder / "images").glob("*.jpg"))):
        height, width = cv2.imread(str(path)).shape[:2]
        images.append(CocoImage(id=i, file_name=f"images/{path.name}", width=width, height=height))
        text = folder / "labels" / f"{path.stem}.txt"
        for line in text.read_text().splitlines() if text.exists() else ():
            kind, x, y, w, h = map(float, line.split())
            if kind == 0:
                left, top = (x - w / 2) * width, (y - h / 2) * height
                annotations.append(_box(len(annotations), i, left, top, left + w * width, top + h * height))
    return CocoDataset(images=images, annotations=annotations, categories=[CocoCategory(id=1, name="person")])


def _box(number: int, image: int, left: float, top: float, right: float, bottom: float) -> CocoAnnotation:
    width, height = right - left, bottom - top
    return CocoAnnotation(id=number, image_id=image, category_id=1, bbox=(left, top, width, height), area=width * height)
