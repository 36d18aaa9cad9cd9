"""Small models made on the spot: a grid of cells, and each cell's scores are linear in its pixels.

With the default weights the score of class ``c`` is the mean of channel ``c`` over the cell, so painting a cell in one
colour makes one detection whose box is the cell.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

from stream.frame import FrameBatch, FrameInfo

SIZE_PX = 32
CELL_PX = 8
CELLS = SIZE_PX // CELL_PX
Float32Array = npt.NDArray[np.float32]
Uint8Array = npt.NDArray[np.uint8]

SPEC: dict[str, Any] = {
    "input": {"width": SIZE_PX, "height": SIZE_PX, "color": "RGB", "resize": "stretch", "scale": 255},
    "output": {"family": "yolov8"},
    "classes": ["red", "green"],
}


def cell_boxes() -> Float32Array:
    """cx, cy, w, h of every cell, row by row: (16, 4)."""
    rows, columns = np.indices((CELLS, CELLS)) * CELL_PX + CELL_PX / 2
    sides = np.full(CELLS * CELLS, CELL_PX)
    return np.stack((columns.ravel(), rows.ravel(), sides, sides), 1).astype(np.float32)


def mean_weights(classes: int = 2) -> Float32Array:
    """Convolution weights under which class ``c`` scores the mean of channel ``c``."""
    weights = np.zeros((classes, 3, CELL_PX, CELL_PX), np.float32)
    for c in range(classes):
        weights[c, c] = 1 / CELL_PX**2
    return weights


def write_onnx(
    path: Path,
    *,
    layout: str = "NCHW",
    batch: int | str = "N",
    head: Literal["yolov8", "boxes"] = "yolov8",
    weights: Float32Array | None = None,
    dtype: int = TensorProto.FLOAT,
) -> Path:
    """The grid model as ONNX, with one ``yolov8`` output, or with ``boxes`` (0..1), ``scores`` of class 0 and ``labels``."""
    weights = mean_weights() if weights is None else weights
    classes, n = len(weights), CELLS * CELLS
    constants = {
        "weights": weights,
        "cells": cell_boxes().T[None],
        "nothing": np.zeros((), np.float32),
        "flat": np.array([0, classes, n]),
        "row": np.array([-1, n]),
        "first": np.array([0]),
        "unit_boxes": (cell_boxes() / SIZE_PX)[None],
        "label_of_all": np.ones((1, n), np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["picture"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2])
        if layout == "NHWC"
        else helper.make_node("Identity", ["floats"], ["planes"]),
        helper.make_node("Conv", ["planes", "weights"], ["conv"], strides=[CELL_PX, CELL_PX]),
        helper.make_node("Reshape", ["conv", "flat"], ["class_scores"]),
        helper.make_node("Gather", ["class_scores", "first"], ["first_class"], axis=1),
    ]
    if head == "yolov8":
        nodes += [
            helper.make_node("Mul", ["first_class", "nothing"], ["zeros"]),  # carries the batch over to the constant boxes
            helper.make_node("Add", ["zeros", "cells"], ["boxes"]),
            helper.make_node("Concat", ["boxes", "class_scores"], ["output0"], axis=1),
        ]
        outputs = [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [batch, 4 + classes, n])]
    else:
        nodes += [
            helper.make_node("Identity", ["unit_boxes"], ["boxes"]),
            helper.make_node("Reshape", ["first_class", "row"], ["scores"]),
            helper.make_node("Identity", ["label_of_all"], ["labels"]),
        ]
        outputs = [
            helper.make_tensor_value_info("labels", TensorProto.INT64, [1, n]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, n]),
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, n, 4]),
        ]
    shape = [batch, SIZE_PX, SIZE_PX, 3] if layout == "NHWC" else [batch, 3, SIZE_PX, SIZE_PX]
    graph = helper.make_graph(
        nodes,
        "cells",
        [helper.make_tensor_value_info("picture", dtype, shape)],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def write_spec(model: Path, changes: dict[str, Any] | None = None) -> Path:
    """``SPEC`` with ``changes`` (``{"input.width": 64}``; None removes a key) as the YAML beside ``model``."""
    data = yaml.safe_load(yaml.safe_dump(SPEC))
    for key, value in (changes or {}).items():
        *folders, leaf = key.split(".")
        part = data
        for folder in folders:
            part = part[folder]
        if value is None:
            del part[leaf]
        else:
            part[leaf] = value
    path = model.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(data))
    return path


def painted(*cells: tuple[int, int, tuple[int, int, int]]) -> Uint8Array:
    """A black picture of the grid model's size with cells (row, column, colour) painted."""
    picture = np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8)
    for row, column, color in cells:
        picture[row * CELL_PX : (row + 1) * CELL_PX, column * CELL_PX : (column + 1) * CELL_PX] = color
    return picture


def frame_batch(*images: Uint8Array, sizes: list[tuple[int, int]] | None = None) -> FrameBatch:
    """A batch of images that came from source frames of these sizes (width, height); of their own size by default."""
    sizes = sizes or [(image.shape[1], image.shape[0]) for image in images]
    frames = tuple(FrameInfo("hall", "", i, i / 5, 0.0, w, h, 0.0, 0.0) for i, (w, h) in enumerate(sizes))
    return FrameBatch("d", frames, np.stack(images))
