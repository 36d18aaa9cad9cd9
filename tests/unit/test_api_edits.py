"""Changes over the API: sources, zones, lines, rules; what is refused and how; secrets stay where they are."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from actors.desired import FILE
from tests.support.api import LINE, OPERATOR, ZONE, Client, app_of, config_of

URI = "rtsp://viewer:secret@203.0.114.9/attic"
ATTIC = {"id": "attic", "uri": URI, "fps": 2}


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    return app_of(config_of(), tmp_path)


@pytest.fixture
def api(app: FastAPI) -> Client:
    return Client(app, OPERATOR)


def fields(answer: httpx.Response, status: int = 422) -> list[str]:
    assert answer.status_code == status, answer.text
    assert "secret" not in answer.text
    return [one["field"] for one in answer.json()["errors"]]


def wanted(app: FastAPI) -> tuple[list[str], list[str]]:
    """Sources and rules that the actors were told last."""
    told: tuple[list[str], list[str]] = app.state.backend.reconciler.wanted
    return told


def test_a_source_is_added_changed_and_removed(app: FastAPI, api: Client, tmp_path: Path) -> None:
    added = api.post("/v1/sources", json=ATTIC)
    assert (added.status_code, added.headers["location"]) == (201, "/v1/sources/attic")
    assert (added.json()["uri"], added.json()["origin"]) == ("rtsp://viewer:***@203.0.114.9/attic", "api")
    assert wanted(app) == (["hall", "attic"], ["crowd"])
    assert api.get(added.headers["location"]).json() == added.json()
    changed = api.request("PATCH", "/v1/sources/attic", json={"fps": None, "gate": "off"})
    assert (changed.json()["fps"], changed.json()["gate_setting"]) == (None, "off")
    assert app.state.backend.config.sources[1].uri == URI
    replaced = api.request("PUT", "/v1/sources/attic", json=ATTIC)
    assert (replaced.status_code, replaced.json()["gate_setting"]) == (200, "auto")
    assert "secret" in (tmp_path / "state" / FILE).read_text()
    assert api.request("DELETE", "/v1/sources/attic").status_code == 204
    assert wanted(app) == (["hall"], ["crowd"])
    assert api.get("/v1/sources/attic").status_code == 404
    assert "attic" not in (tmp_path / "state" / FILE).read_text()


def test_put_adds_what_is_not_there(api: Client) -> None:
    assert api.request("PUT", "/v1/sources/attic", json=ATTIC).status_code == 201
    assert api.request("PUT", "/v1/sources/attic", json=ATTIC).status_code == 200
    assert fields(api.request("PUT", "/v1/sources/cellar", json=ATTIC)) == ["id"]
    assert api.post("/v1/sources", json=ATTIC).status_code == 409


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ({}, ["id", "uri"]),
        (ATTIC | {"id": "a/b"}, ["id"]),
        (ATTIC | {"fps": 0}, ["fps"]),
        (ATTIC | {"colour": "red"}, ["colour"]),
        (ATTIC | {"uri": "ftp://viewer:secret@h/a"}, ["uri"]),
        (ATTIC | {"uri": "rtsp://viewer:secret@127.0.0.1/a"}, ["uri"]),
        (ATTIC | {"uri": "/etc/passwd"}, ["uri"]),
        (ATTIC | {"detector": "cars"}, ["detector"]),
        (ATTIC | {"zones": [ZONE | {"polygon": [[0, 0], [1, 1]]}]}, ["zones.0.polygon"]),
        (ATTIC | {"zones": [ZONE, ZONE | {"name": "x", "polygon": [[0, 0], [2, 0], [1, 1]]}]}, ["zones.1.polygon.1.0"]),
        (ATTIC | {"zones": [ZONE | {"classes": ["person", "dog"]}]}, ["zones.0.classes"]),
        (ATTIC | {"zones": [ZONE], "lines": [LINE | {"name": "floor"}]}, [""]),
        ([], [""]),
    ],
)
def test_errors_name_the_field(source: Any, wrong: list[str], api: Client) -> None:
    assert fields(api.post("/v1/sources", json=source)) == wrong


def test_bodies_that_are_no_json_are_errors(api: Client) -> None:
    for body in (b"", b"{", b'"x"', b"\xff", b'{"fps": 1e999}', b"[" * 5000):
        answer = api.post("/v1/sources", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422), body
        assert answer.headers["content-type"] == "application/problem+json"
    assert api.post("/v1/sources", content=json.dumps(ATTIC), headers={"Content-Type": "text/plain"}).status_code == 422


@pytest.mark.parametrize("depth", [10, 300, 700, 900, 5000])
def test_nesting_has_an_end(depth: int, api: Client) -> None:
    body = '{"a":' * depth + "1" + "}" * depth
    for method, path in (("PATCH", "/v1/sources/hall"), ("POST", "/v1/sources"), ("POST", "/v1/rules")):
        answer = api.request(method, path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422), answer.text


def test_the_shown_uri_keeps_the_secret_and_no_other_does(app: FastAPI, api: Client) -> None:
    shown = api.get("/v1/sources/hall").json()["uri"]
    for answer in (
        api.request("PATCH", "/v1/sources/hall", json={"uri": shown, "fps": 3}),
        api.request("PUT", "/v1/sources/hall", json={"id": "hall", "uri": shown, "zones": [ZONE]}),
    ):
        assert answer.status_code == 200, answer.text
        assert app.state.backend.config.sources[0].uri == "rtsp://viewer:secret@192.0.2.1/hall"
    assert fields(api.request("PATCH", "/v1/sources/hall", json={"uri": shown.replace("192.0.2.1", "203.0.114.1")})) == ["uri"]
    assert fields(api.request("PATCH", "/v1/sources/hall", json={"uri": shown + "?x"})) == ["uri"] * 2


def test_a_password_of_brokers_goes_to_no_others(tmp_path: Path) -> None:
    config = config_of()
    kafka = {"bootstrap_servers": ["192.0.2.1:9092"], "username": "u", "password": "secret", "options": {"x": 1}}
    config["sources"].append({"id": "topic", "uri": "kafka://frames", "kafka": kafka})
    app = app_of(config, tmp_path)
    api = Client(app, OPERATOR)
    assert api.request("PATCH", "/v1/sources/topic", json={"fps": 2}).status_code == 200
    assert app.state.backend.config.sources[1].kafka.password == "secret"
    others = {"bootstrap_servers": ["203.0.114.1:9092"]}
    assert fields(api.request("PATCH", "/v1/sources/topic", json={"kafka": others})) == ["kafka.options"]
    assert api.request("PATCH", "/v1/sources/topic", json={"kafka": others | {"options": None}}).status_code == 200
    assert app.state.backend.config.sources[1].kafka.password is None


def test_a_source_of_the_config_can_be_reset(app: FastAPI, api: Client) -> None:
    before = api.get("/v1/sources/hall").json()
    assert before["origin"] == "config"
    assert api.request("PATCH", "/v1/sources/hall", json={"fps": 1}).json()["origin"] == "changed"
    assert api.post("/v1/sources/hall/reset").json() == before
    assert api.request("DELETE", "/v1/sources/hall?cascade=true").status_code == 204
    assert wanted(app) == ([], [])
    assert api.post("/v1/sources/hall/reset").json() == before
    assert api.post("/v1/sources/attic/reset").status_code == 404
    api.post("/v1/sources", json=ATTIC)
    assert api.post("/v1/sources/attic/reset").status_code == 409


def test_what_a_rule_names_is_not_removed_without_it(app: FastAPI, api: Client) -> None:
    for method, path, body in (
        ("DELETE", "/v1/sources/hall", None),
        ("DELETE", "/v1/sources/hall/zones/floor", None),
        ("PATCH", "/v1/sources/hall", {"zones": []}),
        ("PUT", "/v1/sources/hall", {"id": "hall", "uri": "rtsp://viewer:***@192.0.2.1/hall"}),
    ):
        answer = api.request(method, path, json=body)
        assert answer.status_code == 409, path
        assert "rule 'crowd'" in answer.json()["detail"]
    assert api.request("DELETE", "/v1/sources/hall/zones/floor?cascade=true").status_code == 204
    assert wanted(app) == (["hall"], [])


@pytest.mark.parametrize(
    ("path", "part", "other"),
    [("zones", ZONE, {"polygon": [[0, 0], [1, 0], [0, 1]]}), ("lines", LINE, {"points": [[0, 0], [1, 1]]})],
)
def test_zones_and_lines(path: str, part: dict[str, Any], other: dict[str, Any], app: FastAPI, api: Client) -> None:
    url = f"/v1/sources/hall/{path}/{part['name']}"
    assert api.get(url).json()["name"] == part["name"]
    assert api.request("PUT", url, json=part | other).status_code == 200
    assert next(iter(other.values())) == api.get(url).json()[next(iter(other))]
    new = f"/v1/sources/hall/{path}/new"
    assert api.get(new).status_code == 404
    assert api.request("PUT", new, json=part | {"name": "new"}).status_code == 201
    assert [one["name"] for one in api.get("/v1/sources/hall").json()[path]] == [part["name"], "new"]
    assert fields(api.request("PUT", new, json=part)) == ["name"]
    assert fields(api.request("PUT", new, json=part | {"name": "new", "classes": ["dog"]})) == ["classes"]
    assert fields(api.request("PUT", new, json=part | {"name": "new", "anchor": "left"})) == ["anchor"]
    assert api.request("DELETE", new).status_code == 204
    assert api.request("DELETE", new).status_code == 404
    assert api.request("PUT", f"/v1/sources/attic/{path}/new", json=part | {"name": "new"}).status_code == 404


def test_zones_and_lines_share_their_names(api: Client) -> None:
    answer = api.request("PUT", "/v1/sources/hall/zones/door", json=ZONE | {"name": "door"})
    assert answer.status_code == 422
    assert "share the name 'door'" in answer.json()["errors"][0]["reason"]


def test_rules(app: FastAPI, api: Client) -> None:
    watch = {"name": "watch", "type": "loitering", "zone": "hall/floor", "dwell_s": 5}
    added = api.post("/v1/rules", json=watch)
    assert (added.status_code, added.headers["location"]) == (201, "/v1/rules/watch")
    assert watch.items() <= added.json().items()
    assert wanted(app)[1] == ["crowd", "watch"]
    assert [rule["name"] for rule in api.get("/v1/rules").json()] == ["crowd", "watch"]
    assert api.get("/v1/rules/watch").json() == added.json()
    assert api.post("/v1/rules", json=watch).status_code == 409
    assert api.request("PUT", "/v1/rules/watch", json=watch | {"dwell_s": 9}).json()["dwell_s"] == 9
    assert api.request("PUT", "/v1/rules/more", json=watch | {"name": "more"}).status_code == 201
    assert api.request("DELETE", "/v1/rules/watch").status_code == 204
    assert api.get("/v1/rules/watch").status_code == 404
    assert wanted(app)[1] == ["crowd", "more"]


@pytest.mark.parametrize(
    ("rule", "wrong"),
    [
        ({"name": "x"}, [""]),
        ({"name": "x", "type": "fire"}, [""]),
        ({"name": "x", "type": "intrusion"}, ["zone"]),
        ({"name": "x", "type": "intrusion", "zone": "hall/attic"}, ["zone"]),
        ({"name": "x", "type": "crowd", "zones": ["hall/floor", "hall/none"], "above": 1}, ["zones"]),
        ({"name": "x", "type": "crowd", "zone": "hall/floor", "above": 10**400}, ["above"]),
        ({"name": "x", "type": "source_offline", "source": "attic"}, ["source"]),
        ({"name": "x", "type": "intrusion", "zone": "hall/floor", "schedule": {"timezone": "Moon"}}, ["schedule.timezone"]),
    ],
)
def test_errors_of_rules_name_the_field(rule: dict[str, Any], wrong: list[str], api: Client) -> None:
    assert fields(api.post("/v1/rules", json=rule)) == wrong


def test_a_change_may_ask_that_nobody_else_made_one(api: Client) -> None:
    for path, body in (
        ("/v1/sources/hall", {"id": "hall", "uri": "rtsp://viewer:***@192.0.2.1/hall", "zones": [ZONE], "fps": 3}),
        ("/v1/sources/hall/zones/floor", ZONE | {"anchor": "center"}),
        ("/v1/rules/crowd", {"name": "crowd", "type": "crowd", "zone": "hall/floor", "above": 4}),
    ):
        tag = api.get(path).headers["etag"]
        assert api.request("PUT", path, json=body, headers={"If-Match": '"other"'}).status_code == 412
        answer = api.request("PUT", path, json=body, headers={"If-Match": tag})
        assert answer.status_code == 200, answer.text
        assert answer.headers["etag"] == api.get(path).headers["etag"] != tag
        assert api.request("DELETE", path, headers={"If-Match": tag}).status_code == 412
    assert api.request("PUT", "/v1/sources/attic", json=ATTIC, headers={"If-Match": "*"}).status_code == 412


def test_what_cannot_be_kept_is_not_done(app: FastAPI, api: Client, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file in the way")
    answer = api.post("/v1/sources", json=ATTIC)
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert [source["id"] for source in api.get("/v1/sources").json()] == ["hall"]


def test_there_is_an_end_to_sources_and_rules(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.api.edits.MAX_SOURCES", 1)
    monkeypatch.setattr("actors.api.rules.MAX_RULES", 1)
    assert api.post("/v1/sources", json=ATTIC).status_code == 409
    assert api.post("/v1/rules", json={"name": "x", "type": "source_offline"}).status_code == 409
    assert api.request("PATCH", "/v1/sources/hall", json={"fps": 1}).status_code == 200
