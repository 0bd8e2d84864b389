"""Set or delete attributes of nodes, and set their constant inputs, by name: the recipe knows what it does.

    Resize(x, scales=[1, 1, 2, 2], mode=linear)  ->  Resize(x, scales=[1, 1, 4, 4], mode=nearest)

    set-attributes: {nodes: "/fpn/Resize*", op: Resize, set: {mode: nearest}, constants: {scales: [1.0, 1.0, 4.0, 4.0]}}

Declared exact, so that the recipe's tolerance judges what it does to the outputs. Shapes behind a changed node are
inferred again. An initializer that other nodes read too is not changed for them.

A run ends with an error when
1. no node matches
2. the operator has no such attribute or input, or it may not be deleted
3. the value is not of the attribute's or the input's type

It leaves a node as it is when
4. it has those values already
5. an attribute to delete is not written out
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto
from onnx.defs import OpSchema

from graphsurgery import graph as graphs
from graphsurgery.errors import name_nearest
from graphsurgery.graph.names import matches
from graphsurgery.operators.schemas import input_at, schema_of
from graphsurgery.rewrite import Editor, GraphPass

# what an attribute's type takes: the type of an item, and whether it is a list
_TAKES: dict[OpSchema.AttrType, tuple[type, bool]] = {
    OpSchema.AttrType.INT: (int, False),
    OpSchema.AttrType.FLOAT: (float, False),
    OpSchema.AttrType.STRING: (str, False),
    OpSchema.AttrType.INTS: (int, True),
    OpSchema.AttrType.FLOATS: (float, True),
    OpSchema.AttrType.STRINGS: (str, True),
}


@dataclass(frozen=True)
class SetAttributes(GraphPass):
    """`nodes` is a node's name or a pattern with * and ?; a node without a name goes by its first output.

    `op` leaves other operators out. `set` maps attributes to values, `delete` lists attributes, `constants` maps
    inputs, by the operator's name for them or by number from 0, to values: a number fills the constant that was
    there, a list takes its shape, or replaces it where it has one dimension.
    """

    name = "set-attributes"
    effect = "exact"

    nodes: str
    op: str | None = None
    set: dict[str, int | float | str | list[int] | list[float] | list[str]] = field(default_factory=dict)
    delete: tuple[str, ...] = ()
    constants: dict[str, int | float | list[int] | list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.set or self.delete or self.constants):
            raise ValueError("nothing to do: give set, delete or constants")
        both = [name for name in self.delete if name in self.set]
        if both:
            raise ValueError(f"delete and set both name '{both[0]}'")

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        changed = []
        for node in self._matching(graph, edit):
            before = edit.edits
            for name, value in self.set.items():
                edit.set_attribute(node, name, _attribute_value(node, name, value, edit))
            for name in self.delete:
                _delete(node, name, edit)
            for key, number in self.constants.items():
                _set_constant(node, key, number, edit)
            if edit.edits != before:
                changed.append(node)
        if changed:
            edit.infer_behind(changed)

    def _matching(self, graph: gs.Graph, edit: Editor) -> list[gs.Node]:
        nodes = [node for node in graphs.walk_nodes(graph) if self.op is None or node.op == self.op]
        found = [node for node in nodes if _label(node) == self.nodes]
        found = found or [node for node in nodes if matches(_label(node), [self.nodes])]
        if found:
            return found
        what = "node" if self.op is None else f"{self.op} node"
        if not nodes:
            ops = {node.op for node in graphs.walk_nodes(graph)}
            raise edit.fail(f"the graph has no {what}.{name_nearest(self.op or '', ops)}")
        raise edit.fail(f"no {what} is called '{self.nodes}'.{name_nearest(self.nodes, map(_label, nodes))}")


def _label(node: gs.Node) -> str:
    return str(node.name or (node.outputs[0].name if node.outputs else ""))


def _place(node: gs.Node) -> str:
    return f"node '{_label(node)}' ({node.op})"


def _attribute_value(node: gs.Node, name: str, value: Any, edit: Editor) -> Any:
    """Return `value` as the type that attribute `name` must have."""
    schema = schema_of(node, edit.opset)
    if schema is None:
        return value
    _check_known(node, name, schema, edit)
    kind = schema.attributes[name].type
    expected = str(kind).rpartition(".")[2]
    if kind not in _TAKES:
        raise edit.fail(f"{_place(node)}: attribute '{name}' is a {expected}, which can't be written in a recipe")
    plain, many = _TAKES[kind]
    items = value if isinstance(value, list) else [value]
    # YAML's 1 is a fine float, its true no integer
    fits = all(isinstance(item, (int, float) if plain is float else plain) for item in items)
    if isinstance(value, list) != many or not fits or any(isinstance(item, bool) for item in items):
        raise edit.fail(f"{_place(node)}: attribute '{name}' is of type {expected}, not {_type_of(value)}")
    # attributes are stored in single precision; the value that comes back compares equal
    typed = [float(np.float32(item)) if plain is float else item for item in items]
    if not many:
        return typed[0]
    return typed or AttributeProto(name=name, type=getattr(AttributeProto, expected))


def _check_known(node: gs.Node, name: str, schema: OpSchema, edit: Editor) -> None:
    if name not in schema.attributes:
        known = schema.attributes.keys()
        raise edit.fail(
            f"{_place(node)}: opset {edit.opset} has no attribute '{name}' there.{name_nearest(name, known)}"
            f" It has: {', '.join(sorted(known)) or 'none'}"
        )


def _type_of(value: Any) -> str:
    kinds = {int: "INT", float: "FLOAT", str: "STRING", bool: "BOOL"}
    if not isinstance(value, list):
        return kinds.get(type(value), type(value).__name__)
    return " or ".join(sorted({f"{_type_of(item)}S" for item in value})) or "an empty list"


def _delete(node: gs.Node, name: str, edit: Editor) -> None:
    schema = schema_of(node, edit.opset)
    if schema is not None:
        _check_known(node, name, schema, edit)
        if schema.attributes[name].required:
            raise edit.fail(f"{_place(node)}: attribute '{name}' is required, so it can't be deleted; set it")
    if name not in node.attrs:
        return edit.skip(node, f"attribute '{name}' is not written out")
    edit.drop_attribute(node, name)


def _set_constant(node: gs.Node, key: str, value: Any, edit: Editor) -> None:
    schema = schema_of(node, edit.opset)
    index = _input_index(node, str(key), schema, edit)
    old = node.inputs[index] if index < len(node.inputs) and node.inputs[index].name else None
    held = None if old is None else graphs.constant(old)
    dtype = _input_dtype(node, key, index, old if held is None else held, schema, edit)
    given = np.asarray(value)
    if not np.array_equal(given.astype(dtype), given) and not (given.dtype.kind == "f" and dtype.kind == "f"):
        raise edit.fail(f"{_place(node)}: input '{key}' is of type {dtype}, which can't hold {value}")
    array = given.astype(dtype)
    if held is not None and array.size != held.size and not (array.ndim == 1 and held.ndim == 1) and array.ndim:
        shape = "x".join(map(str, held.shape)) or "a scalar"
        raise edit.fail(f"{_place(node)}: input '{key}' is {shape}: {held.size} numbers are needed, not {array.size}")
    if held is not None and array.ndim == 0:
        array = np.full(held.shape, array)
    elif held is not None and array.size == held.size:
        array = array.reshape(held.shape)
    if held is None or held.shape != array.shape or not np.array_equal(held, array):
        edit.set_input(node, index, edit.constant(f"{_label(node)}_{key}", array))


def _input_index(node: gs.Node, key: str, schema: OpSchema | None, edit: Editor) -> int:
    names = [parameter.name for parameter in schema.inputs] if schema is not None else []
    if key in names:
        return names.index(key)
    limit = schema.max_input if schema is not None else len(node.inputs)
    if key.isdecimal() and int(key) < limit:
        return int(key)
    known = names or [str(number) for number in range(len(node.inputs))]
    raise edit.fail(
        f"{_place(node)}: it has no input '{key}'.{name_nearest(key, known)} It has: {', '.join(known) or 'none'}"
    )


def _input_dtype(node: gs.Node, key: str, index: int, old: Any, schema: OpSchema | None, edit: Editor) -> np.dtype[Any]:
    """Return the type of the constant: what was there before, or the only one that the operator takes there."""
    if old is not None and old.dtype is not None:
        stored: np.dtype[Any] = np.dtype(old.dtype)
        return stored
    kinds: Sequence[str] = sorted(input_at(schema, index).types) if schema is not None else ()
    if len(kinds) != 1:
        raise edit.fail(f"{_place(node)}: input '{key}' has no known type; set an input that is constant already")
    name = kinds[0].removeprefix("tensor(").removesuffix(")").upper()
    dtype: np.dtype[Any] = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.DataType.Value(name))
    return dtype
