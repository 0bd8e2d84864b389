"""What goes to a quantizer, in the one form that none of them trips over, and the way back.

    b -> Conv, b -> Unsqueeze           ->   b -> Conv, b' -> Unsqueeze     each reader has an initializer of its own
    Gemm(x, w, b[1, 1]), alpha, beta    ->   Gemm(x, w', b'[N])             of constants that hold alpha and beta
    ConvTranspose(x, w, b), in groups   ->   ConvTranspose(x, w, Identity(b))     the bias is rounded on the way back
    x, x_scale, weird/name:0            ->   q0_, q1_, q2_                  so that a name made of one meets no other

ONNX Runtime's quantizer (1.32), on which the vendors' stand, never ends where a bias is read as data too, keeps one
scale for a weight that needs two, takes a bias for a vector as long as its weight has scales, forgets beta (6 dB are
left) and in QOperator alpha; and of a name it makes others by appending, whether they are there or not.
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
from graphsurgery.errors import InputError, PassError
from graphsurgery.graph.model import Model
from graphsurgery.graph.names import fresh, names_in, rename_in
from graphsurgery.graph.protos import bodies, graphs_in, walk_protos
from graphsurgery.graph.shapes import infer
from graphsurgery.quantize import Calibration, name_nodes

__all__ = ["Normalised", "normalise"]

_FIRST_OPSET = 10  # with QuantizeLinear
# Operators whose third input is a bias: quantizers give it the scale of the input times that of the weight.
_BIASED = ("Conv", "ConvTranspose", "Gemm", "LayerNormalization", "InstanceNormalization", "BatchNormalization")
_ZERO_POINTS = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16)
_INT32_MOST = np.iinfo(np.int32).max


def normalise(model: ModelProto, *, per_channel: bool) -> Normalised:
    """Return a copy of `model` for a quantizer; each node has a name, float constants are initializers.

    Raises InputError for what quantizers break: an opset without QuantizeLinear, and float16; ModelError where the
    shapes can't be inferred.
    """
    opset = Model(model).opset
    if opset < _FIRST_OPSET:
        raise InputError(f"opset {opset} has no QuantizeLinear; export with opset 13 or later")
    copy = ModelProto()
    copy.CopyFrom(model)
    name_nodes(copy)
    _lift_constants(copy.graph)
    original = infer(copy, None)
    _replace(original.graph.output, list(model.graph.output))  # an end keeps what it promises
    _require_no_float16(original.graph)
    inside = ModelProto()
    inside.CopyFrom(original)
    del inside.metadata_props[:]
    graph = inside.graph
    taken = names_in(graph)
    copies = _own_initializers(graph, taken)
    _plain_gemms(graph)
    waiting, held = _hold_biases(graph, taken) if per_channel else ({}, {})
    prefix = "q"
    while any(re.search(rf"{prefix}\d", name) for name in (*taken, *(node.name for node in walk_protos(graph)))):
        prefix += "q"
    tokens = {name: f"{prefix}{number}_" for number, name in enumerate(_top_names(graph))}
    rename_in(inside, tokens)
    names = {token: copies.get(name, held.get(name, name)) for name, token in tokens.items()}
    return Normalised(inside, original, prefix, names, waiting)


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
        _replace(graph.initializer, tensors)
        _replace(graph.node, nodes)
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
            rounded = _rounded(numpy_helper.to_array(values[bias]), [_scale(each, values) for each in read])
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
        _replace(graph.node, nodes)
        done -= {name for node in walk_protos(graph) for name in node.input}
        _replace(graph.initializer, [tensor for tensor in graph.initializer if tensor.name not in done])

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
        present = _top_names(graph)
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
        domains = {""} | {node.domain for node in walk_protos(graph)}
        domains |= {entry.domain for function in model.functions for entry in function.opset_import}
        _replace(model.opset_import, [entry for entry in model.opset_import if entry.domain in domains])


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


def _lift_constants(graph: GraphProto) -> None:
    """Turn float Constant nodes into initializers, which quantizers take for weights, but for outputs."""
    promised = {info.name for info in graph.output}
    kept = []
    for node in graph.node:
        value = next((attribute.t for attribute in node.attribute if attribute.name == "value"), TensorProto())
        is_weight = node.op_type == "Constant" and value.data_type == TensorProto.FLOAT
        if is_weight and node.output[0] not in promised:
            graph.initializer.append(value)
            graph.initializer[-1].name = node.output[0]
        else:
            kept.append(node)
    _replace(graph.node, kept)


def _require_no_float16(graph: GraphProto) -> None:
    types = {info.name: info.type.tensor_type.elem_type for info in (*graph.value_info, *graph.input, *graph.output)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    half = next((name for name, kind in types.items() if kind == TensorProto.FLOAT16), None)
    if half is not None:
        raise InputError(f"tensor '{half}' is float16; quantize the float32 model, and cast what stays float later")


def _own_initializers(graph: GraphProto, taken: set[str]) -> dict[str, str]:
    """Give each node that reads a float initializer one of its own; return the copies with what they are copies of."""
    values = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    inner = {name for body in graphs_in(graph)[1:] for node in body.node for name in node.input}
    read = inner | {info.name for info in graph.output}
    copies: dict[str, str] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in values and name in read:
                node.input[place] = fresh(f"{name}_copy", taken)
                taken.add(node.input[place])
                copies[node.input[place]] = name
                graph.initializer.append(values[name])
                graph.initializer[-1].name = node.input[place]
            read.add(name)
    return copies


def _plain_gemms(graph: GraphProto) -> None:
    """Bring the bias of a Gemm to one value for each column, or each element, and alpha and beta into constants."""
    values = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    for node in graph.node:
        if node.op_type in _BIASED and node.input and not node.input[-1]:
            del node.input[-1]  # one that is left out
        if node.op_type != "Gemm" or node.domain not in graphs.STANDARD_DOMAINS:
            continue
        options = {attribute.name: attribute for attribute in node.attribute}
        weight, bias = (values.get(name) for name in (*node.input[1:3], "")[:2])
        for name, tensor in (("alpha", weight), ("beta", bias)):
            if name in options and tensor is not None:
                _store(tensor, numpy_helper.to_array(tensor) * np.float32(options[name].f))
                node.attribute.remove(options[name])
        if weight is None or bias is None or len(weight.dims) != 2:
            continue
        columns = weight.dims[0 if "transB" in options and options["transB"].i else 1]
        value = np.atleast_1d(numpy_helper.to_array(bias))
        rows = value.shape[:-1] if value.shape[:-1] != (1,) else ()
        _store(bias, np.broadcast_to(value, (*value.shape[:-1], columns)).reshape(*rows, columns))


def _hold_biases(graph: GraphProto, taken: set[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Put an Identity before each bias that is no vector as long as its weight has scales, so that it stays as it is.

    Returns the nodes that read them by the names of the Identities, and the biases by what these write.
    """
    biases = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    names = {node.name for node in graph.node}
    nodes, waiting, held = [], {}, {}
    for node in graph.node:
        bias = biases.get(node.input[2]) if node.op_type in _BIASED and len(node.input) > 2 else None
        grouped = node.op_type == "ConvTranspose" and any(
            each.name == "group" and each.i > 1 for each in node.attribute
        )
        if bias is not None and (len(bias.dims) != 1 or grouped):
            output, name = fresh(f"{bias.name}_held", taken), fresh(f"{node.name}_bias", names)
            nodes.append(helper.make_node("Identity", [bias.name], [output], name))
            node.input[2] = output
            taken.add(output)
            names.add(name)
            waiting[name], held[output] = node.name, bias.name
        nodes.append(node)
    _replace(graph.node, nodes)
    return waiting, held


def _rounded(
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


def _store(tensor: TensorProto, value: npt.NDArray[np.float32]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), tensor.name))


def _tensor_type(tensor: TensorProto) -> TypeProto:
    return helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))


def _top_names(graph: GraphProto) -> list[str]:
    """Return the names of the tensors of `graph` itself, each once."""
    stored = [*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)]
    names = [each.name for each in (*graph.input, *stored)]
    names += [name for node in graph.node for name in node.output if name]
    return list(dict.fromkeys(names))


def _replace(field: Any, items: Sequence[Any]) -> None:
    """Put `items`, which may stand in it, into a repeated field."""
    copies = [type(item)() for item in items]
    for copied, item in zip(copies, items, strict=True):
        copied.CopyFrom(item)
    del field[:]
    field.extend(copies)
