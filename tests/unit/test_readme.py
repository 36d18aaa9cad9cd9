"""The README tells the truth about commands, config, metrics and files."""

import re
from pathlib import Path

import pytest
import yaml

from actors.tally import CROSSINGS_PERCENT, OCCUPANCY_PERCENT
from stream.cli import cli
from stream.config_file import parse_config
from stream.detectors.spec import ModelSpec
from stream.events import TOPICS, AlertEvent
from stream.families import FAMILIES
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.S | re.M)


def test_the_config_loads() -> None:
    [config] = [block for block in blocks("yaml") if block.startswith("detectors:")]
    loaded = parse_config(yaml.safe_load(config), "README.md", Path(), {"HALL_PASSWORD": "x"})
    assert loaded.sources[0].id == "hall"
    assert (ROOT / "examples" / "hall.yaml").read_text().endswith(config)


def test_the_demo_promises_what_it_says() -> None:
    promise = (
        f"above {OCCUPANCY_PERCENT:g} % of the people in the zones of each second, or {CROSSINGS_PERCENT:g} % of the line crossings"
    )
    assert promise in " ".join(README.split())


def test_the_model_yaml_is_valid() -> None:
    [spec] = [block for block in blocks("yaml") if block.startswith("input:")]
    assert ModelSpec.model_validate(yaml.safe_load(spec)).input.width == 416


@pytest.mark.parametrize("line", re.findall(r"^\| `framewatch ([a-z]+ .*?)`", README, re.M))
def test_commands_and_their_options_exist(line: str) -> None:
    name, *words = line.replace("\\|", " ").split()
    options = {option for parameter in cli.commands[name].params for option in parameter.opts}
    for word in words:
        option = word.strip("[]").split("=")[0]
        if option.startswith("-") and len(option) > 1:
            assert option in options


def test_every_command_is_described() -> None:
    assert set(cli.commands) == set(re.findall(r"^\| `framewatch ([a-z]+)", README, re.M))


def test_metrics_exist() -> None:
    known = {family.full_name for family in FAMILIES}
    for name in re.findall(r"`(framewatch_[a-z_]+)`", README):
        assert name.removesuffix("_total") in known


def test_topics_and_alert_types_are_complete() -> None:
    assert {f"framewatch.{name}" for name in TOPICS.values()} == set(re.findall(r"^\| `(framewatch\.[a-z_]+)`", README, re.M))
    for kind in AlertEvent.model_fields["type"].annotation.__args__:  # type: ignore[union-attr]
        assert f"`{kind}`" in README


def test_named_files_exist() -> None:
    for path in re.findall(r"\]\(([^)#]+)\)", README) + re.findall(r"`((?:stream|kube|perf|docs|examples)/[\w/.]*)`", README):
        if "://" not in path:
            assert (ROOT / path).exists(), path
