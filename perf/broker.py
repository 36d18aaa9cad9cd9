"""A Kafka broker for the load test, and latencies read back from it."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from perf.workload import SHARED
from stream.config import Topics
from stream.testing.embedded_broker import free_port

BROKER_TOOL = SHARED / "kafka" / "broker.py"
READ_S = 30.0


@contextmanager
def own_broker(folder: Path) -> Iterator[tuple[str, int]]:
    """Apache Kafka with its data in ``folder``; gives its address and its pid."""

    def tool(*arguments: str) -> str:
        done = subprocess.run([sys.executable, BROKER_TOOL, *arguments], capture_output=True, text=True, start_new_session=True)
        if done.returncode:
            raise ChildProcessError(f"the broker does not {arguments[0]}: {done.stderr.strip()}")
        return done.stdout

    def start() -> dict[str, Any]:
        try:
            started: dict[str, Any] = json.loads(tool("start", "--dir", str(folder), "--port", str(free_port())))
            return started
        except ChildProcessError as error:
            # The launcher draws a random cluster id, and Kafka takes one that begins with "-" (one in 64) for an option.
            if "--cluster-id/-t: expected one argument" not in str(error):
                raise
            return start()

    try:
        started = start()
        yield started["bootstrap"], started["pid"]
    finally:
        tool("stop", "--dir", str(folder), "--kill")


class LoadTopics:
    """Topics of one run, under names of their own; a context manager that deletes them.

    The broker stamps each record of the tracks topic when it appends it (LogAppendTime), which is the moment that it
    acknowledges but for the way back.
    """

    def __init__(self, bootstrap: str):
        self._bootstrap = bootstrap
        prefix = f"framewatch-load-{secrets.token_hex(4)}"
        self.names = {topic: f"{prefix}.{topic}" for topic in Topics.model_fields}

    def __enter__(self) -> LoadTopics:
        stamped = {"configs": {"message.timestamp.type": "LogAppendTime"}, "num_partitions": 1, "replication_factor": 1}
        admin = KafkaAdminClient(bootstrap_servers=self._bootstrap)
        try:
            admin.create_topics({self.names["tracks"]: stamped})
        finally:
            admin.close()
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(KafkaError):  # an own broker goes with its data anyway
            admin = KafkaAdminClient(bootstrap_servers=self._bootstrap)
            try:
                admin.delete_topics(list(self.names.values()))
            finally:
                admin.close()

    def latencies_s(self, since: float, until: float) -> list[float]:
        """From capture to broker, in seconds, of the frames that reached it between two POSIX times."""
        partition = TopicPartition(self.names["tracks"], 0)
        consumer: Any = KafkaConsumer(bootstrap_servers=self._bootstrap, consumer_timeout_ms=int(READ_S * 1000))
        try:
            consumer.assign([partition])
            first = consumer.offsets_for_times({partition: int(since * 1000)})[partition]
            end = consumer.end_offsets([partition])[partition]
            if first is None or first.offset >= end:
                return []
            consumer.seek(partition, first.offset)
            latencies_s = []
            for record in consumer:
                appended_s = record.timestamp / 1000
                if appended_s <= until:
                    latencies_s.append(appended_s - datetime.fromisoformat(json.loads(record.value)["captured_at"]).timestamp())
                if record.offset >= end - 1 or appended_s > until:
                    break
            return latencies_s
        finally:
            consumer.close()
