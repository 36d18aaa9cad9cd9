"""KafkaSink: events to Kafka, with a spool on disk for the time that no broker answers."""

from __future__ import annotations

import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kafka.errors import KafkaError, MessageSizeTooLargeError

from stream.config import KafkaSinkConfig
from stream.errors import SinkError
from stream.events import TOPICS, Event
from stream.kafka_client import Knock, explain
from stream.logs import get_logger
from stream.sinks.producer import MAX_REQUEST_BYTES, OPEN_ERRORS, abandon, check_brokers, open_producer
from stream.sinks.spool import Spool

_log = get_logger(__name__)

MAX_EVENTS = 5000
MAX_BYTES = 16 << 20
"""Bounds of what is held in memory: five seconds of a busy node, about 3 kB an event."""
MAX_VALUE_BYTES = MAX_REQUEST_BYTES - 4096  # leaves room for key, headers and framing
DROPPABLE_SHARE = 0.5  # droppable events leave half of memory and spool to the others
MAX_CALLBACKS = 20_000  # of spooled events; at about 300 bytes each
STALL_S = 2.0
CONNECT_S = 5.0
RETRY_S = 0.5
SPOOL_EVERY_S = 0.1  # one fsync for all events of that time
TICK_S = 0.1
DRAIN_RECORDS, DRAIN_BYTES = 500, 512 << 10
GATHER_MAX_S = 0.05
_SIZES = struct.Struct("<BBH")


@dataclass(slots=True, eq=False)
class _Entry:
    """An event on its way. ``number`` is its place in the order of writes, 0 for one that was read from the spool."""

    topic: str
    schema: str
    key: bytes
    value: bytes
    number: int = 0
    on_acknowledged: Callable[[], None] | None = None
    droppable: bool = False
    settled: bool = False
    traceparent: str = ""

    def pack(self) -> bytes:
        """For the spool. The trace context stands behind the schema, so that spools written without one can be read."""
        topic, schema = self.topic.encode(), f"{self.schema}\n{self.traceparent}".rstrip("\n").encode()
        return _SIZES.pack(len(topic), len(schema), len(self.key)) + topic + schema + self.key + self.value

    @staticmethod
    def unpack(record: bytes) -> _Entry:
        at = _SIZES.size
        parts = []
        for length in _SIZES.unpack_from(record):
            parts.append(record[at : at + length])
            at += length
        schema, _, traceparent = parts[1].decode().partition("\n")
        return _Entry(parts[0].decode(), schema, parts[2], record[at:], traceparent=traceparent)


