"""By which rule regions are sent to the levels of a feature pyramid, found by asking the graph about regions.

Exporters write it in as many ways as there are detectors: logarithms, offsets, clips, casts. What counts is the level
of a region of a size, so that is computed, for sizes on both sides of each border between two levels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.errors import PassError
from graphsurgery.graph import attribute, is_constant, is_op, producer
from graphsurgery.rewrite import Editor, Refuse

_LARGEST = 2.0**15  # pixels along a side of the regions that are asked for
_STEPS = 256
_MARGIN = 0.01  # how far from a border, relative to it, a size is no tie


def require_doubling_levels(rois: gs.Tensor, level: gs.Tensor, first: int, count: int, edit: Editor) -> int:
    """Return s for which a region of `rois` [K, 5] up to a size of 2 * s pixels has `level` [K] `first`.

    Up to 4 * s it has the next, and so on; all above the last border have the last of `count` levels, and the size is
    the square root of the area. What a size on a border has is not asked. Raises Refuse where that isn't the rule, s is
    no whole number, or the level depends on more than the region.
    """
    if count < 2:
        raise Refuse("it has one level alone")
    ask = _Levels(rois, level, edit)
    low, high = 1.0, _LARGEST
    for spread in (np.geomspace, np.linspace):
        sides = spread(low, high, _STEPS)
        above = np.flatnonzero(ask.of(_squares(sides)) > first)
        if not above.size or above[0] == 0:
            raise Refuse(f"no region of {low:g} to {high:g} pixels is where its first level ends")
        low, high = sides[above[0] - 1], sides[above[0]]
    finest = round((low + high) / 4)
    if finest < 1 or abs(2 * finest - (low + high) / 2) > _MARGIN * finest:
        raise Refuse(f"its first level ends at regions of {high:.4g} pixels, which is not twice a whole number")
    boxes = np.concatenate([*_around_borders(finest, count)])
    got = ask.of(boxes) - first
    sizes = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    expected = np.clip(np.ceil(np.log2(np.maximum(sizes, 1e-6) / finest)) - 1, 0, count - 1)
    wrong = np.flatnonzero(got != expected)
    if wrong.size:
        at = wrong[0]
        raise Refuse(
            f"its levels don't double in size from {2 * finest} pixels on: a region of {sizes[at]:g} pixels is of "
            f"level {int(got[at])}, not {int(expected[at])}"
        )
    return finest


def _squares(sides: np.ndarray) -> np.ndarray:
    return np.stack([np.zeros_like(sides), np.zeros_like(sides), sides, sides], axis=1)


def _around_borders(finest: int, count: int) -> Iterator[np.ndarray]:
    """Yield boxes of sizes on both sides of each border, far below the first and above the last; not square, too."""
    borders = [finest * 2.0**power for power in range(1, count)]
    sides = np.array([border * (1 + sign * _MARGIN) for border in borders for sign in (-1, 1)])
    sides = np.array([0.0, finest / 64, finest * 1.0, *sides, borders[-1] * 2, borders[-1] * 16])
    yield _squares(sides)
    yield _squares(sides) * [1, 1, 4, 0.25] + [[8, 32, 8, 32]]
    yield _squares(sides) * [1, 1, 0.25, 4] + [[64, 0, 64, 0]]


class _Levels:
    """Asks the graph for the levels of boxes.

    The boxes are given where the regions come from: `rois` itself, or what is joined to them, row by row (those of
    several images) or column by column (behind the number of the image, which then is 0).
    """

    def __init__(self, rois: gs.Tensor, level: gs.Tensor, edit: Editor) -> None:
        self._rois, self._level, self._edit = rois, level, edit
        self._images: list[tuple[gs.Tensor, list[str]]] = []  # a column of them, and the regions that it stands beside
        self._sources = {tensor.name: tensor for tensor in self._origins(rois)}
        sizes = {name: (edit.shape(tensor) or [None])[0] for name, tensor in self._sources.items()}
        self._rows = {name: size for name, size in sizes.items() if isinstance(size, int)}

    def _origins(self, tensor: gs.Tensor) -> list[gs.Tensor]:
        node = producer(tensor)
        if node is None or not is_op(node, "Concat"):
            return [tensor]
        if int(attribute(node, "axis", 0)) in (0, -2):
            return [origin for each in node.inputs for origin in self._origins(each)]
        if len(node.inputs) != 2 or (self._edit.shape(node.inputs[1]) or [])[1:] != [4]:
            return [tensor]
        images, boxes = node.inputs
        origins = self._origins(boxes)
        if (self._edit.shape(images) or [])[1:] == [1] and not is_constant(images):
            self._images.append((images, [origin.name for origin in origins]))
        return origins

    def of(self, boxes: np.ndarray) -> np.ndarray:
        """Return the level of each of `boxes` [n, 4]. Raises Refuse where it depends on more than them."""
        step = min([size for size in self._rows.values() if size], default=len(boxes))
        asked = (self._asked(boxes[start : start + step]) for start in range(0, len(boxes), step))
        return np.concatenate(list(asked))

    def _asked(self, boxes: np.ndarray) -> np.ndarray:
        given = {name: self._filled(name, boxes) for name in self._sources}
        wanted = np.concatenate([value[:, -4:] for value in given.values()])
        for images, beside in self._images:
            rows = sum(len(given[name]) for name in beside)
            given[images.name] = np.zeros((rows, 1), wanted.dtype)
        try:
            rois, level = self._edit.evaluate([self._rois, self._level], given)
        except PassError as error:
            raise Refuse(f"the level of a region does not follow from the region: {error}") from error
        if not np.array_equal(rois[:, 1:], wanted) or level.shape != (len(wanted),):
            raise Refuse(f"the rows of '{self._rois.name}' are not the regions whose sizes choose their level")
        return level[: len(boxes)].astype(np.int64)

    def _filled(self, name: str, boxes: np.ndarray) -> np.ndarray:
        """Return `boxes` as the source `name` has them: of image 0, and as often as its number of rows wants."""
        tensor = self._sources[name]
        columns = (self._edit.shape(tensor) or [None, None])[-1]
        if columns not in (4, 5):
            raise Refuse(f"the regions '{name}' are not known to have four or five columns")
        rows = self._rows.get(name, len(boxes))
        value = np.resize(boxes, (rows, 4)).astype(self._edit.dtype(tensor) or np.float32)
        return value if columns == 4 else np.concatenate([np.zeros((rows, 1), value.dtype), value], axis=1)
