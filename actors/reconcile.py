"""Keeps the ingest and aggregator actors at what the config asks for."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Awaitable, Collection, Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, RayError

from actors import names
from actors.aggregator import AggregatorActor, AggregatorStatus
from actors.autoscaling import Steady, ingest_actors
from actors.ingest import IngestActor, IngestStatus
from actors.overview import Overview
from actors.placement import place, shards
from actors.record import Record
from stream.access import AccessConfig
from stream.config import PipelineConfig, SourceConfig
from stream.detectors.registry import ModelDescription
from stream.logs import get_logger
from stream.redact import reason
from stream.rules import AlertRule
from stream.worker import SourceStatus

logger = get_logger(__name__)

RECONCILE_S = 1.0
CALL_TIMEOUT_S = 15.0
OVERDUE_S = 5.0  # an actor that has not answered for so long is told of
SCRAPE_TIMEOUT_S = 5.0  # Prometheus waits 10 s by default, and the other actors' metrics are worth something too
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
ASSUMED_FPS = 25.0  # load of a source of which every frame is analysed


class Reconciler:
    """Makes the named actors, renews their leases, and tells each one its sources, once a second and after any restart.

    Lives on one event loop. The actors are detached, so a new Reconciler finds those of the one before at work.

    Attributes:
        placement: ingest actor by source id.
        shards: aggregator by source id.
        sources: status by source id.
        aggregates: what each aggregator told last.
        faults: why an actor does not answer, by actor.
        overview: metrics of the service as a whole.

    Args:
        config: the whole config.
        models: by detector.
        record: is told what the actors tell.
    """

    def __init__(self, config: PipelineConfig, models: dict[str, ModelDescription], record: Record):
        service = config.service.model_copy(update={"access": AccessConfig()})  # the actors need no tokens
        self._config, self._models, self._record = config.model_copy(update={"service": service}), models, record
        self.placement: dict[str, str] = {}
        self.shards: dict[str, str] = {}
        self.sources: dict[str, SourceStatus] = {}
        self.aggregates: dict[str, AggregatorStatus] = {}
        self.faults: dict[str, str] = {"control": "starting"}
        self.overview = Overview(config)
        self._actors: dict[str, ActorHandle[Any]] = {}
        self._leaving: dict[str, list[str]] = {}  # by ingest actor: what it reads no more but has not ended yet
        self._asked_s: dict[str, float] = {}  # since when an actor's answer is awaited
        self._changed = asyncio.Event()
        self._tidied = self._stopping = False
        self._ingest_count: Steady | None = None  # not known before the first look at the actors that are there
        self._run = uuid.uuid4().hex
        self._loop = asyncio.get_running_loop().create_task(self._keep_reconciling())

    @property
    def alive(self) -> bool:
        """False once the loop has ended by itself."""
        return self._stopping or not self._loop.done()

    def silent(self) -> dict[str, str]:
        """Actors whose answer is overdue, by name, and for how long."""
        waited_s = {name: time.monotonic() - asked_s for name, asked_s in self._asked_s.items()}
        return {name: f"has not answered for {seconds:.0f} s" for name, seconds in waited_s.items() if seconds > OVERDUE_S}

    def set_wanted(self, sources: Sequence[SourceConfig], rules: Sequence[AlertRule]) -> None:
        """Run exactly these sources and rules from now on."""
        self._config = self._config.model_copy(update={"sources": list(sources), "alerts": list(rules)})
        self._changed.set()

    async def ask(self, name: str, method: str, *what: object, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """What an actor answers.

        Raises:
            RayError: it does not; also where there is no such actor at present.
            TimeoutError: not in time.
        """
        actor = self._actors.get(name)
        if actor is None:
            raise ActorUnavailableError(f"{name} is not there at present", None)
        return await _answer(getattr(actor, method).remote(*what), timeout_s)

    async def metrics(self) -> dict[str, bytes]:
        """OpenMetrics text by actor, of those that answer, and of Control itself."""
        actors = dict(self._actors)
        answers = await asyncio.gather(
            *(_answer(actor.metrics.remote(), SCRAPE_TIMEOUT_S) for actor in actors.values()), return_exceptions=True
        )
        found = {name: text for name, text in zip(actors, answers, strict=True) if isinstance(text, bytes)}
        return {names.CONTROL: self.overview.metrics.expose()} | found

    async def stop(self) -> None:
        """Stop all actors for good."""
        self._stopping = True
        self._loop.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._loop
        await end_actors()

    async def _keep_reconciling(self) -> None:
        while True:
            try:
                await self._reconcile()
            except Exception as error:
                logger.exception("reconcile failed")
                self.faults = self.faults | {"control": reason(error)}
                self.overview.metrics.reconcile_failed()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), RECONCILE_S)

    async def _reconcile(self) -> None:
        self._changed.clear()
        service, rules = self._config.service, self._config.alerts
        sources = {source.id: source for source in self._config.sources}
        shard = shards(rules, sources, service.aggregators)
        aggregators = [names.aggregator(i) for i in range(service.aggregators)]
        ingests = [names.ingest(i) for i in range(self._count_ingests())]
        loads = {source.id: source.fps or ASSUMED_FPS for source in sources.values()}
        placement = place(loads, ingests, self.placement)
        moved = {source_id for source_id, name in self.placement.items() if placement.get(source_id, name) != name}
        self.placement = placement
        if not self._tidied:  # there may be actors of an older config that had more of them, or more than are needed now
            await end_actors(but=[*aggregators, *ingests])
            self._actors = {name: actor for name, actor in self._actors.items() if name in aggregators + ingests}
            self._tidied = True
        faults: dict[str, str] = {}

        async def tell(name: str, *what: object) -> Any:
            try:
                return await self._tell(name, *what)
            except (RayError, TimeoutError) as error:
                self._actors.pop(name, None)  # it may be gone for good: look it up, or make it, again
                faults[name] = reason(error)

        async def tell_ingests(without: Collection[str]) -> list[IngestStatus | None]:
            """Each one its sources, but for these; no source is read twice, so it must have ended wherever it was before."""

            def read_by(name: str) -> list[SourceConfig]:
                elsewhere = {i for other, ids in self._leaving.items() if other != name for i in ids}
                mine = [i for i, actor in placement.items() if actor == name and i not in without and i not in elsewhere]
                # Zones and lines are the aggregators' concern: a change of them opens no camera anew.
                return [sources[i].model_copy(update={"zones": [], "lines": []}) for i in mine]

            answers = await asyncio.gather(*(tell(name, read_by(name), shard, rules) for name in ingests))
            known = self._leaving
            self._leaving = {n: a.leaving if a else known.get(n, []) for n, a in zip(ingests, answers, strict=True)}
            return answers

        # Where a rule moves a source to another aggregator, the one before keeps it for a round: frames are on their way there.
        before, self.shards = self.shards, {source_id: aggregators[index] for source_id, index in shard.items()}
        confirmed = self._record.confirmed
        told = [
            tell(n, [s for i, s in sources.items() if n in (self.shards[i], before.get(i))], rules, confirmed.get(n))
            for n in aggregators
        ]
        answered = {n: status for n, status in zip(aggregators, await asyncio.gather(*told), strict=True) if status is not None}
        self.aggregates |= answered
        if moved:  # it stops where it was before it begins where it will be
            await tell_ingests(without=moved)
        answers = [answer for answer in await tell_ingests(without=()) if answer is not None]
        for answer in answers:
            self.sources |= {status.source_id: status for status in answer.sources}
        wanted = {source.id for source in self._config.sources}  # by now
        self.sources = {source_id: status for source_id, status in self.sources.items() if source_id in wanted}
        if len(answers) == len(ingests):  # else it is not known what all of them use
            self._scale(sum(answer.cores for answer in answers))
        await self._record.take(sources.keys(), self.sources, answered, complete=len(answered) == len(aggregators))
        for name, why in faults.items():
            if name not in self.faults:
                logger.warning("an actor does not answer", of=name, reason=why)
        self.faults = faults
        sources_now = [self.sources.get(source_id) or SourceStatus(source_id, "connecting") for source_id in sources]
        await self.overview.update(sources_now, [*(self._actors.keys() - faults.keys())], faults)

    def _count_ingests(self) -> int:
        """How many ingest actors there should be; at first, as many as this Reconciler finds at work, within the range."""
        if self._ingest_count is None:
            scaling = self._config.service.ingest_actors
            found = sum(name.startswith(names.INGEST) for name in named_actors())
            count = min(max(found, scaling.min), scaling.max)
            self._ingest_count = Steady(count, scaling.up_after_s, scaling.down_after_s)
        return self._ingest_count.value

    def _scale(self, cores: float) -> None:
        """Follow the CPU that all ingest actors use together, measured against what one reserves (1 where that is nothing)."""
        service, count = self._config.service, self._ingest_count
        scaling, use = service.ingest_actors, cores / (service.ingest_cpus or 1.0)
        assert count is not None
        before = count.value
        after = count.follow(ingest_actors(use, before, scaling.min, scaling.max), time.monotonic())
        if after != before:
            logger.info("number of ingest actors", actors=after, before=before, used_cores=round(cores, 2))
            self._tidied = self._tidied and after > before  # those that are too many stop before others read their sources

    async def _tell(self, name: str, *what: object) -> Any:
        """Give an actor its sources; returns how it is."""
        self._asked_s[name] = time.monotonic()
        try:
            actor = self._actors.get(name) or await self._make(name)
            return await _answer(actor.set_sources.remote(*what))
        finally:
            del self._asked_s[name]

    async def _make(self, name: str) -> ActorHandle[Any]:
        """The named actor: found, made, or made anew where it runs an older config."""
        kind: Any  # Ray gives each actor class a type of its own
        if name.startswith(names.INGEST):
            kind, num_cpus = ray.remote(IngestActor), self._config.service.ingest_cpus
            args: tuple[object, ...] = (name, self._config, self._models)
        else:
            kind, num_cpus = ray.remote(AggregatorActor), 0.1
            classes = {detector: model.classes for detector, model in self._models.items()}
            args = (name, self._config, classes, self._run)
        remote: Any = kind.options(
            name=name,
            namespace=names.NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_concurrency=4,
            num_cpus=num_cpus,
            scheduling_strategy="SPREAD",  # over the nodes: each brings cores, and shared memory to the replicas on it
        )
        actor: ActorHandle[Any] = remote.remote(*args)
        if await _answer(actor.config_digest.remote(), START_TIMEOUT_S) != self._config.digest():
            logger.info("an actor of an older config is replaced", of=name)
            await _end(actor)
            await asyncio.sleep(RECONCILE_S)  # until its name is free
            actor = remote.remote(*args)
        self._actors[name] = actor
        return actor


def named_actors() -> list[str]:
    """Names of this cluster's framewatch actors."""
    return [one["name"] for one in ray.util.list_named_actors(all_namespaces=True) if one["namespace"] == names.NAMESPACE]


async def end_actors(but: Collection[str] = ()) -> None:
    """Stop the actors of this cluster's framewatch, except those named: ingest actors first, so that what they have read
    passes through, then aggregators."""
    for prefix in (names.INGEST, names.AGGREGATOR):
        actors = []
        for name in named_actors():
            if name.startswith(prefix) and name not in but:
                with contextlib.suppress(ValueError):  # it has just ended
                    actors.append(ray.get_actor(name, names.NAMESPACE))
        await asyncio.gather(*map(_end, actors))


async def _end(actor: ActorHandle[Any]) -> None:
    with contextlib.suppress(RayError, TimeoutError):
        await _answer(actor.stop.remote(), STOP_TIMEOUT_S)
    ray.kill(actor)


async def _answer(reference: Awaitable[Any], timeout_s: float = CALL_TIMEOUT_S) -> Any:
    return await asyncio.wait_for(asyncio.ensure_future(reference), timeout_s)
