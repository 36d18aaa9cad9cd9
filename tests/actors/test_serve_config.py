"""``serve_config.yaml`` as Ray Serve itself reads it. Ray is imported, not started."""

import importlib
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def config() -> Any:
    return yaml.safe_load((ROOT / "serve_config.yaml").read_text())


def test_it_has_serves_schema(config: Any) -> None:
    schema = ServeDeploySchema.model_validate(config)
    (application,) = schema.applications
    assert application.name == "framewatch"
    assert application.route_prefix == "/"
    assert application.args == {"config": "${FRAMEWATCH_CONFIG}", "revision": "1"}
    assert schema.http_options.host == "0.0.0.0"
    assert schema.proxy_location == "EveryNode"


def test_it_has_no_key_that_serve_ignores(config: Any) -> None:
    """The schema lets unknown keys through, so a misspelt one would go unnoticed."""
    known = ServeDeploySchema.model_validate(config).model_dump(exclude_unset=True)
    assert set(config) <= set(ServeDeploySchema.model_fields)
    assert set(config["applications"][0]) <= set(known["applications"][0])
    assert set(config["http_options"]) <= set(type(ServeDeploySchema.model_validate(config).http_options).model_fields)


def test_the_builder_is_there(config: Any) -> None:
    module, _, function = config["applications"][0]["import_path"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))
