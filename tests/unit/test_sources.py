"""Files, the pieces that live sources share, and what a Kafka record may hold. No sockets here."""

import json
import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import pytest
from kafka import TopicPartition

from stream.clock import SystemClock
from stream.config import KafkaConnection, KafkaInput, SourceConfig
from stream.decode import DecodedFrame, Decoder
from stream.errors import RecordError, SourceError, SourceTruncated, SourceUnreadable
from stream.events import DeadLetter
from stream.frame import Packet
from stream.kafka_client import client_options, explain
from stream.retry import Backoff
from stream.sample import FrameSampler
from stream.sources import open_source
from stream.sources.file import FileSource
from stream.sources.kafka import KafkaSource
from stream.sources.records import is_key, parse
from stream.sources.rtsp import RtspSource
from stream.sources.timeline import Timeline
from stream.testing.clock import ManualClock
from tests.support.media import make_video, picture

NOW_S = 1_700_000_000


@dataclass
class Reading:
    """A source read to its end."""

    frames: list[DecodedFrame] = field(default_factory=list)
    heartbeats: int = 0
    undecodable: int = 0
    error: SourceError | None = None
    session: str = ""

    @property
    def pts_s(self) -> list[float]:
        return [frame.pts_s for frame in self.frames]


def read(path: Path | str, clock: ManualClock | SystemClock | None = None, limit: int = 100_000, **settings: bool) -> Reading:
    reading = Reading()
    source = FileSource(SourceConfig(id="cam", uri=str(path), **settings), clock or ManualClock())
    decoder = Decoder(source)
    try:
        with source:
            reading.session = source.session
            for item in source.packets():
                if item is None:
                    reading.heartbeats += 1
                elif isinstance(item, Packet):
                    reading.frames += decoder.decode(item)
                if len(reading.frames) >= limit:
                    source.close()
    except SourceError as error:
        reading.error = error
    reading.undecodable = decoder.undecodable
    return reading


# -- plain files


def test_a_whole_file(tmp_path: Path) -> None:
    reading = read(make_video(tmp_path / "clip.mp4", 25, b_frames=2))
    assert reading.error is None
    assert [frame.frame_index for frame in reading.frames] == list(range(25))
    assert reading.pts_s == pytest.approx([i / 10 for i in range(25)])
    assert reading.session == ""


def test_captured_at_is_the_creation_time(tmp_path: Path) -> None:
    frames = read(make_video(tmp_path / "clip.mp4", 3, creation_time="2024-05-01T12:00:00.500000Z")).frames
    assert [frame.captured_at for frame in frames] == pytest.approx([1_714_564_800.5, 1_714_564_800.6, 1_714_564_800.7])


@pytest.mark.parametrize("nonsense", [None, "1904-01-01T00:00:00Z", "yesterday"])
def test_else_the_time_of_the_file(tmp_path: Path, nonsense: str | None) -> None:
    path = make_video(tmp_path / "clip.mkv", 2, creation_time=nonsense)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    assert [f.captured_at for f in read(path).frames] == pytest.approx([1_700_000_000.0, 1_700_000_000.1])


