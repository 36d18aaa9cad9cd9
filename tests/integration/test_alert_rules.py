"""The alerting rules, put to promtool: what fires, and what does not."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from kube.monitoring.rules import Timing, prometheus_rule, rule_file, rules
from tests.conftest import ROOT
from tests.support.prometheus import need

pytestmark = pytest.mark.compute

FOLDER = ROOT / "kube" / "monitoring"
ORDER = [group["name"] for group in rules(Timing())["groups"]]  # else promtool takes any, and alerts may miss the newest record
JOB = {"job": "framewatch"}
HALL = JOB | {"source": "hall"}
OBJECTIVE = {'framewatch_slo_objective_ratio{job="framewatch"}': "0.99x450"}


def frames(late: str, all_: str = "0+300x450") -> dict[str, str]:
    """300 frames a step of one source, some of them late."""
    return OBJECTIVE | {
        'framewatch_slo_frames_total{job="framewatch",source="hall",actor="aggregator-0"}': all_,
        'framewatch_slo_frames_late_total{job="framewatch",source="hall",actor="aggregator-0"}': late,
    }


def shed(stale: str) -> dict[str, str]:
    labels = 'job="framewatch",source="hall"'
    return OBJECTIVE | {
        f'framewatch_frames_total{{{labels},actor="aggregator-0",outcome="analysed",reason=""}}': "0+300x450",
        f'framewatch_frames_total{{{labels},actor="ingest-0",outcome="dropped",reason="stale"}}': stale,
        f'framewatch_frames_total{{{labels},actor="ingest-0",outcome="dropped",reason="sampled"}}': "0+3000x450",
    }


def fast(slo: str) -> dict[str, str]:
    return JOB | {"alertname": "FramewatchSloBurnsFast", "severity": "critical", "slo": slo}


def slow(slo: str) -> dict[str, str]:
    return JOB | {"alertname": "FramewatchSloBurnsSlowly", "severity": "warning", "slo": slo}


def of_source(slo: str) -> dict[str, str]:
    return HALL | {"alertname": "FramewatchSourceSloBurns", "severity": "warning", "slo": slo}


def other(name: str, severity: str = "warning", **labels: str) -> dict[str, str]:
    return labels | {"alertname": f"Framewatch{name}", "severity": severity}


UP = 'framewatch_source_up{job="framewatch",source="hall",actor="aggregator-0"}'
OFFLINE = 'framewatch_sources{job="framewatch",state="offline",actor="Control"}'
REPLICAS = 'framewatch_detector_replicas{job="framewatch",detector="people",actor="Control"}'
PENDING = 'framewatch_sink_pending{job="framewatch",actor="aggregator-0"}'
EVENTS = 'framewatch_events_total{job="framewatch",topic="tracks",actor="aggregator-0"}'
SPOOL = 'framewatch_sink_spool_bytes{job="framewatch",actor="aggregator-0"}'
ROOM = 'framewatch_sink_spool_limit_bytes{job="framewatch",actor="aggregator-0"}'
LOST = 'framewatch_events_dropped_total{job="framewatch",topic="tracks",actor="aggregator-0"}'
TAMPERED = 'framewatch_source_tampered{job="framewatch",source="hall",actor="ingest-0"}'
DRIFT = 'framewatch_drift_psi{job="framewatch",source="hall",actor="aggregator-0",feature="%s"}'
ALLOWANCE = 'framewatch_decode_allowance_ratio{job="framewatch",actor="ingest-0"}'
FAULTS = 'framewatch_actor_faults{job="framewatch",actor="Control"}'
OTHERS = {f'framewatch_slo_frames_total{{job="framewatch",source="cam{i}"}}': "0+800x450" for i in range(9)}
BUILD = {'framewatch_build_info{job="framewatch"}': "1x450"}
AGGREGATOR = JOB | {"actor": "aggregator-0"}

# what is tested, minutes or hours a step, series, at which step, the alerts that fire then
CASES: list[tuple[str, str, dict[str, str], str, list[dict[str, str]]]] = [
    ("all frames in time", "1m", frames("0x450"), "70m", []),
    ("20 % late for an hour", "1m", frames("0+60x450"), "65m", [fast("latency"), of_source("latency"), slow("latency")]),
    ("and 40 minutes after it is over", "1m", frames("0+60x65 3900x100"), "105m", [slow("latency")]),
    ("all late for four minutes: nobody is woken", "1m", frames("0x120 0+300x4"), "124m", [slow("latency")]),
    ("5 % late for a day", "10m", frames("0+15x450"), "25h", [slow("latency")]),
    ("1.5 % late for three days", "10m", frames("0+4.5x450"), "73h", [slow("latency")]),
    ("0.5 % late for three days, as allowed", "10m", frames("0+1.5x450"), "73h", []),
    (
        "a quarter shed for an hour",
        "1m",
        shed("0+100x450"),
        "65m",
        [fast("coverage"), of_source("coverage"), slow("coverage"), other("Sheds", **HALL, slo="coverage")],
    ),
    ("sampled frames are not missed", "1m", shed("0x450"), "65m", []),
    (
        "an objective that no burn rate can reach",
        "1m",
        frames("0+300x450") | {'framewatch_slo_objective_ratio{job="framewatch"}': "0.9x450"},
        "65m",
        [fast("latency"), of_source("latency"), slow("latency")],
    ),
    ("one source of ten", "1m", frames("0+60x450") | OTHERS, "65m", [of_source("latency")]),
    ("a source offline", "1m", {UP: "1x5 0x10"}, "10m", [other("SourceOffline", **HALL)]),
    ("a source that is back at once", "1m", {UP: "1x5 0 1x10"}, "7m", []),
    ("a source offline, without source labels", "1m", {OFFLINE: "0x5 1x10"}, "10m", [other("SourceOffline", **JOB)]),
    ("a camera that is covered", "1m", {TAMPERED: "0x5 1x10"}, "10m", [other("SourceTampered", **HALL)]),
    ("other sizes", "1m", {DRIFT % "height": "0.1x5 0.3x90"}, "70m", [other("Drift", **HALL, feature="height")]),
    ("more people than usual", "1m", {DRIFT % "objects": "0.1x5 0.9x90"}, "70m", []),
    ("no detector", "1m", {REPLICAS: "1x5 0x10"}, "10m", [other("NoDetector", "critical", **JOB, detector="people")]),
    ("events wait", "1m", {PENDING: "5x5 5000x10", EVENTS: "0+600x20"}, "10m", [other("SinkBacklog", **AGGREGATOR)]),
    ("as many as are on their way all the time", "1m", {PENDING: "90x20", EVENTS: "0+600x20"}, "10m", []),
    ("a spool that fills", "1m", {SPOOL: "900x10", ROOM: "1000x10"}, "5m", [other("SpoolFills", "critical", **AGGREGATOR)]),
    ("no spool at all", "1m", {SPOOL: "0x10", ROOM: "0x10"}, "5m", []),
    ("events lost", "1m", {LOST: "0x5 7x10"}, "7m", [other("EventsLost", **JOB, topic="tracks")]),
    ("decoding less for long", "1m", {ALLOWANCE: "1x5 0.4x10"}, "10m", [other("DecodesLess", **JOB, actor="ingest-0")]),
    ("decoding less for a moment", "1m", {ALLOWANCE: "1x5 0.4 1x10"}, "7m", []),
    ("an actor that does not answer", "1m", {FAULTS: "0x5 1x10"}, "9m", [other("ActorFault", **JOB)]),
]


def promtool(*words: str) -> None:
    run = subprocess.run([need("promtool"), *words], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr


def test_committed_files_are_the_generated_ones() -> None:
    assert (FOLDER / "rules.yaml").read_text() == rule_file(Timing()), "run `make kube`"
    assert (FOLDER / "prometheusrule.yaml").read_text() == prometheus_rule(Timing()), "run `make kube`"
    assert yaml.safe_load((FOLDER / "prometheusrule.yaml").read_text())["spec"] == yaml.safe_load(
        (FOLDER / "rules.yaml").read_text()
    )


def test_promtool_takes_the_rules() -> None:
    promtool("check", "rules", str(FOLDER / "rules.yaml"))


def test_every_alert_says_what_to_do_and_is_tested() -> None:
    alerts = {rule["alert"]: rule for group in rules(Timing())["groups"] for rule in group["rules"] if "alert" in rule}
    assert all(len(rule["annotations"]["description"]) > 40 and rule["labels"]["severity"] for rule in alerts.values())
    assert {alert["alertname"] for *_, fired in CASES for alert in fired} | {"FramewatchDown"} == set(alerts)


@pytest.mark.parametrize("step", ["1m", "10m"])
def test_what_fires(step: str, tmp_path: Path) -> None:
    """Every case against every alert: one that is not named in it must not fire. One run of promtool for all of a step."""
    made: dict[str, Any] = rules(Timing(interval=step))
    alerts = [rule for group in made["groups"] for rule in group["rules"] if "alert" in rule]
    for rule in alerts:
        rule["annotations"] = {}  # texts with values are looked at below
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(made))
    tests = []
    for name, interval, series, at, fired in [*CASES, ("not there", "1m", {}, "5m", [other("Down", "critical")])]:
        if interval == step:
            expected = [
                {"eval_time": at, "alertname": rule["alert"], "exp_alerts": _labels(fired, rule["alert"])} for rule in alerts
            ]
            told = [{"series": key, "values": values} for key, values in (series and series | BUILD).items()]
            tests.append({"name": name, "interval": step, "input_series": told, "alert_rule_test": expected})
    assert tests
    content = {"rule_files": ["rules.yaml"], "group_eval_order": ORDER, "evaluation_interval": step, "tests": tests}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(content))
    promtool("test", "rules", str(tmp_path / "tests.yaml"))


def _labels(fired: list[dict[str, str]], name: str) -> list[dict[str, dict[str, str]]]:
    mine = [alert for alert in fired if alert["alertname"] == name]
    return [{"exp_labels": {key: value for key, value in alert.items() if key != "alertname"}} for alert in mine]


@pytest.mark.parametrize(
    ("series", "at", "alert", "labels", "said"),
    [
        (frames("0+60x450"), "65m", "FramewatchSloBurnsFast", {"slo": "latency"}, ("The latency objective", "20% of the frames")),
        ({UP: "0x10"}, "5m", "FramewatchSourceOffline", {"source": "hall"}, ("Source hall is offline", "GET /v1/sources")),
        ({OFFLINE: "2x10"}, "5m", "FramewatchSourceOffline", {}, ("Sources are offline", "GET /v1/sources")),
    ],
)
def test_what_they_say(
    tmp_path: Path, series: dict[str, str], at: str, alert: str, labels: dict[str, str], said: tuple[str, str]
) -> None:
    """promtool compares whole texts: those of the rule, with its templates filled in by hand."""
    [rule] = [rule for group in rules(Timing())["groups"] for rule in group["rules"] if rule.get("alert") == alert]
    filled = {name: _filled(text, labels) for name, text in rule["annotations"].items()}
    assert said[0] in filled["summary"]
    assert said[1] in filled["description"]
    expected = {"exp_labels": JOB | labels | rule["labels"], "exp_annotations": filled}
    test = {
        "interval": "1m",
        "input_series": [{"series": k, "values": v} for k, v in series.items()],
        "alert_rule_test": [{"eval_time": at, "alertname": alert, "exp_alerts": [expected]}],
    }
    (tmp_path / "rules.yaml").write_text(rule_file(Timing(interval="1m")))
    content = {"rule_files": ["rules.yaml"], "group_eval_order": ORDER, "evaluation_interval": "1m", "tests": [test]}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(content))
    promtool("test", "rules", str(tmp_path / "tests.yaml"))


def _filled(text: str, labels: dict[str, str]) -> str:
    source = labels.get("source")
    is_offline = "{{ if $labels.source }}Source {{ $labels.source }} is{{ else }}Sources are{{ end }}"
    text = text.replace(is_offline, f"Source {source} is" if source else "Sources are")
    text = text.replace("{{ $value | humanizePercentage }}", "20%")
    return text.replace("{{ $labels.slo }}", labels.get("slo", ""))
