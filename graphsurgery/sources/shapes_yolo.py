"""The embedded one-stage detector as a source."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import onnx
import torch

from graphsurgery.demo.yolo import DETECTIONS
from graphsurgery.detections.decode import decode
from graphsurgery.detections.postprocessing import Postprocessing
from graphsurgery.detections.row_groups import Group
from graphsurgery.images.canvas import CanvasImage
from graphsurgery.sources.networks import build, sample_image
from graphsurgery.sources.source import SourceSpec, Tensors
from graphsurgery.sources.torch_export import as_tensor, export_traced, weights_digest

_INPUT, _OUTPUT = "images", "output0"


class ShapesYoloSource:
    """The network on a fixed canvas, exported as the YOLO family is: `images` [1, 3, H, W] to `output0` [1, 4 + C, N].

    What its output is, `detections` says, so that a recipe needn't.
    """

    folder: Path | None = None
    batch: int | None = None
    row_groups: Sequence[Group] = ()  # rows of its output are places on the canvas, in an order
    detections: Postprocessing | None = DETECTIONS
    output_names: Sequence[str] = (_OUTPUT,)

    def __init__(self, spec: SourceSpec) -> None:
        self._spec = spec
        self._model, self.canvas = build(spec)
        self.name = spec.name
        self.classes = DETECTIONS.class_names

    def describe(self) -> dict[str, object]:
        """Return kind, name, weights, weights_sha256, size, opset and detections, as a manifest has them."""
        return {
            "kind": self._spec.kind,
            "name": self._spec.name,
            "weights": None if self._spec.weights is None else Path(self._spec.weights).name,
            "weights_sha256": weights_digest(self._model),
            "size": [self.canvas.height, self.canvas.width],
            "opset": self._spec.opset,
            "detections": DETECTIONS.to_json(),
        }

    def export(self) -> onnx.ModelProto:
        """Return the whole graph, traced on a sample image. Raises InputError when the exporter fails."""
        image = sample_image(0, 0, self.canvas)[None]
        return export_traced(self._model, image, self._spec.opset, self.name, _INPUT, self.output_names)

    @torch.no_grad()
    def trace(self, placed: CanvasImage) -> Tensors:
        """Run the network on the canvas; return what goes in, the heads' outputs and what comes out.

        `edges_0` and on are the logits of the boxes' edges, `classes_0` and on those of the classes, the finest level
        first, as their last convolutions give them. `boxes` [1, 4, N] and `scores` [1, C, N] are what is joined.
        """
        image = as_tensor(placed.input)
        captured = {"input": image, _INPUT: image[None]}
        with ExitStack() as hooks:
            for name, heads in (("edges", self._model.box_heads), ("classes", self._model.class_heads)):
                for level, head in enumerate(heads):

                    def record(_: Any, __: Any, output: torch.Tensor, key: str = f"{name}_{level}") -> None:
                        captured[key] = output

                    hooks.enter_context(head.register_forward_hook(record))
            output = self._model(captured[_INPUT])
        captured |= {"boxes": output[:, :4], "scores": output[:, 4:], _OUTPUT: output}
        return {name: tensor.numpy() for name, tensor in captured.items()}

    @torch.no_grad()
    def detect(self, placed: CanvasImage) -> Tensors:
        """Run the network on the canvas and read the detections out of its output, the best first."""
        output = self._model(as_tensor(placed.input)[None]).numpy()
        return decode(DETECTIONS, {_OUTPUT: output}, placed.placement)
