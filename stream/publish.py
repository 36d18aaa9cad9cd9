"""publish: a video file onto a Kafka topic, as ``kafka://`` sources read it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, cast

import av
import cv2
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError, TopicAlreadyExistsError

from stream.clock import Clock, SystemClock
from stream.config import KafkaConnection, SourceConfig
from stream.decode import DecodedFrame, Decoder
from stream.errors import SinkUnavailable, SourceTruncated, SourceUnreadable
from stream.frame import Packet
from stream.kafka_client import client_options, explain
from stream.scale import to_picture
from stream.sources.file import FileSource

MAX_RECORD_BYTES = 16 * 2**20  # a 4K key frame needs more than Kafka's default of 1 MiB
IN_FLIGHT = 64  # records whose acknowledgement is not awaited
ACKNOWLEDGE_S = 60.0
SECONDS_PER_GOP = 2
STREAMED = ("h264", "hevc")  # codecs that kafka:// sources read
FAILURES = (KafkaError, OSError, ValueError, TypeError, AssertionError)
Headers = list[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class PublishReport:
    """What was sent and acknowledged; an end-of-stream record is not counted."""

    records: int
    bytes: int


@dataclass(frozen=True, slots=True)
class _Record:
    value: bytes
    headers: Headers
    pts_s: float
    captured_at: float


def publish(
    path: Path,
    topic: str,
    source_id: str,
    connection: KafkaConnection,
    payload: Literal["jpeg", "h264"] = "jpeg",
    realtime: bool = False,
    quality: int = 90,
) -> PublishReport:
    """Send a video file to a topic, one picture or access unit a record, keyed by ``source_id``.

    Timestamps are those of a camera: with ``realtime`` the moment a frame was due, else as if the recording had ended
    just now. A missing topic is created with one partition. Every record is acknowledged by all replicas before this returns.

    Args:
        path: the file.
        topic: where to.
        source_id: key of the records.
        connection: the brokers.
        payload: ``jpeg`` decodes and sends pictures; ``h264`` sends H.264 and HEVC as they are, encodes the rest and what
            players turn (a stream cannot say so), and ends with an end-of-stream record.
        realtime: send at the speed of the video's clock.
        quality: of the JPEGs, 1 to 100.

    Raises:
        SourceUnreadable: the file cannot be read.
        SourceTruncated: the file broke off; what was read has been sent.
        SinkUnavailable: the brokers cannot be reached, or refuse the records.
    """
    clock = SystemClock()
    config = SourceConfig(id=source_id, uri=str(path), realtime=realtime)
    source = FileSource(config, clock)
    with source, _Sender(topic, source_id, connection) as sender:
        if payload == "jpeg":
            records = _pictures(source, quality)
        elif source.codec_context().name in STREAMED and not _is_turned(config, clock):
            records = _access_units(source)
        else:
            records = _encoded(source)
        began_at = clock.time() - (source.duration_s or 0.0)
        broken = None
        try:
            for record in records:
                sender.send(record, record.captured_at if realtime else began_at + record.pts_s)
        except SourceTruncated as error:
            broken = error
        if payload == "h264":
            sender.end()
        sender.flush()
    if broken is not None:
        raise broken
    return PublishReport(sender.records, sender.bytes)


class _Sender:
    """A producer with a bounded number of records in flight; errors surface as ``SinkUnavailable``."""

    def __init__(self, topic: str, key: str, connection: KafkaConnection):
        self.records = self.bytes = 0
        self._topic, self._key, self._connection = topic, key.encode(), connection
        self._in_flight: deque[Any] = deque()
        self._last_at = 0.0

    def __enter__(self) -> _Sender:
        options = client_options(self._connection) | {
            "acks": "all",
            "linger_ms": 5,
            "max_request_size": MAX_RECORD_BYTES,
            "metrics_enabled": False,
        }
        only_for_consumers = KafkaConsumer.DEFAULT_CONFIG.keys() - KafkaProducer.DEFAULT_CONFIG.keys()
        try:
            self._create_topic()
            self._producer = KafkaProducer(**{k: v for k, v in options.items() if k not in only_for_consumers})
        except FAILURES as error:
            raise SinkUnavailable(explain(error, self._connection)) from None
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self._producer.close(timeout=ACKNOWLEDGE_S if exc[0] is None else 1)
        except KafkaError as error:
            if exc[0] is None:
                raise SinkUnavailable(explain(error, self._connection)) from None

    def _create_topic(self) -> None:
        options = {k: v for k, v in client_options(self._connection).items() if k in KafkaAdminClient.DEFAULT_CONFIG}
        admin = KafkaAdminClient(**options)
        try:
            if self._topic not in admin.list_topics():
                limit = {"max.message.bytes": str(MAX_RECORD_BYTES)}
                admin.create_topics({self._topic: {"num_partitions": 1, "configs": limit}}, wait_for_metadata=True)
        except TopicAlreadyExistsError:
            pass  # somebody was faster
        finally:
            admin.close()

    def send(self, record: _Record, captured_at: float) -> None:
        self._send(record.value, record.headers, captured_at)
        self.records, self.bytes = self.records + 1, self.bytes + len(record.value)

    def end(self) -> None:
        """Tell readers that nothing follows which depends on what was sent."""
        if self.records:
            self._send(b"", [("end-of-stream", b"1")], self._last_at)

    def _send(self, value: bytes, headers: Headers, captured_at: float) -> None:
        self._last_at = captured_at
        try:
            sent = self._producer.send(self._topic, value, self._key, headers, timestamp_ms=round(captured_at * 1000))
            self._in_flight.append(sent)
            if len(self._in_flight) > IN_FLIGHT:
                self._in_flight.popleft().get(timeout=ACKNOWLEDGE_S)
        except FAILURES as error:
            raise SinkUnavailable(explain(error, self._connection)) from None

    def flush(self) -> None:
        """Wait until all records are acknowledged."""
        try:
            while self._in_flight:
                self._in_flight.popleft().get(timeout=ACKNOWLEDGE_S)
        except FAILURES as error:
            raise SinkUnavailable(explain(error, self._connection)) from None


def _pictures(source: FileSource, quality: int) -> Iterator[_Record]:
    """Every frame as a JPEG."""
    for decoded in _frames(source):
        done, encoded = cv2.imencode(".jpg", to_picture(decoded.frame), [cv2.IMWRITE_JPEG_QUALITY, quality])
        if not done:
            raise SourceUnreadable(source.source_id, f"a frame of {decoded.width} x {decoded.height} pixels does not fit in a JPEG")
        headers = [("content-type", b"image/jpeg"), ("pts_s", f"{decoded.pts_s:.6f}".encode())]
        yield _Record(encoded.tobytes(), headers, decoded.pts_s, decoded.captured_at)


def _frames(source: FileSource) -> Iterator[DecodedFrame]:
    decoder = Decoder(source)
    for item in source.packets():
        if isinstance(item, Packet):
            yield from decoder.decode(item)


def _is_turned(config: SourceConfig, clock: Clock) -> bool:
    """Whether the file's pictures are shown otherwise than they lie in it; its first one tells."""
    with FileSource(config.model_copy(update={"realtime": False}), clock) as source:
        try:
            first = next(_frames(source), None)
        except SourceTruncated:
            return False
        return first is not None and first.matrix != ()


