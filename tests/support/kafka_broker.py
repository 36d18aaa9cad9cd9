"""Real brokers for tests: Apache Kafka where the shared folder has it, else the embedded broker noida-db from PyPI.

noida-db speaks enough of the protocol for most tests, but neither TLS nor SASL: those tests skip on it.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from stream.testing.embedded_broker import EmbeddedBroker, free_port

TOOLS = Path(os.environ.get("FRAMEWATCH_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "kafka"
START_S = 60.0


def has_apache_kafka() -> bool:
    """True where ../shared/kafka and a Java runtime are there."""
    return (TOOLS / "broker.py").exists() and shutil.which("java") is not None


class Broker(Protocol):
    """A broker on loopback. ``start`` after ``kill`` or ``stop`` keeps port and data."""

    port: int
    security_protocol: str

    @property
    def bootstrap(self) -> str: ...
    def start(self) -> None: ...
    def kill(self) -> None: ...
    def stop(self) -> None: ...


@dataclass
class ApacheKafka:
    """Apache Kafka, one KRaft node; ``tls`` is (certificate, key) in PEM, ``sasl`` USER:PASSWORD for PLAIN."""

    folder: Path
    port: int
    sasl: str | None = None
    tls: tuple[Path, Path] | None = None
    settings: dict[str, str] | None = None
    security_protocol: str = "PLAINTEXT"

    def __post_init__(self) -> None:
        self.security_protocol = ("SASL_" if self.sasl else "") + ("SSL" if self.tls else "PLAINTEXT")

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        options = [f"--port={self.port}"]
        if self.sasl:
            options += ["--sasl", self.sasl]
        if self.tls:
            options += ["--tls", *map(str, self.tls)]
        for key, value in (self.settings or {}).items():
            options += ["--set", f"{key}={value}"]
        try:
            self._tool("start", *options)
        except RuntimeError as error:
            # The launcher draws a random cluster id, and Kafka takes one that begins with "-" (one in 64) for an option.
            if "--cluster-id/-t: expected one argument" not in str(error):
                raise
            self.start()

    def kill(self) -> None:
        self._tool("stop", "--kill")

    def stop(self) -> None:
        self._tool("stop")

    def _tool(self, command: str, *options: str) -> None:
        done = subprocess.run(
            [sys.executable, TOOLS / "broker.py", command, "--dir", self.folder, *options], capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{command} failed: {done.stderr or done.stdout}")


@contextmanager
def kafka_broker(
    folder: Path,
    *,
    sasl: str | None = None,
    tls: tuple[Path, Path] | None = None,
    settings: dict[str, str] | None = None,
    kind: str | None = None,
    port: int | None = None,
) -> Iterator[Broker]:
    """A running broker with its data in ``folder``.

    Args:
        settings: broker properties such as ``num.partitions``; Apache Kafka only.
        port: a free one if not given.
        kind: ``noida`` asks for the embedded broker; default is Apache Kafka where it can run.
    """
    broker: Broker
    if has_apache_kafka() and kind != "noida":
        broker = ApacheKafka(folder, port or free_port(), sasl, tls, settings)
    elif importlib.util.find_spec("noida_db") is None:
        pytest.skip("needs Apache Kafka in ../shared/kafka with Java, or noida-db (extra dev)")
    elif sasl or tls or settings:
        pytest.skip("TLS, SASL and broker settings need Apache Kafka in ../shared/kafka; noida-db has none of them")
    else:
        broker = EmbeddedBroker(folder, port)
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()  # its data is nobody's business any more


def certificates(folder: Path, names: Sequence[str] = ("ca", "other-ca")) -> dict[str, Path]:
    """Authorities with these ``names``, and a certificate for 127.0.0.1 and localhost signed by the first one.

    Returns:
        PEM files by name: each authority, ``cert`` and ``key`` (PKCS #8).
    """
    folder.mkdir(parents=True, exist_ok=True)
    made: dict[str, Path] = {}

    def openssl(*args: str | Path) -> None:
        subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True, cwd=folder)

    for name in names:
        made[name] = folder / f"{name}.pem"
        usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
        new = ("req", "-x509", "-newkey", "rsa:2048", "-noenc", "-days", "2", "-subj", f"/CN={name}")
        openssl(*new, "-keyout", f"{name}.key", "-out", made[name], *usage)
    made["cert"], made["key"] = folder / "cert.pem", folder / "key.pem"
    openssl("req", "-newkey", "rsa:2048", "-noenc", "-subj", "/CN=127.0.0.1", "-keyout", made["key"], "-out", "request.pem")
    extensions = folder / "extensions"
    extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth\nauthorityKeyIdentifier=keyid\n")
    authority = ("-CA", made[names[0]], "-CAkey", f"{names[0]}.key", "-CAcreateserial")
    openssl("x509", "-req", "-in", "request.pem", *authority, "-days", "2", "-extfile", extensions, "-out", made["cert"])
    return made
