"""Which rows without partner a tie has exchanged, and which are lost.

A network chooses its proposals from all boxes that it considers: boxes that overlap a better one are left out, and of
the others the best 1,000 are kept. Two runtimes round scores differently. On an image with hardly any object most
scores are below 1e-6, rounding puts them into another order, and up to 40% of the chosen boxes are others. So the
capture holds what the rows are chosen from, with the scores (`row_groups.Worth`), and a row without partner is tied
where one of these explains it:

    at the end   its score is not above the lowest score on the other side, which has no fewer rows
    in place     a row without partner on the other side overlaps it, with a score not below its own

"Not above" and "not below" leave room for the tolerance of `Worth.scores`, taken of the row's own score, or for two
roundings of a probability where that is more. What is computed must be one of the boxes considered, within the
tolerance of the boxes, and has that one's score, so a box that is merely near a good one explains nothing. Rows that
explain each other in place form a set whose best ones on both sides have the same score within that room: a good row
that is lost, or that a worse one has replaced, has nothing to explain it.

Measured on the embedded detector, three images each of seeds 0 to 19, torch against ONNX Runtime: rows lack a partner
in 19 of the 60 images, up to 399 of 1,000. All are explained with a room of 1.1e-7 where the part that chooses is given
the captured scores, and of 1.3e-7 where the whole network runs: ONNX Runtime's Sigmoid is off by up to 6e-8, on either
side. That is no share of the score: most of these are below 1e-7 themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsurgery.detections.row_groups import Worth
from graphsurgery.gate.matched_rows import MIN_IOU, Alignment, RowMatch, overlap
from graphsurgery.gate.tolerances import Tolerance, Tolerances

# Twice what was measured. Probabilities are at most 1, where float32 has steps of 6e-8.
ROUNDING = 2.0**-22
_SHARE = 1e-5  # what scores of one network are off in two runtimes, as a share of themselves

Array = NDArray[Any]


def resolve_ties(
    alignment: Alignment,
    reference: Mapping[str, Array],
    candidate: Mapping[str, Array],
    aside: Mapping[str, Array],
    tolerances: Tolerances,
) -> Alignment:
    """Return the alignment with its ties told apart, and pairs parted that are two of the boxes considered.

    Of `ranked` rows only ties at the end. The alignment itself where `aside` lacks one of the tensors of `Worth`, or
    their shapes don't fit: then no tie is seen.
    """
    worth, name = alignment.group.worth, alignment.group.keys[0]
    if alignment.group.ranked:
        return _ranked(alignment, tolerances.lookup(name, "scores"), tolerances.lookup(name, "boxes"))
    if worth is None or any(each not in aside for each in worth.names):
        return alignment
    boxes, others = reference[name].astype(np.float64), candidate[name].astype(np.float64)
    if not _fits(worth, aside, len(boxes)):
        return alignment
    peak = float(np.abs(boxes[np.isfinite(boxes)]).max(initial=0.0))
    within, _ = tolerances.lookup(name).allows(peak, floating=True)
    considered = Considered(aside[worth.boxes], aside[worth.boxes_scores], within)

    scores = aside[worth.scores].astype(np.float64)
    match = _part(alignment.match, boxes, others, considered)
    others_scores = np.full(len(others), np.nan)
    others_scores[match.candidate] = scores[match.reference]
    others_scores[match.extra] = considered.scores_of(others[match.extra])
    if not match.unmatched:
        return replace(alignment, match=match)

    room = tolerances.lookup(worth.scores)
    missing, extra = scores[match.missing], others_scores[match.extra]
    near = overlap(boxes[match.missing], others[match.extra]) >= MIN_IOU
    tied_missing = _tied(missing, extra, near, others_scores, len(others) >= len(boxes), room)
    tied_extra = _tied(extra, missing, near.T, scores, len(boxes) >= len(others), room)
    return replace(alignment, match=match, tied_missing=match.missing[tied_missing], tied_extra=match.extra[tied_extra])


def _ranked(alignment: Alignment, room: Tolerance, room_of_boxes: Tolerance) -> Alignment:
    """Return the alignment with its ties at the end told apart, by the scores that the rows themselves have."""
    scores, others = alignment.captured.scores, alignment.computed.scores
    if scores is None or others is None:
        return alignment
    scores, others = scores.astype(np.float64), others.astype(np.float64)
    match = _part_at_the_end(alignment, scores, others, room_of_boxes)
    if not match.unmatched:
        return alignment
    nobody = np.zeros((len(match.missing), 0), np.bool_), np.zeros((len(match.extra), 0), np.bool_)
    missing = _tied(scores[match.missing], others[:0], nobody[0], others, len(others) >= len(scores), room)
    extra = _tied(others[match.extra], scores[:0], nobody[1], scores, len(scores) >= len(others), room)
    return replace(alignment, match=match, tied_missing=match.missing[missing], tied_extra=match.extra[extra])


def _part_at_the_end(alignment: Alignment, scores: Array, others: Array, room: Tolerance) -> RowMatch:
    """Part the pairs whose boxes are further apart than their tolerance, where both scores are the lowest there is.

    They overlap, as boxes of neighbouring cells do, and a tie has kept one for the other. The lowest but for a
    rounding: the tolerance of scores would excuse boxes that are wrong.
    """
    match, boxes = alignment.match, alignment.captured.boxes
    if not len(match.reference) or len(scores) != len(others) or np.isnan([*scores, *others]).any():
        return match
    within, _ = room.allows(float(np.abs(boxes[np.isfinite(boxes)]).max(initial=0.0)), floating=True)
    apart = _apart(boxes[match.reference], alignment.computed.boxes[match.candidate]) > within
    lowest = min(scores.min(), others.min())
    highest = np.maximum(scores[match.reference], others[match.candidate])
    return _parted(match, np.flatnonzero(apart & (highest <= lowest + max(ROUNDING, _SHARE * lowest))))


class Considered:
    """All boxes [M,4] that rows were chosen from, with their scores [M]; `within` is how far off a row may be."""

    def __init__(self, boxes: Array, scores: Array, within: float) -> None:
        order = np.argsort(boxes[:, 0], kind="stable")
        self._boxes, self._scores = boxes[order].astype(np.float64), scores[order].astype(np.float64)
        self.within = within

    def scores_of(self, rows: Array) -> Array:
        """Return the score of each row [N,4], the lowest where several boxes are the same; NaN where none is it."""
        found = np.full(len(rows), np.nan)
        first = np.searchsorted(self._boxes[:, 0], rows[:, 0] - self.within, "left")
        last = np.searchsorted(self._boxes[:, 0], rows[:, 0] + self.within, "right")
        for index, (start, stop) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
            same = _apart(self._boxes[start:stop], rows[index]) <= self.within
            found[index] = self._scores[start:stop][same].min(initial=np.inf) if same.any() else np.nan
        return found


def _part(match: RowMatch, boxes: Array, others: Array, considered: Considered) -> RowMatch:
    """Part the pairs that are further apart than the tolerance, where what was computed is another box considered.

    They overlap, and a tie may have left out one for the other. A pair whose second is no such box is left to the
    comparison of values, which says how far off it is.
    """
    apart = np.flatnonzero(_apart(boxes[match.reference], others[match.candidate]) > considered.within)
    parted = apart[~np.isnan(considered.scores_of(others[match.candidate[apart]]))]
    return _parted(match, parted)


def _parted(match: RowMatch, pairs: Array) -> RowMatch:
    """Return the match without some of its pairs, whose rows have no partner then."""
    if not len(pairs):
        return match
    return RowMatch(
        np.delete(match.reference, pairs),
        np.delete(match.candidate, pairs),
        np.sort(np.concatenate([match.missing, match.reference[pairs]])),
        np.sort(np.concatenate([match.extra, match.candidate[pairs]])),
    )


def _tied(rows: Array, others: Array, near: Array, every: Array, full: bool, room: Tolerance) -> Array:
    """Tell which rows of one side, given by their scores, a tie explains.

    `others` are the scores of the rows without partner on the other side, `near[i, j]` whether row i overlaps the j-th
    of these, `every` the scores of all rows over there, and `full` whether there are enough of them.
    """
    lowest = np.nanmin(every) if full and not np.isnan(every).all() else -np.inf
    allowed = np.array([max(ROUNDING, room.allows(score, floating=True)[0]) for score in rows.tolist()])
    at_the_end = rows <= lowest + allowed
    in_place = (near & (others[None, :] >= (rows - allowed)[:, None])).any(axis=1)
    tied: Array = at_the_end | in_place
    return tied


def _apart(boxes: Array, others: Array) -> Array:
    apart: Array = np.abs(boxes - others).max(axis=-1, initial=0.0)
    return apart


def _fits(worth: Worth, aside: Mapping[str, Array], rows: int) -> bool:
    boxes, scores = aside[worth.boxes], aside[worth.boxes_scores]
    shapes = (aside[worth.scores].shape, boxes.shape, scores.shape)
    return shapes == ((rows,), (len(boxes), 4), (len(boxes),))
