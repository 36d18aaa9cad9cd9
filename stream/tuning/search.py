"""A small seeded search over a grid: coordinate ascent, from the given settings and then from random ones.

Few parameters with weak interactions are what coordinate ascent is good for, random restarts cover the rest (Bergstra and
Bengio, "Random Search for Hyper-Parameter Optimization", 2012, on why not the whole grid). At the end every parameter whose
change is not worth keeping goes back to what it was.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from stream.tuning.replay import Settings

WORTH = 0.001  # of the score: a change that brings no more than this is luck, and is undone
GRID: Mapping[str, tuple[float, ...]] = {
    "confidence": tuple(round(0.05 * step, 2) for step in range(3, 18)),
    "nms_iou": (0.4, 0.5, 0.6, 0.7),
    "low_confidence": (0.05, 0.1, 0.2, 0.3),
    "start_margin": (0.0, 0.1, 0.2, 0.3),
    "match_iou": (0.1, 0.2, 0.3, 0.4),
    "second_match_iou": (0.3, 0.4, 0.5, 0.6),
    "lost_s": (0.5, 1.0, 2.0, 3.0, 5.0),
    "hidden_s": (0.0, 2.0, 5.0, 10.0),
    "enter_s": (0.0, 0.1, 0.3, 0.5, 1.0),
    "leave_s": (0.0, 0.1, 0.3, 0.5, 1.0),
    "unseen_s": (0.3, 0.5, 1.0, 1.5, 2.0, 3.0),
    "foot_inset": (0.0, 0.03, 0.06, 0.1, 0.15),
    "upright": (False, True),
}
"""Values that are tried, besides the present ones. Not searched: the length of a window and the bound on memory."""


@dataclass(frozen=True)
class Trial:
    """Settings and their score; higher is better."""

    settings: Settings
    score: float


@dataclass(frozen=True)
class Choice:
    """The best settings found, and how many different ones were scored."""

    best: Trial
    trials: int


class _Spent(Exception):
    """All trials are used up."""


def search(
    start: Settings,
    grid: Mapping[str, Sequence[Any]],
    score: Callable[[Sequence[Settings]], list[float]],
    *,
    trials: int,
    seed: int,
    progress: Callable[[int], None],
) -> Choice:
    """Look for settings of a high score.

    Args:
        start: where to begin; its values are tried besides those of the grid.
        grid: values by parameter; what is not in it stays as it is.
        score: of each of some settings.
        trials: different settings that are searched at most, ``start`` included. To undo what is not worth it then takes at
            most one more per parameter, which are scored, told and counted as well.
        seed: of the restarts and of the order in which parameters are tried.
        progress: told how many more trials are done.
    """
    values = {name: sorted({*options, getattr(start, name)}) for name, options in grid.items()}
    rng = random.Random(seed)
    done: dict[Settings, Trial] = {}

    def scored(new: Sequence[Settings]) -> None:
        done.update((settings, Trial(settings, value)) for settings, value in zip(new, score(new), strict=True))
        progress(len(new))

    def tried(candidates: Sequence[Settings]) -> list[Trial]:
        scored([settings for settings in candidates if settings not in done][: trials - len(done)])
        if any(settings not in done for settings in candidates):
            raise _Spent
        return [done[settings] for settings in candidates]

    def known(settings: Settings) -> Trial:
        if settings not in done:
            scored([settings])
        return done[settings]

    with suppress(_Spent):
        _climb(start, values, tried, rng)
        while len(done) < math.prod(map(len, values.values())):
            _climb(replace(start, **{name: rng.choice(options) for name, options in values.items()}), values, tried, rng)
    best = max(done.values(), key=lambda trial: trial.score)
    plainest = _simplified(best, start, known)
    return Choice(plainest, len(done))


def _climb(
    start: Settings,
    values: Mapping[str, Sequence[Any]],
    tried: Callable[[Sequence[Settings]], list[Trial]],
    rng: random.Random,
) -> None:
    """Better one parameter after the other until a whole round brings nothing."""
    (best,) = tried([start])
    names = sorted(values)
    improved = True
    while improved:
        improved = False
        rng.shuffle(names)
        for name in names:
            top = max(tried([replace(best.settings, **{name: value}) for value in values[name]]), key=lambda trial: trial.score)
            if top.score > best.score:
                best, improved = top, True


def _simplified(best: Trial, start: Settings, known: Callable[[Settings], Trial]) -> Trial:
    """``best`` with every parameter as in ``start`` whose change is worth no more than ``WORTH``."""
    kept = best
    for name in GRID:
        plainer = replace(kept.settings, **{name: getattr(start, name)})
        if plainer != kept.settings:
            trial = known(plainer)
            if trial.score >= best.score - WORTH:
                kept = trial
    return kept
