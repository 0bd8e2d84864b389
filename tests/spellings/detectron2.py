"""The embedded detector as detectron2's tracing export writes a Mask R-CNN.

    pixels [3, H, W], 0..255, blue first  ->  boxes [n, 4], labels [n], masks [n, 1, 28, 28], scores [n], size [2]

Mean and padding are inside. Of each level of the RPN all scores are sorted and the best narrowed; boxes without area
are filtered out; batched_nms is an If; a level's boxes are read by NonZero, RoiAlign and ScatterND; the deltas of a
class are every fourth column, and the mask of the label is gathered before the Sigmoid. The class without object is
the last one. How detectron2 reads boxes (no shift by half a cell: ROIAlign without aligned; two samples per bin) is
what the weights were trained with.

The names of modules are those that the nodes of such a file are named after.
"""

from __future__ import annotations

import io
import math
from functools import lru_cache
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import MaskRCNN
from torchvision.ops import batched_nms, roi_align

from graphsurgery.demo.network import CHECKPOINT, shapes_maskrcnn
from graphsurgery.demo.shapes import HEIGHT, WIDTH
from graphsurgery.sources.quiet import quiet

PIXEL_MEAN = (103.53, 116.28, 123.675)  # of ImageNet, in 0..255, blue first; the standard deviation is in the weights
_STRIDES = (4, 8, 16, 32, 64)
_DIVISIBLE = 32
RPN_BEST, PROPOSALS, _RPN_IOU = 300, 300, 0.7  # 1,000 by default: the head would take most of the tests' time
_SCORE, _IOU, _DETECTIONS = 0.05, 0.5, 100
_LARGEST_DELTA = math.log(1000.0 / 16)
_CANONICAL_SIZE, _CANONICAL_LEVEL = 224, 4
_SAMPLES_PER_BIN = 2  # of torchvision's MultiScaleRoIAlign; detectron2's default is 0: as many as fit


@lru_cache
def exported(opset: int = 11, size: tuple[int, int] = (HEIGHT, WIDTH)) -> onnx.ModelProto:
    """Return the file for images of one size, height and width, as torch's exporter without dynamo writes it."""
    network, image = Detectron2(shapes_maskrcnn(CHECKPOINT).eval()).eval(), torch.zeros(3, *size)
    written = io.BytesIO()
    with quiet(), torch.no_grad():
        torch.onnx.export(network, (image,), written, dynamo=False, opset_version=opset)
    return onnx.load_from_string(written.getvalue())


class Detectron2(nn.Module):
    """The network, from one that was built as torchvision builds it."""

    def __init__(self, trained: MaskRCNN) -> None:
        super().__init__()
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.ones(3, 1, 1), persistent=False)
        self.backbone = FPN(trained)
        self.proposal_generator = RPN(trained)
        self.roi_heads = RoIHeads(trained)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        normalised = (image.to(torch.float32) - self.pixel_mean) / self.pixel_std
        size = torch.stack([torch.as_tensor(edge) for edge in normalised.shape[-2:]])
        wanted = torch.stack([size]).max(0).values
        wanted = (wanted + (_DIVISIBLE - 1)) // _DIVISIBLE * _DIVISIBLE
        margin = [0, wanted[-1] - size[1], 0, wanted[-2] - size[0]]
        features = self.backbone(functional.pad(normalised, margin, value=0.0).unsqueeze(0))
        proposals = self.proposal_generator(features, size)
        boxes, labels, masks, scores = self.roi_heads(features[:-1], proposals, size)
        return boxes, labels, masks, scores, size


