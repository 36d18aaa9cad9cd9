"""Overview: the metrics of the service as a whole, which Control tells."""

from __future__ import annotations

import asyncio
import platform
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import version

import ray
from ray import serve

from actors import names
from actors.metrics import RayMetrics
from stream.config import PipelineConfig
from stream.metrics import Metrics
from stream.worker import SourceStatus

REPLICAS_EVERY_S = 5.0  # Serve's controller is asked no more often
STATES = ("connecting", "online", "offline", "finished", "failed")


class Overview:
    """Lives on Control's event loop.

    Attributes:
        replicas: running ones by detector, as Serve told last; empty before it has told.
        metrics: Control's own.

    Args:
        config: the whole config.
    """

    def __init__(self, config: PipelineConfig):
        self.replicas: dict[str, int] = {}
        self.metrics = Metrics(config.slo.latency_ms / 1000, config.metrics)
        self.metrics.objective(config.slo)
        self.metrics.build(version("framewatch"), platform.python_version(), ray.__version__)
        self._detectors = list(config.detectors)
        self._ray_metrics = RayMetrics(self.metrics, names.CONTROL)
        self._asked_s = -REPLICAS_EVERY_S

    async def update(self, sources: Iterable[SourceStatus], actors: Collection[str], faults: Mapping[str, str]) -> None:
        """Take over how things stand.

        Args:
            sources: status of every source.
            actors: names of those that answer.
            faults: why others do not, by name.
        """
        self.metrics.service("sources", dict.fromkeys(STATES, 0) | Counter(source.state for source in sources))
        kinds = {"ingest": names.INGEST, "aggregator": names.AGGREGATOR}
        self.metrics.service("actors", {kind: sum(name.startswith(p) for name in actors) for kind, p in kinds.items()})
        self.metrics.actor_faults(len(faults))
        if time.monotonic() - self._asked_s >= REPLICAS_EVERY_S:
            self._asked_s = time.monotonic()
            self.replicas = await asyncio.to_thread(self._count_replicas)
            self.metrics.service("detector_replicas", self.replicas)
        self._ray_metrics.publish()

    def _count_replicas(self) -> dict[str, int]:
        """Where a new config is being taken up, or was refused, Serve does not list what goes on with the old one: that stands."""
        application = serve.status().applications.get(names.APPLICATION)
        deployments = application.deployments if application else {}
        found = dict(self.replicas)
        for detector in self._detectors:
            if deployment := deployments.get(names.detector(detector)):
                found[detector] = sum(n for state, n in deployment.replica_states.items() if state == "RUNNING")
        return found
