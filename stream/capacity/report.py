"""What ``framewatch capacity`` says: a table of the steps, a closing line, and all of it as one object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from stream.agreement import Agreement
from stream.capacity.check import setting_of
from stream.capacity.limit import Limit, limiting
from stream.capacity.plan import Plan
from stream.capacity.search import Found
from stream.capacity.step import STAGES, Step
from stream.config import SourceConfig
from stream.scrape import PERCENTILES


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was found.

    Attributes:
        plan: what was measured.
        agreements: a source for each setting of decoding, and how far it agrees with full decoding.
        steps: in the order in which they were measured.
        found: where the search ended.
    """

    plan: Plan
    agreements: Sequence[tuple[SourceConfig, Agreement]]
    steps: Sequence[Step]
    found: Found

    @property
    def best(self) -> Step | None:
        """The sustained step with the most sources."""
        return next((step for step in self.steps if step.sources == self.found.best), None)

    @property
    def limit(self) -> Limit | None:
        """What limits, seen where it was first too many; else in the last step; None where nothing was measured."""
        failed = [step for step in self.steps if step.sources == self.found.failed]
        return limiting((failed or [self.best or self.steps[-1]])[0]) if self.steps else None

    def table(self) -> Table:
        """A row for each step, by number of sources."""
        slo = self.plan.config.slo
        table = Table(title=f"{self.plan.clip.name} {self.rates()}; SLO: {100 * slo.objective:g} % within {slo.latency_ms:g} ms")
        for column in ("sources", "analysed", *(f"p{p} ms" for p in PERCENTILES), "within SLO", "CPU cores", *STAGES, ""):
            table.add_column(column, justify="right")
        for step in sorted(self.steps, key=lambda step: step.sources):
            table.add_row(*cells(step), style="" if step.sustained else "dim")
        return table

    def rates(self) -> str:
        """Analysed frames a second of the sources, as ``at 5 fps``."""
        rates = sorted({self.plan.fps(source) for source in self.plan.sources})
        return "at " + " and ".join(f"{rate:g}" for rate in rates) + " fps"

    def closing(self) -> str:
        """The result in one line."""
        number, limit, best = self.found.best, self.limit, self.best
        what = f"{self.plan.clip.name} {self.rates()}"
        if limit is None:
            return "nothing was measured: time was up"
        shown = (best or self.steps[-1]).latency_ms["p99"]
        p99 = f" (p99 {'unknown' if shown is None else f'{shown:.0f} ms'} of {self.plan.config.slo.latency_ms:g} ms)"
        limits = bool(limit.why) and self.found.failed is not None
        ending = f"; {limit.stage} {'limits' if limits else 'costs most'}: {100 * limit.share:.0f} % of the CPU"
        ending += f" ({limit.why})" if limits else ""
        if best is None:
            return f"this machine does not sustain one source of {what}{p99}{ending}"
        least = "" if self.found.failed is not None and self.found.complete else "at least "
        return f"this machine sustains {least}{number} source{'s' * (number > 1)} of {what}{p99}{ending}"

    def remarks(self) -> list[str]:
        """What else should be known."""
        said = []
        if not self.found.complete:
            said.append("time was up before the search was over: --minutes gives it more")
        elif self.found.failed is None:
            said.append("no more were tried: --max-sources")
        if self.limit is not None and self.found.failed is not None:
            if not self.limit.why:
                said.append("neither the CPU nor the threads of a stage were exhausted: frames waited for something else")
                too_many = [step for step in self.steps if step.dropped and not step.sustained]
                said += [f"with {step.sources}, {drops(step)} were lost" for step in too_many]
            elif self.limit.advice:
                said.append(self.limit.advice)
        return said

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        clip, limit, best = self.plan.clip, self.limit, self.best
        return {
            "sources": self.found.best,
            "sustained": best is not None,
            "complete": self.found.complete,
            "not_sustained": self.found.failed,
            "clip": {"name": clip.name, "fps": round(clip.fps, 3), "seconds": round(clip.seconds, 3)},
            "analysed_fps": [self.plan.fps(source) for source in self.plan.sources],
            "slo": {"latency_ms": self.plan.config.slo.latency_ms, "objective": self.plan.config.slo.objective},
            "limit": asdict(limit) if limit else None,
            "agreement": [
                {"setting": setting_of(source), "fps": source.fps, "share": round(found.share, 5), **asdict(found)}
                for source, found in self.agreements
            ],
            "steps": [_step_dict(step) for step in self.steps],
            "closing": self.closing(),
            "remarks": self.remarks(),
        }


def cells(step: Step) -> list[str]:
    """A step as a row of the table."""
    latencies = (step.latency_ms[f"p{p}"] for p in PERCENTILES)
    return [
        str(step.sources),
        f"{step.served:.1%}",
        *("-" if value is None else f"{value:.0f}" for value in latencies),
        "-" if step.attainment is None else f"{step.attainment:.2%}",
        f"{step.cores_used:.2f}",
        *(f"{step.share(stage):.0%}" for stage in STAGES),
        "sustained" if step.sustained else "too many",
    ]


def line(step: Step) -> str:
    """A step in one line."""
    p99 = step.latency_ms["p99"]
    latency = "no latency" if p99 is None or step.attainment is None else f"p99 {p99:.0f} ms, {step.attainment:.2%} within the SLO"
    verdict = "sustained" if step.sustained else "too many"
    lost = f"; lost: {drops(step)}" if step.dropped else ""
    return f"{verdict}: {step.served:.1%} analysed, {latency}, {step.cores_used:.2f} of {step.cores} cores{lost}"


def drops(step: Step) -> str:
    """Frames given up, by reason."""
    return ", ".join(f"{n} {reason}" for reason, n in step.dropped.items())


def _step_dict(step: Step) -> dict[str, Any]:
    return {
        "sources": step.sources,
        "sustained": step.sustained,
        "seconds": round(step.wall_s, 3),
        "frames_expected": round(step.expected),
        "frames_analysed": step.analysed,
        "frames_gated": step.gated,
        "served": round(step.served, 5),
        "dropped": dict(step.dropped),
        "latency_ms": {name: None if value is None else round(value, 1) for name, value in step.latency_ms.items()},
        "slo_attainment": None if step.attainment is None else round(step.attainment, 5),
        "cpu_s": round(step.cpu_s, 3),
        "cores_used": round(step.cores_used, 3),
        "cores": step.cores,
        "cores_busy": round(step.machine_s / step.wall_s, 3),
        "cpu_s_by_stage": {stage: round(seconds, 3) for stage, seconds in step.stages_s.items()},
        "cpu_share_by_stage": {stage: round(step.share(stage), 4) for stage in STAGES},
        "cpu_s_by_process": {name: round(seconds, 3) for name, seconds in sorted(step.processes_s.items())},
        "lanes": [asdict(lane) for lane in step.lanes],
    }
