"""COCO label files: what is read, what is refused, and the pictures they speak of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from stream.datasets.coco import CocoDataset, pictures, read_coco, write_coco
from stream.errors import DatasetError


def labels(**changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = {
        "images": [{"id": 7, "file_name": "a.png", "width": 32, "height": 16}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 10, 5], "area": 50}],
        "categories": [{"id": 3, "name": "person"}, {"id": 1, "name": "car", "supercategory": "vehicle"}],
    }
    return data | changes


def write(folder: Path, data: object) -> Path:
    path = folder / "labels.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_a_label_file_survives_reading_and_writing(tmp_path: Path) -> None:
    dataset = read_coco(write(tmp_path, labels()))
    assert dataset.class_names == ("car", "person")
    assert dataset.annotations[0].xyxy == (1, 2, 11, 7)
    copy = tmp_path / "new" / "copy.json"
    write_coco(copy, dataset)
    assert read_coco(copy) == dataset
    assert json.loads(copy.read_text())["categories"][1]["supercategory"] == "vehicle"
    assert "visibility" not in copy.read_text()


def test_pictures_without_objects_are_listed_too(tmp_path: Path) -> None:
    dataset = CocoDataset.model_validate(labels(annotations=[]))
    assert dataset.by_image() == {7: []}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("{", "is not valid JSON"),
        (labels(categories=[]), "categories"),
        (labels(images=[{"id": 7, "file_name": "a.png", "width": 0, "height": 16}]), r"images\.0\.width"),
        (labels(images=labels()["images"] * 2), "same id"),
        (labels(annotations=[labels()["annotations"][0] | {"image_id": 8}]), "image 8"),
        (labels(annotations=[labels()["annotations"][0] | {"category_id": 2}]), "category 2"),
        (labels(annotations=[labels()["annotations"][0] | {"bbox": [1, 2, 3]}]), r"annotations\.0\.bbox"),
        (labels(annotations=[labels()["annotations"][0] | {"bbox": [1, 2, -3, 4]}]), "is no box"),
        (labels(annotations=[labels()["annotations"][0] | {"bbox": [1, float("nan"), 3, 4]}]), "is no box"),
        (labels(annotations=[labels()["annotations"][0] | {"area": -12}]), r"annotations\.0\.area"),
        (labels(categories=labels()["categories"] + labels()["categories"][:1]), "two categories have the same id"),
        (labels(categories=[*labels()["categories"], labels()["categories"][0] | {"id": 99}]), "two categories have the name"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path: Path, data: object, reason: str) -> None:
    with pytest.raises(DatasetError, match=rf"labels\.json: .*{reason}"):
        read_coco(write(tmp_path, data))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.json: No such file"):
        read_coco(tmp_path / "none.json")


def test_pictures_come_from_files_and_from_frames_of_a_video(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((16, 32, 3), 9, np.uint8))
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for i in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((16, 32, 3), 40 * i, np.uint8), format="bgr24")))
        container.mux(stream.encode(None))
    frames = [{"id": 10 + i, "file_name": "v.mp4", "width": 32, "height": 16, "frame_index": i} for i in (3, 1)]
    dataset = CocoDataset.model_validate(labels(images=labels()["images"] + frames))
    found = {picture.image.id: round(float(picture.bgr.mean())) for picture in pictures(dataset, tmp_path)}
    assert found.keys() == {7, 11, 13}
    assert found[7] == 9
    assert found[11] == pytest.approx(40, abs=3)
    assert found[13] == pytest.approx(120, abs=3)
    assert [picture.image.id for picture in pictures(dataset, tmp_path, only=[13])] == [13]
    twice = CocoDataset.model_validate(labels(images=[*dataset.images, dataset.images[1].model_copy(update={"id": 14})]))
    assert sorted(picture.image.id for picture in pictures(twice, tmp_path)) == [7, 11, 13, 14]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ({"file_name": "none.png"}, r"none\.png: no such file"),
        ({"width": 33}, r"a\.png: is 32x16; its labels say 33x16"),
        ({"file_name": "none.mp4", "frame_index": 0}, r"none\.mp4: No such file"),
        ({"file_name": "a.png", "frame_index": 9}, r"a\.png: ends before frame 9"),
    ],
)
def test_pictures_that_cannot_be_had_are_named(tmp_path: Path, image: dict[str, Any], reason: str) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((16, 32, 3), np.uint8))
    dataset = CocoDataset.model_validate(labels(images=[labels()["images"][0] | image]))
    with pytest.raises(DatasetError, match=reason):
        list(pictures(dataset, tmp_path))
