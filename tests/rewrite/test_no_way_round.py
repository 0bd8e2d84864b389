"""Passes change a graph through the Editor alone; only then what it says of shapes and types is right."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
# What makes up a graph, a node and a tensor of graphsurgeon. A ModelProto's `node`, `input` and `output` are no such.
PARTS = {"nodes", "inputs", "outputs", "attrs", "op", "dtype", "shape"}
CHANGING = {"append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse", "update", "setdefault"}
PAST_THE_EDITOR = {"set_inputs", "set_outputs", "detach"}  # of graphsurgery.graph
FILES = sorted([*(ROOT / "passes").glob("*.py"), *(ROOT / "graphsurgery" / "operators").glob("*.py")])


def ways_round(code: str) -> list[int]:
    """Return the lines of `code` that change a graph by themselves."""
    tree = ast.parse(code)
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "graphsurgery.graph"
        for alias in node.names
        if alias.name in PAST_THE_EDITOR
    }
    return sorted({node.lineno for node in ast.walk(tree) if _changes(node, imported)})


def _changes(node: ast.AST, imported: set[str]) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        name, of = node.func.attr, node.func.value
        return (name in PAST_THE_EDITOR and _is_module(of)) or (name in CHANGING and _is_part(of))
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in imported
    return any(_is_part(target) for target in _targets(node))


def _targets(node: ast.AST) -> Iterator[ast.expr]:
    """Yield what a statement assigns to or deletes."""
    pending: list[ast.expr] = []
    if isinstance(node, ast.Assign | ast.Delete):
        pending += node.targets
    elif isinstance(node, ast.AugAssign | ast.AnnAssign):
        pending.append(node.target)
    while pending:
        target = pending.pop()
        if isinstance(target, ast.Tuple | ast.List):
            pending += target.elts
        else:
            yield target.value if isinstance(target, ast.Starred) else target


def _is_part(target: ast.expr) -> bool:
    """Whether it is one of PARTS, or an item of it, of something other than the pass itself."""
    while isinstance(target, ast.Subscript):
        target = target.value
    own = isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self"
    return isinstance(target, ast.Attribute) and target.attr in PARTS and not own


def _is_module(value: ast.expr) -> bool:
    return isinstance(value, ast.Name) and value.id in ("graphs", "graph")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.stem))
def test_changes_a_graph_through_the_editor_alone(file: Path) -> None:
    found = ways_round(file.read_text(encoding="utf-8"))
    assert not found, f"{file}, lines {found}: the Editor has a verb for it (its docstring lists them)"


@pytest.mark.parametrize(
    "line",
    [
        "tensor.shape = [1]",
        "tensor.shape[0] = 1",
        "tensor.dtype, tensor.shape = kind, None",
        "graph.outputs = [tensor]",
        "body.nodes, body.outputs = [], []",
        "graph.nodes += [node]",
        "edit.graph.nodes.append(node)",
        "node.inputs.clear()",
        "node.attrs['to'] = 1",
        "del node.attrs['to']",
        "graphs.set_inputs(node, [])",
        "from graphsurgery.graph import detach\ndetach(node)",
    ],
)
def test_such_a_line_is_found(line: str) -> None:
    assert ways_round(line)


@pytest.mark.parametrize(
    "line",
    ["edit.set_outputs(node, [])", "edit.graph = body", "shape = list(tensor.shape)", "proto.input.append(info)"],
)
def test_one_that_changes_nothing_by_itself_is_not(line: str) -> None:
    assert not ways_round(line)
