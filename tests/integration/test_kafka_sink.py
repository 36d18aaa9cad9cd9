"""KafkaSink and tail against a real broker: delivery, refusals, TLS and SASL; see test_kafka_outages too."""

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from stream.config import KafkaConnection
from stream.errors import SinkError, SinkUnavailable
from stream.events import TOPICS
from stream.sinks.kafka import MAX_EVENTS
from stream.sinks.producer import abandon, check_brokers, open_producer
from stream.tail import render, tail
from tests.support.kafka_broker import Broker, certificates, free_port
from tests.support.kafka_sink import opened, sink_config, topic_records, wait_until
from tests.support.sample_events import counts, one_of_each, tracks

pytestmark = pytest.mark.kafka
PASSWORD = "s3cret-Pass"


def test_every_event_type_arrives(kafka_broker: Broker, tmp_path: Path) -> None:
    config = sink_config(kafka_broker.bootstrap)
    acknowledged = []
    with opened(config, tmp_path / "spool") as sink:
        sink.check()
        for event in one_of_each():
            sink.write(event, lambda event=event: acknowledged.append(event.event_id))
        assert sink.flush(15)
        assert (sink.written, sink.safe, sink.dropped()) == (6, 6, {})
        wait_until(lambda: sink.pending() == 0, 15)
    assert sorted(acknowledged) == sorted(event.event_id for event in one_of_each())
    for event in one_of_each():
        records = {r.value: r for r in topic_records(kafka_broker.bootstrap, getattr(config.topics, TOPICS[type(event)]))}
        record = records[event.to_json()]
        assert record.key == event.key.encode()
        assert dict(record.headers) == {"schema": event.schema_.encode(), "content-type": b"application/json"}
        assert type(event).model_validate_json(record.value) == event


@pytest.mark.parametrize("compression", ["none", "gzip", "lz4", "zstd"])
def test_compression(kafka_broker: Broker, compression: str) -> None:
    config = sink_config(kafka_broker.bootstrap, compression=compression)
    with opened(config, None) as sink:
        for number in range(200):
            sink.write(tracks(number))
        sink.close(15)
        assert (sink.safe, sink.pending()) == (200, 0)
    found = [json.loads(record.value)["frame_index"] for record in topic_records(kafka_broker.bootstrap, config.topics.tracks)]
    assert found == list(range(200))


def test_an_event_that_the_broker_refuses_holds_up_no_other(start_broker: Callable[..., Broker], tmp_path: Path) -> None:
    broker = start_broker(settings={"message.max.bytes": "20000"})
    config = sink_config(broker.bootstrap, compression="none")
    acknowledged: list[int] = []
    with opened(config, tmp_path) as sink:
        for number, objects in enumerate([1, 500, 1]):
            sink.write(tracks(number, objects=objects), lambda number=number: acknowledged.append(number))
        wait_until(lambda: sink.pending() == 0, 15)
        assert sink.dropped() == {"tracks": 1}
        assert sink.safe == 3
    assert acknowledged == [0, 2]


def test_close_frees_a_writer_that_waits() -> None:
    servers = f"127.0.0.1:{free_port()}"
    with opened(sink_config(servers), None) as sink:
        errors: list[str] = []

        def fill() -> None:
            try:
                for number in range(MAX_EVENTS + 1):
                    sink.write(counts(number))
            except SinkError as error:
                errors.append(str(error))

        writer = threading.Thread(target=fill)
        writer.start()
        wait_until(lambda: sink.written == MAX_EVENTS, 10)
        sink.write(tracks(1), droppable=True)
        assert sink.dropped() == {"tracks": 1}, "an event that may be dropped does not wait"
        sink.close(0.1)
        writer.join(5)
        assert errors == [f"the Kafka sink ({servers}) is closed"]


