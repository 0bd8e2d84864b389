"""What each tensor of a model is made from, and where a changed model begins to differ.

A history is a hash of all that a tensor comes from: operators, attributes and constants, down to the inputs of the
graph by name. Two tensors with one history have one value, whatever they and their nodes are called.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, TensorProto, numpy_helper

from graphsurgery.graph.protos import bodies, walk_protos
from graphsurgery.graph.queries import RANDOM_OPS, STANDARD_DOMAINS

# What these write is small, takes all that lies before it to compute, and decides on shapes further on.
NARROW = ("NonMaxSuppression", "NonZero", "Shape", "Size", "TopK")
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Histories:
    """The histories of a model's tensors, those in bodies apart.

    `histories` says them by tensor. `kinds` holds of each node what it does without what it reads, `reads` what it
    reads, what its bodies take from outside included, `writers` which node writes a tensor, and as which output.
    """

    proto: ModelProto
    constants: Mapping[str, TensorProto]
    kinds: Sequence[bytes]
    reads: Sequence[Sequence[str]]
    writers: Mapping[str, tuple[int, int]]
    _digests: Mapping[str, bytes] = field(repr=False)
    histories: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    _shared: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(proto: ModelProto) -> Histories:
        """Trace a model, whose nodes are sorted and whose values are inside."""
        graph = proto.graph
        constants = {tensor.name: tensor for tensor in graph.initializer}
        digests = {info.name: _digest(b"input", info.name.encode()) for info in graph.input}
        digests |= {name: _digest_of_values(tensor) for name, tensor in constants.items()}
        for sparse in graph.sparse_initializer:
            digests[sparse.values.name] = _digest(b"sparse", sparse.SerializeToString(deterministic=True))
        writers = {
            name: (index, place)
            for index, node in enumerate(graph.node)
            for place, name in enumerate(node.output)
            if name
        }
        versions = {entry.domain: entry.version for entry in proto.opset_import}
        functions = _functions(proto)
        outside = writers.keys() | digests.keys()
        traced = Histories(
            proto,
            constants,
            [_kind(node, versions, functions) for node in graph.node],
            [[*node.input, *_taken_from_outside(node, outside)] for node in graph.node],
            writers,
            digests,
        )
        return traced.knowing({})

    def knowing(self, same: Mapping[str, bytes]) -> Histories:
        """Return them with the histories that some tensors are known to share with others, and those known before."""
        same = {**self._shared, **same}
        found = {**self._digests, **same}
        for index, node in enumerate(self.proto.graph.node):
            # what is read before it is written has no history that anything else could have
            made_of = [found.get(name) or (os.urandom(16) if name else b"") for name in self.reads[index]]
            made = _digest(self.kinds[index], *made_of)
            for place, name in enumerate(node.output):
                if name and name not in same:
                    found[name] = _digest(made, str(place).encode())
        return Histories(self.proto, self.constants, self.kinds, self.reads, self.writers, self._digests, found, same)

    def following(self, other: Histories) -> Histories:
        """Return them with what inputs and constants of `other`, which are the same here, are known to share."""
        known = {other._digests[name]: shared for name, shared in other._shared.items() if name in other._digests}
        return self.knowing({name: known[digest] for name, digest in self._digests.items() if digest in known})

    def edges(self, other: Histories, names: Mapping[str, str]) -> list[tuple[str, str]] | None:
        """Return pairs of tensors, of this model and of `other`, behind which the two models are the same.

        If the two of each pair are equal, so is each output to the tensor that `names` says of `other`, or that has its
        name there. The pairs stand in the order of this model's nodes; None where `other` has no such tensor.
        """
        pending = [(info.name, names.get(info.name, info.name)) for info in self.proto.graph.output]
        if any(name not in other.histories for _, name in pending):
            return None
        seen: set[tuple[str, str]] = set()
        found = []
        while pending:
            pair = pending.pop()
            mine, theirs = pair
            if pair in seen or pair == ("", ""):
                continue
            seen.add(pair)
            history = self.histories.get(mine)
            if history is not None and history == other.histories.get(theirs):
                continue
            writer, writer_there = self.writers.get(mine), other.writers.get(theirs)
            if writer is not None and writer_there is not None and writer[1] == writer_there[1]:
                reads, reads_there = self.reads[writer[0]], other.reads[writer_there[0]]
                alike = self.kinds[writer[0]] == other.kinds[writer_there[0]] and len(reads) == len(reads_there)
                if alike and all(bool(a) == bool(b) for a, b in zip(reads, reads_there, strict=True)):
                    pending += zip(reads, reads_there, strict=True)
                    continue
            found.append(pair)
        return sorted(found, key=lambda pair: self.writers.get(pair[0], (-1, 0)))

    def needed(self, names: Collection[str], known: Collection[str]) -> list[int]:
        """Return which nodes compute the tensors `names` from those that are `known`, in order."""
        wanted = {name for name in names if name not in known}
        nodes = []
        for index in range(len(self.proto.graph.node) - 1, -1, -1):
            if any(name in wanted for name in self.proto.graph.node[index].output):
                wanted.update(name for name in self.reads[index] if name and name not in known)
                nodes.append(index)
        return nodes[::-1]

    def is_far(self, name: str, known: Collection[str]) -> bool:
        """Whether a layer with weights lies between a tensor and what is known."""
        return any(self.proto.graph.node[index].op_type in WEIGHTED for index in self.needed([name], known))

    def between(self, names: Sequence[str], nodes: Sequence[int], given: Mapping[str, np.ndarray]) -> ModelProto:
        """Return a model of `nodes` that computes the tensors `names`; what `given` holds, of those read, is input."""
        graph = self.proto.graph
        read = {name for index in nodes for name in self.reads[index]} | set(names)
        part = ModelProto(ir_version=self.proto.ir_version)
        part.opset_import.extend(self.proto.opset_import)
        part.functions.extend(self.proto.functions)
        part.graph.name = graph.name
        part.graph.node.extend(graph.node[index] for index in nodes)
        own = {info.name: info for info in graph.input}
        for name in (name for name in own if name in read and name not in given):
            part.graph.input.append(own[name])
        for name, value in given.items():
            if name in read:
                kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
                info = onnx.helper.make_tensor_value_info(name, kind, [None] * value.ndim)
                part.graph.input.append(info)
        part.graph.initializer.extend(self.constants[name] for name in self.constants if name in read - given.keys())
        part.graph.sparse_initializer.extend(each for each in graph.sparse_initializer if each.values.name in read)
        written = {name for index in nodes for name in graph.node[index].output} - set(names)
        part.graph.value_info.extend(info for info in graph.value_info if info.name in written)
        declared = {info.name: info for info in (*graph.value_info, *graph.output)}
        part.graph.output.extend(declared.get(name, onnx.ValueInfoProto(name=name)) for name in names)
        return part

    def spread(self, nodes: Sequence[int], segments: int) -> list[str]:
        """Return tensors that cut `nodes` into so many segments, of about as many layers with weights each.

        And what is NARROW: it can be had without running what leads to it.
        """
        deepest = max(self._depths(nodes, len(nodes) + 1).values(), default=0)
        step = max(1, deepest // segments)
        depths = self._depths(nodes, step)
        node = self.proto.graph.node
        narrow = [name for index in nodes if node[index].op_type in NARROW for name in node[index].output if name]
        return [*narrow, *(node[index].output[0] for index, depth in depths.items() if depth == step)]

    def _depths(self, nodes: Sequence[int], most: int) -> dict[int, int]:
        """Return how many layers with weights lead up to each of `nodes`, itself counted; behind `most` anew from 0."""
        behind: dict[str, int] = {}
        found = {}
        for index in nodes:
            node = self.proto.graph.node[index]
            depth = max((behind.get(name, 0) for name in self.reads[index]), default=0) + (node.op_type in WEIGHTED)
            found[index] = depth
            behind.update(dict.fromkeys(node.output, 0 if depth >= most else depth))
        return found

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is an initializer or what a Constant node writes."""
        writer = self.writers.get(name)
        held = writer is not None and self.proto.graph.node[writer[0]].op_type == "Constant"
        return name in self.constants or held


