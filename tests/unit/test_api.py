"""The API's frame: access to every route, problems for every error, no secret in any answer."""

import asyncio
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from actors.api import alerts, edits
from stream.events import AlertEvent
from tests.support.api import OPERATOR, VIEWER, Client, app_of, config_of

OPEN = {"/healthz", "/readyz", "/metrics"}
"""Routes that ask for no token."""
FOR_VIEWERS = {"post /v1/detect"}
"""What a viewer may do besides looking."""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    return app_of(config_of(), tmp_path_factory.mktemp("api"))


@pytest.fixture
def anonymous(app: FastAPI) -> Client:
    return Client(app)


@pytest.fixture
def operator(app: FastAPI) -> Client:
    return Client(app, OPERATOR)


def routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    for path, methods in app.openapi()["paths"].items():
        for method in methods:
            yield method, path.replace("{", "").replace("}", "")


def assert_problem(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail", "errors"} == problem.keys()
    assert problem["status"] == status
    return problem


def test_every_route_but_the_open_ones_asks_for_a_token(app: FastAPI) -> None:
    asked = list(routes(app))
    assert len(asked) > 5
    for method, path in asked:
        answer = Client(app).request(method, path)
        if path in OPEN:
            assert answer.status_code == 200, path
        else:
            assert_problem(answer, 401)
            assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_viewer_only_looks(app: FastAPI) -> None:
    for method, path in routes(app):
        answer = Client(app, VIEWER).request(method, path)
        if method == "get" or f"{method} {path}" in FOR_VIEWERS:
            assert answer.status_code not in (401, 403), (method, path)
        else:
            assert_problem(answer, 403)


def test_an_operator_may_do_everything(app: FastAPI) -> None:
    for method, path in routes(app):
        assert Client(app, OPERATOR).request(method, path).status_code not in (401, 403), (method, path)


def test_a_token_in_the_address_does_not_count(anonymous: Client) -> None:
    assert_problem(anonymous.get("/v1/sources", params={"token": OPERATOR}), 401)
    assert_problem(anonymous.get("/v1/sources", headers={"Authorization": f"Basic {OPERATOR}"}), 401)
    assert anonymous.get("/v1/sources", headers={"Authorization": f"bearer {OPERATOR}"}).status_code == 200


def test_guessing_ends_soon(app: FastAPI) -> None:
    guesser = Client(app, host="192.0.2.9")
    for _ in range(10):
        assert_problem(guesser.get("/v1/sources", headers={"Authorization": "Bearer guess"}), 401)
    answer = guesser.get("/v1/sources", headers={"Authorization": "Bearer guess"})
    assert_problem(answer, 429)
    assert 0 < int(answer.headers["retry-after"]) <= 60


def test_metrics_may_be_closed(tmp_path: Path) -> None:
    config = config_of()
    config["service"]["access"] = config["service"]["access"] | {"open_metrics": False}
    app = app_of(config, tmp_path)
    assert_problem(Client(app).get("/metrics"), 401)
    assert Client(app, VIEWER).get("/metrics").status_code == 200


def test_with_access_off_no_page_of_another_site_gets_in(tmp_path: Path) -> None:
    app = app_of(config_of(access={"enabled": False}), tmp_path)
    assert Client(app).get("/v1/sources").status_code == 200
    assert Client(app).get("/v1/sources", headers={"Origin": "http://127.0.0.1"}).status_code == 200
    assert_problem(Client(app).get("/v1/sources", headers={"Origin": "http://evil.example"}), 403)
    assert_problem(Client(app).get("/v1/sources", headers={"Host": "evil.example"}), 403)
    assert_problem(Client(app, host="192.0.2.1").get("/v1/sources"), 403)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nothing", 404), ("PATCH", "/healthz", 405), ("GET", "/v1/sources/attic", 404), ("GET", "/v1/sources/", 404)],
)
def test_errors_are_problems(operator: Client, method: str, path: str, status: int) -> None:
    assert_problem(operator.request(method, path), status)


