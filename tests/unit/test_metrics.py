"""Metrics: what is counted comes out as OpenMetrics, and several processes can be joined."""

import re
import threading
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from stream.config import SloConfig
from stream.events import HealthEvent, timestamp
from stream.families import BY_NAME, DOCUMENT, FAMILIES, PROCESS, page
from stream.metrics import Metrics, merge_expositions
from stream.slo import SloTracker
from stream.telemetry import MetricsConfig
from stream.testing.clock import ManualClock

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parse(text: bytes) -> Samples:
    """Every sample of a valid OpenMetrics text but those of the process; the parser rejects what is not valid."""
    families: list[Any] = list(text_string_to_metric_families(text.decode()))
    names = [family.name for family in families]
    assert len(names) == len(set(names)), "a family is there twice"
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.startswith("framewatch_process_")
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((f"framewatch_{name}", tuple(sorted(labels.items()))))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def filled() -> Metrics:
    metrics = Metrics()
    for source_id in ("hall", "yard"):
        metrics.analysed(source_id, "people", {"decode": 3.0, "batch": 20.0, "detect": 8.0, "track": 0.4})
        metrics.frames(source_id, "dropped", "stale", 3)
        metrics.end_to_end(source_id, 0.12)
        metrics.source_up(source_id, True)
        metrics.reconnect(source_id)
    metrics.batch("people", 7)
    metrics.queue_depth("people", 5)
    metrics.event(HealthEvent(event_id="1", source_id="hall", state="online", reason="", at=timestamp(0)))
    metrics.sink(4, {"tracks": 2})
    metrics.alerts({"crowd": 1})
    tracker = SloTracker(SloConfig(objective=0.9), ManualClock())
    for latency_s in (0.1, 0.2, 0.3, 0.9):
        tracker.record("hall", latency_s)
    metrics.slo(tracker)
    return metrics


def test_all_that_is_recorded_comes_out() -> None:
    samples = parse(filled().expose())
    assert value(samples, "frames_total", source="hall", outcome="analysed", reason="") == 1
    assert value(samples, "frames_total", source="yard", outcome="dropped", reason="stale") == 3
    assert value(samples, "stage_seconds_count", detector="people", stage="detect") == 2
    assert value(samples, "stage_seconds_sum", detector="people", stage="batch") == pytest.approx(0.04)
    assert value(samples, "stage_seconds_bucket", detector="people", stage="detect", le="0.005") == 0
    assert value(samples, "stage_seconds_bucket", detector="people", stage="detect", le="0.01") == 2
    assert value(samples, "end_to_end_seconds_sum", source="hall") == pytest.approx(0.12)
    assert value(samples, "batch_size_sum", detector="people") == 7
    assert value(samples, "queue_depth", queue="people") == 5
    assert value(samples, "slo_attainment_ratio", source="hall") == 0.75
    assert value(samples, "slo_attainment_ratio", source="*") == 0.75
    assert value(samples, "slo_burn_rate", window="1h") == pytest.approx(2.5)
    assert value(samples, "slo_budget_remaining_ratio") == pytest.approx(-1.5)
    assert value(samples, "source_up", source="yard") == 1
    assert value(samples, "reconnects_total", source="yard") == 1
    assert value(samples, "events_total", topic="health") == 1
    assert value(samples, "events_dropped_total", topic="tracks") == 2
    assert value(samples, "sink_pending") == 4
    assert value(samples, "alerts_active", rule="crowd") == 1


def test_the_sinks_drops_are_counted_once(metrics: Metrics) -> None:
    for total in (2, 2, 5):
        metrics.sink(0, {"tracks": total})
    assert value(parse(metrics.expose()), "events_dropped_total", topic="tracks") == 5


def test_alerts_that_are_over_go_to_0(metrics: Metrics) -> None:
    metrics.alerts({"crowd": 2, "door": 1})
    metrics.alerts({"door": 1})
    samples = parse(metrics.expose())
    assert value(samples, "alerts_active", rule="crowd") == 0
    assert value(samples, "alerts_active", rule="door") == 1


def test_rules_that_are_no_more_have_no_series(metrics: Metrics) -> None:
    metrics.rules(["crowd", "door"])
    metrics.alerts({"crowd": 2})
    metrics.rules(["crowd", "line"])
    samples = parse(metrics.expose())
    active = {dict(labels)["rule"]: number for (name, labels), number in samples.items() if name == "framewatch_alerts_active"}
    assert active == {"crowd": 2, "line": 0}


def test_a_source_without_frames_has_no_attainment(metrics: Metrics) -> None:
    clock = ManualClock()
    tracker = SloTracker(SloConfig(), clock)
    tracker.record("hall", 0.1)
    metrics.slo(tracker)
    assert value(parse(metrics.expose()), "slo_attainment_ratio", source="hall") == 1
    clock.advance(3600)
    metrics.slo(tracker)
    assert value(parse(metrics.expose()), "slo_attainment_ratio", source="hall") is None


