"""The desk: it never blocks who asks, takes a request once, and is bounded."""

import threading
from pathlib import Path
from typing import Any, cast

import av
import cv2
import numpy as np
import pytest

from stream.clock import SystemClock
from stream.config import SourceConfig
from stream.decode import Decoder
from stream.evidence.desk import QUEUED, EvidenceDesk, keep_s
from stream.evidence.settings import EvidenceConfig, RuleEvidence
from stream.frame import Packet
from stream.metrics import Metrics
from stream.rules import IntrusionRule, SourceOfflineRule
from stream.scale import to_picture
from stream.sources.file import FileSource
from tests.support.media import make_video
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


@pytest.mark.parametrize("rotation", [90, 180])
def test_what_lies_on_its_side_is_upright_in_the_picture_and_in_the_clip(tmp_path: Path, rotation: int) -> None:
    path = make_video(tmp_path / "phone.mp4", 20, rotation=rotation)
    config, names = (
        EvidenceConfig(url=str(tmp_path)),
        {kind: f"2026-11-24/hall/120000-{'a' * 32}{kind}" for kind in (".jpg", ".mp4")},
    )
    desk = EvidenceDesk(config, RULES, SystemClock(), Metrics())
    recorder = desk.recorder("hall")
    with FileSource(SourceConfig(id="hall", uri=str(path)), SystemClock()) as source:
        recorder.begin(source)
        decoder, frames = Decoder(source), []
        for item in source.packets():
            assert isinstance(item, Packet)
            recorder.keep(item)
            for frame in decoder.decode(item):
                recorder.sent(frame.pts_s, frame.matrix)
                frames.append(frame)
        recorder.end()
    seen = frames[13]
    desk.ask(
        request(
            blur=False, session="", frame_index=seen.frame_index, pts_s=seen.pts_s, width=seen.width, height=seen.height,
            objects=(), zones=(), lines=(), picture=names[".jpg"], clip=names[".mp4"],
        )
    )  # fmt: skip
    desk.close()
    shown = cv2.imread(str(tmp_path / names[".jpg"]))
    assert shown.shape == (seen.height, seen.width, 3)
    assert np.abs(shown.astype(int) - to_picture(seen.frame)).mean() < 4
    with av.open(str(tmp_path / names[".mp4"])) as clip:
        first = next(clip.decode(video=0))
        assert first.rotation % 360 == rotation
        assert (first.width, first.height) == (clip.streams.video[0].width, clip.streams.video[0].height) == (128, 96)


def test_only_what_is_watched_is_kept() -> None:
    clip = RuleEvidence(clip=True, clip_unblurred=True, before_s=20)
    offline = SourceOfflineRule(name="off", type="source_offline", evidence=clip)
    assert keep_s(RULES, "other") is None
    assert keep_s(RULES, "hall") == 5
    assert keep_s([*RULES, offline], "hall") == keep_s([offline], "other") == 25
