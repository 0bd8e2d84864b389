"""What a Resize or an Upsample does, whichever operator set it is written in.

    Upsample 7   scales: an attribute             Resize 10   scales: input 1
    Upsample 9   scales: input 1                  Resize 11   roi, scales, sizes: inputs 1, 2, 3; coordinates, rounding
    Resize 18    axes, antialias, keep_aspect_ratio_policy; 19: coordinates half_pixel_symmetric

The operators before 11 have no attributes for coordinates and rounding: they are `asymmetric` and, where the image
grows, `floor`.

A nearest Resize by whole factors repeats elements if output a*q + r (0 <= r < a) comes from input q. Where it comes
from, and what rounds that to q:

    asymmetric              q + r/a                          floor; round_prefer_floor for a = 2 (q + 0.5)
    half_pixel              q + (r + 0.5)/a - 0.5            both round_prefer_*: never half a pixel away from q
    pytorch_half_pixel, half_pixel_symmetric                 the same for a whole a
    tf_half_pixel_for_nn    q + (r + 0.5)/a                  floor
    align_corners           (a*q + r)(n - 1)/(a*n - 1)       both round_prefer_* for a = 2; in float32 up to n = 1024

onnxruntime agrees with each line of this table, in operator sets 11 to 23, and with no other pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import inf

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, constant
from graphsurgery.operators.axes import normalised
from graphsurgery.operators.operands import optional
from graphsurgery.operators.requirements import require_shape
from graphsurgery.rewrite import Editor, Refuse

_BEFORE_11 = ("x", "scales")
_SINCE_11 = ("x", "roi", "scales", "sizes")
_BOTH_ROUNDS = {"round_prefer_floor": inf, "round_prefer_ceil": inf}
# By coordinates and rounding: the largest factor for which it is plain repetition (see above).
_REPEATS: dict[str, dict[str, float]] = {
    "asymmetric": {"floor": inf, "round_prefer_floor": 2},
    "half_pixel": _BOTH_ROUNDS,
    "pytorch_half_pixel": _BOTH_ROUNDS,
    "half_pixel_symmetric": _BOTH_ROUNDS,
    "tf_half_pixel_for_nn": {"floor": inf},
    "align_corners": {"round_prefer_floor": 2, "round_prefer_ceil": 2},
}
# With align_corners the position comes as close to q - 0.5 as 1 / 4n, which a float32 near n can't tell for larger n.
_LARGEST_ALIGNED = 1024


def mode(node: gs.Node) -> str:
    """Return `nearest`, `linear` or `cubic`."""
    return str(attribute(node, "mode", "nearest"))


def coordinates(node: gs.Node, edit: Editor) -> str:
    """Return how an output's position becomes one in the input (`coordinate_transformation_mode`)."""
    return "asymmetric" if edit.opset < 11 else str(attribute(node, "coordinate_transformation_mode", "half_pixel"))


def rounding(node: gs.Node, edit: Editor) -> str:
    """Return how a nearest Resize rounds that position (`nearest_mode`)."""
    return "floor" if edit.opset < 11 else str(attribute(node, "nearest_mode", "round_prefer_floor"))


def given(node: gs.Node, name: str, edit: Editor) -> gs.Tensor | None:
    """Return the input `name` (roi, scales, sizes); None where it is omitted."""
    names = _BEFORE_11 if edit.opset < 11 else _SINCE_11
    return optional(node, names.index(name)) if name in names else None


def factors(node: gs.Node, edit: Editor) -> tuple[Fraction, ...]:
    """Return by how much each axis grows; raise Refuse where that can't be told.

    From `scales` as they are written, from `sizes` as output size by input size. A factor is exact: a float is a
    fraction, too. Formula: the specification of Resize.
    """
    if coordinates(node, edit) == "tf_crop_and_resize":
        raise Refuse("it crops as well (tf_crop_and_resize)")
    scales, sizes = _values(node, "scales", edit), _values(node, "sizes", edit)
    if scales is None or sizes is None:
        raise Refuse("its scales or sizes are not constant")
    if bool(scales) == bool(sizes):
        raise Refuse("it has both scales and sizes, or neither")
    if not all(np.isfinite(value) and value > 0 for value in (*scales, *sizes)):
        raise Refuse("its scales or sizes are no positive numbers")
    # even where it keeps the sizes as they are, onnxruntime 1.31 ignores those of negative axes then
    if attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Refuse("it keeps the aspect ratio, so its output need not have the sizes that are written")
    if scales and "axes" not in node.attrs:
        return tuple(map(Fraction, scales))
    shape = require_shape(node.inputs[0], edit)
    axes = normalised(attribute(node, "axes", range(len(shape))), len(shape))
    if axes is None or len(axes) != len(scales or sizes):
        raise Refuse("its axes don't fit its scales, its sizes or its input")
    if scales:
        return _spread(axes, list(map(Fraction, scales)), len(shape))
    ratios = []
    for axis, size in zip(axes, sizes, strict=True):
        before = shape[axis]
        if not before:
            raise Refuse(f"it is given by sizes, and the size of axis {axis} before is not known")
        ratios.append(Fraction(int(size), before))
    return _spread(axes, ratios, len(shape))


def repeats(node: gs.Node, grown: tuple[Fraction, ...], edit: Editor) -> bool:
    """Whether each element of the input is there `grown` times in the output."""
    how = coordinates(node, edit)
    if max(grown) > _REPEATS.get(how, {}).get(rounding(node, edit), 0):
        return False
    if how != "align_corners":
        return True
    shape = edit.shape(node.inputs[0]) or [None]
    return all(isinstance(size, int) and size <= _LARGEST_ALIGNED for size in shape[2:])


def shown(grown: Sequence[Fraction]) -> str:
    """Return factors as a person writes them: 1 x 1 x 2 x 0.6."""
    return " x ".join(f"{float(factor):.7g}" for factor in grown)


def _spread(axes: Sequence[int], ratios: Sequence[Fraction], rank: int) -> tuple[Fraction, ...]:
    by_axis = dict(zip(axes, ratios, strict=True))
    return tuple(by_axis.get(axis, Fraction(1)) for axis in range(rank))


def _values(node: gs.Node, name: str, edit: Editor) -> list[float] | None:
    """Return the values of `name`: [] where it is omitted or empty, None where it is not constant."""
    if name in node.attrs:
        return [float(value) for value in node.attrs[name]]
    tensor = given(node, name, edit)
    if tensor is None:
        return []
    value = constant(tensor)
    return None if value is None else [float(item) for item in np.ravel(value)]
