"""The console in a real browser, on the real service with real cameras."""

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from stream.testing.rtsp_server import CameraServer
from tests.golden.scenario import CLIP
from tests.support.browser import DESKTOP, PHONE, TIMEOUT_MS, Visitor, chromium
from tests.support.media import camera_clip
from tests.support.service import Cluster, deployed, jsonl, of_schema, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.rtsp, pytest.mark.browser]

PASSWORD = "s3cret-Pa55w0rd"
OPERATOR, VIEWER = "an-operators-token", "a-viewers-token-too"
FLOOR = {"name": "floor", "polygon": [[0, 0], [1, 0], [1, 1], [0, 1]]}
PAGES = (["wall"], ["camera", "hall"], ["alerts"], ["alerts", "rules"], ["service"])

expect.set_options(timeout=TIMEOUT_MS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("console")


@pytest.fixture(scope="module")
def cameras(shared: Path, folder: Path) -> Iterator[CameraServer]:
    clip = camera_clip(shared / CLIP, folder / "camera.mp4", 24, 10)  # somebody is in view all the time
    with CameraServer({"hall": clip, "yard": clip, "gate": clip}, user="viewer", password=PASSWORD) as server:
        yield server


@pytest.fixture(scope="module")
def url(cluster: Cluster, shared: Path, cameras: CameraServer, folder: Path) -> Iterator[str]:
    """The service with two cameras, an alert that is raised, and two tokens."""
    model = {"model": str(shared / "data/models/FastestDet.onnx"), "classes": ["person"], "threads": 1}
    tokens = [{"name": "olga", "role": "operator", "token": OPERATOR}, {"name": "victor", "role": "viewer", "token": VIEWER}]
    config = {
        "detectors": {"people": model},
        "sources": [
            {"id": "hall", "uri": cameras.url("hall"), "fps": 5, "gate": "off", "zones": [FLOOR]},
            {"id": "yard", "uri": cameras.url("yard"), "fps": 5, "gate": "off"},
        ],
        "alerts": [
            {"name": "somebody", "type": "intrusion", "zone": "hall/floor", "clear_for_s": 3600, "evidence": {"picture": True}}
        ],
        "evidence": {"url": "evidence"},
        "sinks": [{"type": "jsonl", "path": "events.jsonl"}],
        "slo": {"latency_ms": 2000},
        "service": {"access": {"enabled": True, "tokens": tokens, "allowed_hosts": ["127.0.0.1"]}},
    }
    with deployed(cluster, config, folder) as service:
        yield service.url


@pytest.fixture(scope="module")
def browser(url: str) -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def visit(browser: Browser, url: str) -> Iterator[Callable[..., Visitor]]:
    """``visit(token=..., size=...)``: a visitor; none of them may complain or ask for anything elsewhere."""
    visitors = []

    def arrive(token: str = OPERATOR, size: tuple[int, int] = DESKTOP, scheme: Any = "dark") -> Visitor:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
        visitors.append(Visitor(context, url, token))
        return visitors[-1]

    yield arrive
    for visitor in visitors:
        visitor.page.context.close()
        assert visitor.complaints == []
        assert visitor.elsewhere == []


def ask(url: str, path: str) -> Any:
    """An answer of the API."""
    return httpx.get(f"{url}/v1/{path}", headers={"Authorization": f"Bearer {OPERATOR}"}).raise_for_status().json()


def test_sign_in(visit: Callable[..., Visitor]) -> None:
    visitor = visit(token="")
    page = visitor.open()
    page.get_by_label("Token").fill("not-the-right-token")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("not known")
    page.get_by_label("Token").fill(OPERATOR)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("[data-source=hall]")).to_be_visible()
    assert page.evaluate("sessionStorage.getItem('framewatch.token')") == OPERATOR
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Token")).to_be_visible()
    assert all("401" in complaint for complaint in visitor.complaints)  # Chromium notes every answer of that kind
    visitor.complaints.clear()


