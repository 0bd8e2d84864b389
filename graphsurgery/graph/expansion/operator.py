"""What a custom operator declares, and how a node is read by it.

@dataclass(frozen=True)
class Scale(CustomOperator):          # its fields are its attributes: one without a default is required
    name = "Scale"
    domains = ("acme",)
    inputs = ("x", "bias?")           # "bias?" may be left out, "*features" stands for one or more

    factor: float = 1.0

    def expand(self, op, x, bias):
        scaled = x * self.factor
        return scaled if bias is None else scaled + bias
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from onnx import AttributeProto, NodeProto, helper

from graphsurgery.errors import ModelError, did_you_mean
from graphsurgery.graph.expansion.writer import Tensor, Writer

_KINDS: dict[Any, tuple[str, tuple[int, ...]]] = {
    int: ("a whole number", (AttributeProto.INT,)),
    float: ("a number", (AttributeProto.FLOAT, AttributeProto.INT)),
    str: ("text", (AttributeProto.STRING,)),
    tuple[int, ...]: ("whole numbers", (AttributeProto.INTS,)),
    tuple[float, ...]: ("numbers", (AttributeProto.FLOATS, AttributeProto.INTS)),
}


@dataclass(frozen=True)
class CustomOperator:
    """An operator that ONNX doesn't define, of one `name` in one or more `domains` ("" is ONNX's own).

    `inputs` are its inputs by name, and `opset` is the first version of ONNX's operator set that `expand` writes for.
    Fields are attributes, of type int, float, str, tuple[int, ...], tuple[float, ...], or Literal. What can't be read
    of a node raises ValueError in `__post_init__` or in `expand`, with the reason.
    """

    name: ClassVar[str]
    domains: ClassVar[tuple[str, ...]]
    inputs: ClassVar[tuple[str, ...]]
    opset: ClassVar[int] = 11

    def expand(self, op: Writer, *inputs: Any) -> Tensor | tuple[Tensor, ...]:
        """Write what computes the operator, and return its outputs.

        Each input is a Tensor, None where it is left out, or a list of them for one that stands for several.
        """
        raise NotImplementedError


def qualified(domain: str, name: str) -> str:
    """Return an operator's name as passes and recipes write it: Conv, com.microsoft.Gelu."""
    return f"{domain}.{name}" if domain else name


def label(node: NodeProto) -> str:
    """Return a node as messages name it."""
    return f"node '{node.name or next(filter(None, node.output), '')}' ({qualified(node.domain, node.op_type)})"


def read(kind: type[CustomOperator], node: NodeProto) -> CustomOperator:
    """Return the operator with the attributes of `node`. Raises ModelError for those that it doesn't allow."""
    declared = attributes(kind)
    values: dict[str, Any] = {}
    for attribute in node.attribute:
        place = f"{label(node)}: attribute '{attribute.name}'"
        if attribute.name not in declared:
            listed = ", ".join(declared) or "none"
            raise ModelError(f"{place} is not known.{did_you_mean(attribute.name, declared)} There are: {listed}")
        if attribute.ref_attr_name:
            raise ModelError(f"{place} is that of a function; run the pass inline-functions first")
        values[attribute.name] = _value(declared[attribute.name], attribute, place)
    for option in fields(kind):
        if option.name not in values and option.default is MISSING and option.default_factory is MISSING:
            wanted = _expected(declared[option.name])
            raise ModelError(f"{label(node)}: attribute '{option.name}' is missing; it needs {wanted}")
    try:
        return kind(**values)
    except ValueError as error:
        raise ModelError(f"{label(node)}: {error}") from error


def attributes(kind: type[CustomOperator]) -> dict[str, Any]:
    """Return the types of an operator's attributes by name."""
    types = get_type_hints(kind)
    return {option.name: types[option.name] for option in fields(kind)}


def is_attribute_type(declared: Any) -> bool:
    """Whether an attribute may be declared with this type."""
    return _plain(declared) in _KINDS


def _value(declared: Any, attribute: AttributeProto, place: str) -> Any:
    kind = _plain(declared)
    if attribute.type not in _KINDS[kind][1]:
        seen = AttributeProto.AttributeType.Name(attribute.type)
        raise ModelError(f"{place} is of type {seen}; it needs {_expected(declared)}")
    value = helper.get_attribute_value(attribute)
    if kind is str:
        value = value.decode("utf-8", "replace")
    elif kind is float:
        value = float(value)
    elif get_origin(kind) is tuple:
        value = tuple(map(get_args(kind)[0], value))
    if get_origin(declared) is Literal and value not in get_args(declared):
        raise ModelError(f"{place} is {value!r}; it needs {_expected(declared)}")
    return value


def _plain(declared: Any) -> Any:
    return type(get_args(declared)[0]) if get_origin(declared) is Literal else declared


def _expected(declared: Any) -> str:
    if get_origin(declared) is Literal:
        return " or ".join(map(repr, get_args(declared)))
    return _KINDS[declared][0]


def given_inputs(kind: type[CustomOperator], node: NodeProto, tensors: Sequence[Tensor | None]) -> list[Any]:
    """Return the inputs of `node` in the order that `kind` declares them. Raises ModelError where they don't fit."""
    names = kind.inputs
    many = next((index for index, name in enumerate(names) if name.startswith("*")), None)
    extra = 0 if many is None else max(0, len(tensors) - len(names))
    filled = [*tensors, *([None] * (len(names) + extra - len(tensors)))]
    if len(filled) > len(names) + extra:
        raise ModelError(f"{label(node)}: it has {len(tensors)} inputs; it takes {listed(names)}")
    if many is not None:
        filled[many : many + extra + 1] = [filled[many : many + extra + 1]]  # type: ignore[list-item]
    for name, held in zip(names, filled, strict=True):
        missing = None in held if isinstance(held, list) else held is None
        if missing and not name.endswith("?"):
            raise ModelError(f"{label(node)}: input '{name.strip('*')}' is missing; it takes {listed(names)}")
    return filled


def listed(names: Iterable[str]) -> str:
    """Return declared inputs for a message."""
    said = (f"{n[1:]}, one or more" if n[0] == "*" else f"{n[:-1]}, if any" if n[-1] == "?" else n for n in names)
    return "; ".join(said)
