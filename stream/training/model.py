"""The network: a narrow YOLOX (Ge et al., "YOLOX: Exceeding YOLO Series in 2021", arXiv:2107.08430).

Backbone of cross-stage-partial blocks (Wang et al., 2020), path-aggregation neck (Liu et al., 2018), decoupled anchor-free heads
at strides 8, 16 and 32. Narrower than YOLOX-Nano, but with whole convolutions in place of its depthwise ones: on a CPU an
image then trains in two thirds of the time, with as many parameters.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

STRIDES = (8, 16, 32)
NECK_CHANNELS = (48, 96, 160)
HEAD_CHANNELS = 48
GREY, GREY_SPAN = 114.0, 64.0  # the padding becomes the zeros that convolutions pad with
PRIOR = 0.01  # score of every cell before training; the focal loss's start (Lin et al., 2017)
FIRST_BOX = (0.5, 0.5, math.log(2), math.log(3))  # before training: two cells by three about the middle of a cell
BOX_FIELDS = 4  # offset x, offset y, log width, log height; then objectness and classes


class Grid(NamedTuple):
    """All cells of an input, level by level and row by row.

    Attributes:
        corner: float32 (A, 2), left and top in pixels.
        stride: float32 (A, 1), side in pixels.
    """

    corner: torch.Tensor
    stride: torch.Tensor

    @property
    def center(self) -> torch.Tensor:
        """float32 (A, 2)."""
        return self.corner + self.stride / 2


def grid(width: int, height: int, device: torch.device) -> Grid:
    """The cells of an input of ``width`` x ``height`` pixels."""
    corners, strides = [], []
    for stride in STRIDES:
        rows, columns = torch.meshgrid(torch.arange(height // stride), torch.arange(width // stride), indexing="ij")
        corners.append(torch.stack((columns.flatten(), rows.flatten()), 1) * stride)
        strides.append(torch.full((rows.numel(), 1), stride))
    return Grid(torch.cat(corners).float().to(device), torch.cat(strides).float().to(device))


def boxes(raw: torch.Tensor, cells: Grid) -> torch.Tensor:
    """Left, top, right, bottom (..., A, 4) in pixels of the input from the network's first four fields (..., A, 4)."""
    center = raw[..., :2] * cells.stride + cells.corner
    half = raw[..., 2:].clamp(max=8).exp() * cells.stride / 2  # e^8 cells is wider than any input; beyond it floats overflow
    return torch.cat((center - half, center + half), -1)


def fields(xyxy: torch.Tensor, cells: Grid, rows: torch.Tensor) -> torch.Tensor:
    """What the network should say in these cells, float32 (P, 4): the inverse of ``boxes``.

    Args:
        xyxy: float32 (P, 4) in pixels of the input.
        cells: of the input.
        rows: int64 (P,), of the cells.
    """
    stride = cells.stride[rows]
    offset = ((xyxy[:, :2] + xyxy[:, 2:]) / 2 - cells.corner[rows]) / stride
    return torch.cat((offset, ((xyxy[:, 2:] - xyxy[:, :2]) / stride).clamp(min=1e-3).log()), 1)


class Pointwise(nn.Conv2d):  # type: ignore[misc] # torch's classes are Any to mypy, here and below
    """1x1 convolution. In training it is computed as a product of matrices, which channels-last pictures are without a copy:
    for few pictures on one thread PyTorch has only its own, slower convolution (ATen's ``use_mkldnn``)."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True):
        super().__init__(inputs, outputs, 1, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H, W)."""
        if not self.training:  # what is exported
            convolved: torch.Tensor = super().forward(x)
            return convolved
        return functional.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, SiLU; not in place, as the gradient needs what went in."""
    if kernel == stride == 1:
        convolve: nn.Conv2d = Pointwise(inputs, outputs, bias=False)
    else:
        convolve = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolve, nn.BatchNorm2d(outputs, eps=1e-3), nn.SiLU())


class Bottleneck(nn.Module):  # type: ignore[misc]
    """1x1, then 3x3, added to the input where ``shortcut``."""

    def __init__(self, channels: int, shortcut: bool):
        super().__init__()
        self.layers = nn.Sequential(convolution(channels, channels, 1), convolution(channels, channels))
        self.shortcut = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Same shape."""
        y: torch.Tensor = self.layers(x)
        return x + y if self.shortcut else y


