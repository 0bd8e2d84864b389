"""Reads the text of a pattern; nothing of it is ever run. `pattern` says what the text means."""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NoReturn

import onnx

from graphsurgery.errors import did_you_mean
from graphsurgery.operators import polynomials
from graphsurgery.operators.polynomials import Polynomial
from graphsurgery.rewrite.registry import standard_operators

ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Pow", "Neg", "Reciprocal")
_LARGEST_EXPONENT = 4
_MOST_OPERATORS = 8  # of one formula: how far a search goes is measured by them


@dataclass(frozen=True)
class Number:
    """A constant of this value."""

    value: float


@dataclass(frozen=True)
class Name:
    """Any tensor, or, where it is a `number`, any constant of one element; the same one wherever it stands."""

    key: str
    number: bool


@dataclass(frozen=True)
class Named:
    """A tensor with a name: what `term` describes."""

    key: str
    term: Term


@dataclass(frozen=True)
class Call:
    """The first output of an operator; `rest` allows inputs and attributes beside these. `key` is its text."""

    key: str
    op: str
    operands: tuple[Term, ...]
    attrs: Mapping[str, Any]
    rest: bool

    @property
    def domain(self) -> str:
        """The domain of the operator, "" for ONNX's own."""
        return self.op.rpartition(".")[0]


@dataclass(frozen=True)
class Arithmetic:
    """A formula of `atoms`, which are in the order to look for them: what binds a name stands before the name.

    `depth` is how many operators may stand one behind the other, `degree` how many symbols a product may have.
    """

    polynomial: Polynomial
    atoms: tuple[Atom, ...]
    depth: int
    degree: int


Atom = Call | Named | Name
Term = Atom | Number | Arithmetic


@dataclass(frozen=True)
class Parsed:
    """A pattern as its `text` has it; `result` is the operator behind the arrow, and `names` are those of tensors."""

    text: str
    root: Term
    result: Call | None
    names: frozenset[str]

    @property
    def formula(self) -> Term:
        """The root without its name."""
        return self.root.term if isinstance(self.root, Named) else self.root

    @property
    def anchor(self) -> Call | None:
        """The operator that a search begins at: the root itself, or the first of those in its formula."""
        top = self.formula
        atoms = top.atoms if isinstance(top, Arithmetic) else (top,)
        return next((atom for atom in atoms if isinstance(atom, Call)), None)

    @property
    def matches(self) -> tuple[str, ...]:
        """The operators that the node may be which a search begins at."""
        return ARITHMETIC if self.anchor is None else (self.anchor.op,)


def parse(text: str, numbers: Sequence[str] = ()) -> Parsed:
    """Return the pattern that `text` describes, where `numbers` are names of constants of one element.

    Raises ValueError, with line and column, where it describes none.
    """
    return _Reader(inspect.cleandoc(text), frozenset(numbers)).parsed()


@dataclass
class _Formula:
    """A polynomial under construction: its atoms by their keys, and how many operators it is written with."""

    polynomial: Polynomial
    atoms: dict[str, Atom] = field(default_factory=dict)
    operators: int = 0


