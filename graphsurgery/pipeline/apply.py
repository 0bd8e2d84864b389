"""The pass manager. `apply` reads top to bottom: the whole way from a recipe to a folder of parts.

    export -> capture -> passes on the whole graph -> cut -> passes on the parts -> chain -> write -> other sizes

After every step the gate compares the graph with the captured tensors, and the first difference ends the run; what
was in the output folder stays as it was. `judging` says how; what a graph is worth comparing with travels with it
(`gate.Judged`). Other sizes are those that a compiler of the recipe leaves open, if it does.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from graphsurgery.gate.gate import Judged
from graphsurgery.graph.joined_outputs import joins_of
from graphsurgery.graph.model import Model
from graphsurgery.graph.notes import gives_as_captured
from graphsurgery.partition.boundaries import Cut
from graphsurgery.partition.by_target import ByTarget
from graphsurgery.partition.named_parts import extract_parts, find_named_cut
from graphsurgery.partition.sampled_shapes import explain
from graphsurgery.partition.static import certify_static
from graphsurgery.parts.describe import describe_part, describe_parts
from graphsurgery.parts.folder import OutputFolder
from graphsurgery.parts.manifest import Manifest
from graphsurgery.parts.part import Part
from graphsurgery.pipeline import references
from graphsurgery.pipeline.changed_nodes import computes_the_same
from graphsurgery.pipeline.changes import changes
from graphsurgery.pipeline.judging import (
    completed_first,
    graphs_left_behind,
    judge,
    judge_as_cut,
    judge_whole,
    judged_first,
    looking_back,
    own_grant,
)
from graphsurgery.pipeline.open_shapes import check_open_shapes
from graphsurgery.pipeline.run import Run, Unjudged, timed
from graphsurgery.recipe.load import PartitionPlan, PassUse, Recipe
from graphsurgery.report.run_record import Record, Step
from graphsurgery.rewrite import Editor, PassContext, apply_pass, apply_passes
from graphsurgery.sources import Source
from graphsurgery.targets.support import taker

_MOST_KEPT = 2**27  # elements of what the first part computes, on all samples together


@dataclass(frozen=True)
class Parts:
    """The finished parts with what the gate knows of them, and the manifest that was written with them."""

    parts: Sequence[Judged[Part]]
    manifest: Manifest


def apply(run: Run, output: OutputFolder) -> Parts:
    """Take a detector through its recipe and write the parts into `output.work`; `output.publish` is up to the caller.

    Raises Difference at the first pass or check that breaks something, naming it. Where it is a pass, the graphs before
    and after it are left beside the output folder.
    """
    run.failed = failed_folder(output.path)
    for use in (*run.recipe.passes, *(use for uses in run.recipe.part_passes.values() for use in uses)):
        use.pass_.prepare()
    unjudged = export(run)
    for use in run.recipe.passes:
        unjudged = rewrite_whole(run, use, unjudged)
    whole, parts = cut(run, unjudged)
    parts = [rewrite_part(run, part) for part in parts]
    parts = [_with_shapes(run, part) for part in parts]
    run.record.support = run.certifier.to_json()
    check_chain(run, parts, whole)
    parts = [replace(part, outputs=None, begins=False) for part in parts]
    manifest = write(run, [part.subject for part in parts], whole.subject, output)
    check_open_shapes(run, parts, whole, manifest)
    return Parts(parts, manifest)


def failed_folder(out: Path) -> Path:
    """Return where a failed run leaves what it has to show, beside the output folder."""
    place = out if out.name not in ("", "..") else out.resolve()
    return place.with_name(f"{place.name}.failed")


def export(run: Run) -> Unjudged:
    """Export the whole model, to be compared with the tensors captured from the original before any pass ran."""
    run.watcher.begin("export")
    with timed(run.record, "export"):
        model = run.kept(Model(run.source.export(), run.source.folder).bound())
        model.check("the export")
    step = Step("export", nodes_before=model.nodes, nodes_after=model.nodes)
    run.record.checks.append(step)
    return Unjudged(model, step, "the export, before any pass,")


def rewrite_whole(run: Run, use: PassUse, whole: Unjudged) -> Unjudged:
    """Run one pass on the whole graph, and let the gate judge the graph before it."""
    with judged_first(run, whole):
        step, model = _rewrite(run, use, whole.subject, None)
    if model.fingerprint == whole.subject.fingerprint:
        run.record.passes.append(step)
        whole.unchanged.append(step)
        return whole
    wanted = references.new_ends(whole.subject, model, run.samples, bool(whole.granted))
    own = own_grant(run.gate, use) if run.gate is not None else ()
    judged, values = judge_whole(run, whole, wanted, complete=bool(own))
    run.record.passes.append(step)
    with looking_back(run), timed(run.record, "checks"):
        groups = run.source.row_groups
        model, before = references.adopt_names(_place(use, None), judged, values, model, run.samples, groups)
    outputs = whole.subject.outputs if use.pass_.keeps_outputs else None
    return Unjudged(model, step, _place(use, None), outputs, whole.granted, own, before, whole.subject)


def cut(run: Run, whole: Unjudged) -> tuple[Judged[Model], list[Judged[Part]]]:
    """Cut the graph at the recipe's operator, give the boundary tensors their names, and check each part alone.

    Behind a grant the parts are also played one after another and compared with the graph that was cut. Returns that
    graph too, now that it is judged.
    """
    plan = run.recipe.partition
    if plan is None:
        judged_whole, _ = judge_whole(run, whole)
        part = Part(run.recipe.name, "cpu", False, whole.subject)
        return judged_whole, [Judged(part, judged_whole.verdict, judged_whole.granted, judged_whole.outputs)]
    run.watcher.begin("partition")
    with judged_first(run, whole), timed(run.record, "surgery"):
        found = _find_cut(plan, run.recipe, whole.subject)
    names = [tensor.name for tensor in found.crossing()]
    judged_whole, values = judge_whole(run, whole, names)
    run.watcher.begin("partition")
    with timed(run.record, "surgery"):
        captured = run.calibration or run.samples
        references.name_boundary(found, values, run.samples, run.source.row_groups, captured)
        parts = extract_parts(found, plan.parts)
    judged = []
    for part in parts:
        references.remember_unnamed(part, captured, run.source.row_groups)
        entry = describe_part(part)
        shapes = {name: tensor.shape for name, tensor in (entry.inputs | entry.outputs).items()}
        said = explain(entry.sampled, shapes, len(captured))
        step = Step(
            "partition",
            part.name,
            nodes_before=part.model.nodes,
            nodes_after=part.model.nodes,
            details={"sampled": said} if said else {},
        )
        run.record.checks.append(step)
        cut_out = Judged(part, granted=whole.granted, begins=part is parts[0] and _begins(run, part, whole))
        if run.gate is not None:
            place = f"part '{part.name}', as it was cut,"
            followed = bool(run.recipe.part_passes.get(part.name))
            cut_out = judge_as_cut(run, step, cut_out, place, followed=followed)
        judged.append(cut_out)
        run.watcher.finished(step)
    if run.gate is not None and judged_whole.outputs is not None:
        nodes = sum(part.model.nodes for part in parts)
        step = Step("partition", nodes_before=nodes, nodes_after=nodes)
        run.record.checks.append(step)
        played = run.gate.play_chain(parts, whole.subject.inputs, whole.subject.outputs)
        judge(run, step, judged_whole, played, "the cut", before=judged_whole.outputs, last=True)
        run.watcher.finished(step)
    return judged_whole, judged


def boundary_tensors(recipe: Recipe, source: Source) -> list[str]:
    """Return the tensors of the model that the recipe will make inputs and outputs of the graph, or of a part.

    A source without modules to hook captures these. It takes the surgery itself, unchecked, to find them; passes that
    need what is yet to be captured are left out.
    """
    passes = [use.pass_ for use in recipe.passes if not use.pass_.needs_samples]
    model = Model(source.export(), source.folder)
    after = apply_passes(passes, model.bound(), _context_of_whole(source)).model
    wanted = [*after.inputs, *after.outputs]
    if recipe.partition is not None:
        wanted += [tensor.name for tensor in _find_cut(recipe.partition, recipe, after).crossing()]
    inner = {name for node in model.proto.graph.node for name in node.output}
    return [name for name in wanted if name in inner]


def _find_cut(plan: PartitionPlan, recipe: Recipe, model: Model) -> Cut:
    graph = model.graph()
    Editor(graph, "partition").infer_shapes()
    at = plan.cut_points if plan.by is None else _by_target(recipe, plan, model.opset)
    return find_named_cut(graph, at, plan.parts, plan.include, plan.supported, recipe.passes_for)


def _by_target(recipe: Recipe, plan: PartitionPlan, opset: int) -> ByTarget:
    chosen = recipe.target
    assert chosen is not None
    return ByTarget(taker(opset, chosen.target.target, chosen.precision), plan.smallest)


def certified(run: Run, part: Part) -> Part:
    """Return a finished part with its shapes written out, unless the recipe lets parts keep open ones.

    Raises where it isn't static, and where the recipe's target refuses it.
    """
    plan = run.recipe.partition
    finished = part if plan is not None and not plan.static else certify_static(part)
    run.certifier.certify(finished)
    return finished


def _with_shapes(run: Run, part: Judged[Part]) -> Judged[Part]:
    """Return a judged part as `certified` does, and what it computes as long as it is known to compute that still."""
    made = certified(run, part.subject)
    known = part.outputs is not None and computes_the_same(made.model, part.subject.model)
    return replace(part, subject=made, outputs=part.outputs if known else None)


def rewrite_part(run: Run, part: Judged[Part]) -> Judged[Part]:
    """Run the recipe's passes for one part, each compared with the part's captured outputs, by the rule of the gate."""
    run.certifier.brought(part.subject)
    for use in run.recipe.part_passes.get(part.subject.name, ()):
        before = part.subject
        with completed_first(part):
            step, model = _rewrite(run, use, before.model, before.name)
        run.record.passes.append(step)
        if model.fingerprint == before.model.fingerprint:
            step.verdict = part.verdict
            run.watcher.finished(step)
            continue
        after = Judged(replace(before, model=model), granted=part.granted, begins=part.begins)
        step.brings = run.certifier.brought(after.subject)
        if run.gate is not None:
            own = own_grant(run.gate, use)
            part = part.complete() if own else part
            with completed_first(part), graphs_left_behind(run, step, before.model, model):
                # a part that a variant goes on with was finished long ago, and its outputs were let go
                computed = part.outputs or run.gate.play_part(before)
                after = judge(
                    run,
                    step,
                    after,
                    run.gate.play_part(after.subject),
                    _place(use, before.name),
                    before.model.outputs,  # each is read further on
                    own,
                    computed if part.granted else None,
                )
        run.watcher.finished(step)
        part = after
    part = part.complete()
    return part if part.begins else replace(part, outputs=None)


def _begins(run: Run, part: Part, whole: Unjudged) -> bool:
    """Whether what a part computes is kept for the chain: it reads the image alone, and gives not too much."""
    if run.gate is None or not set(part.model.inputs) <= set(whole.subject.inputs):
        return False
    size = sum(math.prod(sample.shape(name)) for sample in run.samples for name in part.model.outputs)
    return size <= _MOST_KEPT


def check_chain(run: Run, parts: Sequence[Judged[Part]], whole: Judged[Model]) -> None:
    """Play the parts one after another on every captured sample and compare what comes out at the end.

    What the passes on the whole graph cost and what each part's own passes did, the end pays together. The first part
    has computed the same from the same when it was judged.
    """
    chain = [part.subject for part in parts]
    nodes = sum(part.model.nodes for part in chain)
    step = Step("chain", nodes_before=nodes, nodes_after=nodes)
    run.record.checks.append(step)
    if run.gate is not None:
        shared = len(whole.granted)
        granted = (*whole.granted, *(grant for part in parts for grant in part.granted[shared:]))
        begun = parts[0].outputs if parts[0].begins and gives_as_captured(chain[0].model.proto) else None
        played = run.gate.play_chain(chain, whole.subject.inputs, whole.subject.outputs, begun)
        judged = Judged(whole.subject, granted=granted)
        judge(run, step, judged, played, "the chain of parts", whole.subject.outputs, last=True)
    run.watcher.finished(step)


def save_parts(parts: Sequence[Part], folder: Path, external_from: float, of: str = "") -> None:
    """Write each part to `folder`; where they have `external_from` bytes together, weights go into files beside them.

    `folder` takes its place as a whole later. `of` begins what an error says. Raises ModelError for a part that isn't
    valid or can't be written.
    """
    apart = sum(part.model.size for part in parts) >= external_from
    for part in parts:
        part.model.check(f"{of}part '{part.name}'")
        part.model.write(folder / f"{part.name}.onnx", 0 if apart else math.inf)


def write(run: Run, parts: Sequence[Part], whole: Model, output: OutputFolder) -> Manifest:
    """Write the parts, which `whole` was cut into, and the manifest."""
    run.watcher.begin("write")
    with timed(run.record, "write"):
        save_parts(parts, output.work, run.external_from)
        source = run.source
        manifest = describe_parts(
            list(parts),
            run.recipe.name,
            dict(source.describe()),
            source.canvas,
            list(whole.inputs),
            list(whole.outputs),
            source.classes,
            joins_of(whole.proto),
            None if run.recipe.evaluate is None else run.recipe.evaluate.protocol,
        )
        manifest = output.write_manifest(manifest)
    run.record.describe(parts)
    return manifest


def write_record(record: Record, output: OutputFolder) -> None:
    """Write run.json."""
    output.write_text("run.json", json.dumps(record.to_json(), indent=1) + "\n")


def _rewrite(run: Run, use: PassUse, model: Model, part: str | None) -> tuple[Step, Model]:
    """Apply a pass, timed and noted."""
    run.watcher.begin(f"{part}: {use.name}" if part else use.name)
    begin = time.perf_counter()
    # what only a graph that had passed could tell was computed for those that are compared
    complete = [sample for sample in run.calibration or run.samples if all(name in sample for name in model.inputs)]
    context = PassContext()
    if part is None:
        context = replace(_context_of_whole(run.source), outputs_apart=run.recipe.outputs_apart)
    applied = apply_pass(use.pass_, model, replace(context, samples=complete, progress=run.watcher.advance))
    seconds = time.perf_counter() - begin
    run.record.spent("surgery", seconds)
    step = Step(
        use.name, part, use.pass_.effect, model.nodes, applied.model.nodes, seconds, applied.skips, applied.details
    )
    step.changes = changes(model, applied.model)
    return step, run.kept(applied.model)


def _context_of_whole(source: Source) -> PassContext:
    """Return what a pass on the whole graph may know of the images that it is fed."""
    return PassContext(canvas=(source.canvas.height, source.canvas.width), batch=source.batch)


def _place(use: PassUse, part: str | None) -> str:
    where = f"{use.file}:{use.line}: " if use.line is not None else ""
    return f"{where}pass '{use.name}'" + (f" on part '{part}'" if part else "")