def test_what_breaks_inside_is_a_problem_that_tells_nothing(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    reconciler = app.state.backend.reconciler
    placement, reconciler.placement = reconciler.placement, None
    try:
        problem = assert_problem(Client(app, OPERATOR).get("/v1/sources"), 500)
    finally:
        reconciler.placement = placement
    assert "NoneType" not in str(problem)
    assert "GET /v1/sources: AttributeError" in caplog.text


def test_large_bodies_are_refused(operator: Client) -> None:
    assert_problem(operator.post("/v1/sources", content=b" " * (2**20 + 1)), 413)
    assert_problem(operator.get("/v1/sources", headers={"Content-Length": "x"}), 413)


def test_sources_show_no_password(operator: Client) -> None:
    (hall,) = operator.get("/v1/sources").json()
    assert hall == operator.get("/v1/sources/hall").json()
    assert (hall["id"], hall["uri"], hall["actor"]) == ("hall", "rtsp://viewer:***@192.0.2.1/hall", "ingest-0")
    assert hall["zones"][0]["name"] == "floor"
    assert hall["status"]["state"] == "connecting"


def test_the_service_tells_who_asks(app: FastAPI) -> None:
    view = Client(app, VIEWER).get("/v1/service").json()
    assert view["access"] == {"role": "viewer", "name": "victor"}
    assert view["detectors"]["people"]["classes"] == ["person", "car"]
    assert view["slo"] == {"latency_ms": 500, "objective": 0.99, "window_s": 60}


def test_readiness_names_what_is_missing(app: FastAPI, anonymous: Client) -> None:
    reconciler = app.state.backend.reconciler
    assert anonymous.get("/readyz").json() == {"ready": True, "reasons": []}
    reconciler.faults, reconciler.overview.replicas = {"ingest-0": "it died"}, {"people": 0}
    try:
        answer = anonymous.get("/readyz")
    finally:
        reconciler.faults, reconciler.overview.replicas = {}, {"people": 1}
    reasons = ["ingest-0: it died", "detector people: no replica is at work"]
    assert (answer.status_code, answer.json()) == (503, {"ready": False, "reasons": reasons})


MANY = 40  # more than the default executor of any machine that runs these tests has threads


def together(app: FastAPI, scene: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    """Run a scene with a client that may ask several things at once."""

    async def whole() -> None:
        transport, headers = httpx.ASGITransport(app), {"Authorization": f"Bearer {OPERATOR}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as client:
            await scene(client)

    asyncio.run(whole())


def alert_with_picture() -> AlertEvent:
    at, what = datetime.now(UTC), {"rule": "crowd", "type": "crowd", "state": "raised", "severity": "warning", "zone": "floor"}
    ids = {"event_id": uuid.uuid4().hex, "alert_id": uuid.uuid4().hex, "source_id": "hall"}
    links = {"picture": "alerts/hall.jpg", "clip": None}
    return AlertEvent(**what, **ids, value=5, threshold=3, raised_at=at, at=at, evidence=links)  # type: ignore[arg-type]


def test_a_store_that_hangs_holds_up_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on, begun = threading.Event(), []

    def hang(*_: object) -> None:
        begun.append(threading.current_thread().name)
        assert goes_on.wait(30)

    monkeypatch.setattr(alerts, "_read", hang)
    monkeypatch.setattr(alerts, "STORE_S", 1.0, raising=False)
    app = app_of(config_of() | {"evidence": {"url": "alerts"}}, tmp_path)
    backend, alert = app.state.backend, alert_with_picture()
    backend.record.alerts.add([alert])

    async def scene(client: httpx.AsyncClient) -> None:
        asked = [asyncio.create_task(client.get(f"/v1/alerts/{alert.alert_id}/picture")) for _ in range(MANY)]
        await asyncio.sleep(0.3)
        try:
            async with asyncio.timeout(5):
                assert (await client.patch("/v1/sources/hall", json={"fps": 4})).status_code == 200
                await asyncio.to_thread(int)  # as Control's rounds do
                for answer in await asyncio.gather(*asked):
                    assert "did not answer within 1 s" in assert_problem(answer, 503)["detail"]
        finally:
            goes_on.set()
            for one in asked:
                one.cancel()

    together(app, scene)
    assert len(begun) == 2, "what nobody waits for any more began"
    backend.close()
    with pytest.raises(RuntimeError, match="after shutdown"):
        asyncio.run(backend.store.call(int, timeout_s=1))


def test_a_name_that_is_not_resolved_holds_up_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()
    monkeypatch.setattr(edits, "reach_faults", lambda *_: goes_on.wait(30) and [])
    monkeypatch.setattr(edits, "RESOLVE_S", 0.2)
    app = app_of(config_of(), tmp_path)

    async def scene(client: httpx.AsyncClient) -> None:
        try:
            added = [client.post("/v1/sources", json={"id": f"c{i}", "uri": "rtsp://slow.example/1"}) for i in range(MANY)]
            for answer in await asyncio.gather(*added):
                assert assert_problem(answer, 422)["errors"][0]["reason"] == "its host was not resolved within 0.2 s"
            async with asyncio.timeout(5):
                await asyncio.to_thread(int)
        finally:
            goes_on.set()

    together(app, scene)
    app.state.backend.close()
