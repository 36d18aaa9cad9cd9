"""KafkaSink and tail against a real broker: delivery, outages, crashes, TLS and SASL."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from kafka import KafkaConsumer, TopicPartition

from stream.config import KafkaConnection, KafkaSinkConfig, Topics
from stream.errors import SinkError, SinkUnavailable
from stream.events import TOPICS
from stream.sinks.kafka import MAX_EVENTS, KafkaSink
from stream.sinks.producer import abandon, check_brokers, open_producer
from stream.tail import render, tail
from tests.conftest import ROOT
from tests.support.kafka_broker import Broker, certificates, free_port
from tests.support.sample_events import counts, one_of_each, tracks

pytestmark = pytest.mark.kafka
PASSWORD = "s3cret-Pass"


def sink_config(bootstrap: str, **settings: Any) -> KafkaSinkConfig:
    """A config with topics of its own."""
    prefix = uuid4().hex[:8]
    topics = Topics(**{name: f"{prefix}.{name}" for name in TOPICS.values()})
    return KafkaSinkConfig(type="kafka", bootstrap_servers=[bootstrap], topics=topics, **settings)


@contextmanager
def opened(config: KafkaSinkConfig, spool_dir: Path | None) -> Iterator[KafkaSink]:
    sink = KafkaSink(config, spool_dir)
    try:
        yield sink
    finally:
        sink.close(0)


def read_topic(bootstrap: str, topic: str) -> list[Any]:
    """All records of ``topic`` up to its present end, per partition in order."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=None, enable_auto_commit=False)
    try:
        partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        records = []
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            for batch in consumer.poll(timeout_ms=500).values():
                records += batch
        return records
    finally:
        consumer.close()


