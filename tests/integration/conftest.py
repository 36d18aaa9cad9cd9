"""Brokers for the integration tests."""

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.kafka_broker import Broker
from tests.support.kafka_broker import kafka_broker as run_broker


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker for all tests that neither kill it nor need settings; use a topic of your own."""
    with run_broker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture
def start_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Broker]]:
    """``start_broker(sasl=..., tls=..., settings=...)``: a broker of the test's own, to be killed at will."""
    with ExitStack() as running:

        def start(**options: Any) -> Broker:
            return running.enter_context(run_broker(tmp_path_factory.mktemp("kafka"), **options))

        yield start


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """kafka-python leaves it to the garbage collector to close a socket whose connection was refused."""
    for item in items:
        if item.get_closest_marker("kafka"):
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed <(socket.socket|ssl.SSLSocket):ResourceWarning"))


@pytest.fixture(autouse=True)
def collect_sockets(request: pytest.FixtureRequest) -> Iterator[None]:
    """Collect them in the test that left them, where the filter holds; records of kafka-python's log would keep them."""
    if not request.node.get_closest_marker("kafka"):
        yield
        return
    logger = logging.getLogger("kafka")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)
    gc.collect()
