"""The embedded detector with BatchNorm unrolled, as two exporters of onnxruntime-riscv's flow spell Mask R-CNN.

    zoo            opset 10, as maskrcnn-benchmark's in ONNX's model zoo: `image` [3, H, W] blue first, 0..255, less a
                   mean; boxes, labels, scores, masks [n, 1, 28, 28] are called 6568, 6570, 6572, 6887; initializers
                   are inputs too
    torchvision    opset 12, torchvision's with FrozenBatchNorm2d: `image` [3, H, W] red first, 0..1, normalised;
                   boxes, labels, scores, masks [n, 1, 28, 28]

Both have each BatchNormalization as a Mul and an Add [1, C, 1, 1] between a Conv without bias and a Relu, and
torchvision's way to select boxes; resizing before the network and pasting of masks behind it are left to the host.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import _utils as detection_utils
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import _register_onnx_ops as symbolics
from torchvision.ops import boxes as box_ops

from graphsurgery.demo.network import CHECKPOINT, shapes_maskrcnn
from graphsurgery.demo.shapes import HEIGHT, WIDTH, draw
from graphsurgery.graph.model import Model
from graphsurgery.graph.renaming import rename_tensors
from graphsurgery.sources.quiet import quiet

ZOO_MEAN = (102.9801, 115.9465, 122.7717)  # of maskrcnn-benchmark, blue first, in 0..255
IMAGENET_MEAN, IMAGENET_STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@dataclass(frozen=True)
class Spelling:
    """How one of the exporters writes a network."""

    opset: int
    outputs: tuple[str, ...]
    is_zoo: bool


OUTPUTS = ("boxes", "labels", "scores", "masks")
SPELLINGS = {
    "zoo": Spelling(10, ("6568", "6570", "6572", "6887"), True),
    "torchvision": Spelling(12, OUTPUTS, False),
}


class MulAdd(nn.Module):
    """A BatchNorm2d in evaluation, as a factor and a summand for each channel."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        self.register_buffer("scale", scale.detach().reshape(1, -1, 1, 1))
        self.register_buffer("shift", (norm.bias - norm.running_mean * scale).detach().reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class Detector(nn.Module):
    """The network between the two ends of its transform, without a batch."""

    def __init__(self, *, is_zoo: bool) -> None:
        super().__init__()
        network = shapes_maskrcnn(CHECKPOINT).eval()
        if is_zoo:
            _take_zoo_pixels(network)
            network.rpn.anchor_generator = _Anchors(network)
        _unroll(network)
        self.backbone, self.rpn, self.roi_heads = network.backbone, network.rpn, network.roi_heads

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        images = image[None]
        batch = ImageList(images, [(HEIGHT, WIDTH)])
        features = self.backbone(images)
        proposals, _ = self.rpn(batch, features)
        (found,), _ = self.roi_heads(features, proposals, batch.image_sizes)
        return found["boxes"], found["labels"], found["scores"], found["masks"]


def write(spelling: str, path: Path) -> Path:
    """Export the detector in one of SPELLINGS to `path`, and return that."""
    chosen = SPELLINGS[spelling]
    # one that objects are found in: without any, torch's trace would leave the second NonMaxSuppression out
    image = torch.from_numpy(as_read(spelling, draw(0, 0).image))
    with quiet(), torch.no_grad(), _of_opset_10() if chosen.opset < 11 else contextlib.nullcontext():
        torch.onnx.export(
            Detector(is_zoo=chosen.is_zoo),
            (image,),
            path,
            dynamo=False,
            opset_version=chosen.opset,
            input_names=["image"],
            output_names=list(OUTPUTS),
            keep_initializers_as_inputs=chosen.is_zoo,
            dynamic_axes={name: {0: "nbox"} for name in OUTPUTS} if chosen.is_zoo else None,
        )
    names = dict(zip(OUTPUTS, chosen.outputs, strict=True))  # torch takes no number for a name
    rename_tensors(Model.load(path), names).save(path)
    return path


def as_read(spelling: str, image: np.ndarray) -> np.ndarray:
    """Return an image uint8 [H, W, 3] as the network of a spelling reads it, float32 [3, H, W]."""
    if SPELLINGS[spelling].is_zoo:
        pixels = image[..., ::-1] - np.array(ZOO_MEAN)
    else:
        pixels = (image / 255 - IMAGENET_MEAN) / IMAGENET_STD
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)


@contextlib.contextmanager
def _of_opset_10() -> Iterator[None]:
    """Keep out of a trace what operator set 10 can't express, and what makes an If of what is known.

    That are sizes of a Split and of the image's grid that are computed, and NonMaxSuppression only where there are
    boxes. torchvision registers its operators from operator set 11 on; what it writes for them is there since 10.
    """
    split = Tensor.split

    def with_known_sizes(x: Tensor, sizes: Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
        return (x,) if len(sizes) == 1 else split(x, [int(size) for size in sizes], dim)

    def squeezed(g: Any, x: Any, dim: int) -> Any:
        made = g.op("Squeeze", x, axes_i=[dim])
        made.setType(x.type().with_sizes([None]))  # not the number of boxes that the trace has seen
        return made

    for name, symbolic in (("nms", symbolics.symbolic_multi_label_nms), ("roi_align", symbolics.roi_align_opset11)):
        torch.onnx.register_custom_op_symbolic(f"torchvision::{name}", symbolic, 10)
    unscripted = box_ops._batched_nms_coordinate_trick.__wrapped__
    with (
        mock.patch.object(Tensor, "split", with_known_sizes),
        mock.patch.object(box_ops, "_batched_nms_coordinate_trick", unscripted),
        mock.patch.object(detection_utils, "_topk_min", lambda x, most, axis: min(most, int(x.shape[axis]))),
        mock.patch.object(symbolics.opset11, "squeeze", squeezed),
    ):
        yield


class _Anchors(nn.Module):
    """The anchors of one canvas, as an exporter that knows the sizes of the pyramid's levels writes them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        image = torch.zeros(1, 3, HEIGHT, WIDTH)
        with torch.no_grad():
            levels = list(network.backbone(image).values())
        (anchors,) = network.rpn.anchor_generator(ImageList(image, [(HEIGHT, WIDTH)]), levels)
        self.register_buffer("anchors", anchors)

    def forward(self, images: ImageList, levels: Sequence[Tensor]) -> list[Tensor]:
        return [self.anchors]


def _take_zoo_pixels(network: nn.Module) -> None:
    """Let the first Conv read what the zoo's model reads, in place of 0..1, red first, less the mean, by the deviation.

    A pixel p of that is y / (255 * std) + offset of the zoo's y; the offset goes into the mean of the BatchNorm behind
    the Conv, so that only the border sees it: there the Conv's pads are the zoo's mean colour now.
    """
    mean, std, zoo_mean = (torch.tensor(each).float() for each in (IMAGENET_MEAN, IMAGENET_STD, ZOO_MEAN[::-1]))
    conv, norm = network.backbone.body.conv1, network.backbone.body.bn1
    with torch.no_grad():
        offset = (zoo_mean / 255 - mean) / std
        norm.running_mean -= torch.einsum("ochw,c->o", conv.weight, offset)
        conv.weight.copy_((conv.weight / (255 * std)[:, None, None]).flip(1))


def _unroll(network: nn.Module) -> None:
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, MulAdd(child))
