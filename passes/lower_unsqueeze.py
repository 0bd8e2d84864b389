"""Turn an Unsqueeze into the Reshape that it is, for compilers that know one operator for a change of shape.

    Unsqueeze(x [2, 3], axes [0, 2])                  ->  Reshape(x, [1, 2, 1, 3])
    squeeze: true, Squeeze(x [2, 1, 3], axes [1])     ->  Reshape(x, [2, 3])

ncnn's converter, for one, refuses most axes of an Unsqueeze (DeepVAC issue 118). A size that is not known is copied
where its axis stays in place, else it is computed by the Reshape, which can do that for one.

It does not fire when
1. the axes are computed, or a caller may override them
2. the rank is not known, or an axis is out of range or stands twice
3. a size is not known and the Reshape can't compute it: there are two such, or an axis that may be empty
4. a Squeeze without axes has sizes that are not known: they might be 1
5. a Squeeze has an empty list of axes: ONNX Runtime takes that for all, ONNX's reference for none
6. a Squeeze has axes out of order before operator set 11: ONNX's shape inference is wrong there (onnx 1.23), so the
   right Reshape would contradict the types written in the model
7. it turns one integer into a list or back: that computes a shape, which is no work for an accelerator, and ONNX's
   shape inference sees through an Unsqueeze and not through a Reshape
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphsurgery.graph import is_op
from graphsurgery.operators.requirements import require_axes, require_integers, require_shape
from graphsurgery.operators.slices import chain, relabelled, reshaping
from graphsurgery.rewrite import Editor, NodePass, Refuse


@dataclass(frozen=True)
class LowerUnsqueeze(NodePass):
    """`squeeze`: a Squeeze becomes a Reshape too."""

    name = "lower-unsqueeze"
    effect = "exact"
    matches = ("Unsqueeze", "Squeeze")

    squeeze: bool = False

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if node.op == "Squeeze" and not self.squeeze:
            return
        axes = require_integers(node, "axes", 1, "its axes are")
        data, out = node.inputs[0], node.outputs[0]
        shape = require_shape(data, edit)
        adds = is_op(node, "Unsqueeze")
        rank = len(shape) + (len(axes) if adds else 0)
        if not adds and not axes:
            if "axes" in node.attrs or any(tensor.name for tensor in node.inputs[1:]):
                raise Refuse("its list of axes is empty, which is read as none or as all")
            if None in shape:
                raise Refuse("it drops every axis of size 1, and not all sizes are known")
            axes = [axis for axis, size in enumerate(shape) if size == 1]
        if not adds and edit.opset < 11 and axes != sorted(axes):
            raise Refuse("its axes are not in order, and ONNX infers a wrong shape of such before opset 11")
        known = require_axes(axes, rank)
        kept = [axis for axis in range(rank) if axis not in known]
        sources = [kept.index(axis) if axis in kept else None for axis in range(rank)] if adds else kept
        dtype = edit.dtype(data)
        if min(len(shape), len(sources)) == 0 and dtype is not None and dtype.kind in "iu":
            raise Refuse("it makes a list of one integer, or the other way, as the computation of a shape does")
        chain(edit, node, data, [reshaping(edit, out.name, relabelled(sources, shape))])
