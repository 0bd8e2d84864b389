"""A small graph as lines of text, for a terminal: chains of operators between tensors.

    x -> Conv -> a -> Relu -> y
    a -> Neg -> z

A tensor is named where a chain begins or ends, or where several nodes read it. Of attributes and constants those are
told that differ between two graphs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from graphsurgery.graph.outline import Outline
from graphsurgery.graph.protos import domain_of
from graphsurgery.picture.boxes import attributes, constants
from graphsurgery.picture.difference import difference
from graphsurgery.picture.folds import is_constant
from graphsurgery.text import shortened

_MOST_LINES, _LONGEST = 8, 96


def before_after(before: Outline, after: Outline) -> tuple[list[str], list[str]]:
    """Return two graphs as lines; what a node has that its twin in the other one hasn't stands behind its operator."""
    found = difference(before, after)
    told: tuple[dict[int, str], dict[int, str]] = ({}, {})
    for index, twin in found.twins.items():
        one = [*constants(before, index), *attributes(before, index)]
        other = [*constants(after, twin), *attributes(after, twin)]
        for place, mine, theirs, into in ((index, one, other, told[0]), (twin, other, one, told[1])):
            own = [each for each in mine if each not in theirs]
            if own:
                into[place] = f" ({', '.join(own)})"
    return _drawn(before, told[0]), _drawn(after, told[1])


def _drawn(outline: Outline, told: dict[int, str]) -> list[str]:
    lines = list(_chains(outline, told))
    more = [f"and {len(lines) - _MOST_LINES + 1} lines more"] if len(lines) > _MOST_LINES else []
    return [shortened(line, _LONGEST) for line in lines[: _MOST_LINES - len(more)]] + more


def _chains(outline: Outline, told: dict[int, str]) -> Iterator[str]:
    nodes = [index for index in outline.order if not is_constant(outline, index)]
    readers = Counter(name for index in nodes for name in _read(outline, index))
    only = {name: index for index in nodes for name in _read(outline, index) if readers[name] == 1}
    begun: set[int] = set()
    for index in nodes:
        if index in begun:
            continue
        line = ", ".join(_read(outline, index))
        while True:
            begun.add(index)
            node = outline.nodes[index]
            op = node.op_type if not domain_of(node.domain) else f"{node.domain}.{node.op_type}"
            line = f"{line} -> {op}{told.get(index, '')}".removeprefix(" -> ")
            outputs = [name for name in node.output if name]
            following = only.get(outputs[0]) if len(outputs) == 1 and outputs[0] not in outline.outputs else None
            if following is None or following in begun or len(_read(outline, following)) > 1:
                yield f"{line} -> {', '.join(outputs)}"
                break
            index = following


def _read(outline: Outline, index: int) -> Sequence[str]:
    """Return the tensors that a node reads, constants aside."""
    return [name for name in outline.reads[index] if name not in outline.constants]
