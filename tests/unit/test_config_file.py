"""Reading a config: the example of the documentation works, and every fault is named with its key."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stream.config import KafkaSinkConfig, PipelineConfig
from stream.config_file import load_config, parse_config
from stream.errors import ConfigError

EXAMPLE = """
detectors:
  people: {model: fastestdet.onnx, classes: [person], confidence: 0.5}
sources:
  - id: hall
    uri: rtsp://viewer:${HALL_PASSWORD}@127.0.0.1:8554/hall
    detector: people
    fps: 5
    zones: [{name: floor, polygon: [[0, 0.3], [1, 0.3], [1, 1], [0, 1]]}]
    lines: [{name: door, points: [[0.5, 0], [0.5, 1]]}]
alerts:
  - {name: crowd-in-hall, type: crowd, zone: hall/floor, above: 3, for_s: 2,
     clear_below: 2, clear_for_s: 3, cooldown_s: 30, severity: warning}
sinks:
  - {type: kafka, bootstrap_servers: ["127.0.0.1:9092"]}
slo: {latency_ms: 500, objective: 0.99}
"""
ENVIRONMENT = {"HALL_PASSWORD": "hunter2", "HOST": "kafka:9092"}
HEAD = "detectors: {people: {model: m.onnx}}\n"


def load(folder: Path, text: str) -> PipelineConfig:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, ENVIRONMENT)


def faults(folder: Path, text: str) -> dict[str, str]:
    """The reason by key; the text is expected to be wrong."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    error = caught.value
    assert error.path == str(folder / "config.yaml")
    assert all(line.startswith(f"{error.path}: ") for line in str(error).splitlines())
    found = {fault.key: fault.reason for fault in error.faults}
    assert len(found) == len(error.faults), "a key is named twice"
    assert "hunter2" not in str(error)
    return found


