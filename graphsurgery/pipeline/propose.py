"""Finds a recipe for a model and a target: what the target's file says helps is tried, and kept where it does.

1. On the whole graph, in this order: what makes more of it known to the target, what makes it smaller, and what leaves
   the host fewer multiply-adds and the target fewer parts.
2. The graph is cut by the target; parts of less than a hundredth of the multiply-adds are given back to the host.
3. On each part for the accelerator: what leaves fewer multiply-adds and nodes to the host.

What helps and makes the graph no larger is kept at once. What helps at the price of more multiply-adds waits until all
else has been tried; then the one counts that leaves the least to the host, and of several the one that adds least.

Only exact passes are tried, those that the targets' files name. Nothing is compared here: whoever runs the recipe does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphsurgery.devices import session
from graphsurgery.errors import InputError
from graphsurgery.graph.model import Model
from graphsurgery.graph.multiply_adds import multiply_adds
from graphsurgery.partition.boundary_names import expose
from graphsurgery.partition.by_target import ByTarget
from graphsurgery.partition.cut import find_cut
from graphsurgery.partition.named_parts import extract_parts
from graphsurgery.progress import Watcher
from graphsurgery.recipe.target import ChosenTarget
from graphsurgery.rewrite import Editor, Pass, PassContext, apply_pass
from graphsurgery.rewrite.registry import Registry
from graphsurgery.sources import Source
from graphsurgery.targets.load import Named
from graphsurgery.targets.schema import parse_fix
from graphsurgery.targets.support import Support, support, taker

_WORTH = 100  # a part for the target has at least this share of the multiply-adds

Tensors = Mapping[str, np.ndarray[Any, Any]]
# what a graph is measured by; less is better, and the first number counts most
Measure = Callable[[Model, Support], tuple[int, ...]]


@dataclass(frozen=True)
class Growth:
    """Multiply-adds that passes added, and how many there would be without them."""

    before: int
    added: int
    passes: tuple[str, ...]

    @property
    def times(self) -> float:
        """How many times as large the graph is for them."""
        return (self.before + self.added) / self.before if self.before else 1.0


@dataclass
class Proposal:
    """Passes for the whole graph, parts with their devices, passes for each, and what the target leaves of a part.

    `smallest` is the multiply-adds of the smallest part for the target. `approximate` are passes that would help, but
    change numbers, by part. `added` are the multiply-adds that a pass added, by its name.
    """

    passes: list[Pass] = field(default_factory=list)
    smallest: int = 0
    parts: dict[str, str] = field(default_factory=dict)
    part_passes: dict[str, list[Pass]] = field(default_factory=dict)
    support: dict[str, Support] = field(default_factory=dict)
    approximate: dict[str, list[str]] = field(default_factory=dict)
    added: dict[str, int] = field(default_factory=dict)

    @property
    def growth(self) -> Growth:
        """What the passes added to the multiply-adds of all parts."""
        added = sum(self.added.values())
        total = sum(found.to_json()["multiply_adds"] for found in self.support.values())
        return Growth(total - added, added, tuple(self.added))


@dataclass(frozen=True)
class _Tried:
    """A graph as the target sees it, how it is measured, and the pass that made it of the one before."""

    model: Model
    looked: Support
    score: tuple[int, ...]
    pass_: Pass | None = None

    @property
    def total(self) -> int:
        """Its multiply-adds, as far as sizes are known."""
        return sum(node.multiply_adds or 0 for node in self.looked.nodes)

    def larger_than(self, other: _Tried) -> bool:
        """Whether it has more multiply-adds, and not just more that are known."""
        return self.total > other.total and not any(_open(other.looked))


@dataclass(frozen=True)
class _Sample:
    """One image's tensors, in memory."""

    values: Tensors
    id: str = "0"

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def load(self, name: str) -> np.ndarray[Any, Any]:
        return self.values[name]


