"""Desired state: what the service is to run, the config file and what was changed over the API since, kept on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError

from stream.config import PipelineConfig, SourceConfig
from stream.config_file import fault_of
from stream.errors import ConfigError, Fault
from stream.part import Part
from stream.rules import AlertRule

FILE = "desired.json"
Origin = Literal["config", "api", "changed"]


class Changes(Part):
    """What differs from the config file: sources by id and rules by name, None for those that were removed."""

    version: Literal[1] = 1
    sources: dict[str, SourceConfig | None] = Field({})
    rules: dict[str, AlertRule | None] = Field({})

    def with_source(self, source_id: str, source: SourceConfig | None) -> Self:
        """These, and this source (None: removed)."""
        return self.model_copy(update={"sources": self.sources | {source_id: source}})

    def with_rule(self, name: str, rule: AlertRule | None) -> Self:
        """These, and this rule (None: removed)."""
        return self.model_copy(update={"rules": self.rules | {name: rule}})

    def without_source(self, source_id: str) -> Self:
        """These, but for those of the source."""
        return self.model_copy(update={"sources": {i: s for i, s in self.sources.items() if i != source_id}})

    def applied(self, config: PipelineConfig) -> PipelineConfig:
        """``config`` with these changes: in the config's order, then what was added in the order of its adding."""
        sources = {source.id: source for source in config.sources} | self.sources
        rules = {rule.name: rule for rule in config.alerts} | self.rules
        update = {"sources": [s for s in sources.values() if s is not None], "alerts": [r for r in rules.values() if r is not None]}
        return config.model_copy(update=update)

    def needed(self, config: PipelineConfig) -> Self:
        """Those of these that change something of ``config``."""
        sources = {source.id: source for source in config.sources}
        rules = {rule.name: rule for rule in config.alerts}
        return self.model_copy(
            update={
                "sources": {i: source for i, source in self.sources.items() if source != sources.get(i)},
                "rules": {name: rule for name, rule in self.rules.items() if rule != rules.get(name)},
            }
        )


class Desired:
    """The config and the changes, which survive a restart of everything. For one process.

    Attributes:
        config: the whole config with the changes.
        changes: those that are kept.

    Args:
        base: the config as its file says.

    Raises:
        ConfigError: the file of changes cannot be read.
    """

    def __init__(self, base: PipelineConfig):
        self._base, self._path = base, base.service.state_dir / FILE
        self.changes = _load(self._path)
        self.config = self.changes.applied(base)

    def check(self, classes: Mapping[str, Collection[str]]) -> None:
        """Whether the changes still fit the config, whose file may be another one than they were made to.

        Args:
            classes: class names by detector.

        Raises:
            ConfigError: names every change that does not.
        """
        if self.changes.needed(self._base) == Changes():
            return
        if faults := self.config.faults() + self.config.class_faults(classes):
            raise ConfigError(str(self._path), [_named(fault, self.config) for fault in faults])

    def origin(self, source_id: str) -> Origin:
        """Where a source's settings come from."""
        if not self.in_file(source_id):
            return "api"
        return "changed" if source_id in self.changes.sources else "config"

    def in_file(self, source_id: str) -> bool:
        """Whether the config file has this source, changed or removed since as it may be."""
        return any(source.id == source_id for source in self._base.sources)

    def applied(self, changes: Changes) -> PipelineConfig:
        """The config with these changes."""
        return changes.applied(self._base)

    def keep(self, changes: Changes) -> None:
        """These are the changes from now on. They are on disk when this returns, readable for this user alone.

        Raises:
            OSError: they could not be written; nothing has changed.
        """
        changes = changes.needed(self._base)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_name(f".{FILE}.part")
        part.unlink(missing_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump({"version": changes.version} | changes.model_dump(mode="json", exclude_unset=True), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)  # the renaming itself
        finally:
            os.close(folder)
        self.changes, self.config = changes, changes.applied(self._base)


def _load(path: Path) -> Changes:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return Changes()
    except OSError as error:
        raise ConfigError(str(path), [Fault("", error.strerror or str(error))]) from error
    try:
        return Changes.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(str(path), [fault_of(one, {}) for one in error.errors(include_url=False)]) from None


def _named(fault: Fault, config: PipelineConfig) -> Fault:
    """With the id of a source and the name of a rule instead of their numbers."""
    part, number, *keys = fault.key.split(".")
    name = config.sources[int(number)].id if part == "sources" else config.alerts[int(number)].name
    return Fault(".".join([{"sources": "sources", "alerts": "rules"}[part], name, *keys]), fault.reason)
