"""Reach: what a source that comes over the API may be, so that the API is no way into files and private networks."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable

from stream.access import AccessConfig
from stream.config import SourceConfig
from stream.errors import Fault
from stream.redact import MASK

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
TLS_FILES = ("ssl_cafile", "ssl_certfile", "ssl_keyfile")


def resolve(host: str) -> list[str]:
    """Addresses of a host.

    Raises:
        OSError: there are none.
        UnicodeError: that cannot be the name of a host.
    """
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


def reach_faults(source: SourceConfig, access: AccessConfig, resolve: Callable[[str], Iterable[str]] = resolve) -> list[Fault]:
    """Why a source may not be added over the API; keys are those of the source.

    Whoever opens it resolves the name again, so a name whose owner is not trusted must not be in ``allowed_hosts``.

    Args:
        source: what is asked for.
        access: what is allowed.
        resolve: gives the addresses of a host.
    """
    found = []
    if source.scheme not in access.allowed_schemes:
        allowed = ", ".join(access.allowed_schemes) or "none"
        return [Fault("uri", f"scheme {source.scheme} is not taken over the API; service.access.allowed_schemes has {allowed}")]
    if MASK in source.uri:
        found.append(Fault("uri", f"holds {MASK}: give the password, which is kept only where nothing else of the uri changes"))
    if source.scheme == "file" and not source.path.is_absolute():
        found.append(Fault("uri", "must be an absolute path"))
    if source.camera:
        if re.search(r"[\s\x00-\x1f\x7f\\]", source.uri):
            found.append(Fault("uri", "holds blanks, control characters or backslashes"))
        if reason := _host_fault(_host(source.uri), access, resolve):
            found.append(Fault("uri", reason))
    if source.kafka is not None:
        settings = source.kafka
        for i, server in enumerate(settings.bootstrap_servers):
            if reason := _host_fault(server.rpartition(":")[0].strip("[]") or server, access, resolve):
                found.append(Fault(f"kafka.bootstrap_servers.{i}", reason))
        if settings.options:
            found.append(Fault("kafka.options", "may be set in the config file only"))
        found += [Fault(f"kafka.{name}", "may be set in the config file only") for name in TLS_FILES if getattr(settings, name)]
    return found


def _host(uri: str) -> str:
    """Host of an RTSP address, as FFmpeg reads it: behind the last @ before the first of / ? #."""
    authority = re.split(r"[/?#]", uri.partition("://")[2], maxsplit=1)[0].rpartition("@")[2]
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.partition(":")[0]


def _host_fault(host: str, access: AccessConfig, resolve: Callable[[str], Iterable[str]]) -> str:
    allowed = [entry.lower() for entry in access.allowed_hosts]
    if "*" in allowed or host.lower() in allowed:
        return ""
    try:
        addresses = [ipaddress.ip_address(address.partition("%")[0]) for address in resolve(host)]
    except (OSError, UnicodeError, ValueError):
        return f"host {host!r} cannot be resolved"
    for address in addresses:
        if not (_public(address) or any(address in network for network in access.allowed_networks)):
            where = host if host == str(address) else f"{host} ({address})"
            return f"host {where} is in a private network: service.access.allowed_hosts must name it"
    return ""


def _public(address: Address) -> bool:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    address = mapped or address
    return address.is_global and not address.is_multicast
