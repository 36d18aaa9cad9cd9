"""From ingest to the aggregators: every message arrives, in order, and survives a crash of either side.

Commit protocol, between one sender and one aggregator:

1. The sender numbers its messages and keeps each one until it is told that the message is safe.
2. The aggregator processes a message once: a number that it has seen is ignored. Its checkpoint holds the last number
   of each sender together with the state after it.
3. The aggregator answers with its incarnation and with the last number whose events are safe (see ``checkpoint``).
4. A new incarnation means that state after the checkpoint is gone: the aggregator refuses what comes next, and the
   sender sends again everything that was not safe, in order.
5. Only when a frame's message is safe does its source commit an offset beyond it.
"""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from stream.errors import Retryable
from stream.events import DeadLetter
from stream.evidence.requests import EvidenceRequest
from stream.expected import UNKNOWN, Usual
from stream.frame import DetectedBatch

MAX_UNSAFE = 2000  # messages of small arrays, 10 to 100 kB each at most; then the sender waits
RETRY_S = 0.2
FULL_WAIT_S = 0.05
IDLE_CALLS = 4  # of ``progress``, after which an aggregator is asked that has nothing to tell but what evidence it wants


@dataclass(frozen=True, slots=True)
class SourceState:
    """A source came online or went offline, or its view changed.

    Attributes:
        source_id: which.
        online: whether frames arrive.
        reason: why they do or do not.
        at_s: POSIX seconds.
        tampered: what is wrong with its view (see ``tamper``), empty if nothing; None where that is not known.
    """

    source_id: str
    online: bool
    reason: str
    at_s: float
    tampered: str | None = None


@dataclass(frozen=True, slots=True)
class SourceFinished:
    """A finite source was read to its end, and all its frames were sent before this."""

    source_id: str


Message = DetectedBatch | SourceState | SourceFinished | DeadLetter


@dataclass(frozen=True, slots=True)
class Receipt:
    """Answer to a message.

    Attributes:
        incarnation: changes when the aggregator was restarted.
        accepted: False if the sender expected another incarnation; nothing was processed then.
        safe: number of this sender's last message that is safe, with all before it.
        emit: what frames took lately from the detector's answer to the acknowledgement by all sinks.
        evidence: what the sender is asked to make of its frames; the same more than once, see ``EvidenceRequests``.
    """

    incarnation: str
    accepted: bool
    safe: int
    emit: Usual = UNKNOWN
    evidence: tuple[EvidenceRequest, ...] = ()


class Receiver(Protocol):
    """An aggregator as its senders see it; calls raise ``Retryable`` while it cannot be reached."""

    def process(self, sender: str, number: int, message: Message, expected: str | None) -> Receipt:
        """Process one message, unless it was processed before or ``expected`` is another incarnation."""

    def progress(self, sender: str) -> Receipt:
        """Commit what can be committed, and tell how far the sender's messages are safe."""


class Delivery:
    """Sends messages to the aggregators that own their sources.

    Thread-safe. A send waits while the aggregator is away or ``MAX_UNSAFE`` messages are not safe yet: the stages
    before it then fall behind, each by its own policy.

    Args:
        receivers: one per aggregator.
        shard: index of the aggregator of a source id.
    """

    def __init__(self, receivers: Sequence[Receiver], shard: Callable[[str], int]):
        self._stopped = threading.Event()
        self._lanes = [_Lane(receiver, self._stopped) for receiver in receivers]
        self._shard = shard

    def evidence_to(self, ask: Callable[[EvidenceRequest], None]) -> None:
        """Hand on what the aggregators ask for to ``ask``, which must not block; they are asked now and then also while
        nothing is sent. To be called before the first ``send``."""
        for lane in self._lanes:
            lane.ask = ask

    def send(self, message: Message) -> None:
        """Hand over one message; a batch is split by aggregator, keeping its order."""
        if isinstance(message, DetectedBatch):
            for index, part in self._split(message):
                self._lanes[index].send(part)
        else:
            self._lanes[self._shard(message.source_id)].send(message)

    def _split(self, batch: DetectedBatch) -> Iterator[tuple[int, DetectedBatch]]:
        shards = [self._shard(info.source_id) for info in batch.frames]
        if len(set(shards)) == 1:
            yield shards[0], batch
            return
        for index in sorted(set(shards)):
            rows = [row for row, shard in enumerate(shards) if shard == index]
            frames, detections = tuple(batch.frames[r] for r in rows), tuple(batch.detections[r] for r in rows)
            yield index, replace(batch, frames=frames, detections=detections)

    def progress(self, *, spare: bool = False) -> dict[str, int]:
        """Ask every aggregator how far it is; returns the newest safe frame index of each source, since the start.

        Args:
            spare: do not ask those that have answered a message since the last call, as that told it too.
        """
        safe: dict[str, int] = {}
        for lane in self._lanes:
            safe |= lane.progress(spare)
        return safe

    def emit(self) -> Usual:
        """See ``Receipt.emit``; that of the slowest aggregator."""
        return max((lane.emit for lane in self._lanes), key=lambda emit: emit.most_s, default=UNKNOWN)

    def forget(self, source_id: str) -> None:
        """The source's input is another one from now on: its frames sent so far say nothing about the next ones."""
        for lane in self._lanes:
            lane.forget(source_id)

    def unsafe(self) -> int:
        """Messages that are not safe yet."""
        return sum(len(lane) for lane in self._lanes)

    def close(self) -> None:
        """Give up waiting; what is not safe is sent again by the next process that reads the same input."""
        self._stopped.set()


