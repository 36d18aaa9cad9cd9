"""Video from Kafka and events to Kafka, over the Ray service, while its actors are killed."""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition

from stream.config import KafkaConnection
from stream.publish import publish
from tests.golden.scenario import CLIP
from tests.support import service as ray_service
from tests.support.kafka_broker import Broker
from tests.support.media import cut

pytestmark = [pytest.mark.ray, pytest.mark.kafka]

KINDS = ("jpeg", "h264")
TOPICS = {kind: f"crash-{kind}" for kind in ("tracks", "counts", "alerts", "health", "dead_letter")}


def config(broker: Broker) -> dict[str, Any]:
    whole = [[0, 0], [1, 0], [1, 1], [0, 1]]
    return {
        "sources": [{"id": kind, "uri": f"kafka://video-{kind}", "zones": [{"name": "all", "polygon": whole}]} for kind in KINDS],
        "alerts": [
            {"name": f"crowd-{kind}", "type": "crowd", "zone": f"{kind}/all", "above": 0, "for_s": 1, "clear_for_s": 3600}
            for kind in KINDS
        ],
        "sinks": [{"type": "kafka", "bootstrap_servers": [broker.bootstrap], "topics": TOPICS}],
    }


def committed(broker: Broker, source_id: str) -> tuple[int, int]:
    """Committed offset of a source, and the end of its topic."""
    partition = TopicPartition(f"video-{source_id}", 0)
    consumer = KafkaConsumer(
        bootstrap_servers=broker.bootstrap, group_id=f"framewatch.{source_id}", enable_auto_commit=False, metrics_enabled=False
    )
    try:
        return consumer.committed(partition) or 0, consumer.end_offsets([partition])[partition]
    finally:
        consumer.close()


def test_nothing_is_lost_when_ingest_and_aggregator_are_killed(
    kafka_broker: Broker, shared: Path, tmp_path: Path, deploy: Callable[..., ray_service.Service]
) -> None:
    clip = cut(shared / CLIP, tmp_path / "clip.mp4", 65)
    connection = KafkaConnection(bootstrap_servers=[kafka_broker.bootstrap])
    frames = {kind: publish(clip, f"video-{kind}", kind, connection, kind).records for kind in KINDS}
    total = sum(frames.values())
    assert frames["jpeg"] == frames["h264"] == total / 2 >= 650

    def tracks() -> list[dict[str, Any]]:
        return ray_service.topic_events(kafka_broker.bootstrap, TOPICS["tracks"])

    service = deploy(config(kafka_broker))
    ray_service.wait_for(lambda: len(tracks()) >= 100, 60, "the first frames")
    service.kill("ray::IngestActor")
    before = len(ray_service.distinct(tracks()))
    assert before < total - 300, "it was too late to hurt anybody"
    ray_service.wait_for(lambda: len(ray_service.distinct(tracks())) >= before + 100, 60, "frames after the ingest actor's death")
    service.kill("ray::AggregatorActor")
    ray_service.wait_for(lambda: len(ray_service.distinct(tracks())) == total, 90, "the last frame")
    for kind in KINDS:
        ray_service.wait_for(lambda kind=kind: len(set(committed(kafka_broker, kind))) == 1, 20, f"the last commit of {kind}")

    found = tracks()
    for kind in KINDS:
        mine = [event for event in found if event["source_id"] == kind]
        assert len({event["event_id"] for event in mine}) == frames[kind]
        assert len({event["frame_index"] for event in mine}) == frames[kind]
    health = ray_service.topic_events(kafka_broker.bootstrap, TOPICS["health"])
    alerts = ray_service.topic_events(kafka_broker.bootstrap, TOPICS["alerts"])
    counts = ray_service.topic_events(kafka_broker.bootstrap, TOPICS["counts"])
    assert ray_service.raised(alerts) == {"crowd-jpeg": 1, "crowd-h264": 1}
    for kind in KINDS:
        assert ray_service.health_states(health, kind) == ["online"]
        starts = sorted(event["window_start"] for event in ray_service.distinct(counts) if event["source_id"] == kind)
        assert len(starts) == len(set(starts)) >= 64
    assert_replays_say_the_same(found + counts + alerts)


def assert_replays_say_the_same(events: list[dict[str, Any]]) -> None:
    """Whatever came twice under one id is the same but for the stage times."""
    texts = defaultdict(set)
    for event in events:
        texts[event["event_id"]].add(json.dumps({k: v for k, v in event.items() if k != "stages_ms"}, sort_keys=True))
    assert [versions for versions in texts.values() if len(versions) > 1] == []
