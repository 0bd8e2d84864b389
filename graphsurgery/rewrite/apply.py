"""Pass and its three kinds, and Editor, the one object through which a pass changes a graph.

A pass declares a kebab-case `name` and an `effect`; one with options is a frozen dataclass, and they are its fields:

    class DropIdentity(NodePass):
        name = "drop-identity"
        effect = "exact"
        matches = ("Identity",)

        def rewrite(self, node: gs.Node, edit: Editor) -> None:
            edit.bypass(node, node.inputs[0])

No pass reports whether it changed something: fingerprints tell. Unused nodes are dropped and the rest is sorted
after each pass, so a pass does neither.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import onnx_graphsurgeon as gs
from onnx import ModelProto

from graphsurgery import graph as graphs
from graphsurgery.errors import GraphSurgeryError, ModelError, PassError, first_line
from graphsurgery.graph.collection import no_collection
from graphsurgery.graph.model import Model
from graphsurgery.graph.notes import NOTES, kept_notes
from graphsurgery.graph.outside import refer_again
from graphsurgery.graph.view import release, table
from graphsurgery.rewrite.by_operator import ByOperator
from graphsurgery.rewrite.context import PassContext
from graphsurgery.rewrite.editor import Editor, Skip
from graphsurgery.rewrite.kinds import GraphPass, ModelPass, NodePass, Pass, Refuse

# A node pass is repeated until it finds nothing more. One that moves a node down the graph may take a sweep for every
# node it passes; one that edits for longer than that, or this often, makes new work for itself.
MAX_SWEEPS = 50
MAX_EDITS = 1000


@dataclass(frozen=True)
class Applied:
    """A model after a pass, the nodes that the pass left alone, and what else it has to say."""

    model: Model
    skips: tuple[Skip, ...]
    details: dict[str, Any] = field(default_factory=dict)


def apply_pass(pass_: Pass, model: Model, context: PassContext | None = None) -> Applied:
    """Run one pass over `model`, then drop unused nodes and sort; `model` itself is not changed.

    Notes for later steps survive, also those that a tool behind a ModelPass drops. Raises PassError when the pass
    fails or leaves a broken graph, naming it.
    """
    return apply_passes([pass_], model, context)


def apply_passes(passes: Sequence[Pass], model: Model, context: PassContext | None = None) -> Applied:
    """Run passes one after another, with nothing checked in between, on one view of the model.

    To make the view and to turn it back takes longer than most passes. The skips are those of all passes.
    """
    skips: list[Skip] = []
    details: dict[str, Any] = {}
    with no_collection():
        view: _View | None = None
        for pass_ in passes:
            view, edit = _run(pass_, model, view, context)
            skips += edit.skips
            details |= edit.details
        if view is None:
            return Applied(model, ())
        try:
            return Applied(Model.of(view.graph, model.folder), tuple(skips), details)
        except ModelError as error:
            names = ", ".join(f"'{pass_.name}'" for pass_ in passes)
            one = "" if len(passes) == 1 else "es"
            raise PassError(f"pass{one} {names}: it leaves a broken graph: {error}") from error
        finally:
            release(view.graph)
            del view, edit  # so that they are garbage when it is looked for


@dataclass
class _View:
    """The graph that passes in a row share.

    While it is known to be `tidy`, it has no unused nodes, and its order is right; `operators`, if any, are then where
    they are.
    """

    graph: gs.Graph
    tidy: bool = False
    operators: ByOperator | None = None


def _run(pass_: Pass, model: Model, view: _View | None, context: PassContext | None) -> tuple[_View, Editor]:
    """Run a pass on `view`, or on `model` where there is no view of it yet."""
    edit = Editor(gs.Graph(opset=model.opset), pass_.name, model.folder, context)
    outputs = model.outputs if view is None else [tensor.name for tensor in view.graph.outputs]
    try:
        if isinstance(pass_, ModelPass):
            view = _View(_run_tool(pass_, model if view is None else Model.of(view.graph, model.folder), edit))
        else:
            view = _View(model.graph()) if view is None else view
            edit = Editor(view.graph, pass_.name, model.folder, context)
            if isinstance(pass_, GraphPass):
                view.operators = None
                with _refusals(edit, None):
                    pass_.rewrite(view.graph, edit)
                view.tidy = graphs.drop_unused(view.graph)
            elif isinstance(pass_, NodePass):
                if not view.tidy:  # a reader that nothing needs must keep no node from being rewritten
                    view.operators = None
                    view.tidy = graphs.drop_unused(view.graph)
                _sweep(pass_, view, edit)
            else:
                raise edit.fail("it is no NodePass, GraphPass or ModelPass")
    except GraphSurgeryError:
        raise
    except Exception as error:  # a pass is the user's code: anything may come out of it
        raise edit.fail(f"it fails{edit.place}: {type(error).__name__}: {first_line(error)}") from error
    try:
        if not view.tidy and graphs.sort(view.graph):
            view.operators = None
        view.tidy = True
    except ModelError as error:
        raise edit.fail(f"it leaves a broken graph: {error}") from error
    left = [tensor.name for tensor in view.graph.outputs]
    if left != outputs:
        table(view.graph).metadata = kept_notes(table(view.graph).metadata, left)
    edit.forget_inferred()  # what it holds may be as large as the model
    return view, edit


def _run_tool(pass_: ModelPass, model: Model, edit: Editor) -> gs.Graph:
    given = model if pass_.takes_references else model.with_values_inside(f"pass '{pass_.name}'")
    proto = ModelProto()
    proto.CopyFrom(given.proto)
    result: object = model.proto
    with _refusals(edit, None):
        result = pass_.rewrite(proto, edit)
    if not isinstance(result, ModelProto):
        raise edit.fail(f"it returns {type(result).__name__}, not a ModelProto")
    if given is not model:
        result = refer_again(result, model.proto)
    view = Model(result, model.folder).graph()
    graphs.drop_unused(view)
    for entry in model.proto.metadata_props:
        if entry.key.startswith(NOTES):
            table(view).metadata.setdefault(entry.key, entry.value)
    table(view).metadata.update(edit.metadata)
    return view


def _sweep(pass_: NodePass, view: _View, edit: Editor) -> None:
    if view.operators is None:
        view.operators = ByOperator(view.graph)
    nodes = len(view.operators)
    wanted = _operators(pass_)
    sweeps = 0
    while sweeps < MAX_SWEEPS + nodes and edit.edits < MAX_EDITS * (nodes + 1):
        sweeps += 1
        before, changes = edit.edits, graphs.changes()
        edit.skips.clear()
        edit.replaced.clear()
        edit.forget_inferred()
        for graph, node in view.operators.walk(wanted, edit.replaced):
            if node.outputs and _is_wanted(node, wanted):
                edit.graph = graph
                _visit(pass_, node, edit)
        if edit.edits == before:
            view.tidy = view.tidy and graphs.changes() == changes
            return
        edit.place = ""
        view.tidy = graphs.drop_unused(view.graph)
        view.operators = ByOperator(view.graph)
    raise edit.fail(f"it still rewrites after {sweeps} sweeps and {edit.edits} edits: its result matches itself")


def _visit(pass_: NodePass, node: gs.Node, edit: Editor) -> None:
    edit.place = f" on node '{node.name or node.outputs[0].name}' ({node.op})"
    edits = edit.edits
    try:
        pass_.rewrite(node, edit)
    except Refuse as refusal:
        _note_refusal(refusal, node, edits, edit)


def _operators(pass_: NodePass) -> dict[str, set[str]] | None:
    """Return the operators that `pass_` looks at with their domains; None stands for all."""
    looked_at = pass_.looks_at()
    if looked_at is None:
        return None
    domains: dict[str, set[str]] = {}
    for name in looked_at:
        domain, _, op = name.rpartition(".")
        domains.setdefault(op, set()).add("" if domain in graphs.STANDARD_DOMAINS else domain)
    return domains


def _is_wanted(node: gs.Node, wanted: Mapping[str, Collection[str]] | None) -> bool:
    domain = "" if node.domain in graphs.STANDARD_DOMAINS else node.domain
    return wanted is None or domain in wanted.get(node.op, ())


@contextmanager
def _refusals(edit: Editor, node: gs.Node | None) -> Iterator[None]:
    """Note what is refused inside."""
    edits = edit.edits
    try:
        yield
    except Refuse as refusal:
        _note_refusal(refusal, node, edits, edit)


def _note_refusal(refusal: Refuse, node: gs.Node | None, edits: int, edit: Editor) -> None:
    """Note a refusal; a pass that has edited something since there were `edits` has left half a rewrite."""
    if edit.edits != edits:
        raise edit.fail(f"it refuses{edit.place} after it has edited the graph: {refusal.reason}") from refusal
    edit.skip(refusal.node or node, refusal.reason)