def test_the_api_is_documented(visit: Callable[..., Visitor], url: str) -> None:
    page = visit().page
    page.goto(f"{url}/docs")
    expect(page.get_by_text("/v1/sources", exact=True).first).to_be_visible()


def test_the_wall_is_live_and_watches_only_what_is_seen(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    page = visitor.open()
    for source_id in ("hall", "yard"):
        expect(page.locator(f"[data-source={source_id}][data-state=online]")).to_be_visible()
        expect(page.locator(f"[data-source={source_id}] .box").first).to_be_attached()
        first = visitor.pixels(source_id)
        wait_for(lambda name=source_id, old=first: visitor.pixels(name) != old, 10, f"another picture of {source_id}")
    expect(page.locator("[data-source=hall] .zone text")).to_have_text("floor 1")
    expect(page.locator("[data-source=hall] .alert-flag")).to_contain_text("somebody")
    page.get_by_label("Find a camera").fill("ya")
    expect(page.locator("[data-source=hall]")).to_have_count(0)
    visitor.asks_for('["yard"]')
    page.evaluate("Object.defineProperty(document, 'hidden', {value: true}); document.dispatchEvent(new Event('visibilitychange'))")
    visitor.asks_for("[]")


def at(stage: Locator, x: float, y: float) -> dict[str, Any]:
    """A position on the picture, from its normalised coordinates."""
    box = stage.bounding_box()
    assert box
    return {"x": x * box["width"], "y": y * box["height"]}


def drag(page: Page, stage: Locator, start: tuple[float, float], end: tuple[float, float]) -> None:
    box = stage.bounding_box()
    assert box
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1], steps=4)
    page.mouse.up()


def test_a_zone_is_drawn_with_the_mouse_and_counts(visit: Callable[..., Visitor], url: str, folder: Path) -> None:
    visitor = visit()
    page = visitor.open("camera", "yard")
    page.get_by_role("button", name="Edit zones and lines").click()
    page.get_by_role("button", name="New zone").click()
    stage = page.get_by_role("application")
    expect(stage.locator("canvas").first).to_be_visible()
    for corner in ((0.02, 0.02), (0.98, 0.02), (0.98, 0.98), (0.3, 0.98), (0.02, 0.02)):  # the first again: closed
        stage.click(position=at(stage, *corner))
    page.get_by_label("Name").fill("two words")
    drag(page, stage, (0.3, 0.98), (0.02, 0.98))
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_label("Name")).to_have_attribute("aria-invalid", "true")
    visitor.complaints.clear()  # Chromium notes the refusal
    page.get_by_label("Name").fill("ground")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".notice")).to_contain_text("are saved")
    [zone] = ask(url, "sources/yard")["zones"]
    assert zone["name"] == "ground"
    for point, wanted in zip(zone["polygon"], ((0.02, 0.02), (0.98, 0.02), (0.98, 0.98), (0.02, 0.98)), strict=True):
        assert point == pytest.approx(wanted, abs=0.01)

    def counted() -> bool:
        counts = of_schema(jsonl(folder / "events.jsonl"), "counts")
        return any(event.get("zone") == "ground" and event["occupancy"]["max"] == 1 for event in counts)

    wait_for(counted, 20, "counts of the zone that was drawn")
    expect(page.locator("[data-zone=ground]")).to_have_text("1")


