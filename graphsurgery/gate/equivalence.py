"""Are two sets of tensors equal, within tolerances? Names, shapes and dtypes first, then every value.

A tensor's verdict is `passed`, `failed`, or `inconclusive`: it agrees, but with a reference that is empty or
the same value everywhere, which proves nothing. Detections and proposals are compared as sets (`matched_rows`), and
a tensor that holds several things by its columns (`columns`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

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
from graphsurgery.gate.tolerances import Kind, Limit, Tolerances
from graphsurgery.gate.verdicts import Comparison, TensorReport, off, rank, round_down

Array = NDArray[Any]


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
    return max(reports, key=rank)


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
            return replace(report, verdict="failed", reason=off(measured.max_abs, allowed))
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
        reason = f"allowed {round_down(allowed)} is as wide as all of the reference: a constant would pass"
        return replace(report, reason=reason)
    return report


def _of_column(
    name: str, reference: Array, candidate: Array, column: Piece, allowed: float, needed: float
) -> TensorReport:
    """Return the report of a column that is off by more than its own range allows."""
    report = _report(measure(column.of(reference), column.of(candidate)), name, allowed, "absolute")
    assert report.max_abs is not None
    reason = f"{off(report.max_abs, allowed)} there, whose range is its own"
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
