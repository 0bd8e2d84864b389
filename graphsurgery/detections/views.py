"""Which tensor, and which columns of its rows, holds one thing: boxes, scores or another.

Rows and columns of a tensor of any rank: the columns lie along one axis, and all the others, flattened in their order,
are the rows. The batch is of one image, so that its axis makes no difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from graphsurgery.detections.plain import require_list, require_whole
from graphsurgery.errors import InputError
from graphsurgery.text import shortened

Array = npt.NDArray[Any]
Shapes = Mapping[str, tuple[int, ...]]
OpenShapes = Mapping[str, Sequence[int | str | None] | None]  # None or a name for a size that varies
Role = Literal["boxes", "scores", "objectness", "labels", "keypoints", "masks", "coefficients", "prototypes"]

_MOST_TENSORS, _MOST_COLUMNS = 32, 2**20


class Column(NamedTuple):
    """A slice of a tensor that has one role: `first` up to `end`, along `axis` from 0 on."""

    role: Role
    axis: int
    first: int
    end: int


def find(tensor: str | int, outputs: Mapping[str, Any], place: str) -> str:
    """Return the name of an output that is given by its name or its position. Raises InputError where there is none."""
    names = list(outputs)
    if isinstance(tensor, str) and tensor in outputs:
        return tensor
    if isinstance(tensor, int) and -len(names) <= tensor < len(names):
        return names[tensor]
    shapes = {name: list(getattr(value, "shape", value) or ()) for name, value in outputs.items()}
    seen = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "nothing"
    wanted = f"output '{tensor}'" if isinstance(tensor, str) else f"output number {tensor}"
    raise InputError(f"detections.{place}: there is no {wanted}; the network gives {shortened(seen, 160)}")


def whole(outputs: Mapping[str, Array], tensor: str | int, place: str) -> Array:
    """Return an output as float32. Raises InputError where there is none, or it holds no numbers."""
    name = find(tensor, outputs, place)
    array = np.asarray(outputs[name])
    if array.dtype.kind not in "biuf":
        raise InputError(f"detections.{place}: '{name}' is {array.dtype}; expected numbers")
    return array.astype(np.float32, copy=False)


@dataclass(frozen=True)
class View:
    """Some columns of one tensor, or of several whose rows follow one another.

    `tensor` is a name, or a position among the network's outputs. `columns` are all where it is None, one where it is a
    number, else from the first on and, if there is a second, up to it; negative ones count from the end. `axis` is
    where they lie. `per_cell` is the number of rows that lie side by side along it, as those of the anchors of a cell:
    [1, A * C, H, W] along axis 1 are the rows [H * W * A, C]. Raises InputError for anything else.
    """

    tensor: str | int | tuple[str | int, ...] = 0
    columns: int | tuple[int, ...] | None = None
    axis: int = -1
    per_cell: int = 1

    def __post_init__(self) -> None:
        for each in require_list("tensor", self.tensors, 1, _MOST_TENSORS):
            if not (isinstance(each, str) and 0 < len(each) <= 1000):
                require_whole("tensor", each, -1000, 1000)
        require_whole("axis", self.axis, -8, 7)
        require_whole("per_cell", self.per_cell, 1, 1000)
        if isinstance(self.columns, tuple):
            for each in require_list("columns", self.columns, 1, 2):
                require_whole("columns", each, -_MOST_COLUMNS, _MOST_COLUMNS)
        elif self.columns is not None:
            require_whole("columns", self.columns, -_MOST_COLUMNS, _MOST_COLUMNS)

    @property
    def tensors(self) -> tuple[str | int, ...]:
        """The tensors, one as a rule."""
        return self.tensor if isinstance(self.tensor, tuple) else (self.tensor,)

    def rows(self, outputs: Mapping[str, Array], place: str, *, single: bool = False) -> Array:
        """Return the rows [N, C] as float32; `single` for one column, which then needs no axis of its own.

        Raises InputError that names the tensor where its shape doesn't fit.
        """
        found = [
            self._rows_of(whole(outputs, each, place), find(each, outputs, place), place, single)
            for each in self.tensors
        ]
        if any(each.shape[1] != found[0].shape[1] for each in found):
            widths = ", ".join(str(each.shape[1]) for each in found)
            raise InputError(f"detections.{place}: its tensors have {widths} columns; expected as many in each")
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _rows_of(self, array: Array, name: str, place: str, single: bool) -> Array:
        if single and self.columns is None and self.per_cell == 1:
            return array.reshape(-1, 1)
        axis, (first, end) = self._axis(array.shape, name, place), self._span(array.shape, name, place)
        width = array.shape[axis] // self.per_cell
        rows: Array = np.moveaxis(array, axis, -1).reshape(array.size // width if width else 0, width)[:, first:end]
        if single and rows.shape[1] != 1:
            raise InputError(
                f"detections.{place}: '{name}' {list(array.shape)} gives {rows.shape[1]} columns; expected one, which "
                "columns can name"
            )
        return rows

    def slices(self, outputs: Shapes, place: str, role: Role, *, single: bool = False) -> dict[str, list[Column]]:
        """Return which slices of which tensors this is of."""
        found: dict[str, list[Column]] = {}
        for each in self.tensors:
            name = find(each, outputs, place)
            shape = outputs[name]
            if not shape or (single and self.columns is None and self.per_cell == 1):
                found[name] = [everything(shape, role)]
                continue
            axis, (first, end) = self._axis(shape, name, place), self._span(shape, name, place)
            width = shape[axis] // self.per_cell
            found[name] = [Column(role, axis, at + first, at + end) for at in range(0, shape[axis], max(width, 1))]
            if (first, end) == (0, width):
                found[name] = [Column(role, axis, 0, shape[axis])]
        return found

    def row_axes(self, outputs: Shapes, place: str, *, single: bool = False) -> dict[str, tuple[int, ...]]:
        """Return the axes that rows lie along, of each tensor: one as a rule, two in a map of an image."""
        found = {}
        for each in self.tensors:
            name = find(each, outputs, place)
            shape = outputs[name]
            plain = single and self.columns is None and self.per_cell == 1
            columns = None if plain or not shape else self._axis(shape, name, place)
            if columns is not None:
                self._span(shape, name, place)
            found[name] = _axes_of_rows(shape, columns)
        return found

    def count_columns(self, shape: Sequence[int], name: str, place: str) -> int | None:
        """Return the number of columns, None where it varies, which -1 in the shape stands for."""
        axis = self._axis([size if size >= 0 else 0 for size in shape], name, place)
        if shape[axis] < 0:
            return None
        first, end = self._span(shape, name, place)
        return end - first

    def _axis(self, shape: Sequence[int], name: str, place: str) -> int:
        rank = len(shape)
        if not -rank <= self.axis < rank:
            raise InputError(f"detections.{place}: '{name}' {list(shape)} has no axis {self.axis} for columns")
        axis = self.axis % rank
        if shape[axis] % self.per_cell:
            raise InputError(
                f"detections.{place}: '{name}' {list(shape)} has {shape[axis]} values along axis {axis}; expected a "
                f"multiple of the {self.per_cell} rows of a cell"
            )
        return axis

    def _span(self, shape: Sequence[int], name: str, place: str) -> tuple[int, int]:
        size = shape[self._axis(shape, name, place)] // self.per_cell
        if self.columns is None:
            return 0, size
        given = self.columns if isinstance(self.columns, tuple) else (self.columns,)
        first = given[0] + size if given[0] < 0 else given[0]
        if isinstance(self.columns, int):
            end = first + 1
        else:
            end = size if len(given) == 1 else given[1] + size if given[1] < 0 else given[1]
        if not 0 <= first < end <= size:
            shown = list(given) if isinstance(self.columns, tuple) else self.columns
            raise InputError(f"detections.{place}: '{name}' {list(shape)} has {size} columns, and not those of {shown}")
        return first, end


def everything(shape: Sequence[int], role: Role) -> Column:
    """Return a tensor as one slice."""
    return Column(role, max(len(shape) - 1, 0), 0, shape[-1] if shape else 1)


def _axes_of_rows(shape: Sequence[int], columns: int | None) -> tuple[int, ...]:
    """Return all axes but that of the columns and, where there is more than one, that of the batch of one image."""
    axes = tuple(axis for axis in range(len(shape)) if axis != columns)
    return axes[1:] if len(axes) > 1 and axes[0] == 0 and shape[0] == 1 else axes


def axis_of_rows(shape: Sequence[int], count: int) -> int:
    """Return the axis of masks that has `count` rows: the first, or the second behind the batch of one image."""
    return 1 if len(shape) > 1 and shape[0] == 1 != count and shape[1] == count else 0
