"""Detections and proposals are sets: their rows are paired before they are compared.

Two rows can be partners when their labels are equal and their boxes overlap by an IoU of 0.5 or more.
Partners are taken greedily, cheapest pair first; a pair costs 1 - IoU plus the distance of the scores, so
that near-duplicates are told apart by score. Rows that are equal in place are settled first, then equal costs
go to the lowest index. The order that is there already wins unless the pairs found are cheaper.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsurgery.errors import InputError

MIN_IOU = 0.5

# Boxes closer than this share of the largest coordinate are partners whatever their IoU: the IoU of boxes
# without area is 0, and that of hairline boxes is decided by float32 rounding, 6e-8 of the coordinate.
_SAME_PLACE = 1e-5
_PAIRS_AT_ONCE = 250_000

Array = NDArray[Any]
_Rows = tuple[Array, Array, Array]


@dataclass(frozen=True)
class Worth:
    """The captured tensors that say what rows are worth, which no graph needs to compute.

    `scores` [N] are those of the captured rows; `boxes` [M,4] all that the original chose these rows from, and
    `boxes_scores` [M] what each of them is worth. See `ties`.
    """

    scores: str
    boxes: str
    boxes_scores: str

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all three."""
        return self.scores, self.boxes, self.boxes_scores


@dataclass(frozen=True)
class Pasted:
    """A tensor [N,1,h,w] that is another one, `masks` [N,1,m,m], pasted into pictures at the boxes (`pasted_masks`)."""

    name: str
    masks: str


@dataclass(frozen=True)
class Group:
    """Tensors whose rows (dimension 0) belong together and have no order of their own.

    `keys` name the boxes [N,4], then optionally the labels [N] and the scores [N] that rows are matched by.
    `members` are reordered along with them where they are present. `noun` is what messages call the rows. `worth` says
    where their scores are, where rows of nearly equal score may stand in for each other; `pasted` which member follows
    from the boxes.
    """

    keys: tuple[str, ...]
    members: tuple[str, ...] = ()
    noun: str = "rows"
    worth: Worth | None = None
    pasted: Pasted | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.keys) <= 3:
            raise InputError(f"group {self.keys}: give the names of boxes, or of boxes, labels and scores")


DETECTIONS = Group(
    keys=("boxes", "labels", "scores"),
    members=(
        "masks",
        "masks_pasted",
        "keypoints",
        "keypoints_scores",
        # The mask and keypoint heads run on the final boxes, one row each.
        "mask_features",
        "mask_logits",
        "keypoint_features",
        "keypoint_logits",
    ),
    noun="detections",
    pasted=Pasted("masks_pasted", "masks"),
)
ROIS = Group(
    keys=("proposals",),
    members=("box_features", "class_logits", "box_regression"),
    noun="proposals",
    worth=Worth("proposal_scores", "proposals_considered", "proposals_considered_scores"),
)
DEFAULT_GROUPS = (DETECTIONS, ROIS)


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


def match_rows(reference: Array, candidate: Array) -> RowMatch:
    """Match boxes [N,4] with boxes [M,4] by overlap alone, as for proposals."""
    return _match(_rows([reference]), _rows([candidate]))


def match_detections(reference: Mapping[str, Array], candidate: Mapping[str, Array]) -> RowMatch:
    """Match detections by `boxes` [N,4], `labels` [N] and `scores` [N]; other tensors are not looked at."""
    keys = DETECTIONS.keys
    return _match(_rows([reference[key] for key in keys]), _rows([candidate[key] for key in keys]))