def test_clocks_that_disagree_make_no_negative_durations(metrics: Metrics) -> None:
    metrics.end_to_end("hall", -0.5)
    metrics.analysed("hall", "people", {"decode": -3.0})
    samples = parse(metrics.expose())
    assert value(samples, "end_to_end_seconds_sum", source="hall") == 0
    assert value(samples, "stage_seconds_sum", detector="people", stage="decode") == 0


def test_removing_a_source_removes_its_series_and_no_others() -> None:
    metrics = filled()
    metrics.batch("hall", 1)  # a detector, a queue and a rule of the same name
    metrics.queue_depth("hall", 1)
    metrics.alerts({"hall": 1})
    before = parse(metrics.expose())
    metrics.remove_source("hall")
    metrics.remove_source("never there")
    after = parse(metrics.expose())
    assert after == {key: number for key, number in before.items() if ("source", "hall") not in key[1]}
    metrics.frames("hall", "analysed")
    assert value(parse(metrics.expose()), "frames_total", source="hall", outcome="analysed", reason="") == 1


def test_two_objects_share_nothing(metrics: Metrics) -> None:
    metrics.reconnect("hall")
    assert value(parse(Metrics().expose()), "reconnects_total", source="hall") is None


def test_counts_from_many_threads(metrics: Metrics) -> None:
    def count() -> None:
        for _ in range(1000):
            metrics.frames("hall", "analysed")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value(parse(metrics.expose()), "frames_total", source="hall", outcome="analysed", reason="") == 4000


def test_the_document_is_the_generated_one() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == page(), "run: python -m stream.families"


def test_names_follow_prometheus() -> None:
    for family in FAMILIES:
        assert re.fullmatch(r"framewatch_[a-z][a-z0-9_]*[a-z0-9]", family.full_name)
        assert not family.full_name.endswith(("_total", "_info", "_count", "_sum", "_bucket", "_ms", "_milliseconds"))
        assert not {"le", "quantile", "actor", "job", "instance"} & set(family.labels)
        assert family.unit not in ("seconds", "bytes") or family.full_name.endswith(f"_{family.unit}")
        assert family.kind != "histogram" or family.buckets == tuple(sorted(family.buckets)) != ()
    assert len(BY_NAME) == len(FAMILIES)


def test_what_the_process_tells_is_documented() -> None:
    told = {family.name: family.type for family in Metrics().registry.collect()}
    assert told == {f"framewatch_{name}": kind for name, (kind, *_) in PROCESS.items()}


def test_no_family_is_told_before_it_has_a_value(metrics: Metrics) -> None:
    assert b"framewatch_slo_budget_remaining_ratio" not in metrics.expose()


def test_drift_that_is_not_judged_any_more_is_gone() -> None:
    metrics = Metrics()
    metrics.drift("hall", {"height": 0.2, "class": 0.1}, 0.7)
    metrics.drift("yard", {"height": 0.3}, None)
    metrics.drift("hall", {"class": 0.0}, 0.7)
    samples = parse(metrics.expose())
    told = {(dict(labels)["source"], dict(labels)["feature"]) for name, labels in samples if name == "framewatch_drift_psi"}
    assert told == {("hall", "class"), ("yard", "height")}
    assert value(samples, "track_confidence_ratio", source="hall") == 0.7


class TestSourceLabels:
    def labels(self, metrics: Metrics) -> set[str]:
        for number in range(5):
            source_id = f"cam{number}"
            metrics.source_begins(source_id)
            metrics.analysed(source_id, "people", {"decode": 3.0})
            metrics.end_to_end(source_id, 0.1)
            metrics.judged(source_id, number > 0)
            metrics.source_up(source_id, True)
            metrics.source_asleep(source_id, True)
            metrics.source_tampered(source_id, True)
            metrics.drift(source_id, {"height": 0.2}, 0.7)
            metrics.decode(source_id, "full")
            metrics.reconnect(source_id)
        tracker = SloTracker(SloConfig(), ManualClock())
        tracker.record("cam4", 0.1)
        metrics.slo(tracker)
        return {dict(labels)["source"] for name, labels in parse(metrics.expose()) if "source" in dict(labels)}

    def test_switched_off_only_sums_are_left(self) -> None:
        metrics = Metrics(config=MetricsConfig(source_labels=False))
        assert self.labels(metrics) == {"", "*"}
        samples = parse(metrics.expose())
        assert value(samples, "frames_total", source="", outcome="analysed", reason="") == 5
        assert value(samples, "end_to_end_seconds_count", source="") == 5
        assert value(samples, "slo_frames_total", source="") == 5
        assert value(samples, "slo_frames_late_total", source="") == 1
        assert value(samples, "slo_attainment_ratio", source="*") == 1
        assert {name for name, labels in samples if ("source", "") in labels and "source_" in name} == set()

    def test_sources_beyond_the_bound_share_series(self) -> None:
        metrics = Metrics(config=MetricsConfig(max_sources=2))
        assert self.labels(metrics) == {"cam0", "cam1", "", "*"}
        assert value(parse(metrics.expose()), "frames_total", source="", outcome="analysed", reason="") == 3

    def test_who_goes_makes_room(self) -> None:
        metrics = Metrics(config=MetricsConfig(max_sources=2))
        self.labels(metrics)
        metrics.remove_source("cam0")
        metrics.source_up("cam9", True)
        assert value(parse(metrics.expose()), "source_up", source="cam9") == 1

    def test_a_source_has_so_many_series(self) -> None:
        """What docs/metrics.md says."""
        metrics = Metrics()
        self.labels(metrics)
        for reason in ("sampled", "gated", "undecodable"):
            metrics.frames("cam0", "dropped", reason)
        series = [labels for _, labels in parse(metrics.expose()) if ("source", "cam0") in labels]
        assert 25 < len(series) < 40


