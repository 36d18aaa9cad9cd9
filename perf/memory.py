"""Does the service's memory stay flat? Its processes under a steady load, looked at every 5 seconds.

Runs ``framewatch up`` on looped files in real time, as the load test does, and prints the resident memory (RSS) of every
process by minute, and the sum of their proportional set sizes (PSS), in which shared pages count once. After
``--settle`` seconds every process must be flat: its RSS may grow by less than ``--slope`` MiB a minute (least squares)
and, from the first to the last quarter of that time, by less than ``--growth`` percent. Exit code 1 when one is not.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from perf.broker import BROKER_TOOL, LoadTopics, own_broker
from perf.service import Service, run_script, service_config
from perf.workload import Workload, options, workload
from stream.processes import ProcessTree, ticks

INTERVAL_S = 5.0
MIN_SAMPLES = 12  # a process that lived shorter than a minute is not judged


@dataclass(slots=True)
class Curve:
    """Memory of one process over time: seconds since the start, and MiB."""

    name: str
    at_s: list[float] = field(default_factory=list)
    rss: list[float] = field(default_factory=list)
    pss: list[float] = field(default_factory=list)

    def minute(self, minute: int) -> float | None:
        """Mean RSS over a minute."""
        values = [rss for at_s, rss in zip(self.at_s, self.rss, strict=True) if int(at_s // 60) == minute]
        return float(np.mean(values)) if values else None

    def growth(self, settle_s: float) -> tuple[float, float] | None:
        """After ``settle_s``: MiB a minute by least squares, and percent from the first quarter to the last; None for a
        process with too few samples."""
        settled = [(at_s, rss) for at_s, rss in zip(self.at_s, self.rss, strict=True) if at_s >= settle_s]
        if len(settled) < MIN_SAMPLES:
            return None
        at_s, rss = np.array(settled).T
        quarter = len(rss) // 4
        first, last = float(rss[:quarter].mean()), float(rss[-quarter:].mean())
        return float(np.polyfit(at_s / 60, rss, 1)[0]), 100 * (last - first) / first


def main() -> int:
    """The command line. Exit code 1 when memory grows or the service fails, 130 after Ctrl-C."""
    parser = options(__doc__, warmup_s=0)
    parser.set_defaults(sources=4, seconds=600.0)
    parser.add_argument("--settle", type=float, default=120.0, metavar="S", help="seconds before memory is judged (120)")
    parser.add_argument("--slope", type=float, default=1.0, metavar="MIB", help="allowed growth, MiB a minute (1)")
    parser.add_argument("--growth", type=float, default=5.0, metavar="PERCENT", help="allowed growth in all (5)")
    parser.add_argument("--bootstrap", metavar="HOST:PORT", help="a running broker (default: Apache Kafka of ../shared/kafka)")
    args = parser.parse_args()
    load = workload(parser, args)
    if args.seconds - args.settle < MIN_SAMPLES * INTERVAL_S:
        parser.error(f"--seconds must be over --settle by {MIN_SAMPLES * INTERVAL_S:.0f} at least, to be judged")
    return run_script("memory", lambda folder: report(list(watch(load, args, folder).values()), args))


def watch(load: Workload, args: argparse.Namespace, folder: Path) -> Mapping[int, Curve]:
    """Run the service for ``load.seconds`` and note the memory of its processes, by pid."""
    with ExitStack() as running:
        bootstrap, ignored = args.bootstrap, []
        if bootstrap is None and BROKER_TOOL.exists():
            bootstrap, pid = running.enter_context(own_broker(folder / "broker"))
            ignored.append(pid)
        sinks: list[dict[str, Any]] = [{"type": "jsonl", "path": str(folder / "events.jsonl")}]
        if bootstrap:
            topics = running.enter_context(LoadTopics(bootstrap))
            sinks = [{"type": "kafka", "bootstrap_servers": [bootstrap], "topics": topics.names}]
        tree = ProcessTree(ignored=ignored)
        config = service_config(load, [str(load.file)] * load.sources, sinks, folder)
        service = running.enter_context(Service(config, folder, tree))
        started_s = time.monotonic()
        curves: dict[int, Curve] = {}
        for _ in ticks(started_s + load.seconds, INTERVAL_S):
            service.check()
            at_s, processes = time.monotonic() - started_s, tree.processes()
            for pid, memory in tree.memory().items():
                if pid in processes:
                    curve = curves.setdefault(pid, Curve(processes[pid].name))
                    curve.at_s.append(at_s)
                    curve.rss.append(memory.rss)
                    curve.pss.append(memory.pss)
        return curves


def report(curves: Sequence[Curve], args: argparse.Namespace) -> int:
    """Print the curves and the verdict; 1 when a process is not flat."""
    minutes = 1 + int(max(curve.at_s[-1] for curve in curves) // 60)
    print(f"RSS in MiB by minute, then MiB a minute and growth in percent after {args.settle:.0f} s")
    print(f"{'process':<28}" + "".join(f"{minute:>7}" for minute in range(minutes)) + f"{'MiB/min':>10}{'%':>7}")
    grown = []
    for curve in sorted(curves, key=lambda c: -c.rss[-1]):
        cells = "".join(
            f"{value:7.0f}" if (value := curve.minute(minute)) is not None else f"{'-':>7}" for minute in range(minutes)
        )
        growth = curve.growth(args.settle)
        if growth is None:
            print(f"{curve.name[:27]:<28}{cells}   not judged")
            continue
        slope, percent = growth
        flat = slope < args.slope and percent < args.growth
        grown += [] if flat else [curve.name]
        print(f"{curve.name[:27]:<28}{cells}{slope:10.2f}{percent:7.1f}{'' if flat else '  GROWS'}")
    totals: dict[float, float] = {}
    for curve in curves:
        for at_s, pss in zip(curve.at_s, curve.pss, strict=True):
            totals[at_s] = totals.get(at_s, 0.0) + pss
    means = [np.mean([pss for at_s, pss in totals.items() if int(at_s // 60) == m] or [np.nan]) for m in range(minutes)]
    print(f"{'all together, PSS':<28}" + "".join(f"{mean:7.0f}" for mean in means))
    print(f"not flat: {', '.join(grown)}" if grown else "flat")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
