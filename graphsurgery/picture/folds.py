"""Which nodes become one box where a graph has more than fit: a tree of folds, opened as far as there is room.

    module path     /backbone/layer1/0/conv1/Conv stands in `backbone`, that in turn in ...
    repeated block  between tensors that all of the graph flows through, runs of blocks of the same operators
    order           else a stretch of nodes in the order of the data, halved as often as needed

A fold must not be left and come back to: boxes in a circle would tell nothing of what comes first. Stretches in the
order of the data can't be; module paths are cut where they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from graphsurgery.graph.outline import Outline
from graphsurgery.picture.boxes import is_weight

_NAMED = 0.6  # of the nodes must have a path for it to count
_FEW = 24  # children that a fold shows at once


@dataclass(frozen=True)
class Fold:
    """Nodes that may be one box, as indices in the order of the data; it opens into `parts`, if it does."""

    nodes: tuple[int, ...]
    title: str = ""
    parts: tuple[Fold, ...] = ()


def fold(outline: Outline, most: int, among: Collection[int] | None = None) -> list[Fold]:
    """Return at most `most` folds, in the order of the data, that hold the nodes `among`; None: all but Constants."""
    chosen = outline.order if among is None else [index for index in outline.order if index in among]
    nodes = [index for index in chosen if not is_constant(outline, index)]
    if len(nodes) <= most:
        return [Fold((index,)) for index in nodes]
    before = predecessors(outline)
    paths = _paths(outline, nodes, before)
    if paths is not None:
        opened = _opened(_by_path(nodes, paths, 0, ""), outline, most)
        opened = _without_circles(opened, nodes, before)
        if len(opened) <= most:
            return opened
    return _opened(_by_blocks(nodes, outline, before), outline, most)


def fold_apart(outline: Outline, most: int, among: Collection[int], alone: Collection[int]) -> list[Fold]:
    """Return about `most` folds that hold the nodes `among`, and those of them in `alone` by themselves."""
    folds = fold(outline, most, set(among) - set(alone)) + [Fold((index,)) for index in alone if index in among]
    place = {index: number for number, index in enumerate(outline.order)}
    folds.sort(key=lambda each: place[each.nodes[0]])
    nodes = [index for index in outline.order if index in among]
    return _without_circles(folds, nodes, predecessors(outline))


def is_constant(outline: Outline, index: int) -> bool:
    """Whether a node is a Constant whose value is shown where it is read."""
    node = outline.nodes[index]
    return len(node.output) == 1 and node.output[0] in outline.constants and node.output[0] not in outline.outputs


def predecessors(outline: Outline) -> list[set[int]]:
    """Return for each node those that it reads from."""
    return [{outline.writer[name] for name in reads if name in outline.writer} for reads in outline.reads]


def _opened(root: Fold, outline: Outline, most: int) -> list[Fold]:
    """Open folds, the largest first, as long as there is room; of those that look alike one before the others."""
    shown = [root]
    seen: dict[tuple[str, ...], int] = {}
    kind: dict[int, tuple[str, ...]] = {}

    def alike(each: Fold) -> tuple[str, ...]:
        return kind.setdefault(id(each), tuple(outline.nodes[index].op_type for index in each.nodes))

    while True:
        fitting = [each for each in shown if each.parts and len(shown) - 1 + len(each.parts) <= most]
        if not fitting:
            return shown
        chosen = max(fitting, key=lambda each: (-seen.get(alike(each), 0), len(each.nodes)))
        seen[alike(chosen)] = seen.get(alike(chosen), 0) + 1
        place = next(number for number, each in enumerate(shown) if each is chosen)
        shown[place : place + 1] = chosen.parts


# --- by module path ------------------------------------------------------------------------------------------------


def _paths(outline: Outline, nodes: Sequence[int], before: Sequence[set[int]]) -> dict[int, tuple[str, ...]] | None:
    """Return the module of each node, taken from what it reads where its name has none; None where few names have."""
    found: dict[int, tuple[str, ...]] = {}
    named = 0
    for index in nodes:
        name = outline.nodes[index].name
        named += "/" in name
        near = [found[other] for other in sorted(before[index]) if other in found]
        found[index] = tuple(filter(None, name.split("/")[:-1])) if "/" in name else near[-1] if near else ()
    return found if named >= _NAMED * len(nodes) else None


def _by_path(nodes: Sequence[int], paths: Mapping[int, tuple[str, ...]], depth: int, title: str) -> Fold:
    if len(nodes) == 1:
        return Fold(tuple(nodes))
    inside: dict[str, list[int]] = {}
    parts: list[Fold] = []
    for index in nodes:
        if len(paths[index]) > depth:
            inside.setdefault(paths[index][depth], []).append(index)
        else:
            parts.append(Fold((index,)))
    if len(inside) == 1 and not parts:  # one module that holds all is no step
        only = next(iter(inside))
        return _by_path(nodes, paths, depth + 1, f"{title}/{only}".lstrip("/"))
    if len(parts) > _FEW:  # one step at a time: a module of hundreds of nodes of its own
        parts = list(_halves(sorted(each.nodes[0] for each in parts), {index: n for n, index in enumerate(nodes)}))
    parts += [_by_path(each, paths, depth + 1, f"{title}/{name}".lstrip("/")) for name, each in inside.items()]
    order = {index: number for number, index in enumerate(nodes)}
    parts.sort(key=lambda each: order[each.nodes[0]])
    return Fold(tuple(nodes), title, tuple(parts))


def _halves(nodes: Sequence[int], order: Mapping[int, int]) -> Iterator[Fold]:
    stretch = sorted(nodes, key=order.__getitem__)
    size = -(-len(stretch) // (_FEW // 2))
    for begin in range(0, len(stretch), size):
        yield _stretch(stretch[begin : begin + size])


def _without_circles(shown: Sequence[Fold], nodes: Sequence[int], before: Sequence[set[int]]) -> list[Fold]:
    """Return the folds, those cut into pieces that stand in a circle of what reads from what.

    A piece is what lies equally many steps from one fold to another behind the inputs: no line leads back to it then.
    """
    of = {index: number for number, each in enumerate(shown) for index in each.nodes}
    circular = _in_circles(len(shown), {(of[b], of[i]) for i in nodes for b in before[i] if b in of and of[b] != of[i]})
    if not circular:
        return list(shown)
    steps: dict[int, int] = {}
    for index in nodes:
        steps[index] = max((steps[b] + (of[b] != of[index]) for b in before[index] if b in of), default=0)
    found: list[Fold] = []
    for number, each in enumerate(shown):
        if number not in circular or len(each.nodes) == 1:
            found.append(each)
            continue
        pieces: dict[int, list[int]] = {}
        for index in each.nodes:
            pieces.setdefault(steps[index], []).append(index)
        found += [Fold(tuple(piece), each.title) for piece in pieces.values()]
    return found


def _in_circles(count: int, lines: set[tuple[int, int]]) -> set[int]:
    """Return which of `count` things can reach themselves over `lines`: what is left when ends are taken away.

    What lies between two circles is left too, which does no harm here.
    """
    left = set(range(count))
    for forward in (True, False):
        ahead: dict[int, list[int]] = {}
        reading = Counter[int]()
        for source, target in lines:
            a, b = (source, target) if forward else (target, source)
            if a in left and b in left:
                ahead.setdefault(a, []).append(b)
                reading[b] += 1
        ready = [each for each in left if not reading[each]]
        while ready:
            each = ready.pop()
            left.discard(each)
            for other in ahead.get(each, ()):
                reading[other] -= 1
                if not reading[other]:
                    ready.append(other)
    return left


# --- by repeated block, and by order -------------------------------------------------------------------------------


def _by_blocks(nodes: Sequence[int], outline: Outline, before: Sequence[set[int]]) -> Fold:
    """Return the graph as the runs of like blocks between tensors that all of it flows through."""
    blocks = [_stretch(each) for each in _with_what_follows(_between_narrows(nodes, before), outline)]
    if len(blocks) < 2:
        return _stretch(nodes)

    def operators(each: Fold) -> tuple[str, ...]:
        return tuple(outline.nodes[index].op_type for index in each.nodes)

    runs = []
    for kind, run in ((kind, list(group)) for kind, group in groupby(blocks, operators)):
        several = tuple(index for each in run for index in each.nodes)
        title = f"{len(run)} blocks of {len(kind)} nodes"
        runs.append(run[0] if len(run) == 1 else Fold(several, title, _gathered(run)))
    return Fold(tuple(nodes), "", _gathered(runs))


def _gathered(folds: Sequence[Fold]) -> tuple[Fold, ...]:
    """Return the folds, neighbours gathered into one until they are few."""
    found = list(folds)
    while len(found) > 4 * _FEW:
        size = -(-len(found) // _FEW)
        chunks = [found[begin : begin + size] for begin in range(0, len(found), size)]
        found = [
            each[0] if len(each) == 1 else Fold(tuple(n for f in each for n in f.nodes), "", tuple(each))
            for each in chunks
        ]
    return tuple(found)


def _between_narrows(nodes: Sequence[int], before: Sequence[set[int]]) -> Iterator[list[int]]:
    """Yield the nodes cut where one of them alone is read by all that comes behind."""
    place = {index: number for number, index in enumerate(nodes)}
    last = {index: number for number, index in enumerate(nodes)}  # where each is read for the last time
    for number, index in enumerate(nodes):
        for other in before[index]:
            if other in last:
                last[other] = number
    begin, reach = 0, 0
    for one, _ in pairwise(nodes):
        number = place[one]
        # nothing before this node is read behind it, so that only what it writes goes on
        if reach <= number and number + 1 > begin:
            yield list(nodes[begin : number + 1])
            begin = number + 1
        reach = max(reach, last[one])
    yield list(nodes[begin:])


def _with_what_follows(blocks: Iterator[list[int]], outline: Outline) -> list[list[int]]:
    """Return the blocks, a single node without weights, an activation say, with the block before it."""
    found: list[list[int]] = []
    for block in blocks:
        node = outline.nodes[block[0]]
        if found and len(block) == 1 and not any(is_weight(outline, name) for name in node.input):
            found[-1] += block
        else:
            found.append(block)
    return found


def _stretch(nodes: Sequence[int]) -> Fold:
    """Return nodes that follow each other as a fold that opens into halves, or into the nodes where they are few."""
    if len(nodes) == 1:
        return Fold(tuple(nodes))
    if len(nodes) <= _FEW:
        return Fold(tuple(nodes), "", tuple(Fold((index,)) for index in nodes))
    middle = len(nodes) // 2
    return Fold(tuple(nodes), "", (_stretch(nodes[:middle]), _stretch(nodes[middle:])))
