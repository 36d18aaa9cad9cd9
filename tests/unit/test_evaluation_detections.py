"""Detections against labels: matching, operating points, confusion, COCO's figures on cases known by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from stream.config import DetectorConfig
from stream.datasets.coco import CocoDataset
from stream.detectors.registry import load_detector
from stream.errors import DatasetError
from stream.evaluation.detections import evaluate_detections, only_classes
from stream.evaluation.gallery import FALSE, MISSED, worst_pictures
from stream.evaluation.matching import IGNORED, WRONG, curve, match
from stream.evaluation.predictions import (
    Prediction,
    camera_frame,
    predict,
    predictions_of_events,
    read_predictions,
    write_predictions,
)
from stream.events import TracksEvent
from tests.support.models import SIZE_PX, painted, write_onnx, write_spec

BOX = (10.0, 10.0, 40.0, 40.0)


def dataset(objects: Sequence[tuple[int, int, tuple[float, ...]]], **more: Any) -> CocoDataset:
    """Two pictures and two classes; objects are (picture, class, box), ``more`` goes to every object."""
    return CocoDataset.model_validate(
        {
            "images": [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 100} for i in (1, 2)],
            "categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}],
            "annotations": [
                {"id": i, "image_id": image, "category_id": kind, "bbox": box, "area": box[2] * box[3], **more}
                for i, (image, kind, box) in enumerate(objects)
            ],
        }
    )


def moved(pixels: float) -> tuple[float, float, float, float]:
    """BOX moved to the right: the IoU is (40 - pixels) / (40 + pixels)."""
    return BOX[0] + pixels, *BOX[1:]


def test_the_best_score_takes_the_object_and_the_next_is_wrong() -> None:
    found = match(dataset([(1, 1, BOX)]), [Prediction(1, 1, BOX, 0.4), Prediction(1, 1, moved(10), 0.6)], 0.5)
    assert found.found.tolist() == [WRONG, 0]


def test_an_object_that_was_taken_leaves_the_second_best_to_the_next() -> None:
    truth = dataset([(1, 1, BOX), (1, 1, moved(12))])
    found = match(truth, [Prediction(1, 1, moved(4), 0.9), Prediction(1, 1, moved(2), 0.8)], 0.5)
    assert found.found.tolist() == [0, 1]


@pytest.mark.parametrize(("pixels", "right"), [(13.3, True), (13.4, False)])
def test_a_match_needs_the_overlap(pixels: float, right: bool) -> None:
    """40/3 pixels make an IoU of 0.5."""
    found = match(dataset([(1, 1, BOX)]), [Prediction(1, 1, moved(pixels), 0.9)], 0.5)
    assert (found.found[0] >= 0) == right


def test_pictures_and_classes_do_not_mix() -> None:
    found = match(dataset([(1, 1, BOX)]), [Prediction(2, 1, BOX, 0.9), Prediction(1, 3, BOX, 0.9)], 0.5)
    assert found.found.tolist() == [WRONG, WRONG]


def test_crowds_may_be_found_often_or_never() -> None:
    truth = dataset([(1, 1, (0, 0, 100, 100)), (2, 1, (0, 0, 100, 100))], iscrowd=1)
    found = match(truth, [Prediction(1, 1, BOX, 0.9), Prediction(1, 1, moved(20), 0.8)], 0.5)
    assert found.found.tolist() == [IGNORED, IGNORED]
    assert curve(found).objects == 0
    report = evaluate_detections(truth, [Prediction(1, 1, BOX, 0.9)])
    assert (report.ignored, report.at.wrong, report.at.missed) == (2, 0, 0)
    assert math.isnan(report.ap50)


def test_hidden_objects_count_as_crowds() -> None:
    truth = dataset([(1, 1, BOX)], visibility=0.1)
    assert evaluate_detections(truth, []).at.missed == 1
    report = evaluate_detections(truth, [Prediction(1, 1, BOX, 0.9)], min_visibility=0.2)
    assert (report.objects, report.ignored, report.at.right, report.at.wrong, report.at.missed) == (0, 1, 0, 0, 0)


def test_curve_and_operating_points() -> None:
    truth = dataset([(1, 1, BOX), (2, 1, BOX)])
    predictions = [
        Prediction(1, 1, BOX, 0.9),
        Prediction(1, 1, moved(30), 0.7),  # wrong
        Prediction(2, 1, BOX, 0.7),  # same score: one point
        Prediction(2, 1, moved(30), 0.3),  # wrong
    ]
    found = curve(match(truth, predictions, 0.5))
    assert found.threshold.tolist() == [0.9, 0.7, 0.3]
    assert found.precision.tolist() == pytest.approx([1, 2 / 3, 1 / 2])
    assert found.recall.tolist() == [0.5, 1, 1]
    best = found.best()
    assert (best.threshold, best.right, best.wrong, best.missed) == (0.5, 2, 1, 0)  # half-way to 0.3
    assert (best.precision, best.recall, best.f1) == pytest.approx((2 / 3, 1, 0.8))
    nothing = found.at(0.95)
    assert (nothing.right, nothing.wrong, nothing.missed, nothing.f1) == (0, 0, 2, 0)
    assert math.isnan(nothing.precision)
    assert found.at(0.9).right == 1  # the threshold itself counts


def test_coco_figures_of_a_case_known_by_hand() -> None:
    """Precision 1 up to recall 0.5, then 2/3 up to 1: at 101 recalls that is (51 + 50 * 2/3) / 101."""
    truth = dataset([(1, 1, BOX), (2, 1, BOX)])
    report = evaluate_detections(
        truth, [Prediction(1, 1, BOX, 0.9), Prediction(1, 1, moved(30), 0.7), Prediction(2, 1, BOX, 0.6)], confidence=0.65
    )
    assert report.ap50 == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert report.ap == pytest.approx(report.ap50)  # exact boxes
    assert report.ap_medium == pytest.approx(report.ap)  # 40 x 40
    assert math.isnan(report.ap_small)
    assert report.ar_100 == 1
    assert (report.at.right, report.at.wrong, report.at.missed) == (1, 1, 1)
    person, car = report.classes
    assert (person.name, person.objects, person.predictions) == ("person", 2, 3)
    assert (car.name, car.objects) == ("car", 0)
    assert math.isnan(car.ap50)


@pytest.mark.parametrize("ids", [(1, 2), (2**53, 2**53 + 1), (2**62, 2**62 + 1)])
def test_large_ids_are_told_apart(ids: tuple[int, int]) -> None:
    """Such as hashes, which are the same as floats."""
    truth = CocoDataset.model_validate(
        {
            "images": [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 100} for i in ids],
            "categories": [{"id": i, "name": str(i)} for i in ids],
            "annotations": [
                {"id": i, "image_id": i, "category_id": i, "bbox": box, "area": 1600}
                for i, box in zip(ids, (BOX, moved(50)), strict=True)
            ],
        }
    )
    found = [Prediction(ids[0], ids[0], BOX, 0.9), Prediction(ids[1], ids[1], BOX, 0.8)]
    report = evaluate_detections(truth, found)
    assert [one.ap50 for one in report.classes] == [1, 0]
    assert report.ap50 == 0.5


def test_a_looser_box_costs_the_strict_thresholds() -> None:
    """An IoU of 36/44 = 0.82 is right at 0.50 to 0.80, 7 of 10 thresholds."""
    report = evaluate_detections(dataset([(1, 1, BOX)]), [Prediction(1, 1, moved(4), 0.9)])
    assert (report.ap, report.ap50, report.ap75) == pytest.approx((0.7, 1, 1))


def test_nothing_found_is_zero_and_nothing_to_find_is_unknown() -> None:
    report = evaluate_detections(dataset([(1, 1, BOX)]), [])
    assert (report.ap, report.ap50, report.at.missed, report.best_f1.f1) == (0, 0, 1, 0)
    report = evaluate_detections(dataset([]), [Prediction(1, 1, BOX, 0.9)])
    assert math.isnan(report.ap)
    assert report.at.wrong == 1


def test_confusion_puts_right_first_then_other_classes_then_nothing() -> None:
    truth = dataset([(1, 1, BOX), (1, 3, moved(50)), (2, 3, BOX), (2, 1, moved(45))])
    predictions = [
        Prediction(1, 1, BOX, 0.9),  # right
        Prediction(1, 1, moved(52), 0.8),  # a car, called a person
        Prediction(2, 3, BOX, 0.9),  # right, although
        Prediction(2, 1, BOX, 0.95),  # something else is there as well: nothing left to confuse it with
        Prediction(2, 1, moved(45), 0.1),  # under the threshold: its object is missed
    ]
    report = evaluate_detections(truth, predictions, confidence=0.5)
    assert report.confusion.tolist() == [[1, 0, 1], [1, 1, 0], [1, 0, 0]]
    assert report.confusion[:-1].sum() == report.objects


def test_the_worst_pictures_come_first(tmp_path: Path) -> None:
    truth = dataset([(1, 1, BOX), (2, 1, BOX)])
    report = evaluate_detections(truth, [Prediction(1, 1, BOX, 0.9), Prediction(2, 1, moved(40), 0.9)])
    assert [(picture.image_id, picture.point.f1) for picture in report.pictures] == [(2, 0), (1, 1)]
    for i in (1, 2):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.zeros((100, 100, 3), np.uint8))
    (shown,) = worst_pictures(truth, report, tmp_path, 5)  # the other one has no mistake
    assert shown.caption == "2.png: F1 0.00, 0 right, 1 missed, 1 wrong"
    drawn = cv2.imdecode(np.frombuffer(shown.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert drawn is not None
    assert np.abs(drawn[30, 10].astype(int) - MISSED).max() < 60  # left edges; JPEG blurs
    assert np.abs(drawn[30, 90].astype(int) - FALSE).max() < 90


def test_only_some_classes() -> None:
    truth = only_classes(dataset([(1, 1, BOX), (1, 3, BOX)]), ["car"])
    assert (truth.class_names, len(truth.annotations), len(truth.images)) == (("car",), 1, 2)
    with pytest.raises(DatasetError, match="no class 'dog'; they have person, car"):
        only_classes(dataset([]), ["dog"])


def test_labels_without_pictures_are_refused() -> None:
    with pytest.raises(DatasetError, match="list no picture"):
        evaluate_detections(
            CocoDataset.model_validate({"images": [], "annotations": [], "categories": [{"id": 1, "name": "x"}]}), []
        )


# -- where predictions come from


def test_results_survive_writing_and_reading(tmp_path: Path) -> None:
    predictions = [Prediction(1, 3, BOX, 0.25), Prediction(2, 1, (0.5, 0, 1, 2), 1.0)]
    write_predictions(tmp_path / "new" / "r.json", predictions)
    assert read_predictions(tmp_path / "new" / "r.json", dataset([])) == predictions


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("[", "is not valid JSON"),
        ({"images": []}, "is not a list of results"),
        ([{"image_id": 1, "category_id": 1, "bbox": BOX}], "result 0: KeyError: 'score'"),
        ([{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3], "score": 1}], "result 0: ValueError"),
        ([{"image_id": 9, "category_id": 1, "bbox": BOX, "score": 1}], "no image_id 9"),
        ([{"image_id": 1, "category_id": 2, "bbox": BOX, "score": 1}], "no category_id 2"),
        ([{"image_id": 1, "category_id": 1, "bbox": [1, 2, -3, 4], "score": 1}], "makes no sense"),
    ],
)
def test_bad_results_are_named_by_file_and_row(tmp_path: Path, data: object, reason: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    with pytest.raises(DatasetError, match=rf"r\.json: .*{reason}"):
        read_predictions(path, dataset([]))


def event(frame_index: int, *boxes: tuple[float, ...], source_id: str = "hall", kind: str = "person") -> str:
    objects = [{"track_id": 1, "class": kind, "confidence": 0.5, "xyxy": box, "zones": []} for box in boxes]
    return (
        TracksEvent.model_validate(
            {
                "event_id": f"{source_id}{frame_index}",
                "source_id": source_id,
                "frame_index": frame_index,
                "pts_s": frame_index / 10,
                "captured_at": "2026-01-01T00:00:00Z",
                "width": 100,
                "height": 100,
                "model": "m",
                "objects": objects,
                "stages_ms": {},
            }
        )
        .to_json()
        .decode()
    )


def video_labels() -> CocoDataset:
    return CocoDataset.model_validate(
        {
            "images": [{"id": 10 + i, "file_name": "v.mp4", "width": 100, "height": 100, "frame_index": i} for i in range(3)],
            "categories": [{"id": 1, "name": "person"}],
            "annotations": [{"id": i, "image_id": 10 + i, "category_id": 1, "bbox": BOX, "area": 1600} for i in range(3)],
        }
    )


def test_events_are_paired_with_labels_by_frame(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    xyxy = (10, 10, 50, 50)
    other = json.dumps({"schema": "framewatch.health/1", "whatever": 1})
    path.write_text("\n".join([event(0, xyxy), event(0, xyxy), other, "", event(2, xyxy), event(7, xyxy)]) + "\n")
    truth, predictions, not_analysed, not_labelled = predictions_of_events(path, video_labels())
    assert [image.id for image in truth.images] == [10, 12]
    assert len(truth.annotations) == 2
    assert predictions == [Prediction(10, 1, BOX, 0.5), Prediction(12, 1, BOX, 0.5)]  # the replayed frame counts once
    assert (not_analysed, not_labelled) == (1, 1)


def test_events_of_several_sources_need_a_name(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text(event(0) + "\n" + event(0, (0, 0, 1, 1), source_id="yard") + "\n")
    with pytest.raises(DatasetError, match=r"e\.jsonl: has tracks events of several sources; name one; it has hall, yard"):
        predictions_of_events(path, video_labels())
    with pytest.raises(DatasetError, match="no source 'attic'"):
        predictions_of_events(path, video_labels(), "attic")
    assert len(predictions_of_events(path, video_labels(), "yard").predictions) == 1


@pytest.mark.parametrize(
    ("line", "reason"), [("{", "1: is not valid JSON"), ("[1]", "1: is not an event"), ("{}", "has no schema")]
)
def test_a_line_that_is_no_event_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text(line)
    with pytest.raises(DatasetError, match=rf"e\.jsonl:{reason}|e\.jsonl:1: .*{reason}"):
        predictions_of_events(path, video_labels())


def test_events_do_not_fit_labels_of_pictures(tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_text(event(0))
    with pytest.raises(DatasetError, match="labels of one video"):
        predictions_of_events(tmp_path / "e.jsonl", dataset([]))
    (tmp_path / "e.jsonl").write_text(event(9))
    with pytest.raises(DatasetError, match="no tracks event of a frame"):
        predictions_of_events(tmp_path / "e.jsonl", video_labels())


def test_a_model_is_run_on_the_pictures(tmp_path: Path) -> None:
    """Pictures of twice the model's size: boxes come back in their pixels; classes are matched by name."""
    model = write_onnx(tmp_path / "m.onnx")
    write_spec(model)
    size = 2 * SIZE_PX
    for i, cell in enumerate([(0, 0, (255, 0, 0)), (2, 3, (255, 0, 0)), (1, 1, (0, 255, 0))]):
        picture = cv2.resize(painted(cell), (size, size), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(tmp_path / f"{i}.png"), picture[:, :, ::-1])
    labels = CocoDataset.model_validate(
        {
            "images": [{"id": i, "file_name": f"{i}.png", "width": size, "height": size} for i in range(3)],
            "categories": [{"id": 4, "name": "red"}],
            "annotations": [],
        }
    )
    detector = load_detector("m", DetectorConfig(model=str(model), confidence=0.5), 0.5)
    steps: list[int] = []
    found = predict(detector, labels, tmp_path, batch_size=2, progress=steps.append)
    assert [(p.image_id, p.category_id, p.bbox) for p in found] == [(0, 4, (0, 0, 16, 16)), (1, 4, (48, 32, 16, 16))]
    assert steps == [2, 1]
    assert [p.image_id for p in predict(detector, labels, tmp_path, only=[1])] == [1]
    others = labels.model_copy(update={"categories": [labels.categories[0].model_copy(update={"name": "blue"})]})
    with pytest.raises(DatasetError, match=r"speak of blue, but m@sha256:\w+ knows green, red"):
        predict(detector, others, tmp_path)
    detector.close()


def test_a_picture_becomes_the_frame_of_a_camera() -> None:
    picture = np.zeros((33, 47, 3), np.uint8)
    picture[:, :20] = (40, 90, 200)
    frame = camera_frame(picture)
    assert (frame.format.name, frame.width, frame.height) == ("yuv420p", 47, 33)
    back = frame.to_ndarray(format="bgr24")
    assert np.abs(back[:, :16].astype(int) - (40, 90, 200)).max() <= 4
