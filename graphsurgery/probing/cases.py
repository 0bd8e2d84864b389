"""The cases of a target: for each line one-node models inside, at and beyond each of its limits.

A case counts only if the target's own reading of the finished node says that it is one: that this line is the one for
it, that it breaks the limit which it was made to break, or breaks none. What can't be made so is `Unmeasured`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from graphsurgery.probing.bases import BASES
from graphsurgery.probing.build import FED, GIVEN, UNWRITTEN, Built, build
from graphsurgery.probing.forms import forms
from graphsurgery.probing.one_node import NotBuilt, OneNode
from graphsurgery.probing.quantized import is_quantizable
from graphsurgery.probing.values import at_ends, beyond, inside
from graphsurgery.targets.schema import PRECISION, Rule, Scalar, Target, one_or_more
from graphsurgery.targets.support import Verdict

Side = Literal["inside", "at", "beyond", "form"]
_DEPTH, _TRIES = 5, 80
TENSORS = "tensors"


@dataclass(frozen=True)
class Line:
    """A rule of a target, by its operator and its place among the rules of that; `tensors` are a line of their own."""

    op: str
    number: int
    rule: Rule

    @property
    def name(self) -> str:
        """The line in a table."""
        return self.op if self.number == 0 else f"{self.op} #{self.number + 1}"


@dataclass(frozen=True)
class Case:
    """A one-node model: how it lies to a `limit` of a line, by which `value`, and what the target's file says of it."""

    line: Line
    precision: str
    side: Side
    limit: str | None
    value: Scalar | None
    node: OneNode
    verdict: Verdict

    @property
    def what(self) -> str:
        """The case in words."""
        if self.limit is None:
            return self.side
        shown = str(self.value).lower() if isinstance(self.value, bool) else str(self.value)
        return f"{self.limit} {shown}"

    @property
    def key(self) -> str:
        """What tells it from all others of its target."""
        return f"{self.line.name} | {self.precision} | {self.side} | {self.what}"


@dataclass(frozen=True)
class Unmeasured:
    """A limit of a line that no case was made of, and why."""

    line: Line
    precision: str
    limit: str | None
    reason: str


def lines_of(target: Target, ops: frozenset[str] | None = None) -> Iterator[Line]:
    """Yield the lines of a target, or those of some operators, that of others once for each of these."""
    for op in operators_of(target):
        if ops is None or op in ops:
            rules = target.rules(op) or (target.other,)
            yield from (Line(op, number, rule) for number, rule in enumerate(rules))


def operators_of(target: Target) -> list[str]:
    """Return the operators that a target names, and those that the probe has a node of: the line `others` is theirs."""
    return [*target.operators, *(op for op in BASES if op not in target.operators)]


def cases_of(target: Target, line: Line, precision: str, *, unequal: bool = False) -> Iterator[Case | Unmeasured]:
    """Yield the cases of a line in a precision, of `unequal` sizes or not, and what can't be made one."""
    if not _is_of(target, line, precision):
        return
    made = _Maker(target, line, precision, unequal)
    try:
        start, wishes = made.start()
    except NotBuilt as error:
        yield Unmeasured(line, precision, None, str(error))
        return
    if precision != target.precisions[0] and not is_quantizable(start.node):
        return  # it has no float to be quantized: measured once
    known = one_or_more(line.rule.precisions or ())
    if known and precision not in known:
        yield made.case("beyond", "precision", precision, start)
        return
    yield made.case("inside", None, None, start)
    if line.rule.taken:
        yield from made.around(wishes)


def _is_of(target: Target, line: Line, precision: str) -> bool:
    """Whether a line may count in a precision: its own condition holds, and no line before it takes all nodes there."""
    own = line.rule.conditions.get(PRECISION)
    before = [rule.conditions for rule in target.rules(line.op)[: line.number]]
    taken = any({*each} == {PRECISION} and each[PRECISION].holds(precision) for each in before)
    return not taken and (own is None or own.holds(precision))


