"""Encode: pictures to H.264 as cameras send it.

No B-frames, a key frame every two seconds, parameter sets before each key frame, one thread.
"""

from __future__ import annotations

from fractions import Fraction

import av
import cv2
import numpy as np
import numpy.typing as npt

KEY_FRAME_S = 2.0
RECORDED = {"preset": "superfast", "crf": "24"}
LIVE = {"preset": "ultrafast", "tune": "zerolatency", "crf": "24"}


def frame_rate(fps: float) -> Fraction:
    """The fraction of a denominator up to 1001 that is nearest to ``fps``: 29.97 is 2997/100; 30000 / 1001 stays exact."""
    return Fraction(fps).limit_denominator(1001)


def set_up(context: av.VideoCodecContext, width: int, height: int, fps: float, options: dict[str, str]) -> None:
    """Make an H.264 encoder that is not open yet into a camera's."""
    rate = frame_rate(fps)
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.framerate, context.time_base = rate, 1 / rate
    context.gop_size, context.max_b_frames, context.thread_count = round(KEY_FRAME_S * fps), 0, 1
    context.color_range, context.colorspace = av.video.reformatter.ColorRange.MPEG, av.video.reformatter.Colorspace.ITU601
    context.options = options | {"x264-params": "repeat-headers=1:scenecut=0"}


def to_frame(bgr: npt.NDArray[np.uint8], index: int, fps: float) -> av.VideoFrame:
    """A picture, uint8 (H, W, 3), as the encoder takes it; both sides must be even."""
    frame = av.VideoFrame.from_ndarray(np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420), np.uint8), format="yuv420p")
    frame.color_range, frame.colorspace = av.video.reformatter.ColorRange.MPEG, av.video.reformatter.Colorspace.ITU601
    frame.pts, frame.time_base = index, 1 / frame_rate(fps)
    return frame
