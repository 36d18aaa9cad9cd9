"""What all tests share."""

import gc
import json
import logging
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import pytest
import structlog
from hypothesis import settings

from tests.support.kafka_broker import Broker
from tests.support.kafka_broker import kafka_broker as run_broker

if TYPE_CHECKING:
    from tests.support.service import Cluster, Service

ROOT = Path(__file__).resolve().parents[1]

# A busy machine is no failure, and a change is judged by the same examples each time.
settings.register_profile("busy", deadline=None)
settings.register_profile("ci", settings.get_profile("busy"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "busy")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real videos, models and tools that lies beside the repository; tests skip without it."""
    folder = Path(os.environ.get("FRAMEWATCH_SHARED", ROOT.parent / "shared"))
    if not (folder / "data" / "MANIFEST.md").exists():
        pytest.skip(f"needs the test media in {folder} (or FRAMEWATCH_SHARED)")
    return folder


# -- brokers


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
    # What waits for brokers and cameras after what does not: in several processes, those then end together.
    items.sort(key=lambda item: [item.get_closest_marker(name) is not None for name in ("quiet", "kafka", "rtsp")])
    for item in items:
        if item.get_closest_marker("kafka"):  # kafka-python leaves it to the garbage collector to close a refused connection
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


# -- the Ray service


@pytest.fixture(scope="session")
def cluster() -> "Iterator[Cluster]":
    """One Ray cluster for all tests."""
    from tests.support.service import ray_cluster  # Ray takes a second to import

    with ray_cluster() as running:
        yield running


@pytest.fixture
def deploy(cluster: "Cluster", shared: Path, tmp_path: Path) -> "Iterator[Callable[[dict[str, Any]], Service]]":
    """``deploy(config)`` runs the service with a config, which gets the detector ``people`` and a state folder; it is
    removed when the test ends. Relative paths are relative to ``tmp_path``."""
    from tests.support.service import deployed

    model = {"model": str(shared / "data/models/FastestDet.onnx"), "classes": ["person"], "threads": 1}
    with ExitStack() as running:
        yield lambda config: running.enter_context(deployed(cluster, {"detectors": {"people": model}} | config, tmp_path))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI with the test media at hand a skipped test is a failed one, but for those that need a GPU."""
    report = yield
    in_ci = os.environ.get("CI") == "true" and (ROOT.parent / "shared" / "data" / "MANIFEST.md").exists()
    if in_ci and report.skipped and not hasattr(report, "wasxfail") and "GPU" not in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where all that it needs must be there: {report.longrepr}"
    return report


@pytest.fixture
def log_lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Logging as in an actor; the call gives the lines so far."""
    from stream.logs import LogSettings, configure

    root, loggers = logging.getLogger(), [logging.getLogger(name) for name in ("stream", "actors", "kafka", "libav")]
    levels, handlers = [logger.level for logger in [root, *loggers]], list(root.handlers)
    configure(LogSettings("json", "debug"), actor="test")
    yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    root.handlers[:] = handlers
    for logger, level in zip([root, *loggers], levels, strict=True):
        logger.setLevel(level)
    av.logging.set_level(None)
    structlog.contextvars.clear_contextvars()
