"""Detections and proposals are sets: their rows are paired before they are compared.

Two rows can be partners when their labels are equal and their boxes overlap by an IoU of 0.5 or more.
Partners are taken greedily, cheapest pair first; a pair costs 1 - IoU plus the distance of the scores, so
that near-duplicates are told apart by score. Rows that are equal in place are settled first, then equal costs
go to the lowest index. The order that is there already wins unless the pairs found are cheaper.

A row of score 0 is no detection: it fills up a list of fixed length, and needs no partner.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsurgery.detections.row_groups import Group, Keys
from graphsurgery.errors import InputError

MIN_IOU = 0.5

# Boxes closer than this share of the largest coordinate are partners whatever their IoU: the IoU of boxes
# without area is 0, and that of hairline boxes is decided by float32 rounding, 6e-8 of the coordinate.
_SAME_PLACE = 1e-5
_PAIRS_AT_ONCE = 250_000

Array = NDArray[Any]
_Rows = tuple[Array, Array, Array]


@dataclass(frozen=True, eq=False)
class RowMatch:
    """Which row of the candidate is which row of the reference.

    `candidate[k]` is the partner of `reference[k]`; `reference` ascends. `missing` are the rows of the
    reference and `extra` those of the candidate without partner, ascending.
    """

    reference: NDArray[np.intp]
    candidate: NDArray[np.intp]
    missing: NDArray[np.intp]
    extra: NDArray[np.intp]

    @property
    def unmatched(self) -> int:
        """Number of rows without partner, on both sides together."""
        return len(self.missing) + len(self.extra)

    @property
    def moved(self) -> int:
        """Number of pairs that are at another place in the candidate, rows without partner not counted."""
        return int(np.count_nonzero(np.argsort(self.candidate) != np.arange(len(self.candidate))))


def overlap(a: Array, b: Array) -> Array:
    """Return the IoU of every box of `a` [N,4] with every box of `b` [M,4], as [N,M]."""
    return _overlap(a.astype(np.float64)[:, None], b.astype(np.float64)[None], 0.0)


@dataclass(frozen=True, eq=False)
class Alignment:
    """A group found in both sides, its match, and the names of the tensors the match applies to.

    `captured` and `computed` are what the rows of the two sides were told apart by. Of the rows without partner
    `tied_missing` and `tied_extra` are those that a tie has exchanged.
    """

    group: Group
    match: RowMatch
    names: tuple[str, ...]
    captured: Keys
    computed: Keys
    tied_missing: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, np.intp))
    tied_extra: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, np.intp))

    @property
    def tied(self) -> int:
        """Number of rows without partner that a tie has exchanged, on both sides together."""
        return len(self.tied_missing) + len(self.tied_extra)

    @property
    def unexplained(self) -> int:
        """Number of rows without partner that are missed: no tie is to blame, and their score is not 0."""
        return len(self._missed_captured) + len(self._missed_computed)

    @property
    def _missed_captured(self) -> Array:
        return _missed(self.match.missing, self.tied_missing, self.captured)

    @property
    def _missed_computed(self) -> Array:
        return _missed(self.match.extra, self.tied_extra, self.computed)

    def pastes(self, name: str) -> bool:
        """Whether a tensor follows from the group's boxes by pasting."""
        return self.group.pasted is not None and self.group.pasted.name == name

    def select(self, name: str, reference: Array, candidate: Array) -> tuple[Array, Array]:
        """Return the paired rows of a tensor in the reference's order; no copy where nothing changes."""
        axis = self.group.axis(name, reference)
        if len(self.match.missing):
            reference = np.take(reference, self.match.reference, axis)
        if self.match.moved or len(self.match.extra):
            candidate = np.take(candidate, self.match.candidate, axis)
        return reference, candidate

    def describe_unmatched(self) -> str:
        """Count the rows that are missed on each side and show the first of each."""
        sides = (
            ("captured", self.captured, self._missed_captured),
            ("computed", self.computed, self._missed_computed),
        )
        return ", ".join(
            f"{len(rows)} of {len(keys.boxes)} {side} {self.group.noun}"
            f" {'has' if len(rows) == 1 else 'have'} no partner ({_describe_row(keys, rows[0])})"
            for side, keys, rows in sides
            if len(rows)
        )

    def unmatched_not_finite(self, reference: Mapping[str, Array], candidate: Mapping[str, Array]) -> str | None:
        """Return the first tensor with NaN or Inf in a row without partner, which nothing else would see."""
        for name in self.names:
            for tensor, rows in ((reference[name], self.match.missing), (candidate[name], self.match.extra)):
                axis = self.group.axis(name, tensor)
                if tensor.dtype.kind == "f" and not np.isfinite(np.take(tensor, rows, axis)).all():
                    return name
        return None


def _missed(rows: Array, tied: Array, keys: Keys) -> Array:
    """Return which of `rows`, those without partner, matter: one of score 0 fills up a list of fixed length."""
    untied = np.setdiff1d(rows, tied)
    return untied if keys.scores is None else untied[keys.scores[untied] != 0]


def _describe_row(keys: Keys, row: int) -> str:
    numbers = (("label", keys.labels), ("score", keys.scores))
    words = [f"{word} {values[row]:.4g}" for word, values in numbers if values is not None]
    return ", ".join([*words, f"box [{', '.join(f'{value:.4g}' for value in keys.boxes[row])}]"])


def align(reference: Mapping[str, Array], candidate: Mapping[str, Array], group: Group) -> Alignment | None:
    """Match the rows of a group; None where a side doesn't hold the group's keys as rows of boxes.

    A member that has not as many rows as the boxes, on either side, is left out: it is compared as it is.
    """
    captured, computed = group.read(reference), group.read(candidate)
    if captured is None or computed is None:
        return None
    names = tuple(
        name
        for name in dict.fromkeys(group.keys + group.members)
        if name in reference
        and name in candidate
        and _count(group, name, reference[name]) == len(captured.boxes)
        and _count(group, name, candidate[name]) == len(computed.boxes)
    )
    return Alignment(group, match_rows(captured, computed), names, captured, computed)


