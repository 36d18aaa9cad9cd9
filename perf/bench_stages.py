"""What one call of each stage costs: ``make bench``, or ``pytest -o python_files='bench_*.py' --benchmark-only perf``.

Times are wall times of one thread; for CPU over all threads and processes see ``limit.py`` and ``load_test.py``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from perf.workload import DEFAULT_MODEL, SHARED
from stream.batch import Batcher
from stream.buffer import Policy
from stream.clock import SystemClock
from stream.config import CountingConfig, DetectorConfig, LineConfig, SourceConfig, TrackerConfig, ZoneConfig
from stream.count import ZoneCounter
from stream.decode import DecodedFrame
from stream.detections import Detections
from stream.detectors.base import Detector, InputSpec
from stream.detectors.registry import load_detector
from stream.effort import Effort
from stream.events import TrackedObject, TracksEvent, event_id, timestamp
from stream.frame import Frame, FrameBatch, FrameInfo, Packet, Uint8Array
from stream.gate import Gate, Presence
from stream.intake import Intake, IntakeTally, Outcomes
from stream.scale import Scaler, to_picture
from stream.sinks.spool import Spool
from stream.sources.file import FileSource
from stream.track import ByteTracker

VIDEO = SHARED / "data" / "videos" / "retail02_h264_1080p25.mp4"
SPEC = InputSpec(352, 352)
WIDTH, HEIGHT = 1920, 1080
BATCH = 8
INTERVAL_S = 0.2
MODES = ("full", "fast", "key")


@pytest.fixture(scope="module")
def video() -> Path:
    """Camera footage, 1080p25 H.264."""
    if not VIDEO.exists():
        pytest.skip("needs the media of ../shared/data (or FRAMEWATCH_SHARED)")
    return VIDEO


@pytest.fixture(scope="module")
def picture(video: Path) -> av.VideoFrame:
    """A decoded frame of it."""
    with av.open(str(video)) as container:
        return next(container.decode(video=0))


@pytest.fixture(scope="module")
def detector() -> Iterator[Detector]:
    """FastestDet on one thread."""
    if not DEFAULT_MODEL.exists():
        pytest.skip("needs the models of ../shared/data (or FRAMEWATCH_SHARED)")
    detector = load_detector("bench", DetectorConfig(model=str(DEFAULT_MODEL), classes=["person"], threads=1), 0.1)
    yield detector
    detector.close()


def info(source: int, index: int = 0) -> FrameInfo:
    """A frame of camera number ``source``."""
    return FrameInfo(f"cam{source:02d}", "s", index, index / 5, 1e9 + index / 5, WIDTH, HEIGHT, 0.0, 0.0)


class Crowd:
    """Objects of about 40 x 100 pixels that walk through the picture and come back on its other side."""

    def __init__(self, objects: int):
        rng = np.random.default_rng(7)
        self._feet = rng.uniform((0, 100), (WIDTH, HEIGHT), (objects, 2))
        self._step = rng.uniform(-12, 12, (objects, 2))
        self._confidence = rng.uniform(0.55, 0.95, objects)
        self.t_s = 1e9

    def next(self) -> Detections:
        """The next frame's detections, 0.2 s later."""
        self.t_s += INTERVAL_S
        self._feet = (self._feet + self._step - (0, 100)) % (WIDTH, HEIGHT - 100) + (0, 100)
        x, y = self._feet.T
        return Detections.of(np.stack([x - 20, y - 100, x + 20, y], 1), self._confidence, np.zeros(len(x)))


def test_reference(benchmark: BenchmarkFixture) -> None:
    """A fixed piece of work, half of it NumPy's and half Python's: what the other times are held against."""
    numbers, keys = np.random.default_rng(1).random((256, 256)), list(range(20_000))

    def work() -> float:
        return float(np.sort(numbers @ numbers, axis=1)[:, 0].sum()) + sum(key % 7 for key in keys)

    assert benchmark(work) > 0


