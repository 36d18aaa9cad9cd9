"""Errors of the API: every answer of 400 and above is a problem as of RFC 9457."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from stream.config_file import fault_of
from stream.errors import Fault
from stream.redact import redact

logger = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"


class FieldError(BaseModel):
    """What is wrong with one key of a request; ``field`` is its path, as ``zones.0.polygon``."""

    field: str
    reason: str


class ProblemView(BaseModel):
    """A problem as of RFC 9457; ``errors`` names the keys at fault."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[FieldError] = []


class Problem(Exception):
    """Answers a request with ``status``; ``detail`` and ``faults`` hold no secret.

    Args:
        status: of the answer.
        detail: what is wrong, for people.
        faults: by key of the request.
        headers: of the answer.
    """

    def __init__(self, status: int, detail: str, faults: Sequence[Fault] = (), headers: Mapping[str, str] | None = None):
        self.status, self.detail, self.faults, self.headers = status, detail, tuple(faults), headers
        super().__init__(detail)

    def response(self) -> JSONResponse:
        """As HTTP."""
        view = ProblemView(
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            detail=self.detail,
            errors=[FieldError(field=fault.key, reason=fault.reason) for fault in self.faults],
        )
        return JSONResponse(view.model_dump(), self.status, self.headers, MEDIA_TYPE)


def answer_with_problems(app: FastAPI) -> None:
    """Make all errors of ``app`` problems, those of FastAPI itself included."""

    @app.exception_handler(Problem)
    async def problem(_request: Request, error: Problem) -> JSONResponse:
        return error.response()

    @app.exception_handler(HTTPException)
    async def http(_request: Request, error: HTTPException) -> JSONResponse:
        return Problem(error.status_code, redact(error.detail), headers=error.headers).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        return Problem(422, "the request is not valid", [_fault(one, error.body) for one in error.errors()]).response()

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        logger.error("%s %s: %s", request.method, request.url.path, redact(repr(error)))
        return Problem(500, "an error inside the service; its log says more").response()


def _fault(error: Any, body: Any) -> Fault:
    where, *keys = error["loc"]
    if error["type"] == "json_invalid":
        return Fault("", f"is not JSON: {error['ctx']['error']}")
    return fault_of({**error, "loc": tuple(keys)}, body if where == "body" else {})


PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ProblemView, "description": "A problem", "content": {MEDIA_TYPE: {}}},
    "5XX": {"model": ProblemView, "description": "A problem", "content": {MEDIA_TYPE: {}}},
}
"""For the OpenAPI document: every route may answer with a problem."""