def test_a_line_is_drawn_with_the_keyboard_and_deleted(visit: Callable[..., Visitor], url: str) -> None:
    page = visit().open("camera", "hall")
    page.get_by_role("button", name="Edit zones and lines").click()
    page.get_by_role("button", name="New line").click()
    stage = page.get_by_role("application")
    stage.focus()
    for key in ("Space", *["Shift+ArrowRight"] * 3, "Space"):
        page.keyboard.press(key)
    expect(stage).to_have_attribute("aria-label", re.compile("line line-1"))
    for key in ("Enter", "Enter", "ArrowDown", "ArrowDown"):  # the second point
        page.keyboard.press(key)
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".notice")).to_contain_text("are saved")
    [line] = ask(url, "sources/hall")["lines"]
    assert line["points"] == [[0.5, 0.5], [0.8, 0.504]]
    page.get_by_role("button", name="Edit zones and lines").click()
    page.get_by_role("button", name="line-1").click()
    stage.focus()
    page.keyboard.press("Delete")
    page.keyboard.press("Control+z")
    page.keyboard.press("Delete")
    page.get_by_role("button", name="Save", exact=True).click()
    wait_for(lambda: ask(url, "sources/hall")["lines"] == [], 10, "the line to be gone")
    assert [zone["name"] for zone in ask(url, "sources/hall")["zones"]] == ["floor"]


DRAFT = """async () => {
  const { begin, reduce, toSource } = await import("/console/draft.js");
  const triangle = [[0.1, 0.1], [0.5, 0.1], [0.1, 0.9]];
  const source = { zones: [{ name: "zone-1", polygon: triangle, anchor: "center", classes: ["person"] }], lines: [] };
  const first = begin(source);
  const [{ key }] = first.shapes;
  const act = (...actions) => actions.reduce(reduce, first);
  const place = (...points) => points.map((at) => ({ type: "place", at }));
  let nudged = act({ type: "select", key });
  for (let i = 0; i < 60; i += 1) nudged = reduce(nudged, { type: "nudge", by: [0.001, 0] });
  let back = nudged;
  for (let i = 0; i < 60; i += 1) back = reduce(back, { type: "undo" });
  return {
    unchanged: toSource(first),
    drawn: toSource(act({ type: "draw", kind: "zone" }, ...place([0, 0], [1, 0], [1.5, 1]), { type: "finish" })).zones[1],
    unfinished: act({ type: "draw", kind: "zone" }, ...place([0, 0], [1, 0]), { type: "finish" }).shapes.length,
    line: toSource(act({ type: "draw", kind: "line" }, ...place([0, 0], [0, 1]))).lines[0].points,
    shifted: toSource(act({ type: "shift", key, by: [-5, 0.05] })).zones[0].polygon,
    inserted: toSource(act({ type: "insert", key, point: 1, at: [0.3, 0] })).zones[0].polygon[1],
    fewer: act({ type: "select", key, point: 0 }, { type: "remove" }).shapes.length,
    remembered: nudged.undone.length,
    back: toSource(back).zones[0].polygon[0][0],
  };
}"""


def test_what_is_drawn_stays_in_the_picture_and_can_be_undone(visit: Callable[..., Visitor]) -> None:
    found = visit().open().evaluate(DRAFT)
    triangle = [[0.1, 0.1], [0.5, 0.1], [0.1, 0.9]]
    assert found["unchanged"] == {
        "zones": [{"name": "zone-1", "polygon": triangle, "anchor": "center", "classes": ["person"]}],
        "lines": [],
    }
    assert (found["drawn"]["name"], found["drawn"]["polygon"]) == ("zone-2", [[0, 0], [1, 0], [1, 1]])
    assert found["unfinished"] == 1  # two corners are no zone
    assert found["line"] == [[0, 0], [0, 1]]
    assert found["shifted"] == [[0, 0.15], [0.4, 0.15], [0, 0.95]]
    assert found["inserted"] == [0.3, 0]
    assert found["fewer"] == 0  # a triangle without a corner
    assert found["remembered"] == 50
    assert found["back"] == pytest.approx(0.11)


