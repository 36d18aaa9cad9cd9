"""Drift: what is taken for a change, and what is not."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest

from stream.aggregate import Aggregator
from stream.checkpoint import Checkpoint
from stream.config_file import parse_config
from stream.detections import Detections
from stream.drift import MAX_TRACKS, MIN_SAMPLES, Drift, _psi
from stream.errors import ConfigError
from stream.events import TrackedObject
from stream.frame import DetectedBatch, FrameInfo
from stream.metrics import Metrics
from stream.telemetry import DriftConfig
from stream.testing import ManualClock, MemorySink

pytestmark = pytest.mark.compute

T0 = 1_700_000_000.0
HOUR_S, DAY_S = 3600.0, 86_400.0
HEIGHT_PX = 1080
CONFIG = DriftConfig()


def found(track_id: int, confidence: float, height: float, class_: str = "person") -> TrackedObject:
    box = (100.0, 100.0, 200.0, 100 + height * HEIGHT_PX)
    return TrackedObject(track_id=track_id, class_=class_, confidence=confidence, xyxy=box, zones=[])


class Camera:
    """Somebody passes every ten minutes by day, and every hour by night, when the picture is worse. One frame is enough of each."""

    def __init__(self, drift: Drift, seed: int = 0):
        self.drift, self.t_s, self.track_id = drift, T0, 0
        self.sure, self.height, self.car_share, self.model = 0.8, 0.25, 0.1, "model"
        self._random = np.random.default_rng(seed)

    def watch(self, days: float) -> None:
        end_s = self.t_s + days * DAY_S
        while self.t_s < end_s:
            night = (self.t_s / HOUR_S) % 24 < 8
            self.t_s += HOUR_S / (1 if night else 6)
            self.track_id += 1
            confidence = float(np.clip(self._random.normal(self.sure - 0.1 * night, 0.07), 0.3, 1))
            height = float(np.clip(self._random.lognormal(math.log(self.height), 0.3), 0.01, 1))
            kind = "car" if self._random.random() < self.car_share else "person"
            self.drift.add(self.model, self.t_s, HEIGHT_PX, [found(self.track_id, confidence, height, kind)])
            self.drift.add(self.model, self.t_s + 70, HEIGHT_PX, [])


def test_nothing_is_judged_in_the_first_week() -> None:
    camera = Camera(Drift(CONFIG, ("person", "car")))
    camera.watch(6.9)
    assert camera.drift.psi == {}
    camera.watch(0.2)
    assert set(camera.drift.psi) == {"confidence", "height", "class", "objects"}


@pytest.fixture(scope="module")
def month() -> Camera:
    camera = Camera(Drift(CONFIG, ("person", "car")))
    camera.watch(30)
    assert max(camera.drift.psi.values()) < 0.05
    return camera


@pytest.fixture
def camera(month: Camera) -> Camera:
    """One that has been watched for a month."""
    return copy.deepcopy(month)


def test_days_and_nights_are_no_change(camera: Camera) -> None:
    worst = 0.0
    for _ in range(24):
        camera.watch(1 / 8)
        worst = max(worst, *camera.drift.psi.values())
    assert worst < 0.1


@pytest.mark.parametrize(
    ("feature", "changed"),
    [("confidence", {"sure": 0.65}), ("height", {"height": 0.4}), ("class", {"car_share": 0.8})],
)
def test_a_change_is_seen_within_days_and_is_usual_in_the_end(camera: Camera, feature: str, changed: dict[str, float]) -> None:
    for name, value in changed.items():
        setattr(camera, name, value)
    camera.watch(4)
    psi = camera.drift.psi
    assert psi[feature] > 0.25
    assert all(other < 0.1 for name, other in psi.items() if name != feature), psi
    camera.watch(80)
    assert camera.drift.psi[feature] < 0.1


def test_the_mean_confidence_is_of_recent_tracks(camera: Camera) -> None:
    assert camera.drift.confidence == pytest.approx(0.79, abs=0.02)
    camera.sure = 0.6
    camera.watch(20)
    assert camera.drift.confidence == pytest.approx(0.59, abs=0.02)


def test_a_track_counts_once_with_the_mean_of_its_frames() -> None:
    drift = Drift(CONFIG, ("person",))
    for second in range(600):  # a parked car, say
        drift.add("m", T0 + second, HEIGHT_PX, [found(1, 0.84 + 0.06 * (second % 2), 0.5 + 0.1 * (second % 2))])
    assert drift.report().features["confidence"].recent_samples == 0, "it has not gone"
    for second in (611, 671):
        drift.add("m", T0 + second, HEIGHT_PX, [])
    report = drift.report()
    assert report.features["confidence"].recent_samples == 1
    assert report.features["confidence"].recent[17] == report.features["height"].recent[10] == 1
    assert report.features["confidence"].bins[17] == 0.85
    assert report.features["objects"].recent_samples == pytest.approx(600, rel=0.01)


def test_samples_fade_by_their_half_lives() -> None:
    drift = Drift(DriftConfig(recent_h=1, usual_h=4), ("person",))
    for number in range(100):
        drift.add("m", T0, HEIGHT_PX, [found(number, 0.9, 0.2)])
    for minute in range(1, 4 * 60 + 2):
        drift.add("m", T0 + 60 * minute, HEIGHT_PX, [])
    confidence = drift.report().features["confidence"]
    assert confidence.recent_samples == pytest.approx(100 / 2**4, abs=0.06)
    assert confidence.usual_samples == pytest.approx(100 / 2, abs=0.06)


def test_another_model_begins_anew(camera: Camera) -> None:
    camera.model = "another"
    camera.watch(1)
    assert camera.drift.psi == {}
    assert (camera.drift.report().model, camera.drift.report().learned_h < 48) == ("another", True)


def test_a_source_that_was_away_is_not_judged_by_what_is_long_ago(camera: Camera) -> None:
    camera.t_s += 60 * DAY_S
    camera.watch(0.5)
    assert "confidence" not in camera.drift.psi
    assert camera.drift.report().features["confidence"].psi is None


def test_a_clock_that_goes_back_stops_nothing(camera: Camera) -> None:
    camera.t_s -= 400 * DAY_S
    camera.watch(8)
    assert max(camera.drift.psi.values()) < 0.1


def test_memory_is_bounded() -> None:
    drift = Drift(CONFIG, ("person",))
    for number in range(3 * MAX_TRACKS):
        drift.add("m", T0 + number * 1e-3, HEIGHT_PX, [found(number, 0.8, 0.2)])
    assert len(drift._tracks) <= MAX_TRACKS + 1
    assert len(json.dumps(drift.state())) < 3000


def test_state_goes_on_where_it_stood(camera: Camera) -> None:
    again = Camera(Drift(CONFIG, ("person", "car")), seed=5)
    again.drift.restore(json.loads(json.dumps(camera.drift.state())))
    again.t_s, again.track_id = camera.t_s, camera.track_id
    assert again.drift.psi == camera.drift.psi
    assert again.drift.report() == camera.drift.report()
    again.sure = 0.6
    again.watch(4)
    assert again.drift.psi["confidence"] > 0.25


def test_state_of_other_classes_or_bins_is_left(camera: Camera) -> None:
    state = camera.drift.state()
    for other, given in [
        (Drift(CONFIG, ("person", "bus")), state),
        (Drift(CONFIG, ("person", "car")), state | {"usual": state["usual"] | {"height": [1.0]}}),
    ]:
        other.restore(given)
        assert other.report().features["confidence"].usual_samples == 0


def test_chance_is_taken_off() -> None:
    """Samples of one distribution: the mean index is about nothing, however few they are; without the correction 0.05 to 0.1."""
    random = np.random.default_rng(1)
    shares = random.dirichlet(np.full(12, 3.0))
    for n in (MIN_SAMPLES, 400):
        values = [_psi(list(random.multinomial(n, shares)), list(random.multinomial(4 * n, shares))) for _ in range(300)]
        assert np.mean(values) < 0.02
    assert _psi([MIN_SAMPLES - 1.0], [1e6]) is None


def test_the_config_is_checked() -> None:
    config = {"detectors": {"people": {"model": "m.onnx"}}, "drift": {"recent_h": 24, "usual_h": 30}}
    with pytest.raises(ConfigError, match="drift: usual_h must be at least twice recent_h"):
        parse_config(config, "test", Path())


def test_the_aggregator_tells_and_keeps_it(tmp_path: Path) -> None:
    """Through its door: frames in, metrics and a report out, and all of it there after a restart."""
    given = {
        "detectors": {"people": {"model": "m.onnx", "confidence": 0.5}},
        "sources": [{"id": "hall", "uri": "rtsp://192.0.2.1/hall"}],
        "drift": {"recent_h": 1, "usual_h": 48, "learn_h": 2},
    }
    config, clock, metrics = parse_config(given, "test", Path()), ManualClock(T0), Metrics()

    def made() -> Aggregator:
        checkpoint = Checkpoint(tmp_path / "checkpoint.json")
        return Aggregator(config, {"people": ("person",)}, MemorySink(), clock, metrics, checkpoint, run="run")

    aggregator, number = made(), 0

    def pass_by(times: int, confidence: float) -> None:
        nonlocal number
        for _ in range(times):
            for boxes in ([[300, 300, 360, 480]], []):
                number += 1
                t_s = T0 + 12 * number
                info = FrameInfo("hall", "", number, t_s - T0, t_s, 1920, HEIGHT_PX, clock.monotonic(), clock.monotonic())
                seen = Detections.of(boxes, [confidence] * len(boxes), [0] * len(boxes))
                message = DetectedBatch("people", "model-1", (info,), (seen,), clock.monotonic(), "", t_s)
                assert aggregator.process("sender", number, message, None).accepted

    def told() -> dict[str, float]:
        lines = [line for line in metrics.expose().decode().splitlines() if line.startswith("framewatch_drift_psi{")]
        return {line.split('feature="')[1].split('"')[0]: float(line.split()[-1]) for line in lines}

    pass_by(600, 0.9)
    assert max(told().values()) < 0.1
    assert 'framewatch_track_confidence_ratio{source="hall"} 0.9' in metrics.expose().decode()
    aggregator.close()
    before = aggregator.drift("hall")
    aggregator = made()
    assert aggregator.drift("hall") == before
    pass_by(300, 0.62)
    assert told()["confidence"] > 0.5
    assert told()["height"] < 0.1
    report = aggregator.drift("hall")
    assert report is not None
    assert report.features["confidence"].psi == pytest.approx(told()["confidence"], abs=1e-3)
    assert aggregator.drift("nowhere") is None
