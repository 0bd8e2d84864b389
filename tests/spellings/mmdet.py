"""The embedded detector as mmdetection 2.25 exports a Mask R-CNN with its deployment tool: the same weights.

    input [batch, 3, width, height]     normalised; axes 2 and 3 are named the wrong way round, as the tool names them
    dets [batch, num_dets, 5]           x1, y1, x2, y2, score; the best 100, or all boxes if fewer; 0 is none
    labels [batch, num_dets]            int64, from 0 on: the background is the last class, not the first
    masks [batch, num_dets, H, W]       pasted on the canvas, 0 or 1

What it holds: every weight is also an input; Resize takes sizes; TopK takes min(k, what there is); boxes are clipped as
shares of the canvas; NonMaxSuppression looks at all levels of the RPN at once, and its result is scattered into a mask
over all boxes; a level pools all regions, multiplied by 0 or 1 before and behind RoiAlign, and the levels are added up;
masks are pasted by mmcv::grid_sampler. With mmcv's library there is mmcv::MMCVRoiAlign in the place of RoiAlign.

One thing differs from the network as torchvision computes it: its RPN suppresses boxes level by level.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.onnx.symbolic_helper import parse_args
from torchvision.models.detection import MaskRCNN

from graphsurgery.demo.network import CHECKPOINT, shapes_maskrcnn
from graphsurgery.demo.shapes import HEIGHT, WIDTH
from graphsurgery.sources.quiet import quiet

OPSET = 11
STRIDES = (4, 8, 16, 32, 64)
FINEST = 56
SAMPLES = 2  # of a bin along one axis, with which the embedded detector was trained
MOST_PROPOSALS, MOST_DETECTIONS = 300, 100  # 1,000 by default: the head would take most of the time of the tests
RPN_STDS, HEAD_STDS = (1.0, 1.0, 1.0, 1.0), (0.1, 0.1, 0.2, 0.2)
_SCORE, _IOU, _RPN_IOU, _MASK = 0.05, 0.5, 0.7, 0.5
_LARGEST_STEP = 4.135166556742356  # log(1000 / 16)


@dataclass(frozen=True)
class Export:
    """How the tool was called: `aligned` moves regions by half a cell, `mmcv_ops` is with mmcv's own library.

    The embedded detector was trained without `aligned`; the tool's own networks have it.
    """

    aligned: bool = False
    mmcv_ops: bool = False
    opset: int = OPSET


class _Nms(torch.autograd.Function):
    """NonMaxSuppression; while it is traced two rows stand for what it keeps."""

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor, most: int, iou: float, score: float) -> Tensor:
        return torch.tensor([[0, 0, 0], [0, 0, 1]])

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, most: int, iou: float, score: float) -> Any:
        limits = [
            g.op("Constant", value_t=torch.tensor([most], dtype=torch.long)),
            g.op("Constant", value_t=torch.tensor([iou], dtype=torch.float)),
            g.op("Constant", value_t=torch.tensor([score], dtype=torch.float)),
        ]
        return g.op("NonMaxSuppression", boxes, scores, *limits)


class _RoiAlign(torch.autograd.Function):
    """RoiAlign of operator set 10, the regions of which are moved before it, or mmcv's own operator."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, rois: Tensor, size: int, scale: float, way: Export) -> Tensor:
        return features.new_zeros(rois.shape[0], features.shape[1], size, size)

    @staticmethod
    def symbolic(g: Any, features: Any, rois: Any, size: int, scale: float, way: Export) -> Any:
        options = {
            "output_height_i": size,
            "output_width_i": size,
            "spatial_scale_f": scale,
            "sampling_ratio_i": SAMPLES,
            "mode_s": "avg",
        }
        if way.mmcv_ops:
            return g.op("mmcv::MMCVRoiAlign", features, rois, aligned_i=int(way.aligned), **options)
        column = torch.onnx.symbolic_helper._slice_helper
        images = g.op("Squeeze", column(g, rois, axes=[1], starts=[0], ends=[1]), axes_i=[1])
        images = g.op("Cast", images, to_i=torch.onnx.TensorProtoDataType.INT64)
        boxes = column(g, rois, axes=[1], starts=[1], ends=[5])
        if way.aligned:
            boxes = g.op("Sub", boxes, g.op("Constant", value_t=torch.tensor([0.5 / scale], dtype=torch.float)))
        return g.op("RoiAlign", features, boxes, images, **options)


