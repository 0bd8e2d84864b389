"""The pass manager. `apply` reads top to bottom: the whole way from a recipe to a folder of parts.

    export -> capture -> passes on the whole graph -> cut -> passes on the parts -> chain -> write

After every step the gate compares the graph with the captured tensors, and the first difference ends the run; what
was in the output folder stays as it was. What a graph is worth comparing with travels with it (`gate.Judged`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeVar

from graphsurgery.capture.samples import Sample
from graphsurgery.debugging import failure
from graphsurgery.errors import CaptureError, Difference, GraphSurgeryError, InputError
from graphsurgery.gate.gate import Gate, Grant, Judged, Tensors
from graphsurgery.graph.model import Model
from graphsurgery.images.canvas import Canvas
from graphsurgery.partition import boundary_names
from graphsurgery.partition.boundaries import Cut
from graphsurgery.partition.named_parts import extract_parts, find_named_cut
from graphsurgery.partition.static import certify_static
from graphsurgery.parts.folder import OutputFolder
from graphsurgery.parts.manifest import Manifest, describe_parts
from graphsurgery.parts.part import Part
from graphsurgery.pipeline import references
from graphsurgery.progress import Silent, Watcher
from graphsurgery.recipe.load import PartitionPlan, PassUse, Recipe
from graphsurgery.report.run_record import Record, Step
from graphsurgery.rewrite import Editor, PassContext, apply_pass, apply_passes
from graphsurgery.sources import Source

Subject = TypeVar("Subject", Model, Part)


class RunWatcher(Watcher, Protocol):
    """A watcher that is also told what became of each step."""

    def finished(self, step: Step) -> None:
        """A pass or a check is through."""


@dataclass
class Run:
    """What `apply` works on: the recipe, the captured samples, the record of what was done.

    `samples` are those that are compared, `calibration` those that passes may read, more of them as a rule. `gate` is
    None when nothing is to be checked. `failed` is the folder for the graphs around a pass that breaks
    something; None: they are not kept.
    """

    recipe: Recipe
    source: Source
    samples: Sequence[Sample]
    gate: Gate | None
    record: Record
    watcher: RunWatcher = field(default_factory=Silent)
    failed: Path | None = None
    calibration: Sequence[Sample] = ()


@dataclass
class Unjudged:
    """The whole graph behind a step, before the gate has judged it.

    It is run only when the next step is known: `judge_whole` can then ask in the same runs for the verdict and for the
    inner tensors which that step makes ends of a graph. `before` is what the graph before it computed, where a grant
    asks for that, `unchanged` are the steps behind it that left it alone and share its verdict.
    """

    subject: Model
    step: Step
    place: str
    outputs: Sequence[str] | None = None
    earlier: tuple[Grant, ...] = ()
    own: tuple[Grant, ...] = ()
    before: Sequence[Tensors] | None = None
    graph_before: Model | None = None
    unchanged: list[Step] = field(default_factory=list)

    @property
    def granted(self) -> tuple[Grant, ...]:
        """What the passes up to this graph were granted."""
        return (*self.earlier, *self.own)


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
    parts = [replace(part, subject=certify_static(part.subject)) for part in parts]
    check_chain(run, parts, whole)
    return Parts(parts, write(run, [part.subject for part in parts], whole.subject, output))


def failed_folder(out: Path) -> Path:
    """Return where a failed run leaves what it has to show, beside the output folder."""
    place = out if out.name not in ("", "..") else out.resolve()
    return place.with_name(f"{place.name}.failed")


def export(run: Run) -> Unjudged:
    """Export the whole model, to be compared with the tensors captured from the original before any pass ran."""
    run.watcher.begin("export")
    with _timed(run.record, "export"):
        model = Model(run.source.export(), run.source.folder).with_values_inside()
        model.check("the export")
    step = Step("export", nodes_before=model.nodes, nodes_after=model.nodes)
    run.record.checks.append(step)
    return Unjudged(model, step, "the export, before any pass,")


def rewrite_whole(run: Run, use: PassUse, whole: Unjudged) -> Unjudged:
    """Run one pass on the whole graph, and let the gate judge the graph before it."""
    with _judged_first(run, whole):
        step, model = _rewrite(run, use, whole.subject, None)
    if model.fingerprint == whole.subject.fingerprint:
        run.record.passes.append(step)
        whole.unchanged.append(step)
        return whole
    wanted = references.new_ends(whole.subject, model, run.samples, bool(whole.granted))
    judged, values = judge_whole(run, whole, wanted)
    run.record.passes.append(step)
    with _timed(run.record, "checks"):
        model, before = references.adopt_names(_place(use, None), judged, values, model, run.samples)
    own = _own_grant(run.gate, use) if run.gate is not None else ()
    outputs = whole.subject.outputs if use.pass_.keeps_outputs else None
    return Unjudged(model, step, _place(use, None), outputs, whole.granted, own, before, whole.subject)


def judge_whole(run: Run, whole: Unjudged, names: Sequence[str] = ()) -> tuple[Judged[Model], list[Tensors]]:
    """Let the gate judge a whole graph by the captured outputs, and return it with the values of the tensors `names`.

    With `names`, what is returned for each sample holds the outputs of the graph too; without, nothing. Raises
    Difference where the step that made the graph broke it.
    """
    values: list[Tensors] = [] if names else [{} for _ in run.samples]
    if run.gate is None:
        verdict: Judged[Model] = Judged(whole.subject)
        if names:
            with _timed(run.record, "checks"):
                values.extend(boundary_names.played(whole.subject, names, run.samples))
    else:
        run.watcher.begin(f"check {whole.step.name}")
        ends = whole.subject.outputs

        def played() -> Iterator[Tensors]:
            for computed in boundary_names.played(whole.subject, names, run.samples):
                if names:
                    values.append(computed)
                yield {name: computed[name] for name in ends}

        unjudged = Judged(whole.subject, granted=whole.earlier)
        with _graphs_left_behind(run, whole.step, whole.graph_before, whole.subject):
            verdict = _judge(run, whole.step, unjudged, played(), whole.place, whole.outputs, whole.own, whole.before)
    run.watcher.finished(whole.step)
    for step in whole.unchanged:
        step.verdict = verdict.verdict
        run.watcher.finished(step)
    return verdict, values


@contextmanager
def _judged_first(run: Run, whole: Unjudged) -> Iterator[None]:
    """Where a step can't be done, judge the graph that it was given: if that is broken, the message is about that."""
    try:
        yield
    except GraphSurgeryError:
        judge_whole(run, whole)
        raise


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
    with _judged_first(run, whole), _timed(run.record, "surgery"):
        found = _find_cut(plan, run.recipe, whole.subject)
    names = [tensor.name for tensor in found.crossing()]
    judged_whole, values = judge_whole(run, whole, names)
    run.watcher.begin("partition")
    with _timed(run.record, "surgery"):
        references.name_boundary(found, values, run.samples)
        parts = extract_parts(found, plan.parts)
    judged = []
    for part in parts:
        references.remember_unnamed(part, run.calibration or run.samples)
        step = Step("partition", part.name, nodes_before=part.model.nodes, nodes_after=part.model.nodes)
        run.record.checks.append(step)
        cut_out = Judged(part, granted=whole.granted)
        if run.gate is not None:
            place = f"part '{part.name}', as it was cut,"
            cut_out = _judge(run, step, cut_out, run.gate.play_part(part), place)
        judged.append(cut_out)
        run.watcher.finished(step)
    if run.gate is not None and judged_whole.outputs is not None:
        nodes = sum(part.model.nodes for part in parts)
        step = Step("partition", nodes_before=nodes, nodes_after=nodes)
        run.record.checks.append(step)
        played = run.gate.play_chain(parts, whole.subject.inputs, whole.subject.outputs)
        _judge(run, step, judged_whole, played, "the cut", before=judged_whole.outputs, last=True)
        run.watcher.finished(step)
    return judged_whole, judged


