"""The Ray service as a child process: started for a workload, watched, scraped, and stopped with all that it started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from perf.processes import Terminated
from perf.workload import ROOT, Workload
from stream.processes import ProcessTree, adopt_orphans, ticks
from stream.scrape import Scrape
from stream.testing.embedded_broker import free_port

READY_S = 180.0  # two busy cores start Ray, a proxy and three actors in 15 to 40 s
STOP_S = 120.0
LINGER_S = 10.0  # Ray's own processes end this long after the command at most
LOG_LINES = 30


class ServiceFailed(Exception):
    """The service did not come up, or ended before it was told to; the message holds the end of its log."""


def run_script(name: str, measure: Callable[[Path], int]) -> int:
    """What the scripts that run the service do: measure in a folder for the time being, and end all that was started.

    Args:
        name: of the script, for what goes wrong.
        measure: is given the folder; returns the exit code.

    Returns:
        The exit code: 1 where the service or the broker failed, 130 after Ctrl-C or SIGTERM, else that of ``measure``.
    """
    stop = Terminated.on_signal()
    adopt_orphans()
    try:
        with tempfile.TemporaryDirectory(prefix="fw-", ignore_cleanup_errors=True) as folder:
            try:
                return measure(Path(folder))
            finally:
                ProcessTree().end()  # the broker too, however far its start had come
    except (KeyboardInterrupt, stop):
        return 130
    except (ServiceFailed, ChildProcessError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1


def service_config(
    load: Workload, uris: Sequence[str], sinks: list[dict[str, Any]], folder: Path, decode: str = "auto"
) -> dict[str, Any]:
    """A config of ``uris`` as live sources with a zone and a line each; ids are cam00, cam01, ..."""
    return {
        "detectors": {"people": load.detector.model_dump(include={"model", "classes"})},
        "sources": [
            {
                "id": f"cam{i:02d}",
                "uri": uri,
                "fps": load.fps,
                "decode": decode,
                **({} if "://" in uri else {"realtime": True, "loop": True}),
                "zones": [{"name": "floor", "polygon": [[0, 0.3], [1, 0.3], [1, 1], [0, 1]]}],
                "lines": [{"name": "door", "points": [[0.5, 0], [0.5, 1]]}],
            }
            for i, uri in enumerate(uris)
        ],
        "sinks": sinks,
        "service": {"port": free_port(), "state_dir": str(folder / "state"), "access": {"enabled": False}},
    }


class Service:
    """``framewatch up`` in a session of its own; a context manager that waits until every source is analysed.

    Args:
        config: for the service.
        folder: for its config file, its log and its state.
        tree: the descendants of this process; all that are left at the end are killed.
        arguments: more arguments for ``framewatch up``.
    """

    def __init__(self, config: Mapping[str, Any], folder: Path, tree: ProcessTree, arguments: Sequence[str] = ()):
        self._config, self._folder, self._tree = config, folder, tree
        self._arguments = arguments
        self._url = f"http://127.0.0.1:{config['service']['port']}"
        self._log = folder / "service.log"

    def __enter__(self) -> Self:
        path = self._folder / "config.yaml"
        path.write_text(json.dumps(self._config))  # JSON is YAML
        command = [sys.executable, "-m", "stream.cli", "up", "-c", str(path), *self._arguments]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT, env=self._environment(), start_new_session=True
            )
        try:
            self._await_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _environment(self) -> dict[str, str]:
        """Ray keeps its files with ours, and so does not see clusters that others have started on this machine."""
        return {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | {"RAY_TMPDIR": str(self._folder)}

    def _await_ready(self) -> None:
        missing = "no answer"
        for _ in ticks(time.monotonic() + READY_S, 0.5):
            self.check()
            try:
                if self._get("/readyz"):
                    sources = json.loads(self._get("/v1/sources"))
                    waiting = [source["id"] for source in sources if not source["status"]["analysed"]]
                    if not waiting:
                        return
                    missing = f"no frame of {', '.join(waiting)} was analysed"
            except urllib.error.HTTPError as error:
                missing = f"{error.code}: {error.read().decode(errors='replace')[:500]}"
            except OSError as error:
                missing = str(error)
        raise ServiceFailed(f"not ready after {READY_S:.0f} s ({missing})\n{self._tail()}")

    def check(self) -> None:
        """Raises ServiceFailed when the service has ended."""
        if self._process.poll() is not None:
            raise ServiceFailed(f"the service ended with {self._process.returncode}\n{self._tail()}")

    def scrape(self) -> Scrape:
        """The present metrics."""
        text, at_s = self._get("/metrics").decode(), time.monotonic()
        return Scrape.of(text, at_s)

    def sources(self) -> list[dict[str, Any]]:
        """``/v1/sources``."""
        views: list[dict[str, Any]] = json.loads(self._get("/v1/sources"))
        return views

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(self._url + path, timeout=15) as response:  # noqa: S310 # our own service
            body: bytes = response.read()
            return body

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-LOG_LINES:])

    def __exit__(self, *exc: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                print(f"the service did not stop within {STOP_S:.0f} s", file=sys.stderr)
        for _ in ticks(time.monotonic() + LINGER_S):
            if all(process.ended for process in self._tree.processes().values()):
                break
        if killed := self._tree.end():
            print(f"killed what the service left behind: {', '.join(sorted(killed))}", file=sys.stderr)
