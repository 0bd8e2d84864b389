"""Split a batch into branches that compute one image each, side by side, for accelerators that take a batch of one.

    x [2, ..] -> Conv -> Relu -> y   ->   Slice(x, image 0) -> Conv -> Relu \\
                                          Slice(x, image 1) -> Conv -> Relu -> Concat(axis 0) -> y

The branches share their weights. That is exact only where each image is computed from itself alone, so every node on
the way of the images is looked at, as freeze-batch does; shapes that it names with the batch in front get a 1 there.
Vela, for one, takes a batch of one only.

It does not fire when
1. the inputs have no batch in common that is fixed to 2 or more (freeze-batch), or a larger one than `most`
2. a node mixes images: it works along the first axis, moves it, or is no operator known to keep them apart
3. a parameter of a node is computed from the batch (freeze-shapes)
4. the operator set is below 4, where Concat joins floating-point numbers alone
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.graph import constant, is_op
from graphsurgery.graph.model import Model
from graphsurgery.operators.axes import Bounds
from graphsurgery.operators.batch_rows import Rows, counted_by
from graphsurgery.operators.dataflow import reads
from graphsurgery.operators.operands import optional
from graphsurgery.operators.slices import slicing
from graphsurgery.operators.static_shapes import free_inputs, size_of
from graphsurgery.rewrite import Editor, GraphPass, Refuse

_SHAPE_AT = {"Reshape": 1, "Expand": 1, "Resize": 3}  # the input that names the sizes of the result


@dataclass(frozen=True)
class SplitBatch(GraphPass):
    """`most` is the largest batch that is split; `inputs` those with images, all of one batch if not given."""

    name = "split-batch"
    effect = "exact"

    most: int = 16
    inputs: tuple[str, ...] = ()

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        if edit.opset < 4:
            raise Refuse(f"Concat joins floating-point numbers alone in operator set {edit.opset}")
        graphs.sort(graph)
        batch = self._batch(graph)
        size = size_of((batch[0].shape or [None])[0]) or 0
        if size > self.most:
            raise Refuse(f"the batch of {size} is larger than {self.most}")
        names = _row_names(graph, [tensor.name for tensor in batch], size, edit)
        nodes = [node for node in graph.nodes if any(tensor.name in names for tensor in node.outputs)]
        images = {tensor.name: _sliced(tensor, size, edit) for tensor in batch}
        for node in nodes:
            for image in range(size):
                read = [images[t.name][image] if t.name in images else t for t in node.inputs]
                for old, new in zip(node.outputs, _one_image(node, read, image, size, edit), strict=False):
                    if old.name:
                        images.setdefault(old.name, []).append(new)
        inside = {id(node) for node in nodes}
        for node in nodes:
            for tensor in list(node.outputs):
                if edit.is_output(tensor) or any(id(reader) not in inside for reader in graphs.consumers(tensor)):
                    edit.emit("Concat", images[tensor.name], {"axis": 0}, hint=tensor.name, writes=tensor)

    def _batch(self, graph: gs.Graph) -> list[gs.Variable]:
        named = [tensor for tensor in free_inputs(graph) if not self.inputs or tensor.name in self.inputs]
        found = [tensor for tensor in named if tensor.shape and (size_of(tensor.shape[0]) or 0) > 1]
        if not found or len({size_of(tensor.shape[0]) for tensor in found if tensor.shape}) > 1:
            raise Refuse("its inputs have no batch in common that is fixed to 2 or more")
        return found


def _row_names(graph: gs.Graph, batch: Sequence[str], size: int, edit: Editor) -> set[str]:
    """Return the names of the tensors that hold images; raise Refuse where a node mixes them, or hangs on their number.

    Looked at is a copy, into which shapes are inferred.
    """
    copy = Model.of(graph, edit.folder).graph()
    Editor(copy, SplitBatch.name, edit.folder).infer_shapes()
    graphs.sort(copy)
    inputs = [tensor for tensor in copy.inputs if tensor.name in batch]
    counted = counted_by(copy.nodes, inputs)
    rows = Rows(size, edit.opset, {id(tensor) for tensor in inputs}, set(counted), False)
    mixing = rows.follow(copy.nodes)
    if mixing is not None:
        raise Refuse(f"it mixes images: {mixing[1]}", mixing[0])
    for node in copy.nodes:
        if not any(id(tensor) in rows.rows for tensor in node.outputs):
            continue
        if any(id(tensor) in counted for tensor in reads(node)):
            raise Refuse("a parameter is computed from the batch; freeze-shapes settles that", node)
        if is_op(node, *_SHAPE_AT) and _named_sizes(node) is not None and constant(_named_sizes(node)) is None:
            raise Refuse("the shape that it makes is computed; freeze-shapes settles that", node)
    return {tensor.name for node in copy.nodes for tensor in node.outputs if tensor.name and id(tensor) in rows.rows}


def _named_sizes(node: gs.Node) -> gs.Tensor | None:
    """Return the input that names the sizes of what `node` makes, if any."""
    return optional(node, _SHAPE_AT[node.op]) if is_op(node, *_SHAPE_AT) else None


def _sliced(tensor: gs.Tensor, size: int, edit: Editor) -> list[gs.Tensor]:
    """Return the images of a batch, each a batch of one."""
    found: list[gs.Tensor] = []
    for image in range(size):
        link = slicing(edit, f"{tensor.name}_{image}", [Bounds(0, image, image + 1, 1)])
        found.append(edit.emit(link.op, [tensor, *link.parameters], link.attrs, hint=f"{tensor.name}_image_{image}"))
    return found


def _one_image(node: gs.Node, read: list[gs.Tensor], image: int, size: int, edit: Editor) -> list[gs.Tensor]:
    """Add a node like `node` that computes one image; return what it writes."""
    sizes, attrs = _named_sizes(node), dict(node.attrs)
    hint = f"{node.outputs[0].name}_image_{image}"
    if sizes is not None:
        values = np.array(constant(sizes))
        if values.size and values[0] == size:
            values[0] = 1
            read[_SHAPE_AT[node.op]] = edit.constant(f"{hint}_shape", values)
    wanted = max(index for index, tensor in enumerate(node.outputs, start=1) if tensor.name)
    made = edit.emit(node.op, read, attrs, hint=hint, outputs=wanted)
    return list(made.inputs[0].outputs)
