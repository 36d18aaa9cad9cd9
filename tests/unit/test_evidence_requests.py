"""What the aggregator asks for: of which frame, about whom, and that a request is neither lost nor done twice."""

from pathlib import Path
from typing import Any

import pytest

from stream.aggregate import Aggregator
from stream.checkpoint import Checkpoint
from stream.clock import Clock
from stream.config_file import parse_config
from stream.deliver import Delivery, SourceState
from stream.detections import Detections
from stream.events import AlertEvent
from stream.evidence.requests import MAX_WAITING, WAITS_S, EvidenceRequest
from stream.metrics import Metrics
from stream.testing import ManualClock, MemorySink
from tests.unit.test_aggregate import CLASSES, T0, batch, frame, people

LEFT = [{"name": "left", "polygon": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]}]
EVIDENCE = {"clip": True, "clip_unblurred": True, "before_s": 3, "after_s": 2}
INTRUSION = {"name": "in", "type": "intrusion", "zone": "a/left", "evidence": EVIDENCE}


def config(*rules: dict[str, Any]) -> Any:
    return parse_config(
        {
            "detectors": {"people": {"model": "m.onnx", "confidence": 0.5}},
            "sources": [{"id": name, "uri": f"rtsp://{name}/", "zones": LEFT} for name in ("a", "b")],
            "alerts": rules or (INTRUSION,),
            "counting": {"enter_s": 0, "leave_s": 0.2},
            "evidence": {"url": "memory://alerts"},
        },
        "test",
        Path(),
    )


class Service:
    """An aggregator with its sink and metrics, and a sender that hands requests to ``asked``."""

    def __init__(self, *rules: dict[str, Any], folder: Path | None = None, clock: Clock | None = None):
        self.sink, self.metrics = MemorySink(), Metrics()
        self.clock = clock or ManualClock(T0)
        checkpoint = Checkpoint(folder / "checkpoint.json") if folder else None
        self.aggregator = Aggregator(config(*rules), CLASSES, self.sink, self.clock, self.metrics, checkpoint)

    def send(self, number: int, index: int, found: Detections, source_id: str = "a", sender: str = "s") -> list[EvidenceRequest]:
        receipt = self.aggregator.process(sender, number, batch((frame(source_id, index), found)), None)
        assert receipt.accepted
        return list(receipt.evidence)

    def counted(self) -> dict[str, float]:
        lines = self.metrics.expose().decode().splitlines()
        return {line.split(" ")[0]: float(line.split(" ")[1]) for line in lines if line.startswith("framewatch_evidence_total{")}


def test_a_raised_alert_asks_for_its_frame() -> None:
    service = Service()
    assert service.send(1, 3, people(0)) == []
    found = Detections.of([[100, 100, 150, 300], [500, 100, 550, 300], [200, 50, 240, 90]], [0.9, 0.8, 0.3], [0, 0, 0])
    [request] = service.send(2, 4, found)
    [alert] = service.sink.of(AlertEvent)
    assert alert.evidence is not None
    assert alert.evidence.picture == f"memory://alerts/{request.picture}"
    assert alert.evidence.clip == f"memory://alerts/{request.clip}"
    assert request.picture == f"2023-11-14/a/221320-{alert.alert_id}.jpg"
    assert (request.source_id, request.frame_index, request.pts_s) == ("a", 4, 0.4)
    assert [found.track_id for found in request.objects] == [1, 2]
    assert request.members == (1,)  # the other one is outside the zone
    assert request.others == ((200, 50, 240, 90),)
    assert (request.before_s, request.after_s, request.blur) == (3, 2, True)
    assert [zone.name for zone in request.zones] == ["left"]


def test_without_evidence_nothing_is_asked_and_the_event_names_none() -> None:
    service = Service({"name": "in", "type": "intrusion", "zone": "a/left"})
    assert service.send(1, 4, people(1)) == []
    assert b"evidence" not in service.sink.of(AlertEvent)[0].to_json()


