"""What a comparison gave: of a tensor, of all tensors of a sample, of several samples; and how it is said."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from typing import Literal

from graphsurgery.gate.tolerances import Kind

Outcome = Literal["passed", "failed", "inconclusive"]

_RANK: dict[Outcome, int] = {"failed": 2, "passed": 1, "inconclusive": 0}


@dataclass(frozen=True)
class TensorReport:
    """What the comparison of one tensor gave.

    `allowed` is the absolute number used, `asked_db` the SQNR that would do in its place, `needed` the smallest
    tolerance that would pass, of the kind `needed_kind`, None if none would. `max_rel` is the largest
    |difference| / |reference| where the reference isn't 0. `sqnr_db` is 10 log10(sum reference^2 / sum difference^2),
    infinite for equal tensors. The metrics cover the places where both sides are finite; they are None where there is
    nothing to measure, `cosine` also where a side is 0 everywhere. `sample` is set when reports of several
    samples were merged. Where `columns` is set, all of this is of these alone, the furthest off of the tensor.
    """

    name: str
    verdict: Outcome
    reason: str = ""
    max_abs: float | None = None
    max_rel: float | None = None
    mean_abs: float | None = None
    cosine: float | None = None
    sqnr_db: float | None = None
    allowed: float | None = None
    needed: float | None = None
    needed_kind: Kind = "absolute"
    asked_db: float | None = None
    sample: str | None = None
    columns: str = ""

    @property
    def severity(self) -> tuple[int, float, float]:
        """Order reports: failed ones first, then by the share of the allowed number that was used up."""
        if self.max_abs is None or (self.verdict == "failed" and self.needed is None):
            ratio = math.inf if self.verdict == "failed" else 0.0
        elif self.asked_db is not None and self.sqnr_db is not None:
            ratio = 10 ** ((self.asked_db - self.sqnr_db) / 20)
        elif self.allowed:
            ratio = self.max_abs / self.allowed
        else:
            ratio = math.inf if self.max_abs else 0.0
        return (self.verdict == "failed", ratio, self.max_abs or 0.0)

    def explain(self) -> str:
        """Say in one line what was seen, and what tolerance would have passed."""
        line = f"{self.name}{f' of sample {self.sample}' if self.sample is not None else ''}"
        line += f" ({self.columns})" if self.columns else ""
        if self.asked_db is not None and self.sqnr_db is not None:
            line += f": {self.reason or _noisy(self.sqnr_db, self.asked_db)}"
        elif self.max_abs is not None and self.allowed is not None:
            line += f": {self.reason or off(self.max_abs, self.allowed)}"
        else:
            line += f": {self.reason or self.verdict}"
        if self.verdict != "failed" or self.needed is None:
            return line
        if self.asked_db is not None and self.sqnr_db is not None and self.sqnr_db >= 0:
            return f"{line} (smallest tolerance that would pass: {{sqnr: {round_down(self.sqnr_db)}}})"
        needed = round_up(self.needed)
        needed = f"{{relative: {needed}}}" if self.needed_kind == "relative" else needed
        return f"{line} (smallest tolerance that would pass: {needed})"

    def to_json(self) -> dict[str, object]:
        """Return the fields; what JSON can't say (Inf, NaN) is None."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }


@dataclass(frozen=True)
class Comparison:
    """The reports of all tensors, the reference's order first; `notes` say what was seen and did not fail."""

    tensors: tuple[TensorReport, ...]
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Outcome:
        """Failed if any tensor failed, inconclusive if none passed."""
        return max((report.verdict for report in self.tensors), key=_RANK.__getitem__, default="inconclusive")

    @property
    def worst(self) -> TensorReport | None:
        """The tensor furthest beyond its tolerance or closest to it; the first of equals."""
        return max(self.tensors, key=lambda report: report.severity, default=None)

    def explain(self) -> str:
        """Say the verdict in one line, by way of the worst tensor."""
        worst = self.worst
        if worst is None:
            return "inconclusive: there are no tensors to compare"
        if self.verdict != "failed":
            return f"{self.verdict} ({len(self.tensors)} compared); closest to its limit: {worst.explain()}"
        others = sum(report.verdict == "failed" for report in self.tensors) - 1
        return worst.explain() + (f"; {others} more failed" if others else "")

    def to_json(self) -> dict[str, object]:
        """Return verdict, worst tensor, notes and all reports as JSON-able values."""
        return {
            "verdict": self.verdict,
            "worst": self.worst.name if self.worst else None,
            "notes": list(self.notes),
            "tensors": [report.to_json() for report in self.tensors],
        }


@dataclass(frozen=True)
class Verdict(Comparison):
    """A comparison over samples: the worst report of each tensor; `samples` holds each one's verdict."""

    samples: tuple[tuple[str, Outcome], ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return what Comparison returns, and the samples' verdicts."""
        return {**super().to_json(), "samples": [{"id": id_, "verdict": seen} for id_, seen in self.samples]}


def merge(comparisons: Iterable[tuple[str, Comparison]]) -> Verdict:
    """Combine comparisons of several samples: a tensor is inconclusive only if it is so in every sample."""
    worst: dict[str, TensorReport] = {}
    notes: list[str] = []
    samples: list[tuple[str, Outcome]] = []
    for sample, comparison in comparisons:
        samples.append((sample, comparison.verdict))
        notes += [f"sample {sample}: {note}" for note in comparison.notes]
        for report in comparison.tensors:
            known = worst.get(report.name)
            if known is None or rank(report) > rank(known):
                worst[report.name] = replace(report, sample=sample)
    return Verdict(tuple(worst.values()), tuple(notes), tuple(samples))


def rank(report: TensorReport) -> tuple[int, tuple[int, float, float]]:
    """Order reports by verdict, failed ones last and inconclusive ones first, then by severity."""
    return _RANK[report.verdict], report.severity


def _noisy(sqnr_db: float, asked_db: float) -> str:
    return f"SQNR {round_down(sqnr_db)} dB where {round_up(asked_db)} dB is asked"


def off(max_abs: float, allowed: float) -> str:
    """Say how far off something is and may be."""
    return f"{round_up(max_abs)} off where {round_down(allowed)} is allowed"


def round_up(value: float) -> str:
    """Write four digits, never less than the value: what a message proposes must pass."""
    return f"{float(Context(prec=4, rounding=ROUND_CEILING).create_decimal(repr(float(value)))):.4g}"


def round_down(value: float) -> str:
    """Write four digits, never more than the value."""
    # by way of repr: what the user wrote as 0.3 is a float a little below
    return f"{float(Context(prec=4, rounding=ROUND_FLOOR).create_decimal(repr(float(value)))):.4g}"
