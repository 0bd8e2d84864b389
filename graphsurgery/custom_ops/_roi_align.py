"""RoIAlign as mmcv and CANN mean it, in the operator set at hand.

RoiAlign of operator set 10 takes a box below one cell for one of a cell; `half_pixel`, which operator set 16 brings,
does not. Before that a box that is narrow is aligned column by column, each a box without a width, which RoiAlign
reads in the middle of a cell; one that is low, row by row.

Boxes are [K, 4], `images` [K] says whose they are, features are [N, C, H, W], results [K, C, height, width], all in
float32. `ratio` is how many samples a bin has along one axis, 0 for as many as it has cells; they are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphsurgery.graph.expansion import Tensor, Writer

_HALF_PIXEL = 16

Bins = tuple[int, int]


def split(op: Writer, rois: Tensor) -> tuple[Tensor, Tensor]:
    """Return the boxes and the images of `rois` [K, 5], float32."""
    return op.Slice(rois, [1], [5], [1]), op.cast(op.Gather(rois, 0, axis=1), "int64")


def widened(op: Writer, features: Tensor, boxes: Tensor, images: Tensor, bins: Bins, ratio: int) -> Tensor:
    """Return the averages of `boxes`, which are in cells; one below a cell is taken for one of a cell."""
    mode = {"coordinate_transformation_mode": "output_half_pixel"} if op.opset >= _HALF_PIXEL else {}
    sizes = {"output_height": bins[0], "output_width": bins[1], "sampling_ratio": ratio}
    return op.RoiAlign(features, boxes, images, **sizes, **mode)


def aligned(
    op: Writer, features: Tensor, boxes: Tensor, images: Tensor, bins: Bins, ratio: int, scale: float
) -> Tensor:
    """Return the averages of `boxes` times `scale`, less half a cell. One below a cell keeps its size.

    An empty one has no sample where `ratio` is 0, and gives zeros.
    """
    if op.opset >= _HALF_PIXEL:
        sizes = {"output_height": bins[0], "output_width": bins[1], "sampling_ratio": ratio, "spatial_scale": scale}
        return op.RoiAlign(features, boxes, images, **sizes, coordinate_transformation_mode="half_pixel")
    cells = boxes * scale - 0.5
    if ratio > 0:
        fine = (bins[0] * ratio, bins[1] * ratio)
        made = _by_columns(op, features, cells, images, fine, 1)
        return made if ratio == 1 else op.AveragePool(made, kernel_shape=[ratio] * 2, strides=[ratio] * 2)
    made = _by_columns(op, features, cells, images, bins, 0)
    sides = op.Slice(cells, [2], [4], [1]) - op.Slice(cells, [0], [2], [1])
    smallest = op.ReduceMin(sides, axes=[1], keepdims=1)
    return op.Where(op.Greater(op.unsqueeze(smallest, 2, 3), 0.0), made, 0.0)


def _by_columns(op: Writer, features: Tensor, cells: Tensor, images: Tensor, bins: Bins, ratio: int) -> Tensor:
    """Return the averages, those of a narrow box column by column; `ratio` is 0 or 1, as for all that follow."""
    height, width = bins
    columns, owners = _slices(op, cells, images, width, axis=0)
    apart = _by_rows(op, features, columns, owners, (height, 1), ratio)
    narrow = op.Transpose(op.Reshape(apart, [-1, width, *op.sizes(features, 1), height]), perm=[0, 2, 3, 1])
    return op.Where(_below_a_cell(op, cells, axis=0), narrow, _by_rows(op, features, cells, images, bins, ratio))


def _by_rows(op: Writer, features: Tensor, cells: Tensor, images: Tensor, bins: Bins, ratio: int) -> Tensor:
    """Return the averages, those of a low box row by row; a narrow one counts as one of a cell."""
    height, width = bins
    rows, owners = _slices(op, cells, images, height, axis=1)
    apart = widened(op, features, rows, owners, (1, width), ratio)
    low = op.Transpose(op.Reshape(apart, [-1, height, *op.sizes(features, 1), width]), perm=[0, 2, 1, 3])
    return op.Where(_below_a_cell(op, cells, axis=1), low, widened(op, features, cells, images, bins, ratio))


def _slices(op: Writer, cells: Tensor, images: Tensor, count: int, axis: int) -> tuple[Tensor, Tensor]:
    """Cut boxes into `count` along `axis`, and return the slices and their images.

    A slice has no size along `axis`. It begins half a cell before the middle of its bin, since that is where RoiAlign
    takes the one sample of a box without a size.
    """
    corners = [op.unsqueeze(op.Slice(cells, [place], [place + 1], [1]), 2) for place in range(4)]
    first, last = corners[axis], corners[axis + 2]
    middles = [[[(number + 0.5) / count] for number in range(count)]]
    here = (last - first) * middles + (first - 0.5)
    zeros = [[[0.0]] * count]
    cut = op.Concat(*(here if place % 2 == axis else corners[place] + zeros for place in range(4)), axis=2)
    owners = op.Add(op.unsqueeze(images, 1), [[0] * count])
    return op.Reshape(cut, [-1, 4]), op.Reshape(owners, [-1])


def _below_a_cell(op: Writer, cells: Tensor, axis: int) -> Tensor:
    """Tell, [K, 1, 1, 1], which boxes are smaller than a cell along `axis`."""
    side = op.Slice(cells, [axis + 2], [axis + 3], [1]) - op.Slice(cells, [axis], [axis + 1], [1])
    return op.Less(op.unsqueeze(side, 2, 3), 1.0)


def sizes_of(op: Writer, boxes: Tensor) -> Tensor:
    """Return the square root of the area of each of `boxes`, [K]."""
    sides = op.Slice(boxes, [2], [4], [1]) - op.Slice(boxes, [0], [2], [1])
    return op.Sqrt(op.Gather(sides, 0, axis=1) * op.Gather(sides, 1, axis=1))


def of_levels(op: Writer, levels: Sequence[Tensor], reached: Sequence[Tensor]) -> Tensor:
    """Return for each box the averages of one of `levels`: the last whose condition, bool [K], in `reached` holds.

    The first level has none.
    """
    chosen = levels[0]
    for averages, condition in zip(levels[1:], reached, strict=True):
        chosen = op.Where(op.unsqueeze(condition, 1, 2, 3), averages, chosen)
    return chosen
