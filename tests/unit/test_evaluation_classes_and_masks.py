"""Classification and segmentation on cases counted by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from stream.errors import DatasetError
from stream.evaluation.classification import Answer, evaluate_classification, read_answers, read_labels
from stream.evaluation.gallery import FALSE, FOUND, LEFT_OUT, worst_masks
from stream.evaluation.segmentation import Masks, evaluate_segmentation, open_masks

# -- classes


def test_top1_top5_and_confusion() -> None:
    truth = {"1": "a", "2": "a", "3": "b", "4": "c"}
    ranking = ("f", "e", "d", "c", "b", "a")
    report = evaluate_classification(
        truth, [Answer("1", ("a", "b")), Answer("2", ("b", "a")), Answer("3", ranking), Answer("9", ("a", "b"))]
    )
    assert (report.samples, report.unanswered, report.unknown) == (4, 1, 1)
    assert report.top1 == 1 / 4
    assert report.top5 == 3 / 4  # 1, 2 and 3; the fourth has no answer
    names = [figures.name for figures in report.classes]
    assert names == ["a", "b", "c", "f"]
    assert report.confusion.tolist() == [[1, 1, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]
    a = report.classes[0]
    assert (a.objects, a.point.precision, a.point.recall, a.point.f1) == pytest.approx((2, 1, 0.5, 2 / 3))
    assert report.macro_f1 == pytest.approx((2 / 3) / 3)  # of a, b and c


def test_the_sixth_is_not_among_five() -> None:
    assert evaluate_classification({"1": "a"}, [Answer("1", ("f", "e", "d", "c", "b", "a"))]).top5 == 0


def test_labels_alone_have_no_top5() -> None:
    report = evaluate_classification({"1": "a"}, [Answer("1", ("a",))])
    assert report.top1 == 1
    assert math.isnan(report.top5)


def test_class_files(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,label,note\n1,cat,x\n2,dog,\n")
    (tmp_path / "t.jsonl").write_text('{"id": 1, "label": "cat"}\n{"id": "2", "label": "dog"}\n')
    assert read_labels(tmp_path / "t.csv") == read_labels(tmp_path / "t.jsonl") == {"1": "cat", "2": "dog"}
    expected = [Answer("1", ("cat", "cow", "dog")), Answer("2", ("dog", "cat", "cow"))]
    (tmp_path / "r.csv").write_text("id,dog,cat,cow\n1,0.1,0.5,0.5\n2,0.9,0,-1\n")
    (tmp_path / "r.jsonl").write_text(
        '{"id": 1, "scores": {"dog": 0.1, "cat": 0.5, "cow": 0.5}}\n{"id": 2, "scores": {"dog": 0.9, "cat": 0, "cow": -1}}\n'
    )
    assert read_answers(tmp_path / "r.csv") == read_answers(tmp_path / "r.jsonl") == expected
    (tmp_path / "r.csv").write_text("id,label\n1,cat\n")
    assert read_answers(tmp_path / "r.csv") == [Answer("1", ("cat",))]


def test_what_stands_beside_a_label_is_no_score(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("id,label,confidence,note\n1,cat,0.9,blurred\n")
    (tmp_path / "r.jsonl").write_text('{"id": 1, "label": "cat", "confidence": 0.9, "note": "blurred"}\n')
    assert read_answers(tmp_path / "r.csv") == read_answers(tmp_path / "r.jsonl") == [Answer("1", ("cat",))]
    (tmp_path / "r.jsonl").write_text('{"id": 1, "label": "dog", "scores": {"dog": 0.6, "cat": 0.4}}\n')
    assert read_answers(tmp_path / "r.jsonl") == [Answer("1", ("dog", "cat"))]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("r.csv", "name,label\n1,a\n", r"r\.csv:1: the head line must name id"),
        ("r.csv", "id,label\n1,a\n1,b\n", r"r\.csv:3: id: '1' comes twice"),
        ("r.csv", "id,label\n1,\n", r"r\.csv:2: has neither label nor scores"),
        ("r.csv", "id,a,b\n1,0.5\n", r"r\.csv:2: has another number of columns"),
        ("r.csv", "id,a,b\n1,0.5,high\n", r"r\.csv:2: score of 'b': 'high' is not a number"),
        ("r.csv", "id,a,b\n1,0.5,nan\n", r"r\.csv:2: score of 'b': 'nan' is not finite"),
        ("r.jsonl", '{"label": "a"}', r"r\.jsonl:1: id: is missing"),
        ("r.jsonl", '{"id": 1, "scores": [1]}', r"r\.jsonl:1: scores: must be an object"),
        ("r.jsonl", "1", r"r\.jsonl:1: is not an object"),
        ("r.jsonl", "{", r"r\.jsonl:1: is not valid JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, name: str, text: str, reason: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DatasetError, match=reason):
        read_answers(tmp_path / name)


def test_classes_that_cannot_be_compared() -> None:
    with pytest.raises(DatasetError, match="holds no sample"):
        evaluate_classification({}, [])
    with pytest.raises(DatasetError, match="no result is to an id of the truth, whose first is '1'"):
        evaluate_classification({"1": "a"}, [Answer("2", ("a",))])


# -- masks


def masks(**values: list[list[int]]) -> Masks:
    return Masks({name: lambda rows=rows: np.array(rows, np.uint8) for name, rows in values.items()}, {})  # type: ignore[misc]


def test_pixels_are_counted() -> None:
    report = evaluate_segmentation(masks(a=[[0, 0, 1, 1], [0, 0, 2, 2]]), masks(a=[[0, 1, 1, 1], [0, 0, 0, 2]]))
    background, one, two = report.classes
    assert (background.name, background.truth, background.result, background.both) == ("background", 4, 4, 3)
    assert (one.iou, one.dice, one.accuracy) == pytest.approx((2 / 3, 4 / 5, 1))
    assert (two.iou, two.dice, two.accuracy) == pytest.approx((1 / 2, 2 / 3, 1 / 2))
    assert report.pixel_accuracy == 6 / 8
    assert report.mean_iou == pytest.approx((3 / 5 + 2 / 3 + 1 / 2) / 3)
    assert report.foreground_iou == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert report.confusion.tolist() == [[3, 1, 0], [0, 2, 0], [1, 0, 1]]


def test_pictures_are_summed_and_the_worst_comes_first() -> None:
    truth, result = masks(a=[[1, 1, 1, 1]], b=[[1, 0]]), masks(a=[[1, 1, 1, 1]], b=[[0, 1]], c=[[1]])
    report = evaluate_segmentation(truth, result)
    assert [(picture.name, picture.mean_iou) for picture in report.pictures] == [("b", 0), ("a", 1)]
    assert (report.missing, report.unknown) == (0, 1)
    assert report.foreground_iou == pytest.approx(4 / 6)


def test_a_missing_mask_is_all_background() -> None:
    report = evaluate_segmentation(masks(a=[[1, 0]], b=[[1, 1]]), masks(a=[[1, 0]]))
    assert (report.missing, report.pixel_accuracy, report.foreground_iou) == (1, 0.5, pytest.approx(1 / 3))


def test_numbered_objects_and_pixels_to_ignore() -> None:
    truth, result = masks(a=[[1, 2, 3, 0, 255]]), masks(a=[[3, 1, 0, 0, 7]])
    report = evaluate_segmentation(truth, result, binary=True, ignore=255)
    assert [figures.name for figures in report.classes] == ["background", "object"]
    assert (report.pixel_accuracy, report.foreground_iou) == pytest.approx((3 / 4, 2 / 3))


def test_masks_that_cannot_be_compared() -> None:
    with pytest.raises(DatasetError, match="no mask is in both; the truth has a, the result b"):
        evaluate_segmentation(masks(a=[[1]]), masks(b=[[1]]))
    with pytest.raises(DatasetError, match="the two masks 'a' differ in size: 1x1 and 2x1"):
        evaluate_segmentation(masks(a=[[1]]), masks(a=[[1, 1]]))


def test_classes_must_have_one_name_and_one_value() -> None:
    truth = masks(a=[[1, 2]])._replace(names={1: "cat", 2: "dog"})
    with pytest.raises(DatasetError, match="class 1 is 'cat' in the truth and 'dog' in the result"):
        evaluate_segmentation(truth, truth._replace(names={1: "dog", 2: "cat"}))
    with pytest.raises(DatasetError, match="class 'cat' has the value 1 in the truth and 3 in the result"):
        evaluate_segmentation(truth, truth._replace(names={3: "cat"}))
    assert evaluate_segmentation(truth, truth._replace(names={2: "dog", 3: "cow"})).mean_iou == 1
    assert evaluate_segmentation(truth, truth._replace(names={1: "dog"}), binary=True).mean_iou == 1


def test_pixels_to_ignore_are_not_drawn_as_mistakes() -> None:
    truth, result = masks(a=[[1] * 64 + [255] * 64] * 64), masks(a=[[1] * 64 + [7] * 64] * 64)
    report = evaluate_segmentation(truth, result, ignore=255)
    for ignore, right in ((255, LEFT_OUT), (None, FALSE)):
        (snapshot,) = worst_masks(truth, result, report, 1, ignore=ignore)
        picture = cv2.imdecode(np.frombuffer(snapshot.jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        np.testing.assert_allclose(picture[32, [20, 100]], [FOUND, right], atol=8)


def test_a_folder_and_a_label_file_hold_the_same_masks(tmp_path: Path) -> None:
    drawn = np.zeros((20, 30), np.uint8)
    drawn[5:15, 10:25] = 3
    drawn[8:10, 12:14] = 7  # a small object in front of the large one
    cv2.imwrite(str(tmp_path / "a.png"), drawn)
    labels = tmp_path / "coco.json"

    def square(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
        return [[left, top, right, top, right, bottom, left, bottom]]

    objects = [(7, square(12, 8, 14, 10), 4), (3, square(10, 5, 25, 15), 150)]
    data = {
        "images": [{"id": 1, "file_name": "pictures/a.jpg", "width": 30, "height": 20}],
        "categories": [{"id": 3, "name": "person"}, {"id": 7, "name": "bag"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": kind, "bbox": [0, 0, 1, 1], "area": area, "segmentation": outline}
            for i, (kind, outline, area) in enumerate(objects)
        ],
    }
    labels.write_text(json.dumps(data))
    report = evaluate_segmentation(open_masks(labels), open_masks(tmp_path))
    assert report.pixel_accuracy == 1
    assert [(figures.name, figures.truth) for figures in report.classes] == [("background", 450), ("person", 146), ("bag", 4)]
    data["annotations"][0]["segmentation"] = None  # type: ignore[index]
    labels.write_text(json.dumps(data))
    with pytest.raises(DatasetError, match=r"coco\.json: annotation 0 has no segmentation"):
        open_masks(labels).read["a"]()


def test_files_that_are_no_masks_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=rf"{tmp_path}: holds no mask"):
        open_masks(tmp_path)
    cv2.imwrite(str(tmp_path / "c.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"c\.png: a mask is one channel of 8 bits, not \(4, 4, 3\)"):
        open_masks(tmp_path).read["c"]()
    cv2.imwrite(str(tmp_path / "c.bmp"), np.zeros((4, 4), np.uint8))
    with pytest.raises(DatasetError, match=r"c\.bmp and c\.png have the same name"):
        open_masks(tmp_path)
    (tmp_path / "c.bmp").unlink()
    (tmp_path / "d.png").write_text("no picture")
    with pytest.raises(DatasetError, match=r"d\.png: not a picture"):
        open_masks(tmp_path).read["d"]()
    with pytest.raises(DatasetError, match=r"none\.json: No such file"):
        open_masks(tmp_path / "none.json")
