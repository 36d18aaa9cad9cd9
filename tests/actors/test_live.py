"""Looking at a camera: pictures with the boxes of their very frames, the live view, history, alerts that survive, detection."""

import asyncio
import json
import struct
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import ray
import websockets

from actors import names
from stream.testing.rtsp_server import CameraServer
from tests.golden.scenario import CLIP
from tests.support import service as ray_service
from tests.support.media import camera_clip

pytestmark = [pytest.mark.ray, pytest.mark.rtsp]

WHOLE = [[0, 0], [1, 0], [1, 1], [0, 1]]
CAMERAS = ("hall", "door")
PICTURES = 24


@pytest.fixture
def cameras(shared: Path, tmp_path: Path) -> Iterator[CameraServer]:
    clip = camera_clip(shared / CLIP, tmp_path / "camera.mp4", 28, 12)  # somebody is there all the time
    with CameraServer(dict.fromkeys(CAMERAS, clip)) as server:
        yield server


def config(cameras: CameraServer) -> dict[str, Any]:
    zones = [{"name": "all", "polygon": WHOLE}]
    return {
        "sources": [{"id": i, "uri": cameras.url(i), "fps": 5, "zones": zones} for i in CAMERAS],
        "alerts": [{"name": "seen", "type": "intrusion", "zone": "hall/all"}],
        "sinks": [{"type": "jsonl", "path": "events.jsonl"}],
        "slo": {"latency_ms": 2000},
    }


def encoded() -> int:
    """Pictures that the ingest actor has encoded so far."""
    text = ray.get(ray.get_actor(names.ingest(0), names.NAMESPACE).metrics.remote()).decode()
    return int(sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("framewatch_pictures_total")))


def get(service: ray_service.Service, path: str) -> Any:
    status, body = service.get(path)
    assert status == 200, body
    return json.loads(body)


def fetch(service: ray_service.Service, path: str) -> tuple[bytes, Any]:
    with urllib.request.urlopen(service.url + path, timeout=10) as answer:
        return answer.read(), answer.headers


