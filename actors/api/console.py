"""The console: the page at ``/`` and its files, as they lie in the package. The browser asks nobody else for anything."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Response

FOLDER = Path(__file__).resolve().parents[1] / "console"
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' blob: data:",  # pictures fetched with the token; the icons inside Pico's style sheet
    "media-src": "blob:",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
HEADERS = {
    "Cache-Control": "no-cache",  # kept, and asked for again with its ETag
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in POLICY.items()),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    media_type: str
    etag: str


@cache
def files() -> dict[str, _File]:
    """Every file of the console by its path; what is not here is not served."""
    found = {}
    for path in sorted(FOLDER.rglob("*")):
        if path.suffix in MEDIA_TYPES:
            body = path.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            found[path.relative_to(FOLDER).as_posix()] = _File(body, MEDIA_TYPES[path.suffix], etag)
    return found


@router.get("/")
@router.get("/console/{path:path}")
async def read_file(path: str = "index.html", if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """A file of the console; 304 where the browser has it already."""
    file = files().get(path)
    if file is None:
        raise HTTPException(404, f"the console has no file {path!r}")
    headers = HEADERS | {"ETag": file.etag}
    if if_none_match == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.body, media_type=file.media_type, headers=headers)
