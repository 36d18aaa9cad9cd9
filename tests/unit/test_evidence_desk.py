"""The desk: it never blocks who asks, takes a request once, and is bounded."""

import threading
from typing import Any, cast

import pytest

from stream.clock import SystemClock
from stream.evidence.desk import QUEUED, EvidenceDesk, keep_s
from stream.evidence.settings import EvidenceConfig, RuleEvidence
from stream.metrics import Metrics
from stream.rules import IntrusionRule, SourceOfflineRule
from tests.unit.test_evidence_packets import IDR, Camera, packet
from tests.unit.test_evidence_picture import request

RULES = [IntrusionRule(name="in", type="intrusion", zone="hall/all", evidence=RuleEvidence())]


def test_requests_are_taken_once_and_refused_when_too_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, going_on = Metrics(), threading.Event()

    def count(outcome: str, reason: str) -> float:
        labels = {"outcome": outcome, "reason": reason}
        return metrics.registry.get_sample_value("framewatch_evidence_total", labels) or 0.0

    monkeypatch.setattr(EvidenceDesk, "_jpeg", lambda self, job: going_on.wait(10) and b"jpeg")
    desk = EvidenceDesk(EvidenceConfig(url="memory://desk"), RULES, SystemClock(), metrics)
    recorder = desk.recorder("hall")
    recorder.begin(cast(Any, Camera("")))
    recorder.keep(packet(0, IDR, key=True))
    for number in range(QUEUED + 20):
        for _ in range(2):
            desk.ask(request(alert_id=f"{number:032x}", picture=f"2026-11-24/hall/120000-{number:032x}.jpg"))
    desk.ask(request(alert_id="f" * 32, source_id="other"))
    refused = count("failed", "queue_full")
    assert refused in (19, 20)  # one may be under way
    going_on.set()
    desk.close()
    assert count("written", "picture") == QUEUED + 20 - refused
    assert count("failed", "not_in_buffer") == 1


def test_only_what_is_watched_is_kept() -> None:
    clip = RuleEvidence(clip=True, clip_unblurred=True, before_s=20)
    offline = SourceOfflineRule(name="off", type="source_offline", evidence=clip)
    assert keep_s(RULES, "other") is None
    assert keep_s(RULES, "hall") == 5
    assert keep_s([*RULES, offline], "hall") == keep_s([offline], "other") == 25
