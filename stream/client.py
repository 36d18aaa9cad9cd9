"""Client: the API of a running service, for the commands."""

from __future__ import annotations

import ssl
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter, ValidationError

from stream.errors import FramewatchError, Retryable
from stream.redact import redact
from stream.views import Readiness, ServiceSloView, ServiceView, SourceView

DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT_S = 10.0
Answer = TypeVar("Answer")


class ServiceUnreachable(FramewatchError, Retryable):
    """Nothing answers, or not in time."""


class RequestRefused(FramewatchError):
    """The service answered with a problem; ``status`` is that of HTTP."""

    def __init__(self, status: int, message: str):
        self.status = status
        super().__init__(message)


class Client:
    """A context manager. Its errors say what to do.

    Args:
        url: of the service.
        token: to be shown; None where access is off.
        ca_file: authority of a certificate that the system does not know.
        transport: another way to the service, for tests.

    Raises:
        FramewatchError: the address or the authority cannot be used.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        token: str | None = None,
        ca_file: Path | None = None,
        transport: httpx.BaseTransport | None = None,
    ):
        self.url = url.rstrip("/")
        try:
            verify = ssl.create_default_context(cafile=str(ca_file)) if ca_file else True
        except (OSError, ssl.SSLError) as error:
            raise FramewatchError(f"{ca_file}: {error.strerror or error}") from error
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(headers=headers, timeout=TIMEOUT_S, verify=verify, transport=transport, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.close()

    def ready(self) -> Readiness:
        """Whether everything is in place, and what is not."""
        return self._ask("GET", "/readyz", Readiness, also=503)

    def service(self) -> ServiceView:
        """What runs, since when."""
        return self._ask("GET", "/v1/service", ServiceView)

    def slo(self) -> ServiceSloView:
        """How well the objective is held."""
        return self._ask("GET", "/v1/slo", ServiceSloView)

    def sources(self) -> list[SourceView]:
        """All sources and how they are."""
        return self._ask("GET", "/v1/sources", list[SourceView])

    def add_source(self, settings: dict[str, Any]) -> SourceView:
        """Add a source with these settings of ``SourceConfig``."""
        return self._ask("POST", "/v1/sources", SourceView, json=settings)

    def remove_source(self, source_id: str, cascade: bool) -> None:
        """Remove a source, with ``cascade`` the rules that name it as well."""
        path = f"/v1/sources/{quote(source_id, safe='')}"
        self._send("DELETE", path, params={"cascade": "true"} if cascade else None)

    def _ask(self, method: str, path: str, kind: type[Answer], also: int = 200, **options: Any) -> Answer:
        answer = self._send(method, path, also, **options)
        try:
            return TypeAdapter(kind).validate_json(answer.content)
        except ValidationError as error:
            raise FramewatchError(
                f"{self.url}{path} does not answer as framewatch does: {error.error_count()} differences"
            ) from error

    def _send(self, method: str, path: str, also: int = 200, **options: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, self.url + path, **options)
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise FramewatchError(f"{redact(self.url)} is no address of a service: {error}") from error
        except httpx.TimeoutException as error:
            raise ServiceUnreachable(f"the service at {redact(self.url)} does not answer within {TIMEOUT_S:g} s") from error
        except httpx.HTTPError as error:
            why = redact(str(error) or type(error).__name__)
            raise ServiceUnreachable(f"no service answers at {redact(self.url)}: {why}; is it running (framewatch up)?") from error
        if answer.is_success or answer.status_code == also:
            return answer
        raise RequestRefused(answer.status_code, self._reason(answer))

    def _reason(self, answer: httpx.Response) -> str:
        try:
            problem = answer.json()
            errors = [f"{one['field']}: {one['reason']}".removeprefix(": ") for one in problem["errors"]]
            said = "; ".join(errors if answer.status_code == 422 and errors else [problem["detail"]])
        except (ValueError, KeyError, TypeError):
            said = f"{answer.status_code} {answer.reason_phrase}"
        if answer.status_code == 401:
            return f"{self.url}: {said}. FRAMEWATCH_TOKEN or --token-file gives one; framewatch up says where it keeps its own"
        if answer.status_code == 429:
            return f"{self.url}: {said}; try again in {answer.headers.get('retry-after', '?')} s"
        return said
