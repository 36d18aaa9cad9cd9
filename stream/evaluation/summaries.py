"""From each kind of report to its summary: which figures stand first, and what a reader must know of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from stream.evaluation.alerts import AlertsReport, Episode
from stream.evaluation.charts import Chart, Line, Mark
from stream.evaluation.classification import ClassificationReport
from stream.evaluation.counts import CountsReport, ZoneReport, percent
from stream.evaluation.detections import DetectionReport
from stream.evaluation.gallery import BOX_LEGEND, MASK_LEGEND
from stream.evaluation.segmentation import SegmentationReport
from stream.evaluation.summary import Matrix, Metric, Snapshot, Summary, Table
from stream.evaluation.tracking import TrackingReport

SHOWN_CLASSES = 8  # lines of a chart
SHOWN_PICTURES = 12  # rows of a table of the worst
NOTHING = "(nothing)"
YEAR_S = 365 * 86_400  # a time above it is of the wall clock, one below it of a video


@dataclass(frozen=True)
class Compared:
    """What was compared, as the command line names it, and what the reader must know of that."""

    truth: str
    result: str
    notes: tuple[str, ...] = ()


def of_detections(
    report: DetectionReport, compared: Compared, names: dict[int, str], snapshots: tuple[Snapshot, ...] = ()
) -> Summary:
    """Summary of detections.

    Args:
        report: the figures.
        compared: for the head of the page.
        names: of the pictures, by id.
        snapshots: the worst pictures.
    """
    at, best = report.at, report.best_f1
    metrics = (
        Metric("ap50", "AP50", report.ap50, headline=True, hint="average precision at IoU 0.50"),
        Metric("ap", "AP", report.ap, headline=True, hint="mean over IoU 0.50 to 0.95, COCO's main figure"),
        Metric("ap75", "AP75", report.ap75, hint="average precision at IoU 0.75"),
        Metric("ap_small", "AP small", report.ap_small, hint="objects under 32 x 32 pixels"),
        Metric("ap_medium", "AP medium", report.ap_medium, hint="up to 96 x 96"),
        Metric("ap_large", "AP large", report.ap_large, hint="above"),
        Metric("ar_1", "AR 1", report.ar_1, hint="average recall with 1 box a picture"),
        Metric("ar_10", "AR 10", report.ar_10, hint="with 10"),
        Metric("ar_100", "AR 100", report.ar_100, hint="with 100"),
        Metric("ar_small", "AR small", report.ar_small),
        Metric("ar_medium", "AR medium", report.ar_medium),
        Metric("ar_large", "AR large", report.ar_large),
        Metric("threshold", "Threshold", at.threshold, hint="the operating point: confidence from which boxes count"),
        Metric("precision", "Precision", at.precision, headline=True, hint=f"at confidence {at.threshold:.2f}"),
        Metric("recall", "Recall", at.recall, headline=True, hint=f"at confidence {at.threshold:.2f}"),
        Metric("f1", "F1", at.f1, headline=True, hint=f"at confidence {at.threshold:.2f}"),
        Metric("best_f1", "Best F1", best.f1, headline=True, hint=f"at confidence {best.threshold:.2f}"),
        Metric("best_threshold", "Best threshold", best.threshold, hint="confidence of the best F1"),
        Metric("images", "Pictures", report.images, "count"),
        Metric("objects", "Objects", report.objects, "count"),
        Metric("ignored", "Left out", report.ignored, "count", hint="crowds and hidden objects: neither right nor wrong to find"),
        Metric("predictions", "Boxes", report.predictions, "count", hint="found at any confidence"),
    )
    per_class = Table(
        "Classes",
        ("class", "objects", "AP", "AP50", "precision", "recall", "F1", "best F1", "best threshold"),
        tuple(
            (c.name, c.objects, c.ap, c.ap50, c.at.precision, c.at.recall, c.at.f1, c.best_f1.f1, c.best_f1.threshold)
            for c in report.classes
        ),
        hint=f"precision, recall and F1 at confidence {at.threshold:.2f} and IoU {report.iou:g}",
    )
    worst = Table(
        "Worst pictures",
        ("picture", "F1", "right", "missed", "wrong"),
        tuple(
            (names[p.image_id], p.point.f1, p.point.right, p.point.missed, p.point.wrong) for p in report.pictures[:SHOWN_PICTURES]
        ),
        hint=f"at confidence {at.threshold:.2f}",
    )
    protocol = (
        f"AP and AR are COCO's; precision, recall, F1 and the confusion matrix are at IoU {report.iou:g}, "
        "over all classes together unless the class is named."
    )
    occurring = np.flatnonzero(report.confusion.sum(0) + report.confusion.sum(1))
    classes = (*(c.name for c in report.classes), NOTHING)
    shown = tuple(classes[i] for i in occurring)
    return Summary(
        "detections",
        compared.truth,
        compared.result,
        metrics,
        (per_class, worst),
        (
            Matrix(
                "Confusion matrix",
                shown,
                shown,
                report.confusion[np.ix_(occurring, occurring)],
                hint=f"rows: truth, columns: result, at confidence {at.threshold:.2f}",
            ),
        ),
        (protocol, *compared.notes),
        _detection_charts(report),
        snapshots,
        BOX_LEGEND if snapshots else (),
    )


def _detection_charts(report: DetectionReport) -> tuple[Chart, ...]:
    if not len(report.curve.threshold) or not report.objects:
        return ()
    at, curve = report.at, report.curve
    classes = sorted((c for c in report.classes if c.objects), key=lambda c: -c.objects)[:SHOWN_CLASSES]
    many = len(classes) > 1
    each = [Line(c.name, c.curve.recall, c.curve.precision) for c in classes] if many else []
    lines = [Line("all classes", curve.recall, curve.precision, color=1), *each]
    score = np.clip(curve.threshold, 0, 1)
    return (
        Chart(
            "Precision over recall",
            lines,
            ("recall", "precision"),
            unit_square=True,
            marks=[Mark(at.recall, at.precision, f"confidence {at.threshold:.2f}")],
            hint=f"IoU {report.iou:g}"
            + (f"; the {len(classes)} classes with most objects" if len(report.classes) > len(classes) else ""),
        ),
        Chart(
            "F1, precision and recall over confidence",
            [
                Line("F1", score, curve.f1),
                Line("precision", score, curve.precision, "--"),
                Line("recall", score, curve.recall, "--"),
            ],
            ("confidence", ""),
            unit_square=True,
            marks=[Mark(report.best_f1.threshold, report.best_f1.f1, f"best F1 at {report.best_f1.threshold:.2f}")],
            hint="what a higher threshold costs and gains",
        ),
    )


def of_tracking(report: TrackingReport, compared: Compared) -> Summary:
    """Summary of tracks."""
    metrics = (
        Metric("mota", "MOTA", report.mota, headline=True, hint="1 - (missed + wrong + switches) / true boxes"),
        Metric("idf1", "IDF1", report.idf1, headline=True, hint="boxes under the right identity, F1"),
        Metric("hota", "HOTA", report.hota, headline=True, hint="detection and association in balance"),
        Metric("deta", "DetA", report.deta, hint="detection part of HOTA"),
        Metric("assa", "AssA", report.assa, hint="association part of HOTA"),
        Metric("loca", "LocA", report.loca, hint="mean IoU of HOTA's matches"),
        Metric("motp", "MOTP", report.motp, hint="mean IoU of the matches, higher is better"),
        Metric("idp", "IDP", report.idp, hint="identity precision"),
        Metric("idr", "IDR", report.idr, hint="identity recall"),
        Metric("precision", "Precision", report.precision, headline=True, hint="share of the result boxes that match"),
        Metric("recall", "Recall", report.recall, headline=True, hint="share of the true boxes that are found"),
        Metric("switches", "Switches", len(report.switches), "count", True, "an object goes on under another id"),
        Metric("fragments", "Fragments", report.fragments, "count", hint="an object is lost and found again"),
        Metric("ids_per_object", "Ids per object", report.ids_per_object, "number", hint="1 is perfect"),
        Metric("mostly_tracked", "Mostly tracked", report.mostly_tracked, "count", hint="objects found in 80 % of their frames"),
        Metric("partly_tracked", "Partly tracked", report.partly_tracked, "count"),
        Metric("mostly_lost", "Mostly lost", report.mostly_lost, "count", hint="objects found in under 20 %"),
        Metric("frames", "Frames", report.frames, "count"),
        Metric("objects", "Objects", report.objects, "count", hint="different true ids"),
        Metric("tracks", "Tracks", report.tracks, "count", hint="different result ids"),
        Metric("boxes", "True boxes", report.boxes, "count"),
        Metric("missed", "Missed", report.missed, "count", hint="true boxes that nothing matches"),
        Metric("wrong", "Wrong", report.wrong, "count", hint="result boxes that match nothing"),
    )
    switches = Table("Switches", ("frame", "object", "track before", "track after"), tuple(report.switches))
    charts: tuple[Chart, ...] = ()
    if report.switches:
        frames = [switch.frame for switch in report.switches]
        line = Line("switches", [0, *frames, report.last_frame], [*range(len(frames) + 1), len(frames)], step=True)
        charts = (Chart("Switches over time", [line], ("frame", "switches so far"), wide=True),)
    protocol = "Everything but HOTA, DetA, AssA and LocA counts a match from the IoU that was asked for (0.5 by default)."
    return Summary("tracking", compared.truth, compared.result, metrics, (switches,), (), (protocol, *compared.notes), charts)


def of_counts(report: CountsReport, compared: Compared) -> Summary:
    """Summary of counts."""
    crossings = [(line.truth, line.result) for line in report.lines]
    entered, left = [zone.entered for zone in report.zones], [zone.left for zone in report.zones]
    metrics = (
        Metric(
            "occupancy_mae_percent",
            "Occupancy error",
            report.occupancy_mae_percent,
            "percent",
            True,
            "absolute errors of all windows in percent of the true occupancy",
        ),
        Metric(
            "occupancy_mae", "Occupancy MAE", report.occupancy_mae, "number", True, "mean absolute error of a window, in objects"
        ),
        Metric(
            "occupancy_bias", "Bias", report.occupancy_bias, "number", True, "mean error in objects; below 0: too few are counted"
        ),
        Metric("occupancy_max_error", "Greatest error", report.occupancy_max_error, "number", hint="of a window, in objects"),
        Metric(
            "crossings_error_percent",
            "Crossings error",
            report.crossings_error_percent,
            "percent",
            True,
            "errors of the totals of each line and direction in percent of the true crossings",
        ),
        Metric("crossings_truth", "True crossings", sum(a for a, _ in crossings), "count"),
        Metric("crossings_result", "Crossings counted", sum(b for _, b in crossings), "count"),
        Metric(
            "entered_error_percent", "Entered error", report.entered_error_percent, "percent", hint="the same, of zones entered"
        ),
        Metric("entered_truth", "Entered, truth", sum(a for a, _ in entered), "count"),
        Metric("entered_result", "Entered, counted", sum(b for _, b in entered), "count"),
        Metric("left_error_percent", "Left error", report.left_error_percent, "percent", hint="the same, of zones left"),
        Metric("left_truth", "Left, truth", sum(a for a, _ in left), "count"),
        Metric("left_result", "Left, counted", sum(b for _, b in left), "count"),
        Metric("windows", "Windows", report.paired, "count", hint="compared: on both sides"),
        Metric("windows_only_truth", "Only in the truth", report.only_truth, "count", hint="windows that no figure holds"),
        Metric("windows_only_result", "Only in the result", report.only_result, "count", hint="windows that no figure holds"),
    )
    names = [f"{zone.source_id}/{zone.zone}" for zone in report.zones]
    zones = Table(
        "Zones",
        ("source/zone", "windows", "true mean", "counted", "MAE", "MAE %", "bias", "greatest"),
        tuple(
            (name, len(z.truth), float(z.truth.mean()), float(z.result.mean()), z.mae, z.mae_percent, z.bias, z.max_error)
            for name, z in zip(names, report.zones, strict=True)
        ),
        hint="occupancy and its errors in objects",
    )
    passages = Table(
        "Entered and left",
        ("source/zone", "entered, true", "counted", "left, true", "counted"),
        tuple((name, *zone.entered, *zone.left) for name, zone in zip(names, report.zones, strict=True)),
    )
    lines = Table(
        "Lines",
        ("source/line", "direction", "true", "counted", "error", "error %"),
        tuple(
            (f"{s}/{line}", way, true, found, found - true, percent(abs(found - true), true))
            for s, line, way, true, found in report.lines
        ),
    )
    notes = []
    if report.only_truth or report.only_result:
        notes.append(
            f"{report.only_truth} windows are only in the truth and {report.only_result} only in the result: they are in no figure."
        )
    charts = tuple(_occupancy_chart(zone) for zone in report.zones)
    return Summary(
        "counts", compared.truth, compared.result, metrics, (zones, passages, lines), (), (*notes, *compared.notes), charts
    )


def _occupancy_chart(zone: ZoneReport) -> Chart:
    edges = np.append(zone.start_s, zone.start_s[-1] + zone.length_s)  # a window's value holds up to its end
    truth, counted = (np.append(values, values[-1]) for values in (zone.truth, zone.result))
    return Chart(
        f"Occupancy of {zone.source_id}/{zone.zone}",
        [Line("truth", edges, truth, color=2, step=True), Line("counted", edges, counted, color=1, step=True)],
        ("seconds", "objects"),
        hint=f"mean absolute error {zone.mae:.2f}, bias {zone.bias:+.2f}",
        wide=True,
    )


def of_alerts(report: AlertsReport, compared: Compared) -> Summary:
    """Summary of alerts."""
    raised, cleared = report.raise_delays_s, report.clear_delays_s
    metrics = (
        Metric("precision", "Precision", report.precision, headline=True, hint="share of the raised alerts that are true"),
        Metric("recall", "Recall", report.recall, headline=True, hint="share of the true alerts that were raised"),
        Metric("f1", "F1", report.f1, headline=True),
        Metric("raise_delay_mean_s", "Raised after", _mean(raised), "seconds", True, "mean delay; below 0: early"),
        Metric("raise_delay_p95_s", "Raised after, p95", _p95(raised), "seconds", True),
        Metric("clear_delay_mean_s", "Cleared after", _mean(cleared), "seconds", True, "mean delay"),
        Metric("clear_delay_p95_s", "Cleared after, p95", _p95(cleared), "seconds"),
        Metric("right", "Right", len(report.matches), "count"),
        Metric("missed", "Missed", len(report.missed), "count", hint="true, but never raised"),
        Metric("wrong", "Wrong", len(report.wrong), "count", hint="raised, but not true"),
    )
    rules = sorted({e.rule for e in (*report.missed, *report.wrong)} | {m.truth.rule for m in report.matches})
    table = Table(
        "Rules",
        ("rule", "right", "missed", "wrong", "raised after s", "cleared after s"),
        tuple(
            (
                rule,
                sum(m.truth.rule == rule for m in report.matches),
                sum(e.rule == rule for e in report.missed),
                sum(e.rule == rule for e in report.wrong),
                _mean([m.raise_delay_s for m in report.matches if m.truth.rule == rule]),
                _mean([d for m in report.matches if m.truth.rule == rule and (d := m.clear_delay_s) is not None]),
            )
            for rule in rules
        ),
    )
    faults = [("missed", e) for e in report.missed] + [("wrong", e) for e in report.wrong]
    mistakes = Table(
        "Mistakes",
        ("what", "rule", "start", "end"),
        tuple((what, e.rule, _moment(e.start_s), _moment(e.end_s)) for what, e in _by_start(faults)),
    )
    return Summary("alerts", compared.truth, compared.result, metrics, (table, mistakes), (), compared.notes)


def of_classification(report: ClassificationReport, compared: Compared) -> Summary:
    """Summary of classes."""
    metrics = (
        Metric("top1", "Top-1", report.top1, headline=True, hint="the best class is the true one"),
        Metric("top5", "Top-5", report.top5, headline=True, hint="the true class is among the best five"),
        Metric("macro_f1", "Macro F1", report.macro_f1, headline=True, hint="mean F1 of the classes"),
        Metric("samples", "Samples", report.samples, "count", True),
        Metric("unanswered", "Unanswered", report.unanswered, "count", hint="no result; they count as wrong"),
        Metric("unknown", "Unknown ids", report.unknown, "count", hint="results that the truth does not have; in no figure"),
    )
    table = Table(
        "Classes",
        ("class", "samples", "precision", "recall", "F1"),
        tuple((c.name, c.objects, c.point.precision, c.point.recall, c.point.f1) for c in report.classes),
    )
    names = tuple(c.name for c in report.classes)
    matrix = Matrix(
        "Confusion matrix", names, (*names, NOTHING), report.confusion, "rows: truth, columns: best class of the result"
    )
    return Summary("classification", compared.truth, compared.result, metrics, (table,), (matrix,), compared.notes)


def of_segmentation(report: SegmentationReport, compared: Compared, snapshots: tuple[Snapshot, ...] = ()) -> Summary:
    """Summary of masks."""
    metrics = (
        Metric("mean_iou", "Mean IoU", report.mean_iou, headline=True, hint="over the classes, the background included"),
        Metric("foreground_iou", "IoU of objects", report.foreground_iou, headline=True, hint="mean without the background"),
        Metric("mean_dice", "Mean Dice", report.mean_dice, headline=True, hint="over the classes, the background included"),
        Metric(
            "pixel_accuracy", "Pixel accuracy", report.pixel_accuracy, headline=True, hint="share of pixels with the right class"
        ),
        Metric("pictures", "Pictures", len(report.pictures), "count"),
        Metric("missing", "Missing", report.missing, "count", hint="true masks without a result; taken as all background"),
        Metric("unknown", "Unknown", report.unknown, "count", hint="results without a true mask; in no figure"),
    )
    table = Table(
        "Classes",
        ("class", "true pixels", "IoU", "Dice", "pixel accuracy"),
        tuple((c.name, c.truth, c.iou, c.dice, c.accuracy) for c in report.classes),
    )
    worst = Table("Worst pictures", ("picture", "mean IoU"), tuple(report.pictures[:SHOWN_PICTURES]))
    names = tuple(c.name for c in report.classes)
    matrix = Matrix("Confusion matrix", names, names, report.confusion, "pixels; rows: truth, columns: result")
    protocol = "Pixels are summed over all pictures before any ratio is taken."
    notes = (protocol, *compared.notes)
    legend = MASK_LEGEND if snapshots else ()
    return Summary(
        "segmentation",
        compared.truth,
        compared.result,
        metrics,
        (table, worst),
        (matrix,),
        notes,
        snapshots=snapshots,
        legend=legend,
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _p95(values: Sequence[float]) -> float:
    return float(np.percentile(values, 95)) if values else float("nan")


def _moment(seconds: float | None) -> str:
    if seconds is None:
        return "lasts"
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC" if seconds > YEAR_S else f"{seconds:.1f} s"


def _by_start(faults: Sequence[tuple[str, Episode]]) -> list[tuple[str, Episode]]:
    return sorted(faults, key=lambda fault: fault[1].start_s)
