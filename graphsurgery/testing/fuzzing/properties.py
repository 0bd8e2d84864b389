"""What must hold of a pass, whatever it is applied to, and the decorator that tests it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np
import onnx
from onnx import ModelProto

from graphsurgery.devices import session
from graphsurgery.errors import GraphSurgeryError, ModelError
from graphsurgery.graph import names as naming
from graphsurgery.graph.model import Model
from graphsurgery.graph.protos import walk_protos
from graphsurgery.graph.renaming import rename_tensors
from graphsurgery.graph.view import tensor_type
from graphsurgery.rewrite import Editor, NodePass, Pass, apply_pass
from graphsurgery.testing import assert_same_values
from graphsurgery.testing.asserts import largest
from graphsurgery.testing.fuzzing.builder import OPSETS, Builder, Case, Draw
from graphsurgery.testing.fuzzing.twists import Rejected

EXAMPLES = 50  # of a test in the default run; scripts/fuzz goes on for as long as it is told
PATIENCE = 500  # further cases, until the pass has rewritten one

Outcome = Literal["rewritten", "refused", "untouched", "stopped", "no valid model", "not comparable"]


@dataclass(frozen=True)
class Fuzzed:
    """A pass, or how one is drawn, and the function that draws a graph for it."""

    pass_: Pass | Callable[[Builder], Pass]
    pattern: Callable[[Builder], Sequence[str]]
    opsets: Sequence[int] = OPSETS

    def draw(self, draw: Draw) -> tuple[Pass, Case | None]:
        """Draw a pass and a model for it; None where what was drawn is no model."""
        build = Builder(draw, self.opsets[draw(0, len(self.opsets) - 1)])
        pass_ = self.pass_ if isinstance(self.pass_, Pass) else self.pass_(build)
        try:
            case = build.finish(self.pattern(build))
            onnx.checker.check_model(case.model, full_check=True)
        except (Rejected, onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
            return pass_, None
        return pass_, _collided(pass_, case, build) if build.chance(3) else case


@dataclass
class Tally:
    """What became of the cases."""

    counts: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        self.counts[outcome] += 1

    @property
    def total(self) -> int:
        """The number of cases."""
        return self.counts.total()


def fuzz(
    pass_: Pass | Callable[[Builder], Pass], *, opsets: Sequence[int] = OPSETS, examples: int = EXAMPLES
) -> Callable[[Callable[[Builder], Sequence[str]]], Callable[[], None]]:
    """Make a test of a function that draws a graph and returns the names of its outputs.

    `pass_` may be a function that draws the options of the pass. The test fails with the smallest model that
    hypothesis finds, and when the pass never rewrites anything.
    """

    def decorate(pattern: Callable[[Builder], Sequence[str]]) -> Callable[[], None]:
        target = Fuzzed(pass_, pattern, opsets)

        def test() -> None:
            tally = Tally()
            _explore(target, tally, examples)
            for seed in range(PATIENCE):  # hypothesis begins with the plainest graphs, and other versions with others
                if tally.counts["rewritten"]:
                    break
                drawn, case = target.draw(random.Random(seed).randint)
                tally.add("no valid model" if case is None else check_case(drawn, case))
            assert tally.counts["rewritten"], f"in {tally.total} cases the pass rewrote nothing: {dict(tally.counts)}"

        for name in ("__name__", "__qualname__", "__module__", "__doc__"):
            setattr(test, name, getattr(pattern, name))
        test.fuzzed = target  # type: ignore[attr-defined]
        return test

    return decorate


def _explore(target: Fuzzed, tally: Tally, examples: int) -> None:
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    @st.composite
    def drawn(draw: Any) -> tuple[Pass, Case | None]:
        return target.draw(lambda low, high: draw(st.integers(low, high)))

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(drawn())
    def explore(case: tuple[Pass, Case | None]) -> None:
        tally.add("no valid model" if case[1] is None else check_case(case[0], case[1]))

    explore()


def check_case(pass_: Pass, case: Case) -> Outcome:
    """Apply `pass_` to a drawn model and return what became of it. Raises AssertionError where the pass is at fault."""
    expected = None
    for judge in (_onnxruntime, _reference):
        expected = _outputs(judge, case)
        if expected is not None:
            break
    if expected is None:
        return "no valid model"
    before = Model(case.model)
    try:
        applied = apply_pass(pass_, before)
    except GraphSurgeryError as error:
        if error.__cause__ is None:  # the pass says so itself; a cause means that it crashed
            return "stopped"
        raise AssertionError(f"{error}\n{case}") from error
    after = applied.model
    # what goes anyway, such as unused nodes, is not the doing of the pass
    same = after.fingerprint == before.fingerprint
    if same or after.fingerprint == apply_pass(_CLEAN_UP, before).model.fingerprint:
        return "refused" if applied.skips else "untouched"

    def told(what: str) -> AssertionError:
        return AssertionError(f"{what}\n{case}\n--- after\n{onnx.printer.to_text(after.proto)}")

    try:
        onnx.checker.check_model(_without(case.claimed, after.proto), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise told(f"the model is not valid any more: {error}") from error
    again = apply_pass(pass_, after).model
    if again.fingerprint != after.fingerprint:
        raise told(f"a second run changes it again\n{onnx.printer.to_text(again.proto)}")
    given = {name: value for name, value in case.inputs.items() if name in _input_names(after.proto)}
    try:
        got = judge(after.proto, given)
    except Exception as error:  # onnxruntime may lack a kernel for the new operator; otherwise the pass broke it
        try:
            expected, got = _reference(case.model, case.inputs), _reference(after.proto, given)
        except Exception:
            if isinstance(error, ModelError) and "NOT_IMPLEMENTED" in str(error):
                return "not comparable"
            raise told(f"it does not run any more: {error}") from error
    try:
        # numbers of the size of 1 arise inside whatever goes in: onnxruntime's Sigmoid is off by 6e-8 however small
        scale = max(1.0, largest(case.inputs))
        assert_same_values(expected, got, scale=scale, values=pass_.effect == "exact")
    except AssertionError as error:
        raise told(str(error)) from error
    return "rewritten"


def _without(claimed: Collection[str], model: ModelProto) -> ModelProto:
    """Return the model without what was written down wrongly: some operators are checked against it, others not."""
    told = ModelProto()
    told.CopyFrom(model)
    left = [info for info in model.graph.value_info if info.name not in claimed]
    del told.graph.value_info[:]
    told.graph.value_info.extend(left)
    return told


@dataclass(frozen=True)
class _CleanUp(NodePass):
    """What happens after every pass: unused nodes go, the rest is sorted."""

    name = "clean-up"
    effect = "exact"

    def rewrite(self, node: Any, edit: Editor) -> None:
        return


_CLEAN_UP = _CleanUp()


def _onnxruntime(model: ModelProto, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return session.Session(model, threads=1).run(inputs)


def _reference(model: ModelProto, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    from onnx.reference import ReferenceEvaluator

    names = [info.name for info in model.graph.output]
    own = [_batch_normalization()] if any(not e.domain and 9 <= e.version < 14 for e in model.opset_import) else []
    with np.errstate(all="ignore"):
        found = ReferenceEvaluator(model, new_ops=own).run(None, inputs)
        return dict(zip(names, map(np.asarray, found), strict=True))


@cache
def _batch_normalization() -> type[Any]:
    """Return the operator of operator sets 9 to 13, by its given statistics; onnx 1.23 mixes in those of the batch."""
    from onnx.reference.op_run import OpRun

    class BatchNormalization(OpRun):
        op_domain = ""

        def _run(
            self, x: np.ndarray, *parameters: np.ndarray, epsilon: float = 1e-5, **others: object
        ) -> tuple[np.ndarray]:
            shape = (1, -1, *[1] * (x.ndim - 2))
            scale, bias, mean, variance = (each.reshape(shape) for each in parameters)
            return (((x - mean) / np.sqrt(variance + epsilon) * scale + bias).astype(x.dtype),)

    return BatchNormalization


def _outputs(judge: Callable[..., dict[str, np.ndarray]], case: Case) -> dict[str, np.ndarray] | None:
    try:
        found = judge(case.model, case.inputs)
    except Exception:  # whatever an evaluator says to a model that it can't run
        return None
    if not all(isinstance(value, np.ndarray) for value in found.values()):  # or a sequence
        return None
    # onnx 1.22's own evaluator gives a dilated Conv of SAME fewer elements than onnx infers
    outputs = case.model.graph.output if judge is _reference else ()
    return found if all(_has_shape(found[info.name], info, case) for info in outputs) else None


def _has_shape(value: np.ndarray, info: onnx.ValueInfoProto, case: Case) -> bool:
    """Whether `value` has the sizes that the model gives for it, if any, or these are known to be wrong."""
    _, shape = tensor_type(info)
    if shape is None or info.name in case.claimed:
        return True
    return len(shape) == value.ndim and all(
        not isinstance(size, int) or size == seen for size, seen in zip(shape, value.shape, strict=True)
    )


def _collided(pass_: Pass, case: Case, build: Builder) -> Case:
    """Return the case with tensors that have the very names which the pass gives to new ones."""
    try:
        after = apply_pass(pass_, Model(case.model)).model
    except GraphSurgeryError:
        return case
    old = sorted(naming.tensor_names(case.model))
    nodes = {node.name for node in walk_protos(after.proto.graph)} - {n.name for n in walk_protos(case.model.graph)}
    new = sorted((naming.tensor_names(after.proto) | nodes) - {*old, ""})
    names = {build.choice(old): name for name in new if build.chance(2)}
    model = rename_tensors(Model(case.model), names).proto
    inputs = {names.get(name, name): value for name, value in case.inputs.items()}
    return Case(model, inputs, frozenset(names.get(name, name) for name in case.claimed))


def _input_names(model: ModelProto) -> set[str]:
    return {info.name for info in model.graph.input}
