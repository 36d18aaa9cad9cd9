"""EvidenceDesk: makes what the aggregator asks for, on one thread of low priority in each ingest process."""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stream.clock import Clock
from stream.errors import EvidenceError, EvidenceMissing
from stream.evidence.cut import cut, select
from stream.evidence.decode import decode_frame
from stream.evidence.packets import PacketRing, Recorder
from stream.evidence.picture import compose
from stream.evidence.requests import EvidenceRequest
from stream.evidence.retention import Retention
from stream.evidence.settings import EvidenceConfig
from stream.evidence.store import Store
from stream.logs import get_logger
from stream.metrics import Metrics
from stream.redact import reason
from stream.rules import AlertRule, watches
from stream.scale import to_picture
from stream.upright import Upright

QUEUED = 64  # requests; what comes then is refused and counted
REMEMBERED = 512  # requests that were taken: a repeated one is not done again
SLACK_S = 5.0  # packets are kept for so much longer than a clip needs: detectors answer late
STALLED_S = 10.0  # a clip waits no longer for packets that do not come
POLL_S = 0.2
WRITE_AGAIN_S = (0.5, 2.0)  # waits before a store that failed is tried again
OPEN_AGAIN_S = 60.0  # a store that could not be opened is tried again without anything to write
CLOSE_S = 20.0  # longest time for what was asked for when closing
NICE = 10

logger = get_logger(__name__)


@dataclass(slots=True)
class _Job:
    """One request under way. The ring keeps its packets as long as it is pinned."""

    request: EvidenceRequest
    ring: PacketRing
    pin: int
    moved_s: float = 0.0
    newest_s: float = -1.0


