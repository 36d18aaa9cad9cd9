"""Replay: what the service would make of a clip's detections under other settings, measured against the truth.

Detections are kept down to a low confidence, so that only tracking and counting are done again: by the service's own
``SourceAnalyser``, with the same result as ``framewatch process`` under those settings.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from stream.analyser import SourceAnalyser
from stream.config import PipelineConfig
from stream.datasets.mot import MotTable
from stream.errors import ConfigError, DatasetError, Fault
from stream.evaluation.counts import CountsReport, evaluate_counts
from stream.evaluation.tracking import TrackingReport, evaluate_tracking
from stream.events import CountsEvent
from stream.tuning.clips import WatchedClip

Objective = Literal["overall", "idf1", "hota", "occupancy", "crossings"]
Part = Literal["tracking", "counts"]
PARTS: Mapping[Objective, tuple[Part, ...]] = {
    "overall": ("tracking", "counts"),
    "idf1": ("tracking",),
    "hota": ("tracking",),
    "occupancy": ("counts",),
    "crossings": ("counts",),
}
"""What must be measured for an objective."""
WEIGHTS = {"idf1": 2, "occupancy": 2, "crossings": 1}
"""Of the objective ``overall``. Crossings are few, so that their error holds the most luck."""


@dataclass(frozen=True)
class Settings:
    """What can be chosen; see ``DetectorConfig``, ``TrackerConfig`` and ``CountingConfig``."""

    confidence: float
    nms_iou: float
    low_confidence: float
    start_margin: float
    match_iou: float
    second_match_iou: float
    lost_s: float
    hidden_s: float
    enter_s: float
    leave_s: float
    unseen_s: float
    foot_inset: float
    upright: bool

    @classmethod
    def of(cls, config: PipelineConfig, detector: str) -> Settings:
        """The settings of a config."""
        model, tracker, counting = config.detectors[detector], config.tracker, config.counting
        return cls(
            confidence=model.confidence,
            nms_iou=model.nms_iou,
            low_confidence=tracker.low_confidence,
            start_margin=tracker.start_margin,
            match_iou=tracker.match_iou,
            second_match_iou=tracker.second_match_iou,
            lost_s=tracker.lost_s,
            hidden_s=tracker.hidden_s,
            enter_s=counting.enter_s,
            leave_s=counting.leave_s,
            unseen_s=counting.unseen_s,
            foot_inset=counting.foot_inset,
            upright=counting.upright,
        )

    def fragment(self, detector: str) -> dict[str, dict[str, Any]]:
        """The part of a config file that holds these settings."""
        values = asdict(self)
        of_detector = ("confidence", "nms_iou")
        of_counting = ("enter_s", "leave_s", "unseen_s", "foot_inset", "upright")
        return {
            "detectors": {detector: {name: values[name] for name in of_detector}},
            "tracker": {name: value for name, value in values.items() if name not in (*of_detector, *of_counting)},
            "counting": {name: values[name] for name in of_counting},
        }

    def applied(self, config: PipelineConfig, detector: str) -> PipelineConfig:
        """The config with these settings."""
        parts = self.fragment(detector)
        models = dict(config.detectors)
        models[detector] = models[detector].model_copy(update=parts["detectors"][detector])
        return config.model_copy(
            update={
                "detectors": models,
                "tracker": config.tracker.model_copy(update=parts["tracker"]),
                "counting": config.counting.model_copy(update=parts["counting"]),
            }
        )


@dataclass(frozen=True)
class Figures:
    """How good the settings are, over all clips. None where it was not measured or there is no truth.

    Attributes:
        idf1, hota, mota: means over the clips, 0..1 (MOTA may be below 0).
        switches: identity switches in all clips.
        occupancy_error: sum of absolute errors by sum of true occupancies, over all windows of all zones.
        occupancy_mae: mean absolute error of a window, in objects.
        crossings_error: absolute errors of every line's and direction's total by true crossings.
        true_crossings: so many are known; of a few dozen the error is mostly luck.
    """

    idf1: float | None = None
    hota: float | None = None
    mota: float | None = None
    switches: int | None = None
    occupancy_error: float | None = None
    occupancy_mae: float | None = None
    crossings_error: float | None = None
    true_crossings: int | None = None

    def score(self, objective: Objective) -> float | None:
        """What is to be maximised; None where it was not measured.

        ``overall`` is the mean of IDF1, 1 - occupancy error and 1 - crossings error, each at least 0, weighted by ``WEIGHTS``,
        without those that have no truth.
        """
        parts = {
            "idf1": self.idf1,
            "hota": self.hota,
            "occupancy": None if self.occupancy_error is None else 1 - self.occupancy_error,
            "crossings": None if self.crossings_error is None else 1 - self.crossings_error,
        }
        if objective != "overall":
            return parts[objective]
        known = {name: max(0.0, part) for name in WEIGHTS if (part := parts[name]) is not None}
        total = sum(WEIGHTS[name] for name in known)
        return sum(WEIGHTS[name] * part for name, part in known.items()) / total if known else None


class Replay:
    """Measures settings on clips.

    Args:
        config: what is not chosen.
        detector: the detector's name in it.
        classes: the model's class names.
        clips: with detections down to the lowest confidence that will be asked for.

    Raises:
        ConfigError: a zone asks for a class that the model does not know.
    """

    def __init__(self, config: PipelineConfig, detector: str, classes: tuple[str, ...], clips: Sequence[WatchedClip]):
        self._config, self._detector, self._classes, self._clips = config, detector, classes, clips
        for watched in clips:
            source = watched.clip.source.model_copy(update={"detector": detector})
            faults = config.model_copy(update={"sources": [source]}).class_faults({detector: classes})
            if faults:
                raise ConfigError(str(watched.clip.folder), [Fault(fault.key, fault.reason) for fault in faults])

    def measure(self, settings: Settings, parts: Collection[Part] = ("tracking", "counts")) -> Figures:
        """The figures of some settings; parts without truth stay None."""
        config = settings.applied(self._config, self._detector)
        tracking: list[TrackingReport] = []
        counting: list[CountsReport] = []
        for watched in self._clips:
            tracks, counts = replay(watched, config, self._detector, self._classes)
            clip = watched.clip
            try:
                if "tracking" in parts and clip.tracks is not None:
                    tracking.append(evaluate_tracking(_analysed(clip.tracks, watched), tracks))
                if "counts" in parts and clip.counts:
                    counting.append(evaluate_counts(clip.counts, counts))
            except DatasetError as error:
                raise DatasetError(f"{clip.folder}: {error}") from error
        figures = _of_tracking(tracking) if tracking else Figures()
        return replace(figures, **_of_counts(counting)) if counting else figures


def replay(
    watched: WatchedClip, config: PipelineConfig, detector: str, classes: tuple[str, ...]
) -> tuple[MotTable, list[CountsEvent]]:
    """The tracks and counts that the service reports of a clip with this config."""
    clip = watched.clip
    if clip.counts:  # counts compare only over windows of one length, and nothing else depends on it
        length_s = (clip.counts[0].window_end - clip.counts[0].window_start).total_seconds()
        config = config.model_copy(update={"counting": config.counting.model_copy(update={"window_s": length_s})})
    model = config.detectors[detector]
    analyser = SourceAnalyser.of(config, clip.source.model_copy(update={"detector": detector}), classes)
    events: list[CountsEvent] = []
    frame, ids, xyxy = [], [], []
    for info, found in zip(watched.frames, watched.found[model.nms_iou], strict=True):
        tracked, _ = analyser.update(info, found, 0.0)
        events += analyser.counter.windows()
        reported = tracked[tracked.confidence.astype(np.float64) >= model.confidence]
        frame.append(np.full(len(reported), info.frame_index + 1))
        ids.append(reported.track_id)
        xyxy.append(reported.xyxy)
    events += analyser.counter.finish()
    corners = np.concatenate(xyxy).astype(np.float64)
    corners[:, 2:] -= corners[:, :2]
    return MotTable.of(np.concatenate(frame), np.concatenate(ids), corners), events


def _analysed(truth: MotTable, watched: WatchedClip) -> MotTable:
    """The truth of the frames that were analysed."""
    return truth[np.isin(truth.frame, [info.frame_index + 1 for info in watched.frames])]


def _of_tracking(reports: Sequence[TrackingReport]) -> Figures:
    return Figures(
        idf1=float(np.mean([report.idf1 for report in reports])),
        hota=float(np.mean([report.hota for report in reports])),
        mota=float(np.mean([report.mota for report in reports])),
        switches=sum(len(report.switches) for report in reports),
    )


def _of_counts(reports: Sequence[CountsReport]) -> dict[str, Any]:
    """All clips as one report: so a clip with few people does not count for more than it holds."""
    whole = replace(
        reports[0],
        zones=tuple(zone for report in reports for zone in report.zones),
        lines=tuple(line for report in reports for line in report.lines),
    )
    return {
        "occupancy_error": _known(whole.occupancy_mae_percent / 100),
        "occupancy_mae": _known(whole.occupancy_mae),
        "crossings_error": _known(whole.crossings_error_percent / 100),
        "true_crossings": sum(line.truth for line in whole.lines),
    }


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
