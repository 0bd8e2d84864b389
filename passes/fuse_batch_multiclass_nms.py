"""Fuse NonMaxSuppression and all that chooses around it into one BatchMultiClassNMS, the operator of Ascend's compiler.

    boxes of some size, scores above a threshold (NonZero, Gather or GatherND), boxes moved apart by class or level,
    NonMaxSuppression, in an If that spares it an empty list, the best 1000 or 100, Gather of boxes, scores, classes
        ->  Cast(boxes [1, N, C, 4]), Cast(scores [1, N, C])  ->  BatchMultiClassNMS  ->  Cast of each

torchvision and detectron2 export the above; mmdetection scatters what is chosen into a mask, takes the TopK of
scores * mask and gathers, which becomes the same. The proposals of an RPN are one class. What is chosen is not read but
asked: the graph says what it makes of many boxes and scores, so it may be written in any way. Numbers of rows that
depend on the image are gone: there are always as many as there can be, and what depends on that is computed. A row
without a detection has score 0 and a box of zeros, as mmdetection has it; `detections` takes scores above 0 only, and
the gate asks no partner for such a row.

    fuse-batch-multiclass-nms: {max_total_size: 300}

What differs, as the operator is defined (graphsurgery/custom_ops/batch_multi_class_nms.py):
- boxes and scores are rounded to float16: in steps of half a pixel from 512 on, of one from 1024 on; of scores that
  become equal the lower class comes first, then the lower index
- the levels of an RPN suppress each other's boxes
- boxes without an area, or with a side below a pixel, are not dropped before
- what has a score that is not above 0 is lost: probabilities below 3e-8, and, of an RPN that chooses by logits, all
  below 0. With `sigmoid` they go through one before, which keeps their order: that costs the embedded detector 0.002 AP
  in place of 0.026

It does not fire when
1. nothing tells how many boxes and scores there are, which exporters compute: put `freeze-shapes` and `simplify` before
   it; or that hangs on the image, as where each level of a network of one stage has a threshold of its own
2. what it chooses depends on other tensors than boxes and scores, or is no NMS of each class by itself with a threshold
3. anything but the chosen boxes, scores and classes is read of it, such as their numbers
4. boxes with a side of a pixel or more are dropped for their size
5. it gives more rows than `max_total_size`, and the file holds their number
6. with `sigmoid`, scores without a threshold are read
7. the operator set is below 11: put `raise-opset` before
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.graph import is_op, producer
from graphsurgery.operators.nms_candidates import Candidates, candidates
from graphsurgery.operators.nms_selection import MOST, Chosen, Selection, selection
from graphsurgery.operators.static_shapes import fold_shapes
from graphsurgery.rewrite import Editor, GraphPass, Refuse

_OPSET = 11  # the operator set from which on the operator can be written in operators of ONNX, and so be checked
_OUTPUTS = {"boxes": 0, "scores": 1, "classes": 2}


@dataclass(frozen=True)
class FuseBatchMulticlassNms(GraphPass):
    """`max_total_size`, `max_size_per_class`: no more rows, or of a class, than these; `sigmoid`: of logits, before."""

    name = "fuse-batch-multiclass-nms"
    effect = "approximate"
    matches = ("NonMaxSuppression",)

    max_total_size: int = MOST
    max_size_per_class: int = MOST
    sigmoid: bool = False

    def __post_init__(self) -> None:
        for option in ("max_total_size", "max_size_per_class"):
            if not 1 <= getattr(self, option) <= MOST:
                raise ValueError(f"{option} must be 1 to {MOST}, not {getattr(self, option)}")

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        for nms in _each(graph):
            try:
                self._require_opset(edit)
                of = candidates(nms, edit)
                found = selection(nms, of, edit)
                self._require_rows(found, edit)
            except Refuse as refusal:
                edit.skip(nms, refusal.reason)
                continue
            self._fuse(of, found, edit)
            fold_shapes(edit, frozen=False)  # what chooses behind it is told by static shapes

    def _require_opset(self, edit: Editor) -> None:
        if edit.opset < _OPSET:
            raise Refuse(
                f"BatchMultiClassNMS is known from operator set {_OPSET} on, and the model has {edit.opset}: put "
                "raise-opset before it"
            )

    def _require_rows(self, found: Selection, edit: Editor) -> None:
        total = min(found.total, self.max_total_size)
        for each in found.chosen:
            if each.rows != total and edit.static_shape(each.tensor) is not None:
                raise Refuse(f"'{each.tensor.name}' has {each.rows} rows by the file, not {total}")
        if self.sigmoid and found.threshold is None and any(each.role == "scores" for each in found.chosen):
            raise Refuse("its scores, which sigmoid would change, are read")

    def _fuse(self, of: Candidates, found: Selection, edit: Editor) -> None:
        total = min(found.total, self.max_total_size)
        scores = of.scores
        if self.sigmoid and found.threshold is None:
            scores = edit.emit("Sigmoid", [scores], hint=f"{scores.name}_sigmoid")
        inputs = [
            _half(of.boxes, [1, of.count, of.own, 4], edit),
            _half(scores, [1, of.count, of.classes], edit),
        ]
        attributes = {
            "score_threshold": max(found.threshold or 0.0, 0.0),
            "iou_threshold": found.iou,
            "max_size_per_class": min(found.each, self.max_size_per_class, total),
            "max_total_size": total,
        }
        hint = f"{of.boxes.name}_nms"
        written = producer(edit.emit("BatchMultiClassNMS", inputs, attributes, hint=hint, outputs=4))
        assert written is not None
        for each in found.chosen:
            _write(each, written.outputs[_OUTPUTS[each.role]], total, edit)


def _each(graph: gs.Graph) -> Iterator[gs.Node]:
    """Yield each NonMaxSuppression once, in the order of the graph, which may change meanwhile."""
    seen: list[gs.Node] = []
    while True:
        for node in graphs.walk_nodes(graph):
            if is_op(node, "NonMaxSuppression") and not any(node is each for each in seen):
                seen.append(node)
                yield node
                break
        else:
            return


def _half(tensor: gs.Tensor, shape: list[int], edit: Editor) -> gs.Tensor:
    sizes = edit.constant(f"{tensor.name}_sizes", shape)
    rows = edit.emit("Reshape", [tensor, sizes], hint=f"{tensor.name}_rows")
    return edit.emit("Cast", [rows], {"to": onnx.TensorProto.FLOAT16}, hint=f"{tensor.name}_half")


def _write(chosen: Chosen, source: gs.Tensor, total: int, edit: Editor) -> None:
    """Let what stands for `chosen` come from `source`, an output of BatchMultiClassNMS."""
    tensor = chosen.tensor
    dtype = edit.dtype(tensor) or np.dtype(np.int64 if chosen.role == "classes" else np.float32)
    shape = list(chosen.shape)
    shape[shape.index(chosen.rows)] = total
    value = edit.emit("Cast", [source], {"to": onnx.helper.np_dtype_to_tensor_dtype(dtype)}, hint=f"{tensor.name}_cast")
    if chosen.first:
        first = edit.constant(f"{tensor.name}_first", np.array(chosen.first, dtype))
        value = edit.emit("Add", [value, first], hint=f"{tensor.name}_label")
    edit.emit("Reshape", [value, edit.constant(f"{tensor.name}_sizes", shape)], hint=tensor.name, writes=tensor)
    edit.retype(tensor, dtype=dtype, shape=shape)
