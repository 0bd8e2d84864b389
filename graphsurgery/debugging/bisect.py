"""Finds where two versions of a model begin to compute something else: the first tensor, in data-flow order.

    x ─ Conv ─ a ─ Relu ─ b ─ MaxPool ─ c          a equal, b differs, c differs because b does:  b is where to look
    x ─ Conv ─ a ─ Clip ─ b ─ MaxPool ─ c

Tensors are matched by name: a pass keeps the names of what it does not replace. A name that a fold has moved is passed
over (`levels`). Both models run side by side, node by
node (`stepping`), each on its own values; a tensor is compared as soon as both have it and let go. A tensor is where
they diverge when it differs and nothing that it depends on does, in either model. Such a tensor is then computed once
more from the other model's values: is the difference made there, or was a tiny one before it only amplified?

Where an If, Loop or Scan writes the tensor, the search goes on in its body: in the branch that is taken, in the first
iteration that differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from graphsurgery.capture.samples import Capture, Sample
from graphsurgery.capture.samples import exists as is_capture
from graphsurgery.debugging.divergence import Bisection, Divergence, difference, gap
from graphsurgery.debugging.levels import Level, enter
from graphsurgery.debugging.stepping import Failure, Steps
from graphsurgery.errors import InputError
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.gate.verdicts import TensorReport
from graphsurgery.graph.model import Model
from graphsurgery.graph.outline import Array, Outline, Value, Values, changes
from graphsurgery.graph.protos import bodies
from graphsurgery.parts.describe import describe_part
from graphsurgery.parts.part import Part
from graphsurgery.runtime.random_inputs import random_inputs

if TYPE_CHECKING:
    from graphsurgery.progress import Watcher

RANDOM_SAMPLES = 3
MAX_SHOWN = 8  # divergences that are looked at closely; each may take a run of a whole loop

Load = Callable[[str], Array]


def bisect_files(
    a: Path, b: Path, inputs: Path | None, tolerances: Tolerances, watcher: Watcher, *, outputs: bool = False
) -> Bisection:
    """Search two ONNX files; `inputs` is a model_io folder, one sample of it, or None for random inputs.

    Samples are tried until one shows a difference. Raises InputError where there is nothing to feed the models with, or
    where A is no valid model or does not run.
    """
    one, other = Model.load(a), Model.load(b)
    one.check(str(a))
    samples = list(read_samples(one, inputs))
    found = Bisection("", 0)
    notes: list[str] = []
    for number, (name, load) in enumerate(samples, start=1):
        watcher.begin(f"sample {name} ({number} of {len(samples)})" if len(samples) > 1 else "bisect")
        found = bisect(one, other, load, tolerances, watcher.advance, name, outputs=outputs)
        notes += [note for note in found.notes if note not in notes]
        if found.divergences:
            break
    return replace(found, notes=tuple(notes))


def read_samples(model: Model, inputs: Path | None) -> Iterator[tuple[str, Load]]:
    """Yield each sample's name and how to load its tensors: from a model_io folder, one sample of it, or at random.

    Raises InputError for another folder, and where random values can't be made up.
    """
    if inputs is None:
        declared = describe_part(Part("model", "cpu", False, model)).inputs
        for name, tensor in declared.items():
            known = [size for size in tensor.shape or () if isinstance(size, int) and size >= 0]
            if tensor.shape is None or len(known) != len(tensor.shape) or np.dtype(tensor.dtype).kind not in "fiub":
                shape = "unknown rank" if tensor.shape is None else f"shape {tensor.shape}"
                raise InputError(
                    f"input '{name}' is {tensor.dtype} of {shape}, for which no values can be made up; "
                    f"give --inputs with a model_io folder"
                )
        for seed in range(RANDOM_SAMPLES):
            yield f"random {seed}", from_mapping(random_inputs(model.proto, seed))
        return
    if is_capture(inputs):
        samples: Sequence[Sample] = Capture.open(inputs).samples
    elif any(inputs.glob("*.npy")):
        samples = [Sample(inputs.name, inputs, None, 0, 0)]
    else:
        raise InputError(
            f"{inputs}: holds neither capture.json nor .npy files; give a model_io folder or a sample in it"
        )
    for sample in samples:
        yield sample.id, sample.load


def from_mapping(values: Mapping[str, Array]) -> Load:
    """Return what loads tensors out of `values`, and raises InputError for one that is not there."""

    def load(name: str) -> Array:
        if name not in values:
            raise InputError(f"there is no value for input '{name}'; there are some for {', '.join(values) or 'none'}")
        return values[name]

    return load


def bisect(
    a: Model,
    b: Model,
    load: Load,
    tolerances: Tolerances,
    progress: Callable[[int, int], None] = lambda done, total: None,
    sample: str = "",
    *,
    outputs: bool = False,
) -> Bisection:
    """Search two models on one sample; `load` returns its tensors by name.

    What depends on a difference is not computed, unless all `outputs` are to be compared. An input that only B has is a
    tensor of A by that name, else one of the sample. Raises InputError where there is none, and where A does not run.
    """
    one, other = Outline(a), Outline(b)
    given_a = {name: load(name) for name in one.inputs}
    inner = [name for name in other.inputs if name in one.writer]
    given_b: dict[str, Value] = {}
    steps = Steps(one, given_a, inner)
    for name in other.inputs:
        value = given_a[name] if name in given_a else steps.get(name) if name in inner else load(name)
        if isinstance(value, Failure):
            raise InputError(f"A can't be run: {value}")
        given_b[name] = value
    level = Level(one, other, given_a, given_b)
    search = Search(level, tolerances, outputs=outputs)
    search.run(progress)
    if search.broken and not search.found:
        raise InputError(f"A can't be run: {search.broken}")
    if search.more:
        more = f"{search.more} more tensors differ where nothing before them does"
        search.note(f"{more}; only the first {MAX_SHOWN} are shown")
    for side, outline, twin in (("A", one, other), ("B", other, one)):
        alone = [name for name in outline.outputs if name not in twin.writer and name not in twin.constants]
        if alone:
            search.note(f"only {side} has {', '.join(alone)} among its outputs, compared with nothing")
    return Bisection(sample, search.compared, tuple(search.found), tuple(search.outputs), tuple(search.notes))


class Search:
    """One walk over a level, both graphs in step; `found` is what differs though nothing before it does."""

    def __init__(self, level: Level, tolerances: Tolerances, *, outputs: bool = False) -> None:
        self.level = level
        self._all_outputs = outputs
        self.tolerances = tolerances
        self.found: list[Divergence] = []
        self.more = 0  # as many again, which were not looked at closely
        self.outputs: list[TensorReport] = []
        self.notes: list[str] = []
        self.broken: Failure | None = None
        self.compared = 0
        self._called = {**level.starts, **level.twins}
        self._random = level.random
        loose = level.random_alone
        self._before_a, self._before_b = level.fronts(level.a, loose), level.fronts(level.b, loose)
        self._unsure = set(loose)  # differs, can't be computed, or is behind such a tensor
        if loose:
            listed = ", ".join(f"'{name}'" for name in sorted(loose))
            self.note(f"random and only on one side: {listed}; nothing that depends on it was compared")
        if level.moved:
            listed = ", ".join(f"'{name}'" for name in level.moved[:3])
            more = f" and {len(level.moved) - 3} more" if len(level.moved) > 3 else ""
            self.note(f"not compared, since what writes and what reads them has changed, as in a fold: {listed}{more}")
        # what a closer look takes stays until the tensor has been compared: mostly what the nodes need anyway
        self._held_a = {name: self._holds(level.a, name, name) for name in level.twins}
        self._held_b = {name: self._holds(level.b, name, twin) for name, twin in level.twins.items()}
        self._one = Steps(level.a, level.given_a, [n for names in self._held_a.values() for n in names])
        self._other = Steps(level.b, level.given_b, [n for names in self._held_b.values() for n in names], self._one)

    def note(self, text: str) -> None:
        """Add a note, once."""
        if text not in self.notes:
            self.notes.append(text)

    def run(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Walk both graphs to their ends."""
        a, twins = self.level.a, self.level.twins
        for done, index in enumerate(a.order):
            progress(done, len(a.order))
            for name in a.nodes[index].output:
                if name in twins and name in a.writer:
                    self._visit(name)
        for name in twins:
            if name not in a.writer:
                self._visit(name)

    def before(self, name: str) -> list[str]:
        """Return the nearest matched tensors and inputs that a tensor depends on, in either model, by A's names."""
        nearest = self._before_a.get(name, frozenset()) | self._before_b.get(name, frozenset())
        return sorted(nearest - {name})

    def _holds(self, outline: Outline, name: str, own: str) -> list[str]:
        called = self._called if outline is self.level.b else {}
        held = [own, *(called.get(each, each) for each in self.before(name))]
        node = outline.writer.get(own)
        if node is not None and bodies(outline.nodes[node]):
            held += outline.reads[node]
        return held

    def _visit(self, name: str) -> None:
        """Compute a tensor in both models, compare it unless something before it differs, and let go of it."""
        behind = not self._unsure.isdisjoint(self.before(name))
        if behind and not self._all_outputs:
            self._unsure.add(name)
            self._one.abandon(name)
            self._other.abandon(self.level.twins[name])
        elif self._unlike(name, behind):
            self._unsure.add(name)
        self._one.release(self._held_a[name])
        self._other.release(self._held_b[name])

    def _unlike(self, name: str, behind: bool) -> bool:
        """Whether a tensor differs, can't be computed, or stands `behind` such a one."""
        value = self._one.get(name)
        if name in self._random and not isinstance(value, Failure):
            self._other.put(self.level.twins[name], value)
            self.note(f"random: '{name}'; B was given A's values of it")
        got = self._other.get(self.level.twins[name])
        if isinstance(value, Failure):
            self.broken = self.broken or value
            self.note(f"A can't compute '{name}': {value}; nothing that depends on it was compared")
            return True
        output = self._all_outputs and name in self.level.a.outputs
        if behind and not output:
            return True
        self.compared += 1
        report = self._compare(name, value, got, output)
        if output and report is not None:
            self.outputs.append(report)
        differs = report is not None and report.verdict == "failed"
        if report is not None and differs and not behind:
            if len(self.found) < MAX_SHOWN:
                self.found += _look_closely(self, name, value, got, report)
            else:
                self.more += 1
        return behind or differs

    def _compare(self, name: str, value: Value, got: Value | Failure, figures: bool) -> TensorReport | None:
        if isinstance(got, Failure):
            return TensorReport(name, "failed", f"B can't compute it: {got}")
        if not figures and self._other.is_shared(self.level.twins[name], name):
            return None
        return difference(name, value, got, self.tolerances, figures=figures)

    def values(self, name: str) -> tuple[Value | Failure, Value | Failure]:
        """Return what both models have for a tensor that is held."""
        return self._one.get(name), self._other.get(self._called.get(name, name))

    def reads(self, name: str) -> tuple[Values, Values]:
        """Return what the writers of a tensor read in both models, as far as it is held and no constant."""
        found = []
        pairs = ((self._one, self.level.a, name), (self._other, self.level.b, self.level.twins[name]))
        for steps, outline, own in pairs:
            node = outline.writer.get(own)
            names = [] if node is None else [n for n in outline.reads[node] if n not in outline.constants]
            held = {each: steps.get(each) for each in names}
            found.append({each: value for each, value in held.items() if not isinstance(value, Failure)})
        return found[0], found[1]

    def alone(self, name: str) -> Value | Failure | None:
        """Compute a tensor with B's nodes from A's values of what is before it; None where those are not there."""
        level, nearest = self.level, self._before_b.get(name, frozenset()) - {name}
        given = {self._called.get(each, each): self._one.get(each) for each in nearest}
        values = {each: value for each, value in given.items() if not isinstance(value, Failure)}
        if len(values) < len(given):
            return None
        twin = level.twins[name]
        return Steps(level.b, {**level.given_b, **values}, [twin]).get(twin)

    def between(self, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the nodes that stand between a tensor and what is before it, in both models."""
        found = []
        for outline, own in ((self.level.a, name), (self.level.b, self.level.twins[name])):
            stops = self.before(name)
            if outline is self.level.b:
                stops = [self._called.get(each, each) for each in stops]
            nodes = outline.ancestors([own], stops)
            found.append(tuple(outline.label(index) for index in outline.order if index in nodes))
        return found[0], found[1]


def _look_closely(
    search: Search, name: str, value: Value, got: Value | Failure, report: TensorReport
) -> list[Divergence]:
    """Say what there is to say about a tensor that differs; where bodies write it, about those inside."""
    level = search.level
    a, b = level.a, level.b
    node_a, node_b = a.writer.get(name), b.writer.get(level.twins[name])
    if node_a is not None and node_b is not None:
        deeper = _look_inside(search, name, node_a, node_b)
        if deeper:
            return deeper
    alone = None if isinstance(got, Failure) else search.alone(name)
    isolated = None
    if alone is not None and not isinstance(alone, Failure):
        isolated = difference(name, value, alone, search.tolerances, figures=True)
    between_a, between_b = search.between(name)
    gaps = [gap(*search.values(each)) for each in search.before(name)]
    found = Divergence(
        name,
        level.path,
        report,
        failure=str(got) if isinstance(got, Failure) else "",
        after=tuple(search.before(name)),
        between_a=between_a,
        between_b=between_b,
        isolated=isolated,
        drift=max((gap for gap in gaps if gap is not None), default=None),
        changes=() if node_a is None or node_b is None else tuple(changes(a, node_a, b, node_b)),
        level=level,
    )
    return [found]


def _look_inside(search: Search, name: str, node_a: int, node_b: int) -> list[Divergence]:
    """Return the divergences in the bodies of the nodes that write a tensor; none where they have none to enter."""
    if not bodies(search.level.a.nodes[node_a]) or not bodies(search.level.b.nodes[node_b]):
        return []
    inner = enter(search.level, node_a, node_b, *search.reads(name), _unlike(search.tolerances))
    if isinstance(inner, Level):
        deeper = Search(inner, search.tolerances)
        deeper.run()
        for note in deeper.notes:
            search.note(f"{' > '.join(inner.path)}: {note}")
        if deeper.found:
            return deeper.found
        inner = "nothing in its body differs by itself"
    if inner:
        search.note(f"{search.level.a.label(node_a)}: {inner}")
    return []


def _unlike(tolerances: Tolerances) -> Callable[[str, Value, Value], bool]:
    def unlike(name: str, one: Value, other: Value) -> bool:
        report = difference(name, one, other, tolerances)
        return report is not None and report.verdict == "failed"

    return unlike