@dataclass(frozen=True)
class _Maker:
    """Makes the cases of one line in one precision."""

    target: Target
    line: Line
    precision: str
    unequal: bool

    def case(self, side: Side, limit: str | None, value: Scalar | None, built: Built) -> Case:
        return Case(self.line, self.precision, side, limit, value, built.node, built.verdict)

    def start(self) -> tuple[Built, dict[str, Scalar]]:
        """Return a node that the line is for and that keeps all its limits, and the wishes that made it."""
        conditions = {name: each for name, each in self.line.rule.conditions.items() if name != PRECISION}
        wishes = {name: inside(each)[0] for name, each in conditions.items()}
        return self._search(wishes, [_TRIES])

    def _search(
        self, wishes: dict[str, Scalar], tries: list[int], depth: int = _DEPTH
    ) -> tuple[Built, dict[str, Scalar]]:
        """Return the node of these wishes and as many more as it needs to be the line's, and to break no limit."""
        tries[0] -= 1
        built = build(self.line.op, wishes, self.target, self.precision, unequal=self.unequal)
        more = list(self._repairs(built, wishes))
        if not more:
            return built, wishes
        for wish in more:
            if depth and tries[0] > 0:
                try:
                    return self._search(wishes | wish, tries, depth - 1)
                except NotBuilt:
                    continue
        raise NotBuilt("the probe found no node that this line is for and that keeps its limits")

    def _repairs(self, built: Built, wishes: Mapping[str, Scalar]) -> Iterator[dict[str, Scalar]]:
        """Yield wishes that may make the node the line's; none where it is."""
        rule = self.line.rule
        if built.rule is not rule:
            for name, allowed in (built.rule.conditions if built.rule is not None else {}).items():
                if name not in wishes and name != PRECISION:
                    yield from ({name: value} for value in beyond(allowed, self.line.op, name))
            if not wishes or built.rule is None:
                raise NotBuilt("the probe found no node that this line is for")
            return
        limit = built.verdict.limit
        if rule.taken and built.verdict.outcome != "taken" and limit is not None and limit != "precision":
            general = (each.limits[limit] for each in self.target.general if limit in each.limits)
            broken = rule.limits.get(limit) or next(general, None)
            if broken is None:
                raise NotBuilt(f"its usual node breaks {limit}")
            if limit in wishes:
                raise NotBuilt(f"the probe can't set {limit}")
            yield from ({limit: value} for value in inside(broken))

    def around(self, wishes: Mapping[str, Scalar]) -> Iterator[Case | Unmeasured]:
        """Yield the cases of each limit."""
        rule = self.line.rule
        for name, allowed in rule.conditions.items():
            if name != PRECISION:
                values = [value for value in at_ends(allowed) if value != wishes.get(name)]
                yield from self._told("at", name, values, wishes, others=True)
        for name, allowed in rule.limits.items():
            yield from self._told("at", name, at_ends(allowed), wishes)
            yield from self._told("beyond", name, beyond(allowed, self.line.op, name), wishes)
        for names, how in ((rule.constant, FED), (rule.omitted, GIVEN), (rule.written, UNWRITTEN)):
            for name in one_or_more(names):
                yield from self._told("beyond", name, [how], wishes)

    def _told(
        self, side: Side, name: str, values: list[Scalar], wishes: Mapping[str, Scalar], *, others: bool = False
    ) -> Iterator[Case | Unmeasured]:
        """Yield the cases of one limit, and the reason where there is none. `others` need not be made."""
        made, reason = 0, "no value is beyond it" if not values else ""
        for value in values:
            try:
                yield self.case(side, name, value, self._wished(side, name, value, wishes))
                made += 1
            except NotBuilt as error:
                reason = f"{name} {value}: {error}"
        if not made and values and not others:
            yield Unmeasured(self.line, self.precision, name, f"{side}: {reason}")

    def _wished(self, side: Side, name: str, value: Scalar, wishes: Mapping[str, Scalar]) -> Built:
        """Return the node with one more wish, if that comes true. Raises NotBuilt."""
        asked: dict[str, Scalar] = {**wishes, name: value}
        if side == "beyond":
            built = build(self.line.op, asked, self.target, self.precision, unequal=self.unequal)
            if built.rule is not self.line.rule:
                raise NotBuilt("another line is for it then")
            if built.verdict.limit != name:
                raise NotBuilt(f"it breaks {built.verdict.limit or 'no limit'} then")
            return built
        built, _ = self._search(asked, [_TRIES])
        if not built.has(name, value):
            raise NotBuilt("the probe can't set it")
        return built


def forms_of(target: Target, op: str, precision: str, *, unequal: bool = False) -> Iterator[Case]:
    """Yield the operator in other forms than those that limits name: ranks, types, operands that are stored or fed.

    Whether a file is right where it is silent shows there. A form that ONNX doesn't have, or that asks for the same
    node as another, is left out; types are those of the first precision alone.
    """
    rules, first = target.rules(op) or (target.other,), precision == target.precisions[0]
    seen: set[bytes] = set()
    for name, value in forms(op, types=first):
        try:
            built = build(op, {name: value}, target, precision, unequal=unequal)
            proto = built.node.proto.SerializeToString(deterministic=True)
        except NotBuilt:
            continue
        if proto in seen or (not first and not is_quantizable(built.node)):
            continue
        seen.add(proto)
        number = next((at for at, rule in enumerate(rules) if rule is built.rule), 0)
        yield Case(Line(op, number, rules[number]), precision, "form", name, value, built.node, built.verdict)