class CrossStage(nn.Module):  # type: ignore[misc]
    """Half of the channels pass through ``depth`` bottlenecks, the other half around them."""

    def __init__(self, inputs: int, outputs: int, depth: int, shortcut: bool = True):
        super().__init__()
        half = outputs // 2
        self.around = convolution(inputs, half, 1)
        self.through = nn.Sequential(convolution(inputs, half, 1), *(Bottleneck(half, shortcut) for _ in range(depth)))
        self.join = convolution(2 * half, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H, W)."""
        joined: torch.Tensor = self.join(torch.cat((self.through(x), self.around(x)), 1))
        return joined


class CspBackbone(nn.Module):  # type: ignore[misc]
    """Features at strides 8, 16 and 32."""

    channels = (48, 96, 160)

    def __init__(self) -> None:
        super().__init__()
        a, b, c = self.channels
        self.stem = nn.Sequential(convolution(3, 16, stride=2), convolution(16, 24, stride=2), CrossStage(24, 24, 1))
        self.stage8 = nn.Sequential(convolution(24, a, stride=2), CrossStage(a, a, 1))
        self.stage16 = nn.Sequential(convolution(a, b, stride=2), CrossStage(b, b, 2))
        self.stage32 = nn.Sequential(convolution(b, c, stride=2), CrossStage(c, c, 1, shortcut=False))

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """BGR pixels 0..255, (N, 3, H, W)."""
        at8 = self.stage8(self.stem((pixels - GREY) / GREY_SPAN))
        at16 = self.stage16(at8)
        return at8, at16, self.stage32(at16)


class Neck(nn.Module):  # type: ignore[misc]
    """Passes features from coarse to fine, and back."""

    def __init__(self, inputs: tuple[int, int, int]):
        super().__init__()
        a, b, c = NECK_CHANNELS
        self.narrow32 = convolution(inputs[2], b, 1)
        self.down_to16 = CrossStage(b + inputs[1], b, 1, shortcut=False)
        self.narrow16 = convolution(b, a, 1)
        self.down_to8 = CrossStage(a + inputs[0], a, 1, shortcut=False)
        self.halve8 = convolution(a, a, stride=2)
        self.up_to16 = CrossStage(2 * a, b, 1, shortcut=False)
        self.halve16 = convolution(b, b, stride=2)
        self.up_to32 = CrossStage(2 * b, c, 1, shortcut=False)

    def forward(self, at8: torch.Tensor, at16: torch.Tensor, at32: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Three maps of ``NECK_CHANNELS``."""
        coarse = self.narrow32(at32)
        middle = self.narrow16(self.down_to16(torch.cat((_doubled(coarse), at16), 1)))
        fine = self.down_to8(torch.cat((_doubled(middle), at8), 1))
        middle = self.up_to16(torch.cat((self.halve8(fine), middle), 1))
        return fine, middle, self.up_to32(torch.cat((self.halve16(middle), coarse), 1))


class Head(nn.Module):  # type: ignore[misc]
    """Boxes and objectness from one branch, classes from another."""

    def __init__(self, inputs: int, classes: int):
        super().__init__()
        self.narrow = convolution(inputs, HEAD_CHANNELS, 1)
        self.place = convolution(HEAD_CHANNELS, HEAD_CHANNELS)
        self.kind = convolution(HEAD_CHANNELS, HEAD_CHANNELS)
        self.box = Pointwise(HEAD_CHANNELS, BOX_FIELDS)
        self.objectness = Pointwise(HEAD_CHANNELS, 1)
        self.classes = Pointwise(HEAD_CHANNELS, classes)
        for layer in (self.objectness, self.classes):
            nn.init.constant_(layer.bias, math.log(PRIOR / (1 - PRIOR)))
        with torch.no_grad():
            self.box.bias.copy_(torch.tensor(FIRST_BOX))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 5 + classes, H, W)."""
        x = self.narrow(x)
        place = self.place(x)
        return torch.cat((self.box(place), self.objectness(place), self.classes(self.kind(x))), 1)


class Network(nn.Module):  # type: ignore[misc]
    """The whole of it. ``backbone`` has ``channels`` and gives features at the three strides."""

    def __init__(self, backbone: Any, classes: int):
        super().__init__()
        self.backbone = backbone
        self.neck = Neck(backbone.channels)
        self.heads = nn.ModuleList(Head(channels, classes) for channels in NECK_CHANNELS)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """BGR pixels 0..255, (N, 3, H, W) -> (N, A, 5 + classes): what ``boxes`` reads, then logits of the scores."""
        levels = self.neck(*self.backbone(pixels))
        return torch.cat([head(level).flatten(2) for head, level in zip(self.heads, levels, strict=True)], 2).transpose(1, 2)


class Scored(nn.Module):  # type: ignore[misc]
    """The network as it is exported: scores from 0 to 1, boxes undecoded (the service decodes only those that it keeps)."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """See ``Network.forward``."""
        raw = self.network(pixels).float()
        return torch.cat((raw[..., :BOX_FIELDS], raw[..., BOX_FIELDS:].sigmoid()), -1)


def _doubled(x: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")
