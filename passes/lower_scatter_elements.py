"""Write whole rows with ScatterND in place of element by element, for hosts: ONNX Runtime copies a row at once then.

    ScatterElements(data, Expand(rows [n, 1, 1, 1], shape), updates, axis 0)
        ->  ScatterND(data, Expand(Reshape(rows, [-1, 1]), [shape[0], 1]), updates)

torchvision's pooling puts the boxes of each pyramid level back into order like this, and PyTorch's exporter spreads the
row numbers over all elements: for 1,000 boxes of 256 x 7 x 7 that is an index of 100 MB. Measured with ONNX Runtime on
two threads: the parts before the box heads of Mask R-CNN and of the embedded default take 0.52 of the time. Where all
levels are written into zeros one behind the other, `pool-levels-by-gather` is faster still and leaves no scatter.

Where two rows have one number, ONNX leaves open which of them remains, in both forms.

It does not fire when
1. it adds, multiplies or compares what is written with what is there
2. it writes along another axis than the first
3. the indices are not row numbers that an Expand spreads
4. nothing tells the shapes, or the rows that are written are narrower than those of the data
5. the indices are not int64, the only type that ScatterND takes

A Scatter, what the operator was called before operator set 11, becomes a ScatterElements by raise-opset.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery.operators.scattered_rows import require_row_numbers
from graphsurgery.rewrite import Editor, NodePass


class LowerScatterElements(NodePass):
    name = "lower-scatter-elements"
    effect = "exact"
    matches = ("ScatterElements",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        data, indices, updates = node.inputs
        rows = require_row_numbers(node, edit)
        shape = indices.inputs[0].inputs[1]  # that of the Expand
        hint = node.outputs[0].name
        start, end = edit.constant(f"{hint}_start", [0]), edit.constant(f"{hint}_end", [1])
        count = edit.emit("Slice", [shape, start, end], hint=f"{hint}_count")
        wanted = edit.emit("Concat", [count, end], {"axis": 0}, hint=f"{hint}_wanted")
        column = edit.emit("Reshape", [rows, edit.constant(f"{hint}_shape", [-1, 1])], hint=f"{hint}_column")
        # Expand repeats a single row number where more rows are written, as it did before
        spread = edit.emit("Expand", [column, wanted], hint=f"{hint}_rows")
        edit.replace(node, "ScatterND", [data, spread, updates])
