"""What a graph computes, told by a run of one that passes made of it: only the nodes that they changed are run.

A node that stands in both graphs alike computes the same from the same, bit for bit: a session that judges has no
optimisation to join it with its neighbours. So with

    x ─ Conv ─ a ─ Shape ─ Slice ─ s ─┐
               └───────────────── Reshape ─ b          the graph
    x ─ Conv ─ a ─ Reshape (constant s) ─ b            a later one

Shape and Slice are run on the `a` of the later graph. Where that gives its `s` bit for bit, all nodes behind it read
the same in both graphs, and `b` is what the later one computes. Else nothing is known, and the graph has to be run.

So it is too where a node may compute in 16 bits. Of neighbours that the CPU computes in float32 ONNX Runtime rounds the
last alone, even without optimisation (Exp, Sqrt, Log of float16 become Cast, Exp, Sqrt, Log, Cast), and what is cut out
of a graph has other neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from onnx import GraphProto, TensorProto, ValueInfoProto, helper

from graphsurgery.capture.samples import Sample
from graphsurgery.devices.session import Session
from graphsurgery.errors import GraphSurgeryError
from graphsurgery.gate.gate import Tensors
from graphsurgery.graph.model import Model
from graphsurgery.graph.notes import as_captured
from graphsurgery.graph.outline import Outline, plain
from graphsurgery.graph.outside import size_of
from graphsurgery.graph.protos import declared_shape
from graphsurgery.partition import boundary_names

# Bytes that the later graph is asked for beside its own outputs, as far as its types tell: ONNX Runtime would let go of
# most of them at once. Open sizes of a tensor are together taken for as many proposals as an image has.
_MOST_ASKED, _OPEN = 2**31, 1000
# Changed nodes that read more than this share of the weights do much of the graph's work, and other weights don't give
# the same bits: to try would be for nothing. What is small is no reason.
_MOST_WEIGHTS, _SMALL = 0.1, 2**20
# The same for more than half of the nodes, as a session takes its time to be made too, 0.1 ms a node.
_MOST_NODES, _FEW = 0.5, 2000
_SIZED = {*TensorProto.DataType.values()} - {TensorProto.UNDEFINED, TensorProto.STRING}


def told_by_later(
    graphs: Sequence[Model], later: Model, names: Sequence[str], sample: Sample
) -> tuple[list[Tensors | None], Tensors | None]:
    """Return what each graph gives for its outputs on a sample, and what a later one does for its own and for `names`.

    None where only a run of its own can tell, which says what is wrong with it too.
    """
    asked = dict.fromkeys(names)
    try:
        outline, sizes = Outline(later), _declared_bytes(later)
        found = [ChangedNodes.between(Outline(graph), outline) for graph in graphs]
        for place, changed in enumerate(found):
            with_its = asked if changed is None else {**asked, **dict.fromkeys(changed.asked)}
            if sum(sizes.get(name, 0) for name in with_its) <= _MOST_ASKED:
                asked = with_its
            else:
                found[place] = None
        player = boundary_names.ExposedGraph(later, list(asked))
        computed = player.run(sample)
    except GraphSurgeryError:
        return [None for _ in graphs], None
    told = [None if each is None else _told(each, computed) for each in found]
    # copied, as what a session gave keeps all memory of that session
    return told, {name: np.array(value) for name, value in player.as_captured(computed, names).items()}


def computes_the_same(graph: Model, other: Model) -> bool:
    """Whether each node of a graph stands in another: then it gives what that does, bit for bit. Raises ModelError."""
    changed = ChangedNodes.between(Outline(graph), Outline(other))
    return changed is not None and not changed.nodes and not changed.met


def _told(changed: ChangedNodes, computed: Tensors) -> Tensors | None:
    try:
        return changed.outputs(computed)
    except GraphSurgeryError:
        return None


@dataclass(frozen=True)
class ChangedNodes:
    """The nodes of a graph that a later one doesn't have.

    `nodes` are in an order in which they can be run. They read `given` from nodes that are in both graphs; nodes that
    are in both read `met`, which has to be the same in both, and some of which is constant in one of them.
    """

    graph: Outline
    later: Outline
    nodes: tuple[int, ...]
    given: tuple[str, ...]
    met: tuple[str, ...]

    @staticmethod
    def between(graph: Outline, later: Outline) -> ChangedNodes | None:
        """Return what `graph` has and `later` hasn't; None where that is most of it, or tells nothing."""
        if not graph.same_setting(later) or set(graph.inputs) != set(later.inputs) or later.has_16_bits:
            return None
        alike = partial(_is_alike, graph, later)
        writes = [index for index in graph.order if any(name in graph.writer for name in graph.nodes[index].output)]
        nodes = [
            index for index in writes if not _stands_in(graph, index, later) or not all(map(alike, graph.reads[index]))
        ]
        written = {name for index in nodes for name in graph.nodes[index].output if name}
        changed = set(nodes)
        read = dict.fromkeys(name for index in nodes for name in graph.reads[index])
        kept = dict.fromkeys(name for index in writes if index not in changed for name in graph.reads[index])
        given = tuple(name for name in read if name not in written and _is_computed(graph, name))
        met = tuple(
            name for name in kept if name in written or (name in graph.constants and name not in later.constants)
        )
        weights = sum(size_of(graph.constants[name]) for name in read if name in graph.constants)
        most = max(_SMALL, _MOST_WEIGHTS * sum(map(size_of, graph.constants.values())))
        if weights > most or len(nodes) > max(_FEW, _MOST_NODES * len(writes)):
            return None
        return ChangedNodes(graph, later, tuple(nodes), given, met)

    @cached_property
    def _written(self) -> frozenset[str]:
        return frozenset(name for index in self.nodes for name in self.graph.nodes[index].output if name)

    @property
    def asked(self) -> list[str]:
        """What the run of the later graph is to give."""
        ends = [name for name in self.graph.outputs if name in self.later.writer]
        return [name for name in dict.fromkeys((*self.given, *self.met, *ends)) if name in self.later.writer]

    def outputs(self, computed: Tensors) -> dict[str, np.ndarray] | None:
        """Return the outputs of the graph as captured, by its inputs and what was `asked` of the later one.

        None where the changed nodes give something else than what the others read. Raises as a Session does, and
        ModelError for a constant that can't be read.
        """
        graph = self.graph
        wanted = [name for name in dict.fromkeys((*self.met, *graph.outputs)) if name in self._written]
        given = {name: self._of_later(name, computed) for name in self.given}
        made = self._run(given, wanted) if wanted else {}
        for name in self.met:
            mine = made[name] if name in made else graph.value(name)
            if not _same_bits(mine, self._of_later(name, computed)):
                return None
        known = {name: graph.value(name) for name in graph.outputs if name in graph.constants}
        return as_captured(graph.model.proto, {name: {**computed, **known, **made}[name] for name in graph.outputs})

    def _run(self, given: Tensors, wanted: list[str]) -> dict[str, np.ndarray]:
        proto = GraphProto(name="changed", node=[self.graph.nodes[index] for index in self.nodes])
        read = dict.fromkeys(name for index in self.nodes for name in self.graph.reads[index])
        self.graph.feed(proto, [name for name in read if name not in self._written], given)
        proto.output.extend(ValueInfoProto(name=name) for name in wanted)
        return Session(self.graph.with_nodes_of(proto), name="the nodes that changed").run(given)

    def _of_later(self, name: str, computed: Tensors) -> np.ndarray:
        return self.later.value(name) if name in self.later.constants else computed[name]


