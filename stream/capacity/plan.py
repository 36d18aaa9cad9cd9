"""Plan: what is measured, a config whose sources are replaced by copies that all play one clip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from stream.access import AccessConfig
from stream.config import JsonlSinkConfig, PipelineConfig, ServiceConfig, SourceConfig
from stream.errors import ConfigError, Fault, SourceUnreadable
from stream.simulation.address import SimulatedCamera
from stream.simulation.labels import VIDEO
from stream.simulation.video import Shot
from stream.testing.embedded_broker import free_port

FILM_S = 20.0  # of a simulated camera; it is played over and over
STAND_IN = SimulatedCamera(scene="plaza")


@dataclass(frozen=True, slots=True)
class Clip:
    """The video that every source plays: its name for people, its frame rate, and its length (0 where it does not tell)."""

    path: Path
    name: str
    fps: float
    seconds: float

    @classmethod
    def of(cls, path: Path, name: str = "") -> Clip:
        """Look at a file.

        Raises:
            SourceUnreadable: it is no video.
        """
        try:
            with av.open(str(path)) as container:
                rate, duration = container.streams.video[0].average_rate, container.duration
        except (av.FFmpegError, IndexError, ValueError) as error:
            raise SourceUnreadable("capacity", f"{path}: not a video that can be read") from error
        return cls(path.absolute(), name or path.name, float(rate or 25), (duration or 0) / av.time_base)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Attributes:
        config: of the service that is started, without sources.
        sources: one for each of the given config, playing the clip; copies take their settings in turns.
        clip: what they play.
    """

    config: PipelineConfig
    sources: tuple[SourceConfig, ...]
    clip: Clip

    def copies(self, number: int, step: int) -> list[SourceConfig]:
        """``number`` sources; those of different steps share no id, so none inherits another's state."""
        sources = (self.sources[i % len(self.sources)] for i in range(number))
        return [source.model_copy(update={"id": f"step{step}-{i:03d}"}) for i, source in enumerate(sources)]

    def fps(self, source: SourceConfig) -> float:
        """Frames of a copy that are to be analysed each second."""
        return min(source.fps or self.clip.fps, self.clip.fps)


def choose_clip(config: PipelineConfig, file: Path | None, folder: Path, film: Callable[[Shot, Path], bool]) -> Clip | None:
    """The clip to play: ``file``, else the config's first file, else its first simulated camera or a stand-in, which is filmed.

    Args:
        config: as given.
        file: named by the user.
        folder: new; for the film.
        film: films a shot into a folder; False where that was ended early, and then there is no clip.

    Raises:
        SourceUnreadable: the file is no video.
    """
    if file is not None:
        return Clip.of(file)
    recorded = [source for source in config.sources if source.recorded]
    if recorded and recorded[0].scheme == "file":
        return Clip.of(recorded[0].path)
    camera = recorded[0].simulated if recorded else STAND_IN
    seconds = min(camera.seconds or FILM_S, FILM_S)
    people = (camera.people, camera.people)
    shot = Shot(camera.scene, camera.seed, people, seconds, camera.fps, camera.width, camera.height)
    if not film(shot, folder):
        return None
    return Clip.of(folder / VIDEO, f"a simulated {camera.scene}")


def plan(config: PipelineConfig, clip: Clip, folder: Path, *, own_sinks: bool) -> Plan:
    """The plan for a config.

    Ranges of replicas and of ingest actors are fixed at their greatest: that is where the service would be when it is full.
    Alerts are left out, as they name sources that are not there.

    Args:
        config: as given.
        clip: what the sources play.
        folder: for state and events.
        own_sinks: events go to a file in ``folder`` instead of the config's sinks.

    Raises:
        ConfigError: the config has no source whose settings could be measured.
    """
    if not config.sources:
        raise ConfigError("framewatch capacity", [Fault("sources", "there is none whose settings could be measured")])
    detectors = {
        name: part.model_copy(update={"replicas": part.replicas.model_copy(update={"min": part.replicas.max})})
        for name, part in config.detectors.items()
    }
    ingests = config.service.ingest_actors
    service = ServiceConfig(
        port=free_port(),
        ingest_actors=ingests.model_copy(update={"min": ingests.max}),
        ingest_cpus=config.service.ingest_cpus,
        aggregators=config.service.aggregators,
        access=AccessConfig(enabled=False),  # on loopback, for as long as it measures
        state_dir=folder / "state",
    )
    update: dict[str, Any] = {"detectors": detectors, "sources": [], "alerts": [], "evidence": None, "service": service}
    if own_sinks:
        update["sinks"] = [JsonlSinkConfig(type="jsonl", path=str(folder / "events.jsonl"))]
    return Plan(config.model_copy(update=update), tuple(_playing(source, config, clip) for source in config.sources), clip)


def _playing(source: SourceConfig, config: PipelineConfig, clip: Clip) -> SourceConfig:
    """The source's settings on the clip, played as a camera would send it."""
    return source.model_copy(
        update={
            "uri": str(clip.path),
            "detector": config.detector_of(source),
            "realtime": True,
            "loop": True,
            "decode": "full" if source.scheme == "kafka" else source.decode,
            "gate": "on" if source.gated else "off",  # auto depends on the scheme, which is another now
            "kafka": None,
        }
    )
