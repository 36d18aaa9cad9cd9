"""The Grafana dashboard: ``make kube`` writes it. A row for each question that an operator has."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "dashboard.json"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS, WIDTH, HEIGHT = 3, 8, 8
JOB = 'job=~"$job"'
ONE = f'{JOB},source=~"$source"'
RATE = "[$__rate_interval]"
ERRORS = "service:framewatch_slo_errors:ratio_rate"
BUDGET = "on (namespace, job) group_left () service:framewatch_slo_budget:ratio"


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: queries with the legend of their series. ``unit`` is Grafana's name of it."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    stacked: bool = False
    text: str = ""


def _quantile(share: float, histogram: str, labels: str, by: str) -> str:
    keys = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({keys}) (rate({histogram}_bucket{{{labels}}}{RATE})))"


def _rate(counter: str, labels: str, by: str) -> str:
    return f"sum by ({by}) (rate({counter}{{{labels}}}{RATE}))"


STAGE, LATENCY = "framewatch_stage_seconds", "framewatch_end_to_end_seconds"
FRAMES, BATCH = "framewatch_frames_total", "framewatch_batch_size"
ROWS: dict[str, tuple[Panel, ...]] = {
    "SLO": (
        Panel(
            "Frames in time",
            "percentunit",
            ((f'min by (job) (framewatch_slo_attainment_ratio{{{JOB},source="*"}})', "{{job}}"),),
            kind="stat",
            text="Over slo.window_s.",
        ),
        Panel(
            "Error budget left",
            "percentunit",
            ((f"min by (job) (framewatch_slo_budget_remaining_ratio{{{JOB}}})", "{{job}}"),),
            kind="stat",
            text="Over six hours; below 0 it is overspent.",
        ),
        Panel(
            "Alerts firing",
            "short",
            (('count(ALERTS{alertname=~"Framewatch.*",alertstate="firing"}) or vector(0)', "alerts"),),
            kind="stat",
        ),
        Panel(
            "Burn rate",
            "none",
            tuple((f"{ERRORS}{window}{{{JOB}}} / {BUDGET}", f"{{{{slo}}}} {window}") for window in ("5m", "1h", "6h")),
            text="1 uses up the error budget exactly as fast as the objective allows. latency: late; coverage: shed.",
        ),
        Panel(
            "Latency, capture to acknowledgement",
            "s",
            (
                *((_quantile(share, LATENCY, JOB, ""), f"p{share * 100:g}") for share in (0.5, 0.95, 0.99)),
                (f"max(framewatch_slo_latency_objective_seconds{{{JOB}}})", "objective"),
            ),
        ),
        Panel(
            "Frames in time by source",
            "percentunit",
            ((f'framewatch_slo_attainment_ratio{{{ONE},source!="*"}}', "{{source}}"),),
        ),
    ),
    "Sources": (
        Panel("Sources by state", "short", ((f"sum by (state) (framewatch_sources{{{JOB}}})", "{{state}}"),), stacked=True),
        Panel("Up", "bool_yes_no", ((f"max by (source) (framewatch_source_up{{{ONE}}})", "{{source}}"),), kind="state-timeline"),
        Panel(
            "Tampered with",
            "bool_yes_no",
            ((f"max by (source) (framewatch_source_tampered{{{ONE}}})", "{{source}}"),),
            kind="state-timeline",
        ),
        Panel(
            "Drift of what is found",
            "none",
            (
                (
                    f'max by (source) (framewatch_drift_psi{{{ONE},feature!="objects"}})'
                    f" or max by (source) (0 * framewatch_source_up{{{ONE}}})",
                    "{{source}}",
                ),
            ),
            text="Stability index of confidence, height or class of tracks, the worst of them. Look above 0.1; 0: not judged yet.",
        ),
        Panel("Frames analysed", "reqps", ((_rate(FRAMES, f'{ONE},outcome="analysed"', "source"), "{{source}}"),)),
        Panel("p99 latency", "s", ((_quantile(0.99, LATENCY, ONE, "source"), "{{source}}"),)),
        Panel("Attempts to reconnect", "reqps", ((_rate("framewatch_reconnects_total", ONE, "source"), "{{source}}"),)),
        Panel(
            "Decode mode, and asleep",
            "short",
            (
                (f"sum by (mode) (framewatch_source_decode{{{ONE}}})", "{{mode}}"),
                (f"sum(framewatch_source_asleep{{{ONE}}}) or vector(0)", "asleep"),
            ),
            text="Sources decoded in each mode; asleep are those whose gate is closed because their scene is still.",
        ),
    ),
    "Stages": (
        Panel(
            "Mean time in each stage",
            "s",
            ((f"{_rate(f'{STAGE}_sum', JOB, 'stage')} / {_rate(f'{STAGE}_count', JOB, 'stage')}", "{{stage}}"),),
            stacked=True,
        ),
        Panel("p99 of each stage", "s", ((_quantile(0.99, STAGE, JOB, "stage"), "{{stage}}"),)),
        Panel(
            "CPU by stage",
            "none",
            ((_rate("framewatch_cpu_seconds_total", JOB, "stage"), "{{stage}}"),),
            stacked=True,
            text="Cores.",
        ),
    ),
    "Drops": (
        Panel(
            "Frames not analysed, by reason",
            "reqps",
            ((_rate(FRAMES, f'{ONE},outcome="dropped"', "reason"), "{{reason}}"),),
            stacked=True,
            text="sampled, key_frames_only and gated are as configured.",
        ),
        Panel(
            "Shed, by source",
            "percentunit",
            ((f'source:framewatch_slo_errors:ratio_rate5m{{{ONE},slo="coverage"}}', "{{source}}"),),
            text="Share of the frames to be analysed that the service dropped because it did not keep up.",
        ),
        Panel(
            "Decoded whole",
            "percentunit",
            ((f"min by (actor) (framewatch_decode_allowance_ratio{{{JOB}}})", "{{actor}}"),),
            text="Share of the GOPs that are decoded beyond their key frames; below 1 the service does not keep up.",
        ),
        Panel(
            "Undecodable",
            "reqps",
            ((f'sum(rate(framewatch_frames_total{{{ONE},reason="undecodable"}}{RATE})) or vector(0)', "undecodable"),),
        ),
    ),
    "Detectors": (
        Panel("Replicas", "short", ((f"sum by (detector) (framewatch_detector_replicas{{{JOB}}})", "{{detector}}"),)),
        Panel("Frames detected", "reqps", ((_rate(f"{BATCH}_sum", JOB, "detector"), "{{detector}}"),)),
        Panel("p95 of detection", "s", ((_quantile(0.95, STAGE, f'{JOB},stage="detect"', "detector"), "{{detector}}"),)),
        Panel(
            "Frames per batch",
            "none",
            ((f"{_rate(f'{BATCH}_sum', JOB, 'detector')} / {_rate(f'{BATCH}_count', JOB, 'detector')}", "{{detector}}"),),
        ),
        Panel("Waiting", "short", ((f"sum by (queue) (framewatch_queue_depth{{{JOB}}})", "{{queue}}"),)),
        Panel(
            "Batches by way",
            "reqps",
            ((_rate("framewatch_batches_sent_total", JOB, "way"), "{{way}}"),),
            text="ring: shared memory of one host; object_store: between hosts.",
        ),
    ),
    "Sinks": (
        Panel("Events", "reqps", ((_rate("framewatch_events_total", JOB, "topic"), "{{topic}}"),)),
        Panel("Events waiting", "short", ((f"sum by (actor) (framewatch_sink_pending{{{JOB}}})", "{{actor}}"),)),
        Panel("Events given up", "reqps", ((_rate("framewatch_events_dropped_total", JOB, "topic"), "{{topic}}"),)),
        Panel(
            "Spool",
            "bytes",
            (
                (f"sum by (actor) (framewatch_sink_spool_bytes{{{JOB}}})", "{{actor}}"),
                (f"sum by (actor) (framewatch_sink_spool_limit_bytes{{{JOB}}})", "{{actor}} may hold"),
            ),
        ),
        Panel("Alerts of the rules", "short", ((f"sum by (rule) (framewatch_alerts_active{{{JOB}}})", "{{rule}}"),)),
    ),
    "Resources": (
        Panel("CPU", "none", ((_rate("framewatch_process_cpu_seconds_total", JOB, "actor"), "{{actor}}"),), text="Cores."),
        Panel("Resident memory", "bytes", ((f"sum by (actor) (framewatch_process_resident_memory_bytes{{{JOB}}})", "{{actor}}"),)),
        Panel("Open files", "short", ((f"sum by (actor) (framewatch_process_open_fds{{{JOB}}})", "{{actor}}"),)),
        Panel(
            "Actors",
            "short",
            (
                (f"sum by (kind) (framewatch_actors{{{JOB}}})", "{{kind}}"),
                (f"sum(framewatch_actor_faults{{{JOB}}})", "do not answer"),
            ),
        ),
        Panel(
            "Started",
            "dateTimeFromNow",
            ((f"1000 * max by (actor) (framewatch_process_start_time_seconds{{{JOB}}})", "{{actor}}"),),
            kind="stat",
        ),
        Panel("Version", "none", ((f"framewatch_build_info{{{JOB}}}", "framewatch {{version}}, Ray {{ray}}"),), kind="stat"),
    ),
}


def dashboard() -> dict[str, Any]:
    """The dashboard's JSON model."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append(
            {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}}
        )
        y += 1
        for i, panel in enumerate(row):
            place = {"x": i % COLUMNS * WIDTH, "y": y + i // COLUMNS * HEIGHT, "w": WIDTH, "h": HEIGHT}
            panels.append(_panel(panel) | {"gridPos": place})
        y += -(-len(row) // COLUMNS) * HEIGHT
    for number, made in enumerate(panels, 1):
        made["id"] = number
    return {
        "uid": "framewatch",
        "title": "framewatch",
        "tags": ["framewatch"],
        "editable": True,
        "schemaVersion": 39,
        "version": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
                _variable("job", "Installation", "label_values(framewatch_build_info, job)"),
                _variable("source", "Source", f"label_values(framewatch_frames_total{{{JOB}}}, source)"),
            ]
        },
        "panels": panels,
    }


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _panel(panel: Panel) -> dict[str, Any]:
    custom: dict[str, Any] = {}
    if panel.kind == "timeseries":
        custom = {"fillOpacity": 30 if panel.stacked else 0, "stacking": {"mode": "normal" if panel.stacked else "none"}}
    instant = panel.kind == "stat"
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": custom}, "overrides": []},
        "targets": [
            {
                "refId": chr(65 + i),
                "datasource": DATASOURCE,
                "expr": expr,
                "legendFormat": legend,
                "instant": instant,
                "range": not instant,
            }
            for i, (expr, legend) in enumerate(panel.queries)
        ],
    }


def text() -> str:
    """Text of dashboard.json."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