def post(service: ray_service.Service, path: str, data: bytes, kind: str) -> Any:
    request = urllib.request.Request(service.url + path, data, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


async def watch(service: ray_service.Service, pause_s: float, n: int) -> list[tuple[float, dict[str, Any], bytes]]:
    """Watch both cameras; ``n`` pictures with the time of their arrival, answering each after ``pause_s``."""
    seen = []
    async with websockets.connect(service.url.replace("http", "ws") + "/v1/live") as socket:
        await socket.send(json.dumps({}))
        await socket.send(json.dumps({"watch": CAMERAS, "width": 384, "fps": 8}))
        while len(seen) < n:
            message = await asyncio.wait_for(socket.recv(), 15)
            assert isinstance(message, bytes)
            (length,) = struct.unpack(">I", message[:4])
            seen.append((time.time(), json.loads(message[4 : 4 + length]), message[4 + length :]))
            await asyncio.sleep(pause_s)
            await socket.send(json.dumps({"received": len(seen)}))
    return seen


def test_a_camera_is_looked_at(cameras: CameraServer, tmp_path: Path, deploy: Callable[..., ray_service.Service]) -> None:
    service = deploy(config(cameras))
    ray_service.wait_for(lambda: all(service.analysed(i) >= 15 for i in CAMERAS), 60, "frames of both cameras")
    assert encoded() == 0, "nobody has looked so far"

    # A picture changes, and tells its frame.
    first, headers = fetch(service, "/v1/sources/hall/picture?width=320")
    assert cv2.imdecode(np.frombuffer(first, np.uint8), cv2.IMREAD_COLOR).shape == (180, 320, 3)
    second, later = fetch(service, "/v1/sources/hall/picture?width=320&boxes=true")
    assert int(later["X-Frame-Index"]) >= int(headers["X-Frame-Index"])
    assert first != second
    tracks = get(service, "/v1/sources/hall/tracks")
    assert tracks["frame_index"] >= int(later["X-Frame-Index"])

    # Two watch the same cameras, one of them slowly: each picture is encoded once, the slow one is not behind.
    before = encoded() - sum(service.analysed(i) for i in CAMERAS)
    quick, slow = asyncio.run(both(service))
    assert {header["source_id"] for _, header, _ in quick} == set(CAMERAS)
    after = encoded() - sum(service.analysed(i) for i in CAMERAS)
    assert after - before <= 4, "more pictures than frames"
    lag_s = [at - parse(header["captured_at"]) for at, header, _ in slow]
    assert max(lag_s) < 3.5, "what waits is the newest, and no more than a few pictures on their way"

    # What was found belongs to the very frame.
    told = ray_service.jsonl(tmp_path / "events.jsonl")
    events = {(event["source_id"], event["frame_index"]): event for event in ray_service.of_schema(told, "tracks")}
    assert sum(header["analysed"] for _, header, _ in quick) >= PICTURES - 2
    for _, header, jpeg in quick:
        assert jpeg[:2] == b"\xff\xd8"
        if header["analysed"]:
            event = events[header["source_id"], header["frame_index"]]
            assert (header["objects"], header["captured_at"]) == (event["objects"], event["captured_at"])
    assert any(header["objects"] for _, header, _ in quick)

    # The same picture by hand: the detector finds the same person in the same place.
    [(_, header, jpeg)] = [one for one in quick if len(one[1]["objects"]) == 1][:1]
    found = post(service, "/v1/detect?confidence=0.3", jpeg, "image/jpeg")
    assert (found["width"], found["height"]) == (320, 180)
    scale = header["width"] / found["width"]
    box = header["objects"][0]["xyxy"]
    assert max(iou(box, [scale * v for v in one["xyxy"]]) for one in found["detections"]) > 0.6

    # Figures.
    span = ray_service.wait_for(lambda: steady(get(service, "/v1/sources/hall/history?seconds=60")), 20, "a history")
    assert span["fps"][-1] == pytest.approx(5, abs=1.5)
    assert span["latency_ms"]["p50"][-1] > 0
    assert span["stages_ms"].keys() >= {"decode", "batch", "detect", "track"}
    assert span["occupancy"]["all"][-1] >= 0
    drift = get(service, "/v1/sources/hall/drift")
    assert drift["model"] == tracks["model"]
    assert drift["features"].keys() == {"confidence", "height", "class", "objects"}
    assert [change["state"] for change in span["health"]] == ["online"]
    status = ray_service.wait_for(lambda: keeps_up(service.status("hall")), 20, "five frames a second")
    assert (status["width"], status["height"], status["dropped"]["sampled"] > 0) == (384, 216, True)
    slo = get(service, "/v1/slo")
    assert slo["sources"].keys() == set(CAMERAS)
    assert slo["total"]["attainment"] > 0
    assert get(service, "/v1/service")["detectors"]["people"]["replicas"] == 1

    # An alert is logged, acknowledged, and still is after Control's death.
    alerts = ray_service.wait_for(lambda: get(service, "/v1/alerts")["items"], 20, "an alert")
    known = post(service, f"/v1/alerts/{alerts[-1]['alert_id']}/acknowledge", b'{"note": "seen"}', "application/json")
    service.kill("ServeReplica:framewatch:Control")
    ray_service.wait_for(service.ready, 40, "Control being back")
    again = get(service, f"/v1/alerts/{known['alert_id']}")
    assert again["acknowledged"] == known["acknowledged"]
    ids = [alert["alert_id"] for alert in get(service, "/v1/alerts")["items"]]
    sent = [e["alert_id"] for e in ray_service.of_schema(ray_service.jsonl(tmp_path / "events.jsonl"), "alerts")]
    assert len(ids) == len(set(ids))
    assert {alert["alert_id"] for alert in alerts} <= set(ids) <= set(sent)

    idle = encoded()
    time.sleep(1)
    assert encoded() == idle, "nobody looks any more"


async def both(service: ray_service.Service) -> list[list[tuple[float, dict[str, Any], bytes]]]:
    return await asyncio.gather(watch(service, 0, PICTURES), watch(service, 0.4, 8))


def keeps_up(status: dict[str, Any]) -> dict[str, Any] | None:
    """The status, once ten seconds have gone by without a frame that a busy machine was late with."""
    return status if abs(status["measured_fps"] - 5) < 1.5 else None


def steady(span: Any) -> Any:
    return span if len([fps for fps in span["fps"] if fps]) >= 2 and span["fps"][-1] else None


def parse(captured_at: str) -> float:
    return datetime.fromisoformat(captured_at).timestamp()


def iou(a: list[float], b: list[float]) -> float:
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return float(shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared))
