"""Random weights with which a detector still behaves like one: activations bounded, some detections, no ties.

Freshly initialised, torchvision's detectors are of no use for comparing models: BatchNorm with its default statistics
lets activations grow without bound, a softmax over 91 classes never gets above the score threshold, so that there is
no detection to compare, and gains of one and biases of zero would hide a rewrite that loses them. So, from sample
images and in the order in which data flows:

1. every parameter that is constant is varied a little; the backbone's kernels are made to sum to zero, without which
   a random network tells images apart by their colour and not by what is where; residual branches are made small,
   without which it multiplies rounding errors by a thousand;
2. BatchNorm takes its statistics from the images;
3. each channel of the last layers is scaled and shifted to a mean and a spread that trained networks have, so that
   scores are spread out, top-k has no ties, and boxes stay near their anchors;
4. the bias of the class scores is set so that on half of the images _CANDIDATES pairs of box and class pass the score
   threshold; after non-maximum suppression some 10 to 100 detections are left of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOS
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.models.detection.ssd import SSD
from torchvision.models.mobilenetv3 import InvertedResidual
from torchvision.models.resnet import Bottleneck

from graphsurgery.demo.yolo import ShapesYolo
from graphsurgery.errors import InputError

_CANDIDATES = 60
_BOXES = 100  # per image, out of 1,000: enough for statistics, and the heads are the slowest part of some networks
_DETECTIONS = 8  # per image, for the statistics of masks and keypoints, to which each gives hundreds of pixels
_OBJECTNESS_SPREAD = 1.5
# Few classes that are likely and many that are not make the number of detections vary less from image to image.
_CLASS_SPREAD, _CLASS_PRIOR = 1.5, 3.0
_HEATMAP_SPREAD = 2.0
# In units of the box coder: its weights are (1, 1, 1, 1) for the first and (10, 10, 5, 5) for the second.
_ANCHOR_DELTA_SPREAD, _BOX_DELTA_SPREAD = 0.15, 1.0
# FCOS regresses the distances to the four sides, in strides and through a ReLU.
_DISTANCE_MEAN, _DISTANCE_SPREAD = 3.0, 1.0

_GAIN, _BIAS, _NORM_BIAS = (0.6, 1.4), 0.02, 0.2
_RESIDUAL_GAIN = 0.2
_AFFINE = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


@torch.no_grad()
def calibrate(model: Any, images: Sequence[Tensor]) -> None:
    """Give a freshly initialised detector workable weights, in place; it ends in evaluation mode.

    `images` are float [3, H, W] in 0..1, all of one size. Draws from torch's global generator. Raises InputError for
    a network of an architecture that is not known here.
    """
    model.eval()
    _vary_constants(model)
    if isinstance(model, ShapesYolo):  # its scores are above the threshold from the beginning
        with _batch_statistics(model):
            model(torch.stack(list(images)))
        return
    _tame(model.backbone)
    with _batch_statistics(model):
        batch, _ = model.transform(list(images))
        features = model.backbone(batch.tensors)
        if isinstance(model, GeneralizedRCNN):
            _calibrate_rpn(model, list(features.values()))
            _calibrate_heads(model, batch, features)
        elif isinstance(model, SSD):
            _calibrate_ssd(model, list(features.values()))
        elif isinstance(model, FCOS):
            _calibrate_fcos(model, list(features.values()))
        elif isinstance(model, RetinaNet):
            _calibrate_retinanet(model, list(features.values()))
        else:
            raise InputError(f"{type(model).__name__}: no random weights for this architecture; give a weights file")


def _vary_constants(model: nn.Module) -> None:
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            first = parameter.flatten()[0]
            if not bool((parameter == first).all()):
                continue
            if first == 0:
                bound = _BIAS if isinstance(module, _AFFINE) else _NORM_BIAS
                parameter.uniform_(-bound, bound)
            else:
                parameter.mul_(torch.empty_like(parameter).uniform_(*_GAIN))


def _tame(backbone: Any) -> None:
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
            module.weight.sub_(module.weight.mean(dim=(2, 3), keepdim=True))
        if isinstance(module, Bottleneck):
            module.bn3.weight *= _RESIDUAL_GAIN
        if isinstance(module, InvertedResidual) and module.use_res_connect:
            module.block[-1][1].weight *= _RESIDUAL_GAIN


@contextmanager
def _batch_statistics(model: nn.Module) -> Iterator[None]:
    """Let every BatchNorm normalise by the batch it sees, and keep the cumulative average of these statistics."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    yield
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _calibrate_rpn(model: Any, levels: list[Tensor]) -> None:
    head = model.rpn.head
    inputs = [head.conv(level) for level in levels]
    _spread(head.cls_logits, inputs, _OBJECTNESS_SPREAD)
    _spread(head.bbox_pred, inputs, _ANCHOR_DELTA_SPREAD)


