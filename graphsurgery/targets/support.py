"""A graph held against a target: of each node whether the accelerator takes it, and if not, why and what helps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import onnx_graphsurgeon as gs

from graphsurgery.graph import STANDARD_DOMAINS
from graphsurgery.graph.model import Model
from graphsurgery.graph.queries import subgraphs
from graphsurgery.targets.asked import ABSENT, Asked, Fact, is_omitted
from graphsurgery.targets.contradictions import contradiction_of
from graphsurgery.targets.facts import fact_of, input_index
from graphsurgery.targets.load import Named
from graphsurgery.targets.measured import Contradiction
from graphsurgery.targets.schema import PRECISION, Allowed, Names, Outcome, Rule, Source, Target, one_or_more
from graphsurgery.targets.seen import as_folded, as_written
from graphsurgery.targets.whole import broken_by

_NO_OR_YES = ("false", "true")
_NOT_LISTED = "the source doesn't list it"
_Test = Callable[[Asked, str], bool]


@dataclass(frozen=True)
class Verdict:
    """What becomes of a node: `outcome`, and where it isn't taken the `limit` that it breaks.

    `seen` is what the node has there and `allowed` what the target takes. `fixes` are passes that help. `source` is
    where the line comes from, `at` the place in it, `against` what another one says, which a measurement contradicts.
    """

    outcome: Outcome
    source: Source
    limit: str | None = None
    seen: str = ""
    allowed: str = ""
    fixes: tuple[str, ...] = ()
    at: str | None = None
    note: str | None = None
    against: str | None = None

    @property
    def reason(self) -> str:
        """Why it isn't taken, in a line; empty where it is."""
        if self.outcome == "taken":
            return ""
        if self.limit is None:
            return self.note or ("not known" if self.outcome == "unknown" else "never taken")
        at = f" ({self.at})" if self.at else ""
        if self.seen in _NO_OR_YES and self.allowed in _NO_OR_YES:
            words = self.limit.removeprefix("is_").replace("_", " ")
            return (words if self.seen == "true" else f"not {words}") + at
        return f"{self.limit} {self.seen}" + (f", where {self.allowed} is taken" if self.allowed else "") + at

    @property
    def advice(self) -> str:
        """Why it isn't taken, and what helps."""
        return self.reason + (f" ({', '.join(self.fixes)})" if self.fixes else "")


@dataclass(frozen=True)
class NodeVerdict:
    """A node of the graph, by its place in it, and what becomes of it; `measured` says otherwise."""

    number: int
    name: str
    op: str
    verdict: Verdict
    multiply_adds: int | None
    measured: Contradiction | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as --json has it."""
        verdict = self.verdict
        told = {
            "node": self.name,
            "op": self.op,
            "outcome": verdict.outcome,
            "why": verdict.reason,
            "multiply_adds": self.multiply_adds,
            "limit": verdict.limit,
            "seen": verdict.seen or None,
            "allowed": verdict.allowed or None,
            "fixes": list(verdict.fixes),
            "source": str(verdict.source),
            "at": verdict.at,
            "note": verdict.note,
            "against": verdict.against,
            "measured": None if self.measured is None else str(self.measured),
        }
        return {key: value for key, value in told.items() if value not in (None, [])}


@dataclass(frozen=True)
class Support:
    """A graph held against a target in one precision: what becomes of its live nodes, and in how many islands.

    An island is a set of nodes that the accelerator can run at once: connected, and none of its outputs comes back
    into it through a node outside.
    """

    target: str
    precision: str
    nodes: list[NodeVerdict]
    islands: int
    title: str = field(default="", compare=False)

    @property
    def taken(self) -> list[NodeVerdict]:
        """The nodes that the accelerator takes."""
        return [node for node in self.nodes if node.verdict.outcome == "taken"]

    @property
    def left(self) -> list[NodeVerdict]:
        """The others."""
        return [node for node in self.nodes if node.verdict.outcome != "taken"]

    @property
    def contradicted(self) -> list[NodeVerdict]:
        """The nodes of which a measurement says another thing than the target's file, or the file than its document."""
        left = {id(node) for node in self.left if node.verdict.against is not None}
        return [node for node in self.nodes if node.measured is not None or id(node) in left]

    def to_json(self) -> dict[str, Any]:
        """Return it as --json has it."""
        known = [node.multiply_adds for node in self.nodes]
        return {
            "target": self.target,
            "precision": self.precision,
            "nodes": len(self.nodes),
            "nodes_taken": len(self.taken),
            "multiply_adds": sum(number or 0 for number in known),
            "multiply_adds_taken": sum(node.multiply_adds or 0 for node in self.taken),
            "unknown_multiply_adds": sum(number is None for number in known),
            "islands": self.islands,
            "left": [node.to_json() for node in self.left],
            "contradicted": [node.to_json() for node in self.contradicted],
        }