class FPN(nn.Module):
    """The ResNet, and a pyramid of five levels on it, the finest first."""

    def __init__(self, trained: MaskRCNN) -> None:
        super().__init__()
        body, fpn = trained.backbone.body, trained.backbone.fpn
        self.bottom_up = body
        with torch.no_grad():  # channels the other way round, from 0..1 to 0..255
            deviation = torch.tensor(trained.transform.image_std)[:, None, None] * 255
            body.conv1.weight.copy_((body.conv1.weight / deviation).flip(1))
        for level, (lateral, output) in enumerate(zip(fpn.inner_blocks, fpn.layer_blocks, strict=True), 2):
            self.add_module(f"fpn_lateral{level}", lateral)
            self.add_module(f"fpn_output{level}", output)
        self.top_block = nn.MaxPool2d(kernel_size=1, stride=2, padding=0)

    def forward(self, image: Tensor) -> list[Tensor]:
        stages = list(self.bottom_up(image).values())
        above = self.get_submodule("fpn_lateral5")(stages[-1])
        levels = [self.get_submodule("fpn_output5")(above)]
        for level, stage in zip((4, 3, 2), reversed(stages[:-1]), strict=True):
            coarse = functional.interpolate(above, scale_factor=2.0, mode="nearest")
            above = self.get_submodule(f"fpn_lateral{level}")(stage) + coarse
            levels.insert(0, self.get_submodule(f"fpn_output{level}")(above))
        return [*levels, self.top_block(levels[-1])]


class AnchorGenerator(nn.Module):
    """The anchors of each cell of each level, [cells * A, 4]."""

    def __init__(self, trained: MaskRCNN) -> None:
        super().__init__()
        for level, anchors in enumerate(trained.rpn.anchor_generator.cell_anchors):
            self.register_buffer(f"cell_anchors_{level}", anchors.clone(), persistent=False)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        grids = [feature.shape[-2:] for feature in features]
        anchors = []
        for level, ((height, width), stride) in enumerate(zip(grids, _STRIDES, strict=True)):
            across = torch.arange(0.0, width * stride, step=stride, dtype=torch.float32)
            down = torch.arange(0.0, height * stride, step=stride, dtype=torch.float32)
            y, x = torch.meshgrid(down, across, indexing="ij")
            x, y = x.reshape(-1), y.reshape(-1)
            shifts = torch.stack((x, y, x, y), dim=1)
            cell = self.get_buffer(f"cell_anchors_{level}")
            anchors.append((shifts.view(-1, 1, 4) + cell.view(1, -1, 4)).reshape(-1, 4))
        return [_boxes(each) for each in anchors]


class RPNHead(nn.Module):
    """Scores and deltas of the anchors: maps of A and of 4 * A channels."""

    def __init__(self, trained: MaskRCNN) -> None:
        super().__init__()
        head = trained.rpn.head
        self.conv, self.objectness_logits, self.anchor_deltas = head.conv, head.cls_logits, head.bbox_pred

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = [], []
        for feature in features:
            shared = self.conv(feature)
            logits.append(self.objectness_logits(shared))
            deltas.append(self.anchor_deltas(shared))
        return logits, deltas


class RPN(nn.Module):
    """The proposals [n, 4] of an image."""

    def __init__(self, trained: MaskRCNN) -> None:
        super().__init__()
        self.anchor_generator = AnchorGenerator(trained)
        self.rpn_head = RPNHead(trained)

    def forward(self, features: list[Tensor], size: Tensor) -> Tensor:
        anchors = self.anchor_generator(features)
        logits, deltas = self.rpn_head(features)
        logits = [each.permute(0, 2, 3, 1).flatten(1) for each in logits]
        deltas = [
            each.view(each.shape[0], -1, 4, each.shape[-2], each.shape[-1]).permute(0, 3, 4, 1, 2).flatten(1, -2)
            for each in deltas
        ]
        proposals, images = [], deltas[0].shape[0]
        for level, own in zip(anchors, deltas, strict=True):
            numbers = level.size(1)
            flat = own.reshape(-1, numbers)
            every = level.unsqueeze(0).expand(images, -1, -1).reshape(-1, numbers)
            proposals.append(_moved(flat, every, (1.0, 1.0, 1.0, 1.0)).view(images, -1, numbers))
        return self._best(proposals, logits, size)

    @staticmethod
    def _best(proposals: list[Tensor], logits: list[Tensor], size: Tensor) -> Tensor:
        first = torch.arange(1)
        scores, boxes, levels = [], [], []
        for level, (own, ranked) in enumerate(zip(proposals, logits, strict=True)):
            count = _at_most(ranked.shape[1], RPN_BEST)
            ranked, order = ranked.sort(descending=True, dim=1)
            best = order.narrow(1, 0, count)
            scores.append(ranked.narrow(1, 0, count))
            boxes.append(own[first[:, None], best])
            levels.append(torch.full((count,), level, dtype=torch.int64))
        all_scores, all_boxes, all_levels = torch.cat(scores, dim=1), torch.cat(boxes, dim=1), torch.cat(levels, dim=0)
        of_image, scores_of_image = _boxes(all_boxes[0]), all_scores[0]
        of_image = _clipped(of_image, size)
        widths, heights = of_image[:, 2] - of_image[:, 0], of_image[:, 3] - of_image[:, 1]
        kept = (widths > 0.0) & (heights > 0.0)
        of_image, scores_of_image, all_levels = _boxes(of_image[kept]), scores_of_image[kept], all_levels[kept]
        chosen = batched_nms(of_image.float(), scores_of_image, all_levels, _RPN_IOU)[:PROPOSALS]
        return _boxes(of_image[chosen])


