"""Model-local functions, as exporters write them that keep modules: what is inside their calls no pass sees."""

from __future__ import annotations

from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter

from onnx import FunctionProto, ModelProto, NodeProto

from graphsurgery.errors import ModelError
from graphsurgery.graph import STANDARD_DOMAINS
from graphsurgery.graph.protos import domain_of, walk_protos
from graphsurgery.operators.operands import LAYERS

Key = tuple[str, str, str]


def called_by(node: NodeProto | FunctionProto) -> Key:
    """Return by what a call names its function, and a function itself: domain, name, overload."""
    name = node.name if isinstance(node, FunctionProto) else node.op_type
    return domain_of(node.domain), name, node.overload


def innermost_first(model: ModelProto) -> list[FunctionProto]:
    """Return the functions of `model`, each behind those that it calls. Raises ModelError where there is a circle."""
    functions = {called_by(function): function for function in model.functions}
    calls = {key: {called_by(node) for node in walk_protos(f)} & functions.keys() for key, f in functions.items()}
    try:
        return [functions[key] for key in TopologicalSorter(calls).static_order()]
    except CycleError as error:
        names = " -> ".join(f"'{name}'" for _, name, _ in error.args[1])
        raise ModelError(f"its functions call each other in a circle: {names}") from error


def hidden_layers(model: ModelProto) -> str | None:
    """Return which call of a function keeps a layer with weights out of sight, for a message; None where none does.

    Raises ModelError for functions that call each other in a circle.
    """
    inside: dict[Key, str] = {}
    for function in innermost_first(model):
        layer = _layer_in(walk_protos(function), inside)
        if layer is not None:
            inside[called_by(function)] = layer
    for node in walk_protos(model.graph) if inside else ():
        if called_by(node) in inside:
            called = f"function '{node.op_type}' of domain '{node.domain}'"
            name = node.name or node.output[0]
            layer = inside[called_by(node)]
            return (
                f"node '{name}' calls {called}, in which {layer} is out of sight; run the pass inline-functions first"
            )
    return None


def _layer_in(nodes: Iterable[NodeProto], inside: dict[Key, str]) -> str | None:
    layers = (node.op_type if _is_layer(node) else inside.get(called_by(node)) for node in nodes)
    return next((layer for layer in layers if layer is not None), None)


def _is_layer(node: NodeProto) -> bool:
    return node.op_type in LAYERS and node.domain in STANDARD_DOMAINS
