"""IngestActor: a thread per source, one batcher per detector; survives a crash of FFmpeg by being restarted."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray

from actors import names
from actors.aggregator import RemoteAggregator
from actors.detector import ServeDetector
from actors.lease import Lease
from actors.metrics import RayMetrics
from actors.placement import shard_of
from stream.clock import SystemClock
from stream.config import PipelineConfig, SourceConfig
from stream.deliver import Delivery
from stream.detectors.registry import ModelDescription
from stream.ingest import Ingest
from stream.logs import configure_process
from stream.metrics import Metrics
from stream.rules import AlertRule
from stream.viewfinder import Look, Picture
from stream.worker import SourceStatus

TICK_S = 2.0
SPAN_S = 0.5  # at least, over which CPU use is averaged


@dataclass(frozen=True, slots=True)
class IngestStatus:
    """What an ingest actor tells of itself. ``cores``: CPU seconds a second that its process has used lately; ``leaving``:
    sources that it reads no more but that have not ended yet."""

    cores: float
    sources: list[SourceStatus]
    leaving: list[str]


class IngestActor:
    """See ``stream.ingest``. After a restart it reads nothing until Control sends its sources again.

    Args:
        name: of this actor.
        config: the whole config; sources are set by Control.
        models: by detector.
        digest: of what it is made with.
    """

    def __init__(self, name: str, config: PipelineConfig, models: dict[str, ModelDescription], digest: str):
        configure_process(config.service.logs, actor=name)
        self._metrics = Metrics(config.slo.latency_ms / 1000, config.metrics)
        self._digest = digest
        self._ray_metrics = RayMetrics(self._metrics, name)
        self._shards: Mapping[str, int] = {}
        self._aggregators = config.service.aggregators
        receivers = [RemoteAggregator(names.aggregator(index)) for index in range(self._aggregators)]
        self._detectors = {
            detector: ServeDetector(detector, settings.batch_size, models[detector].input, self._metrics)
            for detector, settings in config.detectors.items()
        }
        self._ingest = Ingest(
            config,
            models,
            self._detectors,
            Delivery(receivers, self._shard),
            SystemClock(),
            self._metrics,
        )
        self._asked_s, self._cpu_s, self._used_cores = time.monotonic(), time.process_time(), 0.0
        self._lease = Lease(self._ray_metrics.publish, self._close, TICK_S)

    def _shard(self, source_id: str) -> int:
        index = self._shards.get(source_id)
        return shard_of(source_id, self._aggregators) if index is None else index

    def set_sources(self, sources: Sequence[SourceConfig], shards: Mapping[str, int], rules: Sequence[AlertRule]) -> IngestStatus:
        """Read exactly these sources, and say how they are. ``shards``: aggregator index by source id; ``rules``: all that
        there are, for their evidence."""
        self._lease.renew()
        before, self._shards = self._shards, dict(shards)
        self._ingest.set_sources(sources, rules)
        if moved := [source_id for source_id, index in shards.items() if before.get(source_id, index) != index]:
            self._ingest.say_again(moved)
        return IngestStatus(self._cores(), self._ingest.status(), self._ingest.leaving())

    def pictures(self, looks: Mapping[str, Look]) -> dict[str, Picture]:
        """See ``Viewfinder.pictures``; does not wait, so it holds no other call up."""
        return self._ingest.pictures(looks)

    def _cores(self) -> float:
        asked_s, cpu_s = time.monotonic(), time.process_time()
        if asked_s - self._asked_s >= SPAN_S:
            self._used_cores = (cpu_s - self._cpu_s) / (asked_s - self._asked_s)
            self._asked_s, self._cpu_s = asked_s, cpu_s
        return self._used_cores

    @ray.method(concurrency_group=names.BESIDE)
    def config_digest(self) -> str:
        """Digest of the config and models that this actor was made with."""
        return self._digest

    def metrics(self) -> bytes:
        """OpenMetrics text of this process."""
        return self._metrics.expose()

    def stop(self) -> None:
        """Let what was read pass through, commit, and stop all threads; the actor can be killed then."""
        self._lease.close()
        self._close()

    def _close(self) -> None:
        self._ingest.close()
        for detector in self._detectors.values():
            detector.close()
