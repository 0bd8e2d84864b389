"""Which nodes keep the rows of a batch apart: row i of what they write depends on row i of what they read alone.

Told by structure: the operator, its axes, and the shapes. An operator that no rule names is taken to mix rows.

    rows      the leading dimension is the batch
    counted   computed from the number of rows (Shape, Size): it may give a shape, but not take part in the values
    fixed     the same whatever the batch is
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.graph import attribute, is_op
from graphsurgery.operators.axes import bounds, integers
from graphsurgery.operators.dataflow import reads
from graphsurgery.operators.static_shapes import size_of
from graphsurgery.operators.training import why_it_trains

_ELEMENTWISE = (
    *("Abs", "Acos", "Add", "And", "Atan", "BitShift", "Cast", "Ceil", "Celu", "Clip", "Cos", "Div", "Elu", "Equal"),
    *("Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf"),
    *("IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not"),
    *("Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Softplus"),
    *("Softsign", "Sqrt", "Sub", "Sum", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor"),
)
# One data input [N, C, ...] and parameters; each image of the batch is computed alone.
_PER_IMAGE = (
    *("AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "DepthToSpace", "DequantizeLinear", "Dropout"),
    *("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "GroupNormalization", "InstanceNormalization", "LRN"),
    *("LpPool", "MaxPool", "QuantizeLinear", "SpaceToDepth"),
)
# Operators along one axis, with its default: before opset 13 a softmax took everything from `axis` on.
_ALONG_AXIS = {
    **{"ArgMax": 0, "ArgMin": 0, "Concat": None, "Gather": 0, "GatherElements": 0, "LayerNormalization": -1},
    **{"Hardmax": -1, "LogSoftmax": -1, "LpNormalization": -1, "Softmax": -1, "Split": 0, "TopK": -1},
}
_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
    *("ReduceProd", "ReduceSum", "ReduceSumSquare"),
)
# Elements stay in memory order: rows stay rows where the leading dimension stays.
_RELAYOUTS = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
_TO_THE_END = 2**31 - 1
# A prime that no layer has as a size: with so many rows, a dimension that has to do with their number shows it.
PROBE = 8191


@dataclass
class Rows:
    """Follows the rows through a graph whose shapes were inferred with `size` of them.

    `rows` and `counted` hold ids of tensors; `opset` decides defaults. `probe`: the size is a prime made up for the
    occasion, so that a dimension which is a multiple of it has to do with the number of rows.
    """

    size: int
    opset: int
    rows: set[int]
    counted: set[int]
    probe: bool

    def follow(self, nodes: Iterable[gs.Node]) -> tuple[gs.Node, str] | None:
        """Mark what the sorted `nodes` write; return the first node that mixes rows, and why, if any does."""
        for node in nodes:
            read = [t for t in reads(node) if t.name]
            if any(id(tensor) in self.rows for tensor in read):
                if is_op(node, "Shape", "Size"):
                    continue
                reason = self._mixes(node)
                if reason:
                    return node, reason
                self._mark(node)
            elif any(id(tensor) in self.counted for tensor in read) and self._fills(node):
                self._mark(node)
        return None

    def _mark(self, node: gs.Node) -> None:
        written = {id(tensor) for tensor in node.outputs}
        self.rows |= written
        self.counted -= written

    def _fills(self, node: gs.Node) -> bool:
        """Whether `node` writes as many rows as there are, all alike."""
        alike = is_op(node, "ConstantOfShape") or (is_op(node, "Expand") and self._repeats(node.inputs[0], node))
        return alike and self._leads(node.outputs[0])

    def _mixes(self, node: gs.Node) -> str | None:
        """Return why `node`, which reads rows, mixes them; None where it keeps them apart."""
        rule = next((rule for ops, rule in _RULES if is_op(node, *ops)), None)
        if rule is None or graphs.subgraphs(node):
            return "it is not known to keep the rows of a batch apart"
        return rule(self, node)

    # --- questions ----------------------------------------------------------------------------------------------

    def _is_row(self, tensor: gs.Tensor) -> bool:
        return id(tensor) in self.rows

    def _leads(self, tensor: gs.Tensor) -> bool:
        """Whether the rows are the leading dimension of `tensor`, and no other."""
        first, *others = [size_of(size) for size in tensor.shape or [None]]
        return first == self.size and not (self.probe and any(size and size % self.size == 0 for size in others))

    def _repeats(self, tensor: gs.Tensor, node: gs.Node) -> bool:
        """Whether fixed `tensor` is the same for each row of the result, by broadcasting."""
        out = node.outputs[0].shape
        if not tensor.name or tensor.shape is None or out is None or id(tensor) in self.counted:
            return not tensor.name
        return len(tensor.shape) < len(out) or (len(tensor.shape) == len(out) and size_of(tensor.shape[0]) == 1)

    def _only_first(self, node: gs.Node) -> str | None:
        """The parameters of `node`, all inputs but the first, must be fixed."""
        if not self._is_row(node.inputs[0]):
            return "the rows are not its first input"
        for tensor in node.inputs[1:]:
            if self._is_row(tensor) or id(tensor) in self.counted:
                return f"its parameter '{tensor.name}' depends on the batch"
        return None

    def _axes_spare_rows(self, axes: list[int] | None, data: gs.Tensor) -> str | None:
        rank = _rank(data)
        if axes is None or rank is None:
            return "its axes are not known"
        return "it works along the leading dimension" if any(axis % rank == 0 for axis in axes) else None

    # --- rules --------------------------------------------------------------------------------------------------

    def _elementwise(self, node: gs.Node) -> str | None:
        out = node.outputs[0].shape
        if out is None:
            return "its shape is not known"
        for tensor in node.inputs:
            if id(tensor) in self.counted:
                return f"its operand '{tensor.name}' is computed from the number of rows"
            if self._is_row(tensor):
                if tensor.shape is None or len(tensor.shape) != len(out):
                    return f"broadcasting moves the rows of '{tensor.name}' away from the leading dimension"
            elif not self._repeats(tensor, node):
                return f"its operand '{tensor.name}' differs from row to row"
        return None

    def _per_image(self, node: gs.Node) -> str | None:
        training: str | None = why_it_trains(node, self.opset)
        if training is not None:
            return training
        if is_op(node, "MaxPool") and len(node.outputs) > 1 and node.outputs[1].name:
            return "its indices count through the whole batch"
        if is_op(node, "QuantizeLinear", "DequantizeLinear"):
            scale, rank = node.inputs[1].shape, _rank(node.inputs[0])
            if scale is None or rank is None or len(scale) > 1:
                return "its scales are not known to be one for all rows"
            if len(scale) == 1 and scale[0] != 1 and attribute(node, "axis", 1) % rank == 0:
                return "each row has a scale of its own"
        return self._only_first(node)

    def _gemm(self, node: gs.Node) -> str | None:
        if attribute(node, "transA", 0):
            return "it multiplies with the batch transposed"
        if len(node.inputs) > 2 and not self._repeats(node.inputs[2], node):
            return f"its operand '{node.inputs[2].name}' differs from row to row"
        return self._only_first(node)

    def _matmul(self, node: gs.Node) -> str | None:
        left, right = node.inputs
        ranks = (_rank(left), _rank(right))
        if ranks[0] is None or ranks[1] is None:
            return "its shapes are not known"
        if any(id(tensor) in self.counted for tensor in node.inputs):
            return "an operand is computed from the number of rows"
        if self._is_row(left) and self._is_row(right):
            return None if ranks[0] == ranks[1] >= 3 else "it multiplies rows with one another"
        if self._is_row(left):
            kept = ranks[0] >= 2 and (ranks[1] <= 2 or (ranks[1] <= ranks[0] and self._repeats(right, node)))
        else:
            kept = ranks[1] >= 3 and ranks[0] <= ranks[1] and (ranks[0] <= 2 or self._repeats(left, node))
        return None if kept else "its sums run over the leading dimension, or move it"

    def _relayout(self, node: gs.Node) -> str | None:
        data = node.inputs[0]
        if not self._is_row(data) or any(self._is_row(tensor) for tensor in node.inputs[1:]):
            return "its target depends on values of the rows"
        if is_op(node, "Squeeze") and not integers(node, "axes", 1):
            return "without axes it drops a batch of one"
        return None if self._leads(node.outputs[0]) else "the leading dimension of the result is not the batch"

    def _transpose(self, node: gs.Node) -> str | None:
        return None if attribute(node, "perm", [None])[0] == 0 else "it moves the leading dimension"

    def _along_axis(self, node: gs.Node) -> str | None:
        default = _ALONG_AXIS[node.op]
        if self.opset < 13 and is_op(node, "Softmax", "LogSoftmax", "Hardmax"):
            default = 1
        if is_op(node, "Gather") and not self._is_row(node.inputs[0]):
            fixed_table = attribute(node, "axis", 0) == 0 and id(node.inputs[0]) not in self.counted
            return None if fixed_table else "it looks up along another axis than the first"
        data = node.inputs[0]
        if is_op(node, "Concat", "GatherElements"):
            stray = [tensor.name for tensor in node.inputs if not self._is_row(tensor)]
            problem = f"'{stray[0]}' is no part of the batch" if stray else None
        else:
            problem = self._only_first(node)
        axis = attribute(node, "axis", default)
        return problem or self._axes_spare_rows(None if axis is None else [axis], data)

    def _cumsum(self, node: gs.Node) -> str | None:
        return self._only_first(node) or self._axes_spare_rows(integers(node, "axis", 1), node.inputs[0])

    def _reduction(self, node: gs.Node) -> str | None:
        axes = integers(node, "axes", 1) or None  # none at all means all of them
        return self._only_first(node) or self._axes_spare_rows(axes, node.inputs[0])

    def _slice(self, node: gs.Node) -> str | None:
        found = bounds(node)
        if found is None:
            return "where it cuts is not known"
        cut = [b.axis for b in found if not (b.start == 0 and b.end >= _TO_THE_END and b.step == 1)]
        return self._only_first(node) or self._axes_spare_rows(cut, node.inputs[0])

    def _pad(self, node: gs.Node) -> str | None:
        pads, axes = integers(node, "pads", 1), integers(node, "axes", 3)
        if pads is None or axes is None:
            return "where it pads is not known"
        half = len(pads) // 2
        padded = [
            axis
            for axis, before, after in zip(axes or range(half), pads[:half], pads[half:], strict=True)
            if before or after
        ]
        return self._only_first(node) or self._axes_spare_rows(padded, node.inputs[0])

    def _resize(self, node: gs.Node) -> str | None:
        """Also Expand and Tile: the target may be counted, but must leave the rows where they are."""
        data, out = node.inputs[0], node.outputs[0]
        if not self._is_row(data) or any(self._is_row(tensor) for tensor in node.inputs[1:]):
            return "its target depends on values of the rows"
        if attribute(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize":
            return "it crops, which may reach across the batch"
        return None if _rank(data) == _rank(out) and self._leads(out) else "it changes the leading dimension"


_Rule = Callable[[Rows, gs.Node], str | None]
_RULES: list[tuple[Iterable[str], _Rule]] = [
    (_ELEMENTWISE, Rows._elementwise),
    (_PER_IMAGE, Rows._per_image),
    (("Gemm",), Rows._gemm),
    (("MatMul",), Rows._matmul),
    (_RELAYOUTS, Rows._relayout),
    (("Transpose",), Rows._transpose),
    (tuple(_ALONG_AXIS), Rows._along_axis),
    (("CumSum",), Rows._cumsum),
    (_REDUCTIONS, Rows._reduction),
    (("Slice",), Rows._slice),
    (("Pad",), Rows._pad),
    (("Resize", "Upsample", "Expand", "Tile"), Rows._resize),
]


def counted_by(nodes: Iterable[gs.Node], rows: Iterable[gs.Tensor]) -> set[int]:
    """Return the ids of what the sorted `nodes` compute from the number of rows alone, not from their values.

    To be asked while the number is open and everything else is folded: then each Shape that is left asks for it.
    """
    values, counted = {id(tensor) for tensor in rows}, set()
    for node in nodes:
        read = {id(tensor) for tensor in reads(node)}
        written = {id(tensor) for tensor in node.outputs}
        if is_op(node, "Shape", "Size"):
            counted |= written
        elif read & values:
            values |= written
        elif read & counted:
            counted |= written
    return counted


def _rank(tensor: gs.Tensor) -> int | None:
    return None if tensor.shape is None else len(tensor.shape)
