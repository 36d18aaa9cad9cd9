"""Traces of single frames: a span for the frame and one for each stage, sent to an OTLP collector.

One frame in N is traced (``tracing.sample``), and each one whose Kafka record carries a sampled ``traceparent``: its trace
goes on. Which frames, and all ids, depend on the frame alone, so a frame that is processed again after a crash makes the same
spans again, which a collector takes for one. Times are those of the frame's stamps.

The spans of a frame are made when its tracks event was acknowledged; a frame whose event never is leaves none. They wait in
a bounded queue for one thread that sends them: nothing waits for a collector, and spans without room are dropped and counted.

``traceparent`` is that of W3C Trace Context, level 1.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import re
import threading
from dataclasses import dataclass
from importlib.metadata import version
from typing import Protocol

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from stream.frame import FrameInfo
from stream.logs import get_logger
from stream.metrics import Metrics
from stream.redact import redact
from stream.telemetry import TracingConfig

MAX_WAITING = 4096
MAX_BATCH = 512
SEND_EVERY_S = 1.0
TIMEOUT_S = 5.0
CLOSE_S = 2.0  # so long may a collector that is away hold up the end
TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
SAMPLED = 1
EXPORTER_LOG = "opentelemetry.exporter.otlp.proto.http"

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Traced:
    """A frame that is traced.

    Attributes:
        trace_id, span_id: of the frame's span.
        parent_id: span of the one who sent the frame; 0 where it begins here.
        info: the frame.
        detector: that looked at it.
        objects: reported in it.
        stages_ms: milliseconds in each stage, in their order.
        captured_at_s: POSIX seconds of capture on this machine's clock.
    """

    trace_id: int
    span_id: int
    parent_id: int
    info: FrameInfo
    detector: str
    objects: int
    stages_ms: dict[str, float]
    captured_at_s: float

    @property
    def traceparent(self) -> str:
        """For those who go on with the trace."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{SAMPLED:02x}"


class Tracer:
    """Chooses frames and makes their spans. Thread-safe.

    Args:
        config: how many, and where to.
        instance: name of this process among those of the service.
        metrics: counts spans that were sent, failed or dropped.
        exporter: sends spans; None takes OTLP over HTTP.
    """

    def __init__(self, config: TracingConfig, instance: str, metrics: Metrics, exporter: SpanExporter | None = None):
        self._limit = round(config.sample * 2**64)
        attributes = {"service.name": "framewatch", "service.version": version("framewatch"), "service.instance.id": instance}
        self._resource = Resource(attributes)
        self._sender = _Sender(exporter or _otlp_exporter(config), redact(config.endpoint), metrics)

    def begin(
        self, info: FrameInfo, detector: str, objects: int, stages_ms: dict[str, float], captured_at_s: float
    ) -> Traced | None:
        """The frame, if it is traced."""
        identity = f"{info.source_id}\x1f{info.session}\x1f{info.frame_index}"
        digest = hashlib.blake2b(identity.encode(), digest_size=24).digest()
        trace_id, parent_id, span_id = int.from_bytes(digest[:16]), 0, int.from_bytes(digest[16:])
        parent = TRACEPARENT.fullmatch(info.traceparent) if info.traceparent else None
        if parent is not None and int(parent[1], 16) and int(parent[2], 16):
            if not int(parent[3], 16) & SAMPLED:
                return None
            trace_id, parent_id = int(parent[1], 16), int(parent[2], 16)
        elif int.from_bytes(digest[:8]) >= self._limit:
            return None
        return Traced(trace_id, span_id, parent_id, info, detector, objects, stages_ms, captured_at_s)

    def end(self, traced: Traced, latency_s: float) -> None:
        """The frame's event was acknowledged ``latency_s`` after capture: send its spans."""
        info, start_s = traced.info, traced.captured_at_s
        facts: dict[str, str | int] = {
            "framewatch.source_id": info.source_id,
            "framewatch.frame_index": info.frame_index,
            "framewatch.detector": traced.detector,
            "framewatch.objects": traced.objects,
        }
        frame = self._context(traced.trace_id, traced.span_id)
        sender = self._context(traced.trace_id, traced.parent_id, remote=True) if traced.parent_id else None
        spans = [self._span("frame", frame, sender, start_s, start_s + latency_s, facts)]
        at_s = start_s
        for stage, milliseconds in traced.stages_ms.items():
            begun_s, at_s = at_s, at_s + milliseconds / 1000
            spans.append(self._span(stage, self._child(traced, stage), frame, begun_s, at_s))
        spans.append(self._span("deliver", self._child(traced, "deliver"), frame, at_s, start_s + latency_s))
        self._sender.put(spans)

    def close(self) -> None:
        """Send what waits, as far as that takes no longer than ``CLOSE_S``."""
        self._sender.close()

    def _child(self, traced: Traced, stage: str) -> SpanContext:
        digest = hashlib.blake2b(f"{traced.span_id}\x1f{stage}".encode(), digest_size=8).digest()
        return self._context(traced.trace_id, int.from_bytes(digest))

    @staticmethod
    def _context(trace_id: int, span_id: int, *, remote: bool = False) -> SpanContext:
        return SpanContext(trace_id, span_id, is_remote=remote, trace_flags=TraceFlags(SAMPLED))

    def _span(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        start_s: float,
        end_s: float,
        facts: dict[str, str | int] | None = None,
    ) -> ReadableSpan:
        return ReadableSpan(
            name=name,
            context=context,
            parent=parent,
            resource=self._resource,
            attributes={key: redact(value) if isinstance(value, str) else value for key, value in (facts or {}).items()},
            kind=SpanKind.CONSUMER if parent and parent.is_remote else SpanKind.INTERNAL,
            start_time=round(start_s * 1e9),
            end_time=round(max(start_s, end_s) * 1e9),
        )


