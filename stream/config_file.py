"""Reading a config from YAML: environment variables, every fault at once, paths made absolute.

``${NAME}`` and ``${NAME:-default}`` in any string are taken from the environment, so secrets stay out of the file.
Relative paths are relative to the config file.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from stream.config import (
    DetectorConfig,
    JsonlSinkConfig,
    KafkaInput,
    KafkaSinkConfig,
    LineConfig,
    PipelineConfig,
    SourceConfig,
    ZoneConfig,
)
from stream.errors import ConfigError, Fault
from stream.evidence.settings import EvidenceConfig
from stream.redact import redact
from stream.rules import AlertRule, SourceOfflineRule

_RULE: TypeAdapter[Any] = TypeAdapter(AlertRule)
TLS_FILES = ("ssl_cafile", "ssl_certfile", "ssl_keyfile")


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key given twice is an error, and 18:30 is text (YAML 1.1 reads it as 1110, in base 60)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> Any:
        if ":" in node.value:
            return node.value
        return self.construct_yaml_int(node) if node.tag.endswith("int") else self.construct_yaml_float(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_number)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_number)

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


def interpolate(text: str, key: str, environment: Mapping[str, str] | None = None) -> str:
    """``text`` with ``${NAME}`` and ``${NAME:-default}`` taken from the environment.

    Raises:
        ConfigError: a variable is not set; ``key`` says where.
    """
    faults: list[Fault] = []
    value = _interpolate(text, os.environ if environment is None else environment, key, faults)
    if faults:
        raise ConfigError("environment", faults)
    return str(value)


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

    if "${" in _VARIABLE.sub("", value):
        faults.append(Fault(key, "${ must be followed by the name of a variable and }"))
    return _VARIABLE.sub(substitute, value)


def _resolve_paths(config: PipelineConfig, base: Path) -> PipelineConfig:
    """Make every relative path relative to ``base``."""

    def resolved(path: Path | None) -> Path | None:
        if path is None:
            return None
        try:
            return base / path.expanduser()
        except RuntimeError:  # ~somebody who has no home here: then it is a file of that name
            return base / path

    def connection(part: Any) -> Any:
        return part and part.model_copy(update={name: resolved(getattr(part, name)) for name in TLS_FILES})

    def detector(part: DetectorConfig) -> DetectorConfig:
        return part if part.model_name else part.model_copy(update={"model": str(resolved(Path(part.model)))})

    def source(part: SourceConfig) -> SourceConfig:
        update: dict[str, Any] = {"kafka": connection(part.kafka)}
        if part.scheme == "file":
            update["uri"] = str(resolved(part.path))
        return part.model_copy(update=update)

    def sink(part: Any) -> Any:
        if isinstance(part, JsonlSinkConfig):
            return part if part.path == "-" else part.model_copy(update={"path": str(resolved(Path(part.path)))})
        return connection(part)

    def evidence(part: EvidenceConfig | None) -> EvidenceConfig | None:
        if part is None or "://" in part.url:
            return part
        return part.model_copy(update={"url": str(resolved(Path(part.url)))})

    service: dict[str, Any] = {"state_dir": resolved(config.service.state_dir)}
    if tls := config.service.tls:
        files = {"certfile": resolved(tls.certfile), "keyfile": resolved(tls.keyfile)}
        service["tls"] = tls.model_copy(update=files)

    return config.model_copy(
        update={
            "detectors": {name: detector(part) for name, part in config.detectors.items()},
            "sources": [source(s) for s in config.sources],
            "sinks": [sink(s) for s in config.sinks],
            "kafka": connection(config.kafka),
            "service": config.service.model_copy(update=service),
            "evidence": evidence(config.evidence),
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
    written = data
    try:
        data = _interpolate(data, os.environ if environment is None else environment, "", faults)
    except RecursionError:
        raise ConfigError(name, [Fault("", "is nested too deeply")]) from None
    try:
        config = PipelineConfig.model_validate(data)
    except ValidationError as error:
        known = {fault.key for fault in faults}
        for detail in error.errors(include_url=False):
            fault = fault_of(detail, data, written)
            if fault.key not in known:
                faults.append(fault)
        known = {fault.key for fault in faults}
        faults += [fault for fault in _outline(data).faults() if fault.key not in known]
        raise ConfigError(name, faults) from None
    faults += config.faults()
    if faults:
        raise ConfigError(name, faults)
    return _resolve_paths(config, base)


def fault_of(detail: Any, data: Any, written: Any = None) -> Fault:
    """One error of a pydantic ``ValidationError`` in framewatch's words.

    Args:
        detail: the error.
        data: what was validated.
        written: the same before variables were put in, for the value that is shown; None shows that of ``data``.
    """
    keys = _config_key(data, detail["loc"])
    return Fault(".".join(map(str, keys)), redact(_reason(detail, keys, data if written is None else written)))


def _outline(data: dict[str, Any]) -> PipelineConfig:
    """What can be told of a config that does not validate: enough to find the faults *between* its parts as well.

    Parts that cannot be told are left out of the references, never invented.
    """

    def parts(value: Any) -> list[dict[str, Any]]:
        return [part if isinstance(part, dict) else {} for part in value] if isinstance(value, list) else []

    def text(value: Any) -> str | None:
        return value if isinstance(value, str) and value else None

    detectors = data.get("detectors")
    any_broker = KafkaSinkConfig(type="kafka", bootstrap_servers=["any"])
    sources = [
        SourceConfig.model_construct(
            id=text(part.get("id")) or f"#{i}",
            uri=text(part.get("uri")) or "any",
            detector=text(part.get("detector")) if isinstance(detectors, dict) else None,
            zones=[ZoneConfig.model_construct(name=str(zone.get("name")), polygon=[]) for zone in parts(part.get("zones"))],
            lines=[
                LineConfig.model_construct(name=str(line.get("name")), points=((0, 0), (1, 1))) for line in parts(part.get("lines"))
            ],
            kafka=KafkaInput(bootstrap_servers=["any"]) if part.get("kafka") else None,
        )
        for i, part in enumerate(parts(data.get("sources")))
    ]
    # With a source whose id is unknown, no reference to a source can be judged.
    nameless = not isinstance(data.get("sources", []), list) or any(source.id.startswith("#") for source in sources)
    rules: list[Any] = []
    for i, part in enumerate(parts(data.get("alerts"))):
        rule = SourceOfflineRule.model_construct(type="source_offline", name=text(part.get("name")) or f"#{i}", source="*")
        with contextlib.suppress(ValidationError):
            rule = rule if nameless else _RULE.validate_python(part)
        rules.append(rule)
    return PipelineConfig.model_construct(
        detectors={str(n): DetectorConfig(model="any") for n in detectors} if isinstance(detectors, dict) else {},
        sources=sources,
        alerts=rules,
        sinks=[any_broker for part in parts(data.get("sinks")) if part.get("type") == "kafka"],
        kafka=any_broker if data.get("kafka") else None,
        evidence=EvidenceConfig(url="any") if data.get("evidence") else None,
    )


def _config_key(data: Any, location: tuple[int | str, ...]) -> list[int | str]:
    """``location`` without the union tags that pydantic puts between the keys of the file."""
    keys: list[int | str] = []
    for i, part in enumerate(location):
        inner = data if isinstance(data, dict) else dict(enumerate(data)) if isinstance(data, list) else {}
        is_tag = bool(keys) and isinstance(keys[-1], int) and part == inner.get("type")
        if part in inner and not is_tag:
            data = inner[part]
        elif is_tag or i < len(location) - 1 or part in ("[key]", "function-after"):
            continue
        keys.append(part)
    return keys


def _reason(detail: Any, keys: list[int | str], written: Any) -> str:
    """Says what is wrong, and shows the value as the file has it, so that no variable's content gets out."""
    for key in keys:
        try:
            written = written[key]
        except (KeyError, IndexError, TypeError):
            written = None
    match detail["type"]:
        case "extra_forbidden":
            return "unknown key"
        case "missing":
            return "is required"
        case "union_tag_not_found":
            return "type is required"
        case "union_tag_invalid":
            return f"type must be one of {detail['ctx']['expected_tags']}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return "must be a mapping"
        case "list_type":
            return "must be a list"
        case _:
            secret = any(word in str(keys[-1:]).lower() for word in ("password", "secret", "token"))
            shown = f" (found {written!r})" if isinstance(written, str | int | float) and not secret else ""
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
    except RecursionError:
        raise ConfigError(str(path), [Fault("", "is nested too deeply")]) from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or no date, number, ... after all
        raise ConfigError(str(path), [Fault("", f"is not valid YAML: {' '.join(redact(error).split())}")]) from None
    return parse_config(data, str(path), path.resolve().parent, environment)