@dataclass
class _Reader:
    text: str
    numbers: frozenset[str]
    named: dict[str, Named] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    line: int = 0  # where what is read begins in the text
    column: int = 0

    def parsed(self) -> Parsed:
        left, arrow, right = self.text.partition("->")
        root: Term | None = None
        statements = self._tree(left).body
        for index, statement in enumerate(statements):
            last = index == len(statements) - 1
            if isinstance(statement, ast.Expr) and last:
                root = self._term(statement.value)
            elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                root = self._name(statement.targets[0], statement)
            else:
                self._fail(statement, "write NAME = FORMULA, and at the end a formula with a name or without")
        if root is None or isinstance(root, Name | Number):
            self._fail(statements[-1] if statements else None, "there is no operator in it")
        unused = (set(self.named) | self.numbers) - self.used - {root.key if isinstance(root, Named) else ""}
        if unused:
            self._fail(None, f"nothing reads {', '.join(sorted(unused))}")
        bound: set[str] = set()
        self._check_search(root, bound)
        names = frozenset(bound - set(self.named))
        return Parsed(self.text, root, self._result(right, bound) if arrow else None, names)

    def _tree(self, text: str) -> ast.Module:
        try:
            return ast.parse(text)
        except SyntaxError as error:
            self._fail_at(error.lineno or 1, error.offset or 1, error.msg)

    def _name(self, target: ast.Name, statement: ast.Assign) -> Named:
        term = self._term(statement.value)
        taken = target.id in self.named or target.id in self.numbers or target.id in self.used or target.id == "pi"
        if taken or len(statement.targets) > 1:
            self._fail(target, f"{target.id} means something already, or two names are given at once")
        self.named[target.id] = Named(target.id, term)
        return self.named[target.id]

    def _term(self, node: ast.expr) -> Term:
        read = self._formula(node)
        if not read.atoms:
            return Number(read.polynomial[()])
        atoms = sorted(read.atoms.values(), key=lambda atom: (isinstance(atom, Name), isinstance(atom, Named)))
        if len(atoms) == 1 and read.polynomial == polynomials.symbol(atoms[0].key):
            return atoms[0]
        left = {name for term in read.polynomial for name, _ in term}
        if left != read.atoms.keys() or not all(read.polynomial.values()):
            self._fail(node, "a part of it cancels out")
        if read.operators > _MOST_OPERATORS:
            self._fail(node, f"it has {read.operators} operators, of {_MOST_OPERATORS}; give a part of it a name")
        degree = polynomials.degree(read.polynomial)
        return Arithmetic(read.polynomial, tuple(atoms), read.operators + 1, degree)  # one more: x * (1 / y) for x / y

    def _formula(self, node: ast.expr) -> _Formula:
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
            return _Formula(polynomials.number(float(node.value)))
        if isinstance(node, ast.Name) and node.id == "pi":
            return _Formula(polynomials.number(math.pi))
        if isinstance(node, ast.Name):
            self.used.add(node.id)
            return self._atom(self.named.get(node.id) or Name(node.id, node.id in self.numbers))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "sqrt":
            return _Formula(polynomials.number(math.sqrt(self._number(*node.args, at=node, least=0))))
        if isinstance(node, ast.Call):
            return self._atom(self._call(node))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return self._joined(
                node, self._formula(node.operand), _Formula(polynomials.number(-1)), polynomials.product
            )
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            return self._power(node)
        if isinstance(node, ast.BinOp) and type(node.op) in _JOIN:
            return self._joined(node, self._formula(node.left), self._formula(node.right), _JOIN[type(node.op)])
        self._fail(node, "this is no operator of ONNX, name or number, nor a sum, product, quotient or power of these")

    def _atom(self, atom: Atom) -> _Formula:
        return _Formula(polynomials.symbol(atom.key), {atom.key: atom})

    def _joined(
        self,
        node: ast.expr,
        first: _Formula,
        second: _Formula,
        join: Callable[[Polynomial, Polynomial], Polynomial | None],
    ) -> _Formula:
        result = join(first.polynomial, second.polynomial)
        if result is None:
            self._fail(node, "it divides by zero or by a sum; give the sum a name: s = a + b; x / s")
        atoms = first.atoms | second.atoms
        return _Formula(result, atoms, first.operators + second.operators + 1 if atoms else 0)

    def _power(self, node: ast.BinOp) -> _Formula:
        base, exponent = self._formula(node.left), self._number(node.right, at=node.right)
        if not base.atoms or not exponent.is_integer() or not 0 < abs(exponent) <= _LARGEST_EXPONENT:
            self._fail(node, f"the exponent must be a whole number up to {_LARGEST_EXPONENT}, of what is no number")
        whole = int(exponent)
        result = polynomials.power(base.polynomial, whole)
        if result is None:
            self._fail(node, "it divides by a sum; give the sum a name")
        return _Formula(result, base.atoms, base.operators + max(1, abs(whole) - 1))

    def _number(self, *nodes: ast.expr, at: ast.expr, least: float = -math.inf) -> float:
        found = polynomials.as_number(self._formula(nodes[0]).polynomial) if len(nodes) == 1 else None
        if found is None or found < least:
            self._fail(at, "this takes a number")
        return found

    def _call(self, node: ast.Call) -> Call:
        op = ast.unparse(node.func)
        schemas = _schemas(op)
        if not schemas and ("." not in op or not all(part.isidentifier() for part in op.split("."))):
            self._fail(node, f"ONNX has no operator '{op}'.{did_you_mean(op, standard_operators())}")
        arguments = list(node.args)
        rest = bool(arguments) and isinstance(arguments[-1], ast.Constant) and arguments[-1].value is Ellipsis
        operands = tuple(self._term(argument) for argument in (arguments[:-1] if rest else arguments))
        if schemas and len(operands) > max(schema.max_input for schema in schemas):
            self._fail(node, f"{op} has no {len(operands)} inputs")
        known = {name: each.type for schema in schemas for name, each in schema.attributes.items()}
        attrs = {}
        for keyword in node.keywords:
            if keyword.arg is None or (schemas and keyword.arg not in known):
                self._fail(
                    keyword.value, f"{op} has no attribute '{keyword.arg}'.{did_you_mean(str(keyword.arg), known)}"
                )
            attrs[keyword.arg] = self._attribute(keyword.value)
            if known.get(keyword.arg) == onnx.defs.OpSchema.AttrType.FLOAT:
                attrs[keyword.arg] = self._number(keyword.value, at=keyword.value)  # beta=1 is 1.0
        return Call(ast.unparse(node), op, operands, attrs, rest)

    def _attribute(self, node: ast.expr) -> Any:
        if isinstance(node, ast.List | ast.Tuple):
            return [self._attribute(item) for item in node.elts]
        try:
            literal = ast.literal_eval(node)
        except (TypeError, ValueError):  # 1 / 6
            literal = self._number(node, at=node)
        if not isinstance(literal, int | float | str):
            self._fail(node, "an attribute is a number, a text or a list of these")
        return literal

    def _result(self, text: str, bound: set[str]) -> Call:
        """Return the operator that takes the place of the pattern; it reads what the pattern has names for."""
        before = self.text[: self.text.rindex(text.strip())]
        self.line, self.column = before.count("\n"), len(before) - before.rfind("\n") - 1
        body = self._tree(text.strip()).body
        statement = body[0] if len(body) == 1 else None
        if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Call):
            self._fail(statement, "behind the arrow stands one operator")
        result = self._call(statement.value)
        unknown = [term for term in result.operands if not isinstance(term, Name | Named) or term.key not in bound]
        if unknown or result.rest or result.domain:
            self._fail(statement, "behind the arrow stands one operator of ONNX, of names that the pattern gives")
        return result

    def _check_search(self, term: Term, bound: set[str]) -> None:
        """Add to `bound` what a search binds, in its order; fail where it had to try every pair of two tensors."""
        if isinstance(term, Name):
            bound.add(term.key)
        elif isinstance(term, Named):
            self._check_search(term.term, bound)
            bound.add(term.key)
        elif isinstance(term, Call):
            for operand in term.operands:
                self._check_search(operand, bound)
        elif isinstance(term, Arithmetic):
            for atom in term.atoms:
                if not isinstance(atom, Name):
                    self._check_search(atom, bound)
            free = [atom for atom in term.atoms if isinstance(atom, Name) and atom.key not in bound]
            if sum(not atom.number for atom in free) > 1 or sum(atom.number for atom in free) > 1:
                names = " and ".join(atom.key for atom in free)
                self._fail(None, f"nothing tells {names} apart in a sum or product; write Add(..) or Mul(..)")
            bound.update(atom.key for atom in free)

    def _fail(self, node: ast.stmt | ast.expr | None, what: str) -> NoReturn:
        if node is None:
            raise ValueError(f"pattern: {what}: {self.text}")
        self._fail_at(node.lineno, node.col_offset + 1, what)

    def _fail_at(self, line: int, column: int, what: str) -> NoReturn:
        place = f"line {line + self.line}, column {column + self.column}"
        raise ValueError(f"pattern, {place}: {what}: {self.text}")


_JOIN: Mapping[type[ast.operator], Callable[[Polynomial, Polynomial], Polynomial | None]] = {
    ast.Add: polynomials.total,
    ast.Sub: lambda first, second: polynomials.total(first, second, -1),
    ast.Mult: polynomials.product,
    ast.Div: polynomials.quotient,
}


@cache
def _schemas(op: str) -> tuple[onnx.defs.OpSchema, ...]:
    """Return all versions of one of ONNX's own operators."""
    return tuple(each for each in onnx.defs.get_all_schemas_with_history() if each.name == op and not each.domain)
