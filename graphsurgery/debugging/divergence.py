"""What a search for the first difference of two models finds, and how a tensor of one is held against the other's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphsurgery.debugging.levels import Level
from graphsurgery.debugging.stepping import Failure
from graphsurgery.gate.equivalence import compare
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.gate.verdicts import TensorReport
from graphsurgery.graph.outline import Array, Value

_CHUNK = 1 << 16  # elements at a time: they stay in the processor's cache


@dataclass(frozen=True)
class Divergence:
    """A tensor that differs though everything it depends on is equal.

    `path` leads to it through bodies, from outside in. `report` says how far off it is; `failure` why B can't compute
    it at all. `after` are the nearest matched tensors that it depends on, and `between_a`, `between_b` the nodes from
    there on, the writer last. `isolated` is the comparison on A's values of `after`: failed where the difference is
    made in these nodes, passed where they only amplify `drift`, the largest error in `after`. `changes` are what
    tells the two writers apart.
    """

    tensor: str
    path: tuple[str, ...]
    report: TensorReport
    failure: str = ""
    after: tuple[str, ...] = ()
    between_a: tuple[str, ...] = ()
    between_b: tuple[str, ...] = ()
    isolated: TensorReport | None = None
    drift: float | None = None
    changes: tuple[str, ...] = ()
    level: Level | None = field(default=None, compare=False, repr=False)

    @property
    def inherent(self) -> bool | None:
        """Whether the difference is made here; None where that could not be tried."""
        if self.failure:
            return True
        return None if self.isolated is None else self.isolated.verdict == "failed"

    @property
    def place(self) -> str:
        """The way to the tensor: "Loop 'l' iteration 3 > tensor 'x'"."""
        return " > ".join((*self.path, f"tensor '{self.tensor}'"))

    def explain(self) -> str:
        """Say in one line which tensor it is, what writes it, and how far off it is."""
        writers = [nodes[-1] if nodes else "an initializer" for nodes in (self.between_a, self.between_b)]
        by = writers[0] if writers[0] == writers[1] else f"{writers[0]} in A, {writers[1]} in B"
        return f"{self.place} ({by}): {self.report.reason}"

    @property
    def cause(self) -> str:
        """Say in one line whether the difference is made here; empty where that could not be tried."""
        if self.failure or self.inherent is None:
            return ""
        if self.inherent:
            return "made here: on the same values it differs as well"
        drift = "" if self.drift is None else f", which is off by {self.drift:.1e} of its largest value"
        return f"amplified here: on the same values it agrees; look at what is before it{drift}"

    def to_json(self) -> dict[str, Any]:
        """Return everything but `level` as JSON-able values."""
        return {
            "tensor": self.tensor,
            "path": list(self.path),
            "report": self.report.to_json(),
            "failure": self.failure or None,
            "after": list(self.after),
            "between_a": list(self.between_a),
            "between_b": list(self.between_b),
            "inherent": self.inherent,
            "isolated": None if self.isolated is None else self.isolated.to_json(),
            "drift": self.drift,
            "changes": list(self.changes),
        }


@dataclass(frozen=True)
class Bisection:
    """What a search found on one sample, or on all of them where it found nothing.

    `divergences` are independent of one another, in A's order. `outputs` compares the outputs that both models have,
    where that was asked for.
    """

    sample: str
    compared: int
    divergences: tuple[Divergence, ...] = ()
    outputs: tuple[TensorReport, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return {
            "verdict": "different" if self.divergences else "equal",
            "sample": self.sample,
            "compared": self.compared,
            "divergences": [found.to_json() for found in self.divergences],
            "outputs": [report.to_json() for report in self.outputs],
            "notes": list(self.notes),
        }


def difference(
    name: str, one: Value, other: Value, tolerances: Tolerances, *, figures: bool = False
) -> TensorReport | None:
    """Compare a tensor of A with B's; None where it is equal within its tolerance, unless `figures` are wanted."""
    if isinstance(one, list) or isinstance(other, list):
        if not (isinstance(one, list) and isinstance(other, list)) or len(one) != len(other):
            sizes = [f"{len(v)} tensors" if isinstance(v, list) else "a tensor" for v in (one, other)]
            return TensorReport(name, "failed", f"a sequence of {sizes[1]} where A has {sizes[0]}")
        reports = [difference(name, *pair, tolerances, figures=figures) for pair in zip(one, other, strict=True)]
        return max((r for r in reports if r is not None), key=lambda report: report.severity, default=None)
    for what, seen, wanted in (("shape", other.shape, one.shape), ("dtype", other.dtype, one.dtype)):
        if seen != wanted and not (what == "dtype" and one.dtype.kind == other.dtype.kind == "U"):
            shown = [str(list(v)) if isinstance(v, tuple) else str(v) for v in (seen, wanted)]
            return TensorReport(name, "failed", f"of {what} {shown[0]} where A has {shown[1]}")
    if not figures and _near(one, other, tolerances, name):
        return None
    return compare({name: one}, {name: other}, tolerances, ()).tensors[0]


def _near(one: Array, other: Array, tolerances: Tolerances, name: str) -> bool:
    """Tell in single precision whether two tensors are surely equal within their tolerance, which they mostly are."""
    if one.dtype not in (np.float32, np.float64) or not one.size:
        return bool(np.array_equal(one, other))
    flat, twin = one.reshape(-1), other.reshape(-1)
    apart = peak = 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, flat.size, _CHUNK):
            piece = flat[start : start + _CHUNK]
            gap = piece - twin[start : start + _CHUNK]
            largest = float(np.abs(gap, out=gap).max())
            if not largest < np.inf:  # NaN or Inf: judged by their places
                return False
            apart = max(apart, largest)
            peak = max(peak, float(piece.max()), -float(piece.min()))
    allowed, _ = tolerances.lookup(name).allows(peak, floating=True)
    return apart <= 0.999 * allowed or apart == 0.0


def gap(one: Value | Failure, other: Value | Failure) -> float | None:
    """Return the largest difference of two float tensors as a share of the largest value; None for others."""
    if (
        not isinstance(one, np.ndarray)
        or not isinstance(other, np.ndarray)
        or one.dtype.kind != "f"
        or one.shape != other.shape
    ):
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        apart, peak = (float(np.max(np.abs(v), initial=0.0)) for v in (one - other, one))
    share = apart / peak if peak else apart
    return share if np.isfinite(share) else None
