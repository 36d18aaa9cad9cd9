"""The parts of the config that say what the service tells of itself: metrics and traces."""

from __future__ import annotations

from pydantic import Field

from stream.part import Part


class MetricsConfig(Part):
    """``source_labels: false`` leaves the label ``source`` out: counters and histograms are of all sources together then,
    and gauges of single sources are gone. So it is for the sources beyond the first ``max_sources`` of an actor."""

    source_labels: bool = True
    max_sources: int = Field(1000, ge=0, le=100_000)
