"""The loss of a batch: boxes, objectness and classes, as in the code of Ge et al., 2021.

The distance of the raw box fields counts from the start, not only at the end: a person a few cells wide needs its slope.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

from stream.training.assign import assign, centers_inside
from stream.training.model import BOX_FIELDS, Grid, boxes, fields

BOX_WEIGHT = 5.0


class Truth(NamedTuple):
    """The objects of one picture, on the network's device.

    Attributes:
        xyxy: float32 (G, 4) in pixels of the input.
        class_id: int64 (G,).
        ignored: float32 (K, 4), regions where a detection is neither right nor wrong.
    """

    xyxy: torch.Tensor
    class_id: torch.Tensor
    ignored: torch.Tensor


class Losses(NamedTuple):
    """Scalars; ``total`` is their weighted sum, the one to differentiate."""

    total: torch.Tensor
    box: torch.Tensor
    objectness: torch.Tensor
    kind: torch.Tensor


def detection_loss(raw: torch.Tensor, truths: Sequence[Truth], cells: Grid) -> Losses:
    """Compare the network's output with the truth.

    Args:
        raw: float32 (N, A, 5 + classes), as ``Network.forward`` gives it.
        truths: one per picture.
        cells: of the input.
    """
    decoded = boxes(raw[..., :BOX_FIELDS], cells)
    logits, kinds = raw[..., BOX_FIELDS], raw[..., BOX_FIELDS + 1 :]
    scores = (logits.detach().sigmoid()[..., None] * kinds.detach().sigmoid()).float()
    wanted, counts = torch.zeros_like(logits), torch.ones_like(logits)
    found, true_boxes, true_kinds, fits = [], [], [], []
    for i, truth in enumerate(truths):
        if len(truth.ignored):
            ignored, wanted_here = (centers_inside(cells, xyxy).any(1) for xyxy in (truth.ignored, truth.xyxy))
            counts[i] = (~ignored | wanted_here).float()
        if not len(truth.xyxy):
            continue
        chosen = assign(cells, decoded[i].detach(), scores[i], truth.xyxy, truth.class_id)
        wanted[i, chosen.cell] = 1
        counts[i, chosen.cell] = 1
        found.append(i * raw.shape[1] + chosen.cell)
        true_boxes.append(truth.xyxy[chosen.truth])
        true_kinds.append(truth.class_id[chosen.truth])
        fits.append(chosen.iou)
    objectness = (functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * counts).sum()
    rows = torch.cat(found) if found else wanted.new_zeros(0, dtype=torch.int64)
    normal = max(1, len(rows))
    if not len(rows):
        nothing = objectness.new_zeros(())
        return Losses(objectness / normal, nothing, (objectness / normal).detach(), nothing)
    wanted_boxes, local = torch.cat(true_boxes), rows % raw.shape[1]
    box = (1 - overlap(decoded.flatten(0, 1)[rows], wanted_boxes).square()).sum()
    offset = (raw[..., :BOX_FIELDS].flatten(0, 1)[rows] - fields(wanted_boxes, cells, local)).abs().sum()
    likely = functional.one_hot(torch.cat(true_kinds), kinds.shape[-1]) * torch.cat(fits)[:, None]
    kind = functional.binary_cross_entropy_with_logits(kinds.flatten(0, 1)[rows], likely, reduction="sum")
    box, objectness, kind = box / normal, objectness / normal, kind / normal
    return Losses(BOX_WEIGHT * box + offset / normal + objectness + kind, box.detach(), objectness.detach(), kind.detach())


def overlap(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union of each box (P, 4) with the other of its row, (P,)."""
    shared = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    both = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - shared
    return shared / both.clamp(min=1e-8)
