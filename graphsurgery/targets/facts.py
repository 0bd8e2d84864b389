"""What limits can be about: facts of a node, worked out from its shapes, attributes and inputs.

A fact is a value, a tuple of values which must all keep the limit, None where it can't be told, or ABSENT where the
node has no such thing. `kernel`, `stride`, `pad` and `dilation` are those of a Conv, ConvTranspose or pool along its
spatial axes; `channels`, `height` and `width` are those of the first input as [N, C, H, W].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import onnx

from graphsurgery.graph import attribute, constant, is_op
from graphsurgery.operators.axes import bounds, integers, normalised
from graphsurgery.operators.windows import Window, same_pads
from graphsurgery.targets.asked import (
    ABSENT,
    WINDOWED,
    Absent,
    Asked,
    Fact,
    Size,
    is_omitted,
    known_sizes,
    shape_of,
    size_at,
)
from graphsurgery.targets.bodies import bodies_taken
from graphsurgery.targets.elements import first_type, given, given_type, types
from graphsurgery.targets.schema import Scalar


def _of_window(read: Callable[[Window], Fact]) -> Callable[[Asked], Fact]:
    def fact(asked: Asked) -> Fact:
        if asked.node.op not in WINDOWED:
            return ABSENT
        return None if asked.window is None else read(asked.window)

    return fact


def _has_same_pads(asked: Asked) -> Fact:
    if asked.node.op not in WINDOWED:
        return ABSENT
    found, sizes = asked.window, known_sizes((asked.shape() or [None])[2:])
    if found is None or sizes is None or len(sizes) != len(found.spans):
        return None
    pads = zip(found.begins, found.ends, strict=True)
    return list(pads) == [same_pads(*each) for each in zip(sizes, found.strides, found.spans, strict=True)]


def _group(asked: Asked) -> int:
    return int(attribute(asked.node, "group", 1))


def _depthwise(asked: Asked) -> Fact:
    if asked.node.op not in WINDOWED or asked.weight_shape is None:
        return ABSENT
    channels = size_at(asked.shape(), 1)
    if _group(asked) == 1:
        return False
    return None if channels is None else _group(asked) == channels


def _axes(asked: Asked) -> tuple[list[int], int] | None:
    """Return the axes that an operator works along, counted from the front, and the rank."""
    shape = asked.shape()
    shape = asked.out_shape if shape is None else shape
    if shape is None:
        return None
    named = attribute(asked.node, "axis", None)
    axes = [int(named)] if named is not None else _listed_axes(asked)
    found = None if axes is None else normalised(axes, len(shape))
    return None if found is None else (found, len(shape))


_AXES_AT = {"Slice": 3, "Squeeze": 1, "Unsqueeze": 1, "Pad": 3}
_DEFAULT_AXIS = {"Softmax": -1, "LogSoftmax": -1, "TopK": -1, "LayerNormalization": -1, "Gather": 0, "Split": 0}
_DEFAULT_AXIS |= {"GatherElements": 0, "ScatterElements": 0, "ArgMax": 0, "ArgMin": 0, "Concat": 0, "Flatten": 1}


def _listed_axes(asked: Asked) -> list[int] | None:
    node = asked.node
    if node.op == "Slice":
        taken = bounds(node)
        return None if taken is None else [each.axis for each in taken]
    if node.op.startswith("Reduce"):
        found = integers(node, "axes", 1)
        return list(range(len(asked.shape() or ()))) if found == [] else found  # without axes it reduces all
    if node.op in _AXES_AT:
        return integers(node, "axes", _AXES_AT[node.op])
    default = _DEFAULT_AXIS.get(node.op)
    if node.op in ("Softmax", "LogSoftmax") and asked.opset < 13:
        default = 1
    return None if default is None else [default]


def _axis(asked: Asked) -> Fact:
    found = _axes(asked)
    return None if found is None else tuple(found[0])


def _axis_count(asked: Asked) -> Fact:
    found = _axes(asked)
    return None if found is None else len(found[0])


def _axis_from_end(asked: Asked) -> Fact:
    found = _axes(asked)
    return None if found is None else tuple(axis - found[1] for axis in found[0])


def _steps(asked: Asked) -> Fact:
    if not is_op(asked.node, "Slice"):
        return ABSENT
    taken = bounds(asked.node)
    return None if taken is None else tuple(each.step for each in taken)


def _padded_axes(asked: Asked) -> Fact:
    if not is_op(asked.node, "Pad"):
        return ABSENT
    pads, shape = integers(asked.node, "pads", 1), asked.shape()
    if pads is None or shape is None:
        return None
    if len(asked.node.inputs) > 3 and not is_omitted(asked.node.inputs[3]):
        return _axis(asked)
    half = len(pads) // 2
    return tuple(axis for axis in range(half) if pads[axis] or pads[axis + half])


def _padded_axes_from_end(asked: Asked) -> Fact:
    axes, shape = _padded_axes(asked), asked.shape()
    if not isinstance(axes, tuple):
        return axes
    return None if shape is None else tuple(int(axis) - len(shape) for axis in axes)


def _at_an_end(asked: Asked) -> Fact:
    return bool(given(asked)) or any(not tensor.outputs for tensor in asked.node.outputs)


def _factors(asked: Asked) -> tuple[float, ...] | Absent | None:
    return asked.factors if asked.node.op in ("Resize", "Upsample") else ABSENT


def _scale(asked: Asked) -> Fact:
    found = _factors(asked)
    return tuple(factor for factor in found if factor != 1) or (1.0,) if isinstance(found, tuple) else found


def _of_scale(test: Callable[[tuple[float, ...]], bool]) -> Callable[[Asked], Fact]:
    def fact(asked: Asked) -> Fact:
        found = _factors(asked)
        return test(tuple(factor for factor in found if factor != 1)) if isinstance(found, tuple) else found

    return fact


def _resized_axes(asked: Asked) -> Fact:
    found = _factors(asked)
    return tuple(axis for axis, factor in enumerate(found) if factor != 1) if isinstance(found, tuple) else found


def _resized_axis_count(asked: Asked) -> Fact:
    axes = _resized_axes(asked)
    return len(axes) if isinstance(axes, tuple) else axes


def _permutation(asked: Asked) -> Fact:
    if not is_op(asked.node, "Transpose"):
        return ABSENT
    perm = attribute(asked.node, "perm", None)
    if perm is None:
        shape = asked.shape()
        if shape is None:
            return None
        perm = range(len(shape))[::-1]
    return ",".join(str(axis) for axis in perm)


def _static(asked: Asked) -> Fact:
    shapes = [shape_of(tensor) for tensor in asked.data]
    return all(shape is not None and all(isinstance(size, int) for size in shape) for shape in shapes)


def _dims(asked: Asked) -> Fact:
    found: list[Scalar] = []
    for tensor in asked.data:
        sizes = known_sizes(shape_of(tensor))
        if not isinstance(sizes, tuple):
            return None
        found += sizes
    return tuple(found)


def _ranks(asked: Asked) -> Fact:
    shapes = [shape_of(tensor) for tensor in asked.data]
    return None if any(shape is None for shape in shapes) else tuple(len(shape or ()) for shape in shapes)


def _rank(asked: Asked) -> Fact:
    shape = asked.shape()
    return None if shape is None else len(shape)


def _rank_of_second(asked: Asked) -> Fact:
    if len(asked.node.inputs) < 2 or is_omitted(asked.node.inputs[1]):
        return ABSENT
    shape = asked.shape(1)
    return None if shape is None else len(shape)


def _rank_of_third(asked: Asked) -> Fact:
    if len(asked.node.inputs) < 3 or is_omitted(asked.node.inputs[2]):
        return ABSENT
    shape = asked.shape(2)
    return None if shape is None else len(shape)


def _broadcast(asked: Asked) -> Fact:
    """Return how two inputs are laid over each other; the smaller one is named."""
    if len(asked.node.inputs) != 2:
        return ABSENT
    one, other = known_sizes(asked.shape(0)), known_sizes(asked.shape(1))
    if one is None or other is None:
        return None
    if one == other:
        return "none"
    small, large = sorted((one, other), key=math.prod)
    if math.prod(small) == 1:
        return "scalar"
    aligned = (1,) * (len(large) - len(small)) + small
    per_channel = len(large) > 1 and aligned == (1, large[1], *[1] * (len(large) - 2))
    return "channels" if per_channel else "other"


def _batch(asked: Asked) -> Fact:
    shape = asked.shape()
    return ABSENT if shape is not None and len(shape) < 4 else size_at(shape, 0)


def _is_multiply_add_heavy(asked: Asked) -> Fact:
    return asked.node.op in WINDOWED or is_op(asked.node, "Gemm", "MatMul")


FACTS: dict[str, tuple[str, Callable[[Asked], Fact]]] = {
    "static": ("whether all shapes are numbers", _static),
    "rank": ("dimensions of the first input", _rank),
    "second_rank": ("dimensions of the second input: the indices of a Gather", _rank_of_second),
    "third_rank": ("dimensions of the third input: the bias of a Gemm", _rank_of_third),
    "ranks": ("dimensions of all that it reads and writes, constants aside", _ranks),
    "sizes": ("sizes of all that it reads and writes, constants aside", _dims),
    "type": ("type of the elements of the first input", first_type),
    "given_type": ("type of the elements of the first input of the graph that it reads", given_type),
    "types": ("types of the elements of all that it reads and writes, constants aside", types),
    "inputs": ("number of inputs", lambda asked: sum(not is_omitted(tensor) for tensor in asked.node.inputs)),
    "outputs": ("number of outputs", lambda asked: sum(not is_omitted(tensor) for tensor in asked.node.outputs)),
    "batch": ("size of axis 0 of the first input, where it has four dimensions or more", _batch),
    "channels": ("size of axis 1 of the first input", lambda asked: size_at(asked.shape(), 1)),
    "height": ("size of the last but one axis of the first input", lambda asked: size_at(asked.shape(), -2)),
    "width": ("size of the last axis of the first input", lambda asked: size_at(asked.shape(), -1)),
    "area": ("height times width of the first input", lambda asked: _product((asked.shape() or [None])[2:])),
    "out_channels": ("size of axis 1 of the output", lambda asked: size_at(asked.out_shape, 1)),
    "kernel": ("each size of the kernel", _of_window(lambda found: found.kernel)),
    "kernel_shape_text": (
        "the kernel as text, such as 3x3",
        _of_window(lambda found: "x".join(str(size) for size in found.kernel)),
    ),
    "kernel_area": ("product of the sizes of the kernel", _of_window(lambda found: math.prod(found.kernel))),
    "kernel_span": ("how far the kernel reaches, dilation included", _of_window(lambda found: found.spans)),
    "kernel_span_area": ("product of these", _of_window(lambda found: math.prod(found.spans))),
    "span_height": ("the same along the height alone", _of_window(lambda found: found.spans[0])),
    "square_kernel": ("whether the kernel is a square", _of_window(lambda found: len({*found.kernel}) == 1)),
    "stride": ("each stride", _of_window(lambda found: found.strides)),
    "equal_strides": ("whether the strides are one number", _of_window(lambda found: len({*found.strides}) == 1)),
    "pad": ("each padding at a side", _of_window(lambda found: tuple(found.pads))),
    "symmetric_pads": ("whether both sides of an axis are padded alike", _of_window(lambda f: f.begins == f.ends)),
    "same_pads": ("whether it is padded as auto_pad SAME_UPPER does", _has_same_pads),
    "dilation": ("each dilation", _of_window(lambda found: found.dilations)),
    "groups": ("number of groups of a Conv", lambda a: _group(a) if a.node.op in WINDOWED else ABSENT),
    "depthwise": ("whether a Conv has a group for each channel, and several", _depthwise),
    "scale": ("factors by which a Resize changes sizes", _scale),
    "whole_scale": ("whether these are whole numbers", _of_scale(lambda found: all(f == int(f) for f in found))),
    "power_of_two_scale": (
        "whether these are powers of two",
        _of_scale(lambda found: all(math.log2(factor) == int(math.log2(factor)) for factor in found)),
    ),
    "equal_scale": ("whether these are one number", _of_scale(lambda found: len({*found}) <= 1)),
    "resized_axes": ("the axes that a Resize changes", _resized_axes),
    "resized_axis_count": ("how many axes a Resize changes", _resized_axis_count),
    "along": ("the axes that it works along, from the front", _axis),
    "along_from_end": ("the same from the end: -1 is the last", _axis_from_end),
    "axis_count": ("how many these are", _axis_count),
    "step": ("each step of a Slice", _steps),
    "padded_axes": ("the axes that a Pad pads", _padded_axes),
    "broadcast": ("of two inputs: none, scalar, channels (one number for each) or other", _broadcast),
    "padded_axes_from_end": ("the same from the end", _padded_axes_from_end),
    "permutation": ("of a Transpose, as text such as 0,2,3,1", _permutation),
    "bodies_taken": (
        "whether the nodes of its bodies (If, Loop, Scan) are taken, and those whose outputs it reads",
        bodies_taken,
    ),
    "at_an_end": ("whether it reads an input of the graph, or nothing reads an output of it", _at_an_end),
    "is_layer": ("whether it is a Conv, a pool or a matrix product", _is_multiply_add_heavy),
}


def _product(sizes: Sequence[Size]) -> Fact:
    known = known_sizes(sizes)
    return math.prod(int(size) for size in known) if isinstance(known, tuple) else None


@cache
def attributes_of(op: str) -> frozenset[str]:
    """Return the names of all attributes that ONNX has ever defined for an operator; none for one that it hasn't."""
    return frozenset(name for schema in _versions(op) for name in schema.attributes)


