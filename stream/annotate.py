"""A video of the analysed frames with boxes, track ids, zones and lines, for people to look at."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from stream.config import LineConfig, PipelineConfig, ZoneConfig
from stream.errors import SinkError
from stream.events import TrackedObject, TracksEvent
from stream.frame import Frame, Uint8Array

GREEN, BLUE, RED, WHITE = (80, 200, 80), (220, 140, 40), (60, 60, 230), (255, 255, 255)  # BGR
TIME_BASE = Fraction(1, 90_000)
SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".ts")


def video_paths(path: Path, config: PipelineConfig) -> dict[str, Path]:
    """Where the video of each source goes, by its id: one source to ``path``, several to ``<stem>-<source id>.mp4`` beside it."""
    several = len(config.sources) > 1
    return {source.id: path.with_stem(f"{path.stem}-{source.id}") if several else path for source in config.sources}


class Annotator:
    """Writes H.264 files to the ``video_paths``. Called from the dispatcher's thread only."""

    def __init__(self, path: Path, config: PipelineConfig):
        self._paths = video_paths(path, config)
        self._sources = {source.id: source for source in config.sources}
        self._videos: dict[str, _Video] = {}

    def add(self, frame: Frame, tracks: TracksEvent) -> None:
        """Append one analysed frame.

        Raises:
            SinkError: the file cannot be written.
        """
        source = self._sources[frame.info.source_id]
        if frame.picture is None:
            raise ValueError("frame carries no picture")
        picture = draw(frame.picture, source.zones, source.lines, tracks.objects)
        if source.id not in self._videos:
            self._videos[source.id] = _Video(self._paths[source.id], picture.shape[1], picture.shape[0], source.fps)
        self._videos[source.id].add(picture, frame.info.pts_s)

    def close(self) -> None:
        """Finish all files."""
        for video in self._videos.values():
            video.close()


class _Video:
    def __init__(self, path: Path, width: int, height: int, fps: float | None):
        self._width, self._height = width - width % 2, height - height % 2  # yuv420p wants even sizes
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(str(path), "w")
        except OSError as error:
            raise SinkError(f"{path}: {error.strerror or error}") from error
        stream = self._container.add_stream("libx264", rate=Fraction(fps or 25).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = self._width, self._height, "yuv420p"
        stream.codec_context.time_base = TIME_BASE
        stream.options = {"crf": "23", "preset": "veryfast"}
        self._stream = stream
        self._last = -1

    def add(self, picture: Uint8Array, pts_s: float) -> None:
        if picture.shape[:2] != (self._height, self._width):
            picture = np.ascontiguousarray(cv2.resize(picture, (self._width, self._height)))
        frame = av.VideoFrame.from_ndarray(picture, "bgr24")
        frame.time_base = TIME_BASE
        self._last = frame.pts = max(self._last + 1, round(pts_s / TIME_BASE))
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()


def draw(
    picture: Uint8Array,
    zones: Sequence[ZoneConfig],
    lines: Sequence[LineConfig],
    objects: Sequence[TrackedObject],
    alarming: Collection[int] = (),
) -> Uint8Array:
    """Draw zones, lines and boxes into ``picture`` (uint8 (H, W, 3) BGR, changed in place) and return it; the boxes of the
    tracks in ``alarming`` are red."""
    height, width = picture.shape[:2]
    size = np.array([width, height])
    thickness = max(1, round(height / 400))
    scale = max(0.4, height / 1000)
    for zone in zones:
        points = np.round(np.array(zone.polygon) * size).astype(np.int32)
        cv2.polylines(picture, [points], True, BLUE, thickness)
        _label(picture, zone.name, points[0], BLUE, scale)
    for line in lines:
        start, end = (tuple(int(v) for v in np.round(np.array(p) * size)) for p in line.points)
        cv2.arrowedLine(picture, start, end, RED, thickness, tipLength=0.03)
        _label(picture, line.name, np.array(start), RED, scale)
    for found in objects:
        left, top, right, bottom = (round(v) for v in found.xyxy)
        color = RED if found.track_id in alarming else GREEN
        cv2.rectangle(picture, (left, top), (right, bottom), color, thickness)
        _label(picture, f"{found.class_} {found.track_id}  {found.confidence:.2f}", np.array([left, top]), color, scale)
    return picture


def _label(picture: Uint8Array, text: str, at: np.ndarray, color: tuple[int, int, int], scale: float) -> None:
    (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    x = int(min(max(0, at[0]), picture.shape[1] - width))
    y = int(max(height + base, at[1]))
    cv2.rectangle(picture, (x, y - height - base), (x + width, y), color, -1)
    cv2.putText(picture, text, (x, y - base // 2), cv2.FONT_HERSHEY_SIMPLEX, scale, WHITE, 1, cv2.LINE_AA)
