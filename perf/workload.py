"""What the load test and the bare loop have in common: their options, and how their figures are reported."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np

from stream.config import DetectorConfig, SloConfig
from stream.scrape import PERCENTILES

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("FRAMEWATCH_SHARED", ROOT.parent / "shared"))  # media and tools beside the repository
DEFAULT_MODEL = SHARED / "data" / "models" / "FastestDet.onnx"
SUSTAINED = 0.99  # of the expected frames must have been analysed
SLO = SloConfig()


@dataclass(frozen=True, slots=True)
class Workload:
    """``sources`` cameras that all show ``file``, of which ``fps`` frames a second are analysed, for ``seconds``.

    Attributes:
        fps: None analyses every frame.
        source_fps: frame rate of the file.
        warmup_s: time between the first analysed frames and the measurement.
    """

    sources: int
    file: Path
    fps: float | None
    seconds: float
    warmup_s: float
    model: Path
    source_fps: float
    as_json: bool

    @property
    def detector(self) -> DetectorConfig:
        """The one detector that all sources use."""
        return DetectorConfig(model=str(self.model), classes=["person"])

    def expected(self, seconds: float) -> float:
        """Frames that should be analysed in ``seconds``."""
        return self.sources * seconds * self.analysed_fps

    @property
    def analysed_fps(self) -> float:
        """Frames of a camera that should be analysed in a second."""
        return min(self.fps or self.source_fps, self.source_fps)


def options(description: str | None, *, warmup_s: float) -> argparse.ArgumentParser:
    """A parser with the options that both scripts take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=int, default=8, metavar="N", help="cameras (8)")
    parser.add_argument("--file", type=Path, required=True, help="the video that each of them shows, over and over")
    parser.add_argument("--fps", type=_rate, default=5.0, help="analysed frames per second and camera, or all (5)")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="length of the measurement (60)")
    parser.add_argument("--warmup", type=float, default=warmup_s, metavar="S", help=f"seconds before it ({warmup_s:g})")
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL, help="model file (FastestDet of ../shared/data)")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object, as the last line")
    return parser


def _rate(text: str) -> float | None:
    return None if text == "all" else float(text)


