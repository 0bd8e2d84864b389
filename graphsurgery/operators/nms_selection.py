"""What comes of the boxes and scores that a NonMaxSuppression chooses from, found by asking the graph around it.

Exporters filter before it, keep classes apart by moving them, and sort, cut off and pad behind it, each in a way of
their own. So boxes and scores are made up for which the outcome is known, the graph is run on them, and what it
computes tells which tensors hold the chosen boxes, scores and classes, how many there are at most, and the threshold.
Where it computes anything else than the best of each class by their scores, that is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.errors import PassError
from graphsurgery.operators.nms_candidates import Candidates
from graphsurgery.operators.operands import scalar
from graphsurgery.rewrite import Editor, Refuse

MOST = 1000  # the rows that the operator of CANN gives at most
_ASKED = 1156  # candidates at once: more than MOST, a square
_REACH = 200.0  # pixels; where classes are kept apart by the size of the image, boxes must not leave it
_LOW = float(np.finfo(np.float32).min)  # the score of candidates that are not to be chosen
_LEVELS = 10  # of a feature pyramid at most
_MADE_UP_LEVELS = 3
_SAME = 0.05  # pixels that a box is off which was moved by 1e4 pixels and back
_MARGIN = 0.02  # how far from the threshold an IoU is no tie
_LARGEST_DROPPED = 1.0  # pixels of a side

Role = Literal["boxes", "scores", "classes"]


@dataclass(frozen=True)
class Chosen:
    """`tensor` holds the chosen boxes, [.., 4], scores or classes, of `rows` candidates at most.

    Its `shape` is that with so many; `first` is the number that class 0 has.
    """

    tensor: gs.Tensor
    role: Role
    rows: int
    shape: tuple[int, ...]
    first: int = 0


@dataclass(frozen=True)
class Selection:
    """The best `total` of all classes, of each class the best `each`, that no better one overlaps by more than `iou`.

    All have a score above `threshold`; None where any score will do. `levels` is how many groups of candidates of one
    class don't suppress each other, as the levels of a feature pyramid.
    """

    chosen: tuple[Chosen, ...]
    total: int
    each: int
    iou: float
    threshold: float | None
    levels: int


def selection(nms: gs.Node, of: Candidates, edit: Editor) -> Selection:
    """Return what `nms`, whose candidates are `of`, and the nodes around it choose. Raises Refuse for anything else."""
    iou = scalar(nms.inputs[3]) if len(nms.inputs) > 3 and nms.inputs[3].name else 0.0
    if iou is None or not 0 < iou < 1:
        raise Refuse("its iou_threshold is no constant between 0 and 1")
    ask = _Question(nms, of, edit)
    chosen = ask.chosen()
    rows = chosen[0].rows
    ask.require_small_boxes()
    threshold = ask.threshold()
    each = ask.of_one_class()
    levels = ask.groups()
    ask.require_suppression(iou, each, levels)
    return Selection(chosen, min(rows, MOST), min(each, MOST), iou, threshold, levels)


@dataclass(frozen=True)
class _Made:
    """Candidates that are made up: row `row[k]`, class `label[k]`, with `boxes[k]` and `scores[k]`."""

    row: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray

    @property
    def order(self) -> np.ndarray:
        """The numbers of the candidates, the best first."""
        return np.argsort(-self.scores, kind="stable")


class _Question:
    """Asks the graph around `nms` what it makes of candidates."""

    def __init__(self, nms: gs.Node, of: Candidates, edit: Editor) -> None:
        self._of, self._edit = of, edit
        self._owner = {id(inner): top for top in edit.root.nodes for inner in graphs.with_bodies(top)}
        self._start = self._owner[id(nms)]
        self._chosen: dict[Role, Chosen] = {}
        limit, shape = scalar(nms.inputs[2]) if len(nms.inputs) > 2 else 0, edit.shape(nms.inputs[1])
        if limit is None or not limit:
            raise Refuse("the number of boxes that it chooses at most is no constant above 0")
        several = shape is not None and len(shape) == 3 and shape[1] != 1  # else it knows nothing of classes
        self._possible = min(_ASKED, of.count * of.classes, int(limit) * of.classes if several else _ASKED)

    # --- where it comes out -------------------------------------------------------------------------------------

    def chosen(self) -> tuple[Chosen, ...]:
        """Return the tensors behind the NMS that hold what is chosen; all that is read of it are these."""
        made = self._scattered(self._possible)
        pending, waiting, found = [self._start], list[Chosen](), list[Chosen]()
        seen: set[int] = set()
        while pending or waiting:
            if not pending:  # whole numbers may be anything; those are classes that are as many as boxes or scores
                settled, waiting = waiting, []
                rows = {each.rows for each in found}
                found += [each for each in settled if each.rows in rows]
                pending = [node for each in settled if each.rows not in rows for node in self._readers(each.tensor)]
                continue
            nodes = {id(node): node for node in pending if id(node) not in seen}
            seen |= nodes.keys()
            tensors = [out for node in nodes.values() for out in node.outputs if out.name and self._is_read(out)]
            pending = []
            for tensor, value in zip(tensors, self._values(tensors, made), strict=True):
                known = _recognised(tensor, value, made)
                if known is None:
                    pending += self._readers(tensor)
                else:
                    (waiting if known.role == "classes" else found).append(known)
        self._chosen = {each.role: each for each in reversed(found)}
        if "boxes" not in self._chosen:
            raise Refuse("nothing reads the boxes that it chooses")
        if len({each.rows for each in found}) > 1:
            raise Refuse("what is read of it has different numbers of rows")
        return tuple(found)

    def _readers(self, tensor: gs.Tensor) -> list[gs.Node]:
        """Return the nodes of the root graph that read `tensor`, which holds nothing that was chosen."""
        if self._edit.is_output(tensor):
            raise Refuse(f"'{tensor.name}', an output behind it, holds no chosen boxes, scores or classes")
        readers = {id(reader): self._owner.get(id(reader)) for reader in graphs.consumers(tensor)}
        return list({id(node): node for node in readers.values() if node is not None}.values())

    def _is_read(self, tensor: gs.Tensor) -> bool:
        return bool(graphs.consumers(tensor)) or self._edit.is_output(tensor)

    # --- what it chooses ----------------------------------------------------------------------------------------

    def require_small_boxes(self) -> None:
        """Refuse where boxes of a pixel are dropped."""
        made = self._scattered(self._fitting())
        size = np.resize([[1.0, 4.0], [4.0, 1.0], [1.0, 1.0]], (len(made.boxes), 2)) * _LARGEST_DROPPED
        made.boxes[:, 2:] = made.boxes[:, :2] + size
        if len(self._picked(made)) < len(made.boxes):
            raise Refuse(
                f"it drops boxes with a side of {_LARGEST_DROPPED:g} pixel; BatchMultiClassNMS has no such filter"
            )

    def threshold(self) -> float | None:
        """Return the score above which candidates are chosen; None where they are whatever it is."""
        lowest, highest = _ordinal(np.float32(_LOW)), _ordinal(np.float32(0.9))
        low, high = lowest, highest
        while high - low > 1:
            number = min(self._fitting(), 256, high - low - 1)
            asked = low + (high - low) * np.arange(1, number + 1) // (number + 1)
            dropped = self._dropped(_from_ordinal(asked))
            low = int(asked[dropped - 1]) if dropped else low
            high = int(asked[dropped]) if dropped < number else high
        found = float(_from_ordinal(np.array([low]))[0])
        if self._dropped(np.linspace(max(found, 0), 0.9, self._fitting() + 1, dtype=np.float32)[1:]):
            raise Refuse(f"it drops more than the scores up to {found:g}")
        return None if low == lowest else found

    def _dropped(self, scores: np.ndarray) -> int:
        """Return how many of candidates with these rising scores are not chosen: the first ones, else refuse."""
        made = self._scattered(len(scores))
        made.scores[:] = scores
        picked = np.zeros(len(scores), bool)
        picked[self._picked(made)] = True
        if np.any(picked[:-1] & ~picked[1:]):
            raise Refuse("what it chooses hangs on more than a threshold of the scores")
        return int(np.count_nonzero(~picked))

    def of_one_class(self) -> int:
        """Return how many of one class are chosen at most."""
        made = self._scattered(min(_ASKED, self._of.count), one_class=True)
        picked = len(self._picked(made))
        rows = self._rows
        return picked if picked < min(rows, len(made.boxes)) else rows

    def groups(self) -> int:
        """Return how many groups of candidates of a class don't suppress each other; of other classes they must not."""
        classes, count = self._of.classes, self._of.count
        made = self._scattered(min(count, _ASKED), one_class=True)
        made.boxes[:] = made.boxes[0]
        picked = self._copies(made)
        if picked > (1 if classes > 1 or "classes" in self._chosen else _LEVELS):
            raise Refuse(f"{picked} of {len(made.boxes)} equal boxes of one class are chosen")
        together = min(classes, self._rows)
        if together > 1:
            label = np.arange(together)
            boxes = np.repeat(made.boxes[:1], together, axis=0)
            if self._copies(_Made(np.zeros_like(label), label, boxes, _falling(together))) < together:
                raise Refuse("a box suppresses those of other classes; BatchMultiClassNMS keeps each class by itself")
        return picked

    def require_suppression(self, iou: float, each: int, levels: int) -> None:
        """Refuse unless a box suppresses one that it overlaps by more than `iou`, and no other."""
        pairs = min(self._of.count, self._fitting(), each) // 2
        if not pairs:
            return
        for overlap in (iou - _MARGIN, iou + _MARGIN):
            if not 0 < overlap < 1:
                continue
            made = self._scattered(2 * pairs, one_class=True)
            first, second = made.boxes[::2], made.boxes[1::2]
            second[:] = first
            second[:, ::2] += (first[:, 2:3] - first[:, :1]) * (1 - overlap) / (1 + overlap)
            picked = self._picked(made)
            wanted = 2 * pairs if overlap < iou else pairs
            # a pair whose boxes are of two levels is no pair
            if not wanted <= len(picked) <= wanted + (levels - 1 if overlap > iou else 0):
                raise Refuse(f"of {pairs} pairs of boxes with an IoU of {overlap:.2f} it chooses {len(picked)} boxes")

    # --- how it is asked ----------------------------------------------------------------------------------------

    @property
    def _rows(self) -> int:
        return self._chosen["boxes"].rows

    def _fitting(self) -> int:
        """Return how many candidates with boxes of their own are chosen if they don't overlap."""
        return min(self._possible, self._of.count * self._of.own, self._rows)

    def _scattered(self, number: int, *, one_class: bool = False) -> _Made:
        """Return candidates, but for classes that share boxes none on another, with scores in the order of no index."""
        at, count, classes = np.arange(number), self._of.count, self._of.classes
        side = int(np.ceil(np.sqrt(number)))
        pitch = _REACH / side
        place = at if self._of.own > 1 or classes == 1 else at % count
        corner = 2 + np.stack([place % side, place // side], axis=1) * pitch
        boxes = np.concatenate([corner, corner + 0.6 * pitch], axis=1).astype(np.float32)
        # each row and class once, and as many of each class
        label = np.zeros(number, np.int64) if one_class else (at + at // np.lcm(count, classes)) % classes
        scores = _falling(number)[np.random.default_rng(0).permutation(number)]
        return _Made(at % count, label, boxes, scores)

    def _picked(self, made: _Made) -> np.ndarray:
        """Return the numbers of the candidates that are chosen, the best first."""
        values = self._outcome(made)
        off = np.abs(values[:, None] - made.boxes[None]).max(axis=2)
        near: np.ndarray = off.argmin(axis=1)[off.min(axis=1) < _SAME]
        return near

    def _copies(self, made: _Made) -> int:
        """Return how many of candidates whose boxes are all the same are chosen."""
        return int(np.count_nonzero(np.abs(self._outcome(made) - made.boxes[0]).max(axis=1) < _SAME))

    def _outcome(self, made: _Made) -> np.ndarray:
        """Return the boxes [n, 4] that are chosen of `made`."""
        wanted = [self._chosen[role] for role in ("boxes", "scores") if role in self._chosen]
        boxes, *scores = self._values([each.tensor for each in wanted], made)
        boxes = boxes.reshape(-1, 4)
        return boxes[scores[0].ravel() > _LOW] if scores else boxes

    def _values(self, tensors: Sequence[gs.Tensor], made: _Made) -> list[np.ndarray]:
        of = self._of
        scores = np.full((of.count, of.classes), _LOW, np.float32)
        scores[made.row, made.label] = made.scores
        # what is not to be chosen lies on top of each other, so that comparing it takes no time
        boxes = np.tile(np.array([2, _REACH + 6, 6, _REACH + 10], np.float32), (of.count, of.own, 1))
        boxes[made.row, made.label if of.own > 1 else 0] = made.boxes
        given = {of.boxes.name: boxes, of.scores.name: scores}
        for tensor in (of.boxes, of.scores):
            shape, dtype = self._edit.static_shape(tensor), self._edit.dtype(tensor)
            given[tensor.name] = given[tensor.name].reshape(shape or ()).astype(dtype or np.float32)
        for tensor in of.levels:
            numbers = np.arange(of.count) * _MADE_UP_LEVELS // of.count
            shape, dtype = self._edit.static_shape(tensor), self._edit.dtype(tensor)
            given[tensor.name] = numbers.reshape(shape or ()).astype(dtype or np.int64)
        try:
            return self._edit.evaluate(tensors, given) if tensors else []
        except PassError as error:
            raise Refuse(f"what it chooses does not follow from boxes and scores alone: {error}") from error


def _recognised(tensor: gs.Tensor, value: np.ndarray, made: _Made) -> Chosen | None:
    """Return which of the candidates' numbers, the best first, `value` holds; whole numbers, up to a shift."""
    kind, of_boxes = value.dtype.kind, value.ndim > 1 and value.shape[-1] == 4
    lies_along = value.shape[:-1] if of_boxes else value.shape
    rows = max(lies_along, default=0)
    if not rows or np.prod(lies_along) != rows or kind not in "iuf":
        return None
    best = made.order[:rows]
    chosen = partial(Chosen, tensor, rows=rows, shape=value.shape)
    if of_boxes:
        off = np.abs(value.reshape(-1, 4)[: len(best)] - made.boxes[best])
        return chosen("boxes") if off.max() < _SAME else None
    numbers = value.ravel()[: len(best)]
    if kind == "f":
        return chosen("scores") if np.abs(numbers - made.scores[best]).max() < 1e-6 else None
    shifted = numbers.astype(np.int64) - made.label[best]
    return chosen("classes", first=int(shifted[0])) if np.all(shifted == shifted[0]) else None


def _falling(number: int) -> np.ndarray:
    return np.linspace(0.99, 0.9, number, dtype=np.float32)


def _ordinal(value: np.floating) -> int:
    """Return a number that is greater by one for the next greater float32."""
    bits = int(np.float32(value).view(np.int32))
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


def _from_ordinal(ordinals: np.ndarray) -> np.ndarray:
    bits = np.where(ordinals >= 0, ordinals, -ordinals + (1 << 31)).astype(np.uint32)
    return bits.view(np.float32)
