"""Looks for a pattern in a graph. What it does around one node is bounded, whatever surrounds that.

A formula is looked for among the tensors that arithmetic leads to within a few operators; binary ones lead to 127
within 6. Each tensor is expanded once, and never to more symbols than the pattern multiplies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphsurgery.graph import STANDARD_DOMAINS, constant, consumers, is_op, producer
from graphsurgery.operators import polynomials
from graphsurgery.operators.operands import rank, scalar
from graphsurgery.operators.pattern_text import ARITHMETIC, Arithmetic, Atom, Call, Name, Named, Number, Parsed, Term
from graphsurgery.operators.polynomials import Polynomial

TOLERANCE = 4  # roundings: a formula has a few constants, each rounded once
_UNARY = ("Neg", "Reciprocal")
_COMMUTATIVE = ("Add", "And", "Equal", "Max", "Mean", "Min", "Mul", "Or", "Sum", "Xor")
_MOST_TENSORS = 256  # that a formula is looked for among
_MOST_ATTEMPTS = 1000  # to find a formula around one node


@dataclass(frozen=True)
class Found:
    """What has been found of a pattern so far; `bound` are its tensors by the keys of what they stand for.

    `error` is how far a constant is from the pattern's, relative to that, `roundings` the same in those of its type,
    and `rank` the largest of a constant.
    """

    bound: Mapping[str, gs.Tensor] = field(default_factory=dict)
    nodes: tuple[gs.Node, ...] = ()
    error: float = 0.0
    roundings: float = 0.0
    rank: int = 0

    def bind(self, key: str, tensor: gs.Tensor, *nodes: gs.Node) -> Found:
        return replace(self, bound={**self.bound, key: tensor}, nodes=_joined(self.nodes, nodes))

    def off_by(self, error: float, eps: float, rank: int = 0) -> Found:
        roundings = error / eps if error and eps else math.inf if error else 0.0
        most = max(self.error, error), max(self.roundings, roundings), max(self.rank, rank)
        return Found(self.bound, self.nodes, *most)


@dataclass
class Search:
    """Looks for a pattern; `left` is how many attempts at a formula it may still make."""

    opset: int
    left: int = _MOST_ATTEMPTS

    def around(self, node: gs.Node, parsed: Parsed) -> Iterator[tuple[gs.Node, Found]]:
        """Yield the node that writes the result, the nearest first, and what was found."""
        anchor, formula, written = parsed.anchor, parsed.formula, node.outputs[0]
        lasts, begun = [node], [Found()]
        if isinstance(formula, Arithmetic) and anchor is not None:
            lasts, begun = _followers(written, formula.depth), list(self._term(anchor, written, Found()))
        for last in lasts if begun else []:
            for start in begun:
                for found in self._term(parsed.root, last.outputs[0], start):
                    yield last, found

    def _term(self, term: Term, tensor: gs.Tensor, found: Found) -> Iterator[Found]:
        """Yield all ways in which `tensor` is what `term` describes."""
        if isinstance(term, Number):
            value = scalar(tensor)
            if value is not None:
                yield found.off_by(polynomials.deviation(value, term.value), _eps(tensor), rank(tensor))
        elif isinstance(term, Arithmetic):
            cone = _cone(tensor, term.depth) if self.left > 0 else []
            for assigned in self._assign(term.atoms, cone, found):
                self.left -= 1
                if self.left >= 0:
                    yield from _compared(term, tensor, assigned)
        elif term.key in found.bound:
            if found.bound[term.key] is tensor:
                yield found
        elif isinstance(term, Name):
            if not term.number:
                yield from [found.bind(term.key, tensor)] if tensor.name else []
            elif scalar(tensor) is not None:
                yield found.bind(term.key, tensor).off_by(0, 0, rank(tensor))
        elif isinstance(term, Named):
            yield from (each.bind(term.key, tensor) for each in self._term(term.term, tensor, found))
        else:
            yield from self._call(term, tensor, found)

    def _assign(self, atoms: Sequence[Atom], cone: Sequence[gs.Tensor], found: Found) -> Iterator[Found]:
        """Yield all ways to find the `atoms` of a formula among the tensors of `cone`."""
        if not atoms:
            yield found
            return
        atom, *rest = atoms
        if atom.key in found.bound:
            yield from self._assign(rest, cone, found)
            return
        for tensor in cone:
            if self.left > 0 and (scalar(tensor) is not None) == (isinstance(atom, Name) and atom.number):
                for each in self._term(atom, tensor, found):
                    yield from self._assign(rest, cone, each)

    def _call(self, call: Call, tensor: gs.Tensor, found: Found) -> Iterator[Found]:
        node = producer(tensor)
        if node is None or node.outputs[0] is not tensor or not _is(node, call):
            return
        given = list(node.inputs)
        while given and not given[-1].name:
            given.pop()
        beyond = {} if len(given) >= len(call.operands) else _attributes_for(call, len(given))
        if len(given) + len(beyond) < len(call.operands) or (len(given) > len(call.operands) and not call.rest):
            return
        start = self._attributes(node, call, beyond, found)
        if start is None:
            return
        operands = call.operands[: len(given)]
        both = is_op(node, *_COMMUTATIVE) and len(operands) == 2
        for order in (operands, operands[::-1]) if both else (operands,):
            for each in self._operands(list(zip(order, given, strict=False)), start):
                yield each.bind(call.key, tensor, node)

    def _operands(self, pairs: Sequence[tuple[Term, gs.Tensor]], found: Found) -> Iterator[Found]:
        if not pairs:
            yield found
            return
        (term, tensor), *rest = pairs
        for each in self._term(term, tensor, found):
            yield from self._operands(rest, each)

    def _attributes(self, node: gs.Node, call: Call, beyond: Mapping[str, float], found: Found) -> Found | None:
        """Return what was found, and how far the attributes of `node` are from those wanted; None if they are others.

        `beyond` are those which newer operator sets have as inputs.
        """
        defaults = _defaults(call.op, self.opset)
        wanted = {**call.attrs, **beyond}
        others = {} if call.rest else {name: defaults.get(name) for name in node.attrs if name not in wanted}
        for name, value in {**wanted, **others}.items():
            error = _difference(node.attrs.get(name, defaults.get(name)), value)
            eps = float(np.finfo(np.float32).eps)  # what attributes are
            if error is None or (name in others and error > TOLERANCE * eps):
                return None
            found = found.off_by(error, eps)
        return found


def _compared(term: Arithmetic, tensor: gs.Tensor, found: Found) -> Iterator[Found]:
    """Yield what was found, where `tensor` is the formula of what its atoms are bound to."""
    symbols = {id(found.bound[atom.key]): atom.key for atom in term.atoms}
    expansion = _Expansion(symbols, term.degree)
    got = expansion.expand(tensor, term.depth)
    error = None if got is None else polynomials.difference(got, term.polynomial)
    if error is not None:
        nodes = _joined(found.nodes, expansion.nodes)
        yield replace(found, nodes=nodes).off_by(error, expansion.eps, expansion.rank)


@dataclass
class _Expansion:
    """Multiplies out what a tensor is computed by, down to the tensors that `symbols` names by their id.

    It goes to no product of more symbols than `degree`. `nodes` are those that it went through, `rank` and `eps` the
    largest of a constant among their inputs.
    """

    symbols: Mapping[int, str]
    degree: int
    nodes: list[gs.Node] = field(default_factory=list)
    rank: int = 0
    eps: float = 0.0
    _known: dict[tuple[int, int], Polynomial | None] = field(default_factory=dict)

    def expand(self, tensor: gs.Tensor, depth: int) -> Polynomial | None:
        """Return the polynomial that `tensor` is; None if it is none, too large, or of more operators in a row."""
        key = id(tensor), depth
        if key not in self._known:
            self._known[key] = self._expand(tensor, depth)
        return self._known[key]

    def _expand(self, tensor: gs.Tensor, depth: int) -> Polynomial | None:
        if id(tensor) in self.symbols:
            return polynomials.symbol(self.symbols[id(tensor)])
        value = scalar(tensor)
        if value is not None:
            eps = _eps(tensor)
            self.rank, self.eps = max(self.rank, rank(tensor)), max(self.eps, eps)
            return polynomials.number(value) if eps else None  # a Div of integers is another operation
        node = _arithmetic(tensor)
        if node is None or depth == 0:
            return None
        result = self._joined(node, depth - 1)
        self.nodes.append(node)
        return result if result is not None and polynomials.degree(result) <= self.degree else None

    def _joined(self, node: gs.Node, depth: int) -> Polynomial | None:
        first = self.expand(node.inputs[0], depth)
        if first is None:
            return None
        if node.op == "Neg":
            return polynomials.product(first, polynomials.number(-1))
        if node.op == "Reciprocal":
            return polynomials.inverse(first)
        if node.op == "Pow":
            exponent = scalar(node.inputs[1])
            self.rank = max(self.rank, rank(node.inputs[1]))
            fits = exponent is not None and exponent == int(exponent) and 0 < abs(exponent) <= self.degree
            return polynomials.power(first, int(exponent)) if fits and exponent is not None else None
        second = self.expand(node.inputs[1], depth)
        if second is None:
            return None
        if node.op in ("Add", "Sub"):
            return polynomials.total(first, second, 1 if node.op == "Add" else -1)
        return polynomials.product(first, second) if node.op == "Mul" else polynomials.quotient(first, second)


def _arithmetic(tensor: gs.Tensor) -> gs.Node | None:
    """Return the Add, Mul or such that computes `tensor`; None where another operator does, or nothing."""
    node = producer(tensor)
    if node is None or not is_op(node, *ARITHMETIC) or len(node.inputs) != (1 if node.op in _UNARY else 2):
        return None
    return None if node.attrs else node  # before operator set 7 they had some, and other rules of broadcasting


def _cone(tensor: gs.Tensor, depth: int) -> list[gs.Tensor]:
    """Return `tensor` and what it is computed from by arithmetic, each once, the nearest first."""
    found, level = {id(tensor): tensor}, [tensor]
    for _ in range(depth):
        nodes = [node for node in map(_arithmetic, level) if node is not None]
        fresh = {id(t): t for node in nodes for t in node.inputs if id(t) not in found}
        level = list(fresh.values())[: _MOST_TENSORS - len(found)]
        found.update((id(t), t) for t in level)
    return list(found.values())


def _followers(tensor: gs.Tensor, depth: int) -> list[gs.Node]:
    """Return the arithmetic that `tensor` takes part in, each operator once, the nearest first."""
    found: dict[int, gs.Node] = {}
    level = [tensor]
    for _ in range(depth):
        nodes = chain.from_iterable(consumers(t) for t in level)
        fresh = {id(n): n for n in nodes if id(n) not in found and any(_arithmetic(t) is n for t in n.outputs)}
        found |= fresh
        level = [node.outputs[0] for node in fresh.values()]
    return list(found.values())


def _joined(nodes: Sequence[gs.Node], more: Sequence[gs.Node]) -> tuple[gs.Node, ...]:
    return tuple({id(node): node for node in (*nodes, *more)}.values())


def _is(node: gs.Node, call: Call) -> bool:
    domain, _, op = call.op.rpartition(".")
    return bool(node.op == op and (node.domain == domain or (node.domain in STANDARD_DOMAINS and not domain)))


def _eps(tensor: gs.Tensor) -> float:
    """Return how exact the type of a constant is; 0 where it holds integers."""
    value = constant(tensor)
    return float(np.finfo(value.dtype).eps) if value is not None and value.dtype.kind == "f" else 0.0


def _difference(got: Any, wanted: Any) -> float | None:
    """Return how far an attribute is from the one that is wanted; None where it is none, or no number and another."""
    if isinstance(got, bytes):
        got = got.decode()
    if isinstance(got, int | float) and isinstance(wanted, int | float):
        return polynomials.deviation(got, wanted)
    if isinstance(got, list | tuple) and isinstance(wanted, list | tuple) and len(got) == len(wanted):
        each = [_difference(*pair) for pair in zip(got, wanted, strict=True)]
        return None if None in each else max((error for error in each if error is not None), default=0.0)
    return 0.0 if isinstance(got, str) and got == wanted else None


def _attributes_for(call: Call, given: int) -> dict[str, float]:
    """Return the operands behind the `given` first ones that are numbers, by the names which newer sets give them."""
    names = _input_names(call.op)[given : len(call.operands)]
    pairs = zip(names, call.operands[given:], strict=False)
    return {name: operand.value for name, operand in pairs if isinstance(operand, Number)}


@cache
def _input_names(op: str) -> tuple[str, ...]:
    return tuple(each.name for each in onnx.defs.get_schema(op).inputs) if onnx.defs.has(op) else ()


@cache
def _defaults(op: str, opset: int) -> Mapping[str, Any]:
    """Return the default values of the attributes of one of ONNX's own operators."""
    if not onnx.defs.has(op, opset, ""):
        return {}
    known = {name: each.default_value for name, each in onnx.defs.get_schema(op, opset).attributes.items()}
    return {name: onnx.helper.get_attribute_value(value) for name, value in known.items() if value.name}
