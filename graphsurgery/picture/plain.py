"""A graph as a scene: whole, folded where it is large, or the region around a node or a tensor."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import onnx
from onnx import ModelProto

from graphsurgery.errors import InputError, name_nearest
from graphsurgery.graph.model import Model
from graphsurgery.graph.outline import Outline
from graphsurgery.graph.protos import graphs_in, types_by_name
from graphsurgery.picture.boxes import LONGEST, Types, end_box, node_box, shape_of, short
from graphsurgery.picture.folds import Fold, fold, is_constant, predecessors
from graphsurgery.picture.scene import Box, Line, Scene

MOST = 200  # boxes of a picture that a person still reads
_MOST_ENDS = 40  # inputs, and outputs, that have a box each
_MOST_BEYOND = 24  # what lies beyond a region and is named
_MOST_NAMED = 12


class Outcome(NamedTuple):
    """What becomes of a node at a target, why, and which passes help."""

    outcome: str
    why: str = ""
    helps: str = ""


@dataclass(frozen=True)
class Subject:
    """A graph to be drawn: what reads what, the types of its tensors, and what becomes of its nodes at a target.

    `outcomes` has, by the place of a node in the graph, one of scene.OUTCOMES, why, and what helps.
    """

    outline: Outline
    types: Types
    outcomes: Mapping[int, Outcome] = field(default_factory=dict)

    @staticmethod
    def of(model: Model, outcomes: Mapping[int, Outcome] | None = None) -> Subject:
        """Return the main graph of a model, with the types that are written down in it."""
        return Subject(Outline(model), types_by_name(model.proto.graph), outcomes or {})


def whole(subject: Subject, most: int = MOST) -> Scene:
    """Return all of a graph in at most `most` boxes for its nodes: nodes become folds where there are more."""
    return scene_of(subject, fold(subject.outline, most))


def around(subject: Subject, name: str, depth: int, most: int = MOST) -> Scene:
    """Return the nodes up to `depth` steps from a node or a tensor, the nearest `most` of them.

    It may stand in the body of an If, Loop or Scan; then the picture is of that body. Raises InputError, with the
    nearest names, for one that isn't there.
    """
    inner, begin = _located(subject, name)
    near = neighbourhood(inner.outline, begin, depth, most)
    return scene_of(inner, [Fold((index,)) for index in inner.outline.order if index in near])


def neighbourhood(outline: Outline, begin: Sequence[int], depth: int, most: int) -> set[int]:
    """Return the nodes up to `depth` steps from those in `begin`, the nearest `most` of them, Constants left out."""
    before = predecessors(outline)
    behind: list[list[int]] = [[] for _ in before]
    for index, others in enumerate(before):
        for other in others:
            behind[other].append(index)
    found = dict.fromkeys(begin[:most])
    edge = list(found)
    for _ in range(depth):
        edge = sorted({other for index in edge for other in (*before[index], *behind[index])} - set(found))
        edge = [index for index in edge if not is_constant(outline, index)][: most - len(found)]
        found.update(dict.fromkeys(edge))
    return set(found)


def _located(subject: Subject, name: str) -> tuple[Subject, list[int]]:
    """Return the graph that has a node or a tensor of this name, and the nodes to begin at."""
    main = subject.outline.model
    names: set[str] = set()
    for graph in graphs_in(main.proto.graph):
        nodes = {node.name for node in graph.node if node.name}
        tensors = {each for node in graph.node for each in (*node.input, *node.output) if each}
        if name in nodes | tensors:
            inner = subject if graph is main.proto.graph else Subject(Outline(_as_model(main, graph)), subject.types)
            return inner, _begin(inner.outline, name)
        names |= nodes | tensors
    raise InputError(f"--around {name}: no node and no tensor has this name.{name_nearest(name, names)}")


def _begin(outline: Outline, name: str) -> list[int]:
    named = [index for index, node in enumerate(outline.nodes) if node.name == name]
    if named:
        return named
    if name in outline.writer:
        return [outline.writer[name]]
    return [index for index, reads in enumerate(outline.reads) if name in reads]


def _as_model(main: Model, body: onnx.GraphProto) -> Model:
    proto = ModelProto(ir_version=main.proto.ir_version, graph=body)
    proto.opset_import.extend(main.proto.opset_import)
    return Model(proto, main.folder)


def scene_of(
    subject: Subject, folds: Sequence[Fold], changes: Mapping[int, str] | None = None, *, beyond: bool = True
) -> Scene:
    """Return the picture of some nodes: a box for each fold, what flows between them, and where it goes `beyond` them.

    `changes` says what became of a node between two graphs.
    """
    boxes = [_fold_box(subject, each, changes or {}) for each in folds]
    of = {index: box.key for each, box in zip(folds, boxes, strict=True) for index in each.nodes}
    return _Lines(subject, of, beyond).scene(boxes)


def _fold_box(subject: Subject, each: Fold, changes: Mapping[int, str]) -> Box:
    outline, first = subject.outline, each.nodes[0]
    told = [subject.outcomes[index] for index in each.nodes if index in subject.outcomes]
    outcomes = dict(Counter(each.outcome for each in told))
    if len(each.nodes) == 1:
        left = [each for each in told if each.outcome != "taken"]
        why = [line for each in left for line in textwrap.wrap(f"{each.outcome}: {each.why}".rstrip(": "), LONGEST)[:2]]
        helps = [f"what helps: {each.helps}" for each in left if each.helps]
        box = node_box(outline, first, f"n{first}", why, helps)
        return replace(box, outcomes=outcomes, change=changes.get(first, ""))
    became = {changes.get(index, "") for index in each.nodes}
    change = became.pop() if len(became) == 1 else "" if became & {"kept", ""} else "changed"
    ops = Counter(outline.nodes[index].op_type for index in each.nodes).most_common()
    title = each.title or f"{len(each.nodes)} nodes"
    lines = [", ".join(f"{number} {op}" for op, number in ops[at : at + 2]) for at in range(0, min(len(ops), 4), 2)]
    lines += [f"and {len(ops) - 4} more operators"] if len(ops) > 4 else []
    if title != f"{len(each.nodes)} nodes":
        lines.insert(0, f"{len(each.nodes)} nodes")
    names = [outline.label(index) for index in each.nodes[:_MOST_NAMED]]
    more = [f"and {len(each.nodes) - _MOST_NAMED} more"] if len(each.nodes) > _MOST_NAMED else []
    return Box(
        f"n{first}", short(title), "fold", tuple(map(short, lines[:3])), (title, *names, *more), outcomes, change
    )


class _Lines:
    """Collects what flows between boxes: a line for all tensors from one box to another."""

    def __init__(self, subject: Subject, of: Mapping[int, str], beyond: bool) -> None:
        self._subject, self._of = subject, of
        self._most_beyond = _MOST_BEYOND if beyond else 0
        self._flows: dict[tuple[str, str], list[str]] = {}
        self._beyond: dict[str, Box] = {}
        self._read = 0

    def scene(self, boxes: Sequence[Box]) -> Scene:
        """Return the boxes with their lines, with the ends of the graph, and with what lies beyond."""
        outline = self._subject.outline
        ends = dict(self._inputs())
        for index, key in self._of.items():
            for name in outline.reads[index]:
                writer = outline.writer.get(name)
                if writer is None:
                    if name in ends:
                        self._flows.setdefault((_key("in", name), key), []).append(name)
                elif self._of.get(writer) != key:
                    self._flow(writer, name, key)
        beyond_readers = self._read_beyond()
        written = [name for name in dict.fromkeys(outline.outputs) if outline.writer.get(name) in self._of]
        outputs = written[:_MOST_ENDS]
        for name in outputs:
            self._flows.setdefault((self._of[outline.writer[name]], _key("out", name)), []).append(name)
        types = self._subject.types
        return Scene(
            (
                *(end_box(_key("in", name), "input", name, info) for name, info in ends.items()),
                *_left_out(self._read - len(ends), "input"),
                *boxes,
                *self._beyond.values(),
                *beyond_readers,
                *(end_box(_key("out", name), "output", name, types.get(name)) for name in outputs),
                *_left_out(len(written) - len(outputs), "output"),
            ),
            tuple(self._drawn()),
        )

    def _inputs(self) -> Iterator[tuple[str, onnx.ValueInfoProto | None]]:
        outline = self._subject.outline
        read = {name for index in self._of for name in outline.reads[index]}
        inputs = [name for name in outline.inputs if name in read]
        self._read = len(inputs)
        yield from ((name, self._subject.types.get(name)) for name in inputs[:_MOST_ENDS])

    def _flow(self, writer: int, name: str, key: str) -> None:
        """Note that a tensor flows into a box; one from outside gets a box of what writes it, if they are few."""
        if writer not in self._of:
            source = f"b{writer}"
            if source not in self._beyond and len(self._beyond) >= self._most_beyond:
                return
            node = self._subject.outline.nodes[writer]
            about = (self._subject.outline.label(writer), "not in this picture")
            self._beyond.setdefault(source, Box(source, short(node.op_type), "beyond", (), about))
        else:
            source = self._of[writer]
        self._flows.setdefault((source, key), []).append(name)

    def _read_beyond(self) -> list[Box]:
        """Return a box for each tensor that is read outside, which says by what."""
        outline = self._subject.outline
        readers: dict[str, list[int]] = {}
        for index, reads in enumerate(outline.reads):
            for name in reads if index not in self._of else ():
                if outline.writer.get(name) in self._of:
                    readers.setdefault(name, []).append(index)
        found = []
        for name, others in list(readers.items())[: self._most_beyond]:
            key = _key("to", name)
            title = outline.nodes[others[0]].op_type if len(others) == 1 else f"{len(others)} nodes"
            about = [*(outline.label(index) for index in others[:_MOST_NAMED]), "not in this picture"]
            found.append(Box(key, short(title), "beyond", (), tuple(about)))
            self._flows.setdefault((self._of[outline.writer[name]], key), []).append(name)
        return found

    def _drawn(self) -> Iterator[Line]:
        """Yield the lines; the shape of a tensor stands at the first that it is on."""
        told: set[str] = set()
        for (source, target), names in self._flows.items():
            unique = list(dict.fromkeys(names))
            shapes = {name: shape_of(self._subject.types.get(name)) for name in unique}
            is_end = target.startswith("out") or source.startswith("in")  # where the box has it
            first = next((shapes[name] for name in unique if name not in told and not is_end), "")
            told.update(() if is_end else unique)
            more = f" +{len(unique) - 1}" if len(unique) > 1 and first else ""
            about = [f"{name} {shapes[name]}".strip() for name in unique[:_MOST_NAMED]]
            yield Line(source, target, first + more, short_list(about, len(unique)))


def _left_out(number: int, kind: str) -> list[Box]:
    """Return what stands for ends of the graph that have no box of their own."""
    return [Box(f"more {kind}s", f"and {number:,} more {kind}s", "beyond")] if number else []


def short_list(texts: Sequence[str], count: int) -> str:
    """Return texts a line each, and how many of `count` there are more."""
    more = [f"and {count - len(texts)} more"] if count > len(texts) else []
    return "\n".join([*texts, *more])[:2000]


def _key(kind: str, name: str) -> str:
    return f"{kind}:{name}"
