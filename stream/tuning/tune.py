"""Tuning: thresholds, tracker and counting settings chosen on validation clips, never on test clips."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import yaml

from stream.clock import SystemClock
from stream.config import DetectorConfig, PipelineConfig
from stream.config_file import load_config
from stream.datasets.files import sha256, shared_file
from stream.detectors.base import Detector
from stream.detectors.files import named_model_file, read_model_file
from stream.detectors.registry import load_detector
from stream.detectors.spec import BoxesOutput
from stream.errors import ConfigError, DatasetError, Fault
from stream.files import check_writable, write_text
from stream.sources.file import FileSource
from stream.tuning.clips import Clip, WatchedClip, read_clips, watch
from stream.tuning.replay import PARTS, Figures, Objective, Replay, Settings
from stream.tuning.scorer import Scorer
from stream.tuning.search import GRID, search


@dataclass(frozen=True, slots=True)
class Request:
    """The command line of ``framewatch tune``.

    Attributes:
        config_path: what is to be tuned; its sources do not matter.
        data: folders of validation clips.
        test: folders of clips that are measured once, at the end.
        out: the YAML fragment to write; the report lies beside it with the ending ``.json``.
        objective: what is maximised, see ``Figures.score``.
        detector: name in the config; None takes the first.
        fps: analysed frames per second; None takes each clip's own.
        trials, seed: of the search, see ``search``.
    """

    config_path: Path
    data: tuple[Path, ...]
    test: tuple[Path, ...]
    out: Path
    objective: Objective
    detector: str | None
    fps: float | None
    trials: int
    seed: int


class Steps(Protocol):
    """Told how the work goes on."""

    def begin(self, what: str, total: float | None) -> None:
        """A step of this size begins; None where nobody knows."""

    def advance(self, by: float) -> None:
        """So much more of it is done."""


class Result(NamedTuple):
    """Settings with their figures on validation clips, and on test clips where there are any."""

    settings: Settings
    validation: Figures
    test: Figures | None


@dataclass(frozen=True)
class Tuned:
    """What came out.

    Attributes:
        before, after: the config's settings and the chosen ones.
        detector: its name in the config.
        model_id: what detected.
        validation, test: the clips.
        trials: different settings that were scored.
    """

    before: Result
    after: Result
    detector: str
    model_id: str
    validation: tuple[Clip, ...]
    test: tuple[Clip, ...]
    trials: int


class _Bench(NamedTuple):
    """Clips ready to be measured on, and what detected in them."""

    replay: Replay
    model_id: str


def tune(request: Request, steps: Steps) -> Tuned:
    """Choose settings on the validation clips, measure them on the test clips, write fragment and report.

    Raises:
        ConfigError: the config is wrong, has no such detector, or does not say which class is to be tracked; or ``out``
            cannot be written, or would overwrite the config or lie among the files of a clip.
        DatasetError: a clip or its truth cannot be used, or is given twice.
        ModelError: the model cannot be used.
        SourceError: a video cannot be read.
    """
    if request.out.suffix not in (".yaml", ".yml"):
        raise _refused(f"must end in .yaml (found {request.out})")
    config = load_config(request.config_path)
    name = request.detector or next(iter(config.detectors))
    if name not in config.detectors:
        raise ConfigError(
            str(request.config_path), [Fault("detectors", f"no detector {name!r}; there is {', '.join(config.detectors)}")]
        )
    grid = _grid(name, config.detectors[name], request)
    validation = _clips(request.data, request.fps)
    test = _clips(request.test, request.fps)
    _check_apart(validation, test)
    _check_truth(validation, request.objective)
    _check_out(request, [*validation, *test])

    before = Settings.of(config, name)
    ious = {before.nms_iou, *grid.get("nms_iou", ())}
    bench = _bench(config, name, ious, validation, steps)
    steps.begin("searching", request.trials)
    with Scorer(bench.replay, request.objective) as score:
        choice = search(before, grid, score, trials=request.trials, seed=request.seed, progress=steps.advance)
    after = choice.best.settings
    write_text(request.out, _fragment(after, name, validation, request))  # at once: a bad test clip must not cost the search
    trial = _bench(config, name, {before.nms_iou, after.nms_iou}, test, steps) if test else None
    results = [
        Result(settings, bench.replay.measure(settings), trial.replay.measure(settings) if trial else None)
        for settings in (before, after)
    ]
    tuned = Tuned(results[0], results[1], name, bench.model_id, tuple(validation), tuple(test), choice.trials)
    write_text(report_path(request.out), json.dumps(_report(tuned, request), indent=2) + "\n")
    return tuned


def report_path(out: Path) -> Path:
    """Where the report of a fragment lies."""
    return out.with_suffix(".json")


def _grid(name: str, config: DetectorConfig, request: Request) -> dict[str, Sequence[float]]:
    """What is to be tried for this model and objective.

    Raises:
        ConfigError: the model knows several classes and the config does not say which.
    """
    file = named_model_file(config.model_name) if config.model_name else read_model_file(config.model)
    if config.classes is None and len(file.spec.classes) > 1:
        known = ", ".join(file.spec.classes[:5])
        reason = f"name the classes that the truth is of; the model knows {len(file.spec.classes)} ({known}, ...)"
        raise ConfigError(str(request.config_path), [Fault(f"detectors.{name}.classes", reason)])
    unused = set()
    if isinstance(file.spec.output, BoxesOutput) and not file.spec.output.nms:
        unused.add("nms_iou")
    if "counts" not in PARTS[request.objective]:
        unused |= {"enter_s", "leave_s", "unseen_s", "foot_inset", "upright", "hidden_s"}
    return {name: values for name, values in GRID.items() if name not in unused}


def _clips(folders: Iterable[Path], fps: float | None) -> list[Clip]:
    return [clip for folder in folders for clip in read_clips(folder, fps)]


def _check_out(request: Request, clips: Sequence[Clip]) -> None:
    """The fragment and the report can be written, and neither the config nor a clip's files are lost by it.

    Raises:
        ConfigError: see ``tune``.
    """
    folders = {clip.folder.resolve() for clip in clips}
    for path in (request.out, report_path(request.out)):
        if path.resolve() == request.config_path.resolve():
            raise _refused(f"{path} is the config; it would be overwritten")
        if path.resolve().parent in folders:
            raise _refused(f"{path} would lie among the files of a clip; name another folder")
        if path.is_dir():
            raise _refused(f"{path} is a folder")
    try:
        check_writable(request.out)
    except OSError as error:
        raise _refused(f"{request.out} cannot be written: {error.strerror or error}") from error


def _refused(reason: str) -> ConfigError:
    return ConfigError("framewatch tune", [Fault("--out", reason)])


def _check_apart(validation: Sequence[Clip], test: Sequence[Clip]) -> None:
    """No video may decide twice, and none of the test may decide at all."""
    shared = shared_file((clip.video for clip in validation), (clip.video for clip in test))
    if shared is not None:
        raise DatasetError(f"{shared[0]}: is in --data and in --test ({shared[1]}); the test would flatter")
    for clips in (validation, test):
        for i, clip in enumerate(clips):
            shared = shared_file([clip.video], (other.video for other in clips[:i]))
            if shared is not None:
                raise DatasetError(f"{shared[0]}: is given twice; first as {shared[1]}")


def _check_truth(clips: Sequence[Clip], objective: Objective) -> None:
    """Every validation clip has the truth that its objective needs."""
    for clip in clips:
        if "tracking" in PARTS[objective] and clip.tracks is None:
            raise DatasetError(f"{clip.folder}: objective {objective} needs tracks.txt, which is not there")
        if "counts" in PARTS[objective] and not clip.counts:
            raise DatasetError(f"{clip.folder}: objective {objective} needs counts.jsonl, which is not there")


def _bench(config: PipelineConfig, name: str, ious: Iterable[float], clips: Sequence[Clip], steps: Steps) -> _Bench:
    """Detect, once for each of the ``nms_iou``, down to the lowest confidence that may be asked for."""
    floor = min(config.tracker.low_confidence, *GRID["low_confidence"])
    with ExitStack() as stack:
        detectors: dict[float, Detector] = {
            iou: stack.enter_context(
                closing(load_detector(name, config.detectors[name].model_copy(update={"nms_iou": iou}), floor))
            )
            for iou in sorted(ious)
        }
        watched = [_watched(clip, detectors, steps) for clip in clips]
        first = next(iter(detectors.values()))
        return _Bench(Replay(config, name, first.classes, watched), first.model_id)


def _watched(clip: Clip, detectors: Mapping[float, Detector], steps: Steps) -> WatchedClip:
    with FileSource(clip.source, SystemClock()) as opened:
        steps.begin(f"detecting in {clip.folder.name}", opened.duration_s)
    done_s = 0.0

    def progress(pts_s: float) -> None:
        nonlocal done_s
        steps.advance(pts_s - done_s)
        done_s = pts_s

    return watch(clip, detectors, progress)


def _fragment(settings: Settings, detector: str, validation: Sequence[Clip], request: Request) -> str:
    clips = ", ".join(clip.folder.name for clip in validation)
    head = f"# Chosen by framewatch tune for {request.objective} on {clips}. Merge into the config.\n"
    return head + yaml.safe_dump(settings.fragment(detector), sort_keys=False, allow_unicode=True)


def _report(tuned: Tuned, request: Request) -> dict[str, Any]:
    def clips(some: Iterable[Clip]) -> list[dict[str, Any]]:
        return [{"folder": str(clip.folder), "sha256": sha256(clip.video), "fps": clip.source.fps} for clip in some]

    def result(one: Result) -> dict[str, Any]:
        return {
            "settings": asdict(one.settings),
            "validation": asdict(one.validation),
            "test": asdict(one.test) if one.test else None,
        }

    return {
        "objective": request.objective,
        "seed": request.seed,
        "trials": tuned.trials,
        "model": tuned.model_id,
        "clips": {"validation": clips(tuned.validation), "test": clips(tuned.test)},
        "before": result(tuned.before),
        "after": result(tuned.after),
    }
