"""What a pass may know beside the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

PassesFor = Callable[[str], Sequence[str]]  # operator -> names of passes


def none_known(_: str) -> Sequence[str]:
    """Return no pass."""
    return ()


class Captured(Protocol):
    """The tensors of one image, captured from the original model; read from disk when asked for."""

    @property
    def id(self) -> str:
        """The image's id."""

    def __contains__(self, name: str) -> bool: ...

    def load(self, name: str) -> np.ndarray:
        """Return one tensor by name."""


@dataclass(frozen=True)
class PassContext:
    """What a pass may know beside the graph: the captured samples, and whom to tell how far it is.

    `samples` hold the graph's inputs and outputs by name; there are none where nothing was captured. `canvas` is the
    height and width of the image that a recipe feeds to the whole graph; None for a part, and outside a recipe. `batch`
    is how many images it feeds at once, None where nobody says that there is more than one. `outputs_apart` names, for
    messages, the passes that make outputs of what such an operator gives an output; none for a part, whose outputs the
    parts behind it read.
    """

    samples: Sequence[Captured] = ()
    progress: Callable[[int, int], None] = lambda done, total: None
    canvas: tuple[int, int] | None = None
    batch: int | None = None
    outputs_apart: PassesFor = none_known
