"""The way back from a quantizer: its model with the names, the ends and all else that the original has.

q0__quantized, q0__quantized_2   ->   w_quantized     what was made for the copies of an initializer, where equal
Identity(b) -> Conv              ->   DequantizeLinear(b_quantized) -> Conv
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, helper, numpy_helper

from graphsurgery import graph as graphs
from graphsurgery.errors import PassError
from graphsurgery.graph.model import Model
from graphsurgery.graph.names import fresh, names_in, rename_in, top_names
from graphsurgery.graph.protos import bodies, drop_unused_imports, replace_items, walk_protos
from graphsurgery.quantize import Calibration

__all__ = ["Normalised", "rounded_bias"]

_ZERO_POINTS = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16)
_INT32_MOST = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Normalised:
    """A model for a quantizer, and what is needed to undo the changes in what comes back.

    `original` has types and shapes. `names` has the original's name for each of the model's, that of an initializer
    for all its copies; `waiting` are the nodes whose bias comes from an Identity, by the Identity's name.
    """

    model: ModelProto
    original: ModelProto
    prefix: str
    names: dict[str, str]
    waiting: Mapping[str, str]

    @property
    def inside(self) -> dict[str, str]:
        """Return the name inside of each tensor of the original."""
        return {name: token for token, name in reversed(self.names.items())}

    def feeds(self, calibration: Calibration) -> Calibration:
        """Return the feeds under the names inside."""
        return _Feeds(calibration, self.inside)

    def text(self, message: str) -> str:
        """Return a name or a message of the quantizer with the original's names."""
        return self._tokens.sub(lambda found: self.names.get(found[0], found[0]), message)

    def place(self, where: str) -> str:
        """Return `node 'x', a Conv` for the name of a node, or of a tensor that it reads or writes; else nothing."""
        tokens = {*self._tokens.findall(where)}
        for node in self.model.graph.node:
            touched = node.name not in self.waiting and tokens & {*node.input, *node.output}
            if node.name == where or touched:
                return f"node '{node.name}', a {node.op_type}"
        return ""

    def restore(self, quantized: ModelProto, name: str) -> ModelProto:
        """Return `quantized`, sorted, with everything of the original that is no layer, and a shape for each tensor.

        What was made for the copies of an initializer is one again where it is equal. `name` begins a message. Raises
        PassError where the quantizer has changed inputs or outputs.
        """
        view = Model(quantized).graph()
        graphs.sort(view)
        done = Model.of(view).proto
        del done.metadata_props[:]
        self._require_interface(done.graph, name)
        self._share_again(done)
        self._round_biases(done.graph)
        types = self._types(done.graph)
        renamed = self._renamed(done.graph)
        rename_in(done, renamed)
        self._frame(done, {renamed.get(tensor, tensor): kind for tensor, kind in types.items()})
        view = Model(done).graph()
        graphs.drop_unused(view)
        graphs.sort(view)
        return Model.of(view).proto

    @property
    def _tokens(self) -> re.Pattern[str]:
        return re.compile(rf"{self.prefix}\d+_")

    def _made_of(self, name: str) -> tuple[str, str]:
        """Return the tensor that a name was made of, and what was appended; itself and nothing for another name."""
        found = self._tokens.match(name)
        return (found[0], name[found.end() :]) if found is not None else (name, "")

    def _require_interface(self, graph: GraphProto, name: str) -> None:
        stored = {tensor.name for tensor in self.model.graph.initializer}
        for kind in ("input", "output"):
            has = [info.name for info in getattr(graph, kind)]
            wants = [info.name for info in getattr(self.model.graph, kind)]
            if kind == "input":  # one with a default may have become a constant
                wants = [tensor for tensor in wants if tensor in has or tensor not in stored]
            if {*has} != {*wants}:
                listed, found = (self.text(", ".join(tensors)) for tensors in (wants, has))
                raise PassError(f"{name}: it changed the {kind}s {listed} into {found}; quantize in another way")

    def _share_again(self, model: ModelProto) -> None:
        """Give one tensor to all who read equal ones that were made of copies; the nodes stand in order."""
        graph = model.graph
        same: dict[str, str] = {}
        first: dict[tuple[object, ...], str] = {}
        constant: set[str] = set()

        def is_known(tensor: str, *content: object) -> bool:
            constant.add(tensor)
            token, suffix = self._made_of(tensor)
            one = first.setdefault((self.names.get(token, token), suffix, *content), tensor)
            if one != tensor:
                same[tensor] = one
            return one != tensor

        tensors = [
            tensor
            for tensor in graph.initializer
            if not is_known(tensor.name, tensor.data_type, *tensor.dims, numpy_helper.to_array(tensor).tobytes())
        ]
        nodes = []
        for node in graph.node:
            if node.input and len(node.output) == 1 and not bodies(node) and constant.issuperset(node.input):
                options = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
                read = [same.get(tensor, tensor) for tensor in node.input]
                if is_known(node.output[0], node.domain, node.op_type, *options, *read):
                    continue
            nodes.append(node)
        replace_items(graph.initializer, tensors)
        replace_items(graph.node, nodes)
        rename_in(model, same)

    def _round_biases(self, graph: GraphProto) -> None:
        """Give the nodes whose bias waits behind an Identity one in int32, as the others have it."""
        values = {tensor.name: tensor for tensor in graph.initializer}
        readers = {node.name: node for node in graph.node}
        writers = {name: node for node in graph.node for name in node.output}
        nodes, done = [], set()
        for node in graph.node:
            reader = readers.get(self.waiting.get(node.name, ""))
            if node.name not in self.waiting or reader is None:
                nodes.append(node)
                continue
            bias, read = node.input[0], [writers.get(name, NodeProto()) for name in reader.input[:2]]
            rounded = rounded_bias(numpy_helper.to_array(values[bias]), [_scale(each, values) for each in read])
            if rounded is None:
                reader.input[2] = bias
                continue
            made = [f"{node.output[0]}_quantized{suffix}" for suffix in ("", "_scale", "_zero_point")]
            whole, scale, axis = rounded
            for name, value in zip(made, (whole, scale, np.zeros(scale.shape, np.int32)), strict=True):
                graph.initializer.append(numpy_helper.from_array(value, name))
            options: dict[str, Any] = {"axis": axis} if scale.ndim else {}
            title = f"{node.output[0]}_DequantizeLinear"
            done.add(bias)
            nodes.append(
                helper.make_node("DequantizeLinear", made, node.output, title, domain=read[1].domain, **options)
            )
        replace_items(graph.node, nodes)
        done -= {name for node in walk_protos(graph) for name in node.input}
        replace_items(graph.initializer, [tensor for tensor in graph.initializer if tensor.name not in done])

    def _types(self, graph: GraphProto) -> dict[str, TypeProto]:
        """Return the type of each tensor of the quantized graph, as far as it can be told; the nodes stand in order."""
        known = {tensor.name: _tensor_type(tensor) for tensor in (*self.model.graph.initializer, *graph.initializer)}
        given = (*self.model.graph.value_info, *self.model.graph.input, *self.model.graph.output)
        known |= {info.name: info.type for info in given}
        for node in graph.node:
            rounds = node.op_type in ("QuantizeLinear", "DequantizeLinear")
            for output in node.output:
                token, suffix = self._made_of(output)
                alike = node.input[0] if rounds else token if suffix in ("_QuantizeLinear_Input", "_quantized") else ""
                if output in known or alike not in known:
                    continue
                if node.op_type == "DequantizeLinear" or suffix == "_QuantizeLinear_Input":
                    element: int | None = TensorProto.FLOAT
                else:  # that of the last zero point, but where integers are only moved
                    read = [known[name].tensor_type.elem_type for name in node.input if name in known]
                    element = next((each for each in reversed(read) if each in _ZERO_POINTS), None)
                if element is not None:
                    known[output] = TypeProto()
                    known[output].CopyFrom(known[alike])
                    known[output].tensor_type.elem_type = element
        return known

    def _renamed(self, graph: GraphProto) -> dict[str, str]:
        """Return the name outside of each tensor of the quantized graph: the original's, or one that nothing has."""
        taken = names_in(self.original.graph)
        present = top_names(graph)
        renamed: dict[str, str] = {}
        own: set[str] = set()
        for tensor in present:
            name = self.names.get(tensor)
            if name is not None and name not in own:
                own.add(name)
                renamed[tensor] = name
        for tensor in present:
            if tensor not in renamed:
                renamed[tensor] = fresh(self.text(tensor), taken)
                taken.add(renamed[tensor])
        return renamed

    def _frame(self, model: ModelProto, types: Mapping[str, TypeProto]) -> None:
        """Give `model` everything of the original that is no layer, and its nodes names that no other has."""
        graph, original = model.graph, self.original
        for kind in ("input", "output", "value_info"):
            graph.ClearField(kind)
        stored = {tensor.name for tensor in graph.initializer}
        written = {name for node in graph.node for name in node.output}
        graph.input.extend(original.graph.input)
        graph.output.extend(original.graph.output)
        ends = {info.name for info in (*graph.input, *graph.output)}
        infos = [ValueInfoProto(name=name, type=kind) for name, kind in types.items()]
        graph.value_info.extend(info for info in infos if info.name in written - ends - stored)
        given = {node.name for node in original.graph.node}
        used = set(given)
        for node in graph.node:
            if node.name in given:
                given.remove(node.name)
            else:
                node.name = fresh(self.text(node.name), used)
                used.add(node.name)
        graph.name = original.graph.name
        for name in ("producer_name", "producer_version"):
            model.ClearField(name)
            if original.HasField(name):
                setattr(model, name, getattr(original, name))
        model.metadata_props.extend(original.metadata_props)
        drop_unused_imports(model)


