"""ByteTracker: gives every object the same ``track_id`` from frame to frame.

The method is ByteTrack (Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", ECCV
2022): predict every track with a constant-velocity Kalman filter, match it to the confident detections, then match
what is left to the faint ones. Where it differs from the paper:

- Time is in seconds, not frames, and the filter's noise grows with it (white-noise acceleration, Bar-Shalom et al.,
  "Estimation with Applications to Tracking and Navigation", 2001, section 6.2), since analysed frames come at low and
  uneven rates.
- At such rates a walker may leave its own box between two frames. A confident detection that overlaps no track may
  therefore still be matched by the distance of its centre, measured against the filter's own uncertainty (as in
  DeepSORT: Wojke et al., ICIP 2017), if its size fits.
- A confident detection gets its id at once.
- A track that should lie behind another object, where it cannot be seen, is ``hidden``, not lost.

It is written here because no library was fast enough: measured on the machine this was written on, a frame with 200
objects took 4.4 ms in trackers 2.6, 13.9 ms in supervision 0.30 and 15.2 ms in norfair 2.3. The filter's four
coordinates are independent, so a track is twenty numbers and all tracks are updated at once; pairs that overlap
nothing else are matched without solving an assignment.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stream.config import TrackerConfig
from stream.detections import Detections, Int64Array

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IndexArray = npt.NDArray[np.intp]

TENTATIVE_S = 1.0
"""A track that was seen once only ends when it is unseen for longer than this."""

# Standard deviations (or their squares) in units of the object's longer side (for a person its height), in the order cx, cy, w, h.
# A person walks about 0.8 and runs about 2 of its heights a second. The size has no velocity: it drifts.
MEASURED = np.array([0.05, 0.05, 0.05, 0.05])  # of a detection; the paper's 1/20
VELOCITY = np.array([1.0, 1.0, 0.0, 0.0])  # of a new track's velocity, per second
ACCELERATION2 = np.array([0.4, 0.4, 0.0, 0.0]) ** 2  # of the velocity's change over a second
DRIFT2 = np.array([0.05, 0.05, 0.15, 0.15]) ** 2  # of the position's own change over a second

POSITION, _, P_POSITION, _, P_VELOCITY = range(5)  # first axis of the filter
GATE = 5.99  # squared Mahalanobis distance of two coordinates, chi-square at 95 %
COVERED = 0.5  # share of a box that objects nearer to the camera cover where it is hidden
REACH = 1.0  # the centre match goes no further than this many longer sides
SIZE_RATIO = 1.5  # nor to boxes whose width or height differs by more


class ByteTracker:
    """Tracks of one source. Ids start at 1 and are never given twice by one tracker. Not thread-safe.

    Args:
        config: thresholds; at most ``max_tracks`` tracks are kept, those unseen for longest are dropped first.
        high_confidence: detections at or above it start tracks and are matched first.
    """

    def __init__(self, config: TrackerConfig, high_confidence: float):
        from scipy.optimize import linear_sum_assignment  # takes as long as all of numpy: only for those who track

        self._solve = linear_sum_assignment
        self._config = config
        self._high = high_confidence
        self._t_s: float | None = None
        self._next_id = 1
        self._allocate(0)
        self._hidden = Detections.empty()

    def __len__(self) -> int:
        """Number of tracks kept, seen lately or not."""
        return len(self._id)

    def update(self, detections: Detections, t_s: float) -> Detections:
        """Match a frame's detections to the tracks.

        Args:
            detections: rows below ``config.low_confidence`` and rows without a finite box of positive size are ignored.
            t_s: POSIX seconds of the frame; a time before the last frame's counts as that one's.

        Returns:
            The rows that belong to a track in this frame, in input order, with ``track_id`` set and all else as given.
        """
        dt_s = 0.0 if self._t_s is None else max(0.0, t_s - self._t_s)
        self._t_s = t_s = t_s if self._t_s is None else max(t_s, self._t_s)
        if len(self._id):
            kept = t_s - self._seen_s <= self._config.lost_s + 1e-6
            if len(self._hidden):
                kept |= np.isin(self._id, self._hidden.track_id) & (t_s - self._seen_s <= self._config.hidden_s)
            self._keep(kept)
        self._predict(dt_s)

        with np.errstate(invalid="ignore"):  # infinite corners; such rows are left out
            measured = _cxcywh(detections.xyxy)
        usable = np.isfinite(measured.sum(1)) & (measured[:, 2] > 0) & (measured[:, 3] > 0)
        confident = usable & (detections.confidence >= self._high)
        faint = np.flatnonzero(usable & ~confident & (detections.confidence >= self._config.low_confidence))
        high = np.flatnonzero(confident)
        track_of = np.full(len(detections), -1, np.intp)

        tracks = np.arange(len(self._id))
        fresh = self._fresh.copy()  # seen in the previous frame
        high, tracks = self._match(track_of, high, tracks, detections, measured, self._config.match_iou)
        high, tracks = self._match(track_of, high, tracks, detections, measured, None)
        high = high[detections.confidence[high] >= self._high + self._config.start_margin]
        known = tracks[fresh[tracks] & (self._hits[tracks] > 1)]  # one confident box may be a slip: faint ones must not keep it
        self._match(track_of, faint, known, detections, measured, self._config.second_match_iou)

        rows = np.flatnonzero(track_of >= 0)
        self._fresh[:] = False
        self._correct(track_of[rows], measured[rows], t_s)
        track_of[high] = len(self._id) + np.arange(len(high))
        self._begin(measured[high], detections.class_id[high], t_s)
        if self._config.hidden_s:
            self._hidden = self._behind(self._filter[POSITION, self._fresh], t_s)

        rows = np.flatnonzero(track_of >= 0)
        ids = self._id[track_of[rows]]
        self._end_tentative(t_s)
        if self._evict():
            kept = np.isin(ids, self._id)
            rows, ids = rows[kept], ids[kept]
        return Detections(detections.xyxy[rows], detections.confidence[rows], detections.class_id[rows], ids)

    @property
    def hidden(self) -> Detections:
        """The tracks of the last frame that were not seen in it and should lie behind one that was, where they should be."""
        return self._hidden

    def begin_anew(self) -> None:
        """Forget all tracks and the time; ids go on."""
        self._t_s = None
        self._allocate(0)
        self._hidden = Detections.empty()

    def state(self) -> dict[str, Any]:
        """Everything that :meth:`restore` needs, as JSON types; floats survive exactly."""
        return {
            "next_id": self._next_id,
            "t_s": self._t_s,
            "id": self._id.tolist(),
            "class_id": self._class_id.tolist(),
            "hits": self._hits.tolist(),
            "fresh": self._fresh.tolist(),
            "seen_s": self._seen_s.tolist(),
            "filter": self._filter.tolist(),
            "hidden": self._hidden.track_id.tolist(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where the tracker that wrote ``state`` stood."""
        self._next_id, self._t_s = state["next_id"], state["t_s"]
        self._id = np.array(state["id"], np.int64)
        self._class_id = np.array(state["class_id"], np.int64)
        self._hits = np.array(state["hits"], np.int64)
        self._fresh = np.array(state["fresh"], np.bool_)
        self._seen_s = np.array(state["seen_s"], np.float64)
        self._filter = np.array(state["filter"], np.float64).reshape(5, len(self._id), 4)
        self._hidden = self._as_detections(np.isin(self._id, state["hidden"]))

    def _allocate(self, n: int) -> None:
        self._id = np.zeros(n, np.int64)
        self._class_id = np.zeros(n, np.int64)
        self._hits = np.zeros(n, np.int64)
        self._fresh = np.zeros(n, np.bool_)
        self._seen_s = np.zeros(n)
        self._filter = np.zeros((5, n, 4))  # position, velocity, and the three distinct numbers of their covariance

    def _keep(self, keep: BoolArray) -> None:
        if not keep.all():
            self._id, self._class_id, self._hits = self._id[keep], self._class_id[keep], self._hits[keep]
            self._fresh, self._seen_s, self._filter = self._fresh[keep], self._seen_s[keep], self._filter[:, keep]

    def _predict(self, dt_s: float) -> None:
        """Move all tracks by ``dt_s``; steps add up: two of half the length do the same, but for the size's drift."""
        if dt_s == 0 or not len(self._id):
            return
        position, velocity, p_position, p_cross, p_velocity = self._filter
        side2 = np.maximum(position[:, 2], position[:, 3])[:, None] ** 2
        acceleration = ACCELERATION2 * side2
        position += velocity * dt_s
        p_position += dt_s * (2 * p_cross + dt_s * p_velocity + DRIFT2 * side2 + acceleration * (dt_s * dt_s / 3))
        p_cross += dt_s * (p_velocity + acceleration * (dt_s / 2))
        p_velocity += acceleration * dt_s

    def _correct(self, tracks: IndexArray, measured: Float64Array, t_s: float) -> None:
        """Take in one measurement (k, 4) for each of k distinct tracks."""
        if not len(tracks):
            return
        corrected = self._filter[:, tracks]
        position, velocity, p_position, p_cross, p_velocity = corrected
        innovation = measured - position
        innovation2 = p_position + _noise2(measured)
        gain, velocity_gain = p_position / innovation2, p_cross / innovation2
        position += gain * innovation
        velocity += velocity_gain * innovation
        p_velocity -= velocity_gain * p_cross
        p_cross -= gain * p_cross
        p_position -= gain * p_position
        self._filter[:, tracks] = corrected
        self._hits[tracks] += 1
        self._fresh[tracks] = True
        self._seen_s[tracks] = t_s

    def _begin(self, measured: Float64Array, class_id: Int64Array, t_s: float) -> None:
        """Start a track for each measurement."""
        n = len(measured)
        if not n:
            return
        begun = np.zeros((5, n, 4))
        begun[POSITION] = measured
        begun[P_POSITION] = _noise2(measured)
        begun[P_VELOCITY] = (VELOCITY * np.maximum(measured[:, 2], measured[:, 3])[:, None]) ** 2
        self._filter = np.concatenate((self._filter, begun), axis=1)
        self._id = np.concatenate((self._id, np.arange(self._next_id, self._next_id + n)))
        self._class_id = np.concatenate((self._class_id, class_id))
        self._hits = np.concatenate((self._hits, np.ones(n, np.int64)))
        self._fresh = np.concatenate((self._fresh, np.ones(n, np.bool_)))
        self._seen_s = np.concatenate((self._seen_s, np.full(n, t_s)))
        self._next_id += n

    def _end_tentative(self, t_s: float) -> None:
        """A tentative track has had its chance in this frame, however far apart frames are; now its time may be over."""
        if len(self._id):
            self._keep((self._hits > 1) | (t_s - self._seen_s <= TENTATIVE_S))

    def _behind(self, seen: Float64Array, t_s: float) -> Detections:
        """The tracks that lie behind the boxes ``seen`` (cx, cy, w, h): one whose lower edge is lower is nearer to the camera."""
        unseen = np.flatnonzero(~self._fresh & (self._hits > 1) & (t_s - self._seen_s <= self._config.hidden_s))
        if not len(unseen):
            return Detections.empty()
        mine = self._filter[POSITION, unseen]
        nearer = seen[None, :, 1] + seen[None, :, 3] / 2 > mine[:, None, 1] + mine[:, None, 3] / 2
        covered = (_shared(mine, seen) * nearer).sum(1) >= COVERED * mine[:, 2] * mine[:, 3]
        chosen = np.zeros(len(self._id), np.bool_)
        chosen[unseen[covered]] = True
        return self._as_detections(chosen)

    def _as_detections(self, chosen: BoolArray) -> Detections:
        boxes = self._filter[POSITION, chosen].copy()
        boxes[:, :2] -= boxes[:, 2:] / 2
        boxes[:, 2:] += boxes[:, :2]
        return Detections.of(boxes, np.zeros(len(boxes)), self._class_id[chosen], self._id[chosen])

    def _evict(self) -> bool:
        """Drop the tracks unseen for longest, of those seen at once the youngest, until ``max_tracks`` are left."""
        surplus = len(self._id) - self._config.max_tracks
        if surplus <= 0:
            return False
        keep = np.ones(len(self._id), np.bool_)
        keep[np.lexsort((-self._id, self._seen_s))[:surplus]] = False
        self._keep(keep)
        return True

    def _match(
        self,
        track_of: IndexArray,
        rows: IndexArray,
        tracks: IndexArray,
        detections: Detections,
        measured: Float64Array,
        least_iou: float | None,
    ) -> tuple[IndexArray, IndexArray]:
        """Match ``rows`` to ``tracks`` of their class, by IoU or (``least_iou`` None) by centre distance.

        Writes into ``track_of`` and returns the rows and the tracks that are left.
        """
        if not len(rows) or not len(tracks):
            return rows, tracks
        if least_iou is None:
            score = self._nearness(measured[rows], tracks)
        else:
            score = _iou(measured[rows], self._filter[POSITION, tracks])
            score[score < least_iou] = 0
        score[detections.class_id[rows][:, None] != self._class_id[tracks][None, :]] = 0
        i, j = self._assign(score)
        track_of[rows[i]] = tracks[j]
        left_rows, left_tracks = np.ones(len(rows), np.bool_), np.ones(len(tracks), np.bool_)
        left_rows[i] = left_tracks[j] = False
        return rows[left_rows], tracks[left_tracks]

    def _assign(self, score: Float64Array) -> tuple[IndexArray, IndexArray]:
        """Pairs (i, j) of positive score, each row and column at most once, of the greatest total.

        A pair in which both have no other candidate is in every best solution, so only the rest is solved for.
        """
        rows, columns = np.nonzero(score)
        n, m = score.shape
        alone = (np.bincount(rows, minlength=n)[rows] == 1) & (np.bincount(columns, minlength=m)[columns] == 1)
        if alone.all():
            return rows, columns
        some_rows, some_columns = (np.flatnonzero(np.bincount(some[~alone])) for some in (rows, columns))  # in order, each once
        part = score[np.ix_(some_rows, some_columns)]
        i, j = self._solve(part, maximize=True)
        chosen = part[i, j] > 0
        return np.concatenate((rows[alone], some_rows[i[chosen]])), np.concatenate((columns[alone], some_columns[j[chosen]]))

    def _nearness(self, measured: Float64Array, tracks: IndexArray) -> Float64Array:
        """(rows, tracks), 1 for a detection where the track is expected, 0 beyond the gate, the reach or the size ratio."""
        position, p_position = self._filter[POSITION, tracks], self._filter[P_POSITION, tracks]
        offset2 = (measured[:, None, :2] - position[None, :, :2]) ** 2
        spread2 = p_position[None, :, :2] + _noise2(measured)[:, None, :2]
        distance2 = (offset2 / spread2).sum(2)
        side2 = (REACH * np.maximum(position[:, 2], position[:, 3])) ** 2
        ratio = np.abs(np.log(measured[:, None, 2:] / position[None, :, 2:])).max(2)
        near = (distance2 < GATE) & (offset2.sum(2) < side2[None, :]) & (ratio < np.log(SIZE_RATIO))
        return np.where(near, 1 - distance2 / GATE, 0.0)


