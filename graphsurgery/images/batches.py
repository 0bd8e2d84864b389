"""One image for a network that takes several at once: it gets the same as often, and the first is what counts.

That is what the runtime does, and the original where it is evaluated beside it: a network that mixes its images up does
so in both. A capture has other images behind the first (`turned`), where a pass that mixes them up must be seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from graphsurgery.errors import InputError
from graphsurgery.images.canvas import CanvasImage

Array = npt.NDArray[np.generic]

MOST_BYTES = 2**30


def as_batch(image: Array, shape: Sequence[int | str | None] | None) -> Array:
    """Return `image` as an input of that shape wants it: as it is where that has three dimensions, else in a batch.

    Where the batch is fixed to more than one, all its images are this one. Raises InputError where they would take more
    than `MOST_BYTES`.
    """
    if shape is None or len(shape) != image.ndim + 1:
        return image
    size = _size(shape)
    if size * image.nbytes > MOST_BYTES:
        raise InputError(f"a batch of {size} images of {list(image.shape)} is larger than {MOST_BYTES} bytes")
    return np.ascontiguousarray(np.broadcast_to(image, (size, *image.shape)))


def turned(placed: CanvasImage, share: float) -> CanvasImage:
    """Return an image whose columns are moved round by a `share` of its width: another image, at the same place."""
    moved = replace(placed, input=placed.input.copy())
    moved.filled[:] = np.roll(placed.filled, max(1, round(share * placed.width)), axis=2)
    return moved


def of_first(outputs: Mapping[str, Array], shape: Sequence[int | str | None] | None, rank: int = 3) -> dict[str, Array]:
    """Return what `outputs` say of the first image in a batch as `as_batch` makes it for an image of that `rank`.

    Raises InputError for one that isn't a row for each image.
    """
    return of_each(outputs, _size(shape) if shape is not None and len(shape) == rank + 1 else 1)[0]


def of_each(outputs: Mapping[str, Array], size: int) -> list[dict[str, Array]]:
    """Return what `outputs` say of each of so many images. Raises as `of_first`."""
    if size == 1:
        return [dict(outputs)]
    for name, output in outputs.items():
        if output.shape[:1] != (size,):
            raise InputError(
                f"output '{name}' {list(output.shape)} has no row for each of the {size} images of a batch, so that "
                "nobody can tell which is of the first; export the model with batch 1, or a dynamic one"
            )
    return [{name: output[row : row + 1] for name, output in outputs.items()} for row in range(size)]


def _size(shape: Sequence[int | str | None]) -> int:
    return shape[0] if isinstance(shape[0], int) else 1
