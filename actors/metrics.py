"""The key figures on Ray's own metrics, so that they show in the Ray dashboard."""

from __future__ import annotations

import time

from ray.util.metrics import Counter, Gauge

from stream.families import FAMILIES
from stream.metrics import Metrics

PUBLISHED = {family.full_name: family.labels for family in FAMILIES if family.ray}
"""Labels of the families of ``stream.families`` that Ray gets too. Ray puts ``ray_`` before the names."""

INTERVAL_S = 5.0  # Ray reports every 10 s; each value costs its process some 10 us, and the agent more


class RayMetrics:
    """Copies the families in ``PUBLISHED`` from one process's metrics to Ray's. Called from one thread."""

    def __init__(self, metrics: Metrics, actor: str):
        self._metrics, self._actor = metrics, actor
        self._gauges: dict[str, Gauge] = {}
        self._counters: dict[str, Counter] = {}
        self._published_s = -INTERVAL_S
        self._counted: dict[tuple[str, tuple[str, ...]], float] = {}

    def publish(self) -> None:
        """Copy the present values; calls within ``INTERVAL_S`` of the last copy do nothing."""
        now_s = time.monotonic()
        if now_s - self._published_s < INTERVAL_S:
            return
        self._published_s = now_s
        for family in self._metrics.registry.collect():
            labels = PUBLISHED.get(family.name)
            if labels is None:
                continue
            for sample in family.samples:
                tags = {label: sample.labels.get(label, "") for label in labels} | {"actor": self._actor}
                if family.type == "gauge":
                    self._gauge(family.name, family.documentation, (*labels, "actor")).set(sample.value, tags)
                elif family.type == "counter" and sample.name.endswith("_total"):
                    key = (family.name, tuple(tags.values()))
                    grown = sample.value - self._counted.get(key, 0.0)
                    self._counted[key] = sample.value
                    if grown > 0:
                        self._counter(family.name, family.documentation, (*labels, "actor")).inc(grown, tags)

    def _gauge(self, name: str, description: str, labels: tuple[str, ...]) -> Gauge:
        if name not in self._gauges:
            self._gauges[name] = Gauge(name, description, labels)
        return self._gauges[name]

    def _counter(self, name: str, description: str, labels: tuple[str, ...]) -> Counter:
        if name not in self._counters:
            self._counters[name] = Counter(name, description, labels)
        return self._counters[name]