def boundary_tensors(recipe: Recipe, model: Model, canvas: Canvas) -> list[str]:
    """Return the tensors of `model` that the recipe will make inputs and outputs of the graph, or of a part.

    A source without modules to hook captures these. It takes the surgery itself, unchecked, to find them; passes that
    need what is yet to be captured are left out.
    """
    passes = [use.pass_ for use in recipe.passes if not use.pass_.needs_samples]
    context = PassContext(canvas=(canvas.height, canvas.width))
    after = apply_passes(passes, model.with_values_inside(), context).model
    wanted = [*after.inputs, *after.outputs]
    if recipe.partition is not None:
        wanted += [tensor.name for tensor in _find_cut(recipe.partition, recipe, after).crossing()]
    inner = {name for node in model.proto.graph.node for name in node.output}
    return [name for name in wanted if name in inner]


def _find_cut(plan: PartitionPlan, recipe: Recipe, model: Model) -> Cut:
    graph = model.graph()
    Editor(graph, "partition").infer_shapes()
    return find_named_cut(graph, plan.cut_points, plan.parts, plan.include, plan.supported, recipe.passes_for)


def rewrite_part(run: Run, part: Judged[Part]) -> Judged[Part]:
    """Run the recipe's passes for one part, each compared with the part's captured outputs, by the rule of the gate."""
    for use in run.recipe.part_passes.get(part.subject.name, ()):
        before = part.subject
        step, model = _rewrite(run, use, before.model, before.name)
        run.record.passes.append(step)
        if model.fingerprint == before.model.fingerprint:
            step.verdict = part.verdict
            run.watcher.finished(step)
            continue
        after = Judged(replace(before, model=model), granted=part.granted)
        if run.gate is not None:
            with _graphs_left_behind(run, step, before.model, model):
                # a part that a variant goes on with was finished long ago, and its outputs were let go
                computed = part.outputs or run.gate.play_part(before)
                after = _judge(
                    run,
                    step,
                    after,
                    run.gate.play_part(after.subject),
                    _place(use, before.name),
                    before.model.outputs,  # each is read further on
                    _own_grant(run.gate, use),
                    computed if part.granted else None,
                )
        run.watcher.finished(step)
        part = after
    return replace(part, outputs=None)


