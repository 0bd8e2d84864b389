"""The accelerator part of one stage: its weights, what stands between them, and what belongs to the layers at its ends.

The nodes between the weights are the part's, and so are

- those between a weight and a tensor that `partition.at` names, on either side of the cut, if an accelerator runs them
- activations, a bias, and what the recipe includes, right behind the last weights
- Flatten or Reshape right before the first, QuantizeLinear and DequantizeLinear at either end
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.graph.reach import read
from graphsurgery.partition.operator_names import is_named
from graphsurgery.partition.stages import CutPoints, Cuts, quoted
from graphsurgery.partition.weights import is_bias, label, needed
from graphsurgery.rewrite.context import PassesFor, none_known

# Run by the same accelerator step as the weight before them, so they never stand in a host part of their own.
ACTIVATIONS = ("Relu", "LeakyRelu", "PRelu", "Clip", "Elu", "Selu", "HardSwish", "HardSigmoid")
RESHAPES = ("Flatten", "Reshape")
# They belong to the layer that they stand at; those of 16 bits are Microsoft's before opset 21.
ROUNDING = tuple(f"{domain}{op}" for op in ("QuantizeLinear", "DequantizeLinear") for domain in ("", "com.microsoft."))
# What no CNN accelerator runs: data-dependent control flow, selection and output sizes.
HOST_ONLY = (
    frozenset({"If", "Loop", "Scan", "NonZero", "NonMaxSuppression", "RoiAlign", "TopK", "Shape", "Size", "Range"})
    | {"Where", "Compress", "Unique", "OneHot", "Gather", "GatherElements", "GatherND", "ScatterElements"}
    | {"Scatter", "ScatterND", "Expand", "ConstantOfShape", "Tile"}
)
# They are gone once every shape is known.
OF_SHAPES = frozenset({"Shape", "Size", "Range", "ConstantOfShape"})


@dataclass(frozen=True)
class HostNode:
    """A node that no accelerator runs between the weights of a stage: `ops` is what it is, `at` what was cut at."""

    node: gs.Node
    stage: int
    ops: tuple[str, ...]
    at: CutPoints
    _places: Callable[[], list[str]]

    @cached_property
    def reads(self) -> list[str]:
        """The tensors to cut at, so that the node comes before the next weights."""
        return self._places()

    def explain(self, passes_for: PassesFor = none_known) -> str:
        """Name the node, and what helps: passes that look at it, the cut that goes there, a target that runs it."""
        listed = ", ".join(self.ops)
        ways = ["freeze the shapes and simplify first"] if OF_SHAPES & {*self.ops} else []
        for op in self.ops:
            if names := passes_for(op):
                ways.append(f"passes that look at {op}: {', '.join(names)}")
        if self.at.tensors:
            ways.append(f"cut there too: add {', '.join(map(quoted, self.reads))} to the tensors of partition.at")
        else:
            ways.append(f"cut there: partition.at: {self.at.and_tensors(self.reads)}")
        ways.append(f"partition.supported: [{listed}], if the target runs it")
        return (
            f"node '{label(self.node)}' ({listed}) stands between the weights of one part, and no accelerator runs it; "
            f"{'; '.join(ways)}"
        )


@dataclass(frozen=True)
class Island:
    """The nodes (as ids) of the accelerator part of a stage, and which of them are `behind` the last weight.

    `between` are the nodes that no accelerator runs among them.
    """

    nodes: set[int]
    behind: set[int]
    between: list[HostNode]


@dataclass(frozen=True)
class Network:
    """A graph with what is known of its nodes, by their ids: which are live, hold weights, and in which stage.

    `lacking` says of those that the accelerator doesn't run which operators it lacks for that. `welcome` are those that
    it runs, though no accelerator does as a rule.
    """

    graph: gs.Graph
    live: set[int]
    weights: set[int]
    cuts: Cuts
    stages: Mapping[int, int]
    lacking: Mapping[int, Sequence[str]]
    welcome: frozenset[int] = frozenset()

    def island(self, stage: int, include: Collection[str], at: CutPoints) -> Island:
        """Return the accelerator part of one stage; `include` are operators as a recipe names them."""
        here = [node for node in self.graph.nodes if self.stages.get(id(node)) == stage]
        own = {id(node) for node in here} & self.weights
        lacking = {id(node): self.lacking[id(node)] for node in here if id(node) in self.lacking}
        own = own | self._up_to_cuts(here, own, lacking)
        below = _below(here, own)
        nodes = below & self._above(here, own)
        between = [
            HostNode(node, stage, tuple(lacking[id(node)]), at, partial(self._places, here, node, below))
            for node in here
            if id(node) in nodes and id(node) in lacking
        ]
        behind = self._behind(here, nodes, include)
        return Island(self._with_what_stands_before(here, nodes | behind), behind, between)

    def _up_to_cuts(self, here: Sequence[gs.Node], weights: set[int], lacking: Collection[int]) -> set[int]:
        """Return what computes a tensor to cut at, and what reads one, where accelerators run all up to the weights."""
        found: set[int] = set()
        below, above = _below(here, weights), self._above(here, weights)
        for node in here:
            if id(node) in self.cuts.ends & below and not self._above(here, {id(node)}) & below & {*lacking}:
                found.add(id(node))
            reads_cut = id(node) in above and any(id(tensor) in self.cuts.tensors for tensor in read(node))
            if reads_cut and not _below(here, {id(node)}) & above & {*lacking}:
                found.add(id(node))
        return found

    def _places(self, here: Sequence[gs.Node], node: gs.Node, below: set[int]) -> list[str]:
        """Return the names of the tensors which `node` reads and that lie behind weights, to cut at.

        One that is computed of another, without weights, lies behind that cut already.
        """
        computed = {t.name: t for t in read(node) if any(id(n) in below for n in t.inputs)}
        for name, tensor in list(computed.items()):
            behind = _below(here, {id(reader) for reader in tensor.outputs})
            for other, end in list(computed.items()):
                ends = {id(producer) for producer in end.inputs}
                if other != name and ends <= behind and not self._above(here, ends) & behind & self.weights:
                    del computed[other]
        return list(computed)

    def _above(self, here: Sequence[gs.Node], nodes: set[int]) -> set[int]:
        """Return `nodes` and those of the stage that they need."""
        found, inside = set(nodes), {id(node) for node in here}
        for node in reversed(here):
            if id(node) in found:
                found.update(id(producer) for producer in needed(node) if id(producer) in inside)
        return found

    def _behind(self, here: Iterable[gs.Node], island: set[int], include: Collection[str]) -> set[int]:
        behind: set[int] = set()
        for node in here:
            taken = is_named(node, *ACTIVATIONS, *ROUNDING, *include) or is_bias(node, self.weights, self.live)
            if id(node) in island or id(node) in self.lacking or not taken:
                continue
            needs = {id(producer) for producer in needed(node) if id(producer) in self.live}
            if needs and needs <= island | behind:
                behind.add(id(node))
        return behind

    def _with_what_stands_before(self, here: Sequence[gs.Node], island: set[int]) -> set[int]:
        island = set(island)
        for node in reversed(here):
            readers = {id(reader) for reader in node.outputs[0].outputs} if node.outputs else set()
            before = is_named(node, *RESHAPES, *ROUNDING) and readers and readers <= island
            if before and not any(graphs.is_graph_output(tensor, self.graph) for tensor in node.outputs):
                rest = node.inputs[1:]
                if all(graphs.constant(tensor) is not None for tensor in rest):
                    island.add(id(node))
        return island | self._welcomed(here, island)

    def _welcomed(self, here: Sequence[gs.Node], island: set[int]) -> set[int]:
        """Return the nodes that only the island needs and all of which the accelerator runs, from a welcome one on."""
        if not self.welcome:
            return set()
        top = {id(inner): id(node) for node in self.graph.nodes for inner in graphs.with_bodies(node)}
        only_here: set[int] = set()
        for node in reversed(here):
            readers = {top[id(reader)] for tensor in node.outputs for reader in tensor.outputs}
            ends = any(graphs.is_graph_output(tensor, self.graph) for tensor in node.outputs)
            if not ends and readers and readers <= island | only_here and id(node) not in self.lacking:
                only_here.add(id(node))
        return _below(here, only_here & self.welcome) & only_here


def _below(here: Iterable[gs.Node], nodes: set[int]) -> set[int]:
    """Return `nodes` and those of the stage that need them."""
    found = set(nodes)
    for node in here:
        if any(id(producer) in found for producer in needed(node)):
            found.add(id(node))
    return found


def lacking(node: gs.Node, supported: Collection[str]) -> list[str]:
    """Return the operators in `node` that no accelerator runs, in alphabetical order; `supported` are some it does."""
    inside = graphs.with_bodies(node)
    return sorted({inner.op for inner in inside if inner.op in HOST_ONLY and not is_named(inner, *supported)})
