"""Write out the attributes that a node leaves at their defaults, for compilers that do not know the defaults.

    Conv(x, w)           ->  Conv(x, w, kernel_shape=[3, 3], strides=[1, 1], pads=[0, 0, 0, 0], dilations, group)
    auto_pad=SAME_UPPER  ->  pads=[0, 0, 1, 1]

The VitisAI provider (Ryzen AI 1.8) ends the process at a Conv whose strides, pads, dilations, kernel_shape or group is
not written out, and onnxruntime's and Quark's quantizers write such Convs: run it after them. kernel_shape is found in
the shape of the weight, also of one that comes out of a DequantizeLinear. What the operator set at hand does not have
is not written. It fills in what it knows, and says what it does not.

It does not write
1. kernel_shape, and what has as many entries, where nothing tells the rank or the size of the weight
2. pads where auto_pad depends on a size that is not known
3. pads where auto_pad comes with pads, ceil_mode, dilations of a pool, or strides that are so long that elements at
   the end are left over: runtimes read that in different ways
4. pads of a ConvTranspose that follow from its output_shape, or that an auto_pad splits unevenly or has to share with
   output_padding: as in 3
5. attributes without a default, such as seed or perm
6. activations of a RNN, whose default fits two directions only; attributes of CastLike, and broadcast before operator
   set 7, which ONNX's reference evaluator does not take
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from graphsurgery.errors import did_you_mean
from graphsurgery.graph import attribute
from graphsurgery.graph.names import matches
from graphsurgery.operators.schemas import schema_of
from graphsurgery.operators.windows import window
from graphsurgery.rewrite import Editor, NodePass
from graphsurgery.rewrite.registry import standard_operators

# which input holds the weight
_WEIGHT = {"Conv": 1, "ConvInteger": 1, "ConvTranspose": 1, "DeformConv": 1, "QLinearConv": 3}
_LEFT_OUT = {("RNN", "activations"), ("CastLike", "saturate"), ("CastLike", "round_mode")}


@dataclass(frozen=True)
class FillDefaultAttributes(NodePass):
    """`ops` names the operators, also by patterns with * and ?; ["*"] stands for all."""

    name = "fill-default-attributes"
    effect = "exact"

    ops: tuple[str, ...] = (*_WEIGHT, "MaxPool", "AveragePool", "LpPool")

    def __post_init__(self) -> None:
        known = sorted(standard_operators())
        for pattern in self.ops:
            if not any(matches(each, [pattern]) for each in known):
                raise ValueError(f"ops: ONNX has no operator '{pattern}'.{did_you_mean(pattern, known)}")

    def looks_at(self) -> tuple[str, ...]:
        return tuple(op for op in sorted(standard_operators()) if matches(op, self.ops))

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if schema_of(node, edit.opset) is None:
            return
        _fill(node, _plain_defaults(node.op, edit.opset), edit)
        if "kernel_shape" not in _attributes(node.op, edit.opset):
            return
        kernel = _kernel(node, edit)
        if kernel is None:
            return edit.skip(node, "the shape of its weight is not known, so kernel_shape is not either")
        rank = len(kernel)
        sizes = {"strides": [1] * rank, "dilations": [1] * rank, "output_padding": [0] * rank}
        _fill(node, {"kernel_shape": kernel, **sizes}, edit)
        pads = _pads(node, kernel, edit)
        if isinstance(pads, str):
            return edit.skip(node, pads)
        edit.set_attribute(node, "pads", pads)
        if attribute(node, "auto_pad", "NOTSET") != "NOTSET":
            edit.drop_attribute(node, "auto_pad")


@cache
def _plain_defaults(op: str, opset: int) -> Mapping[str, Any]:
    """Return what the operator's definition gives; auto_pad goes into pads, so it is not one of them."""
    found = {}
    for name, declared in onnx.defs.get_schema(op, opset, "").attributes.items():
        if not declared.default_value.name or name in ("auto_pad", "broadcast"):
            continue
        if (op, name) not in _LEFT_OUT:
            value = onnx.helper.get_attribute_value(declared.default_value)
            found[name] = value.decode() if isinstance(value, bytes) else value
    return found


@cache
def _attributes(op: str, opset: int) -> frozenset[str]:
    return frozenset(onnx.defs.get_schema(op, opset, "").attributes)


def _fill(node: gs.Node, values: Mapping[str, Any], edit: Editor) -> None:
    declared = _attributes(node.op, edit.opset)
    for name, value in values.items():
        if name in declared and name not in node.attrs:
            edit.set_attribute(node, name, list(value) if isinstance(value, list) else value)


def _kernel(node: gs.Node, edit: Editor) -> list[int] | None:
    if "kernel_shape" in node.attrs:
        return list(node.attrs["kernel_shape"])
    index = _WEIGHT.get(node.op)
    shape = edit.static_shape(node.inputs[index]) if index is not None and index < len(node.inputs) else None
    return None if shape is None or len(shape) < 3 else list(shape[2:])


def _pads(node: gs.Node, kernel: Sequence[int], edit: Editor) -> list[int] | str:
    """Return the pads, or why they can't be told."""
    auto_pad = attribute(node, "auto_pad", "NOTSET")
    if node.op == "ConvTranspose" and "output_shape" in node.attrs:
        return "its pads follow from output_shape"
    if auto_pad == "NOTSET":
        return attribute(node, "pads", [0] * 2 * len(kernel))  # type: ignore[no-any-return]
    if "pads" in node.attrs:
        return "it has both pads and auto_pad"
    if attribute(node, "ceil_mode", 0):
        return "it has both auto_pad and ceil_mode"
    if node.op == "ConvTranspose" and auto_pad != "VALID":
        return _transposed_pads(node, kernel)
    data = edit.shape(node.inputs[0]) if auto_pad != "VALID" else None
    found = window(node, kernel, None if data is None else data[2:])
    if found is None:
        return f"its auto_pad {auto_pad} depends on a size that is not known, or is read in different ways"
    pads: list[int] = found.pads
    return pads


def _transposed_pads(node: gs.Node, kernel: Sequence[int]) -> list[int] | str:
    """Return the pads with which the output is `strides` times as large as the input, whatever size that has.

    Where the number is odd, the versions of the specification disagree on which side gets more of it.
    """
    if any(node.attrs["output_padding"]):
        return "it has both auto_pad and output_padding"
    sizes = zip(kernel, node.attrs["strides"], node.attrs["dilations"], strict=True)
    totals = [(k - 1) * dilation + 1 - stride for k, stride, dilation in sizes]
    if any(total < 0 or total % 2 for total in totals):
        return "its auto_pad does not split evenly"
    return [total // 2 for total in totals] * 2
