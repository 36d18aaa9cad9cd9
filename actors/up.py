"""``framewatch up``: the Ray service from the command line, on a cluster of its own or on a running one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from actors import names
from actors.app import build_config
from actors.cluster import start
from actors.roster import end_actors
from stream.config import PipelineConfig
from stream.errors import ConfigError, FramewatchError
from stream.redact import reason, redact

STOP_TIMEOUT_S = 90.0
OVERHEAD_CPUS = 0.2  # Control and the first aggregator, see control.py


def needed_cpus(config: PipelineConfig) -> int:
    """Ray CPUs that all actors ask for together. A cluster of our own announces at least that many: on a small
    machine the actors share its cores, and a request that cannot be placed would wait for ever."""
    service = config.service
    detectors = sum(detector.replicas.max * detector.replicas.cpus for detector in config.detectors.values())
    return math.ceil(detectors + service.ingest_actors.max * service.ingest_cpus + 0.1 * service.aggregators + OVERHEAD_CPUS)


def up(
    config: PipelineConfig,
    stop: threading.Event,
    *,
    address: str | None = None,
    dashboard: bool = True,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Run the service until ``stop`` is set, then stop all of it.

    Args:
        config: what to run.
        stop: ends the service.
        address: a running cluster to join; None looks at RAY_ADDRESS, else starts one that ends with this call.
        dashboard: whether a cluster of our own gets Ray's dashboard.
        on_ready: called once with the URL of the service.

    Raises:
        ModelError: a model cannot be used.
        FramewatchError: the cluster cannot be joined, or Serve could not deploy it.
    """
    with running(config, address=address or os.environ.get("RAY_ADDRESS"), dashboard=dashboard):
        if on_ready:
            on_ready(config.service.url)
        stop.wait()


@contextlib.contextmanager
def running(config: PipelineConfig, *, address: str | None = None, dashboard: bool = True) -> Iterator[DeploymentHandle[Any]]:
    """The service, until the block ends; gives Control's handle.

    Args:
        config: what to run.
        address: a running cluster to join; None starts one that ends with the block.
        dashboard: whether a cluster of our own gets Ray's dashboard.

    Raises:
        ModelError: a model cannot be used.
        FramewatchError: the cluster cannot be joined, or Serve could not deploy it.
    """
    if faults := config.service.check_tls():
        raise ConfigError("service", faults)
    application = build_config(config)
    own = address is None
    handlers = {number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGINT, signal.SIGTERM)}
    if own:
        start(max(os.cpu_count() or 1, needed_cpus(config)), dashboard)
    else:
        try:
            ray.init(address=address, namespace=names.NAMESPACE, log_to_driver=False, logging_level=logging.WARNING)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise FramewatchError(f"the Ray cluster {address} cannot be joined: {reason(error)}") from error
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():  # Ray puts its own in their place, which end the process at once
            signal.signal(number, handler)
    try:
        control = deploy(config, application)
        try:
            yield control
        finally:
            remove(control)
    finally:
        ray.shutdown()


def deploy(config: PipelineConfig, application: serve.Application | None = None) -> DeploymentHandle[Any]:
    """Deploy the service on the cluster that this process has joined; starts Serve where it does not run yet.

    Returns:
        Control's handle, for ``remove``.

    Raises:
        ModelError: a model cannot be used.
        FramewatchError: Serve could not deploy it.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    application = application or build_config(config)
    service = config.service
    http_options: dict[str, Any] = {"host": service.host, "port": service.port}
    if service.tls:
        http_options |= {"ssl_certfile": str(service.tls.certfile), "ssl_keyfile": str(service.tls.keyfile)}
    try:
        serve.start(proxy_location="HeadOnly", http_options=http_options)
        return serve.run(application, name=names.APPLICATION, route_prefix="/")
    except (RuntimeError, RayError, RayServeException) as error:
        with contextlib.suppress(RuntimeError, RayError, RayServeException):
            remove(None)
        raise FramewatchError(f"the service could not be deployed: {redact(error)}") from error


def remove(control: DeploymentHandle[Any] | None) -> None:
    """Stop the service, all its actors included; the cluster and Serve run on."""
    stopped = False
    if control is not None:
        try:
            control.stop.remote().result(timeout_s=STOP_TIMEOUT_S)
            stopped = True
        except (RayError, RayServeException, TimeoutError) as error:
            logging.getLogger(__name__).warning("Control does not stop the actors: %s", type(error).__name__)
    deadline_s = time.monotonic() + STOP_TIMEOUT_S
    serve.delete(names.APPLICATION)
    while time.monotonic() < deadline_s and names.APPLICATION in serve.status().applications:
        time.sleep(0.1)
    if not stopped:
        asyncio.run(end_actors())