def test_the_example_works_as_it_stands(tmp_path: Path) -> None:
    config = load(tmp_path, EXAMPLE)
    source = config.sources[0]
    assert source.uri == "rtsp://viewer:hunter2@127.0.0.1:8554/hall"
    assert source.live
    assert config.detectors["people"].model == str(tmp_path / "fastestdet.onnx")
    assert config.detector_of(source) == "people"
    assert source.zones[0].polygon[2] == (1, 1)
    assert isinstance(config.sinks[0], KafkaSinkConfig)
    assert config.slo.objective == 0.99
    assert "hunter2" not in repr(config)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            HEAD + "sources: [{id: a, uri: f, zones: [{name: z, polygon: [[0, 0], [1, 1]]}]}]",
            {"sources.0.zones.0.polygon": "at least 3"},
        ),
        (
            HEAD + "sources: [{id: a, uri: f, zones: [{name: z, polygon: [[0, 0], [1, 1.01], [-0.1, 1]]}]}]",
            {"sources.0.zones.0.polygon.1.1": "found 1.01", "sources.0.zones.0.polygon.2.0": "found -0.1"},
        ),
        (
            HEAD + "sources: [{id: a, uri: f, zones: [{name: z, polygon: [[0, 0], [0.5, 0.5], [1, 1]]}]}]",
            {"sources.0.zones.0.polygon": "encloses no area"},
        ),
        (
            HEAD + "sources: [{id: a, uri: f, zones: [{name: z, polygon: [[0, .nan], [1, .inf], [1, a]]}]}]",
            {
                "sources.0.zones.0.polygon.0.1": "found nan",
                "sources.0.zones.0.polygon.1.1": "found inf",
                "sources.0.zones.0.polygon.2.1": "valid number",
            },
        ),
        (
            HEAD + "sources: [{id: a, uri: f, lines: [{name: l, points: [[0, 0], [0, 0]]}]}]",
            {"sources.0.lines.0.points": "are the same"},
        ),
        (HEAD + "sources: [{id: a, uri: f, lines: [{name: l, points: [[0, 0]]}]}]", {"sources.0.lines.0.points.1": "required"}),
        (
            HEAD + "sources: [{id: a, uri: f, zones: [{name: x, polygon: [[0,0],[1,0],[1,1]]}], "
            "lines: [{name: x, points: [[0,0],[1,1]]}]}]",
            {"sources.0": "share the name 'x'"},
        ),
        (HEAD + "sources: [{id: a, uri: f}, {id: b, uri: f}, {id: a, uri: g}]", {"sources.2.id": "'a' is used twice"}),
        (HEAD + "sorces: []", {"sorces": "unknown key"}),
        (HEAD + "sources: [{id: a, uri: f, zone: []}]", {"sources.0.zone": "unknown key"}),
        (HEAD + "sinks: [{type: jsonl, path: x, topic: t}]", {"sinks.0.topic": "unknown key"}),
        (HEAD + "1: 2", {"1": "strings"}),
        (HEAD + "sources: [{id: a, uri: 'rtsp://v:${UNSET}@h/x'}]", {"sources.0.uri": "environment variable UNSET is not set"}),
        (HEAD + "sources: [{id: a, uri: '${UN-SET}'}]", {"sources.0.uri": "followed by the name of a variable"}),
        (HEAD + "sources: [{id: a, uri: '${HOST'}]", {"sources.0.uri": "followed by the name of a variable"}),
        (HEAD + "sources: [{id: a b, uri: f}, {id: '', uri: f}]", {"sources.0.id": "found 'a b'", "sources.1.id": "pattern"}),
        (HEAD + "sources: [{uri: f}, {id: a}]", {"sources.0.id": "is required", "sources.1.uri": "is required"}),
        (HEAD + "sources: [{id: a, uri: 'http://h/x'}]", {"sources.0.uri": "unknown scheme 'http'"}),
        (HEAD + "sources: [{id: a, uri: ' '}]", {"sources.0.uri": "is empty"}),
        (HEAD + "sources: [{id: a, uri: 'rtsp://'}]", {"sources.0.uri": "needs a host"}),
        (HEAD + "sources: [{id: a, uri: 'rtsps://u:p@/x'}]", {"sources.0.uri": "needs a host"}),
        (HEAD + "sources: [{id: a, uri: 'rtsp:h/x'}]", {"sources.0.uri": "needs a host"}),
        (HEAD + "sources: [{id: a, uri: 'kafka:frames', kafka: {bootstrap_servers: [h]}}]", {"sources.0.uri": "needs a topic"}),
        (HEAD + "sources: [{id: a, uri: 'kafka://frames'}]", {"sources.0.kafka": "no brokers known"}),
        (HEAD + "sources: [{id: a, uri: f, detector: cars}]", {"sources.0.detector": "no detector 'cars'; there is people"}),
        (HEAD + "sources: [{id: a, uri: f, fps: 0}]", {"sources.0.fps": "greater than 0 (found 0)"}),
        (HEAD + "slo: {objective: 1, latency_ms: .inf}", {"slo.objective": "less than 1", "slo.latency_ms": "finite"}),
        ("sources: []", {"detectors": "is required"}),
        ("detectors: {}", {"detectors": "at least 1"}),
        ("detectors: {people: }", {"detectors.people": "must be a mapping"}),
        ("detectors: {people: {model: m, replicas: {min: 3, max: 2}}}", {"detectors.people.replicas": "max (2) is below min (3)"}),
        (HEAD + "sources: {a: 1}\nslo: 5", {"sources": "must be a list", "slo": "must be a mapping"}),
        (
            HEAD + "alerts: [5, {name: x}, {type: nope}]",
            {"alerts.0": "mapping", "alerts.1": "type is required", "alerts.2": "'crowd'"},
        ),
        (HEAD + "alerts: [{name: x, type: intrusion, zone: a/z}]", {"alerts.0.zone": "no zone 'a/z'; there is none"}),
        (HEAD + "alerts: [{name: x, type: line, line: a/l}]", {"alerts.0.line": "no line 'a/l'"}),
        (
            HEAD + "alerts: [{name: x, type: line, line: a/l, direction: up}]",
            {"alerts.0.direction": "found 'up'"},
        ),
        (HEAD + "alerts: [{name: x, type: crowd, above: 3}]", {"alerts.0": "give either zone or zones"}),
        (HEAD + "alerts: [{name: x, type: crowd, zones: [a/q], above: 3}]", {"alerts.0.zones": "no zone 'a/q'"}),
        (HEAD + "alerts: [{name: x, type: crowd, zone: a/q, above: 3, clear_below: 5}]", {"alerts.0": "clear_below (5)"}),
        (HEAD + "alerts: [{name: x, type: source_offline, source: a}]", {"alerts.0.source": "no source 'a'"}),
        (
            HEAD + "alerts: [{name: x, type: source_offline}, {name: x, type: source_offline}]",
            {"alerts.1.name": "'x' is used twice"},
        ),
        (
            HEAD + "alerts: [{name: x, type: source_offline, schedule: {timezone: Mars/X}}]",
            {"alerts.0.schedule.timezone": "Mars/X"},
        ),
        (
            HEAD + "alerts: [{name: x, type: source_offline, schedule: {timezone: Europe}}]",
            {"alerts.0.schedule.timezone": "unknown time zone 'Europe'"},
        ),
        (
            HEAD + "alerts: [{name: x, type: source_offline, schedule: {start: 8, end: '18'}}]",
            {"alerts.0.schedule.start": "such as 08:00 (found 8)", "alerts.0.schedule.end": "such as 08:00 (found '18')"},
        ),
        (
            HEAD + "sinks: [{type: kafka}, {type: jsonl}]",
            {"sinks.0.bootstrap_servers": "is required", "sinks.1.path": "is required"},
        ),
        (
            HEAD + "sinks: [{type: kafka, bootstrap_servers: [h], security_protocol: SASL_SSL}]",
            {"sinks.0": "security_protocol SASL_SSL needs sasl_mechanism"},
        ),
        ("[1]", {"": "must be a mapping, not list"}),
        ("", {"": "must be a mapping, not NoneType"}),
        ("a: [", {"": "is not valid YAML: "}),
        ("a: 1\na: 2", {"": "key 'a' is given twice"}),
        ("? [a]\n: 1", {"": "is not valid YAML"}),
        ("a: 2026-13-45", {"": "is not valid YAML: month"}),
        ("a: !!int x", {"": "is not valid YAML"}),
        ("a: !!python/object/apply:os.getcwd []", {"": "is not valid YAML"}),
        ("a: &a [*a]", {"": "is nested too deeply"}),
        ("a: " + "[" * 5000 + "]" * 5000, {"": "is nested too deeply"}),
        ("a: \x07", {"": "is not valid YAML"}),
    ],
)
def test_faults(tmp_path: Path, text: str, expected: dict[str, str]) -> None:
    found = faults(tmp_path, text)
    assert found.keys() == expected.keys()
    for key, part in expected.items():
        assert part in found[key]


