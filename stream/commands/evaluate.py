"""``framewatch evaluate``: results against the truth."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from stream.commands.finite import Finite
from stream.commands.progress import progress_bar

if TYPE_CHECKING:
    from stream.datasets.coco import CocoDataset
    from stream.evaluation.predictions import Prediction
    from stream.evaluation.summary import Limit, Summary

FAILED = 1
AnyFile = click.Path(path_type=Path)


class Output(NamedTuple):
    """Where the figures go, and what they must keep."""

    json_path: str | None
    html_path: Path | None
    limits: list[Limit]


@click.group()
def evaluate() -> None:
    """Measure results against the truth: a table, JSON, an HTML page, and an exit code for CI.

    Exit code 1 where a --min or --max is not kept. The names of the figures are those of the table.
    """


def output_options(command: Callable[..., None]) -> Callable[..., None]:
    """``--json``, ``--html``, ``--min`` and ``--max``."""
    for option in reversed(
        [
            click.option(
                "--json", "json_path", metavar="FILE|-", help="Write the figures as JSON (-: to stdout, the table to stderr)."
            ),
            click.option("--html", "html_path", type=AnyFile, metavar="FILE", help="Write one self-contained page."),
            click.option("--min", "minima", multiple=True, metavar="FIGURE=VALUE", help="Fail below this; repeatable."),
            click.option("--max", "maxima", multiple=True, metavar="FIGURE=VALUE", help="Fail above this; repeatable."),
        ]
    ):
        command = option(command)
    return command


iou_option = click.option(
    "--iou", type=Finite(0, 1, min_open=True), default=0.5, show_default=True, help="Least overlap of a match."
)
visibility_option = click.option(
    "--min-visibility",
    type=Finite(0, 1),
    default=0.0,
    show_default=True,
    help="True objects less visible than this are neither right nor wrong to find.",
)
worst_option = click.option(
    "--worst", type=click.IntRange(min=0), default=12, show_default=True, help="Worst pictures on the page."
)
offset_option = click.option(
    "--offset-s", type=Finite(), default=0.0, show_default=True, help="Seconds added to the times of the truth."
)


@evaluate.command()
@click.argument("truth_path", metavar="TRUTH.json", type=AnyFile)
@click.argument("result_path", metavar="[RESULT.json|EVENTS.jsonl]", type=AnyFile, required=False)
@click.option("--model", help="Run this model on the pictures instead of reading results.")
@click.option(
    "--confidence",
    type=Finite(0, 1, min_open=True, max_open=True),
    default=0.01,
    show_default=True,
    help="--model: report objects down to this; low, or the average precision is cut off.",
)
@click.option("--nms-iou", type=Finite(0, 1, min_open=True), default=0.5, show_default=True, help="--model: as in the config.")
@click.option("--at", type=Finite(0, 1), metavar="CONFIDENCE", help="Operating point (default: that of the best F1).")
@click.option("--class", "classes", multiple=True, metavar="NAME", help="Only this class; repeatable.")
@click.option("--source-id", help="EVENTS.jsonl: whose events, where there are several sources.")
@click.option("--save", type=AnyFile, metavar="FILE", help="--model: write what was found as COCO results.")
@iou_option
@visibility_option
@worst_option
@output_options
def detections(
    truth_path: Path,
    result_path: Path | None,
    model: str | None,
    confidence: float,
    nms_iou: float,
    at: float | None,
    classes: tuple[str, ...],
    source_id: str | None,
    save: Path | None,
    iou: float,
    min_visibility: float,
    worst: int,
    **output: Any,
) -> None:
    """Boxes against labelled boxes (COCO).

    The boxes come from COCO results (a JSON list), from the tracks events that `framewatch process --out` wrote for the
    video whose frames are labelled, or from --model.
    """
    from stream.datasets.coco import read_coco
    from stream.evaluation.detections import evaluate_detections, only_classes
    from stream.evaluation.gallery import worst_pictures
    from stream.evaluation.predictions import predictions_of_events, read_predictions, write_predictions
    from stream.evaluation.summaries import Compared, of_detections

    if (model is None) == (result_path is None):
        raise click.UsageError("give either a file of results or --model")
    if save is not None and model is None:
        raise click.UsageError("--save needs --model")
    out = _output([truth_path, result_path], save, **output)
    labels = read_coco(truth_path)
    truth = only_classes(labels, classes) if classes else labels
    notes: tuple[str, ...] = ()
    if model is not None:
        predictions, model_id = _found_by_model(model, confidence, nms_iou, truth, truth_path.parent)
        notes = (
            f"Boxes of {model_id} from confidence {confidence:g}, suppressed at IoU {nms_iou:g}; pictures scaled as in service.",
        )
        if save is not None:
            write_predictions(save, predictions)
    elif result_path is not None and result_path.suffix == ".jsonl":
        truth, predictions, not_analysed, not_labelled = predictions_of_events(result_path, truth, source_id)
        notes = (
            f"Of the frames, {not_analysed} are labelled but not analysed, {not_labelled} analysed but not labelled: in no figure.",
            "Events hold tracked objects above the detector's confidence only: the average precision is cut off there.",
        )
    else:
        assert result_path is not None
        predictions = read_predictions(result_path, labels)
        wanted = {category.id for category in truth.categories}
        predictions = [prediction for prediction in predictions if prediction.category_id in wanted]
    report = evaluate_detections(truth, predictions, confidence=at, iou=iou, min_visibility=min_visibility)
    names = {
        image.id: image.file_name + (f" #{image.frame_index}" if image.frame_index is not None else "") for image in truth.images
    }
    snapshots = worst_pictures(truth, report, truth_path.parent, worst) if out.html_path and worst else ()
    compared = Compared(str(truth_path), model or str(result_path), notes)
    _finish(of_detections(report, compared, names, snapshots), out)


@evaluate.command()
@click.argument("truth_path", metavar="TRUTH.txt", type=AnyFile)
@click.argument("result_path", metavar="RESULT.txt|EVENTS.jsonl", type=AnyFile)
@click.option("--source-id", help="EVENTS.jsonl: whose events, where there are several sources.")
@iou_option
@visibility_option
@output_options
def tracking(truth_path: Path, result_path: Path, source_id: str | None, iou: float, min_visibility: float, **output: Any) -> None:
    """Tracks against true tracks.

    Both are MOTChallenge files; the result may be the tracks events of a video. The first frame of a video is frame 1
    of the truth. Frames that were not analysed (--fps) are left out of the truth.
    """
    import numpy as np

    from stream.datasets.mot import read_mot
    from stream.evaluation.summaries import Compared, of_tracking
    from stream.evaluation.tracking import evaluate_tracking, tracks_of_events

    out = _output([truth_path, result_path], **output)
    truth, notes = read_mot(truth_path), []
    if result_path.suffix == ".jsonl":
        result, analysed = tracks_of_events(result_path, source_id)
        kept = np.isin(truth.frame, analysed)
        left_out = len(np.setdiff1d(truth.frame, analysed))
        notes.append(f"{len(analysed)} frames were analysed; {left_out} frames of the truth were not, and are in no figure.")
        truth = truth[kept]
    else:
        result = read_mot(result_path)
    report = evaluate_tracking(truth, result, iou=iou, min_visibility=min_visibility)
    _finish(of_tracking(report, Compared(str(truth_path), str(result_path), tuple(notes))), out)


@evaluate.command()
@click.argument("truth_path", metavar="TRUTH.jsonl", type=AnyFile)
@click.argument("result_path", metavar="RESULT.jsonl", type=AnyFile)
@click.option(
    "--source-id",
    "sources",
    multiple=True,
    metavar="TRUTH=RESULT",
    help="A source's id in the truth and in the result; repeatable.",
)
@offset_option
@output_options
def counts(truth_path: Path, result_path: Path, sources: tuple[str, ...], offset_s: float, **output: Any) -> None:
    """Zone and line counts against true ones.

    Counts events on both sides; other events are passed over. Windows are paired by source, zone or line, and time;
    those on one side only are told, and are in no figure.
    """
    from stream.evaluation.counts import evaluate_counts
    from stream.evaluation.records import read_events
    from stream.evaluation.summaries import Compared, of_counts
    from stream.events import CountsEvent

    out = _output([truth_path, result_path], **output)
    pairs = dict(_pair(text) for text in sources)
    truth, result = read_events(truth_path, CountsEvent), read_events(result_path, CountsEvent)
    report = evaluate_counts(truth, result, sources=pairs, offset_s=offset_s)
    _finish(of_counts(report, Compared(str(truth_path), str(result_path))), out)


@evaluate.command()
@click.argument("truth_path", metavar="TRUTH.jsonl|TRUTH.csv", type=AnyFile)
@click.argument("result_path", metavar="RESULT.jsonl", type=AnyFile)
@click.option("--tolerance-s", type=Finite(min=0), default=5.0, show_default=True, help="How far apart a pair may be in time.")
@offset_option
@output_options
def alerts(truth_path: Path, result_path: Path, tolerance_s: float, offset_s: float, **output: Any) -> None:
    """Alerts against true alerts.

    Both are alert events, or rows of rule, start and end (CSV, JSON lines). A raised alert is right where it overlaps a
    true one of the same rule, up to the tolerance; each counts once.
    """
    from stream.evaluation.alerts import evaluate_alerts, read_episodes
    from stream.evaluation.summaries import Compared, of_alerts

    out = _output([truth_path, result_path], **output)
    report = evaluate_alerts(read_episodes(truth_path), read_episodes(result_path), tolerance_s=tolerance_s, offset_s=offset_s)
    note = f"Alerts of one rule that lie up to {tolerance_s:g} s apart can be a pair."
    _finish(of_alerts(report, Compared(str(truth_path), str(result_path), (note,))), out)


@evaluate.command()
@click.argument("truth_path", metavar="TRUTH.csv|TRUTH.jsonl", type=AnyFile)
@click.argument("result_path", metavar="RESULT.csv|RESULT.jsonl", type=AnyFile)
@output_options
def classification(truth_path: Path, result_path: Path, **output: Any) -> None:
    """Classes against true classes, by id.

    CSV with a head line, or JSON lines: the truth has id and label; the result has id and label, or id and scores (CSV:
    a
    column of scores per class; JSON: an object of scores by class).
    """
    from stream.evaluation.classification import evaluate_classification, read_answers, read_labels
    from stream.evaluation.summaries import Compared, of_classification

    out = _output([truth_path, result_path], **output)
    report = evaluate_classification(read_labels(truth_path), read_answers(result_path))
    _finish(of_classification(report, Compared(str(truth_path), str(result_path))), out)


@evaluate.command()
@click.argument("truth_path", metavar="TRUTH", type=AnyFile)
@click.argument("result_path", metavar="RESULT", type=AnyFile)
@click.option("--binary", is_flag=True, help="Every value but 0 is one class (masks that number the objects).")
@click.option(
    "--ignore", type=click.IntRange(0, 255), metavar="VALUE", help="True pixels of this value are in no figure (often 255)."
)
@worst_option
@output_options
def segmentation(truth_path: Path, result_path: Path, binary: bool, ignore: int | None, worst: int, **output: Any) -> None:
    """Masks against true masks.

    Folders of one-channel PNG files of the same names, or COCO label files with masks. A pixel's value is its class; 0
    is the background.
    """
    from stream.evaluation.gallery import worst_masks
    from stream.evaluation.segmentation import evaluate_segmentation, open_masks
    from stream.evaluation.summaries import Compared, of_segmentation

    out = _output([truth_path, result_path], **output)
    truth, result = open_masks(truth_path), open_masks(result_path)
    with progress_bar("Masks", len(truth.read)) as advance:
        report = evaluate_segmentation(truth, result, binary=binary, ignore=ignore, progress=advance)
    snapshots = worst_masks(truth, result, report, worst, binary=binary, ignore=ignore) if out.html_path and worst else ()
    _finish(of_segmentation(report, Compared(str(truth_path), str(result_path)), snapshots), out)


def _output(
    inputs: Sequence[Path | None],
    save: Path | None = None,
    *,
    json_path: str | None,
    html_path: Path | None,
    minima: tuple[str, ...],
    maxima: tuple[str, ...],
) -> Output:
    """What the options say; none of the files may be one that is read."""
    from stream.errors import ConfigError, Fault
    from stream.evaluation.summary import parse_limits
    from stream.files import is_any_of

    read = [path for path in inputs if path is not None]
    written = {"--json": None if json_path in (None, "-") else Path(str(json_path)), "--html": html_path, "--save": save}
    faults = [Fault(option, f"{path} is an input") for option, path in written.items() if path and is_any_of(path, read)]
    if faults:
        raise ConfigError("framewatch evaluate", faults)
    return Output(json_path, html_path, parse_limits(minima, maxima))


def _finish(summary: Summary, out: Output) -> None:
    """Show and write the figures; exit 1 where a limit is not kept."""
    from rich.console import Console

    from stream.evaluation.summary import broken, print_summary
    from stream.files import write_text

    print_summary(summary, Console(stderr=out.json_path == "-", highlight=False))  # first: they have cost most
    faults = broken(out.limits, summary.metrics)
    if out.html_path is not None:
        from stream.evaluation.page import render_page

        write_text(out.html_path, render_page(summary))
    if out.json_path == "-":
        click.echo(summary.to_json())
    elif out.json_path is not None:
        write_text(Path(out.json_path), summary.to_json() + "\n")
    for fault in faults:
        click.echo(f"framewatch: {fault}", err=True)
    if faults:
        sys.exit(FAILED)


def _found_by_model(
    model: str, confidence: float, nms_iou: float, truth: CocoDataset, folder: Path
) -> tuple[list[Prediction], str]:
    """What a model finds in the pictures, and its identity."""
    from stream.config import DetectorConfig
    from stream.detectors.registry import describe_model, load_detector
    from stream.evaluation.predictions import predict

    config = DetectorConfig(model=model, confidence=confidence, nms_iou=nms_iou)
    known = describe_model(config, Path(model).stem, check=False).classes
    wanted = [name for name in known if name in truth.class_names]
    detector = load_detector(Path(model).stem, config.model_copy(update={"classes": wanted or None}), confidence)
    try:
        with progress_bar("Pictures", len(truth.images)) as advance:
            return predict(detector, truth, folder, progress=advance), detector.model_id
    finally:
        detector.close()


def _pair(text: str) -> tuple[str, str]:
    mine, equals, theirs = text.partition("=")
    if not (mine and equals and theirs):
        raise click.UsageError(f"--source-id: {text!r} is not TRUTH=RESULT")
    return mine, theirs