class Mmdet(nn.Module):
    """The network, of normalised images [B, 3, H, W]: dets, labels and masks as above."""

    def __init__(self, network: MaskRCNN, way: Export) -> None:
        super().__init__()
        self.network, self.way = network, way
        heads = network.roi_heads
        self.classes = int(heads.box_predictor.cls_score.out_features) - 1
        _background_last(heads.box_predictor.cls_score)
        _without_background(heads.box_predictor.bbox_pred, 4)
        _without_background(heads.mask_predictor.mask_fcn_logits, 1)
        for level, anchors in enumerate(network.rpn.anchor_generator.cell_anchors):
            self.register_buffer(f"anchors_{level}", anchors.clone())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shape = torch._shape_as_tensor(images)[2:]
        features = list(self.network.backbone(images).values())
        proposals = self.propose(features, shape)
        dets, labels = self.detect(features[:4], proposals, shape)
        return dets, labels, self.segment(features[:4], dets, labels, shape)

    def propose(self, features: Sequence[Tensor], shape: Tensor) -> Tensor:
        """Return the best boxes of the RPN [B, n, 5] with their scores."""
        objectness, deltas = self.network.rpn.head(list(features))
        grids = [self.grid(level, each.shape[-2:]) for level, each in enumerate(objectness)]
        count, boxes, scores = objectness[0].shape[0], [], []
        for logits, moves, anchors in zip(objectness, deltas, grids, strict=True):
            score = logits.permute(0, 2, 3, 1).reshape(count, -1, 1).sigmoid()
            moves = moves.permute(0, 2, 3, 1).reshape(count, -1, 4)
            anchors = anchors.expand(count, -1, anchors.size(-1))
            best = score.max(-1)[0].topk(_at_most(MOST_PROPOSALS, moves.shape[1]))[1]
            rows = moves.shape[1] * _numbered(count, best) + best
            anchors = anchors.reshape(-1, anchors.size(-1))[rows, :].reshape(count, -1, anchors.size(-1))
            moves = moves.reshape(-1, 4)[rows, :].reshape(count, -1, 4)
            scores.append(score.reshape(-1, 1)[rows, :].reshape(count, -1, 1))
            boxes.append(_decoded(anchors, moves, RPN_STDS, shape))
        suppressed = _suppressed(torch.cat(boxes, 1), torch.cat(scores, 1), MOST_PROPOSALS, _RPN_IOU, 0.0)
        return suppressed[0]

    def grid(self, level: int, size: torch.Size) -> Tensor:
        """Return the anchors of a level [H * W * A, 4]."""
        down, across = (torch.arange(0, edge).to(torch.float32) * STRIDES[level] for edge in size)
        x = across.repeat(down.shape[0])
        y = down.view(-1, 1).repeat(1, across.shape[0]).view(-1)
        shifts = torch.stack([x, y, x, y], dim=-1)
        own = cast(Tensor, getattr(self, f"anchors_{level}"))
        return (own[None, :, :] + shifts[:, None, :]).view(-1, 4)

    def detect(self, features: Sequence[Tensor], proposals: Tensor, shape: Tensor) -> tuple[Tensor, Tensor]:
        """Return dets and labels: each box of each class competes with those of its class, moved apart for that."""
        heads = self.network.roi_heads
        rois = _regions(proposals)
        count, each = rois.shape[0], rois.shape[1]
        rois = rois.view(-1, 5)
        logits, moves = heads.box_predictor(heads.box_head(self.pooled(features, rois, 7)))
        rois = rois.reshape(count, each, rois.size(-1))
        logits = logits.reshape(count, each, logits.size(-1))
        moves = moves.reshape(count, each, moves.size(-1))
        scores = functional.softmax(logits, dim=-1)
        boxes = _decoded(rois[..., 1:], moves, HEAD_STDS, shape)
        scores = scores[..., : self.classes]
        count = scores.shape[0]
        labels = torch.arange(self.classes).view(1, 1, -1).expand_as(scores).reshape(count, -1)
        scores = scores.reshape(count, -1)
        largest = torch.max(shape)
        apart = boxes.reshape(count, -1, 4) + (labels * largest + 1).unsqueeze(2)
        dets, labels = _suppressed(apart, scores.unsqueeze(2), MOST_DETECTIONS, _IOU, _SCORE, labels)
        boxes = dets[..., 0:4] - (labels * largest + 1).unsqueeze(2)
        return torch.cat([boxes, dets[..., 4:5]], dim=2), labels

    def segment(self, features: Sequence[Tensor], dets: Tensor, labels: Tensor, shape: Tensor) -> Tensor:
        """Return masks as large as the canvas, 0 or 1."""
        heads = self.network.roi_heads
        count, found = dets.shape[0], dets[..., :4]
        rois = _regions(found).view(-1, 5)
        logits = heads.mask_predictor(heads.mask_head(self.pooled(features, rois, 14)))
        each = found.shape[1]
        masks, boxes, classes = logits.sigmoid(), found.reshape(-1, 4), labels.reshape(-1)
        masks = masks[torch.arange(masks.shape[0]), classes][:, None]
        pasted = _pasted(masks, boxes, shape)
        return (pasted >= _MASK).to(torch.float).reshape(count, each, shape[0], shape[1])

    def pooled(self, features: Sequence[Tensor], rois: Tensor, size: int) -> Tensor:
        """Return what each region [K, 5] has on its own level, [K, C, size, size]."""
        width = features[0].size(1) * size**2
        out = rois[:, :1].expand(-1, width).reshape(-1, features[0].size(1), size, size) * 0
        sides = torch.sqrt((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2]))
        level = torch.floor(torch.log2(sides / FINEST + 1e-6)).clamp(min=0, max=len(features) - 1).long()
        for number, each in enumerate(features):
            mask = (level == number).float().unsqueeze(-1)
            pooled = _RoiAlign.apply(each, rois * mask, size, 1 / STRIDES[number], self.way)
            out = out + pooled * mask.expand(-1, width).reshape(out.shape)
        return out


