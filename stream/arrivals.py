"""Arrivals: events of frames on their way to the broker, and how they are held against the objective.

An event that arrives is judged by how long that took. One that never does (the broker is away, the sink had no room or keeps
nobody's callback) would not be judged at all, and an outage would look like a promise that is kept. So a frame that is
``OVERDUE_S`` over its time counts as late without further waiting, by the age it has then, and not again when its event
arrives after all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stream.analyser import SourceAnalyser
from stream.clock import Clock
from stream.config import SloConfig
from stream.expected import Expected
from stream.metrics import Metrics
from stream.slo import SloTracker

if TYPE_CHECKING:  # opentelemetry is loaded only where frames are traced
    from stream.tracing import Traced, Tracer

OVERDUE_S = 5.0  # a broker that only stalls answers sooner (a sink gives it 2 s), and latencies up to here are told as they are
MAX_UNDERWAY = 20_000  # frames: ten seconds of a busy node; those before them are judged if they arrive


@dataclass(slots=True, eq=False)
class Underway:
    """A frame whose event has been given to the sink.

    Attributes:
        captured_s, detected_s: monotonic seconds on this host.
        held: its gate held it, so it comes late on purpose.
        traced: its trace, if it has one.
        arrived_s: monotonic seconds of the acknowledgement; None until then.
        overdue: counted as late without one.
    """

    source_id: str
    captured_s: float
    detected_s: float
    held: bool
    traced: Traced | None = None
    arrived_s: float | None = None
    overdue: bool = False


class Arrivals:
    """Frames of all sources between their writing and their judgement.

    One thread at a time calls it; what ``expect`` returns may be called by any.

    Attributes:
        emit: what it takes from the detector's answer to the acknowledgement.

    Args:
        config: of the objective.
        slo: told of every frame that is judged.
        clock: monotonic time.
        metrics: likewise.
        tracer: ends the traces of frames; None where none are made.
    """

    def __init__(self, config: SloConfig, slo: SloTracker, clock: Clock, metrics: Metrics, tracer: Tracer | None = None):
        self._overdue_s = config.latency_ms / 1000 + OVERDUE_S
        self._slo, self._clock, self._metrics, self._tracer = slo, clock, metrics, tracer
        self.emit = Expected()
        self._underway: deque[Underway] = deque(maxlen=MAX_UNDERWAY)
        self._arrived: deque[Underway] = deque()

    def expect(self, frame: Underway) -> Callable[[], None]:
        """The frame's event goes to the sink now; what the sink is to call when it has been acknowledged."""
        self._underway.append(frame)

        def arrived() -> None:  # deque.append is atomic
            frame.arrived_s = self._clock.monotonic()
            self._arrived.append(frame)
            self.emit.observe(frame.arrived_s - frame.detected_s)

        return arrived

    def judge(self, sources: Mapping[str, SourceAnalyser]) -> None:
        """Judge what has arrived and what is overdue. Frames of other sources are left out: they were removed meanwhile."""
        while self._arrived:
            frame = self._arrived.popleft()
            assert frame.arrived_s is not None
            latency_s, traced = frame.arrived_s - frame.captured_s, frame.traced
            if self._tracer and traced:
                self._tracer.end(traced, latency_s)
            if frame.source_id in sources and not frame.held:
                self._metrics.end_to_end(frame.source_id, latency_s, f"{traced.trace_id:032x}" if traced else "")
                if not frame.overdue:
                    self._record(frame, latency_s, sources)
        now_s = self._clock.monotonic()
        while self._underway and (self._underway[0].arrived_s is not None or self._is_overdue(self._underway[0], now_s)):
            frame = self._underway.popleft()
            if frame.arrived_s is None:
                frame.overdue = True
                if frame.source_id in sources and not frame.held:
                    self._record(frame, now_s - frame.captured_s, sources)

    def _is_overdue(self, frame: Underway, now_s: float) -> bool:
        return now_s - frame.captured_s > self._overdue_s

    def _record(self, frame: Underway, latency_s: float, sources: Mapping[str, SourceAnalyser]) -> None:
        config = sources[frame.source_id].config
        if config.live or config.scheme == "kafka":
            self._metrics.judged(frame.source_id, self._slo.record(frame.source_id, latency_s))
