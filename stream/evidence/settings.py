"""The part of the config that says what evidence is made of an alert, and where it is kept."""

from __future__ import annotations

import re
from typing import Any, Self
from urllib.parse import urlsplit

import fsspec
from pydantic import Field, field_validator, model_validator

from stream.part import Part

MAX_CLIP_S = 60.0
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class RuleEvidence(Part):
    """What is made of each alert of a rule: a ``picture`` (JPEG) of the frame that raised it, with boxes; a ``clip`` (MP4)
    from ``before_s`` before it to ``after_s`` after it.

    ``blur``: in the picture every object outside the alert is pixelated. A clip is cut from the camera's packets as they
    are, so nothing in it can be: with ``blur`` it must be asked for by ``clip_unblurred: true``.
    """

    picture: bool = True
    clip: bool = False
    before_s: float = Field(5, ge=0, le=MAX_CLIP_S)
    after_s: float = Field(5, ge=0, le=MAX_CLIP_S)
    blur: bool = True
    clip_unblurred: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not (self.picture or self.clip):
            raise ValueError("asks for neither picture nor clip")
        if self.clip and self.blur and not self.clip_unblurred:
            raise ValueError("a clip is cut from the camera's packets and shows everybody: with blur it needs clip_unblurred: true")
        return self


class EvidenceConfig(Part):
    """Where evidence is kept, and for how long.

    Attributes:
        url: a folder, or any address that fsspec can write to (``s3://bucket/alerts``, ``ftp://user:${PASSWORD}@host/dir``).
        options: go to fsspec's file system as they are (``key``, ``secret``, ``endpoint_url``, ...).
        max_age_s: older files are deleted; null keeps them.
        max_bytes: of all files together, then the oldest are deleted; null is no limit. Looked at once a minute.
        buffer_mib: memory for the newest packets of each source of which evidence may be asked.
    """

    url: str = Field(min_length=1, repr=False)
    options: dict[str, Any] = Field({}, repr=False)
    max_age_s: float | None = Field(30 * 86_400, gt=0)
    max_bytes: int | None = Field(10 * 2**30, gt=0)
    buffer_mib: int = Field(32, ge=1, le=4096)

    @field_validator("url")
    @classmethod
    def _plain(cls, url: str) -> str:
        if "::" in url:
            raise ValueError("chained addresses (::) are not supported")
        if _SCHEME.match(url):
            if "@" in urlsplit(url).path:
                raise ValueError("has an @ behind the host: special characters of a password must be percent-encoded")
            if urlsplit(url).query or urlsplit(url).fragment:
                raise ValueError("must have neither query nor fragment: settings of the file system go under options")
            if not (urlsplit(url).netloc or urlsplit(url).path.strip("/")):
                raise ValueError("names no place")
            protocol = url.partition("://")[0].lower()
            try:
                fsspec.get_filesystem_class(protocol)
            except (ImportError, ValueError) as error:
                raise ValueError(f"{protocol}:// cannot be used: {error}") from None
        return url
