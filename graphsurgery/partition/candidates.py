"""Where a graph can be cut: candidates for `partition.at`, found by structure, with the parts that come out.

1. the role `detections`
2. operators that no accelerator runs, and those of other domains: each alone, as RoIAlign of a detector of two stages;
   where none alone will do, all that stand between weights together
3. tensors through which everything goes that one half of the network gives the other, such as what the encoder of DETR
   gives its decoder: of those, the ones that most nodes follow before the next such tensor
4. the tensors that the nodes between weights read, together

A detector of two stages is cut at its pools alone. Where nodes that no accelerator runs stand between the weights of a
stage, the stage is the host's; where none would be left, or those nodes go once the shapes are known, a candidate has
what it `needs` the target to run.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.errors import InputError
from graphsurgery.graph.model import Model
from graphsurgery.graph.multiply_adds import multiply_adds
from graphsurgery.graph.reach import live_nodes, read
from graphsurgery.partition.boundaries import Cut
from graphsurgery.partition.by_target import ByTarget
from graphsurgery.partition.cut import find_cut
from graphsurgery.partition.islands import OF_SHAPES
from graphsurgery.partition.stages import CutPoints
from graphsurgery.partition.weights import weighted_nodes
from graphsurgery.rewrite import Editor
from graphsurgery.rewrite.context import PassesFor

# Each costs a search for a cut, up to half a second in a graph of 2,000 nodes.
_OPERATORS, _TENSORS, _WAISTS = 16, 24, 3
_DETECTIONS = CutPoints(detections=True)
_POOL = "Roi"  # in the name of an operator that pools regions: RoiAlign, MMCVRoiAlign, RoiExtractor


@dataclass(frozen=True)
class CandidatePart:
    """A part of a candidate; `multiply_adds` and `bytes_read` are None where a shape isn't static.

    `bytes_read` are those of the tensors that other parts give it, `reads` their names.
    """

    accelerator: bool
    nodes: int
    multiply_adds: int | None
    reads: tuple[str, ...]
    bytes_read: int | None


@dataclass(frozen=True)
class Candidate:
    """A place to cut at, what no accelerator runs and yet stands between weights then, and the parts.

    `at` is None where a target says where.
    """

    at: CutPoints | None
    needs: tuple[str, ...]
    parts: tuple[CandidatePart, ...]

    @property
    def bytes_crossing(self) -> int | None:
        """What the parts read from one another, in bytes; None where a shape isn't static."""
        return _sum(part.bytes_read for part in self.parts)

    def explain_needs(self, passes_for: PassesFor) -> str:
        """Say what has to be done before the graph can be cut here; nothing where it can be."""
        if not self.needs:
            return ""
        ways = ["freeze the shapes and simplify first"] if OF_SHAPES & {*self.needs} else []
        for op in self.needs if not ways else ():
            if names := passes_for(op):
                ways.append(f"passes that look at {op}: {', '.join(names)}")
        ways.append("or partition.supported, if the target runs them")
        return f"between the weights then stand {', '.join(self.needs)}: {'; '.join(ways)}"

    def to_json(self) -> dict[str, Any]:
        """Return it as --json has it; `at` is what a recipe writes."""
        parts = [{**asdict(part), "reads": list(part.reads)} for part in self.parts]
        return {
            "at": None if self.at is None else self.at.to_json(),
            "needs": list(self.needs),
            "bytes_crossing": self.bytes_crossing,
            "parts": parts,
        }


@dataclass
class _Found:
    at: CutPoints | None
    needs: tuple[str, ...]
    cut: Cut

    def signature(self) -> tuple[tuple[bool, frozenset[int]], ...]:
        nodes = (frozenset(id(node) for node in nodes) for nodes in self.cut.nodes)
        return tuple(zip(self.cut.accelerator, nodes, strict=True))


def candidates(model: Model) -> list[Candidate]:
    """Return where a model can be cut, without two candidates that give the same parts.

    Raises InputError where it can't be cut at all: it has no weights, or hides them.
    """
    graph = model.graph()
    Editor(graph, "inspect --cuts").infer_shapes()
    whole = find_cut(graph, _DETECTIONS, strict=False)
    between = {op for node in whole.between for op in node.ops}
    types = {n.op if n.domain in graphs.STANDARD_DOMAINS else f"{n.domain}.{n.op}" for n in graph.nodes}
    pools = sorted(op for op in types if _POOL in op)
    if pools:
        found = [each for op in pools if (each := _possible(graph, CutPoints.of(op))) is not None]
    else:
        found = [_with_needs(graph, _DETECTIONS), *_by_operators(graph, between, types), *_waists(graph)]
        if not OF_SHAPES & between:  # those go when the shapes are known, and so do their cuts
            found += _by_tensors(graph, whole)
    counts = dict(zip((id(node) for node in graph.nodes), multiply_adds(Model.of(graph, model.folder)), strict=True))
    unique = {each.signature(): each for each in reversed(found)}
    return [_described(each, counts) for each in reversed(unique.values())]


