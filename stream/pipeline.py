"""The whole path in one process: source, decode, sample, batch, detect, track, count, alert, sink.

The Ray service (``actors``) joins the same parts over processes and must give the same events.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from stream.aggregate import Aggregator
from stream.checkpoint import Checkpoint
from stream.clock import Clock, SystemClock
from stream.config import PipelineConfig
from stream.deliver import Delivery
from stream.detectors.base import Detector
from stream.detectors.registry import ModelDescription, load_detector
from stream.dispatch import LocalDetector
from stream.errors import SinkError
from stream.events import TracksEvent
from stream.frame import Frame
from stream.ingest import Ingest
from stream.metrics import Metrics
from stream.sinks.base import Sink
from stream.tracing import open_tracer
from stream.worker import SourceStatus

TICK_S = 0.5


@dataclass(frozen=True, slots=True)
class SourceSummary:
    """What became of one source."""

    status: SourceStatus
    analysed: int
    objects: int
    alerts: int


class Pipeline:
    """All of framewatch in this process. A context manager; ``run`` works until the sources end or ``stop`` is set.

    Args:
        config: what to run.
        sink: where events go; closed at the end.
        checkpoint: where state survives a restart; None keeps none.
        on_frame: called with every analysed frame, its full-size picture in it, and its tracks event.
        clock: wall and monotonic time.
    """

    def __init__(
        self,
        config: PipelineConfig,
        sink: Sink,
        *,
        checkpoint: Checkpoint | None = None,
        on_frame: Callable[[Frame, TracksEvent], None] | None = None,
        clock: Clock | None = None,
    ):
        clock = clock or SystemClock()
        self._config, self._sink = config, sink
        self.metrics = Metrics(config.slo.latency_ms / 1000, config.metrics)
        used = {config.detector_of(source) for source in config.sources}
        detectors: dict[str, Detector] = {
            name: load_detector(name, config.detectors[name], config.tracker.low_confidence) for name in used
        }
        self._clients = {name: LocalDetector(detector) for name, detector in detectors.items()}
        models = {name: ModelDescription(d.input, d.classes, d.model_id) for name, d in detectors.items()}
        classes: Mapping[str, tuple[str, ...]] = {name: model.classes for name, model in models.items()}
        self._on_frame = on_frame
        self._tracks: dict[tuple[str, int], TracksEvent] = {}  # of the batch that is being delivered
        note = self._note_tracks if on_frame else None
        self._tracer = open_tracer(config.tracing, "process", self.metrics)
        self._aggregator = Aggregator(config, classes, sink, clock, self.metrics, checkpoint, note, tracer=self._tracer)
        delivery = Delivery([self._aggregator], shard=lambda _: 0)
        self._ingest = Ingest(config, models, self._clients, delivery, clock, self.metrics, self._frame_done if on_frame else None)

    def __enter__(self) -> Self:
        return self

    def run(self, stop: threading.Event, on_tick: Callable[[list[SourceStatus]], None] | None = None) -> None:
        """Analyse all sources until they have ended or ``stop`` is set; ``on_tick`` sees their status as it goes.

        Raises:
            SinkError: an event could not be written.
        """
        self._ingest.set_sources(self._config.sources)
        ticked_s = time.monotonic()
        while not self._ingest.finished() and not stop.wait(0.05):
            self._check()
            if time.monotonic() - ticked_s >= TICK_S:
                ticked_s = time.monotonic()
                self._aggregator.tick()
                if on_tick:
                    on_tick(self._ingest.status())
        self._check()

    def _check(self) -> None:
        if self._aggregator.sink_fault:
            raise SinkError(self._aggregator.sink_fault)
        if self._ingest.failure is not None:
            raise self._ingest.failure

    def _note_tracks(self, tracks: TracksEvent) -> None:
        self._tracks[tracks.source_id, tracks.frame_index] = tracks

    def _frame_done(self, frame: Frame) -> None:
        tracks = self._tracks.pop((frame.info.source_id, frame.info.frame_index), None)
        if self._on_frame and tracks:
            self._on_frame(frame, tracks)

    def summaries(self) -> list[SourceSummary]:
        """Of every source, in the order of the config."""
        tallies = self._aggregator.tallies()
        statuses = {status.source_id: status for status in self._ingest.status()}
        return [
            SourceSummary(statuses[s.id], tallies[s.id].frames, tallies[s.id].objects, tallies[s.id].alerts)
            for s in self._config.sources
            if s.id in statuses
        ]

    def cpu_s(self, total_s: float) -> dict[str, float]:
        """CPU seconds by stage, out of ``total_s`` of the whole process; the detector's own threads are in ``rest``."""
        statuses, emitted_s = self._ingest.status(), self._aggregator.emitting.cpu_s
        stages = {
            "decode": sum(status.decode_cpu_s for status in statuses),
            "scale": sum(status.scale_cpu_s for status in statuses),
            "track, count, alert": max(0.0, self._aggregator.cpu_s - emitted_s),
            "emit": emitted_s,
        }
        return stages | {"detect and the rest": max(0.0, total_s - sum(stages.values()))}

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._ingest.close()
        for client in self._clients.values():
            client.close()
        self._aggregator.close()
        self._sink.close()
        if self._tracer:
            self._tracer.close()
        if kind is None:
            self._check()
