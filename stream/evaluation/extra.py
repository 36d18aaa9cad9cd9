"""What only evaluation needs, and a clear word where it is not installed."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from stream.errors import ConfigError, Fault


def extra(name: str) -> ModuleType:
    """A module of a package that comes with ``framewatch[evaluate]``.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        reason = f"needs {error.name}, which is not installed: pip install 'framewatch[evaluate]'"
        raise ConfigError("framewatch evaluate", [Fault("", reason)]) from error
