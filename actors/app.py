"""Builds the Serve application: what ``serve_config.yaml`` names as ``actors.app:build``.

Annotations are not postponed in this module: Serve looks at that of ``build`` to make ``AppArgs`` of the YAML.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from ray import serve

from actors import names
from actors.control import Control
from actors.desired import Desired
from actors.detector import deployment
from stream.config import PipelineConfig
from stream.config_file import interpolate, load_config, parse_config
from stream.detectors.registry import ModelDescription, describe_model


class AppArgs(BaseModel):
    """``args`` of the application: ``config`` is the path of a config file (``${NAME}`` is expanded where the builder
    runs), or the config itself. ``revision`` may be anything: Serve calls the builder only where its own YAML has changed, so
    another revision is what makes it read a config or a model that has changed under the same path."""

    model_config = ConfigDict(extra="forbid")

    config: str | dict[str, Any]
    revision: str | int = ""


def build(args: AppArgs) -> serve.Application:
    """The application for a config.

    Raises:
        ConfigError: the config is wrong.
        ModelError: a model cannot be used.
    """
    if isinstance(args.config, str):
        return build_config(load_config(interpolate(args.config, "args.config")))
    return build_config(parse_config(args.config, "args.config", Path.cwd()))


def describe_models(config: PipelineConfig) -> dict[str, ModelDescription]:
    """What each detector's model takes and gives.

    Raises:
        ModelError: a model cannot be used.
    """
    return {name: describe_model(detector, name) for name, detector in config.detectors.items()}


def build_config(config: PipelineConfig) -> serve.Application:
    """The application for a config that was read before.

    Raises:
        ConfigError: what was changed over the API does not fit the config any more.
        ModelError: a model cannot be used.
    """
    models = describe_models(config)
    Desired(config).check({name: model.classes for name, model in models.items()})
    low_confidence, latency_s = config.tracker.low_confidence, config.slo.latency_ms / 1000
    detectors = [deployment(name, d, low_confidence, latency_s, config.service.logs) for name, d in config.detectors.items()]
    control: serve.Deployment = Control  # type: ignore[assignment] # the decorators hide it
    return control.options(name=names.CONTROL).bind(config, models, *detectors)
