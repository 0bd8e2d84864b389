"""Give NonMaxSuppression a fixed number of rows, for accelerators that take it with a static output only, as HTP does.

    rows [n, 3] = NonMaxSuppression(boxes [1, N, 4], scores [1, 1, N], at most M)
        ->  found [k, 3] = NonMaxSuppression         k = min(M, N), written down for the compiler
            box [k, 1] = the last column of found and, behind it, of k rows of -1, up to k
            rows = Compress(box, those that count) * [0, 0, 1]

Where fewer than k boxes are left, Qualcomm's HTP repeats the last row up to k, and gives zeros where none is left
(measured on the emulator of onnxruntime-qnn 2.7.0); ONNX Runtime writes fewer rows, so that -1 stands there. A box
counts that is not -1, is not the one before it, and whose score is above the threshold, where there is one. Both then
give the same rows, as many as before, and what is behind stays as it was. A cut before Compress leaves the
NonMaxSuppression to the accelerator; every tensor up to there is static.

On the same emulator HTP gives the right rows for up to 64 boxes and for multiples of 64 from 384 on; with 65 to 320 no
session is made, and for other numbers the order is wrong. `multiple: 64` and `least: 384` fill up more than 64 boxes to
such a number, with boxes of zeros whose score is the threshold, or where there is none -65504, the smallest of float16:
they come last, if at all, and don't count.

It does not fire when
1. nothing tells the number of boxes (freeze-shapes), or it is 0
2. there are several images or classes: HTP's rows behind those chosen are then no copies, and nothing tells them apart
3. the largest number of boxes is computed, or not above 0
4. it has been done before
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import constant, consumers, is_op
from graphsurgery.operators.axes import Bounds
from graphsurgery.operators.operands import optional, scalar
from graphsurgery.operators.slices import on_axes, reshaping, slicing
from graphsurgery.rewrite import Editor, NodePass, Refuse

_LOWEST = -65504.0


@dataclass(frozen=True)
class FreezeNms(NodePass):
    """More than `multiple` boxes are filled up to a multiple of it, `least` or more; 0 leaves them as they are."""

    name = "freeze-nms"
    effect = "exact"
    matches = ("NonMaxSuppression",)

    multiple: int = 0
    least: int = 0

    def __post_init__(self) -> None:
        if self.multiple < 0 or (self.least and (not self.multiple or self.least % self.multiple)):
            raise ValueError(f"least must be a multiple of multiple, not {self.least} of {self.multiple}")

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if _is_frozen(node):
            return
        count, most = _counts(node, edit)
        hint = node.outputs[0].name
        read = self._filled(node, count, hint, edit)
        found = edit.emit(node.op, read, node.attrs, hint=f"{hint}_found", dtype=np.int64, shape=[most, 3])
        filler = edit.constant(f"{hint}_filler", np.full((most, 3), -1, np.int64))
        filled = edit.emit("Concat", [found, filler], {"axis": 0}, hint=f"{hint}_filled")
        column = _slice(filled, [Bounds(0, 0, most, 1), Bounds(1, 2, 3, 1)], f"{hint}_column", edit)
        static = reshaping(edit, f"{hint}_box", [most, 1])
        box = edit.emit("Reshape", [column, *static.parameters], hint=f"{hint}_box")
        mask = _counting(read, box, (count, most), hint, edit)
        kept = edit.emit("Compress", [box, mask], {"axis": 0}, hint=f"{hint}_kept")
        last = edit.constant(f"{hint}_last", np.array([[0, 0, 1]], np.int64))  # image and class are 0
        edit.replace(node, "Mul", [kept, last])

    def _filled(self, node: gs.Node, count: int, hint: str, edit: Editor) -> list[gs.Tensor]:
        """Return what the node reads, with as many boxes as there shall be."""
        boxes, scores, *others = node.inputs
        more = max(-(-count // self.multiple) * self.multiple, self.least) - count if self.multiple else 0
        if more <= 0 or count <= self.multiple:
            return list(node.inputs)
        given = optional(node, 4)
        score = _LOWEST if given is None else scalar(given)
        if score is None:
            raise Refuse("its score_threshold is computed, so that nothing tells which score is below")
        zeros = edit.constant(f"{hint}_more_boxes", np.zeros((1, more, 4), np.float32))
        low = edit.constant(f"{hint}_more_scores", np.full((1, 1, more), score, np.float32))
        boxes = edit.emit("Concat", [boxes, zeros], {"axis": 1}, hint=f"{hint}_boxes")
        scores = edit.emit("Concat", [scores, low], {"axis": 2}, hint=f"{hint}_filled_scores")
        return [boxes, scores, *others]


def _is_frozen(node: gs.Node) -> bool:
    readers = consumers(node.outputs[0])
    fillers = [constant(each.inputs[-1]) for each in readers if is_op(each, "Concat")]
    return len(readers) == 1 and len(fillers) == 1 and fillers[0] is not None and bool((fillers[0] == -1).all())


def _counts(node: gs.Node, edit: Editor) -> tuple[int, int]:
    """Return how many boxes there are, and how many it gives at most."""
    boxes, scores = (edit.static_shape(tensor) for tensor in node.inputs[:2])
    if boxes is None or scores is None or 0 in boxes or len(boxes) != 3 or len(scores) != 3:
        raise Refuse("the number of its boxes is not known, or 0; freeze-shapes belongs before it")
    if scores[:2] != (1, 1):
        raise Refuse(f"it has {scores[0]} images and {scores[1]} classes, not one of each")
    given = optional(node, 2)
    most = None if given is None else scalar(given)
    if most is None or most < 1:
        raise Refuse("the largest number of boxes is computed, or not above 0")
    return boxes[1], min(int(most), boxes[1])


def _slice(tensor: gs.Tensor, taken: list[Bounds], hint: str, edit: Editor) -> gs.Tensor:
    link = slicing(edit, hint, taken)
    return edit.emit(link.op, [tensor, *link.parameters], link.attrs, hint=hint)


def _counting(read: list[gs.Tensor], box: gs.Tensor, counts: tuple[int, int], hint: str, edit: Editor) -> gs.Tensor:
    """Return which of the boxes [k, 1] count, [k]; `read` is what chooses them, of so many, so many at most."""
    count, most = counts
    none = edit.constant(f"{hint}_none", np.full((1, 1), -1, np.int64))
    end = edit.constant(f"{hint}_end", np.full((1, 1), count, np.int64))
    others = _slice(box, [Bounds(0, 0, most - 1, 1)], f"{hint}_others", edit)
    before = edit.emit("Concat", [none, others], {"axis": 0}, hint=f"{hint}_before")
    repeated = edit.emit("Equal", [box, before], hint=f"{hint}_repeated")
    tests = [
        edit.emit("Not", [repeated], hint=f"{hint}_fresh"),
        edit.emit("Greater", [box, none], hint=f"{hint}_written"),
        edit.emit("Less", [box, end], hint=f"{hint}_real"),
    ]
    if len(read) > 4 and read[4].name:
        flat = reshaping(edit, f"{hint}_flat", [-1])
        scores = edit.emit("Reshape", [read[1], *flat.parameters], hint=f"{hint}_scores")
        own = edit.emit("Gather", [scores, box], {"axis": 0}, hint=f"{hint}_own")
        tests.append(edit.emit("Greater", [own, read[4]], hint=f"{hint}_above"))
    mask = tests[0]
    for test in tests[1:]:
        mask = edit.emit("And", [mask, test], hint=f"{hint}_counts")
    link = on_axes(edit, "Squeeze", hint, [1])
    return edit.emit(link.op, [mask, *link.parameters], link.attrs, hint=f"{hint}_mask")