class RoIAlign(nn.Module):
    """What lies in boxes [n, 5] of one level, the first column the number of the image."""

    def __init__(self, scale: float, size: int) -> None:
        super().__init__()
        self.scale, self.size = scale, size

    def forward(self, feature: Tensor, boxes: Tensor) -> Tensor:
        return roi_align(feature, boxes.to(feature.dtype), self.size, self.scale, _SAMPLES_PER_BIN, aligned=False)


class RoIPooler(nn.Module):
    """What lies in boxes [n, 4], each read from the level of its size."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.level_poolers = nn.ModuleList(RoIAlign(1 / stride, size) for stride in _STRIDES[:-1])

    def forward(self, features: list[Tensor], boxes: Tensor) -> Tensor:
        number = torch.full_like(boxes[:, :1], 0)
        numbered = torch.cat((number, boxes), dim=1)
        sizes = torch.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
        level = torch.floor(_CANONICAL_LEVEL + torch.log2(sizes / _CANONICAL_SIZE + 1e-8))
        level = torch.clamp(level, min=2, max=5).to(torch.int64) - 2
        pooled = torch.zeros((numbered.shape[0], features[0].shape[1], self.size, self.size))
        for each, pooler in enumerate(self.level_poolers):
            chosen = (level == each).nonzero().unbind(1)[0]
            pooled.index_put_((chosen,), pooler(features[each], numbered[chosen]))
        return pooled


class BoxHead(nn.Module):
    """The features of boxes, [n, F]."""

    def __init__(self, trained: MaskRCNN) -> None:
        super().__init__()
        *convs, _, self.fc1, _ = trained.roi_heads.box_head
        for number, conv in enumerate(convs, 1):
            self.add_module(f"conv{number}", conv)
        self.convs = [f"conv{number}" for number in range(1, len(convs) + 1)]
        self.flatten = nn.Flatten()
        self.fc_relu1 = nn.ReLU()

    def forward(self, pooled: Tensor) -> Tensor:
        for name in self.convs:
            pooled = self.get_submodule(name)(pooled)
        return self.fc_relu1(self.fc1(self.flatten(pooled)))


class BoxPredictor(nn.Module):
    """Logits [n, C + 1], no object last, and deltas [n, 4 * C]."""

    def __init__(self, trained: MaskRCNN) -> None:
        super().__init__()
        predictor = trained.roi_heads.box_predictor
        self.cls_score, self.bbox_pred = predictor.cls_score, predictor.bbox_pred
        for layer, first in ((self.cls_score, 1), (self.bbox_pred, 4)):
            rest = layer.weight[:first], layer.bias[:first]
            weight, bias = layer.weight[first:], layer.bias[first:]
            if layer is self.cls_score:
                weight, bias = torch.cat((weight, rest[0])), torch.cat((bias, rest[1]))
            layer.weight, layer.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(features), self.bbox_pred(features)


class MaskHead(nn.Module):
    """The mask of the label of each box, [n, 1, 28, 28], as probabilities."""

    def __init__(self, trained: MaskRCNN) -> None:
        super().__init__()
        self.convs = []
        for number, conv in enumerate(trained.roi_heads.mask_head, 1):
            self.add_module(f"mask_fcn{number}", conv)
            self.convs.append(f"mask_fcn{number}")
        predictor = trained.roi_heads.mask_predictor
        self.deconv, self.deconv_relu, self.predictor = predictor.conv5_mask, nn.ReLU(), predictor.mask_fcn_logits
        weight, bias = self.predictor.weight[1:].detach(), self.predictor.bias[1:].detach()
        self.predictor.weight, self.predictor.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, pooled: Tensor, labels: Tensor, boxes: Tensor) -> Tensor:
        for name in self.convs:
            pooled = self.get_submodule(name)(pooled)
        logits = self.predictor(self.deconv_relu(self.deconv(pooled)))
        own = logits[torch.arange(logits.size(0)), labels][:, None]
        return own.sigmoid().split([boxes.shape[0]], dim=0)[0]


class RoIHeads(nn.Module):
    """Boxes, labels, masks and scores of an image, from its proposals."""

    def __init__(self, trained: MaskRCNN) -> None:
        super().__init__()
        self.box_pooler, self.box_head, self.box_predictor = RoIPooler(7), BoxHead(trained), BoxPredictor(trained)
        self.mask_pooler, self.mask_head = RoIPooler(14), MaskHead(trained)

    def forward(self, features: list[Tensor], proposals: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        logits, deltas = self.box_predictor(self.box_head(self.box_pooler(features, proposals)))
        count = proposals.shape[0]
        boxes = _moved(deltas, proposals, (10.0, 10.0, 5.0, 5.0)).split([count])[0]
        count = proposals.shape[0]
        scores = functional.softmax(logits, dim=-1).split([count], dim=0)[0][:, :-1]
        classes = boxes.shape[1] // 4
        every = _clipped(_boxes(boxes.reshape(-1, 4)), size).view(-1, classes, 4)
        above = scores > _SCORE
        places = above.nonzero()
        boxes, scores, labels = every[above], scores[above], places[:, 1]
        kept = batched_nms(boxes.float(), scores, labels, _IOU)[:_DETECTIONS]
        boxes, scores, places = boxes[kept], scores[kept], places[kept]
        boxes, labels = _boxes(boxes), places[:, 1]
        masks = self.mask_head(self.mask_pooler(features, boxes), labels, boxes)
        return boxes, labels, masks, scores


def _boxes(boxes: Tensor) -> Tensor:
    """Return boxes as detectron2's class of that name holds them, which casts whatever it is given."""
    return boxes.to(torch.float32)


