"""Recording and alerting rules for Prometheus: ``make kube`` writes them, plain for Prometheus and promtool, and as the
``PrometheusRule`` of the Prometheus Operator.

Two objectives with the same error budget, 1 - ``slo.objective``: *latency*, the share of judged frames that were late, and
*coverage*, the share of frames to be analysed that were shed because the service did not keep up. The second is there since
a frame that is shed is not judged: shedding all would keep the first.

The burn-rate alerts are those of the Google SRE Workbook, chapter 5, "Multiwindow, Multi-Burn-Rate Alerts". Where an
objective is so low that a rate cannot be reached, nine frames of ten raise the alert.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
SHED = "stale|queue_full|detector_error"
SERVICE = "namespace, job"  # what tells one installation from another
BUDGET = "service:framewatch_slo_budget:ratio"
MOST = 0.9
DRIFTED = 0.1  # population stability index, see stream/drift.py

Rule = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Burn:
    """Raised when the budget burned ``factor`` times too fast over both windows."""

    factor: float
    long: str
    short: str


@dataclass(frozen=True, slots=True)
class Timing:
    """Every duration of the rules; tests take shorter ones.

    Attributes:
        page: burns that somebody must look at now: 2 % of the budget of 30 days in an hour, 5 % in six.
        ticket: those that can wait for the day: 10 % in one day, 10 % in three.
        patience: how long any other fault must last.
        settled: how long it must, where it shows over days.
        recent: the window of rates in alerts that are not about the budget.
        interval: of evaluation.
    """

    page: tuple[Burn, ...] = (Burn(14.4, "1h", "5m"), Burn(6, "6h", "30m"))
    ticket: tuple[Burn, ...] = (Burn(3, "1d", "2h"), Burn(1, "3d", "6h"))
    patience: str = "2m"
    settled: str = "1h"
    recent: str = "5m"
    interval: str = "30s"


def rules(timing: Timing) -> dict[str, Any]:
    """The content of a rule file."""
    return {
        "groups": [
            {"name": "framewatch-slo", "interval": timing.interval, "rules": _recordings(timing)},
            {"name": "framewatch-alerts", "interval": timing.interval, "rules": [*_burn_alerts(timing), *_alerts(timing)]},
        ]
    }


def _recordings(timing: Timing) -> list[Rule]:
    found: list[Rule] = [{"record": BUDGET, "expr": f"1 - max by ({SERVICE}) (framewatch_slo_objective_ratio)"}]
    windows = dict.fromkeys(w for burn in (*timing.page, *timing.ticket) for w in (burn.short, burn.long))
    of_sources = dict.fromkeys(w for burn in timing.page for w in (burn.short, burn.long))
    for level, by, chosen in (("service", SERVICE, windows), ("source", f"{SERVICE}, source", of_sources)):
        for window in chosen:
            for slo, bad, all_ in (
                ("latency", "framewatch_slo_frames_late_total", "framewatch_slo_frames_total"),
                ("coverage", f'framewatch_frames_total{{reason=~"{SHED}"}}', f'framewatch_frames_total{{reason=~"|{SHED}"}}'),
            ):
                expr = f"sum by ({by}) (rate({bad}[{window}]))\n/\nsum by ({by}) (rate({all_}[{window}]))\n"
                found.append({"record": _errors(level, window), "labels": {"slo": slo}, "expr": expr})
    return found


def _errors(level: str, window: str) -> str:
    return f"{level}:framewatch_slo_errors:ratio_rate{window}"


def _burning(level: str, burns: tuple[Burn, ...]) -> str:
    def over(window: str, factor: float) -> str:
        return f"{_errors(level, window)} > on ({SERVICE}) group_left () clamp_max({factor:g} * {BUDGET}, {MOST})"

    return "or\n".join(f"(\n  {over(burn.long, burn.factor)}\nand\n  {over(burn.short, burn.factor)}\n)\n" for burn in burns)


def _burn_alerts(timing: Timing) -> list[Rule]:
    share = "{{ $value | humanizePercentage }}"
    fast, slow = (
        " or ".join(f"{burn.factor:g} times over {burn.long}" for burn in burns) for burns in (timing.page, timing.ticket)
    )
    return [
        _alert(
            "FramewatchSloBurnsFast",
            _burning("service", timing.page),
            "critical",
            "The {{ $labels.slo }} objective of framewatch is being missed",
            f"{share} of the frames are late (latency) or shed (coverage): the error budget burns {fast} too fast. See which "
            "stage takes long, whether detector replicas are missing, and which sources shed.",
        ),
        _alert(
            "FramewatchSloBurnsSlowly",
            _burning("service", timing.ticket),
            "warning",
            "The error budget of framewatch's {{ $labels.slo }} objective will not last",
            f"{share} of the frames are late or shed: the budget burns {slow} too fast. It may need more cores, or less to do.",
        ),
        _alert(
            "FramewatchSourceSloBurns",
            _burning("source", timing.page),
            "warning",
            "Source {{ $labels.source }} misses its {{ $labels.slo }} objective",
            f"{share} of its frames are late or shed. Look at its network, its frame rate and size, its detector.",
        ),
    ]


def _alerts(timing: Timing) -> list[Rule]:
    recent, patience = timing.recent, timing.patience
    up = f"max by ({SERVICE}, source) (framewatch_source_up) == 0"
    offline = f'sum by ({SERVICE}) (framewatch_sources{{state=~"offline|failed"}}) > 0'
    pending = f"sum by ({SERVICE}, actor) (framewatch_sink_pending)"
    return [
        _alert(
            "FramewatchDown",
            "absent(framewatch_build_info)",
            "critical",
            "framewatch tells no metrics",
            "Nobody scrapes it, or Control does not run: see /healthz, the Ray dashboard and the targets of Prometheus.",
            patience,
        ),
        _alert(
            "FramewatchSourceOffline",
            f"{up}\nor\n({offline} unless on ({SERVICE}) framewatch_source_up)\n",
            "warning",
            "{{ if $labels.source }}Source {{ $labels.source }} is{{ else }}Sources are{{ end }} offline",
            "No frames arrive; framewatch tries again by itself. GET /v1/sources says why: power, network, password, path.",
            patience,
        ),
        _alert(
            "FramewatchSourceTampered",
            f"max by ({SERVICE}, source) (framewatch_source_tampered) == 1",
            "warning",
            "Source {{ $labels.source }} does not show what it usually shows",
            "It is covered, frozen, blurred or turned away, so its counts mean nothing. GET /v1/sources says which; look at it.",
            patience,
        ),
        _alert(
            "FramewatchDrift",
            f'max by ({SERVICE}, source, feature) (framewatch_drift_psi{{feature!="objects"}}) > {DRIFTED}',
            "warning",
            "What is found in source {{ $labels.source }} is not what it used to be",
            "The {{ $labels.feature }} of its tracks of the last days is far from usual (PSI {{ $value }}): dirt, light, another "
            "view, or something that the model did not learn. GET /v1/sources/{{ $labels.source }}/drift has both histograms.",
            timing.settled,
        ),
        _alert(
            "FramewatchNoDetector",
            f"sum by ({SERVICE}, detector) (framewatch_detector_replicas) == 0",
            "critical",
            "No replica of detector {{ $labels.detector }} runs",
            "Nothing of its sources is analysed: no room for it, or its model does not load. The Ray dashboard tells more.",
            patience,
        ),
        _alert(
            "FramewatchSheds",
            f'{_errors("source", timing.page[0].short)}{{slo="coverage"}} > 0.05\n',
            "warning",
            "Frames of {{ with $labels.source }}source {{ . }}{{ else }}some sources{{ end }} are shed",
            "{{ $value | humanizePercentage }} of the frames to be analysed are dropped: the service does not keep up.",
            patience,
        ),
        _alert(
            "FramewatchDecodesLess",
            f"min by ({SERVICE}, actor) (framewatch_decode_allowance_ratio) < 1",
            "warning",
            "{{ $labels.actor }} decodes only key frames of a part of its video",
            "{{ $value | humanizePercentage }} of the GOPs are decoded whole: the cores do not carry all sources as configured.",
            patience,
        ),
        _alert(
            "FramewatchSinkBacklog",
            f"{pending} > 10 * sum by ({SERVICE}, actor) (rate(framewatch_events_total[{recent}]))\nand\n{pending} > 10\n",
            "warning",
            "Events of {{ $labels.actor }} wait for their sinks",
            "{{ $value }} events, more than come in 10 s, have not reached their destination: the broker is away or slow.",
            patience,
        ),
        _alert(
            "FramewatchSpoolFills",
            f"sum by ({SERVICE}, actor) (framewatch_sink_spool_bytes) "
            f"> 0.8 * sum by ({SERVICE}, actor) (framewatch_sink_spool_limit_bytes > 0)",
            "critical",
            "The spool of {{ $labels.actor }} is nearly full",
            "When full, Kafka input waits and tracks of cameras are dropped. Bring the broker back, or raise spool_mib.",
        ),
        _alert(
            "FramewatchEventsLost",
            f"sum by ({SERVICE}, topic) (increase(framewatch_events_dropped_total[{recent}])) > 0",
            "warning",
            "Events of {{ $labels.topic }} are given up",
            "The sinks have no room, or refuse them for good; the log names the reason.",
        ),
        _alert(
            "FramewatchActorFault",
            f"sum by ({SERVICE}) (framewatch_actor_faults) > 0\n"
            f"or\nsum by ({SERVICE}) (increase(framewatch_reconcile_failures_total[{recent}])) > 0\n",
            "warning",
            "Actors of framewatch do not answer",
            "GET /readyz names them and the reason: a dead node, no room on the cluster, an exhausted disk.",
            patience,
        ),
    ]


def _alert(name: str, expr: str, severity: str, summary: str, description: str, patience: str = "") -> Rule:
    found: Rule = {"alert": name, "expr": expr}
    if patience:
        found["for"] = patience
    return found | {"labels": {"severity": severity}, "annotations": {"summary": summary, "description": description}}


def rule_file(timing: Timing) -> str:
    """Text of a rule file."""
    return _yaml(rules(timing))


def prometheus_rule(timing: Timing) -> str:
    """Text of the same rules as an object of the Prometheus Operator."""
    return _yaml(
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": "framewatch", "labels": {"app.kubernetes.io/part-of": "framewatch"}},
            "spec": rules(timing),
        }
    )


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _yaml(content: dict[str, Any]) -> str:
    made: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=1000)
    return f"# Made by kube/monitoring/rules.py (make kube); do not edit.\n{made}"


def main() -> None:
    """Write both files."""
    (FOLDER / "rules.yaml").write_text(rule_file(Timing()), encoding="utf-8")
    (FOLDER / "prometheusrule.yaml").write_text(prometheus_rule(Timing()), encoding="utf-8")


if __name__ == "__main__":
    main()
