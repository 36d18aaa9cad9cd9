"""Scaler: any decoded picture to a model's input."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from stream.detectors.base import InputSpec
from stream.scale import Scaler, to_picture

pytestmark = pytest.mark.compute

BT709, FULL_RANGE = 1, 2


def scene(width: int = 1920, height: int = 1080) -> np.ndarray:
    """A smooth BGR picture with a bright box in it, so that position, colour and channel order all show."""
    y, x = np.mgrid[0:height, 0:width]
    picture = np.stack([200 * x / width + 20, 180 * y / height + 30, np.full(x.shape, 90.0)], axis=2).astype(np.uint8)
    picture[height // 4 : height // 2, width // 8 : width // 3] = (30, 60, 220)
    return picture


def frame_of(picture: np.ndarray, pixel_format: str, **convert: object) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="bgr24")
    return frame.reformat(format=pixel_format, **convert)  # type: ignore[arg-type]


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(np.int16) - b.astype(np.int16)).mean())


@pytest.mark.parametrize(
    "pixel_format",
    ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "nv12", "yuv420p10le", "rgb24", "bgr24", "rgba", "gbrp"],
)
@pytest.mark.parametrize("size", [(1920, 1080), (352, 352), (641, 359), (96, 64), (3840, 2160)])
def test_every_format_and_size_looks_like_the_scene(pixel_format: str, size: tuple[int, int]) -> None:
    picture = scene(*size)
    scaled = Scaler(InputSpec(352, 352)).scale(frame_of(picture, pixel_format))
    assert scaled.shape == (352, 352, 3)
    assert difference(scaled, cv2.resize(picture, (352, 352), interpolation=cv2.INTER_AREA)) < 4


@pytest.mark.parametrize("pixel_format", ["gray", "gray10le"])
def test_gray(pixel_format: str) -> None:
    picture = cv2.cvtColor(cv2.cvtColor(scene(640, 360), cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    scaled = Scaler(InputSpec(160, 160)).scale(frame_of(picture, pixel_format))
    assert difference(scaled, cv2.resize(picture, (160, 160), interpolation=cv2.INTER_AREA)) < 4


def test_rgb_is_bgr_turned_round() -> None:
    frame = frame_of(scene(), "yuv420p")
    bgr = Scaler(InputSpec(320, 240)).scale(frame)
    rgb = Scaler(InputSpec(320, 240, color="RGB")).scale(frame)
    assert np.array_equal(bgr[..., ::-1], rgb)


@pytest.mark.parametrize("color_range", [1, FULL_RANGE])
@pytest.mark.parametrize("colorspace", [BT709, 5])
def test_matrix_and_range_of_the_frame_are_used(colorspace: int, color_range: int) -> None:
    picture = scene(640, 480)
    frame = frame_of(picture, "yuv444p", dst_colorspace=colorspace, dst_color_range=color_range)
    frame.colorspace, frame.color_range = colorspace, color_range
    scaled = Scaler(InputSpec(320, 240)).scale(frame)
    assert difference(scaled, cv2.resize(picture, (320, 240), interpolation=cv2.INTER_AREA)) < 2


@pytest.mark.parametrize("pixel_format", ["yuv420p", "nv12", "yuv420p10le"])
def test_a_matrix_that_cannot_be_converted_is_taken_for_the_usual_one(pixel_format: str) -> None:
    picture = scene(640, 480)
    frame, spec = frame_of(picture, pixel_format), InputSpec(320, 240)
    expected, large = Scaler(spec).scale(frame), to_picture(frame)
    for colorspace in (2, 3, 8, *range(10, 18)):  # unspecified, reserved, YCgCo, constant luminance, ICtCp ...
        frame.colorspace = colorspace
        assert np.array_equal(Scaler(spec).scale(frame), expected), colorspace
        assert np.array_equal(to_picture(frame), large), colorspace


@pytest.mark.parametrize(("resize", "top", "left"), [("letterbox_top_left", 0, 0), ("letterbox_center", 91, 0)])
def test_letterbox(resize: str, top: int, left: int) -> None:
    spec = InputSpec(416, 416, resize=resize, pad=114)  # type: ignore[arg-type]
    dirty = np.full((416, 416, 3), 7, np.uint8)
    out = Scaler(spec).scale(frame_of(scene(), "yuv420p"), dirty)
    assert out is dirty
    inside = np.zeros((416, 416), bool)
    inside[top : top + 234, left : left + 416] = True
    assert (out[~inside] == 114).all()
    expected = cv2.resize(scene(), (416, 234), interpolation=cv2.INTER_AREA)
    assert difference(out[top : top + 234], expected) < 4


def test_a_tall_picture_is_padded_at_the_sides() -> None:
    out = Scaler(InputSpec(100, 100, resize="letterbox_center", pad=9)).scale(frame_of(scene(180, 360), "yuv420p"))
    assert (out[:, :25] == 9).all()
    assert (out[:, 75:] == 9).all()
    assert (out[:, 30:70] != 9).any()


def test_rows_of_a_batch_are_written_in_place() -> None:
    batch = np.zeros((3, 96, 128, 3), np.uint8)
    Scaler(InputSpec(128, 96)).scale(frame_of(scene(), "yuv420p"), batch[1])
    assert not batch[0].any()
    assert batch[1].any()
    assert not batch[2].any()


def test_the_size_may_change_between_frames() -> None:
    scaler = Scaler(InputSpec(160, 120, resize="letterbox_top_left"))
    wide, tall = frame_of(scene(640, 360), "yuv420p"), frame_of(scene(360, 640), "yuvj422p")
    first = scaler.scale(wide)
    scaler.scale(tall)
    assert np.array_equal(scaler.scale(wide), first)


@pytest.mark.parametrize("out", [np.zeros((10, 10, 3), np.uint8), np.zeros((96, 128, 3), np.float32)])
def test_a_wrong_target_is_refused(out: np.ndarray) -> None:
    with pytest.raises(ValueError, match="out must be uint8"):
        Scaler(InputSpec(128, 96)).scale(frame_of(scene(), "yuv420p"), out)


@pytest.mark.parametrize("size", [(1920, 1080), (641, 359)])
def test_to_picture_keeps_the_size(size: tuple[int, int]) -> None:
    picture = to_picture(frame_of(scene(*size), "yuv444p"))
    assert picture.shape == (size[1], size[0], 3)
    assert picture.flags.c_contiguous
    assert difference(picture, scene(*size)) < 2


def test_agrees_with_a_full_quality_resize_of_real_footage(shared: Path) -> None:
    with av.open(str(shared / "data/videos/retail02_h264_1080p25.mp4")) as container:
        frame = next(container.decode(video=0))
    scaled = Scaler(InputSpec(352, 352)).scale(frame)
    reference = cv2.resize(frame.to_ndarray(format="bgr24"), (352, 352), interpolation=cv2.INTER_AREA)
    assert difference(scaled, reference) < 6
    assert frame.time_base == Fraction(1, 12800)


def test_a_palette_picture(shared: Path) -> None:
    with av.open(str(shared / "data/videos/gif/people-detection.gif")) as container:
        frame = next(container.decode(video=0))
    scaled = Scaler(InputSpec(240, 136)).scale(frame)
    assert difference(scaled, cv2.resize(frame.to_ndarray(format="bgr24"), (240, 136), interpolation=cv2.INTER_AREA)) < 4


@pytest.mark.parametrize("resize", ["stretch", "letterbox_top_left", "letterbox_center"])
@pytest.mark.parametrize(("width", "height"), [(320, 90), (90, 320), (101, 77)])
def test_a_picture_without_its_padding_is_all_picture(resize: Any, width: int, height: int) -> None:
    spec = InputSpec(64, 48, resize=resize, pad=114)
    black = av.VideoFrame.from_ndarray(np.zeros((height, width, 3), np.uint8), "bgr24")
    scaled = Scaler(spec).scale(black)
    shown = spec.without_padding(scaled, width, height)
    assert shown.max() == 0
    assert shown.size == (scaled == 0).sum()
    assert max(shown.shape[0] / 48, shown.shape[1] / 64) == 1
