"""Pictures, the live view, history, alerts and detection over the API, without Ray: its actors and its detector are played."""

import asyncio
import json
import struct
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fastapi import FastAPI

from actors.api import pictures
from actors.api.backend import Backend
from actors.api.turn import WAITING, Turn
from stream.analyser import Seen
from stream.clock import SystemClock
from stream.config import SloConfig
from stream.detections import Detections
from stream.drift import Drift
from stream.errors import DetectorError
from stream.events import AlertEvent, EvidenceLinks, TrackedObject, TracksEvent, timestamp
from stream.evidence.address import path_of, public_root
from stream.evidence.settings import EvidenceConfig
from stream.evidence.store import Store
from stream.frame import FrameBatch, FrameInfo
from stream.history import Reading
from stream.slo import SloTracker
from stream.telemetry import DriftConfig
from stream.viewfinder import Picture
from tests.support.api import OPERATOR, VIEWER, Client, Closed, Socket, app_of, config_of, websocket

T0 = 1_700_000_000.0
WHITE = bytes(cv2.imencode(".jpg", np.full((180, 320, 3), 255, np.uint8))[1])


@pytest.fixture
def app(tmp_path: Path) -> Iterator[FastAPI]:
    app = app_of(config_of(), tmp_path)
    yield app
    backend_of(app).record.close()


def backend_of(app: FastAPI) -> Backend:
    backend: Backend = app.state.backend
    return backend


class Actors:
    """A camera of 640 x 360 with one person in it; every question finds a new frame."""

    def __init__(self) -> None:
        self.frame = 0

    async def ask(self, name: str, method: str, *what: Any, timeout_s: float = 1.0) -> Any:
        if method == "pictures":
            self.frame += 1
            return {"hall": Picture(FrameInfo("hall", "s", self.frame, 0.0, T0 + self.frame, 640, 360, 0.0, 0.0), WHITE)}
        if method == "seen":
            key = what[0]["hall"] or ("s", self.frame)
            return {"hall": Seen(key, tracks(key[1]), {"floor": 1})} if self.frame else {}
        if method == "drift":
            return Drift(DriftConfig(), ("person",)).report() if self.frame else None
        tracker = SloTracker(SloConfig())
        tracker.record("hall", 0.1)
        tracker.record("gone", 0.7)
        return tracker.counts()


def tracks(index: int) -> TracksEvent:
    person = TrackedObject(track_id=7, class_="person", confidence=0.9, xyxy=(300, 100, 400, 340), zones=["floor"])
    return TracksEvent(
        event_id="e", source_id="hall", frame_index=index, pts_s=0, captured_at=timestamp(T0), width=640, height=360, model="m",
        objects=[person], stages_ms={},
    )  # fmt: skip


@pytest.fixture
def camera(app: FastAPI) -> Actors:
    actors = Actors()
    reconciler: Any = backend_of(app).reconciler
    reconciler.ask = backend_of(app).live._ask = actors.ask
    reconciler.aggregates = {"aggregator-0": None}
    return actors


def pixels(jpeg: bytes) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR))


def test_a_picture_tells_its_frame_and_may_show_what_was_found(app: FastAPI, camera: Actors) -> None:
    client = Client(app, VIEWER)
    plain = client.get("/v1/sources/hall/picture")
    assert (plain.status_code, plain.headers["content-type"], plain.content) == (200, "image/jpeg", WHITE)
    assert plain.headers["x-frame-index"] == "1"
    assert plain.headers["x-captured-at"] == "2023-11-14T22:13:21.000000Z"
    drawn = pixels(client.get("/v1/sources/hall/picture?boxes=true").content).astype(int)
    upright = np.flatnonzero((255 - drawn).max(axis=2)[110:160].min(axis=0) > 40)
    assert {round(x / 5) for x in upright} == {0, 30, 32, 40}, "the zone, the line, and the box at half the frame's size"


def test_without_a_picture_the_answer_is_503(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "PICTURE_S", 0.1)
    answer = Client(app, VIEWER).get("/v1/sources/hall/picture")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert Client(app, VIEWER).get("/v1/sources/other/picture").status_code == 404
    assert Client(app, VIEWER).get("/v1/sources/hall/picture?width=9").json()["errors"][0]["field"] == "width"


