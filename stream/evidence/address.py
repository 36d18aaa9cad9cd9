"""Where the evidence of an alert lies: it follows from the alert alone, so a replay gives the same addresses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlsplit

from stream.events import EvidenceLinks
from stream.evidence.settings import EvidenceConfig, RuleEvidence

Kind = Literal["picture", "clip"]
SUFFIX: dict[Kind, str] = {"picture": ".jpg", "clip": ".mp4"}
CONTENT_TYPE: dict[Kind, str] = {"picture": "image/jpeg", "clip": "video/mp4"}
ALL_SOURCES = "all"  # folder of the alerts that are about several sources
_PATH = re.compile(r"(?P<day>\d{4}-\d\d-\d\d)/(?P<source>[A-Za-z0-9._-]+)/(?P<time>\d{6})-(?P<alert>[0-9a-f]{32})\.(jpg|mp4)")


@dataclass(frozen=True, slots=True)
class Place:
    """What the path of a file tells: when its alert was raised (UTC, whole seconds), and the alert's id."""

    raised_at: datetime
    alert_id: str


def path_of(kind: Kind, source_id: str, raised_at: datetime, alert_id: str) -> str:
    """Path below the store's root, ``2026-11-24/hall/134512-<alert id>.jpg``; ``source_id`` may be ``*``."""
    at = raised_at.astimezone(UTC)
    source = ALL_SOURCES if source_id == "*" else source_id
    return f"{at:%Y-%m-%d}/{source}/{at:%H%M%S}-{alert_id}{SUFFIX[kind]}"


def place_of(path: str) -> Place | None:
    """What a path below the root tells; None where it is none of ours."""
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    try:
        raised_at = datetime.strptime(f"{match['day']} {match['time']} +0000", "%Y-%m-%d %H%M%S %z")
    except ValueError:
        return None
    return Place(raised_at, match["alert"])


def public_root(config: EvidenceConfig) -> str:
    """The store's address without user info, as events show it: a URL without a slash at its end."""
    if "://" not in config.url:
        return "file://" + quote(str(Path(config.url).expanduser().absolute()))
    parts = urlsplit(config.url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")


def links(root: str, wanted: RuleEvidence, source_id: str, raised_at: datetime, alert_id: str) -> EvidenceLinks:
    """What an alert's events say. ``root`` as of :func:`public_root`."""
    picture, clip = (f"{root}/{path_of(kind, source_id, raised_at, alert_id)}" for kind in ("picture", "clip"))
    return EvidenceLinks(picture=picture if wanted.picture else None, clip=clip if wanted.clip else None)
