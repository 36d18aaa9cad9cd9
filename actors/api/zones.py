"""Zones and lines of a source. A change leaves the camera open and its tracks alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

from fastapi import APIRouter, Depends, Response

from actors.api.access import Operator, viewer
from actors.api.backend import Backend, Edit, TheBackend
from actors.api.edits import Cascade, built, settings_of, without_rules
from actors.api.etags import IfMatch, check_match, etag
from actors.api.problems import Problem
from actors.api.sources import source_named
from stream.access import Caller
from stream.config import LineConfig, ZoneConfig
from stream.errors import Fault
from stream.part import Name

router = APIRouter(prefix="/v1/sources/{source_id}", tags=["zones and lines"])
Kind = Literal["zones", "lines"]
_Part = TypeVar("_Part", bound=ZoneConfig | LineConfig)


@router.get("/zones/{name}", dependencies=[Depends(viewer)])
async def read_zone(source_id: str, name: str, backend: TheBackend, response: Response) -> ZoneConfig:
    """One zone."""
    zone = _named(name, source_named(source_id, backend).zones)
    response.headers["ETag"] = etag(zone)
    return zone


@router.get("/lines/{name}", dependencies=[Depends(viewer)])
async def read_line(source_id: str, name: str, backend: TheBackend, response: Response) -> LineConfig:
    """One line."""
    line = _named(name, source_named(source_id, backend).lines)
    response.headers["ETag"] = etag(line)
    return line


@router.put("/zones/{name}", responses={201: {"model": ZoneConfig}})
async def put_zone(
    source_id: str,
    name: Name,
    zone: ZoneConfig,
    caller: Operator,
    backend: TheBackend,
    response: Response,
    if_match: IfMatch = None,
) -> ZoneConfig:
    """Add a zone (201), or give it another form."""
    _check_name(name, zone)
    await backend.change(lambda: _put("zones", source_id, zone, if_match, backend, response), caller)
    return zone


@router.put("/lines/{name}", responses={201: {"model": LineConfig}})
async def put_line(
    source_id: str,
    name: Name,
    line: LineConfig,
    caller: Operator,
    backend: TheBackend,
    response: Response,
    if_match: IfMatch = None,
) -> LineConfig:
    """Add a line (201), or move it."""
    _check_name(name, line)
    await backend.change(lambda: _put("lines", source_id, line, if_match, backend, response), caller)
    return line


@router.delete("/zones/{name}", status_code=204)
async def delete_zone(
    source_id: str, name: str, caller: Operator, backend: TheBackend, cascade: Cascade = False, if_match: IfMatch = None
) -> None:
    """Remove a zone; 409 where a rule names it."""
    await _delete("zones", source_id, name, cascade, if_match, backend, caller)


@router.delete("/lines/{name}", status_code=204)
async def delete_line(
    source_id: str, name: str, caller: Operator, backend: TheBackend, cascade: Cascade = False, if_match: IfMatch = None
) -> None:
    """Remove a line; 409 where a rule names it."""
    await _delete("lines", source_id, name, cascade, if_match, backend, caller)


def _named(name: str, parts: Sequence[_Part]) -> _Part:
    for part in parts:
        if part.name == name:
            return part
    raise Problem(404, f"there is none of the name {name!r}")


def _check_name(name: str, part: ZoneConfig | LineConfig) -> None:
    if part.name != name:
        raise Problem(422, "the request is not valid", [Fault("name", f"must be {name!r}, as in the address")])


def _put(
    kind: Kind, source_id: str, part: ZoneConfig | LineConfig, if_match: str | None, backend: Backend, response: Response
) -> Edit:
    source = source_named(source_id, backend)
    parts: list[ZoneConfig | LineConfig] = [*(source.zones if kind == "zones" else source.lines)]
    number = next((i for i, known in enumerate(parts) if known.name == part.name), len(parts))
    check_match(if_match, parts[number] if number < len(parts) else None)
    response.status_code, response.headers["ETag"] = 200 if number < len(parts) else 201, etag(part)
    parts[number : number + 1] = [part]
    changed = built(settings_of(source) | {kind: parts})
    changes = backend.desired.changes.with_source(source_id, changed)
    return Edit(changes, f"{kind} {source_id}/{part.name}", source_id, part=f"{kind}.{number}")


async def _delete(
    kind: Kind, source_id: str, name: str, cascade: bool, if_match: str | None, backend: Backend, caller: Caller
) -> None:
    def edit() -> Edit:
        source = source_named(source_id, backend)
        parts: list[ZoneConfig | LineConfig] = [*(source.zones if kind == "zones" else source.lines)]
        check_match(if_match, _named(name, parts))
        changes = without_rules(f"{source_id}/{name}", cascade, backend)
        changed = built(settings_of(source) | {kind: [part for part in parts if part.name != name]})
        return Edit(changes.with_source(source_id, changed), f"{kind} {source_id}/{name}")

    await backend.change(edit, caller)
