"""Loops that nothing in the graph brings to an end: the number of their rounds is nobody's, an input's, or absurd."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from graphsurgery.graph.protos import bodies, walk_protos

_MOST_ROUNDS = 2**24
# What these say is bounded by the tensors that they look at
_SIZES = frozenset({"Shape", "Size", "NonZero", "NonMaxSuppression", "Unique", "SequenceLength"})


def has_unbounded_loop(model: ModelProto) -> bool:
    """Whether `model` has a Loop whose number of rounds follows from no size of a tensor and no small constant.

    That is told by what the number is computed from: a model that is made to deceive can pass for one that ends.
    """
    return any(_has_loop(top) and _unbounded(top, {}) for top in (model.graph, *model.functions))


def _has_loop(graph: GraphProto | FunctionProto) -> bool:
    return any(node.op_type == "Loop" for node in walk_protos(graph))


def _unbounded(graph: GraphProto | FunctionProto, outer: Mapping[str, NodeProto | TensorProto]) -> bool:
    known = {**outer, **dict(_values(graph))}
    return any(
        (node.op_type == "Loop" and not _is_bounded(node.input[0] if node.input else "", known))
        or any(_unbounded(body, known) for body in bodies(node))
        for node in graph.node
    )


def _values(graph: GraphProto | FunctionProto) -> Iterator[tuple[str, NodeProto | TensorProto]]:
    """Yield what each name in `graph` comes from."""
    if isinstance(graph, GraphProto):
        yield from ((tensor.name, tensor) for tensor in graph.initializer)
    yield from ((name, node) for node in graph.node for name in node.output if name)


def _is_bounded(rounds: str, known: Mapping[str, NodeProto | TensorProto]) -> bool:
    """Whether the tensor of that name is a small constant, or computed from a size."""
    constant = _constant(known.get(rounds))
    if constant is not None:
        return constant <= _MOST_ROUNDS
    return any(node.op_type in _SIZES for node in _nodes_behind(rounds, known))


def _nodes_behind(name: str, known: Mapping[str, NodeProto | TensorProto]) -> Iterator[NodeProto]:
    pending, seen = [name], {name}
    while pending:
        value = known.get(pending.pop())
        if isinstance(value, NodeProto):
            yield value
            pending += [each for each in value.input if each not in seen]
            seen.update(value.input)


def _constant(value: NodeProto | TensorProto | None) -> float | None:
    """Return the largest element of an initializer or a Constant, None for anything else."""
    if isinstance(value, NodeProto):
        attributes = {attribute.name: attribute for attribute in value.attribute}
        if value.op_type != "Constant" or not attributes.keys() & {"value", "value_int"}:
            return None
        if "value_int" in attributes:
            return float(helper.get_attribute_value(attributes["value_int"]))
        value = attributes["value"].t
    if value is None or value.data_location == TensorProto.EXTERNAL:
        return None
    return float(np.max(numpy_helper.to_array(value), initial=0))
