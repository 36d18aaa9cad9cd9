"""Takes the pictures of the README: the demo's cameras on the real service, looked at with Chromium.

    python docs/pictures/make.py [FOLDER [FILMS]]

Needs what ``make test`` needs, and Chromium. FILMS keeps the films for another time; filming takes a minute or two, the rest two.
"""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np
from playwright.sync_api import Page, sync_playwright

from actors.demo import PASSWORD, START_S, USER, demo_config, read_truth, shots
from actors.up import running
from stream.config import JsonlSinkConfig, PipelineConfig
from stream.evidence.settings import EvidenceConfig, RuleEvidence
from stream.simulation.studio import make
from stream.testing.rtsp_server import CameraServer

FILM_S = 60.0
WATCHED_S = 50.0  # before the pictures: the charts want a while
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
MAX_BYTES = 150_000


def save(page: Page, path: Path) -> None:
    """The window as WebP, at the best quality that is small enough."""
    pixels = cv2.imdecode(np.frombuffer(page.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    for quality in range(90, 30, -5):
        _, webp = cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, quality])
        if len(webp) <= MAX_BYTES:
            break
    path.write_bytes(webp.tobytes())
    print(f"{path.name}: {pixels.shape[1]} x {pixels.shape[0]}, {len(webp)} bytes")


def take(url: str, folder: Path) -> None:
    """All pictures of a console with the demo's cameras."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])

        def look(path: str, scheme: str, viewport: dict[str, int], scale: float = 1) -> Page:
            context = browser.new_context(viewport=viewport, color_scheme=scheme, device_scale_factor=scale)  # type: ignore[arg-type]
            page = context.new_page()
            page.goto(f"{url}/#/{path}")
            page.wait_for_timeout(4000)
            return page

        save(look("wall", "dark", DESKTOP), folder / "wall.webp")
        page = look("camera/station", "light", DESKTOP)
        page.get_by_role("button", name="Edit zones and lines").click()
        page.get_by_role("button", name="concourse").click()
        page.wait_for_timeout(1000)
        save(page, folder / "editor.webp")
        save(look("camera/plaza", "dark", {"width": 1440, "height": 1180}), folder / "camera.webp")
        save(look("alerts", "light", DESKTOP), folder / "alerts.webp")
        save(look("camera/street", "light", PHONE, 1.5), folder / "phone.webp")
        browser.close()


def shown(config: PipelineConfig, folder: Path) -> PipelineConfig:
    """The demo's config with events in a file, and a picture of each alert."""
    changes = {
        "sinks": [JsonlSinkConfig(type="jsonl", path=str(folder / "events.jsonl"))],
        "alerts": [rule.model_copy(update={"evidence": RuleEvidence(blur=False)}) for rule in config.alerts],
        "evidence": EvidenceConfig(url=str(folder / "evidence")),
    }
    return config.model_copy(update=changes)


def main() -> None:
    """Film, serve, look."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    target.mkdir(parents=True, exist_ok=True)
    cameras = shots(FILM_S)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        films = Path(sys.argv[2]) if len(sys.argv) > 2 else folder / "films"
        if not films.exists():
            make(list(cameras.values()), films, threading.Event(), lambda _: None)
        clips = {camera: films / shot.name / "video.mp4" for camera, shot in cameras.items()}
        begin_at = math.ceil(time.time()) + 1.0
        truth = read_truth(films, cameras, begin_at, FILM_S + 10 * START_S)
        with CameraServer(clips, user=USER, password=PASSWORD, begin_at=begin_at) as server:
            config = demo_config(
                {camera: server.url(camera) for camera in cameras}, cameras, truth, "127.0.0.1:9", folder / "state"
            )
            with running(shown(config, folder), dashboard=False):
                time.sleep(WATCHED_S)
                take(f"http://{config.service.host}:{config.service.port}", target)


if __name__ == "__main__":
    main()