def support(model: Model, named: Named, precision: str | None = None, *, folded: bool = True) -> Support:
    """Hold each node of a model that depends on its inputs against a target.

    What its tool computes beforehand isn't held against it, and tells sizes; with `folded` False the graph counts as it
    is written, as for who cuts it. Raises InputError for a precision that the target hasn't, ModelError where shape
    inference fails.
    """
    chosen = named.precision(precision)
    seen = as_folded(model) if folded else as_written(model)
    found = []
    for number, node in enumerate(seen.nodes):
        if id(node) in seen.live:
            asked = _asked(node, model.opset, named.target, chosen, seen.settled)
            verdict = _judge(asked, named.target, chosen)
            name = node.name or (node.outputs[0].name if node.outputs else "")
            measured = _measured(asked, named, chosen, verdict)
            found.append(NodeVerdict(number, name, node.op, verdict, seen.multiply_adds[id(node)], measured))
    taken = {id(seen.nodes[each.number]) for each in found if each.verdict.outcome == "taken"}
    whole = _judged_whole(seen.view, seen.live, taken, named.target)
    if whole is not None:
        found = [
            replace(each, verdict=whole, measured=None) if each.verdict.outcome == "taken" else each for each in found
        ]
        taken = set()
    islands = count_islands(seen.view, taken, seen.live)
    return Support(named.name, chosen, found, islands, named.target.title)


def _measured(asked: Asked, named: Named, precision: str, verdict: Verdict) -> Contradiction | None:
    """Return the measurement that contradicts what the target's file says of a node."""
    op = operator_of(asked.node)
    if named.measurements is None or op not in {each.op for each in named.measurements.contradictions}:
        return None
    rules = named.target.rules(op)
    rule = _rule_for(rules or (named.target.other,), asked, precision)[0]
    line = next((at for at, each in enumerate(rules) if each is rule), len(rules))
    return contradiction_of(asked, line, precision, (verdict.outcome, verdict.limit), named.measurements)


def _judged_whole(view: gs.Graph, live: set[int], taken: set[int], target: Target) -> Verdict | None:
    """Return what becomes of the nodes `taken` of a graph that breaks a limit of whole graphs, None if it keeps all."""
    broken = broken_by(view, live, taken, target)
    if broken is None:
        return None
    rule, limit, seen = broken
    return _beyond(target, rule, limit, _shown(seen), rule.limits[limit].told)


def taker(opset: int, target: Target, precision: str) -> Callable[[gs.Node, bool], bool]:
    """Return what says whether the target takes a node into a part, where no node with bodies goes.

    With True, once its sizes are frozen: what isn't known yet is no reason against it.
    """

    def takes(node: gs.Node, open_sizes: bool) -> bool:
        return not subgraphs(node) and judge(node, opset, target, precision, open_sizes=open_sizes).outcome == "taken"

    return takes


def judge(node: gs.Node, opset: int, target: Target, precision: str, *, open_sizes: bool = False) -> Verdict:
    """Say what becomes of a node whose shapes are inferred, in a precision of the target.

    With `open_sizes` a limit of what isn't known is kept, and so is that of being static.
    """
    return _judge(_asked(node, opset, target, precision), target, precision, open_sizes)