def test_a_replay_is_identical(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", 12, b_frames=2)
    first, second = ([(f.frame_index, f.pts_s, f.captured_at) for f in read(path).frames] for _ in range(2))
    assert first == second


def test_transport_stream_times_begin_at_zero(tmp_path: Path) -> None:
    reading = read(make_video(tmp_path / "clip.ts", 10))
    assert reading.pts_s == pytest.approx([i / 10 for i in range(10)])


@pytest.mark.parametrize("uri", ["file:{}", "file://{}", "{}"])
def test_ways_to_write_a_path(tmp_path: Path, uri: str) -> None:
    path = make_video(tmp_path / "a clip: 100%d.mp4", 2)
    assert len(read(uri.format(path)).frames) == 2


# -- files that are none


def test_missing_file(tmp_path: Path) -> None:
    error = read(tmp_path / "nowhere.mp4").error
    assert isinstance(error, SourceUnreadable)
    assert "nowhere.mp4: no such file" in error.reason


def test_a_folder(tmp_path: Path) -> None:
    error = read(tmp_path).error
    assert isinstance(error, SourceUnreadable)
    assert "not a file" in error.reason


def test_unknown_codec(tmp_path: Path) -> None:
    data = bytearray(make_video(tmp_path / "clip.mp4", 3).read_bytes())
    at = data.find(b"avc1", data.find(b"stsd"))
    data[at : at + 4] = b"zzzz"
    (tmp_path / "odd.mp4").write_bytes(bytes(data))
    error = read(tmp_path / "odd.mp4").error
    assert isinstance(error, SourceUnreadable)
    assert "codec" in error.reason


@pytest.mark.parametrize("script", ["ffconcat version 1.0\nfile other.mp4\n", "#EXTM3U\n#EXTINF:10,\nother.ts\n#EXT-X-ENDLIST\n"])
def test_a_script_opens_no_other_file(tmp_path: Path, script: str) -> None:
    make_video(tmp_path / "other.mp4", 2)
    make_video(tmp_path / "other.ts", 2)
    path = tmp_path / "innocent.mp4"
    path.write_text(script)
    reading = read(path)
    assert isinstance(reading.error, SourceUnreadable)
    assert reading.frames == []


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".mov"])
def test_truncated_files_are_noticed(tmp_path: Path, suffix: str) -> None:
    whole = make_video(tmp_path / f"whole{suffix}", 60, codec="libx264" if suffix != ".avi" else "mjpeg")
    if suffix == ".mov":  # index in front, as .mp4 here has it anyway
        whole = make_video(tmp_path / "whole.mp4", 60).rename(whole)
    assert read(whole).error is None
    data = whole.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(data[: len(data) // (4 if suffix == ".avi" else 2)])  # the index at the end of an AVI is as large as its data
    reading = read(cut)
    assert isinstance(reading.error, SourceTruncated)
    assert 5 < len(reading.frames) < 50
    assert str(cut) in reading.error.reason


def test_a_segment_of_a_recording_is_whole_although_its_times_begin_late(tmp_path: Path) -> None:
    segment = make_video(tmp_path / "segment.mkv", 60, start_s=60)
    assert read(segment).error is None
    assert read(segment, SystemClock(), limit=100, loop=True).error is None
    data = segment.read_bytes()
    segment.write_bytes(data[: len(data) // 2])
    reading = read(segment)
    assert isinstance(reading.error, SourceTruncated)
    assert "6.0 s are announced" in reading.error.reason
    assert 5 < len(reading.frames) < 50


GOOD = {
    "bframes.mp4": 60, "faststart.mp4": 60, "fragmented.mp4": 60, "gap_30s.mp4": 60, "gray.mkv": 60, "hevc.mp4": 60,
    "jpeg_named.mp4": 1, "long_gop.mp4": 60, "lying_box_size.mp4": 60, "lying_duration.mp4": 60, "lying_size_avc1.mp4": 60,
    "mjpeg.avi": 60, "mp4_named.jpg": 60, "mpeg4.avi": 60, "odd_size_353x217.mkv": 60, "one_frame.mp4": 1,
    "plain_h264.mp4": 60, "resolution_change.h264": 90, "resolution_change.ts": 60, "still.jpg": 1, "ten_bit.mkv": 60,
    "timestamps_restart.ts": 60, "tiny_16x16.mp4": 60, "transport.ts": 60, "truncated.ts": 29, "vfr.mp4": 60, "vp9.webm": 60,
    "with_audio.mp4": 60,
    "lossy.ts": 49, "bitflips.mp4": 51, "zeroed_blocks.mp4": 54,  # damaged, but read to the end
}  # fmt: skip
TRUNCATED = {"truncated_faststart.mp4": 25, "header_only.mp4": 0}
UNREADABLE = {
    "audio_only.m4a", "audio_only.mp4", "concat_script.mp4", "html_error_page.mp4", "lying_sample_count.mp4", "noise.mp4",
    "noise.ts", "one_byte.mp4", "playlist_ssrf.m3u8", "text.mp4", "truncated_no_moov.mp4", "zero_bytes.mp4",
}  # fmt: skip


def test_every_hostile_file_has_its_outcome(shared: Path) -> None:
    """None crashes or hangs; good ones are read whole, the rest ends with the right error."""
    folder = shared / "data/hostile/made"
    names = {path.name for path in folder.iterdir()}
    assert names == GOOD.keys() | TRUNCATED.keys() | UNREADABLE
    wrong = {}
    for name in sorted(names):
        reading = read(folder / name)
        outcome: object = (type(reading.error), len(reading.frames))
        if name in GOOD:
            expected: object = (type(None), GOOD[name])
        elif name in TRUNCATED:
            expected = (SourceTruncated, TRUNCATED[name])
        else:
            expected = (SourceUnreadable, 0)
        if outcome != expected:
            wrong[name] = (outcome, expected)
        assert reading.pts_s == sorted(reading.pts_s), name
        assert [f.frame_index for f in reading.frames] == list(range(len(reading.frames))), name
        assert reading.error is None or name in str(reading.error)
    assert wrong == {}


def test_conformance_streams_agree_with_plain_pyav(shared: Path) -> None:
    folder = shared / "data/hostile"
    outcomes = json.loads((folder / "pyav18_outcomes.json").read_text())
    known = {name: normal for name, normal, _ in outcomes if not name.startswith("made/")}
    counted = {name: len(read(folder / name).frames) for name in known}
    assert len(counted) == 19
    assert counted == {name: normal["n"] for name, normal in known.items()}


def test_times_that_start_again_go_on(shared: Path) -> None:
    frames = read(shared / "data/hostile/made/timestamps_restart.ts").frames
    assert [frame.pts_s for frame in frames] == pytest.approx([i / 10 for i in range(60)], abs=0.02)
    assert frames[-1].captured_at - frames[0].captured_at == pytest.approx(5.9, abs=0.02)


# -- loops and real time


def test_a_loop_goes_on(tmp_path: Path) -> None:
    reading = read(make_video(tmp_path / "clip.mp4", 8, b_frames=2), loop=True, limit=30)
    assert [frame.frame_index for frame in reading.frames[:30]] == list(range(30))
    assert reading.pts_s[:30] == pytest.approx([i / 10 for i in range(30)])
    assert len(reading.session) == 16


def test_a_loop_over_a_broken_file_ends(shared: Path) -> None:
    reading = read(shared / "data/hostile/made/truncated_faststart.mp4", loop=True)
    assert isinstance(reading.error, SourceTruncated)
    assert len(reading.frames) == 25


@pytest.mark.parametrize("b_frames", [0, 3])
def test_real_time_by_the_media_clock(tmp_path: Path, b_frames: int) -> None:
    path, clock = make_video(tmp_path / "clip.mp4", 30, b_frames=b_frames), ManualClock()
    began_at, began_s = clock.time(), clock.monotonic()
    frames = read(path, clock, realtime=True).frames
    assert len(frames) == 30
    assert [f.captured_at - began_at for f in frames] == pytest.approx([i / 10 for i in range(30)], abs=1e-3)
    assert [f.captured_s - began_s for f in frames] == pytest.approx([i / 10 for i in range(30)], abs=1e-3)
    assert 2.9 - 1e-6 <= clock.monotonic() - began_s < 3.5


def test_heartbeats_while_real_time_waits(shared: Path) -> None:
    clock = ManualClock()
    reading = read(shared / "data/hostile/made/gap_30s.mp4", clock, realtime=True)
    assert len(reading.frames) == 60
    assert reading.heartbeats >= 30


def test_real_time_on_the_real_clock(tmp_path: Path) -> None:
    began_s = time.monotonic()
    reading = read(make_video(tmp_path / "clip.mp4", 8), SystemClock(), realtime=True)
    assert 0.65 < time.monotonic() - began_s < 3
    assert len(reading.frames) == 8


def test_sessions_differ_between_openings(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", 1)
    assert read(path, realtime=True).session != read(path, realtime=True).session


def test_close_ends_reading(tmp_path: Path) -> None:
    clock = ManualClock()
    source = FileSource(SourceConfig(id="cam", uri=str(make_video(tmp_path / "clip.mp4", 5)), loop=True), clock)
    with source:
        for i, _ in enumerate(source.packets()):
            if i == 20:
                source.close()
            assert i < 25


# -- what live sources share


def test_timeline_joins_restarts_and_steps() -> None:
    timeline = Timeline(start_s=1.0)
    placed = [dts + timeline.place(dts) for dts in (1.0, 1.1, 1.2, 0.0, 0.1)]
    assert placed == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_timeline_of_a_live_stream_follows_arrival() -> None:
    timeline = Timeline()
    times = [(0.0, 50.0), (0.1, 50.1), (3600.2, 50.2), (3600.3, 50.3), (0.0, 52.3)]
    assert [dts + timeline.place(dts, arrived) for dts, arrived in times] == pytest.approx([0.0, 0.1, 0.2, 0.3, 2.3])


def test_timeline_keeps_gaps() -> None:
    timeline = Timeline()
    assert [dts + timeline.place(dts) for dts in (0.0, 0.1, 30.0)] == pytest.approx([0.0, 0.1, 30.0])


def test_backoff_grows_to_its_limit_and_begins_again() -> None:
    class Highest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return b

    backoff = Backoff(0.5, 3, Highest())
    assert [backoff.next_delay_s() for _ in range(5)] == [0.5, 1, 2, 3, 3]
    backoff.reset()
    assert backoff.next_delay_s() == 0.5


def test_backoff_jitters_over_the_whole_range() -> None:
    delays = []
    for seed in range(300):
        backoff = Backoff(1, 1, random.Random(seed))
        delays.append(backoff.next_delay_s())
    assert 0 <= min(delays) < 0.1
    assert 0.9 < max(delays) <= 1


def test_backoff_survives_a_long_outage() -> None:
    backoff = Backoff(0.5, 30)
    assert all(0 <= backoff.next_delay_s() <= 30 for _ in range(5000))


def test_open_source_follows_the_scheme() -> None:
    kafka, clock = KafkaInput(bootstrap_servers=["127.0.0.1:1"]), ManualClock()
    kinds = {"a.mp4": FileSource, "rtsp://host/x": RtspSource, "rtsps://host/x": RtspSource, "kafka://frames": KafkaSource}
    for uri, kind in kinds.items():
        assert isinstance(open_source(SourceConfig(id="cam", uri=uri), kafka, clock), kind)
    with pytest.raises(SourceUnreadable, match="bootstrap_servers"):
        open_source(SourceConfig(id="cam", uri="kafka://frames"), None, clock)


# -- Kafka: connections and records


class Records:
    """A consumer that has these (timestamp in ms, value, headers) and then nothing more; it closes its source."""

    def __init__(self, source: KafkaSource, *records: tuple[int, bytes, list[tuple[str, bytes]]]):
        self._source = source
        self._records = [
            SimpleNamespace(topic="t", partition=0, offset=i, key=b"cam", value=value, headers=headers, timestamp=timestamp_ms)
            for i, (timestamp_ms, value, headers) in enumerate(records)
        ]

    def poll(self, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[SimpleNamespace]]:
        records, self._records = self._records, []
        if not records:
            self._source.close()
        return {TopicPartition("t", 0): records}


def read_records(*records: tuple[int, bytes, list[tuple[str, bytes]]], at_s: float) -> tuple[list[DecodedFrame], list[DeadLetter]]:
    """What comes of records that are read at this POSIX time."""
    source = KafkaSource(SourceConfig(id="cam", uri="kafka://t"), KafkaInput(bootstrap_servers=["127.0.0.1:1"]), ManualClock(at_s))
    source._consumer = Records(source, *records)
    decoder, frames, letters = Decoder(source), [], []
    for item in source.packets():
        if isinstance(item, Packet):
            frames += decoder.decode(item)
        elif item is not None:
            letters.append(item)
    return frames, letters


def jpeg(index: int) -> bytes:
    return cv2.imencode(".jpg", picture(index))[1].tobytes()


def published(at_s: float, seconds: float) -> list[tuple[int, bytes, list[tuple[str, bytes]]]]:
    """A clip of 5 frames/s, as ``publish`` sends it when it ends then."""
    times = [i / 5 for i in range(round(5 * seconds))]
    return [(round((at_s - seconds + t) * 1000), jpeg(i), [("pts_s", f"{t:.6f}".encode())]) for i, t in enumerate(times)]


def test_a_clip_that_is_published_twice_comes_twice() -> None:
    """The second one is stamped as if it had begun before the first one ended."""
    frames, letters = read_records(*published(NOW_S, 6), *published(NOW_S + 2, 6), at_s=NOW_S + 2)
    assert letters == []
    assert [frame.frame_index for frame in frames] == list(range(60))
    assert [frame.captured_at for frame in frames] == pytest.approx(
        [NOW_S - 6 + i / 5 + 2 * (i >= 30) - 6 * (i >= 30) for i in range(60)]
    )
    assert [frame.pts_s for frame in frames] == pytest.approx([frame.captured_at for frame in frames])
    sampler = FrameSampler(1)
    assert [i for i, frame in enumerate(frames) if sampler.keep(frame.pts_s)] == [0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55]


def test_jitter_of_the_timestamps_is_no_new_video() -> None:
    times_s = [NOW_S, NOW_S + 0.5, NOW_S - 0.4, NOW_S + 1]
    frames, _ = read_records(*((round(t * 1000), jpeg(i), []) for i, t in enumerate(times_s)), at_s=NOW_S)
    assert [frame.pts_s - NOW_S for frame in frames] == pytest.approx([0, 0.5, 0.5, 1])


@pytest.mark.parametrize("timestamp_ms", [(NOW_S + 86_400) * 10**3, NOW_S * 10**6, NOW_S * 10**9, (NOW_S + 3601) * 10**3])
def test_a_record_from_the_future_is_a_dead_letter_and_stops_nothing(timestamp_ms: int) -> None:
    times_ms = [NOW_S * 1000 - 200, timestamp_ms, NOW_S * 1000, (NOW_S + 3599) * 1000]
    frames, letters = read_records(*((time_ms, jpeg(i), []) for i, time_ms in enumerate(times_ms)), at_s=NOW_S)
    assert [frame.captured_at for frame in frames] == [NOW_S - 0.2, NOW_S, NOW_S + 3599]
    [letter] = letters
    assert letter.offset == 1
    assert letter.reason.startswith(f"its timestamp, {timestamp_ms} ms, lies ")
    assert letter.reason.endswith(" s in the future")


def test_client_options() -> None:
    connection = KafkaConnection(
        bootstrap_servers=["a:1", "b:2"],
        security_protocol="SASL_SSL",
        sasl_mechanism="PLAIN",
        username="me",
        password="secret",
        ssl_cafile=Path("ca.pem"),
        options={"client_id": "mine"},
    )
    options = client_options(connection)
    assert options["bootstrap_servers"] == ["a:1", "b:2"]
    assert options["sasl_plain_password"] == "secret"
    assert options["ssl_cafile"] == "ca.pem"
    assert options["client_id"] == "mine"
    assert "sasl_plain_password" not in client_options(KafkaConnection(bootstrap_servers=["a:1"]))


def test_explain_hides_the_password() -> None:
    connection = KafkaConnection(
        bootstrap_servers=["a:1"], security_protocol="SASL_PLAINTEXT", sasl_mechanism="PLAIN", username="me", password="s3cret"
    )
    text = explain(ValueError("bad value s3cret given"), connection)
    assert "s3cret" not in text
    assert "a:1" in text


JPEG = b"\xff\xd8\xff\xe0 picture \xff\xd9"
PNG = b"\x89PNG\r\n\x1a\n picture \0\0\0\0IEND\xaeB`\x82"
IDR = b"\0\0\0\1\x67sps\0\0\1\x68pps\0\0\1\x65slice"
NON_IDR = b"\0\0\0\1\x41slice"
RECOVERY_POINT = b"\0\0\1\x06\x05\x02xx\x06\x01\x84\x80\0\0\1\x41slice"


@pytest.mark.parametrize(
    ("value", "headers", "codec", "key"),
    [
        (JPEG, {}, "mjpeg", True),
        (JPEG + b"\0\0", {}, "mjpeg", True),
        (PNG, {}, "png", True),
        (JPEG, {"content-type": "image/jpeg"}, "mjpeg", True),
        (JPEG, {"Content-Type": "IMAGE/JPEG; q=1"}, "mjpeg", True),
        (IDR, {"content-type": "video/h264"}, "h264", True),
        (NON_IDR, {"codec": "h264"}, "h264", False),
        (NON_IDR, {"codec": "h264", "keyframe": "1"}, "h264", True),
        (RECOVERY_POINT, {"codec": "h264"}, "h264", True),
        (b"\0\0\0\1\x40\x01vps\0\0\1\x26\x01slice", {"codec": "hevc"}, "hevc", True),
        (b"\0\0\0\1\x02\x01slice", {"content-type": "video/h265"}, "hevc", False),
        (b"", {"end-of-stream": "1"}, None, False),
    ],
)
def test_good_records(value: bytes, headers: dict[str, str], codec: str, key: bool) -> None:
    payload = parse(value, [(name, text.encode()) for name, text in headers.items()])
    assert (payload.codec, payload.key) == (codec, key)


@pytest.mark.parametrize(
    ("value", "headers", "reason"),
    [
        (b"", {}, "empty"),
        (b"no picture", {}, "neither JPEG nor PNG"),
        (JPEG[:-4], {}, "the JPEG is cut off"),
        (PNG[:-4], {"content-type": "image/png"}, "the PNG is cut off"),
        (PNG, {"content-type": "image/jpeg"}, "not a JPEG"),
        (JPEG, {"content-type": "image/webp"}, "unknown content-type or codec 'image/webp'"),
        (b"\0\0\0\x09\x65slice", {"codec": "h264"}, "Annex B"),
        (IDR, {"codec": "h264", "pts_s": "soon"}, "pts_s"),
        (IDR, {"codec": "h264", "pts_s": "nan"}, "pts_s"),
        (IDR, {"codec": "h264", "pts_s": "-1e300"}, "pts_s"),
    ],
)
def test_bad_records(value: bytes, headers: dict[str, str], reason: str) -> None:
    with pytest.raises(RecordError, match=reason):
        parse(value, [(name, text.encode()) for name, text in headers.items()])


@pytest.mark.parametrize("length", range(0, 40))
def test_key_frame_search_survives_any_cut(length: int) -> None:
    assert is_key("h264", RECOVERY_POINT[:length]) in (True, False)
    assert is_key("hevc", IDR[:length]) in (True, False)


def test_key_frames_agree_with_the_demuxer(shared: Path) -> None:
    with av.open(str(shared / "data/hostile/made/transport.ts")) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    assert [is_key("h264", bytes(p)) for p in packets] == [p.is_keyframe for p in packets]
    assert sum(p.is_keyframe for p in packets) == 6
