"""Lower GroupNormalization to InstanceNormalization over the groups, which compilers have had for longer.

    opset 18:  x -> Reshape [0, G, -1] -> InstanceNormalization(scale, bias) -> Reshape [0, C, H, W]
    opset 21:  x -> Reshape [0, G, -1] -> InstanceNormalization(1, 0) -> Reshape [0, C, H, W] -> Mul(scale) -> Add(bias)

G is `num_groups`. Until operator set 20 scale and bias have one value per group, from 21 on one per channel. Sizes
behind the batch that are known are written into the shapes, so that an empty batch works; others are taken from
Shape(x). From 21 on float16 is normalised in float32, between two Casts, as `stash_type` demands.

It does not fire when
1. the elements are neither float16 nor float32, or nothing tells: ONNX Runtime, which judges, normalises no others
2. the statistics have another type than float32 and than the elements (`stash_type`), or would lose precision by it
3. nothing tells the rank of the input, or it has no elements
4. the channels can't be split into the groups, or scale or bias have another shape than they must
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute
from graphsurgery.operators.channels import as_column
from graphsurgery.operators.operands import CONV_FLOATS
from graphsurgery.operators.requirements import require_dtype, require_shape
from graphsurgery.operators.slices import Link, casting, chain, sizes
from graphsurgery.rewrite import Editor, NodePass, Refuse

_NEUTRAL = {"ones": 1, "zeros": 0}  # a scale and a bias that leave what is normalised as it is


class LowerGroupnorm(NodePass):
    name = "lower-groupnorm"
    effect = "exact"
    matches = ("GroupNormalization",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        (x, scale, bias), name = node.inputs, node.outputs[0].name
        groups, per_group = int(attribute(node, "num_groups", 0)), edit.opset < 21
        dtype = require_dtype(x, edit, CONV_FLOATS)
        kind = dtype if per_group else _type_of_statistics(node, dtype)
        shape = require_shape(x, edit)
        channels, known = shape[1] if len(shape) > 1 else 0, [size for size in shape[1:] if size is not None]
        if channels == 0 or 0 in known:
            raise Refuse(f"an input of shape {shape} has no elements, or no channels")
        if groups < 1 or (channels is not None and channels % groups):
            raise Refuse(f"{channels} channels can't be split into {groups} groups")
        wanted = groups if per_group else channels
        for tensor in (scale, bias):
            given = sizes(edit, tensor)
            if given is not None and (len(given) != 1 or (wanted and given[0] not in (None, wanted))):
                raise Refuse(f"its scale or bias is not of shape {[wanted]}")

        static = len(known) == len(shape) - 1
        rows = edit.constant(f"{name}_groups", [0, groups, math.prod(known) // groups if static else -1])
        if static:
            size: gs.Tensor = edit.constant(f"{name}_size", [0, *known])
        else:
            size = edit.emit("Shape", [x], hint=f"{name}_size")
        own = [scale, bias]
        if not per_group:
            own = [edit.constant(f"{name}_{hint}", np.full(groups, one, kind)) for hint, one in _NEUTRAL.items()]
        epsilon = {"epsilon": float(attribute(node, "epsilon", 1e-5))}
        links = [
            *([] if kind == dtype else [casting(kind)]),
            Link("Reshape", (rows,), hint="grouped"),
            Link("InstanceNormalization", tuple(own), epsilon, "normal"),
            Link("Reshape", (size,), hint="spread"),
            *([] if kind == dtype else [casting(dtype)]),
        ]
        if not per_group:
            scale, bias = (as_column(tensor, len(shape), edit) for tensor in (scale, bias))
            links += [Link("Mul", (scale,), hint="scaled"), Link("Add", (bias,))]
        chain(edit, node, x, links)


def _type_of_statistics(node: gs.Node, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type to normalise in, the elements' own or float32 for float16; raise Refuse where it is another."""
    stash = attribute(node, "stash_type", int(onnx.TensorProto.FLOAT))
    if stash == onnx.helper.np_dtype_to_tensor_dtype(dtype):
        return dtype
    if stash != onnx.TensorProto.FLOAT or dtype != np.float16:
        raise Refuse(f"its statistics have another type than its {dtype} elements")
    return np.dtype(np.float32)