def _stands_in(graph: Outline, index: int, later: Outline) -> bool:
    twin = next((later.writer.get(name) for name in graph.nodes[index].output if name), None)
    return twin is not None and graph.same_node(index, later, twin)


def _is_alike(graph: Outline, later: Outline, name: str) -> bool:
    """Whether a tensor can be the same in both graphs: not where it is another constant, or a sparse one."""
    if name in graph.constants and name in later.constants:
        return graph.same_constant(name, later)
    return all(name in side.constants or _is_computed(side, name) for side in (graph, later))


def _is_computed(graph: Outline, name: str) -> bool:
    return name in graph.writer or name in graph.inputs


def _same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    if isinstance(one, list) or isinstance(other, list):  # a sequence, which no gate compares
        return False
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.dtype.kind in "OSU":
        return bool(np.array_equal(plain(one), plain(other)))
    bits = [np.ascontiguousarray(each).reshape(-1).view(np.uint8) for each in (one, other)]
    return bool(np.array_equal(bits[0], bits[1]))


def _declared_bytes(model: Model) -> dict[str, int]:
    """Return how many bytes each tensor takes as far as the graph says."""
    found = {}
    for info in (*model.proto.graph.value_info, *model.proto.graph.output):
        shape, kind = declared_shape(info), info.type.tensor_type.elem_type
        if shape is not None and kind in _SIZED:
            sizes = [size for size in shape if isinstance(size, int)]
            rows = 1 if len(sizes) == len(shape) else _OPEN
            found[info.name] = np.dtype(helper.tensor_dtype_to_np_dtype(kind)).itemsize * math.prod(sizes) * rows
    return found
