"""Video: a simulated camera's film or pictures, with the truth beside them, in a folder.

::

    DIR/video.mp4       H.264
    DIR/images/*.jpg    pictures, where they are asked for
    DIR/coco.json       boxes of the pictures, else of every frame of the video
    DIR/tracks.txt      boxes of the video as MOTChallenge rows
    DIR/counts.jsonl    true counts of the zones and lines, as framewatch's counts events
    DIR/source.yaml     a config that analyses the video with these zones and lines

Boxes are those of whole bodies, clipped to the picture. ``coco.json`` comes last: with it the folder is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import av
import cv2
import numpy as np
import yaml

from stream.datasets.coco import CocoAnnotation, CocoDataset, CocoImage
from stream.datasets.mot import write_mot
from stream.errors import ConfigError, DatasetError, Fault
from stream.files import replacing
from stream.simulation.crowd import Crowd
from stream.simulation.encode import RECORDED, frame_rate, set_up, to_frame
from stream.simulation.labels import PERSON, VIDEO, Labels, picture_name
from stream.simulation.render import Rendered, Renderer
from stream.simulation.scene import Scene, build_scene
from stream.simulation.truth import TruthCounter, frame_count

STARTED_AT = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
"""When the first frame of every simulated recording was taken: a whole second, so that windows begin with frames."""
JPEG_QUALITY = 90
MODEL = "simulated-person"


@dataclass(frozen=True)
class Shot:
    """What one camera is to film.

    Attributes:
        scene, seed, width, height: see ``build_scene``.
        people: least and most; how many is drawn by the seed, as far as the scene has room.
        seconds, fps: of the video.
        pictures_fps: pictures per second; None for none.
        video: whether a video is written.
    """

    scene: str
    seed: int
    people: tuple[int, int]
    seconds: float
    fps: float = 25.0
    width: int = 1280
    height: int = 720
    pictures_fps: float | None = None
    video: bool = True

    @property
    def name(self) -> str:
        """Of the source and of the folder."""
        return f"{self.scene}-{self.seed}"

    @property
    def frames(self) -> int:
        """Frames that the crowd walks."""
        return frame_count(self.seconds, self.fps)

    def pictured(self, index: int) -> bool:
        """Whether a frame becomes a picture: those in which another picture's time has come."""
        if self.pictures_fps is None:
            return False
        share = min(1.0, self.pictures_fps / self.fps)
        return int(index * share + 1e-9) > int((index - 1) * share + 1e-9) if index else True


class Interrupted(Exception):
    """The one who asked for a film no longer wants it."""


def film(shot: Shot, folder: Path, tick: Callable[[], bool]) -> None:
    """Film what one camera sees into ``folder``, which must be new or empty.

    Args:
        shot: what to film.
        folder: where to.
        tick: called after each frame of the crowd; False ends the work.

    Raises:
        ConfigError: there is no such scene, or it cannot hold so many people.
        DatasetError: the folder is not empty or cannot be written.
        Interrupted: ``tick`` said so; nothing that looks whole is left behind.
    """
    scene, crowd = _set_stage(shot)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise DatasetError(f"{folder}: is not empty; give a new folder")
        _film(shot, scene, crowd, folder, tick)
    except (OSError, av.FFmpegError) as error:
        raise DatasetError(f"{error.filename or folder}: {error.strerror or error}") from error


def _set_stage(shot: Shot) -> tuple[Scene, Crowd]:
    try:
        scene = build_scene(shot.scene, shot.seed, shot.width, shot.height)
    except ValueError as error:
        raise ConfigError("framewatch simulate", [Fault("", str(error))]) from error
    least, most = shot.people
    if most > least:
        most = min(most, scene.capacity)
        people = int(np.random.default_rng((shot.seed, 2)).integers(min(least, most), most + 1))
    else:
        people = least
    try:
        return scene, Crowd(scene, people, shot.seed, shot.fps)
    except ValueError as error:
        raise ConfigError("framewatch simulate", [Fault("", str(error))]) from error


def _film(shot: Shot, scene: Scene, crowd: Crowd, folder: Path, tick: Callable[[], bool]) -> None:
    pictures = shot.pictures_fps is not None
    renderer, counter = Renderer(scene, shot.fps), TruthCounter(scene)
    labels = Labels(shot.width, shot.height, as_files=pictures)
    if pictures:
        (folder / "images").mkdir()
    with _video(shot, folder) as write:
        for index in range(shot.frames):
            walkers = crowd.step()
            counter.observe(walkers)
            if shot.video or shot.pictured(index):
                rendered = renderer.render(walkers, index)
                labels.add(index, walkers, rendered, listed=shot.pictured(index) or not pictures)
                if shot.pictured(index):
                    _write_jpeg(folder / picture_name(index), rendered)
                if shot.video:
                    write(rendered, index)
            if not tick():
                raise Interrupted
    if shot.video:
        write_mot(folder / "tracks.txt", labels.table())
        events = counter.truth(shot.fps).events(shot.name, STARTED_AT)
        (folder / "counts.jsonl").write_bytes(b"".join(event.to_json() + b"\n" for event in events))
        (folder / "source.yaml").write_text(_config(shot, scene), encoding="utf-8")
    labels.write_coco(folder / "coco.json")


@contextmanager
def _video(shot: Shot, folder: Path) -> Iterator[Callable[[Rendered, int], None]]:
    """A function that appends a frame to ``video.mp4``, which has its name only once it is whole."""
    if not shot.video:
        yield lambda rendered, index: None
        return
    options = {"movflags": "+faststart"}
    with replacing(folder / VIDEO) as path, av.open(str(path), "w", format="mp4", options=options) as container:
        container.metadata["creation_time"] = datetime.fromtimestamp(STARTED_AT, UTC).isoformat()
        stream = container.add_stream("libx264", rate=frame_rate(shot.fps))
        set_up(stream.codec_context, shot.width, shot.height, shot.fps, RECORDED)

        def write(rendered: Rendered, index: int) -> None:
            container.mux(stream.encode(to_frame(rendered.bgr, index, shot.fps)))

        yield write
        container.mux(stream.encode(None))


def _write_jpeg(path: Path, rendered: Rendered) -> None:
    done, data = cv2.imencode(".jpg", rendered.bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done
    path.write_bytes(data.tobytes())


def _config(shot: Shot, scene: Scene) -> str:
    source = {
        "id": shot.name,
        "uri": VIDEO,
        "zones": [zone.model_dump(mode="json", include={"name", "polygon"}) for zone in scene.zones],
        "lines": [line.model_dump(mode="json", include={"name", "points"}) for line in scene.lines],
    }
    data = {"detectors": {"default": {"model": MODEL}}, "sources": [source]}
    head = f"# {len(scene.zones)} zones and {len(scene.lines)} lines of the simulated {shot.scene}, seed {shot.seed}.\n"
    return (
        head
        + "# counts.jsonl holds their true counts: of everybody whose feet are in the picture, hidden or not.\n"
        + yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=120)
    )


def merge(folders: dict[str, CocoDataset]) -> CocoDataset:
    """The label files of several folders, by the folder's name, as one in the folder above."""
    images: list[CocoImage] = []
    annotations: list[CocoAnnotation] = []
    for name, dataset in folders.items():
        first = len(images)
        images += [
            image.model_copy(update={"id": first + image.id, "file_name": f"{name}/{image.file_name}"}) for image in dataset.images
        ]
        for annotation in dataset.annotations:
            update = {"id": len(annotations) + 1, "image_id": first + annotation.image_id}
            annotations.append(annotation.model_copy(update=update))
    return CocoDataset(images=images, annotations=annotations, categories=[PERSON])
