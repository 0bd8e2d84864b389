"""How a pass breaks a model: it crashes, stops the run, leaves what is invalid or does not run, or changes results."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from graphsurgery.debugging.bisect import bisect, from_mapping
from graphsurgery.debugging.divergence import Bisection, difference
from graphsurgery.debugging.stepping import Steps
from graphsurgery.devices.session import Session, run
from graphsurgery.errors import GraphSurgeryError, InputError, ModelError
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.gate.verdicts import TensorReport
from graphsurgery.graph.model import Model
from graphsurgery.graph.notes import as_captured
from graphsurgery.graph.outline import Array, Outline, Values
from graphsurgery.rewrite import Pass, apply_pass

Kind = Literal["crash", "stop", "invalid", "difference"]

_WORDS: dict[Kind, str] = {
    "crash": "crashes",
    "stop": "stops the run",
    "invalid": "leaves a model that is invalid or does not run",
    "difference": "changes what is computed",
}


@dataclass(frozen=True)
class Break:
    """How a pass breaks a model: what happens, `mark`, by which two failures of a kind are told apart, and the words.

    `after` is what the pass makes of the model, None where it makes nothing; `reports` are the outputs that differ.
    """

    kind: Kind
    mark: str
    reason: str
    after: Model | None = field(default=None, repr=False)
    reports: tuple[TensorReport, ...] = ()

    @property
    def words(self) -> str:
        """What the pass does, to follow its name."""
        return _WORDS[self.kind]

    def is_like(self, other: Break | None) -> bool:
        """Whether two breaks are of one kind."""
        return other is not None and (self.kind, self.mark) == (other.kind, other.mark)


def break_whole(
    pass_: Pass, model: Model, given: Mapping[str, Array], tolerances: Tolerances
) -> tuple[Break | None, Bisection | None]:
    """Say how a pass breaks a model of any size, and where the two diverge, if they can be searched."""
    broken, after = _apply(pass_, model)
    if after is None or (broken is None and after.fingerprint == model.fingerprint):
        return broken, None
    known = {*given, *(name for node in model.proto.graph.node for name in node.output)}
    unknown = [name for name in after.inputs if name not in known]
    if unknown:
        return broken or Break("invalid", "", f"it reads '{unknown[0]}', which nothing gives", after), None
    try:
        found = bisect(model, after, from_mapping(given), tolerances, outputs=True)
    except InputError:
        if broken is None:
            raise
        return broken, None
    if broken is None:
        broken = _does_not_load(model, after)
    failed = [*_missing(pass_, model, after), *(report for report in found.outputs if report.verdict == "failed")]
    if broken is None and any(each.failure for each in found.divergences):
        reason = next(each.failure for each in found.divergences if each.failure)
        broken = Break("invalid", "", reason, after)
    elif broken is None and (failed or (found.divergences and not found.outputs)):
        reports = tuple(failed) or (found.divergences[0].report,)
        broken = Break("difference", "", reports[0].explain(), after, reports)
    return broken, found


def judge(pass_: Pass, model: Model, given: Values, tolerances: Tolerances) -> Break | None:
    """Say how a pass breaks a model that is small enough to be run in one piece; None where it does not.

    Raises InputError where the model is invalid, or does not run, before the pass.
    """
    model.check("the piece")
    broken, after = _apply(pass_, model)
    if after is None or (broken is None and after.fingerprint == model.fingerprint):
        return broken
    expected = run(model.proto, given, name="the piece")
    if broken is not None:
        return broken
    inner = Outline(model)
    try:
        absent = [name for name in after.inputs if name not in given]
        steps = Steps(inner, given, absent)
        fed = {name: steps.get(name) if name in absent else given[name] for name in after.inputs}
        got = as_captured(after.proto, run(after.proto, fed, name=f"what pass '{pass_.name}' leaves"))
    except GraphSurgeryError as error:
        return Break("invalid", "", str(error), after)
    found = [difference(n, expected[n], got[n], tolerances, figures=True) for n in expected if n in got]
    failed = [report for report in found if report is not None and report.verdict == "failed"]
    reports = (*_missing(pass_, model, after), *failed)
    return Break("difference", "", reports[0].explain(), after, reports) if reports else None


def _missing(pass_: Pass, model: Model, after: Model) -> list[TensorReport]:
    """Report the outputs that a pass has lost which must keep them."""
    lost = [name for name in model.outputs if name not in after.outputs] if pass_.keeps_outputs else []
    return [TensorReport(name, "failed", "it is no output any more") for name in lost]


def _apply(pass_: Pass, model: Model) -> tuple[Break | None, Model | None]:
    """Apply a pass; return how it breaks already without anything being run, and what it makes of the model."""
    try:
        after = apply_pass(pass_, model).model
    except GraphSurgeryError as error:
        cause = error.__cause__
        if cause is None or isinstance(cause, GraphSurgeryError):
            return Break("stop", re.sub(r"'[^']*'|\d+", "", str(error)), str(error)), None
        return Break("crash", type(cause).__name__, str(error)), None
    try:
        after.check(f"what pass '{pass_.name}' leaves")
    except ModelError as error:
        return Break("invalid", "", str(error), after), after
    return None, after


def _does_not_load(model: Model, after: Model) -> Break | None:
    """Say why ONNX Runtime refuses a model that it took before the pass."""
    try:
        Session(after.proto, name="what the pass leaves")
    except ModelError as error:
        Session(model.proto, name="the model")
        return Break("invalid", "", str(error), after)
    return None