def test_a_camera_is_added_and_removed(visit: Callable[..., Visitor], url: str, cameras: CameraServer) -> None:
    visitor = visit()
    page = visitor.open()
    page.get_by_role("button", name="Add camera").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("gate")
    dialog.get_by_label("Address").fill("ftp://127.0.0.1/gate")
    dialog.get_by_role("button", name="Add camera").click()
    expect(dialog.get_by_label("Address")).to_have_attribute("aria-invalid", "true")
    dialog.get_by_label("Address").fill(cameras.url("gate"))
    dialog.get_by_role("button", name="Add camera").click()
    expect(dialog).to_have_count(0)
    expect(page.locator("[data-source=gate][data-state=online]")).to_be_visible()
    expect(page.locator("[data-source=gate] .picture[data-frame]")).to_be_visible()
    page.get_by_role("link", name="gate", exact=True).click()
    expect(page.get_by_text("rtsp://viewer:***@127.0.0.1")).to_be_visible()
    assert PASSWORD not in page.content()
    page.get_by_role("button", name="Remove gate").click()
    page.get_by_role("button", name="Remove", exact=True).click()
    expect(page.locator("[data-source=hall]")).to_be_visible()
    expect(page.locator("[data-source=gate]")).to_have_count(0)
    assert {source["id"] for source in ask(url, "sources")} == {"hall", "yard"}
    complaints = [text for text in visitor.complaints if not re.search("422|404", text)]  # the refusal, and gate's last request
    visitor.complaints[:] = complaints


def test_an_alert_shows_and_is_acknowledged(visit: Callable[..., Visitor], url: str) -> None:
    page = visit().open("alerts")
    alert = page.locator(".alert.raised", has_text="somebody")
    expect(alert).to_contain_text("1 object in floor")
    alert.get_by_role("button", name="Evidence").click()
    expect(page.get_by_role("dialog").get_by_role("img")).to_be_visible()
    page.keyboard.press("Escape")
    alert.get_by_role("button", name="Acknowledge").click()
    page.get_by_label("Note").fill("It is the cleaner.")
    page.get_by_role("dialog").get_by_role("button", name="Acknowledge").click()
    expect(alert).to_contain_text("It is the cleaner.")
    [item] = ask(url, "alerts?state=active")["items"]
    assert (item["acknowledged"]["by"], item["acknowledged"]["note"]) == ("olga", "It is the cleaner.")
    expect(page.locator("tbody tr", has_text="somebody")).to_contain_text("olga")


def test_a_rule_is_added_and_removed(visit: Callable[..., Visitor], url: str) -> None:
    visitor = visit()
    page = visitor.open("alerts", "rules")
    page.get_by_role("button", name="Add rule").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("When").select_option("loitering")
    dialog.get_by_label("Zone").select_option("hall/floor")
    dialog.get_by_label("Stays for").fill("600")
    dialog.get_by_role("button", name="Add rule").click()
    expect(dialog.get_by_label("Name")).to_have_attribute("aria-invalid", "true")
    visitor.complaints.clear()  # Chromium notes the refusal
    dialog.get_by_label("Name").fill("stays")
    dialog.get_by_role("button", name="Add rule").click()
    expect(page.locator("[data-rule=stays]")).to_contain_text("longer than 10 min")
    assert [rule["dwell_s"] for rule in ask(url, "rules") if rule["name"] == "stays"] == [600]
    page.get_by_role("button", name="Remove stays").click()
    page.get_by_role("button", name="Remove", exact=True).click()
    expect(page.locator("[data-rule=stays]")).to_have_count(0)


