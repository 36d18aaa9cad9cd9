"""SimOTA: which cells answer for which object (Ge et al., 2021, arXiv:2107.08430, section 2.3).

Each object takes the cells that cost least, where the cost is the classification loss plus three times the box loss of what
the network says now; how many follows from how well the best cells fit ("dynamic k", Ge et al., "OTA", CVPR 2021).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional

from stream.training.model import Grid

CENTER_STRIDES = 2.5  # cells whose centre is this near to the object's, in their strides, may answer for it
MOST_CELLS = 10  # for one object
BOX_WEIGHT = 3.0
OUTSIDE = 1e5  # cost of a cell that is not both inside the object and near its centre


class Assignment(NamedTuple):
    """Parallel tensors (P,): the cells that answer for an object, in ascending order.

    Attributes:
        cell: int64, row of the grid.
        truth: int64, row of the object.
        iou: float32, overlap of the cell's box with the object.
    """

    cell: torch.Tensor
    truth: torch.Tensor
    iou: torch.Tensor


def assign(
    cells: Grid, predicted: torch.Tensor, scores: torch.Tensor, truth: torch.Tensor, truth_class: torch.Tensor
) -> Assignment:
    """Choose cells for the objects of one picture.

    Args:
        cells: of the input.
        predicted: float32 (A, 4) left, top, right, bottom, in pixels, as the network has them now.
        scores: float32 (A, classes), objectness times class score, 0..1.
        truth: float32 (G, 4), boxes of the objects.
        truth_class: int64 (G,).
    """
    with torch.no_grad():
        inside, near = centers_inside(cells, truth), _centers_near(cells, truth)
        candidates = (inside | near).any(1).nonzero()[:, 0]
        if not len(candidates):
            return Assignment(candidates, candidates, predicted.new_zeros(0))
        iou = overlaps(predicted[candidates], truth)
        wanted = functional.one_hot(truth_class, scores.shape[1]).float()
        # Scores are square-rooted as in the paper's code: the product of two scores would be too small early on.
        root = scores[candidates].clamp(1e-8, 1 - 1e-6).sqrt()
        right, wrong = -root.log(), -(1 - root).log()
        kind_cost = wrong.sum(1, keepdim=True) + (right - wrong) @ wanted.T
        both = inside[candidates] & near[candidates]
        cost = kind_cost - BOX_WEIGHT * (iou + 1e-8).log() + OUTSIDE * ~both
        most = min(MOST_CELLS, len(candidates))
        count = iou.topk(most, 0).values.sum(0).int().clamp(min=1)
        cheapest = cost.topk(most, 0, largest=False).indices
        taken = torch.zeros_like(iou, dtype=torch.bool)
        taken.scatter_(0, cheapest, torch.arange(most, device=iou.device)[:, None] < count)
        # A cell that several objects want answers for the one that it costs least.
        owner = torch.where(taken, cost, torch.inf).argmin(1)
        rows = taken.any(1).nonzero()[:, 0]
        return Assignment(candidates[rows], owner[rows], iou[rows, owner[rows]])


def centers_inside(cells: Grid, xyxy: torch.Tensor) -> torch.Tensor:
    """Whether the centres of cells lie in boxes (G, 4), bool (A, G)."""
    x, y = cells.center.split(1, 1)  # each side on its own: to reduce over a last axis of two is four times as slow
    left, top, right, bottom = xyxy.unbind(1)
    return (x > left) & (x < right) & (y > top) & (y < bottom)


def _centers_near(cells: Grid, xyxy: torch.Tensor) -> torch.Tensor:
    x, y = cells.center.split(1, 1)
    middle_x, middle_y = ((xyxy[:, :2] + xyxy[:, 2:]) / 2).unbind(1)
    reach = CENTER_STRIDES * cells.stride
    return ((x - middle_x).abs() < reach) & ((y - middle_y).abs() < reach)


def overlaps(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union (A, B) of boxes (A, 4) and (B, 4)."""
    sides = (torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2])).clamp(min=0)
    shared = sides.prod(-1)
    areas = (a[:, 2:] - a[:, :2]).prod(-1)[:, None] + (b[:, 2:] - b[:, :2]).prod(-1)
    return shared / (areas - shared).clamp(min=1e-8)
