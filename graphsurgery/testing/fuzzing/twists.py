"""What a pass must bear, whatever it looks for: the same graph in a body, with open sizes, with names that collide."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from graphsurgery.graph.protos import bodies, walk_protos


class Rejected(Exception):
    """What was drawn is no valid model."""


def with_types(model: ModelProto) -> ModelProto:
    """Return the model with all types and shapes that ONNX's shape inference finds. Raises Rejected."""
    typed = onnx.shape_inference.infer_shapes(model)
    if any(info.type.WhichOneof("value") is None for info in typed.graph.output):
        raise Rejected
    return typed


def forget_sizes(model: ModelProto, chosen: Callable[[], bool]) -> None:
    """Leave the `chosen` sizes of the inputs open, and all that was inferred from them."""
    del model.graph.value_info[:]
    defaults = {tensor.name for tensor in model.graph.initializer}
    for info in (info for info in model.graph.input if info.name not in defaults):
        for axis, dim in enumerate(info.type.tensor_type.shape.dim):
            if chosen():
                dim.dim_param = f"{info.name}_{axis}"
    for info in model.graph.output:
        info.type.tensor_type.ClearField("shape")
    model.graph.CopyFrom(with_types(model).graph)


def claim_sizes(model: ModelProto, chosen: Callable[[], bool]) -> frozenset[str]:
    """Write a wrong size for one that an input leaves open, as a file has it that was made dynamic by hand.

    Returns the names of the tensors that have one.
    """
    claimed = set()
    left_open = {dim.dim_param for info in model.graph.input for dim in info.type.tensor_type.shape.dim} - {""}
    for info in model.graph.value_info:
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_param in left_open and chosen():
                dim.dim_value = 13
                claimed.add(info.name)
    return frozenset(claimed)


def nest(model: ModelProto, op: str, weights_inside: bool, condition: bool) -> dict[str, np.ndarray]:
    """Move all nodes into both branches of an If, or into the body of a Loop that runs twice.

    `weights_inside` takes the weights along that no caller may override. Returns the values of new inputs.
    """
    graph = model.graph
    defaults = {info.name for info in graph.input}
    moved = [tensor for tensor in graph.initializer if weights_inside and tensor.name not in defaults]
    kept = [tensor for tensor in graph.initializer if not any(tensor is other for other in moved)]
    ends = [info.name for info in graph.output]
    if not set(ends) <= {name for node in graph.node for name in node.output}:
        raise Rejected
    given = {}
    after = [f"{name}_after" for name in ends]
    if op == "If":
        branches = {f"{side}_branch": _body(graph.node, moved, ends, side) for side in ("then", "else")}
        outer = helper.make_node("If", ["condition"], after, name="if_node", **branches)
        graph.input.append(helper.make_tensor_value_info("condition", TensorProto.BOOL, []))
        given["condition"] = np.array(condition)
    else:
        body = _body(graph.node, moved, ends, "loop")
        body.input.append(helper.make_tensor_value_info("turn", TensorProto.INT64, []))
        body.input.append(helper.make_tensor_value_info("going", TensorProto.BOOL, []))
        body.node.append(helper.make_node("Identity", ["going"], ["still_going"], name="going_node"))
        body.output.insert(0, helper.make_tensor_value_info("still_going", TensorProto.BOOL, []))
        kept.append(onnx.numpy_helper.from_array(np.array(2, np.int64), "turns"))
        outer = helper.make_node("Loop", ["turns", ""], after, name="loop_node", body=body)
    del graph.initializer[:], graph.node[:], graph.output[:]
    graph.initializer.extend(kept)
    graph.node.append(outer)
    graph.output.extend(ValueInfoProto(name=name) for name in after)
    return given


def _body(nodes: Sequence[NodeProto], weights: Sequence[TensorProto], ends: Sequence[str], side: str) -> GraphProto:
    """Return a graph of copies of `nodes` and `weights` under names of their own."""
    own = {name for node in nodes for name in node.output if name} | {tensor.name for tensor in weights}
    body = GraphProto(name=side, output=[ValueInfoProto(name=f"{name}_{side}") for name in ends])
    body.node.extend(nodes)
    body.initializer.extend(weights)
    for tensor in body.initializer:
        tensor.name = f"{tensor.name}_{side}"
    for node in walk_protos(body):
        node.input[:] = [f"{name}_{side}" if name in own else name for name in node.input]
        for output in (output for inner in bodies(node) for output in inner.output):
            output.name = f"{output.name}_{side}" if output.name in own else output.name
    for node in body.node:
        node.name = f"{node.name}_{side}"
        node.output[:] = [f"{name}_{side}" if name else "" for name in node.output]
    return body
