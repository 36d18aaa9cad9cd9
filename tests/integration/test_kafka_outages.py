"""KafkaSink while its broker is away, dies or comes back, and what its spool keeps meanwhile."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from stream.errors import SinkError
from stream.sinks.kafka import MAX_EVENTS, KafkaSink
from tests.conftest import ROOT
from tests.support.kafka_broker import Broker, free_port
from tests.support.kafka_sink import opened, sink_config, topic_records, wait_until
from tests.support.sample_events import counts, tracks

pytestmark = pytest.mark.kafka


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
    for record in topic_records(broker.bootstrap, config.topics.counts):
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
    ids = [json.loads(record.value)["event_id"] for record in topic_records(kafka_broker.bootstrap, config.topics.counts)]
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
    ids = [json.loads(record.value)["event_id"] for record in topic_records(f"127.0.0.1:{port}", config.topics.counts)]
    assert list(dict.fromkeys(ids)) == [f"hall-{number}" for number in range(20_000)]


def test_a_spool_belongs_to_one_process(tmp_path: Path) -> None:
    config = sink_config(f"127.0.0.1:{free_port()}")
    with opened(config, tmp_path / "spool"), pytest.raises(SinkError, match=r"spool .*in use by another process"):
        KafkaSink(config, tmp_path / "spool")
