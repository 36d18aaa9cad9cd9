"""An operator's morning, from end to end: eight simulated cameras behind RTSP, Ray, Apache Kafka, Chromium, Prometheus."""

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
from PIL import Image

from kube.monitoring.rules import Burn, Timing, rule_file
from stream.simulation.studio import make
from stream.simulation.video import Shot
from stream.testing.rtsp_server import CameraServer
from tests.support.browser import DESKTOP, Visitor, chromium
from tests.support.kafka_broker import Broker
from tests.support.prometheus import prometheus
from tests.support.service import Cluster, deployed, topic_events, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.kafka, pytest.mark.rtsp, pytest.mark.browser]

CAMERAS = [f"camera-{number}" for number in range(1, 9)]
NINTH = "camera-9"
DRAWN = CAMERAS[0]
THROTTLED = CAMERAS[1]
FILM_FPS = 6.25
FPS = FILM_FPS / 3
TOKEN = "the-operators-own-token"
PASSWORD = "s3cret-Pa55w0rd"
TOPICS = {kind: f"operator.{kind}" for kind in ("tracks", "counts", "alerts", "health", "dead_letter")}
QUICK = Timing(page=(Burn(2, "10s", "5s"),), patience="1s", recent="10s", interval="1s")


@pytest.fixture
def cameras(tmp_path: Path) -> Iterator[CameraServer]:
    """Nine cameras; two films, as drawing one takes a second for each of its seconds."""
    films = [Shot(scene, 7, (6, 6), 8, fps=FILM_FPS, width=640, height=360) for scene in ("plaza", "corridor")]
    assert make(films, tmp_path / "films", Event(), lambda _: None)
    clips = [tmp_path / "films" / film.name / "video.mp4" for film in films]
    mounts = {name: clips[number % 2] for number, name in enumerate([*CAMERAS, NINTH])}
    with CameraServer(mounts, user="viewer", password=PASSWORD) as server:
        yield server


def config(cameras: CameraServer, broker: Broker) -> dict[str, Any]:
    return {
        "detectors": {"people": {"model": "simulated-person", "confidence": 0.5, "threads": 1}},
        "sources": [{"id": name, "uri": cameras.url(name), "fps": FPS, "gate": "off", "decode": "fast"} for name in CAMERAS],
        "sinks": [{"type": "kafka", "bootstrap_servers": [broker.bootstrap], "topics": TOPICS}],
        "evidence": {"url": "evidence"},
        "slo": {"latency_ms": 2000},
        "service": {
            "access": {
                "enabled": True,
                "tokens": [{"name": "olga", "role": "operator", "token": TOKEN}],
                "allowed_hosts": ["127.0.0.1"],
            }
        },
    }


def draw(visitor: Visitor, corners: list[tuple[float, float]], name: str) -> None:
    """Draw a zone on the page of a camera, with the mouse."""
    page = visitor.open("camera", DRAWN)
    page.get_by_role("button", name="Edit zones and lines").click()
    page.get_by_role("button", name="New zone").click()
    stage = page.get_by_role("application")
    box = stage.bounding_box()
    assert box
    for x, y in [*corners, corners[0]]:
        stage.click(position={"x": x * box["width"], "y": y * box["height"]})
    page.get_by_label("Name").fill(name)
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_text("are saved").wait_for()


def test_an_operators_morning(cluster: Cluster, kafka_broker: Broker, cameras: CameraServer, tmp_path: Path) -> None:
    with deployed(cluster, config(cameras, kafka_broker), tmp_path) as service:
        api = httpx.Client(base_url=service.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=20)

        def online() -> set[str]:
            sources = api.get("/v1/sources").raise_for_status().json()
            return {source["id"] for source in sources if source["status"]["state"] == "online"}

        def events(kind: str) -> list[dict[str, Any]]:
            return topic_events(kafka_broker.bootstrap, TOPICS[kind])

        wait_for(lambda: online() == set(CAMERAS), 60, "all cameras to be online")

        # A ninth camera comes, another one goes; nobody restarts anything.
        added = {"id": NINTH, "uri": cameras.url(NINTH), "fps": FPS, "gate": "off"}
        assert api.post("/v1/sources", json=added).status_code == 201
        assert api.delete(f"/v1/sources/{CAMERAS[-1]}").status_code in (200, 204)
        wait_for(lambda: online() == {*CAMERAS[:-1], NINTH}, 30, "the ninth camera instead of the eighth")
        wait_for(lambda: any(event["source_id"] == NINTH for event in events("tracks")), 20, "tracks of the ninth camera")

        # A zone is drawn in the browser, and its counts arrive on the topic.
        with chromium() as browser:
            visitor = Visitor(browser.new_context(viewport={"width": DESKTOP[0], "height": DESKTOP[1]}), service.url, TOKEN)
            draw(visitor, [(0.02, 0.02), (0.98, 0.02), (0.98, 0.98), (0.02, 0.98)], "ground")
            assert visitor.complaints == visitor.elsewhere == []
            visitor.page.context.close()

        def people() -> int:
            counts = [event for event in events("counts") if event["source_id"] == DRAWN and event.get("zone") == "ground"]
            return max((int(event["occupancy"]["max"]) for event in counts), default=0)

        wait_for(lambda: people() > 1, 30, "people counted in the zone that was drawn")

        # More of them than a threshold: an alert with a picture.
        # It must last, so that there are packets of before it.
        rule = {"name": "crowded", "type": "crowd", "zone": f"{DRAWN}/ground", "above": 1, "for_s": 4, "evidence": {}}
        assert api.post("/v1/rules", json=rule).status_code == 201

        def alert() -> dict[str, Any] | None:
            return next((event for event in events("alerts") if event["rule"] == "crowded" and event["state"] == "raised"), None)

        raised = wait_for(alert, 30, "the alert")
        path = f"/v1/alerts/{raised['alert_id']}"
        picture = wait_for(lambda: (answer := api.get(f"{path}/picture")).status_code == 200 and answer, 20, "its picture")
        assert Image.open(BytesIO(picture.content)).size == (640, 360)
        assert api.post(f"{path}/acknowledge", json={"note": "seen"}).is_success
        [listed] = [one for one in api.get("/v1/alerts").json()["items"] if one["alert_id"] == raised["alert_id"]]
        assert listed["acknowledged"]["by"] == "olga"

        # One camera of eight comes late: the error budget burns, and Prometheus says so.
        target = service.url.removeprefix("http://")
        with prometheus(target, rule_file(QUICK), tmp_path / "prometheus") as watching:

            def firing() -> set[str]:
                return {one["metric"]["alertname"] for one in watching.query('ALERTS{alertstate="firing"}')}

            wait_for(lambda: watching.query("service:framewatch_slo_errors:ratio_rate10s"), 30, "ten seconds of measurements")
            wait_for(lambda: "FramewatchSloBurnsFast" not in firing(), 30, "the budget not to burn")
            cameras.fault(THROTTLED, "slow")
            wait_for(lambda: "FramewatchSloBurnsFast" in firing(), 60, "the alert that the budget burns")
        assert not any(secret in json.dumps(events(kind)) for kind in TOPICS for secret in (PASSWORD, TOKEN))
        api.close()
