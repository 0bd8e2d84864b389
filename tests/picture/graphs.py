"""Graphs for the tests of pictures."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import helper

from graphsurgery.graph.model import Model
from graphsurgery.graph.outline import Outline
from graphsurgery.picture.plain import Subject
from graphsurgery.testing import parse

X = "\N{MULTIPLICATION SIGN}"
HEAD = '<ir_version: 8, opset_import: ["": 17]>'


def model(nodes: str, constants: str = "", outputs: str = "float[1,2,8,8] y") -> Model:
    """Return a model that takes float[1,2,8,8] x."""
    return Model(parse(f"{HEAD} g (float[1,2,8,8] x) => ({outputs}) {constants} {{ {nodes} }}"))


def subject(nodes: str, constants: str = "", outputs: str = "float[1,2,8,8] y") -> Subject:
    """Return it to be drawn."""
    return Subject.of(model(nodes, constants, outputs))


def chain(names: Sequence[str], ops: Sequence[str]) -> Outline:
    """Return nodes of these names and operators, each of which reads what the one before it writes."""
    ends = ["x", *(f"t{number}" for number in range(len(names)))]
    nodes = [
        helper.make_node(op, [ends[number]], [ends[number + 1]], name)
        for number, (name, op) in enumerate(zip(names, ops, strict=True))
    ]
    info = [helper.make_tensor_value_info(name, 1, [2]) for name in (ends[0], ends[-1])]
    return Outline(Model(helper.make_model(helper.make_graph(nodes, "g", info[:1], info[1:]))))