def test_rates_begin_with_the_source(metrics: Metrics) -> None:
    metrics.source_begins("hall")
    samples = parse(metrics.expose())
    assert value(samples, "frames_total", source="hall", outcome="dropped", reason="stale") == 0
    assert value(samples, "reconnects_total", source="hall") == 0


def test_what_control_tells(metrics: Metrics) -> None:
    metrics.objective(SloConfig(latency_ms=400, objective=0.95))
    metrics.build("1.2.3", "3.11", "2.60")
    metrics.service("sources", {"online": 3, "offline": 0})
    metrics.service("detector_replicas", {"people": 2})
    metrics.actor_faults(1)
    samples = parse(metrics.expose())
    assert value(samples, "slo_objective_ratio") == 0.95
    assert value(samples, "slo_latency_objective_seconds") == 0.4
    assert value(samples, "build_info", version="1.2.3", python="3.11", ray="2.60") == 1
    assert value(samples, "sources", state="offline") == 0
    assert value(samples, "detector_replicas", detector="people") == 2
    assert value(samples, "actor_faults") == 1
    assert value(samples, "reconcile_failures_total") == 0


def test_how_much_may_be_decoded(metrics: Metrics) -> None:
    metrics.decode_allowance(0.7)
    assert value(parse(metrics.expose()), "decode_allowance_ratio") == 0.7


def test_no_label_holds_a_secret(metrics: Metrics) -> None:
    metrics.queue_depth("rtsp://viewer:Z9secret@camera/1", 1)
    assert b"Z9secret" not in metrics.expose()
    assert value(parse(metrics.expose()), "queue_depth", queue="rtsp://viewer:***@camera/1") == 1


class TestMerge:
    def test_every_series_is_there_once_with_its_value(self) -> None:
        parts = {"ingest-0": filled(), "ingest-1": filled(), "aggregator-0": Metrics()}
        parts["ingest-1"].frames("hall", "analysed", n=41)
        merged = merge_expositions({actor: metrics.expose() for actor, metrics in parts.items()})
        expected = {
            (name, tuple(sorted((*labels, ("actor", actor))))): number
            for actor, metrics in parts.items()
            for (name, labels), number in parse(metrics.expose()).items()
        }
        assert parse(merged) == expected
        assert merged.count(b"# EOF") == 1
        assert merged.count(b"# TYPE framewatch_frames counter") == 1

    def test_nothing_at_all(self) -> None:
        assert merge_expositions({}) == b"# EOF\n"

    @pytest.mark.parametrize("odd", ['a "b" {c} \\ d\ne', "# EOF", "x\u2028y\x85z", "} 1"])
    def test_odd_characters_in_names(self, odd: str) -> None:
        metrics = Metrics()
        metrics.queue_depth(odd, 3)
        samples = parse(merge_expositions({odd: metrics.expose()}))
        assert value(samples, "queue_depth", queue=odd, actor=odd) == 3

    def test_a_part_that_was_cut_short(self) -> None:
        text = filled().expose()
        with pytest.raises(ValueError, match="exposition of 'a' was cut short"):
            merge_expositions({"a": text[: len(text) // 2]})

    def test_parts_that_disagree(self) -> None:
        with pytest.raises(ValueError, match="another process"):
            merge_expositions({"a": b"# TYPE x gauge\nx 1\n# EOF\n", "b": b"# TYPE x counter\nx_total 1\n# EOF\n"})

    def test_a_sample_without_a_family(self) -> None:
        with pytest.raises(ValueError, match="belongs to no family"):
            merge_expositions({"a": b"x 1\n# EOF\n"})
