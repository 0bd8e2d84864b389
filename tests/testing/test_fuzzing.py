import random
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

pytest.importorskip("hypothesis")

from graphsurgery.graph import constant, is_op, producer
from graphsurgery.graph.protos import walk_protos
from graphsurgery.rewrite import Editor, NodePass, Pass
from graphsurgery.testing import parse
from graphsurgery.testing.fuzzing import Builder, Case, check_case, fuzz

SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "fuzz"


@dataclass(frozen=True)
class FoldSum(NodePass):
    """Add(Add(x, a), b) -> Add(x, a + b), as it should be."""

    name = "fold-sum"
    effect = "exact"

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        inner = producer(node.inputs[0]) if is_op(node, "Add") else None
        if inner is None or not is_op(inner, "Add"):
            return
        a, b = self.read(inner.inputs[1]), self.read(node.inputs[1])
        if a is None or b is None:
            return edit.skip(node, "not constant")
        edit.replace(node, "Add", [inner.inputs[0], gs.Constant(self.named(edit), a + b)])

    def read(self, tensor: gs.Tensor) -> np.ndarray | None:
        return constant(tensor)

    def named(self, edit: Editor) -> str:
        return edit.fresh("sum")


@dataclass(frozen=True)
class OffByLittle(FoldSum):
    """Its sum is a little too large."""

    name = "off-by-little"

    def read(self, tensor: gs.Tensor) -> np.ndarray | None:
        value = constant(tensor)
        return None if value is None else value + np.float32(1e-3)


@dataclass(frozen=True)
class ClashingName(FoldSum):
    """Its constant has the same name wherever it comes from."""

    name = "clashing-name"

    def named(self, edit: Editor) -> str:
        return "sum"


@dataclass(frozen=True)
class Restless(FoldSum):
    """It writes another name each time."""

    name = "restless"

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if is_op(node, "Add") and "again" not in vars(edit):
            edit.again = True
            edit.set_input(node, 1, gs.Constant(edit.fresh("sum"), np.float32([node.inputs[1].values.sum()])))


@dataclass(frozen=True)
class Crashing(FoldSum):
    """It trips over its own feet."""

    name = "crashing"

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if is_op(node, "Add"):
            raise KeyError("feet")


def sums(build: Builder) -> list[str]:
    x = build.input(build.shape(rank=(1, 3)))
    return [build.node("Add", [build.node("Add", [x, build.weight([1])]), build.weight([1])])]


def drawn(pattern: object, seeds: range = range(300), pass_: Pass = FoldSum()) -> list[Case]:
    target = fuzz(pass_)(pattern).fuzzed
    cases = (target.draw(random.Random(seed).randint)[1] for seed in seeds)
    return [case for case in cases if case is not None]


def test_a_pass_that_is_right_passes() -> None:
    fuzz(FoldSum())(sums)()


@pytest.mark.parametrize(
    ("pass_", "message"),
    [
        (OffByLittle(), "Not equal to tolerance"),
        (ClashingName(), "not valid any more|more than one|it fails|broken graph|Not equal"),
        (Restless(), "a second run changes it again|it fails"),
        (Crashing(), "KeyError"),
    ],
)
def test_a_pass_that_is_wrong_is_found(pass_: Pass, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        fuzz(pass_, examples=200)(sums)()


def test_the_failure_shows_the_model_and_what_it_was_fed() -> None:
    with pytest.raises(AssertionError) as failure:
        fuzz(OffByLittle(), examples=200)(sums)()
    assert "Add (" in str(failure.value)
    assert "--- after" in str(failure.value)


def test_a_pass_that_never_rewrites_anything_fails() -> None:
    def products(build: Builder) -> list[str]:
        return [build.node("Mul", [build.input([2]), build.weight([2])])]

    with pytest.raises(AssertionError, match="rewrote nothing"):
        fuzz(FoldSum())(products)()


def test_the_options_of_a_pass_can_be_drawn() -> None:
    target = fuzz(lambda build: build.choice([FoldSum(), Crashing()]))(sums).fuzzed
    passes = {type(target.draw(random.Random(seed).randint)[0]) for seed in range(20)}
    assert passes == {FoldSum, Crashing}


def test_one_pattern_is_seen_in_bodies_with_open_sizes_and_with_weights_that_are_inputs() -> None:
    seen: Counter[str] = Counter()
    for case in drawn(sums):
        onnx.checker.check_model(case.model, full_check=True)
        ops = {node.op_type for node in walk_protos(case.model.graph)}
        weights = {tensor.name for tensor in case.model.graph.initializer}
        dims = [dim for info in case.model.graph.input for dim in info.type.tensor_type.shape.dim]
        seen.update(
            {
                "If": "If" in ops,
                "Loop": "Loop" in ops,
                "Constant": "Constant" in ops,
                "overridden": any(name in weights for name in case.inputs),
                "open": any(dim.dim_param for dim in dims),
                "static": all(dim.HasField("dim_value") for dim in dims),
                "more outputs": len(case.model.graph.output) > 1,
                "types inside": len(case.model.graph.value_info) > 0,
                "collision": "sum" in str(case),
                "opset 9": case.model.opset_import[0].version == 9,
            }
        )
    assert all(seen[kind] > 0 for kind in seen), seen


def test_the_same_seed_draws_the_same_case() -> None:
    one, other = drawn(sums, range(20)), drawn(sums, range(20))
    assert [repr(case) for case in one] == [repr(case) for case in other]


def test_a_model_that_nothing_can_run_counts_as_no_model() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[2, 3] x, float[2, 3] y) => (float[2, 3] z) {
            z = MatMul (x, y)
        }"""
    ones = np.ones((2, 3), np.float32)
    assert check_case(FoldSum(), Case(parse(text), {"x": ones, "y": ones})) == "no valid model"


def test_the_script_prints_figures_and_repeats_one_case() -> None:
    def script(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)

    run = script("replace-unit-maxpool", "--cases", "30", "--workers", "1")
    assert run.returncode == 0, run.stderr
    head, line = run.stdout.splitlines()
    assert head.split()[:2] == ["pass", "cases"]
    assert line.split()[:2] == ["replace-unit-maxpool", "30"]
    assert "replace-unit-maxpool: {'" in script("replace-unit-maxpool", "--seed", "3").stdout
    beside = script("drop-preprocessing", "--seed", "3")  # its test imports a file that lies beside it
    assert beside.returncode == 0, beside.stderr
    unknown = script("no-such-pass", "--cases", "1")
    assert unknown.returncode == 1
    assert "give the name of a pass" in unknown.stderr