def test_the_newest_tracks(app: FastAPI, camera: Actors) -> None:
    client = Client(app, VIEWER)
    assert client.get("/v1/sources/hall/tracks").status_code == 204
    camera.frame = 3
    answer = client.get("/v1/sources/hall/tracks").json()
    assert (answer["schema"], answer["frame_index"], answer["objects"][0]["class"]) == ("framewatch.tracks/1", 3, "person")


def test_the_drift_of_a_source(app: FastAPI, camera: Actors) -> None:
    client = Client(app, VIEWER)
    assert client.get("/v1/sources/other/drift").status_code == 404
    assert client.get("/v1/sources/hall/drift").status_code == 503, "its aggregator does not know it yet"
    camera.frame = 1
    answer = client.get("/v1/sources/hall/drift").json()
    assert (answer["learned_h"], answer["learn_h"]) == (0, 168)
    assert answer["features"]["class"] == {
        "bins": ["person"], "recent": [0], "usual": [0], "recent_samples": 0, "usual_samples": 0, "psi": None,
    }  # fmt: skip
    assert {len(one["bins"]) - len(one["recent"]) for one in answer["features"].values()} == {0}


def test_without_the_aggregator_tracks_and_drift_are_503(app: FastAPI) -> None:
    assert Client(app, VIEWER).get("/v1/sources/hall/tracks").status_code == 503
    assert Client(app, VIEWER).get("/v1/sources/hall/drift").status_code == 503


# -- the live view


def picture_of(message: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack(">I", message[:4])
    return json.loads(message[4 : 4 + length]), message[4 + length :]


def view(app: FastAPI, work: Callable[[Socket], Coroutine[Any, Any, None]], token: str = VIEWER) -> None:
    """Open the live view and do something with it."""

    async def run() -> None:
        async with websocket(app, "/v1/live") as socket:
            await socket.send({"token": token})
            await work(socket)

    asyncio.run(run())


def test_the_live_view_shows_pictures_with_their_objects(app: FastAPI, camera: Actors) -> None:
    async def work(socket: Socket) -> None:
        await socket.send({"watch": ["hall", "unknown"], "width": 640, "fps": 15})
        for index in (1, 2):
            header, jpeg = picture_of(await socket.receive())
            assert (header["source_id"], header["frame_index"], header["width"], header["height"]) == ("hall", index, 640, 360)
            assert (header["analysed"], header["occupancy"]) == (True, {"floor": 1})
            assert header["objects"][0]["xyxy"] == [300, 100, 400, 340]
            assert jpeg == WHITE

    view(app, work)
    assert not backend_of(app).live._watchers


def test_who_says_nothing_gets_a_few_pictures_and_then_the_newest(app: FastAPI, camera: Actors) -> None:
    async def work(socket: Socket) -> None:
        await socket.send({"watch": ["hall"], "fps": 15})
        for index in range(1, pictures.LEAST_AHEAD + 1):
            assert picture_of(await socket.receive())[0]["frame_index"] == index
        shown = camera.frame
        while camera.frame < shown + 5:
            await asyncio.sleep(0.01)
        assert socket.down.empty()
        await socket.send({"received": pictures.LEAST_AHEAD})
        assert picture_of(await socket.receive())[0]["frame_index"] >= shown + 4

    view(app, work)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"watch": [str(i) for i in range(33)]}, "watch"),
        ({"watch": ["hall"], "fps": 99}, "fps"),
        ({"watch": ["hall"], "width": "wide"}, "width"),
        ({"wach": ["hall"]}, "wach"),
        ([1], "should be an object"),
    ],
)
def test_a_wrong_message_closes_the_live_view_with_the_reason(app: FastAPI, message: Any, says: str) -> None:
    async def work(socket: Socket) -> None:
        await socket.send(message)
        with pytest.raises(Closed, match=says) as closed:
            await socket.receive()
        assert closed.value.code == pictures.WRONG_MESSAGE

    view(app, work)


