"""Kafka sinks with topics of their own, and what lies in a topic."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from kafka import KafkaConsumer, TopicPartition

from stream.config import KafkaSinkConfig, Topics
from stream.events import TOPICS
from stream.sinks.kafka import KafkaSink


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


def topic_records(bootstrap: str, topic: str) -> list[Any]:
    """All records that a topic holds now; none where there is no such topic."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, allow_auto_create_topics=False)
    try:
        partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
        if not partitions:
            return []
        ends = consumer.end_offsets(partitions)
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        records: list[Any] = []
        while any(consumer.position(partition) < ends[partition] for partition in partitions):
            for found in consumer.poll(timeout_ms=1000).values():
                records += found
        return records
    finally:
        consumer.close()


def wait_until(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "timed out"
        time.sleep(0.05)