def _count(group: Group, name: str, tensor: Array) -> int | None:
    """Return how many rows a tensor has, None where it has none of the group's."""
    axis = group.axis(name, tensor)
    return tensor.shape[axis] if axis is not None and axis < tensor.ndim else None


def match_rows(captured: Keys, computed: Keys) -> RowMatch:
    """Match rows by their boxes, and by labels and scores where both sides have them.

    Raises InputError for boxes that are not [N,4].
    """
    return _match(_rows(captured), _rows(computed))


def _rows(keys: Keys) -> _Rows:
    """Complete boxes[, labels[, scores]] to all three; what is not there is 0 for every row."""
    boxes = keys.boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InputError(f"boxes of shape {boxes.shape} can't be matched: give an array of shape (N, 4)")
    absent = np.zeros(len(boxes))
    labels = absent if keys.labels is None else keys.labels
    scores = absent if keys.scores is None else keys.scores
    return boxes.astype(np.float64), labels, scores.astype(np.float64)


def _take(rows: _Rows, which: Array) -> _Rows:
    boxes, labels, scores = rows
    return boxes[which], labels[which], scores[which]


def _match(reference: _Rows, candidate: _Rows) -> RowMatch:
    coordinates = np.abs(reference[0][np.isfinite(reference[0])])
    reach = _SAME_PLACE * float(coordinates.max(initial=0.0))
    rows, others = len(reference[0]), len(candidate[0])
    partner = np.full(rows, -1, dtype=np.intp)
    taken = np.zeros(others, dtype=np.bool_)

    diagonal = np.arange(min(rows, others))
    in_order = _cost(_take(reference, diagonal), _take(candidate, diagonal), reach)
    # Nothing is cheaper than these. Without them a thousand padded rows are not a million pairs.
    settled = diagonal[in_order == 0]
    partner[settled] = settled
    taken[settled] = True

    free, others_free = np.flatnonzero(partner < 0), np.flatnonzero(~taken)
    left, right, cost = _pairs(reference, candidate, free, others_free, reach)
    order = np.lexsort((right, left, cost))
    total = 0.0
    for i, j, price in zip(left[order].tolist(), right[order].tolist(), cost[order].tolist(), strict=True):
        if partner[i] < 0 and not taken[j]:
            partner[i], taken[j] = j, True
            total += price

    complete = bool((partner >= 0).all())
    if rows == others and np.isfinite(in_order).all() and (not complete or float(in_order.sum()) <= total):
        partner, taken = diagonal, np.ones(others, dtype=np.bool_)
    paired = np.flatnonzero(partner >= 0)
    return RowMatch(paired, partner[paired], np.flatnonzero(partner < 0), np.flatnonzero(~taken))


def _pairs(reference: _Rows, candidate: _Rows, free: Array, others: Array, reach: float) -> tuple[Array, ...]:
    """List every possible pair of the given rows: rows of the reference, rows of the candidate, costs."""
    columns = _take(candidate, others)
    step = max(1, _PAIRS_AT_ONCE // max(1, len(others)))
    found = [(free[:0], others[:0], np.zeros(0))]
    for start in range(0, len(free), step):
        block = free[start : start + step]
        boxes, labels, scores = _take(reference, block)
        cost = _cost((boxes[:, None], labels[:, None], scores[:, None]), columns, reach)
        i, j = np.nonzero(np.isfinite(cost))
        found.append((block[i], others[j], cost[i, j]))
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def _cost(a: _Rows, b: _Rows, reach: float) -> Array:
    """Return the cost of pairing rows of `a` with rows of `b`, broadcast; Inf where they can't be paired."""
    # NaN and Inf are expected here: such boxes are partners of their equals only.
    with np.errstate(invalid="ignore", over="ignore"):
        overlap = _overlap(a[0], b[0], reach)
        gap = np.abs(a[2] - b[2])
    gap = np.minimum(np.nan_to_num(gap, nan=1.0), 1.0)
    return np.where((overlap >= MIN_IOU) & (a[1] == b[1]), 1.0 - overlap + gap, np.inf)


def _overlap(a: Array, b: Array, reach: float) -> Array:
    """Return the IoU of boxes [...,4], raised to 0.5..1 where corners are within `reach` of each other.

    Coordinate by coordinate: of a million pairs, NumPy takes ten times as long along an axis of four.
    """
    edges = [(a[..., edge], b[..., edge]) for edge in range(4)]
    (left, lefts), (top, tops), (right, rights), (bottom, bottoms) = edges
    width = (np.minimum(right, rights) - np.maximum(left, lefts)).clip(min=0)
    shared = width * (np.minimum(bottom, bottoms) - np.maximum(top, tops)).clip(min=0)
    union = _area(a) + _area(b) - shared
    iou: Array = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    if reach > 0:
        apart = reduce(np.maximum, (np.abs(one - other) for one, other in edges))
        iou = np.where(apart <= reach, np.maximum(iou, 1.0 - 0.5 * apart / reach), iou)
    iou[np.isnan(iou)] = 0.0
    iou[reduce(np.logical_and, (_same(one, other) for one, other in edges))] = 1.0
    return iou


def _area(boxes: Array) -> Array:
    area: Array = (boxes[..., 2:] - boxes[..., :2]).clip(min=0).prod(-1)
    return area


def _same(a: Array, b: Array) -> Array:
    same: Array = (a == b) | (np.isnan(a) & np.isnan(b))
    return same
