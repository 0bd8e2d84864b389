"""Which large weights nothing can be folded into, so that a tool which folds constants needs no values of them.

Conv(x, weight) -> Relu                 idle: only the layer itself needs the values
Conv(x, weight) -> BatchNormalization   at work: the two become one Conv with another weight
Transpose(weight)                       at work: it is a constant
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from graphsurgery.graph import STANDARD_DOMAINS
from graphsurgery.graph.outside import digest_of, is_outside, same_values, size_of
from graphsurgery.graph.protos import bodies, walk_protos, without_initializers
from graphsurgery.operators.operands import LAYERS

# An initializer above this size is no shape, and no scalar that a rewrite would look at.
WEIGHT_BYTES = 1 << 16
# What scales or shifts a layer's input or output is folded into its weight or its bias, where it is constant.
ARITHMETIC = ("Add", "Div", "Mul", "Sub")


def set_aside(model: ModelProto) -> tuple[ModelProto, dict[str, TensorProto]]:
    """Return `model` with an input in the place of each large initializer, and these by name; `model` is not changed.

    The nodes are copied, the values of what is set aside are not: it belongs to `model`.
    """
    light = without_initializers(model)
    heavy = {}
    for tensor in model.graph.initializer:
        if _is_heavy(tensor):
            heavy[tensor.name] = tensor
            kind = onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
            light.graph.input.add(name=tensor.name).type.CopyFrom(kind)
        else:
            light.graph.initializer.append(tensor)
    return light, heavy


def at_work(graph: GraphProto, weights: Mapping[str, TensorProto]) -> list[str]:
    """Return which of `weights`, set aside from `graph`, something may be folded into, or they into something else."""
    constants = {tensor.name for tensor in graph.initializer} | {
        sparse.values.name for sparse in graph.sparse_initializer
    }
    constants |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    constants |= weights.keys()
    writers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    inside = [node for node in graph.node for body in bodies(node) for node in walk_protos(body)]
    exposed = {name for node in inside for name in node.input} | {info.name for info in graph.output}
    exposed |= {info.name for node in graph.node for body in bodies(node) for info in body.output}

    def folds(node: NodeProto | None) -> bool:
        """Whether `node` is one that goes into a layer beside it."""
        if node is None or node.domain not in STANDARD_DOMAINS:
            return False
        constant = node.op_type in ARITHMETIC and any(name in constants for name in node.input)
        return constant or node.op_type == "BatchNormalization"

    def is_idle(name: str) -> bool:
        if name in exposed:
            return False
        for layer in readers.get(name, ()):
            if layer.op_type not in LAYERS or layer.domain not in STANDARD_DOMAINS:
                return False
            x = layer.input[0]
            if x in constants or list(layer.input).index(name) != 1 or folds(writers.get(x)):
                return False
            if any(folds(reader) for reader in readers.get(layer.output[0], ())):
                return False
            # projections of one tensor are joined into one: query, key and value
            if layer.op_type == "MatMul" and sum(other.op_type == "MatMul" for other in readers[x]) > 1:
                return False
        return True

    return [name for name in weights if not is_idle(name)]


def twins(weights: Mapping[str, TensorProto]) -> list[str]:
    """Return the names of weights that are there twice, which a tool would make one."""
    alike: dict[tuple[int, ...], list[str]] = {}
    for name, tensor in weights.items():
        alike.setdefault((tensor.data_type, *tensor.dims), []).append(name)
    found: list[str] = []
    for names in alike.values():
        looks: dict[str, list[str]] = {}
        for name in names if len(names) > 1 else ():
            looks.setdefault(digest_of(weights[name]), []).append(name)
        for near in looks.values():
            found += [n for n in near if any(n != o and same_values(weights[n], weights[o]) for o in near)]
    return found


def _is_heavy(tensor: TensorProto) -> bool:
    if not (is_outside(tensor) or tensor.HasField("raw_data")):
        return False
    return size_of(tensor) > WEIGHT_BYTES  # to ask raw_data for its length copies it
