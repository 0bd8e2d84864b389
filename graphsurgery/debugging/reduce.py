"""Finds the smallest piece of a model on which a pass still breaks something: what belongs into a bug report.

    700 nodes, the boxes differ          1. the tensor where the model and what the pass makes of it diverge (`bisect`)
      -> 12 nodes around it              2. the least of its surroundings in which the pass breaks as it did
      -> Conv, Relu                      3. nodes taken away, half of them, a quarter, one by one, while it still does

A piece is cut from the graph with everything as it was there: inner types, weights, and as inputs what was computed at
the cuts. A pass breaks a model when it crashes, when it stops the run, when what it leaves is invalid or does not run,
or when an output differs; the way in which it breaks the piece must be the way in which it breaks the whole.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto

from graphsurgery import graph as graphs
from graphsurgery.debugging.bisect import read_samples
from graphsurgery.debugging.breaks import Break, break_whole
from graphsurgery.debugging.cutter import Cutter, Piece
from graphsurgery.debugging.divergence import Bisection
from graphsurgery.devices.session import run
from graphsurgery.errors import GraphSurgeryError, ModelError
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.graph.model import Model
from graphsurgery.graph.outline import Array, Outline, Values
from graphsurgery.graph.protos import walk_protos
from graphsurgery.recipe.plugin_options import make_plugin, options_of
from graphsurgery.rewrite import Pass
from graphsurgery.rewrite.editor import Editor
from graphsurgery.rewrite.registry import discover

if TYPE_CHECKING:
    from graphsurgery.progress import Watcher

Judge = Callable[[Model, Values], Break | None]


@dataclass(frozen=True)
class Reduction:
    """A model on which a pass breaks something, its inputs, and what it computes from them.

    `nodes` counts those of the model that it was cut from, `path` leads to the body it was cut from, if it was one.
    `expected` is None where the model does not run.
    """

    pass_: Pass
    model: Model
    given: Mapping[str, Array]
    expected: Mapping[str, Array] | None
    broken: Break
    nodes: int
    sample: str
    path: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able values, without the models."""
        return {
            "verdict": "broken",
            "pass": self.pass_.name,
            "kind": self.broken.kind,
            "reason": self.broken.reason,
            "sample": self.sample,
            "path": list(self.path),
            "nodes_before": self.nodes,
            "nodes": [node.op_type for node in walk_protos(self.model.proto.graph)],
            "outputs": [report.to_json() for report in self.broken.reports],
        }


def configured(name: str, options: Sequence[str], plugins: Sequence[Path] = ()) -> Pass:
    """Return the pass called `name` with options written as in a recipe, `size=1000`.

    Raises InputError for an unknown pass, and for an option that is unknown, missing or wrong.
    """
    return make_plugin(discover(plugins).get(name), f"pass '{name}'", *options_of(options))


def reduce_file(
    path: Path, pass_: Pass, inputs: Path | None, tolerances: Tolerances, watcher: Watcher
) -> Reduction | None:
    """Reduce the model in a file; None where the pass breaks nothing on any sample.

    `inputs` is a model_io folder, one sample in it, or None for random inputs. Raises InputError as `bisect` does.
    """
    model = Model.load(path).with_values_inside()
    samples = list(read_samples(model, inputs))
    for number, (name, load) in enumerate(samples, start=1):
        watcher.begin(f"{pass_.name} on sample {name} ({number} of {len(samples)})")
        given = {each: load(each) for each in model.inputs}
        broken, found = break_whole(pass_, model, given, tolerances)
        if broken is not None:
            watcher.begin("reduce")
            return reduce(pass_, model, given, tolerances, broken, found, watcher, name)
    return None


