"""The producer of a Kafka sink: its settings, how it is opened and how it is left."""

from __future__ import annotations

import ssl
import time
from typing import Any

from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import AuthorizationError, KafkaError, KafkaTimeoutError

from stream.config import KafkaSinkConfig
from stream.errors import SinkUnavailable
from stream.kafka_client import client_options, explain, open_client
from stream.logs import get_logger

_log = get_logger(__name__)

OPEN_ERRORS = (KafkaError, OSError, ValueError, TypeError, AssertionError, RuntimeError, ssl.SSLError)
"""What opening a producer raises: no broker, a certificate file that is missing, a setting that is refused."""
MAX_REQUEST_BYTES = 1 << 20  # kafka-python's and the broker's default
BATCH_BYTES = 64 << 10
BLOCK_S = 1.0


def open_producer(config: KafkaSinkConfig, linger_ms: int, timeout_s: float, strict: bool) -> Any:
    """A connected idempotent producer that knows the partitions of every topic, so that ``send`` does not wait.

    Creates missing topics with the broker's defaults where that is allowed.

    Args:
        linger_ms: how long kafka-python waits for more records.
        timeout_s: about how long to try.
        strict: raise when a topic cannot be used; otherwise its first ``send`` does.

    Raises:
        OPEN_ERRORS: see there.
    """
    deadline_s = time.monotonic() + timeout_s
    options = client_options(config) | {"bootstrap_timeout_ms": int(timeout_s * 1000)}
    durable = {
        "acks": "all",
        "enable_idempotence": True,
        "compression_type": None if config.compression == "none" else config.compression,
        "linger_ms": linger_ms,
        "batch_size": BATCH_BYTES,
        "max_request_size": MAX_REQUEST_BYTES,
        "max_block_ms": int(BLOCK_S * 1000),
        "request_timeout_ms": 10_000,
        "delivery_timeout_ms": 30_000,
        "metrics_enabled": False,  # nobody reads them, and they cost a tenth of a send
    }
    producer = open_client(KafkaProducer, **(durable | options))
    try:
        names = sorted(set(config.topics.model_dump().values()))
        _create_topics(options, names)
        for name in names:
            _await_topic(producer, name, deadline_s, strict)
    except OPEN_ERRORS:
        abandon(producer)
        raise
    return producer


def check_brokers(config: KafkaSinkConfig, timeout_s: float) -> None:
    """Connect once and see that all topics can be used; missing ones are created.

    Raises:
        SinkUnavailable: one line with the brokers and the likely cause.
    """
    try:
        abandon(open_producer(config, 0, timeout_s, strict=True))
    except OPEN_ERRORS as error:
        raise SinkUnavailable(explain(error, config)) from None  # the cause may hold secrets


def _create_topics(options: dict[str, Any], names: list[str]) -> None:
    known = {key: value for key, value in options.items() if key in KafkaAdminClient.DEFAULT_CONFIG}
    try:
        admin = open_client(KafkaAdminClient, **known)
        try:
            missing = sorted(set(names) - set(admin.list_topics()))
            if missing:
                admin.create_topics({name: {} for name in missing})
                _log.info("topics were created", topics=missing)
        finally:
            admin.close()
    except KafkaError as error:  # someone else was faster, or only an administrator may
        _log.debug("topics were not created", reason=type(error).__name__)


def _await_topic(producer: Any, name: str, deadline_s: float, strict: bool) -> None:
    while True:
        try:
            producer.partitions_for(name)
            return
        except KafkaTimeoutError:
            if time.monotonic() > deadline_s:
                if strict:
                    raise
                return
        except AuthorizationError:
            if strict:
                raise
            return


def abandon(producer: Any) -> None:
    """Stop a producer at once. What it has not delivered fails; what is on the wire may still arrive.

    ``KafkaProducer.close`` waits for its records and, when they cannot be delivered in time, raises and leaves its
    thread running. So this does the second half of ``close`` (as of kafka-python 3.0; a test holds it to that).
    """
    producer._unregister_cleanup()
    producer._sender.force_close()
    producer._sender.join(BLOCK_S)
    producer._closed = True
