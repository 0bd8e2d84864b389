"""How a step is judged: a whole graph when the next step is known, a part when it is made.

The gate says what is equal. Here is what a run does about it: the verdict goes to the step, the values that the next
step asks for are kept, and where a pass is at fault the graphs around it are left behind.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

import numpy as np

from graphsurgery.capture.samples import Sample
from graphsurgery.debugging import failure
from graphsurgery.errors import CaptureError, Difference, GraphSurgeryError, InputError
from graphsurgery.gate.gate import Gate, Grant, Judged, Tensors
from graphsurgery.graph.joined_outputs import joins_of
from graphsurgery.graph.model import Model
from graphsurgery.graph.outside import stored_inside
from graphsurgery.partition import boundary_names
from graphsurgery.parts.part import Part
from graphsurgery.pipeline.changed_nodes import told_by_later
from graphsurgery.pipeline.changes import first_difference
from graphsurgery.pipeline.run import Run, Unjudged, timed
from graphsurgery.recipe.load import PassUse
from graphsurgery.report.run_record import Record, Step

Subject = TypeVar("Subject", Model, Part)

_MOST_BYTES = 2**30  # of the graphs that are kept because they were judged on one sample only


def judge_whole(
    run: Run, whole: Unjudged, names: Sequence[str] = (), *, complete: bool = True
) -> tuple[Judged[Model], list[Tensors]]:
    """Let the gate judge a whole graph by the captured outputs, and return it with the values of the tensors `names`.

    With `names`, what is returned for each sample holds the outputs of the graph too; without, nothing. On all samples
    where it is to be `complete`, where tensors are asked for or something was granted; else on the one that tells most,
    and not before a later graph is run, which tells most of what it computes (`changed_nodes`). Raises Difference where
    the step that made the graph broke it, or one before it, which one sample did not show.
    """
    values: list[Tensors] = [] if names else [{} for _ in run.samples]
    if run.gate is None:
        verdict: Judged[Model] = Judged(whole.subject)
        if names:
            with timed(run.record, "checks"):
                values.extend(boundary_names.played(whole.subject, names, run.samples))
        _finished(run, whole, verdict)
        return verdict, values
    size = sum(stored_inside(each.subject.proto) for each in (whole, *run.half_judged, *run.put_off))
    if not (complete or names or whole.granted or size > _MOST_BYTES):
        run.put_off.append(whole)
        return Judged(whole.subject), values
    sample = telling(run.samples, whole.subject.outputs)
    told = _judge_put_off(run, whole, names, sample)
    run.watcher.begin(f"check {whole.step.name}")
    try:
        verdict = _judge_on(run, whole, run.samples, names, values, {} if told is None else {sample.id: told})
    except Difference:
        _look_back(run)
        with _graphs_left_behind(run, whole):
            raise
    run.half_judged = []
    _finished(run, whole, verdict)
    return verdict, values


def _judge_put_off(run: Run, whole: Unjudged, names: Sequence[str], sample: Sample) -> Tensors | None:
    """Judge the graphs that were put off on a sample, and return what `whole` computes on it, None if it wasn't run."""
    if not run.put_off:
        return None
    run.watcher.begin(f"check {run.put_off[0].step.name}")
    with timed(run.record, "checks"):
        found, own = told_by_later([each.subject for each in run.put_off], whole.subject, names, sample)
    for outputs in found:
        each = run.put_off.pop(0)
        run.watcher.begin(f"check {each.step.name}")
        try:
            with _graphs_left_behind(run, each):
                verdict = _judge_on(run, each, [sample], told={} if outputs is None else {sample.id: outputs})
        except Difference:
            _forget_behind(run.record, each)
            raise
        _finished(run, each, verdict)
        run.half_judged.append(each)
    return own


def _finished(run: Run, whole: Unjudged, verdict: Judged[Model]) -> None:
    run.watcher.finished(whole.step)
    for step in whole.unchanged:
        step.verdict = verdict.verdict
        run.watcher.finished(step)


def _forget_behind(record: Record, whole: Unjudged) -> None:
    """Let the record end with a step that failed: those behind it worked on a broken graph."""
    steps = [id(step) for step in (whole.step, *whole.unchanged)]
    ends = [place for place, step in enumerate(record.passes, start=1) if id(step) in steps]
    del record.passes[max(ends, default=0) :]


