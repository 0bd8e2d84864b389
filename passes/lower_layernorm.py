"""Unfold LayerNormalization into the operators that it stands for, for compilers that lack the layer.

    y = LayerNormalization(x, scale, bias)  ->  d = Sub(x, ReduceMean(x))        over the axes from `axis` on
                                                n = Div(d, Sqrt(Add(ReduceMean(Mul(d, d)), epsilon)))
                                                y = Add(Mul(n, scale), bias)
    of float16                              ->  the same between a Cast to float32 and a Cast back, before the Mul

VitisAI leaves the layer to the CPU by design; its parts can run on the NPU, or fuse otherwise there. The Casts are
what the specification demands of `stash_type` 1: a square overflows in float16. `fuse-layernorm` is the way back.

It does not fire when
1. the mean or the inverse of the standard deviation, its other outputs, are read
2. the statistics have another type than float32 (`stash_type`)
3. the elements are neither float32 nor float16, or nothing tells
4. `axis` counts from the front and nothing tells the rank of the input
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, consumers
from graphsurgery.rewrite import Editor, NodePass, Refuse


@dataclass(frozen=True)
class LowerLayernorm(NodePass):
    """It has no options."""

    name = "lower-layernorm"
    effect = "exact"
    matches = ("LayerNormalization",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if any(out.name and (consumers(out) or edit.is_output(out)) for out in node.outputs[1:]):
            raise Refuse("its mean or its inverse standard deviation is read")
        stash = attribute(node, "stash_type", 1)
        if stash != onnx.TensorProto.FLOAT:
            raise Refuse(f"its statistics are {onnx.TensorProto.DataType.Name(stash)}, not FLOAT")
        x, scale, out = node.inputs[0], node.inputs[1], node.outputs[0]
        dtype = edit.dtype(x)
        if dtype not in (np.float32, np.float16):
            raise Refuse(f"its elements are {dtype or 'of unknown type'}, not float32 or float16")
        axis = int(attribute(node, "axis", -1))
        if axis >= 0:
            shape = edit.shape(x)
            if shape is None:
                raise Refuse("its axis counts from the front, and nothing tells the rank of its input")
            axis -= len(shape)
        axes = list(range(axis, 0))

        def emit(op: str, inputs: list[gs.Tensor], part: str, **attrs: int) -> gs.Variable:
            return edit.emit(op, inputs, attrs, hint=f"{out.name}_{part}", dtype=np.float32)

        def mean(tensor: gs.Tensor, part: str) -> gs.Variable:
            old = edit.opset < 18
            inputs = [tensor] if old else [tensor, edit.constant(f"{out.name}_axes", axes)]
            attrs = {"keepdims": 1} | ({"axes": axes} if old else {})
            return edit.emit("ReduceMean", inputs, attrs, hint=f"{out.name}_{part}", dtype=np.float32)

        epsilon = edit.constant(f"{out.name}_epsilon", np.asarray(attribute(node, "epsilon", 1e-5), np.float32))
        wide = x if dtype == np.float32 else emit("Cast", [x], "float32", to=onnx.TensorProto.FLOAT)
        centred = emit("Sub", [wide, mean(wide, "mean")], "centred")
        variance = mean(emit("Mul", [centred, centred], "square"), "variance")
        deviation = emit("Sqrt", [emit("Add", [variance, epsilon], "variance_epsilon")], "deviation")
        normal = emit("Div", [centred, deviation], "normal")
        if dtype != np.float32:
            attrs = {"to": onnx.helper.np_dtype_to_tensor_dtype(dtype)}
            normal = edit.emit("Cast", [normal], attrs, hint=f"{out.name}_{dtype}", dtype=dtype)
        if len(node.inputs) < 3 or not node.inputs[2].name:
            return edit.replace(node, "Mul", [normal, scale])
        scaled = edit.emit("Mul", [normal, scale], hint=f"{out.name}_scaled", dtype=dtype)
        edit.replace(node, "Add", [scaled, node.inputs[2]])
