"""Predictions: boxes that a model found in the pictures of a dataset, from the model itself or from files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from stream.datasets.coco import Box, CocoDataset, Picture, pictures
from stream.detectors.base import Detector
from stream.errors import DatasetError
from stream.evaluation.records import read_events
from stream.events import TracksEvent
from stream.files import write_text
from stream.frame import FrameBatch, FrameInfo, Uint8Array
from stream.scale import Scaler

RESULT_KEYS = ("image_id", "category_id", "bbox", "score")


class Prediction(NamedTuple):
    """One found object, as in COCO's results format.

    Attributes:
        image_id, category_id: ids of the labels.
        bbox: left, top, width, height in pixels of the picture.
        score: confidence, 0..1.
    """

    image_id: int
    category_id: int
    bbox: Box
    score: float


def predict(
    detector: Detector,
    dataset: CocoDataset,
    folder: Path,
    *,
    batch_size: int = 16,
    only: Iterable[int] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Prediction]:
    """What a detector finds in the pictures of a dataset, scaled as the service scales the frames of a camera.

    Args:
        detector: its classes are matched to the labels' by name; what it finds of other classes is left out. For an
            average precision it must report objects down to a low confidence.
        dataset: the labels.
        folder: the label file's folder.
        batch_size: pictures a call of the detector.
        only: image ids to look at; all if None.
        progress: called with the number of pictures done since the last call.

    Raises:
        DatasetError: a picture cannot be read, or labels and detector have no class in common.
        DetectorError: the model failed.
    """
    by_name = {category.name: category.id for category in dataset.categories}
    categories = [by_name.get(name) for name in detector.classes]
    if all(category is None for category in categories):
        raise DatasetError(f"the labels speak of {_names(by_name)}, but {detector.model_id} knows {_names(detector.classes)}")
    scaler, found = Scaler(detector.input), []
    for batch in _batches(pictures(dataset, folder, only), batch_size):
        images = np.stack([scaler.scale(camera_frame(picture.bgr)) for picture in batch])
        frames = tuple(
            FrameInfo("evaluation", "", i, float(i), 0.0, picture.image.width, picture.image.height, 0.0, 0.0)
            for i, picture in enumerate(batch)
        )
        for picture, detections in zip(batch, detector.detect(FrameBatch("evaluation", frames, images)), strict=True):
            for xyxy, score, class_id in zip(detections.xyxy, detections.confidence, detections.class_id, strict=True):
                category = categories[class_id]
                if category is not None:
                    found.append(Prediction(picture.image.id, category, _xywh(xyxy), float(score)))
        if progress is not None:
            progress(len(batch))
    return found


def camera_frame(bgr: Uint8Array) -> av.VideoFrame:
    """A BGR picture as the yuv420p frame that a camera would have sent, so that it is scaled plane by plane as those are."""
    return VideoReformatter().reformat(av.VideoFrame.from_ndarray(bgr, format="bgr24"), format="yuv420p", threads=1)


def read_predictions(path: Path, truth: CocoDataset) -> list[Prediction]:
    """Read a COCO results file: a JSON list of ``image_id``, ``category_id``, ``bbox`` and ``score``.

    Raises:
        DatasetError: it is missing, not such a list, or names a picture or class that the truth does not have.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise DatasetError(f"{path}: is not valid JSON: {error}") from error
    if not isinstance(data, list):
        raise DatasetError(f"{path}: is not a list of results ({', '.join(RESULT_KEYS)})")
    images, categories = {image.id for image in truth.images}, {category.id for category in truth.categories}
    found = []
    for i, row in enumerate(data):
        try:
            image_id, category_id, box, score = (row[key] for key in RESULT_KEYS)
            x, y, width, height = map(float, box)
            prediction = Prediction(int(image_id), int(category_id), (x, y, width, height), float(score))
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"{path}: result {i}: {type(error).__name__}: {error}") from error
        if prediction.image_id not in images:
            raise DatasetError(f"{path}: result {i}: the truth has no image_id {image_id}")
        if prediction.category_id not in categories:
            raise DatasetError(f"{path}: result {i}: the truth has no category_id {category_id}")
        if not np.isfinite((*prediction.bbox, prediction.score)).all() or width < 0 or height < 0:
            raise DatasetError(f"{path}: result {i}: bbox {box} or score {score} makes no sense")
        found.append(prediction)
    return found


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write a COCO results file; it is renamed into place when whole."""
    write_text(path, json.dumps([prediction._asdict() for prediction in predictions]))


class FramePredictions(NamedTuple):
    """What ``framewatch process`` found in the frames that the labels speak of.

    Attributes:
        truth: the labels of the frames that were analysed.
        predictions: the boxes found in those.
        not_analysed: labelled frames without an event, left out of ``truth``.
        not_labelled: events of frames without labels, left out of ``predictions``.
    """

    truth: CocoDataset
    predictions: list[Prediction]
    not_analysed: int
    not_labelled: int


def predictions_of_events(path: Path, truth: CocoDataset, source_id: str | None = None) -> FramePredictions:
    """Boxes from the ``TracksEvent`` lines of a JSON Lines file, paired with the labels by ``frame_index``.

    Args:
        path: the file.
        truth: labels of the frames of one video.
        source_id: whose events; may be left out where the file has one source.

    Raises:
        DatasetError: the file cannot be read, or it does not fit the labels.
    """
    videos = {image.file_name for image in truth.images}
    if len(videos) != 1 or any(image.frame_index is None for image in truth.images):
        raise DatasetError("events can be compared only with labels of one video whose images have a frame_index")
    by_name = {category.name: category.id for category in truth.categories}
    by_frame = {image.frame_index: image.id for image in truth.images}
    predictions, analysed, not_labelled = [], set(), 0
    for event in of_source(read_events(path, TracksEvent), path, source_id):
        image_id = by_frame.get(event.frame_index)
        if image_id is None:
            not_labelled += 1
            continue
        analysed.add(image_id)
        predictions += [
            Prediction(image_id, by_name[thing.class_], _xywh(thing.xyxy), thing.confidence)
            for thing in event.objects
            if thing.class_ in by_name
        ]
    if not analysed:
        raise DatasetError(f"{path}: has no tracks event of a frame that the labels speak of")
    images = [image for image in truth.images if image.id in analysed]
    annotations = [annotation for annotation in truth.annotations if annotation.image_id in analysed]
    seen = truth.model_copy(update={"images": images, "annotations": annotations})
    return FramePredictions(seen, predictions, len(truth.images) - len(images), not_labelled)


def of_source(events: Iterable[TracksEvent], path: Path, source_id: str | None) -> list[TracksEvent]:
    """The tracks events of one source, each frame once (a replay sends a frame's event again).

    Raises:
        DatasetError: no event, no such source, or several and none named.
    """
    kept = {(event.source_id, event.frame_index): event for event in events}
    sources = sorted({source for source, _ in kept})
    if not sources:
        raise DatasetError(f"{path}: has no tracks events")
    if source_id is None and len(sources) == 1:
        source_id = sources[0]
    if source_id is None or source_id not in sources:
        what = "tracks events of several sources; name one" if source_id is None else f"no source {source_id!r}"
        raise DatasetError(f"{path}: has {what}; it has {_names(sources)}")
    return [event for (source, _), event in sorted(kept.items(), key=lambda item: item[0]) if source == source_id]


def _batches(items: Iterator[Picture], size: int) -> Iterator[list[Picture]]:
    while batch := list(islice(items, size)):
        yield batch


def _xywh(xyxy: Sequence[float] | np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Box:
    left, top, right, bottom = map(float, xyxy)
    return left, top, right - left, bottom - top


def _names(names: Iterable[str]) -> str:
    shown = sorted(names)
    return (", ".join(shown[:10]) + (f" and {len(shown) - 10} more" if len(shown) > 10 else "")) or "none"