def open_tracer(config: TracingConfig, instance: str, metrics: Metrics) -> Tracer | None:
    """The tracer that the config asks for; None where no frame is traced, which then costs nothing. Arguments as of
    :class:`Tracer`."""
    return Tracer(config, instance, metrics) if config.sample else None


class _Exporter(Protocol):
    def export(self, spans: list[ReadableSpan], /) -> SpanExportResult: ...

    def shutdown(self) -> None: ...


class _Sender:
    """A bounded queue and the thread that empties it. A collector that is away is told of once."""

    def __init__(self, exporter: _Exporter, endpoint: str, metrics: Metrics):
        self._exporter, self._endpoint, self._metrics = exporter, endpoint, metrics
        self._waiting: queue.Queue[ReadableSpan] = queue.Queue(MAX_WAITING)
        self._failing = False
        self._said = _Said()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tracing", daemon=True)
        self._thread.start()

    def put(self, spans: list[ReadableSpan]) -> None:
        for i, span in enumerate(spans):
            try:
                self._waiting.put_nowait(span)
            except queue.Full:
                self._metrics.spans("dropped", len(spans) - i)
                return

    def close(self) -> None:
        self._closing.set()
        self._thread.join(CLOSE_S)
        self._exporter.shutdown()  # ends an attempt that lasts longer
        self._thread.join(CLOSE_S)
        self._said.close()

    def _run(self) -> None:
        while not self._closing.wait(SEND_EVERY_S):
            self._send()
        self._send()

    def _send(self) -> None:
        while batch := self._take():
            try:
                sent = self._exporter.export(batch) is SpanExportResult.SUCCESS
            except Exception as error:  # noqa: BLE001 - whatever a collector answers, frames do not depend on it
                sent, self._said.last = False, str(error)
            self._metrics.spans("sent" if sent else "failed", len(batch))
            if sent == self._failing:
                self._failing = not sent
                if sent:
                    logger.info("traces are delivered again", endpoint=self._endpoint)
                else:
                    logger.warning("traces cannot be delivered", endpoint=self._endpoint, reason=self._said.last)
            if not sent:
                return

    def _take(self) -> list[ReadableSpan]:
        batch: list[ReadableSpan] = []
        while len(batch) < MAX_BATCH:
            try:
                batch.append(self._waiting.get_nowait())
            except queue.Empty:
                break
        return batch


class _Said(logging.Handler):
    """Keeps what the exporter would log at every attempt, for our own line."""

    def __init__(self) -> None:
        super().__init__()
        self.last = ""
        self._logger = logging.getLogger(EXPORTER_LOG)
        self._logger.propagate = False
        self._logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.last = redact(record.getMessage())

    def close(self) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = True
        super().close()


def _otlp_exporter(config: TracingConfig) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint=config.endpoint, headers=config.headers or None, timeout=TIMEOUT_S)
