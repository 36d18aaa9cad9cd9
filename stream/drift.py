"""Drift: does what a model finds in a source still look like what it has found there so far?

Nobody labels the pictures of a running camera, so how right the model is cannot be measured there. But where it meets what it did
not learn (dirt on the lens, infrared at night, other clothes, another place), it is less sure, finds boxes of other sizes, of
other classes, or another number of them. Each of these is a histogram, kept twice with weights that decay: *recent* (3 days) and
*usual* (30 days). Days and weeks have their rhythms, which spans as long as these even out.

How far the two are apart is the population stability index: the sum of (p - q) ln(p / q) over the bins (Siddiqi, "Credit Risk
Scorecards", 2006: less than 0.1 is no change, more than 0.25 a great one, between samples that have nothing in common). So few
samples that they differ by chance raise it by (bins - 1) (1 / n + 1 / m) (Yurdakul and Naranjo, "Statistical properties of the
population stability index", Journal of Risk Model Validation, 2020), which is taken off. As what is recent becomes usual,
a change that stays reaches half of its full index after ten days, and fades: so one looks above 0.1.

A sample of confidence, height and class is a track, with the mean of its frames: those of a parked car are no news each. Time is
that of the frames. Another model begins anew. docs/decisions/0012 has figures.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from stream.events import TrackedObject
from stream.telemetry import DriftConfig

Feature = Literal["confidence", "height", "class", "objects"]
FEATURES: tuple[Feature, ...] = get_args(Feature)
CONFIDENCE_EDGES = tuple(i / 20 for i in range(1, 20))
CONFIDENCE_MIDDLES = tuple((i + 0.5) / 20 for i in range(20))
HEIGHT_EDGES = tuple(2 ** (i / 2 - 6) for i in range(1, 12))  # shares of the picture's height, 1/45 to 0.71, 41 % apart
OBJECTS_EDGES = (1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 25.0)
FOLD_S = 60.0  # so often are the histograms brought up to date
OVER_S = 10.0  # a track that has not been seen for so long has ended, as far as this is concerned
OBJECTS_EVERY_S = 1.0
MAX_TRACKS = 5000  # whose end is waited for
MIN_SAMPLES = 200  # of each histogram; with fewer it is not judged
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """One feature of a source.

    Attributes:
        bins: where each bin begins, or its class.
        recent, usual: shares of the bins; all 0 without samples.
        recent_samples, usual_samples: how many these are of, by weight.
        psi: how far they are apart; None while that is not judged.
    """

    bins: list[float | str]
    recent: list[float]
    usual: list[float]
    recent_samples: float
    usual_samples: float
    psi: float | None


@dataclass(frozen=True, slots=True)
class DriftReport:
    """What a model finds in a source, lately and usually.

    Attributes:
        model: its id.
        learned_h: hours of the source that it has seen.
        learn_h: after so many it is judged.
        features: by name.
    """

    model: str
    learned_h: float
    learn_h: float
    features: dict[Feature, Comparison]


@dataclass(slots=True)
class _Track:
    kind: int
    frames: int = 0
    confidence: float = 0.0  # these two summed over the frames
    height: float = 0.0
    seen_s: float = 0.0


class Drift:
    """What one model finds in one source. Not thread-safe; bounded in memory.

    Attributes:
        psi: how far recent and usual are apart, by feature; without those that are not judged as yet.
        confidence: mean of recent tracks; None without any.

    Args:
        config: how long things are remembered.
        classes: of the model.
    """

    def __init__(self, config: DriftConfig, classes: Sequence[str]):
        self._config, self._classes = config, {name: i for i, name in enumerate(classes)}
        self._bins: dict[Feature, list[float | str]] = {  # where each begins, or its class
            "confidence": [0.0, *CONFIDENCE_EDGES],
            "height": [0.0, *(round(edge, 4) for edge in HEIGHT_EDGES)],
            "class": list(classes),
            "objects": [0.0, *OBJECTS_EDGES],
        }
        self._begin_anew("")

    def _begin_anew(self, model: str) -> None:
        self.psi: dict[str, float] = {}
        self.confidence: float | None = None
        self._model, self._learned_s = model, 0.0
        self._folded_s: float | None = None  # time of the last fold
        self._counted_s = -math.inf  # when the objects of a frame were counted last
        self._tracks: dict[int, _Track] = {}
        self._new = {feature: [0] * len(bins) for feature, bins in self._bins.items()}  # since the last fold
        self._recent = {feature: [0.0] * len(bins) for feature, bins in self._bins.items()}
        self._usual = {feature: [0.0] * len(bins) for feature, bins in self._bins.items()}

    def add(self, model: str, t_s: float, height_px: int, objects: Sequence[TrackedObject]) -> bool:
        """Take in what a frame's event says; True where ``psi`` and ``confidence`` are new.

        Args:
            model: its id.
            t_s: POSIX seconds of the frame.
            height_px: of the frame.
            objects: in it.
        """
        if model != self._model:
            self._begin_anew(model)
        if self._folded_s is None or t_s < self._folded_s:  # its beginning, or the source's clock was put back
            self._folded_s = self._counted_s = t_s
        for one in objects:
            track = self._tracks.get(one.track_id)
            if track is None:
                track = self._tracks[one.track_id] = _Track(self._classes[one.class_])
            track.frames, track.seen_s = track.frames + 1, t_s
            track.confidence += one.confidence
            track.height += (one.xyxy[3] - one.xyxy[1]) / height_px
        if t_s - self._counted_s >= OBJECTS_EVERY_S:
            self._counted_s = t_s
            self._new["objects"][bisect_right(OBJECTS_EDGES, len(objects))] += 1
        if t_s - self._folded_s < FOLD_S and len(self._tracks) <= MAX_TRACKS:
            return False
        self._fold(t_s)
        return True

    def _fold(self, t_s: float) -> None:
        surplus = MAX_TRACKS // 2 if len(self._tracks) > MAX_TRACKS else 0
        for i, (track_id, track) in enumerate(list(self._tracks.items())):
            if t_s - track.seen_s > OVER_S or i < surplus:
                self._new["confidence"][bisect_right(CONFIDENCE_EDGES, track.confidence / track.frames)] += 1
                self._new["height"][bisect_right(HEIGHT_EDGES, track.height / track.frames)] += 1
                self._new["class"][track.kind] += 1
                del self._tracks[track_id]
        passed_s = t_s - (self._folded_s or t_s)
        self._folded_s = t_s
        self._learned_s += min(passed_s, HOUR_S)  # a source that was away has not been learned from
        for kept, half_h in ((self._recent, self._config.recent_h), (self._usual, self._config.usual_h)):
            fade = 0.5 ** (passed_s / HOUR_S / half_h)
            for feature, new in self._new.items():
                kept[feature] = [old * fade + n for old, n in zip(kept[feature], new, strict=True)]
        self._new = {feature: [0] * len(bins) for feature, bins in self._bins.items()}
        self._judge()

    def _judge(self) -> None:
        self.psi = {}
        if self._learned_s >= self._config.learn_h * HOUR_S:
            compared = {feature: _psi(self._recent[feature], self._usual[feature]) for feature in FEATURES}
            self.psi = {feature: psi for feature, psi in compared.items() if psi is not None}
        weights = self._recent["confidence"]
        tracks = sum(weights)
        self.confidence = sum(map(float.__mul__, CONFIDENCE_MIDDLES, weights)) / tracks if tracks else None

    def report(self) -> DriftReport:
        """For people."""
        features = {}
        for feature, bins in self._bins.items():
            recent, usual = self._recent[feature], self._usual[feature]
            psi = self.psi.get(feature)
            features[feature] = Comparison(
                bins,
                _shares(recent),
                _shares(usual),
                round(sum(recent), 1),
                round(sum(usual), 1),
                None if psi is None else round(psi, 4),
            )
        return DriftReport(self._model, self._learned_s / HOUR_S, self._config.learn_h, features)

    def state(self) -> dict[str, Any]:
        """Everything that ``restore`` needs, as JSON types; tracks that have not ended are left out."""
        return {
            "model": self._model,
            "classes": list(self._classes),
            "learned_s": self._learned_s,
            "folded_s": self._folded_s,
            "new": self._new,
            "recent": self._recent,
            "usual": self._usual,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where the one that gave ``state`` stood, unless its histograms are of other bins."""
        bins = {feature: len(weights) for feature, weights in state["usual"].items()}
        if state["classes"] != list(self._classes) or bins != {feature: len(mine) for feature, mine in self._bins.items()}:
            return
        self._begin_anew(state["model"])
        self._learned_s, self._folded_s = state["learned_s"], state["folded_s"]
        for name, kept in (("new", self._new), ("recent", self._recent), ("usual", self._usual)):
            kept |= state[name]
        self._judge()


def _psi(recent: Sequence[float], usual: Sequence[float]) -> float | None:
    """None with too few samples; half a sample is added to each bin, so that none is empty."""
    n, m = sum(recent), sum(usual)
    if min(n, m) < MIN_SAMPLES:
        return None
    used = [(p, q) for p, q in zip(recent, usual, strict=True) if p or q]
    total = 0.0
    for weight, other in used:
        p, q = (weight + 0.5) / (n + 0.5 * len(used)), (other + 0.5) / (m + 0.5 * len(used))
        total += (p - q) * math.log(p / q)
    return max(0.0, total - (len(used) - 1) * (1 / n + 1 / m))


def _shares(weights: Sequence[float]) -> list[float]:
    total = sum(weights)
    return [round(weight / total, 4) if total else 0.0 for weight in weights]
