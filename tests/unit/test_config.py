"""The parts of a config: defaults, what a uri means, who connects where."""

from datetime import time
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from stream.config import DetectorConfig, KafkaConnection, KafkaSinkConfig, PipelineConfig, SourceConfig, ZoneConfig
from stream.rules import CrowdRule, Schedule

DETECTORS = {"people": DetectorConfig(model="m.onnx"), "cars": DetectorConfig(model="c.onnx")}
SQUARE = [(0, 0), (1, 0), (1, 1), (0, 1)]


@pytest.mark.parametrize(
    ("uri", "scheme", "live"),
    [
        ("clip.mp4", "file", False),
        ("/srv/a:b.mp4", "file", False),
        ("a:b.mp4", "file", False),
        ("file:clip.mp4", "file", False),
        ("file:///srv/clip.mp4", "file", False),
        ("rtsp://h/x", "rtsp", True),
        ("RTSPS://h/x", "rtsps", True),
        ("rtsp://u:p@ss[w:0@h/x", "rtsp", True),
        ("kafka://frames?key=*", "kafka", False),
    ],
)
def test_the_uri_decides_what_a_source_is(uri: str, scheme: str, live: bool) -> None:
    source = SourceConfig(id="a", uri=uri)
    assert (source.scheme, source.live) == (scheme, live)


def test_a_file_in_real_time_is_live() -> None:
    assert SourceConfig(id="a", uri="clip.mp4", realtime=True).live


@pytest.mark.parametrize(
    ("uri", "path"), [("a b%20.mp4", "a b%20.mp4"), ("file:a.mp4", "a.mp4"), ("FILE:///srv/a.mp4", "/srv/a.mp4")]
)
def test_path_of_a_file(uri: str, path: str) -> None:
    assert SourceConfig(id="a", uri=uri).path == Path(path)


@pytest.mark.parametrize(
    ("uri", "topic", "key"), [("kafka://frames", "frames", "hall"), ("kafka://f?key=x", "f", "x"), ("kafka://f?key=*", "f", None)]
)
def test_topic_and_key_of_kafka_sources(uri: str, topic: str, key: str | None) -> None:
    source = SourceConfig(id="hall", uri=uri)
    assert (source.topic, source.record_key) == (topic, key)


def test_secrets_are_not_in_the_repr() -> None:
    connection = KafkaConnection(bootstrap_servers=["h"], password="hunter2", options={"sasl_plain_password": "hunter3"})
    source = SourceConfig(id="a", uri="rtsp://u:hunter4@h/x")
    assert "hunter" not in repr(connection) + repr(source) + str(connection) + str(source)


def test_detector_of_a_source_is_its_own_or_the_first() -> None:
    config = PipelineConfig(detectors=DETECTORS)
    assert config.detector_of(SourceConfig(id="a", uri="f")) == "people"
    assert config.detector_of(SourceConfig(id="a", uri="f", detector="cars")) == "cars"


def test_brokers_of_a_kafka_source_its_own_the_configs_the_sinks() -> None:
    sink = KafkaSinkConfig(type="kafka", bootstrap_servers=["sink"], linger_ms=5)
    source = SourceConfig.model_validate({"id": "a", "uri": "kafka://t"})
    own = SourceConfig.model_validate({"id": "a", "uri": "kafka://t", "kafka": {"bootstrap_servers": ["own"], "group": "g"}})
    config = PipelineConfig(detectors=DETECTORS, sinks=[sink], kafka=KafkaConnection(bootstrap_servers=["shared"]))

    def brokers(config: PipelineConfig, source: SourceConfig) -> list[str] | None:
        connection = config.kafka_input(source)
        return connection and connection.bootstrap_servers

    assert brokers(config, own) == ["own"]
    assert brokers(config, source) == ["shared"]
    assert brokers(config.model_copy(update={"kafka": None}), source) == ["sink"]
    assert brokers(PipelineConfig(detectors=DETECTORS), source) is None


