"""What ONNX's own definition of an operator says, in the operator set at hand."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs
from onnx.defs import OpSchema

from graphsurgery.graph import is_op


def schema_of(node: gs.Node, opset: int) -> OpSchema | None:
    """Return the definition of what `node` calls; None where the operator set has none, or it is of another domain."""
    known = is_op(node, node.op) and onnx.defs.has(node.op, opset, "")
    return onnx.defs.get_schema(node.op, opset, "") if known else None


def input_at(schema: OpSchema, index: int) -> OpSchema.FormalParameter:
    """Return what is declared of the input at `index`; the last one stands for all behind it."""
    return schema.inputs[min(index, len(schema.inputs) - 1)]


def output_at(schema: OpSchema, index: int) -> OpSchema.FormalParameter:
    """Return what is declared of the output at `index`; the last one stands for all behind it."""
    return schema.outputs[min(index, len(schema.outputs) - 1)]
