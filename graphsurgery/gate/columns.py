"""A tensor piece by piece, where one tolerance for all of it would let too much pass.

Boxes up to 640 and scores up to 1 in one tensor: 1e-4 of its largest magnitude lets a score be off by 0.06. Where the
recipe says what the columns of a tensor are (`detections`), each role is compared by itself, by the tolerance of its
name. Where it doesn't, and no rule of its own names the tensor, columns whose ranges lie far apart are each held
against their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsurgery.detections.views import Column
from graphsurgery.gate.metrics import is_float

Array = NDArray[Any]
Roles = Mapping[str, Sequence[Column]]

# Ranges that differ by more are told apart: a tolerance of 1e-4 would be one of 1e-3 for the smaller.
FAR_APART = 10.0
# The values of a column may come from numbers as large as the tensor's largest, and cancel: 84 roundings of float32
ROUNDING = 1e-5
_MOST_COLUMNS = 1024


@dataclass(frozen=True)
class Piece:
    """Some columns of a tensor: `role` is what the recipe says that they are, empty where it doesn't."""

    columns: tuple[tuple[int, int], ...]
    axis: int
    role: str = ""

    def __str__(self) -> str:
        spans = [f"{first}" if end == first + 1 else f"{first} to {end - 1}" for first, end in self.columns]
        several = len(spans) > 1 or self.columns[0][1] > self.columns[0][0] + 1
        where = f"column{'s' if several else ''} {', '.join(spans[:3])}{', ...' if len(spans) > 3 else ''}"
        return f"{self.role + ', ' if self.role else ''}{where} along axis {self.axis}"

    def of(self, tensor: Array) -> Array:
        """Return the columns of a tensor, as a view where they lie side by side."""
        if len(self.columns) == 1:
            return tensor[(slice(None),) * self.axis + (slice(*self.columns[0]),)]
        return np.concatenate([Piece((span,), self.axis).of(tensor) for span in self.columns], self.axis)


def by_role(shape: Sequence[int], columns: Sequence[Column]) -> list[Piece]:
    """Return the pieces of a tensor of that shape: one for each role, and one of what no role has.

    None where the columns don't fit the shape.
    """
    axes = {column.axis for column in columns}
    axis = axes.pop() if len(axes) == 1 else -1
    if not 0 <= axis < len(shape) or any(column.end > shape[axis] for column in columns):
        return []
    spans: dict[str, list[tuple[int, int]]] = {}
    for column in columns:
        spans.setdefault(column.role, []).append((column.first, column.end))
    covered = np.zeros(shape[axis], np.bool_)
    for first, end in (span for each in spans.values() for span in each):
        covered[first:end] = True
    rest = list(_runs(~covered))
    pieces = [Piece(tuple(each), axis, role) for role, each in spans.items()]
    return pieces + ([Piece(tuple(rest), axis)] if rest else [])


def _runs(wanted: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yield first and end of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], wanted, [False]]).astype(np.int8))).tolist()
    yield from zip(edges[::2], edges[1::2], strict=True)


def far_off(reference: Array, candidate: Array, share: float) -> tuple[Piece, float] | None:
    """Return the column that is furthest beyond `share` of its own range, and what it may be off; None where none is.

    Only where ranges differ by more than ten times, along the axis of the columns: the second of [N, C], of [1, C, N]
    and [1, N, C] the shorter one, else the longer. Not in maps [1, C, H, W]: the channels of a feature map differ by as
    much, and torch and ONNX Runtime differ in a weak one by more than 1e-4 of its own range (seen on SSDLite's heads).
    Each column may be off by a rounding of the tensor's largest magnitude, whatever its own is.
    """
    if not is_float(reference.dtype) or not reference.size:
        return None
    for axis in _axes_of_columns(reference.shape):
        ranges, off = _of_columns(reference, candidate, axis)
        largest = float(ranges.max(initial=0.0))
        seen = ranges[ranges > ROUNDING * largest]
        if not len(seen) or largest <= FAR_APART * float(seen.min()):
            continue
        allowed = np.maximum(share * ranges, ROUNDING * largest)
        worst = int(np.argmax(off / allowed))
        return (Piece(((worst, worst + 1),), axis), float(allowed[worst])) if off[worst] > allowed[worst] else None
    return None


def _axes_of_columns(shape: Sequence[int]) -> list[int]:
    if len(shape) not in (2, 3):
        return []
    axes = sorted((1, 2), key=lambda axis: shape[axis]) if len(shape) == 3 else [1]
    return [axis for axis in axes if 4 < shape[axis] <= _MOST_COLUMNS]


def _of_columns(reference: Array, candidate: Array, axis: int) -> tuple[Array, Array]:
    """Return for each column its largest finite magnitude and its largest finite difference, in float64."""
    one, other = (np.moveaxis(each, axis, 0) for each in (reference, candidate))
    ranges, off = np.zeros(len(one)), np.zeros(len(one))
    with np.errstate(invalid="ignore", over="ignore"):
        for column in range(len(one)):
            a, b = one[column].astype(np.float64), other[column].astype(np.float64)
            finite, apart = np.abs(a), np.abs(a - b)
            ranges[column] = finite[np.isfinite(finite)].max(initial=0.0)
            off[column] = apart[np.isfinite(apart)].max(initial=0.0)
    return ranges, off