def _background_last(layer: nn.Linear) -> None:
    layer.weight.data = layer.weight.data.roll(-1, 0)
    layer.bias.data = layer.bias.data.roll(-1, 0)


def _without_background(layer: nn.Module, rows: int) -> None:
    weight, bias = cast(nn.Parameter, layer.weight), cast(nn.Parameter, layer.bias)
    weight.data, bias.data = weight.data[rows:].clone(), bias.data[rows:].clone()


def _at_most(most: int, size: Any) -> Any:
    """Return `most`, or the size of a traced axis where that is smaller."""
    wanted = torch.tensor(most, dtype=torch.long)
    return torch.where(wanted < size, wanted, size)


def _numbered(count: Any, like: Tensor) -> Tensor:
    """Return the number of its image for each of `like` [B, n]."""
    return torch.arange(count).view(-1, 1).expand_as(like).long()


def _regions(boxes: Tensor) -> Tensor:
    """Return boxes [B, n, 4 or more] behind the number of their image, [B, n, 5]."""
    number = torch.arange(boxes.shape[0]).float().view(-1, 1, 1).expand(boxes.size(0), boxes.size(1), 1)
    return torch.cat([number, boxes[..., :4]], dim=-1)


def _decoded(boxes: Tensor, moves: Tensor, stds: Sequence[float], shape: Tensor) -> Tensor:
    """Return `boxes` [B, n, 4] moved by `moves` [B, n, 4 * C], on the canvas."""
    classes = moves.size(-1) // 4
    mean, std = moves.new_tensor([[0.0] * 4]).repeat(1, classes), moves.new_tensor([list(stds)]).repeat(1, classes)
    moves = moves * std + mean
    dx, dy, dw, dh = (moves[..., column::4] for column in range(4))
    x1, y1, x2, y2 = (boxes[..., column] for column in range(4))
    x, y = ((x1 + x2) * 0.5).unsqueeze(-1).expand_as(dx), ((y1 + y2) * 0.5).unsqueeze(-1).expand_as(dy)
    w, h = (x2 - x1).unsqueeze(-1).expand_as(dw), (y2 - y1).unsqueeze(-1).expand_as(dh)
    x, y = x + w * dx, y + h * dy
    w, h = (
        side * step.clamp(min=-_LARGEST_STEP, max=_LARGEST_STEP).exp()
        for side, step in zip((w, h), (dw, dh), strict=True)
    )
    ends = [(x - w * 0.5, shape[1]), (y - h * 0.5, shape[0]), (x + w * 0.5, shape[1]), (y + h * 0.5, shape[0])]
    clipped = [torch.clamp(value / edge, 0, 1) * edge for value, edge in ends]
    return torch.stack(clipped, dim=-1).view(moves.size())


