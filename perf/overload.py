"""More cameras than the machine can carry: what the service sheds, how evenly, and how soon all is well again.

``--capacity`` cameras are what the machine carries; by default ``framewatch capacity`` finds that first, which takes some
minutes. Twice as many are started. All repeat ``--file``, but half of them end after about ``--seconds`` of overload.
Looked at once a second:

- overload, from ``--warmup`` seconds after all were analysed until the first camera leaves: percentiles of the latency of
  analysed frames, interpolated in the service's histogram from capture to acknowledgement, and the 99th of each stage;
  Jain's index of the analysed frames of each camera, (sum x)^2 / (n sum x^2): 1 where all have the same, 1/n where one
  has everything; the cameras that were analysed least and most; frames given up, by reason; memory (PSS) of all processes
  in the first and the last third;
- recovery: seconds from the end of the last leaver to the first two in a row in which at least 98 % of the frames of those
  that stay were analysed, with 99 % of them within the latency objective. ``after`` has both shares, second by second.

Each camera's film begins with a GOP of another length, so their key frames are spread as those of real cameras are, and
do not all come at once. With ``--in-step`` they do.

Exit code 1 where a bound is not kept: p99 within the objective, Jain's index at least 0.95, every camera analysed, memory
grown by less than 10 %, recovery within 10 s.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from perf.films import film
from perf.service import Service, ServiceFailed, run_script, service_config
from perf.workload import ROOT, SLO, Workload, options, workload
from stream.processes import ProcessTree
from stream.scrape import Scrape, attainment, histogram, interpolated_ms

START_S = 20.0  # that twice as many cameras take to start; the film of those that leave is longer by that
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
    p50_ms: float | None
    p99_ms: float | None
    in_time: float | None
    stages_p99_ms: Mapping[str, float | None]
    dropped: Mapping[str, int]
    jain: float
    least_fps: float
    most_fps: float
    memory_mib: tuple[float, float]
    recovery_s: float | None
    after: Sequence[tuple[float, float]]

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
    parser.add_argument("--in-step", action="store_true", help="the key frames of all cameras come at once")
    parser.add_argument("--dashboard", action="store_true", help="with Ray's dashboard")
    args = parser.parse_args()
    load = workload(parser, args)

    def report(folder: Path) -> int:
        capacity = args.capacity or measured_capacity(load)
        found = run(load, capacity, args.in_step, folder, [] if args.dashboard else ["--no-dashboard"])
        faults = found.faults()
        for name, value in asdict(found).items():
            print(f"{name:<12} {value}")
        print("\n".join(faults) or "all bounds are kept")
        if load.as_json:
            print(json.dumps(asdict(found) | {"faults": faults}))
        return 1 if faults else 0

    return run_script("overload", report)


def measured_capacity(load: Workload) -> int:
    """Cameras that this machine sustains, as ``framewatch capacity`` finds."""
    with tempfile.TemporaryDirectory(prefix="fw-", ignore_cleanup_errors=True) as folder:
        config, found = Path(folder, "config.yaml"), Path(folder, "capacity.json")
        config.write_text(json.dumps(service_config(load, [str(load.file)], [{"type": "jsonl", "path": "-"}], Path(folder))))
        options = ["-c", str(config), "--seconds", "10", "--json", str(found)]
        done = subprocess.run([sys.executable, "-m", "stream.cli", "capacity", *options], cwd=ROOT, stdout=sys.stderr)
        if done.returncode:
            raise ServiceFailed(f"framewatch capacity ended with {done.returncode}")
        print(json.loads(found.read_text())["closing"], flush=True)
        return int(json.loads(found.read_text())["sources"])


def run(load: Workload, capacity: int, in_step: bool, folder: Path, arguments: Sequence[str]) -> Overload:
    """Start twice as many cameras as there is room for, watch them, and watch half of them leave."""
    count = 2 * capacity
    config = service_config(load, [str(load.file)] * count, [{"type": "jsonl", "path": str(folder / "events.jsonl")}], folder)
    ids = [source["id"] for source in config["sources"]]
    leavers = set(ids[::2])
    for number, source in enumerate(config["sources"]):
        leaves, skipped = source["id"] in leavers, 0.0 if in_step else number / count
        seconds = START_S + load.warmup_s + load.seconds if leaves else load.seconds
        source |= {"uri": str(film(load.file, seconds, skipped, folder / f"{source['id']}{load.file.suffix}")), "loop": not leaves}
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
        counts = analysed(last)
        counts.subtract(analysed(first))
        fps = [counts[i] / overload_s for i in ids]
        third, latency_ms = max(1, len(memory) // 3), interpolated_ms(histogram(first, last))
        after = recovery(load, service, leavers, [i for i in ids if i not in leavers])
        return Overload(
            sources=count,
            capacity=capacity,
            seconds=round(overload_s, 1),
            p50_ms=latency_ms["p50"],
            p99_ms=latency_ms["p99"],
            in_time=attainment(histogram(first, last), SLO.latency_ms / 1000),
            stages_p99_ms=stages_p99_ms(first, last),
            dropped=dropped(first, last),
            jain=round(jain(fps), 4),
            least_fps=round(min(fps), 2),
            most_fps=round(max(fps), 2),
            memory_mib=(round(max(memory[:third])), round(max(memory[-third:]))),
            recovery_s=settled_s(after),
            after=after,
        )


def recovery(load: Workload, service: Service, leavers: set[str], staying: Sequence[str]) -> list[tuple[float, float]]:
    """Each second from the end of the last leaver on: the shares of frames analysed, and of those in time. Ends when all is well,
    or after twice the bound; empty where leavers do not end."""
    deadline_s = time.monotonic() + LEAVING_S
    while leavers & online(service):
        if time.monotonic() > deadline_s:
            return []
        time.sleep(0.2)
    left_s, found, previous = time.monotonic(), list[tuple[float, float]](), service.scrape()
    while time.monotonic() - left_s < 2 * RECOVERY_S and settled_s(found) is None:
        time.sleep(1)
        present = service.scrape()
        gained = sum((analysed(present) - analysed(previous))[i] for i in staying)
        expected = len(staying) * load.analysed_fps * (present.at_s - previous.at_s)
        in_time = attainment(histogram(previous, present), SLO.latency_ms / 1000) or 0.0
        found.append((round(gained / expected, 3), round(in_time, 4)))
        previous = present
    return found


def settled_s(after: Sequence[tuple[float, float]]) -> float | None:
    """Seconds before the first ``SETTLED`` good ones in a row."""
    good = [served >= ENOUGH and in_time >= SLO.objective for served, in_time in after]
    return next((float(n) for n in range(len(good) - SETTLED + 1) if all(good[n : n + SETTLED])), None)


def stages_p99_ms(before: Scrape, after: Scrape) -> dict[str, float | None]:
    """99th percentile of each stage, in milliseconds."""
    stages = sorted(after.by("framewatch_stage_seconds_count", "stage"))
    return {stage: interpolated_ms(histogram(before, after, "framewatch_stage_seconds", stage=stage))["p99"] for stage in stages}


def dropped(before: Scrape, after: Scrape) -> dict[str, int]:
    """Frames given up between two scrapes, by reason."""
    counts = after.by("framewatch_frames_total", "reason", outcome="dropped")
    counts.subtract(before.by("framewatch_frames_total", "reason", outcome="dropped"))
    return {reason: round(n) for reason, n in sorted(counts.items()) if n > 0 and reason != "sampled"}


def online(service: Service) -> set[str]:
    """Cameras from which frames come."""
    return {source["id"] for source in service.sources() if source["status"]["state"] == "online"}


def analysed(scrape: Scrape) -> Counter[str]:
    """Frames analysed so far, by camera."""
    return scrape.by("framewatch_frames_total", "source", outcome="analysed")


if __name__ == "__main__":
    sys.exit(main())
