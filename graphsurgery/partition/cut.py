"""Cuts a detector into parts by structure, never by node names, which change with every exporter.

1. RoIAlign nodes are grouped into pools: nodes whose outputs meet in one tensor before the next weight.
2. stage(node) = the number of pools on the longest path from the inputs to it.
3. The weights of one stage (Conv, ConvTranspose, Gemm, MatMul with a constant operand) and all nodes between them
   are an accelerator part, together with activations right behind the last weights, Flatten or Reshape right before
   the first, and QuantizeLinear and DequantizeLinear at either end. What is left between two accelerator parts is a
   host part.
4. A cut tensor is any tensor that crosses. What depends on constants alone is repeated where it is used.

Mask R-CNN has two pools and so three accelerator parts, each followed by a host part; RetinaNet has none and one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.errors import InputError, ModelError
from graphsurgery.graph.model import Model
from graphsurgery.graph.view import table
from graphsurgery.operators.functions import hidden_layers
from graphsurgery.operators.operands import LAYERS
from graphsurgery.partition.operator_names import is_known, is_named, unknown

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
# Worth computing once: these never move to a later part.
_STAY = ("RoiAlign", "NonMaxSuppression", "TopK", "NonZero", "If", "Loop", "Scan")
# Chains of cheap nodes up to this length are run again rather than let their result cross.
_RECOMPUTE_DEPTH = 8


@dataclass
class Cut:
    """What `find_cut` found in `graph`: for each part in the order data flows, whether it is for the accelerator
    and the tensors it reads and writes. `behind` are the nodes that a part took along behind its last weight.
    """

    graph: gs.Graph
    accelerator: list[bool] = field(default_factory=list)
    inputs: list[list[gs.Tensor]] = field(default_factory=list)
    outputs: list[list[gs.Tensor]] = field(default_factory=list)
    behind: list[list[gs.Node]] = field(default_factory=list)

    def crossing(self) -> list[gs.Tensor]:
        """Return the tensors that leave one part for another, in the order they are written."""
        ends = {id(tensor) for tensor in self.graph.outputs}
        return [tensor for written in self.outputs for tensor in written if id(tensor) not in ends]


def find_cut(graph: gs.Graph, at: str, include: Sequence[Collection[str]] = ()) -> Cut:
    """Find the parts of `graph`, whose shapes are known, cut at the operator `at`; unused nodes go, the rest is sorted.

    `include[i]` names operators behind the last weight that the i-th accelerator part takes along. An operator of
    another domain is named by its type, if no standard one is called so, or as domain.Type. Raises InputError for an
    `at` that is neither in the graph nor an operator of ONNX, and for weights that are inputs or inside a function,
    ModelError when a node that no accelerator runs stands between the weights of one stage.
    """
    graphs.drop_unused(graph)
    graphs.sort(graph)
    if not is_known(at, graph):
        raise InputError(f"partition.at: {unknown(at, graph)}")
    _refuse_hidden_weights(graph)
    _refuse_open_weights(graph)
    live = _depends_on_inputs(graph)
    weights = {id(node) for node in graph.nodes if _is_weighted(node, live)}
    stages = _stages(graph, _pools(graph, at, weights), live)
    part_of: dict[int, int] = {}
    kinds: list[bool] = []
    weighted = sorted({stage for node, stage in stages.items() if node in weights})
    if not weighted:
        raise ModelError(
            f"graph '{graph.name}': no Conv, ConvTranspose, Gemm or MatMul with constant weights to cut by"
        )
    found = [
        _island(graph, stages, stage, weights, live, include[index] if index < len(include) else ())
        for index, stage in enumerate(weighted)
    ]
    islands, behind = [island for island, _ in found], [taken for _, taken in found]
    after = _sink(graph, _host_positions(graph, islands, live), islands)
    for slot in range(len(islands) + 1):
        host = [node for node in graph.nodes if after.get(id(node)) == slot]
        if host:
            part_of.update((id(node), len(kinds)) for node in host)
            kinds.append(False)
        if slot < len(islands):
            part_of.update((id(node), len(kinds)) for node in graph.nodes if id(node) in islands[slot])
            kinds.append(True)
    cut = _boundaries(graph, part_of, kinds)
    taken = set().union(*behind)
    cut.behind = [[n for n in graph.nodes if id(n) in taken and part_of[id(n)] == part] for part in range(len(kinds))]
    return cut


def _depends_on_inputs(graph: gs.Graph) -> set[int]:
    """Return the nodes (as ids) that some graph input reaches; the others are constants in disguise."""
    inputs = {id(tensor) for tensor in graph.inputs}
    live: set[int] = set()
    for node in graph.nodes:
        read = [tensor for inner in graphs.with_bodies(node) for tensor in inner.inputs]
        read += [tensor for body in graphs.subgraphs(node) for tensor in body.outputs]
        if any(id(tensor) in inputs or any(id(n) in live for n in tensor.inputs) for tensor in read):
            live.add(id(node))
    return live


def _needed(node: gs.Node) -> list[gs.Node]:
    """Return the nodes around `node` whose outputs it reads, also from inside its bodies."""
    read = [tensor for inner in graphs.with_bodies(node) for tensor in inner.inputs]
    read += [tensor for body in graphs.subgraphs(node) for tensor in body.outputs]
    return [producer for tensor in read for producer in tensor.inputs]


def _label(node: gs.Node) -> str:
    return str(node.name or (node.outputs[0].name if node.outputs else node.op))


def _is_weighted(node: gs.Node, live: set[int]) -> bool:
    """Whether an operand of `node` is a weight: stored, or computed from what is (dequantized, transposed)."""
    if id(node) not in live or not graphs.is_op(node, *LAYERS):
        return False
    return any(isinstance(t, gs.Constant) or any(id(n) not in live for n in t.inputs) for t in node.inputs[:2])


def _refuse_hidden_weights(graph: gs.Graph) -> None:
    """Raise InputError for a layer inside a model-local function: it would be taken for the host's."""
    base = table(graph).base
    hidden = hidden_layers(Model.of(graph).proto) if base is not None and base.functions else None
    if hidden is not None:
        raise InputError(f"partition: {hidden}")