@cache
def inputs_of(op: str) -> tuple[tuple[str, ...], ...]:
    """Return the names of the inputs of an operator in each of its versions, the newest last."""
    return tuple(tuple(each.name for each in schema.inputs) for schema in _versions(op))


@cache
def _versions(op: str) -> list[onnx.defs.OpSchema]:
    known = onnx.defs.get_all_schemas_with_history()
    return sorted((each for each in known if each.name == op and not each.domain), key=lambda each: each.since_version)


def input_index(asked: Asked, name: str) -> int | None:
    """Return the place of an input by ONNX's name in the model's operator set, None where it has none there."""
    node = asked.node
    if not onnx.defs.has(node.op, asked.opset, ""):
        return None
    names = [each.name for each in onnx.defs.get_schema(node.op, asked.opset, "").inputs]
    return names.index(name) if name in names else None


def fact_of(asked: Asked, name: str) -> Fact:
    """Return what a limit of that name is about: a fact, an attribute with its default, or the value of an input.

    `width * channels` is the product of what it names.
    """
    if "*" in name:
        return _product_of([fact_of(asked, each) for each in factors_of(name)])
    if name in FACTS:
        return FACTS[name][1](asked)
    if name in asked.node.attrs or input_index(asked, name) is None:
        return _attribute(asked, name)
    return input_value(asked, name)


