"""CPU time by stage."""

import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from itertools import count

import pytest

from stream.cpu import EVERY, CpuReport, SampledCpu, give_way
from stream.metrics import Metrics


def told(metrics: Metrics) -> dict[str, float]:
    text = metrics.expose().decode()
    return {stage: float(value) for stage, value in re.findall(r'cpu_seconds_total\{stage="(\w+)"\} (\S+)', text)}


def test_cpu_is_told_in_portions_and_nothing_twice() -> None:
    metrics = Metrics()
    report = CpuReport(metrics)
    report.tell(decode=0.003, scale=0.001)
    assert told(metrics) == {}
    report.tell(decode=0.03, scale=0.01)
    report.tell(decode=0.03, scale=0.011)
    assert told(metrics) == pytest.approx({"decode": 0.03, "scale": 0.01})
    report.tell(decode=1.0, scale=0.5)
    assert told(metrics) == pytest.approx({"decode": 1.0, "scale": 0.5})


def test_an_estimate_that_falls_takes_nothing_back() -> None:
    metrics = Metrics()
    report = CpuReport(metrics)
    report.tell(track=1.0, emit=0.2)
    report.tell(track=0.9, emit=0.5)
    assert told(metrics) == pytest.approx({"track": 1.0, "emit": 0.5})


def test_every_seventh_block_stands_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks: Iterator[int] = count()
    monkeypatch.setattr(time, "thread_time", lambda: float(next(ticks)))  # a block that is timed takes one second
    sampled = SampledCpu()
    for _ in range(3 * EVERY):
        with sampled:
            pass
    assert sampled.cpu_s == 3 * EVERY
    assert next(ticks) == 6


def test_the_histogram_of_latencies_has_a_bound_at_the_objective() -> None:
    metrics = Metrics(0.35)
    metrics.end_to_end("hall", 0.34)
    assert 'le="0.35",source="hall"} 1.0' in metrics.expose().decode()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority of their own only there")
def test_a_thread_gives_way_alone() -> None:
    before, found = os.getpriority(os.PRIO_PROCESS, 0), []

    def work() -> None:
        give_way(before + 3)
        give_way(before + 3)
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [min(before + 3, 19)]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before
