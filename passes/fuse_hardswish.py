"""Fuse the operators that HardSwish is exported as into HardSwish, one layer of MobileNetV3 for a compiler.

    x * HardSigmoid(x, alpha=1/6, beta=1/2)     ->  HardSwish(x)
    x * Clip(x + 3, 0, 6) / 6                   ->  HardSwish(x)

Factors may stand in any order, with Mul by 1/6 for Div by 6. Equal up to rounding. One limit: in some orders
x * Clip(..) is computed first, which overflows at a sixth of the largest number of the type, where HardSwish does not.

It does not fire when
1. the operator set is below 14, which has no HardSwish
2. a tensor inside is read by another node too, or is a graph output
3. HardSigmoid has other attributes than these: its default alpha is 0.2. Other numbers around a Clip are no match
4. the elements are neither float32 nor float16 (ONNX Runtime has no other HardSwish), or nothing tells their type
5. a constant of more dimensions than x may add some to the result
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, constant, consumers, is_op, producer
from graphsurgery.operators.activations import ALPHA, gated, is_torch_hard_sigmoid
from graphsurgery.operators.operands import only_reader, rank, scalar
from graphsurgery.rewrite import Editor, NodePass, Refuse


@dataclass(frozen=True)
class FuseHardswish(NodePass):
    """It has no options."""

    name = "fuse-hardswish"
    effect = "exact"
    matches = ("Mul", "Clip")

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        gate = gated(node, "HardSigmoid")
        if gate is not None and not is_torch_hard_sigmoid(gate[1]):
            alpha, beta = attribute(gate[1], "alpha", 0.2), attribute(gate[1], "beta", 0.5)
            raise Refuse(f"its HardSigmoid has alpha {alpha:g} and beta {beta:g}, HardSwish has 1/6 and 1/2")
        found = _around_clip(node) if gate is None else _Found(gate[0], node, [gate[1].outputs[0]])
        if found is None:
            return
        if edit.opset < 14:
            raise Refuse("HardSwish needs operator set 14")
        if any(only_reader(tensor, edit) is None for tensor in found.inside):
            raise Refuse("a tensor inside is read by another node too, or is a graph output")
        dtype = edit.dtype(found.x)
        if dtype is None or dtype.name not in ("float32", "float16"):
            kind = "of unknown type" if dtype is None else dtype.name
            raise Refuse(f"its elements are {kind}, not float32 or float16")
        largest = max((rank(tensor) for tensor in found.constants), default=0)
        shape = edit.shape(found.x) if largest else []
        if shape is None or len(shape) < largest:
            raise Refuse(f"a constant of rank {largest} may add dimensions to the result")
        edit.replace(found.last, "HardSwish", [found.x])


@dataclass
class _Found:
    """What computes HardSwish of `x`: the node that writes the result, the tensors between, the constants."""

    x: gs.Tensor
    last: gs.Node
    inside: list[gs.Tensor]
    constants: list[gs.Tensor] = field(default_factory=list)


def _around_clip(clip: gs.Node) -> _Found | None:
    """Return what computes x * Clip(x + 3, 0, 6) / 6 around `clip`; None where it computes something else."""
    bounds = _bounds(clip) if clip.op == "Clip" else None
    add = producer(clip.inputs[0]) if bounds is not None else None
    if bounds is None or add is None or not is_op(add, "Add"):
        return None
    for x, three in (tuple(add.inputs), tuple(add.inputs)[::-1]):
        if scalar(three) != 3:
            continue
        for last in _followers(clip.outputs[0]):
            product = _Product({id(x), id(clip.outputs[0])})
            if product.is_one_sixth(last):
                inside = [add.outputs[0], clip.outputs[0], *product.inside]
                return _Found(x, last, inside, [three, *product.constants])
    return None


def _bounds(clip: gs.Node) -> tuple[float, float] | None:
    """Return the bounds of a Clip if they are 0 and 6."""
    inputs = list(clip.inputs[1:3])
    found = [scalar(tensor) for tensor in inputs] or [attribute(clip, "min", None), attribute(clip, "max", None)]
    return (0, 6) if found == [0, 6] else None


def _followers(tensor: gs.Tensor) -> Iterator[gs.Node]:
    """Yield the products that `tensor` takes part in, and those that these do."""
    for node in consumers(tensor):
        if is_op(node, "Mul", "Div"):
            yield node
            yield from (after for after in consumers(node.outputs[0]) if is_op(after, "Mul", "Div"))


@dataclass
class _Product:
    """Multiplies out what a node computes, down to the two tensors whose ids are `ends`."""

    ends: set[int]
    factor: float = 1.0
    eps: float = 0.0  # of the type of the constants
    constants: list[gs.Tensor] = field(default_factory=list)
    inside: list[gs.Tensor] = field(default_factory=list)
    reached: list[int] = field(default_factory=list)

    def is_one_sixth(self, last: gs.Node) -> bool:
        """Whether `last` computes a sixth of the product of the two."""
        fine = all(self._take(tensor, index == 1 and last.op == "Div", 1) for index, tensor in enumerate(last.inputs))
        fine = fine and len(self.reached) == 2 and set(self.reached) == self.ends
        return fine and abs(self.factor - ALPHA) <= 4 * self.eps * ALPHA

    def _take(self, tensor: gs.Tensor, below: bool, depth: int) -> bool:
        value, node, held = scalar(tensor), producer(tensor), constant(tensor)
        if id(tensor) in self.ends and not below:
            self.reached.append(id(tensor))
            return True
        if value and held is not None and held.dtype.kind == "f":
            self.factor *= 1 / value if below else value
            self.constants.append(tensor)
            self.eps = float(np.finfo(held.dtype).eps)
            return True
        if node is None or depth == 0 or below or not is_op(node, "Mul", "Div"):
            return False
        self.inside.append(tensor)
        return all(self._take(part, index == 1 and node.op == "Div", 0) for index, part in enumerate(node.inputs))
