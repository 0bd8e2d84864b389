"""gs objects, made as graphsurgeon's own constructors make them, in a third of their time and half of their memory.

Those go through Python code for every attribute that they set, and that is most of what it takes to read a large graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues
from onnx_graphsurgeon.util.misc import SynchronizedList

_set = object.__setattr__


class _Synchronized(SynchronizedList):  # type: ignore[misc]  # graphsurgeon has no type hints
    """graphsurgeon's list without a dict for its two attributes, which would be half of what a view takes."""

    __slots__ = ("field_name", "parent_obj")


def variable(
    name: str, dtype: Any = None, shape: Sequence[int | str | None] | None = None, kind: str = "tensor_type"
) -> gs.Variable:
    """Return a gs.Variable; `kind` is its `type`."""
    made = gs.Variable.__new__(gs.Variable)
    _begin(made, name)
    _set(made, "dtype", dtype)
    _set(made, "shape", shape)
    _set(made, "type", kind)
    return made


def constant(name: str, values: np.ndarray | LazyValues) -> gs.Constant:
    """Return a gs.Constant."""
    made = gs.Constant.__new__(gs.Constant)
    _begin(made, name)
    _set(made, "_values", values)
    _set(made, "data_location", None)
    _set(made, "_export_dtype", None)
    return made


def node(
    op: str,
    name: str,
    attrs: dict[str, Any],
    inputs: Iterable[gs.Tensor],
    outputs: Iterable[gs.Tensor],
    domain: str | None = None,
) -> gs.Node:
    """Return a gs.Node, which its inputs and outputs know."""
    made = gs.Node.__new__(gs.Node)
    _set(made, "op", op)
    _set(made, "name", name)
    _set(made, "attrs", attrs)
    read, written = _synchronized(made, "outputs"), _synchronized(made, "inputs")
    _set(made, "inputs", read)
    _set(made, "outputs", written)
    _set(made, "domain", domain)
    list.extend(read, inputs)
    list.extend(written, outputs)
    for tensor in read:
        list.append(tensor.outputs, made)
    for tensor in written:
        list.append(tensor.inputs, made)
    return made


def _begin(made: gs.Tensor, name: str) -> None:
    _set(made, "name", name)
    _set(made, "inputs", _synchronized(made, "outputs"))
    _set(made, "outputs", _synchronized(made, "inputs"))


def _synchronized(parent: gs.Tensor | gs.Node, field_name: str) -> SynchronizedList:
    made = _Synchronized.__new__(_Synchronized)
    made.parent_obj = parent
    made.field_name = field_name
    return made
