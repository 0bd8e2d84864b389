"""What the one-stage detector learns from: which points answer for which object, and how wrong they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import box_iou, complete_box_iou_loss

from graphsurgery.demo.yolo import BINS, ShapesYolo

_POINTS_PER_OBJECT = 10
_OVERLAP_POWER = 6.0
_SCORE_POWER = 0.5
_WEIGHTS = {"classes": 0.5, "boxes": 7.5, "edges": 1.5}


def losses(model: ShapesYolo, images: Tensor, boxes: Sequence[Tensor], classes: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the weighted losses of a batch [B, 3, H, W] whose objects are `boxes` [M, 4], x0 y0 x1 y1 in pixels.

    `classes` [M] count from 0. Scores learn by binary cross entropy, boxes by their complete IoU, the bins of
    their edges by cross entropy with the two bins next to the true distance (arXiv 2006.04388).
    """
    edges, logits = model.raw(images)
    before, behind = model.distances(edges).chunk(2, dim=1)
    corners = torch.cat([model.points - before, model.points + behind], dim=1) * model.strides
    centres = (model.points * model.strides)[0].T
    wanted = torch.zeros_like(logits)
    box_loss, edge_loss = logits.new_zeros(()), logits.new_zeros(())
    for index, (truth, labels) in enumerate(zip(boxes, classes, strict=True)):
        if not len(truth):
            continue
        predicted = corners[index].T
        points, owners, worth = assign(centres, logits[index].detach().sigmoid().T, predicted.detach(), truth, labels)
        wanted[index, labels[owners], points] = worth
        box_loss = box_loss + (complete_box_iou_loss(predicted[points], truth[owners]) * worth).sum()
        edge_loss = edge_loss + (_edges(model, edges[index, :, points], points, truth[owners]) * worth).sum()
    count = wanted.sum().clamp(min=1)
    class_loss = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
    summed = {"classes": class_loss, "boxes": box_loss, "edges": edge_loss}
    return {name: _WEIGHTS[name] * value / count for name, value in summed.items()}


def assign(
    centres: Tensor, scores: Tensor, predicted: Tensor, truth: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the points that answer for objects: their numbers, whose object each is, and the score each shall have.

    `centres` [N, 2] and the boxes `predicted` [N, 4] and `truth` [M, 4] are in pixels, `scores` is [N, C]. Of the
    points within an object those answer whose score and box fit best already, and the best one shall have the largest
    overlap as its score (task alignment, arXiv 2108.07755). A point in several is that one's which it overlaps most.
    """
    within = torch.cat([centres[None] - truth[:, None, :2], truth[:, None, 2:] - centres[None]], dim=2).amin(dim=2) > 0
    overlap = box_iou(truth, predicted)
    fit = scores[:, labels].T ** _SCORE_POWER * overlap**_OVERLAP_POWER
    best = fit.masked_fill(~within, -1.0).topk(min(_POINTS_PER_OBJECT, len(centres)), dim=1).indices
    chosen = torch.zeros_like(within).scatter(1, best, True) & within
    owner = overlap.masked_fill(~chosen, -1.0).argmax(dim=0)
    mine = torch.zeros_like(chosen).scatter(0, owner[None], True) & chosen
    fit, overlap = fit * mine, overlap * mine
    worth = fit / fit.amax(dim=1, keepdim=True).clamp(min=1e-9) * overlap.amax(dim=1, keepdim=True)
    points = mine.any(dim=0).nonzero()[:, 0]
    return points, owner[points], worth[owner[points], points]


def _edges(model: ShapesYolo, edges: Tensor, points: Tensor, truth: Tensor) -> Tensor:
    """Return the mean loss of the four edges of each of P points; `edges` is [4 * BINS, P], `truth` [P, 4]."""
    centre = model.points[0, :, points].T
    corners = truth / model.strides[0, 0, points, None]
    distance = torch.cat([centre - corners[:, :2], corners[:, 2:] - centre], dim=1).clamp(0, BINS - 1 - 1e-3)
    below = distance.floor()
    share = distance - below
    logits = edges.T.reshape(-1, BINS)
    lower, upper = (
        functional.cross_entropy(logits, (below.long() + step).flatten(), reduction="none").reshape(distance.shape)
        for step in (0, 1)
    )
    return (lower * (1 - share) + upper * share).mean(dim=1)
