"""Let a TopK find no more than what is read of it, for compilers whose TopK is limited, or which have no sort.

    scores [1, 5000] -> TopK(5000) -> Slice(to 1000)    ->    scores -> TopK(1000)
                                \\-> Slice(to 1000)

A sort comes out of PyTorch's exporter as a TopK of all elements; detectron2 and torchvision then take the first ones.
Values and indices may each be sliced, and differently: K becomes what the longest Slice needs, and a shorter one stays.
A Slice that takes all of it goes, too.
Of equal elements the one with the lower index comes first, for any K: ONNX says so, and ONNX Runtime does so whichever
algorithm it chooses for a K (measured with 1.31). So do values and indices stay the same bits.

A K that is computed from a Shape is a constant behind freeze-shapes and simplify or fold-constants.

It does not fire when
1. K is not constant, or the bounds of a Slice are not
2. a tensor that it writes is a graph output, is read by something else than a Slice, or is not cut along that axis
3. a Slice goes backwards, or counts from the back and has to stay, as another one takes more or it cuts two axes
4. its results are not sorted: which elements come first is then not said
5. nothing tells the rank of its input
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, consumers, is_op
from graphsurgery.operators.axes import Bounds, bounds
from graphsurgery.operators.requirements import require_axes, require_integers, require_shape
from graphsurgery.operators.slices import picked
from graphsurgery.rewrite import Editor, NodePass, Refuse


class LowerSortedSlice(NodePass):
    name = "lower-sorted-slice"
    effect = "exact"
    matches = ("TopK",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        readers = [reader for out in node.outputs for reader in consumers(out)]
        if not any(is_op(reader, "Slice") for reader in readers):
            return
        (count,) = require_integers(node, "k", 1, "its K is")
        rank = len(require_shape(node.inputs[0], edit))
        (axis,) = require_axes([int(attribute(node, "axis", -1))], rank)
        cuts = [_Cut.of(reader, out, axis, rank) for out in node.outputs for reader in _readers(out, edit)]
        needed = max((cut.last(count) + 1 for cut in cuts), default=0)
        if not needed:
            return
        here = {id(other) for other in edit.graph.nodes}
        whole = [cut for cut in cuts if picked(cut.along, count) == range(needed)]
        needless = [cut.node for cut in whole if cut.alone and id(cut.node) in here]
        if needed < count:
            if not attribute(node, "sorted", 1):
                raise Refuse("its results are not sorted, so which ones come first is not said")
            stay = [cut.along for cut in cuts if all(cut.node is not other for other in needless)]
            if any(min(along.start, along.end) < 0 for along in stay):
                raise Refuse("a Slice that stays counts from the back of it")
            _find(node, needed, axis, edit)
        for cut in needless:
            edit.bypass(cut, cut.inputs[0])


def _find(node: gs.Node, count: int, axis: int, edit: Editor) -> None:
    """Let a TopK find the first `count`."""
    if "k" in node.attrs:
        edit.set_attribute(node, "k", count)
    else:
        edit.set_input(node, 1, edit.constant(f"{node.outputs[0].name}_k", [count]))
    for out in node.outputs:
        if out.shape is not None:
            edit.retype(out, shape=[count if at == axis else size for at, size in enumerate(out.shape)])


@dataclass(frozen=True, eq=False)
class _Cut:
    """A Slice, what it takes along the axis of the TopK, and whether it cuts no other axis."""

    node: gs.Node
    along: Bounds
    alone: bool

    @classmethod
    def of(cls, reader: gs.Node, out: gs.Tensor, axis: int, rank: int) -> _Cut:
        if not is_op(reader, "Slice") or any(tensor is out for tensor in reader.inputs[1:]):
            raise Refuse(f"all of '{out.name}' is read, by {reader.op} '{reader.name or reader.outputs[0].name}'")
        taken = bounds(reader)
        if taken is None:
            raise Refuse(f"the bounds of the Slice of '{out.name}' are not constant")
        along = [each for each in taken if each.axis in (axis, axis - rank)]
        if not along:
            raise Refuse(f"all of '{out.name}' is read: its Slice cuts another axis")
        if along[0].step < 1:
            raise Refuse(f"the Slice of '{out.name}' goes backwards")
        return cls(reader, along[0], len(taken) == 1)

    def last(self, count: int) -> int:
        """Return the last index that it takes of `count`, -1 where it takes none."""
        taken = picked(self.along, count)
        return taken[-1] if taken else -1


def _readers(out: gs.Tensor, edit: Editor) -> list[gs.Node]:
    if edit.is_output(out):
        raise Refuse(f"all of '{out.name}' is read: it is a graph output")
    return list(consumers(out))
