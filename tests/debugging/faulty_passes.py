"""Passes that break something, and models for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphsurgery.debugging.reduce import Reduction, reduce_file
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.graph import is_op, producer, subgraphs
from graphsurgery.graph.protos import walk_protos
from graphsurgery.progress import Silent
from graphsurgery.rewrite import Editor, GraphPass, NodePass, Pass
from graphsurgery.testing import parse

HEAD = '<ir_version: 8, opset_import: ["": 17]>\n'

LONG = """
g (float[2, 3] x, float[2, 3] z) => (float[2, 3] y, float[2, 3] other) {
    a = Abs (x)
    b = Sqrt (a)
    c = Exp (b)
    d = Neg (c)
    e = Sin (d)
    f = Tanh (e)
    y = Add (f, z)
    other = Cos (c)
}"""

BRANCH = """
g (float[4] x, bool[1] on) => (float[4] y) {
    flag = Squeeze (on)
    a = Abs (x)
    b = If (flag) <
        then_branch = g1 () => (float[4] r) { p = Sqrt (a)  q = Sin (p)  k = Exp (q)  r = Tanh (k) },
        else_branch = g2 () => (float[4] s) { s = Neg (a) }>
    c = Neg (b)
    y = Cos (c)
}"""


@dataclass(frozen=True)
class SinBecomesCos(NodePass):
    name = "sin-becomes-cos"
    effect = "exact"

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if is_op(node, "Sin"):
            edit.replace(node, "Cos", list(node.inputs))


@dataclass(frozen=True)
class BreakPair(NodePass):
    """Turns Exp around, but only where a Neg reads it and a Sin reads that: all three are needed."""

    name = "break-pair"
    effect = "exact"

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        before = producer(node.inputs[0]) if node.inputs else None
        first = producer(before.inputs[0]) if is_op(before, "Neg") else None
        if is_op(node, "Sin") and is_op(first, "Exp"):
            edit.replace(node, "Cos", list(node.inputs))


@dataclass(frozen=True)
class BreakFar(GraphPass):
    """Breaks a Tanh wherever an Exp is before it, however far."""

    name = "break-far"
    effect = "exact"

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        for node in graph.nodes:
            above = node
            while above is not None and above.inputs:
                above = producer(above.inputs[0])
                if is_op(node, "Tanh") and is_op(above, "Exp"):
                    edit.replace(node, "Sin", list(node.inputs))
                    return


@dataclass(frozen=True)
class Crash(NodePass):
    name = "crash"
    effect = "exact"

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if is_op(node, "Sin") and is_op(producer(node.inputs[0]), "Neg"):
            raise KeyError("oops")
        if is_op(node, "Cos"):
            edit.replace(node, "Sin", list(node.inputs))


@dataclass(frozen=True)
class CrashGraph(GraphPass):
    name = "crash-graph"
    effect = "exact"

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        if any(is_op(node, "Sin") and is_op(producer(node.inputs[0]), "Neg") for node in graph.nodes):
            raise KeyError("oops")
        if any(is_op(node, "Abs") for node in graph.nodes):
            raise ValueError("another one")


@dataclass(frozen=True)
class Stop(NodePass):
    name = "stop"
    effect = "exact"

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if is_op(node, "Sin"):
            raise edit.fail(f"node '{node.outputs[0].name}' must not be here")


@dataclass(frozen=True)
class Invalid(NodePass):
    name = "invalid"
    effect = "exact"

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if is_op(node, "Sin"):
            edit.replace(node, "Add", list(node.inputs))


@dataclass(frozen=True)
class NotRunnable(NodePass):
    """What it leaves is valid, and fails when it runs."""

    name = "not-runnable"
    effect = "exact"

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if is_op(node, "Sin"):
            edit.replace(node, "Reshape", [node.inputs[0], edit.constant("to", [7, 7])])


@dataclass(frozen=True)
class OnlyOpenSizes(NodePass):
    name = "only-open-sizes"
    effect = "exact"

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if is_op(node, "Sin") and edit.static_shape(node.inputs[0]) is None:
            edit.replace(node, "Cos", list(node.inputs))


@dataclass(frozen=True)
class BreakInIf(GraphPass):
    """Breaks an Exp, but only one that stands in a branch."""

    name = "break-in-if"
    effect = "exact"

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        for node in (inner for outer in graph.nodes for body in subgraphs(outer) for inner in body.nodes):
            if is_op(node, "Exp"):
                edit.replace(node, "Cos", list(node.inputs))


@dataclass(frozen=True)
class Scale(NodePass):
    """Multiplies what Neg reads by `by`."""

    name = "scale"
    effect = "exact"
    by: float = 1.0

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        writer = producer(node.inputs[0]) if node.inputs else None
        if is_op(node, "Neg") and not is_op(writer, "Mul"):
            factor = edit.constant("factor", np.array(self.by, np.float32))
            edit.set_input(node, 0, edit.emit("Mul", [node.inputs[0], factor], hint="scaled"))


@dataclass(frozen=True)
class FoldWrongly(GraphPass):
    """Folds every Mul into the one before it, whose output keeps its name, and the factors of 7 wrongly."""

    name = "fold-wrongly"
    effect = "exact"

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        for node in [node for node in graph.nodes if is_op(node, "Mul")]:
            before = producer(node.inputs[0])
            if is_op(before, "Mul"):
                product = before.inputs[1].values * node.inputs[1].values
                product = product + np.float32(product == 21)
                edit.set_input(before, 1, edit.constant("product", product))
                edit.bypass(node, node.inputs[0])


def reduced(tmp_path: Path, text: str, pass_: Pass, **inputs: Any) -> Reduction | None:
    path = tmp_path / "model.onnx"
    onnx.save(parse(HEAD + text.strip()), path)
    for name, value in inputs.items():
        (tmp_path / "sample").mkdir(exist_ok=True)
        np.save(tmp_path / "sample" / f"{name}.npy", np.asarray(value))
    return reduce_file(path, pass_, tmp_path / "sample" if inputs else None, Tolerances(), Silent())


def operators(found: Reduction | None) -> list[str]:
    assert found is not None, "nothing was broken"
    onnx.checker.check_model(found.model.proto, full_check=True)
    return [node.op_type for node in walk_protos(found.model.proto.graph)]
