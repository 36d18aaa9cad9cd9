"""KafkaSource: packets from the records of a topic."""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import av
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from stream.clock import Clock
from stream.config import KafkaInput, SourceConfig
from stream.errors import RecordError, SourceUnavailable
from stream.events import DeadLetter, event_id, timestamp
from stream.frame import REWIND_S, Packet, encoded
from stream.kafka_client import client_options, explain, unreachable
from stream.logs import get_logger
from stream.sources.records import Codec, Payload, parse

POLL_S = 0.5
PROBE_AFTER_S = 5.0  # without a record: then look whether the brokers still listen
COMMIT_INTERVAL_S = 1.0  # at most this much is read again after a crash
COMMIT_TIMEOUT_S = 5.0
POLLED_RECORDS = 100
FETCH_BYTES = 8 * 2**20  # waiting in memory; a single larger record still comes
DEAD_LETTER_BYTES = 4096
MAX_OPEN_KEYS = 64  # more than any decoder holds back
MAX_AHEAD_S = 3600.0  # what Kafka 4 lets records be ahead of the broker's clock by default (KIP-937)
MAX_AGE_S = 3600.0  # older records are a recording, whose latency says nothing
TIME_BASE = Fraction(1, 1_000_000)
INDEX_NOTE = "frame_index="
FAILURES = (KafkaError, OSError, ValueError, TypeError, AssertionError)

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Boundary:
    """Reading may begin again at ``offset``, with the number ``index``, once all frames below ``index`` are safe.

    ``elsewhere``: how far the other partitions had been looked through by then.
    """

    offset: int
    index: int
    elsewhere: Mapping[TopicPartition, int]


