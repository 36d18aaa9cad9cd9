"""Clips with known truth: a folder as ``framewatch simulate`` writes it, or one of the same files.

::

    DIR/video.mp4       needed
    DIR/tracks.txt      true tracks, MOTChallenge rows
    DIR/counts.jsonl    true counts, framewatch's own events
    DIR/source.yaml     a config whose only source has the zones and lines of those counts

One of the two truths is needed, and ``source.yaml`` for counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from stream.config import SourceConfig
from stream.config_file import load_config
from stream.datasets.mot import MotTable, read_mot
from stream.detections import Detections
from stream.detectors.base import Detector
from stream.errors import DatasetError
from stream.evaluation.records import read_events
from stream.events import CountsEvent
from stream.frame import FrameBatch, FrameInfo
from stream.recording import read_frames

VIDEO, TRACKS, COUNTS, SOURCE = "video.mp4", "tracks.txt", "counts.jsonl", "source.yaml"
BATCH_SIZE = 16


@dataclass(frozen=True)
class Clip:
    """A video and what is true of it.

    Attributes:
        folder: where it lies.
        source: the video as a source, with its zones and lines.
        tracks: true tracks; None where they are not known.
        counts: true counts; empty where they are not known.
    """

    folder: Path
    source: SourceConfig
    tracks: MotTable | None
    counts: tuple[CountsEvent, ...]

    @property
    def video(self) -> Path:
        """Path of the video."""
        return self.source.path


@dataclass(frozen=True)
class WatchedClip:
    """A clip and what detectors found in it.

    Attributes:
        clip: the clip.
        frames: the analysed ones.
        found: one entry per frame, by the detector's ``nms_iou``.
    """

    clip: Clip
    frames: tuple[FrameInfo, ...]
    found: Mapping[float, tuple[Detections, ...]]


def read_clips(folder: Path, fps: float | None = None) -> list[Clip]:
    """The clip in a folder, or those in the folders in it.

    Args:
        folder: of one clip or of several.
        fps: analysed frames per second; None takes that of ``source.yaml``, else all.

    Raises:
        ConfigError: a ``source.yaml`` is wrong.
        DatasetError: there is no clip, or its truth is missing or wrong; names the file.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: {'is not a folder' if folder.exists() else 'no such folder'}")
    folders = [folder] if (folder / VIDEO).is_file() else sorted(path.parent for path in folder.glob(f"*/{VIDEO}"))
    if not folders:
        raise DatasetError(
            f"{folder}: no {VIDEO} in it, nor in its folders; a clip is a folder with {VIDEO}, {TRACKS}, {COUNTS} and {SOURCE}"
        )
    return [_read_clip(one, fps) for one in folders]


def watch(clip: Clip, detectors: Mapping[float, Detector], progress: Callable[[float], None]) -> WatchedClip:
    """Run the detectors over a clip, each of them; it is decoded and scaled once, for the input that they have in common.

    Args:
        clip: the clip.
        detectors: by ``nms_iou``.
        progress: told how many seconds of the clip are done.

    Raises:
        DetectorError: a model failed.
        SourceError: the video cannot be read.
    """
    infos: list[FrameInfo] = []
    found: dict[float, list[Detections]] = {iou: [] for iou in detectors}
    spec = next(iter(detectors.values())).input
    with closing(read_frames(clip.source, spec)) as frames:
        while batch := list(islice(frames, BATCH_SIZE)):
            these = tuple(frame.info for frame in batch)
            images = FrameBatch("tune", these, np.stack([frame.image for frame in batch]))
            for iou, detector in detectors.items():
                found[iou] += detector.detect(images)
            infos += these
            progress(these[-1].pts_s)
    if not infos:
        raise DatasetError(f"{clip.video}: holds no frame")
    return WatchedClip(clip, tuple(infos), {iou: tuple(detections) for iou, detections in found.items()})


def _read_clip(folder: Path, fps: float | None) -> Clip:
    if not (folder / TRACKS).is_file() and not (folder / COUNTS).is_file():
        raise DatasetError(f"{folder}: holds no truth: neither {TRACKS} nor {COUNTS}")
    source = _source(folder)
    tracks = read_mot(folder / TRACKS) if (folder / TRACKS).is_file() else None
    counts: list[CountsEvent] = []
    if (folder / COUNTS).is_file():
        counts = read_events(folder / COUNTS, CountsEvent)
        _check(counts, source, folder)
    return Clip(folder, source.model_copy(update={"fps": fps or source.fps}), tracks, tuple(counts))


def _source(folder: Path) -> SourceConfig:
    path = folder / SOURCE
    if not path.is_file():
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-.")[:60] or "clip"
        return SourceConfig(id=name, uri=f"file:{(folder / VIDEO).absolute()}")
    sources = load_config(path).sources
    if len(sources) != 1 or sources[0].scheme != "file":
        raise DatasetError(f"{path}: must have one source, a video file")
    return sources[0].model_copy(update={"detector": None, "loop": False})


def _check(counts: list[CountsEvent], source: SourceConfig, folder: Path) -> None:
    if not counts:
        raise DatasetError(f"{folder / COUNTS}: holds no counts events")
    known = {zone.name for zone in source.zones} | {line.name for line in source.lines}
    unknown = sorted({str(event.zone or event.line) for event in counts} - known)
    if unknown:
        names, has = ", ".join(map(repr, unknown)), ", ".join(sorted(known)) or "no zone or line"
        raise DatasetError(f"{folder / COUNTS}: counts {names}, but the source of {folder / SOURCE} has {has}")
    if len({event.source_id for event in counts}) > 1:
        raise DatasetError(f"{folder / COUNTS}: counts several sources; a clip has one")
