"""Keeps the ingest and aggregator actors at what the config asks for."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, RayError

from actors import names
from actors.aggregator import AggregatorActor, AggregatorStatus
from actors.autoscaling import Steady, ingest_actors
from actors.ingest import IngestActor, IngestStatus
from actors.leftover import Leftover
from actors.mandate import Mandate
from actors.overview import Overview
from actors.placement import place, shards
from actors.record import Record
from actors.roster import CALL_TIMEOUT_S, Roster, answer, end_actors, named_actors
from stream.access import AccessConfig
from stream.config import PipelineConfig, SourceConfig
from stream.detectors.registry import ModelDescription
from stream.logs import get_logger
from stream.redact import reason
from stream.rules import AlertRule
from stream.worker import SourceStatus

logger = get_logger(__name__)

RECONCILE_S = 1.0
FIRST_WAIT_S = 10.0  # an actor is up after about 3 s, on a busy machine after 8
OVERDUE_S = 5.0  # an actor that has not answered for so long is told of
SCRAPE_TIMEOUT_S = 5.0  # Prometheus waits 10 s by default, and the other actors' metrics are worth something too
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
        self._leaving: dict[str, list[str]] = {}  # by ingest actor: what it is to read no more but may not have ended yet
        self._asked_s: dict[str, float] = {}  # since when an actor's answer is awaited
        self._changed = asyncio.Event()
        self._placing = self._stopping = self._superseded = False
        self._begun_s = time.monotonic()
        self._cores: dict[str, float] = {}  # as an ingest actor told last
        self._leftover: Leftover | None = None  # not known before the first look at the folders that are there
        self._ingest_count: Steady | None = None  # not known before the first look at the actors that are there
        self._mandate = Mandate(service.state_dir / "control", ray.get_runtime_context().gcs_address)
        self._digest = digest_of(config, models)
        self._roster = Roster(self._make, self._digest, self._changed.set, self._mandate.held)
        self._loop = asyncio.get_running_loop().create_task(self._keep_reconciling())

    @property
    def alive(self) -> bool:
        """False once the loop has ended by itself, other than for a younger Control."""
        return self._stopping or self._superseded or not self._loop.done()

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
        actor = self._roster.there.get(name)
        if actor is None:
            raise ActorUnavailableError(f"{name} is not there at present", None)
        return await answer(getattr(actor, method).remote(*what), timeout_s)

    async def metrics(self) -> dict[str, bytes]:
        """OpenMetrics text by actor, of those that answer, and of Control itself."""
        actors = dict(self._roster.there)
        answers = await asyncio.gather(
            *(answer(actor.metrics.remote(), SCRAPE_TIMEOUT_S) for actor in actors.values()), return_exceptions=True
        )
        found = {name: text for name, text in zip(actors, answers, strict=True) if isinstance(text, bytes)}
        return {names.CONTROL: self.overview.metrics.expose()} | found

    async def stop(self) -> None:
        """Stop all actors for good."""
        self._stopping = True
        self._loop.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._loop
        await self._roster.close()
        if await asyncio.to_thread(self._mandate.held):
            await end_actors()

    async def _keep_reconciling(self) -> None:
        await asyncio.to_thread(self._mandate.take)
        while await asyncio.to_thread(self._mandate.held):
            try:
                await self._reconcile()
            except Exception as error:
                logger.exception("reconcile failed")
                self.faults = self.faults | {"control": reason(error)}
                self.overview.metrics.reconcile_failed()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), RECONCILE_S)
        logger.info("a younger Control has begun: this one leaves the actors to it, and serves what has been asked of it")
        self._superseded = True
        self.faults = {"control": "a younger one has begun"}
        await self._roster.close()

    async def _reconcile(self) -> None:
        self._changed.clear()
        service, rules = self._config.service, self._config.alerts
        sources = {source.id: source for source in self._config.sources}
        shard = shards(rules, sources, service.aggregators)
        current = [names.aggregator(i) for i in range(service.aggregators)]
        ingests = [names.ingest(i) for i in range(self._count_ingests())]
        if self._leftover is None:
            self._leftover = await asyncio.to_thread(Leftover, service.state_dir, service.aggregators)
        aggregators = [*current, *self._leftover.names]
        self._roster.want([*aggregators, *ingests])
        placement = self._place([*current, *ingests], ingests)
        moved = {source_id for source_id, name in self.placement.items() if placement.get(source_id, name) != name}
        for source_id, name in self.placement.items():
            if placement.get(source_id) != name:  # until that actor says otherwise
                self._leaving.setdefault(name, []).append(source_id)
        self.placement = placement
        faults = self._roster.faults()

        async def tell(name: str, *what: object) -> Any:
            if name not in self._roster.there:
                return None
            try:
                return await self._tell(name, *what)
            except (RayError, TimeoutError) as error:
                self._roster.lose(name, error)
                faults[name] = reason(error)

        async def tell_ingests(without: Collection[str]) -> dict[str, IngestStatus]:
            """Each one its sources, but for these; no source is read twice, so it must have ended wherever it was before."""
            at_work = self._roster.at_work()
            self._leaving = {name: ids for name, ids in self._leaving.items() if name in at_work}

            def read_by(name: str) -> list[SourceConfig]:
                elsewhere = {i for other, ids in self._leaving.items() if other != name for i in ids}
                mine = [i for i, actor in placement.items() if actor == name and i not in without and i not in elsewhere]
                # Zones and lines are the aggregators' concern: a change of them opens no camera anew.
                return [sources[i].model_copy(update={"zones": [], "lines": []}) for i in mine]

            told = await asyncio.gather(*(tell(name, read_by(name), shard, rules) for name in ingests))
            answers = {name: status for name, status in zip(ingests, told, strict=True) if status is not None}
            self._leaving |= {name: status.leaving for name, status in answers.items()}
            return answers

        # Where a rule moves a source to another aggregator, the one before keeps it for a round: frames are on their way there.
        before, self.shards = self.shards, {source_id: current[index] for source_id, index in shard.items()}
        confirmed = self._record.confirmed
        told = [
            tell(n, [s for i, s in sources.items() if n in (self.shards[i], before.get(i))], rules, confirmed.get(n))
            for n in aggregators
        ]
        answered = {n: status for n, status in zip(aggregators, await asyncio.gather(*told), strict=True) if status is not None}
        self.aggregates = {name: status for name, status in (self.aggregates | answered).items() if name in aggregators}
        if moved:  # it stops where it was before it begins where it will be
            await tell_ingests(without=moved)
        answers = await tell_ingests(without=()) if self._placing else {}
        for status in answers.values():
            self.sources |= {one.source_id: one for one in status.sources}
        wanted = {source.id for source in self._config.sources}  # by now
        self.sources = {source_id: status for source_id, status in self.sources.items() if source_id in wanted}
        if self._placing:
            self._cores |= {name: status.cores for name, status in answers.items()}
            at_work = self._roster.at_work()  # one that does not answer goes on using what it used
            self._scale(sum(self._cores.get(name, 0.0) for name in ingests if name in at_work))
        await self._record.take(sources.keys(), self.sources, answered, complete=len(answered) == len(aggregators))
        self._leftover.take(answered)
        await asyncio.to_thread(self._leftover.put_away, self._roster.gone)
        sources_now = [self.sources.get(source_id) or SourceStatus(source_id, "connecting") for source_id in sources]
        await self.overview.update(sources_now, [*(self._roster.there.keys() - faults.keys())], faults)
        self.faults = faults  # not before the replicas are counted: with none, /readyz would call the service ready

    def _place(self, needed: Collection[str], ingests: Sequence[str]) -> dict[str, str]:
        """Ingest actor by source id. At first nothing is placed for a while, so that not all of it is on the actor that is up
        first, nor while one that is to go may still read."""
        there = [name for name in ingests if name in self._roster.there]
        if not self._placing:
            complete = self._roster.there.keys() >= set(needed)
            waited = complete or (bool(there) and time.monotonic() - self._begun_s >= FIRST_WAIT_S)
            self._placing = waited and not self._roster.ending()
        if not self._placing:
            return {}
        loads = {source.id: source.fps or ASSUMED_FPS for source in self._config.sources}
        return place(loads, there, self.placement, self._roster.late() & set(ingests))

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
        wanted = ingest_actors(use, before, scaling.min, scaling.max)
        if wanted < before and not self._roster.there.keys() >= {names.ingest(i) for i in range(wanted)}:
            wanted = before  # those that would stay have to be there
        after = count.follow(wanted, time.monotonic())
        if after != before:
            logger.info("number of ingest actors", actors=after, before=before, used_cores=round(cores, 2))

    async def _tell(self, name: str, *what: object) -> Any:
        """Give an actor its sources; returns how it is."""
        self._asked_s[name] = time.monotonic()
        try:
            return await answer(self._roster.there[name].set_sources.remote(*what))
        finally:
            del self._asked_s[name]

    def _make(self, name: str) -> ActorHandle[Any]:
        """The named actor: found or made."""
        kind: type[IngestActor | AggregatorActor]
        if name.startswith(names.INGEST):
            kind, num_cpus = IngestActor, self._config.service.ingest_cpus
            args: tuple[object, ...] = (name, self._config, self._models, self._digest)
        else:
            kind, num_cpus = AggregatorActor, 0.1
            classes = {detector: model.classes for detector, model in self._models.items()}
            args = (name, self._config, classes, self._mandate.run, self._digest)
        actor_class: Any = ray.remote(concurrency_groups={names.BESIDE: 1})(kind)  # type: ignore[call-overload] # Ray's types lack it
        remote = actor_class.options(
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
        return actor


def digest_of(config: PipelineConfig, models: Mapping[str, ModelDescription]) -> str:
    """Changes with everything that actors are made with: also with a model's file, which may be another one under the same path."""
    return hashlib.sha256(f"{config.digest()} {sorted(models.items())}".encode()).hexdigest()
