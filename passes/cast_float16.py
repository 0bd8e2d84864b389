"""Compute in float16: half the memory and bandwidth, and the only float that some NPUs have.

    x (float32) -> Conv -> Resize -> Conv -> y (float32)
 -> x -> Cast -> Conv -> Cast -> Resize -> Cast -> Conv -> Cast -> y

A node becomes float16 as a whole: all float32 tensors that it reads and writes, weights included. The others stay
float32, with a Cast where a tensor passes from the ones to the others; a tensor has one type where it is written, so a
Cast to float32 and back between two float16 nodes never arises. Inf and NaN stay what they are. A weight beyond 65504
is cut off there, and the report says which one.

ONNX Runtime computes a node in float32 where it has no float16 kernel for it (on x86 CPUs: most), but rounds what comes
out: what is measured with it is about what the accelerator will give, accumulation apart.

A node stays float32 when
1. `keep` names its operator: by default those that pick, count, sample at coordinates, or already quantize
2. `exclude` names it or what it writes
3. it is no standard operator, its operator set does not allow float16 for a tensor that is float32 here, or it looks
   at bits (BitCast)
4. it has bodies (If, Loop, Scan): the whole of them, with Casts around; or it writes what a body gives out
5. nothing tells the type of a tensor that it reads or writes, or it writes a float32 that no input decides about
6. a constant that it reads would vanish (an epsilon of 1e-12), or it multiplies or divides by one beyond 65504
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto

from graphsurgery import graph as graphs
from graphsurgery.graph import attribute, consumers, is_op, producer
from graphsurgery.operators.activations import excluded
from graphsurgery.operators.schemas import input_at, output_at, schema_of
from graphsurgery.operators.static_shapes import free_inputs
from graphsurgery.rewrite import Editor, GraphPass

KEEP = (
    *("Resize", "Upsample", "GridSample", "AffineGrid", "RoiAlign", "MaxRoiPool", "NonMaxSuppression", "TopK"),
    *("Range", "CumSum", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
    "MeanVarianceNormalization",  # ONNX Runtime can't load one of float16: it puts float32 constants in its place
)
_LARGEST = np.finfo(np.float16).max
# They read float16 and float32 alike, so that no Cast is made for them.
_READS_ANY = ("Cast", "Shape", "Size")


@dataclass(frozen=True)
class CastFloat16(GraphPass):
    """`keep` names operators that stay float32, `exclude` nodes or their outputs by patterns (with * and ?).

    `keep_io` lets the inputs and outputs of the model keep their types, with a Cast behind or before them; without it
    they become float16, other than inputs with a default.
    """

    name = "cast-float16"
    effect = "approximate"

    keep: tuple[str, ...] = KEEP
    exclude: tuple[str, ...] = ()
    keep_io: bool = True

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        if edit.opset < 7:
            return edit.skip(None, f"operator set {edit.opset} is too old: 7 is needed")
        graphs.drop_unused(graph)  # an unused node reads nothing
        conversion = _Conversion(graph, edit)
        for node in graph.nodes:
            reason = self._why_not(node, conversion)
            if reason:
                edit.skip(node, reason)
        conversion.widen_choice()
        if not self.keep_io:
            conversion.narrow_inputs(free_inputs(graph))
        conversion.cast_outputs(np.dtype(np.float32 if self.keep_io else np.float16))
        conversion.connect()

    def _why_not(self, node: gs.Node, conversion: _Conversion) -> str | None:
        """Choose `node` for float16, or say why it stays float32, if it has to do with that at all."""
        if is_op(node, "Constant", "ConstantOfShape", *_READS_ANY) or not conversion.has_float32(node):
            return None
        if is_op(node, *self.keep):
            return f"{node.op} is to be kept"
        if excluded(node, self.exclude):
            return "it is excluded by name"
        return conversion.choose(node)


class _Conversion:
    """Which nodes of the main graph become float16, which tensors do, and the way there."""

    def __init__(self, graph: gs.Graph, edit: Editor) -> None:
        self.graph, self.edit = graph, edit
        self._dtypes: dict[int, np.dtype[Any] | None] = {}  # before anything changed
        nodes = list(graphs.walk_nodes(graph))
        for tensor in (*graph.inputs, *graph.outputs, *(t for n in nodes for t in (*n.inputs, *n.outputs))):
            if tensor.name and id(tensor) not in self._dtypes:
                self._dtypes[id(tensor)] = edit.dtype(tensor)
        self._body_outputs = {id(t) for inner in graphs.walk_graphs(graph) if inner is not graph for t in inner.outputs}
        self._reads: dict[int, set[int]] = {}  # by chosen node: the places at which it reads float16
        self._half: dict[int, gs.Tensor] = {}  # what is float16 where it is written
        self._twins: dict[int, gs.Tensor] = {}  # by tensor: the same in the other type

    def has_float32(self, node: gs.Node) -> bool:
        return any(self._is_float32(tensor) for tensor in (*node.inputs, *node.outputs))

    def choose(self, node: gs.Node) -> str | None:
        """Let `node` be float16, or say why it can't."""
        if graphs.subgraphs(node):
            return "it has bodies, which stay float32"
        if is_op(node, "BitCast"):
            return "it looks at bits, which float16 has others of"
        schema = schema_of(node, self.edit.opset)
        if schema is None:
            return "it is no standard operator"
        if any(tensor.name and self._dtypes[id(tensor)] is None for tensor in (*node.inputs, *node.outputs)):
            return "nothing tells the type of a tensor that it reads or writes"
        if any(id(tensor) in self._body_outputs for tensor in node.outputs):
            return "it writes what a body gives out"
        reads, kinds = set(), set()
        for index, tensor in enumerate(node.inputs):
            declared = input_at(schema, index)
            kind = declared.type_str
            if not self._is_float32(tensor) or kind == "tensor(float)":  # such a one stays float32, as scales of Resize
                continue
            if "tensor(float16)" not in declared.types:
                return f"operator set {self.edit.opset} has no {node.op} of float16"
            why_not = self._why_no_weight(node, tensor)
            if why_not is not None:
                return why_not
            reads.add(index)
            kinds.add(kind)
        written = []
        for index, tensor in enumerate(node.outputs):
            kind = output_at(schema, index).type_str
            if self._is_float32(tensor) and kind != "tensor(float)":
                written.append(tensor)
                if kind not in kinds:
                    return f"no input decides about the type of '{tensor.name}'"
        self._reads[id(node)] = reads
        self._half.update((id(tensor), tensor) for tensor in written)
        return None

    def widen_choice(self) -> None:
        """Let a Cast to float32, or a fill with it, give float16 where nothing but float16 nodes read it."""
        for node in self.graph.nodes:
            is_cast = is_op(node, "Cast") and attribute(node, "to", 0) == TensorProto.FLOAT
            if not (is_cast or is_op(node, "ConstantOfShape")) or not self._is_float32(node.outputs[0]):
                continue
            tensor = node.outputs[0]
            readers = consumers(tensor)
            if not readers or self.edit.is_output(tensor) or not all(self._reads_half(n, tensor) for n in readers):
                continue
            if is_cast:
                self.edit.set_attribute(node, "to", int(TensorProto.FLOAT16))
            else:
                held = attribute(node, "value", None)
                value = np.zeros(1, np.float32) if held is None else np.asarray(held.values)
                self.edit.set_attribute(node, "value", gs.Constant("value", _narrowed(value)))
            self._half[id(tensor)] = tensor

    def narrow_inputs(self, tensors: list[gs.Variable]) -> None:
        fine = (t for t in tensors if self._is_float32(t) and id(t) not in self._body_outputs)
        self._half.update((id(tensor), tensor) for tensor in fine)

    def cast_outputs(self, dtype: np.dtype[Any]) -> None:
        """Let the outputs be `dtype`: what writes one of the other type writes its twin, and a Cast reads that."""
        for out in {id(tensor): tensor for tensor in self.graph.outputs}.values():
            node = producer(out)
            is_half = id(out) in self._half
            if node is None or graphs.is_constant(out) or not self._is_float32(out) or is_half == (dtype == np.float16):
                continue
            other = np.dtype(np.float16 if is_half else np.float32)
            twin = gs.Variable(self.edit.fresh(f"{out.name}_{other.name}"), other, out.shape)
            self.edit.set_outputs(node, [twin if tensor is out else tensor for tensor in node.outputs])
            self.edit.emit("Cast", [twin], {"to": _elem_type(dtype)}, hint=out.name, writes=out)
            self._twins[id(out)], self._twins[id(twin)] = twin, out
            self._dtypes[id(twin)] = self._dtypes[id(out)]
            if is_half:
                del self._half[id(out)]
                self._half[id(twin)] = twin
            else:
                self._half[id(out)] = out

    def connect(self) -> None:
        """Let every node read the type that it wants, through one Cast for each tensor that is of the other."""
        for node in list(graphs.walk_nodes(self.graph)):
            for index, tensor in enumerate(node.inputs):
                if not self._is_float32(tensor) or is_op(node, *_READS_ANY):
                    continue
                wants_half = index in self._reads.get(id(node), ())
                if wants_half != (id(tensor) in self._half):
                    self.edit.set_input(node, index, self._twin(tensor, node))
        for tensor in self._half.values():
            self.edit.retype(tensor, dtype=np.dtype(np.float16))
        for node in list(self.graph.nodes):
            if is_op(node, "Cast") and attribute(node, "to", 0) == TensorProto.FLOAT16:
                source, out = node.inputs[0], node.outputs[0]
                is_half = id(source) in self._half or self._dtypes.get(id(source)) == np.float16
                if is_half and not self.edit.is_output(out):
                    self.edit.bypass(node, source)  # a Cast of the model's own has nothing left to do

    def _reads_half(self, node: gs.Node, tensor: gs.Tensor) -> bool:
        return {i for i, read in enumerate(node.inputs) if read is tensor} <= self._reads.get(id(node), set())

    def _is_float32(self, tensor: gs.Tensor) -> bool:
        return self._dtypes.get(id(tensor)) == np.float32

    def _twin(self, tensor: gs.Tensor, reader: gs.Node) -> gs.Tensor:
        if id(tensor) not in self._twins:
            value = graphs.constant(tensor)
            other = np.dtype(np.float32 if id(tensor) in self._half else np.float16)
            hint = f"{tensor.name}_{other.name}"
            if value is None:
                to = {"to": _elem_type(other)}
                twin: gs.Tensor = self.edit.emit("Cast", [tensor], to, hint=hint, dtype=other, shape=tensor.shape)
            else:
                twin = self.edit.constant(hint, _narrowed(value))
                self._note_what_is_cut_off(tensor, value, reader)
            self._twins[id(tensor)] = twin
        return self._twins[id(tensor)]

    def _note_what_is_cut_off(self, tensor: gs.Tensor, value: np.ndarray, reader: gs.Node) -> None:
        beyond = np.count_nonzero(np.isfinite(value) & (np.abs(value) > _LARGEST))
        if beyond:
            self.edit.skip(
                reader, f"{beyond} of {value.size} values of '{tensor.name}' lie beyond {_LARGEST:.0f} and are cut off"
            )

    def _why_no_weight(self, node: gs.Node, tensor: gs.Tensor) -> str | None:
        """Say why a constant would ruin what `node` computes in float16."""
        value = graphs.constant(tensor)
        if value is None or not value.any():
            return None
        if not _narrowed(value).any():
            return f"the values of '{tensor.name}' would vanish in float16, such as {value.ravel()[0]:.3g}"
        scales = is_op(node, "Mul", "Div", "Pow")
        if scales and bool((np.isfinite(value) & (np.abs(value) > _LARGEST)).any()):
            return f"it scales by values of '{tensor.name}' that lie beyond {_LARGEST:.0f}"
        return None


def _narrowed(value: np.ndarray) -> np.ndarray:
    """Return `value` as float16, what is finite cut off at the largest number of that."""
    return np.where(np.isinf(value), value, np.clip(value, -_LARGEST, _LARGEST)).astype(np.float16)


def _elem_type(dtype: np.dtype[Any]) -> int:
    return int(onnx.helper.np_dtype_to_tensor_dtype(dtype))