def _refuse_open_weights(graph: gs.Graph) -> None:
    """Raise InputError for a weight that a caller may override, which no accelerator can be given beforehand."""
    open_ = {id(tensor): tensor.name for tensor in graph.inputs if graphs.has_default(tensor, graph)}
    given = {id(tensor) for tensor in graph.inputs if id(tensor) not in open_}
    for node in graph.nodes if open_ else ():
        found = [open_[id(tensor)] for tensor in node.inputs[:2] if id(tensor) in open_]
        if found and graphs.is_op(node, *LAYERS):
            raise InputError(
                f"partition: node '{_label(node)}' ({node.op}) reads its weight from '{found[0]}', which is an "
                f"input with a default; put drop-initializer-inputs first among the passes"
            )
        read = [tensor for inner in graphs.with_bodies(node) for tensor in inner.inputs]
        written = [id(tensor) for tensor in node.outputs]
        if any(id(tensor) in given for tensor in read):
            given.update(written)
        else:  # a weight that is transposed or dequantized first
            origins = [open_[id(tensor)] for tensor in read if id(tensor) in open_]
            open_.update(dict.fromkeys(written, origins[0]) if origins else {})


def _stages(graph: gs.Graph, pools: Mapping[int, int], live: set[int]) -> dict[int, int]:
    """Return the stage of every node that depends on the inputs. Raises ModelError for pools in a circle."""
    rank = dict.fromkeys(pools.values(), 0)
    for _ in range(len(rank) + 2):
        stages: dict[int, int] = {}
        found = dict.fromkeys(rank, 0)
        for node in graph.nodes:
            if id(node) not in live:
                continue
            stage = max((stages.get(id(needed), 0) for needed in _needed(node)), default=0)
            pool = pools.get(id(node))
            if pool is not None:
                found[pool] = max(found[pool], stage + 1)
                stage = max(rank[pool], stage + 1)
            stages[id(node)] = stage
        if all(rank[pool] >= found[pool] for pool in rank):
            return stages
        rank = found
    names = ", ".join(f"'{_label(node)}'" for node in graph.nodes if id(node) in pools)
    raise ModelError(f"the graph can't be cut at {names}: their outputs meet, and some need what comes after others")


