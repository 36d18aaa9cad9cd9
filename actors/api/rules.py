"""Alert rules. One that stays goes on where it stands; the alerts of one that is removed are cleared."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response

from actors.api.access import Operator, viewer
from actors.api.backend import Backend, Edit, TheBackend
from actors.api.etags import IfMatch, check_match, etag
from actors.api.problems import Problem
from stream.errors import Fault
from stream.part import Name
from stream.rules import AlertRule

router = APIRouter(prefix="/v1/rules", tags=["rules"])
MAX_RULES = 1000


@router.get("", dependencies=[Depends(viewer)])
async def list_rules(backend: TheBackend) -> list[AlertRule]:
    """All rules."""
    return backend.config.alerts


@router.get("/{name}", dependencies=[Depends(viewer)])
async def read_rule(name: str, backend: TheBackend, response: Response) -> AlertRule:
    """One rule."""
    rule = _named(name, backend)
    response.headers["ETag"] = etag(rule)
    return rule


@router.post("", status_code=201)
async def add_rule(rule: AlertRule, caller: Operator, backend: TheBackend, response: Response) -> AlertRule:
    """Add a rule; 409 where there is one of that name."""

    def edit() -> Edit:
        if _find(rule.name, backend) is not None:
            raise Problem(409, f"there is a rule {rule.name!r} already")
        return _put(rule, None, backend)

    await backend.change(edit, caller)
    response.headers["Location"], response.headers["ETag"] = f"/v1/rules/{rule.name}", etag(rule)
    return rule


@router.put("/{name}", responses={201: {"model": AlertRule}})
async def put_rule(
    name: Name, rule: AlertRule, caller: Operator, backend: TheBackend, response: Response, if_match: IfMatch = None
) -> AlertRule:
    """Add a rule (201), or give it other settings: those that are left out have their defaults."""
    if rule.name != name:
        raise Problem(422, "the request is not valid", [Fault("name", f"must be {name!r}, as in the address")])
    known = _find(name, backend)
    await backend.change(lambda: _put(rule, if_match, backend), caller)
    response.status_code, response.headers["ETag"] = 200 if known else 201, etag(rule)
    return rule


@router.delete("/{name}", status_code=204)
async def delete_rule(name: str, caller: Operator, backend: TheBackend, if_match: IfMatch = None) -> None:
    """Remove a rule; its alerts are cleared."""

    def edit() -> Edit:
        check_match(if_match, _named(name, backend))
        return Edit(backend.desired.changes.with_rule(name, None), f"rule {name}")

    await backend.change(edit, caller)


def _find(name: str, backend: Backend) -> AlertRule | None:
    return next((rule for rule in backend.config.alerts if rule.name == name), None)


def _named(name: str, backend: Backend) -> AlertRule:
    rule = _find(name, backend)
    if rule is None:
        raise Problem(404, f"there is no rule {name!r}")
    return rule


def _put(rule: AlertRule, if_match: str | None, backend: Backend) -> Edit:
    known = _find(rule.name, backend)
    check_match(if_match, known)
    if known is None and len(backend.desired.config.alerts) >= MAX_RULES:
        raise Problem(409, f"there are {MAX_RULES} rules already, which is the most")
    return Edit(backend.desired.changes.with_rule(rule.name, rule), f"rule {rule.name}", rule=rule.name)
