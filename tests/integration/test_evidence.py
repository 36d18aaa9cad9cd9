"""Evidence on real video: the right frame and the right packets, out of every kind of stream, and whole runs."""

import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from stream.clock import SystemClock
from stream.config import PipelineConfig, SourceConfig
from stream.config_file import parse_config
from stream.decode import DecodedFrame, Decoder
from stream.errors import EvidenceError
from stream.evidence.address import public_root
from stream.evidence.cut import cut as cut_clip
from stream.evidence.cut import select
from stream.evidence.decode import decode_frame
from stream.evidence.packets import KeptPacket, Recorder
from stream.evidence.store import open_evidence
from stream.frame import Packet
from stream.pipeline import Pipeline
from stream.sinks import open_sinks
from stream.sources import open_source
from tests.golden.scenario import CLIP
from tests.support.ftp_server import FtpServer
from tests.support.media import camera_clip, cut

STREAMS = [
    "made/bframes.mp4",
    "made/hevc.mp4",
    "made/mjpeg.avi",
    "made/mpeg4.avi",
    "made/vp9.webm",
    "made/vfr.mp4",
    "made/transport.ts",
    "made/timestamps_restart.ts",
    "made/resolution_change.ts",
    "made/resolution_change.h264",
    "torchcodec/av1_video.mkv",
    "openh264/MPS_MW_A.264",
]
NO_CLIP = {"made/vp9.webm": "codec", "made/resolution_change.h264": "untimed", "openh264/MPS_MW_A.264": "untimed"}
MOST_FRAMES = 120


def recorded(path: Path) -> tuple[list[KeptPacket], list[DecodedFrame]]:
    """The first packets of a file as a recorder keeps them, and their frames as the decoder gives them."""
    config = SourceConfig(id="a", uri=str(path))
    recorder, frames = Recorder(64 * 2**20), list[DecodedFrame]()
    recorder.keep_s = 1e9
    with open_source(config, None, SystemClock()) as source:
        recorder.begin(source)
        decoder = Decoder(source)
        for packet in source.packets():
            if isinstance(packet, Packet):
                recorder.keep(packet)
                frames += decoder.decode(packet)
            if len(frames) > MOST_FRAMES:
                break
        ring = recorder.ring(source.session)
    assert ring is not None
    return ring.packets(), frames


def bgr(frame: av.VideoFrame) -> np.ndarray:
    return np.asarray(frame.to_ndarray(format="bgr24"))


