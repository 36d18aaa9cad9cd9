"""Small videos made on the spot, and a clock that tests move by hand."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE_FPS = 10


class HandClock:
    """Time stands still until somebody sleeps."""

    def __init__(self, at: float = 1_763_900_000.0, monotonic_s: float = 500.0):
        self.at, self.monotonic_s = at, monotonic_s

    def time(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.monotonic_s

    def sleep(self, seconds: float) -> None:
        self.at, self.monotonic_s = self.at + seconds, self.monotonic_s + seconds


def picture(index: int, width: int = 128, height: int = 96) -> np.ndarray:
    """A BGR picture that shows its number: a box that moves from left to right."""
    pixels = np.full((height, width, 3), 60, np.uint8)
    left = index * 4 % (width - 16)
    pixels[20:60, left : left + 16] = (40, 200, 230)
    return pixels


def make_video(
    path: Path,
    frames: int = 30,
    *,
    codec: str = "libx264",
    b_frames: int = 0,
    gop: int = 10,
    size: tuple[int, int] = (128, 96),
    creation_time: str | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Write ``frames`` pictures at 10 frames per second."""
    with av.open(str(path), "w", options={"movflags": "+faststart"} if path.suffix == ".mp4" else {}) as container:
        if creation_time:
            container.metadata["creation_time"] = creation_time
        stream = container.add_stream(codec, rate=RATE_FPS)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = gop, b_frames
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.options = (
            {"preset": "ultrafast", "threads": "1", "bf": str(b_frames), "b-adapt": "0"} if codec == "libx264" else {}
        ) | (options or {})
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(i, *size), format="bgr24").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = i * 1000 // RATE_FPS, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
