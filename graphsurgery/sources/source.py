"""What a source of graphs is: a model as it was before any pass, and what it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from graphsurgery.detections.postprocessing import Postprocessing
from graphsurgery.images.preprocessing import PLAIN, Preprocessing

if TYPE_CHECKING:
    import onnx

    from graphsurgery.detections.row_groups import Group
    from graphsurgery.images.canvas import Canvas, CanvasImage

Tensors = dict[str, npt.NDArray[Any]]
Image = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SourceSpec:
    """The `source` section of a recipe.

    `name` is torchvision's builder, the demo (`shapes` or `shapes_yolo`), or the path of an ONNX file. `weights` is the
    name of a torchvision weights enum entry, a .pth, .pt or .safetensors file, or `random:<seed>`. `size` is the
    canvas, height and width in pixels; where it is None the network's or the file's own size is taken, if it has one.
    `folder` is what relative paths are relative to. `image` says what an ONNX file wants of an image, `detections` what
    its outputs are, None where nobody says, `inputs` what inputs besides the image are (`images.other_inputs`),
    `outputs` what its outputs shall be called, in their order, `batch` how many images one that takes any number is fed
    at once.
    """

    kind: Literal["torchvision", "demo", "onnx"]
    name: str
    weights: str | None = None
    size: tuple[int, int] | None = None
    opset: int = 17
    folder: Path = Path()
    image: Preprocessing = PLAIN
    detections: Postprocessing | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    batch: int | None = None
    outputs: tuple[str, ...] | None = None


class Source(Protocol):
    """A model as it was before any pass, and what it computes.

    `canvas` is the fixed input, `name` what messages and reports call the model, `classes` the names of its labels
    from 0 on, where they are known. `row_groups` are the captured tensors whose rows are sets, `detections` says what
    the outputs `output_names` are, where a recipe does. `batch` is how many images trace() feeds at once, None where
    nobody says that there is more than one.
    """

    name: str
    classes: list[str] | None
    canvas: Canvas
    batch: int | None
    row_groups: Sequence[Group]
    detections: Postprocessing | None

    @property
    def output_names(self) -> Sequence[str]:
        """The outputs of the exported graph, in its order."""

    @property
    def folder(self) -> Path | None:
        """The folder that the external data of the exported model lies in; None: it has none."""

    def describe(self) -> Mapping[str, object]:
        """Return what identifies the model, as JSON knows it; equal means the same model."""

    def export(self) -> onnx.ModelProto:
        """Return the whole graph.

        For a model of torchvision its input is `input` [3, H, W] and its outputs are named boxes, labels, scores,
        masks_pasted, keypoints, keypoints_scores, as far as the model has them.
        """

    def trace(self, placed: CanvasImage) -> Tensors:
        """Return every tensor that is captured of one image, `input` [3, H, W] in 0..1, the canvas, included."""

    def detect(self, placed: CanvasImage) -> Tensors:
        """Return the final detections only, on the canvas.

        boxes [M, 4], labels, scores and, where there are any, masks [M, 1, m, m] as the network gives them or
        masks_pasted [M, 1, H, W], keypoints and keypoints_scores.
        """


@runtime_checkable
class HasBoundary(Protocol):
    """A source that has no modules to hook, and must be told which inner tensors trace() is to return."""

    folder: Path | None

    def set_boundary(self, names: Sequence[str]) -> None:
        """Name the tensors between the parts. Raises ModelError for one that the graph doesn't compute."""

    def export(self) -> onnx.ModelProto:
        """As Source."""


@runtime_checkable
class HasNamedOutputs(Protocol):
    """A source that gives detections only where somebody says what its outputs are."""

    def require_detections(self) -> None:
        """Raise ModelError where nobody says it."""
