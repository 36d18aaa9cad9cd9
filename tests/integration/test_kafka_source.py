"""KafkaSource and publish against a real broker."""

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import av
import cv2
import numpy as np
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from stream.clock import SystemClock
from stream.config import KafkaConnection, KafkaInput, SourceConfig
from stream.decode import DecodedFrame, Decoder
from stream.errors import SinkUnavailable, SourceTruncated, SourceUnavailable, SourceUnreadable
from stream.events import DeadLetter
from stream.frame import Packet
from stream.publish import publish
from stream.scale import to_picture
from stream.sources.file import FileSource
from stream.sources.kafka import KafkaSource
from tests.support.kafka_broker import Broker, free_port
from tests.support.media import cut, make_video, picture

pytestmark = pytest.mark.kafka


@dataclass
class Reading:
    """What came out of a source."""

    frames: list[DecodedFrame] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)

    @property
    def indices(self) -> list[int]:
        return [frame.frame_index for frame in self.frames]


def connection(broker: Broker) -> KafkaConnection:
    return KafkaConnection(bootstrap_servers=[broker.bootstrap])


def source_of(broker: Broker, topic: str, key: str = "cam", query: str = "", **settings: str) -> KafkaSource:
    kafka = KafkaInput(bootstrap_servers=[broker.bootstrap], **settings)  # type: ignore[arg-type]
    return KafkaSource(SourceConfig(id=key, uri=f"kafka://{topic}{query}"), kafka, SystemClock())


def read(
    source: KafkaSource, frames: int, *, letters: int = 0, commit: bool = True, seconds: float = 20, last: int | None = None
) -> Reading:
    """Read until so many frames (or the frame of index ``last``) and dead letters came, committing each frame at once."""
    reading, end_s = Reading(), time.monotonic() + seconds
    with source:
        decoder = Decoder(source)
        for item in source.packets():
            if isinstance(item, DeadLetter):
                reading.letters.append(item)
            elif isinstance(item, Packet):
                reading.frames += decoder.decode(item)
            if commit and reading.frames:
                source.commit(reading.frames[-1].frame_index)
            enough = len(reading.frames) >= frames or (reading.frames and reading.indices[-1] == last)
            if (enough and len(reading.letters) >= letters and item is None) or time.monotonic() > end_s:
                break
    reading.skipped = source.skipped
    return reading


def committed(broker: Broker, topic: str, group: str = "framewatch.cam", partition: int = 0) -> int | None:
    consumer = KafkaConsumer(bootstrap_servers=[broker.bootstrap], group_id=group)
    try:
        return consumer.committed(TopicPartition(topic, partition))
    finally:
        consumer.close()


def jpeg(index: int) -> bytes:
    return cv2.imencode(".jpg", picture(index))[1].tobytes()


def send(broker: Broker, topic: str, records: list[dict]) -> None:
    producer = KafkaProducer(bootstrap_servers=[broker.bootstrap], acks="all")
    for record in records:
        producer.send(topic, **{"key": b"cam", **record}).get(timeout=20)
    producer.close()


def make_topic(broker: Broker, topic: str, partitions: int = 1) -> str:
    admin = KafkaAdminClient(bootstrap_servers=[broker.bootstrap])
    admin.create_topics({topic: {"num_partitions": partitions, "replication_factor": 1}})
    admin.close()
    return topic


# -- pictures


