"""Which stage keeps a machine from sustaining more sources."""

from __future__ import annotations

from dataclasses import dataclass

from stream.capacity.step import STAGES, Step

EXHAUSTED = 0.9  # of all cores are busy: what is left comes in pieces too small to use
FULL = 0.85  # of what one thread can do: it waits for a core now and then
BURSTS = 0.6  # of all cores are busy: more than all are wanted whenever frames of many sources come at once
SHED = ("stale", "queue_full", "key_frames_only")  # frames given up so that the others are in time
MINE = 0.75  # of the busy cores: less, and other programs have their part in it


@dataclass(frozen=True, slots=True)
class Limit:
    """The stage that limits.

    Attributes:
        stage: one of ``STAGES``.
        share: its part of the service's CPU, 0..1.
        why: what is exhausted; empty where nothing is, and ``stage`` is only the one that costs most.
        advice: what would help, or what to bear in mind; may be empty.
    """

    stage: str
    share: float
    why: str
    advice: str = ""


def limiting(step: Step) -> Limit:
    """What limits in a step: the costliest stage where the machine's CPU is exhausted, else one whose own threads are, else the
    costliest stage again where load was shed: less work was done then than there was."""
    costliest = max(STAGES, key=step.share)
    busy = step.machine_s / step.wall_s
    if busy >= EXHAUSTED * step.cores:
        why, advice = f"all {step.cores} cores are busy", ""
        if step.cores_used < MINE * busy:
            why += f", {busy - step.cores_used:.1f} of them not for the service"
            advice = "other programs, or the host of this virtual machine, take part of it: measure again without them"
        return Limit(costliest, step.share(costliest), why, advice)
    fullest = max(step.lanes, key=lambda lane: lane.load, default=None)
    if fullest is not None and fullest.load >= FULL:
        why = f"{fullest.what}: {fullest.load:.0%} of what can be used, while {step.cores - busy:.1f} cores are free"
        return Limit(fullest.stage, step.share(fullest.stage), why, f"{fullest.remedy} would help")
    shed = sum(step.dropped.get(reason, 0) for reason in SHED)
    if shed and busy >= BURSTS * step.cores:
        why = f"{busy:.1f} of {step.cores} cores are busy, and too few when frames come at once: {shed} were shed"
        return Limit(costliest, step.share(costliest), why, "these copies play in step; cameras that do not need less at once")
    return Limit(costliest, step.share(costliest), "")
