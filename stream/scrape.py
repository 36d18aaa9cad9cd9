"""Scrape: one answer of ``GET /metrics``, and what two of them say about the time between."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from prometheus_client.openmetrics.parser import text_string_to_metric_families

HISTOGRAM = "framewatch_end_to_end_seconds"
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class Scrape:
    """All samples of one ``GET /metrics``, taken at the monotonic time ``at_s``."""

    at_s: float
    samples: Mapping[tuple[str, frozenset[tuple[str, str]]], float]

    @classmethod
    def of(cls, text: str, at_s: float) -> Self:
        """From the answer's OpenMetrics text."""
        families = text_string_to_metric_families(text)  # type: ignore[no-untyped-call] # its module has no annotations
        return cls(at_s, {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples})

    def by(self, name: str, label: str, **labels: str) -> Counter[str]:
        """Sum of the samples called ``name`` with these labels, by the value of another label."""
        found: Counter[str] = Counter()
        for (sample, pairs), value in self.samples.items():
            own = dict(pairs)
            if sample == name and labels.items() <= own.items():
                found[own.get(label, "")] += value  # type: ignore[assignment] # a Counter may count in floats
        return found

    def actors(self) -> set[str]:
        """Names of the actors that have answered."""
        return {value for _, pairs in self.samples for label, value in pairs if label == "actor"}

    def total(self, name: str, **labels: str) -> float:
        """Sum of the samples called ``name`` with these labels."""
        return sum(self.by(name, "", **labels).values())


def histogram(before: Scrape, after: Scrape, name: str = HISTOGRAM, **labels: str) -> list[tuple[float, float]]:
    """Frames between two scrapes by end-to-end latency, or another histogram: upper bound in seconds, frames up to it, rising."""
    counts = after.by(f"{name}_bucket", "le", **labels)
    counts.subtract(before.by(f"{name}_bucket", "le", **labels))
    return sorted((float(bound), count) for bound, count in counts.items())


def attainment(buckets: list[tuple[float, float]], latency_s: float) -> float | None:
    """Share of the frames within ``latency_s``; None where there are none, or the histogram has no such bound."""
    within = next((count for bound, count in buckets if math.isclose(bound, latency_s)), None)
    return None if within is None or not buckets[-1][1] else within / buckets[-1][1]


def interpolated_ms(buckets: list[tuple[float, float]]) -> dict[str, float | None]:
    """Percentiles of a histogram, linear within a bucket."""
    found: dict[str, float | None] = {f"p{p}": None for p in PERCENTILES}
    if not buckets or not buckets[-1][1]:
        return found
    for p in PERCENTILES:
        wanted, low, below = buckets[-1][1] * p / 100, 0.0, 0.0
        for bound, count in buckets:
            if count >= wanted:
                inside = (wanted - below) / (count - below) if count > below else 1.0
                found[f"p{p}"] = 1000 * (low if math.isinf(bound) else low + (bound - low) * inside)
                break
            low, below = bound, count
    return found