def _asked(node: gs.Node, opset: int, target: Target, precision: str, settled: frozenset[int] = frozenset()) -> Asked:
    """Return a node as limits ask it, with what the target says of nodes in its bodies and of those that feed them."""
    if not subgraphs(node):
        return Asked(node, opset, settled)

    def is_taken(other: gs.Node) -> bool:
        return _judge(_asked(other, opset, target, precision, settled), target, precision).outcome == "taken"

    return Asked(node, opset, settled, is_taken)


def _judge(asked: Asked, target: Target, precision: str, open_sizes: bool = False) -> Verdict:
    op = operator_of(asked.node)
    rules = target.rules(op) or (target.other,)
    chosen, unknown = _rule_for(rules, asked, precision)
    if chosen is None:
        last = rules[-1]
        if unknown is not None:
            rest = None if open_sizes else _rule_for(rules, asked, precision, skip_unknown=True)[0]
            otherwise = None if rest is None else _judged(asked, rest, target, precision, open_sizes)
            if otherwise is not None and otherwise.limit == "static":
                return otherwise  # an open size is within no line about sizes
            return _not_known(target, last, unknown)
        name = next(iter(last.conditions))
        fact = precision if name == PRECISION else fact_of(asked, name)
        allowed = " or ".join(dict.fromkeys(rule.conditions[name].told for rule in rules if name in rule.conditions))
        return _beyond(target, last, name, _shown(fact), allowed)
    verdict = _judged(asked, chosen, target, precision, open_sizes)
    unlisted = not target.rules(op) and verdict.outcome != "taken" and verdict.limit is None and verdict.note is None
    return replace(verdict, note=_NOT_LISTED) if unlisted else verdict


def rule_of(node: gs.Node, opset: int, target: Target, precision: str) -> Rule | None:
    """Return the rule of the target that counts for a node, None where that isn't known or none does."""
    return _rule_for(target.rules(operator_of(node)) or (target.other,), Asked(node, opset), precision)[0]


def operator_of(node: gs.Node) -> str:
    """Return what a target calls the operator of a node: its name, behind its domain where that isn't ONNX's."""
    return node.op if node.domain in STANDARD_DOMAINS else f"{node.domain}.{node.op}"


def _rule_for(
    rules: Sequence[Rule], asked: Asked, precision: str, *, skip_unknown: bool = False
) -> tuple[Rule | None, str | None]:
    """Return the first rule whose conditions hold; None with the name of what isn't known, where that is why.

    With `skip_unknown` a condition of what isn't known doesn't hold.
    """
    for rule in rules:
        holds = True
        for name, allowed in rule.conditions.items():
            fact = precision if name == PRECISION else fact_of(asked, name)
            if fact is None and skip_unknown:
                holds = False
                break
            if fact is None:
                return None, name
            if fact is ABSENT or not allowed.holds(fact):
                holds = False
                break
        if holds:
            return rule, None
    return None, None


def _judged(asked: Asked, rule: Rule, target: Target, precision: str, open_sizes: bool) -> Verdict:
    own = {*rule.limits, *rule.conditions} - {PRECISION}
    for each in target.general:
        asks = each.conditions
        if each.taken or not own.isdisjoint(asks) or (open_sizes and "static" in asks):
            continue  # what the operator's line says of the same goes before; open sizes may yet be frozen
        if _rule_for((each,), asked, precision)[0] is not None:
            name = next(name for name in asks if name != PRECISION)
            return _beyond(target, each, name, _shown(fact_of(asked, name)))
    if not rule.taken:
        return _beyond(target, rule, None)
    precisions = one_or_more(rule.precisions or ())
    if precisions and precision not in precisions:
        return _beyond(target, rule, "precisions", precision, Allowed.of(precisions).told, called="precision")
    applying = [each for each in target.general if each.taken and _rule_for((each,), asked, precision)[0] is not None]
    for of in (*applying, rule):
        for name, allowed in of.limits.items():
            if of is not rule and name in rule.limits:
                continue  # the operator's own goes before
            broken = _broken(asked, name, allowed)
            if broken is not None and not (open_sizes and (broken == "" or name == "static")):
                beyond = _not_known if broken == "" else _beyond
                return beyond(target, of, name, broken, allowed.told)
    tests: tuple[tuple[Names, _Test, str], ...] = (
        (rule.written, _is_written, "isn't written out"),
        (rule.constant, _is_constant, "isn't constant"),
        (rule.omitted, _is_left_out, "is given"),
    )
    for names, is_right, told in tests:
        for name in one_or_more(names):
            if not is_right(asked, name):
                return _beyond(target, rule, name, told)
    return Verdict("taken", target.source_of(rule), at=_text(rule.at), note=rule.note, against=rule.contradicted(None))