def check_chain(run: Run, parts: Sequence[Judged[Part]], whole: Judged[Model]) -> None:
    """Play the parts one after another on every captured sample and compare what comes out at the end.

    What the passes on the whole graph cost and what each part's own passes did, the end pays together.
    """
    chain = [part.subject for part in parts]
    nodes = sum(part.model.nodes for part in chain)
    step = Step("chain", nodes_before=nodes, nodes_after=nodes)
    run.record.checks.append(step)
    if run.gate is not None:
        shared = len(whole.granted)
        granted = (*whole.granted, *(grant for part in parts for grant in part.granted[shared:]))
        played = run.gate.play_chain(chain, whole.subject.inputs, whole.subject.outputs)
        judged = Judged(whole.subject, granted=granted)
        _judge(run, step, judged, played, "the chain of parts", whole.subject.outputs, last=True)
    run.watcher.finished(step)


def write(run: Run, parts: Sequence[Part], whole: Model, output: OutputFolder) -> Manifest:
    """Write the parts, which `whole` was cut into, and the manifest."""
    run.watcher.begin("write")
    with _timed(run.record, "write"):
        for part in parts:
            part.model.check(f"part '{part.name}'")
            part.model.save(output.work / f"{part.name}.onnx")
        source = run.source
        manifest = describe_parts(
            list(parts),
            run.recipe.name,
            dict(source.describe()),
            source.canvas,
            list(whole.inputs),
            list(whole.outputs),
            source.classes,
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
    canvas = (run.source.canvas.height, run.source.canvas.width) if part is None else None
    applied = apply_pass(use.pass_, model, PassContext(complete, run.watcher.advance, canvas))
    seconds = time.perf_counter() - begin
    run.record.spent("surgery", seconds)
    step = Step(
        use.name, part, use.pass_.effect, model.nodes, applied.model.nodes, seconds, applied.skips, applied.details
    )
    return step, applied.model


def _judge(
    run: Run,
    step: Step,
    subject: Judged[Subject],
    played: Iterable[Tensors],
    place: str,
    outputs: Sequence[str] | None = None,
    own: Sequence[Grant] = (),
    before: Iterable[Tensors] | None = None,
    *,
    last: bool = False,
) -> Judged[Subject]:
    """Let the gate judge what `subject` computes, and return it with its verdict and with what it was granted.

    What it computes is kept for the pass behind it, where that will be asked for; nothing comes behind the `last` one.
    """
    assert run.gate is not None
    granted = (*subject.granted, *own)
    begin = time.perf_counter()
    try:
        ruling = run.gate.judge(
            played, outputs, own=own, earlier=subject.granted, before=before, keep=bool(granted) and not last
        )
    except CaptureError:
        raise
    except InputError as error:
        if step.effect is None:
            raise
        step.verdict = "failed"  # the graph ran until this pass
        raise Difference(f"{place} breaks the graph: {error}") from error
    finally:
        run.record.spent("checks", time.perf_counter() - begin)
    step.judge(ruling)
    if ruling.verdict == "failed":
        run.watcher.finished(step)
        raise Difference(f"{place} {step.explain()}")
    return Judged(subject.subject, ruling.verdict, granted, ruling.outputs)


def _own_grant(gate: Gate, use: PassUse) -> tuple[Grant, ...]:
    return gate.grant(use.name) if use.pass_.effect == "approximate" else ()


@contextmanager
def _graphs_left_behind(run: Run, step: Step, before: Model | None, after: Model) -> Iterator[None]:
    """Leave the graphs before and after a pass that is at fault, and say where they begin to differ.

    The export has none before it.
    """
    try:
        yield
    except Difference as error:
        worst = step.worst
        failing = [sample for sample in run.samples if worst is not None and sample.id == worst.sample]
        if run.failed is not None and before is not None:
            run.watcher.begin("look for the first difference")
            sample = (failing or run.samples)[0]
            error.hint = failure.record(before, after, sample, run.failed, run.watcher.advance)
        raise


def _place(use: PassUse, part: str | None) -> str:
    where = f"{use.file}:{use.line}: " if use.line is not None else ""
    return f"{where}pass '{use.name}'" + (f" on part '{part}'" if part else "")


@contextmanager
def _timed(record: Record, what: str) -> Iterator[None]:
    begin = time.perf_counter()
    try:
        yield
    finally:
        record.spent(what, time.perf_counter() - begin)
