"""The API of a running service: changes take effect at once and survive restarts; nothing that is sent breaks it."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from stream.testing.rtsp_server import CameraServer
from tests.golden.scenario import CLIP
from tests.support import service as ray_service
from tests.support.api import OPERATOR, TOKENS, VIEWER
from tests.support.media import camera_clip

pytestmark = [pytest.mark.ray, pytest.mark.rtsp]

PASSWORD = "s3cret-Pa55w0rd"
WHOLE = {"name": "whole", "polygon": [[0, 0], [1, 0], [1, 1], [0, 1]]}
WATCH = {"name": "watch", "type": "intrusion", "zone": "hall/whole"}
EXAMPLES = 5  # of each route
EFFECT_S = 8.0  # a change takes effect within 2 s; a camera needs some more, and so does a busy machine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="module")
def cameras(shared: Path, folder: Path) -> Iterator[CameraServer]:
    clip = camera_clip(shared / CLIP, folder / "camera.mp4", 24, 10)
    with CameraServer({"hall": clip, "attic": clip}, user="viewer", password=PASSWORD) as server:
        yield server


@pytest.fixture(scope="module")
def service(cluster: ray_service.Cluster, cameras: CameraServer, shared: Path, folder: Path) -> Iterator[ray_service.Service]:
    config = {
        "detectors": {"people": {"model": str(shared / "data/models/FastestDet.onnx"), "classes": ["person"], "threads": 1}},
        "sources": [{"id": "hall", "uri": cameras.url("hall"), "fps": 5}],
        "sinks": [{"type": "jsonl", "path": "events.jsonl"}],
        "slo": {"latency_ms": 2000},
        "service": {"access": {"tokens": TOKENS, "allowed_hosts": ["127.0.0.1"]}},
    }
    with ray_service.deployed(cluster, config, folder) as running:
        yield running


@pytest.fixture
def api(service: ray_service.Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, headers={"Authorization": f"Bearer {OPERATOR}"}, timeout=30) as client:
        yield client


def test_changes_take_effect_at_once_and_survive_a_restart(
    service: ray_service.Service, api: httpx.Client, cameras: CameraServer, folder: Path
) -> None:
    def events(kind: str, source_id: str = "hall") -> list[dict[str, Any]]:
        found = ray_service.of_schema(ray_service.jsonl(folder / "events.jsonl"), kind)
        return [event for event in found if event["source_id"] == source_id]

    assert httpx.get(f"{service.url}/v1/sources").status_code == 401
    ray_service.wait_for(lambda: service.analysed("hall") >= 15, 60, "frames of the hall")

    added = api.post("/v1/sources", json={"id": "attic", "uri": cameras.url("attic"), "fps": 5})
    assert added.status_code == 201, added.text
    assert PASSWORD not in added.text
    ray_service.wait_for(lambda: service.status("attic").get("state") == "online", EFFECT_S, "the new camera")

    before = events("tracks")[-1]
    assert api.put("/v1/sources/hall/zones/whole", json=WHOLE).status_code == 201
    assert api.post("/v1/rules", json=WATCH).status_code == 201
    ray_service.wait_for(lambda: events("alerts"), EFFECT_S, "an alert of the new rule in the new zone")
    after = events("tracks")[-1]
    assert before["frame_index"] < after["frame_index"], "the camera stayed open"
    assert {o["track_id"] for o in before["objects"]} & {o["track_id"] for o in after["objects"]}, "the tracks went on"
    assert service.status("hall")["reconnects"] == 0
    assert api.delete("/v1/sources/hall/zones/whole").status_code == 409
    assert api.delete("/v1/rules/watch").status_code == 204
    ray_service.wait_for(lambda: events("alerts")[-1]["state"] == "cleared", EFFECT_S, "the end of the removed rule's alert")
    assert {event["alert_id"] for event in events("alerts")} == {events("alerts")[0]["alert_id"]}

    shown = api.get("/v1/sources").json()
    service.kill("ServeReplica:framewatch:Control")
    time.sleep(0.5)  # until Serve's proxy has noticed
    ray_service.wait_for(service.ready, 40, "Control being back")
    settings = ("id", "uri", "zones", "origin")
    again = api.get("/v1/sources").json()
    assert [[one[key] for key in settings] for one in again] == [[one[key] for key in settings] for one in shown]
    assert api.get("/v1/rules").json() == []
    analysed = service.analysed("attic")
    ray_service.wait_for(lambda: service.analysed("attic") > analysed, EFFECT_S, "the added camera going on")

    service.kill("ray::AggregatorActor")
    at_kill = events("tracks", "attic")[-1]["frame_index"]
    ray_service.wait_for(lambda: events("tracks", "attic")[-1]["frame_index"] > at_kill + 10, 60, "a new aggregator")
    assert api.delete("/v1/sources/attic").status_code == 204
    ray_service.wait_for(lambda: not cameras._clients["attic"], EFFECT_S, "the connection of the removed camera closed")
    assert "attic" not in service.sources()


def test_a_silent_actor_is_told_of(service: ray_service.Service) -> None:
    (ingest,) = service.cluster.processes("ray::IngestActor")
    ingest.suspend()
    try:
        ray_service.wait_for(lambda: "ingest-0: has not answered" in service.get("/readyz")[1], 12, "readiness telling of it")
    finally:
        ingest.resume()
    ray_service.wait_for(service.ready, 30, "readiness again")


@pytest.mark.parametrize("token", [OPERATOR, VIEWER, ""], ids=["operator", "viewer", "nobody"])
def test_nothing_that_is_sent_makes_an_error_inside(token: str, service: ray_service.Service) -> None:
    """Requests made of the service's own description of itself, right and wrong ones."""
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    asked = 0
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=GenerationMode.NEGATIVE) | operation.as_strategy())
        def ask(case: schemathesis.Case) -> None:
            nonlocal asked
            answer = case.call(headers={"Authorization": f"Bearer {token}"}, timeout=15)
            asked += 1
            assert answer.status_code < 500, (case.method, case.formatted_path, case.body, answer.text)
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == ["application/problem+json"]

        ask()
    assert asked > 100
