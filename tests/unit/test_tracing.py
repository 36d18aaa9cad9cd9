"""Traces: which frames, which spans, and a collector that is slow or away."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from pydantic import ValidationError

from stream import telemetry, tracing
from stream.frame import FrameInfo
from stream.metrics import Metrics
from stream.telemetry import TracingConfig
from stream.tracing import MAX_WAITING, Tracer, open_tracer
from tests.unit.test_metrics import parse, value

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
STAGES = {"decode": 10.0, "batch": 20.0, "detect": 30.0, "track": 1.0}
INFO = FrameInfo("hall", "", 7, 0.28, 1000.0, 640, 360, 50.0, 50.01)


class Collector(SpanExporter):
    """Keeps spans; may be slow or away."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []
        self.answers = threading.Event()
        self.answers.set()
        self.result = SpanExportResult.SUCCESS

    def export(self, spans: Any) -> SpanExportResult:
        self.answers.wait(10)
        if self.result is SpanExportResult.SUCCESS:
            self.spans += spans
        return self.result

    def shutdown(self) -> None:
        self.answers.set()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "SEND_EVERY_S", 0.005)
    monkeypatch.setattr(tracing, "CLOSE_S", 0.5)


@pytest.fixture
def collector() -> Collector:
    return Collector()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def make(collector: Collector, metrics: Metrics) -> Iterator[Callable[..., Tracer]]:
    made: list[Tracer] = []

    def tracer(sample: float = 1.0) -> Tracer:
        made.append(Tracer(TracingConfig(sample=sample), "aggregator-0", metrics, collector))
        return made[-1]

    yield tracer
    for one in made:
        one.close()


def begin(tracer: Tracer, info: FrameInfo = INFO) -> tracing.Traced | None:
    return tracer.begin(info, "people", 3, STAGES, 1000.0)


def spans_of(tracer: Tracer, collector: Collector, info: FrameInfo = INFO, latency_s: float = 0.1) -> dict[str, ReadableSpan]:
    traced = begin(tracer, info)
    assert traced is not None
    tracer.end(traced, latency_s)
    tracer.close()
    return {span.name: span for span in collector.spans}


def test_a_frame_has_a_span_and_each_stage_one_below_it(make: Callable[..., Tracer], collector: Collector) -> None:
    spans = spans_of(make(), collector)
    assert list(spans) == ["frame", *STAGES, "deliver"]
    frame = spans.pop("frame")
    assert frame.parent is None
    assert dict(frame.attributes or {}) == {
        "framewatch.source_id": "hall",
        "framewatch.frame_index": 7,
        "framewatch.detector": "people",
        "framewatch.objects": 3,
    }
    assert frame.resource.attributes["service.name"] == "framewatch"
    assert frame.resource.attributes["service.instance.id"] == "aggregator-0"
    assert (frame.start_time, frame.end_time) == (1000 * 10**9, 1000 * 10**9 + 10**8)
    at = frame.start_time
    for span in spans.values():
        assert span.parent == frame.context
        assert span.start_time == at
        assert span.end_time is not None
        at = span.end_time
    assert at == frame.end_time
    assert [round((s.end_time - s.start_time) / 1e6) for s in spans.values()] == [10, 20, 30, 1, 39]  # type: ignore[operator]
    assert len({span.context.span_id for span in [frame, *spans.values()]}) == 6


def test_a_replay_makes_the_same_spans(make: Callable[..., Tracer], collector: Collector) -> None:
    first = {name: span.context for name, span in spans_of(make(), collector).items()}
    assert {name: span.context for name, span in spans_of(make(), collector).items()} == first
    other = spans_of(make(), collector, replace(INFO, frame_index=8))
    assert other["frame"].context.trace_id != first["frame"].trace_id


@pytest.mark.parametrize("sample", [0.5, 0.1, 0.01])
def test_about_so_many_frames_are_traced(make: Callable[..., Tracer], sample: float) -> None:
    tracer, n = make(sample), 5000
    traced = sum(begin(tracer, replace(INFO, frame_index=i)) is not None for i in range(n))
    assert abs(traced - sample * n) < 5 * (sample * (1 - sample) * n) ** 0.5


