"""Tracks against true tracks: CLEAR MOT, identity and HOTA figures.

- MOTA, MOTP, switches, fragments: Bernardin and Stiefelhagen, "Evaluating Multiple Object Tracking Performance: The CLEAR MOT
  Metrics", 2008. MOTP is the mean IoU of the matches, as MOTChallenge prints it.
- IDF1, IDP, IDR: Ristani et al., "Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking", 2016.
- HOTA, DetA, AssA, LocA: Luiten et al., "HOTA: A Higher Order Metric for Evaluating Multi-Object Tracking", 2020, averaged over
  the IoUs 0.05 to 0.95.

The packages that measure these need another OpenCV build or an older numpy, so the figures are computed here; the tests hold
them against the figures that motmetrics and TrackEval publish.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from stream.datasets.mot import MotTable
from stream.errors import DatasetError
from stream.evaluation.matching import overlaps
from stream.evaluation.predictions import of_source
from stream.evaluation.records import read_events
from stream.events import TracksEvent

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
ALPHAS = np.arange(1, 20) / 20  # the IoUs that HOTA averages over
MOSTLY_TRACKED, MOSTLY_LOST = 0.8, 0.2  # shares of an object's frames
EPSILON = float(np.finfo(float).eps)


class Switch(NamedTuple):
    """An object goes on under another track id: at ``frame``, from 1."""

    frame: int
    object_id: int
    before: int
    after: int


@dataclass(frozen=True)
class TrackingReport:
    """How good the tracks are. Figures that cannot be measured are nan.

    Attributes:
        frames: with an object or a track. last_frame: number of the last.
        objects: different true ids. tracks: different result ids.
        boxes, found, missed, wrong: true boxes, those matched, those not, and result boxes that match none.
        mota, motp, precision, recall: CLEAR MOT; ``motp`` is a mean IoU, higher is better.
        idf1, idp, idr: identity figures.
        hota, deta, assa, loca: means over ``ALPHAS``.
        fragments: times that an object was lost and found again.
        mostly_tracked, partly_tracked, mostly_lost: objects found in at least 80 %, in between, under 20 % of their frames.
        switches: in the order of the frames.
        ids_per_object: tracks that were ever matched to an object, on average.
    """

    frames: int
    last_frame: int
    objects: int
    tracks: int
    boxes: int
    found: int
    missed: int
    wrong: int
    mota: float
    motp: float
    precision: float
    recall: float
    idf1: float
    idp: float
    idr: float
    hota: float
    deta: float
    assa: float
    loca: float
    fragments: int
    mostly_tracked: int
    partly_tracked: int
    mostly_lost: int
    switches: tuple[Switch, ...]
    ids_per_object: float


class EventTracks(NamedTuple):
    """Tracks from events.

    Attributes:
        table: the boxes; frames count from 1.
        frames: int64 (F,), the analysed frames, with or without boxes.
    """

    table: MotTable
    frames: Int64Array


class _Frame(NamedTuple):
    """Ids as rows of all ids, and IoU (objects, tracks)."""

    frame: int
    objects: Int64Array
    tracks: Int64Array
    iou: Float64Array


class _Clear(NamedTuple):
    found: dict[int, list[bool]]
    overlap: list[float]
    switches: list[Switch]
    pairs: set[tuple[int, int]]


def evaluate_tracking(truth: MotTable, result: MotTable, *, iou: float = 0.5, min_visibility: float = 0.0) -> TrackingReport:
    """Measure tracks against true tracks.

    Args:
        truth: rows with a confidence of 0, and those less visible than ``min_visibility``, may be found or not: they and the
            result boxes that match them are left out, as MOTChallenge does.
        result: tracks, whatever their confidence.
        iou: least overlap of a match, for everything but HOTA.
        min_visibility: 0..1.

    Raises:
        DatasetError: the truth has no box that counts.
    """
    ignored = (truth.confidence <= 0) | (truth.visibility < min_visibility)
    if ignored.all():
        raise DatasetError("the true tracks have no box that counts")
    result = result[_not_on_ignored(truth, ignored, result, iou)]
    truth = truth[~ignored]
    object_ids, track_ids = np.unique(truth.track_id), np.unique(result.track_id)
    frames = _frames(truth, result, object_ids, track_ids)
    clear = _clear(frames, iou, object_ids, track_ids)
    found, switches = len(clear.overlap), clear.switches
    boxes, claimed = len(truth), len(result)
    id_matches = _identity_matches(frames, iou, len(object_ids), len(track_ids))
    hota, deta, assa, loca = _hota(frames, truth, result, object_ids, track_ids)
    share = np.array([np.mean(seen) for seen in clear.found.values()])
    tracked, lost = int((share >= MOSTLY_TRACKED).sum()), int((share < MOSTLY_LOST).sum())
    return TrackingReport(
        frames=len(frames),
        last_frame=frames[-1].frame,
        objects=len(object_ids),
        tracks=len(track_ids),
        boxes=boxes,
        found=found,
        missed=boxes - found,
        wrong=claimed - found,
        mota=1 - (boxes - found + claimed - found + len(switches)) / boxes,
        motp=float(np.mean(clear.overlap)) if found else float("nan"),
        precision=found / claimed if claimed else float("nan"),
        recall=found / boxes,
        idf1=2 * id_matches / (boxes + claimed),
        idp=id_matches / claimed if claimed else float("nan"),
        idr=id_matches / boxes,
        hota=hota,
        deta=deta,
        assa=assa,
        loca=loca,
        fragments=sum(map(_fragments, clear.found.values())),
        mostly_tracked=tracked,
        partly_tracked=len(share) - tracked - lost,
        mostly_lost=lost,
        switches=tuple(switches),
        ids_per_object=len(clear.pairs) / len(object_ids),
    )


def tracks_of_events(path: Path, source_id: str | None = None) -> EventTracks:
    """The tracks in the ``TracksEvent`` lines of a JSON Lines file.

    Args:
        path: the file.
        source_id: whose events; may be left out where the file has one source.

    Raises:
        DatasetError: the file cannot be read, or has no such source.
    """
    events = of_source(read_events(path, TracksEvent), path, source_id)
    things = [(event.frame_index + 1, thing) for event in events for thing in event.objects]
    xyxy = np.array([thing.xyxy for _, thing in things], np.float64).reshape(-1, 4)
    table = MotTable.of(
        [frame for frame, _ in things],
        [thing.track_id for _, thing in things],
        np.hstack((xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2])),
        [thing.confidence for _, thing in things],
    )
    return EventTracks(table, np.array([event.frame_index + 1 for event in events], np.int64))


def _rows_by_frame(table: MotTable) -> dict[int, Int64Array]:
    rows: dict[int, list[int]] = defaultdict(list)
    for row, frame in enumerate(table.frame.tolist()):
        rows[frame].append(row)
    return {frame: np.array(members, np.int64) for frame, members in rows.items()}


def _xyxy(table: MotTable, rows: Int64Array) -> Float64Array:
    boxes = table.xywh[rows]
    return np.hstack((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]))


def _pair(weight: Float64Array) -> tuple[Int64Array, Int64Array]:
    """Rows and columns of the pairs of greatest total weight; pairs of no weight are left out."""
    rows, columns = linear_sum_assignment(weight, maximize=True)
    real = weight[rows, columns] > 0
    return rows[real].astype(np.int64), columns[real].astype(np.int64)


def _not_on_ignored(truth: MotTable, ignored: npt.NDArray[np.bool_], result: MotTable, iou: float) -> npt.NDArray[np.bool_]:
    """bool: False for the result boxes that are best matched to an ignored one."""
    kept = np.ones(len(result), np.bool_)
    if not ignored.any():
        return kept
    theirs = _rows_by_frame(result)
    for frame, mine in _rows_by_frame(truth).items():
        if frame in theirs and ignored[mine].any():
            shared, _ = overlaps(_xyxy(truth, mine), _xyxy(result, theirs[frame]))
            rows, columns = _pair(np.where(shared >= iou, shared, 0))
            kept[theirs[frame][columns[ignored[mine[rows]]]]] = False
    return kept


def _frames(truth: MotTable, result: MotTable, object_ids: Int64Array, track_ids: Int64Array) -> list[_Frame]:
    mine, theirs = _rows_by_frame(truth), _rows_by_frame(result)
    nothing = np.zeros(0, np.int64)
    found = []
    for frame in sorted(mine.keys() | theirs.keys()):
        a, b = mine.get(frame, nothing), theirs.get(frame, nothing)
        shared, _ = overlaps(_xyxy(truth, a), _xyxy(result, b))
        objects, tracks = np.searchsorted(object_ids, truth.track_id[a]), np.searchsorted(track_ids, result.track_id[b])
        found.append(_Frame(frame, objects, tracks, shared))
    return found


def _clear(frames: Sequence[_Frame], iou: float, object_ids: Int64Array, track_ids: Int64Array) -> _Clear:
    """Match frame by frame: an object stays with its last track while the two overlap; the rest are paired anew."""
    seen = _Clear(defaultdict(list), [], [], set())
    last: dict[int, int] = {}
    for frame in frames:
        weight = np.where(frame.iou >= iou, frame.iou, 0.0)
        matched: dict[int, int] = {}
        for row, thing in enumerate(frame.objects.tolist()):
            columns = np.flatnonzero(frame.tracks == last.get(thing, -1))
            if len(columns) and weight[row, columns[0]] > 0 and columns[0] not in matched.values():
                matched[row] = int(columns[0])
        weight[list(matched)] = 0
        weight[:, list(matched.values())] = 0
        matched |= dict(zip(*(side.tolist() for side in _pair(weight)), strict=True))
        for row, thing in enumerate(frame.objects.tolist()):
            seen.found[thing].append(row in matched)
            if row not in matched:
                continue
            track = int(frame.tracks[matched[row]])
            seen.overlap.append(float(frame.iou[row, matched[row]]))
            seen.pairs.add((thing, track))
            if last.get(thing, track) != track:
                ids = int(object_ids[thing]), int(track_ids[last[thing]]), int(track_ids[track])
                seen.switches.append(Switch(frame.frame, *ids))
            last[thing] = track
    return seen


def _fragments(found: Sequence[bool]) -> int:
    """Gaps between the first and the last time that an object was found."""
    hits = np.flatnonzero(found)
    return int((np.diff(hits) > 1).sum())


def _identity_matches(frames: Sequence[_Frame], iou: float, objects: int, tracks: int) -> int:
    """Most boxes that can be right when each object is given one track for the whole time."""
    together = np.zeros((objects, tracks))
    for frame in frames:
        rows, columns = np.nonzero(frame.iou >= iou)
        np.add.at(together, (frame.objects[rows], frame.tracks[columns]), 1)
    return int(together[_pair(together)].sum())


def _hota(
    frames: Sequence[_Frame], truth: MotTable, result: MotTable, object_ids: Int64Array, track_ids: Int64Array
) -> tuple[float, float, float, float]:
    """HOTA, DetA, AssA, LocA."""
    shape = len(object_ids), len(track_ids)
    together = np.zeros(shape)
    for frame in frames:
        rivals = frame.iou.sum(0)[None] + frame.iou.sum(1)[:, None] - frame.iou
        share = np.divide(frame.iou, rivals, out=np.zeros_like(frame.iou), where=rivals > EPSILON)
        together[frame.objects[:, None], frame.tracks[None]] += share
    lengths = (
        np.bincount(np.searchsorted(object_ids, truth.track_id), minlength=shape[0])[:, None]
        + np.bincount(np.searchsorted(track_ids, result.track_id), minlength=shape[1])[None]
    )
    alignment = together / np.maximum(lengths - together, EPSILON)
    matches, overlap = np.zeros((len(ALPHAS), *shape)), np.zeros(len(ALPHAS))
    for frame in frames:
        rows, columns = linear_sum_assignment(alignment[frame.objects[:, None], frame.tracks[None]] * frame.iou, maximize=True)
        found = frame.iou[rows, columns]
        for i, alpha in enumerate(ALPHAS):
            kept = found >= alpha - EPSILON
            matches[i, frame.objects[rows[kept]], frame.tracks[columns[kept]]] += 1
            overlap[i] += found[kept].sum()
    right = matches.sum((1, 2))
    detection = right / (len(truth) + len(result) - right)
    association = (matches * matches / np.maximum(lengths - matches, 1)).sum((1, 2)) / np.maximum(right, 1)
    location = np.divide(overlap, right, out=np.ones_like(overlap), where=right > 0)
    return (
        float(np.sqrt(detection * association).mean()),
        float(detection.mean()),
        float(association.mean()),
        float(location.mean()),
    )
