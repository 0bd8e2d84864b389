"""What a NonMaxSuppression chooses from, before exporters filter it, write it down flat and move its classes apart.

detectron2    NonZero(scores > t), GatherND of boxes [N, C, 4] and scores [N, C], boxes + class * (largest + 1), NMS
torchvision   Reshape to [N * C, 4] and [N * C], NonZero, Gather, the same offsets
mmdetection   Reshape to [1, N * C, 4] and [1, 1, N * C], boxes + constant, NMS; in the RPN nothing of it

All that is taken for granted here is that the rows of two tensors come in, and through which operators; what becomes
of them is not read but asked (nms_selection.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.graph import attribute, constant, is_op, producer
from graphsurgery.operators.dataflow import at_fixed_shapes, flow, reads
from graphsurgery.rewrite import Editor, Refuse

_KEEPS_ELEMENTS = (*("Cast", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Tile", "Transpose", "Unsqueeze"),)


@dataclass(frozen=True)
class Candidates:
    """`boxes` and `scores`, ones in front of their shapes aside: [count, own, 4] or [count, 4], and [count, classes].

    `own` is how many boxes a row has: one for each class, or one for all. `levels` are whole numbers, one for a row,
    that come along with them: torchvision picks the level of each proposal out of a list, by the TopK of its scores.
    """

    boxes: gs.Tensor
    scores: gs.Tensor
    count: int
    classes: int
    own: int
    levels: tuple[gs.Tensor, ...] = ()


def candidates(nms: gs.Node, edit: Editor) -> Candidates:
    """Return what `nms` chooses from. Raises Refuse where nothing tells."""
    boxes = [(tensor, _sizes(tensor, edit)) for tensor in _written_down(nms.inputs[0], edit)]
    scores = [(tensor, _sizes(tensor, edit)) for tensor in _written_down(nms.inputs[1], edit)]
    if not any(sizes and sizes[-1] == 4 for _, sizes in boxes) or not any(sizes for _, sizes in scores):
        raise Refuse(
            "nothing tells how many boxes and scores it chooses from: that hangs on the image, or freeze-shapes and "
            "simplify belong before it"
        )
    found: list[Candidates] = []
    for tensor, sizes in boxes:
        for other, of_scores in scores:
            if not sizes or not of_scores or sizes[-1] != 4 or len(of_scores) > 2:
                continue
            count, classes = (*of_scores, 1)[:2]
            own = {(count,): 1, (count, 1): 1, (count, classes): classes}.get(tuple(sizes[:-1]))
            if own is not None:
                found.append(Candidates(tensor, other, count, classes, own))
    if not found:
        raise Refuse("its boxes and scores are not rows of one image, with a box for each score or for all of a row")
    # of several forms the first one that was written down: what is chosen may be read of that
    best = max(reversed(found), key=lambda each: (each.classes, -each.own))
    return replace(best, levels=_levels(nms, best, edit)) if best.classes == 1 else best


def _levels(nms: gs.Node, of: Candidates, edit: Editor) -> tuple[gs.Tensor, ...]:
    """Return the whole numbers, one for each row, that `nms` depends on beside boxes and scores."""
    graphs.sort(edit.root)
    varying = flow(edit.root, edit.root.inputs, at_fixed_shapes(edit), [of.boxes, of.scores])
    holder = next(top for top in edit.root.nodes if any(inner is nms for inner in graphs.with_bodies(top)))
    pending, seen, found = [holder], {id(holder)}, list[gs.Tensor]()
    while pending:
        for tensor in reads(pending.pop()):
            if id(tensor) not in varying or tensor is of.boxes or tensor is of.scores:
                continue
            kind = edit.dtype(tensor)
            if kind is not None and kind.kind in "iu" and _sizes(tensor, edit) in ([of.count], [of.count, 1]):
                if not any(tensor is each for each in found):
                    found.append(tensor)
                continue
            writer = producer(tensor)
            if writer is not None and id(writer) not in seen:
                seen.add(id(writer))
                pending.append(writer)
    return tuple(found)


def _sizes(tensor: gs.Tensor, edit: Editor) -> list[int] | None:
    """Return the static shape of `tensor` without the ones that it begins with; of a box or a row something stays."""
    shape = edit.static_shape(tensor)
    if not shape or 0 in shape:
        return None
    sizes = list(shape)
    while len(sizes) > 1 and sizes[0] == 1:
        sizes.pop(0)
    return sizes


def _written_down(tensor: gs.Tensor, edit: Editor) -> list[gs.Tensor]:
    """Return what `tensor` holds the elements of, the nearest first, before rows are chosen and boxes moved."""
    path = [tensor]
    while (node := producer(path[-1])) is not None:
        if is_op(node, *_KEEPS_ELEMENTS):
            path.append(node.inputs[0])
        elif _chooses_rows(node):
            path = [node.inputs[0]]
        elif is_op(node, "Add"):
            path.append(_moved(node, edit))
        else:
            break
    return path


def _chooses_rows(node: gs.Node) -> bool:
    """Whether the number of rows that `node` writes depends on the image; columns are numbered by constants."""
    if not is_op(node, "Gather", "GatherND") or constant(node.inputs[1]) is not None:
        return False
    return int(attribute(node, "axis", 0)) == 0 and int(attribute(node, "batch_dims", 0)) == 0


def _moved(node: gs.Node, edit: Editor) -> gs.Tensor:
    """Return the boxes of a sum with what moves them, which is one number for a box, or constant."""
    one, other = node.inputs
    columns = [(edit.shape(tensor) or [None])[-1] for tensor in (one, other)]
    if (columns[1] == 4 and columns[0] != 4) or constant(one) is not None:
        return other
    return one