def _noise2(measured: Float64Array) -> Float64Array:
    """Variance (N, 4) of detections of this size."""
    return (MEASURED * np.maximum(measured[:, 2], measured[:, 3])[:, None]) ** 2


def _cxcywh(xyxy: npt.NDArray[np.float32]) -> Float64Array:
    boxes = xyxy.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    boxes[:, :2] += boxes[:, 2:] / 2
    return boxes


def _iou(a: Float64Array, b: Float64Array) -> Float64Array:
    """IoU (len(a), len(b)) of boxes given as cx, cy, w, h of positive size."""
    shared = _shared(a, b)
    return np.asarray(shared / ((a[:, 2] * a[:, 3])[:, None] + (b[:, 2] * b[:, 3])[None, :] - shared))


def _shared(a: Float64Array, b: Float64Array) -> Float64Array:
    """Area (len(a), len(b)) that boxes, given as cx, cy, w, h, have in common."""
    (a_center, b_center), (a_half, b_half) = (a.T[:2], b.T[:2]), (a.T[2:] / 2, b.T[2:] / 2)
    sides = np.minimum((a_center + a_half)[:, :, None], (b_center + b_half)[:, None, :])
    sides -= np.maximum((a_center - a_half)[:, :, None], (b_center - b_half)[:, None, :])
    np.maximum(sides, 0, out=sides)
    return np.asarray(sides[0] * sides[1])
