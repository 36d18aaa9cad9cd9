"""Changes to sources: checked as the whole config would be, kept, and at work within two seconds."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response
from pydantic import ValidationError

from actors.api.access import Operator
from actors.api.backend import Backend, Edit, TheBackend
from actors.api.etags import IfMatch, check_match, etag
from actors.api.problems import Problem
from actors.api.sources import find_source, source_named, view_of
from actors.desired import Changes
from stream.config import SourceConfig
from stream.config_file import fault_of
from stream.errors import Fault
from stream.part import Name
from stream.reach import reach_faults
from stream.redact import redact
from stream.views import SourceView

router = APIRouter(prefix="/v1/sources", tags=["sources"])
MAX_SOURCES = 1000
RESOLVE_S = 5.0
Cascade = Annotated[bool, Query(description="removes the rules that name it as well")]


@router.post("", status_code=201)
async def add_source(source: SourceConfig, caller: Operator, backend: TheBackend, response: Response) -> SourceView:
    """Add a source; 409 where there is one of that id."""
    await _check_reach(source, None, backend)

    def edit() -> Edit:
        if find_source(source.id, backend) is not None:
            raise Problem(409, f"there is a source {source.id!r} already")
        return _put(source, None, backend)

    await backend.change(edit, caller)
    response.headers["Location"] = f"/v1/sources/{source.id}"
    return _answer(source.id, backend, response)


@router.put("/{source_id}", responses={201: {"model": SourceView}})
async def put_source(
    source_id: Name, source: SourceConfig, caller: Operator, backend: TheBackend, response: Response, if_match: IfMatch = None
) -> SourceView:
    """Add a source (201), or give it other settings: those that are left out have their defaults."""
    if source.id != source_id:
        raise Problem(422, "the request is not valid", [Fault("id", f"must be {source_id!r}, as in the address")])
    known = find_source(source_id, backend)
    await _check_reach(source, known, backend)
    await backend.change(lambda: _put(source, if_match, backend), caller)
    response.status_code = 200 if known else 201
    return _answer(source_id, backend, response)


@router.patch("/{source_id}")
async def patch_source(
    source_id: str,
    patch: Annotated[dict[str, Any], Body(media_type="application/merge-patch+json")],
    caller: Operator,
    backend: TheBackend,
    response: Response,
    if_match: IfMatch = None,
) -> SourceView:
    """Change some settings: a JSON merge patch (RFC 7396), in which null gives a setting its default."""
    known = source_named(source_id, backend)
    await _check_reach(_patched(known, patch), known, backend)
    await backend.change(lambda: _put(_patched(source_named(source_id, backend), patch), if_match, backend), caller)
    return _answer(source_id, backend, response)


@router.delete("/{source_id}", status_code=204)
async def delete_source(
    source_id: str, caller: Operator, backend: TheBackend, cascade: Cascade = False, if_match: IfMatch = None
) -> None:
    """Remove a source; 409 where a rule names it."""

    def edit() -> Edit:
        check_match(if_match, source_named(source_id, backend))
        return Edit(without_rules(source_id, cascade, backend).with_source(source_id, None), f"source {source_id}")

    await backend.change(edit, caller)


@router.post("/{source_id}/reset")
async def reset_source(source_id: str, caller: Operator, backend: TheBackend, response: Response) -> SourceView:
    """Forget what was changed of a source over the API: it is as in the config file again."""

    def edit() -> Edit:
        if not backend.desired.in_file(source_id):
            source_named(source_id, backend)
            raise Problem(409, f"source {source_id!r} is not in the config file: it was added over the API")
        return Edit(backend.desired.changes.without_source(source_id), f"source {source_id}", source_id)

    await backend.change(edit, caller)
    return _answer(source_id, backend, response)


def without_rules(path: str, cascade: bool, backend: Backend) -> Changes:
    """The changes there are, without the rules that name ``path`` (a source, or ``source/zone``).

    Raises:
        Problem: 409 where there are such rules and they are not to be removed as well.
    """
    changes = backend.desired.changes
    naming = [rule.name for rule in backend.desired.config.alerts if rule.names(path)]
    if naming and not cascade:
        names = ", ".join(map(repr, naming))
        faults = [Fault(f"rules.{name}", f"names {path}") for name in naming]
        raise Problem(409, f"{path} is named by rule {names}: remove it first, or with ?cascade=true", faults)
    for name in naming:
        changes = changes.with_rule(name, None)
    return changes


def built(settings: dict[str, Any]) -> SourceConfig:
    """A source of these settings.

    Raises:
        Problem: 422.
    """
    try:
        return SourceConfig.model_validate(settings)
    except ValidationError as error:
        faults = [fault_of(one, settings) for one in error.errors(include_url=False)]
        raise Problem(422, "the request is not valid", faults) from None


def settings_of(source: SourceConfig) -> dict[str, Any]:
    """The settings that a source was given; others have their defaults."""
    return {name: getattr(source, name) for name in source.model_fields_set}


def _patched(source: SourceConfig, patch: dict[str, Any]) -> SourceConfig:
    settings = source.model_dump(mode="json", exclude_unset=True)
    kafka = patch.get("kafka")
    if isinstance(kafka, dict) and "password" not in kafka and source.kafka is not None:
        settings["kafka"].pop("password", None)  # it goes nowhere else than it was given for
    try:
        patched = built(_merged(settings, patch))
    except RecursionError:
        raise Problem(422, "the request is nested too deeply") from None
    if patched.id != source.id:
        raise Problem(422, "the request is not valid", [Fault("id", "cannot be changed")])
    return patched


def _merged(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged


async def _check_reach(source: SourceConfig, known: SourceConfig | None, backend: Backend) -> None:
    """Hold a source to ``service.access``; one that stays where it was may be where it is, as the config file may say."""
    source = _with_secret(source, known)
    if known is not None and (source.uri, source.kafka) == (known.uri, known.kafka):
        return
    try:
        faults = await backend.resolver.call(reach_faults, source, backend.config.service.access, timeout_s=RESOLVE_S)
    except TimeoutError:
        faults = [Fault("uri", f"its host was not resolved within {RESOLVE_S:g} s")]
    if faults:
        raise Problem(422, "the request is not valid", faults)


def _with_secret(source: SourceConfig, known: SourceConfig | None) -> SourceConfig:
    """A uri that is the known one as the API shows it means the known one."""
    if known is not None and source.uri == redact(known.uri):
        return source.model_copy(update={"uri": known.uri})
    return source


def _put(source: SourceConfig, if_match: str | None, backend: Backend) -> Edit:
    known = find_source(source.id, backend)
    check_match(if_match, known)
    if known is None and len(backend.desired.config.sources) >= MAX_SOURCES:
        raise Problem(409, f"there are {MAX_SOURCES} sources already, which is the most")
    changes = backend.desired.changes.with_source(source.id, _with_secret(source, known))
    return Edit(changes, f"source {source.id}", source.id)


def _answer(source_id: str, backend: Backend, response: Response) -> SourceView:
    source = source_named(source_id, backend)
    response.headers["ETag"] = etag(source)
    return view_of(source, backend)