def test_the_live_view_asks_for_a_token_and_ends_with_the_service(app: FastAPI, camera: Actors) -> None:
    async def refused(socket: Socket) -> None:
        with pytest.raises(Closed, match="4401"):
            await socket.receive()

    view(app, refused, token="wrong")

    async def stopped(socket: Socket) -> None:
        backend_of(app).stopping.set()
        with pytest.raises(Closed, match=str(pictures.GOING_AWAY)):
            await socket.receive()

    view(app, stopped)


# -- history and SLO


def test_history(app: FastAPI) -> None:
    record = backend_of(app).record
    record.history.add("hall", Reading(analysed=1, occupancy={"floor": 2}))
    answer = Client(app, VIEWER).get("/v1/sources/hall/history?seconds=60").json()
    assert answer.keys() == {
        "step_s", "t", "fps", "latency_ms", "stages_ms", "dropped", "occupancy", "crossings", "health",
    }  # fmt: skip
    assert answer["step_s"] == 2
    assert len(answer["t"]) == len(answer["fps"]) == len(answer["occupancy"]["floor"]) == len(answer["latency_ms"]["p99"])
    assert Client(app, VIEWER).get("/v1/sources/hall/history?seconds=86401").status_code == 422


def test_slo(app: FastAPI, camera: Actors) -> None:
    answer = Client(app, VIEWER).get("/v1/slo").json()
    assert (answer["objective"], answer["latency_ms"], answer["total"]["attainment"]) == (0.99, 500, 0.5)
    assert answer["sources"].keys() == {"hall"}
    assert answer["sources"]["hall"]["latency_ms"]["p50"] == pytest.approx(100, rel=0.2)
    assert answer["total"]["burn_rates"].keys() == {"5m", "1h", "6h"}


def test_slo_without_aggregators_is_503(app: FastAPI) -> None:
    assert Client(app, VIEWER).get("/v1/slo").status_code == 503


# -- alerts


def alert(i: int, evidence: str | None = None) -> AlertEvent:
    now = SystemClock().time()
    event = AlertEvent(
        event_id=f"e{i}", alert_id=f"id{i}", source_id="hall", rule="crowd", type="crowd", state="raised", severity="warning",
        zone="floor", value=4, threshold=3, raised_at=timestamp(now - 100 + i), at=timestamp(now - 100 + i),
    )  # fmt: skip
    return event.model_copy(update={"evidence": EvidenceLinks(picture=evidence)}) if evidence else event


def test_alerts_are_listed_and_acknowledged(app: FastAPI) -> None:
    backend_of(app).record.alerts.add([alert(1), alert(2)])
    client = Client(app, OPERATOR)
    page = client.get("/v1/alerts?state=active&limit=1").json()
    [first] = page["items"]
    assert (first["alert_id"], first["state"], first["value"], first["acknowledged"]) == ("id2", "raised", 4, None)
    assert [one["alert_id"] for one in client.get(f"/v1/alerts?before={page['next']}").json()["items"]] == ["id1"]
    assert client.get("/v1/alerts?before=x").json()["errors"][0]["field"] == "before"

    answer = client.post("/v1/alerts/id2/acknowledge", json={"note": "on my way"}).json()
    assert (answer["acknowledged"]["by"], answer["acknowledged"]["note"]) == ("olga", "on my way")
    assert client.get("/v1/alerts/id2").json() == answer
    assert client.post("/v1/alerts/id1/acknowledge").json()["acknowledged"]["note"] == ""
    assert client.post("/v1/alerts/other/acknowledge", json={}).status_code == 404
    assert client.post("/v1/alerts/id2/acknowledge", json={"note": "x" * 1001}).json()["errors"][0]["field"] == "note"
    assert Client(app, VIEWER).post("/v1/alerts/id2/acknowledge", json={}).status_code == 403