def test_a_camera_has_charts_and_the_service_its_objective(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    page = visitor.open("camera", "hall")
    for title in ("In the zones", "Latency: ", "Latency by stage", "Analysed"):
        expect(page.locator(f".plot[aria-label^='{title}'] canvas")).to_be_visible()
    visitor.open("service")
    expect(page.get_by_text("99 % of the analysed frames within 2000 ms")).to_be_visible()
    expect(page.get_by_text("every part answers")).to_be_visible()
    expect(page.get_by_role("cell", name="hall")).to_be_visible()


def test_a_camera_shows_how_far_what_is_found_is_from_what_is_usual(visit: Callable[..., Visitor], url: str) -> None:
    visitor = visit()
    page = visitor.open("camera", "hall")
    drift = page.locator(".drift")
    expect(drift).to_contain_text("still being learned")
    expect(drift.locator("dt")).to_have_text(["Confidence", "Height", "Class", "Objects in a frame"])
    report = ask(url, "sources/hall/drift")  # what takes a week to come about is put into the real answer
    report |= {"learned_h": 200.0}
    confidence = report["features"]["confidence"]
    bins = len(confidence["bins"])
    confidence |= {"recent": [0] * bins, "usual": [0] * bins, "recent_samples": 300.0, "usual_samples": 900.0, "psi": 0.314}
    confidence["recent"][8], confidence["usual"][-1] = 1, 1
    page.route("**/v1/sources/hall/drift", lambda route: route.fulfill(json=report))
    page.reload()
    expect(drift.locator(".missed")).to_have_text("0.31")
    expect(drift).not_to_contain_text("still being learned")
    histogram = drift.get_by_role("img", name="Confidence: lately mostly 40.0 % to 45.0 %, usually 95.0 % and more")
    expect(histogram).to_be_visible()
    expect(histogram.locator("rect").nth(8).locator("title")).to_have_text("40.0 % to 45.0 %: lately 100 %, usually 0.0 %")
    problem = {"title": "Service Unavailable", "status": 503, "detail": "aggregator-0 does not answer"}
    page.route("**/v1/sources/hall/drift", lambda route: route.fulfill(status=503, json=problem))
    page.reload()
    note = page.locator("section", has=page.get_by_role("heading", name="Drift")).get_by_role("alert")
    expect(note).to_contain_text("aggregator-0 does not answer")
    page.unroute("**/v1/sources/hall/drift")
    note.get_by_role("button", name="Try again").click()
    expect(drift.locator("dt")).to_have_count(4)
    assert all("503" in complaint for complaint in visitor.complaints)
    visitor.complaints.clear()


def test_a_viewer_changes_nothing(visit: Callable[..., Visitor]) -> None:
    visitor = visit(token=VIEWER)
    page = visitor.open()
    expect(page.locator("[data-source=hall]")).to_be_visible()
    for path in PAGES:
        visitor.open(*path)
        expect(page.locator("main .placeholder[aria-busy]")).to_have_count(0)
        for name in ("Add", "Remove", "Edit", "Change", "Acknowledge", "Settings"):
            expect(page.get_by_role("button", name=name)).to_have_count(0)


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_a_phone_shows_every_page_without_scrolling_sideways(visit: Callable[..., Visitor], scheme: str) -> None:
    visitor = visit(size=PHONE, scheme=scheme)
    for path in PAGES:
        page = visitor.open(*path)
        expect(page.locator("main :is(h1, h2)").first).to_be_attached()
        expect(page.locator("main .placeholder[aria-busy]")).to_have_count(0)
        assert visitor.scroll_px() <= 0, path
        assert page.locator("html").get_attribute("data-theme") == scheme


def test_the_keyboard_reaches_everything_and_shows_where_it_is(visit: Callable[..., Visitor]) -> None:
    page = visit().open()
    expect(page.locator("[data-source=yard]")).to_be_visible()
    focused = """() => {
        const [element, style] = [document.activeElement, getComputedStyle(document.activeElement)];
        return [element.textContent.trim() || element.ariaLabel, style.outlineStyle !== "none" || style.boxShadow !== "none"];
    }"""
    seen = []
    for _ in range(14):
        page.keyboard.press("Tab")
        name, visible = page.evaluate(focused)
        seen.append(name)
        assert visible, name
    wanted = ["Skip to the content", "framewatch", "Cameras", "Alerts", "Service", "Add camera"]
    places = [next((i for i, name in enumerate(seen) if name.startswith(text)), -1) for text in wanted]
    assert places[0] == 0
    assert all(a < b for a, b in itertools.pairwise(places)), seen
    page.get_by_role("button", name="Add camera").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_label("Name")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="Add camera")).to_be_focused()
