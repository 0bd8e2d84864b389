"""What a one-node model is to be like, and the tensors that come of it.

A wish has the name of a fact, an attribute or an input (`targets.facts`) and a value, such as rank 5 or kernel 8. What
an operator's base has no use for is written as an attribute or put into an input; whether it came true is seen when
the facts of the finished node are asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from graphsurgery.probing.one_node import NotBuilt, Operand
from graphsurgery.targets.schema import Scalar

Array = npt.NDArray[Any]

_KINDS = ("type", "types")
_SMALL = 2
# Values are multiples of 1/64, so that float16 holds them: a Ceil must not depend on how it rounds
_FINE = 64
_SCALAR = 0.75  # a number that is alone is none near 0, of which nothing could be told
FLOATS = ("float32", "float16", "float64", "bfloat16")
SEED = 7


@dataclass
class Wishes:
    """The wishes for one node, and those that its base has looked at (`seen`); `unequal` axes differ in size."""

    values: Mapping[str, Scalar]
    unequal: bool = False
    seen: set[str] = field(default_factory=set)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(SEED))

    def get(self, name: str, usual: Any) -> Any:
        """Return the wish of that name, or what is usual."""
        self.seen.add(name)
        return self.values.get(name, usual)

    def number(self, name: str, usual: int) -> int:
        """Return the wish of that name as a whole number. Raises NotBuilt for another one."""
        value = self.get(name, usual)
        if isinstance(value, str) or value != int(value):
            raise NotBuilt(f"{name} {value} is no whole number")
        return int(value)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the elements of what the node computes with."""
        name = next((str(self.get(kind, "")) for kind in _KINDS if self.get(kind, "")), "float32")
        if name == "bfloat16":
            import ml_dtypes

            found: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
            return found
        return np.dtype(name)

    def shape(self, rank: int = 4, *, channels: int = 8, size: int = 8) -> tuple[int, ...]:
        """Return the shape of the first input: [batch, channels, ..., height, width], as many of them as rank says."""
        rank = self.number("ranks", self.number("rank", rank))
        if rank < 0:
            raise NotBuilt(f"there is no rank {rank}")
        channels = self.number("channels", channels)
        more = 2 if self.unequal else 0
        height, width = self.number("height", size + more), self.number("width", size + 2 * more)
        area = self.number("area", 0)
        if area:
            height, width = _split(area)
        batch = self.number("batch", 1)
        if rank < 3:
            return (height, width)[2 - rank :]
        if rank == 3:
            return (batch, channels, width)
        return (batch, channels, *[_SMALL] * (rank - 4), height, width)

    def tensor(self, shape: tuple[int, ...], *, positive: bool = False, dtype: np.dtype[Any] | None = None) -> Array:
        """Return random values; of a float type around 0, or all above 0, else small whole numbers."""
        dtype = self.dtype if dtype is None else dtype
        if dtype == np.bool_:
            return self.rng.integers(0, 2, shape).astype(dtype)
        if dtype.kind in "iu":
            return self.rng.integers(1 if positive else 0, 6, shape).astype(dtype)
        drawn = np.rint(self.rng.standard_normal(shape) * _FINE) / _FINE if shape else np.asarray(_SCALAR)
        return np.asarray(np.abs(drawn) + 0.5 if positive else drawn, np.float32).astype(dtype)

    def data(self, shape: tuple[int, ...], *, positive: bool = False) -> Operand:
        """Return random values that are fed."""
        return Operand(self.tensor(shape, positive=positive))

    def stored(self, shape: tuple[int, ...], *, scale: float = 1.0) -> Operand:
        """Return random values that are stored in the model: weights."""
        values = self.tensor(shape)
        return Operand(values * values.dtype.type(scale) if scale != 1.0 else values, constant=True)


def fixed(values: object, dtype: str = "int64") -> Operand:
    """Return given values that are stored in the model."""
    return Operand(np.asarray(values, dtype), constant=True)


def _split(area: int) -> tuple[int, int]:
    """Return the two factors of an area that are nearest to each other."""
    low = next(each for each in range(int(area**0.5), 0, -1) if area % each == 0)
    return low, area // low