def input_value(asked: Asked, name: str) -> Fact:
    """Return the values of an input by ONNX's name: ABSENT where the node has none, None where it isn't constant."""
    node, index = asked.node, input_index(asked, name)
    if index is None or index >= len(node.inputs) or is_omitted(node.inputs[index]):
        return ABSENT
    value = constant(node.inputs[index])
    return None if value is None else tuple(each.item() for each in np.ravel(value))


def factors_of(name: str) -> list[str]:
    """Return what a limit is about, one name or those of a product."""
    return [each.strip() for each in name.split("*")]


def _product_of(facts: Sequence[Fact]) -> Fact:
    total: int | float = 1
    for fact in facts:
        if fact is None or fact is ABSENT:
            return fact
        for each in fact if isinstance(fact, tuple) else (fact,):
            if isinstance(each, str):
                return ABSENT
            total *= each
    return total


def _attribute(asked: Asked, name: str) -> Fact:
    node = asked.node
    value = node.attrs.get(name)
    if value is None:
        known = onnx.defs.has(node.op, asked.opset, "")
        default = onnx.defs.get_schema(node.op, asked.opset, "").attributes.get(name) if known else None
        if default is None or not default.default_value.type:
            return ABSENT
        value = onnx.helper.get_attribute_value(default.default_value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list | tuple):
        return tuple(each.decode("utf-8", "replace") if isinstance(each, bytes) else each for each in value)
    return value if isinstance(value, bool | int | float | str) else ABSENT