def _judge_on(
    run: Run,
    whole: Unjudged,
    samples: Sequence[Sample],
    names: Sequence[str] = (),
    values: list[Tensors] | None = None,
    told: Mapping[str, Tensors] = MappingProxyType({}),
) -> Judged[Model]:
    """Judge a whole graph on some samples; what it computes is added to `values` where `names` are asked for.

    What is `told` of it, by the samples' ids, needs no run.
    """
    ends = whole.subject.outputs

    def played() -> Iterator[Tensors]:
        others = boundary_names.played(whole.subject, names, [each for each in samples if each.id not in told])
        for sample in samples:
            computed = told[sample.id] if sample.id in told else next(others)
            if names and values is not None:
                values.append(computed)
            yield {name: computed[name] for name in ends}

    unjudged = Judged(whole.subject, granted=whole.earlier)
    place, outputs, own, before = whole.place, whole.outputs, whole.own, whole.before
    return judge(run, whole.step, unjudged, played(), place, outputs, own, before, samples=samples)


def _look_back(run: Run) -> None:
    """Judge the graphs on all samples that were judged on one: where one of them is broken, the fault is its step's."""
    run.half_judged += run.put_off
    run.put_off = []
    while run.half_judged:
        earlier = run.half_judged.pop(0)
        with _graphs_left_behind(run, earlier):
            _judge_on(run, earlier, run.samples)


def _graphs_left_behind(run: Run, whole: Unjudged) -> AbstractContextManager[None]:
    return graphs_left_behind(run, whole.step, whole.graph_before, whole.subject)


def telling(samples: Sequence[Sample], outputs: Sequence[str]) -> Sample:
    """Return the sample with most in it, the first of equals: on an image without objects nothing can be wrong."""
    return max(samples, key=lambda sample: sum(math.prod(sample.shape(name)) for name in outputs if name in sample))


@contextmanager
def judged_first(run: Run, whole: Unjudged) -> Iterator[None]:
    """Where a step can't be done, judge the graph that it was given: if that is broken, the message is about that."""
    try:
        yield
    except GraphSurgeryError:
        judge_whole(run, whole)
        raise


@contextmanager
def looking_back(run: Run) -> Iterator[None]:
    """Where something fails that graphs judged on one sample alone may have broken, judge these on all first."""
    try:
        yield
    except GraphSurgeryError:
        _look_back(run)
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
    samples: Sequence[Sample] | None = None,
) -> Judged[Subject]:
    """Let the gate judge what `subject` computes on `samples`, all if None; return it with its verdict and its grants.

    What it computes is kept for the pass behind it, where that will be asked for; nothing comes behind the `last` one.
    """
    assert run.gate is not None
    granted = (*subject.granted, *own)
    begin = time.perf_counter()
    try:
        ruling = run.gate.judge(
            played,
            outputs,
            own=own,
            earlier=subject.granted,
            before=before,
            joins=joins_of(_model(subject.subject).proto),
            keep=subject.begins or (bool(granted) and not last),
            samples=samples,
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
    kept = ruling.outputs
    if subject.begins and kept is not None:  # copied, as what a session gave keeps all memory of that session
        kept = tuple({name: np.array(value) for name, value in each.items()} for each in kept)
    return Judged(subject.subject, ruling.verdict, granted, kept, subject.begins)


def _model(subject: Model | Part) -> Model:
    return subject.model if isinstance(subject, Part) else subject


def judge_as_cut(run: Run, step: Step, part: Judged[Part], place: str, *, followed: bool) -> Judged[Part]:
    """Let the gate judge a part as it was cut, on all samples, or on the one that tells most where it is `followed`.

    Then passes come that are judged on all: what the cut gets wrong on another sample shows there, and `complete` tells
    whose fault it is. Where something was granted it is judged on all here: a grant could hide it from then on.
    """
    assert run.gate is not None

    def judged(samples: Sequence[Sample]) -> Judged[Part]:
        assert run.gate is not None
        return judge(run, step, part, run.gate.play_part(part.subject, samples), place, samples=samples)

    if not followed or part.granted:
        return judged(run.samples)
    found = judged([telling(run.samples, part.subject.model.outputs)])
    return replace(found, on_all=lambda: judged(run.samples))


@contextmanager
def completed_first(part: Judged[Part]) -> Iterator[None]:
    """Where a step fails on a part that was judged on one sample alone, judge it on all: the fault may be older."""
    try:
        yield
    except GraphSurgeryError:
        part.complete()
        raise


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
            error.hint, first = failure.record(before, after, sample, run.failed, run.watcher.advance)
            if first is not None:
                run.record.first_difference = first_difference(before, after, first)
        raise