def test_a_request_goes_out_until_the_next_message_shows_that_it_was_read() -> None:
    service = Service()
    [request] = service.send(1, 4, people(1))
    assert service.send(1, 4, people(1)) == [request]  # sent again: the answer was lost
    assert service.aggregator.progress("s").evidence == (request,)
    assert service.aggregator.progress("other").evidence == ()
    assert service.send(2, 5, people(1)) == []
    assert service.aggregator.progress("s").evidence == ()


def test_it_survives_the_aggregator(tmp_path: Path) -> None:
    service = Service(folder=tmp_path)
    [request] = service.send(1, 4, people(1))
    again = Service(folder=tmp_path)
    assert again.send(1, 4, people(1)) == [request]
    assert len(service.sink.of(AlertEvent)) == 1
    assert again.send(2, 5, people(1)) == []


def test_what_nobody_fetches_is_counted() -> None:
    clock = ManualClock(T0)
    service = Service({"name": "off", "type": "source_offline", "source": "a", "for_s": 5, "evidence": {}}, clock=clock)
    service.send(1, 4, people(1))
    service.aggregator.process("s", 2, SourceState("a", False, "gone", T0), None)
    clock.advance(6)
    service.aggregator.tick()
    clock.advance(WAITS_S + 1)
    service.aggregator.tick()
    assert service.counted() == {'framewatch_evidence_total{outcome="lost",reason="not_fetched"}': 1}


def test_an_offline_source_shows_its_last_picture_even_while_nothing_is_sent() -> None:
    clock = ManualClock(T0)
    service = Service({"name": "off", "type": "source_offline", "source": "a", "for_s": 5, "evidence": {}}, clock=clock)
    asked: list[EvidenceRequest] = []
    delivery = Delivery([service.aggregator], lambda _: 0)
    delivery.evidence_to(asked.append)
    delivery.send(batch((frame("a", 4), people(2))))
    delivery.send(SourceState("a", False, "gone", T0))
    for _ in range(8):
        delivery.progress(spare=True)
    assert asked == []
    clock.advance(6)
    service.aggregator.tick()
    for _ in range(8):
        delivery.progress(spare=True)
    assert {(request.frame_index, request.members) for request in asked} == {(4, ())}
    assert len(asked) == 2  # the desk takes it once


def test_an_offline_source_that_was_never_seen_has_no_picture() -> None:
    service = Service({"name": "off", "type": "source_offline", "source": "a", "evidence": {}})
    receipt = service.aggregator.process("s", 1, SourceState("a", False, "gone", T0), None)
    assert receipt.evidence == ()
    assert service.counted() == {'framewatch_evidence_total{outcome="lost",reason="no_frame"}': 1}


def test_a_crowd_is_about_who_is_in_its_zones_of_the_frame_that_raised_it() -> None:
    service = Service({"name": "many", "type": "crowd", "zones": ["a/left", "b/left"], "above": 2, "evidence": {}})
    assert service.send(1, 1, people(2)) == []
    [request] = service.send(1, 1, Detections.of([[10, 10, 60, 300], [500, 10, 550, 300]], [0.9] * 2, [0] * 2), "b", sender="t")
    assert (request.source_id, request.members) == ("b", (1,))
    assert request.picture is not None
    assert request.picture.startswith("2023-11-14/all/")
    [alert] = service.sink.of(AlertEvent)
    assert (alert.source_id, request.clip) == ("*", None)
    assert service.aggregator.progress("s").evidence == ()


def test_requests_that_wait_are_bounded() -> None:
    rules = [{"name": f"r{i}", "type": "intrusion", "zone": "a/left", "evidence": {}} for i in range(MAX_WAITING + 10)]
    service = Service(*rules)
    requests = service.send(1, 1, people(1))
    assert len(requests) == MAX_WAITING
    assert service.counted() == {'framewatch_evidence_total{outcome="lost",reason="not_fetched"}': 10}


@pytest.mark.parametrize("state", ["updated", "cleared"])
def test_all_events_of_an_alert_name_its_evidence(state: str) -> None:
    service = Service(INTRUSION | {"clear_for_s": 0})
    for number, n in enumerate([1, 1, 2, 2, *[2] * 12, *[0] * 12], 1):
        service.send(number, number, people(n))
    events = service.sink.of(AlertEvent)
    assert state in {event.state for event in events}
    assert len({event.evidence and event.evidence.picture for event in events}) == 1
