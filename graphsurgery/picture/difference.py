"""Which nodes of two graphs are the same, and which differ.

Nodes are paired first by what they write, then by their name, both with the operator the same, as a pass keeps what it
doesn't replace; then in the order of the data, by the operator, its attributes and constants, and what they read.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field

from onnx import AttributeProto, NodeProto

from graphsurgery.graph.outline import Outline
from graphsurgery.graph.protos import domain_of
from graphsurgery.picture.folds import is_constant


@dataclass
class Difference:
    """Two graphs side by side: `twins` pairs nodes of `a` with those of `b`.

    What became of the nodes by their places: of `a` gone, changed or kept, of `b` new, changed or kept. `tensors` has
    for tensors of `a` that paired nodes write their names in `b`.
    """

    a: Outline
    b: Outline
    twins: dict[int, int] = field(default_factory=dict)
    of_a: dict[int, str] = field(default_factory=dict)
    of_b: dict[int, str] = field(default_factory=dict)
    tensors: dict[str, str] = field(default_factory=dict)

    @property
    def differing(self) -> tuple[list[int], list[int]]:
        """The nodes of a and of b that are not as they were."""
        return [i for i, told in self.of_a.items() if told != "kept"], [i for i, t in self.of_b.items() if t != "kept"]


def difference(a: Outline, b: Outline) -> Difference:
    """Return what differs between two graphs; Constants count as part of what reads them."""
    found = Difference(a, b)
    left_a = [index for index in a.order if not is_constant(a, index)]
    left_b = [index for index in b.order if not is_constant(b, index)]
    for key in (_written, _named):
        _pair(found, left_a, left_b, key)
        left_a = [index for index in left_a if index not in found.twins]
        paired = set(found.twins.values())
        left_b = [index for index in left_b if index not in paired]
    _pair_by_structure(found, left_a, left_b)
    back = {twin: index for index, twin in found.twins.items()}
    paired = set(back)
    for index in a.order:
        if not is_constant(a, index):
            found.of_a[index] = _became(found, index, found.twins[index], paired) if index in found.twins else "gone"
    for index in b.order:
        if not is_constant(b, index):
            found.of_b[index] = found.of_a[back[index]] if index in back else "new"
    return found


def _written(node: NodeProto) -> Hashable:
    return (node.op_type, domain_of(node.domain), tuple(node.output))


def _named(node: NodeProto) -> Hashable:
    return (node.op_type, domain_of(node.domain), node.name) if node.name else None


def _pair(found: Difference, left_a: list[int], left_b: list[int], key: Callable[[NodeProto], Hashable]) -> None:
    there: dict[Hashable, int | None] = {}
    for index in left_b:
        each = key(found.b.nodes[index])
        there[each] = None if each in there else index  # what two nodes have tells nothing
    seen: set[Hashable] = set()
    for index in left_a:
        each = key(found.a.nodes[index])
        twin = there.get(each)
        if each is not None and each not in seen and twin is not None:
            _twins(found, index, twin)
        seen.add(each)


def _twins(found: Difference, index: int, twin: int) -> None:
    found.twins[index] = twin
    outputs = zip(found.a.nodes[index].output, found.b.nodes[twin].output, strict=False)
    found.tensors.update((one, other) for one, other in outputs if one and other)


def _pair_by_structure(found: Difference, left_a: list[int], left_b: list[int]) -> None:
    """Pair nodes that are equal and read what is paired, in the order of the data: names alone were changed there."""
    a, b = found.a, found.b
    candidates: dict[Hashable, list[int]] = {}
    for index in left_b:
        candidates.setdefault(_kind(b.nodes[index], b), []).append(index)
    for index in left_a:
        same = candidates.get(_kind(a.nodes[index], a), [])
        twin = next((each for each in same if _reads_twins(found, index, each)), None)
        if twin is not None:
            same.remove(twin)
            _twins(found, index, twin)


def _kind(node: NodeProto, outline: Outline) -> Hashable:
    """Return what two nodes must have in common to be the same one under other names."""
    constants = tuple(name in outline.constants for name in node.input)
    return (node.op_type, domain_of(node.domain), constants, len(node.output), tuple(_attributes(node)))


def _attributes(node: NodeProto) -> Iterator[bytes]:
    for attribute in sorted(node.attribute, key=lambda each: each.name):
        bare = AttributeProto()
        bare.CopyFrom(attribute)
        bare.doc_string = ""
        yield bare.SerializeToString(deterministic=True)


def _reads_twins(found: Difference, index: int, twin: int) -> bool:
    """Whether two nodes read paired tensors, inputs of one name, and equal constants."""
    return all(
        _same_constant(found, one, other) if one in found.a.constants else found.tensors.get(one, one) == other
        for one, other in zip(found.a.nodes[index].input, found.b.nodes[twin].input, strict=True)
    )


def _same_constant(found: Difference, one: str, other: str) -> bool:
    """Whether two constants are equal, whatever they are called."""
    if one == other:
        return found.a.same_constant(one, found.b)
    mine, theirs = found.a.constants.get(one), found.b.constants.get(other)
    if mine is None or theirs is None or (mine.data_type, list(mine.dims)) != (theirs.data_type, list(theirs.dims)):
        return False
    return found.a.same_values(mine, theirs, found.b)


def _became(found: Difference, index: int, twin: int, paired: set[int]) -> str:
    """Return whether a node and its twin compute the same of what they read: kept or changed.

    Where what a kept node reads has come or gone, the lines tell that.
    """
    a, b = found.a, found.b
    one, other = a.nodes[index], b.nodes[twin]
    if list(_attributes(one)) != list(_attributes(other)) or len(one.input) != len(other.input):
        return "changed"
    for mine, theirs in zip(one.input, other.input, strict=True):
        if (mine in a.constants) != (theirs in b.constants) or bool(mine) != bool(theirs):
            return "changed"
        if mine in a.constants:
            if not _same_constant(found, mine, theirs):
                return "changed"
        elif found.tensors.get(mine, mine) != theirs:
            writers = a.writer.get(mine), b.writer.get(theirs)
            if (writers[0] is None or writers[0] in found.twins) and (writers[1] is None or writers[1] in paired):
                return "changed"
    return "kept"
