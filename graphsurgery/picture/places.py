"""Where two graphs differ, as scenes before and after; places that look alike are drawn once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphsurgery.picture.difference import Difference, difference
from graphsurgery.picture.folds import fold_apart
from graphsurgery.picture.plain import MOST, Subject, neighbourhood, scene_of
from graphsurgery.picture.scene import Scene

_CONTEXT = 16  # kept nodes around a place
_MOST_TITLE = 4  # operators that a title names

_Node = tuple[str, int]  # of graph a or b


@dataclass(frozen=True)
class Place:
    """Nodes that differ and hang together, with the kept ones around them; `count` such places look alike.

    `title` says which operators became which, `nodes` how many there are before and after.
    """

    title: str
    count: int
    nodes: tuple[int, int]
    before: Scene
    after: Scene

    def to_json(self) -> dict[str, Any]:
        """Return it as run.json has it."""
        return {
            "title": self.title,
            "count": self.count,
            "nodes": list(self.nodes),
            "before": self.before.to_json(),
            "after": self.after.to_json(),
        }

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Place:
        """Return what `to_json` was made of."""
        before, after = (Scene.from_json(content[side]) for side in ("before", "after"))
        return Place(content["title"], content["count"], tuple(content["nodes"]), before, after)


def places(before: Subject, after: Subject, kinds: int, most: int = MOST, depth: int = 1) -> tuple[list[Place], int]:
    """Return the places where two graphs differ, one of each kind, `kinds` at most, and how many kinds there are.

    Each scene has about `most` nodes at most, and kept ones up to `depth` steps around those that differ.
    """
    found = difference(before.outline, after.outline)
    alike: dict[str, list[list[_Node]]] = {}
    for nodes in _together(found):
        alike.setdefault(_title(found, nodes), []).append(nodes)
    shown = sorted(alike.items(), key=lambda item: -sum(map(len, item[1])))[:kinds]
    return [_place(before, after, found, title, several, most, depth) for title, several in shown], len(alike)


def around_place(before: Subject, after: Subject, tensor: str, most: int, depth: int = 2) -> Place | None:
    """Return the region around a tensor in two graphs, whose writer differs; None where neither graph writes it."""
    found = difference(before.outline, after.outline)
    writers = before.outline.writer.get(tensor), after.outline.writer.get(tensor)
    nodes = [(side, index) for side, index in zip("ab", writers, strict=True) if index is not None]
    if not nodes:
        return None
    for side, index in nodes:
        (found.of_a if side == "a" else found.of_b)[index] = "differs"
    return _place(before, after, found, tensor, [nodes], most, depth)


def _place(
    before: Subject,
    after: Subject,
    found: Difference,
    title: str,
    alike: Sequence[Sequence[_Node]],
    most: int,
    depth: int,
) -> Place:
    """Return the first of places that look alike, with what is around it in either graph."""
    own = [[index for side, index in alike[0] if side == which] for which in "ab"]
    near = [
        neighbourhood(subject.outline, nodes, depth, len(nodes) + _CONTEXT)
        for subject, nodes in zip((before, after), own, strict=True)
    ]
    back = {twin: index for index, twin in found.twins.items()}
    in_a = near[0] | {back[index] for index in near[1] if index in back}
    in_b = near[1] | {found.twins[index] for index in near[0] if index in found.twins}
    scenes = [
        scene_of(subject, fold_apart(subject.outline, most, among, _kept(among, changes)), changes, beyond=False)
        for subject, among, changes in ((before, in_a, found.of_a), (after, in_b, found.of_b))
    ]
    return Place(title, len(alike), (len(own[0]), len(own[1])), *scenes)


def _kept(among: Collection[int], changes: Mapping[int, str]) -> list[int]:
    return [index for index in among if changes.get(index) == "kept"]


def _together(found: Difference) -> list[list[_Node]]:
    """Return the nodes that differ, those that hang together in either graph or stand in each other's place as one.

    Those of the first graph come first, and those of each stand in the order of the data.
    """
    of_a, of_b = (
        sorted(nodes, key={index: place for place, index in enumerate(outline.order)}.__getitem__)
        for outline, nodes in zip((found.a, found.b), found.differing, strict=True)
    )
    nodes: list[_Node] = [*(("a", index) for index in of_a), *(("b", index) for index in of_b)]
    root = {node: node for node in nodes}

    def find(node: _Node) -> _Node:
        while root[node] != node:
            root[node] = root[root[node]]
            node = root[node]
        return node

    for one, other in _links(found):
        if one in root and other in root:
            root[find(other)] = find(one)
    sides = Counter((find(node), node[0]) for node in nodes)
    for one, other in _of_same_inputs(found, of_a, of_b):
        ends = find(one), find(other)
        if not sides[ends[0], "b"] and not sides[ends[1], "a"]:  # something went, something came, of one tensor
            root[ends[1]] = ends[0]
            sides[ends[0], "b"] += sides[ends[1], "b"]
    gathered: dict[_Node, list[_Node]] = {}
    for node in nodes:
        gathered.setdefault(find(node), []).append(node)
    return list(gathered.values())


def _links(found: Difference) -> Iterator[tuple[_Node, _Node]]:
    for side, outline in (("a", found.a), ("b", found.b)):
        for index, reads in enumerate(outline.reads):
            yield from (((side, outline.writer[name]), (side, index)) for name in reads if name in outline.writer)
    for index, twin in found.twins.items():
        yield ("a", index), ("b", twin)
        pairs = zip(found.a.nodes[index].input, found.b.nodes[twin].input, strict=False)
        yield from _writers(found, pairs)
    yield from _writers(found, ((name, name) for name in found.a.outputs))


def _writers(
    found: Difference, pairs: Iterator[tuple[str, str]] | zip[tuple[str, str]]
) -> Iterator[tuple[_Node, _Node]]:
    for mine, theirs in pairs:
        if mine in found.a.writer and theirs in found.b.writer:
            yield ("a", found.a.writer[mine]), ("b", found.b.writer[theirs])


def _of_same_inputs(found: Difference, of_a: Sequence[int], of_b: Sequence[int]) -> Iterator[tuple[_Node, _Node]]:
    reading: dict[str, list[int]] = {}
    for index in of_b:
        for name in found.b.reads[index]:
            reading.setdefault(name, []).append(index)
    for index in of_a:
        for name in found.a.reads[index]:
            yield from ((("a", index), ("b", other)) for other in reading.get(found.tensors.get(name, name), ()))


def _title(found: Difference, nodes: Sequence[_Node]) -> str:
    """Say which operators became which: `Conv, BatchNormalization -> Conv`, in the order of `nodes`."""
    sides = [
        _listed([outline.nodes[index].op_type for each, index in nodes if each == side])
        for side, outline in (("a", found.a), ("b", found.b))
    ]
    return f"{sides[0] or 'nothing'} -> {sides[1] or 'nothing'}"


def _listed(ops: Sequence[str]) -> str:
    if len(ops) <= _MOST_TITLE:
        return ", ".join(ops)
    counts = Counter(ops).most_common()
    more = f" and {sum(n for _, n in counts[_MOST_TITLE:])} more" if len(counts) > _MOST_TITLE else ""
    return ", ".join(f"{number} {op}" for op, number in counts[:_MOST_TITLE]) + more
