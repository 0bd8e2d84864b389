"""Values of an image at points, written in operators that every operator set from 11 on has.

A point lies between rows and columns: each has a tap, or a few, an index and a weight. The value is the sum over all
pairs of a row's and a column's tap, of the image there times both weights.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphsurgery.graph.expansion import Tensor, Writer

MODES = ("bilinear", "nearest", "bicubic")
PADDING = ("zeros", "border", "reflection")
_CUBIC = -0.75  # PyTorch's a, of Keys' cubic convolution

Tap = tuple[Tensor, Tensor]


def sampled(op: Writer, image: Tensor, grid: Tensor, mode: str, padding: str, align_corners: bool) -> Tensor:
    """Return `image` [N, C, H, W] at the points of `grid` [N, h, w, 2], as PyTorch's grid_sample does: [N, C, h, w].

    Both are tensors of the model; it is computed in float32.
    """
    channels, height, width = op.sizes(image, 1, 2, 3)
    count, out_height, out_width = op.sizes(grid, 0, 1, 2)
    points = op.float32(grid)
    columns = _taps(op, op.Gather(points, 0, axis=3), op.cast(width, "float32"), mode, padding, align_corners)
    rows = _taps(op, op.Gather(points, 1, axis=3), op.cast(height, "float32"), mode, padding, align_corners)
    flat = op.Reshape(op.float32(image), [0, 0, height * width])  # not -1: there may be none
    total = None
    for row, row_weight in rows:
        for column, column_weight in columns:
            index = op.Reshape(row * op.cast(width, "int32") + column, [0, 1, out_height * out_width])
            weight = op.Reshape(row_weight * column_weight, [0, 1, out_height * out_width])
            there = op.GatherElements(flat, op.Expand(index, [count, channels, out_height * out_width]), axis=2)
            total = there * weight if total is None else total + there * weight
    return op.like(op.Reshape(total, [0, 0, out_height, out_width]), image)


def _taps(op: Writer, points: Tensor, size: Tensor, mode: str, padding: str, align_corners: bool) -> Sequence[Tap]:
    """Return where along one axis of `size` to look, and the weight of what is there; `points` are -1 to 1."""
    place = (points + 1.0) * 0.5 * (size - 1.0) if align_corners else ((points + 1.0) * size - 1.0) * 0.5
    if mode != "bicubic":  # its taps are brought inside one by one
        place = _inside(op, place, size, padding, align_corners)
    if mode == "nearest":
        return [_tap(op, op.Round(place), op.constant(1.0), size)]
    first = op.Floor(place)
    part = place - first
    if mode == "bilinear":
        weights = {0: op.Sub(1.0, part), 1: part}
    else:
        weights = {step: _cubic(op, op.Abs(part - float(step)), step in (0, 1)) for step in (-1, 0, 1, 2)}
    taps = []
    for step, weight in weights.items():
        index = first + float(step)
        if mode == "bicubic":
            index = _inside(op, index, size, padding, align_corners)
        taps.append(_tap(op, index, weight, size))
    return taps


def _tap(op: Writer, index: Tensor, weight: Tensor, size: Tensor) -> Tap:
    """Return an index, int32, and its weight. Outside, or where it is no number, both are 0."""
    inside = op.Equal(op.Min(op.Max(index, 0.0), size - 1.0), index)
    return op.cast(op.Where(inside, index, 0.0), "int32"), op.Where(inside, weight, 0.0)


def _inside(op: Writer, place: Tensor, size: Tensor, padding: str, align_corners: bool) -> Tensor:
    """Return a place on the axis as `padding` moves it: zeros leaves it, border clips it, reflection folds it."""
    if padding == "zeros":
        return place
    last = size - 1.0
    if padding == "reflection":
        low, span = (0.0, last) if align_corners else (-0.5, size)
        span = op.Max(span, 1e-30)  # of one pixel, whose corners are one point
        turned = op.Abs(place - low)
        turns = op.Floor(turned / span)
        rest = turned - turns * span
        odd = op.Mod(turns, 2.0, fmod=1)
        place = op.Where(op.Equal(odd, 0.0), rest + low, op.Sub(span, rest) + low)
    return op.Min(op.Max(place, 0.0), last)


def _cubic(op: Writer, distance: Tensor, near: bool) -> Tensor:
    """Return Keys' weight of a tap at `distance`: within 1 where it is `near`, else within 2."""
    a = _CUBIC
    if near:
        return (distance * (a + 2.0) - (a + 3.0)) * distance * distance + 1.0
    return ((distance - 5.0) * distance + 8.0) * distance * a - 4.0 * a
