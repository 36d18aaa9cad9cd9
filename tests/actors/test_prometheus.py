"""A real Prometheus scrapes the running service: the scrape is clean, the rules evaluate, every query of the dashboard has data."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kube.monitoring.rules import Timing, rule_file
from stream.families import FAMILIES, PROCESS, SUFFIX
from tests.conftest import ROOT
from tests.golden.scenario import CLIP
from tests.support.kafka_broker import free_port
from tests.support.prometheus import JOB, Prometheus, prometheus
from tests.support.service import Service, wait_for

pytestmark = pytest.mark.ray

DASHBOARD = json.loads((ROOT / "kube" / "monitoring" / "dashboard.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
VARIABLES = {"$__rate_interval": "30s", "$job": ".*", "$source": ".*"}
LATENCIES = {"query": "framewatch_end_to_end_seconds_bucket", "start": "0", "end": "4102444800"}
DOCUMENTED = {
    f"framewatch_{name}{suffix}"
    for name, kind in [
        *((family.name, family.kind) for family in FAMILIES),
        *((name, kind) for name, (kind, *_) in PROCESS.items()),
    ]
    for suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else (SUFFIX.get(kind, ""),))
}
SELDOM = {
    name for name in DOCUMENTED if re.search("_(frames_removed|pictures|evidence|drift|track_confidence)", name)
}  # there once it has happened


def config(clip: Path) -> dict[str, Any]:
    camera = {"uri": str(clip), "realtime": True, "loop": True, "fps": 5}
    return {
        "sources": [{"id": "hall", **camera}, {"id": "yard", **camera, "gate": "on", "tamper": "on"}],
        "alerts": [{"name": "lost", "type": "source_offline"}],
        "sinks": [{"type": "jsonl", "path": "events.jsonl"}],
        "slo": {"latency_ms": 2000},
        "tracing": {"sample": 1, "endpoint": f"http://127.0.0.1:{free_port()}/v1/traces"},  # where no collector is
    }


def filled(expr: str) -> str:
    for variable, value in VARIABLES.items():
        expr = expr.replace(variable, value)
    assert "$" not in expr
    return expr


def without_data(running: Prometheus) -> list[str]:
    return [expr for expr in QUERIES if not running.query(filled(expr))]


def test_scrape_rules_and_dashboard(tmp_path: Path, shared: Path, deploy: Callable[..., Service]) -> None:
    service = deploy(config(shared / CLIP))
    rules = rule_file(Timing(interval="1s"))
    with prometheus(service.url.removeprefix("http://"), rules, tmp_path / "prometheus") as running:
        wait_for(lambda: not without_data(running), 60, "data for every query of the dashboard")

        [target] = running.api("targets")["activeTargets"]
        assert (target["health"], target["lastError"]) == ("up", "")
        names = {name for name in running.api("label/__name__/values") if name.startswith("framewatch_")}
        assert names <= DOCUMENTED
        assert DOCUMENTED - names <= SELDOM
        assert not [name for name in names if name.endswith("_created")]
        [series] = running.query('count({__name__=~"framewatch_.*"})')
        assert float(series["value"][1]) < 400

        exemplars = [one for series in running.api("query_exemplars", **LATENCIES) for one in series["exemplars"]]
        assert exemplars
        assert all(len(one["labels"]["trace_id"]) == 32 for one in exemplars)

        evaluated = [rule for group in running.api("rules")["groups"] for rule in group["rules"]]
        assert len(evaluated) > 30
        assert [rule for rule in evaluated if rule["health"] != "ok" or rule.get("lastError")] == []
        recorded = {rule["name"] for rule in evaluated if rule["type"] == "recording"}
        assert [name for name in recorded if not running.query(name)] == []
        firing = {sample["metric"]["alertname"] for sample in running.query('ALERTS{alertstate="firing"}')}
        assert firing <= {"FramewatchSloBurnsSlowly", "FramewatchSourceSloBurns", "FramewatchSloBurnsFast"}, "on a busy machine"
        [objective] = running.query("framewatch_slo_objective_ratio")
        assert objective["metric"] == {"__name__": "framewatch_slo_objective_ratio", "actor": "Control", "job": JOB} | {
            "instance": service.url.removeprefix("http://")
        }
        complaints = [line for line in running.log.read_text().splitlines() if "level=warn" in line or "level=error" in line]
        assert complaints == []
