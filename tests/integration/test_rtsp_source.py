"""RtspSource against a real RTSP server on loopback."""

import socket
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from stream.clock import SystemClock
from stream.config import RtspConfig, SourceConfig
from stream.decode import DecodedFrame, Decoder
from stream.errors import SourceUnavailable
from stream.frame import Packet
from stream.sources.rtsp import RtspSource
from stream.testing.rtsp_server import CameraServer
from tests.support.kafka_broker import free_port
from tests.support.media import make_video

pytestmark = pytest.mark.rtsp
PASSWORD = "s3cret-p@ss"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("media") / "clip.mp4", 40, gop=5, size=(320, 240))


@pytest.fixture
def camera(clip: Path) -> Iterator[CameraServer]:
    with CameraServer({"hall": clip, "door": clip}, user="viewer", password=PASSWORD) as server:
        yield server


def source_of(uri: str, **settings: object) -> RtspSource:
    settings = {"open_timeout_s": 3, "read_timeout_s": 1, **settings}
    return RtspSource(SourceConfig(id="hall", uri=uri, rtsp=RtspConfig(**settings)), SystemClock())  # type: ignore[arg-type]


def read(source: RtspSource, seconds: float, frames: int = 1000) -> list[DecodedFrame]:
    """What comes within ``seconds``, at most about ``frames``."""
    decoder, found, end_s = Decoder(source), [], time.monotonic() + seconds
    for item in source.packets():
        if isinstance(item, Packet):
            found += decoder.decode(item)
        if time.monotonic() > end_s or len(found) >= frames:
            break
    return found


def readers() -> int:
    return sum(thread.name.startswith("rtsp-") for thread in threading.enumerate())


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_frames_come_in_order_with_the_cameras_time(camera: CameraServer, transport: str) -> None:
    with source_of(camera.url("hall"), transport=transport) as source:
        frames = read(source, 10, 15)
    now = time.time()
    assert len(frames) >= 15
    assert [f.frame_index for f in frames] == list(range(len(frames)))
    steps = [b.pts_s - a.pts_s for a, b in pairwise(frames)]
    assert steps == pytest.approx([0.1] * len(steps), abs=0.02)
    assert all(now - 10 < f.captured_at <= now for f in frames)
    assert {(f.width, f.height) for f in frames} == {(320, 240)}


def test_captured_at_follows_the_senders_clock(clip: Path) -> None:
    with CameraServer({"hall": clip}, clock_skew_s=-3.0) as server, source_of(server.url("hall")) as source:
        frames = read(source, 10, 10)
    last = frames[-1]
    assert time.time() - last.captured_at == pytest.approx(3.0, abs=0.7)
    assert time.monotonic() - last.captured_s == pytest.approx(3.0, abs=0.7)


def test_a_clock_that_was_never_set_is_not_believed(clip: Path) -> None:
    with CameraServer({"hall": clip}, clock_skew_s=-86_400.0) as server, source_of(server.url("hall")) as source:
        frames = read(source, 10, 10)
    assert time.time() - frames[-1].captured_at < 2


def test_media_time_goes_on_when_the_cameras_clock_jumps(camera: CameraServer) -> None:
    with source_of(camera.url("hall")) as source:
        decoder, frames = Decoder(source), []
        for item in source.packets():
            frames += decoder.decode(item) if isinstance(item, Packet) else []
            if len(frames) == 10:
                camera.fault("hall", "jump")
            if len(frames) >= 30:
                break
    assert frames[-1].pts_s - frames[0].pts_s == pytest.approx(2.9, abs=0.5)
    assert [f.pts_s for f in frames] == sorted(f.pts_s for f in frames)


@pytest.mark.parametrize("auth", ["basic", "digest"])
@pytest.mark.parametrize(("user", "password"), [("viewer", "wr0ng-one"), ("wh0ever", PASSWORD)])
def test_wrong_login(clip: Path, auth: str, user: str, password: str, caplog: pytest.LogCaptureFixture) -> None:
    with (
        CameraServer({"hall": clip}, user="viewer", password=PASSWORD, auth=auth) as server,  # type: ignore[arg-type]
        pytest.raises(SourceUnavailable, match="authentication failed") as caught,
        source_of(server.url("hall", user, password)),
    ):
        pass
    told = f"{caught.value!r} {caught.value} {caught.value.__cause__} {caplog.text}"
    assert password not in told
    assert caught.value.__suppress_context__


def test_both_ways_to_log_in(clip: Path) -> None:
    with (
        CameraServer({"hall": clip}, user="viewer", password=PASSWORD, auth="basic") as server,
        source_of(server.url("hall")) as source,
    ):
        assert read(source, 10, 3)


