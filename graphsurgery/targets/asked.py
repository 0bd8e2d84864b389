"""A node of a graph, and what limits ask of it: shapes, window, factors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, is_constant
from graphsurgery.operators.windows import Window, window
from graphsurgery.targets.schema import Scalar

Size = int | str | None
WINDOWED = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "QLinearConv", "ConvInteger", "DeformConv")
_WEIGHT_AT = {"QLinearConv": 3}


class Absent(Enum):
    """Says that a node has no such thing, so that no limit of it can be broken."""

    ABSENT = "absent"


ABSENT = Absent.ABSENT
Fact = Scalar | tuple[Scalar, ...] | Absent | None


@dataclass(frozen=True)
class Asked:
    """A node of a graph whose shapes have been inferred; `settled` are tensors (as ids) that no input reaches.

    `is_taken` says of another node whether the target takes it, None where nobody does.
    """

    node: gs.Node
    opset: int
    settled: frozenset[int] = frozenset()
    is_taken: Callable[[gs.Node], bool] | None = None

    def is_settled(self, tensor: gs.Tensor) -> bool:
        """Whether a tensor is a constant, or computed from constants alone."""
        return is_constant(tensor) or id(tensor) in self.settled

    @cached_property
    def data(self) -> list[gs.Tensor]:
        """What it reads and writes while it runs: no constants, no omitted inputs."""
        read = [tensor for tensor in self.node.inputs if not is_omitted(tensor) and not self.is_settled(tensor)]
        return [*read, *(tensor for tensor in self.node.outputs if not is_omitted(tensor))]

    def shape(self, index: int = 0) -> list[Size] | None:
        """Return the shape of an input, None where it isn't known."""
        return shape_of(self.node.inputs[index]) if index < len(self.node.inputs) else None

    @cached_property
    def out_shape(self) -> list[Size] | None:
        """The shape of the first output, None where it isn't known."""
        return shape_of(self.node.outputs[0]) if self.node.outputs else None

    @cached_property
    def weight_shape(self) -> list[Size] | None:
        """The shape of what a Conv multiplies by, None where it isn't known or the node has none."""
        return self.shape(_WEIGHT_AT.get(self.node.op, 1))

    @cached_property
    def window(self) -> Window | None:
        """The window of a Conv or a pool, None where it can't be told."""
        kernel = attribute(self.node, "kernel_shape", None) or (self.weight_shape or [])[2:]
        sizes = [size for size in kernel if isinstance(size, int)]
        return window(self.node, sizes, (self.shape() or [])[2:]) if sizes and len(sizes) == len(kernel) else None

    @cached_property
    def factors(self) -> tuple[float, ...] | None:
        """By how much each axis of a Resize grows, by its shapes."""
        before, after = self.shape(), self.out_shape
        if before is None or after is None or len(before) != len(after):
            return None
        pairs = list(zip(before, after, strict=True))
        if not all((isinstance(b, int) and isinstance(a, int) and b) or a == b for b, a in pairs):
            return None
        return tuple(a / b if isinstance(a, int) and isinstance(b, int) else 1.0 for b, a in pairs)


def is_omitted(tensor: gs.Tensor) -> bool:
    """Whether an optional input or output is left out."""
    return isinstance(tensor, gs.Variable) and tensor.name == ""


def shape_of(tensor: gs.Tensor) -> list[Size] | None:
    """Return the shape of a tensor, None where it isn't known."""
    shape = tensor.shape
    return None if shape is None else list(shape)


def size_at(shape: Sequence[Size] | None, axis: int) -> int | Absent | None:
    """Return a size of a shape, None where it isn't known, ABSENT where there is no such axis."""
    if shape is None:
        return None
    if not -len(shape) <= axis < len(shape):
        return ABSENT
    size = shape[axis]
    return size if isinstance(size, int) else None


def known_sizes(shape: Sequence[Size] | None) -> tuple[int, ...] | None:
    """Return all sizes of a shape, None where one isn't known."""
    if shape is None or not all(isinstance(size, int) for size in shape):
        return None
    return tuple(size for size in shape if isinstance(size, int))
