"""The console's files: the libraries are those named, everything referred to is there, nothing is fetched elsewhere."""

import hashlib
import re
from pathlib import Path

import pytest

from actors.api import console
from stream import drift
from tests.conftest import ROOT
from tests.support.api import Client, app_of, config_of

VENDOR = console.FOLDER / "vendor"
OWN = [path for path in sorted(console.FOLDER.iterdir()) if path.suffix in console.MEDIA_TYPES]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Client:
    """Nobody in particular: the page is shown before anyone has signed in."""
    return Client(app_of(config_of(), tmp_path_factory.mktemp("console")))


def test_vendored_libraries_are_those_that_are_named() -> None:
    table = re.findall(r"^\| `([^`]+)` \|.*\]\((LICENSE\.\w+)\) \| `([0-9a-f]{64})` \|$", (VENDOR / "VENDOR.md").read_text(), re.M)
    named = {name: digest for name, _, digest in table}
    files = {path.name: path for path in VENDOR.iterdir() if path.suffix in console.MEDIA_TYPES}
    assert named == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    assert {licence for _, licence, _ in table} == {path.name for path in VENDOR.glob("LICENSE.*")}


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_everything_that_a_file_refers_to_is_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    imports = re.findall(r"""(?:from|import\(|import) ?"(\./[^"]+)\"""", text)
    assert all((console.FOLDER / name).is_file() for name in imports), imports
    linked = re.findall(r'(?:src|href)="(console/[^"$]+)"', text)
    assert all((console.FOLDER.parent / name).is_file() for name in linked), linked


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_no_file_names_another_place(path: Path) -> None:
    addresses = re.findall(r"(?:https?:)?//[\w.-]+\.\w+", re.sub(r"^\s*//.*$", "", path.read_text(encoding="utf-8"), flags=re.M))
    assert set(addresses) <= {"http://www.w3.org"}  # the name space of SVG


def test_drift_is_shown_from_where_the_alert_begins_and_as_often_as_it_changes() -> None:
    text = (console.FOLDER / "drift.js").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^const (WORTH_A_LOOK|EVERY_S) = ([\d.]+);", text, re.M))
    raised = re.search(r"framewatch_drift_psi\{[^}]*\}\) > ([\d.]+)", (ROOT / "kube/monitoring/rules.yaml").read_text())
    assert raised
    assert {name: float(value) for name, value in shown.items()} == {"WORTH_A_LOOK": float(raised[1]), "EVERY_S": drift.FOLD_S}


def test_no_file_of_ours_is_too_long() -> None:
    assert {path.name: n for path in OWN if (n := len(path.read_text(encoding="utf-8").splitlines())) > 500} == {}


def test_the_page_is_served_with_a_policy_that_allows_nothing_else(client: Client) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=", answer.text)


def test_a_file_that_the_browser_has_is_not_sent_again(client: Client) -> None:
    first = client.get("/console/app.js")
    assert first.headers["content-type"].startswith("text/javascript")
    again = client.get("/console/app.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/console/app.js", headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize("path", ["vendor/VENDOR.md", "../control.py", "%2e%2e/control.py", "nothing.js", ""])
def test_nothing_else_is_served(client: Client, path: str) -> None:
    assert client.get(f"/console/{path}").status_code == 404