def workload(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Workload:
    """The workload that was asked for; ends the program with a clear message where it cannot be run."""
    for option, number in (("--sources", args.sources), ("--fps", args.fps), ("--seconds", args.seconds)):
        if number is not None and not number > 0:
            parser.error(f"{option} must be over 0, not {number}")
    for option, path in (("--file", args.file), ("--model", args.model)):
        if not path.is_file():
            parser.error(f"{option}: there is no file {path}")
    try:
        with av.open(str(args.file)) as container:
            rate = container.streams.video[0].average_rate
    except (av.FFmpegError, IndexError) as error:
        parser.error(f"--file: {args.file} is not a video: {error}")
    return Workload(
        sources=args.sources,
        file=args.file.resolve(),
        fps=args.fps,
        seconds=args.seconds,
        warmup_s=args.warmup,
        model=args.model.resolve(),
        source_fps=float(rate or 25),
        as_json=args.json,
    )


@dataclass(frozen=True, slots=True)
class Result:
    """Figures of one run.

    Attributes:
        kind: ``limit`` or ``service``.
        wall_s: length of the measurement.
        cpu_s: CPU seconds of all processes in it.
        frames_analysed: in it.
        drops: frames given up in it, by reason; frames that the sampler leaves out on purpose are no drops.
        latency_ms: percentiles by name, None where there is no figure.
        latency_of: from what to what the latency was taken, and how.
        slo_attainment: share of analysed frames within the latency objective; None where unknown.
        peak_memory_mib: greatest sum of the processes' PSS.
        cpu_s_by_process: CPU seconds by name.
        mean_batch: frames in a detector call.
        spared: frames that the mode of decoding or the gate left out on purpose, by reason.
    """

    kind: str
    workload: Workload
    wall_s: float
    cpu_s: float
    frames_analysed: int
    drops: Mapping[str, int]
    latency_ms: Mapping[str, float | None]
    latency_of: str
    slo_attainment: float | None
    peak_memory_mib: float
    cpu_s_by_process: Mapping[str, float]
    mean_batch: float
    spared: Mapping[str, int] = field(default_factory=dict)

    @property
    def cpu_s_per_source_s(self) -> float:
        """CPU seconds that one second of one camera costs."""
        return self.cpu_s / (self.workload.sources * self.wall_s)

    @property
    def sustained(self) -> bool:
        """Nearly every expected frame was analysed or spared, and the latency objective was held."""
        enough = self.frames_analysed + sum(self.spared.values()) >= SUSTAINED * self.workload.expected(self.wall_s)
        return enough and (self.slo_attainment or 0.0) >= SLO.objective

    def report(self) -> None:
        """Print the figures for people and, where asked for, for programs."""
        load, latency = self.workload, self.latency_ms
        share = 100 * self.frames_analysed / load.expected(self.wall_s)
        attained = "unknown" if self.slo_attainment is None else f"{100 * self.slo_attainment:.2f} %"
        lines = [
            f"{self.kind}: {load.sources} x {load.file.name} at {rate_name(load.fps)} of {load.source_fps:g}, {self.wall_s:.1f} s,"
            f" {os.cpu_count()} cores",
            f"  sustained      {'yes' if self.sustained else 'NO'}",
            f"  CPU            {1000 * self.cpu_s_per_source_s:.1f} ms per source second"
            f" ({self.cpu_s:.2f} s in all, {1 / self.cpu_s_per_source_s:.1f} sources a core)",
            f"  frames         {self.frames_analysed} analysed, {share:.1f} % of those expected, {self.mean_batch:.1f} a batch",
            f"  spared         {', '.join(f'{n} {reason}' for reason, n in self.spared.items()) or 'none'}",
            f"  dropped        {', '.join(f'{n} {reason}' for reason, n in self.drops.items()) or 'none'}",
            f"  latency        {', '.join(f'{name} {_ms(value)}' for name, value in latency.items())} ({self.latency_of})",
            f"  within {SLO.latency_ms:g} ms  {attained}",
            f"  peak memory    {self.peak_memory_mib:.0f} MiB",
        ]
        for name, cpu_s in sorted(self.cpu_s_by_process.items(), key=lambda item: -item[1]):
            if cpu_s >= 0.005 * self.cpu_s:
                lines.append(f"    {name:<40} {1000 * cpu_s / (load.sources * self.wall_s):7.2f} ms per source second")
        print("\n".join(lines), flush=True)
        if load.as_json:
            print(json.dumps(self.to_dict()), flush=True)

    def to_dict(self) -> dict[str, object]:
        """What ``--json`` prints."""
        load = self.workload
        return {
            "kind": self.kind,
            "sustained": self.sustained,
            "cpu_s_per_source_s": round(self.cpu_s_per_source_s, 6),
            "frames_analysed": self.frames_analysed,
            "frames_expected": round(load.expected(self.wall_s)),
            "drops": dict(self.drops),
            "spared": dict(self.spared),
            "latency_ms": {name: None if value is None else round(value, 1) for name, value in self.latency_ms.items()},
            "latency_of": self.latency_of,
            "slo_attainment": None if self.slo_attainment is None else round(self.slo_attainment, 5),
            "peak_memory_mib": round(self.peak_memory_mib, 1),
            "mean_batch": round(self.mean_batch, 2),
            "cpu_s": round(self.cpu_s, 3),
            "cpu_s_by_process": {name: round(cpu_s, 3) for name, cpu_s in self.cpu_s_by_process.items()},
            "seconds": round(self.wall_s, 3),
            "file": load.file.name,
            "sources": load.sources,
            "fps": load.fps,
            "cores": os.cpu_count(),
        }


def rate_name(fps: float | None) -> str:
    """A rate in words."""
    return "every frame" if fps is None else f"{fps:g} frames/s"


def percentiles_ms(latencies_s: Sequence[float]) -> dict[str, float | None]:
    """``PERCENTILES`` by name, in milliseconds."""
    if not len(latencies_s):
        return {f"p{p}": None for p in PERCENTILES}
    values = np.percentile(np.asarray(latencies_s) * 1000, PERCENTILES)
    return {f"p{p}": float(value) for p, value in zip(PERCENTILES, values, strict=True)}


def _ms(value: float | None) -> str:
    return "?" if value is None else f"{value:.0f} ms"
