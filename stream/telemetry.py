"""The parts of the config that say what the service tells of itself: metrics, traces and drift."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from stream.part import Part


class MetricsConfig(Part):
    """``source_labels: false`` leaves the label ``source`` out: counters and histograms are of all sources together then,
    and gauges of single sources are gone. So it is for the sources beyond the first ``max_sources`` of an actor."""

    source_labels: bool = True
    max_sources: int = Field(1000, ge=0, le=100_000)


class DriftConfig(Part):
    """What the model found in a source over the last days is compared with what it usually finds there: half of the weight
    of the one lies on the last ``recent_h`` hours, of the other on the last ``usual_h``. Nothing is judged before a source
    was seen for ``learn_h``."""

    recent_h: float = Field(72.0, gt=0, le=8760)
    usual_h: float = Field(720.0, gt=0, le=87_600)
    learn_h: float = Field(168.0, ge=0, le=8760)

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.usual_h < 2 * self.recent_h:
            raise ValueError(f"usual_h must be at least twice recent_h ({self.recent_h:g}), or both are of the same days")
        return self


class TracingConfig(Part):
    """``sample`` of the frames are traced, and each one whose Kafka record asks for it; 0 is none at all. Spans go to the
    collector at ``endpoint`` by OTLP over HTTP, with ``headers`` where it wants a token."""

    sample: float = Field(0.0, ge=0, le=1)
    endpoint: str = Field("http://127.0.0.1:4318/v1/traces", repr=False)
    headers: dict[str, str] = Field({}, repr=False)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if urlsplit(self.endpoint).scheme not in ("http", "https") or not urlsplit(self.endpoint).hostname:
            raise ValueError("endpoint must be an http(s) address, as in http://collector:4318/v1/traces")
        if self.sample and not _has_exporter():
            raise ValueError("tracing needs pip install 'framewatch[tracing]'")
        return self


def _has_exporter() -> bool:
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:  # one of its parents is missing
        return False
