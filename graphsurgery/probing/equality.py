"""What an accelerator computed against ONNX Runtime on the CPU, in dB, and in words where its shape is another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from graphsurgery.quantize.sqnr import Noise

Array = npt.NDArray[Any]

# Below so many dB it computes something else. The limits stand where the cases of graphsurgery/targets/measured leave a
# gap: what is taken has 38 and more in float16, and 15 and more in integers, where a comparison or a cast turns over by
# one step of its input; what is wrong has 2.6 at the best in float16, and 8.3 in integers.
EQUAL_FROM = {"float16": 30.0, "int8": 12.0, "a16w8": 15.0}
_USUAL = 15.0


@dataclass(frozen=True)
class Equality:
    """`decibels` of the output that is off most, infinite where all are equal; `remark` says what else differs."""

    decibels: float
    remark: str | None = None

    def holds(self, precision: str) -> bool:
        """Whether it is the same, as far as a precision goes."""
        return self.decibels >= EQUAL_FROM.get(precision, _USUAL)


def compare(expected: Mapping[str, Array], computed: Mapping[str, Array], *, unordered: bool = False) -> Equality:
    """Compare the outputs of a model, as sets along the last axis where they are `unordered`.

    One that has more along an axis than is expected is compared where both have it. What fills it up is told: an NMS
    that can't give out less than it was declared to repeats its last index.
    """
    noise, remarks = Noise(), []
    for name, wanted in expected.items():
        got = np.asarray(computed[name])
        if got.shape != wanted.shape:
            cut, remark = _filled(wanted, got)
            remarks.append(remark)
            if cut is None:
                return Equality(-np.inf, remark)
            got = cut
        if unordered:
            wanted, got = np.sort(wanted, axis=-1), np.sort(got, axis=-1)
        if wanted.dtype == np.bool_:  # as -1 and 1: where all are false they would have no power
            wanted, got = 2.0 * wanted - 1, 2.0 * got - 1
        noise.add({name: wanted}, {name: got}, None)
    known = noise.decibels() if noise.signal else {}
    return Equality(min(known.values(), default=np.inf), "; ".join(dict.fromkeys(remarks)) or None)


def _filled(wanted: Array, got: Array) -> tuple[Array | None, str]:
    """Return the part of an output that is expected, and what stands behind it."""
    longer = [axis for axis in range(min(wanted.ndim, got.ndim)) if wanted.shape[axis] != got.shape[axis]]
    if wanted.ndim != got.ndim or len(longer) != 1 or got.shape[longer[0]] < wanted.shape[longer[0]]:
        return None, f"its shape is {list(got.shape)}, not {list(wanted.shape)}"
    axis = longer[0]
    count = wanted.shape[axis]
    kept, rest = np.split(got, [count], axis=axis)
    told = f"{got.shape[axis]} rows where there are {count}"
    if count and np.array_equal(rest, np.repeat(np.take(kept, [-1], axis=axis), rest.shape[axis], axis=axis)):
        return kept, f"{told}: the last one is repeated"
    same = rest.size and (rest == rest.flat[0]).all()
    return kept, f"{told}: the rest is {rest.flat[0]}" if same else f"{told}: the rest is something else"