def _digest(*pieces: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "little"))
        digest.update(piece)
    return digest.digest()


def _digest_of_values(tensor: TensorProto) -> bytes:
    if tensor.data_location == TensorProto.EXTERNAL:  # what stands there is not known here
        return os.urandom(16)
    if tensor.HasField("raw_data"):
        values = tensor.raw_data
    else:
        bare = TensorProto()
        bare.CopyFrom(tensor)
        bare.ClearField("name")
        bare.ClearField("doc_string")
        values = bare.SerializeToString(deterministic=True)
    return _digest(b"value", str((tensor.data_type, tuple(tensor.dims), tensor.HasField("raw_data"))).encode(), values)


def _functions(proto: ModelProto) -> bytes:
    """Return a hash of the functions of a model, another each time where one draws random numbers."""
    nodes = [inner for function in proto.functions for inner in walk_protos(onnx.GraphProto(node=function.node))]
    if any(node.op_type in RANDOM_OPS for node in nodes):
        return os.urandom(16)
    return _digest(*(function.SerializeToString(deterministic=True) for function in proto.functions))


def _kind(node: onnx.NodeProto, versions: Mapping[str, int], functions: bytes) -> bytes:
    """Return a hash of what a node does, but for what it reads; of one that draws random numbers, another each time."""
    inner = [node, *(inner for body in bodies(node) for inner in walk_protos(body))]
    if any(each.op_type in RANDOM_OPS for each in inner):
        return os.urandom(16)
    domains = sorted({each.domain for each in inner})
    standard = all(domain in STANDARD_DOMAINS for domain in domains)
    return _digest(
        node.op_type.encode(),
        node.domain.encode(),
        getattr(node, "overload", "").encode(),
        str([(domain, versions.get(domain)) for domain in domains]).encode(),
        b"" if standard else functions,  # a custom operator may be a function of the model
        str([bool(name) for name in node.output]).encode(),
        *(_attribute(attribute) for attribute in sorted(node.attribute, key=lambda each: each.name)),
    )


def _attribute(attribute: AttributeProto) -> bytes:
    if attribute.type != AttributeProto.TENSOR:
        return bytes(attribute.SerializeToString(deterministic=True))
    return _digest(attribute.name.encode(), _digest_of_values(attribute.t))


def _taken_from_outside(node: onnx.NodeProto, outside: Collection[str]) -> list[str]:
    """Return the tensors around `node` that its bodies name, each once."""
    named: dict[str, None] = {}
    for body in bodies(node):
        for inner in walk_protos(body):
            named.update(dict.fromkeys(inner.input))
        for graph in (body, *(held for inner in walk_protos(body) for held in bodies(inner))):
            named.update((info.name, None) for info in graph.output)
    return [name for name in named if name in outside]


def value_of(tensor: TensorProto) -> np.ndarray:
    """Return the value of an initializer."""
    return np.asarray(numpy_helper.to_array(tensor))
