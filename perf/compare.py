"""The service against the bare loop, in turns, on the same cameras, and against the ratio of last time.

Runs ``limit.py`` and ``load_test.py`` alternately with the same options, clip by clip, and compares the CPU time of a source
second. The bare loop always decodes every packet; ``--decode`` says what the service does, ``full`` for like with like. On a
machine with other work a CPU second is worth more or less from minute to minute; taken in turns, both suffer alike.
The ratio is the bare loop's CPU over the service's: the share of the cameras that the bare loop could carry. A run that
was not sustained left work undone, so its CPU is too low: it is shown but not compared.

The peak of memory (PSS) is that of all processes. ``baseline.json`` holds the ratio of each workload that was saved with
``--save``; ratios travel between machines better than seconds do. A ratio that is worse than that by more than
``REGRESSION`` makes the exit code 1; so does a run in which nothing could be compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perf.workload import SHARED, rate_name

FOLDER = Path(__file__).resolve().parent
BASELINE = FOLDER / "baseline.json"
REGRESSION = 0.10
DECODE_MODES = ("full", "auto", "fast")
CLIPS = tuple(SHARED / "data" / "videos" / name for name in ("retail02_h264_1080p25.mp4", "one-by-one-person-detection.mp4"))


def main() -> int:
    """The command line; unknown options go to both scripts. The exit code is the worst of all clips'."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="runs of each (3)")
    parser.add_argument("--file", type=Path, action="append", help="a clip; may be given several times (the shop, and one person)")
    parser.add_argument("--decode", choices=DECODE_MODES, default="full", help="of the service's sources (full, as the bare loop)")
    parser.add_argument("--no-dashboard", action="store_true", help="the service without Ray's dashboard")
    parser.add_argument("--baseline", type=Path, default=BASELINE, help="ratios by workload (perf/baseline.json)")
    parser.add_argument("--save", action="store_true", help="put the ratio into the baseline")
    args, shared = parser.parse_known_args()
    if args.rounds < 1:
        parser.error(f"--rounds must be over 0, not {args.rounds}")
    return max(compare(clip, args, shared) for clip in args.file or CLIPS)


def compare(clip: Path, args: argparse.Namespace, shared: Sequence[str]) -> int:
    """Measure one clip; returns the exit code."""
    shared = [*shared, "--file", str(clip)]
    options = {"limit": shared, "load_test": [*shared, "--decode", args.decode, *["--no-dashboard"] * args.no_dashboard]}
    costs: dict[str, list[float]] = {script: [] for script in options}
    for _ in range(args.rounds):
        for script, found in costs.items():
            figures = run(script, options[script])
            cost = figures["cpu_s_per_source_s"]
            if figures["sustained"]:
                found.append(cost)
            latency = ", ".join(f"{name} {value} ms" for name, value in figures["latency_ms"].items())
            print(
                f"{script:<10} {1000 * cost:7.1f} ms per source second, {latency}, peak {figures['peak_memory_mib']:.0f} MiB, "
                f"{'sustained' if figures['sustained'] else 'NOT sustained'}",
                flush=True,
            )
    if not all(costs.values()):
        print("no ratio: nothing was sustained by " + " and ".join(script for script, found in costs.items() if not found))
        return 1
    limit, service = (statistics.median(found) for found in costs.values())
    name = workload_name(figures, args.decode, args.no_dashboard)
    print(f"{name}: the bare loop (decode full) {1000 * limit:.1f}, the service {1000 * service:.1f} ms per source second,")
    print(f"medians of sustained runs; ratio {limit / service:.3f}")
    return judge(name, limit / service, args.baseline, args.save)


def workload_name(figures: Mapping[str, Any], decode: str, no_dashboard: bool) -> str:
    """What the baseline calls a workload."""
    name = f"{figures['sources']} x {figures['file']} at {rate_name(figures['fps'])}, decode {decode}"
    return f"{name}, no dashboard" if no_dashboard else name


def judge(name: str, ratio: float, baseline: Path, save: bool) -> int:
    """Hold a ratio against the baseline's, or put it there; returns the exit code."""
    ratios: dict[str, float] = json.loads(baseline.read_text()) if baseline.exists() else {}
    if save:
        baseline.write_text(json.dumps(dict(sorted((ratios | {name: round(ratio, 3)}).items())), indent=2) + "\n")
        print(f"saved for {name}")
        return 0
    if name not in ratios:
        print(f"the baseline has no ratio for {name}")
        return 0
    least = (1 - REGRESSION) * ratios[name]
    print(f"baseline {ratios[name]:.3f}, so at least {least:.3f}: {'kept' if ratio >= least else 'a REGRESSION'}")
    return 0 if ratio >= least else 1


def run(script: str, options: Sequence[str]) -> dict[str, Any]:
    """The figures of one run; its own output is shown only when it fails."""
    done = subprocess.run([sys.executable, FOLDER / f"{script}.py", *options, "--json"], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


if __name__ == "__main__":
    sys.exit(main())
