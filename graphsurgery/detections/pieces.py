"""The pieces of a section `detections`: boxes, scores, points, anchors, masks, keypoints and their suppression.

Each validates itself, and raises InputError that names its key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from graphsurgery.detections.plain import (
    Nested,
    require_choice,
    require_list,
    require_number,
    require_switch,
    require_whole,
)
from graphsurgery.detections.views import Array, Shapes, View, find, whole
from graphsurgery.errors import InputError

Activation = Literal["none", "sigmoid", "softmax"]
BoxForm = Literal["xyxy", "yxyx", "xywh", "cxcywh", "ltrb", "yolox", "deltas"]
PositionUnit = Literal["pixels", "relative", "image_pixels", "image_relative"]
Unit = Literal[PositionUnit, "strides"]
MaskForm = Literal["pasted", "per_box", "prototypes", "per_query"]

_MOST_LEVELS, _MOST_SIZES, _MOST_BOXES, _MOST_PIXELS = 16, 64, 2**17, 2**16


@dataclass(frozen=True)
class Scores(View):
    """Scores or objectness, and the activation that is still to do; softmax is over all columns."""

    activation: Activation = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("activation", self.activation, Activation)


@dataclass(frozen=True)
class Boxes(View):
    """Boxes: four columns, `bins` for each side where the side is the mean of a distribution (DFL).

    `form` is how they are written: corners (xyxy, yxyx), corner and size (xywh), centre and size (cxcywh), distances
    from points (ltrb), offsets of a point's cell and logarithms of sizes (yolox), or deltas from anchors, divided by
    `weights` and, where `order` is yx, y before x. `unit` is pixels or relative, of the canvas; image_pixels or
    image_relative, of the image itself, as it was before it was laid on the canvas; or strides (of the points).
    """

    form: BoxForm = "xyxy"
    unit: Unit = "pixels"
    bins: int | None = None
    weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    order: Literal["xy", "yx"] = "xy"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, kind in (("form", BoxForm), ("unit", Unit), ("order", Literal["xy", "yx"])):
            require_choice(name, getattr(self, name), kind)
        for each in require_list("weights", self.weights, 4, 4):
            require_number("weights", each, 1e-6, 1e6)
        if self.bins is not None:
            require_whole("bins", self.bins, 2, 256)
            if self.form != "ltrb":
                raise InputError(f"bins are of distances from points; with form {self.form} leave them out")
        if self.unit == "strides" and self.form != "ltrb":
            raise InputError(f"unit strides is of distances from points; form is {self.form}")
        if self.unit.startswith("image_") and self.form in ("ltrb", "yolox", "deltas"):
            raise InputError(f"unit {self.unit} is of positions; form {self.form} is from what lies on the canvas")


@dataclass(frozen=True)
class Points:
    """The cells that rows stand for: a level for each of `strides` in pixels, each row by row over the canvas.

    A cell's point lies `offset` strides from its corner.
    """

    strides: tuple[int, ...]
    offset: float = 0.5

    def __post_init__(self) -> None:
        for each in require_list("strides", self.strides, 1, _MOST_LEVELS):
            require_whole("strides", each, 1, _MOST_PIXELS)
        require_number("offset", self.offset, 0, 1)


@dataclass(frozen=True)
class Level:
    """The anchors around each cell of a level: `sizes` (width, height) in pixels."""

    stride: int
    sizes: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        require_whole("stride", self.stride, 1, _MOST_PIXELS)
        for each in require_list("sizes", self.sizes, 1, _MOST_SIZES):
            for edge in require_list("sizes", each, 2, 2):
                require_number("sizes", edge, 1e-3, _MOST_PIXELS)


@dataclass(frozen=True)
class Anchors:
    """The boxes that deltas are from: those of `levels`, centred `offset` strides from the corner of each cell, or
    `boxes` one by one, (x0, y0, x1, y1) in pixels."""

    NESTED: ClassVar[Nested] = {"levels": (Level,)}

    levels: tuple[Level, ...] = ()
    offset: float = 0.5
    boxes: tuple[tuple[float, float, float, float], ...] = ()

    def __post_init__(self) -> None:
        if bool(self.levels) == bool(self.boxes):
            raise InputError("levels or boxes: give one of the two")
        require_list("levels", self.levels, 0, _MOST_LEVELS)
        require_number("offset", self.offset, 0, 1)
        for each in require_list("boxes", self.boxes, 0, _MOST_BOXES):
            for edge in require_list("boxes", each, 4, 4):
                require_number("boxes", edge, -_MOST_PIXELS, _MOST_PIXELS)


@dataclass(frozen=True)
class Masks:
    """Masks: pasted on the canvas, small ones per_box, `coefficients` of prototypes, or one map per_query.

    `tensor` holds them, or the prototypes [1, K, h, w]. With `rescore` a score is multiplied by the mean probability
    inside of its mask, as Mask2Former does.
    """

    NESTED: ClassVar[Nested] = {"coefficients": View}

    tensor: str | int = 0
    form: MaskForm = "per_box"
    activation: Literal["none", "sigmoid"] = "none"
    coefficients: View | None = None
    rescore: bool = False

    def __post_init__(self) -> None:
        View(self.tensor)
        if isinstance(self.tensor, tuple):
            raise InputError("tensor: masks lie in one tensor")
        require_choice("form", self.form, MaskForm)
        require_choice("activation", self.activation, Literal["none", "sigmoid"])
        require_switch("rescore", self.rescore)
        if (self.form == "prototypes") != (self.coefficients is not None):
            raise InputError("coefficients go with form prototypes, and it needs them")


@dataclass(frozen=True)
class Keypoints(View):
    """Keypoints: `values` columns each, x, y and, where there are three, the visibility."""

    count: int = 17
    values: int = 3
    unit: PositionUnit = "pixels"
    activation: Literal["none", "sigmoid"] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole("count", self.count, 1, 1000)
        require_whole("values", self.values, 2, 3)
        require_choice("unit", self.unit, PositionUnit)
        require_choice("activation", self.activation, Literal["none", "sigmoid"])

    def points(self, outputs: Mapping[str, Array]) -> Array:
        """Return the keypoints of each row, [N, count, values]. Raises InputError where the shape doesn't fit."""
        if self._has_axes(np.shape(outputs[find(self.tensors[0], outputs, "keypoints")])):
            return whole(outputs, self.tensors[0], "keypoints").reshape(-1, self.count, self.values)
        rows = self.rows(outputs, "keypoints")
        if rows.shape[1] != self.count * self.values:
            raise InputError(
                f"detections.keypoints: has {rows.shape[1]} columns; expected {self.count} times {self.values}"
            )
        return rows.reshape(-1, self.count, self.values)

    def row_axes(self, outputs: Shapes, place: str, *, single: bool = False) -> dict[str, tuple[int, ...]]:
        """As View; of [N, count, values] the axes before the last two."""
        name = find(self.tensors[0], outputs, place)
        shape = outputs[name]
        if self._has_axes(shape):
            return {name: (len(shape) - 3,)}
        return super().row_axes(outputs, place, single=single)

    def _has_axes(self, shape: tuple[int, ...]) -> bool:
        """Whether keypoints and values lie along axes of their own."""
        return self.columns is None and len(shape) >= 3 and shape[-2:] == (self.count, self.values)


@dataclass(frozen=True)
class Suppression:
    """Non-maximum suppression of boxes that overlap a better one by more than `iou`, of the best `candidates`."""

    iou: float = 0.5
    per_class: bool = True
    candidates: int = 30_000

    def __post_init__(self) -> None:
        require_number("iou", self.iou, 0, 1)
        require_switch("per_class", self.per_class)
        require_whole("candidates", self.candidates, 1, 10**6)
