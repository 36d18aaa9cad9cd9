"""Access: the part of the config that says who may use the API, and the guard that holds callers to it."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import secrets
import ssl
from collections import OrderedDict, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from stream.clock import Clock
from stream.errors import Fault
from stream.part import Name, Part

Role = Literal["viewer", "operator"]
Scheme = Literal["file", "rtsp", "rtsps", "kafka", "simulate"]
TOKEN_FILE = "token"  # noqa: S105 # its name, in the state folder
MAX_FAILURES, FAILURE_WINDOW_S = 10, 60.0
MAX_ADDRESSES = 1024
"""The guard remembers failures of no more addresses than this, the newest."""


class TokenConfig(Part):
    """Who holds ``token`` (``${NAME}`` takes it from the environment): a viewer looks, an operator changes things too."""

    name: Name
    role: Role = "viewer"
    token: str = Field(min_length=16, max_length=256, pattern=r"^[!-~]+$", repr=False)


class AccessConfig(Part):
    """Who may use the API. Without ``tokens`` the service makes one for an operator and keeps it in ``state_dir/token``.

    Sources that come over the API must have a scheme of ``allowed_schemes``; hosts of this machine and of private
    networks must be in ``allowed_hosts`` (names, addresses, networks as ``10.0.0.0/8``; ``*`` is all).
    ``open_metrics``: /metrics asks for no token. ``enabled: false`` needs a service that listens on loopback.
    """

    enabled: bool = True
    tokens: list[TokenConfig] = Field([])
    allowed_schemes: list[Scheme] = Field(["rtsp", "rtsps", "kafka", "simulate"])
    allowed_hosts: list[str] = Field([])
    open_metrics: bool = True

    @property
    def allowed_networks(self) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        """Those of ``allowed_hosts`` that are addresses or networks."""
        return [network for entry in self.allowed_hosts if (network := _network(entry))]

    @field_validator("allowed_hosts")
    @classmethod
    def _networks(cls, hosts: list[str]) -> list[str]:
        for host in hosts:
            if "/" in host and _network(host) is None:
                raise ValueError(f"{host!r} is no network, as in 10.0.0.0/8")
        return hosts

    @field_validator("tokens")
    @classmethod
    def _differ(cls, tokens: list[TokenConfig]) -> list[TokenConfig]:
        names = [token.name for token in tokens]
        if len(set(names)) < len(names) or len({token.token for token in tokens}) < len(tokens):
            raise ValueError("names and tokens must differ from each other")
        return tokens


class TlsConfig(Part):
    """HTTPS instead of HTTP: a certificate, with those that lead to its authority, and its key, both PEM."""

    certfile: Path
    keyfile: Path

    def check(self) -> list[Fault]:
        """Why they cannot be used; keys are those of this part."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        for key, path in (("certfile", self.certfile), ("keyfile", self.keyfile)):
            try:
                path.open("rb").close()
            except OSError as error:
                return [Fault(key, f"{path}: {error.strerror or error}")]
        try:
            context.load_cert_chain(self.certfile, self.keyfile, password=lambda: "")  # never asks at the terminal
        except (ssl.SSLError, ValueError) as error:
            return [Fault("", f"{self.certfile} with {self.keyfile}: {getattr(error, 'reason', None) or error}")]
        return []


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. ``name`` is that of the token, which is no secret."""

    name: str
    role: Role


class AccessDenied(Exception):
    """The caller did not say who it is, or is not believed; ``retry_after_s`` where no further attempt is heard before."""

    def __init__(self, reason: str, retry_after_s: float | None = None):
        self.reason, self.retry_after_s = reason, retry_after_s
        super().__init__(reason)


class Guard:
    """Knows callers by their tokens. For one thread.

    Args:
        config: who there is.
        state_dir: where the token is kept that is made when the config has none.
        clock: monotonic time, for attempts that fail.

    Raises:
        OSError: that token cannot be kept.
    """

    def __init__(self, config: AccessConfig, state_dir: Path, clock: Clock):
        self._enabled, self._clock = config.enabled, clock
        self._callers = [(_digest(one.token), Caller(one.name, one.role)) for one in config.tokens]
        if config.enabled and not config.tokens:
            self._callers = [(_digest(kept_token(state_dir)), Caller("operator", "operator"))]
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()  # by address: their times within the window

    @property
    def enabled(self) -> bool:
        """False where everybody on this machine is an operator."""
        return self._enabled

    def caller(self, token: str | None, address: str) -> Caller:
        """Who shows ``token``; with access off, whoever asks from this machine is an operator.

        Raises:
            AccessDenied: it is not a token of ours, or too many others came from ``address`` just before.
        """
        if not self._enabled:
            if not is_loopback(address):
                raise AccessDenied("access is off, so only this machine is answered")
            return Caller("anyone", "operator")
        if token is None:
            raise AccessDenied("a token is needed: Authorization: Bearer TOKEN")
        now_s = self._clock.monotonic()
        failures = self._failures.get(address)
        while failures and now_s - failures[0] >= FAILURE_WINDOW_S:
            failures.popleft()
        if failures and len(failures) >= MAX_FAILURES:
            raise AccessDenied("too many wrong tokens from this address", FAILURE_WINDOW_S - (now_s - failures[0]))
        digest, found = _digest(token), None
        for known, caller in self._callers:  # all of them, so that the time does not tell which one it was
            if hmac.compare_digest(known, digest):
                found = caller
        if found is None:
            self._failures.setdefault(address, deque()).append(now_s)
            self._failures.move_to_end(address)
            if len(self._failures) > MAX_ADDRESSES:
                self._failures.popitem(last=False)
            raise AccessDenied("the token is not known")
        return found


def kept_token(state_dir: Path) -> str:
    """The token that is kept in ``state_dir``, readable for this user alone; made where there is none yet.

    Raises:
        OSError: it can be neither read nor written.
    """
    path = state_dir / TOKEN_FILE
    state_dir.mkdir(parents=True, exist_ok=True)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if kept := path.read_text(encoding="utf-8").strip():
            path.chmod(0o600)
            return kept
        file = os.open(path, os.O_WRONLY | os.O_TRUNC)  # it was being made when its maker died
        path.chmod(0o600)
    token = secrets.token_urlsafe(32)
    with os.fdopen(file, "w", encoding="utf-8") as writable:
        writable.write(token + "\n")
    return token


def is_loopback(host: str) -> bool:
    """True for an address of this machine alone, and for ``localhost``."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def reaches_here(host: str) -> bool:
    """True for an address that leads a client to this machine: of loopback, and of no interface (``0.0.0.0``, ``::``), which a
    service that listens on all of them has in its config."""
    try:
        return is_loopback(host) or ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return False


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()
