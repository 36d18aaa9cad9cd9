"""Desired state: the config and what was changed since, on disk."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from actors.desired import FILE, Changes, Desired
from stream.config import PipelineConfig, SourceConfig
from stream.config_file import parse_config
from stream.errors import ConfigError
from stream.rules import IntrusionRule

ZONE = {"name": "floor", "polygon": [[0, 0], [1, 0], [1, 1]]}
ATTIC = SourceConfig(id="attic", uri="rtsp://viewer:secret@h/attic", fps=2)


def config(tmp_path: Path, **changes: Any) -> PipelineConfig:
    sources = [{"id": name, "uri": f"rtsp://h/{name}", "zones": [ZONE]} for name in ("hall", "yard")]
    rules = [{"name": "keep-out", "type": "intrusion", "zone": "yard/floor"}]
    whole = {"detectors": {"people": {"model": "m.onnx"}}, "sources": sources, "alerts": rules, "service": {"state_dir": "state"}}
    return parse_config(whole | changes, "test", tmp_path)


def ids(config: PipelineConfig) -> list[str]:
    return [source.id for source in config.sources]


def test_without_changes_it_is_the_config(tmp_path: Path) -> None:
    base = config(tmp_path)
    desired = Desired(base)
    assert desired.config == base
    assert not (tmp_path / "state").exists()
    assert (desired.origin("hall"), desired.origin("attic")) == ("config", "api")


def test_changes_survive_a_restart(tmp_path: Path) -> None:
    base = config(tmp_path)
    desired = Desired(base)
    slower = base.sources[0].model_copy(update={"fps": 1.0})
    watch = IntrusionRule(name="watch", type="intrusion", zone="hall/floor")
    changes = Changes().with_source("attic", ATTIC).with_source("hall", slower).with_source("yard", None)
    desired.keep(changes.with_rule("watch", watch).with_rule("keep-out", None))
    for again in (desired, Desired(base)):
        assert again.config.sources == [slower, ATTIC]
        assert again.config.alerts == [watch]
        assert [again.origin(name) for name in ("hall", "attic", "yard")] == ["changed", "api", "changed"]
        again.check({"people": ["person"]})
    assert stat.S_IMODE((tmp_path / "state" / FILE).stat().st_mode) == 0o600


def test_changes_follow_the_file_where_they_do_not_say_otherwise(tmp_path: Path) -> None:
    Desired(config(tmp_path)).keep(Changes().with_source("attic", ATTIC))
    later = config(tmp_path, sources=[{"id": "gate", "uri": "rtsp://h/gate"}], alerts=[])
    assert ids(Desired(later).config) == ["gate", "attic"]


def test_a_change_back_is_no_change(tmp_path: Path) -> None:
    base = config(tmp_path)
    desired = Desired(base)
    desired.keep(Changes().with_source("hall", base.sources[0].model_copy(update={"fps": 1.0})).with_source("attic", ATTIC))
    desired.keep(desired.changes.with_source("hall", base.sources[0]).with_source("attic", None))
    assert desired.changes == Changes()
    assert desired.origin("hall") == "config"
    desired.keep(desired.changes.with_source("yard", None))
    assert ids(desired.config) == ["hall"]
    desired.keep(desired.changes.without_source("yard"))
    assert desired.config == base


def test_only_what_was_given_is_kept(tmp_path: Path) -> None:
    desired = Desired(config(tmp_path))
    desired.keep(Changes().with_source("attic", ATTIC))
    kept = json.loads((tmp_path / "state" / FILE).read_text())
    assert kept == {"version": 1, "sources": {"attic": {"id": "attic", "uri": ATTIC.uri, "fps": 2}}, "rules": {}}


def test_what_cannot_be_kept_changes_nothing(tmp_path: Path) -> None:
    desired = Desired(config(tmp_path))
    (tmp_path / "state").write_text("a file in the way")
    with pytest.raises(OSError, match="File exists"):
        desired.keep(Changes().with_source("attic", ATTIC))
    assert ids(desired.config) == ["hall", "yard"]


def test_changes_that_do_not_fit_the_file_any_more_are_named(tmp_path: Path) -> None:
    desired = Desired(config(tmp_path))
    changes = Changes().with_rule("watch", IntrusionRule(name="watch", type="intrusion", zone="hall/floor"))
    desired.keep(changes.with_source("attic", ATTIC.model_copy(update={"detector": "people"})))
    later = config(tmp_path, sources=[{"id": "hall", "uri": "rtsp://h/hall"}], alerts=[], detectors={"cars": {"model": "c.onnx"}})
    with pytest.raises(ConfigError) as error:
        Desired(later).check({})
    assert [fault.key for fault in error.value.faults] == ["sources.attic.detector", "rules.watch.zone"]
    assert str(tmp_path / "state" / FILE) in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2}', '{"sources": {"a": {"id": "a", "uri": "ftp://secret:word@h"}}}'])
def test_a_damaged_file_is_named(text: str, tmp_path: Path) -> None:
    base = config(tmp_path)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / FILE).write_text(text)
    with pytest.raises(ConfigError, match=FILE) as error:
        Desired(base)
    assert "word@h" not in str(error.value)