class KafkaSink:
    """Writes events to Kafka with an idempotent producer, ``acks=all``.

    What happens to an event:

    1. ``write`` puts it into a bounded queue in memory. One thread takes it from there; it alone touches the producer
       and the spool. Opening a producer, which may take seconds, is done by a helper thread.
    2. While the broker answers it is sent, and safe when acknowledged.
    3. When nothing was acknowledged for ``STALL_S``, or a send failed, the sink is *away*: it gives the producer up
       and moves all that was not acknowledged, in order, to the spool. There events are safe after the fsync.
    4. When a broker answers again the spool is drained in order; new events go behind it until it is empty.
    5. What a crash leaves in the spool is drained first by the next sink with the same ``spool_dir``.

    An event that was on the wire when the sink went away may arrive twice, so an older event of a key can come again
    after newer ones; ids tell. First arrivals of one key keep their order.

    No room: a droppable event is dropped and counted once half of the memory or of the spool is full, any
    other waits in ``write``. Without a spool (``spool_dir=None``) memory is all the room there is. Callbacks of spooled
    events are kept for ``MAX_CALLBACKS`` of them at a time; the others' are not called.

    Construction needs no broker. ``write`` from one thread; all else from any.

    Args:
        config: brokers, topics, limits.
        spool_dir: a folder for this sink alone.

    Raises:
        SinkError: the spool is in use by another process, or cannot be used.
    """

    def __init__(self, config: KafkaSinkConfig, spool_dir: Path | None):
        self._config = config
        self._topics: dict[str, str] = config.topics.model_dump()
        self._servers = ", ".join(config.bootstrap_servers)
        self._gather_s = min(0.75 * config.linger_ms / 1000, GATHER_MAX_S)  # one wake-up for many events
        self._linger_ms = config.linger_ms - int(self._gather_s * 1000)
        self._spool = Spool(spool_dir, config.spool_mib << 20) if spool_dir else None

        self._changed = threading.Condition()  # guards what follows
        self._queue: deque[_Entry] = deque()  # not sent
        self._in_flight: deque[_Entry] = deque()  # sent by the present producer, in that order
        self._unsettled = 0  # of those, not acknowledged
        self._unsafe: deque[_Entry] = deque()  # by number; the first one bounds ``safe``
        self._held = self._held_bytes = 0  # events in memory only
        self._written = 0
        self._dropped: Counter[str] = Counter()
        self._refused: set[str] = set()
        self._shedding = False
        self._generation = 0  # of producers; reports of an abandoned one are ignored
        self._failure: BaseException | None = None
        self._progress_s = 0.0
        self._answered = False  # the present producer had an acknowledgement
        self._opened: Any = None  # what the helper thread brought: a producer, or why there is none
        self._poked = self._closing = self._ended = False
        self._waiters = 0

        self._producer: Any = None  # this and what follows belongs to the sender thread
        self._opening: threading.Thread | None = None
        self._draining: list[bytes] = []
        self._late: deque[tuple[int, Callable[[], None]]] = deque()  # place in the spool, callback
        self._spooled = self._spool.pending if self._spool else 0
        self._drained = 0
        self._away = self._spool_stuck = False
        self._why_away, self._knock = "", Knock(config)
        self._retry_s = self._spool_next_s = 0.0
        self._turn_s = self._alone_since_s = time.monotonic()
        self._sender = threading.Thread(target=self._run, name="kafka-sink", daemon=True)
        self._sender.start()

    # The caller's side

    def check(self, timeout_s: float = 10) -> None:
        """See ``check_brokers``; apart from the connection that the sink opens by itself."""
        check_brokers(self._config, timeout_s)

    def write(
        self,
        event: Event,
        on_acknowledged: Callable[[], None] | None = None,
        *,
        droppable: bool = False,
        traceparent: str | None = None,
    ) -> None:
        """See ``Sink.write``."""
        topic, value = TOPICS[type(event)], event.to_json()
        entry = _Entry(
            topic, event.schema_, event.key.encode(), value, 0, on_acknowledged, droppable, traceparent=traceparent or ""
        )
        with self._changed:
            if len(value) > MAX_VALUE_BYTES:
                self._written += 1
                self._dropped[topic] += 1
                raise SinkError(f"{topic} event of {event.source_id!r} has {len(value)} bytes, more than {MAX_VALUE_BYTES}")
            if droppable and (self._shedding or not self._has_room(entry)):
                self._written += 1
                self._dropped[topic] += 1
                return
            if not self._has_room(entry):
                self._await(lambda: self._has_room(entry) or self._closing or self._ended, None)
            if self._closing or self._ended:
                raise SinkError(f"the Kafka sink ({self._servers}) is closed")
            self._written += 1
            entry.number = self._written
            self._unsafe.append(entry)
            self._queue.append(entry)
            self._held += 1
            self._held_bytes += len(value)
            if len(self._queue) == 1:
                self._poke()

    def _has_room(self, entry: _Entry) -> bool:
        share = DROPPABLE_SHARE if entry.droppable else 1
        return len(self._unsafe) < share * MAX_EVENTS and self._held_bytes + len(entry.value) <= share * MAX_BYTES

    @property
    def written(self) -> int:
        return self._written

    @property
    def safe(self) -> int:
        with self._changed:
            return self._safe()

    def _safe(self) -> int:
        return self._unsafe[0].number - 1 if self._unsafe else self._written

    def dropped(self) -> dict[str, int]:
        with self._changed:
            return dict(self._dropped)

    def pending(self) -> int:
        return self._held + (self._spool.pending if self._spool else 0)

    def fault(self) -> str:
        return self._why_away if self._away else self._knock.fault

    def spooled(self) -> tuple[int, int]:
        return (self._spool.size_bytes, self._spool.max_bytes) if self._spool else (0, 0)

    def unsafe(self) -> list[bytes]:
        with self._changed:
            return [entry.value for entry in self._unsafe if not entry.settled]

    def flush(self, timeout_s: float) -> bool:
        with self._changed:
            self._await(lambda: not self._unsafe or self._ended, timeout_s)
            return not self._unsafe

    def close(self, timeout_s: float = 10) -> None:
        """Deliver what can be delivered within ``timeout_s``; the rest stays in the spool, or is lost without one."""
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            while not (self._closing or self._ended or self._rests()) and time.monotonic() < deadline_s:
                self._changed.wait(TICK_S)
            self._closing = True
            self._poke()
        self._sender.join(max(timeout_s, CONNECT_S))

    def _rests(self) -> bool:
        """True when waiting longer brings nothing: all is delivered, or all is spooled and no broker answers."""
        alone = self._producer is None and time.monotonic() - self._alone_since_s > STALL_S
        return self.pending() == 0 or (alone and not self._unsafe)

    def _await(self, predicate: Callable[[], bool], timeout_s: float | None) -> bool:
        self._waiters += 1
        try:
            return self._changed.wait_for(predicate, timeout_s)
        finally:
            self._waiters -= 1

    def _poke(self) -> None:
        self._poked = True
        self._changed.notify_all()

    # The producer's side: called from kafka-python's thread

    def _on_delivered(self, generation: int, entry: _Entry, _: object) -> None:
        with self._changed:
            if generation != self._generation:
                return
            self._progress_s, self._answered = time.monotonic(), True
            self._settle(entry)
        if entry.on_acknowledged:
            entry.on_acknowledged()

    def _on_failed(self, generation: int, entry: _Entry, error: BaseException) -> None:
        with self._changed:
            if generation != self._generation:
                return
            if self._failure is None:
                if isinstance(error, MessageSizeTooLargeError):
                    self._refuse(entry)  # only the first one: kafka-python then fails all others with the same error
                self._failure = error
                self._poke()

    def _refuse(self, entry: _Entry) -> None:
        """Give up an event that the broker will never take, so that it does not hold up the others."""
        self._settle(entry)
        self._dropped[entry.topic] += 1
        if entry.topic not in self._refused:
            self._refused.add(entry.topic)
            _log.error("Kafka refuses an event for good", topic=self._topics[entry.topic], value_bytes=len(entry.value))

    def _settle(self, entry: _Entry) -> None:
        entry.settled = True
        self._unsettled -= 1
        while self._in_flight and self._in_flight[0].settled:
            self._in_flight.popleft()
        if entry.number:
            self._release(entry)
        if not self._unsettled:
            self._poke()
        elif self._waiters:
            self._changed.notify_all()

    def _release(self, entry: _Entry) -> None:
        """The event is safe, or given up."""
        entry.settled = True
        self._held -= 1
        self._held_bytes -= len(entry.value)
        while self._unsafe and self._unsafe[0].settled:
            self._unsafe.popleft()

    # The sender thread

    def _run(self) -> None:
        try:
            while not self._closing:
                self._turn()
            self._give_up_producer()
            self._spool_queue()
            if self._held:
                _log.error("the Kafka sink lost events: no room in a spool", brokers=self._servers, lost=self._held)
        finally:
            if self._spool:
                self._spool.close()
            with self._changed:
                self._ended = True
                self._poke()
            if self._opened is not None and not isinstance(self._opened, str):
                abandon(self._opened)

    def _turn(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._poked, TICK_S)
            self._poked = False
        now_s = time.monotonic()
        if now_s - self._turn_s > STALL_S / 2:  # this process was stopped or starved: the broker is not to blame
            self._progress_s = now_s
        self._turn_s = now_s
        self._look_at_producer(now_s)
        self._knock.look(now_s, idle=self._producer is not None and self.pending() == 0)
        if self._producer is not None and not self._draining and (self._spool is None or not self._spool.pending):
            if self._queue:
                time.sleep(self._gather_s)
                with self._changed:
                    entries = list(self._queue)
                    self._queue.clear()
                self._send(entries)
        else:
            self._spool_queue()
            self._drain()

    def _look_at_producer(self, now_s: float) -> None:
        with self._changed:
            failure, opened = self._failure, self._opened
            stalled = self._unsettled > 0 and now_s - self._progress_s > STALL_S
        if self._producer is not None:
            if failure or stalled:
                self._lose(
                    explain(failure, self._config) if failure else f"Kafka at {self._servers}: no acknowledgement for {STALL_S:g} s"
                )
            elif self._away and (self._answered or not self.pending()):
                self._away = False
                _log.info("the Kafka sink is back", brokers=self._servers, waiting=self.pending())
        elif opened is not None:
            self._opening = self._opened = None
            if isinstance(opened, str):
                self._retry_s = now_s + RETRY_S
                self._declare_away(opened)
            else:
                self._producer, self._answered = opened, False
        elif self._opening is None and now_s >= self._retry_s:
            self._opening = threading.Thread(target=self._open, name="kafka-sink-open", daemon=True)
            self._opening.start()

    def _open(self) -> None:
        """The helper thread: bring a producer, or the reason why there is none."""
        result: Any = "the attempt to connect broke off"
        try:
            result = open_producer(self._config, self._linger_ms, CONNECT_S, strict=False)
        except OPEN_ERRORS as error:
            result = explain(error, self._config)
        finally:
            with self._changed:
                unwanted, self._opened = self._ended, result
                self._poke()
            if unwanted and not isinstance(result, str):
                abandon(result)

    def _lose(self, reason: str) -> None:
        self._give_up_producer()
        self._alone_since_s = time.monotonic()
        self._retry_s = self._alone_since_s + RETRY_S
        self._declare_away(reason)

    def _declare_away(self, reason: str) -> None:
        self._why_away = reason
        if not self._away:
            self._away = True
            where = self._spool.folder if self._spool else "memory"
            _log.warning("the Kafka sink is away", brokers=self._servers, events_wait_in=str(where), reason=reason)

    def _give_up_producer(self) -> None:
        """Back to the queue with what was not acknowledged; spooled events are still in the spool."""
        producer, self._producer = self._producer, None
        with self._changed:
            self._generation += 1
            self._failure = None
            if not self._draining:
                self._queue.extendleft(entry for entry in reversed(self._in_flight) if not entry.settled)
            self._in_flight.clear()
            self._unsettled = 0
            self._draining = []
        if producer is not None:
            abandon(producer)

    def _send(self, entries: Sequence[_Entry]) -> None:
        with self._changed:
            if not self._unsettled:
                self._progress_s = max(self._progress_s, self._turn_s)
            self._in_flight.extend(entries)
            self._unsettled += len(entries)
            generation = self._generation
        for entry in entries:
            headers = [("schema", entry.schema.encode()), ("content-type", b"application/json")]
            if entry.traceparent:
                headers.append(("traceparent", entry.traceparent.encode()))
            try:
                future = self._producer.send(self._topics[entry.topic], entry.value, entry.key, headers)
            except MessageSizeTooLargeError:
                with self._changed:
                    self._refuse(entry)
            except KafkaError as error:
                self._lose(explain(error, self._config))
                return
            else:
                future.add_callback(self._on_delivered, generation, entry)
                future.add_errback(self._on_failed, generation, entry)

    def _spool_queue(self) -> None:
        """Move the queue to the spool, as far as there is room."""
        spool, now_s = self._spool, time.monotonic()
        if spool is None or not self._queue:
            self._shedding = False
            return
        hurry = self._closing or 2 * len(self._queue) > MAX_EVENTS
        starting = self._producer is None and not self._away and now_s - self._alone_since_s < STALL_S
        if not hurry and (starting or now_s < self._spool_next_s):
            return
        self._spool_next_s = now_s + SPOOL_EVERY_S
        with self._changed:
            entries = list(self._queue)
        taken: list[_Entry] = []
        packed: list[bytes] = []
        given_up: list[_Entry] = []
        kept: list[_Entry] = []
        size = 0
        for entry in entries:
            record = entry.pack()
            share = DROPPABLE_SHARE if entry.droppable else 1
            if not kept and spool.fits(size + len(record), len(packed) + 1, share):
                taken.append(entry)
                packed.append(record)
                size += len(record)
            else:
                (given_up if entry.droppable else kept).append(entry)
        try:
            spool.append(packed)
        except SinkError as error:
            self._stick(str(error))
            return
        if kept:
            self._stick(f"the spool {spool.folder} is full ({spool.max_bytes >> 20} MiB)")
        else:
            self._spool_stuck = False
        for entry in taken:
            if entry.on_acknowledged and len(self._late) < MAX_CALLBACKS:
                self._late.append((self._spooled, entry.on_acknowledged))
            self._spooled += 1
        with self._changed:
            for _ in entries:
                self._queue.popleft()
            self._queue.extendleft(reversed(kept))
            for entry in taken:
                self._release(entry)
            for entry in given_up:
                self._release(entry)
                self._dropped[entry.topic] += 1
            self._shedding = bool(given_up)
            self._changed.notify_all()

    def _stick(self, reason: str) -> None:
        if not self._spool_stuck:
            self._spool_stuck = True
            _log.error("writers of the Kafka sink wait", brokers=self._servers, reason=reason)

    def _drain(self) -> None:
        """Send the oldest spooled events; take them off the spool when all of them were acknowledged."""
        spool = self._spool
        if spool is None or self._producer is None:
            return
        if self._draining:
            if self._unsettled:
                return
            spool.done(self._draining)
            self._drained += len(self._draining)
            self._draining = []
            while self._late and self._late[0][0] < self._drained:
                self._late.popleft()[1]()
        try:
            self._draining = spool.peek(DRAIN_RECORDS, DRAIN_BYTES)
        except SinkError as error:
            self._stick(str(error))
            return
        if self._draining:
            self._send([_Entry.unpack(record) for record in self._draining])
        else:
            self._poked = True  # nothing is left: the queue can be sent