def test_every_fault_at_once_also_between_the_parts(tmp_path: Path) -> None:
    text = """
    detectors: {people: {model: m.onnx, confidence: 2}}
    sources:
      - {id: a, uri: f, zones: [{name: z, polygon: [[0, 0], [1, 1]]}]}
      - {id: a, uri: '${UNSET}', detector: cars}
      - {id: b, uri: 'kafka://t', fsp: 5}
      - {id: c, uri: 'kafka://t', kafka: {bootstrap_servers: [h]}}
      - 7
    alerts:
      - {name: x, type: intrusion, zone: a/z}
      - {name: x, type: crowd, zone: a/q, above: -1}
      - {name: y, type: loitering, zone: a/q, dwell_s: 3}
    """
    assert faults(tmp_path, text).keys() == {
        "detectors.people.confidence",
        "sources.0.zones.0.polygon",
        "sources.1.uri",
        "sources.1.id",
        "sources.1.detector",
        "sources.2.fsp",
        "sources.2.kafka",
        "sources.4",
        "alerts.1.above",
        "alerts.1.name",
    }  # nothing is said of references to zones, as one source has no id


def test_references_are_judged_with_faults_elsewhere(tmp_path: Path) -> None:
    text = EXAMPLE.replace("fps: 5", "fps: -5").replace("hall/floor", "hall/flor")
    assert faults(tmp_path, text) == {
        "sources.0.fps": "Input should be greater than 0 (found -5)",
        "alerts.0.zone": "no zone 'hall/flor'; there is hall/floor",
    }


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "sources: [{id: '${HALL_PASSWORD}!', uri: f}]",
        HEAD + "sources: [{id: a, uri: 'rtspp://v:${HALL_PASSWORD}@h/x'}]",
        HEAD + "sources: [{id: a, uri: 'rtspp://v:hunter2@h/x'}]",
        HEAD + "sources: [{id: a, uri: f, kafka: 'u:hunter2'}]",
        HEAD + "slo: {latency_ms: '${HALL_PASSWORD}'}",
        HEAD + "sinks: [{type: '${HALL_PASSWORD}'}]",
        HEAD + "sinks: [{type: kafka, bootstrap_servers: [h], security_protocol: '${HALL_PASSWORD}'}]",
        HEAD + "sinks: [{type: kafka, bootstrap_servers: [h], password: [hunter2]}]",
        HEAD + "kafka: {bootstrap_servers: [h], password: {a: hunter2}}",
        "sinks: [{password: hunter2",
        "uri: rtsp://v:hunter2@h/x: [",
    ],
)
def test_secrets_stay_out_of_the_faults(tmp_path: Path, text: str) -> None:
    assert faults(tmp_path, text)


