"""Fuse the nine operators that a layer normalisation is exported as below operator set 17 into the one that it is.

    Add(Mul(n, gamma), beta)  ->  LayerNormalization(x, gamma, beta)

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

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import constant, is_op
from graphsurgery.operators.axes import integers, keeps_dims, normalised
from graphsurgery.operators.operands import only_reader
from graphsurgery.operators.pattern import Match, Pattern
from graphsurgery.rewrite import Editor, NodePass, Refuse


class FuseLayernorm(NodePass):
    name = "fuse-layernorm"
    effect = "exact"
    pattern = Pattern(
        """
        d = x - ReduceMean(x, ...)
        n = d / Sqrt(ReduceMean(d ** 2, ...) + epsilon)
        """,
        numbers=["epsilon"],
    )
    matches = pattern.matches

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        match = self.pattern.match(node, edit)
        if match is None:
            return
        if edit.opset < 17:
            raise Refuse("LayerNormalization needs operator set 17")
        match.require_private()
        x, epsilon = match["x"], match.number("epsilon")
        if not epsilon > 0:
            raise Refuse("its epsilon is not positive")
        match.require_type("x", types=["float32"])
        sizes = _normalised_sizes(match, edit)
        last, inputs = match.last, [x]
        for op in ("Mul", "Add"):
            reader = only_reader(last.outputs[0], edit)
            if reader is None or not is_op(reader, op):
                break
            other = next(tensor for tensor in reader.inputs if tensor is not last.outputs[0])
            parameter = _parameter(other, sizes, len(edit.shape(x) or []), edit)
            if parameter is None:
                break
            last, inputs = reader, [*inputs, parameter]
        if len(inputs) == 1:
            raise Refuse(f"no Mul behind it alone has a gamma of shape {list(sizes)}")
        attrs = {"axis": -len(sizes), "epsilon": epsilon, "stash_type": 1}
        edit.replace(last, "LayerNormalization", inputs, attrs)


def _normalised_sizes(match: Match, edit: Editor) -> tuple[int, ...]:
    """Return the sizes of the axes that both means are taken over, if LayerNormalization has such axes."""
    shape = edit.shape(match["x"])
    if shape is None:
        raise Refuse("nothing tells the rank of its input")
    if match.rank > len(shape):
        raise Refuse("a constant of more dimensions adds some to the result")
    counts = set()
    for mean in (each for each in match.nodes if is_op(each, "ReduceMean")):
        axes = integers(mean, "axes", 1)
        if not axes or not keeps_dims(mean):
            raise Refuse("its means do not write out their axes, or drop them")
        if sorted(normalised(axes, len(shape)) or []) != list(range(len(shape) - len(axes), len(shape))):
            raise Refuse(f"a mean over {axes} is not over the last axes")
        counts.add(len(axes))
    if len(counts) > 1:
        raise Refuse("its means are not over the same axes")
    sizes = shape[-counts.pop() :]
    known = tuple(size for size in sizes if isinstance(size, int) and size > 0)
    if len(known) < len(sizes):
        raise Refuse(f"the sizes of the last axes of {shape} are not all known")
    return known


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
