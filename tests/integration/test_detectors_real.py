"""The models that need no YAML, on photographs with marked pedestrians."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from stream.config import DetectorConfig
from stream.detections import Detections
from stream.detectors.base import InputSpec
from stream.detectors.registry import describe_model, load_detector
from tests.support.models import Uint8Array, frame_batch

pytestmark = pytest.mark.compute

Boxes = npt.NDArray[np.float64]
BOX = re.compile(r"\(Xmin, Ymin\) - \(Xmax, Ymax\) : \((\d+), (\d+)\) - \((\d+), (\d+)\)")
EVERY = 6  # of the 170 photographs: 29 of them, about 70 people

# model_id, size, resize; confidence, and a little below what the models reach there: least recall and precision at IoU 0.5.
# The photographs have people in the background that nobody marked, and each family has its own idea of a score.
MODELS = {
    "FastestDet.onnx": ("people@sha256:31cb14c017fc", 352, "stretch", 0.65, 0.87, 0.74),  # 62 of 69 found, 62 of 79 right
    "yolox_nano.onnx": ("people@sha256:695e750a5d57", 416, "letterbox_top_left", 0.6, 0.90, 0.82),  # 64, 64 of 74
    "object_detection_nanodet_2022nov.onnx": ("people@sha256:4b82da9944b8", 416, "letterbox_center", 0.5, 0.84, 0.82),  # 60 of 70
}


@pytest.fixture(scope="module")
def photographs(shared: Path) -> list[tuple[Uint8Array, Boxes]]:
    """Pictures in BGR and the boxes of their pedestrians."""
    folder = shared / "data" / "images" / "PennFudanPed"
    found = []
    for annotation in sorted((folder / "Annotation").glob("*.txt"))[::EVERY]:
        boxes = BOX.findall(annotation.read_text(errors="replace"))
        picture = cv2.imread(str(folder / "PNGImages" / f"{annotation.stem}.png"))
        assert picture is not None
        found.append((picture.astype(np.uint8), np.array(boxes, np.float64)))
    assert len(found) == 29
    return found


def placed(picture: Uint8Array, spec: InputSpec) -> Uint8Array:
    """The picture as the model wants it."""
    left, top, width, height = spec.placement(picture.shape[1], picture.shape[0])
    image = np.full((spec.height, spec.width, 3), spec.pad, np.uint8)
    image[top : top + height, left : left + width] = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
    return image if spec.color == "BGR" else image[:, :, ::-1]


def matches(found: Detections, truth: Boxes) -> int:
    """How many of the true boxes are found at IoU 0.5, each detection used once, best first."""
    left = list(range(len(truth)))
    for box in found.xyxy.astype(np.float64):
        corner = np.minimum(box[2:], truth[left, 2:]) - np.maximum(box[:2], truth[left, :2])
        common = corner.clip(0).prod(1)
        union = (box[2:] - box[:2]).prod() + (truth[left, 2:] - truth[left, :2]).prod(1) - common
        best = int(np.argmax(common / union))
        if common[best] / union[best] >= 0.5:
            left.pop(best)
        if not left:
            break
    return len(truth) - len(left)


@pytest.mark.parametrize("name", MODELS)
def test_people_in_photographs(shared: Path, photographs: list[tuple[Uint8Array, Boxes]], name: str) -> None:
    model_id, size, resize, confidence, recall, precision = MODELS[name]
    config = DetectorConfig(model=str(shared / "data" / "models" / name), classes=["person"], confidence=confidence)
    detector = load_detector("people", config, confidence)
    assert (detector.model_id, detector.input.width, detector.input.height) == (model_id, size, size)
    assert detector.input.resize == resize
    assert detector.classes[0] == "person"
    assert describe_model(config, "people") == (detector.input, detector.classes, detector.model_id)

    sizes = [(picture.shape[1], picture.shape[0]) for picture, _ in photographs]
    found = detector.detect(frame_batch(*[placed(picture, detector.input) for picture, _ in photographs], sizes=sizes))
    right = sum(matches(detections, truth) for detections, (_, truth) in zip(found, photographs, strict=True))
    people = sum(len(truth) for _, truth in photographs)
    reported = sum(map(len, found))
    assert right / people >= recall, f"{right} of {people} found"
    assert right / reported >= precision, f"{right} of {reported} right"
    for detections, (width, height) in zip(found, sizes, strict=True):
        assert (detections.xyxy >= 0).all()
        assert (detections.xyxy <= [width, height] * 2).all()
        assert (np.diff(detections.confidence) <= 0).all()
        assert set(detections.class_id) <= {0}
    detector.close()


def test_a_yaml_goes_before_the_table(shared: Path, tmp_path: Path) -> None:
    """A known model may still be described otherwise, for instance under other class names."""
    model = Path(shutil.copy(shared / "data" / "models" / "FastestDet.onnx", tmp_path / "fastestdet.onnx"))
    assert describe_model(DetectorConfig(model=str(model), classes=["person"]), "d").classes[0] == "person"
    names = ", ".join(f"thing {i}" for i in range(80))
    model.with_suffix(".yaml").write_text(
        f"input: {{width: 352, height: 352, color: BGR, resize: stretch, scale: 255}}\n"
        f"output: {{family: fastestdet}}\nclasses: [{names}]\n"
    )
    assert describe_model(DetectorConfig(model=str(model), classes=["thing 0"]), "d").classes[0] == "thing 0"