def test_a_password_that_is_a_number_is_not_shown(tmp_path: Path) -> None:
    found = faults(tmp_path, HEAD + "sinks: [{type: kafka, bootstrap_servers: [h], password: 271828}]")
    assert "271828" not in str(found)


def test_variables(tmp_path: Path) -> None:
    config = load(tmp_path, HEAD + "sinks: [{type: kafka, bootstrap_servers: ['${HOST}', '${OTHER:-b:1}', 'x${NONE:-}']}]")
    assert isinstance(config.sinks[0], KafkaSinkConfig)
    assert config.sinks[0].bootstrap_servers == ["kafka:9092", "b:1", "x"]


def test_the_content_of_a_variable_is_not_interpreted() -> None:
    data = {"detectors": {"d": {"model": "m"}}, "sources": [{"id": "a", "uri": "rtsp://v:${P}@h/x"}]}
    config = parse_config(data, "c", Path("/base"), {"P": "${Q} #: '\"\\"})
    assert config.sources[0].uri == "rtsp://v:${Q} #: '\"\\@h/x"


def test_paths_are_relative_to_the_config(tmp_path: Path) -> None:
    text = """
    detectors: {d: {model: models/m.onnx}}
    sources:
      - {id: a, uri: clip.mp4}
      - {id: b, uri: file:clip.mp4}
      - {id: c, uri: 'FILE:///srv/clip.mp4'}
      - {id: d, uri: rtsp://h/clip.mp4}
      - {id: e, uri: 'kafka://t', kafka: {bootstrap_servers: [h], ssl_cafile: ca.pem}}
      - {id: f, uri: '~no-such-user/clip.mp4'}
    sinks: [{type: jsonl, path: out.jsonl}, {type: jsonl, path: '-'}, {type: kafka, bootstrap_servers: [h], ssl_keyfile: /k.pem}]
    """
    config = load(tmp_path, text)
    assert config.detectors["d"].model == str(tmp_path / "models/m.onnx")
    assert [source.uri for source in config.sources] == [
        str(tmp_path / "clip.mp4"),
        str(tmp_path / "clip.mp4"),
        "/srv/clip.mp4",
        "rtsp://h/clip.mp4",
        "kafka://t",
        str(tmp_path / "~no-such-user/clip.mp4"),
    ]
    kafka = config.sources[4].kafka
    assert kafka is not None
    assert kafka.ssl_cafile == tmp_path / "ca.pem"
    assert [getattr(sink, "path", None) for sink in config.sinks] == [str(tmp_path / "out.jsonl"), "-", None]
    assert isinstance(config.sinks[2], KafkaSinkConfig)
    assert config.sinks[2].ssl_keyfile == Path("/k.pem")
    assert config.service.state_dir == tmp_path / "framewatch-state"


def test_yaml_merges_and_clock_times(tmp_path: Path) -> None:
    text = """
    detectors: {d: {model: m}}
    sources: [&camera {id: a, uri: f, fps: 5}, {<<: *camera, id: b}]
    alerts: [{name: x, type: source_offline, schedule: {start: 18:30, end: 06:00}}]
    """
    config = load(tmp_path, text)
    assert [(source.id, source.fps) for source in config.sources] == [("a", 5), ("b", 5)]
    schedule = config.alerts[0].schedule
    assert schedule is not None
    assert (schedule.start.isoformat(), schedule.end.isoformat()) == ("18:30:00", "06:00:00")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError, match=reason):
            load_config(path)
    (tmp_path / "latin1.yaml").write_bytes(b"a: \xe4")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        load_config(tmp_path / "latin1.yaml")


def fault_of(config: Any) -> ConfigError | None:
    try:
        parse_config(config, "c", Path("/base"), ENVIRONMENT)
    except ConfigError as error:
        return error
    return None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text("az/:${}-", max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("az", max_size=3) | st.integers(0, 2), inner, max_size=3),
    max_leaves=6,
)


@given(st.data())
def test_whatever_stands_anywhere_gives_a_config_or_its_faults(data: st.DataObject) -> None:
    config = copy.deepcopy(yaml.safe_load(EXAMPLE))
    for _ in range(data.draw(st.integers(1, 3))):
        spot: Any = config
        while True:
            key = data.draw(st.sampled_from(list(spot) if isinstance(spot, dict) else list(range(len(spot)))))
            if not (isinstance(spot[key], dict | list) and spot[key]) or data.draw(st.booleans()):
                break
            spot = spot[key]
        spot[key] = data.draw(JSON)
        if not (isinstance(config, dict) and config):
            break
    error = fault_of(config)
    assert error is None or (error.faults and "hunter2" not in str(error))