def _access_units(source: FileSource) -> Iterator[_Record]:
    """The packets as they are in the file, in Annex B form."""
    name = source.codec_context().name
    extradata = source.codec_context().extradata or b""
    annex_b = None
    if extradata[:1] == b"\1":  # the MP4 form: lengths instead of start codes, parameter sets outside the packets
        annex_b = av.BitStreamFilterContext(f"{name}_mp4toannexb", source.stream)
    for item in source.packets():
        if isinstance(item, Packet) and item.data.size:
            for data in annex_b.filter(item.data) if annex_b else [item.data]:
                yield _access_unit(cast("av.Packet[av.VideoStream]", data), name, item.captured_at)


def _access_unit(data: av.Packet[av.VideoStream], codec: str, captured_at: float) -> _Record:
    headers = [("content-type", f"video/{codec}".encode())]
    pts_s = float((data.pts or 0) * data.time_base)
    if data.pts is not None:
        headers.append(("pts_s", f"{pts_s:.6f}".encode()))
    if data.is_keyframe:
        headers.append(("keyframe", b"1"))
    return _Record(bytes(data), headers, pts_s, captured_at)


def _encoded(source: FileSource) -> Iterator[_Record]:
    """Every frame encoded as H.264, parameter sets in front of each key frame; without B-frames none is held back."""
    encoder: av.VideoCodecContext | None = None
    for decoded in _frames(source):
        if encoder is None:
            encoder = av.CodecContext.create("libx264", "w")
            encoder.width, encoder.height = max(2, decoded.width & ~1), max(2, decoded.height & ~1)  # 4:2:0 wants even sizes
            encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, 90_000)
            encoder.gop_size = round(SECONDS_PER_GOP * (source.rate_fps or 25))
            encoder.options = {"preset": "veryfast", "tune": "zerolatency", "crf": "20"}
        picture = av.VideoFrame.from_ndarray(to_picture(decoded.frame), "bgr24")  # from any matrix, also one that FFmpeg lacks
        frame = picture.reformat(encoder.width, encoder.height, "yuv420p", threads=1)
        frame.pict_type, frame.time_base, frame.pts = 0, encoder.time_base, round(decoded.pts_s * 90_000)
        for data in encoder.encode(frame):
            yield _access_unit(cast("av.Packet[av.VideoStream]", data), "h264", decoded.captured_at)
