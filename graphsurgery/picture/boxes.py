"""A node of a graph as a box: its operator, its weights, short constants, and attributes that aren't the usual ones."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, ValueInfoProto, helper

from graphsurgery.errors import ModelError
from graphsurgery.graph.outline import Outline
from graphsurgery.graph.protos import bodies, domain_of, walk_protos
from graphsurgery.picture.scene import Box
from graphsurgery.text import shortened, visible

LONGEST = 34  # characters of a line in a box
_LINES = 3
_SHORT = 6  # elements of a constant that is shown by its values
_LONGEST_SIZE = 10  # characters of the name of an open size: exporters call them what they follow from
_MORE = 12  # lines that a pointer brings up
# what these are where they are not written out, for any number of axes: the standard's schema has no word for it
_USUAL = {"strides": 1, "dilations": 1, "pads": 0, "output_padding": 0}
_TIMES = "\N{MULTIPLICATION SIGN}"

Types = Mapping[str, ValueInfoProto]


def node_box(outline: Outline, index: int, key: str, why: Sequence[str] = (), helps: Sequence[str] = ()) -> Box:
    """Return the box of a node, with lines that say why a target doesn't take it; what `helps` is for a pointer."""
    node = outline.nodes[index]
    weights = any(is_weight(outline, name) for name in node.input)
    inside = [f"{sum(1 for _ in walk_protos(body))} nodes in {body.name or 'its body'}" for body in bodies(node)]
    told = [*why, *inside, *constants(outline, index), *attributes(outline, index)]
    # what follows from the weights, which a layer has beside them, needs no room
    brief = [line for line in told if not (weights and re.fullmatch(r"kernel_shape .*|B \d+", line))]
    lines = brief if len(brief) <= _LINES else [*brief[: _LINES - 1], f"and {len(brief) - _LINES + 1} more"]
    title = node.op_type if not domain_of(node.domain) else f"{node.domain}.{node.op_type}"
    about = [title if not node.name else f"{title} {node.name}", *helps, *told[:_MORE], *_ends(node)]
    kind = "weights" if weights else "node"
    return Box(key, short(title), kind, tuple(map(short, lines)), tuple(_shown(line, 300) for line in about))


def end_box(key: str, kind: str, name: str, info: ValueInfoProto | None) -> Box:
    """Return the box of an input or an output of the graph."""
    shape = shape_of(info)
    return Box(
        key, short(name), kind, (shape,) if shape else (), (f"{kind} {_shown(name, 300)}", *([shape] if shape else []))
    )


def shape_of(info: ValueInfoProto | None) -> str:
    """Return what is known of a tensor, `1x64x32x32` with times signs, its type where it isn't float32; or nothing."""
    if info is None:
        return ""
    if not info.type.HasField("tensor_type"):
        return str(info.type.WhichOneof("value") or "").removesuffix("_type")
    tensor = info.type.tensor_type
    dtype = "" if tensor.elem_type in (0, TensorProto.FLOAT) else TensorProto.DataType.Name(tensor.elem_type).lower()
    if not tensor.HasField("shape"):
        return dtype
    sizes = [str(dim.dim_value) if dim.HasField("dim_value") else _open_size(dim.dim_param) for dim in tensor.shape.dim]
    return " ".join(filter(None, (_TIMES.join(sizes) or "scalar", dtype)))


def _open_size(name: str) -> str:
    """Return what an open size is called, if anybody but ONNX's shape inference has given it a name."""
    return "?" if not name or name.startswith("unk__") or len(name) > _LONGEST_SIZE else _shown(name, 12)


def short(text: str) -> str:
    """Return a text in the width of a box."""
    return _shown(text, LONGEST)


def _shown(text: str, most: int) -> str:
    """Return a text in one line; a file may hold anything as a name, and SVG no control characters."""
    return shortened(" ".join(visible(text).split()), max(most, 12))


def _ends(node: NodeProto) -> Iterator[str]:
    for what, names in (("reads", node.input), ("writes", node.output)):
        listed = [name for name in names if name]
        if listed:
            yield f"{what} {', '.join(listed[:6])}" + (f" and {len(listed) - 6} more" if len(listed) > 6 else "")


def is_weight(outline: Outline, name: str) -> bool:
    """Whether a tensor is a constant of more than one axis and more than a few elements."""
    tensor = outline.constants.get(name)
    return tensor is not None and len(tensor.dims) > 1 and math.prod(tensor.dims) > _SHORT


def constants(outline: Outline, index: int) -> Iterator[str]:
    """Yield the constants that a node reads: those of few elements by value, others by shape."""
    node = outline.nodes[index]
    for position, name in enumerate(node.input):
        if name in outline.constants:
            tensor = outline.constants[name]
            called = _formal_name(node, position, outline.model.opset)
            yield f"{called} {_value(outline, name, tensor)}".strip()


def _value(outline: Outline, name: str, tensor: TensorProto) -> str:
    if math.prod(tensor.dims) <= _SHORT and tensor.data_location != TensorProto.EXTERNAL:
        try:
            value = outline.value(name)
        except ModelError:  # its bytes don't fit its shape: a picture of the rest is worth having
            return "?"
        return ", ".join(map(_number, value.flat)) or "empty"
    return _TIMES.join(map(str, tensor.dims)) or "scalar"


def _number(value: Any) -> str:
    """Return an element of a constant; what stands for `to the end` in a Slice is no number to be read."""
    if isinstance(value, np.floating):
        return f"{value:g}"
    return str(value) if not isinstance(value, np.integer) or abs(int(value)) < 2**62 else "max" if value > 0 else "min"


def _schema(node: NodeProto, opset: int) -> onnx.defs.OpSchema | None:
    if domain_of(node.domain):
        return None
    try:
        return onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        return None


def _formal_name(node: NodeProto, position: int, opset: int) -> str:
    """Return what the standard calls an input of an operator, nothing where it has any number of them."""
    schema = _schema(node, opset)
    if schema is None or position >= len(schema.inputs):
        return ""
    formal = schema.inputs[position]
    return "" if formal.option == onnx.defs.OpSchema.FormalParameterOption.Variadic else str(formal.name)


def attributes(outline: Outline, index: int) -> Iterator[str]:
    """Yield the attributes of a node that differ from what they are where they aren't written out."""
    node = outline.nodes[index]
    schema = _schema(node, outline.model.opset)
    for attribute in node.attribute:
        usual = schema.attributes.get(attribute.name) if schema is not None else None
        text = _attribute(attribute)
        if text is None or (usual is not None and usual.default_value.name and text == _attribute(usual.default_value)):
            continue
        if attribute.name in _USUAL and set(attribute.ints) <= {_USUAL[attribute.name]}:
            continue
        yield f"{attribute.name} {text}"


def _attribute(attribute: AttributeProto) -> str | None:
    """Return the value of an attribute as a text; None for graphs, which are told of otherwise."""
    kinds = AttributeProto.AttributeType
    if attribute.type in (kinds.GRAPH, kinds.GRAPHS):
        return None
    if attribute.type == kinds.TENSOR:
        return _TIMES.join(map(str, attribute.t.dims)) or "scalar"
    value: Any = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Sequence):
        if len(value) > 1 and attribute.name in _USUAL and len(set(value)) == 1:
            return str(value[0])
        joined = _TIMES if attribute.name in ("kernel_shape", "strides", "dilations") else ", "
        return joined.join(f"{each:g}" if isinstance(each, float) else str(each) for each in value)
    return None
