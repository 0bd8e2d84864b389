"""A one-stage detector small enough for a repository: no anchors, and one output [1, 4 + classes, N].

The output is laid out as the YOLO family exports it: for each point of three grids the box, as centre, width and
height in pixels, and a probability for each class. A box's edge is a distribution over bins of distances from the
point (Generalized Focal Loss, arXiv 2006.04388); the blocks split and join channels (CSPNet, arXiv 1911.11929); the
neck goes down and up again (PANet, arXiv 1803.01534).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from graphsurgery.demo.checkpoint import load
from graphsurgery.demo.shapes import CATEGORIES, HEIGHT, WIDTH
from graphsurgery.detections.postprocessing import Postprocessing
from graphsurgery.detections.presets import PRESETS

STRIDES = (8, 16, 32)
BINS = 16
# Its labels count from 0, there being no background.
DETECTIONS = Postprocessing.from_json({**PRESETS["ultralytics"], "classes": list(CATEGORIES.values())})

_STEM, _LOW, _LEVELS = 16, 24, (48, 80, 80)
_NECK = 48
_CLASS_HEAD = 32
_FIRST_SCORE = 0.01


class ConvUnit(nn.Sequential):
    """A convolution that keeps or halves the size, BatchNorm and SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.SiLU(),
        )


class SplitBlock(nn.Module):
    """Two convolutions with a short cut on one half of the channels; both halves and the result are joined."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.enter = ConvUnit(inputs, outputs)
        self.deep = nn.Sequential(ConvUnit(half, half, 3), ConvUnit(half, half, 3))
        self.leave = ConvUnit(3 * half, outputs)

    def forward(self, features: Tensor) -> Tensor:
        passed, worked = self.enter(features).chunk(2, dim=1)
        joined: Tensor = self.leave(torch.cat([passed, worked, worked + self.deep(worked)], dim=1))
        return joined


class WidePool(nn.Module):
    """Three max pools of 5x5, one behind the other, joined with what they began with."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = ConvUnit(channels, channels // 2)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.leave = ConvUnit(2 * channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        pooled = [self.enter(features)]
        for _ in range(3):
            pooled.append(self.pool(pooled[-1]))
        joined: Tensor = self.leave(torch.cat(pooled, dim=1))
        return joined


class Neck(nn.Module):
    """Carries coarse features to the fine levels, then fine ones back; all levels leave `_NECK` channels wide."""

    def __init__(self) -> None:
        super().__init__()
        fine, middle, coarse = _LEVELS
        self.up = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.middle_down = SplitBlock(coarse + middle, _NECK)
        self.fine = SplitBlock(_NECK + fine, _NECK)
        self.fine_to_middle = ConvUnit(_NECK, _NECK, 3, 2)
        self.middle = SplitBlock(2 * _NECK, _NECK)
        self.middle_to_coarse = ConvUnit(_NECK, _NECK, 3, 2)
        self.coarse = SplitBlock(_NECK + coarse, _NECK)

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> list[Tensor]:
        middle = self.middle_down(torch.cat([self.up(coarse), middle], dim=1))
        fine = self.fine(torch.cat([self.up(middle), fine], dim=1))
        middle = self.middle(torch.cat([self.fine_to_middle(fine), middle], dim=1))
        coarse = self.coarse(torch.cat([self.middle_to_coarse(middle), coarse], dim=1))
        return [fine, middle, coarse]


class ShapesYolo(nn.Module):
    """The network for images [B, 3, H, W] float32 in 0..1 of one size, HEIGHT x WIDTH unless `set_size` says else."""

    points: Tensor
    strides: Tensor
    bins: Tensor

    def __init__(self) -> None:
        super().__init__()
        fine, middle, coarse = _LEVELS
        self.stem = nn.Sequential(ConvUnit(3, _STEM, 3, 2), ConvUnit(_STEM, _LOW, 3, 2), SplitBlock(_LOW, _LOW))
        self.stages = nn.ModuleList(
            [
                nn.Sequential(ConvUnit(_LOW, fine, 3, 2), SplitBlock(fine, fine)),
                nn.Sequential(ConvUnit(fine, middle, 3, 2), SplitBlock(middle, middle)),
                nn.Sequential(ConvUnit(middle, coarse, 3, 2), SplitBlock(coarse, coarse), WidePool(coarse)),
            ]
        )
        self.neck = Neck()
        self.box_heads = nn.ModuleList(
            nn.Sequential(ConvUnit(_NECK, _NECK, 3), nn.Conv2d(_NECK, 4 * BINS, 1)) for _ in STRIDES
        )
        self.class_heads = nn.ModuleList(
            nn.Sequential(ConvUnit(_NECK, _CLASS_HEAD, 3), _class_layer()) for _ in STRIDES
        )
        for name, values in zip(("points", "strides"), _grid(HEIGHT, WIDTH), strict=True):
            self.register_buffer(name, values, persistent=False)
        self.register_buffer("bins", torch.arange(BINS, dtype=torch.float32).reshape(1, BINS, 1, 1), persistent=False)

    def set_size(self, height: int, width: int) -> None:
        """Make it the network for images of this size, multiples of the largest stride."""
        self.points, self.strides = _grid(height, width)

    def raw(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of the edges' bins, [B, 4 * BINS, N], and of the classes, [B, C, N]."""
        features = self.stem(images)
        levels = []
        for stage in self.stages:
            features = stage(features)
            levels.append(features)
        edges, classes = [], []
        for level, box_head, class_head in zip(self.neck(*levels), self.box_heads, self.class_heads, strict=True):
            edges.append(box_head(level).flatten(2))
            classes.append(class_head(level).flatten(2))
        return torch.cat(edges, dim=2), torch.cat(classes, dim=2)

    def distances(self, edges: Tensor) -> Tensor:
        """Return how far left, top, right and bottom lie from the points, [B, 4, N] in cells: means over the bins."""
        split = edges.reshape(edges.shape[0], 4, BINS, -1).transpose(1, 2)  # bins are the channels of a convolution
        return nn.functional.conv2d(split.softmax(dim=1), self.bins)[:, 0]

    def forward(self, images: Tensor) -> Tensor:
        """Return boxes and scores as the module says, [B, 4 + C, N]; points of the finest grid come first."""
        edges, classes = self.raw(images)
        before, behind = self.distances(edges).chunk(2, dim=1)
        centre = (behind - before) / 2 + self.points
        boxes = torch.cat([centre, before + behind], dim=1) * self.strides
        return torch.cat([boxes, classes.sigmoid()], dim=1)


def shapes_yolo(weights: Path | None = None) -> ShapesYolo:
    """Build the network with the weights of a safetensors file or with random ones, in training mode.

    Raises InputError if `weights` is no checkpoint of this network.
    """
    model = ShapesYolo()
    if weights is not None:
        load(model, weights, "shapes_yolo")
    return model


def _class_layer() -> nn.Conv2d:
    """Return a last layer that finds next to nothing yet: most points answer for no object."""
    layer = nn.Conv2d(_CLASS_HEAD, len(CATEGORIES), 1)
    assert layer.bias is not None
    nn.init.constant_(layer.bias, torch.logit(torch.tensor(_FIRST_SCORE)).item())
    return layer


def _grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the points, x and y in cells of their level, [1, 2, N], and how large a cell is, [1, 1, N]."""
    points, strides = [], []
    for stride in STRIDES:
        rows, columns = height // stride, width // stride
        y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
        points.append(torch.stack([x.flatten(), y.flatten()]))
        strides.append(torch.full((1, rows * columns), float(stride)))
    return torch.cat(points, dim=1)[None], torch.cat(strides, dim=1)[None]
