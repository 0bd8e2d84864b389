"""Are two sets of tensors equal, within tolerances? Names, shapes and dtypes first, then every value.

A tensor's verdict is `passed`, `failed`, or `inconclusive`: it agrees, but with a reference that is empty or
the same value everywhere, which proves nothing. Detections and proposals are compared as sets (`matched_rows`), and
a tensor that holds several things by its columns (`columns`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from graphsurgery.detections.row_groups import Group
from graphsurgery.detections.views import Column
from graphsurgery.errors import InputError
from graphsurgery.gate.columns import ROUNDING, Piece, Roles, by_role, far_off
from graphsurgery.gate.matched_rows import Alignment, align
from graphsurgery.gate.metrics import Measured, is_float, measure
from graphsurgery.gate.pasted_masks import paste_anew
from graphsurgery.gate.ties import resolve_ties
from graphsurgery.gate.tolerances import DEFAULT_TOLERANCE, Kind, Limit, Tolerance, Tolerances

__all__ = [
    "DEFAULT_TOLERANCE",
    "Comparison",
    "Group",
    "TensorReport",
    "Tolerance",
    "Tolerances",
    "Verdict",
    "compare",
    "merge",
]

Array = NDArray[Any]
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
            line += f": {self.reason or _off(self.max_abs, self.allowed)}"
        else:
            line += f": {self.reason or self.verdict}"
        if self.verdict != "failed" or self.needed is None:
            return line
        if self.asked_db is not None and self.sqnr_db is not None and self.sqnr_db >= 0:
            return f"{line} (smallest tolerance that would pass: {{sqnr: {_round_down(self.sqnr_db)}}})"
        needed = _round_up(self.needed)
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
            if known is None or _rank(report) > _rank(known):
                worst[report.name] = replace(report, sample=sample)
    return Verdict(tuple(worst.values()), tuple(notes), tuple(samples))


def _rank(report: TensorReport) -> tuple[int, tuple[int, float, float]]:
    return _RANK[report.verdict], report.severity


def compare(
    reference: Mapping[str, Array],
    candidate: Mapping[str, Array],
    tolerances: Tolerances,
    groups: Sequence[Group] = (),
    aside: Mapping[str, Array] | None = None,
    roles: Roles | None = None,
) -> Comparison:
    """Compare every tensor of two sets; a tensor that only one of them holds has failed.

    The rows of a group are matched first, where both sides hold its keys. Rows without partner, beyond those that a
    tie of scores explains and those that the tolerances let go, fail the group's boxes; apart from that its tensors are
    judged by the pairs. `aside` holds captured tensors that are not compared: what rows are worth (`Group.worth`),
    without which no tie is seen, and masks to paste (`Group.pasted`). `roles` say what columns are: each is
    compared by itself.

    Raises InputError for anything but plain arrays of numbers, bools or strings.
    """
    for side, tensors in (("reference", reference), ("candidate", candidate)):
        for name, tensor in tensors.items():
            _require_plain(f"{side} {name!r}", tensor)
    notes: list[str] = []
    aligned: dict[str, Alignment] = {}
    lost: dict[str, str] = {}
    for group in groups:
        alignment = align(reference, candidate, group)
        if alignment:
            alignment = resolve_ties(alignment, reference, candidate, aside or {}, tolerances)
            aligned = {**dict.fromkeys(alignment.names, alignment), **aligned}
            seen, failure = _judge_rows(alignment, reference, candidate, tolerances)
            notes += seen
            if failure:
                lost[alignment.group.keys[0]] = failure

    reports = []
    for name in reference:
        if name not in candidate:
            reports.append(TensorReport(name, "failed", "missing: it was captured but not computed"))
            continue
        pair = reference[name], candidate[name]
        if name in aligned:
            pair = aligned[name].select(name, *pair)
        columns = (roles or {}).get(name, ())
        report = _compare_tensor(name, *pair, tolerances, columns)
        if report.verdict == "failed" and name in aligned and aligned[name].pastes(name):
            pair = paste_anew(aligned[name], reference, candidate, aside or {}, tolerances)
            report = _compare_tensor(name, *pair, tolerances, columns)
        if name in lost:
            also = f"; besides, {report.reason}" if report.verdict == "failed" else ""
            report = replace(report, verdict="failed", reason=lost[name] + also, needed=None)
        reports.append(report)
    extra = [name for name in candidate if name not in reference]
    reports += [TensorReport(name, "failed", "extra: it was computed but not captured") for name in extra]
    return Comparison(tuple(reports), tuple(notes))


def _judge_rows(
    alignment: Alignment, reference: Mapping[str, Array], candidate: Mapping[str, Array], tolerances: Tolerances
) -> tuple[list[str], str]:
    """Return notes about the rows of a group, and why the group failed, if it did."""
    match, noun, boxes = alignment.match, alignment.group.noun, alignment.group.keys[0]
    allowed = tolerances.may_lack_partner(boxes)
    notes = []
    if match.moved:
        notes.append(f"{noun}: order differs, {match.moved} of {len(match.reference)} are at another place")
    if not match.unmatched:
        return notes, ""
    if alignment.tied:
        captured, computed = len(alignment.tied_missing), len(alignment.tied_extra)
        tie = f"ties of scores put {computed} others in the place of {captured} of {len(alignment.captured.boxes)}"
        notes.append(f"{noun}: {tie}")
    text = alignment.describe_unmatched()
    if alignment.unexplained > allowed:
        return notes, f"{text}, where {allowed} may have none" if allowed else text
    broken = alignment.unmatched_not_finite(reference, candidate)
    if broken:
        return notes, f"NaN or Inf in {broken} of {noun} without partner" + (f": {text}" if text else "")
    return [*notes, f"{text}, where {allowed} may have none"] if text else notes, ""


def _compare_tensor(
    name: str, reference: Array, candidate: Array, tolerances: Tolerances, columns: Sequence[Column] = ()
) -> TensorReport:
    """Compare two tensors, by their pieces where there are some: then the report is that of the worst one."""
    pieces = by_role(reference.shape, columns) if candidate.shape == reference.shape else []
    if not pieces:
        return _compare_values(name, reference, candidate, tolerances.limit(name))
    reports = [
        replace(
            _compare_values(name, piece.of(reference), piece.of(candidate), tolerances.limit(name, piece.role)),
            columns=str(piece),
        )
        for piece in pieces
    ]
    return max(reports, key=_rank)


def _compare_values(name: str, reference: Array, candidate: Array, limit: Limit) -> TensorReport:
    if candidate.shape != reference.shape:
        return TensorReport(name, "failed", f"shape {candidate.shape} where {reference.shape} was captured")
    seen, captured = _dtype_name(candidate.dtype), _dtype_name(reference.dtype)
    if seen != captured:
        return TensorReport(name, "failed", f"dtype {seen} where {captured} was captured")
    if reference.dtype.kind in "SUT":
        return _compare_strings(name, reference, candidate)
    measured = measure(reference, candidate)
    floating = is_float(reference.dtype)
    allowed, kind = limit.allows(measured.largest, floating=floating)
    report = _report(measured, name, allowed, kind)
    different = measured.not_finite()
    if different:
        return replace(report, verdict="failed", reason=different, needed=None)
    if measured.max_abs > allowed:
        asked = limit.asks_sqnr(measured.largest, measured.rms) if floating else None
        if asked is None or report.sqnr_db is None:
            return replace(report, verdict="failed", reason=_off(measured.max_abs, allowed))
        report = replace(report, asked_db=asked)
        if report.sqnr_db is None or report.sqnr_db < asked:
            return replace(report, verdict="failed")
    elif limit.share_of_column is not None and measured.max_abs > ROUNDING * measured.largest:
        found = far_off(reference, candidate, limit.share_of_column)
        if found is not None:
            return _of_column(name, reference, candidate, *found, needed=measured.max_abs)
    if not reference.size:
        return replace(report, verdict="inconclusive", reason="there is nothing to compare: it is empty")
    if measured.constant:
        value = reference.flat[0]
        return replace(report, verdict="inconclusive", reason=f"the reference is {value} everywhere")
    if 0 <= measured.highest - measured.lowest <= allowed and allowed:
        reason = f"allowed {_round_down(allowed)} is as wide as all of the reference: a constant would pass"
        return replace(report, reason=reason)
    return report


def _of_column(
    name: str, reference: Array, candidate: Array, column: Piece, allowed: float, needed: float
) -> TensorReport:
    """Return the report of a column that is off by more than its own range allows."""
    report = _report(measure(column.of(reference), column.of(candidate)), name, allowed, "absolute")
    assert report.max_abs is not None
    reason = f"{_off(report.max_abs, allowed)} there, whose range is its own"
    return replace(report, verdict="failed", reason=reason, needed=needed, columns=str(column))


def _compare_strings(name: str, reference: Array, candidate: Array) -> TensorReport:
    different = int(np.count_nonzero(reference != candidate))
    if different:
        return TensorReport(name, "failed", f"{different} of {reference.size} strings differ")
    if not reference.size or bool(np.all(reference == reference.flat[0])):
        return TensorReport(name, "inconclusive", "the reference is one value everywhere, or empty")
    return TensorReport(name, "passed")


def _report(measured: Measured, name: str, allowed: float, kind: Kind) -> TensorReport:
    if not measured.count:
        return TensorReport(name, "passed", allowed=allowed, needed=0.0, needed_kind=kind)
    return TensorReport(
        name,
        "passed",
        max_abs=measured.max_abs,
        max_rel=measured.max_rel,
        mean_abs=measured.sum_abs / measured.count,
        cosine=measured.cosine,
        sqnr_db=measured.sqnr_db,
        allowed=allowed,
        needed=_share(measured.max_abs, 1.0 if kind == "absolute" else measured.largest),
        needed_kind=kind,
    )


def _share(value: float, whole: float) -> float | None:
    """Return the smallest x with x * whole >= value, up to a rounding; None if there is none."""
    if not value:
        return 0.0
    share = value / whole if whole else math.inf
    while share < math.inf and share * whole < value:
        share = math.nextafter(share, math.inf)
    return share if share < math.inf else None


def _require_plain(place: str, tensor: object) -> None:
    # A masked array would hide its masked differences; np.memmap is an array on disk and nothing more.
    if type(tensor) not in (np.ndarray, np.memmap):
        raise InputError(f"{place} is a {type(tensor).__name__}: give a plain numpy array")
    dtype = np.asarray(tensor).dtype
    number = (dtype.kind in "biu" or is_float(dtype)) and dtype.itemsize <= 8
    if not number and dtype.kind not in "SUT":
        raise InputError(f"{place} has dtype {dtype}: give numbers of at most 64 bits, bools or strings")


def _dtype_name(dtype: np.dtype[Any]) -> str:
    """Name a dtype whatever its byte order, and text whatever its length."""
    return {"S": "bytes", "U": "string", "T": "string"}.get(dtype.kind, dtype.name)


def _noisy(sqnr_db: float, asked_db: float) -> str:
    return f"SQNR {_round_down(sqnr_db)} dB where {_round_up(asked_db)} dB is asked"


def _off(max_abs: float, allowed: float) -> str:
    return f"{_round_up(max_abs)} off where {_round_down(allowed)} is allowed"


def _round_up(value: float) -> str:
    """Write four digits, never less than the value: what a message proposes must pass."""
    return f"{float(Context(prec=4, rounding=ROUND_CEILING).create_decimal(repr(float(value)))):.4g}"


def _round_down(value: float) -> str:
    # by way of repr: what the user wrote as 0.3 is a float a little below
    return f"{float(Context(prec=4, rounding=ROUND_FLOOR).create_decimal(repr(float(value)))):.4g}"
