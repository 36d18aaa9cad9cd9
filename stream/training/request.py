"""From the options of ``framewatch train`` to settings, with clear errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ValidationError

from stream.errors import ConfigError, Fault
from stream.training.checkpoint import LAST, Checkpoint, read_checkpoint
from stream.training.settings import TrainingSettings

COMMAND = "framewatch train"
LOCK = ".lock"
DEFAULT_EPOCHS = 100
OPTIONS = {"start_from": "--from", "width": "--input", "height": "--input"}  # where the names differ
PATHS = ("data", "val", "start_from")


def settings_to_start(out: Path, asked: Mapping[str, Any]) -> TrainingSettings:
    """Settings of a new training.

    Args:
        out: the folder for results.
        asked: all other options, by the names of ``TrainingSettings``.

    Raises:
        ConfigError: an option is missing or wrong, or another training lies in ``out``.
    """
    missing = [f"--{name}" for name in ("data", "val") if not asked.get(name)]
    if missing:
        raise ConfigError(COMMAND, [Fault(option, "is needed") for option in missing])
    _check_empty(out)
    options = dict(asked) | {"out": out}
    if options.get("epochs") is None and options.get("minutes") is None:
        options["epochs"] = DEFAULT_EPOCHS
    return _checked(options)


def settings_to_resume(out: Path, given: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint to go on from, its settings moved to ``out``.

    Args:
        out: the folder of the training.
        given: options given along; they must be what the training was started with.

    Raises:
        ConfigError: there is no training, or an option differs.
        ModelError: the checkpoint cannot be read.
    """
    if not (out / LAST).exists():
        raise ConfigError(COMMAND, [Fault("--resume", f"{out} holds no training ({LAST})")])
    checkpoint = read_checkpoint(out / LAST)
    was = checkpoint.settings
    now = _checked(was.model_dump() | dict(given) | {"out": out})
    differing = {_option(name): name for name in given if getattr(now, name) != getattr(was, name)}
    if differing:
        reasons = [Fault(o, f"is {getattr(now, n)}; the training has {getattr(was, n)}") for o, n in differing.items()]
        raise ConfigError(COMMAND, reasons)
    return checkpoint._replace(settings=now)


@contextmanager
def alone_in(out: Path, fresh: bool) -> Iterator[None]:
    """Only one training at a time writes to a folder; the lock of one that was killed is free at once.

    Args:
        out: must exist.
        fresh: whether a new training begins, so that no other may have begun there meanwhile.

    Raises:
        ConfigError: another training runs there, or has.
    """
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(COMMAND, [Fault("--out", f"another training is running in {out}")]) from None
    try:
        if fresh:
            _check_empty(out)
        yield
    finally:
        lock.release()


def _check_empty(out: Path) -> None:
    if (out / LAST).exists():
        raise ConfigError(COMMAND, [Fault("--out", f"{out} holds a training; go on with --resume, or choose another folder")])


def _checked(options: dict[str, Any]) -> TrainingSettings:
    for name in PATHS:
        value = options.get(name)
        options[name] = value.resolve() if isinstance(value, Path) else value and tuple(path.resolve() for path in value)
    options["out"] = options["out"].resolve()
    try:
        return TrainingSettings.model_validate(options)
    except ValidationError as error:
        faults = {}
        for fault in error.errors(include_url=False, include_context=False):
            reason = fault["msg"].removeprefix("Value error, ")
            name = str(fault["loc"][0]) if fault["loc"] else ""
            faults[name] = Fault(_option(name), f"{reason} (found {options[name]!r})") if name else Fault("", reason)
        raise ConfigError(COMMAND, [*faults.values()]) from None


def _option(name: str) -> str:
    return OPTIONS.get(name, "--" + name.replace("_", "-"))
