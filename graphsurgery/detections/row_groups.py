"""Which tensors have rows that belong together, and how their rows are told apart: data that a source gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from graphsurgery.detections.views import Array
from graphsurgery.errors import InputError


@dataclass(frozen=True)
class Worth:
    """The captured tensors that say what rows are worth, which no graph needs to compute.

    `scores` [N] are those of the captured rows; `boxes` [M,4] all that the original chose these rows from, and
    `boxes_scores` [M] what each of them is worth. See `gate.ties`.
    """

    scores: str
    boxes: str
    boxes_scores: str

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all three."""
        return self.scores, self.boxes, self.boxes_scores


@dataclass(frozen=True)
class Pasted:
    """A tensor [N,1,h,w] that is another one, `masks` [N,1,m,m], pasted into pictures at the boxes."""

    name: str
    masks: str


class Keys(NamedTuple):
    """What rows are told apart by: boxes [N,4], labels [N] and scores [N], where there are any."""

    boxes: Array
    labels: Array | None = None
    scores: Array | None = None


@dataclass(frozen=True)
class Group:
    """Tensors whose rows (dimension 0) belong together and have no order of their own.

    `keys` name the boxes [N,4], then optionally the labels [N] and the scores [N] that rows are matched by.
    `members` are reordered along with them where they are present. `noun` is what messages call the rows. `worth` says
    where their scores are, where rows of nearly equal score may stand in for each other; `pasted` which member follows
    from the boxes. `ranked` rows are the best of more by the scores they have: a tie may exchange the last ones.
    """

    keys: tuple[str, ...]
    members: tuple[str, ...] = ()
    noun: str = "rows"
    worth: Worth | None = None
    pasted: Pasted | None = None
    ranked: bool = False

    def __post_init__(self) -> None:
        if not 1 <= len(self.keys) <= 3:
            raise InputError(f"group {self.keys}: give the names of boxes, or of boxes, labels and scores")

    def read(self, tensors: Mapping[str, Array]) -> Keys | None:
        """Return the keys of all rows; None where `tensors` doesn't hold them as rows of boxes."""
        if any(key not in tensors or tensors[key].dtype.kind not in "biuf" for key in self.keys):
            return None
        boxes, *others = (tensors[key] for key in self.keys)
        if boxes.ndim != 2 or boxes.shape[1] != 4 or any(other.shape != boxes.shape[:1] for other in others):
            return None
        return Keys(boxes, *others)

    def axis(self, name: str, tensor: Array) -> int | None:
        """Return the axis along which the rows of a tensor lie, None where it has none."""
        return 0 if tensor.ndim else None
