"""A target's lines held against what its vendor's compiler and simulator do: cases, measured one by one."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from graphsurgery.errors import InputError, name_nearest
from graphsurgery.probing.backend import Backend
from graphsurgery.probing.cases import Case, Unmeasured, cases_of, forms_of, lines_of, operators_of
from graphsurgery.progress import Progress, silent
from graphsurgery.targets.load import Named
from graphsurgery.targets.measured import Found, Measured, Measurements
from graphsurgery.targets.schema import Target

# What a detector is made of: a sample takes these first
OF_DETECTORS = tuple(
    [
        "Conv",
        "MaxPool",
        "Resize",
        "NonMaxSuppression",
        "Slice",
        "Concat",
        "Add",
        "Mul",
        "Sigmoid",
        "Softmax",
        "TopK",
        "RoiAlign",
        "Gather",
        "Reshape",
        "Transpose",
        "Relu",
        "ConvTranspose",
        "Gemm",
        "MatMul",
        "Sub",
        "Div",
        "Exp",
        "Split",
        "Clip",
        "AveragePool",
        "GlobalAveragePool",
        "HardSwish",
        "LayerNormalization",
        "Where",
        "Cast",
        "ScatterND",
        "GridSample",
        "Expand",
        "Unsqueeze",
        "Pad",
        "Equal",
        "ReduceMax",
        "NonZero",
    ]
)
# Lines that say so promise most, and are first of all
_STRONG = ("wrong", "crash", "refused")


@dataclass(frozen=True)
class Plan:
    """The cases of a target, and what no case was made of."""

    cases: Sequence[Case]
    not_measured: Sequence[Unmeasured]

    def sample(self, count: int) -> Plan:
        """Return `count` of the cases, of each operator of detectors in turn, those of a rare outcome first."""
        by_op: dict[str, list[Case]] = {op: [] for op in OF_DETECTORS}
        for case in self.cases:
            if case.line.op in by_op:
                by_op[case.line.op].append(case)
        ordered = [sorted(cases, key=lambda case: case.verdict.outcome not in _STRONG) for cases in by_op.values()]
        turns = [case for turn in zip_longest(*map(_spread, ordered)) for case in turn if case is not None]
        return Plan(turns[:count], ())


def _spread(cases: Sequence[Case]) -> list[Case]:
    """Return cases of different limits before more of one limit."""
    seen: dict[tuple[object, ...], int] = {}
    ranks = []
    for case in cases:
        kind = (case.line.number, case.precision, case.side, case.limit, case.verdict.outcome)
        seen[kind] = seen.get(kind, 0) + 1
        ranks.append(seen[kind])
    return [case for _, _, case in sorted(zip(ranks, range(len(cases)), cases, strict=True), key=lambda each: each[:2])]


def plan(
    target: Target,
    precisions: Sequence[str],
    ops: Collection[str] = (),
    *,
    forms: bool = True,
    unequal: bool = False,
) -> Plan:
    """Return the cases of a target's lines, all or those of `ops`, and with `forms` those that no limit names.

    With `unequal` the axes of usual models differ in size.
    """
    chosen = frozenset(ops)
    cases: list[Case] = []
    left: list[Unmeasured] = []
    for line in lines_of(target, chosen or None):
        for precision in precisions:
            for each in cases_of(target, line, precision, unequal=unequal):
                if isinstance(each, Case):
                    cases.append(each)
                else:
                    left.append(each)
    for op in operators_of(target) if forms else ():
        if not chosen or op in chosen:
            for precision in precisions[:2]:
                cases.extend(forms_of(target, op, precision, unequal=unequal))
    unique = {case.key: case for case in reversed(cases)}
    return Plan([case for case in cases if unique[case.key] is case], left)


def require_operators(target: Target, ops: Collection[str], name: str) -> None:
    """Raise InputError for an operator that neither the target's file nor the probe knows."""
    known = operators_of(target)
    for op in ops:
        if op not in known:
            raise InputError(f"neither target '{name}' nor the probe knows operator '{op}'.{name_nearest(op, known)}")


def measure(
    named: Named,
    planned: Plan,
    backend: Backend,
    progress: Progress = silent,
    *,
    before: Measurements | None = None,
    keep: Callable[[Measurements], None] | None = None,
) -> Measurements:
    """Measure the cases of a plan but for those that stand in `before`; `keep` gets what is measured after each.

    Raises MissingTool where the backend's tool isn't here.
    """
    tool, total = backend.tool(), len(planned.cases)
    left = tuple(_told(each) for each in planned.not_measured)
    known = {_without_found(each): each for each in before.cases} if before is not None else {}
    found = {at: known[case] for at, case in enumerate(map(_case_of, planned.cases)) if case in known}
    missing = [at for at in range(total) if at not in found]

    def so_far() -> Measurements:
        cases = tuple(found[at] for at in sorted(found))
        return Measurements(named.name, tool, datetime.date.today().isoformat(), cases, left)

    progress(len(found), total)
    outcomes = backend.measure([planned.cases[at] for at in missing])
    for at, outcome in zip(missing, outcomes, strict=True):
        found[at] = replace(_case_of(planned.cases[at]), found=outcome)
        if keep is not None:
            keep(so_far())
        progress(len(found), total)
    return so_far()


def _case_of(case: Case) -> Measured:
    """Return a case as it is written, nothing measured of it."""
    line, said = case.line, case.verdict.outcome
    return Measured(line.op, line.number, case.precision, case.side, case.limit, case.value, said, Found("unknown"))


def _without_found(case: Measured) -> Measured:
    return replace(case, found=Found("unknown"))


def _told(left: Unmeasured) -> dict[str, Any]:
    told = {"op": left.line.op, "line": left.line.number, "precision": left.precision, "limit": left.limit}
    return {key: value for key, value in told.items() if value is not None} | {"reason": left.reason}


def joined(older: Measurements | None, newer: Measurements) -> Measurements:
    """Return the newer measurements with those of an older file that are of other operators or precisions.

    Where another version of the tool made the older ones, they are not kept.
    """
    if older is None or older.tool != newer.tool or older.target != newer.target:
        return newer
    again = {(case.op, case.precision) for case in newer.cases} | {_place(each) for each in newer.not_measured}
    cases = [case for case in older.cases if (case.op, case.precision) not in again]
    left = [each for each in older.not_measured if _place(each) not in again]
    return Measurements(newer.target, newer.tool, newer.date, (*cases, *newer.cases), (*left, *newer.not_measured))


def _place(told: Mapping[str, Any]) -> tuple[Any, Any]:
    return told["op"], told["precision"]


def by_line(found: Measurements) -> Iterator[tuple[str, int, list[Measured]]]:
    """Yield the cases of each line: its operator, its number, and all that was measured of it."""
    groups: dict[tuple[str, int], list[Measured]] = {}
    for case in found.cases:
        groups.setdefault((case.op, case.line), []).append(case)
    for (op, line), cases in groups.items():
        yield op, line, cases
