"""What ``framewatch train`` learns from: merged labels, scaled pictures, augmentation, batches."""

from __future__ import annotations

import errno
import math
import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from stream.datasets.coco import CocoAnnotation, CocoCategory, CocoDataset, CocoImage, write_coco
from stream.detectors.base import InputSpec
from stream.errors import DatasetError
from stream.training.augment import arranged, augmented, clipped
from stream.training.data import Cache, Labels, check_apart, load_pictures, read_merged
from stream.training.feed import Feed

pytestmark = pytest.mark.compute


def labels(*xyxy: tuple[float, ...]) -> Labels:
    return Labels(np.array(xyxy, np.float32).reshape(-1, 4), np.zeros(len(xyxy), np.int64), np.zeros(len(xyxy), np.bool_))


# -- data


def dataset(names: dict[int, str], *annotations: dict[str, Any], file_name: str = "a.png") -> CocoDataset:
    rows = [
        CocoAnnotation(**({"id": i, "image_id": 1, "category_id": 1, "bbox": (8, 8, 16, 16), "area": 256} | row))
        for i, row in enumerate(annotations, 1)
    ]
    return CocoDataset(
        images=[CocoImage(id=1, file_name=file_name, width=128, height=64)],
        annotations=rows,
        categories=[CocoCategory(id=i, name=name) for i, name in names.items()],
    )


def coco(path: Path, names: dict[int, str], *annotations: dict[str, Any]) -> Path:
    write_coco(path, dataset(names, *annotations))
    cv2.imwrite(str(path.parent / "a.png"), np.full((64, 128, 3), 90, np.uint8))
    return path


