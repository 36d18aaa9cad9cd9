"""``framewatch quantize`` on a real model: accepted, refused, read by the service."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from stream.commands.quantize import quantize
from stream.config import DetectorConfig
from stream.datasets.coco import CocoDataset, write_coco
from stream.detectors.files import read_model_file
from stream.detectors.registry import load_detector
from stream.errors import ConfigError, DatasetError, ModelError
from tests.support.labels import penn_fudan

pytestmark = [
    pytest.mark.compute,
    pytest.mark.skipif(find_spec("nncf") is None, reason="needs the extra quantize"),  # which takes seconds to import
]


@pytest.fixture(scope="module")
def halves(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two label files of different pictures of Penn-Fudan."""
    folder = tmp_path_factory.mktemp("labels")
    pictures = shared / "data/images/PennFudanPed"
    whole = penn_fudan(pictures, every=4)
    paths = folder / "calibration.json", folder / "validation.json"
    for start, path in enumerate(paths):
        images = [image.model_copy(update={"file_name": str(pictures / image.file_name)}) for image in whole.images[start::2]]
        ids = {image.id for image in images}
        annotations = [annotation for annotation in whole.annotations if annotation.image_id in ids]
        write_coco(path, CocoDataset(images=images, annotations=annotations, categories=whole.categories))
    return paths


def _run(model: Path, data: Path, val: Path, out: Path, *options: str) -> Result:
    arguments = [str(model), "--data", str(data), "--val", str(val), "--out", str(out), *options]
    return CliRunner().invoke(quantize, arguments, standalone_mode=False)


def test_int8_model_is_smaller_and_runs_in_the_service(shared: Path, halves: tuple[Path, Path], tmp_path: Path) -> None:
    model, out = shared / "data/models/FastestDet.onnx", tmp_path / "made" / "int8.xml"
    result = _run(model, *halves, out, "--max-drop", "0.03")
    assert result.exception is None, result.output
    assert "AP50 falls by" in result.stdout
    assert sorted(path.name for path in out.parent.iterdir()) == ["int8.bin", "int8.xml", "int8.yaml"]
    assert sum(path.stat().st_size for path in (out, out.with_suffix(".bin"))) < model.stat().st_size
    assert yaml.safe_load(out.with_suffix(".yaml").read_text())["classes"] == "coco80"
    assert read_model_file(out).spec == read_model_file(model).spec
    detector = load_detector("people", DetectorConfig(model=str(out), classes=["person"]), 0.1)
    assert detector.input.width == 352
    detector.close()
    again = _run(out, *halves, tmp_path / "twice.xml")
    assert isinstance(again.exception, ModelError)
    assert "is quantized already" in str(again.exception)


def test_a_drop_over_the_bound_writes_nothing(shared: Path, halves: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "made" / "int8.xml"  # calibrated on a single frame, it loses about 0.05 of AP
    result = _run(shared / "data/models/FastestDet.onnx", *halves, out, "--metric", "ap", "--max-drop", "0.001", "--frames", "1")
    assert result.exit_code == 1
    assert "0.001 is allowed: nothing written" in result.stderr
    assert not out.parent.exists()


def test_where_nothing_can_be_written_is_told_at_once(shared: Path, halves: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = _run(shared / "data/models/FastestDet.onnx", *halves, tmp_path / "file" / "int8.xml")
    assert isinstance(result.exception, ConfigError)
    assert "int8.xml cannot be written: " in str(result.exception)
    assert "calibrating" not in result.output


def test_the_same_pictures_on_both_sides_are_refused(shared: Path, halves: tuple[Path, Path], tmp_path: Path) -> None:
    result = _run(shared / "data/models/FastestDet.onnx", halves[1], halves[1], tmp_path / "int8.xml")
    assert isinstance(result.exception, DatasetError)
    assert "is used to calibrate and to validate" in str(result.exception)