def test_off_there_is_no_tracer(metrics: Metrics) -> None:
    assert open_tracer(TracingConfig(), "a", metrics) is None


class TestParent:
    def test_the_senders_trace_goes_on_whatever_the_sample(self, make: Callable[..., Tracer], collector: Collector) -> None:
        info = replace(INFO, traceparent=f"00-{TRACE}-{SPAN}-01")
        traced = begin(make(1e-9), info)
        assert traced is not None
        assert traced.traceparent == f"00-{TRACE}-{traced.span_id:016x}-01"
        frame = spans_of(make(1e-9), collector, info)["frame"]
        assert frame.parent is not None
        assert (f"{frame.context.trace_id:032x}", f"{frame.parent.span_id:016x}", frame.parent.is_remote) == (TRACE, SPAN, True)

    def test_what_the_sender_does_not_trace_is_not_traced(self, make: Callable[..., Tracer]) -> None:
        assert begin(make(1.0), replace(INFO, traceparent=f"00-{TRACE}-{SPAN}-00")) is None

    @pytest.mark.parametrize(
        "text", ["", "x", f"00-{TRACE}-{SPAN}", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", "00-" * 20]
    )
    def test_a_malformed_one_is_none(self, make: Callable[..., Tracer], text: str) -> None:
        traced = begin(make(1.0), replace(INFO, traceparent=text))
        assert traced is not None
        assert traced.parent_id == 0
        assert begin(make(1e-9), replace(INFO, traceparent=text)) is None


class TestCollector:
    def test_nothing_waits_for_one_that_hangs_and_what_has_no_room_is_counted(
        self, make: Callable[..., Tracer], collector: Collector, metrics: Metrics
    ) -> None:
        tracer = make()
        collector.answers.clear()
        traced = begin(tracer)
        assert traced is not None
        frames = 1000
        for _ in range(frames):
            tracer.end(traced, 0.1)
        dropped = value(parse(metrics.expose()), "spans_total", outcome="dropped") or 0
        spans = 6 * frames
        assert spans - MAX_WAITING - tracing.MAX_BATCH <= dropped <= spans - MAX_WAITING
        collector.answers.set()
        tracer.close()
        assert len(collector.spans) == spans - dropped
        assert value(parse(metrics.expose()), "spans_total", outcome="sent") == spans - dropped

    def test_one_that_is_away_is_told_of_once_and_when_it_is_back(
        self, make: Callable[..., Tracer], collector: Collector, metrics: Metrics, log_lines: Callable[[], list[dict[str, Any]]]
    ) -> None:
        tracer = make()
        traced = begin(tracer)
        assert traced is not None

        def send_until(outcome: str, n: float) -> None:
            while (value(parse(metrics.expose()), "spans_total", outcome=outcome) or 0) < n:
                tracer.end(traced, 0.1)
                threading.Event().wait(0.01)

        collector.result = SpanExportResult.FAILURE
        send_until("failed", 18)
        collector.result = SpanExportResult.SUCCESS
        send_until("sent", 6)
        assert [line["event"] for line in log_lines()] == ["traces cannot be delivered", "traces are delivered again"]


def test_without_the_extra_the_config_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:  # as where only Ray's part of opentelemetry.exporter is installed
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(telemetry, "find_spec", missing)
    with pytest.raises(ValidationError, match=r"framewatch\[tracing\]"):
        TracingConfig(sample=0.1)
    assert TracingConfig().sample == 0


def test_an_end_is_not_held_up_by_a_collector_that_hangs(make: Callable[..., Tracer], collector: Collector) -> None:
    tracer = make()
    collector.answers.clear()
    traced = begin(tracer)
    assert traced is not None
    tracer.end(traced, 0.1)
    begun_s = time.monotonic()
    tracer.close()
    assert time.monotonic() - begun_s < 2 * tracing.CLOSE_S


@pytest.mark.parametrize("endpoint", ["collector:4318", "ftp://collector/x", "", "http://"])
def test_an_address_that_cannot_be_one(endpoint: str) -> None:
    with pytest.raises(ValidationError, match="endpoint must be"):
        TracingConfig(sample=0.1, endpoint=endpoint)
