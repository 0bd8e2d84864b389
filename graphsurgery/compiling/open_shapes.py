"""Inputs that stay open: from which shape to which, and at which shapes in between a graph is tried.

A graph that holds on one canvas may have that canvas baked in, so it is tried on others. Memory and time grow with the
product of all axes, while a fault of one axis shows on that axis. So not all corners of a range are tried, but

    the smallest of all             the largest of all but the images, with as many images as fit
    all halfway                     the smallest with the most images

where halfway is a multiple of what both ends are multiples of, as an image is padded. The first axis counts images. How
many fit is told by time (`MOST_ELEMENTS`) and by memory: by what the smaller shapes took.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphsurgery.errors import InputError, did_you_mean
from graphsurgery.processes.peak_memory import Room, free_bytes

# Of one input: two images of 1344 x 1920. The 100 masks of each, pasted, are 2 GB in float32, which take their time.
MOST_ELEMENTS = 2**24


@dataclass(frozen=True)
class OpenShape:
    """The smallest and the largest size along each axis of an input. Raises ValueError for what is no range."""

    low: tuple[int, ...]
    high: tuple[int, ...]

    def __post_init__(self) -> None:
        pairs = zip(self.low, self.high, strict=False)
        if not self.low or len(self.low) != len(self.high) or any(not 0 < a <= b for a, b in pairs):
            raise ValueError(f"goes from {list(self.low)} to {list(self.high)}; give min and max of each axis")

    def fits(self, shape: Sequence[int | str | None] | None) -> bool:
        """Whether an input that is declared with `shape`, None where nobody knows, takes all of the range."""
        if shape is None:
            return True
        if len(shape) != len(self.low):
            return False
        sizes = zip(shape, self.low, self.high, strict=True)
        return all(not isinstance(size, int) or low == high == size for size, low, high in sizes)

    def holds(self, shape: Sequence[int]) -> bool:
        """Whether `shape` lies in the range."""
        return len(shape) == len(self.low) and all(
            low <= size <= high for low, size, high in zip(self.low, shape, self.high, strict=True)
        )

    def tried(self) -> list[tuple[int, ...]]:
        """Return the shapes at which a graph is tried, the cheapest first."""
        halfway = tuple(_halfway(low, high) for low, high in zip(self.low, self.high, strict=True))
        wanted = [self.low, (self.high[0], *self.low[1:]), halfway, self.high]
        shapes = {self.with_images(shape, MOST_ELEMENTS // math.prod(shape[1:])) for shape in wanted}
        return sorted(shapes, key=lambda shape: (math.prod(shape), shape))

    def with_images(self, shape: tuple[int, ...], most: int) -> tuple[int, ...]:
        """Return `shape` with no more than so many images, but no fewer than the smallest shape has."""
        return (min(shape[0], max(self.low[0], most)), *shape[1:])


def fitting(
    wanted: Mapping[str, OpenShape], shapes: Mapping[str, tuple[int, ...]], room: Room
) -> dict[str, tuple[int, ...]]:
    """Return `shapes` of inputs with as many images as there is `room` for. Raises NoRoom where there is none."""
    for images in range(max(shape[0] for shape in shapes.values()), 0, -1):
        fewer = {name: wanted[name].with_images(shape, images) for name, shape in shapes.items()}
        if room.fits(elements(fewer)):
            return fewer
    needed, free = room.needed(elements(fewer)), free_bytes()
    raise NoRoom(
        f"it was not tried: by what smaller shapes took it needs {needed / 2**30:.0f} GB of memory, and "
        f"{free / 2**30:.0f} are free"
    )


def elements(shapes: Mapping[str, Sequence[int]]) -> int:
    """Return how many elements inputs of these shapes have."""
    return sum(math.prod(shape) for shape in shapes.values())


class NoRoom(Exception):
    """Nothing is known of a shape, since there is no memory to try it."""


def require_fit(
    place: str, open_shapes: Mapping[str, OpenShape], inputs: Mapping[str, Sequence[int | str | None] | None]
) -> None:
    """Raise InputError for a name that is none of `inputs`, and a range that an input's declared shape doesn't take."""
    for name, wanted in open_shapes.items():
        if name not in inputs:
            raise InputError(f"{place}: there is no input '{name}' to leave open.{did_you_mean(name, inputs)}")
        if not wanted.fits(inputs[name]):
            raise InputError(
                f"{place}: input '{name}' is {list(inputs[name] or ())}, which does not go from {list(wanted.low)} to "
                f"{list(wanted.high)}"
            )


def _halfway(low: int, high: int) -> int:
    step = math.gcd(low, high)
    return (low + high) // 2 // step * step


def ranges_of(dim_range: Mapping[str, Mapping[Any, Sequence[int]]]) -> dict[str, OpenShape]:
    """Return the option {input: {min: [...], max: [...]}} as ranges. Raises ValueError for one that is none."""
    found = {}
    for name, sizes in dim_range.items():
        try:
            found[name] = OpenShape(tuple(sizes.get("min", ())), tuple(sizes.get("max", ())))
        except ValueError as error:
            raise ValueError(f"dim_range: '{name}' {error}") from error
    return found
