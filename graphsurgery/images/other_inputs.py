"""Inputs besides the image: what they always are, or what follows from how an image lies on the canvas.

orig_target_sizes: [width, height]                           RT-DETR, D-FINE
im_info: [resized_height, resized_width, scale_y]            detectron
im_shape: [resized_height, resized_width], scale_factor: [scale_y, scale_x]     Paddle
pixel_mask: mask                                             DETR
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from graphsurgery.errors import InputError, did_you_mean
from graphsurgery.images.placement import Placement, Size
from graphsurgery.images.preprocessing import is_number
from graphsurgery.text import shortened

Array = npt.NDArray[Any]

CANVAS = "canvas"  # stands for its height and width
MASK = "mask"  # stands for a map of the canvas, 1 where the image lies
_NUMBERS: Mapping[str, Callable[[Placement], float]] = {
    "height": lambda placed: placed.original[0],
    "width": lambda placed: placed.original[1],
    "resized_height": lambda placed: placed.height,
    "resized_width": lambda placed: placed.width,
    "scale_y": lambda placed: placed.height / placed.original[0],
    "scale_x": lambda placed: placed.width / placed.original[1],
}
NUMBER_WORDS = tuple(_NUMBERS)  # that may stand in a list
_FRACTIONS = ("scale_y", "scale_x")
_MOST_ELEMENTS = 2**25


@dataclass(frozen=True)
class OtherInput:
    """An input of a network besides the image.

    `value` is a number, a list of numbers and words, a list of such lists, or a word alone; `canvas` and `mask` stand
    alone. `shape` and `dtype` are those that the graph declares: None or a name for a size that is open, None where the
    rank is. Raises InputError for any other value.
    """

    name: str
    value: Any
    shape: Sequence[int | str | None] | None
    dtype: np.dtype[Any]

    def __post_init__(self) -> None:
        require_value(self.name, self.value)

    @property
    def follows(self) -> bool:
        """Whether it differs from image to image."""
        return any(word != CANVAS for word in _words(self.value))

    def require_fit(self, canvas: Size) -> None:
        """Raise InputError where the value can't be of the declared shape or type, whatever the image is."""
        fraction = next((word for word in _words(self.value) if word in _FRACTIONS), None)
        if fraction is not None and self.dtype.kind != "f":
            raise self._misfit(f"is {self.dtype}, which does not hold {fraction}")
        last = self.shape[-1] if self.shape else None
        if self.follows and isinstance(self.value, list | tuple) and isinstance(last, int):
            rows = self.value if isinstance(self.value[0], list | tuple) else (self.value,)
            if any(len(row) != last for row in rows):
                raise self._misfit(f"is {self._shown_shape()}; {_shown(self.value)} does not fit")
        self.of(Placement.whole(canvas))

    def of(self, placed: Placement, rows: int = 1) -> Array:
        """Return the input for an image, in its own shape and type; `rows` is the batch where that is open.

        A map that leaves its height and width open has those of the canvas. Raises InputError where the value doesn't
        fit.
        """
        try:
            array = np.asarray(_resolved(self.value, placed), np.float64)
        except (ValueError, TypeError) as error:
            raise self._misfit(f"is {_shown(self.value)}; give lists of one length") from error
        if self.value == MASK and self._has_channels_last(placed.canvas):
            array = array[..., None]
        shape = self._shape_for(array, placed.canvas, rows)
        if int(np.prod(shape, dtype=np.float64)) > _MOST_ELEMENTS:
            raise self._misfit(f"is of {list(shape)}, more than {_MOST_ELEMENTS} elements")
        with np.errstate(all="ignore"):
            typed = array.astype(self.dtype)
        if self.dtype.kind in "biu" and not np.array_equal(typed.astype(np.float64), array):
            raise self._misfit(f"is {self.dtype}, which does not hold {_shown(self.value)}")
        try:
            return np.array(np.broadcast_to(typed, shape), order="C")  # ascontiguousarray makes a list of a scalar
        except ValueError as error:
            raise self._misfit(f"is {list(shape)}; {_shown(self.value)} does not fit") from error

    def _shape_for(self, array: Array, canvas: Size, rows: int) -> tuple[int, ...]:
        if self.shape is None:
            return array.shape
        shape = []
        rank = len(self.shape)
        for place, size in enumerate(self.shape, start=-rank):
            own = array.shape[place] if array.ndim >= -place else 1
            if isinstance(size, int):
                shape.append(size)
            elif own == 1 and place == -rank:
                shape.append(rows)
            elif own == 1 and rank >= 3 and place >= -2:
                shape.append(canvas[place + 2])
            else:
                shape.append(own)
        return tuple(shape)

    def _has_channels_last(self, canvas: Size) -> bool:
        """Whether the input is a map [..., H, W, 1]."""
        shape = list(self.shape or ())
        if len(shape) < 3 or shape[-1] != 1 or canvas[1] == 1:
            return False
        return all(not isinstance(size, int) or size == edge for size, edge in zip(shape[-3:-1], canvas, strict=True))

    def _misfit(self, said: str) -> InputError:
        return InputError(f"inputs.{self.name}: the input {said}")

    def _shown_shape(self) -> str:
        return f"[{', '.join('?' if size is None else str(size) for size in self.shape or ())}]"


def require_value(name: str, value: object) -> None:
    """Raise InputError that begins with `inputs.NAME` for what can't say what an input is."""
    if value in (CANVAS, MASK) or _is_item(value):
        return
    if isinstance(value, list | tuple) and value:
        rows = value if isinstance(value[0], list | tuple) else (value,)
        if all(isinstance(row, list | tuple) and row and all(map(_is_item, row)) for row in rows):
            return
    for word in _words(value):
        if word in (CANVAS, MASK):
            raise InputError(f"inputs.{name}: '{word}' stands alone, in no list; it is more than a number")
        if word not in _NUMBERS:
            listed = ", ".join((CANVAS, *_NUMBERS, MASK))
            hint = did_you_mean(word, (CANVAS, *_NUMBERS, MASK))
            raise InputError(f"inputs.{name}: '{shortened(word, 40)}' is none of {listed}.{hint}")
    raise InputError(f"inputs.{name}: is {_shown(value)}; give a number, a word, or a list of numbers and words")


def _is_item(value: object) -> bool:
    return is_number(value) or (isinstance(value, str) and value in _NUMBERS)


def _words(value: object) -> Iterator[str]:
    """Yield the words in a value, those in lists of lists too."""
    rows = value if isinstance(value, list | tuple) else (value,)
    for row in rows:
        yield from (each for each in (row if isinstance(row, list | tuple) else (row,)) if isinstance(each, str))


def _resolved(value: Any, placed: Placement) -> Any:
    """Return a value with numbers in place of the words."""
    if value == CANVAS:
        return placed.canvas
    if value == MASK:
        mask = np.zeros(placed.canvas)
        mask[placed.top : placed.top + placed.height, placed.left : placed.left + placed.width] = 1
        return mask
    if isinstance(value, list | tuple):
        return [_resolved(each, placed) for each in value]
    return _NUMBERS[value](placed) if isinstance(value, str) else value


def _shown(value: object) -> str:
    """Return a value as a recipe has it, of a length that fits into a message."""
    if isinstance(value, list | tuple):
        return shortened(f"[{', '.join(map(_shown, value))}]", 60)
    return f"{value:g}" if isinstance(value, float) else shortened(str(value), 60)
