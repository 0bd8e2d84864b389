"""Where `partition.at` cuts, and the stage of each node: the number of cuts on the longest path from the inputs to it.

A cut lies before the operators that `at` names, or behind the tensors. Those that belong together are one cut:

- operators whose outputs meet in one tensor before the next weight, if none needs another
- tensors that match, if none depends on another; one that does is a cut of its own, further on
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.errors import InputError, ModelError, did_you_mean
from graphsurgery.graph.names import matches
from graphsurgery.graph.reach import read
from graphsurgery.partition.operator_names import is_known, is_named, unknown
from graphsurgery.partition.weights import label, needed

DETECTIONS = "detections"


@dataclass(frozen=True)
class CutPoints:
    """What `partition.at` says: types of operators, names or patterns of tensors, or the role `detections`.

    Where tensors or the role are named, the layers of a decode are no layers of the network (`weights`).
    """

    operators: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    detections: bool = False

    @classmethod
    def of(cls, words: str | Iterable[str], tensors: Iterable[str] = ()) -> CutPoints:
        """Return what one word, or several, of a recipe mean."""
        given = (words,) if isinstance(words, str) else tuple(words)
        return cls(tuple(word for word in given if word != DETECTIONS), tuple(tensors), DETECTIONS in given)

    def and_tensors(self, names: Iterable[str]) -> CutPoints:
        """Return these, and some tensors more."""
        return CutPoints(self.operators, tuple(dict.fromkeys((*self.tensors, *names))), self.detections)

    @property
    def without_decode(self) -> bool:
        """Whether the layers of a decode are the host's."""
        return self.detections or bool(self.tensors)

    def to_json(self) -> str | list[str] | dict[str, list[str]]:
        """Return the value of `at` as a recipe writes it."""
        if self.tensors:
            operators = {"operators": list(self.operators)} if self.operators else {}
            return {**operators, "tensors": list(self.tensors)}
        words = [*self.operators, *([DETECTIONS] if self.detections else [])]
        return words[0] if len(words) == 1 else words

    def __str__(self) -> str:
        """The value of `at` in one line of YAML."""
        value = self.to_json()
        if isinstance(value, str):
            return value
        if isinstance(value, list):
            return f"[{', '.join(value)}]"
        operators = f"operators: [{', '.join(self.operators)}], " if self.operators else ""
        return f"{{{operators}tensors: [{', '.join(map(quoted, self.tensors))}]}}"


@dataclass(frozen=True)
class Cuts:
    """The cuts as numbers: by the id of a node before which one lies, and by the id of a tensor behind which one does.

    `ends` are the nodes (as ids) that compute such a tensor.
    """

    nodes: Mapping[int, int]
    tensors: Mapping[int, int]
    ends: frozenset[int]


def quoted(name: str) -> str:
    """Return a name as YAML has text whatever is in it."""
    return "'" + name.replace("'", "''") + "'"


def find_cuts(graph: gs.Graph, at: CutPoints, weights: set[int], live: set[int]) -> Cuts:
    """Find where to cut. Raises InputError for an operator that nobody knows, and for a tensor that isn't computed."""
    for op in at.operators:
        if not is_known(op, graph):
            raise InputError(f"partition.at: {unknown(op, graph)}")
    pools = _pools(graph, at.operators, weights) if at.operators else {}
    roots = {root: number for number, root in enumerate(dict.fromkeys(pools.values()))}
    tensors = _matching(graph, at.tensors, live)
    depth: dict[int, int] = {}
    found: dict[int, int] = {}
    for node in graph.nodes:
        if id(node) in live:
            behind = (depth.get(id(n), 0) + (id(tensor) in tensors) for tensor in read(node) for n in tensor.inputs)
            depth[id(node)] = max(behind, default=0)
            found.update((id(t), len(roots) + depth[id(node)]) for t in node.outputs if id(t) in tensors)
    ends = frozenset(id(node) for node in graph.nodes if any(id(tensor) in found for tensor in node.outputs))
    return Cuts({node: roots[root] for node, root in pools.items()}, found, ends)


def stages(graph: gs.Graph, cuts: Cuts, live: set[int]) -> dict[int, int]:
    """Return the stage of every node that depends on the inputs. Raises ModelError for cuts in a circle."""
    rank = dict.fromkeys((*cuts.nodes.values(), *cuts.tensors.values()), 0)
    for _ in range(len(rank) + 2):
        found: dict[int, int] = {}
        reached = dict.fromkeys(rank, 0)
        for node in graph.nodes:
            if id(node) in live:
                arriving = (
                    _behind(cuts.tensors.get(id(tensor)), found.get(id(producer), 0), rank, reached)
                    for tensor in read(node)
                    for producer in tensor.inputs
                )
                found[id(node)] = _behind(cuts.nodes.get(id(node)), max(arriving, default=0), rank, reached)
        if all(rank[cut] >= reached[cut] for cut in rank):
            return found
        rank = reached
    names = [label(node) for node in graph.nodes if id(node) in cuts.nodes]
    names += [tensor.name for node in graph.nodes for tensor in node.outputs if id(tensor) in cuts.tensors]
    listed = ", ".join(f"'{name}'" for name in names)
    raise ModelError(f"the graph can't be cut at {listed}: their outputs meet, and some need what comes after others")


def _behind(cut: int | None, stage: int, rank: Mapping[int, int], reached: dict[int, int]) -> int:
    """Return the stage of what stands behind a cut that was met at `stage`, and note how far on that cut is."""
    if cut is None:
        return stage
    reached[cut] = max(reached[cut], stage + 1)
    return max(rank[cut], stage + 1)


def _matching(graph: gs.Graph, patterns: Sequence[str], live: set[int]) -> set[int]:
    """Return the tensors (as ids) that match: an exact name goes before a pattern."""
    computed = {tensor.name: tensor for node in graph.nodes if id(node) in live for tensor in node.outputs}
    found: set[int] = set()
    for pattern in patterns if computed else ():
        names = [pattern] if pattern in computed else [name for name in computed if matches(name, [pattern])]
        if not names:
            raise InputError(
                f"partition.at: no tensor that the graph computes of its inputs is called '{pattern}' when it is cut."
                f"{did_you_mean(pattern, computed)} `inspect --cuts` shows where it can be"
            )
        found.update(id(computed[name]) for name in names)
    return found


def _pools(graph: gs.Graph, at: Sequence[str], weights: set[int]) -> dict[int, int]:
    """Group the nodes of the operators `at`: two are in one pool when their outputs meet before the next weight.

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
        behind[id(node)] = set().union(*(behind.get(id(n), set()) for n in needed(node)))
        if is_named(node, *at):
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
