"""Still pictures: their size from the header, and what is refused before anything is decoded."""

import struct
import tracemalloc

import cv2
import numpy as np
import pytest

from stream.detectors.base import InputSpec
from stream.errors import PictureError
from stream.still import MAX_PIXELS, PLAIN_PIXELS, input_of, size_of

SPEC = InputSpec(64, 64, resize="letterbox_top_left", pad=114)


def encoded(width: int, height: int, suffix: str = ".jpg", *options: int) -> bytes:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2] = (0, 0, 255)
    return bytes(cv2.imencode(suffix, pixels, list(options))[1])


def claiming(data: bytes, width: int, height: int) -> bytes:
    """The same file, whose header says another size."""
    if data.startswith(b"\x89PNG"):
        return data[:16] + struct.pack(">II", width, height) + data[24:]
    at = data.index(b"\xff\xc0")
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_size_and_model_input(suffix: str) -> None:
    data = encoded(200, 100, suffix)
    assert size_of(data)[1:] == (200, 100)
    image, width, height = input_of(data, SPEC)
    assert (image.shape, image.dtype, width, height) == ((64, 64, 3), np.uint8, 200, 100)
    assert np.abs(image[16, 10].astype(int) - (0, 0, 255)).max() < 8
    assert (image[40] == 114).all(), "the padding"


def test_a_progressive_jpeg_has_a_size_too() -> None:
    assert size_of(encoded(120, 80, ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)) == ("jpeg", 120, 80)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_bomb_is_refused_before_it_is_decoded(suffix: str) -> None:
    bomb = claiming(encoded(64, 64, suffix), 60_000, 60_000)
    tracemalloc.start()
    with pytest.raises(PictureError, match=f"60000 x 60000 pixels, more than {MAX_PIXELS}"):
        input_of(bomb, SPEC)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_large_jpeg_is_decoded_smaller_and_shows_the_same() -> None:
    data = encoded(4000, 2400)
    assert PLAIN_PIXELS < 4000 * 2400
    image, width, height = input_of(data, SPEC)
    assert (width, height) == (4000, 2400)
    small = input_of(encoded(400, 240), SPEC)[0]
    assert np.abs(image.astype(int) - small).mean() < 2


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "the picture is empty"),
        (b"GIF89a" + bytes(50), "neither JPEG nor PNG"),
        (encoded(64, 64)[:-40], "the JPEG is cut off"),
        (encoded(64, 64, ".png")[:-4], "the PNG is cut off"),
        (claiming(encoded(64, 64), 0, 64), "0 x 64 pixels"),
        (b"\xff\xd8\xff\xd9", "no frame header"),
        (b"\xff\xd8\xff\xda\x00\x08\xff\xc0" + bytes(20) + b"\xff\xd9", "no frame header"),
        (b"\x89PNG\r\n\x1a\n" + bytes(8) + b"IEND\xaeB`\x82", "does not begin with its header"),
        (claiming(encoded(64, 64, ".png"), 65, 64), "damaged"),
        (encoded(64, 64, ".png")[:40] + b"\0" * 60 + b"IEND\xaeB`\x82", "damaged"),
    ],
)
def test_what_is_no_picture_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(PictureError, match=says):
        input_of(data, SPEC)
