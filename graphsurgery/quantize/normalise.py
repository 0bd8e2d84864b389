"""What goes to a quantizer, in the one form that none of them trips over. The way back is in `restore`.

    b -> Conv, b -> Unsqueeze           ->   b -> Conv, b' -> Unsqueeze     each reader has an initializer of its own
    Gemm(x, w, b[1, 1]), alpha, beta    ->   Gemm(x, w', b'[N])             of constants that hold alpha and beta
    ConvTranspose(x, w, b), in groups   ->   ConvTranspose(x, w, Identity(b))     the bias is rounded on the way back
    x, x_scale, weird/name:0            ->   q0_, q1_, q2_                  so that a name made of one meets no other

ONNX Runtime's quantizer (1.32), on which the vendors' stand, never ends where a bias is read as data too, keeps one
scale for a weight that needs two, takes a bias for a vector as long as its weight has scales, forgets beta (6 dB are
left) and in QOperator alpha; and of a name it makes others by appending, whether they are there or not.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from graphsurgery import graph as graphs
from graphsurgery.errors import InputError
from graphsurgery.graph.model import Model
from graphsurgery.graph.names import fresh, names_in, rename_in, top_names
from graphsurgery.graph.protos import graphs_in, replace_items, walk_protos
from graphsurgery.graph.shapes import infer
from graphsurgery.quantize import name_nodes
from graphsurgery.quantize.restore import Normalised

__all__ = ["normalise"]

_FIRST_OPSET = 10  # with QuantizeLinear
# Operators whose third input is a bias: quantizers give it the scale of the input times that of the weight.
_BIASED = ("Conv", "ConvTranspose", "Gemm", "LayerNormalization", "InstanceNormalization", "BatchNormalization")


def normalise(model: ModelProto, *, per_channel: bool) -> Normalised:
    """Return a copy of `model` for a quantizer; each node has a name, float constants are initializers.

    Raises InputError for what quantizers break: an opset without QuantizeLinear, and float16; ModelError where the
    shapes can't be inferred.
    """
    opset = Model(model).opset
    if opset < _FIRST_OPSET:
        raise InputError(f"opset {opset} has no QuantizeLinear; export with opset 13 or later")
    copy = ModelProto()
    copy.CopyFrom(model)
    name_nodes(copy)
    _lift_constants(copy.graph)
    original = infer(copy, None)
    replace_items(original.graph.output, list(model.graph.output))  # an end keeps what it promises
    _require_no_float16(original.graph)
    inside = ModelProto()
    inside.CopyFrom(original)
    del inside.metadata_props[:]
    graph = inside.graph
    taken = names_in(graph)
    copies = _own_initializers(graph, taken)
    _plain_gemms(graph)
    waiting, held = _hold_biases(graph, taken) if per_channel else ({}, {})
    prefix = "q"
    while any(re.search(rf"{prefix}\d", name) for name in (*taken, *(node.name for node in walk_protos(graph)))):
        prefix += "q"
    tokens = {name: f"{prefix}{number}_" for number, name in enumerate(top_names(graph))}
    rename_in(inside, tokens)
    names = {token: copies.get(name, held.get(name, name)) for name, token in tokens.items()}
    return Normalised(inside, original, prefix, names, waiting)


def _lift_constants(graph: GraphProto) -> None:
    """Turn float Constant nodes into initializers, which quantizers take for weights, but for outputs."""
    promised = {info.name for info in graph.output}
    kept = []
    for node in graph.node:
        value = next((attribute.t for attribute in node.attribute if attribute.name == "value"), TensorProto())
        is_weight = node.op_type == "Constant" and value.data_type == TensorProto.FLOAT
        if is_weight and node.output[0] not in promised:
            graph.initializer.append(value)
            graph.initializer[-1].name = node.output[0]
        else:
            kept.append(node)
    replace_items(graph.node, kept)


def _require_no_float16(graph: GraphProto) -> None:
    types = {info.name: info.type.tensor_type.elem_type for info in (*graph.value_info, *graph.input, *graph.output)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    half = next((name for name, kind in types.items() if kind == TensorProto.FLOAT16), None)
    if half is not None:
        raise InputError(f"tensor '{half}' is float16; quantize the float32 model, and cast what stays float later")


def _own_initializers(graph: GraphProto, taken: set[str]) -> dict[str, str]:
    """Give each node that reads a float initializer one of its own; return the copies with what they are copies of."""
    values = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    inner = {name for body in graphs_in(graph)[1:] for node in body.node for name in node.input}
    read = inner | {info.name for info in graph.output}
    copies: dict[str, str] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in values and name in read:
                node.input[place] = fresh(f"{name}_copy", taken)
                taken.add(node.input[place])
                copies[node.input[place]] = name
                graph.initializer.append(values[name])
                graph.initializer[-1].name = node.input[place]
            read.add(name)
    return copies


def _plain_gemms(graph: GraphProto) -> None:
    """Bring the bias of a Gemm to one value for each column, or each element, and alpha and beta into constants."""
    values = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    for node in graph.node:
        if node.op_type in _BIASED and node.input and not node.input[-1]:
            del node.input[-1]  # one that is left out
        if node.op_type != "Gemm" or node.domain not in graphs.STANDARD_DOMAINS:
            continue
        options = {attribute.name: attribute for attribute in node.attribute}
        weight, bias = (values.get(name) for name in (*node.input[1:3], "")[:2])
        for name, tensor in (("alpha", weight), ("beta", bias)):
            if name in options and tensor is not None:
                _store(tensor, numpy_helper.to_array(tensor) * np.float32(options[name].f))
                node.attribute.remove(options[name])
        if weight is None or bias is None or len(weight.dims) != 2:
            continue
        columns = weight.dims[0 if "transB" in options and options["transB"].i else 1]
        value = np.atleast_1d(numpy_helper.to_array(bias))
        rows = value.shape[:-1] if value.shape[:-1] != (1,) else ()
        _store(bias, np.broadcast_to(value, (*value.shape[:-1], columns)).reshape(*rows, columns))


def _hold_biases(graph: GraphProto, taken: set[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Put an Identity before each bias that is no vector as long as its weight has scales, so that it stays as it is.

    Returns the nodes that read them by the names of the Identities, and the biases by what these write.
    """
    biases = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    names = {node.name for node in graph.node}
    nodes, waiting, held = [], {}, {}
    for node in graph.node:
        bias = biases.get(node.input[2]) if node.op_type in _BIASED and len(node.input) > 2 else None
        grouped = node.op_type == "ConvTranspose" and any(
            each.name == "group" and each.i > 1 for each in node.attribute
        )
        if bias is not None and (len(bias.dims) != 1 or grouped):
            output, name = fresh(f"{bias.name}_held", taken), fresh(f"{node.name}_bias", names)
            nodes.append(helper.make_node("Identity", [bias.name], [output], name))
            node.input[2] = output
            taken.add(output)
            names.add(name)
            waiting[name], held[output] = node.name, bias.name
        nodes.append(node)
    replace_items(graph.node, nodes)
    return waiting, held


def _store(tensor: TensorProto, value: npt.NDArray[np.float32]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), tensor.name))
