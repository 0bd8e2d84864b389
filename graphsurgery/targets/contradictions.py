"""Which measurement contradicts what a target's file says of a node."""

from __future__ import annotations

from graphsurgery.targets.asked import ABSENT, Asked
from graphsurgery.targets.facts import FACTS, attributes_of, fact_of, inputs_of
from graphsurgery.targets.measured import Contradiction, Measured, Measurements
from graphsurgery.targets.schema import Outcome, Scalar


def contradiction_of(
    asked: Asked, line: int, precision: str, said: tuple[Outcome, str | None], found: Measurements
) -> Contradiction | None:
    """Return what was measured of such nodes where the target's file says something else, None where nothing was.

    `line` is the place of the rule that counts among those of its operator, `said` the outcome and the limit that is
    broken. A case beyond a limit tells of nodes beyond it, one at a value of those that have that value, and one inside
    of all limits of those that keep them.
    """
    here = [
        c
        for c in found.contradictions
        if (c.op, c.line, c.precision, c.said) == (asked.node.op, line, precision, said[0])
    ]
    ranked = sorted((case for case in here if _tells_of(case, asked, said[1])), key=lambda case: case.limit is None)
    return Contradiction(ranked[0], found.tool, found.date) if ranked else None


def _tells_of(case: Measured, asked: Asked, broken: str | None) -> bool:
    if case.side == "beyond":
        return case.limit == broken
    if broken is not None and case.side != "form":
        return False
    return case.limit is None or (case.value is not None and has(asked, case.limit, case.value))


def has(asked: Asked, name: str, value: Scalar) -> bool:
    """Whether a node has a value of a fact, an attribute or an input; False for what none of them is called."""
    if not (
        name in FACTS or name in attributes_of(asked.node.op) or any(name in each for each in inputs_of(asked.node.op))
    ):
        return False
    fact = fact_of(asked, name)
    if fact is ABSENT or fact is None:
        return False
    several = fact if isinstance(fact, tuple) else (fact,)
    return any(_is_same(each, value) for each in several)


def _is_same(one: Scalar, other: Scalar) -> bool:
    if isinstance(one, float) and isinstance(other, int | float):
        return abs(one - other) < 1e-6
    return one == other and isinstance(one, bool) == isinstance(other, bool)
