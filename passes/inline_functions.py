"""Put the nodes of model-local functions in the place of their calls, where the other passes and the cut see them.

    y = local.Block(x)   with   Block(p) => (q) { t = Conv(p, w)  q = Relu(t) }   ->   t = Conv(x, w)  y = Relu(t)

Exporters that keep modules write such functions. What a call writes keeps its name; nodes and tensors inside get new
ones. It is done by onnx.inliner, which is helped where it would change what is computed or leave no valid model: a call
gets the attributes for which its function has defaults, a function that hands an input on gets an Identity, and the
model imports the domains that its functions use.

It leaves the model as it is when
1. functions call each other in a circle, or would become more than 2^20 nodes
2. an operator in a function is of another version than that of the operator set that the model uses
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import FunctionProto, ModelProto, OperatorSetIdProto, inliner

from graphsurgery.errors import ModelError, first_line
from graphsurgery.graph.names import fresh
from graphsurgery.graph.protos import domain_of, walk_protos, without_initializers
from graphsurgery.operators.functions import Key, called_by, innermost_first
from graphsurgery.rewrite import Editor, ModelPass, Refuse

_MOST_NODES = 2**20


class InlineFunctions(ModelPass):
    name = "inline-functions"
    effect = "exact"
    takes_references = True

    def rewrite(self, model: ModelProto, edit: Editor) -> ModelProto:
        if not model.functions:
            return model
        try:
            functions = innermost_first(model)
        except ModelError as error:
            raise Refuse(str(error)) from error
        _require_few_nodes(model, functions)
        light = without_initializers(model)
        for function in light.functions:
            _use_operator_sets_of(light, function)
            _hand_on_by_identity(function)
        _write_defaults(light)
        try:
            inlined: ModelProto = inliner.inline_local_functions(light)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
            raise Refuse(f"onnx can't inline its functions: {first_line(error)}") from error
        for tensor in model.graph.initializer:
            inlined.graph.initializer.add().CopyFrom(tensor)
        return inlined


def _require_few_nodes(model: ModelProto, functions: Sequence[FunctionProto]) -> None:
    sizes: dict[Key, int] = {}
    for function in functions:
        sizes[called_by(function)] = sum(sizes.get(called_by(node), 1) for node in walk_protos(function))
    nodes = sum(sizes.get(called_by(node), 1) for node in walk_protos(model.graph))
    if nodes > _MOST_NODES:
        raise Refuse(f"its functions would become {nodes} nodes, more than {_MOST_NODES}")


def _use_operator_sets_of(model: ModelProto, function: FunctionProto) -> None:
    """Let `function` import what `model` does, and the other way round; onnx inlines no function that differs."""
    imported = {domain_of(entry.domain): entry.version for entry in model.opset_import}
    own = {domain_of(entry.domain): entry.version for entry in function.opset_import}
    for domain, version in own.items():
        if domain not in imported:
            model.opset_import.append(OperatorSetIdProto(domain=domain, version=version))
            imported[domain] = version
    for node in walk_protos(function):
        domain = domain_of(node.domain)
        versions = own.get(domain, 1), imported.get(domain, 1)
        meant, got = (
            onnx.defs.get_schema(node.op_type, version, domain).since_version
            if onnx.defs.has(node.op_type, version, domain)
            else None
            for version in versions
        )
        if meant != got:
            raise Refuse(
                f"function '{function.name}' uses operator set {versions[0]} and the model {versions[1]}, "
                f"in which {node.op_type} is another one"
            )
    for entry in function.opset_import:
        entry.version = imported[domain_of(entry.domain)]


def _write_defaults(model: ModelProto) -> None:
    """Write the attributes into each call for which its function has a default: onnx.inliner looks at none."""
    functions = {called_by(function): function for function in model.functions}
    for holder in (model.graph, *model.functions):
        for node in walk_protos(holder):
            given = {attribute.name for attribute in node.attribute}
            function = functions.get(called_by(node))
            for default in function.attribute_proto if function is not None else ():
                if default.name not in given:
                    node.attribute.add().CopyFrom(default)


def _hand_on_by_identity(function: FunctionProto) -> None:
    """Let an Identity write an output that is an input as well, which the call writes anew."""
    names = {*function.input, *(name for node in walk_protos(function) for name in (*node.input, *node.output))}
    for index, name in enumerate(function.output):
        if name in function.input:
            function.output[index] = fresh(name, names)
            names.add(function.output[index])
            function.node.add(op_type="Identity", input=[name], output=[function.output[index]])