def wait_until(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "timed out"
        time.sleep(0.05)


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
        records = {r.value: r for r in read_topic(kafka_broker.bootstrap, getattr(config.topics, TOPICS[type(event)]))}
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
    found = [json.loads(record.value)["frame_index"] for record in read_topic(kafka_broker.bootstrap, config.topics.tracks)]
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


def test_a_broker_that_dies_while_nothing_is_sent_is_noticed(start_broker: Callable[..., Broker], tmp_path: Path) -> None:
    broker = start_broker()
    with opened(sink_config(broker.bootstrap), tmp_path / "spool") as sink:
        sink.write(counts(0, "cam0"))
        wait_until(lambda: sink.pending() == 0, 15)
        assert sink.fault() == ""
        broker.kill()
        wait_until(lambda: broker.bootstrap in sink.fault(), 10)
        broker.start()
        wait_until(lambda: sink.fault() == "", 10)
        sink.write(counts(1, "cam0"))
        wait_until(lambda: sink.pending() == 0, 15)
        assert (sink.safe, sink.fault()) == (2, "")


def test_broker_killed_in_the_middle_of_a_stream(
    start_broker: Callable[..., Broker], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """200 events a second, the broker away for 10 s: all arrive, in order per key; memory stays flat."""
    caplog.set_level(logging.INFO, "stream")
    broker = start_broker()
    config = sink_config(broker.bootstrap)
    cameras, written = [f"cam{i}" for i in range(5)], 0
    acknowledged: list[int] = []
    process, memory = psutil.Process(), {}
    with opened(config, tmp_path / "spool") as sink:
        begin_s = time.monotonic()
        restart = threading.Thread(target=broker.start)
        while (now_s := time.monotonic() - begin_s) < 17:
            if now_s > 3 and "killed" not in memory:
                broker.kill()
                memory["killed"] = process.memory_info().rss
            if now_s > 12 and "back" not in memory:
                memory["back"] = process.memory_info().rss
                assert sink.safe > written - 400, "events on the spool are safe"
                assert sink.pending() > 1000
                restart.start()
            while written < 200 * now_s:
                before_s = time.monotonic()
                sink.write(counts(written, cameras[written % 5]), lambda n=written: acknowledged.append(n))
                assert time.monotonic() - before_s < 1, "write waits for no broker"
                written += 1
            time.sleep(0.005)
        restart.join()
        wait_until(lambda: sink.pending() == 0, 20)
        assert (sink.safe, sink.dropped()) == (written, {})
    assert memory["back"] - memory["killed"] < 20 << 20
    assert sorted(acknowledged) == list(range(written))
    arrived: dict[str, list[str]] = {}
    for record in read_topic(broker.bootstrap, config.topics.counts):
        ids = arrived.setdefault(record.key.decode(), [])
        if (event_id := json.loads(record.value)["event_id"]) not in ids:
            ids.append(event_id)
    assert arrived == {
        f"{camera}/floor": [f"{camera}-{number}" for number in range(i, written, 5)] for i, camera in enumerate(cameras)
    }
    lines = [record.message for record in caplog.records if record.name == "stream.sinks.kafka"]
    assert [bool(re.search("is away", line)) for line in lines] == [True, False], lines
    assert "is back" in lines[1]


WRITER = """
import sys, time
from pathlib import Path
from stream.config import KafkaSinkConfig
from stream.sinks.kafka import KafkaSink
from tests.support.sample_events import counts
sink = KafkaSink(KafkaSinkConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]))
for number in range(300):
    sink.write(counts(number))
assert sink.flush(20)
print(sink.safe, flush=True)
time.sleep(60)
"""


def test_a_crash_with_a_full_spool_loses_nothing(kafka_broker: Broker, tmp_path: Path) -> None:
    config = sink_config(f"127.0.0.1:{free_port()}")
    command = [sys.executable, "-W", "ignore", "-c", WRITER, config.model_dump_json(), str(tmp_path / "spool")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, text=True) as writer:
        assert writer.stdout is not None
        try:
            assert writer.stdout.readline() == "300\n"
        finally:
            os.kill(writer.pid, signal.SIGKILL)
    config = config.model_copy(update={"bootstrap_servers": [kafka_broker.bootstrap]})
    with opened(config, tmp_path / "spool") as sink:
        assert sink.pending() == 300
        sink.write(counts(300))
        wait_until(lambda: sink.pending() == 0, 15)
        assert (sink.written, sink.safe) == (1, 1)
    ids = [json.loads(record.value)["event_id"] for record in read_topic(kafka_broker.bootstrap, config.topics.counts)]
    assert list(dict.fromkeys(ids)) == [f"hall-{number}" for number in range(301)]


def test_a_full_spool_drops_what_may_be_dropped_and_holds_up_the_rest(
    start_broker: Callable[..., Broker], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    config = sink_config(f"127.0.0.1:{port}", spool_mib=1)
    with opened(config, tmp_path / "spool") as sink:
        for number in range(2000):  # 1.3 kB each
            sink.write(tracks(number, objects=10), droppable=True)
        assert sink.flush(10)
        dropped = sink.dropped()["tracks"]
        assert 1300 < dropped < 1800, "half of the spool stays free"
        assert sink.pending() == 2000 - dropped

        count = 0

        def fill() -> None:
            nonlocal count
            while count < 20_000:
                sink.write(counts(count))
                count += 1

        writer = threading.Thread(target=fill)
        writer.start()
        wait_until(lambda: sink.written - sink.safe >= MAX_EVENTS, 10)
        time.sleep(0.5)
        assert writer.is_alive()
        assert count < 10_000, "the writer waits"
        assert sink.pending() == count + 2000 - dropped, "nothing else was dropped"
        assert not sink.flush(0.1)
        assert sum(path.stat().st_size for path in (tmp_path / "spool").iterdir()) <= 1 << 20
        waits = [vars(record) for record in caplog.records if record.message == "writers of the Kafka sink wait"]
        assert [(one["brokers"], one["reason"]) for one in waits] == [
            (f"127.0.0.1:{port}", f"the spool {tmp_path / 'spool'} is full (1 MiB)")
        ]

        start_broker(port=port)
        writer.join(30)
        assert not writer.is_alive()
        wait_until(lambda: sink.pending() == 0, 30)
        assert sink.safe == sink.written == 22_000
        assert sink.dropped() == {"tracks": dropped}
    ids = [json.loads(record.value)["event_id"] for record in read_topic(f"127.0.0.1:{port}", config.topics.counts)]
    assert list(dict.fromkeys(ids)) == [f"hall-{number}" for number in range(20_000)]


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


def test_a_spool_belongs_to_one_process(tmp_path: Path) -> None:
    config = sink_config(f"127.0.0.1:{free_port()}")
    with opened(config, tmp_path / "spool"), pytest.raises(SinkError, match=r"spool .*in use by another process"):
        KafkaSink(config, tmp_path / "spool")


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
