"""Viewfinder: what is kept, shown and encoded, and that nothing is while nobody looks."""

import sys

import av
import cv2
import numpy as np
import pytest

from stream.frame import FrameInfo
from stream.metrics import Metrics
from stream.testing import ManualClock
from stream.viewfinder import ANSWER_S, FRESH_S, PENDING, WATCH_S, Look, Picture, Viewfinder, width_for


class Camera:
    """A source whose pictures tell their number by how bright they are."""

    def __init__(self) -> None:
        self.clock, self.metrics = ManualClock(), Metrics()
        self.view = Viewfinder(self.clock, self.metrics)
        self.frames: list[av.VideoFrame] = []

    def info(self, index: int, source_id: str = "cam", session: str = "s") -> FrameInfo:
        return FrameInfo(source_id, session, index, index / 5, self.clock.time(), 64, 36, 0.0, 0.0)

    def see(self, index: int, source_id: str = "cam") -> None:
        frame = av.VideoFrame.from_ndarray(np.full((36, 64, 3), 10 * index, np.uint8), "bgr24").reformat(format="yuv420p")
        self.frames.append(frame)
        self.view.see(self.info(index, source_id), frame)

    def show(self, index: int) -> None:
        self.see(index)
        self.view.left(self.info(index))

    def look(self, after: int | None = None, width_px: int = 640) -> Picture | None:
        return self.view.pictures({"cam": Look(width_px, None if after is None else ("s", after))}).get("cam")

    def encoded(self) -> float:
        return self.metrics.registry.get_sample_value("framewatch_pictures_total") or 0

    def kept(self) -> int:
        """Frames that somebody but this camera holds."""
        alone = sys.getrefcount(object())
        return sum(sys.getrefcount(self.frames[i]) > alone + 1 for i in range(len(self.frames)))


def brightness(picture: Picture) -> int:
    pixels = cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), cv2.IMREAD_COLOR)
    return round(float(pixels.mean()) / 10)


def test_nothing_is_kept_or_encoded_while_nobody_looks() -> None:
    camera = Camera()
    for index in range(10):
        camera.show(index)
    assert camera.kept() == 0
    assert camera.encoded() == 0
    assert not camera.view.watches("cam")


def test_the_newest_picture_is_the_last_frame_that_left_the_detector() -> None:
    camera = Camera()
    assert camera.look() is None
    camera.show(3)
    camera.see(4)
    picture = camera.look()
    assert picture is not None
    assert (picture.info.frame_index, brightness(picture)) == (3, 3)
    assert camera.look(after=3) is None
    camera.view.left(camera.info(4))
    picture = camera.look(after=3)
    assert picture is not None
    assert (picture.info.frame_index, brightness(picture)) == (4, 4)


def test_a_picture_is_encoded_once_for_each_frame_and_width() -> None:
    camera = Camera()
    camera.look()
    camera.show(1)
    assert camera.encoded() == 0, "nobody has asked for it yet"
    assert len({id(camera.look()) for _ in range(5)}) == 1
    assert camera.encoded() == 1
    camera.look(width_px=160)
    assert camera.encoded() == 1, "the source is narrower than both"
    camera.show(2)
    camera.look()
    assert camera.encoded() == 2


def test_frames_on_their_way_are_bounded_and_an_absent_detector_holds_no_picture_back() -> None:
    camera = Camera()
    camera.look()
    for index in range(PENDING + 3):
        camera.see(index)
    assert camera.kept() == PENDING
    assert camera.look() is None
    camera.clock.advance(ANSWER_S + 0.1)
    camera.see(9)
    picture = camera.look()
    assert picture is not None
    assert picture.info.frame_index == PENDING - 1


def test_a_frame_given_up_on_its_way_does_not_keep_its_place() -> None:
    camera = Camera()
    camera.look()
    for index in (1, 2, 3):
        camera.see(index)
    camera.view.left(camera.info(2))
    camera.view.left(camera.info(1))
    picture = camera.look()
    assert picture is not None
    assert picture.info.frame_index == 2
    assert camera.kept() == 2


def test_all_is_let_go_after_the_last_look() -> None:
    camera = Camera()
    camera.look()
    camera.show(1)
    camera.clock.advance(WATCH_S - 0.1)
    camera.view.rest()
    assert camera.view.watches("cam")
    camera.look()
    camera.clock.advance(WATCH_S + 0.1)
    camera.view.rest()
    assert not camera.view.watches("cam")
    assert camera.kept() == 0


def test_an_old_picture_is_none() -> None:
    camera = Camera()
    camera.look()
    camera.show(1)
    camera.clock.advance(FRESH_S + 0.1)
    assert camera.look() is None


def test_another_input_under_the_same_id_shows_nothing_of_the_one_before() -> None:
    camera = Camera()
    camera.look()
    camera.show(1)
    camera.look()
    camera.view.forget("cam")
    assert camera.look() is None
    assert camera.kept() == 0


@pytest.mark.parametrize(("asked", "given"), [(1, 160), (160, 160), (639, 480), (640, 640), (5000, 1920)])
def test_widths_are_shared(asked: int, given: int) -> None:
    assert width_for(asked) == given


def test_wide_pictures_are_made_narrower_and_keep_their_aspect() -> None:
    camera = Camera()
    camera.look()
    frame = av.VideoFrame.from_ndarray(np.zeros((361, 1003, 3), np.uint8), "bgr24")
    info = FrameInfo("cam", "s", 1, 0.2, 0.0, 1003, 361, 0.0, 0.0)
    camera.view.see(info, frame)
    camera.view.left(info)
    picture = camera.look()
    assert picture is not None
    pixels = cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert pixels.shape == (230, 640, 3)
