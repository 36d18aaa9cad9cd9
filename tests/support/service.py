"""The Ray service for tests: one cluster for the whole session, one deployed config at a time, and ways to hurt it."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
from ray import serve

from actors.cluster import start
from actors.up import deploy, remove
from stream.config_file import parse_config
from tests.support.kafka_broker import free_port
from tests.support.kafka_sink import topic_records

READY_S = 90.0
POLL_S = 0.25  # what is asked shares the cores with what is waited for
METRICS_INTERVAL_S = 5
SETTINGS = {
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.2",  # applications come and go by the minute
    "RAY_enable_metrics_collection": "1",
    "RAY_metrics_report_interval_ms": str(1000 * METRICS_INTERVAL_S),
}
"""What the session's cluster has other than one of framewatch's own without a dashboard."""


@dataclass(frozen=True)
class Cluster:
    """The session's Ray cluster: port of its HTTP proxy, and the folder of its log files."""

    port: int
    logs: Path

    def processes(self, title: str) -> list[psutil.Process]:
        """Ray's worker processes whose title contains ``title``; of this cluster only."""
        found = []
        for process in psutil.Process().children(recursive=True):
            try:
                if title in " ".join(process.cmdline()[:1]):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def exported_metrics(self) -> str:
        """What Ray itself exports for its dashboard, in Prometheus' format."""
        (node,) = ray.nodes()
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())


@contextmanager
def ray_cluster() -> Iterator[Cluster]:
    """A cluster with enough CPUs for any test, on loopback, whatever cores the machine has."""
    os.environ |= SETTINGS
    start(8, dashboard=False)
    try:
        yield Cluster(free_port(), Path(ray._private.worker._global_node.get_logs_dir_path()))
    finally:
        serve.shutdown()
        ray.shutdown()


class Service:
    """framewatch as deployed on the cluster; ``token`` is shown where access is on."""

    def __init__(self, cluster: Cluster, token: str = ""):
        self.cluster, self.token = cluster, token
        self.url = f"http://127.0.0.1:{cluster.port}"

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of an answer of the API; status 0 where there is none."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, headers=headers), timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def sources(self) -> dict[str, dict[str, Any]]:
        """``/v1/sources`` by id; empty where there is no answer."""
        status, body = self.get("/v1/sources")
        return {source["id"]: source for source in json.loads(body)} if status == 200 else {}

    def status(self, source_id: str) -> dict[str, Any]:
        """How a source is; empty where that is not known."""
        status: dict[str, Any] = self.sources().get(source_id, {}).get("status", {})
        return status

    def ready(self) -> bool:
        """``/readyz`` says so."""
        return self.get("/readyz")[0] == 200

    def analysed(self, source_id: str) -> int:
        """Frames of a source analysed so far, as far as the present aggregator knows."""
        return int(self.status(source_id).get("analysed", 0))

    def finished(self, *source_ids: str) -> bool:
        """True when these sources were read to their end."""
        return all(self.status(source_id).get("state") == "finished" for source_id in source_ids)

    def kill(self, title: str) -> int:
        """SIGKILL the one worker process of that title; returns its process id."""
        (process,) = self.cluster.processes(title)
        os.kill(process.pid, signal.SIGKILL)
        return process.pid


def wait_for(condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """The condition's first true value.

    Raises:
        TimeoutError: it did not come.
    """
    deadline_s = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"after {timeout_s:g} s still waiting: {what}")
        time.sleep(POLL_S)
    return value


@contextmanager
def deployed(cluster: Cluster, config: dict[str, Any], base: Path) -> Iterator[Service]:
    """The service with a config (relative paths: to ``base``), ready; removed at the end with all its actors."""
    settings = {"port": cluster.port, "state_dir": "state", "ingest_cpus": 0.5, "access": {"enabled": False}} | config.get(
        "service", {}
    )
    control = deploy(parse_config(config | {"service": settings}, "test", base))
    tokens = settings["access"].get("tokens", [])
    service = Service(cluster, tokens[0]["token"] if tokens else "")
    try:
        wait_for(service.ready, READY_S, "readiness")
        yield service
    finally:
        remove(control)
        assert not ray.util.list_named_actors(), "actors are left"


def jsonl(path: Path) -> list[dict[str, Any]]:
    """The events in a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def topic_events(bootstrap: str, topic: str) -> list[dict[str, Any]]:
    """The values of all records of a topic."""
    return [json.loads(record.value) for record in topic_records(bootstrap, topic)]


def distinct(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events without those whose id came before: what a consumer that de-duplicates sees."""
    return list({event["event_id"]: event for event in events}.values())


def of_schema(events: Sequence[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The events of one kind: ``tracks``, ``counts``, ``alerts``, ``health``."""
    return [event for event in events if event["schema"].startswith(f"framewatch.{kind}/")]


def health_states(events: Sequence[dict[str, Any]], source_id: str) -> list[str]:
    """The states that a source went through, in the order of their times; of the source itself, not its SLO."""
    mine = [e for e in of_schema(distinct(events), "health") if e["source_id"] == source_id and e["state"] in ("online", "offline")]
    return [event["state"] for event in sorted(mine, key=lambda event: event["at"])]


def raised(events: Sequence[dict[str, Any]]) -> Counter[str]:
    """How many different alerts each rule raised."""
    ids = {(event["rule"], event["alert_id"]) for event in of_schema(events, "alerts") if event["state"] == "raised"}
    return Counter(rule for rule, _ in ids)