@dataclass(frozen=True)
class Proposer:
    """Looks for a recipe for a `target`; `usual` is the target whose file says what helps any accelerator.

    `without` are passes by name and part (None: of the whole graph) that were found to be wrong.
    """

    chosen: ChosenTarget
    usual: Named
    registry: Registry
    watcher: Watcher
    without: frozenset[tuple[str | None, str]] = frozenset()

    def propose(self, source: Source, image: Tensors) -> Proposal:
        """Return what was found for a source; `image` is what its inputs are of an image.

        Raises InputError for a model whose weights the target takes none of.
        """
        found = Proposal()
        model = Model(source.export(), source.folder).bound()
        canvas = source.canvas
        context = PassContext(canvas=(canvas.height, canvas.width), batch=source.batch)
        for measure in (self._unknown, self._size, self._parts):
            model = self._improve(model, measure, found.passes, None, context, found.added)
        total = sum(count or 0 for count in multiply_adds(model))
        found.smallest = total // _WORTH
        graph = model.graph()
        Editor(graph, "new-recipe").infer_shapes()
        cut = find_cut(graph, self._by_target(model, found.smallest))
        found.parts = dict(_names(cut.accelerator))
        values = self._values(model, image, [tensor.name for tensor in cut.crossing()])
        for part in extract_parts(cut, found.parts, model.folder):
            if not part.accelerator:
                found.support[part.name] = self._look_at(part.model)
            else:
                kept = found.part_passes.setdefault(part.name, [])
                inner = PassContext(samples=[_Sample(values)])
                rewritten = self._improve(part.model, self._left, kept, part.name, inner, found.added)
                found.support[part.name] = left = self._look_at(rewritten)
                found.approximate[part.name] = [fix for fix in _fixes(left) if self._effect(fix) == "approximate"]
        return found

    def _improve(
        self,
        model: Model,
        measure: Measure,
        kept: list[Pass],
        part: str | None,
        context: PassContext,
        added: dict[str, int],
    ) -> Model:
        """Try what helps until nothing more does; what is kept goes to `kept`, the multiply-adds it adds to `added`."""
        best = self._tried(model, measure)
        pending = self._candidates(model, best.looked)
        larger: list[_Tried] = []
        while pending or larger:
            if pending:
                fix = pending.pop(0)
                self.watcher.begin(f"{part}: {fix}" if part else fix)
                if (part, parse_fix(fix)[0]) in self.without or self._effect(fix) != "exact":
                    continue
                changed = self._changed(fix, best.model, context)
                tried = None if changed is None else self._tried(changed[1], measure, changed[0])
                if tried is None or tried.score >= best.score:
                    continue
                if tried.larger_than(best):
                    larger.append(tried)
                    continue
            else:
                tried = min(larger, key=lambda each: (each.score, each.total))
            assert tried.pass_ is not None
            kept.append(tried.pass_)
            if tried.larger_than(best):
                name = tried.pass_.name
                added[name] = added.get(name, 0) + tried.total - best.total
            best, larger = tried, []
            pending = self._candidates(best.model, best.looked)
        return best.model

    def _tried(self, model: Model, measure: Measure, pass_: Pass | None = None) -> _Tried:
        looked = self._look_at(model)
        return _Tried(model, looked, measure(model, looked), pass_)

    def _changed(self, fix: str, model: Model, context: PassContext) -> tuple[Pass, Model] | None:
        """Return the pass of a fix, in the form that suits a model, and what it makes of it; None for no change."""
        name, options = parse_fix(fix)
        kind = self.registry.get(name)
        try:
            pass_ = kind(**options) if options else kind.suited(model, context)
            after = None if pass_ is None or pass_.needs_samples else apply_pass(pass_, model, context).model
        except InputError:  # it can't be run on this graph
            return None
        if pass_ is None or after is None or after.fingerprint == model.fingerprint:
            return None
        return pass_, after

    def _candidates(self, model: Model, looked: Support) -> list[str]:
        """Return the passes that may help with what is left, those of the target first."""
        usual = support(model, self.usual, folded=False)
        return list(dict.fromkeys([*_fixes(looked), *_fixes(usual)]))

    def _effect(self, fix: str) -> str:
        return self.registry.get(parse_fix(fix)[0]).effect

    def _look_at(self, model: Model) -> Support:
        # as it is written: sizes that the tool would work out must stand in the graph to cut it into static parts
        return support(model, self.chosen.target, self.chosen.precision, folded=False)

    def _by_target(self, model: Model, smallest: int = 0) -> ByTarget:
        return ByTarget(taker(model.opset, self.chosen.target.target, self.chosen.precision), smallest)

    def _values(self, model: Model, image: Tensors, names: Sequence[str]) -> Tensors:
        """Return what tensors hold of an image, the inputs of the graph included."""
        given = {name: image[name] for name in model.inputs}
        return given | session.run(expose(model, names), given, name="the graph before its cut")

    # --- what a graph is measured by ----------------------------------------------------------------------------

    def _unknown(self, model: Model, looked: Support) -> tuple[int, ...]:
        """How much of the graph can't be judged since its shapes are open."""
        return (sum(1 for node in looked.left if node.verdict.limit in ("static", "ranks")), sum(_open(looked)))

    def _size(self, model: Model, looked: Support) -> tuple[int, ...]:
        return (model.nodes,)

    def _parts(self, model: Model, looked: Support) -> tuple[int, ...]:
        """The multiply-adds and nodes with weights that the target doesn't take, and how many parts it gets."""
        graph = model.graph()
        Editor(graph, "new-recipe").infer_shapes()
        try:
            parts = sum(find_cut(graph, self._by_target(model)).accelerator)
        except InputError:
            parts = len(graph.nodes)  # it takes none of the weights
        heavy = sum(bool(node.multiply_adds) for node in looked.left)
        return (_multiply_adds_left(looked), heavy, parts)

    def _left(self, model: Model, looked: Support) -> tuple[int, ...]:
        return (_multiply_adds_left(looked), len(looked.left))


def _open(looked: Support) -> Iterator[bool]:
    return (node.multiply_adds is None for node in looked.nodes)


def _multiply_adds_left(looked: Support) -> int:
    return sum(node.multiply_adds or 0 for node in looked.left)


def _fixes(looked: Support) -> list[str]:
    """Return the passes that may help with the nodes that are left, in the order of the nodes."""
    return list(dict.fromkeys(name for node in looked.left for name in node.verdict.fixes))


def _names(kinds: Sequence[bool]) -> Iterator[tuple[str, str]]:
    """Yield a name and a device for each part: npu_1, cpu_1, npu_2, ..."""
    seen = {"npu": 0, "cpu": 0}
    for kind in kinds:
        device = "npu" if kind else "cpu"
        seen[device] += 1
        yield f"{device}_{seen[device]}", device


def item(pass_: Pass) -> str | dict[str, dict[str, Any]]:
    """Return a pass as a recipe lists it, without the options that have their defaults."""
    options = {}
    for option in dataclasses.fields(pass_):
        value = getattr(pass_, option.name)
        default = option.default
        if option.default_factory is not dataclasses.MISSING:
            default = option.default_factory()
        if value != default:
            options[option.name] = list(value) if isinstance(value, tuple) else value
    return {pass_.name: options} if options else pass_.name