def test_decode(benchmark: BenchmarkFixture, video: Path) -> None:
    """A second of footage, 25 frames, demultiplexed and decoded by one thread."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        context.thread_count = 1

        def second() -> int:
            frames = 0
            for packet in container.demux(stream):
                frames += len(context.decode(packet))
                if frames >= 25:
                    return frames
            container.seek(0)
            return frames

        assert benchmark(second) >= 1


def second_of(video: Path, mode: str, scale: Callable[[DecodedFrame], Uint8Array]) -> Iterator[Callable[[], int]]:
    """Takes in a second of the footage as a camera's, five frames of it analysed; gives how many these were."""
    source = SourceConfig(id="cam00", uri=str(video), fps=5, loop=True)
    live = source.model_copy(update={"realtime": True, "decode": mode})
    outcomes = Outcomes(IntakeTally(), lambda reason, frames: None, lambda: True)
    with FileSource(source, SystemClock()) as opened:
        intake = Intake(live, opened, scale, Effort(live), None, SystemClock(), outcomes)
        packets = opened.packets()

        def second() -> int:
            given = (packet for packet in itertools.islice(packets, 25) if isinstance(packet, Packet))
            return sum(1 for packet in given for _ in intake.frames(packet))

        second()  # opens the codec, and shows that key frames are whole pictures
        second()
        yield second


@pytest.mark.parametrize("mode", MODES)
def test_decode_by_mode(benchmark: BenchmarkFixture, video: Path, mode: str) -> None:
    """The same second as a camera's, as much of it decoded as five analysed frames need."""
    nothing = np.zeros((1, 1, 3), np.uint8)
    for second in second_of(video, mode, lambda decoded: nothing):
        assert 1 <= benchmark(second) <= 6


@pytest.mark.parametrize("mode", MODES)
def test_intake(benchmark: BenchmarkFixture, video: Path, mode: str) -> None:
    """The same with the five frames scaled."""
    scaler = Scaler(SPEC)
    for second in second_of(video, mode, lambda decoded: scaler.scale(decoded.frame)):
        assert 1 <= benchmark(second) <= 6


def test_gate(benchmark: BenchmarkFixture, picture: av.VideoFrame) -> None:
    """Looking whether a sampled frame shows anything new; it does not."""
    gate, image = Gate(Presence(0.5, 2.0)), Scaler(SPEC).scale(picture)
    gate.admits(image, 0.0, lambda: True)
    assert not benchmark(gate.admits, image, 3.0, lambda: True)


@pytest.mark.parametrize("way", ["planes", "letterbox", "ffmpeg"])
def test_scale(benchmark: BenchmarkFixture, picture: av.VideoFrame, way: str) -> None:
    """1080p to the model's 352 x 352: its planes, stretched or padded; and by FFmpeg's scaler, as a format of 10 bits is."""
    scaler, out = (
        Scaler(InputSpec(352, 352, resize="letterbox_center" if way == "letterbox" else "stretch")),
        np.empty((352, 352, 3), np.uint8),
    )
    frame = picture.reformat(format="yuv420p10le") if way == "ffmpeg" else picture
    benchmark(scaler.scale, frame, out)
    assert out.std() > 1


def test_scale_after_conversion(benchmark: BenchmarkFixture, picture: av.VideoFrame) -> None:
    """The same picture converted to BGR first and scaled then: what the service saves."""

    def convert() -> Uint8Array:
        small: Uint8Array = cv2.resize(to_picture(picture), (352, 352), interpolation=cv2.INTER_AREA)
        return small

    assert benchmark(convert).shape == (352, 352, 3)


