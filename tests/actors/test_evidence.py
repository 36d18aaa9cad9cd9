"""Evidence on Ray: a camera behind a password, on which somebody is seen, and which then goes away."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from stream.errors import EvidenceMissing
from stream.evidence.settings import EvidenceConfig
from stream.evidence.store import open_evidence
from stream.testing.rtsp_server import CameraServer
from tests.golden.scenario import CLIP
from tests.support import service as ray_service
from tests.support.media import camera_clip

pytestmark = [pytest.mark.ray, pytest.mark.rtsp]

PASSWORD = "s3cret-Pa55w0rd"


def test_alerts_of_a_camera_have_a_picture_and_a_clip(
    shared: Path, tmp_path: Path, deploy: Callable[[dict[str, Any]], ray_service.Service]
) -> None:
    clip = camera_clip(shared / CLIP, tmp_path / "camera.mp4", 4, 12)  # somebody comes after 2.4 s of it
    with CameraServer({"hall": clip}, user="viewer", password=PASSWORD) as cameras:
        service = deploy(config(cameras.url("hall")))
        alert = ray_service.wait_for(lambda: raised(tmp_path, "entered"), 60, "an alert")
        made = ray_service.wait_for(lambda: evidence(tmp_path, alert), 30, "its picture and clip")
        cameras.down("hall")
        lost = ray_service.wait_for(lambda: raised(tmp_path, "lost"), 30, "the alert that the camera is lost")
        last = ray_service.wait_for(lambda: evidence(tmp_path, lost), 30, "its last picture")
        assert 'framewatch_evidence_total{actor="ingest-0",outcome="written",reason="clip"}' in service.get("/metrics")[1]

    shown = cv2.imdecode(np.frombuffer(made["picture"], np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (216, 384, 3)
    tracks = [e for e in ray_service.of_schema(events(tmp_path), "tracks") if e["captured_at"] == alert["raised_at"]]
    [box] = [found["xyxy"] for found in tracks[0]["objects"] if found["track_id"] in alert["track_ids"]]
    left, top, right, bottom = (round(v) for v in box)
    edge = shown[(top + bottom) // 2 - 5 : (top + bottom) // 2 + 5, [min(left, 383) if left > 0 else min(right, 383)]].astype(int)
    assert np.abs(edge - (60, 60, 230)).mean() < 80  # red, as a small JPEG has it
    with av.open(io.BytesIO(made["clip"])) as video:
        times = [float(frame.pts * frame.time_base) for frame in video.decode(video=0)]
    assert times[0] == 0
    assert 1.9 <= times[-1] < 5.5  # a second before it, if the camera was open by then, from a key frame on, to 2 s after it
    with av.open(io.BytesIO(made["clip"])) as video, av.open(str(clip)) as given:
        sent = {bytes(packet)[-64:] for packet in given.demux(video=0) if packet.size}
        assert {bytes(packet)[-64:] for packet in video.demux(video=0) if packet.size} <= sent
    assert cv2.imdecode(np.frombuffer(last["picture"], np.uint8), cv2.IMREAD_COLOR).shape == (216, 384, 3)
    assert PASSWORD not in (tmp_path / "events.jsonl").read_text()


def config(camera: str) -> dict[str, Any]:
    whole = [[0, 0], [1, 0], [1, 1], [0, 1]]
    patience = {"read_timeout_s": 2, "open_timeout_s": 4, "backoff_initial_s": 0.2, "backoff_max_s": 1}
    return {
        "sources": [{"id": "hall", "uri": camera, "fps": 5, "rtsp": patience, "zones": [{"name": "all", "polygon": whole}]}],
        "alerts": [
            {
                "name": "entered",
                "type": "intrusion",
                "zone": "hall/all",
                "evidence": {"clip": True, "clip_unblurred": True, "before_s": 1, "after_s": 2},
            },
            {"name": "lost", "type": "source_offline", "for_s": 1, "evidence": {}},
        ],
        "sinks": [{"type": "jsonl", "path": "events.jsonl"}],
        "slo": {"latency_ms": 5000},
        "evidence": {"url": "evidence"},
    }


def events(folder: Path) -> list[dict[str, Any]]:
    path = folder / "events.jsonl"
    return ray_service.jsonl(path) if path.exists() else []


def raised(folder: Path, rule: str) -> dict[str, Any] | None:
    """The first alert of a rule."""
    return next((e for e in ray_service.of_schema(events(folder), "alerts") if e["rule"] == rule), None)


def evidence(folder: Path, alert: dict[str, Any]) -> dict[str, bytes] | None:
    """Everything that the alert names, once all of it is there."""
    found = {}
    for kind, url in alert["evidence"].items():
        try:
            with open_evidence(EvidenceConfig(url=str(folder / "evidence")), url) as file:
                found[kind] = file.read()
        except EvidenceMissing:
            return None
    return found