def _calibrate_heads(model: Any, batch: Any, features: dict[str, Tensor]) -> None:
    heads, sizes = model.roi_heads, batch.image_sizes
    every, _ = model.rpn(batch, features)
    proposals = [boxes[:: max(1, len(boxes) // _BOXES)] for boxes in every]
    counts = [len(boxes) for boxes in proposals]
    inputs = heads.box_head(heads.box_roi_pool(features, proposals, sizes))
    predictor = heads.box_predictor
    _spread(predictor.cls_score, [inputs], _CLASS_SPREAD, prior=_CLASS_PRIOR)
    _spread(predictor.bbox_pred, [inputs], _BOX_DELTA_SPREAD)
    logits, deltas = predictor(inputs)
    shift = _median(
        _background_shift(image, heads.score_thresh, _CANDIDATES * len(image) // len(boxes))
        for image, boxes in zip(logits.split(counts), every, strict=True)
    )
    predictor.cls_score.bias[0] += shift
    logits[:, 0] += shift

    found, _, _ = heads.postprocess_detections(logits, deltas, proposals, sizes)
    boxes = [each[:_DETECTIONS] for each in found]
    if heads.has_mask():
        inputs = heads.mask_head(heads.mask_roi_pool(features, boxes, sizes))
        *before, last = heads.mask_predictor
        for layer in before:
            inputs = layer(inputs)
        _spread(last, [inputs], _HEATMAP_SPREAD)
    if heads.has_keypoint():
        inputs = heads.keypoint_head(heads.keypoint_roi_pool(features, boxes, sizes))
        _spread(heads.keypoint_predictor.kps_score_lowres, [inputs], _HEATMAP_SPREAD)


def _calibrate_retinanet(model: Any, levels: list[Tensor]) -> None:
    classes, boxes = model.head.classification_head, model.head.regression_head
    _spread(classes.cls_logits, [classes.conv(level) for level in levels], _CLASS_SPREAD, prior=_CLASS_PRIOR)
    _spread(boxes.bbox_reg, [boxes.conv(level) for level in levels], _ANCHOR_DELTA_SPREAD)
    needed = torch.logit(torch.tensor(model.score_thresh)) - classes(levels)
    classes.cls_logits.bias += _median(_kth_smallest(image, _CANDIDATES) for image in needed)


def _calibrate_fcos(model: Any, levels: list[Tensor]) -> None:
    classes, boxes = model.head.classification_head, model.head.regression_head
    _spread(classes.cls_logits, [classes.conv(level) for level in levels], _CLASS_SPREAD, prior=_CLASS_PRIOR)
    towers = [boxes.conv(level) for level in levels]
    _spread(boxes.bbox_ctrness, towers, 1.0, mean=1.0)
    _spread(boxes.bbox_reg, towers, _DISTANCE_SPREAD, mean=_DISTANCE_MEAN)
    # The score is sqrt(sigmoid(logit) * sigmoid(centerness)); where the latter alone is too low no logit is enough.
    _, centerness = boxes(levels)
    least = model.score_thresh**2 / centerness.sigmoid()
    needed = torch.where(least < 1, torch.logit(least.clamp(max=1)), torch.inf) - classes(levels)
    classes.cls_logits.bias += _median(_kth_smallest(image, _CANDIDATES) for image in needed)


def _calibrate_ssd(model: Any, levels: list[Tensor]) -> None:
    classes, boxes = model.head.classification_head, model.head.regression_head
    for head, deviation, prior in ((classes, _CLASS_SPREAD, _CLASS_PRIOR), (boxes, _BOX_DELTA_SPREAD, 0.0)):
        for module, level in zip(head.module_list, levels, strict=True):
            *before, last = [module] if isinstance(module, nn.Conv2d) else module
            inputs = level
            for layer in before:
                inputs = layer(inputs)
            _spread(last, [inputs], deviation, prior=prior)
    shift = _median(_background_shift(image, model.score_thresh, _CANDIDATES) for image in classes(levels))
    for module in classes.module_list:
        *_, bias = module.parameters()
        bias[:: classes.num_columns] += shift


def _spread(layer: Any, inputs: Sequence[Tensor], deviation: float, mean: float = 0.0, prior: float = 0.0) -> None:
    """Rescale a layer with bias so that each channel of what it makes of `inputs` [N, C, ...] is spread like this.

    `deviation` is that of the values of a channel, `prior` that of the channels' means around `mean`.
    """
    samples = torch.cat([layer(each).transpose(0, 1).flatten(1) for each in inputs], dim=1)
    gain = deviation / samples.std(dim=1).clamp(min=1e-6)
    axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    layer.weight *= gain.view([-1 if dim == axis else 1 for dim in range(layer.weight.dim())])
    layer.bias.copy_((layer.bias - samples.mean(dim=1)) * gain + mean + prior * torch.randn(len(gain)))


def _background_shift(logits: Tensor, threshold: float, count: int) -> Tensor:
    """Return what to add to the background's logit so that `count` softmax scores of other classes pass `threshold`.

    `logits` [N, classes], background first. From score = e^l / (e^(b + shift) + sum of the others' e^l).
    """
    background, others = logits[:, :1].double(), logits[:, 1:].double()
    room = others.exp() / threshold - others.exp().sum(dim=1, keepdim=True)
    most = torch.where(room > 0, room.clamp(min=1e-30).log(), -torch.inf) - background
    return -_kth_smallest(-most, count)


def _kth_smallest(values: Tensor, count: int) -> Tensor:
    """Return the middle between the `count`-th smallest value and the next; infinite ones don't count."""
    ordered = values[torch.isfinite(values)].sort().values
    count = max(1, min(count, len(ordered) - 1))
    return (ordered[count - 1] + ordered[count]) / 2


def _median(values: Iterator[Tensor]) -> Tensor:
    return torch.stack(list(values)).median()
