"""A trace from a producer's record to the tracks record, with a real broker and a collector that reads OTLP."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import pytest
from kafka import KafkaProducer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from stream.config_file import parse_config
from stream.pipeline import Pipeline
from stream.sinks import open_sinks
from tests.support.kafka_broker import Broker
from tests.support.kafka_sink import topic_records
from tests.support.media import picture
from tests.support.service import wait_for

pytestmark = pytest.mark.kafka

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TOPICS = {"tracks": "traced.tracks", "counts": "traced.counts", "alerts": "traced.alerts", "health": "traced.health"}


class Collector:
    """What an OTLP collector takes over HTTP."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str | None, ExportTraceServiceRequest]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = ExportTraceServiceRequest.FromString(body)
                collector.requests.append((self.path, self.headers["Authorization"], request))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}/v1/traces"

    def spans(self) -> list[tuple[dict[str, str], Any]]:
        """Attributes of the resource, and the span."""
        return [
            ({a.key: a.value.string_value for a in part.resource.attributes}, span)
            for _, _, request in self.requests
            for part in request.resource_spans
            for scope in part.scope_spans
            for span in scope.spans
        ]


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield collector
    finally:
        collector.server.shutdown()
        collector.server.server_close()
        thread.join()


def three_of(bootstrap: str) -> list[Any]:
    found = topic_records(bootstrap, "traced.tracks")
    return found if len(found) == 3 else []


def test_from_record_to_record(kafka_broker: Broker, shared: Path, tmp_path: Path) -> None:
    producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap)
    for index, header in enumerate((f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00", None)):
        headers = [("traceparent", header.encode())] if header else []
        producer.send("traced.frames", cv2.imencode(".jpg", picture(index))[1].tobytes(), b"hall", headers)
    producer.flush()
    producer.close()
    with collecting() as collector:
        sink = {"type": "kafka", "bootstrap_servers": [kafka_broker.bootstrap], "topics": TOPICS}
        config = parse_config(
            {
                "detectors": {
                    "people": {"model": str(shared / "data/models/FastestDet.onnx"), "classes": ["person"], "threads": 1}
                },
                "sources": [{"id": "hall", "uri": "kafka://traced.frames"}],
                "sinks": [sink],
                "tracing": {"sample": 1e-9, "endpoint": collector.endpoint, "headers": {"authorization": "Bearer t0ken"}},
            },
            "test",
            tmp_path,
        )
        stop = threading.Event()
        with Pipeline(config, open_sinks(config.sinks, tmp_path / "spool")) as pipeline:
            running = threading.Thread(target=pipeline.run, args=(stop,))
            running.start()
            try:
                tracks = wait_for(
                    lambda: len(found := topic_records(kafka_broker.bootstrap, "traced.tracks")) == 3 and found, 30, "tracks"
                )
            finally:
                stop.set()
                running.join()
    spans = {span.name: span for _, span in collector.spans()}
    assert list(spans) == ["frame", "decode", "batch", "detect", "track", "deliver"], "of the one frame that is to be traced"
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    frame = spans.pop("frame")
    assert frame.parent_span_id.hex() == SPAN
    assert {span.parent_span_id for span in spans.values()} == {frame.span_id}
    assert all(frame.start_time_unix_nano <= s.start_time_unix_nano <= s.end_time_unix_nano for s in spans.values())
    assert max(span.end_time_unix_nano for span in spans.values()) == frame.end_time_unix_nano
    [resource] = {tuple(sorted(resource.items())) for resource, _ in collector.spans()}
    assert dict(resource)["service.name"] == "framewatch"
    assert {(path, token) for path, token, _ in collector.requests} == {("/v1/traces", "Bearer t0ken")}

    headers = [dict(record.headers).get("traceparent") for record in tracks]
    assert headers == [f"00-{TRACE}-{frame.span_id.hex()}-01".encode(), None, None]
    exposed = pipeline.metrics.expose().decode()
    assert f'# {{trace_id="{TRACE}"}}' in exposed
    assert 'framewatch_spans_total{outcome="sent"} 6.0' in exposed
