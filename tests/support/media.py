"""Clips for tests, made from the shared media."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av


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


def camera_clip(source: Path, target: Path, start_s: float, seconds: float, width: int = 384, height: int = 216) -> Path:
    """A part of a file as a camera would send it: H.264 without B-frames, a key frame every second, small."""
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        stream = given.streams.video[0]
        rate = stream.average_rate or Fraction(25)
        encoded = made.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "tune": "zerolatency", "crf": "23"})
        encoded.width, encoded.height, encoded.pix_fmt, encoded.gop_size = width, height, "yuv420p", round(rate)
        for frame in given.decode(stream):
            if frame.time >= start_s + seconds:
                break
            if frame.time >= start_s:
                small = frame.reformat(width, height, "yuv420p")
                small.pts, small.time_base, small.pict_type = round((frame.time - start_s) * 90_000), Fraction(1, 90_000), 0
                made.mux(encoded.encode(small))
        made.mux(encoded.encode(None))
    return target