class EvidenceDesk:
    """Holds the newest packets of the sources whose alerts have evidence, and makes pictures and clips out of them.

    ``ask`` never blocks. Pictures are made at once, clips when their last packet has come. What fails is logged and
    counted, and is not tried again.

    Args:
        config: where evidence is kept.
        rules: of all alerts.
        clock: wall and monotonic time.
        metrics: counts what became of the requests.
    """

    def __init__(self, config: EvidenceConfig, rules: Sequence[AlertRule], clock: Clock, metrics: Metrics):
        self._config, self._clock, self._metrics = config, clock, metrics
        self._store: Store | None = None
        self._retention: Retention | None = None
        self._recorders: dict[str, Recorder] = {}
        self._rules: Sequence[AlertRule] = rules
        self._queue: queue.Queue[_Job] = queue.Queue(QUEUED)
        self._clips: deque[_Job] = deque()
        self._taken: deque[str] = deque(maxlen=REMEMBERED)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._give_up_s, self._open_s = float("inf"), clock.monotonic()
        self._thread = threading.Thread(target=self._run, name="evidence", daemon=True)
        self._thread.start()

    # -- called from other threads

    def set_rules(self, rules: Sequence[AlertRule]) -> None:
        """These are all rules from now on."""
        with self._lock:
            self._rules = rules
            for source_id, recorder in self._recorders.items():
                recorder.keep_s = keep_s(rules, source_id)

    def recorder(self, source_id: str) -> Recorder:
        """What is to be told of the source's packets; the same one until ``forget``."""
        with self._lock:
            if source_id not in self._recorders:
                recorder = self._recorders[source_id] = Recorder(self._config.buffer_mib * 2**20)
                recorder.keep_s = keep_s(self._rules, source_id)
            return self._recorders[source_id]

    def forget(self, source_id: str) -> None:
        """The source is not read any more; what was asked for before is still made."""
        with self._lock:
            self._recorders.pop(source_id, None)

    def ask(self, request: EvidenceRequest) -> None:
        """Take a request, unless it was taken before."""
        with self._lock:
            if request.alert_id in self._taken:
                return
            self._taken.append(request.alert_id)
            recorder = self._recorders.get(request.source_id)
        ring = recorder.ring(request.session) if recorder is not None else None
        if ring is None:
            self._failed(request, EvidenceError("not_in_buffer", "nothing is held of its source"))
            return
        pin = ring.pin(request.pts_s - (request.before_s if request.clip else 0.0))
        try:
            self._queue.put_nowait(_Job(request, ring, pin))
        except queue.Full:
            ring.unpin(pin)
            self._failed(request, EvidenceError("queue_full"))

    def close(self) -> None:
        """Make what was asked for, with the packets that are there, and stop the thread."""
        self._give_up_s = self._clock.monotonic() + CLOSE_S
        self._closing.set()
        self._thread.join()

    # -- the thread

    def _run(self) -> None:
        if sys.platform == "linux":  # where threads have priorities of their own
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        while True:
            busy = self._look_after()
            try:
                job = self._queue.get(timeout=0.01 if busy or self._closing.is_set() else POLL_S)
            except queue.Empty:
                if self._closing.is_set() and not self._clips:
                    return
            else:
                self._picture(job)
            for _ in range(len(self._clips)):
                job = self._clips.popleft()
                if self._complete(job):
                    self._clip(job)
                else:
                    self._clips.append(job)

    def _look_after(self) -> bool:
        """Have the store kept small; True while there is more to do."""
        if self._retention is None:
            now_s = self._clock.monotonic()
            if now_s < self._open_s:
                return False
            self._open_s = now_s + OPEN_AGAIN_S
            try:
                self._open()
            except EvidenceError as error:
                logger.warning("evidence cannot be kept", reason=error.detail)
        return self._retention is not None and not self._closing.is_set() and self._retention.step()

    def _picture(self, job: _Job) -> None:
        request = job.request
        path = request.picture
        if path is not None:
            self._make(request, "picture", path, lambda: self._jpeg(job))
        if request.clip is None:
            job.ring.unpin(job.pin)
        else:
            self._clips.append(job)

    def _jpeg(self, job: _Job) -> bytes:
        request = job.request
        frame = decode_frame(job.ring.packets(), request.pts_s, request.frame_index)
        return compose(to_picture(Upright().turn(frame, job.ring.matrix)), request)

    def _complete(self, job: _Job) -> bool:
        """Whether all packets of a clip are there, or no more come."""
        now_s = self._clock.monotonic()
        if job.ring.newest_s > job.newest_s:
            job.newest_s, job.moved_s = job.ring.newest_s, now_s
        whole = job.ring.newest_s > job.request.pts_s + job.request.after_s
        return whole or job.ring.ended or self._closing.is_set() or now_s - job.moved_s > STALLED_S

    def _clip(self, job: _Job) -> None:
        request = job.request
        assert request.clip is not None
        self._make(request, "clip", request.clip, lambda: self._mp4(job))
        job.ring.unpin(job.pin)

    def _mp4(self, job: _Job) -> bytes:
        request = job.request
        begin_s, end_s = request.pts_s - request.before_s, request.pts_s + request.after_s
        packets = select(job.ring.packets(), request.pts_s, begin_s, end_s)
        return cut(packets, request.width, request.height, job.ring.matrix)

    def _make(self, request: EvidenceRequest, kind: str, path: str, make: Callable[[], bytes]) -> None:
        try:
            if self._clock.monotonic() > self._give_up_s:
                raise EvidenceError("stopped")
            self._write(path, make())
        except EvidenceError as error:
            self._say(request, kind, error)
        except Exception as error:  # noqa: BLE001 - the thread must go on with the next one
            self._say(request, kind, EvidenceError("internal_error", f"{type(error).__name__}: {reason(error)}"))
        else:
            self._metrics.evidence("written", kind)

    def _write(self, path: str, data: bytes) -> None:
        for wait_s in (*WRITE_AGAIN_S, None):
            try:
                self._open().write(path, data)
                return
            except (EvidenceError, EvidenceMissing) as error:
                if wait_s is None or self._closing.wait(wait_s):
                    raise error if isinstance(error, EvidenceError) else EvidenceError("store", str(error)) from None

    def _open(self) -> Store:
        """The store; on this thread, as it may take its time."""
        if self._store is None:
            self._store = Store(self._config)
            self._retention = Retention(self._store, self._config, self._clock, self._metrics)
        return self._store

    def _failed(self, request: EvidenceRequest, error: EvidenceError) -> None:
        for kind, path in (("picture", request.picture), ("clip", request.clip)):
            if path is not None:
                self._say(request, kind, error)

    def _say(self, request: EvidenceRequest, kind: str, error: EvidenceError) -> None:
        logger.warning(
            "evidence failed",
            source_id=request.source_id,
            alert_id=request.alert_id,
            kind=kind,
            reason=error.reason,
            detail=error.detail,
        )
        self._metrics.evidence("failed", error.reason)


def keep_s(rules: Sequence[AlertRule], source_id: str) -> float | None:
    """How far back the packets of a source are wanted; None where no rule with evidence watches it."""
    wanted = [
        (rule.evidence.before_s if rule.evidence.clip else 0.0) + SLACK_S
        for rule in rules
        if rule.evidence is not None and watches(rule, source_id)
    ]
    return max(wanted, default=None)
