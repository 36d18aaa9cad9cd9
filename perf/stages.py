"""The stages' benchmarks, in units that travel between machines, against those of last time.

Runs ``bench_stages.py`` and ``bench_ring.py`` and takes the least time of a call of each. Absolute times say as much about
the machine as about the code, so they are compared as ratios:

- of each benchmark to ``test_reference``, a fixed piece of work that is timed in the same run;
- of what is spared: decoding a second of footage in full to what ``fast`` and ``key`` decode of it, the same with scaling,
  scaling after a conversion to scaling the planes, and a batch by value to one through the ring.

A ratio is how many times cheaper than the other the thing is, so a lower one is worse. One that is worse than in
``stages.json`` by more than ``REGRESSION`` makes the exit code 1; ``--save`` writes that file. Give the machine nothing else to do
meanwhile; ``--rounds`` runs everything several times and takes the least times of all.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
BASELINE = FOLDER / "stages.json"
REGRESSION = 0.10
REFERENCE = "test_reference"
SPARED = {
    "decode: full over fast": ("test_decode_by_mode[full]", "test_decode_by_mode[fast]"),
    "decode: full over key": ("test_decode_by_mode[full]", "test_decode_by_mode[key]"),
    "decode and scale: full over fast": ("test_intake[full]", "test_intake[fast]"),
    "decode and scale: full over key": ("test_intake[full]", "test_intake[key]"),
    "scale: converted first over planes": ("test_scale_after_conversion", "test_scale[planes]"),
    "batch of 8: by value over ring": ("test_by_value[8]", "test_through_the_ring[8]"),
}
UNSTEADY = ("test_spool_append",)  # the disk's time, not ours


def main() -> int:
    """The command line. Exit code 1 where a ratio is a regression, or a benchmark of the baseline is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="runs of all benchmarks (2)")
    parser.add_argument("--baseline", type=Path, default=BASELINE, help="ratios by name (perf/stages.json)")
    parser.add_argument("--save", action="store_true", help="write the ratios there")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds must be over 0, not {args.rounds}")
    least_s: dict[str, float] = {}
    for _ in range(args.rounds):
        for name, seconds in timed().items():
            least_s[name] = min(seconds, least_s.get(name, seconds))
    found = ratios(least_s)
    if args.save:
        args.baseline.write_text(json.dumps(found, indent=2) + "\n")
    expected: dict[str, float] = json.loads(args.baseline.read_text()) if args.baseline.exists() else {}
    for name, ratio in found.items():
        spent = f"{1e6 * least_s[name]:10.1f} us" if name in least_s else " " * 13
        print(f"{name:<40} {spent} {ratio:10.4g}   {f'was {expected[name]:.4g}' if name in expected else 'new'}")
    faults = regressions(found, expected)
    print("\n".join(faults) or "no regression")
    return 1 if faults else 0


def timed() -> dict[str, float]:
    """Seconds of the fastest call of each benchmark."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "benchmarks.json")
        files = [str(FOLDER / name) for name in ("bench_stages.py", "bench_ring.py")]
        command = [sys.executable, "-m", "pytest", "-q", "-o", "python_files=bench_*.py", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [*command, "--benchmark-only", "--benchmark-json", str(out), *files],
            cwd=FOLDER.parent,
            stdout=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            sys.exit(f"{done.stdout}\nthe benchmarks failed")
        return {one["name"]: float(one["stats"]["min"]) for one in json.loads(out.read_text())["benchmarks"]}


def ratios(least_s: Mapping[str, float]) -> dict[str, float]:
    """By name: the reference's time over each benchmark's, and what is spared."""
    found = {name: least_s[REFERENCE] / seconds for name, seconds in sorted(least_s.items()) if name not in (REFERENCE, *UNSTEADY)}
    found |= {name: least_s[much] / least_s[little] for name, (much, little) in SPARED.items() if {much, little} <= least_s.keys()}
    return {name: float(f"{ratio:.4g}") for name, ratio in found.items()}


def regressions(found: Mapping[str, float], expected: Mapping[str, float]) -> list[str]:
    """What is worse than it was by more than ``REGRESSION``, or was not measured, in words."""
    faults = []
    for name, before in expected.items():
        if name not in found:
            faults.append(f"{name}: not measured, was {before:.4g}")
        elif found[name] < (1 - REGRESSION) * before:
            faults.append(f"{name}: {found[name]:.4g}, was {before:.4g}: a REGRESSION")
    return faults


if __name__ == "__main__":
    sys.exit(main())