def test_no_such_mount(camera: CameraServer) -> None:
    with pytest.raises(SourceUnavailable, match="404"), source_of(camera.url("attic")):
        pass


AUDIO = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nc=IN IP4 0.0.0.0\r\na=control:*\r\n"
    "m=audio 0 RTP/AVP 0\r\na=control:track0\r\n"
)


def test_a_camera_that_offers_no_video_yet_is_to_be_tried_again(camera: CameraServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as starting:
        starting.setattr(CameraServer, "_description", staticmethod(lambda _: AUDIO))
        with pytest.raises(SourceUnavailable, match="the camera sends no video"), source_of(camera.url("hall")):
            pass
    with source_of(camera.url("hall")) as source:
        assert read(source, 10, 3)


def test_nobody_listens() -> None:
    with (
        pytest.raises(SourceUnavailable, match="connection refused") as caught,
        source_of(f"rtsp://u:{PASSWORD}@127.0.0.1:{free_port()}/x"),
    ):
        pass
    assert PASSWORD not in str(caught.value)


def test_a_server_that_never_answers_is_left_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        began_s = time.monotonic()
        with (
            pytest.raises(SourceUnavailable, match="timed out"),
            source_of(f"rtsp://127.0.0.1:{mute.getsockname()[1]}/x", open_timeout_s=1),
        ):
            pass
        assert time.monotonic() - began_s < 3


def test_a_stall_is_noticed_on_time_and_heartbeats_come(camera: CameraServer) -> None:
    with source_of(camera.url("hall"), read_timeout_s=1.5) as source:
        packets, items = source.packets(), []
        while not isinstance(next(packets), Packet):
            pass
        camera.fault("hall", "stall")
        began_s = time.monotonic()
        with pytest.raises(SourceUnavailable, match="stalled"):
            items.extend(packets)
    assert 1.3 < time.monotonic() - began_s < 3
    assert items.count(None) >= 2


@pytest.mark.parametrize("how", ["kick", "down", "stop"])
def test_a_lost_connection_is_a_loss_and_a_new_opening_goes_on(camera: CameraServer, how: str) -> None:
    with source_of(camera.url("hall")) as source:
        first_session = source.session
        assert read(source, 10, 3)
        {"kick": lambda: camera.kick("hall"), "down": lambda: camera.down("hall"), "stop": camera.stop}[how]()
        with pytest.raises(SourceUnavailable) as caught:
            read(source, 10)
    assert PASSWORD not in str(caught.value)
    if how == "down":
        with pytest.raises(SourceUnavailable, match="404"), source_of(camera.url("hall")):
            pass
        camera.up("hall")
    if how == "stop":
        camera.start()
    with source_of(camera.url("hall")) as source:
        assert source.session != first_session
        assert read(source, 10, 3)


def test_corruption_harms_only_pictures(camera: CameraServer) -> None:
    with source_of(camera.url("hall")) as source:
        camera.fault("hall", "corrupt")
        frames = read(source, 3)
    assert [f.pts_s for f in frames] == sorted(f.pts_s for f in frames)


def test_close_from_another_thread_ends_reading_at_once(camera: CameraServer) -> None:
    source = source_of(camera.url("hall"), read_timeout_s=30)
    with source:
        assert read(source, 10, 2)
        camera.fault("hall", "stall")
        time.sleep(0.3)
        threading.Timer(0.3, source.close).start()
        began_s = time.monotonic()
        for _ in source.packets():
            pass
        assert time.monotonic() - began_s < 1.5


def test_the_reading_thread_ends_after_close(camera: CameraServer) -> None:
    before = readers()
    with source_of(camera.url("hall"), read_timeout_s=1, open_timeout_s=1) as source:
        assert read(source, 10, 2)
        camera.fault("hall", "stall")  # its read is blocked now
    end_s = time.monotonic() + 5
    while readers() > before and time.monotonic() < end_s:
        time.sleep(0.05)
    assert readers() <= before


def test_b_frames_and_hevc_over_rtsp(shared: Path) -> None:
    files = {"b": shared / "data/hostile/made/bframes.mp4", "hevc": shared / "data/hostile/made/hevc.mp4"}
    with CameraServer(files) as server:
        for name in files:
            with source_of(server.url(name)) as source:
                frames = read(source, 15, 20)
            steps = [b.pts_s - a.pts_s for a, b in pairwise(frames)]
            assert len(frames) >= 20
            assert steps == pytest.approx([0.1] * len(steps), abs=0.03), name
