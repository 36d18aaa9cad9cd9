"""How far training has come, the learning rate that follows from it, and the running average of the weights."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

WARMUP = 0.03  # share of the training in which the learning rate rises
FLOOR = 0.02  # of the learning rate at the end
PLAIN = 0.25  # last share of the training, without mosaics and nearly at its own scale: pictures as the service sees them
EMA_DECAY = 0.996  # 250 steps: a fraction of the plain part even of a short training
EMA_RAMP_STEPS = 200


@dataclass(frozen=True)
class Budget:
    """When training ends: after so many steps, or so many seconds, whichever comes first.

    Attributes:
        steps: of the optimiser; None for no limit.
        seconds: of wall time; None for no limit.
    """

    steps: int | None
    seconds: float | None

    def progress(self, step: int, elapsed_s: float) -> float:
        """0 at the start, 1 at the end. With a limit of time it follows the clock, so that the learning rate reaches its
        end in time on any machine."""
        by_steps = step / self.steps if self.steps else 0.0
        by_time = elapsed_s / self.seconds if self.seconds else 0.0
        return min(1.0, max(by_steps, by_time))


def learning_rate(peak: float, progress: float) -> float:
    """Linear warm-up, then a cosine (Loshchilov and Hutter, 2017) down to ``FLOOR`` of the peak."""
    if progress < WARMUP:
        return peak * (FLOOR + (1 - FLOOR) * progress / WARMUP)
    cosine = (1 + math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP))) / 2
    return peak * (FLOOR + (1 - FLOOR) * cosine)


class Average:
    """Exponential moving average of a network's weights and statistics; ``network`` is what is validated and exported.

    The decay ramps up, so that the random start is forgotten soon.

    Args:
        network: whose weights are read at each update; it keeps its tensors and writes into them.
    """

    def __init__(self, network: nn.Module):
        self.network: Any = copy.deepcopy(network).eval()
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        pairs = list(zip(self.network.state_dict().values(), network.state_dict().values(), strict=True))
        self._means = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counts = [pair for pair in pairs if not pair[0].is_floating_point()]

    def update(self, step: int) -> None:
        """Take in the weights after optimiser step ``step``, from 1."""
        decay = EMA_DECAY * (1 - math.exp(-step / EMA_RAMP_STEPS))
        get_ema_multi_avg_fn(decay)([mine for mine, _ in self._means], [theirs for _, theirs in self._means], step)
        for mine, theirs in self._counts:
            mine.copy_(theirs)
