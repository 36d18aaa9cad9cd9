"""Before and around the detector: workers, one batcher and one dispatcher per detector, and the delivery of results.

One :class:`Ingest` serves any number of sources, in the one-process pipeline as well as inside a Ray actor.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from stream.allowance import Allowance
from stream.batch import BLIND_S, Batcher
from stream.buffer import Policy
from stream.clock import Clock
from stream.config import PipelineConfig, SourceConfig
from stream.deliver import Delivery
from stream.detections import Detections
from stream.detectors.registry import ModelDescription
from stream.dispatch import DetectorClient, Dispatcher
from stream.evidence.desk import EvidenceDesk
from stream.frame import Frame
from stream.gate import Gate, Presence
from stream.logs import get_logger
from stream.metrics import Metrics
from stream.processes import core_count
from stream.rules import AlertRule
from stream.slo import MIN_FRAMES
from stream.viewfinder import Look, Picture, Viewfinder
from stream.worker import SourceParts, SourceStatus, SourceWorker

logger = get_logger(__name__)

PROGRESS_INTERVAL_S = 0.25
CLOSE_S = 45.0  # longest time for what was read to pass through when closing
LEAVE_S = 1.0  # longest wait for sources that are read no more, before those that are new begin
BUFFERED_FRAMES = 8  # per source, before the batcher: 8 x 352 x 352 x 3 bytes are 3 MB


class Ingest:
    """Reads sources and keeps detectors and aggregators fed.

    Attributes:
        failure: the first error in a thread of this that should not be; the service goes on, a command should end.
        viewfinder: shows pictures of the sources.

    Args:
        config: detectors, SLO and connections; its sources are not started (see ``set_sources``).
        models: by detector.
        clients: by detector.
        delivery: where results go; closed by ``close``.
        clock: wall and monotonic time.
        metrics: counters.
        on_frame: called with every frame whose detections were delivered, on the dispatcher's thread; frames then
            carry their full-size picture.
    """

    def __init__(
        self,
        config: PipelineConfig,
        models: Mapping[str, ModelDescription],
        clients: Mapping[str, DetectorClient],
        delivery: Delivery,
        clock: Clock,
        metrics: Metrics,
        on_frame: Callable[[Frame], None] | None = None,
    ):
        self._config, self._models, self._delivery = config, models, delivery
        self._clock, self._metrics, self._on_frame = clock, metrics, on_frame
        self.failure: Exception | None = None
        self.viewfinder = Viewfinder(clock, metrics)
        self._desk = EvidenceDesk(config.evidence, config.alerts, clock, metrics) if config.evidence is not None else None
        if self._desk is not None:
            delivery.evidence_to(self._desk.ask)
        self._workers: dict[str, SourceWorker] = {}
        self._leaving: set[str] = set()
        self._unheard: deque[str] = deque()  # sources whose aggregator does not know how they are
        self._allowance, self._running = Allowance(), set[str]()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        latency_s = config.slo.latency_ms / 1e3
        blind_s = min(BLIND_S, config.slo.window_s / (2 * MIN_FRAMES))  # else a service that is always late is never judged
        self._batchers = {
            name: Batcher(name, config.detectors[name].batch_size, latency_s, clock, self._dropped, client.allocate, blind_s)
            for name, client in clients.items()
        }
        self._dispatchers = [
            Dispatcher(
                self._batchers[name],
                client,
                models[name].model_id,
                delivery,
                clock,
                metrics,
                lossless=self._lossless,
                on_done=self._done,
                on_failure=self._failed,
            )
            for name, client in clients.items()
        ]
        # Packets of cameras in step come together. Where they take turns on the cores, each costs 4 to 7 % more to decode, and all
        # of them are late; one after another only the last ones are.
        self._turn = threading.Semaphore(core_count())
        for dispatcher in self._dispatchers:
            dispatcher.start()
        self._progress_thread = threading.Thread(target=self._follow_progress, name="progress", daemon=True)
        self._progress_thread.start()

    def set_sources(self, sources: Sequence[SourceConfig], rules: Sequence[AlertRule] | None = None) -> None:
        """Read exactly these sources from now on; those whose settings are unchanged are not touched. ``rules``: whose alerts
        may have evidence (None: those there are).

        One that was read and is to be read otherwise, or no more, ends first. Where that takes long (a camera that does not
        answer), it is ``leaving``, and a later call begins what comes after it.
        """
        with self._lock:
            if self._desk is not None and rules is not None:
                self._desk.set_rules(rules)
            wanted = {source.id: source for source in sources}
            for source_id, worker in self._workers.items():
                if wanted.get(source_id) != worker.config:
                    worker.stop()
                    self._leaving.add(source_id)
            deadline_s = self._clock.monotonic() + LEAVE_S
            for worker in [self._workers[source_id] for source_id in self._leaving]:
                worker.join(max(0.0, deadline_s - self._clock.monotonic()))
                if worker.done:
                    self._retire(worker)
            for source_id, source in wanted.items():
                if source_id not in self._workers:
                    self._workers[source_id] = self._start(source)

    def say_again(self, source_ids: Iterable[str]) -> None:
        """These sources have other aggregators now, which are to hear how they are; does not wait for that."""
        self._unheard.extend(source_ids)

    def leaving(self) -> list[str]:
        """Sources that are read no more but have not ended yet."""
        with self._lock:
            return sorted(self._leaving)

    def _start(self, source: SourceConfig) -> SourceWorker:
        detector = self._config.detector_of(source)
        batcher = self._batchers[detector]
        policy = Policy.DROP_OLDEST if source.live else Policy.BLOCK
        batch_size = self._config.detectors[detector].batch_size
        capacity = BUFFERED_FRAMES if source.live else max(BUFFERED_FRAMES, batch_size)
        batcher.add_source(source.id, capacity, policy, live=source.live)
        parts = SourceParts(
            spec=self._models[detector].input,
            kafka=self._config.kafka_input(source) if source.scheme == "kafka" else None,
            gate=self._gate(source) if source.gated else None,
            pictures=self._on_frame is not None,
            viewfinder=self.viewfinder,
            allowance=self._allowance,
            recorder=self._desk.recorder(source.id) if self._desk is not None else None,
            turn=self._turn,
        )
        worker = SourceWorker(source, parts, batcher, self._delivery, self._clock, self._metrics)
        worker.start()
        return worker

    def _gate(self, source: SourceConfig) -> Gate:
        detector = self._config.detectors[self._config.detector_of(source)]
        return Gate(Presence(detector.confidence, self._config.tracker.lost_s))

    def _retire(self, worker: SourceWorker) -> None:
        self._leaving.discard(worker.config.id)
        self._batchers[self._config.detector_of(worker.config)].remove_source(worker.config.id)
        self._workers.pop(worker.config.id, None)
        self._delivery.forget(worker.config.id)
        if self._desk is not None:
            self._desk.forget(worker.config.id)
        self._metrics.remove_source(worker.config.id)
        self.viewfinder.forget(worker.config.id)

    # -- called by dispatchers and batchers

    def _lossless(self, source_id: str) -> bool:
        worker = self._workers.get(source_id)
        return worker is not None and not worker.config.live

    def _done(self, frame: Frame, detections: Detections | None) -> None:
        if detections is not None and self._on_frame is not None:
            self._on_frame(frame)
        worker = self._workers.get(frame.info.source_id)
        if worker is not None:
            worker.frame_done(frame.info, detections)

    def _failed(self, error: Exception) -> None:
        self.failure = self.failure or error

    def _dropped(self, frame: Frame, reason: str) -> None:
        self._metrics.frames(frame.info.source_id, "dropped", reason)
        self._done(frame, None)

    def _follow_progress(self) -> None:
        while not self._closed.wait(PROGRESS_INTERVAL_S):
            while self._unheard:
                worker = self._workers.get(self._unheard.popleft())
                if worker is not None:
                    worker.say_again()
            for source_id, frame_index in self._delivery.progress(spare=True).items():
                worker = self._workers.get(source_id)
                if worker is not None:
                    worker.safe(frame_index)
            for name, batcher in self._batchers.items():
                self._metrics.queue_depth(name, batcher.pending())
            self._metrics.queue_depth("unsafe_messages", self._delivery.unsafe())
            self._metrics.decode_allowance(self._allowance.gops)
            self.viewfinder.rest()
            self._relieve()

    def _relieve(self) -> None:
        """Where sources have gone, the others may decode more at once."""
        running = {source_id for source_id, worker in list(self._workers.items()) if not worker.done}
        if gone := self._running - running:
            self._allowance.relieved(len(gone) / len(self._running), self._clock.monotonic())
        self._running = running

    # -- looking in

    def pictures(self, looks: Mapping[str, Look]) -> dict[str, Picture]:
        """See ``Viewfinder.pictures``; sources that are not read here give none."""
        return self.viewfinder.pictures({source_id: look for source_id, look in looks.items() if source_id in self._workers})

    def status(self) -> list[SourceStatus]:
        """Of every source."""
        return [worker.status for worker in list(self._workers.values())]

    def finished(self) -> bool:
        """True when every source has ended by itself."""
        return all(worker.done for worker in list(self._workers.values()))

    def close(self) -> None:
        """Stop reading, let what was read pass through, commit, and stop all threads.

        A detector or an aggregator that is away is waited for, but not for ever.
        """
        patience = threading.Timer(CLOSE_S, self._give_up)
        patience.daemon = True
        patience.start()
        with self._lock:
            workers = list(self._workers.values())
            for worker in workers:
                worker.stop()
            for worker in workers:
                worker.join()
        for dispatcher in self._dispatchers:
            dispatcher.close()
        self._closed.set()
        self._progress_thread.join()
        if self._desk is not None:
            self._desk.close()
        self._delivery.close()
        patience.cancel()

    def _give_up(self) -> None:
        logger.warning("stopping takes too long: what is under way is given up", after_s=CLOSE_S)
        self._delivery.close()
        for dispatcher in self._dispatchers:
            dispatcher.give_up()
