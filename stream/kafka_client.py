"""How framewatch reaches Kafka: one place for connection settings and for what their failures mean.

kafka-python reports every failed start (nobody listening, wrong password, unknown certificate) as "Unable to bootstrap",
so :func:`explain` asks the brokers again, one step at a time, to name the likely cause.
"""

from __future__ import annotations

import gc
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

from kafka.errors import (
    AuthorizationError,
    KafkaConfigurationError,
    KafkaTimeoutError,
    SaslAuthenticationFailedError,
    UnknownTopicOrPartitionError,
)
from kafka.net.compat import KafkaNetClient

from stream.config import KafkaConnection
from stream.redact import MASK, redact

BOOTSTRAP_TIMEOUT_S = 10.0
RECONNECT_BACKOFF_MAX_S = 2.0  # kafka-python waits up to 30 s, which would double a short outage
PROBE_TIMEOUT_S = 1.0
LISTEN_EVERY_S = 0.2
KNOCK_S = 5.0


def client_options(connection: KafkaConnection) -> dict[str, Any]:
    """Keyword arguments that KafkaProducer, KafkaConsumer and KafkaAdminClient all take; ``connection.options`` win.

    The result holds the password: never log it.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": list(connection.bootstrap_servers),
        "client_id": "framewatch",
        "security_protocol": connection.security_protocol,
        "bootstrap_timeout_ms": int(BOOTSTRAP_TIMEOUT_S * 1000),
        "reconnect_backoff_max_ms": int(RECONNECT_BACKOFF_MAX_S * 1000),
    }
    if connection.security_protocol.startswith("SASL"):
        options |= {
            "sasl_mechanism": connection.sasl_mechanism,
            "sasl_plain_username": connection.username,
            "sasl_plain_password": connection.password,
        }
    if connection.security_protocol.endswith("SSL"):
        options |= {
            "ssl_cafile": connection.ssl_cafile and str(connection.ssl_cafile),
            "ssl_certfile": connection.ssl_certfile and str(connection.ssl_certfile),
            "ssl_keyfile": connection.ssl_keyfile and str(connection.ssl_keyfile),
            "ssl_check_hostname": connection.ssl_check_hostname,
        }
    return options | connection.options


def open_client(kind: Callable[..., Any], *topics: str, **options: Any) -> Any:
    """``kind(*topics, **options)``, where ``kind`` is KafkaProducer, KafkaConsumer or KafkaAdminClient.

    Their constructors connect, and drop sockets without closing them when that fails, which adds up while a broker is away.
    So this first waits, for up to ``bootstrap_timeout_ms``, until somebody listens, and closes what a failed start leaves.

    Raises:
        KafkaTimeoutError: nobody listens, or nobody lets us in.
    """
    if not options.get("proxy_url"):
        _await_listener(options["bootstrap_servers"], options["bootstrap_timeout_ms"] / 1000)
    clients: list[Any] = []

    def remember(**settings: Any) -> Any:
        clients.append(KafkaNetClient(**settings))
        return clients[-1]

    try:
        return kind(*topics, **(options | {"kafka_client": remember}))
    except BaseException:
        for client in clients:
            client.close()
        clients.clear()
        gc.collect()  # connections that were refused by TLS or SASL are held by reference cycles alone
        raise


def _await_listener(servers: list[str], timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while True:
        for server in servers:
            host, _, port = server.rpartition(":")
            try:
                socket.create_connection((host.strip("[]"), int(port)), PROBE_TIMEOUT_S).close()
                return
            except (OSError, ValueError):
                continue
        if time.monotonic() > deadline_s:
            raise KafkaTimeoutError("Unable to bootstrap: nobody listens")
        time.sleep(LISTEN_EVERY_S)


def explain(error: BaseException, connection: KafkaConnection) -> str:
    """One line, free of secrets, that names the brokers, what went wrong and the likely cause.

    Looks at the brokers again (at most ``PROBE_TIMEOUT_S`` for each) when the error itself says only that none answered.
    """
    servers = ", ".join(connection.bootstrap_servers)
    match error:
        case SaslAuthenticationFailedError():
            cause = _sasl_hint(connection)
        case AuthorizationError():
            cause = f"not authorised ({type(error).__name__}): the broker's ACLs do not allow this to {_user(connection)}"
        case UnknownTopicOrPartitionError():
            cause = "the topic does not exist"
        case KafkaConfigurationError() | ValueError() | TypeError() | AssertionError():
            cause = f"a setting was refused: {error}"
        case FileNotFoundError() | PermissionError():
            cause = f"a certificate or key file cannot be read: {error}"
        case ssl.SSLError():
            cause = f"TLS failed: {error}"
        case KafkaTimeoutError() if "bootstrap" in str(error):
            cause = _probe(connection)
        case _:
            cause = f"{type(error).__name__}: {error}" if type(error).__name__ not in str(error) else str(error)
    return _clean(f"Kafka at {servers}: {cause}", connection)


def unreachable(connection: KafkaConnection) -> str:
    """Why no broker accepts connections; empty when one does. One line, free of secrets; takes
    ``PROBE_TIMEOUT_S`` for each broker at most."""
    reasons = []
    for server in connection.bootstrap_servers:
        host, _, port = server.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), PROBE_TIMEOUT_S).close()
        except (OSError, ValueError) as error:
            reasons.append(_refusal(server, error))
        else:
            return ""
    return _clean(f"Kafka: no broker can be reached: {'; '.join(reasons)}", connection)


class Knock:
    """Whether a broker is there while nothing is sent to it; used from one thread.

    Attributes:
        fault: why not, see ``unreachable``; empty while one is, or while there is something to send, which tells by itself.
    """

    def __init__(self, connection: KafkaConnection):
        self.fault = ""
        self._connection, self._at_s = connection, time.monotonic()

    def look(self, now_s: float, idle: bool) -> None:
        """Call it often; it asks every ``KNOCK_S`` while ``idle``."""
        if not idle:
            self.fault, self._at_s = "", now_s
        elif now_s - self._at_s >= KNOCK_S:
            self.fault, self._at_s = unreachable(self._connection), now_s


def _refusal(server: str, error: OSError | ValueError) -> str:
    match error:
        case ConnectionRefusedError():
            return f"{server} refused the connection"
        case socket.gaierror():
            return f"the host name of {server} is not known"
        case TimeoutError():
            return f"{server} did not answer"
        case _:
            return f"{server}: {error}"


def _probe(connection: KafkaConnection) -> str:
    """Why no broker let us in, from the first one that gives a reason."""
    reasons = []
    for server in connection.bootstrap_servers:
        host, _, port = server.rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), PROBE_TIMEOUT_S) as plain:
                reason = _probe_tls(plain, host.strip("[]"), connection)
                return reason or _sasl_hint(connection) or "it accepts connections but does not speak this protocol"
        except (OSError, ValueError) as error:
            reasons.append(_refusal(server, error))
    return "no broker can be reached: " + "; ".join(reasons)


def _probe_tls(plain: socket.socket, host: str, connection: KafkaConnection) -> str:
    """What is wrong with TLS towards a broker that accepts connections; empty when nothing is."""
    plain.settimeout(PROBE_TIMEOUT_S)
    if not connection.security_protocol.endswith("SSL"):
        anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # only to see whether it speaks TLS; nothing is sent over it
        anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
        try:
            with anyone.wrap_socket(plain):
                return f"the broker speaks TLS, but security_protocol is {connection.security_protocol}"
        except OSError:
            return ""
    try:
        context = ssl.create_default_context(cafile=connection.ssl_cafile)
        context.check_hostname = connection.ssl_check_hostname
        if connection.ssl_certfile:
            context.load_cert_chain(connection.ssl_certfile, connection.ssl_keyfile)
        with context.wrap_socket(plain, server_hostname=host):
            return ""
    except ssl.SSLCertVerificationError as error:
        return f"the broker's certificate is not trusted ({error.verify_message}): check ssl_cafile"
    except ssl.SSLError as error:
        return f"TLS failed ({error.reason or error}): does the broker serve TLS on this port?"
    except OSError as error:
        return f"TLS failed: {error}"


def _sasl_hint(connection: KafkaConnection) -> str:
    if not connection.security_protocol.startswith("SASL"):
        return "the broker closed the connection: it may want TLS or SASL (security_protocol is PLAINTEXT)" * (
            connection.security_protocol == "PLAINTEXT"
        )
    mechanism = connection.options.get("sasl_mechanism", connection.sasl_mechanism)
    return f"authentication failed: check user name, password and mechanism ({mechanism}, {_user(connection)})"


def _user(connection: KafkaConnection) -> str:
    return f"user {connection.username!r}" if connection.username else "an anonymous user"


def _clean(text: str, connection: KafkaConnection) -> str:
    for secret in (connection.password, connection.options.get("sasl_plain_password"), connection.options.get("ssl_password")):
        if secret:
            text = text.replace(str(secret), MASK)
    return " ".join(redact(text).split())
