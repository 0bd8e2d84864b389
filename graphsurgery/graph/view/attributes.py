"""Attributes of the view's nodes as protos: those of the file where no pass has changed them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, NodeProto

from graphsurgery.errors import ModelError
from graphsurgery.graph.view.origin import plain_value
from graphsurgery.graph.view.tensors import elem_type, tensor_of

FLOATS = (AttributeProto.FLOAT, AttributeProto.FLOATS)


def same_attributes(attrs: Mapping[str, Any], proto: NodeProto) -> bool:
    """Whether `attrs` are those of `proto`, in their order; False where one holds anything but numbers and text."""
    if not attrs:
        return not proto.attribute
    before = {attribute.name: attribute for attribute in proto.attribute}
    return list(attrs) == list(before) and all(
        _is_plain(value) and _is_as_before(value, before[name]) for name, value in attrs.items()
    )


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | str | bytes) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], int | float | str | bytes)
    )


def _is_as_before(value: Any, attribute: AttributeProto) -> bool:
    """Whether `value` is what the view made of `attribute`, where that holds numbers, text or another's name."""
    before = plain_value(attribute)
    return type(before) is type(value) and repr(before) == repr(value)  # 0.0 isn't -0.0, and NaN is NaN


def export_attribute(
    name: str, value: Any, before: AttributeProto | None, declared: int | None, node: NodeProto
) -> None:
    """Add an attribute to `node`: `before`, as the file has it, or a new one of the kind `declared`.

    Raises ModelError for a value that is of no such kind.
    """
    if isinstance(value, AttributeProto):
        node.attribute.append(value)
    elif isinstance(value, gs.Constant):
        tensor = tensor_of(value)
        if before is not None and before.HasField("t") and tensor is before.t:
            node.attribute.append(before)
        else:
            node.attribute.append(with_doc(onnx.helper.make_attribute(name, tensor), before))
    elif before is not None and _is_as_before(value, before):
        node.attribute.append(before)
    else:
        if declared is None and before is not None and isinstance(value, list | tuple) and not value:
            declared = before.type  # an empty list does not tell of what it is
        node.attribute.append(_new_attribute(name, value, declared, node))


def with_doc(attribute: AttributeProto, before: AttributeProto | None) -> AttributeProto:
    """Return `attribute` with the documentation that it had before."""
    if before is not None and before.HasField("doc_string"):
        attribute.doc_string = before.doc_string
    return attribute


def _new_attribute(name: str, value: Any, declared: int | None, node: NodeProto) -> AttributeProto:
    """Return a new attribute, of the kind that the operator's definition says: a float may be given as 1.

    Raises ModelError for a value that is not of that kind.
    """
    plain = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(plain, type | np.dtype):  # graphsurgeon's way to write Cast's `to`
        plain = elem_type(plain)
    where = f"node '{node.name}' ({node.op_type}): attribute '{name}'"
    if isinstance(plain, list | tuple):
        plain = [_plain(item, declared) for item in plain]
        if not plain and declared is None:
            raise ModelError(f"{where} is an empty list, and ONNX does not say of what; leave it out")
    else:
        plain = _plain(plain, declared)
    kind = "" if declared is None else AttributeProto.AttributeType.Name(declared)
    if isinstance(plain, list) and kind and not kind.endswith("S"):
        raise ModelError(f"{where} can't be {value!r}: it is a list, and ONNX wants one {kind}")
    try:
        return onnx.helper.make_attribute(name, plain, attr_type=declared)
    except (TypeError, ValueError) as error:
        wanted = f"; ONNX wants {kind}" if kind else ""
        raise ModelError(f"{where} can't be {value!r}: {str(error).splitlines()[0]}{wanted}") from error


def _plain(value: Any, declared: int | None) -> Any:
    """Return a number as Python has it: whole numbers as floats where those are declared, truth values as 0 and 1."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool):
        value = int(value)
    return float(value) if isinstance(value, int) and declared in FLOATS else value


@cache
def declared_kinds(op: str, domain: str, version: int) -> Mapping[str, int]:
    """Return the kinds of an operator's attributes as its definition says; none for one that ONNX does not define."""
    if not onnx.defs.has(op, version, domain):
        return {}
    declared = onnx.defs.get_schema(op, version, domain).attributes
    kinds = {name: str(attribute.type).rpartition(".")[2] for name, attribute in declared.items()}
    return {name: AttributeProto.AttributeType.Value(kind) for name, kind in kinds.items()}
