"""More cameras than the machine can carry: what the service sheds, how evenly, and how soon all is well again.

``--capacity`` cameras are what the machine carries; by default as many as the bare loop's cost of one camera, measured
for some seconds first, leaves room for. Twice as many are started. Half of them play ``--file`` once and leave at its
end; the others repeat it. Looked at once a second:

- overload, from ``--warmup`` seconds after the first analysed frames until the first camera leaves: the 99th percentile of
  the latency of analysed frames, interpolated in the service's histogram from capture to acknowledgement; Jain's index of
  the analysed frames of each camera, (sum x)^2 / (n sum x^2): 1 where all have the same, 1/n where one has everything;
  the camera that was analysed least; memory (PSS) of all processes in the first and the last third;
- recovery: seconds from the end of the last leaver to the first two in a row in which at least 98 % of the frames of those
  that stay were analysed, with 99 % of them within the latency objective.

Exit code 1 where a bound is not kept: p99 within the objective, Jain's index at least 0.95, every camera analysed, memory
grown by less than 10 %, recovery within 10 s.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from perf.compare import run as run_script
from perf.processes import Terminated
from perf.service import Service, ServiceFailed, service_config
from perf.workload import SLO, Workload, options, workload
from stream.processes import ProcessTree, adopt_orphans
from stream.scrape import Scrape, attainment, histogram, interpolated_ms

PROBE_S = 8.0  # of the bare loop with one camera
JAIN, GROWTH, RECOVERY_S = 0.95, 1.10, 10.0
ENOUGH = 0.98  # of the frames of a second: 5 frames/s of a camera are not 5 in each
LEAVING_S = 120.0  # longest wait for the leavers' end
SETTLED = 2  # good seconds in a row


@dataclass(frozen=True, slots=True)
class Overload:
    """What was found; see the module."""

    sources: int
    capacity: int
    seconds: float
    p99_ms: float | None
    jain: float
    least_fps: float
    most_fps: float
    memory_mib: tuple[float, float]
    recovery_s: float | None

    def faults(self) -> list[str]:
        """The bounds that were not kept."""
        before, after = self.memory_mib
        found = {
            f"p99 is over {SLO.latency_ms:g} ms": self.p99_ms is None or self.p99_ms > SLO.latency_ms,
            f"Jain's index is below {JAIN}": self.jain < JAIN,
            "a camera was not analysed": self.least_fps <= 0,
            f"memory grew by more than {GROWTH - 1:.0%}": after > GROWTH * before,
            f"not back to normal within {RECOVERY_S:g} s": self.recovery_s is None or self.recovery_s > RECOVERY_S,
        }
        return [fault for fault, is_one in found.items() if is_one]


def jain(shares: Sequence[float]) -> float:
    """Jain's index of fairness: 1 where all shares are equal; 0 where there are none."""
    squares = len(shares) * sum(share**2 for share in shares)
    return sum(shares) ** 2 / squares if squares else 0.0


def main() -> int:
    """The command line. Exit code 1 where a bound was not kept or the service failed, 130 after Ctrl-C."""
    parser = options(__doc__, warmup_s=5)
    parser.add_argument("--capacity", type=int, metavar="N", help="cameras that the machine carries (measured)")
    parser.add_argument("--dashboard", action="store_true", help="with Ray's dashboard")
    args = parser.parse_args()
    load = workload(parser, args)
    stop = Terminated.on_signal()
    adopt_orphans()
    try:
        capacity = args.capacity or measured_capacity(args)
        with tempfile.TemporaryDirectory(prefix="fw-", ignore_cleanup_errors=True) as folder:
            try:
                found = run(load, capacity, Path(folder), [] if args.dashboard else ["--no-dashboard"])
            finally:
                ProcessTree().end()
    except (KeyboardInterrupt, stop):
        return 130
    except ServiceFailed as error:
        print(f"overload: {error}", file=sys.stderr)
        return 1
    faults = found.faults()
    for name, value in asdict(found).items():
        print(f"{name:<12} {value}")
    print("\n".join(faults) or "all bounds are kept")
    if load.as_json:
        print(json.dumps(asdict(found) | {"faults": faults}))
    return 1 if faults else 0


