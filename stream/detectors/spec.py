"""ModelSpec: what the small YAML beside a model file says about it.

``model.onnx`` is described by ``model.yaml`` or ``model.onnx.yaml``::

    input: {width: 640, height: 640, color: RGB, resize: letterbox_center, pad: 114, scale: 255}
    output: {family: yolov8}
    classes: coco80

Pixels enter the model as ``(pixel / scale - mean) / std``, channel by channel in the order of ``color``.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from stream.detectors.base import InputSpec

COCO80 = tuple(
    """person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,bench,bird,
cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,
kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,banana,apple,
sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,
keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush""".replace(
        "\n", ""
    ).split(",")
)
CLASS_LISTS = {"coco80": COCO80}

Triple = tuple[float, float, float]
Stride = Annotated[int, Field(ge=1, le=256)]


class Part(BaseModel):
    """Base of every part: frozen, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelInput(Part):
    """The picture that the model takes, and how its pixels are scaled; ``layout`` is that of the model's own input."""

    width: int = Field(ge=8, le=8192)
    height: int = Field(ge=8, le=8192)
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    color: Literal["BGR", "RGB"] = "RGB"
    resize: Literal["stretch", "letterbox_top_left", "letterbox_center"] = "letterbox_center"
    pad: int = Field(114, ge=0, le=255)
    scale: float = Field(1, gt=0)
    mean: Triple = (0, 0, 0)
    std: Triple = (1, 1, 1)

    @field_validator("std")
    @classmethod
    def _positive(cls, std: Triple) -> Triple:
        if min(std) <= 0:
            raise ValueError("must be above 0")
        return std

    @property
    def picture(self) -> InputSpec:
        """What has to be done to a frame before the model sees it."""
        return InputSpec(self.width, self.height, self.color, self.resize, self.pad)

    @property
    def shift(self) -> Triple:
        """``mean`` in units of pixels: the model takes ``(pixel - shift) / divisor``."""
        a, b, c = self.mean
        return a * self.scale, b * self.scale, c * self.scale

    @property
    def divisor(self) -> Triple:
        """See ``shift``."""
        a, b, c = self.std
        return a * self.scale, b * self.scale, c * self.scale

    @property
    def raw(self) -> bool:
        """True where pixels enter the model as they are."""
        return self.shift == (0, 0, 0) and self.divisor == (1, 1, 1)


class FastestDetOutput(Part):
    """FastestDet: one map ``[1, 5 + classes, H, W]`` of objectness, tanh(dx, dy), sigmoid(w, h) and class scores.

    Here and below ``name`` picks the output where the model has several.
    """

    family: Literal["fastestdet"]
    name: str | None = None


class YoloxOutput(Part):
    """YOLOX: ``[1, anchors, 5 + classes]``; ``decoded`` where the export already holds pixels instead of grid offsets."""

    family: Literal["yolox"]
    name: str | None = None
    strides: list[Stride] = Field([8, 16, 32], min_length=1)
    decoded: bool = False


class Yolov8Output(Part):
    """YOLOv8 and its successors: ``[1, 4 + classes, anchors]`` with cx, cy, w, h in pixels of the input."""

    family: Literal["yolov8"]
    name: str | None = None


class NanodetOutput(Part):
    """NanoDet and NanoDet-Plus: class scores and box distributions of ``reg_max + 1`` bins a side.

    Either ``[anchors, classes]`` and ``[anchors, 4 * (reg_max + 1)]`` for each stride (told apart by their shapes, else
    named in ``scores`` and ``boxes`` in the order of ``strides``), or, as NanoDet-Plus is exported, both side by side in
    one ``[1, anchors, classes + 4 * (reg_max + 1)]``. ``cell_offset`` is where in its cell a prediction is anchored:
    0.5 for NanoDet, 0 for NanoDet-Plus; by default it follows from the form of the output.
    """

    family: Literal["nanodet"]
    strides: list[Stride] = Field([8, 16, 32], min_length=1)
    reg_max: int = Field(7, ge=1, le=64)
    scores: list[str] | None = None
    boxes: list[str] | None = None
    cell_offset: float | None = Field(None, ge=0, le=1)

    @model_validator(mode="after")
    def _both_named(self) -> Self:
        if (self.scores is None) != (self.boxes is None):
            raise ValueError("name both scores and boxes, or neither")
        for names in (self.scores, self.boxes):
            if names is not None and len(names) != len(self.strides):
                raise ValueError(f"scores and boxes need one name for each of the {len(self.strides)} strides")
        return self


class BoxesOutput(Part):
    """Ready boxes: SSD, DETR and end-to-end exports. One of

    - ``boxes [1, N, 4]``, ``scores [1, N]`` and, with more than one class, ``labels [1, N]`` (the leading axis may be missing);
    - ``boxes [1, N, 4]`` and ``scores [1, N, classes]``;
    - one output ``[1, N, 6]``: x1, y1, x2, y2, score, label;
    - one output ``[1, 1, N, 7]``: image, label, score, x1, y1, x2, y2 (SSD).

    Outputs are told apart by shape, type and name; where that is not enough, ``boxes``, ``scores`` and ``labels`` name them.

    Attributes:
        box_format: what the four numbers are.
        normalized: they run from 0 to 1 over the input instead of over its pixels.
        activation: what is still to be applied to the scores.
        background: where ``scores [1, N, classes + 1]`` hold the class that stands for nothing.
        first_label: label of the first class.
        nms: suppress overlapping boxes, for models that do not do so themselves.
    """

    family: Literal["boxes"]
    boxes: str | None = None
    scores: str | None = None
    labels: str | None = None
    box_format: Literal["xyxy", "yxyx", "xywh", "cxcywh"] = "xyxy"
    normalized: bool
    activation: Literal["none", "sigmoid", "softmax"] = "none"
    background: Literal["none", "first", "last"] = "none"
    first_label: int = 0
    nms: bool = False


ModelOutput = Annotated[FastestDetOutput | YoloxOutput | Yolov8Output | NanodetOutput | BoxesOutput, Field(discriminator="family")]


class ModelSpec(Part):
    """A model's input, output and class names; ``classes`` in the YAML is a list, or the name of a known one."""

    input: ModelInput
    output: ModelOutput
    classes: tuple[str, ...] = Field(min_length=1)

    @field_validator("classes", mode="before")
    @classmethod
    def _named_list(cls, classes: object) -> object:
        if not isinstance(classes, str):
            return classes
        if classes not in CLASS_LISTS:
            raise ValueError(f"no class list {classes!r}; known is {', '.join(CLASS_LISTS)}, or give a list of names")
        return CLASS_LISTS[classes]

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({name for name in classes if classes.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(map(repr, twice))} is listed twice")
        return classes