def _pools(graph: gs.Graph, at: str, weights: set[int]) -> dict[int, int]:
    """Group the nodes of operator `at`: two are in one pool when their outputs meet before the next weight.

    Two of which one needs the other are not, wherever they meet.
    """
    roots: dict[int, int] = {}  # node at -> itself or the pool it was merged into
    reach: dict[int, set[int]] = {}  # node -> the nodes at whose values arrive there without passing a weight
    behind: dict[int, set[int]] = {}  # node -> the nodes at on any path to it

    def find(pool: int) -> int:
        while roots[pool] != pool:
            pool = roots[pool]
        return pool

    for node in graph.nodes:
        behind[id(node)] = set().union(*(behind.get(id(n), set()) for n in _needed(node)))
        if is_named(node, at):
            roots[id(node)] = id(node)
            reach[id(node)] = {id(node)}
            behind[id(node)].add(id(node))
            continue
        if id(node) in weights:
            continue
        # an index into the rows, or their number, is no meeting: only what carries on a pool's own values counts
        arriving = (
            set().union(*(reach.get(id(n), set()) for t in node.inputs for n in t.inputs)) if node.inputs else set()
        )
        if graphs.is_op(node, "Shape", "Size"):
            continue
        reach[id(node)] = arriving
        found = {find(pool) for pool in arriving}
        merged = [pool for pool in roots if pool in found]
        for number, pool in enumerate(merged):
            for other in merged[:number]:
                if find(other) == other and not _depend(other, pool, roots, behind, find):
                    roots[pool] = other
                    break
    return {pool: find(pool) for pool in roots}


def _depend(
    first: int, second: int, roots: Mapping[int, int], behind: Mapping[int, set[int]], find: Callable[[int], int]
) -> bool:
    """Whether a member of one pool needs a member of the other."""
    members = {pool: {node for node in roots if find(node) == pool} for pool in (first, second)}
    return any(
        behind[node] & members[other] for pool, other in ((first, second), (second, first)) for node in members[pool]
    )


def _island(
    graph: gs.Graph,
    stages: Mapping[int, int],
    stage: int,
    weights: set[int],
    live: set[int],
    include: Collection[str],
) -> tuple[set[int], set[int]]:
    """Return the nodes (as ids) of the accelerator part of one stage, and those among them behind the last weight."""
    here = [node for node in graph.nodes if stages.get(id(node)) == stage]
    own = {id(node) for node in here} & weights
    below, above = set(own), set(own)
    for node in here:
        if any(id(needed) in below for needed in _needed(node)):
            below.add(id(node))
    for node in reversed(here):
        if id(node) in above:
            above.update(id(needed) for needed in _needed(node) if stages.get(id(needed)) == stage)
    island = below & above
    for node in here:
        if id(node) in island and any(inner.op in HOST_ONLY for inner in graphs.with_bodies(node)):
            ops = sorted({inner.op for inner in graphs.with_bodies(node)} & HOST_ONLY)
            raise ModelError(
                f"node '{_label(node)}' ({', '.join(ops)}) stands between the weights of one part, and no accelerator "
                f"runs it; freeze the shapes and simplify first"
            )
    behind: set[int] = set()
    for node in here:
        if id(node) in island or not is_named(node, *ACTIVATIONS, *ROUNDING, *include):
            continue
        needs = {id(needed) for needed in _needed(node) if id(needed) in live}
        if needs and needs <= island | behind:
            behind.add(id(node))
    island |= behind
    for node in reversed(here):
        readers = {id(reader) for reader in node.outputs[0].outputs} if node.outputs else set()
        before = is_named(node, *RESHAPES, *ROUNDING) and readers and readers <= island
        if before and not any(graphs.is_graph_output(tensor, graph) for tensor in node.outputs):
            rest = node.inputs[1:]
            if all(graphs.constant(tensor) is not None for tensor in rest):
                island.add(id(node))
    return island, behind


def _host_positions(graph: gs.Graph, islands: Sequence[set[int]], live: set[int]) -> dict[int, int]:
    """Return for each host node the number of accelerator parts that it stands behind."""
    position: dict[int, int] = {}
    where = {node: index for index, island in enumerate(islands) for node in island}
    for node in graph.nodes:
        if id(node) in live:
            behind = [position[id(needed)] for needed in _needed(node) if id(needed) in position]
            position[id(node)] = where[id(node)] + 1 if id(node) in where else max(behind, default=0)
    return {node: slot for node, slot in position.items() if node not in where}


