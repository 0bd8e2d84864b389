"""Fuse the nine operators that a layer normalisation is exported as below operator set 17 into the one that it is.

    mean = ReduceMean(x)            over the last axes, kept as size 1
    d = Sub(x, mean)
    variance = ReduceMean(Pow(d, 2))                or ReduceMean(Mul(d, d))
    n = Div(d, Sqrt(Add(variance, epsilon)))        or Mul(d, Reciprocal(Sqrt(...)))
    y = Add(Mul(n, gamma), beta)    ->  y = LayerNormalization(x, gamma, beta)

Compilers that have the layer, such as QNN's, run it at the precision it needs; quantized one by one, the mean, the
square and the root lose it. The Add may be missing. `lower-layernorm` is the way back.

It does not fire when
1. the operator set is below 17, which has no LayerNormalization
2. a tensor inside is read by another node too, or is a graph output
3. the means are not taken over the same last axes, or those axes are not written out, not kept, or of unknown size
4. epsilon is not positive
5. the elements are not float32: in float16 the square overflows where LayerNormalization's does not, and of float64
   LayerNormalization keeps float32 statistics
6. it is not multiplied by a gamma that has one value for each normalised element
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import constant, consumers, is_op, producer
from graphsurgery.operators.axes import integers, keeps_dims, normalised
from graphsurgery.operators.operands import only_reader, rank, scalar
from graphsurgery.rewrite import Editor, NodePass, Refuse


@dataclass(frozen=True)
class FuseLayernorm(NodePass):
    """It has no options."""

    name = "fuse-layernorm"
    effect = "exact"
    matches = ("Div", "Mul")

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        found = _match(node)
        if found is None:
            return
        if edit.opset < 17:
            raise Refuse("LayerNormalization needs operator set 17")
        if any(len(consumers(t)) != readings or edit.is_output(t) for t, readings in found.inside):
            raise Refuse("a tensor inside is read by another node too, or is a graph output")
        if not found.epsilon > 0:
            raise Refuse("its epsilon is not positive")
        dtype = edit.dtype(found.x)
        if dtype != np.float32:
            raise Refuse(f"its elements are {dtype or 'of unknown type'}, not float32")
        sizes = _normalised_sizes(found, edit)
        if isinstance(sizes, str):
            raise Refuse(sizes)
        last, inputs = node, [found.x]
        for op in ("Mul", "Add"):
            reader = only_reader(last.outputs[0], edit)
            if reader is None or not is_op(reader, op):
                break
            other = next(tensor for tensor in reader.inputs if tensor is not last.outputs[0])
            parameter = _parameter(other, sizes, len(edit.shape(found.x) or []), edit)
            if parameter is None:
                break
            last, inputs = reader, [*inputs, parameter]
        if len(inputs) == 1:
            raise Refuse(f"no Mul behind it alone has a gamma of shape {list(sizes)}")
        attrs = {"axis": -len(sizes), "epsilon": found.epsilon, "stash_type": 1}
        edit.replace(last, "LayerNormalization", inputs, attrs)


@dataclass(frozen=True)
class _Match:
    """`inside` holds the tensors of the pattern and how often it reads each; `rank` is that of its constants."""

    x: gs.Tensor
    means: tuple[gs.Node, gs.Node]
    epsilon: float
    rank: int
    inside: tuple[tuple[gs.Tensor, int], ...]


def _match(node: gs.Node) -> _Match | None:
    """Return the pattern that ends in `node`, which divides d by the root; None where there is none."""
    for d, root, between in _quotients(node):
        total = _first(_read_by("Sqrt", root))
        for variance, epsilon in _both_ways(_read_by("Add", total)):
            value, square = scalar(epsilon), _first(_read_by("ReduceMean", variance))
            x, mean = _read_by("Sub", d) or (None, None)
            if value is None or square is None or x is None or _first(_read_by("ReduceMean", mean)) is not x:
                continue
            readings, exponent = _square(square, d)
            if readings:
                means = producer(mean), producer(variance)
                once = [(tensor, 1) for tensor in (mean, square, variance, total, root, *between)]
                return _Match(x, means, value, max(exponent, rank(epsilon)), ((d, readings + 1), *once))
    return None


def _quotients(node: gs.Node) -> Iterator[tuple[gs.Tensor, gs.Tensor, tuple[gs.Tensor, ...]]]:
    """Yield what `node` divides, what by, and the tensors between."""
    if is_op(node, "Div"):
        yield node.inputs[0], node.inputs[1], ()
    else:
        for d, inverse in _both_ways(node.inputs):
            root = _first(_read_by("Reciprocal", inverse))
            if root is not None:
                yield d, root, (inverse,)


def _square(square: gs.Tensor, d: gs.Tensor) -> tuple[int, int]:
    """Return how often `square` reads `d` if it is the square of `d`, else 0, and the rank of the exponent."""
    if [factor is d for factor in _read_by("Mul", square)] == [True, True]:
        return 2, 0
    base, exponent = _read_by("Pow", square) or (None, None)
    return (1, rank(exponent)) if base is d and scalar(exponent) == 2 else (0, 0)


def _read_by(op: str, tensor: gs.Tensor | None) -> list[gs.Tensor]:
    """Return what is read by the `op` that writes `tensor`; nothing where another operator writes it."""
    node = None if tensor is None else producer(tensor)
    return list(node.inputs) if node is not None and is_op(node, op) else []


def _first(tensors: Sequence[gs.Tensor]) -> gs.Tensor | None:
    return tensors[0] if tensors else None


def _both_ways(tensors: Sequence[gs.Tensor]) -> list[tuple[gs.Tensor, gs.Tensor]]:
    return [(tensors[0], tensors[1]), (tensors[1], tensors[0])] if tensors else []


def _normalised_sizes(found: _Match, edit: Editor) -> tuple[int, ...] | str:
    """Return the sizes of the axes that both means are taken over, or why LayerNormalization has no such axes."""
    shape = edit.shape(found.x)
    if shape is None:
        return "nothing tells the rank of its input"
    if found.rank > len(shape):
        return "a constant of more dimensions adds some to the result"
    count = 0
    for mean in found.means:
        axes = integers(mean, "axes", 1)
        if not axes or not keeps_dims(mean):
            return "its means do not write out their axes, or drop them"
        if sorted(normalised(axes, len(shape)) or []) != list(range(len(shape) - len(axes), len(shape))):
            return f"a mean over {axes} is not over the last axes"
        if count not in (0, len(axes)):
            return "its means are not over the same axes"
        count = len(axes)
    sizes = tuple(size for size in shape[-count:] if isinstance(size, int) and size > 0)
    return sizes if len(sizes) == count else f"the sizes of the last axes of {shape} are not all known"


def _parameter(tensor: gs.Tensor, sizes: tuple[int, ...], most: int, edit: Editor) -> gs.Tensor | None:
    """Return `tensor` with one value for each normalised element, repeated where it is constant.

    None where it has other values elsewhere, or adds dimensions to what has `most` of them.
    """
    values = constant(tensor)
    if values is None:
        return tensor if edit.static_shape(tensor) == sizes else None
    if values.shape == sizes:
        return tensor
    own = values.shape[max(values.ndim - len(sizes), 0) :]
    fits = all(size in (1, room) for size, room in zip(own[::-1], sizes[::-1], strict=False))
    if values.ndim > most or values.size != np.prod(own, dtype=int) or not fits:
        return None
    return edit.constant(tensor.name, np.broadcast_to(values.reshape(own), sizes))
