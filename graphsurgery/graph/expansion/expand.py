"""Puts standard nodes in the place of custom operators, and takes what was inferred of them back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import count

import onnx
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TypeProto

from graphsurgery.errors import ModelError, first_line, name_nearest
from graphsurgery.graph.claims import forget_claims
from graphsurgery.graph.expansion.operator import given_inputs, label, qualified, read
from graphsurgery.graph.expansion.registry import operators
from graphsurgery.graph.expansion.writer import Tensor, TypeOf, Writer
from graphsurgery.graph.names import fresh, names_in
from graphsurgery.graph.protos import (
    bodies,
    domain_of,
    opset_of,
    replace_items,
    types_by_name,
    walk_protos,
    without_initializers,
    without_values,
)
from graphsurgery.plugins import source_file

_SMALL = 1024  # elements of an initializer that may be a shape
_NOTHING = TypeProto.Tensor()


def expanded(model: ModelProto, goes: Callable[[NodeProto], bool] | None = None) -> ModelProto:
    """Return `model` with standard nodes in the place of custom operators; `model` itself where it has none.

    Those that `goes` is False for stay. Outputs keep their names. Raises ModelError for a node that its operator
    does not allow.
    """
    if not any(goes is None or goes(node) for node in custom_nodes(model)):
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    _Expansion(copy, goes).run()
    return copy


def custom_nodes(model: ModelProto) -> list[NodeProto]:
    """Return the nodes of custom operators, in bodies and functions too; one that calls a function is none."""
    known = _known(model)
    domains = {domain for domain, _ in known}  # most nodes are of none of these, which is told in a third of the time
    return [node for node in _nodes(model) if domain_of(node.domain) in domains and _key(node) in known]


def operator_name(node: NodeProto) -> str:
    """Return the name of a node's operator as passes and recipes write it: Conv, mmcv.grid_sampler."""
    return qualified(*_key(node))


def _known(model: ModelProto) -> set[tuple[str, str]]:
    return operators().keys() - _functions_of(model)


def _functions_of(model: ModelProto) -> set[tuple[str, str]]:
    return {(domain_of(function.domain), function.name) for function in model.functions}


class _Expansion:
    """The work on one model, which it changes; a node that comes later may ask for the types of what came before."""

    def __init__(self, model: ModelProto, goes: Callable[[NodeProto], bool] | None) -> None:
        self._model, self._known, self._goes = model, _known(model), goes
        self._names = names_in(model.graph).union(*(names_in(GraphProto(node=f.node)) for f in model.functions))
        self._names |= {node.name for node in _nodes(model)}
        self._types: dict[str, TypeProto.Tensor] = {}
        self._stale = True

    def run(self) -> None:
        self._in(self._model.graph, opset_of(self._model), self._type_of)
        for function in self._model.functions:  # what is given to one may be of any type
            self._in(function, opset_of(function), lambda name, known: _NOTHING)

    def _in(self, graph: GraphProto | FunctionProto, opset: int, type_of: TypeOf) -> None:
        at = 0
        while at < len(graph.node):
            node = graph.node[at]
            for body in bodies(node):
                self._in(body, opset, type_of)
            if _key(node) not in self._known or not (self._goes is None or self._goes(node)):
                at += 1
                continue
            made = self._written(node, opset, type_of)
            del graph.node[at]
            for each in made:
                graph.node.insert(at, each)
                at += 1
            self._stale = self._goes is None

    def _written(self, node: NodeProto, opset: int, type_of: TypeOf) -> list[NodeProto]:
        kind = operators()[_key(node)]
        if opset < kind.opset:
            raise ModelError(
                f"{label(node)}: what it computes is written for operator set {kind.opset} or later, and the model has "
                f"{opset}; raise the model's operator set before"
            )
        numbers = count(1)
        prefix = node.name or next(filter(None, node.output), kind.name)

        def new_name(hint: str) -> str:
            made = fresh(f"{prefix}/{hint}_{next(numbers)}", self._names)
            self._names.add(made)
            return made

        op = Writer(opset, new_name, type_of)
        operator = read(kind, node)
        inputs = given_inputs(kind, node, [Tensor(name, op) if name else None for name in node.input])
        try:
            outputs = operator.expand(op, *inputs)
        except ValueError as error:
            raise ModelError(f"{label(node)}: {error}") from error
        except Exception as error:  # a plug-in is the user's code: anything may come out of it
            what = f"{type(error).__name__}: {first_line(error)}"
            raise ModelError(f"{label(node)}: {source_file(kind)} fails: {what}") from error
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        if len(node.output) > len(outputs):
            raise ModelError(f"{label(node)}: it has {len(node.output)} outputs; the operator has {len(outputs)}")
        return _called(op, outputs, node.output)

    def _type_of(self, name: str, known: Callable[[TypeProto.Tensor], bool]) -> TypeProto.Tensor:
        """Return the type of a tensor, inferred anew where nodes were written since, and it is not `known` yet."""
        if self._stale and not known(self._types.get(name, _NOTHING)):
            # Of what stays, and of all behind it, nothing is inferred. With all of them expanded all types are known,
            # and stay as they are.
            inferable = self._model if self._goes is None else expanded(self._model)
            self._types, self._stale = _types(inferable), False
        return self._types.get(name, _NOTHING)