def test_batch(benchmark: BenchmarkFixture) -> None:
    """Eight frames of eight cameras in, one batch out."""
    batcher = Batcher("bench", BATCH, 1e9)
    frames = [Frame(info(i), np.full((352, 352, 3), i, np.uint8)) for i in range(BATCH)]
    for frame in frames:
        batcher.add_source(frame.info.source_id, BATCH, Policy.BLOCK, live=False)

    def gather() -> FrameBatch | None:
        for frame in frames:
            batcher.put(frame)
        found = batcher.next_batch(1.0)
        return None if found is None else found[0]

    batch = benchmark(gather)
    assert batch is not None
    assert len(batch) == BATCH


def test_detect(benchmark: BenchmarkFixture, detector: Detector, picture: av.VideoFrame) -> None:
    """A batch of eight pictures."""
    image = Scaler(detector.input).scale(picture)
    batch = FrameBatch("bench", tuple(info(i) for i in range(BATCH)), np.stack([image] * BATCH))
    assert len(benchmark(detector.detect, batch)) == BATCH


@pytest.mark.parametrize("objects", [5, 30, 200])
def test_track(benchmark: BenchmarkFixture, objects: int) -> None:
    """One frame of moving objects; making them up is part of the time, about 30 us."""
    tracker, crowd = ByteTracker(TrackerConfig(), 0.5), Crowd(objects)
    for _ in range(5):
        tracker.update(crowd.next(), crowd.t_s)
    tracked = benchmark(lambda: tracker.update(crowd.next(), crowd.t_s))
    assert len(tracked) > objects / 2


@pytest.mark.parametrize("objects", [5, 30, 200])
def test_count(benchmark: BenchmarkFixture, objects: int) -> None:
    """One frame of tracked objects against two zones and a line; making them up is part of the time."""
    floor = ZoneConfig(name="floor", polygon=[(0, 0.3), (1, 0.3), (1, 1), (0, 1)])
    till = ZoneConfig(name="till", polygon=[(0.6, 0.2), (0.9, 0.25), (1, 0.6), (0.8, 0.9), (0.5, 0.6)])
    door = LineConfig(name="door", points=((0.5, 0), (0.5, 1)))
    counter = ZoneCounter("cam00", [floor, till], [door], CountingConfig(), ("person",))
    crowd, ids = Crowd(objects), np.arange(objects)

    def frame() -> object:
        tracked = crowd.next().with_track_id(ids)
        observation = counter.update(crowd.t_s, WIDTH, HEIGHT, tracked)
        counter.windows()
        return observation

    assert benchmark(frame) is not None


def test_serialise(benchmark: BenchmarkFixture) -> None:
    """A tracks event of ten objects, built as the aggregator does and turned into JSON."""
    rows = [(i, 0.83, (100.0 + i, 200.25, 140.5, 300.75)) for i in range(10)]

    def event() -> bytes:
        objects = [
            TrackedObject.model_construct(track_id=i, class_="person", confidence=confidence, xyxy=xyxy, zones=["floor"])
            for i, confidence, xyxy in rows
        ]
        return TracksEvent.model_construct(
            schema_="framewatch.tracks/1",
            event_id=event_id("tracks", "cam00", "s", 7),
            source_id="cam00",
            frame_index=7,
            pts_s=1.4,
            captured_at=timestamp(1e9),
            width=WIDTH,
            height=HEIGHT,
            model="people@sha256:0123456789ab",
            objects=objects,
            stages_ms={"decode": 3.1, "batch": 12.2, "detect": 9.7, "track": 0.2},
        ).to_json()

    assert benchmark(event).startswith(b'{"schema":"framewatch.tracks/1"')


def test_spool_append(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """100 records of 600 bytes made durable together; mostly the disk's fdatasync. Read and done again outside the timing."""
    spool = Spool(tmp_path / "spool", 64 << 20)
    records = [bytes(600)] * 100

    def empty() -> None:
        while pending := spool.peek(1000, 8 << 20):
            spool.done(pending)

    benchmark.pedantic(spool.append, args=(records,), setup=empty, rounds=50)  # type: ignore[no-untyped-call]
    assert spool.pending == len(records)
    spool.close()
