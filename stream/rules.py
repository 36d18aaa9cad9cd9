"""The part of the config that says what is an alert: one model per kind of rule."""

from __future__ import annotations

from datetime import time
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from stream.evidence.settings import RuleEvidence
from stream.part import Name, Part, Seconds

Severity = Literal["info", "warning", "critical"]


class Schedule(Part):
    """When a rule is active, in local time of ``timezone``; ``end`` before ``start`` means over midnight."""

    days: list[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]] = Field(["mon", "tue", "wed", "thu", "fri", "sat", "sun"])
    start: time = time(0, 0)
    end: time = time(0, 0)
    timezone: str = "UTC"

    @field_validator("start", "end", mode="before")
    @classmethod
    def _written_out(cls, value: object) -> object:
        """Pydantic reads a number as seconds after midnight: 8 would be 00:00:08."""
        if not isinstance(value, time) and not (isinstance(value, str) and ":" in value):
            raise ValueError("must be a time of day such as 08:00")
        return value

    @field_validator("timezone")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # OSError: a folder, or too long a name
            raise ValueError(f"unknown time zone {name!r}") from error
        return name


class Rule(Part):
    """What all alert rules share. ``for_s``: the condition must hold this long to raise; ``clear_for_s``: it must be
    over this long to clear; ``cooldown_s``: after an alert was sent, no new one is raised for this long."""

    name: Name
    severity: Severity = "warning"
    for_s: Seconds = 0
    clear_for_s: Seconds = 0
    cooldown_s: Seconds = 0
    schedule: Schedule | None = None
    evidence: RuleEvidence | None = None

    @property
    def targets(self) -> list[str]:
        """What it watches by name: ``source/zone``, ``source/line`` or ``source``."""
        return []

    def names(self, path: str) -> bool:
        """Whether it watches ``path`` (a source, or ``source/zone``) or something of it."""
        return any(target == path or target.startswith(path + "/") for target in self.targets)


class CrowdRule(Rule):
    """More than ``above`` objects in ``zone``, or in all ``zones`` together; clears below ``clear_below``
    (default: when the count is no longer above)."""

    type: Literal["crowd"]
    zone: str | None = None
    zones: list[str] = Field([], max_length=256)
    above: int = Field(ge=0, le=1_000_000)
    clear_below: int | None = Field(None, ge=1)

    @property
    def targets(self) -> list[str]:
        """See ``Rule``."""
        return self.zone_paths

    @property
    def zone_paths(self) -> list[str]:
        """``source/zone`` of every zone that is summed."""
        return [self.zone] if self.zone else self.zones

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.zone) == bool(self.zones):
            raise ValueError("give either zone or zones")
        if self.clear_below is not None and self.clear_below > self.above + 1:
            raise ValueError(f"clear_below ({self.clear_below}) must not be over above + 1 ({self.above + 1})")
        return self


class IntrusionRule(Rule):
    """Anybody enters ``zone``; cleared when it is empty."""

    type: Literal["intrusion"]
    zone: str

    @property
    def targets(self) -> list[str]:
        """See ``Rule``."""
        return [self.zone]


class LineRule(Rule):
    """A crossing of ``line`` in ``direction``; cleared ``clear_for_s`` after the last one."""

    type: Literal["line"]
    line: str
    direction: Literal["in", "out", "any"] = "any"

    @property
    def targets(self) -> list[str]:
        """See ``Rule``."""
        return [self.line]


class LoiteringRule(Rule):
    """Somebody stays in ``zone`` for ``dwell_s`` or longer."""

    type: Literal["loitering"]
    zone: str
    dwell_s: float = Field(gt=0, le=86_400)

    @property
    def targets(self) -> list[str]:
        """See ``Rule``."""
        return [self.zone]


class SourceRule(Rule):
    """Something is the matter with ``source`` itself (``*``: with any)."""

    source: str = "*"

    @property
    def targets(self) -> list[str]:
        """See ``Rule``."""
        return [] if self.source == "*" else [self.source]


class SourceOfflineRule(SourceRule):
    """``source`` is offline."""

    type: Literal["source_offline"]


class SourceTamperedRule(SourceRule):
    """``source`` does not show what it usually shows; see ``tamper``."""

    type: Literal["source_tampered"]


AlertRule = Annotated[
    CrowdRule | IntrusionRule | LineRule | LoiteringRule | SourceOfflineRule | SourceTamperedRule, Field(discriminator="type")
]


def watches(rule: AlertRule, source_id: str) -> bool:
    """Whether an alert of this rule may be about that source."""
    return rule.names(source_id) or (isinstance(rule, SourceRule) and rule.source == "*")