def _suppressed(
    boxes: Tensor, scores: Tensor, most: int, iou: float, score: float, labels: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the best of `boxes` [B, N, 4] by `scores` [B, N, C]: [B, n, 5] with their scores, and labels [B, n].

    What is kept is marked by 1 in a mask over all, by which scores and boxes are multiplied.
    """
    count, classes = scores.shape[0], scores.shape[2]
    scores = scores.permute(0, 2, 1)
    number = boxes.shape[1]
    kept = _Nms.apply(boxes, scores, most, iou, score)
    images, kinds, rows = kept[:, 0], kept[:, 1], kept[:, 2]
    given = labels
    if given is None:
        given = torch.arange(classes, dtype=torch.long).view(1, classes, 1).expand_as(scores)
    scores = scores.reshape(-1, 1)
    boxes = boxes.reshape(count, -1).repeat(1, classes).reshape(-1, 4)
    mask = scores.new_zeros(scores.shape)
    mask[(classes * images + kinds) * number + rows, :] += 1
    scores, boxes = scores * mask, boxes * mask
    scores, boxes, given = scores.reshape(count, -1), boxes.reshape(count, -1, 4), given.reshape(count, -1)
    best = scores.topk(_at_most(most, number * classes))[1]
    rows = scores.shape[1] * _numbered(count, best) + best
    scores = scores.reshape(-1, 1)[rows, :].reshape(count, -1)
    boxes = boxes.reshape(-1, 4)[rows, :].reshape(count, -1, 4)
    given = given.reshape(-1, 1)[rows, :].reshape(count, -1)
    return torch.cat([boxes, scores.unsqueeze(2)], dim=2), given


def _pasted(masks: Tensor, boxes: Tensor, shape: Tensor) -> Tensor:
    """Return masks [n, 1, m, m] where their `boxes` lie, [n, H, W]."""
    height, width = shape
    x1, y1, x2, y2 = torch.split(boxes, 1, dim=1)
    y = torch.arange(0, height).to(torch.float32) + 0.5
    x = torch.arange(0, width).to(torch.float32) + 0.5
    y, x = (y - y1) / (y2 - y1) * 2 - 1, (x - x1) / (x2 - x1) * 2 - 1
    across = x[:, None, :].expand(masks.shape[0], y.size(1), x.size(1))
    down = y[:, :, None].expand(masks.shape[0], y.size(1), x.size(1))
    where = torch.stack([across, down], dim=3)
    return functional.grid_sample(masks.to(torch.float32), where, align_corners=False)[:, 0]


@contextlib.contextmanager
def _mmcv_symbols(opset: int) -> Iterator[None]:
    """Let the exporter write grid_sample and interpolate as mmcv has it do."""

    @parse_args("v", "v", "i", "i", "b")
    def grid_sampler(g: Any, image: Any, grid: Any, mode: int, padding: int, corners: bool) -> Any:
        options = {"interpolation_mode_i": mode, "padding_mode_i": padding, "align_corners_i": int(corners)}
        return g.op("mmcv::grid_sampler", image, grid, **options)

    def nearest(g: Any, image: Any, size: Any, *_: Any) -> Any:
        empty = [g.op("Constant", value_t=torch.tensor([], dtype=torch.float32)) for _ in range(2)]
        shape = torch.onnx.symbolic_helper._slice_helper(g, g.op("Shape", image), axes=[0], starts=[0], ends=[2])
        if torch.onnx.symbolic_helper._is_packed_list(size):
            edges = [
                torch.onnx.symbolic_helper._unsqueeze_helper(g, each, [0])
                for each in torch.onnx.symbolic_helper._unpack_list(size)
            ]
            size = g.op("Concat", *edges, axis_i=0)
        sizes = g.op("Concat", shape, g.op("Cast", size, to_i=torch.onnx.TensorProtoDataType.INT64), axis_i=0)
        return g.op(
            "Resize",
            image,
            *empty,
            sizes,
            coordinate_transformation_mode_s="asymmetric",
            cubic_coeff_a_f=-0.75,
            mode_s="nearest",
            nearest_mode_s="floor",
        )

    given = {"::grid_sampler": grid_sampler, "aten::upsample_nearest2d": nearest}
    for name, symbol in given.items():
        torch.onnx.register_custom_op_symbolic(name, symbol, opset)
    try:
        yield
    finally:
        for name in given:
            torch.onnx.unregister_custom_op_symbolic(name, opset)


def written(path: Path, way: Export | None = None) -> Path:
    """Write the network to an ONNX file and return its path."""
    path.write_bytes(_exported(way or Export()))
    return path


@functools.cache
def _exported(way: Export) -> bytes:
    network = Mmdet(shapes_maskrcnn(CHECKPOINT).eval(), way)
    file = io.BytesIO()
    ends: dict[str, Any] = {"input_names": ["input"], "output_names": ["dets", "labels", "masks"]}
    rows = {0: "batch", 1: "num_dets"}
    axes = {"input": {0: "batch", 2: "width", 3: "height"}, "dets": rows, "labels": rows, "masks": rows}
    with quiet(), torch.no_grad(), _mmcv_symbols(way.opset):
        torch.onnx.export(
            network,
            (torch.rand(1, 3, HEIGHT, WIDTH),),
            file,
            **ends,
            dynamic_axes=axes,
            opset_version=way.opset,
            keep_initializers_as_inputs=True,
            do_constant_folding=True,
            dynamo=False,
        )
    return file.getvalue()
