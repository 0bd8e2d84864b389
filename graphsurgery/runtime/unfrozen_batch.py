"""Opens a frozen batch again, for a processor that takes any number of rows.

An accelerator wants a fixed batch, so the runtime fills 40 boxes up to 1,000. The CPU needs none of that, and what
`freeze-batch` froze computes each row from itself alone; so it is given the rows that there are, with the same result.

    box_features [1000, 256, 7, 7] -> class_logits [1000, 91]   ->   box_features [N, 256, 7, 7] -> class_logits [N, 91]

It stays frozen when
1. the number of rows is also written inside, in the shape of a Reshape for example: then shape inference does not find
   the open dimension again in front of every output
2. an operator has no shape inference (those that quantizers make up)
3. weights lie in files of their own
4. an output has no rows
"""

from __future__ import annotations

import onnx
from onnx import ModelProto

from graphsurgery.graph.expansion import expanded
from graphsurgery.graph.protos import stored_outside
from graphsurgery.parts.manifest import PartEntry

_ROWS = "graphsurgery_rows"
_SMALL = 1 << 10  # a shape is smaller, a weight may be larger


def with_open_batch(model: ModelProto, entry: PartEntry) -> ModelProto | None:
    """Return a copy of a part in which any number of rows goes, None where it must stay frozen."""
    if entry.batch is None or set(entry.batch.outputs) != set(entry.outputs) or stored_outside(model):
        return None
    opened = ModelProto()
    opened.CopyFrom(model)
    del opened.graph.value_info[:]
    inputs = [info for info in opened.graph.input if info.name in entry.batch.inputs]
    for info in [*inputs, *opened.graph.output]:
        dims = info.type.tensor_type.shape.dim
        if not dims or dims[0].dim_value != entry.batch.size:
            return None
        dims[0].dim_param = _ROWS
    return opened if _reaches_outputs(opened) else None


def _reaches_outputs(opened: ModelProto) -> bool:
    """Tell whether shapes, inferred from the inputs alone, have the open dimension in front of every output."""
    bare = ModelProto()
    bare.CopyFrom(opened)
    for tensor in bare.graph.initializer:
        if len(tensor.raw_data) > _SMALL:
            tensor.ClearField("raw_data")
    for info in bare.graph.output:
        info.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(expanded(bare), data_prop=True)
    except Exception:  # onnx raises unrelated classes for what it can't infer
        return False
    shapes = [info.type.tensor_type.shape.dim for info in inferred.graph.output]
    return all(dims and dims[0].dim_param == _ROWS for dims in shapes)
