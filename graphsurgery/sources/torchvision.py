"""torchvision's detectors, and the embedded Mask R-CNN, which is built like one, as sources."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.ssd import SSD
from torchvision.ops import clip_boxes_to_image

from graphsurgery.detections.postprocessing import Postprocessing
from graphsurgery.detections.row_groups import Group
from graphsurgery.images.canvas import CanvasImage
from graphsurgery.sources.networks import build, class_names, sample_image
from graphsurgery.sources.quiet import quiet
from graphsurgery.sources.row_groups import ROW_GROUPS
from graphsurgery.sources.source import SourceSpec, Tensors
from graphsurgery.sources.torch_export import as_tensor, export_traced, weights_digest

Named = dict[str, Tensor]
Tap = tuple[str, Callable[[Any], Named]]


class TorchvisionSource:
    """A detector on a fixed canvas: the unmodified torchvision network, its transform set so that it doesn't resize."""

    folder: Path | None = None
    batch: int | None = None
    row_groups: Sequence[Group] = ROW_GROUPS
    detections: Postprocessing | None = None

    def __init__(self, spec: SourceSpec) -> None:
        self._spec = spec
        self._model, self.canvas = build(spec)
        self.name = spec.name
        self.classes = class_names(self._model, spec)

    def describe(self) -> dict[str, object]:
        """Return kind, name, weights, weights_sha256, size and opset.

        Of a weights file only the name is told, not where it lies. The hash is over names, types and values.
        """
        return {
            "kind": self._spec.kind,
            "name": self._spec.name,
            "weights": None if self._spec.weights is None else Path(self._spec.weights).name,
            "weights_sha256": weights_digest(self._model),
            "size": [self.canvas.height, self.canvas.width],
            "opset": self._spec.opset,
        }

    def export(self) -> onnx.ModelProto:
        """Return the whole graph, traced on a sample image. Raises InputError when the exporter fails."""
        self._forget_scales()
        image = sample_image(0, 0, self.canvas)
        try:
            return export_traced(self._model, [image], self._spec.opset, self.name, "input", self.output_names)
        finally:
            self._forget_scales()

    @torch.no_grad()
    def trace(self, placed: CanvasImage) -> Tensors:
        """Run the network on the canvas and return every captured tensor by name."""
        captured: Named = {"input": as_tensor(placed.input)}
        with ExitStack() as hooks:
            for path, name_tensors in _taps(self._model):

                def record(_: Any, __: Any, output: Any, name_tensors: Any = name_tensors) -> None:
                    # Copied at once: torchvision changes what some modules return later, in place.
                    captured.update({key: value.clone() for key, value in name_tensors(output).items()})

                hooks.enter_context(self._model.get_submodule(path).register_forward_hook(record))
            if isinstance(self._model, GeneralizedRCNN):
                hooks.enter_context(_worth_of_proposals(self._model.rpn, captured))
            with quiet():
                (final,) = self._model([captured["input"]])
        if "masks" in final:
            captured["masks_pasted"] = final.pop("masks")
        captured.update(final)
        return {name: tensor.numpy() for name, tensor in captured.items()}

    @torch.no_grad()
    def detect(self, placed: CanvasImage) -> Tensors:
        """Run the network on the canvas without pasting masks."""
        model = self._model
        with quiet():
            if isinstance(model, GeneralizedRCNN):
                batch, _ = model.transform([as_tensor(placed.input)])
                features = model.backbone(batch.tensors)
                proposals, _ = model.rpn(batch, features)
                (final,), _ = model.roi_heads(features, proposals, batch.image_sizes)
            else:
                (final,) = model([as_tensor(placed.input)])
        return {name: tensor.numpy() for name, tensor in final.items()}

    @property
    def output_names(self) -> list[str]:
        """As Source: in the order of the dict that the network returns."""
        if not isinstance(self._model, GeneralizedRCNN):
            return ["boxes", "scores", "labels"]
        names = ["boxes", "labels", "scores"]
        if self._model.roi_heads.has_mask():
            names.append("masks_pasted")
        if self._model.roi_heads.has_keypoint():
            names += ["keypoints", "keypoints_scores"]
        return names

    def _forget_scales(self) -> None:
        """Let RoIAlign infer its scales anew: whether they were cached before would show in the exported graph."""
        if isinstance(self._model, GeneralizedRCNN):
            for name, pool in self._model.roi_heads.named_children():
                if name.endswith("_roi_pool"):
                    pool.scales = pool.map_levels = None


def _taps(model: Any) -> Iterator[Tap]:
    """Yield the modules whose outputs are captured, by attribute path, and how the tensors in them are named."""
    yield "transform", lambda output: {"input_backbone": output[0].tensors}
    yield "backbone", lambda output: _numbered("features", output.values())
    if isinstance(model, GeneralizedRCNN):
        yield from _two_stage_taps(model)
    elif isinstance(model, SSD):
        levels = range(len(model.head.classification_head.module_list))
        for head, name in (("classification_head", "cls_logits"), ("regression_head", "bbox_regression")):
            for level in levels:
                yield f"head.{head}.module_list.{level}", _one(f"{name}_{level}")
    else:
        yield "head.classification_head.cls_logits", _each("cls_logits")
        yield "head.regression_head.bbox_reg", _each("bbox_regression")
        if hasattr(model.head.regression_head, "bbox_ctrness"):
            yield "head.regression_head.bbox_ctrness", _each("bbox_ctrness")


def _two_stage_taps(model: Any) -> Iterator[Tap]:
    yield (
        "rpn.head",
        lambda output: _numbered("objectness", output[0]) | _numbered("pred_bbox_deltas", output[1]),
    )
    yield "rpn", lambda output: {"proposals": output[0][0]}
    yield "roi_heads.box_roi_pool", _one("box_features")
    yield "roi_heads.box_predictor", lambda output: {"class_logits": output[0], "box_regression": output[1]}
    for name in ("mask", "keypoint"):
        if getattr(model.roi_heads, f"has_{name}")():
            yield f"roi_heads.{name}_roi_pool", _one(f"{name}_features")
            yield f"roi_heads.{name}_predictor", _one(f"{name}_logits")
    # The final masks are pasted ones.
    if model.roi_heads.has_mask():
        yield "roi_heads", lambda output: {"masks": output[0][0]["masks"]}


@contextmanager
def _worth_of_proposals(rpn: Any, captured: Named) -> Iterator[None]:
    """Capture the scores of the proposals, and all boxes that they are chosen from, with their scores.

    The network lets go of both in a method of `rpn`, which no module hook sees.
    """
    choose = rpn.filter_proposals

    def record(boxes: Tensor, objectness: Tensor, sizes: list[tuple[int, int]], counts: list[int]) -> Any:
        chosen, scores = choose(boxes, objectness, sizes, counts)
        captured["proposal_scores"] = scores[0]
        captured["proposals_considered"] = clip_boxes_to_image(boxes[0], sizes[0])
        captured["proposals_considered_scores"] = objectness.reshape(-1).sigmoid()
        return chosen, scores

    rpn.filter_proposals = record
    try:
        yield
    finally:
        del rpn.filter_proposals


def _one(name: str) -> Callable[[Tensor], Named]:
    return lambda output: {name: output}


def _each(name: str) -> Callable[[Tensor], Named]:
    """Number the outputs of a layer that is called once for each level."""
    level = count()
    return lambda output: {f"{name}_{next(level)}": output}


def _numbered(name: str, tensors: Any) -> Named:
    return {f"{name}_{index}": tensor for index, tensor in enumerate(tensors)}