def test_abandoned_producers_leave_nothing_behind(kafka_broker: Broker) -> None:
    """``abandon`` uses kafka-python's inside: a thread or socket that stays would add up over a long outage."""
    config, process = sink_config(kafka_broker.bootstrap), psutil.Process()
    wait_until(lambda: not any(thread.name == "kafka-sink-open" for thread in threading.enumerate()), 10)  # of other tests
    abandon(open_producer(config, 5, 10, strict=True))
    threads, files = threading.active_count(), process.num_fds()
    for _ in range(3):
        producer = open_producer(config, 5, 10, strict=True)
        future = producer.send(config.topics.tracks, b"{}")
        abandon(producer)
        assert future.is_done
    assert (threading.active_count(), process.num_fds()) == (threads, files)
    unreachable = sink_config(f"127.0.0.1:{free_port()}")
    for _ in range(3):
        with pytest.raises(Exception, match="bootstrap"):
            open_producer(unreachable, 5, 0.3, strict=False)
    assert (threading.active_count(), process.num_fds()) == (threads, files)


def test_tls_and_sasl(start_broker: Callable[..., Broker], tmp_path: Path) -> None:
    """What works, and one clear line for each thing that does not."""
    pem = certificates(tmp_path / "pem")
    broker = start_broker(sasl=f"viewer:{PASSWORD}", tls=(pem["cert"], pem["key"]))
    good: dict[str, Any] = {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "PLAIN",
        "username": "viewer",
        "password": PASSWORD,
        "ssl_cafile": pem["ca"],
    }
    config = sink_config(broker.bootstrap, **good)
    with opened(config, None) as sink:
        sink.check()
        for event in one_of_each():
            sink.write(event)
        sink.close(10)
        assert sink.pending() == 0
    connection = KafkaConnection(bootstrap_servers=[broker.bootstrap], **good)
    assert [record.key for record in tail("alerts", connection, True, 1, config.topics)] == [b"alert-1"]

    for settings, expected in [
        (good | {"password": "wrong-Pass"}, "authentication failed: check user name, password"),
        (good | {"ssl_cafile": pem["other-ca"]}, "certificate is not trusted"),
        (good | {"ssl_cafile": tmp_path / "missing.pem"}, "file cannot be read|No such file"),
        ({}, "speaks TLS"),
    ]:
        with pytest.raises(SinkUnavailable) as caught:
            check_brokers(sink_config(broker.bootstrap, **settings), 1.5)
        text = str(caught.value)
        assert re.search(expected, text), text
        assert broker.bootstrap in text
        assert "\n" not in text
        assert "Pass" not in text


def test_unreachable() -> None:
    port = free_port()
    with opened(sink_config(f"127.0.0.1:{port}"), None) as sink:
        with pytest.raises(SinkUnavailable, match=f"Kafka at 127.0.0.1:{port}: .*refused the connection"):
            sink.check(0.5)
        begin_s = time.monotonic()
        sink.write(counts(1))
        assert not sink.flush(0.2)
        assert time.monotonic() - begin_s < 1
    connection = KafkaConnection(bootstrap_servers=[f"127.0.0.1:{port}"], options={"bootstrap_timeout_ms": 500})
    with pytest.raises(SinkUnavailable, match="refused the connection"):
        next(tail("tracks", connection))


def test_tail(kafka_broker: Broker) -> None:
    config = sink_config(kafka_broker.bootstrap)
    connection = KafkaConnection(bootstrap_servers=[kafka_broker.bootstrap])
    producer = open_producer(config, 0, 10, strict=True)
    for value in (tracks(1).to_json(), b"\xff not JSON", tracks(2).to_json()):
        producer.send(config.topics.tracks, value, b"hall").get(10)
    records = list(tail("tracks", connection, True, 3, config.topics))
    assert [record.offset for record in records] == [0, 1, 2]
    assert records[0].json().encode() == tracks(1).to_json()
    assert render(records[1]).startswith("[not a tracks record at ")
    assert "hall frame 2" in render(records[2])

    seen: list[str] = []
    reader = threading.Thread(target=lambda: seen.extend(r.json() for r in tail("counts", connection, False, 1, config.topics)))
    reader.start()
    number = 0
    while reader.is_alive() and number < 100:  # it may not have joined when the first ones are written
        producer.send(config.topics.counts, counts(number).to_json(), b"hall").get(10)
        number += 1
        reader.join(0.1)
    abandon(producer)
    assert len(seen) == 1