def _broken(asked: Asked, name: str, allowed: Allowed) -> str | None:
    """Return what a node has where it breaks a limit, "" where that isn't known, None where it keeps it."""
    fact = fact_of(asked, name)
    if fact is None:
        return ""
    return None if fact is ABSENT or allowed.holds(fact) else _shown(fact)


def _is_written(asked: Asked, name: str) -> bool:
    return name in asked.node.attrs or not _is_left_out(asked, name)


def _is_constant(asked: Asked, name: str) -> bool:
    """Whether an input is constant, or isn't there; its values, of a weight millions, aren't asked for."""
    index, given = input_index(asked, name), asked.node.inputs
    return index is None or index >= len(given) or is_omitted(given[index]) or asked.is_settled(given[index])


def _is_left_out(asked: Asked, name: str) -> bool:
    index = input_index(asked, name)
    return index is None or index >= len(asked.node.inputs) or asked.node.inputs[index].name == ""


def _beyond(
    target: Target, rule: Rule, limit: str | None, seen: str = "", allowed: str = "", *, called: str | None = None
) -> Verdict:
    return Verdict(
        target.outcome(rule, limit),
        target.source_of(rule),
        called or limit,
        seen,
        allowed,
        rule.fixes(limit),
        _text(rule.at),
        rule.note,
        rule.contradicted(limit),
    )


def _not_known(target: Target, rule: Rule, limit: str, seen: str = "", allowed: str = "") -> Verdict:
    fixes = rule.fixes(limit)
    return Verdict("unknown", target.source_of(rule), limit, "isn't known", allowed or "a known one", fixes)


def _text(at: str | int | None) -> str | None:
    return None if at is None else str(at)


def _shown(fact: Fact) -> str:
    if fact is ABSENT:
        return "none"
    if isinstance(fact, tuple):
        return ", ".join(dict.fromkeys(_shown(each) for each in fact)) or "none"
    if isinstance(fact, bool):
        return str(fact).lower()
    return f"{fact:g}" if isinstance(fact, float) else str(fact)


def count_islands(graph: gs.Graph, taken: set[int], live: set[int]) -> int:
    """Return how many islands the nodes `taken` (as ids) form among the `live` ones.

    Nodes are numbered by how often the path from the inputs to them, the one that does so most often, leaves the
    accelerator; those of one number that are connected are an island.
    """
    number: dict[int, int] = {}
    of = {id(tensor): node for node in graph.nodes for tensor in node.outputs}
    root: dict[int, int] = {}

    def find(node: int) -> int:
        while root[node] != node:
            root[node] = root[root[node]]
            node = root[node]
        return node

    for node in graph.nodes:
        if id(node) not in live:
            continue
        before = [of[id(t)] for t in node.inputs if id(t) in of and id(of[id(t)]) in live]
        # an island of a later number begins where a node that isn't taken stands in between
        steps = [number[id(b)] + (id(b) in taken) * (id(node) not in taken) for b in before]
        number[id(node)] = max(steps, default=0)
        if id(node) in taken:
            root[id(node)] = id(node)
            for each in before:
                if id(each) in taken and number[id(each)] == number[id(node)]:
                    root[find(id(each))] = find(id(node))
    return len({find(node) for node in root})