def reduce(
    pass_: Pass,
    model: Model,
    given: Mapping[str, Array],
    tolerances: Tolerances,
    broken: Break,
    found: Bisection | None,
    watcher: Watcher,
    sample: str = "",
) -> Reduction:
    """Cut the smallest piece that breaks as the whole does out of a model; `found` is what `bisect` says of it."""
    whole = Cutter(Outline(model), given, pass_, tolerances, broken)
    tries = ((cutter, cutter.grow(nodes, ends), path) for cutter, nodes, ends, path in _starts(whole, found))
    cutter, piece, path = next((each for each in tries if each[1] is not None), (whole, None, ()))
    if piece is None:  # it takes all there is, in the order in which it is
        everything = tuple(whole.outline.order)
        piece = whole.attempt(everything, model.outputs) or Piece(everything, model, given, broken)
    piece = cutter.shrink(piece, watcher)
    small, last = simplify(piece.model, piece.given, piece.broken, cutter.judge)
    try:
        expected: Mapping[str, Array] | None = run(small.proto, piece.given)
    except GraphSurgeryError:  # a pass may crash on a model that does not run
        expected = None
    kept = {name: np.asarray(piece.given[name]) for name in small.inputs}
    return Reduction(pass_, small, kept, expected, last, model.nodes, sample, path)


def _starts(whole: Cutter, found: Bisection | None) -> Iterator[tuple[Cutter, set[int], list[str], tuple[str, ...]]]:
    """Yield where to look first, and the tensor to watch: in the bodies that lead to a divergence, then around them."""
    if found is not None and found.divergences:
        best = next((each for each in found.divergences if each.inherent), found.divergences[0])
        level, ends = best.level, [best.tensor]
        nodes = set() if level is None else level.a.ancestors([best.tensor], best.after)
        while level is not None:
            cutter = whole if level.outer is None else whole.inside(level.a, level.given_a)
            yield cutter, nodes, ends, level.path
            if level.outer is None:
                break
            level, node = level.outer
            nodes, ends = {node}, []
    place = re.search(r" on node '(.*?)' \((\w+)\): ", whole.broken.reason)
    if place is not None:
        names = enumerate(whole.outline.nodes)
        yield whole, {i for i, n in names if place[1] in (n.name, *n.output) and n.op_type == place[2]}, [], ()
    yield whole, set(range(len(whole.outline.nodes))), [], ()


def simplify(model: Model, given: Values, broken: Break, judge: Judge) -> tuple[Model, Break]:
    """Write sizes out and short-circuit nodes, those in bodies too, as long as the pass still breaks the model."""
    for inner_types in (False, True):
        candidate = _with_sizes(model, given, inner_types)
        found = judge(candidate, given)
        if found is not None:
            model, broken = candidate, found
            break
    at = 0
    while (candidate_or_none := _without_node(model, at)) is not None:
        found = None if candidate_or_none is model else judge(candidate_or_none, given)
        if found is None:
            at += 1
        else:
            model, broken = candidate_or_none, found
    return model, broken


def _with_sizes(model: Model, given: Values, inner_types: bool) -> Model:
    """Return the model with the sizes that its inputs and outputs have, with or without the types of inner tensors."""
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    values = dict(given)
    with contextlib.suppress(GraphSurgeryError):  # a pass may crash on a model that does not run
        values.update(run(model.proto, given))
    for info in (*proto.graph.input, *proto.graph.output):
        value, dims = values.get(info.name), info.type.tensor_type.shape.dim
        if isinstance(value, np.ndarray) and len(dims) == value.ndim:
            for dim, size in zip(dims, value.shape, strict=True):
                dim.dim_value = size
    if not inner_types:
        del proto.graph.value_info[:]
    return Model(proto)


def _without_node(model: Model, at: int) -> Model | None:
    """Let what reads the node at a position, bodies counted too, read what it reads; None behind the last node.

    The model itself where that can't be done.
    """
    view = model.graph()
    position = 0
    for graph in graphs.walk_graphs(view):
        if position + len(graph.nodes) <= at:
            position += len(graph.nodes)
            continue
        node = graph.nodes[at - position]
        edit = Editor(view)
        if not node.inputs or not node.outputs or not edit.bypass(node, node.inputs[0]):
            return model
        if node.outputs:  # it is an Identity now, between two ends of the graph: as many nodes as before
            return model
        graphs.drop_unused(view)
        view.inputs = [tensor for tensor in view.inputs if tensor.outputs or edit.is_output(tensor)]
        try:
            graphs.sort(view)
            return Model.of(view)
        except ModelError:
            return model
    return None
