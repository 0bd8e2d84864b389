"""How far two tensors are apart: sums over their elements, in float64 and a chunk at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Elements converted to float64 at a time: 256 KB per temporary, however big the tensor is, which a core's cache holds.
_CHUNK = 1 << 15


@dataclass
class Measured:
    """Sums over two tensors of equal shape and dtype, over the places where both are finite."""

    count: int = 0
    max_abs: float = 0.0
    max_rel: float = 0.0
    sum_abs: float = 0.0
    dot: float = 0.0
    reference_squares: float = 0.0
    candidate_squares: float = 0.0
    difference_squares: float = 0.0
    largest: float = 0.0
    lowest: float = math.inf
    highest: float = -math.inf
    constant: bool = True
    nan_added: int = 0
    nan_lost: int = 0
    inf_differs: int = 0

    def add_not_finite(self, reference: Array, candidate: Array) -> None:
        """Count where one side is NaN, or Inf, and the other is not the same."""
        nan, candidate_nan = np.isnan(reference), np.isnan(candidate)
        self.nan_added += int(np.count_nonzero(candidate_nan & ~nan))
        self.nan_lost += int(np.count_nonzero(nan & ~candidate_nan))
        infinite = (np.isinf(reference) | np.isinf(candidate)) & ~nan & ~candidate_nan
        self.inf_differs += int(np.count_nonzero(infinite & (reference != candidate)))

    def add(self, reference: Array, candidate: Array, difference: Array) -> None:
        """Add a chunk of finite float64 values and their absolute differences."""
        if not reference.size:
            return
        self.count += reference.size
        self.max_abs = max(self.max_abs, float(difference.max()))
        self.sum_abs += float(difference.sum())
        room = np.abs(reference)  # one for all temporaries: to take memory anew costs as much as to fill it
        zero = room == 0
        if zero.any():
            room[zero] = np.inf  # what stands there is no share of 0
        self.max_rel = max(self.max_rel, float(np.divide(difference, room, out=room).max()))
        # not by @: BLAS wakes a thread for each core, which takes longer than the sum where the cores are busy
        self.dot += float(np.multiply(reference, candidate, out=room).sum())
        self.reference_squares += float(np.square(reference, out=room).sum())
        self.candidate_squares += float(np.square(candidate, out=room).sum())
        self.difference_squares += float(np.square(difference, out=room).sum())

    def add_zeros(self, count: int) -> None:
        """Add places where both are 0."""
        self.count += count
        self.add_range(np.zeros(1))

    def add_range(self, reference: Array) -> None:
        """Widen the range by a chunk of finite values of the reference."""
        if reference.size:
            self.lowest = min(self.lowest, float(reference.min()))
            self.highest = max(self.highest, float(reference.max()))
            self.largest = max(abs(self.lowest), abs(self.highest))

    def not_finite(self) -> str:
        """Say how NaN and Inf differ; empty if they don't."""
        seen = (
            (self.nan_added, "NaN at {} places where the reference has none"),
            (self.nan_lost, "no NaN at {} places where the reference has one"),
            (self.inf_differs, "Inf at {} places is new, lost, or of the other sign"),
        )
        text = ", ".join(words.format(count) for count, words in seen if count)
        return text.replace(" 1 places", " 1 place")

    @property
    def rms(self) -> float:
        """The root of the mean square of the reference."""
        return math.sqrt(self.reference_squares / self.count) if self.count else 0.0

    @property
    def sqnr_db(self) -> float | None:
        """10 log10(sum reference^2 / sum difference^2); infinite for equal tensors, None where it overflows."""
        if not self.difference_squares:
            return math.inf if not self.max_abs else None
        if not self.reference_squares:
            return -math.inf
        ratio = 10 * (math.log10(self.reference_squares) - math.log10(self.difference_squares))
        return None if math.isnan(ratio) else ratio

    @property
    def cosine(self) -> float | None:
        """The cosine of the angle between the tensors; None where a side is 0 everywhere."""
        lengths = math.sqrt(self.reference_squares) * math.sqrt(self.candidate_squares)
        cosine = self.dot / lengths if 0 < lengths < math.inf else math.nan
        return None if math.isnan(cosine) else min(1.0, max(-1.0, cosine))


def measure(reference: Array, candidate: Array) -> Measured:
    """Sum up two tensors of equal shape and dtype, a chunk at a time."""
    measured = Measured()
    floating = is_float(reference.dtype)
    # Values of the size of float64's limits overflow in the squares; the metrics then say None, not a number.
    with np.errstate(over="ignore", invalid="ignore"):
        for one, other in _chunks(reference, candidate):
            measured.constant = measured.constant and _is_everywhere(reference.flat[0], one)
            if not one.any() and not other.any():  # as most of a pasted mask is
                measured.add_zeros(one.size)
                continue
            if not floating:
                measured.add_range(one.astype(np.float64))
                measured.add(*(part.astype(np.float64) for part in (one, other, _distance(one, other))))
                continue
            one, other = one.astype(np.float64), other.astype(np.float64)
            finite = np.isfinite(one)
            both = finite & np.isfinite(other)
            if both.all():
                measured.add_range(one)
            else:
                measured.add_not_finite(one, other)
                measured.add_range(one[finite])
                one, other = one[both], other[both]
            measured.add(one, other, np.abs(one - other))
    return measured


def _is_everywhere(value: Any, chunk: Array) -> bool:
    return bool(np.all((chunk == value) | ((chunk != chunk) & (value != value))))


def _chunks(reference: Array, candidate: Array) -> Iterator[tuple[Array, Array]]:
    flat, other = reference.reshape(-1), candidate.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        yield flat[start : start + _CHUNK], other[start : start + _CHUNK]


def _distance(reference: Array, candidate: Array) -> Array:
    """Return |a - b| of integers or bools as uint64, which holds every difference of two 64-bit integers."""
    wide = np.int64 if reference.dtype.kind == "i" else np.uint64
    one, other = reference.astype(wide), candidate.astype(wide)
    # In two's complement the wrapped difference of the bit patterns is the true one: larger - smaller >= 0.
    return np.maximum(one, other).view(np.uint64) - np.minimum(one, other).view(np.uint64)


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether elements are floating-point numbers, also those that numpy does not know itself."""
    # ml_dtypes' small floats are of kind "V".
    return dtype.kind == "f" or dtype.name.startswith(("bfloat16", "float8"))