class KafkaSource:
    """One source's records in a topic; ``records`` says what they look like.

    Time: ``captured_at`` is the record's timestamp. ``pts_s`` is on the same clock, so it goes on over restarts and over
    several videos in one topic; within a video it follows the header ``pts_s`` from key frame to key frame. Where a picture
    or key frame was stamped more than ``REWIND_S`` before the newest one (a clip is published once more, say), time begins
    anew with it, in a new codec context.

    Numbers: the ``frame_index`` of a picture is its offset. In encoded video a key frame has its offset too (or the
    next free number where frames before it needed more), and the frames behind it count on in presentation order. A
    replay numbers alike, so ``session`` is empty.

    Order: the records of one source lie in one partition, the first in which one is seen; one from elsewhere becomes a
    dead letter. So does a record that cannot be read or decoded, or that is stamped more than ``MAX_AHEAD_S`` in the
    future. Records with another key are skipped, as is encoded video before its first key frame. The last frames of a
    video with B-frames stay in the decoder until the next video or an end-of-stream record comes.

    Offsets are committed for the group, but the partitions are assigned by hand: a restarted consumer goes on at once
    instead of waiting for a dead member's session to end. Partitions added to the topic are seen at the next opening.

    What is committed, and when:

    1. The decoder numbers a frame that begins a boundary (a picture, a key frame, or an end of stream).
    2. The caller says with ``commit(frame_index)`` that all events up to that frame are safe.
    3. The last boundary whose predecessors are all safe is committed, with its number as metadata, at most once per
       ``COMMIT_INTERVAL_S`` and on leaving. Video is thus read again from a key frame, never from between two.
    """

    session = ""

    def __init__(self, config: SourceConfig, kafka: KafkaInput, clock: Clock):
        self.source_id = config.id
        self.skipped = {"other_key": 0, "no_key_frame": 0, "empty": 0}
        self._config, self._kafka, self._clock = config, kafka, clock
        self._consumer: Any = None
        self._partition: TopicPartition | None = None
        self._elsewhere: Mapping[TopicPartition, int] = {}
        self._contexts: dict[Codec, av.VideoCodecContext] = {}
        self._codec: Codec | None = None  # of the packet given last; None: a key frame is needed
        self._newest_at = 0.0  # POSIX seconds of the newest record of this video
        self._base_s = 0.0  # record time minus media time at the last key frame
        self._next_index = 0
        self._keys: dict[int, Mapping[TopicPartition, int]] = {}  # boundaries that are given but not numbered yet
        self._boundaries: deque[_Boundary] = deque()
        self._letters: deque[DeadLetter] = deque()
        self._letter_open = False  # a dead letter that no numbered frame has followed yet
        self._record: Any = None  # given last
        self._to_commit: _Boundary | None = None
        self._committed_s = 0.0
        self._commit_failed = False
        self._closed = False

    # -- opening and closing

    def __enter__(self) -> KafkaSource:
        options = client_options(self._kafka) | {
            "group_id": self._kafka.group or f"framewatch.{self.source_id}",
            "enable_auto_commit": False,
            "auto_offset_reset": self._kafka.offset_reset,
            "allow_auto_create_topics": False,
            "max_partition_fetch_bytes": FETCH_BYTES,
            "fetch_max_bytes": FETCH_BYTES,
            "metrics_enabled": False,
        }
        only_for_producers = KafkaProducer.DEFAULT_CONFIG.keys() - KafkaConsumer.DEFAULT_CONFIG.keys()
        try:
            self._consumer = KafkaConsumer(**{k: v for k, v in options.items() if k not in only_for_producers})
            self._assign()
        except FAILURES as error:
            self._leave()
            raise SourceUnavailable(self.source_id, explain(error, self._kafka)) from None
        except SourceUnavailable:
            self._leave()
            raise
        return self

    def _assign(self) -> None:
        topic = self._config.topic
        partitions = self._consumer.partitions_for_topic(topic)
        if not partitions:
            raise SourceUnavailable(self.source_id, f"there is no topic {topic!r}")
        assigned = [TopicPartition(topic, number) for number in sorted(partitions)]
        self._consumer.assign(assigned)
        for partition in assigned:
            committed = self._consumer.committed(partition, metadata=True, timeout_ms=int(COMMIT_TIMEOUT_S * 1000))
            if committed is not None and str(committed.metadata).startswith(INDEX_NOTE):
                self._partition = partition
                self._next_index = int(committed.metadata.removeprefix(INDEX_NOTE))

    def __exit__(self, *exc: object) -> None:
        self._closed = True
        if self._to_commit is not None:
            try:
                self._consumer.commit(self._offsets(self._to_commit), timeout_ms=int(COMMIT_TIMEOUT_S * 1000))
            except FAILURES as error:
                self._commit_answered(None, error)
        self._leave()

    def _leave(self) -> None:
        if self._consumer is not None:
            self._consumer.close(autocommit=False, timeout_ms=1000)

    def close(self) -> None:
        self._closed = True

    # -- reading

    def codec_context(self) -> av.VideoCodecContext:
        assert self._codec is not None
        if self._codec not in self._contexts:
            context = av.CodecContext.create(self._codec, "r")
            if self._codec in ("mjpeg", "png"):
                context.options = {"err_detect": "crccheck+bitstream+buffer+explode"}  # a damaged picture is an error
            self._contexts[self._codec] = context
        return self._contexts[self._codec]

    def packets(self) -> Iterator[Packet | DeadLetter | None]:
        heard_s = self._clock.monotonic()
        while not self._closed:
            try:
                polled = self._consumer.poll(timeout_ms=int(POLL_S * 1000), max_records=POLLED_RECORDS)
            except FAILURES as error:
                raise SourceUnavailable(self.source_id, explain(error, self._kafka)) from None
            if polled:
                heard_s = self._clock.monotonic()
            elif self._clock.monotonic() - heard_s > PROBE_AFTER_S:
                heard_s = self._clock.monotonic()
                if reason := unreachable(self._kafka):
                    raise SourceUnavailable(self.source_id, reason)
            for partition, records in polled.items():
                for record in records:
                    yield from self._read(partition, record)
                    if self._closed:
                        return
            self._commit_when_due()
            yield None

    def _read(self, partition: TopicPartition, record: Any) -> Iterator[Packet | DeadLetter]:
        """Whatever one record gives."""
        wanted = self._config.record_key
        if wanted is not None and (record.key or b"").decode("utf-8", "replace") != wanted:
            self._skip("other_key", partition, record)
            return
        if self._partition is None:
            self._partition = partition
        if partition != self._partition:
            home = self._partition.partition
            yield self._dead_letter(record, f"from partition {partition.partition}, but this source's records lie in {home}")
            self._elsewhere = {**self._elsewhere, partition: record.offset + 1}
            return
        if record.value is None:
            self._skip("empty", partition, record)
            return
        ahead_s = (record.timestamp or 0) / 1000 - self._clock.time()
        if ahead_s > MAX_AHEAD_S:  # it would hold up all that comes after it until then
            yield self._dead_letter(record, f"its timestamp, {record.timestamp} ms, lies {ahead_s:.0f} s in the future")
            return
        try:
            payload = parse(record.value, record.headers)
        except RecordError as error:
            yield self._dead_letter(record, str(error))
            return
        if payload.codec is not None and payload.codec != self._codec and not payload.key:
            self._skip("no_key_frame", partition, record)
            return
        yield self._packet(record, payload)
        yield from self._after(record, payload)

    def _packet(self, record: Any, payload: Payload) -> Packet:
        now_s, now_at = self._clock.monotonic(), self._clock.time()
        captured_at = record.timestamp / 1000 if record.timestamp and record.timestamp > 0 else now_at
        if payload.codec is None:
            return Packet(cast("av.Packet[av.VideoStream]", av.Packet()), captured_at, now_s, record.offset)
        self._codec, self._record = payload.codec, record
        pts_s = captured_at
        if payload.key and captured_at < self._newest_at - REWIND_S:
            self._contexts.clear()
            self._newest_at = captured_at
        self._newest_at = max(self._newest_at, captured_at)
        if payload.key:
            self._keys[record.offset] = self._elsewhere
            if len(self._keys) > MAX_OPEN_KEYS:  # key frames that the decoder swallowed
                del self._keys[next(iter(self._keys))]
            self._base_s = 0.0 if payload.pts_s is None else captured_at - payload.pts_s
        if payload.pts_s is not None:
            pts_s = self._base_s + payload.pts_s
        data = encoded(record.value)
        data.time_base, data.pts = TIME_BASE, round(pts_s / TIME_BASE)
        age_s = now_at - captured_at
        return Packet(data, captured_at, now_s, record.offset, age_s if 0 < age_s <= MAX_AGE_S else 0.0, payload.traceparent)

    def _after(self, record: Any, payload: Payload) -> Iterator[DeadLetter]:
        """The packet has been decoded: hand on what was wrong with it, and see whether reading may begin behind it."""
        while self._letters:
            yield self._letters.popleft()
        if payload.picture or payload.codec is None:
            self._keys.clear()
            if not self._letter_open:
                self._boundaries.append(_Boundary(record.offset + 1, self._next_index, self._elsewhere))
        if payload.codec is None:
            self._codec = None

    def _skip(self, reason: str, partition: TopicPartition, record: Any) -> None:
        if not self.skipped[reason]:
            text = {"other_key": "has another key", "no_key_frame": "comes before the first key frame", "empty": "is empty"}[reason]
            where = f"{partition.topic}-{partition.partition}@{record.offset}"
            logger.warning("records are skipped", source_id=self.source_id, first=where, reason=text)
        self.skipped[reason] += 1
        if partition != self._partition:
            self._elsewhere = {**self._elsewhere, partition: record.offset + 1}

    # -- called by the decoder

    def number(self, position: int) -> int:
        index = self._next_index
        elsewhere = self._keys.pop(position, None)
        if elsewhere is not None:
            index = max(index, position)
            if not self._letter_open:
                self._boundaries.append(_Boundary(position, index, elsewhere))
        self._letter_open = False
        self._next_index = index + 1
        return index

    def reject(self, packet: Packet, reason: str) -> None:
        self._keys.pop(packet.position, None)
        if self._record is not None and self._record.offset == packet.position:
            self._letters.append(self._dead_letter(self._record, reason))

    def _dead_letter(self, record: Any, reason: str) -> DeadLetter:
        self._letter_open = True
        payload = (record.value or b"")[:DEAD_LETTER_BYTES]
        return DeadLetter(
            event_id=event_id("dead_letter", record.topic, record.partition, record.offset),
            source_id=self.source_id,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=reason,
            at=timestamp(self._clock.time()),
            payload_bytes=len(payload),
            payload=base64.b64encode(payload).decode(),
        )

    # -- committing

    def commit(self, frame_index: int) -> None:
        while self._boundaries and self._boundaries[0].index <= frame_index + 1:
            self._to_commit = self._boundaries.popleft()
        self._commit_when_due()

    def _commit_when_due(self) -> None:
        if self._to_commit is None or self._clock.monotonic() - self._committed_s < COMMIT_INTERVAL_S:
            return
        self._consumer.commit_async(self._offsets(self._to_commit), callback=self._commit_answered)
        self._to_commit, self._committed_s = None, self._clock.monotonic()

    def _offsets(self, boundary: _Boundary) -> dict[TopicPartition, OffsetAndMetadata]:
        assert self._partition is not None
        offsets = {partition: OffsetAndMetadata(offset, "", -1) for partition, offset in boundary.elsewhere.items()}
        offsets[self._partition] = OffsetAndMetadata(boundary.offset, f"{INDEX_NOTE}{boundary.index}", -1)
        return offsets

    def _commit_answered(self, offsets: object, answer: object) -> None:
        failed = isinstance(answer, BaseException)
        if failed and not self._commit_failed:
            logger.warning("offsets are not committed; tried again", source_id=self.source_id, reason=type(answer).__name__)
        self._commit_failed = failed
