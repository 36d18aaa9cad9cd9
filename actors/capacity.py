"""The Ray part of ``framewatch capacity``: the service, run with one number of sources after the other, and measured."""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from actors.up import running
from stream.capacity.plan import Plan
from stream.capacity.search import Found, search
from stream.capacity.step import Step, step_of
from stream.config import SourceConfig
from stream.errors import FramewatchError
from stream.processes import ProcessTree, idle_s, measure, ticks
from stream.redact import reason
from stream.scrape import Scrape

READY_S = 90.0  # two busy cores make the actors in 15 to 40 s
FIRST_FRAMES_S = 30.0  # longest wait for a frame of every source; then it is measured all the same
CATCH_UP_S = 40.0  # longest wait for sources that fell behind when all of them began at once: see ``stream.allowance``
CALL_TIMEOUT_S = 60.0
ANSWER_S = 20.0  # of the API
BEHIND = "behind the camera"  # ends the reason for which such a source decodes only key frames


class Stopped(Exception):
    """Ctrl-C."""


@dataclass(frozen=True, slots=True)
class Request:
    """How to measure: seconds of each step and before it, the most sources, and seconds for all of it."""

    seconds: float
    warmup_s: float
    max_sources: int
    total_s: float


def measure_capacity(
    plan: Plan, request: Request, stop: threading.Event, tell: Callable[[str], None], on_step: Callable[[Step], None]
) -> Found | None:
    """Run the service on a cluster of its own and search for the greatest number of sources.

    Args:
        plan: what is measured.
        request: how.
        stop: ends it early.
        tell: takes lines for the user.
        on_step: takes each step as it was measured.

    Returns:
        Where the search ended; None where ``stop`` ended it.

    Raises:
        FramewatchError: the service does not start, or does not answer.
    """
    deadline_s = time.monotonic() + request.total_s
    with running(plan.config, dashboard=False) as control:
        bench = Bench(plan, request, control, stop)

        def sustains(sources: int) -> bool | None:
            if time.monotonic() + request.warmup_s + request.seconds > deadline_s:
                return None
            tell(f"{sources} source{'s' * (sources > 1)} ...")
            step = bench.step(sources)
            on_step(step)
            return step.sustained

        try:
            bench.await_ready()
            return search(sustains, request.max_sources)
        except Stopped:
            return None


class Bench:
    """The running service, whose sources are replaced for each step."""

    def __init__(self, plan: Plan, request: Request, control: DeploymentHandle[Any], stop: threading.Event):
        self._plan, self._request, self._control, self._stop = plan, request, control, stop
        self._url = f"http://127.0.0.1:{plan.config.service.port}"
        self._tree = ProcessTree()
        self._steps = 0

    def await_ready(self) -> None:
        """Wait until all actors are there.

        Raises:
            FramewatchError: they do not come.
        """
        for _ in ticks(time.monotonic() + READY_S):
            self._check()
            try:
                self._get("/readyz")
            except OSError as error:
                why = str(error)
            else:
                return
        raise FramewatchError(f"the service is not ready after {READY_S:g} s: {why}")

    def step(self, sources: int) -> Step:
        """Run so many sources, let them settle, and measure."""
        self._steps += 1
        copies = self._plan.copies(sources, self._steps)
        self._set_sources(copies)
        self._await_frames()
        self._pause(self._request.warmup_s)
        self._await_catching_up()
        before, idle_before_s = self._scrape(), idle_s()
        used = measure(self._tree, self._request.seconds, self._check)
        cores = os.cpu_count() or 1
        machine_s = max(0.0, cores * used.wall_s - (idle_s() - idle_before_s))
        return step_of(self._plan, copies, (before, self._scrape(before)), used, machine_s, cores)

    def _set_sources(self, sources: Sequence[SourceConfig]) -> None:
        try:
            self._control.set_sources.remote(list(sources)).result(timeout_s=CALL_TIMEOUT_S)
        except (RayError, RayServeException, TimeoutError) as error:
            raise FramewatchError(f"the service does not take its sources: {reason(error)}") from error

    def _await_frames(self) -> None:
        for _ in ticks(time.monotonic() + FIRST_FRAMES_S, 0.5):
            self._check()
            if all(status["analysed"] for status in self._statuses()):
                return

    def _await_catching_up(self) -> None:
        for _ in ticks(time.monotonic() + CATCH_UP_S, 0.5):
            self._check()
            if not any(status["decode"] == "key" and status["decode_reason"].endswith(BEHIND) for status in self._statuses()):
                return

    def _statuses(self) -> list[dict[str, Any]]:
        return [source["status"] for source in json.loads(self._get("/v1/sources"))]

    def _scrape(self, earlier: Scrape | None = None) -> Scrape:
        """The present metrics, of all actors that were in an ``earlier`` scrape: a busy one may not answer the first time.

        Raises:
            FramewatchError: one of them does not answer any more.
        """
        for _ in ticks(time.monotonic() + 3 * ANSWER_S, 1.0):
            self._check()
            text = self._get("/metrics").decode()
            scrape = Scrape.of(text, time.monotonic())
            if earlier is None or scrape.actors() >= earlier.actors():
                return scrape
        raise FramewatchError("the service does not tell the metrics of all its actors any more")

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped

    def _check(self) -> None:
        if self._stop.is_set():
            raise Stopped

    def _get(self, path: str) -> bytes:
        try:
            with urllib.request.urlopen(self._url + path, timeout=ANSWER_S) as response:  # noqa: S310 # our own service
                body: bytes = response.read()
                return body
        except OSError as error:
            if path == "/readyz":
                raise
            raise FramewatchError(f"the service does not answer: {error}") from error
