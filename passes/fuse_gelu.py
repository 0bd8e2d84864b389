"""Fuse the operators that GELU is exported as below operator set 20 into Gelu.

    0.5 * x * (1 + Erf(x / sqrt(2)))                                ->  Gelu(x)
    0.5 * x * (1 + Tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3)))    ->  Gelu(x, approximate: tanh)

Any order of the sums and products will do, multiplied out or not, with Div for Mul and Pow for x * x: both sides are
compared as polynomials. A compiler that has Gelu looks it up in one table; of its parts it knows the products, and
often hands Erf to the CPU. One limit: where x * (1 + Erf) is computed before it is halved, it overflows above half the
largest number of the type, and Gelu does not.

It does not fire when
1. the operator set is below 20, which has no Gelu
2. the elements are no floating-point numbers, or nothing tells
3. a constant is not GELU's to the precision of its type, such as 0.7978 for sqrt(2 / pi)
4. a tensor inside is read by another node too, or is a graph output
5. a constant of more dimensions than x adds some to the result
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import consumers, is_op, producer
from graphsurgery.operators.operands import FLOATS, rank, scalar
from graphsurgery.rewrite import Editor, NodePass, Refuse

# A sum of products of symbols: {("x",): 2.0, ("f", "x"): 0.5} is 2 * x + 0.5 * f * x.
Polynomial = Mapping[tuple[str, ...], float]

_SCALE = math.sqrt(2 / math.pi)
_ARGUMENTS: Mapping[str, Polynomial] = {
    "Erf": {("x",): math.sqrt(0.5)},
    "Tanh": {("x",): _SCALE, ("x", "x", "x"): _SCALE * 0.044715},
}
_RESULT: Polynomial = {("x",): 0.5, ("f", "x"): 0.5}  # f is the Erf or the Tanh
_LARGEST = 3  # symbols in a product of these
_DEPTH = 6  # operators one behind the other: x * x, * x, * 0.044715, + x, * sqrt(2 / pi), and one to spare


@dataclass(frozen=True)
class FuseGelu(NodePass):
    """It has no options."""

    name = "fuse-gelu"
    effect = "exact"
    matches = ("Erf", "Tanh")

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        match = min(_matches(node), key=lambda found: found.error, default=None)
        if match is None:
            return
        if edit.opset < 20:
            raise Refuse("Gelu needs operator set 20")
        dtype = edit.dtype(match.x)
        if dtype is None or dtype.name not in FLOATS:
            raise Refuse(f"its elements are {dtype or 'of unknown type'}, not {', '.join(FLOATS)}")
        if match.error > 4 * np.finfo(dtype).eps:  # of a few constants, each rounded once
            raise Refuse(f"a constant differs from GELU's by {match.error:.1e} of its value")
        inside = {id(part) for part in match.nodes}
        for tensor in (part.outputs[0] for part in match.nodes if part is not match.last):
            if edit.is_output(tensor) or any(id(reader) not in inside for reader in consumers(tensor)):
                raise Refuse("a tensor inside is read by another node too, or is a graph output")
        shape = edit.shape(match.x) if match.rank else []
        if shape is None or len(shape) < match.rank:
            raise Refuse(f"a constant of rank {match.rank} may add dimensions to the result")
        edit.replace(match.last, "Gelu", [match.x], {"approximate": "none" if is_op(node, "Erf") else "tanh"})


@dataclass(frozen=True)
class _Match:
    """What has the form of GELU(x); `error` is how far its constants are from GELU's, relative to them.

    `last` writes the result, `nodes` are all that take part, and `rank` is the largest of a constant.
    """

    x: gs.Tensor
    last: gs.Node
    nodes: tuple[gs.Node, ...]
    error: float
    rank: int


def _matches(f: gs.Node) -> Iterator[_Match]:
    """Yield what GELU may be meant by around `f`, an Erf or a Tanh."""
    argument, written = f.inputs[0], f.outputs[0]
    for x in _operands(argument):
        inner = _Expansion({id(x): "x"})
        inner_error = _error(inner.expand(argument), _ARGUMENTS[f.op])
        if inner_error is None:
            continue
        for last in _followers(written):
            outer = _Expansion({id(x): "x", id(written): "f"})
            error = _error(outer.expand(last.outputs[0]), _RESULT)
            if error is not None:
                nodes = (f, *inner.nodes, *outer.nodes)
                yield _Match(x, last, nodes, max(error, inner_error), max(inner.rank, outer.rank))


def _operands(argument: gs.Tensor) -> list[gs.Tensor]:
    """Return `argument` and what it is computed from by sums and products, each once, the nearest first."""
    found, level = {id(argument): argument}, [argument]
    for _ in range(_DEPTH):
        nodes = [node for node in map(producer, level) if is_op(node, "Add", "Mul", "Div", "Pow")]
        level = [t for node in nodes if node is not None for t in node.inputs if scalar(t) is None]
        level = [t for t in {id(t): t for t in level}.values() if id(t) not in found]
        found.update((id(t), t) for t in level)
    return list(found.values())


def _followers(tensor: gs.Tensor) -> list[gs.Node]:
    """Return the sums and products that `tensor` takes part in, each once, the nearest first."""
    found: dict[int, gs.Node] = {}
    level = [tensor]
    for _ in range(_DEPTH):
        nodes = [node for t in level for node in consumers(t) if is_op(node, "Add", "Mul", "Div")]
        fresh = {id(node): node for node in nodes if id(node) not in found}
        found |= fresh
        level = [node.outputs[0] for node in fresh.values()]
    return list(found.values())


def _error(got: Polynomial | None, wanted: Polynomial) -> float | None:
    """Return the largest difference of a number, relative to the one that is `wanted`; None if the terms differ."""
    if got is None or got.keys() != wanted.keys():
        return None
    return max(abs(got[term] / number - 1) for term, number in wanted.items())


@dataclass
class _Expansion:
    """Multiplies out what a tensor is computed by, down to the tensors that `symbols` names by their id.

    `nodes` are those that it went through, and `rank` is the largest of a constant among their inputs.
    """

    symbols: Mapping[int, str]
    nodes: list[gs.Node] = field(default_factory=list)
    rank: int = 0

    def expand(self, tensor: gs.Tensor, depth: int = _DEPTH) -> Polynomial | None:
        """Return the polynomial that `tensor` is; None if it is none, or too large to be GELU's."""
        if id(tensor) in self.symbols:
            return {(self.symbols[id(tensor)],): 1.0}
        node, value = producer(tensor), scalar(tensor)
        if value is not None:
            self.rank = max(self.rank, rank(tensor))
            return {(): value}
        if node is None or depth == 0 or not is_op(node, "Add", "Mul", "Div", "Pow"):
            return None
        first, second = (self.expand(operand, depth - 1) for operand in node.inputs)
        self.nodes.append(node)
        if first is None or second is None:
            return None
        if node.op == "Add":
            return {term: first.get(term, 0) + second.get(term, 0) for term in (*first, *second)}
        if node.op == "Mul":
            return _product(first, second)
        number = second.get((), 0) if len(second) == 1 else 0
        if node.op == "Div":
            return _product(first, {(): 1 / number}) if number else None
        return _product(first, first if number == 2 else _product(first, first)) if number in (2, 3) else None


def _product(first: Polynomial, second: Polynomial | None) -> Polynomial | None:
    result: dict[tuple[str, ...], float] = {}
    for one, number in first.items():
        for other, factor in (second or {}).items():
            term = tuple(sorted((*one, *other)))
            result[term] = result.get(term, 0) + number * factor
    return result if second is not None and all(len(term) <= _LARGEST for term in result) else None