def measured_capacity(args: argparse.Namespace) -> int:
    """Cameras for which the bare loop has CPU on this machine."""
    given = ["--file", str(args.file), "--fps", str(args.fps), "--model", str(args.model)]
    figures = run_script("limit", [*given, "--sources", "1", "--seconds", str(PROBE_S), "--warmup", "2"])
    return max(1, int((os.cpu_count() or 1) / figures["cpu_s_per_source_s"]))


def run(load: Workload, capacity: int, folder: Path, arguments: Sequence[str]) -> Overload:
    """Start twice as many cameras as there is room for, watch them, and watch half of them leave."""
    count = 2 * capacity
    config = service_config(load, [str(load.file)] * count, [{"type": "jsonl", "path": str(folder / "events.jsonl")}], folder)
    ids = [source["id"] for source in config["sources"]]
    leavers = set(ids[::2])
    for source in config["sources"]:
        source["loop"] = source["id"] not in leavers
    tree = ProcessTree()
    with ExitStack() as running:
        service = running.enter_context(Service(config, folder, tree, arguments))
        time.sleep(load.warmup_s)
        first = last = service.scrape()
        memory: list[float] = []
        while leavers <= online(service):
            last = service.scrape()
            memory.append(sum(one.pss for one in tree.memory().values()))
            time.sleep(1)
        overload_s = last.at_s - first.at_s
        if not overload_s:
            raise ServiceFailed(f"{load.file.name} is too short: it ended before the overload could be measured")
        before, after = (analysed(scrape) for scrape in (first, last))
        fps = [(after[i] - before[i]) / overload_s for i in ids]
        third = max(1, len(memory) // 3)
        return Overload(
            sources=count,
            capacity=capacity,
            seconds=round(overload_s, 1),
            p99_ms=interpolated_ms(histogram(first, last))["p99"],
            jain=round(jain(fps), 4),
            least_fps=round(min(fps), 2),
            most_fps=round(max(fps), 2),
            memory_mib=(round(max(memory[:third])), round(max(memory[-third:]))),
            recovery_s=recovery_s(load, service, leavers, [i for i in ids if i not in leavers]),
        )


def recovery_s(load: Workload, service: Service, leavers: set[str], staying: Sequence[str]) -> float | None:
    """Seconds from the end of the last leaver to the first good ones; None where there were none in twice the bound."""
    deadline_s = time.monotonic() + LEAVING_S
    while leavers & online(service):
        if time.monotonic() > deadline_s:
            return None
        time.sleep(0.2)
    left_s, good, previous = time.monotonic(), 0, service.scrape()
    while time.monotonic() - left_s < 2 * RECOVERY_S:
        time.sleep(1)
        present = service.scrape()
        gained = sum((analysed(present) - analysed(previous))[i] for i in staying)
        expected = len(staying) * load.analysed_fps * (present.at_s - previous.at_s)
        in_time = (attainment(histogram(previous, present), SLO.latency_ms / 1000) or 0.0) >= SLO.objective
        good = good + 1 if gained >= ENOUGH * expected and in_time else 0
        if good == SETTLED:
            return round(present.at_s - left_s - SETTLED, 1)
        previous = present
    return None


def online(service: Service) -> set[str]:
    """Cameras from which frames come."""
    return {source["id"] for source in service.sources() if source["status"]["state"] == "online"}


def analysed(scrape: Scrape) -> Counter[str]:
    """Frames analysed so far, by camera."""
    return scrape.by("framewatch_frames_total", "source", outcome="analysed")


if __name__ == "__main__":
    sys.exit(main())