def test_zone_paths_of_a_crowd_rule() -> None:
    assert CrowdRule(name="x", type="crowd", zone="a/z", above=1).zone_paths == ["a/z"]
    assert CrowdRule(name="x", type="crowd", zones=["a/z", "b/z"], above=1).zone_paths == ["a/z", "b/z"]


@pytest.mark.parametrize("update", [{"zone": "a/z", "zones": ["b/z"]}, {}, {"zone": "a/z", "clear_below": 3}])
def test_contradictory_crowd_rules(update: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CrowdRule.model_validate({"name": "x", "type": "crowd", "above": 1} | update)


def test_clear_below_up_to_one_over_above() -> None:
    assert CrowdRule(name="x", type="crowd", zone="a/z", above=1, clear_below=2).clear_below == 2


def test_schedule() -> None:
    schedule = TypeAdapter(Schedule).validate_python(
        {"days": ["sat"], "start": "22:00", "end": "06:00", "timezone": "Europe/Berlin"}
    )
    assert (schedule.start, schedule.end) == (time(22), time(6))
    assert Schedule(start=time(8), end=time(18)).start == time(8)
    assert Schedule.model_validate(schedule.model_dump(mode="json")) == schedule, "as the API gives it"


@pytest.mark.parametrize(
    "update",
    [{"start": 8}, {"end": 18.0}, {"start": 800}, {"end": "18"}, {"start": None}, {"timezone": "Europe"}, {"timezone": "A" * 300}],
)
def test_schedules_that_would_mean_something_else(update: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"such as 08:00|unknown time zone"):
        Schedule.model_validate(update)


def test_parts_cannot_be_changed_and_know_their_keys() -> None:
    zone = ZoneConfig(name="z", polygon=SQUARE)
    with pytest.raises(ValidationError):
        zone.name = "y"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        ZoneConfig.model_validate({"name": "z", "polygon": SQUARE, "colour": "red"})


@pytest.mark.parametrize("name", ["", "-a", "a/b", "a b", "ä", "a" * 64, "*"])
def test_names_that_would_break_topics_labels_or_paths(name: str) -> None:
    with pytest.raises(ValidationError):
        SourceConfig(id=name, uri="f")


def test_class_faults() -> None:
    zone = ZoneConfig(name="z", polygon=SQUARE, classes=["person", "dog"])
    config = PipelineConfig(detectors=DETECTORS, sources=[SourceConfig(id="a", uri="f", zones=[zone])])
    (fault,) = config.class_faults({"people": ["person"]})
    assert str(fault) == "sources.0.zones.0.classes: detector 'people' has no class 'dog'"
    assert config.class_faults({}) == []


def test_digest_changes_with_everything_but_the_sources() -> None:
    config = PipelineConfig(detectors=DETECTORS)
    assert config.digest() == PipelineConfig(detectors=DETECTORS, sources=[SourceConfig(id="a", uri="f")]).digest()
    assert config.digest() != PipelineConfig(detectors={"people": DETECTORS["people"]}).digest()


@pytest.mark.parametrize(
    ("uri", "switch", "on"),
    [
        ("rtsp://h/x", "auto", True),
        ("rtsp://h/x", False, False),
        ("rtsp://h/x", "off", False),
        ("clip.mp4", "auto", False),
        ("clip.mp4", True, True),
        ("simulate://plaza", "auto", False),
        ("kafka://frames", "auto", False),
    ],
)
def test_gate_and_tamper_are_on_for_cameras_unless_something_else_is_set(uri: str, switch: object, on: bool) -> None:
    assert SourceConfig.model_validate({"id": "a", "uri": uri, "gate": switch}).gated is on
    assert SourceConfig.model_validate({"id": "a", "uri": uri, "tamper": switch}).guarded is on
    assert not SourceConfig.model_validate({"id": "a", "uri": "clip.mp4", "realtime": True}).gated


@pytest.mark.parametrize("settings", [{"decode": "fast"}, {"decode": "key"}, {"gate": "on"}])
def test_records_are_decoded_whatever_happens(settings: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="every record of kafka:// is decoded"):
        SourceConfig.model_validate({"id": "a", "uri": "kafka://frames"} | settings)