def test_classes_are_merged_by_name(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    first = coco(tmp_path / "a.json", {1: "person", 2: "car"}, {"category_id": 2})
    second = coco(tmp_path / "b" / "b.json", {1: "dog", 9: "person"}, {"category_id": 9}, {"category_id": 1})
    merged = read_merged([first, second])
    assert merged.classes == ("person", "car", "dog")
    assert [a.category_id for a in merged.dataset.annotations] == [2, 1, 3]
    assert [a.image_id for a in merged.dataset.annotations] == [1, 2, 2]
    assert merged.dataset.images[1].file_name == str((tmp_path / "b" / "a.png").resolve())
    assert [(f.images, f.objects) for f in merged.files] == [(1, 1), (1, 2)]
    validation = read_merged([second], ("dog", "cat", "person"))
    assert [a.category_id for a in validation.dataset.annotations] == [3, 1]


@pytest.mark.parametrize(
    ("first", "second", "allowed", "message"),
    [
        ({1: "person"}, {1: "Person"}, None, r"b\.json: category 'Person' is written 'person' in .*a\.json"),
        ({1: "person"}, {1: "car"}, ("person",), r"b\.json: category 'car' is not in the training data, which has person"),
    ],
)
def test_classes_that_contradict_each_other(
    tmp_path: Path, first: dict[int, str], second: dict[int, str], allowed: tuple[str, ...] | None, message: str
) -> None:
    paths = [coco(tmp_path / "a.json", first, {}), coco(tmp_path / "b.json", second, {})]
    with pytest.raises(DatasetError, match=message):
        read_merged(paths, allowed)


def test_labels_without_objects_or_pictures(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"a\.json: no object is labelled"):
        read_merged([coco(tmp_path / "a.json", {1: "person"}, {"iscrowd": 1})])
    empty = CocoDataset(images=[], annotations=[], categories=[CocoCategory(id=1, name="person")])
    write_coco(tmp_path / "b.json", empty)
    with pytest.raises(DatasetError, match=r"b\.json: no picture is listed"):
        read_merged([tmp_path / "b.json"])


def test_a_picture_listed_twice_is_refused(tmp_path: Path) -> None:
    first, second = coco(tmp_path / "a.json", {1: "person"}, {}), coco(tmp_path / "b.json", {1: "person"}, {})
    with pytest.raises(DatasetError, match=r"b\.json: a\.png is listed twice; first in .*a\.json"):
        read_merged([first, second])
    with pytest.raises(DatasetError, match=r"a\.json: a\.png is listed twice; first in .*a\.json"):
        read_merged([first, first])
    frames = [CocoImage(id=i, file_name="v.mp4", width=128, height=64, frame_index=i // 2) for i in (1, 2, 3)]
    write_coco(first, dataset({1: "person"}, {}).model_copy(update={"images": frames}))
    with pytest.raises(DatasetError, match=r"a\.json: v\.mp4, frame 1, is listed twice"):
        read_merged([first])
    write_coco(first, dataset({1: "person"}, {}).model_copy(update={"images": frames[:2]}))
    assert len(read_merged([first]).dataset.images) == 2


def test_no_picture_is_trained_and_validated_on(tmp_path: Path) -> None:
    for name, grey in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        coco(tmp_path / name / "coco.json", {1: "person"}, {})
        cv2.imwrite(str(tmp_path / name / "a.png"), np.full((64, 128, 3), grey, np.uint8))
    train, val = (read_merged([tmp_path / name / "coco.json"]) for name in "ab")
    check_apart(train, val)
    with pytest.raises(DatasetError, match=r"a/a\.png: is in --data and in --val \(.*a/a\.png\)"):
        check_apart(train, train)
    shutil.copy(tmp_path / "a" / "a.png", tmp_path / "b" / "a.png")
    with pytest.raises(DatasetError, match=r"a/a\.png: is in --data and in --val \(.*b/a\.png\)"):
        check_apart(train, val)
    (tmp_path / "b" / "a.png").unlink()
    with pytest.raises(DatasetError, match=r"b/a\.png: No such file"):
        check_apart(train, val)


def test_a_full_disk_is_found_out_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, length: int) -> None:
        assert (os.fstat(descriptor).st_size, offset, length) == (0, 0, 64 * 64 * 3)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    merged = read_merged([coco(tmp_path / "a.json", {1: "person"}, {})])
    spec = InputSpec(64, 64, "BGR", "letterbox_top_left", 114)
    with pytest.raises(DatasetError, match=r"no room for 0\.0 GB of scaled pictures: .*No space left"):
        load_pictures(merged.dataset, spec, min_visibility=0, limit_bytes=0, folder=tmp_path)


@pytest.mark.parametrize("limit_bytes", [1e9, 0.0])
def test_pictures_are_scaled_once_with_their_labels(tmp_path: Path, limit_bytes: float) -> None:
    path = coco(tmp_path / "a.json", {1: "person"}, {}, {"iscrowd": 1}, {"visibility": 0.1}, {"visibility": 0.9})
    spec = InputSpec(64, 64, "BGR", "letterbox_top_left", 114)
    cache = load_pictures(read_merged([path]).dataset, spec, min_visibility=0.25, limit_bytes=limit_bytes, folder=tmp_path)
    assert isinstance(cache.images, np.memmap) == (limit_bytes == 0)
    assert cache.placed.tolist() == [[64, 32]]
    assert cache.labels[0].xyxy[0].tolist() == [4, 4, 12, 12]
    assert cache.labels[0].ignored.tolist() == [False, True, True, False]
    assert (cache.images[0, 33:] == 114).all()
    assert abs(int(cache.images[0, 16, 32, 0]) - 90) < 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.png"]  # the file behind a memmap has no name


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    path = coco(tmp_path / "a.json", {1: "person"}, {})
    (tmp_path / "a.png").unlink()
    spec = InputSpec(64, 64, "BGR", "letterbox_top_left", 114)
    with pytest.raises(DatasetError, match=r"a\.png: no such file"):
        load_pictures(read_merged([path]).dataset, spec, min_visibility=0, limit_bytes=1e9, folder=tmp_path)


# -- augmentation


def painted_cache(pictures: int = 5) -> Cache:
    """Black pictures of 96x56 in an input of 96x64, with a red rectangle each."""
    rng = np.random.default_rng(0)
    images, found = np.full((pictures, 64, 96, 3), 114, np.uint8), []
    for image in images:
        image[:56] = 0
        x, y = rng.integers(10, 60), rng.integers(5, 30)
        image[y : y + 20, x : x + 25, 2] = 255
        found.append(labels((x, y, x + 25, y + 20)))
    return Cache(images, np.tile([96, 56], (pictures, 1)), tuple(found), tuple(range(1, pictures + 1)))


def red_box(image: np.ndarray[Any, Any]) -> list[int]:
    y, x = np.nonzero((image[..., 2].astype(int) - image[..., 1]) > 127)
    return [x.min(), y.min(), x.max() + 1, y.max() + 1] if len(x) else []


def test_labels_stay_on_their_objects() -> None:
    """Of one flipped, scaled, stretched and shifted picture the label is where the paint is, to the pixel."""
    cache, seen, worst = painted_cache(), 0, 0.0
    for seed in range(200):
        sample = arranged(cache, seed % len(cache), np.random.default_rng(seed), mosaic=None)
        if box := red_box(sample.image):
            assert len(sample.labels.xyxy) == 1
            worst = max(worst, float(np.abs(sample.labels.xyxy[0] - box).max()))
            seen += 1
    assert seen > 150
    assert worst <= 1.0


def test_a_mosaic_holds_the_labels_of_four_pictures() -> None:
    cache, mosaics = painted_cache(), 0
    for seed in range(40):
        sample = arranged(cache, 0, np.random.default_rng(seed), mosaic=1.0)
        red = (sample.image[..., 2].astype(int) - sample.image[..., 1]) > 127
        inside = np.zeros_like(red)
        for left, top, right, bottom in sample.labels.xyxy:
            inside[max(0, int(top) - 1) : math.ceil(bottom) + 1, max(0, int(left) - 1) : math.ceil(right) + 1] = True
        assert not (red & ~inside).any()
        mosaics += len(sample.labels.xyxy) > 1
    assert mosaics > 10


def test_what_is_cut_to_a_sliver_is_ignored_and_what_is_gone_is_dropped() -> None:
    cut = clipped(labels((-9, 0, 1, 10), (-5, 0, 5, 10), (40, 0, 60, 10), (-20, 0, -5, 9)), (0, 0, 50, 50), (0, 0))
    assert cut.xyxy.tolist() == [[0, 0, 1, 10], [0, 0, 5, 10], [40, 0, 50, 10]]
    assert cut.ignored.tolist() == [True, False, False]


def test_the_same_seed_makes_the_same_picture() -> None:
    cache = painted_cache()
    one, two, other = (augmented(cache, 1, np.random.default_rng(seed), 0.6).image for seed in (3, 3, 4))
    assert (one == two).all()
    assert (one != other).any()


def test_a_step_has_the_same_pictures_whenever_it_is_asked_for() -> None:
    feed = Feed(painted_cache(), 2, seed=1, threads=2)
    assert feed.steps_per_epoch == 2

    def share(step: int) -> float | None:
        return 0.6 if step < 2 else None

    from_start, from_third = feed.batches(0, share), feed.batches(2, share)
    whole = [next(from_start) for _ in range(4)]
    later = [next(from_third) for _ in range(2)]
    from_start.close()
    from_third.close()
    for a, b in zip(whole[2:], later, strict=True):
        assert (a.images == b.images).all()
    assert (whole[0].images != whole[2].images).any()


def test_few_pictures_are_repeated_to_fill_a_batch() -> None:
    assert Feed(painted_cache(3), 8, seed=0, threads=1).batch(5, None).images.shape == (8, 64, 96, 3)