@dataclass(frozen=True)
class _Feeds:
    """A calibration whose tensors have other names."""

    calibration: Calibration
    names: Mapping[str, str]

    @property
    def inputs(self) -> Sequence[str]:
        return [self.names.get(name, name) for name in self.calibration.inputs]

    def __len__(self) -> int:
        return len(self.calibration)

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]:
        for feed in self.calibration:
            yield {self.names.get(name, name): value for name, value in feed.items()}


def rounded_bias(
    bias: npt.NDArray[np.float32], scales: Sequence[npt.NDArray[np.float32] | None]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32], int] | None:
    """Return a bias in int32, its scale, and the axis of that; None where it has to stay float.

    Its scale is that of the input times that of the weight, again for each group; the last axis of one with rows is
    that of the weight.
    """
    source, weight = scales
    if source is None or weight is None or source.size != 1 or weight.ndim > 1:
        return None
    axis = min(bias.ndim, 2) - 1
    if weight.ndim:
        if bias.shape[axis] % weight.size:
            return None
        weight = np.tile(weight, bias.shape[axis] // weight.size)
    scale = np.asarray(source.reshape(()) * weight, np.float32)
    spread = scale.reshape([-1 if place == axis else 1 for place in range(bias.ndim)]) if scale.ndim else scale
    with np.errstate(divide="ignore", invalid="ignore"):
        whole = np.round(bias.astype(np.float64) / spread)
    fits = bool(np.all(np.abs(whole) <= _INT32_MOST))
    return (whole.astype(np.int32), scale, axis) if fits else None


def _scale(node: NodeProto, values: Mapping[str, TensorProto]) -> npt.NDArray[np.float32] | None:
    """Return the scale of a DequantizeLinear; None for any other node."""
    known = node.op_type == "DequantizeLinear" and node.input[1] in values
    return numpy_helper.to_array(values[node.input[1]]) if known else None


def _tensor_type(tensor: TensorProto) -> TypeProto:
    return helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
