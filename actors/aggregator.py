"""AggregatorActor: trackers, counts, alerts and the sinks of a share of the sources; survives its own death."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from actors import names
from actors.lease import Lease
from actors.metrics import RayMetrics
from stream.aggregate import Aggregator, News
from stream.analyser import Seen, SourceTally
from stream.checkpoint import Checkpoint
from stream.clock import SystemClock
from stream.config import PipelineConfig, SourceConfig
from stream.deliver import Message, Receipt
from stream.door import Address, Caller, Door
from stream.drift import DriftReport
from stream.errors import AggregatorUnavailable, DoorUnavailable
from stream.frame import FrameKey
from stream.logs import configure_process
from stream.metrics import Metrics
from stream.redact import reason
from stream.rules import AlertRule
from stream.sinks import open_sinks
from stream.slo import SloCounts
from stream.tracing import open_tracer

if TYPE_CHECKING:
    from ray.actor import ActorHandle

TICK_S = 0.5
CALL_TIMEOUT_S = 60.0  # a sink may block while its spool is full
LATENCY_S = 10.0  # over which the latency of the last frames is told
BACKLOG_S = 10.0  # events that wait in the sinks and have not become fewer for this long are a fault


@dataclass(frozen=True, slots=True)
class AggregatorStatus:
    """What an aggregator tells of itself; ``sink_fault`` is empty while events reach their destination.

    ``attainment`` is that of the SLO's window, ``latency_s`` the 50th, 95th and 99th percentile of the last ten seconds, both by
    source.
    """

    name: str
    sink_fault: str
    pending_events: int
    attainment: dict[str, float]
    tallies: dict[str, SourceTally]
    latency_s: dict[str, tuple[float, float, float]]
    news: News


class AggregatorActor:
    """See ``stream.aggregate``. Its state is in a checkpoint, so a restart takes up where that ends.

    It processes nothing before Control has told it its sources and rules, which may be others than the config's.

    Args:
        name: of this actor; also of its files in the state folder.
        config: the whole config; sources and rules are set by Control.
        classes: class names by detector.
        run: names one start of the service; a restarted actor gets the same one.
        digest: of what it is made with.
    """

    def __init__(self, name: str, config: PipelineConfig, classes: dict[str, tuple[str, ...]], run: str, digest: str):
        configure_process(config.service.logs, actor=name)
        folder = config.service.state_dir / name
        folder.mkdir(parents=True, exist_ok=True)
        self._name = name
        self._digest = digest
        self._config, self._classes, self._run, self._folder = config, classes, run, folder
        self._metrics = Metrics(config.slo.latency_ms / 1000, config.metrics)
        self._ray_metrics = RayMetrics(self._metrics, name)
        self._tracer = open_tracer(config.tracing, name, self._metrics)
        self._sink = open_sinks(config.sinks, folder / "spool")
        self._aggregator: Aggregator | None = None
        self._making = threading.Lock()
        self._door: Door | None = None
        with suppress(OSError):
            self._door = Door(self._answer)
        self._pending, self._fewer_s = 0, time.monotonic()
        self._lease = Lease(self._tick, self._close, TICK_S)

    def set_sources(
        self, sources: Sequence[SourceConfig], rules: Sequence[AlertRule], confirmed: tuple[str, int, int] | None = None
    ) -> AggregatorStatus:
        """Analyse exactly these sources, judge by exactly these rules, and say how things stand; ``confirmed``: see
        ``Aggregator.news``."""
        self._lease.renew()
        with self._making:
            if self._aggregator is None:  # only now is it known what its checkpoint is to be taken up with
                self._aggregator = self._make(sources, rules)
        aggregator = self._aggregator
        aggregator.set_sources(sources, rules)
        return AggregatorStatus(
            self._name,
            self._sink_fault(aggregator),
            self._sink.pending(),
            aggregator.slo_attainment(),
            aggregator.tallies(),
            aggregator.latencies(LATENCY_S),
            aggregator.news(confirmed),
        )

    def seen(self, wanted: Mapping[str, FrameKey | None]) -> dict[str, Seen]:
        """See ``Aggregator.seen``."""
        return self._told().seen(wanted)

    def drift(self, source_id: str) -> DriftReport | None:
        """See ``Aggregator.drift``."""
        return self._told().drift(source_id)

    def slo_counts(self) -> dict[str, SloCounts]:
        """See ``Aggregator.slo_counts``."""
        return self._told().slo_counts()

    def _make(self, sources: Sequence[SourceConfig], rules: Sequence[AlertRule]) -> Aggregator:
        config = self._config.model_copy(update={"sources": list(sources), "alerts": list(rules)})
        checkpoint = Checkpoint(self._folder / "checkpoint.json")
        clock, run, tracer = SystemClock(), self._run, self._tracer
        return Aggregator(config, self._classes, self._sink, clock, self._metrics, checkpoint, run=run, tracer=tracer)

    def _told(self) -> Aggregator:
        if self._aggregator is None:
            raise AggregatorUnavailable(f"{self._name}: it has not been told its sources yet")
        return self._aggregator

    def _sink_fault(self, aggregator: Aggregator) -> str:
        if fault := aggregator.sink_fault or self._sink.fault():
            return fault
        waiting_s = time.monotonic() - self._fewer_s
        return f"{self._pending} events wait for their sinks since {waiting_s:.0f} s" if waiting_s > BACKLOG_S else ""

    def process(self, sender: str, number: int, message: Message, expected: str | None) -> Receipt:
        """See ``stream.deliver.Receiver``."""
        return self._told().process(sender, number, message, expected)

    def progress(self, sender: str) -> Receipt:
        """See ``stream.deliver.Receiver``."""
        return self._told().progress(sender)

    def door(self) -> Address | None:
        """Where ingest actors of this host may call ``process`` and ``progress``; None where there are no doors."""
        return self._door.address if self._door else None

    def _answer(self, request: tuple[str, tuple[Any, ...]]) -> Receipt:
        method, arguments = request
        return self.process(*arguments) if method == "process" else self.progress(*arguments)

    @ray.method(concurrency_group=names.BESIDE)
    def config_digest(self) -> str:
        """Digest of the config and models that this actor was made with."""
        return self._digest

    def metrics(self) -> bytes:
        """OpenMetrics text of this process."""
        return self._metrics.expose()

    def stop(self) -> None:
        """Flush, save, and stop all threads; the actor can be killed then."""
        self._lease.close()
        self._close()

    def _tick(self) -> None:
        if self._aggregator is not None:
            self._aggregator.tick()
        before, self._pending = self._pending, self._sink.pending()
        if self._pending < before or not self._pending:
            self._fewer_s = time.monotonic()
        self._ray_metrics.publish()

    def _close(self) -> None:
        if self._door:
            self._door.close()
        if self._aggregator is not None:
            self._aggregator.close()
        self._sink.close()
        if self._tracer:
            self._tracer.close()


class RemoteAggregator:
    """An AggregatorActor as ``stream.deliver`` sees it: called through its door where it is on this host, else by Ray."""

    def __init__(self, name: str):
        self._name = name
        self._actor: ActorHandle[Any] | None = None
        self._caller: Caller | None = None

    def process(self, sender: str, number: int, message: Message, expected: str | None) -> Receipt:
        """See ``stream.deliver.Receiver``."""
        return self._call("process", sender, number, message, expected)

    def progress(self, sender: str) -> Receipt:
        """See ``stream.deliver.Receiver``."""
        return self._call("progress", sender)

    def _call(self, method: str, *arguments: object) -> Receipt:
        try:
            if self._actor is None:
                self._actor = self._find()
            if self._caller is not None:
                receipt: Receipt = self._caller.call((method, arguments)).result(CALL_TIMEOUT_S)
            else:
                receipt = ray.get(getattr(self._actor, method).remote(*arguments), timeout=CALL_TIMEOUT_S)
            return receipt
        except (RayError, DoorUnavailable, RuntimeError, ValueError) as error:  # ValueError: no actor of that name yet
            self._lose()
            raise AggregatorUnavailable(f"{self._name}: {reason(error)}") from error

    def _find(self) -> ActorHandle[Any]:
        actor = ray.get_actor(self._name, names.NAMESPACE)
        asked: Any = actor.door.remote()
        door: Address | None = ray.get(asked, timeout=CALL_TIMEOUT_S)
        if door is not None:
            with suppress(DoorUnavailable):  # it is on another host
                self._caller = Caller(door)
        return actor

    def _lose(self) -> None:
        if self._caller is not None:
            self._caller.close()
        self._actor = self._caller = None
