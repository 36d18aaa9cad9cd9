"""Frame, FrameBatch and DetectedBatch refuse arrays of the wrong shape or type, and say which came."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from stream.detections import Detections
from stream.frame import DetectedBatch, Frame, FrameBatch, FrameInfo

INFO = FrameInfo("a", "", 0, 0.0, 0.0, 64, 48, 1.0, 2.0)


def test_what_fits_is_taken() -> None:
    assert Frame(INFO, np.zeros((4, 6, 3), np.uint8)).picture is None
    assert len(FrameBatch("d", (INFO, INFO), np.zeros((2, 4, 6, 3), np.uint8))) == 2
    assert len(DetectedBatch("d", "m", (INFO,), (Detections.empty(),), 3.0)) == 1


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 6), np.uint8), r"uint8 \(4, 6\)"),
        (np.zeros((3, 4, 6), np.uint8), r"uint8 \(3, 4, 6\)"),
        (np.zeros((4, 6, 3), np.float32), r"float32 \(4, 6, 3\)"),
    ],
)
def test_images_that_do_not_fit(image: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=rf"image must be uint8 \(H, W, 3\), not {message}"):
        Frame(INFO, image)
    with pytest.raises(ValueError, match=r"images must be uint8 \(N, H, W, 3\)"):
        FrameBatch("d", (INFO,), image[None])


def test_as_many_infos_as_images_and_detections() -> None:
    with pytest.raises(ValueError, match="1 frames but 2 images"):
        FrameBatch("d", (INFO,), np.zeros((2, 4, 6, 3), np.uint8))
    with pytest.raises(ValueError, match="1 frames but 2 detections"):
        DetectedBatch("d", "m", (INFO,), (Detections.empty(), Detections.empty()), 3.0)


def test_frames_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        INFO.source_id = "b"  # type: ignore[misc]


def test_what_a_slow_line_or_the_gate_had_of_a_frame_is_not_our_time() -> None:
    assert INFO.due_s == 1.0
    assert replace(INFO, line_s=0.3, held_s=2.0).due_s == pytest.approx(3.3)
