"""A real browser that looks at the console, and writes down what a page complains of and whom it asks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, WebSocket, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
DESKTOP, PHONE = (1440, 900), (390, 844)
TIMEOUT_MS = 20_000


@contextmanager
def chromium() -> Iterator[Browser]:
    """The Chromium of this machine, without a window."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("needs Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Visitor:
    """Somebody who looks at the console in a window of their own.

    Attributes:
        complaints: errors and warnings of the page.
        elsewhere: addresses that the page asked for and that are not the service's.
        watched: what the page asked to see over the live WebSocket.
    """

    def __init__(self, context: BrowserContext, url: str, token: str):
        self.page, self.url = context.new_page(), url
        self.complaints: list[str] = []
        self.elsewhere: list[str] = []
        self.watched: list[str] = []
        self.page.set_default_timeout(TIMEOUT_MS)
        self.page.on("console", self._note_message)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._note_request)
        self.page.on("websocket", self._note_socket)
        if token:
            self.page.add_init_script(f"if (location.protocol === 'http:') sessionStorage.setItem('framewatch.token', '{token}')")

    def open(self, *path: str) -> Page:
        """Show a page of the console, as ``open("camera", "hall")``."""
        self.page.goto(f"{self.url}/#/{'/'.join(path)}")
        return self.page

    def asks_for(self, source_ids: str) -> None:
        """Wait until just these sources are watched, as ``["hall","yard"]``."""
        for _ in range(TIMEOUT_MS // 100):
            if self.watched and f'"watch":{source_ids}' in self.watched[-1]:
                return
            self.page.wait_for_timeout(100)  # also lets Playwright tell what was sent
        raise AssertionError(f"watched is {self.watched[-1:]}, not {source_ids}")

    def scroll_px(self) -> int:
        """How far the page can be scrolled sideways."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))

    def picture(self, source_id: str) -> Any:
        """The canvas of a camera on the wall."""
        return self.page.locator(f"[data-source={source_id}] canvas")

    def pixels(self, source_id: str) -> str:
        """The picture of a camera on the wall as it is now."""
        return str(self.picture(source_id).evaluate("canvas => canvas.toDataURL('image/jpeg')"))

    def _note_message(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _note_request(self, request: Request) -> None:
        if not request.url.startswith((self.url, "blob:", "data:")):
            self.elsewhere.append(request.url)

    def _note_socket(self, socket: WebSocket) -> None:
        if not socket.url.startswith(self.url.replace("http", "ws")):
            self.elsewhere.append(socket.url)
        socket.on("framesent", self._note_sent)

    def _note_sent(self, payload: str | bytes) -> None:
        if "watch" in str(payload):
            self.watched.append(str(payload))