@pytest.mark.parametrize("name", STREAMS)
def test_a_frame_decoded_again_is_the_same_to_the_bit(name: str, shared: Path) -> None:
    packets, frames = recorded(shared / "data/hostile" / name)
    assert len(frames) >= 20
    for frame in frames[:: len(frames) // 9]:
        again = decode_frame(packets, frame.pts_s, frame.frame_index)
        assert np.array_equal(bgr(again), bgr(frame.frame)), frame.frame_index


@pytest.mark.parametrize("name", STREAMS)
def test_a_clip_plays_and_has_the_sources_packets(name: str, shared: Path, tmp_path: Path) -> None:
    packets, frames = recorded(shared / "data/hostile" / name)
    moment = frames[len(frames) // 2]
    if name in NO_CLIP:
        with pytest.raises(EvidenceError, match=NO_CLIP[name]):
            cut_clip(select(packets, moment.pts_s, moment.pts_s - 1, moment.pts_s + 1), moment.width, moment.height)
        return
    chosen = select(packets, moment.pts_s, moment.pts_s - 1, moment.pts_s + 1)
    path = tmp_path / "clip.mp4"
    path.write_bytes(cut_clip(chosen, moment.width, moment.height))
    with av.open(str(path)) as clip:
        played = [(float(frame.pts * frame.time_base), bgr(frame)) for frame in clip.decode(video=0)]
    assert len(played) == len(chosen)
    wanted = bgr(decode_frame(packets, moment.pts_s, moment.frame_index))
    assert sum(np.array_equal(picture, wanted) for _, picture in played) >= 1
    spans = [max(times) - min(times) for times in ([at_s for at_s, _ in played], [packet.at_s for packet in chosen])]
    assert spans[0] == pytest.approx(spans[1], abs=0.01)
    with av.open(str(path)) as clip:
        kept = [bytes(packet) for packet in clip.demux(video=0) if packet.size]
    assert [payload(data) for data in kept] == [payload(packet.data) for packet in chosen]


def payload(data: bytes) -> bytes:
    """An access unit without what stands between its NAL units: start codes in Annex B, lengths in MP4."""
    if data[:4] in (b"\0\0\0\1",) or data[:3] == b"\0\0\1":
        return data.replace(b"\0\0\0\1", b"").replace(b"\0\0\1", b"")
    out, at = b"", 0
    while at + 4 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if not 0 < size <= len(data) - at - 4:
            return data
        out, at = out + data[at + 4 : at + 4 + size], at + 4 + size
    return out


# -- a whole run


Run = tuple[PipelineConfig, list[dict[str, Any]], str]


def run(folder: Path, shared: Path, source: dict[str, Any], rules: list[dict[str, Any]], evidence: dict[str, Any]) -> Run:
    model = {"model": str(shared / "data/models/FastestDet.onnx"), "classes": ["person"], "threads": 1, "confidence": 0.4}
    config = parse_config(
        {
            "detectors": {"people": model},
            "sources": [source],
            "alerts": rules,
            "sinks": [{"type": "jsonl", "path": "events.jsonl"}],
            "evidence": evidence,
        },
        "test",
        folder,
    )
    with Pipeline(config, open_sinks(config.sinks, None)) as pipeline:
        pipeline.run(threading.Event())
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return config, events, pipeline.metrics.expose().decode()


def of(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["schema"] == f"framewatch.{kind}/1"]


@pytest.fixture(scope="module")
def entered(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Somebody comes into the picture; H.264 with B-frames, in a folder."""
    folder = tmp_path_factory.mktemp("entered")
    source = {
        "id": "shop",
        "uri": str(cut(shared / CLIP, folder / "clip.mp4", 11)),
        "fps": 5,
        "zones": [{"name": "all", "polygon": [[0, 0], [1, 0], [1, 1], [0, 1]]}],
    }
    evidence = {"clip": True, "before_s": 2, "after_s": 1.5, "blur": False}
    rules = [{"name": "anybody", "type": "intrusion", "zone": "shop/all", "evidence": evidence}]
    return run(folder, shared, source, rules, {"url": "evidence"})


def test_the_picture_is_the_frame_of_the_alert_with_its_boxes(entered: Run, shared: Path) -> None:
    config, events, metrics = entered
    assert config.evidence is not None
    alert = of(events, "alerts")[0]
    tracks = next(event for event in of(events, "tracks") if event["captured_at"] == alert["raised_at"])
    with open_evidence(config.evidence, alert["evidence"]["picture"]) as file:
        shown = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_COLOR)
    [box] = [found["xyxy"] for found in tracks["objects"] if found["track_id"] in alert["track_ids"]]
    left, top, right, bottom = (round(v) for v in box)
    with av.open(config.sources[0].uri) as video:
        pictures = [bgr(frame) for frame in video.decode(video=0)]
    inside = np.s_[top + 5 : bottom - 5, left + 5 : right - 5]
    near = range(tracks["frame_index"] - 3, tracks["frame_index"] + 4)
    differences = {i: float(np.abs(shown[inside].astype(int) - pictures[i][inside]).mean()) for i in near}
    assert min(differences, key=lambda i: differences[i]) == tracks["frame_index"]
    edge = shown[min(bottom, shown.shape[0] - 1) if bottom < shown.shape[0] else top, left + 5 : right - 5].astype(int)
    assert np.abs(edge - (60, 60, 230)).mean() < 45  # red, as JPEG has it
    assert 'framewatch_evidence_total{outcome="written",reason="picture"}' in metrics
    assert "failed" not in [line for line in metrics.splitlines() if "evidence_total" in line]


def test_the_clip_has_the_files_packets_and_the_alerts_moment(entered: Run) -> None:
    config, events, _ = entered
    assert config.evidence is not None
    alert = of(events, "alerts")[0]
    tracks = next(event for event in of(events, "tracks") if event["captured_at"] == alert["raised_at"])
    with open_evidence(config.evidence, alert["evidence"]["clip"]) as file, av.open(file) as clip:
        packets = [bytes(packet) for packet in clip.demux(video=0) if packet.size]
    with av.open(config.sources[0].uri) as video:
        given = [
            (bytes(packet), packet.is_keyframe, float(packet.pts * packet.time_base))
            for packet in video.demux(video=0)
            if packet.size
        ]
    first = next(i for i in range(len(given)) if given[i][0] == packets[0])
    assert [data for data, _, _ in given[first : first + len(packets)]] == packets
    assert given[first][1]
    times = [at_s for _, _, at_s in given[first : first + len(packets)]]
    start_s = min(at_s for _, _, at_s in given)
    moment_s = tracks["pts_s"] + start_s
    assert min(times) <= moment_s - 2
    assert moment_s + 1.2 <= max(times) <= moment_s + 2.2  # up to the next reference frame


def test_a_replay_names_and_writes_the_same(entered: Run, shared: Path, tmp_path: Path) -> None:
    config, events, _ = entered
    source = config.sources[0].model_dump(exclude={"rtsp"})
    rules = [rule.model_dump(exclude_none=True) for rule in config.alerts]
    assert config.evidence is not None
    _, again, _ = run(tmp_path, shared, source, rules, {"url": config.evidence.url})
    root = Path(config.evidence.url)
    assert [event["evidence"] for event in of(again, "alerts")] == [event["evidence"] for event in of(events, "alerts")]
    made = {public_root(config.evidence) + f"/{path.relative_to(root).as_posix()}" for path in root.rglob("*.*")}
    assert made == {address for event in of(events, "alerts") for address in event["evidence"].values()}


@pytest.mark.parametrize(("decode", "gate"), [("fast", "on"), ("key", "off")])
def test_the_frame_is_the_right_one_however_little_is_decoded(decode: str, gate: str, shared: Path, tmp_path: Path) -> None:
    clip = camera_clip(shared / CLIP, tmp_path / "camera.mp4", 0, 10, still_s=12)
    zones = [{"name": "all", "polygon": [[0, 0], [1, 0], [1, 1], [0, 1]]}]
    source = {"id": "hall", "uri": str(clip), "fps": 5, "decode": decode, "gate": gate, "zones": zones}
    rules = [{"name": "anybody", "type": "intrusion", "zone": "hall/all", "evidence": {"blur": False}}]
    config, events, _ = run(tmp_path, shared, source, rules, {"url": "evidence"})
    assert config.evidence is not None
    assert len(of(events, "tracks")) < 100  # of 110
    alert = of(events, "alerts")[0]
    tracks = next(event for event in of(events, "tracks") if event["captured_at"] == alert["raised_at"])
    with open_evidence(config.evidence, alert["evidence"]["picture"]) as file:
        shown = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_COLOR)
    left, top, right, bottom = (round(v) for v in tracks["objects"][0]["xyxy"])
    inside = np.s_[top + 5 : bottom - 5, left + 5 : right - 5]
    with av.open(str(clip)) as video:
        pictures = [bgr(frame) for frame in video.decode(video=0)]
    near = range(tracks["frame_index"] - 3, tracks["frame_index"] + 4)
    differences = {i: float(np.abs(shown[inside].astype(int) - pictures[i][inside]).mean()) for i in near}
    assert min(differences, key=lambda i: differences[i]) == tracks["frame_index"]


@pytest.fixture
def ftp(tmp_path: Path) -> Iterator[FtpServer]:
    (tmp_path / "ftp" / "alerts").mkdir(parents=True)
    with FtpServer(tmp_path / "ftp", "camera", "s3cret-Pa55") as server:
        yield server


def test_others_are_pixelated_and_a_server_keeps_it_without_telling_its_password(
    ftp: FtpServer, shared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A shop with many people, HEVC with B-frames; stored by FTP."""
    source = {
        "id": "retail",
        "uri": str(cut(shared / "data/videos/Retail02_short.mp4", tmp_path / "shop.mp4", 4)),
        "fps": 5,
        "zones": [{"name": "left", "polygon": [[0, 0], [0.4, 0], [0.4, 1], [0, 1]]}],
    }
    rules = [{"name": "in-left", "type": "intrusion", "zone": "retail/left", "evidence": {"clip": True, "clip_unblurred": True}}]
    evidence = {"url": f"ftp://camera:s3cret-Pa55@127.0.0.1:{ftp.port}/alerts", "max_age_s": None}
    config, events, metrics = run(tmp_path, shared, source, rules, evidence)
    assert config.evidence is not None
    alert = of(events, "alerts")[0]
    assert alert["evidence"]["picture"].startswith(f"ftp://127.0.0.1:{ftp.port}/alerts/")
    assert "s3cret" not in json.dumps(events) + metrics + caplog.text + repr(config)
    with open_evidence(config.evidence, alert["evidence"]["picture"]) as file:
        shown = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_COLOR)
    tracks = next(event for event in of(events, "tracks") if event["captured_at"] == alert["raised_at"])
    with av.open(config.sources[0].uri) as video:
        frame = next(frame for i, frame in enumerate(video.decode(video=0)) if i == tracks["frame_index"])
    original = bgr(frame)

    def likeness(box: list[float]) -> float:
        """Correlation of the fine detail in a box, as it was and as it is shown; away from its lines and its label."""
        left, top, right, bottom = (round(v) for v in box)
        parts = [picture[top + 30 : bottom - 5, left + 5 : right - 5].astype(np.float32) for picture in (original, shown)]
        details = [(part - cv2.blur(part, (9, 9))).ravel() for part in parts]
        return float(np.corrcoef(*details)[0, 1])

    members = [found["xyxy"] for found in tracks["objects"] if found["track_id"] in alert["track_ids"]]
    others = [found["xyxy"] for found in tracks["objects"] if found["track_id"] not in alert["track_ids"]]
    assert members
    assert len(others) >= 3
    for box in others:
        assert likeness(box) < 0.3
    assert likeness(members[0]) > 0.5
    with open_evidence(config.evidence, alert["evidence"]["clip"]) as file:
        whole = io.BytesIO(file.read())
    with av.open(whole) as clip:
        assert sum(1 for _ in clip.decode(video=0)) > 100
    assert not list((tmp_path / "ftp").rglob("*.part"))