def _sink(graph: gs.Graph, slots: dict[int, int], islands: Sequence[set[int]]) -> dict[int, int]:
    """Move host nodes that only later parts read into those parts, where that lets fewer tensors cross.

    A detector takes boxes apart into columns before the box head and reads the columns behind it: then the boxes
    should cross, not the columns.
    """
    moved = dict(slots)
    where = {node: index for index, island in enumerate(islands) for node in island}
    top = {id(inner): id(node) for node in graph.nodes for inner in graphs.with_bodies(node)}
    ends = {id(tensor) for tensor in graph.outputs}
    for node in reversed(graph.nodes):
        heavy = any(graphs.is_op(inner, *_STAY) for inner in graphs.with_bodies(node))
        if id(node) not in moved or heavy or any(id(tensor) in ends for tensor in node.outputs):
            continue
        readers = [top[id(reader)] for tensor in node.outputs for reader in tensor.outputs]
        # an accelerator part reads what its host part before it wrote; a host node can't move into it
        slot = min((where.get(r, moved.get(r, 0)) for r in readers), default=moved[id(node)])
        moved[id(node)] = max(slot, moved[id(node)])
    return moved if _crossings(graph, moved, where, top) < _crossings(graph, slots, where, top) else slots


def _crossings(graph: gs.Graph, slots: Mapping[int, int], where: Mapping[int, int], top: Mapping[int, int]) -> int:
    """Count the tensors that a part other than the writing one reads, and the graph inputs once for each reader."""
    place = {node: 2 * slot for node, slot in slots.items()} | {node: 2 * index + 1 for node, index in where.items()}
    count = 0
    for tensor in graph.inputs:
        count += len({place.get(top[id(reader)]) for reader in tensor.outputs})
    for node in graph.nodes:
        if id(node) in place:
            for tensor in node.outputs:
                count += any(place.get(top[id(reader)], 0) > place[id(node)] for reader in tensor.outputs)
    return count


def _boundaries(graph: gs.Graph, part_of: Mapping[int, int], kinds: list[bool]) -> Cut:
    ends = {id(tensor) for tensor in graph.outputs}
    inputs: list[dict[int, gs.Tensor]] = [{} for _ in kinds]
    outputs: list[dict[int, gs.Tensor]] = [{} for _ in kinds]
    own = {id(tensor) for tensor in graph.inputs}
    for node in graph.nodes:
        part = part_of.get(id(node))
        if part is None:
            continue
        inner = list(graphs.with_bodies(node))
        read = [tensor for n in inner for tensor in n.inputs]
        read += [tensor for n in inner for body in graphs.subgraphs(n) for tensor in body.outputs]
        for tensor in read:
            writer = graphs.producer(tensor)
            if id(tensor) in own:
                inputs[part][id(tensor)] = tensor
            elif writer is not None and part_of.get(id(writer), part) != part:
                inputs[part][id(tensor)] = tensor
                outputs[part_of[id(writer)]][id(tensor)] = tensor
        for tensor in node.outputs:
            if id(tensor) in ends:
                outputs[part][id(tensor)] = tensor
    for part, needed in enumerate(inputs):
        for tensor in [] if kinds[part] else list(needed.values()):
            if _recomputable(tensor, needed, part_of, kinds):
                del needed[id(tensor)]
    needed_anywhere = {key for needed in inputs for key in needed} | ends
    outputs = [{key: t for key, t in written.items() if key in needed_anywhere} for written in outputs]
    given = own | {key for written in outputs for key in written}
    outputs[-1].update((id(tensor), tensor) for tensor in graph.outputs if id(tensor) not in given)  # constants
    cut = Cut(graph, kinds)
    for part in range(len(kinds)):
        cut.inputs.append(list(inputs[part].values()))
        order = {id(t): i for i, t in enumerate(t for node in graph.nodes for t in node.outputs)}
        order |= {id(t): len(order) + i for i, t in enumerate(graph.outputs)}
        cut.outputs.append(sorted(outputs[part].values(), key=lambda tensor: order[id(tensor)]))
    return cut


def _recomputable(
    tensor: gs.Tensor, available: Mapping[int, gs.Tensor], part_of: Mapping[int, int], kinds: Sequence[bool]
) -> bool:
    """Whether a few cheap host nodes give `tensor` out of what a part reads anyway: a column of boxes, say."""
    pending = [(tensor, 0)]
    while pending:
        current, depth = pending.pop()
        if depth and (id(current) in available or graphs.constant(current) is not None):
            continue
        node = graphs.producer(current)
        part = part_of.get(id(node)) if node is not None else None
        if node is None or depth > _RECOMPUTE_DEPTH or (part is None and node.inputs):
            return False
        heavy = any(graphs.is_op(inner, *_STAY, *LAYERS) for inner in graphs.with_bodies(node))
        if heavy or (part is not None and kinds[part]):
            return False
        pending.extend((t, depth + 1) for t in node.inputs if t.name)
    return True
