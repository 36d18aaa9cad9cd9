"""A camera over RTSP whose lens is covered for a while: health events, an alert, a metric."""

import json
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

import stream.tamper
from stream.config_file import parse_config
from stream.pipeline import Pipeline
from stream.sinks import open_sinks
from stream.testing.rtsp_server import CameraServer
from tests.golden.scenario import CLIP

pytestmark = pytest.mark.rtsp

FPS, SEEN_S, COVERED_S = 25, 6, 6


def covered_for_a_while(source: Path, target: Path) -> Path:
    """Somebody walks, a hand lies on the lens, somebody walks."""
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        stream = made.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "tune": "zerolatency", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 384, 216, "yuv420p", FPS
        given.seek(24 * av.time_base)
        walking = [
            frame.reformat(384, 216, "bgr24").to_ndarray() for frame, _ in zip(given.decode(video=0), range(60), strict=False)
        ]
        dark = np.full_like(walking[0], 12)
        for i in range(FPS * (2 * SEEN_S + COVERED_S)):
            covered = SEEN_S <= i / FPS < SEEN_S + COVERED_S
            frame = av.VideoFrame.from_ndarray(dark if covered else walking[i * 10 // FPS % 60], "bgr24").reformat(format="yuv420p")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            made.mux(stream.encode(frame))
        made.mux(stream.encode(None))
    return target


def test_a_covered_camera(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LOOK_S": 0.3, "LEARN": 5, "FAULT_S": 2.0, "CLEAR_S": 1.0}.items():
        monkeypatch.setattr(stream.tamper, name, value)
    stop, tampered = threading.Event(), set()
    with CameraServer({"hall": covered_for_a_while(shared / CLIP, tmp_path / "camera.mp4")}) as server:
        config = {
            "detectors": {"people": {"model": str(shared / "data/models/FastestDet.onnx"), "classes": ["person"], "threads": 1}},
            "sources": [{"id": "hall", "uri": server.url("hall"), "fps": 5}],
            "alerts": [{"name": "covered", "type": "source_tampered", "source": "hall"}],
            "sinks": [{"type": "jsonl", "path": str(tmp_path / "events.jsonl"), "events": ["health", "alerts"]}],
            "slo": {"latency_ms": 30_000},
        }
        parsed = parse_config(config, "tamper", tmp_path)
        with Pipeline(parsed, open_sinks(parsed.sinks, None)) as pipeline:
            timer = threading.Timer(2 * SEEN_S + COVERED_S - 1, stop.set)
            timer.start()
            pipeline.run(stop, lambda statuses: tampered.update(status.tampered for status in statuses))
            timer.cancel()
            metrics = pipeline.metrics.expose().decode()
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    health = [(event["state"], event["reason"]) for event in events if "severity" not in event]
    assert health == [("online", "frames arrive"), ("tampered", "black"), ("restored", "the usual view")]
    assert [(event["type"], event["state"]) for event in events if "severity" in event] == [
        ("source_tampered", "raised"),
        ("source_tampered", "cleared"),
    ]
    assert tampered == {"", "black"}
    assert 'framewatch_source_tampered{source="hall"} 0.0' in metrics