def _clipped(boxes: Tensor, size: Tensor) -> Tensor:
    height, width = size
    ends = (width, height, width, height)
    return torch.stack([boxes[:, side].clamp(min=0, max=end) for side, end in enumerate(ends)], dim=-1)


def _at_most(count: int | Tensor, most: int) -> Any:
    """Return a size, which is a tensor while the network is traced, or `most` where it is more."""
    return count.clamp(max=most) if isinstance(count, Tensor) else min(count, most)


def _moved(deltas: Tensor, boxes: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    """Return boxes [n, 4] moved by deltas [n, 4 * C], each class by its own."""
    deltas, boxes = deltas.float(), boxes.to(torch.float32)
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    x, y = boxes[:, 0] + 0.5 * widths, boxes[:, 1] + 0.5 * heights
    dx, dy, dw, dh = (deltas[:, first::4] / weight for first, weight in enumerate(weights))
    dw, dh = torch.clamp(dw, max=_LARGEST_DELTA), torch.clamp(dh, max=_LARGEST_DELTA)
    x, y = dx * widths[:, None] + x[:, None], dy * heights[:, None] + y[:, None]
    width, height = torch.exp(dw) * widths[:, None], torch.exp(dh) * heights[:, None]
    corners = x - 0.5 * width, y - 0.5 * height, x + 0.5 * width, y + 0.5 * height
    return torch.stack(corners, dim=-1).reshape(deltas.shape)
