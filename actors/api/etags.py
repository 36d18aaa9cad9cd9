"""ETags: a change may be asked for under the condition that nobody else has changed the same meanwhile (RFC 9110)."""

from __future__ import annotations

import hashlib
import secrets
from typing import Annotated

from fastapi import Header

from actors.api.problems import Problem
from stream.part import Part

IfMatch = Annotated[str | None, Header(description="changes only what still has this ETag")]
_KEY = secrets.token_bytes(32)  # settings hold passwords, of which a tag must tell nothing


def etag(part: Part) -> str:
    """Differs for other settings, and after a restart."""
    return f'"{hashlib.blake2b(part.model_dump_json().encode(), key=_KEY, digest_size=12).hexdigest()}"'


def check_match(header: str | None, part: Part | None) -> None:
    """Hold a request to its ``If-Match``; ``part`` is what there is.

    Raises:
        Problem: 412.
    """
    if header is None or (part is not None and header.strip() in ("*", etag(part))):
        return
    raise Problem(412, "it was changed meanwhile: read it again")
