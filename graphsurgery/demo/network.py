"""A Mask R-CNN small enough for a repository, built as torchvision builds maskrcnn_resnet50_fpn_v2.

Every module is torchvision's own and sits at the same attribute path; only widths, the number of blocks per
stage and the anchor sizes differ, so what works on this network's graph has met the full one's structure.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from graphsurgery.demo.checkpoint import CHECKPOINTS, load
from graphsurgery.demo.shapes import CATEGORIES, HEIGHT, WIDTH

CHECKPOINT = CHECKPOINTS["shapes"]

_STEM = 16
_PYRAMID = 48
_HEAD = 32
_BOX_FEATURES = 96
_ANCHOR_SIZES = ((16,), (32,), (64,), (96,), (128,))
_ANCHOR_RATIOS = ((0.5, 1.0, 2.0),) * len(_ANCHOR_SIZES)


class NarrowResNet(ResNet):  # type: ignore[misc]
    """torchvision's ResNet of Bottlenecks, one per stage, with `_STEM` channels in place of 64."""

    def __init__(self) -> None:
        super().__init__(Bottleneck, [1, 1, 1, 1], num_classes=1)
        self.conv1 = nn.Conv2d(3, _STEM, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = nn.BatchNorm2d(_STEM)

    def _make_layer(
        self,
        block: type[BasicBlock | Bottleneck],
        planes: int,
        blocks: int,
        stride: int = 1,
        dilate: bool = False,
    ) -> nn.Sequential:
        if stride == 1:  # the first stage, which takes the stem's output
            self.inplanes = _STEM
        layer: nn.Sequential = super()._make_layer(block, planes * _STEM // 64, blocks, stride, dilate)
        return layer


def shapes_maskrcnn(weights: Path | None = None) -> MaskRCNN:
    """Build the network, with the weights of a safetensors file or with random ones, in training mode.

    An image of HEIGHT x WIDTH pixels passes its transform without a resize. Training keeps fewer proposals
    than torchvision's default, for speed; inference settings are the default ones. Raises InputError if
    `weights` is no checkpoint of this network.
    """
    body = NarrowResNet()
    stages = [body.inplanes // 8 * 2**stage for stage in range(4)]
    backbone = BackboneWithFPN(
        body,
        return_layers={f"layer{stage + 1}": str(stage) for stage in range(4)},
        in_channels_list=stages,
        out_channels=_PYRAMID,
        extra_blocks=LastLevelMaxPool(),
        norm_layer=nn.BatchNorm2d,
    )
    anchors = AnchorGenerator(_ANCHOR_SIZES, _ANCHOR_RATIOS)
    model = MaskRCNN(
        backbone,
        num_classes=None,
        min_size=HEIGHT,
        max_size=WIDTH,
        rpn_anchor_generator=anchors,
        rpn_head=RPNHead(_PYRAMID, anchors.num_anchors_per_location()[0], conv_depth=2),
        rpn_pre_nms_top_n_train=1000,
        rpn_post_nms_top_n_train=1000,
        box_head=FastRCNNConvFCHead((_PYRAMID, 7, 7), [_HEAD] * 4, [_BOX_FEATURES], norm_layer=nn.BatchNorm2d),
        box_predictor=FastRCNNPredictor(_BOX_FEATURES, len(CATEGORIES) + 1),
        mask_head=MaskRCNNHeads(_PYRAMID, [_HEAD] * 4, 1, norm_layer=nn.BatchNorm2d),
        mask_predictor=MaskRCNNPredictor(_HEAD, _HEAD, len(CATEGORIES) + 1),
    )
    if weights is not None:
        load(model, weights, "shapes_maskrcnn")
    return model
