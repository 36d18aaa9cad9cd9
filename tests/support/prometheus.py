"""A real Prometheus on loopback, and promtool."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.kafka_broker import free_port

JOB = "framewatch"
START_S = 20.0
STOP_S = 10.0


def need(program: str) -> str:
    """Path of a program of the Debian package ``prometheus``; the test skips without it."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"needs {program} (Debian package prometheus)")
    return found


@dataclass(frozen=True)
class Prometheus:
    """A running one."""

    url: str
    log: Path

    def api(self, path: str, **parameters: str) -> Any:
        """``data`` of an answer of its API."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as answer:
            return json.loads(answer.read())["data"]

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The samples that a query gives now."""
        result: list[dict[str, Any]] = self.api("query", query=expr)["result"]
        return result


@contextmanager
def prometheus(target: str, rules: str, folder: Path, interval: str = "1s") -> Iterator[Prometheus]:
    """Prometheus with a rule file, that scrapes ``target`` (host and port) every ``interval``; ended at the end."""
    program, port = need("prometheus"), free_port()
    folder.mkdir(parents=True)
    (folder / "rules.yaml").write_text(rules)
    config = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--enable-feature=exemplar-storage",
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    running = Prometheus(f"http://127.0.0.1:{port}", log)
    try:
        deadline_s = time.monotonic() + START_S
        while True:
            try:
                running.api("status/runtimeinfo")
                break
            except (OSError, urllib.error.URLError):
                if process.poll() is not None or time.monotonic() > deadline_s:
                    raise RuntimeError(f"Prometheus does not start:\n{log.read_text()}") from None
                time.sleep(0.1)
        yield running
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