class _Lane:
    """The messages of one sender to one aggregator."""

    def __init__(self, receiver: Receiver, stopped: threading.Event):
        self.ask: Callable[[EvidenceRequest], None] | None = None
        self._receiver, self._stopped = receiver, stopped
        self._idle = 0  # calls of progress since the last answer
        self._sender = uuid.uuid4().hex
        self._number = 0
        self._incarnation: str | None = None
        self._unsafe: deque[tuple[int, Message]] = deque()
        self._safe_frames: dict[str, int] = {}
        self._forgotten: dict[str, int] = {}  # by source: messages up to this one are about its former input
        self.emit = UNKNOWN
        self._answered = False  # since the last call of progress
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._unsafe)

    def send(self, message: Message) -> None:
        with self._lock:
            while len(self._unsafe) >= MAX_UNSAFE and not self._stopped.is_set():
                self._ask_progress()
                self._stopped.wait(FULL_WAIT_S)
            self._number += 1
            self._unsafe.append((self._number, message))
            self._push([self._unsafe[-1]])

    def progress(self, spare: bool) -> dict[str, int]:
        with self._lock:
            answered, self._answered = self._answered, False
            self._idle = 0 if answered else self._idle + 1
            wanted = self._unsafe or (self.ask is not None and self._number and self._idle % IDLE_CALLS == 0)
            if wanted and not (spare and answered):
                self._ask_progress()
            return dict(self._safe_frames)

    def forget(self, source_id: str) -> None:
        with self._lock:
            self._forgotten[source_id] = self._number
            self._safe_frames.pop(source_id, None)

    def _ask_progress(self) -> None:
        try:
            receipt = self._receiver.progress(self._sender)
        except Retryable:
            return
        self._hand_on(receipt)
        if receipt.incarnation == self._incarnation:
            self._settle(receipt.safe)
        else:
            self._push(list(self._unsafe))

    def _push(self, messages: list[tuple[int, Message]]) -> None:
        safe = 0
        while messages and not self._stopped.is_set():
            number, message = messages[0]
            try:
                receipt = self._receiver.process(self._sender, number, message, self._incarnation)
            except Retryable:
                self._stopped.wait(RETRY_S)
                continue
            self._incarnation, self._answered, self.emit = receipt.incarnation, True, receipt.emit
            self._hand_on(receipt)
            if receipt.accepted:
                safe = receipt.safe
                del messages[0]
            else:
                messages = list(self._unsafe)
        self._settle(safe)

    def _hand_on(self, receipt: Receipt) -> None:
        if self.ask is not None:
            for request in receipt.evidence:
                self.ask(request)

    def _settle(self, safe: int) -> None:
        while self._unsafe and self._unsafe[0][0] <= safe:
            number, message = self._unsafe.popleft()
            if isinstance(message, DetectedBatch):
                for info in message.frames:
                    if number > self._forgotten.get(info.source_id, 0):
                        self._safe_frames[info.source_id] = info.frame_index
