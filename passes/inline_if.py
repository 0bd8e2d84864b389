"""Replace an If by one of its branches, where that is settled beforehand: an NPU runs one graph, and VitisAI aborts.

    y = If(true) <then: a = Relu(x), else: b = Neg(x)>   ->   y = Relu(x)
    y = If(c) <then: a = Relu(x), else: b = Relu(x)>     ->   y = Relu(x)
    y = If(Size(x) == 0) <then: [], else: b = NMS(x)>    ->   y = NMS(x)

Its condition is a constant, or both branches are the same, node for node, apart from names. Or it only spares a branch
an empty tensor: torchvision and detectron2 do so before NonMaxSuppression. Then all that the branches read is empty,
and one run of both, through ONNX Runtime, proves that they give the same; the runtime of the target must take an empty
list too. torch.onnx also writes an If for each Squeeze whose size it does not know. freeze-shapes and simplify bring
each of these into such a form.

The outputs keep the names that they have outside; a tensor or a node of the branch gets a new one only where its name
stands for something else outside.

It does not fire when
1. the condition is not constant and the branches differ: in an operator, an attribute, a weight, or what they read;
   operators of other domains and those that draw random numbers count as different
2. the branch reads a tensor that nothing writes, such as a sparse initializer of its own
3. an output of the model, or of a body around the If, is declared with a shape that the branch's output has not
4. the branch has quantization annotations
5. the condition asks whether a tensor is empty, and nothing tells that all else that the branches read is empty then,
   too; or a branch does not run on that, or gives something else
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import AttributeProto

from graphsurgery import graph as graphs
from graphsurgery.errors import PassError
from graphsurgery.graph import RANDOM_OPS, STANDARD_DOMAINS, constant, producer
from graphsurgery.graph.shapes import agree
from graphsurgery.graph.view import table
from graphsurgery.operators.emptiness import emptiness
from graphsurgery.rewrite import Editor, NodePass, Refuse


class InlineIf(NodePass):
    name = "inline-if"
    effect = "exact"
    matches = ("If",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        branches = [node.attrs["then_branch"], node.attrs["else_branch"]]
        condition = constant(node.inputs[0])
        if condition is not None and condition.size == 1:
            branch = branches[0 if condition.item() else 1]
        elif _same_graph(*branches):
            branch = branches[0]
        else:
            guard = emptiness(node.inputs[0], edit)
            if guard is None:
                raise Refuse("its condition is not constant, and its branches differ")
            spared, branch = branches if guard.when else branches[::-1]
            _require_same_on_empty(spared, branch, guard.size, edit)
        if table(branch).annotations:
            raise Refuse("its branch has quantization annotations")
        unwritten = _unwritten(branch, edit.root)
        if unwritten is not None:
            raise Refuse(f"its branch reads '{unwritten}', which no node writes")
        for out, source in zip(node.outputs, branch.outputs, strict=True):
            if not agree(out.shape, source.shape) and edit.is_output(out):
                raise Refuse(f"its branch writes {source.shape} where {out.shape} is promised")
        edit.inline(node, branch)


def _require_same_on_empty(spared: gs.Graph, branch: gs.Graph, size: str, edit: Editor) -> None:
    """Refuse unless both branches give the same where `size` is 0; all that they read from outside is empty then."""
    given: dict[str, np.ndarray] = {}
    for tensor in (*_read_outside(spared), *_read_outside(branch)):
        value, shape, dtype = constant(tensor), edit.shape(tensor), edit.dtype(tensor)
        if value is None:
            sizes = [0 if each == size else each for each in shape or ()]
            known = [each for each in sizes if isinstance(each, int) and each >= 0]
            if dtype is None or 0 not in known or len(known) < len(sizes):
                raise Refuse(f"nothing tells that '{tensor.name}', which a branch reads, is empty where the list is")
            value = np.zeros(known, dtype)
        given[tensor.name] = value
    values = [_computed(each, given, edit) for each in (spared, branch)]
    for name, one, other in zip((tensor.name for tensor in branch.outputs), *values, strict=True):
        if not _same_array(one, other):
            raise Refuse(f"on an empty list its branches differ in '{name}'")


def _read_outside(branch: gs.Graph) -> list[gs.Tensor]:
    """Return the tensors that `branch` reads or hands out, and that are written outside of it."""
    nodes = list(graphs.walk_nodes(branch))
    own = {id(tensor) for node in nodes for tensor in node.outputs}
    own |= {id(tensor) for inner in graphs.walk_graphs(branch) for tensor in inner.inputs}
    read = [tensor for node in nodes for tensor in node.inputs]
    read += [tensor for inner in graphs.walk_graphs(branch) for tensor in inner.outputs]
    return [t for t in read if t.name and id(t) not in own and not isinstance(t, gs.Constant)]


def _computed(branch: gs.Graph, given: dict[str, np.ndarray], edit: Editor) -> list[np.ndarray]:
    around = edit.graph
    edit.graph = branch
    try:
        return edit.evaluate(branch.outputs, given)
    except PassError as error:
        raise Refuse(f"a branch does not run on an empty list: {error}") from error
    finally:
        edit.graph = around


def _unwritten(branch: gs.Graph, root: gs.Graph) -> str | None:
    """Return the name of a tensor that `branch` reads and that is no input, no constant, and written by no node."""
    given = {id(tensor) for inner in graphs.walk_graphs(root) for tensor in inner.inputs}
    for tensor in (tensor for inner in graphs.walk_graphs(branch) for tensor in graphs.tensors(inner)):
        loose = isinstance(tensor, gs.Variable) and tensor.name and producer(tensor) is None
        if loose and id(tensor) not in given:
            return str(tensor.name)
    return None


def _same_graph(one: gs.Graph, other: gs.Graph) -> bool:
    """Whether two graphs compute the same, node for node."""
    matched: dict[int, gs.Tensor] = {}
    pending = list(zip(one.outputs, other.outputs, strict=True))
    while pending:
        left, right = pending.pop()
        if left is right or matched.get(id(left)) is right or not (left.name or right.name):
            continue
        if id(left) in matched:
            return False
        matched[id(left)] = right
        if graphs.is_constant(left) or graphs.is_constant(right):
            if not _same_constant(left, right):
                return False
            continue
        makers = producer(left), producer(right)
        if makers[0] is None or makers[1] is None or not _same_node(*makers):
            return False
        if _place(left, makers[0]) != _place(right, makers[1]):
            return False
        pending += zip(makers[0].inputs, makers[1].inputs, strict=True)
        for a, b in zip(graphs.subgraphs(makers[0]), graphs.subgraphs(makers[1]), strict=True):
            matched |= {id(tensor): twin for tensor, twin in zip(a.inputs, b.inputs, strict=True)}
            pending += zip(a.outputs, b.outputs, strict=True)
    return True


def _place(tensor: gs.Tensor, node: gs.Node) -> int:
    return next(index for index, written in enumerate(node.outputs) if written is tensor)


def _same_constant(one: gs.Tensor, other: gs.Tensor) -> bool:
    if isinstance(one, gs.Constant) and isinstance(other, gs.Constant) and list(one.shape) != list(other.shape):
        return False
    left, right = constant(one), constant(other)
    return left is not None and right is not None and _same_array(left, right)


def _same_array(one: np.ndarray, other: np.ndarray) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return bool(np.array_equal(one, other)) if one.dtype == object else one.tobytes() == other.tobytes()


def _same_node(one: gs.Node, other: gs.Node) -> bool:
    """Whether two nodes do the same with their inputs, their bodies aside."""
    if one.op != other.op or one.op in RANDOM_OPS or not {one.domain, other.domain} <= set(STANDARD_DOMAINS):
        return False
    if len(one.inputs) != len(other.inputs) or one.attrs.keys() != other.attrs.keys():
        return False
    if [bool(tensor.name) for tensor in one.outputs] != [bool(tensor.name) for tensor in other.outputs]:
        return False
    return all(_same_attribute(value, other.attrs[name]) for name, value in one.attrs.items())


def _same_attribute(one: Any, other: Any) -> bool:
    if isinstance(one, gs.Graph) and isinstance(other, gs.Graph):
        return len(one.inputs) == len(other.inputs) and len(one.outputs) == len(other.outputs)
    if isinstance(one, gs.Constant) and isinstance(other, gs.Constant):
        return _same_constant(one, other)
    if isinstance(one, AttributeProto) and isinstance(other, AttributeProto):
        return bool(one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True))
    plain = (int, float, str, bytes, list)
    return isinstance(one, plain) and type(one) is type(other) and bool(one == other)
