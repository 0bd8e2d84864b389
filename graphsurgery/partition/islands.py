"""The accelerator part of one stage: its weights, what stands between them, and what belongs to the layers at its ends.

The nodes between the weights are the part's, and so are

- those between a weight and a tensor that `partition.at` names, on either side of the cut, if an accelerator runs them
- activations, a bias, and what the recipe includes, right behind the last weights
- Flatten or Reshape right before the first, QuantizeLinear and DequantizeLinear at either end
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.errors import InputError, ModelError
from graphsurgery.partition.operator_names import is_known, is_named, unknown
from graphsurgery.partition.stages import CutPoints, Cuts
from graphsurgery.partition.weights import is_bias, label, needed, read

# Run by the same accelerator step as the weight before them, so they never stand in a host part of their own.
ACTIVATIONS = ("Relu", "LeakyRelu", "PRelu", "Clip", "Elu", "Selu", "HardSwish", "HardSigmoid")
RESHAPES = ("Flatten", "Reshape")
# They belong to the layer that they stand at; those of 16 bits are Microsoft's before opset 21.
ROUNDING = tuple(f"{domain}{op}" for op in ("QuantizeLinear", "DequantizeLinear") for domain in ("", "com.microsoft."))
# What no CNN accelerator runs: data-dependent control flow, selection and output sizes.
HOST_ONLY = (
    frozenset({"If", "Loop", "Scan", "NonZero", "NonMaxSuppression", "RoiAlign", "TopK", "Shape", "Size", "Range"})
    | {"Where", "Compress", "Unique", "OneHot", "Gather", "GatherElements", "GatherND", "ScatterElements"}
    | {"ScatterND", "Expand", "ConstantOfShape", "Tile"}
)
# They are gone once every shape is known.
_OF_SHAPES = frozenset({"Shape", "Size", "Range", "ConstantOfShape"})

PassesFor = Callable[[str], Sequence[str]]


def none_known(_: str) -> Sequence[str]:
    """Return no pass that looks at an operator."""
    return ()


@dataclass(frozen=True)
class Target:
    """What a graph is cut for: `supported` are operators of HOST_ONLY that it runs nevertheless.

    `passes_for` gives the names of the passes that look at an operator, for messages.
    """

    supported: tuple[str, ...] = ()
    passes_for: PassesFor = none_known

    def refuse_unknown(self, graph: gs.Graph) -> None:
        """Raise InputError for an operator that is neither ONNX's nor in the graph."""
        for op in self.supported:
            if not is_known(op, graph):
                raise InputError(f"partition.supported: {unknown(op, graph)}")

    def lacks(self, node: gs.Node) -> list[str]:
        """Return the operators in `node` that no accelerator runs, in alphabetical order."""
        inside = graphs.with_bodies(node)
        return sorted({inner.op for inner in inside if inner.op in HOST_ONLY and not is_named(inner, *self.supported)})


class HostBetweenWeightsError(ModelError):
    """A node that no accelerator runs stands between weights; `reads` are the tensors to cut at, `ops` what it is."""

    def __init__(self, node: gs.Node, ops: Sequence[str], reads: Sequence[str], at: CutPoints, target: Target) -> None:
        self.ops, self.reads = tuple(ops), tuple(reads)
        ways = ["freeze the shapes and simplify first"] if _OF_SHAPES & {*ops} else []
        for op in ops:
            if names := target.passes_for(op):
                ways.append(f"passes that look at {op}: {', '.join(names)}")
        ways.append(f"partition.at: {at.and_tensors(reads)} cuts there")
        ways.append(f"partition.supported: [{', '.join(ops)}] says that the target runs it")
        super().__init__(
            f"node '{label(node)}' ({', '.join(ops)}) stands between the weights of one part, and no accelerator runs "
            f"it; {'; '.join(ways)}"
        )


@dataclass(frozen=True)
class Network:
    """A graph with what is known of its nodes, by their ids: which are live, hold weights, and in which stage."""

    graph: gs.Graph
    live: set[int]
    weights: set[int]
    cuts: Cuts
    stages: Mapping[int, int]

    def island(self, stage: int, include: Collection[str], at: CutPoints, target: Target) -> tuple[set[int], set[int]]:
        """Return the nodes of the accelerator part of one stage, and those among them behind the last weight.

        Raises HostBetweenWeightsError for a node that no accelerator runs between the weights.
        """
        here = [node for node in self.graph.nodes if self.stages.get(id(node)) == stage]
        own = {id(node) for node in here} & self.weights
        lacking = {id(node): ops for node in here if (ops := target.lacks(node))}
        own = own | self._up_to_cuts(here, own, lacking)
        below, above = _below(here, own), self._above(here, own)
        island = below & above
        for node in here:
            if id(node) in island and id(node) in lacking:
                reads = [t.name for t in read(node) if any(id(n) in below for n in t.inputs)]
                raise HostBetweenWeightsError(node, lacking[id(node)], list(dict.fromkeys(reads)), at, target)
        behind = self._behind(here, island, include)
        return self._with_what_stands_before(here, island | behind), behind

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
            if id(node) in island or not taken:
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
        return island


def _below(here: Iterable[gs.Node], nodes: set[int]) -> set[int]:
    """Return `nodes` and those of the stage that need them."""
    found = set(nodes)
    for node in here:
        if any(id(producer) in found for producer in needed(node)):
            found.add(id(node))
    return found
