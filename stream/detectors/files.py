"""A model's files: the model itself and the YAML beside it, or what the registry of models knows of it."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from stream.detectors.spec import ModelSpec
from stream.errors import ModelError
from stream.models.cache import ensure, path_of
from stream.models.registry import read_registry

logger = logging.getLogger(__name__)
OPENVINO_SUFFIXES = (".onnx", ".xml", ".pb")
TORCH_SUFFIXES = (".pt2",)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model file with its description.

    Attributes:
        path: the model.
        sha256: hex digest of its content; of an OpenVINO ``.xml`` together with its ``.bin``.
        spec: from the YAML beside it, else the registry's for that digest.
        described_by: what the spec was taken from, for messages.
    """

    path: Path
    sha256: str
    spec: ModelSpec
    described_by: str

    @property
    def is_torch(self) -> bool:
        """True for a ``torch.export`` program."""
        return self.path.suffix.lower() in TORCH_SUFFIXES


def read_model_file(model: str | Path) -> ModelFile:
    """Find a model file and read its description; the model itself is only hashed.

    Raises:
        ModelError: no such file, not a kind of model that is known, no YAML for a model that is not known by its digest,
            two YAMLs, or one that is wrong; lists every fault of the YAML.
    """
    path = Path(model)
    if not path.is_file():
        raise ModelError(f"{path}: {_why_absent(path)}")
    if path.suffix.lower() not in OPENVINO_SUFFIXES + TORCH_SUFFIXES:
        known = ", ".join(OPENVINO_SUFFIXES + TORCH_SUFFIXES)
        raise ModelError(f"{path}: not a kind of model that can be run; known are {known}")
    try:
        digest = _sha256(path)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from error
    candidates = [path.with_suffix(".yaml"), path.with_name(path.name + ".yaml")]
    found = [candidate for candidate in candidates if candidate.is_file()]
    if len(found) == 2:
        raise ModelError(f"{path}: described twice, by {found[0].name} and {found[1].name}; remove one")
    if found:
        return ModelFile(path, digest, _read_spec(found[0]), str(found[0]))
    known_model = read_registry().by_sha256(digest)
    if known_model is None:
        raise ModelError(
            f"{path}: not a model known by its sha256 ({digest[:12]}...) and no {candidates[0].name} beside it says what it "
            "takes and gives"
        )
    return ModelFile(path, digest, known_model.entry.spec, f"model {known_model.name!r} of the registry")


def named_model_file(name: str, *, fetch: bool = True) -> ModelFile:
    """The file of a model of the registry, which is fetched where it is not in the cache.

    Args:
        name: of the model.
        fetch: False leaves it where it is; ``path`` then may not exist.

    Raises:
        ModelError: there is no such model, or it cannot be fetched.
    """
    model = read_registry().named(name)
    path = ensure(model, logger.info) if fetch else path_of(model)
    return ModelFile(path, model.entry.sha256, model.entry.spec, f"model {name!r} of the registry")


def _why_absent(path: Path) -> str:
    if path.exists():
        return "is not a file"
    if not path.parent.is_dir():
        return "no such file, nor its folder"
    there = {
        entry.name.lower(): entry.name for entry in path.parent.iterdir() if entry.suffix in OPENVINO_SUFFIXES + TORCH_SUFFIXES
    }
    near = get_close_matches(path.name.lower(), there, n=1)
    return f"no such file; there is {there[near[0]]}" if near else "no such file"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    weights = path.with_suffix(".bin")
    for part in (path, weights) if path.suffix.lower() == ".xml" and weights.is_file() else (path,):
        with part.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _read_spec(path: Path) -> ModelSpec:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path}: must be a mapping, not {type(data).__name__}")
    try:
        return ModelSpec.model_validate(data)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
        raise ModelError("\n".join(f"{path}: {_fault(fault)}" for fault in faults)) from None


def _fault(detail: ErrorDetails) -> str:
    """One fault as ``key: reason``, the key without the family that pydantic puts behind ``output``."""
    location = detail["loc"]
    if location[0] == "output":
        location = location[:1] + location[2:]
    reasons = {"extra_forbidden": "unknown key", "missing": "is required", "union_tag_not_found": "family is required"}
    shown = f" (found {detail['input']!r})" if isinstance(detail["input"], str | int | float) else ""
    reason = reasons.get(detail["type"]) or detail["msg"].removeprefix("Value error, ") + shown
    return f"{'.'.join(map(str, location))}: {reason}"
