"""The commands that look at a running service, against the real app."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from fastapi import FastAPI
from rich.console import Console

from stream import client as client_module
from stream import screen
from stream.cli import cli
from stream.client import Client, RequestRefused, ServiceUnreachable
from stream.commands.service import find_token
from stream.config_file import parse_config
from stream.errors import FramewatchError
from stream.screen import Snapshot, table_of
from stream.views import LatencyView, ServiceSloView, SloView, StatusView
from tests.support.api import OPERATOR, VIEWER, app_of, config_of
from tests.support.api import Client as AppClient

URL = "http://127.0.0.1:8000"


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    return app_of(config_of(), tmp_path)


def reaching(app: FastAPI) -> httpx.MockTransport:
    """A way to the app without a socket."""

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.decode()
        options = {"content": request.read(), "headers": dict(request.headers)}
        found = AppClient(app).request(request.method, path, **options)
        return httpx.Response(found.status_code, headers=found.headers, content=found.content)

    return httpx.MockTransport(answer)


@pytest.fixture
def run(app: FastAPI, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """``run(*arguments)``: the command against the app, with an operator's token."""
    make = httpx.Client
    monkeypatch.setattr(client_module.httpx, "Client", lambda **options: make(**options | {"transport": reaching(app)}))
    monkeypatch.setenv("FRAMEWATCH_TOKEN", OPERATOR)
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str, text: str | None = None) -> Result:
        return CliRunner(env={"COLUMNS": "80"}).invoke(cli, arguments, input=text, catch_exceptions=True)

    return invoke


def test_sources_are_listed_added_and_removed(run: Callable[..., Result], app: FastAPI) -> None:
    assert "rtsp://viewer:***@192.0.2.1/hall" in run("sources", "list").output
    added = run("sources", "add", "attic", "-", "--fps", "2", "--gate", "off", text="rtsp://viewer:secret@203.0.114.9/a\n")
    assert added.exception is None
    assert (added.exit_code, added.output) == (0, "attic: rtsp://viewer:***@203.0.114.9/a, detector people\n")
    (_, attic) = app.state.backend.config.sources
    assert (attic.fps, attic.gate, attic.decode) == (2, "off", "auto")
    assert '"origin": "api"' in run("sources", "list", "--json").output
    assert run("sources", "remove", "attic").exit_code == 0
    refused = run("sources", "remove", "hall")
    assert isinstance(refused.exception, RequestRefused)
    assert "named by rule 'crowd'" in str(refused.exception)
    assert run("sources", "remove", "hall", "--cascade").exit_code == 0
    assert app.state.backend.config.sources == []


