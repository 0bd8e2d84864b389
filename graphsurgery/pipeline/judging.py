"""How a step is judged: a whole graph when the next step is known, a part when it is made.

The gate says what is equal. Here is what a run does about it: the verdict goes to the step, the values that the next
step asks for are kept, and where a pass is at fault the graphs around it are left behind.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from graphsurgery.debugging import failure
from graphsurgery.errors import CaptureError, Difference, GraphSurgeryError, InputError
from graphsurgery.gate.gate import Gate, Grant, Judged, Tensors
from graphsurgery.graph.model import Model
from graphsurgery.partition import boundary_names
from graphsurgery.parts.part import Part
from graphsurgery.pipeline.run import Run, timed
from graphsurgery.recipe.load import PassUse
from graphsurgery.report.run_record import Step

Subject = TypeVar("Subject", Model, Part)


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


def judge_whole(run: Run, whole: Unjudged, names: Sequence[str] = ()) -> tuple[Judged[Model], list[Tensors]]:
    """Let the gate judge a whole graph by the captured outputs, and return it with the values of the tensors `names`.

    With `names`, what is returned for each sample holds the outputs of the graph too; without, nothing. Raises
    Difference where the step that made the graph broke it.
    """
    values: list[Tensors] = [] if names else [{} for _ in run.samples]
    if run.gate is None:
        verdict: Judged[Model] = Judged(whole.subject)
        if names:
            with timed(run.record, "checks"):
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
        with graphs_left_behind(run, whole.step, whole.graph_before, whole.subject):
            verdict = judge(run, whole.step, unjudged, played(), whole.place, whole.outputs, whole.own, whole.before)
    run.watcher.finished(whole.step)
    for step in whole.unchanged:
        step.verdict = verdict.verdict
        run.watcher.finished(step)
    return verdict, values


@contextmanager
def judged_first(run: Run, whole: Unjudged) -> Iterator[None]:
    """Where a step can't be done, judge the graph that it was given: if that is broken, the message is about that."""
    try:
        yield
    except GraphSurgeryError:
        judge_whole(run, whole)
        raise


def judge(
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


def own_grant(gate: Gate, use: PassUse) -> tuple[Grant, ...]:
    """Return what the gate grants a pass for itself: something to one that is approximate, nothing to others."""
    return gate.grant(use.name) if use.pass_.effect == "approximate" else ()


@contextmanager
def graphs_left_behind(run: Run, step: Step, before: Model | None, after: Model) -> Iterator[None]:
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
