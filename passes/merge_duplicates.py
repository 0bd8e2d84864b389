"""Let nodes that compute the same thing from the same tensors be one, since an accelerator computes both.

    a = Relu(x), b = Relu(x)  ->  a = Relu(x), read in place of b

Equal are nodes of one of ONNX's own operators with the same inputs, constants by their values, and the same attributes,
in the same graph. Where both are outputs of the model, an Identity stays.

It does not fire when
1. it draws random numbers, holds a body (If, Loop, Scan), or is of another domain, which may keep a state
2. an output other than its first is an output of the model too, or its twin leaves out one that it has
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import constant, consumers, is_op, subgraphs
from graphsurgery.rewrite import Editor, NodePass, Refuse

_RANDOM = ("Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform")
_SMALL = 1 << 12  # larger constants are equal only if they are one


class MergeDuplicates(NodePass):
    name = "merge-duplicates"
    effect = "exact"

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        varying = next((tensor for tensor in node.inputs if tensor.name and not isinstance(tensor, gs.Constant)), None)
        if varying is None or len(varying.outputs) < 2 or not _is_pure(node):
            return
        key = _key(node)
        alike = (other for other in consumers(varying) if other.op == node.op and other is not node)
        twins = (other for other in alike if _is_pure(other) and _key(other) == key)
        twin = next((other for other in twins if any(other is each for each in edit.graph.nodes)), None)
        if twin is None:
            return
        others = list(zip(node.outputs[1:], [*twin.outputs[1:], *[None] * len(node.outputs)], strict=False))
        for own, equal in others:
            if own.name and (own.outputs or edit.is_output(own)) and (equal is None or not equal.name):
                raise Refuse(f"its twin '{twin.name}' leaves out '{own.name}'")
            if edit.is_output(own):
                raise Refuse(f"its output '{own.name}' is an output of the graph")
        for own, equal in others:
            edit.redirect(own, equal)
        edit.bypass(node, twin.outputs[0])


def _is_pure(node: gs.Node) -> bool:
    return is_op(node, node.op) and node.op not in (*_RANDOM, "RandomUniformLike") and not subgraphs(node)


def _key(node: gs.Node) -> Hashable:
    return node.op, tuple(map(_input, node.inputs)), tuple(sorted((n, _value(v)) for n, v in node.attrs.items()))


def _input(tensor: gs.Tensor) -> Hashable:
    value = constant(tensor) if isinstance(tensor, gs.Constant) and np.prod(tensor.shape) <= _SMALL else None
    return id(tensor) if value is None else (value.dtype.str, value.shape, value.tobytes())


def _value(value: Any) -> Hashable:
    if isinstance(value, gs.Tensor | np.ndarray):
        array = np.asarray(value.values if isinstance(value, gs.Constant) else value)
        return array.dtype.str, array.shape, array.tobytes()
    return tuple(map(repr, value)) if isinstance(value, list | tuple) else repr(value)
