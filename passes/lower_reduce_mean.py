"""Turn a mean over height and width into a GlobalAveragePool, which pooling units compute and reduction units don't.

    ReduceMean(axes [2, 3], keepdims 1)  ->  GlobalAveragePool
    ReduceMean(axes [2, 3], keepdims 0)  ->  GlobalAveragePool  ->  Flatten

torch writes `x.mean([2, 3])`, the end of MobileNet and EfficientNet, as a ReduceMean. Huawei's Atlas 500, for one, has
it as pooling only: over height and width, dimensions kept. Equal to rounding. One limit: where sizes are not known and
turn out to be 0, there is nothing to take a mean of, and onnxruntime refuses to pool.

It does not fire when
1. it reduces other axes than 2 and 3, or all of them since none are given
2. its axes are not constant
3. the rank of its input is not known, or not 4
4. the elements are neither float16 nor float32, which alone ONNX Runtime pools, or nothing tells their type
5. it is known to have no elements: 0 channels, height or width
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute
from graphsurgery.operators.axes import keeps_dims, normalised
from graphsurgery.operators.operands import CONV_FLOATS
from graphsurgery.operators.requirements import require_dtype, require_integers, require_shape
from graphsurgery.operators.slices import Link, chain
from graphsurgery.rewrite import Editor, NodePass, Refuse


class LowerReduceMean(NodePass):
    name = "lower-reduce-mean"
    effect = "exact"
    matches = ("ReduceMean",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        axes = require_integers(node, "axes", 1, "its axes are")
        if not axes:
            does = "nothing" if attribute(node, "noop_with_empty_axes", 0) else "all axes"
            raise Refuse(f"no axes are given, so it reduces {does}")
        if sorted(normalised(axes, 4) or []) != [2, 3]:
            raise Refuse(f"it reduces the axes {', '.join(map(str, axes))}, not height and width")
        data = node.inputs[0]
        if 0 in require_shape(data, edit, ranks=[4])[1:]:
            raise Refuse("its input has no elements")
        require_dtype(data, edit, CONV_FLOATS)
        flat = [] if keeps_dims(node) else [Link("Flatten", attrs={"axis": 1})]
        chain(edit, node, data, [Link("GlobalAveragePool", hint="pooled"), *flat])