def _called(op: Writer, tensors: Sequence[Tensor], names: Sequence[str]) -> list[NodeProto]:
    """Return the nodes that `op` wrote so that `tensors` are called `names`; "" is one that nobody wants."""
    made = {name for node in op.nodes for name in node.output}
    called: dict[str, str] = {}
    for tensor, name in zip(tensors, names, strict=False):
        if not name:
            continue
        if tensor.name not in made or tensor.name in called:  # an input, or an output that is there already
            tensor = op.Identity(tensor)
        called[tensor.name] = name
    for node in op.nodes:
        node.input[:] = [called.get(name, name) for name in node.input]
        node.output[:] = [called.get(name, name) for name in node.output]
    return op.nodes


def _types(model: ModelProto) -> dict[str, TypeProto.Tensor]:
    """Return the types that follow from the inputs of `model`, but of a name that two bodies give different ones."""
    light = without_initializers(model)
    for tensor in model.graph.initializer:
        small = math.prod(tensor.dims) <= _SMALL and tensor.data_location != onnx.TensorProto.EXTERNAL
        light.graph.initializer.append(tensor if small else without_values(tensor))
    forget_claims(light.graph)
    try:
        inferred = onnx.shape_inference.infer_shapes(light)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, ValueError):
        inferred = light  # what is wrong with it, the checker says
    return {name: info.type.tensor_type for name, info in types_by_name(inferred.graph).items()}


def inferred_of(model: ModelProto, inferred: ModelProto) -> ModelProto:
    """Return `model`, which is changed, with the types that `inferred`, which was expanded from it, has."""
    _take_types(model.graph, inferred.graph)
    return model


def _take_types(graph: GraphProto, inferred: GraphProto) -> None:
    own = {name for node in graph.node for name in node.output} | {info.name for info in graph.value_info}
    replace_items(graph.value_info, [info for info in inferred.value_info if info.name in own])
    for kind in ("input", "output"):
        replace_items(getattr(graph, kind), getattr(inferred, kind))
    writer = {node.output[0]: node for node in inferred.node if node.output}
    for node in graph.node:
        if bodies(node) and node.output[0] in writer:
            for body, other in zip(bodies(node), bodies(writer[node.output[0]]), strict=True):
                _take_types(body, other)


def unknown_operator(model: ModelProto) -> str | None:
    """Say which node is of an operator that neither ONNX nor a custom operator defines; None where none is.

    Of the domains of com.microsoft ONNX Runtime knows, and says, what there is.
    """
    defined = {(domain_of(schema.domain), schema.name) for schema in onnx.defs.get_all_schemas_with_history()}
    defined |= operators().keys()
    called = _functions_of(model)
    for node in _nodes(model):
        key = _key(node)
        if key in defined or key in called or key[0].startswith("com.microsoft"):
            continue
        near = name_nearest(qualified(*key), (qualified(*each) for each in defined))
        return (
            f"{label(node)}: nobody defines this operator;{near}{';' if near else ''} a Python file that does, "
            "--plugin FILE, makes it run: docs/custom-operators.md"
        )
    return None


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    for top in (model.graph, *model.functions):
        yield from walk_protos(top)


def _key(node: NodeProto) -> tuple[str, str]:
    return domain_of(node.domain), node.op_type