def test_what_is_wrong_is_said(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(run("sources", "add", "hall", "rtsp://203.0.114.9/a").exception) == "there is a source 'hall' already"
    assert str(run("sources", "add", "a", "rtsp://127.0.0.1/a").exception).startswith("uri: host 127.0.0.1 is in a private network")
    assert str(run("sources", "remove", "a b?c").exception) == "there is no source 'a b?c'"
    monkeypatch.setenv("FRAMEWATCH_TOKEN", VIEWER)
    assert "takes an operator's token" in str(run("sources", "remove", "hall").exception)
    monkeypatch.setenv("FRAMEWATCH_TOKEN", "wrong")
    assert "the token is not known. FRAMEWATCH_TOKEN or --token-file" in str(run("status").exception)
    monkeypatch.delenv("FRAMEWATCH_TOKEN")
    assert "a token is needed" in str(run("top", "--once").exception)


def test_status_is_an_exit_code_too(run: Callable[..., Result], app: FastAPI) -> None:
    ready = run("status")
    assert ready.exit_code == 0, ready.output
    assert "sources: 1 connecting" in ready.output
    assert "detector people: people.onnx, 1 replica\n" in ready.output
    app.state.backend.reconciler.faults = {"ingest-0": "it died"}
    broken = run("status")
    assert (broken.exit_code, "ingest-0: it died" in broken.output) == (1, True)
    assert '"reasons": [\n      "ingest-0: it died"' in run("status", "--json").output


def test_a_service_that_is_not_there() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("[Errno 111] Connection refused", request=request)

    with Client(URL, transport=httpx.MockTransport(refuse)) as client, pytest.raises(ServiceUnreachable, match="framewatch up"):
        client.sources()
    for url in ("ftp://h", "h:80", "http://h:port"):
        with Client(url) as client, pytest.raises(FramewatchError, match="is no address of a service"):
            client.sources()
    for answer, message in ((httpx.Response(200, text="<html>"), "does not answer as"), (httpx.Response(502), "502 Bad Gateway")):
        transport = httpx.MockTransport(lambda _, answer=answer: answer)  # type: ignore[misc]
        with Client(URL, transport=transport) as client, pytest.raises(FramewatchError, match=message):
            client.sources()


def test_the_token_goes_to_its_service_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FRAMEWATCH_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    config = parse_config(config_of(), "test", tmp_path)
    own = parse_config(config_of(access={}), "test", tmp_path)
    assert find_token(URL, None, None) is None
    for name in ("state", "framewatch-state"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(f"kept in {name}\n")
    assert find_token(URL, None, None) == "kept in framewatch-state"
    assert find_token(URL, None, own) == "kept in state"
    assert find_token(URL, None, config) == OPERATOR
    assert find_token("http://other.example", None, config) is None
    assert find_token("http://other.example", tmp_path / "state" / "token", None) == "kept in state"
    monkeypatch.setenv("FRAMEWATCH_TOKEN", "named")
    assert find_token("http://other.example", None, config) == "named"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::", "::1"])
def test_the_kept_token_is_found_for_a_service_on_all_interfaces(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FRAMEWATCH_TOKEN", raising=False)
    config = parse_config(config_of(access={}, host=host), "test", tmp_path)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "token").write_text("kept\n")
    assert find_token(config.service.url, None, config) == "kept"
    for other in ("http://192.0.2.1:8000", "http://[2001:db8::1]:8000", "http://0.0.0.0.example:8000", "http://other"):
        assert find_token(other, None, config) is None


def snapshot(app: FastAPI, sources: dict[str, dict[str, Any]], at_s: float = 0.0) -> Snapshot:
    """A service whose sources have these figures."""
    slo = SloView(
        attainment=0.993,
        latency_ms=LatencyView(p50=80, p95=150, p99=310),
        error_budget_remaining=0.7,
        burn_rates={"5m": 0.1, "1h": 0.3, "6h": 0.3},
        breached=False,
    )
    with Client(URL, OPERATOR, transport=reaching(app)) as client:
        taken = Snapshot.take(client)
        shown = [
            taken.sources[0].model_copy(update={"id": name, "status": StatusView(**status)}) for name, status in sources.items()
        ]
        total = ServiceSloView(objective=0.99, latency_ms=500, total=slo, sources={})
        return Snapshot(URL, at_s, client.ready(), taken.service, total, shown)


def lines(shown: Any) -> list[str]:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(shown)
        return console.export_text().splitlines()


def test_the_table_fits_80_columns_and_begins_with_trouble(app: FastAPI) -> None:
    fine = {"state": "online", "measured_fps": 5.0, "latency_ms": {"p50": 80, "p95": 90, "p99": 120}, "slo_attainment": 0.999}
    zones = {f"zone-{i}": i for i in range(20)}
    before = snapshot(app, {"cam-1": fine | {"dropped": {"stale": 10, "sampled": 100}}})
    sources: dict[str, dict[str, Any]] = {
        "cam-1": fine | {"dropped": {"stale": 30, "sampled": 200}, "occupancy": zones},
        "a-camera-with-a-very-long-name-that-does-not-fit": fine | {"asleep": True},
        "yard": {"state": "offline", "reason": "no packet for 5 s"},
    }
    shown = lines(table_of(snapshot(app, sources, at_s=2.0), before))
    assert all(len(line) <= 80 for line in shown)
    rows = [line.split() for line in shown[shown.index("") + 1 :]]
    assert rows[0][:7] == ["source", "state", "fps", "p50", "p99", "ms", "SLO"]
    assert rows[1][:2] == ["yard", "offline"]
    assert rows[2][1] == "asleep"
    assert rows[3][:7] == ["cam-1", "online", "5.0", "80", "120", "99.9", "10.0"]
    assert "and 2 more" in lines(table_of(snapshot(app, sources), before, rows=1))


def test_top_follows_until_q(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it waits for a service that is away."""
    failing = iter([False, True, False])
    taken: list[str] = []
    seen = snapshot(app, {"hall": {"state": "online"}})

    def take(client: Client) -> Snapshot:
        taken.append("asked")
        if next(failing):
            raise ServiceUnreachable("no service answers")
        return seen

    pressed = iter(["", "x", "q"])
    monkeypatch.setattr(screen.Snapshot, "take", take)
    monkeypatch.setattr(screen.sys.stdin, "isatty", lambda: False)
    monkeypatch.setattr(screen, "_nothing_pressed", lambda _: next(pressed))
    with open("/dev/null", "w") as nowhere:
        screen.follow(Client(URL), Console(file=nowhere, force_terminal=True), 1)
    assert len(taken) == 3
