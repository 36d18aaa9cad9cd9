"""Reading a config from YAML: environment variables, every fault at once, paths made absolute.

``${NAME}`` and ``${NAME:-default}`` in any string are taken from the environment, so secrets stay out of the file.
Relative paths are relative to the config file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from stream.config import JsonlSinkConfig, PipelineConfig, SourceConfig
from stream.errors import ConfigError, Fault
from stream.redact import redact

TLS_FILES = ("ssl_cafile", "ssl_certfile", "ssl_keyfile")


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


def _interpolate(value: Any, environment: Mapping[str, str], key: str, faults: list[Fault]) -> Any:
    if isinstance(value, dict):
        return {k: _interpolate(v, environment, f"{key}.{k}" if key else str(k), faults) for k, v in value.items()}
    if isinstance(value, list):
        return [_interpolate(v, environment, f"{key}.{i}", faults) for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value

    def substitute(match: re.Match[str]) -> str:
        found = environment.get(match["name"], match["default"])
        if found is None:
            faults.append(Fault(key, f"environment variable {match['name']} is not set"))
        return found or ""

    return _VARIABLE.sub(substitute, value)


def _resolve_paths(config: PipelineConfig, base: Path) -> PipelineConfig:
    """Make every relative path relative to ``base``."""

    def resolved(path: Path | None) -> Path | None:
        return path and base / path.expanduser()

    def connection(part: Any) -> Any:
        return part and part.model_copy(update={name: resolved(getattr(part, name)) for name in TLS_FILES})

    def source(part: SourceConfig) -> SourceConfig:
        update: dict[str, Any] = {"kafka": connection(part.kafka)}
        if part.scheme == "file":
            update["uri"] = str(resolved(part.path))
        return part.model_copy(update=update)

    def sink(part: Any) -> Any:
        if isinstance(part, JsonlSinkConfig):
            return part if part.path == "-" else part.model_copy(update={"path": str(resolved(Path(part.path)))})
        return connection(part)

    return config.model_copy(
        update={
            "detectors": {n: d.model_copy(update={"model": str(resolved(Path(d.model)))}) for n, d in config.detectors.items()},
            "sources": [source(s) for s in config.sources],
            "sinks": [sink(s) for s in config.sinks],
            "kafka": connection(config.kafka),
            "service": config.service.model_copy(update={"state_dir": resolved(config.service.state_dir)}),
        }
    )


def parse_config(data: Any, name: str, base: Path, environment: Mapping[str, str] | None = None) -> PipelineConfig:
    """Build a config from parsed YAML.

    Args:
        data: what the YAML file holds.
        name: how errors call the config, usually its path.
        base: the folder that relative paths start from.
        environment: for ``${NAME}``; the process's own by default.

    Raises:
        ConfigError: with every fault that was found.
    """
    if not isinstance(data, dict):
        raise ConfigError(name, [Fault("", f"must be a mapping, not {type(data).__name__}")])
    faults: list[Fault] = []
    data = _interpolate(data, os.environ if environment is None else environment, "", faults)
    unset = {fault.key for fault in faults}
    try:
        config = PipelineConfig.model_validate(data)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_context=False):
            key = ".".join(str(part) for part in _config_key(data, detail["loc"]))
            if key not in unset:
                faults.append(Fault(key, redact(_reason(detail))))
        raise ConfigError(name, faults) from None
    faults += config.faults()
    if faults:
        raise ConfigError(name, faults)
    return _resolve_paths(config, base)


def _config_key(data: Any, location: tuple[int | str, ...]) -> list[int | str]:
    """``location`` without the union tags that pydantic puts between the keys of the file."""
    keys: list[int | str] = []
    for i, part in enumerate(location):
        last = i == len(location) - 1
        inner = data if isinstance(data, dict) else dict(enumerate(data)) if isinstance(data, list) else {}
        if part in inner:
            data = inner[part]
        elif not last or part in ("[key]", "function-after"):
            continue
        keys.append(part)
    return keys


def _reason(detail: Any) -> str:
    match detail["type"]:
        case "extra_forbidden":
            return "unknown key"
        case "missing":
            return "is required"
        case "union_tag_not_found":
            return "type is required"
        case _:
            value = detail["input"]
            shown = f" (found {value!r})" if isinstance(value, str | int | float) else ""
            return str(detail["msg"]).removeprefix("Value error, ") + shown


def load_config(path: str | Path, environment: Mapping[str, str] | None = None) -> PipelineConfig:
    """Read a config file.

    Raises:
        ConfigError: the file cannot be read, is no YAML, or is wrong; lists every fault with its key.
    """
    path = Path(path)
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a SafeLoader with stricter mappings
    except OSError as error:
        raise ConfigError(str(path), [Fault("", error.strerror or str(error))]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [Fault("", f"is not valid YAML: {' '.join(str(error).split())}")]) from error
    return parse_config(data, str(path), path.resolve().parent, environment)