def test_published_jpegs_come_back(kafka_broker: Broker, tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", 20)
    before = time.time()
    report = publish(path, "jpegs", "cam", connection(kafka_broker))
    assert report.records == 20
    assert report.bytes > 20 * 500
    reading = read(source_of(kafka_broker, "jpegs"), 20)
    assert reading.indices == list(range(20))
    assert reading.letters == []
    times = [frame.captured_at for frame in reading.frames]
    assert np.diff(times) == pytest.approx([0.1] * 19, abs=2e-3)
    assert before - 2.1 < times[0] <= time.time()
    assert [frame.pts_s for frame in reading.frames] == pytest.approx(times, abs=2e-3)
    with av.open(str(path)) as container:
        for ours, theirs in zip(reading.frames, container.decode(video=0), strict=True):
            a, b = (frame.to_ndarray(format="bgr24").astype(int) for frame in (ours.frame, theirs))
            assert np.abs(a - b).mean() < 4
    assert committed(kafka_broker, "jpegs") == 20


def test_a_restart_goes_on_where_it_was_committed(kafka_broker: Broker, tmp_path: Path) -> None:
    publish(make_video(tmp_path / "clip.mp4", 12), "resumed", "cam", connection(kafka_broker))
    source = source_of(kafka_broker, "resumed")
    with source:
        decoder, frames = Decoder(source), []
        for item in source.packets():
            frames += decoder.decode(item) if isinstance(item, Packet) else []
            if len(frames) == 12:
                break
        source.commit(4)
    reading = read(source_of(kafka_broker, "resumed"), 7)
    assert reading.indices == list(range(5, 12))
    assert [f.captured_at for f in reading.frames] == [f.captured_at for f in frames[5:]]
    assert [f.pts_s for f in reading.frames] == [f.pts_s for f in frames[5:]]


def test_nothing_is_committed_without_commit(kafka_broker: Broker, tmp_path: Path) -> None:
    publish(make_video(tmp_path / "clip.mp4", 5), "uncommitted", "cam", connection(kafka_broker))
    for _ in range(2):
        assert read(source_of(kafka_broker, "uncommitted"), 5, commit=False).indices == list(range(5))
    assert committed(kafka_broker, "uncommitted") is None


def test_pictures_without_headers_png_and_bad_records(kafka_broker: Broker) -> None:
    png = cv2.imencode(".png", picture(1))[1].tobytes()
    damaged = bytearray(jpeg(5))
    at = len(damaged) // 2
    damaged[at : at + 200] = b"\xff\xc4" * 100
    records = [
        {"value": jpeg(0)},
        {"value": jpeg(1)[: len(jpeg(1)) // 2]},
        {"value": png},
        {"value": b"certainly no picture"},
        {"value": jpeg(2), "headers": [("content-type", b"image/webp")]},
        {"value": bytes(damaged)},
        {"value": png[: len(png) // 2] + png[-8:]},
        {"value": b"x", "key": b"other"},
        {"value": jpeg(3), "headers": [("content-type", b"image/jpeg")]},
    ]
    topic = make_topic(kafka_broker, "mixed")
    send(kafka_broker, topic, records)
    reading = read(source_of(kafka_broker, topic), 3, letters=5)
    assert reading.indices == [0, 2, 8]
    assert [letter.offset for letter in reading.letters] == [1, 3, 4, 5, 6]
    reasons = [letter.reason for letter in reading.letters]
    assert "cut off" in reasons[0]
    assert "neither JPEG nor PNG" in reasons[1]
    assert "image/webp" in reasons[2]
    assert "cannot be decoded" in reasons[3]
    assert "cannot be decoded" in reasons[4]
    assert base64.b64decode(reading.letters[1].payload) == b"certainly no picture"
    assert reading.skipped == {"other_key": 1, "no_key_frame": 0, "empty": 0}
    again = read(source_of(kafka_broker, topic, group="another"), 3, letters=5)
    assert [letter.event_id for letter in again.letters] == [letter.event_id for letter in reading.letters]


def test_a_dead_letter_is_not_committed_before_the_next_frame(kafka_broker: Broker) -> None:
    topic = make_topic(kafka_broker, "dead-letter-last")
    send(kafka_broker, topic, [{"value": jpeg(0)}, {"value": b"bad"}])
    assert len(read(source_of(kafka_broker, topic), 1, letters=1).letters) == 1
    assert committed(kafka_broker, topic) == 1
    assert [letter.offset for letter in read(source_of(kafka_broker, topic), 0, letters=1).letters] == [1]


def test_a_large_payload_is_cut_in_the_dead_letter(kafka_broker: Broker) -> None:
    topic = make_topic(kafka_broker, "large-dead-letter")
    send(kafka_broker, topic, [{"value": b"x" * 9000}])
    letter = read(source_of(kafka_broker, topic), 0, letters=1).letters[0]
    assert letter.payload_bytes == 4096
    assert base64.b64decode(letter.payload) == b"x" * 4096


def test_keys_choose_the_records(kafka_broker: Broker) -> None:
    topic = make_topic(kafka_broker, "keys")
    send(kafka_broker, topic, [{"value": jpeg(i), "key": b"ab"[i % 2 : i % 2 + 1]} for i in range(6)])
    assert read(source_of(kafka_broker, topic, "a"), 3).indices == [0, 2, 4]
    assert read(source_of(kafka_broker, topic, "cam", "?key=b"), 3).indices == [1, 3, 5]
    assert read(source_of(kafka_broker, topic, "all", "?key=*"), 6).indices == [0, 1, 2, 3, 4, 5]


def test_records_of_another_partition_are_dead_letters(kafka_broker: Broker) -> None:
    topic = make_topic(kafka_broker, "partitions", partitions=3)
    send(kafka_broker, topic, [{"value": jpeg(i), "partition": 1} for i in range(3)])
    assert read(source_of(kafka_broker, topic), 3).indices == [0, 1, 2]
    send(kafka_broker, topic, [{"value": jpeg(3), "partition": 2}])
    elsewhere = read(source_of(kafka_broker, topic), 0, letters=1)
    assert [letter.partition for letter in elsewhere.letters] == [2]
    assert "partition 2" in elsewhere.letters[0].reason
    send(kafka_broker, topic, [{"value": jpeg(4), "partition": 1}])
    assert read(source_of(kafka_broker, topic), 1, letters=1).indices == [3]
    last = read(source_of(kafka_broker, topic), 0, seconds=2)
    assert (last.indices, last.letters) == ([], [])  # the other partition's offset was committed with the frame


# -- encoded video


@pytest.mark.parametrize("b_frames", [0, 3])
def test_published_h264_comes_back(kafka_broker: Broker, tmp_path: Path, b_frames: int) -> None:
    topic, path = f"h264-{b_frames}", make_video(tmp_path / "clip.mp4", 35, b_frames=b_frames)
    assert publish(path, topic, "cam", connection(kafka_broker), "h264").records == 35
    reading = read(source_of(kafka_broker, topic), 35)
    assert reading.indices == list(range(35))
    assert np.diff([f.pts_s for f in reading.frames]) == pytest.approx([0.1] * 34, abs=2e-3)
    assert np.diff([f.captured_at for f in reading.frames]) == pytest.approx([0.1] * 34, abs=2e-3)
    with av.open(str(path)) as container:  # bit for bit the frames of the file
        for ours, theirs in zip(reading.frames, container.decode(video=0), strict=True):
            assert np.array_equal(ours.frame.to_ndarray(format="gray"), theirs.to_ndarray(format="gray"))
    assert committed(kafka_broker, topic) == 36  # behind the end-of-stream record


@pytest.mark.parametrize("name", ["one-by-one-person-detection.mp4", "Retail02_short.mp4"])
def test_a_restart_numbers_real_video_alike(kafka_broker: Broker, shared: Path, tmp_path: Path, name: str) -> None:
    """Also with B-frames and open GOPs, where key frames are preceded by frames that are sent after them."""
    topic, clip = name.split(".")[0], cut(shared / "data/videos" / name, tmp_path / name, 9.5)
    report = publish(clip, topic, "cam", connection(kafka_broker), "h264")
    whole = read(source_of(kafka_broker, topic, group="whole"), report.records, commit=False, seconds=60)
    assert len(whole.frames) == report.records
    assert whole.indices == list(range(report.records))
    known = {f.frame_index: (f.pts_s, f.captured_at) for f in whole.frames}
    for stop_after in (report.records * 3 // 10, report.records * 9 // 10):  # in the first GOP of both, and in the last
        source = source_of(kafka_broker, topic, group="restarted")
        seen = []
        with source:
            decoder = Decoder(source)
            for item in source.packets():
                frames = decoder.decode(item) if isinstance(item, Packet) else []
                seen += frames
                if frames and frames[-1].frame_index >= stop_after:
                    source.commit(stop_after)
                    break
        assert {f.frame_index: (f.pts_s, f.captured_at) for f in seen}.items() <= known.items()
    kept = committed(kafka_broker, topic, "restarted")
    assert kept is not None
    assert 0 < kept <= stop_after + 1
    # Of an open GOP the first frames are left out: they need the GOP before.
    rest = source_of(kafka_broker, topic, group="restarted")
    last = read(rest, report.records - kept, seconds=60, last=report.records - 1)
    assert {f.frame_index: (f.pts_s, f.captured_at) for f in last.frames}.items() <= known.items()
    assert set(range(stop_after + 1, report.records)) <= set(last.indices)
    assert committed(kafka_broker, topic, "restarted") == report.records + 1


def test_a_reader_that_joins_in_the_middle_waits_for_a_key_frame(kafka_broker: Broker, tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", 30, gop=10)
    publish(path, "whole-video", "cam", connection(kafka_broker), "h264")
    consumer = KafkaConsumer("whole-video", bootstrap_servers=[kafka_broker.bootstrap], auto_offset_reset="earliest")
    records: list = []
    while len(records) < 31:
        records += [r for batch in consumer.poll(1000).values() for r in batch]
    consumer.close()
    topic = make_topic(kafka_broker, "half-video")
    send(kafka_broker, topic, [{"value": r.value, "headers": r.headers, "timestamp_ms": r.timestamp} for r in records[14:]])
    reading = read(source_of(kafka_broker, topic), 10)
    assert reading.skipped["no_key_frame"] == 6
    assert reading.indices == list(range(6, 16))
    assert reading.letters == []


def test_two_videos_in_one_topic_go_on(kafka_broker: Broker, tmp_path: Path) -> None:
    for frames in (15, 12):
        publish(make_video(tmp_path / "clip.mp4", frames, b_frames=2), "two-videos", "cam", connection(kafka_broker), "h264")
        time.sleep(0.2)
    reading = read(source_of(kafka_broker, "two-videos"), 27)
    assert reading.indices == [*range(15), *range(16, 28)]  # 15 is the end of the first stream
    times = [f.pts_s for f in reading.frames]
    assert times == sorted(times)


@pytest.mark.parametrize("payload", ["jpeg", "h264"])
def test_a_clip_published_twice_comes_twice(kafka_broker: Broker, tmp_path: Path, payload: Literal["jpeg", "h264"]) -> None:
    """The second one is stamped as if it had ended now, so it begins before the first one ended."""
    topic, path = f"twice-{payload}", make_video(tmp_path / "clip.mp4", 40, b_frames=2, gop=10)
    for _ in range(2):
        publish(path, topic, "cam", connection(kafka_broker), payload)
    frames = read(source_of(kafka_broker, topic), 80).frames
    times = [frame.pts_s for frame in frames]
    assert [np.diff(one) == pytest.approx([0.1] * 39, abs=2e-3) for one in (times[:40], times[40:])] == [True, True]
    assert times[40] < times[39] - 1
    again = read(source_of(kafka_broker, topic, group="again"), 80).frames
    assert [(f.frame_index, f.pts_s, f.captured_at) for f in again] == [(f.frame_index, f.pts_s, f.captured_at) for f in frames]


def test_other_codecs_are_encoded(kafka_broker: Broker, tmp_path: Path) -> None:
    report = publish(
        make_video(tmp_path / "clip.avi", 12, codec="mjpeg", size=(130, 98)), "encoded", "cam", connection(kafka_broker), "h264"
    )
    assert report.records == 12
    reading = read(source_of(kafka_broker, "encoded"), 12)
    assert reading.indices == list(range(12))
    assert (reading.frames[0].width, reading.frames[0].height) == (130, 98)


def test_what_players_turn_arrives_upright(kafka_broker: Broker, tmp_path: Path) -> None:
    """Also with colours that FFmpeg's scaler does not know."""
    phone = make_video(tmp_path / "phone.mp4", 12, rotation=90, options={"x264-params": "colormatrix=YCgCo"})
    assert publish(phone, "turned", "cam", connection(kafka_broker), "h264").records == 12
    reading = read(source_of(kafka_broker, "turned"), 12)
    with FileSource(SourceConfig(id="phone", uri=str(phone)), SystemClock()) as source:
        decoder = Decoder(source)
        frames = [frame for item in source.packets() if isinstance(item, Packet) for frame in decoder.decode(item)]
    assert (reading.frames[0].width, reading.frames[0].height) == (96, 128)
    for got, expected in zip(reading.frames, frames, strict=True):
        assert np.abs(to_picture(got.frame).astype(int) - to_picture(expected.frame)).mean() < 3


def test_hevc(kafka_broker: Broker, shared: Path) -> None:
    publish(shared / "data/hostile/made/hevc.mp4", "hevc", "cam", connection(kafka_broker), "h264")
    assert read(source_of(kafka_broker, "hevc"), 60).indices == list(range(60))


def test_realtime_publishing_keeps_the_pace(kafka_broker: Broker, tmp_path: Path) -> None:
    began_s = time.monotonic()
    publish(make_video(tmp_path / "clip.mp4", 10), "paced", "cam", connection(kafka_broker), realtime=True)
    assert time.monotonic() - began_s > 0.85
    frames = read(source_of(kafka_broker, "paced"), 10).frames
    assert np.diff([f.captured_at for f in frames]) == pytest.approx([0.1] * 9, abs=0.02)


# -- what goes wrong


def test_broker_unreachable() -> None:
    port = free_port()
    kafka = KafkaInput(bootstrap_servers=[f"127.0.0.1:{port}"], options={"bootstrap_timeout_ms": 1500})
    with (
        pytest.raises(SourceUnavailable, match=f"127.0.0.1:{port} refused the connection"),
        KafkaSource(SourceConfig(id="cam", uri="kafka://frames"), kafka, SystemClock()),
    ):
        pass


def test_missing_topic(kafka_broker: Broker) -> None:
    with pytest.raises(SourceUnavailable, match="no topic 'nowhere'"), source_of(kafka_broker, "nowhere"):
        pass


def test_publish_tells_what_is_wrong(kafka_broker: Broker, tmp_path: Path, shared: Path) -> None:
    with pytest.raises(SourceUnreadable, match="no such file"):
        publish(tmp_path / "nowhere.mp4", "bad", "cam", connection(kafka_broker))
    nobody = KafkaConnection(bootstrap_servers=[f"127.0.0.1:{free_port()}"], options={"bootstrap_timeout_ms": 1500})
    with pytest.raises(SinkUnavailable, match="refused the connection"):
        publish(make_video(tmp_path / "clip.mp4", 2), "bad", "cam", nobody)
    with pytest.raises(SourceTruncated):
        publish(shared / "data/hostile/made/truncated_faststart.mp4", "cut", "cam", connection(kafka_broker))
    assert len(read(source_of(kafka_broker, "cut"), 25).frames) == 25


def test_the_broker_goes_and_comes_back(start_broker: Callable[..., Broker], tmp_path: Path) -> None:
    broker = start_broker()
    publish(make_video(tmp_path / "clip.mp4", 5), "outage", "cam", connection(broker))
    source = source_of(broker, "outage")
    with source:
        packets = source.packets()
        assert sum(isinstance(next(packets), Packet) for _ in range(5)) == 5
        broker.kill()
        with pytest.raises(SourceUnavailable, match="no broker can be reached"):
            list(packets)
    broker.start()
    assert read(source_of(broker, "outage"), 5).indices == list(range(5))


def test_sasl(start_broker: Callable[..., Broker], tmp_path: Path) -> None:
    broker = start_broker(sasl="camera:r1ght-pass")
    settings = {
        "bootstrap_servers": [broker.bootstrap],
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        "username": "camera",
        "options": {"bootstrap_timeout_ms": 2500},
    }
    right = KafkaInput(**settings, password="r1ght-pass")
    publish(make_video(tmp_path / "clip.mp4", 3), "secured", "cam", right)
    source = KafkaSource(SourceConfig(id="cam", uri="kafka://secured"), right, SystemClock())
    assert read(source, 3).indices == [0, 1, 2]
    wrong, config = KafkaInput(**settings, password="wr0ng-pass"), SourceConfig(id="cam", uri="kafka://secured")
    with pytest.raises(SourceUnavailable, match="authentication failed") as caught, KafkaSource(config, wrong, SystemClock()):
        pass
    assert "wr0ng-pass" not in str(caught.value)
    plain = KafkaInput(bootstrap_servers=[broker.bootstrap], options={"bootstrap_timeout_ms": 2500})
    with pytest.raises(SourceUnavailable, match="may want TLS or SASL"), KafkaSource(config, plain, SystemClock()):
        pass
