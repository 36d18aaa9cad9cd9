"""What synthetic pictures are made from: masks, cut-outs, backgrounds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from stream.errors import DatasetError
from stream.synthesis.backgrounds import read_backgrounds
from stream.synthesis.cutouts import Cutout, read_cutouts
from stream.synthesis.ground import Ground
from stream.synthesis.masks import decode_mask
from stream.synthesis.settings import Settings
from tests.support.synthesis import FIGURE, HEIGHT, POLYGON, WIDTH, coco, figure, penn_fudan, places, scenery, write


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cutout, ...]:
    return read_cutouts(penn_fudan(tmp_path_factory.mktemp("people"))).items


# -- masks


def test_polygons_and_run_lengths_are_decoded() -> None:
    wanted = np.zeros((5, 6), np.bool_)
    wanted[1:4, 2:4] = True
    runs = {"size": [5, 6], "counts": [11, 3, 2, 3, 11]}
    assert (decode_mask(runs, 6, 5) == wanted).all()
    assert (decode_mask(runs | {"counts": ";3209"}, 6, 5) == wanted).all()  # 11, 3, 2; then 0 more than 3, 9 more than 2
    polygon = decode_mask([[2.0, 1.0, 4.0, 1.0, 4.0, 4.0, 2.0, 4.0]], 6, 5)
    assert polygon[wanted].all()


def test_run_lengths_as_text_are_those_of_the_reference() -> None:
    reference = pytest.importorskip("faster_coco_eval").mask
    rng = np.random.default_rng(1)
    for share in (0.01, 0.3, 0.9):
        mask = rng.random((37, 53)) < share
        packed = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert (decode_mask({"size": [37, 53], "counts": packed["counts"].decode()}, 53, 37) == mask).all()


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ({"size": [6, 5], "counts": [30]}, "size"),
        ({"size": [5, 6], "counts": [29]}, "30 pixels"),
        ({"size": [5, 6], "counts": [-1, 31]}, "30 pixels"),
        ({"size": [5, 6], "counts": "zzzz"}, "30 pixels"),
        ({"size": [5, 6], "counts": "\x01"}, "30 pixels"),
        ([[1, 2, 3, 4]], "polygons"),
        ([[1, 2, 3, 4, 5, math.nan]], "polygons"),
        ("mask", "polygons"),
    ],
)
def test_wrong_masks_are_refused(segmentation: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_mask(segmentation, 6, 5)


# -- cut-outs


def test_penn_fudan_people_are_cut_out_with_clean_edges(people: tuple[Cutout, ...]) -> None:
    assert [(item.source, item.category) for item in people] == [
        (f"PNGImages/P{i}.png", "person") for i in range(2) for _ in range(2)
    ]
    bgra = people[0].bgra()
    assert abs(people[0].width - FIGURE[0]) <= 1
    assert abs(people[0].height - FIGURE[1]) <= 1
    assert (bgra[bgra[..., 3] > 0][:, :3] == (40, 60, 200)).mean() > 0.95  # nothing of the green wall


def test_unusable_objects_are_left_out_by_reason(tmp_path: Path) -> None:
    picture, mask = scenery(), np.zeros((HEIGHT, WIDTH), np.uint8)
    figure(picture, mask, 20, 20, 1)
    figure(picture, mask, -10, 100, 2)  # cut
    figure(picture, mask, 60, 180, 3, (14, 40))  # small
    figure(picture, mask, 100, 20, 4)
    figure(picture, mask, 100, 40, 5)  # in front of 4
    figure(picture, mask, 200, 20, 6)
    picture[60:64, 190:240], mask[60:64, 190:240] = 0, 0  # a bar across 6
    figure(picture, mask, 180, 130, 7, (90, 92))  # lies
    write(tmp_path / "PNGImages" / "P.png", picture)
    write(tmp_path / "PedMasks" / "P_mask.png", mask)
    found = read_cutouts(tmp_path)
    assert len(found.items) == 2
    assert found.left_out == {"cut by the picture's edge": 1, "not upright": 1, "partly covered": 2, "too small": 1}


def test_coco_segmentations_are_cut_out(tmp_path: Path) -> None:
    found = read_cutouts(coco(tmp_path, POLYGON))
    assert [item.category for item in found.items] == ["person"]
    assert found.items[0].height == pytest.approx(90, abs=2)


@pytest.mark.parametrize(
    ("extra", "reason"), [({"iscrowd": 1}, "crowd: 1"), ({"visibility": 0.3}, "partly covered: 1"), ({}, "of dog")]
)
def test_what_the_labels_say_is_heeded(tmp_path: Path, extra: dict[str, Any], reason: str) -> None:
    with pytest.raises(DatasetError, match=rf"no usable cut-out.*{reason}"):
        read_cutouts(coco(tmp_path, POLYGON, **extra), () if extra else ("dog",))


def test_pictures_with_an_alpha_channel_are_of_their_folders_class(tmp_path: Path) -> None:
    picture, mask = scenery(), np.zeros((HEIGHT, WIDTH), np.uint8)
    figure(picture, mask, 40, 100, 255)
    write(tmp_path / "person" / "a.png", np.dstack([picture, mask])[100:190, 40:70])
    found = read_cutouts(tmp_path)
    assert [(item.category, item.source) for item in found.items] == [("person", "person/a.png")]


def test_faults_of_cut_outs_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none: no such folder"):
        read_cutouts(tmp_path / "none")
    with pytest.raises(DatasetError, match=r"holds no cut-outs"):
        read_cutouts(tmp_path)
    lone = penn_fudan(tmp_path / "lone", 1)
    (lone / "PedMasks" / "P0_mask.png").unlink()
    with pytest.raises(DatasetError, match=r"P0_mask\.png: no such file"):
        read_cutouts(lone)
    write(lone / "PedMasks" / "P0_mask.png", np.ones((10, 12), np.uint8))
    with pytest.raises(DatasetError, match=r"P0_mask\.png: is 12x10; its picture P0\.png is 320x240"):
        read_cutouts(lone)
    (lone / "PNGImages" / "P0.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"P0\.png: .*not a picture"):
        read_cutouts(lone)
    write(tmp_path / "opaque" / "person" / "a.png", scenery())
    with pytest.raises(DatasetError, match=r"a\.png: .*alpha channel"):
        read_cutouts(tmp_path / "opaque")
    with pytest.raises(DatasetError, match=r"coco\.json: no annotation has a segmentation"):
        read_cutouts(coco(tmp_path / "boxes", None))
    with pytest.raises(DatasetError, match=r"coco\.json: segmentation of annotation 5: its size is \[5, 6\]"):
        read_cutouts(coco(tmp_path / "size", {"size": [5, 6], "counts": [30]}))
    (tmp_path / "a.json").touch()
    (tmp_path / "b.json").touch()
    with pytest.raises(DatasetError, match=r"a\.json or b\.json"):
        read_cutouts(tmp_path)


# -- backgrounds


def test_backgrounds_are_pictures_and_frames(tmp_path: Path) -> None:
    places(tmp_path / "more", 1)
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(9):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * i, np.uint8), format="bgr24")))
        container.mux(stream.encode(None))
    (tmp_path / "notes.txt").touch()
    found = read_backgrounds(tmp_path, Settings(frames=3, max_side_px=160), ["person"])
    assert {(item.name, item.source, item.width) for item in found.items} == {
        ("more/b0.png", "more/b0.png", 160),
        *((f"v.mp4#{frame}", "v.mp4", 64) for frame in (1, 4, 7)),
    }


def test_labelled_backgrounds_keep_their_labels_and_tell_the_ground(tmp_path: Path) -> None:
    truth = Ground("given", 30.0, 2.0)
    boxes = [[20.0 + 50 * i, 0.0, 20.0, truth.height_px(foot, 1.7)] for i, foot in enumerate((120, 150, 180, 210, 230))]
    for box, foot in zip(boxes, (120, 150, 180, 210, 230), strict=True):
        box[1] = foot - box[3]
    write(tmp_path / "a.png", scenery())
    data = {
        "images": [{"id": 4, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
        "annotations": [
            {"id": i, "image_id": 4, "category_id": 1, "bbox": box, "area": box[2] * box[3]} for i, box in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "person"}],
    }
    (tmp_path / "labels.json").write_text(json.dumps(data))
    (place,) = read_backgrounds(tmp_path, Settings(max_side_px=160), ["person"]).items
    assert place.ground is not None
    assert (place.ground.horizon_px, place.ground.camera_m) == pytest.approx((15.0, 2.0))
    assert len(place.labels) == 5
    assert place.labels[0].bbox == pytest.approx([x / 2 for x in boxes[0]])
    assert place.labels[0].area == pytest.approx(boxes[0][2] * boxes[0][3] / 4)


def test_faults_of_backgrounds_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="none: no such folder"):
        read_backgrounds(tmp_path / "none", Settings(), ["person"])
    with pytest.raises(DatasetError, match="holds no background"):
        read_backgrounds(tmp_path, Settings(), ["person"])
    (tmp_path / "x.jpg").write_bytes(b"text")
    with pytest.raises(DatasetError, match=r"x\.jpg: not a picture"):
        read_backgrounds(tmp_path, Settings(), ["person"])
    (tmp_path / "x.jpg").rename(tmp_path / "x.mp4")
    with pytest.raises(DatasetError, match=r"x\.mp4: "):
        read_backgrounds(tmp_path, Settings(), ["person"])