@dataclass(frozen=True, eq=False)
class Alignment:
    """A group found in both sides, its match, and the names of the tensors the match applies to.

    Of the rows without partner `tied_missing` and `tied_extra` are those that a tie has exchanged.
    """

    group: Group
    match: RowMatch
    names: tuple[str, ...]
    tied_missing: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, np.intp))
    tied_extra: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, np.intp))

    @property
    def tied(self) -> int:
        """Number of rows without partner that a tie has exchanged, on both sides together."""
        return len(self.tied_missing) + len(self.tied_extra)

    @property
    def unexplained(self) -> int:
        """Number of rows without partner for which no tie is to blame, on both sides together."""
        return self.match.unmatched - self.tied

    def pastes(self, name: str) -> bool:
        """Whether a tensor follows from the group's boxes by pasting."""
        return self.group.pasted is not None and self.group.pasted.name == name

    def select(self, reference: Array, candidate: Array) -> tuple[Array, Array]:
        """Return the paired rows of a tensor in the reference's order; no copy where nothing changes."""
        if len(self.match.missing):
            reference = reference[self.match.reference]
        if self.match.moved or len(self.match.extra):
            candidate = candidate[self.match.candidate]
        return reference, candidate

    def describe_unmatched(self, reference: Mapping[str, Array], candidate: Mapping[str, Array]) -> str:
        """Count the rows without partner or tie on each side and show the first of each."""
        sides = (
            ("captured", reference, np.setdiff1d(self.match.missing, self.tied_missing)),
            ("computed", candidate, np.setdiff1d(self.match.extra, self.tied_extra)),
        )
        return ", ".join(
            f"{len(rows)} of {len(tensors[self.group.keys[0]])} {side} {self.group.noun}"
            f" {'has' if len(rows) == 1 else 'have'} no partner ({self._describe_row(tensors, rows[0])})"
            for side, tensors, rows in sides
            if len(rows)
        )

    def _describe_row(self, tensors: Mapping[str, Array], row: int) -> str:
        box, *others = (tensors[key][row] for key in self.group.keys)
        words = [f"{word} {value:.4g}" for word, value in zip(("label", "score"), others, strict=False)]
        return ", ".join([*words, f"box [{', '.join(f'{value:.4g}' for value in box)}]"])

    def unmatched_not_finite(self, reference: Mapping[str, Array], candidate: Mapping[str, Array]) -> str | None:
        """Return the first tensor with NaN or Inf in a row without partner, which nothing else would see."""
        for name in self.names:
            for tensor, rows in ((reference[name], self.match.missing), (candidate[name], self.match.extra)):
                if tensor.dtype.kind == "f" and not np.isfinite(tensor[rows]).all():
                    return name
        return None


def align(reference: Mapping[str, Array], candidate: Mapping[str, Array], group: Group) -> Alignment | None:
    """Match the rows of a group; None where a side doesn't hold the group's keys as rows of boxes.

    A member that has not as many rows as the boxes, on either side, is left out: it is compared as it is.
    """
    if not (_holds(group, reference) and _holds(group, candidate)):
        return None
    found = _match(_rows([reference[k] for k in group.keys]), _rows([candidate[k] for k in group.keys]))
    names = tuple(
        name
        for name in dict.fromkeys(group.keys + group.members)
        if name in reference
        and name in candidate
        and reference[name].shape[:1] == reference[group.keys[0]].shape[:1]
        and candidate[name].shape[:1] == candidate[group.keys[0]].shape[:1]
    )
    return Alignment(group, found, names)


def _holds(group: Group, tensors: Mapping[str, Array]) -> bool:
    if any(key not in tensors or tensors[key].dtype.kind not in "biuf" for key in group.keys):
        return False
    boxes, *others = (tensors[key] for key in group.keys)
    return boxes.ndim == 2 and boxes.shape[1] == 4 and all(other.shape == boxes.shape[:1] for other in others)


def _rows(keys: list[Array]) -> _Rows:
    """Complete boxes[, labels[, scores]] to all three; what is not there is 0 for every row."""
    boxes, *others = keys
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InputError(f"boxes of shape {boxes.shape} can't be matched: give an array of shape (N, 4)")
    absent = np.zeros(len(boxes))
    labels = others[0] if others else absent
    scores = others[1] if len(others) > 1 else absent
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
    """Return the IoU of boxes [...,4], raised to 0.5..1 where corners are within `reach` of each other."""
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = sides.clip(min=0).prod(-1)
    union = _area(a) + _area(b) - shared
    iou: Array = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    apart = np.abs(a - b).max(-1)
    if reach > 0:
        iou = np.where(apart <= reach, np.maximum(iou, 1.0 - 0.5 * apart / reach), iou)
    iou[np.isnan(iou)] = 0.0
    iou[_same(a, b).all(-1)] = 1.0
    return iou


def _area(boxes: Array) -> Array:
    area: Array = (boxes[..., 2:] - boxes[..., :2]).clip(min=0).prod(-1)
    return area


def _same(a: Array, b: Array) -> Array:
    same: Array = (a == b) | (np.isnan(a) & np.isnan(b))
    return same