def candidate_by_target(model: Model, takes: Callable[[gs.Node, bool], bool]) -> Candidate:
    """Return the parts that a model is cut into by a target that takes such nodes. Raises as `find_cut` does."""
    graph = model.graph()
    Editor(graph, "inspect --cuts").infer_shapes()
    cut = find_cut(graph, ByTarget(takes))
    counts = dict(zip((id(node) for node in graph.nodes), multiply_adds(Model.of(graph, model.folder)), strict=True))
    return _described(_Found(None, (), cut), counts)


def _with_needs(graph: gs.Graph, at: CutPoints) -> _Found:
    """Cut, as if an accelerator ran whatever stands between the weights."""
    cut = find_cut(graph, at, strict=False)
    needs = tuple(sorted({op for node in cut.between for op in node.ops}))
    return _Found(at, needs, find_cut(graph, at, supported=needs, strict=False) if needs else cut)


def _possible(graph: gs.Graph, at: CutPoints) -> _Found | None:
    """Cut, and leave the stages to the host that no accelerator runs as a whole; None where nothing is left then."""
    try:
        cut = find_cut(graph, at, strict=False)
        on_host = {node.stage for node in cut.between}
        of_shapes = any(OF_SHAPES & {*node.ops} for node in cut.between)
        if of_shapes or len(on_host) == sum(cut.accelerator):
            return _with_needs(graph, at)
        return _Found(at, (), find_cut(graph, at, on_host=on_host) if on_host else cut)
    except InputError:  # cuts in a circle, or weights on neither side
        return None


def _by_operators(graph: gs.Graph, between: Collection[str], types: Collection[str]) -> list[_Found]:
    """Return the cuts at one operator that need nothing more, and where there are none the one at all of them."""
    if OF_SHAPES & {*between}:
        return []
    foreign = {op for op in types if "." in op and not op.startswith("com.microsoft.")}
    ops = sorted({*between, *foreign})[:_OPERATORS]
    alone = [found for op in ops if (found := _possible(graph, CutPoints.of(op))) is not None]
    free = [found for found in alone if not found.needs]
    if not free and len(ops) > 1 and (together := _possible(graph, CutPoints.of(ops))) is not None:
        return [together]
    return free


def _by_tensors(graph: gs.Graph, cut: Cut) -> Iterator[_Found]:
    """Yield the cut at all tensors that nodes between weights read, unless it takes too many."""
    at = CutPoints()
    for _ in range(_TENSORS):
        if not cut.between:
            if at.tensors:
                yield _Found(at, (), cut)
            return
        at = at.and_tensors(cut.between[0].reads)
        try:
            cut = find_cut(graph, at, strict=False)
        except InputError:
            return


def _waists(graph: gs.Graph) -> Iterator[_Found]:
    """Yield the cuts at tensors that, once computed, are all that is still to be read, with weights on either side."""
    live = live_nodes(graph)
    nodes = [node for node in graph.nodes if id(node) in live]
    weights = weighted_nodes(graph, live, without_decode=True)
    weighted = [place for place, node in enumerate(nodes) if id(node) in weights]
    readers = Counter(key for node in nodes for key in {id(tensor) for tensor in read(node)})
    ends = {id(tensor) for tensor in graph.outputs}
    pending: set[int] = set()
    waists: list[tuple[int, str]] = []
    for place, node in enumerate(nodes):
        for key in {id(tensor) for tensor in read(node)}:
            readers[key] -= 1
            if not readers[key]:
                pending -= {key} - ends
        pending |= {id(tensor) for tensor in node.outputs if readers[id(tensor)] or id(tensor) in ends}
        own = [tensor.name for tensor in node.outputs if id(tensor) in pending - ends]
        if len(pending) == len(own) == 1 and weighted[0] <= place < weighted[-1]:
            waists.append((place, own[0]))
    following = pairwise([*waists, (len(nodes), "")])
    gaps = [(after - place, -place, name) for (place, name), (after, _) in following]
    widest = [gap for gap in sorted(gaps, reverse=True)[:_WAISTS] if gap[0] > len(nodes) // 10]
    for _, _, name in sorted(widest, key=lambda gap: -gap[1]):
        if (found := _possible(graph, CutPoints(tensors=(name,)))) is not None:
            yield found


def _described(found: _Found, counts: Mapping[int, int | None]) -> Candidate:
    own = {id(tensor) for tensor in found.cut.graph.inputs}
    parts = []
    for kind, nodes, inputs in zip(found.cut.accelerator, found.cut.nodes, found.cut.inputs, strict=True):
        given = [tensor for tensor in inputs if id(tensor) not in own]
        parts.append(
            CandidatePart(
                kind,
                sum(1 for node in nodes for _ in graphs.with_bodies(node)),
                _sum(counts[id(node)] for node in nodes),
                tuple(tensor.name for tensor in given),
                _sum(_bytes(tensor) for tensor in given),
            )
        )
    return Candidate(found.at, found.needs, tuple(parts))


def _bytes(tensor: gs.Tensor) -> int | None:
    shape = graphs.static_shape(tensor)
    if shape is None or not isinstance(tensor.dtype, np.dtype):
        return None
    return math.prod(shape) * tensor.dtype.itemsize


def _sum(counts: Iterable[int | None]) -> int | None:
    listed = list(counts)
    known = [count for count in listed if count is not None]
    return sum(known) if len(known) == len(listed) else None