def test_the_evidence_of_an_alert_is_read_from_its_store(app: FastAPI, tmp_path: Path) -> None:
    backend = backend_of(app)
    config = EvidenceConfig(url=str(tmp_path / "evidence"))
    backend.config = backend.config.model_copy(update={"evidence": config})
    path = path_of("picture", "hall", timestamp(T0), "a" * 32)
    (tmp_path / "secret.jpg").write_bytes(b"x")
    outside = f"{public_root(config)}/../secret.jpg"
    backend.record.alerts.add([alert(1, f"{public_root(config)}/{path}"), alert(2, outside), alert(3)])
    client = Client(app, VIEWER)
    assert client.get("/v1/alerts/id1/picture").status_code == 404
    Store(config).write(path, WHITE)
    answer = client.get("/v1/alerts/id1/picture")
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, "image/jpeg", WHITE)
    assert "detail" in client.get("/v1/alerts/id1/clip").json()
    assert [client.get(f"/v1/alerts/{one}").status_code for one in ("id1/clip", "id2/picture", "id3/picture")] == [404] * 3
    backend.config = backend.config.model_copy(update={"evidence": None})
    assert client.get("/v1/alerts/id1/picture").status_code == 404


# -- detection


class Replica:
    """A detector that finds a person in the left half of everything, surely, and faintly a car."""

    def __init__(self) -> None:
        self.batches: list[FrameBatch] = []
        self.error: Exception | None = None
        self.detect = self

    async def remote(self, batch: FrameBatch) -> tuple[Detections, ...]:
        self.batches.append(batch)
        if self.error:
            raise self.error
        [info] = batch.frames
        return (Detections.of([[0, 0, info.width / 2, info.height]] * 2, [0.9, 0.3], [0, 1]),)


@pytest.fixture
def replica(app: FastAPI) -> Replica:
    replica = Replica()
    backend_of(app).detectors["people"] = replica  # type: ignore[index]
    return replica


def detect(app: FastAPI, data: bytes = WHITE, query: str = "", kind: str = "image/jpeg") -> Any:
    return Client(app, VIEWER).post(f"/v1/detect{query}", content=data, headers={"Content-Type": kind})


def test_a_picture_is_scaled_as_frames_are_and_boxes_are_in_its_pixels(app: FastAPI, replica: Replica) -> None:
    answer = detect(app)
    assert answer.status_code == 200
    person = {"class": "person", "confidence": 0.9, "xyxy": [0, 0, 160, 180]}
    assert answer.json() == {"width": 320, "height": 180, "model": "people@sha256:0123456789ab", "detections": [person]}
    assert replica.batches[0].images.shape == (1, 352, 352, 3)
    assert [one["class"] for one in detect(app, query="?confidence=0.2").json()["detections"]] == ["person", "car"]


@pytest.mark.parametrize(
    ("data", "query", "kind", "status", "field"),
    [
        (WHITE, "?confidence=nan", "image/jpeg", 422, "confidence"),
        (WHITE, "?confidence=0.01", "image/jpeg", 422, "confidence"),
        (WHITE, "?detector=cats", "image/jpeg", 422, "detector"),
        (WHITE, "", "image/gif", 415, None),
        (WHITE[:-20], "", "image/jpeg", 422, ""),
        (b"", "", "image/png", 422, ""),
    ],
)
def test_wrong_requests_are_problems(
    app: FastAPI, replica: Replica, data: bytes, query: str, kind: str, status: int, field: str | None
) -> None:
    answer = detect(app, data, query, kind)
    assert answer.status_code == status, answer.text
    assert [error["field"] for error in answer.json()["errors"]] == ([] if field is None else [field])
    assert not replica.batches


def test_a_detector_that_fails_is_a_problem_of_the_service(app: FastAPI, replica: Replica) -> None:
    replica.error = DetectorError("rtsp://viewer:secret@h: bad")
    answer = detect(app)
    assert answer.status_code == 500
    assert "secret" not in answer.text


def test_pictures_wait_for_their_turn_and_no_more_than_a_few() -> None:
    async def work() -> None:
        turn = Turn()
        waiting = [asyncio.create_task(turn.__aenter__()) for _ in range(WAITING + 1)]
        await asyncio.sleep(0)
        assert sum(task.done() for task in waiting) == 1, "one at a time"
        with pytest.raises(Exception, match="waiting already"):
            await turn.__aenter__()
        for task in waiting:
            await task
            await turn.__aexit__()

    asyncio.run(work())
