"""A Kafka-compatible broker in one small binary (noida-db, from PyPI), for the demo and for tests on small machines.

Not for production: it rewrites its whole state about once a second, and has neither TLS nor SASL.
"""

from __future__ import annotations

import socket
import subprocess
import time
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Self

START_S = 30.0
STOP_S = 10.0


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class EmbeddedBroker:
    """A broker on loopback with its data in ``folder``; ``start`` after ``kill`` or ``stop`` keeps port and data."""

    security_protocol = "PLAINTEXT"

    def __init__(self, folder: Path, port: int | None = None):
        self.folder, self.port = folder, port or free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            RuntimeError: it does not answer; holds the end of its log.
            ModuleNotFoundError: noida-db is not installed (extra ``demo``).
        """
        program = Path(str(files("noida_db").joinpath("noida-db")))
        program.chmod(0o755)  # the wheel does not mark it executable
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [str(program), "start", "--only", "kafka", "--host", "127.0.0.1", "--kafka-port", str(self.port)]
        with (self.folder / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - a program from our own environment
                [*command, "--data-dir", str(self.folder / "data")], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline_s = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline_s:
                    self.stop()
                    raise RuntimeError(f"no broker: {(self.folder / 'broker.log').read_text()[-2000:]}") from None
                time.sleep(0.05)

    def stop(self) -> None:
        """End it in order."""
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    kill = stop  # it saves about once a second: SIGKILL would lose what it has acknowledged since

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop()
