"""A float model in which the rounding of each layer can be switched on, made from the model and its QDQ version.

    float          x -> Conv -> Relu -> Conv -> y
    quantized      x -> Q,DQ -> Conv -> Q,DQ -> Conv -> Q,DQ -> y       the range of a Q may do what the Relu did
    with switches  x -> If -> Conv -> Relu -> If -> Conv -> If -> y     If: through the Q and DQ, or straight on

Weights get an If each as well. With all switches off this is the float model, with all on the quantized one. To bypass
Q and DQ in the quantized model instead would lose the Relu, and that model does not hold the float weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from graphsurgery.graph import RANDOM_OPS, STANDARD_DOMAINS
from graphsurgery.graph.protos import bodies, replace_items, walk_protos

__all__ = ["Layer", "Switchable"]

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_FIRST_WITH_DEFAULTS = 4  # before this IR version every initializer is an input, and none can be overridden


# Of a layer's weights, the share that may be further from the float ones than rounding takes them: those at the ends of
# the range, which are clipped. Equalization, a folded scale and the like change nearly all of them.
_CLIPPED = 0.05


@dataclass(frozen=True)
class Layer:
    """A node that computes with rounded values, and the inputs of the model that switch their rounding on.

    Rounded are what it reads, its weights among that, and what it writes, directly or by way of an activation. A layer
    is `remade` when its weights are others, not only rounded: then it makes no sense among float layers.
    """

    name: str
    op: str
    switches: tuple[str, ...]
    remade: bool = False


@dataclass(frozen=True)
class Switchable:
    """`model` computes what the float model does and takes bool inputs, False where they are not given.

    `layers` stand in the order of the graph. The outputs are those of the float model, in number and order; their names
    may differ. A layer is found by its node's name: there is none where the quantizer wrote other operators, renamed
    the nodes, or found none that it could name.
    """

    model: ModelProto
    layers: tuple[Layer, ...]

    @classmethod
    def of(cls, reference: ModelProto, quantized: ModelProto) -> Switchable:
        """Put the Q and DQ of `quantized` into `reference`, each behind a switch."""
        rounded = _Rounded(quantized.graph)
        circuit = _Circuit(reference, quantized, rounded)
        named = Counter(node.name for node in reference.graph.node)
        twins = {node.name: node for node in reference.graph.node if node.name and named[node.name] == 1}
        switches: dict[str, list[str]] = {}
        behind: dict[str, list[str]] = {}  # the switches of what is made of a tensor
        remade: set[str] = set()
        weights = {tensor.name: tensor for tensor in reference.graph.initializer}
        for node in quantized.graph.node:
            twin = twins.get(node.name)
            if twin is None or (twin.op_type, twin.domain) != (node.op_type, node.domain):
                continue
            used = []
            for position, tensor in enumerate(node.input[: len(twin.input)]):
                if rounded.is_rounded(tensor):
                    # readers of one tensor share its rounding; weights that several read, one may read in float
                    reader = node.name if not rounded.source(tensor) else ""
                    switch = circuit.switch(twin.input[position], tensor, reader)
                    circuit.rewire(node.name, position, switch)
                    behind.setdefault(rounded.source(tensor), []).append(switch)
                    used.append(switch)
                    if twin.input[position] in weights and rounded.is_remade(tensor, weights[twin.input[position]]):
                        remade.add(node.name)
            if used and not rounded.keeps_float_weights(node):
                switches[node.name] = used
        for output in reference.graph.output:
            if rounded.is_rounded(output.name):
                switch = circuit.switch(output.name, output.name)
                circuit.replace_output(output.name, switch)
                behind.setdefault(rounded.source(output.name), []).append(switch)
        for source, made in behind.items():
            for name in rounded.writers(source):
                if name in switches:
                    switches[name] += made
        layers = [
            Layer(name, twins[name].op_type, tuple(dict.fromkeys(used)), name in remade)
            for name, used in switches.items()
        ]
        return cls(circuit.close(), tuple(layers))


class _Rounded:
    """What is constant in a QDQ graph, and what is rounded: read through a QuantizeLinear and a DequantizeLinear."""

    def __init__(self, graph: GraphProto) -> None:
        self.graph = graph
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.writer = {name: node for node in graph.node for name in node.output if name}
        self._constant = set(self.initializers)
        self._rounded: set[str] = set()
        for node in graph.node:  # which stand in an order in which they can be run
            if _is_fixed(node) and self._constant.issuperset(filter(None, node.input)):
                self._constant.update(node.output)
                if node.op_type == _DEQUANTIZE or self._rounded.intersection(node.input):
                    self._rounded.update(node.output)
            elif node.op_type == _DEQUANTIZE and self.source(node.output[0]) != node.input[0]:
                self._rounded.update(node.output)

    def is_rounded(self, tensor: str) -> bool:
        return tensor in self._rounded

    def source(self, tensor: str) -> str:
        """Return what a tensor was before it was rounded; empty for a constant."""
        if tensor in self._constant:
            return ""
        while (node := self.writer.get(tensor)) is not None and node.op_type in (_QUANTIZE, _DEQUANTIZE):
            tensor = node.input[0]
        return tensor

    def nodes(self, tensor: str) -> list[NodeProto]:
        """Return the nodes that make a rounded tensor of its source, scales and weights included."""
        found: dict[int, NodeProto] = {}
        pending = [tensor]
        while pending:
            name = pending.pop()
            node = self.writer.get(name)
            if node is not None and name != self.source(tensor):
                found[id(node)] = node
                pending += node.input
        return [node for node in self.graph.node if id(node) in found]

    def writers(self, tensor: str) -> Iterator[str]:
        """Yield the nodes that write a tensor: where one reads nothing rounded, an activation say, those before it."""
        pending, seen = [tensor], {""}
        while pending:
            name = pending.pop()
            node = self.writer.get(name)
            if name in seen or node is None:
                continue
            seen.add(name)
            if self._rounded.intersection(node.input):
                yield node.name
            else:
                pending += node.input

    def is_remade(self, tensor: str, weight: TensorProto) -> bool:
        """Whether a rounded constant is anything but `weight`, rounded; a bias, which may be corrected, never is."""
        node = self.writer[tensor]
        held = [self.initializers.get(name) for name in node.input]
        if len(weight.dims) < 2 or node.op_type != _DEQUANTIZE or None in held:
            return False
        whole, scale, *zero = (numpy_helper.to_array(each).astype(np.float32) for each in held if each is not None)
        if list(whole.shape) != list(weight.dims):
            return True
        if scale.size > 1:
            axis = next((each.i for each in node.attribute if each.name == "axis"), 1)
            sizes = [-1 if place == axis % whole.ndim else 1 for place in range(whole.ndim)]
            if scale.ndim != 1:  # in blocks
                return False
            scale, zero = scale.reshape(sizes), [each.reshape(sizes) for each in zero]
        else:
            scale, zero = scale.reshape(()), [each.reshape(()) for each in zero]
        off = np.abs((whole - zero[0] if zero else whole) * scale - numpy_helper.to_array(weight).astype(np.float32))
        return bool(np.mean(off > scale) > _CLIPPED)

    def keeps_float_weights(self, node: NodeProto) -> bool:
        """Whether a node has weights and none is rounded: the quantizer was told to leave it alone."""
        constant = [name for name in node.input if name in self._constant]
        held = [self.initializers[name] for name in constant if name in self.initializers]
        return any(len(tensor.dims) >= 2 for tensor in held) and not self._rounded.intersection(constant)


def _is_fixed(node: NodeProto) -> bool:
    return node.op_type not in RANDOM_OPS and not bodies(node)


class _Circuit:
    """The float model while switches are put into it."""

    def __init__(self, reference: ModelProto, quantized: ModelProto, rounded: _Rounded) -> None:
        self._model = ModelProto()
        self._model.CopyFrom(reference)
        self._rounded = rounded
        self._made: dict[tuple[str, str, str], tuple[str, NodeProto]] = {}
        self._nodes = {node.name: node for node in self._model.graph.node}
        self._held: dict[str, str] = {}
        self._prefix = _fresh_prefix(reference)
        imported = {_domain(entry.domain): entry.version for entry in self._model.opset_import}
        missing = [entry for entry in quantized.opset_import if _domain(entry.domain) not in imported]
        self._model.opset_import.extend(missing)
        wanted = {_domain(entry.domain): entry.version for entry in quantized.opset_import}
        # the operators of the float model mean what its opset says, which may be too old for these
        self._foreign = wanted.get("") != imported.get("")
        if self._foreign and "com.microsoft" not in imported | wanted:
            self._model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        self._model.ir_version = max(reference.ir_version, quantized.ir_version, _FIRST_WITH_DEFAULTS)

    def switch(self, plain: str, tensor: str, reader: str = "") -> str:
        """Return the input that makes of `plain` what `tensor` is in the quantized model, for all or one reader."""
        known = self._made.get((plain, tensor, reader))
        if known is None:
            name = f"{self._prefix}{len(self._made)}"
            graph = self._model.graph
            graph.initializer.append(numpy_helper.from_array(np.array(False), name))
            graph.input.append(helper.make_tensor_value_info(name, TensorProto.BOOL, []))
            straight = helper.make_node("Identity", [plain], [f"{name}_plain"])
            node = helper.make_node(
                "If",
                [name],
                [f"{name}_out"],
                then_branch=_body(self._copied(plain, tensor, name), f"{name}_rounded"),
                else_branch=_body([straight], f"{name}_plain"),
            )
            known = self._made[plain, tensor, reader] = name, node
        return known[0]

    def rewire(self, name: str, position: int, switch: str) -> None:
        """Let a node read what the switch gives."""
        self._nodes[name].input[position] = f"{switch}_out"

    def replace_output(self, name: str, switch: str) -> None:
        """Make what the switch gives an output in place of the tensor `name`."""
        for output in self._model.graph.output:
            if output.name == name:
                output.name = f"{switch}_out"

    def close(self) -> ModelProto:
        """Put each If behind what it reads, and return the model."""
        graph = self._model.graph
        waiting: dict[str, list[NodeProto]] = {}
        for (plain, _, _), (_, node) in self._made.items():
            waiting.setdefault(plain, []).append(node)
        written = {name for node in graph.node for name in node.output}
        ordered = [node for plain, made in waiting.items() if plain not in written for node in made]
        for node in graph.node:
            ordered.append(node)
            ordered += [made for name in node.output for made in waiting.get(name, ())]
        replace_items(graph.node, ordered)
        return self._model

    def _copied(self, plain: str, tensor: str, prefix: str) -> list[NodeProto]:
        """Copy what makes `tensor` in the quantized model, to begin at `plain`."""
        source = self._rounded.source(tensor)
        names = {source: plain, tensor: f"{prefix}_rounded", "": ""}
        nodes = []
        for number, original in enumerate(self._rounded.nodes(tensor)):
            node = _copy(original)
            node.name = f"{prefix}_{number}"
            if self._foreign and node.op_type in (_QUANTIZE, _DEQUANTIZE) and node.domain in STANDARD_DOMAINS:
                node.domain = "com.microsoft"
            for place, name in enumerate(original.output):
                names.setdefault(name, f"{prefix}_{number}_{place}")
            for place, name in enumerate(original.input):
                node.input[place] = names[name] if name in names else self._hold(name)
            node.output[:] = [names[name] for name in original.output]
            nodes.append(node)
        return nodes

    def _hold(self, name: str) -> str:
        """Return the name that an initializer of the quantized model has in this one."""
        if name not in self._held:
            self._held[name] = f"{self._prefix}value_{len(self._held)}"
            tensor = self._model.graph.initializer.add()
            tensor.CopyFrom(self._rounded.initializers[name])
            tensor.name = self._held[name]
        return self._held[name]


def _body(nodes: list[NodeProto], output: str) -> GraphProto:
    # without types, which ONNX Runtime infers
    return helper.make_graph(nodes, output, [], [ValueInfoProto(name=output)])


def _copy(node: NodeProto) -> NodeProto:
    copied = NodeProto()
    copied.CopyFrom(node)
    return copied


def _domain(name: str) -> str:
    return "" if name in STANDARD_DOMAINS else name


def _fresh_prefix(model: ModelProto) -> str:
    """Return what no tensor's name in the model begins with."""
    nodes = walk_protos(model.graph)
    graphs = [model.graph, *(body for node in nodes for body in bodies(node))]
    names = [name for node in nodes for name in (*node.input, *node.output)]
    names += [each.name for graph in graphs for each in (*graph.input, *graph.initializer)]
    prefix = "switch_"
    while any(name.startswith(prefix) for name in names):
        prefix += "_"
    return prefix
