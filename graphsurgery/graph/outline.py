"""Who writes and who reads what in a graph, and each of its nodes as a model of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from graphsurgery.errors import ModelError
from graphsurgery.graph import RANDOM_OPS, STANDARD_DOMAINS
from graphsurgery.graph.model import Model
from graphsurgery.graph.outside import array_of, read_outside, same_values
from graphsurgery.graph.protos import bodies, graphs_in, walk_protos

Array = npt.NDArray[Any]
Value = Array | list[Array]  # a sequence is a list
Values = Mapping[str, Value]


class Outline:
    """Who writes and who reads what in the main graph of a model; `order` is one in which the nodes can be run.

    `constants` are initializers and what Constant nodes hold. Raises ModelError for a cycle.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        graph = model.proto.graph
        self.nodes: Sequence[NodeProto] = graph.node
        self.inputs = model.inputs
        self.outputs = model.outputs
        self.constants: dict[str, TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        self._sparse = {tensor.values.name: tensor for tensor in graph.sparse_initializer}
        self.writer: dict[str, int] = {}
        for index, node in enumerate(self.nodes):
            held = constant_of(node)
            if held is not None:
                self.constants[node.output[0]] = held
            else:
                self.writer.update((name, index) for name in node.output if name)
        self.reads = [tuple(reads(node)) for node in self.nodes]
        self.order = self._sorted()

    def label(self, index: int) -> str:
        """Name a node in a message: its operator and its name, or that of what it writes."""
        return label(self.nodes[index])

    def value(self, name: str) -> Array:
        """Return the value of a constant. Raises ModelError when it can't be read."""
        return np.asarray(plain(array_of(self.constants[name], self.model.folder)))

    def ancestors(self, wanted: Iterable[str], stop: Collection[str] = ()) -> set[int]:
        """Return the nodes that `wanted` depend on, looking no further than the tensors in `stop`."""
        found: set[int] = set()
        pending = [name for name in wanted if name not in stop]
        while pending:
            index = self.writer.get(pending.pop())
            if index is not None and index not in found:
                found.add(index)
                pending.extend(name for name in self.reads[index] if name not in stop)
        return found

    def same_setting(self, other: Outline) -> bool:
        """Whether equal nodes mean the same in both models."""
        one, two = self.model.proto, other.model.proto
        versions = [{(e.domain, e.version) for e in proto.opset_import} for proto in (one, two)]
        return versions[0] == versions[1] and list(one.functions) == list(two.functions)

    def same_node(self, index: int, other: Outline, twin: int) -> bool:
        """Whether a node equals one of `other` in all but its name, and gives the same each time."""
        one, two = self.nodes[index], other.nodes[twin]
        same = (one.op_type, one.domain, one.overload) == (two.op_type, two.domain, two.overload)
        if not same or list(one.input) != list(two.input) or list(one.output) != list(two.output):
            return False
        attributes = [{a.name: a for a in node.attribute} for node in (one, two)]
        return attributes[0] == attributes[1] and index not in self.random

    def same_constant(self, name: str, other: Outline) -> bool:
        """Whether a constant has the same value in both models."""
        if name not in self.constants or name not in other.constants:
            return False
        one, two = self.constants[name], other.constants[name]
        if one is two:
            return True
        if (one.data_type, list(one.dims)) != (two.data_type, list(two.dims)):
            return False
        return self.same_values(one, two, other)

    def same_values(self, one: TensorProto, two: TensorProto, other: Outline) -> bool:
        """Whether a constant has the values of one of `other` of its type and shape, whatever they are called."""
        if one.raw_data and two.raw_data:
            return bool(one.raw_data == two.raw_data)
        return same_values(one, two, (self.model.folder, other.model.folder))

    @cached_property
    def readers(self) -> Mapping[str, set[str]]:
        """Who reads each tensor, bodies counted: the names of what they write."""
        found: dict[str, set[str]] = {}
        for index, node in enumerate(self.nodes):
            for name in self.reads[index]:
                found.setdefault(name, set()).update(node.output)
        return found

    @cached_property
    def random(self) -> set[int]:
        """The nodes that give something else each time."""
        return {index for index, node in enumerate(self.nodes) if any(map(self._is_random, _with_bodies(node)))}

    @cached_property
    def has_16_bits(self) -> bool:
        """Whether a tensor may be a float of 16 bits: an input is, a stored value, or what a node is told to make."""
        proto = self.model.proto
        nodes = [node for holder in (proto.graph, *proto.functions) for node in walk_protos(holder)]
        attributes = [attribute for node in nodes for attribute in node.attribute]
        kinds = {info.type.tensor_type.elem_type for info in (*proto.graph.input, *proto.graph.value_info)}
        kinds |= {tensor.data_type for graph in graphs_in(proto.graph) for tensor in graph.initializer}
        kinds |= {each.t.data_type for each in attributes if each.type == AttributeProto.TENSOR}
        kinds |= {each.i for each in attributes if each.name in ("to", "dtype")}
        return not kinds.isdisjoint((TensorProto.FLOAT16, TensorProto.BFLOAT16))

    def _is_random(self, node: NodeProto) -> bool:
        if node.op_type not in RANDOM_OPS or node.domain not in STANDARD_DOMAINS:
            return False
        if node.op_type != "Dropout":
            return True
        training = node.input[2] if len(node.input) > 2 else ""
        return bool(training) and (training not in self.constants or bool(np.any(self.value(training))))

    def _sorted(self) -> list[int]:
        order: list[int] = []
        begun: set[int] = set()
        done: set[int] = set()
        for root in range(len(self.nodes)):
            stack = [root]
            while stack:
                index = stack[-1]
                needed = [self.writer[name] for name in self.reads[index] if name in self.writer]
                open_ = [other for other in needed if other not in done] if index not in done else []
                if not open_:
                    stack.pop()
                    if index not in done:
                        done.add(index)
                        order.append(index)
                elif index in begun and any(other in begun for other in open_):
                    raise ModelError(f"node {self.label(index)}: the graph has a cycle through this node")
                else:
                    begun.add(index)
                    stack.append(open_[0])
        return order

    def step(self, index: int, given: Values) -> ModelProto:
        """Return a model of one node; what it reads is an input where it is `given`, else a weight.

        Raises ModelError for a name that is neither.
        """
        node = self.nodes[index]
        graph = GraphProto(name="step", node=[node], output=[ValueInfoProto(name=name) for name in node.output if name])
        self.feed(graph, self.reads[index], given)
        return self.around(graph)

    def feed(self, graph: GraphProto, names: Iterable[str], given: Values) -> None:
        """Add what `graph` reads of this one: inputs for what is `given`, weights for what is constant."""
        for name in names:
            if name in given:
                graph.input.append(typed(name, given[name]))
            elif name in self.constants:
                graph.initializer.add().CopyFrom(self.constants[name])
                graph.initializer[-1].name = name
            elif name in self._sparse:
                graph.sparse_initializer.add().CopyFrom(self._sparse[name])
            else:
                raise ModelError(f"nothing writes '{name}'")

    def around(self, graph: GraphProto) -> ModelProto:
        """Return a model with `graph` as its main one, and everything else as in this one; values are read in."""
        proto = self.with_nodes_of(graph)
        read_outside(proto, self.model.folder)
        return proto

    def with_nodes_of(self, graph: GraphProto) -> ModelProto:
        """Return the same with references to values outside as they are."""
        base = self.model.proto
        proto = ModelProto(ir_version=base.ir_version, graph=graph, functions=base.functions)
        proto.opset_import.extend(base.opset_import)
        return proto


def reads(node: NodeProto) -> list[str]:
    """Return the tensors that `node` reads, those that its bodies take from around it included, each once."""
    names = dict.fromkeys(name for name in node.input if name)
    for body in bodies(node):
        names.update(dict.fromkeys(captured(body)))
    return list(names)


def captured(body: GraphProto) -> list[str]:
    """Return the names that a body takes from the graphs around it."""
    own = {info.name for info in (*body.input, *body.initializer)} | {name for n in body.node for name in n.output}
    own.update(tensor.values.name for tensor in body.sparse_initializer)
    used = [name for node in body.node for name in reads(node)] + [info.name for info in body.output]
    return list(dict.fromkeys(name for name in used if name not in own))


def constant_of(node: NodeProto) -> TensorProto | None:
    """Return what a Constant node holds, under the name of its output; None for another node or a sparse tensor."""
    if node.op_type != "Constant" or node.domain not in STANDARD_DOMAINS or len(node.attribute) != 1 or not node.output:
        return None
    held, name = node.attribute[0], node.output[0]
    value = None if held.ref_attr_name else helper.get_attribute_value(held)
    kind = {
        "value_int": TensorProto.INT64,
        "value_ints": TensorProto.INT64,
        "value_float": TensorProto.FLOAT,
        "value_floats": TensorProto.FLOAT,
        "value_string": TensorProto.STRING,
        "value_strings": TensorProto.STRING,
    }.get(held.name)
    if held.name == "value" and isinstance(value, TensorProto):
        tensor = TensorProto()
        tensor.CopyFrom(value)
        tensor.name = name
        return tensor
    many = held.name.endswith("s")
    of_kind = AttributeProto.AttributeType.Name(held.type).lower() == held.name.removeprefix("value_")
    if kind is None or value is None or not of_kind:  # what else a Constant holds is the checker's business
        return None
    return helper.make_tensor(name, kind, [len(value)] if many else [], list(value) if many else [value])


def label(node: NodeProto) -> str:
    """Name a node in a message: its operator and its name, or that of what it writes."""
    return f"{node.op_type} '{node.name or next(iter(node.output), '')}'"


def changes(a: Outline, node_a: int, b: Outline, node_b: int) -> Iterator[str]:
    """Yield what tells two writers of one tensor apart, as far as the file says it."""
    one, other = a.nodes[node_a], b.nodes[node_b]
    if (one.op_type, one.domain) != (other.op_type, other.domain):
        yield f"{one.op_type} became {other.op_type}"
        return
    held = [{each.name: each for each in node.attribute} for node in (one, other)]
    for name in sorted({*held[0], *held[1]}):
        if held[0].get(name) != held[1].get(name):
            shown = [_attribute(side[name]) if name in side else "not written out" for side in held]
            yield f"{name}: {shown[0]} in A, {shown[1]} in B"
    for position, (mine, theirs) in enumerate(zip(one.input, other.input, strict=False)):
        if mine in a.constants and theirs in b.constants:
            values = a.value(mine), b.value(theirs)
            if values[0].shape != values[1].shape or not np.array_equal(*values, equal_nan=values[0].dtype.kind == "f"):
                names = f"'{mine}'" if mine == theirs else f"'{mine}', now '{theirs}',"
                yield f"the constant input {position}, {names} has other values"
        elif (mine in a.constants) != (theirs in b.constants) or bool(mine) != bool(theirs):
            yield f"input {position}: '{mine}' in A, '{theirs}' in B"
    if len(one.input) != len(other.input):
        yield f"{len(one.input)} inputs in A, {len(other.input)} in B"


def _attribute(attribute: AttributeProto) -> str:
    value = helper.get_attribute_value(attribute)
    return str(value) if isinstance(value, int | float | bytes | list) and len(str(value)) < 60 else "other values"


def typed(name: str, value: Value, *, sizes: bool = True) -> ValueInfoProto:
    """Return an input that takes `value` or, without `sizes`, anything of its type and rank.

    Sizes matter: ONNX's inference takes an unknown one for 0 here and there, in Resize for example, and refuses it.
    """
    if isinstance(value, list):
        kind = _element(value[0]) if value else TensorProto.FLOAT
        element = helper.make_tensor_type_proto(kind, None)
        return helper.make_value_info(name, helper.make_sequence_type_proto(element))
    shape = list(value.shape) if sizes else [None] * value.ndim
    return helper.make_tensor_value_info(name, _element(value), shape)


def _element(value: Array) -> int:
    return TensorProto.STRING if value.dtype.kind in "OSU" else int(helper.np_dtype_to_tensor_dtype(value.dtype))


def plain(value: Any) -> Any:
    """Return strings as numpy's own, which can be compared; everything else as it is."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if not isinstance(value, np.ndarray):
        raise TypeError(f"it gives a {type(value).__name__}, not a tensor")
    if value.dtype == object:
        return np.array([v.decode() if isinstance(v, bytes) else v for v in value.flat], np.str_).reshape(value.shape)
    return value


def _with_bodies(node: NodeProto) -> Iterator[NodeProto]:
    yield node
    for body in bodies(node):
        yield from walk_protos(body)
