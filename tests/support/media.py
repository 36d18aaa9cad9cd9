"""Small videos: made on the spot, and cut from the shared media."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE_FPS = 10


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
    moves_from: int = 0,
    start_s: int = 0,
    rotation: int = 0,
    mirrored: bool = False,
) -> Path:
    """Write ``frames`` pictures at 10 frames per second, the first at ``start_s``; they are all the same up to number
    ``moves_from``. Players are told to turn them by ``rotation`` degrees counterclockwise, and to mirror that left to right."""
    with av.open(str(path), "w", options={"movflags": "+faststart"} if path.suffix == ".mp4" else {}) as container:
        if creation_time:
            container.metadata["creation_time"] = creation_time
        stream = container.add_stream(codec, rate=RATE_FPS)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = gop, b_frames
        stream.codec_context.time_base = Fraction(1, 1000)
        if rotation or mirrored:
            stream.set_display_rotation(rotation, hflip=mirrored)
        stream.options = (
            {"preset": "ultrafast", "threads": "1", "bf": str(b_frames), "b-adapt": "0"} if codec == "libx264" else {}
        ) | (options or {})
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(max(i, moves_from), *size), format="bgr24").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = start_s * 1000 + i * 1000 // RATE_FPS, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def cut(source: Path, target: Path, seconds: float) -> Path:
    """The first ``seconds`` of a file as it is, not encoded again."""
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        stream = given.streams.video[0]
        copied = made.add_stream_from_template(stream)
        for packet in given.demux(stream):
            if packet.dts is None or packet.dts * packet.time_base >= seconds:
                break
            packet.stream = copied
            made.mux(packet)
    return target


def camera_clip(
    source: Path, target: Path, start_s: float, seconds: float, width: int = 384, height: int = 216, still_s: float = 0.0
) -> Path:
    """A part of a file as a camera would send it: H.264 without B-frames, a key frame every second, small. Before it, its
    first second again and again for ``still_s``."""
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        stream = given.streams.video[0]
        rate = stream.average_rate or Fraction(25)
        encoded = made.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "tune": "zerolatency", "crf": "23"})
        encoded.width, encoded.height, encoded.pix_fmt, encoded.gop_size = width, height, "yuv420p", round(rate)
        pictures = []
        for frame in given.decode(stream):
            if frame.time >= start_s + seconds:
                break
            if frame.time >= start_s:
                pictures.append(frame.reformat(width, height, "yuv420p"))
        shown = [*(pictures[i % round(rate)] for i in range(round(still_s * rate))), *pictures]
        for i, picture in enumerate(shown):
            again = av.VideoFrame.from_ndarray(picture.to_ndarray(), "yuv420p")
            again.pts, again.time_base = i, 1 / rate
            made.mux(encoded.encode(again))
        made.mux(encoded.encode(None))
    return target
