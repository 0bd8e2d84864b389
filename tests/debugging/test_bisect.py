"""Faults put into models on purpose: the place that bisect names is the place where the fault was put."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Applied, Cli
from onnx import ModelProto, helper, numpy_helper

from graphsurgery.capture.samples import Sample
from graphsurgery.debugging import failure
from graphsurgery.debugging.bisect import bisect, bisect_files, read_samples
from graphsurgery.debugging.divergence import Bisection, Divergence
from graphsurgery.debugging.outline import Outline, constant_of
from graphsurgery.debugging.stepping import Steps
from graphsurgery.errors import InputError
from graphsurgery.gate.equivalence import Tolerances
from graphsurgery.graph.model import Model
from graphsurgery.progress import Silent
from graphsurgery.rewrite import BATCH_NOTE, apply_pass
from graphsurgery.rewrite.registry import discover
from graphsurgery.testing import parse, random_inputs

HEAD = '<ir_version: 8, opset_import: ["": 17]>\n'

CHAIN = """
g (float[4] x) => (float[4] y) {
    a = Abs (x)
    b = Sqrt (a)
    c = Neg (b)
    y = Identity (c)
}"""

BRANCH = """
g (float[4] x, bool flag) => (float[4] y) {
    a = Abs (x)
    b = If (flag) <
        then_branch = g1 () => (float[4] r) { p = Sqrt (a)  q = Neg (p)  r = Exp (q) },
        else_branch = g2 () => (float[4] s) { t = Neg (a)  s = Exp (t) }>
    y = Neg (b)
}"""

# Adds 1, then in every iteration twice the iteration's number
LOOP = """
g (float[3] x) => (float[3] y, float[n, 3] all)
<int64 count = {5}, bool go = {1}, float two = {2}, int64 third = {2}, float extra = {0.5}> {
    start = Neg (x)
    y, all = Loop (count, go, start) <
        body = turn (int64 i, bool on, float[3] v) => (bool still, float[3] next, float[3] seen) {
            still = Identity (on)
            n = Cast <to = 1> (i)
            step = Mul (n, two)
            next = Add (v, step)
            seen = Identity (next)
        }>
}"""

SCAN = """
g (float[2] x, float[4, 2] rows) => (float[2] y, float[4, 2] sums) {
    y, sums = Scan <num_scan_inputs = 1, body = turn (float[2] sum, float[2] row) => (float[2] next, float[2] out) {
        half = Neg (row)
        next = Add (sum, half)
        out = Identity (next)
    }> (x, rows)
}"""


def model(text: str) -> Model:
    return Model(parse(HEAD + text.strip()))


def search(
    a: Model | str,
    b: Model | str,
    inputs: dict[str, np.ndarray] | None = None,
    tolerances: dict[str, float] | None = None,
) -> Bisection:
    one, other = (model(side) if isinstance(side, str) else side for side in (a, b))
    given = random_inputs(one.proto) | (inputs or {})
    return bisect(one, other, given.__getitem__, Tolerances.parse(tolerances or {}), outputs=True)


def first(a: Model | str, b: Model | str, inputs: dict[str, np.ndarray] | None = None) -> Divergence:
    found = search(a, b, inputs)
    assert found.divergences, "no difference was found"
    return found.divergences[0]


# Each Mul stands for a Conv with a BatchNormalization behind it; x is from 0 on, so that no Relu hides anything
TWO_LAYERS = """
g (float[4] x) => (float[4] y)
<float[4] w = {1, 2, 3, 4}, float[4] scale = {5, 6, 7, 8}, float[4] v = {2, 2, 3, 3}, float[4] other = {4, 3, 2, 1}> {
    conv1 = Mul (x, w)
    bn1 = Mul (conv1, scale)
    relu1 = Relu (bn1)
    conv2 = Mul (relu1, v)
    bn2 = Mul (conv2, other)
    relu2 = Relu (bn2)
    y = Neg (relu2)
}"""
# What onnxsim makes of it: the first node of each pair takes the second one in, and its output keeps its name
FOLDED = """
g (float[4] x) => (float[4] y)
<float[4] w = {5, 12, 21, 32}, float[4] v = {8, 6, 6, 3}> {
    conv1 = Mul (x, w)
    relu1 = Relu (conv1)
    conv2 = Mul (relu1, v)
    relu2 = Relu (conv2)
    y = Neg (relu2)
}"""


# --- a chain ----------------------------------------------------------------------------------------------------


def test_a_model_is_equal_to_itself() -> None:
    found = search(CHAIN, CHAIN)
    assert found.divergences == ()
    assert found.compared == 4
    assert [report.verdict for report in found.outputs] == ["passed"]


def test_the_first_tensor_that_differs_is_named_and_not_those_behind_it() -> None:
    found = search(CHAIN, CHAIN.replace("Sqrt (a)", "Exp (a)"))
    assert [each.tensor for each in found.divergences] == ["b"]
    seen = found.divergences[0]
    assert seen.after == ("a",)
    assert (seen.between_a, seen.between_b) == (("Sqrt 'b'",), ("Exp 'b'",))
    assert seen.inherent
    assert seen.changes == ("Sqrt became Exp",)
    assert [report.verdict for report in found.outputs] == ["failed"]


def test_nodes_that_only_one_side_has_are_passed_over_and_listed() -> None:
    split = CHAIN.replace("b = Sqrt (a)", "half = Mul (a, w)\n    b = Sqrt (half)").replace(
        "(float[4] y) {", "(float[4] y)\n<float w = {0.9}> {"
    )
    seen = first(CHAIN, split)
    assert seen.tensor == "b"
    assert seen.after == ("a",)
    assert seen.between_a == ("Sqrt 'b'",)
    assert seen.between_b == ("Mul 'half'", "Sqrt 'b'")


def test_an_equal_rewrite_under_new_names_is_no_difference() -> None:
    rewritten = CHAIN.replace("b = Sqrt (a)", "u = Neg (a)\n v = Neg (u)\n b = Sqrt (v)")
    assert search(CHAIN, rewritten).divergences == ()


def test_differences_that_do_not_depend_on_each_other_are_all_listed() -> None:
    text = "g (float[4] x) => (float[4] y) { a = Exp (x)  b = Neg (x)  y = Add (a, b) }"
    found = search(text, text.replace("Exp (x)", "Sin (x)").replace("Neg (x)", "Abs (x)"))
    assert [each.tensor for each in found.divergences] == ["a", "b"]


def test_a_name_that_a_fold_has_moved_is_no_difference() -> None:
    found = search(TWO_LAYERS, FOLDED, {"x": np.arange(4, dtype=np.float32)})
    assert found.divergences == ()
    assert found.notes == (
        "not compared, since what writes and what reads them has changed, as in a fold: 'conv1', 'conv2'",
    )


@pytest.mark.parametrize(
    ("old", "new", "tensor", "between"),
    [
        ("Neg (relu2)", "Abs (relu2)", "y", (("Neg 'y'",), ("Abs 'y'",))),
        (
            "{8, 6, 6, 3}",
            "{8, 6, 6, 4}",
            "relu2",
            (("Mul 'conv2'", "Mul 'bn2'", "Relu 'relu2'"), ("Mul 'conv2'", "Relu 'relu2'")),
        ),
        (
            "{5, 12,",
            "{6, 12,",
            "relu1",
            (("Mul 'conv1'", "Mul 'bn1'", "Relu 'relu1'"), ("Mul 'conv1'", "Relu 'relu1'")),
        ),
    ],
    ids=["behind the folds", "in the second fold", "in the first fold"],
)
def test_a_fault_beside_folds_is_found_where_it_is(old: str, new: str, tensor: str, between: tuple[Any, ...]) -> None:
    seen = first(TWO_LAYERS, FOLDED.replace(old, new), {"x": np.arange(1, 5, dtype=np.float32)})
    assert seen.tensor == tensor
    assert (seen.between_a, seen.between_b) == between
    assert seen.inherent


def test_a_failed_run_does_not_point_to_a_name_that_a_fold_has_moved(tmp_path: Path) -> None:
    before, after = model(TWO_LAYERS), model(FOLDED.replace("Neg (relu2)", "Abs (relu2)"))
    (tmp_path / "1").mkdir()
    np.save(tmp_path / "1" / "x.npy", np.arange(1, 5, dtype=np.float32))
    sample = Sample("1", tmp_path / "1", None, 1, 1)
    hint = failure.record(before, after, sample, tmp_path / "failed", lambda done, total: None)
    assert hint.startswith("first difference: tensor 'y' (Neg 'y' in A, Abs 'y' in B): ")


def test_a_failed_run_fills_up_the_rows_of_a_frozen_batch_and_leaves_its_parameters_whole(tmp_path: Path) -> None:
    text = "g (float[N, 2] x, float[2, 4] p) => (float[N, 4] y) { h = MatMul (x, p)  y = Abs (h) }"
    before, after = model(text), model(text.replace("N", "3").replace("Abs", "Neg"))
    helper.set_model_props(after.proto, {BATCH_NOTE: json.dumps({"size": 3, "parameters": ["p"]})})
    given = {"x": np.ones((1, 2), np.float32), "p": np.arange(8, dtype=np.float32).reshape(2, 4)}
    (tmp_path / "1").mkdir()
    for name, value in given.items():
        np.save(tmp_path / "1" / f"{name}.npy", value)
    sample = Sample("1", tmp_path / "1", None, 1, 1)
    hint = failure.record(before, after, sample, tmp_path / "failed", lambda done, total: None)
    assert hint.startswith("first difference: tensor 'y' (Abs 'y' in A, Neg 'y' in B): ")
    kept = {name: np.load(tmp_path / "failed" / "inputs" / f"{name}.npy") for name in given}
    np.testing.assert_array_equal(kept["x"], [[1, 1], [0, 0], [0, 0]])
    np.testing.assert_array_equal(kept["p"], given["p"])


def test_a_changed_weight_is_where_it_is_though_folds_are_elsewhere() -> None:
    changed = TWO_LAYERS.replace("{1, 2, 3, 4}", "{1, 2, 3, 5}")
    assert first(TWO_LAYERS, changed, {"x": np.arange(1, 5, dtype=np.float32)}).tensor == "conv1"


def test_a_node_lost_behind_a_tensor_does_not_move_its_name() -> None:
    lost = CHAIN.replace("    b = Sqrt (a)\n", "").replace("Neg (b)", "Neg (a)")
    seen = first(CHAIN, lost)
    assert (seen.tensor, seen.after) == ("c", ("a",))


def test_what_onnxsim_folds_does_not_hide_a_fault_behind_it() -> None:
    layers = """
    g (float[1, 3, 8, 8] x) => (float[1, 2, 8, 8] y)
    <float[2, 3, 1, 1] w = {1, 2, 3, 4, 5, 6}, float[2] s = {3, 2}, float[2] b = {1, 2}, float[2] m = {0.5, 1},
     float[2] v = {4, 5}> {
        conv = Conv (x, w)
        bn = BatchNormalization (conv, s, b, m, v)
        relu = Relu (bn)
        y = Sin (relu)
    }"""
    before = model(layers)
    after = apply_pass(discover().get("simplify")(), before).model
    assert "conv" in Outline(after).writer, "onnxsim gives the folded Conv's output the old name"
    assert search(before, after).divergences == ()
    proto = ModelProto()
    proto.CopyFrom(after.proto)
    next(node for node in proto.graph.node if node.op_type == "Sin").op_type = "Cos"
    assert first(before, Model(proto)).tensor == "y"


def test_an_output_that_heals_is_reported_as_equal() -> None:
    text = "g (float[4] x) => (float[4] y)\n<float zero = {0}> { a = Neg (x)  y = Mul (a, zero) }"
    found = search(text, text.replace("Neg (x)", "Exp (x)"))
    assert found.divergences[0].tensor == "a"
    assert found.outputs[0].verdict != "failed"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ("Concat <axis = 0> (a, a)", "shape [8] where A has [4]"),
        ("Cast <to = 11> (a)", "dtype float64 where A has float32"),
    ],
)
def test_another_shape_or_type_is_a_difference(changed: str, reason: str) -> None:
    text = "g (float[4] x) => (y) { a = Abs (x)  b = Identity (a)  y = Shape (b) }"
    seen = first(text, text.replace("Identity (a)", changed))
    assert seen.tensor == "b"
    assert reason in seen.report.reason


def test_a_not_a_number_is_a_difference() -> None:
    inputs = {"x": np.array([1, 4, 9, 0], np.float32)}
    text = "g (float[4] x) => (float[4] y)\n<float w = {1}> { a = Abs (x)  b = Div (a, w)  y = Identity (b) }"
    seen = first(text, text.replace("Div (a, w)", "Div (a, a)"), inputs)
    assert seen.tensor == "b"
    assert "NaN" in seen.report.reason


def test_a_node_that_does_not_run_in_b_is_the_place() -> None:
    text = "g (float[4] x) => (y)\n<int64[2] to = {2, 2}> { a = Abs (x)  b = Reshape (a, to)  y = Neg (b) }"
    found = search(text, text.replace("{2, 2}", "{3, 3}"))
    seen = found.divergences[0]
    assert seen.tensor == "b"
    assert seen.inherent
    assert "Reshape 'b'" in seen.failure
    assert seen.explain().startswith("tensor 'b' (Reshape 'b'): B can't compute it")
    assert found.outputs[0].verdict == "failed"


def test_a_model_that_does_not_run_is_the_users_fault() -> None:
    text = "g (float[4] x) => (y)\n<int64[2] to = {3, 3}> { a = Abs (x)  y = Reshape (a, to) }"
    with pytest.raises(InputError, match=r"A can't be run: node Reshape 'y'"):
        search(text, text)


def test_a_tiny_difference_that_only_grows_is_told_from_one_that_is_made() -> None:
    # 1e-6 of the input is allowed; the subtraction leaves nothing but that
    text = (
        "g (float[4] x) => (float[4] y)\n<float one = {1}, float[4] w = {1, 1, 1, 1}> "
        "{ a = Mul (x, w)  b = Sub (a, one)  y = Identity (b) }"
    )
    inputs = {"x": np.array([1.0001, 1.0002, 0.9999, 1], np.float32)}
    seen = first(text, text.replace("{1, 1, 1, 1}", "{1.000001, 1, 1, 1}"), inputs)
    assert seen.tensor == "b"
    assert seen.inherent is False
    assert seen.drift == pytest.approx(1e-6, rel=0.2)
    assert "amplified" in seen.cause


def test_a_tolerance_by_name_is_kept() -> None:
    other = CHAIN.replace("b = Sqrt (a)", "s = Sqrt (a)\n b = Mul (s, w)")
    other = other.replace("(float[4] y) {", "(float[4] y)\n<float w = {1.001}> {")
    assert search(CHAIN, other).divergences
    assert not search(CHAIN, other, tolerances={"*": 0.1}).divergences


def test_a_constant_that_was_folded_wrongly_is_found() -> None:
    text = "g (float[2] x) => (float[2] y)\n<float[2] w = {1, 2}> { k = Neg (w)  y = Add (x, k) }"
    folded = "g (float[2] x) => (float[2] y)\n<float[2] k = {-1, 2}> { y = Add (x, k) }"
    found = search(text, folded)
    assert {each.tensor for each in found.divergences} == {"k"}
    assert "an initializer" in found.divergences[0].explain()


def test_changed_attributes_and_weights_are_told() -> None:
    text = (
        "g (float[1, 1, 4, 4] x) => (y)\n<float[1, 1, 1, 1] w = {2}> "
        "{ a = Conv <dilations = [1, 1]> (x, w)  y = Neg (a) }"
    )
    assert first(text, text.replace("{2}", "{3}")).changes == ("the constant input 1, 'w' has other values",)
    seen = first(text, text.replace("<dilations = [1, 1]>", "<dilations = [1, 1], strides = [3, 3]>"))
    assert seen.changes == ("strides: not written out in A, [3, 3] in B",)


def test_nodes_in_any_order_are_walked_in_that_of_the_data() -> None:
    proto = model(CHAIN).proto
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(nodes))
    assert first(Model(proto), CHAIN.replace("Sqrt (a)", "Exp (a)")).tensor == "b"


def test_b_may_begin_at_an_inner_tensor_of_a() -> None:
    later = "g (float[4] b) => (float[4] y) { c = Neg (b)  y = Identity (c) }"
    assert search(CHAIN, later).divergences == ()
    assert first(CHAIN, later.replace("Neg (b)", "Exp (b)")).tensor == "c"


def test_sizes_that_are_computed_can_be_read_by_a_node_alone() -> None:
    # ONNX's inference refuses this Resize where the number of its sizes is not known
    text = """
    g (float[1, 1, 2, 2] x) => (y)
    <int64[2] to = {4, 4}> {
        s = Shape <end = 2> (x)
        sizes = Concat <axis = 0> (s, to)
        a = Resize <mode = "nearest"> (x, , , sizes)
        y = Neg (a)
    }"""
    assert search(text, text).divergences == ()
    assert first(text, text.replace('"nearest"', '"linear"')).tensor == "a"


# --- random nodes, sequences, text ------------------------------------------------------------------------------

RANDOM = "g (float[4] x) => (float[4] y) { r = RandomNormalLike (x)  a = Add (x, r)  y = Neg (a) }"


def test_random_values_of_a_are_given_to_b() -> None:
    found = search(RANDOM, RANDOM)
    assert found.divergences == ()
    assert any("random: 'r'" in note for note in found.notes)
    assert first(RANDOM, RANDOM.replace("Neg (a)", "Exp (a)")).tensor == "y"


def test_nothing_is_said_of_what_depends_on_random_values_of_one_side() -> None:
    found = search(RANDOM, RANDOM.replace("r = ", "q = ").replace("(x, r)", "(x, q)"))
    assert found.divergences == ()
    assert any("only on one side: 'q', 'r'" in note for note in found.notes)


def test_a_dropout_that_drops_nothing_is_not_random() -> None:
    text = "g (float[4] x) => (float[4] y) { a = Dropout (x)  y = Neg (a) }"
    found = search(text, text.replace("Neg (a)", "Exp (a)"))
    assert found.notes == ()
    assert found.divergences[0].tensor == "y"


def test_sequences_are_compared_tensor_by_tensor() -> None:
    text = (
        "g (float[4] x) => (float[4] y)\n<int64 at = {1}> "
        "{ a = Neg (x)  s = SequenceConstruct (x, a)  y = SequenceAt (s, at) }"
    )
    assert search(text, text).divergences == ()
    assert first(text, text.replace("(x, a)", "(a, x)")).tensor == "s"
    assert "a sequence of 1 tensors where A has 2 tensors" in first(text, text.replace("(x, a)", "(a)")).report.reason


def test_text_is_compared() -> None:
    text = "g (string[2] x) => (y)\n<int64[1] at = {0}> { a = Identity (x)  y = Gather (a, at) }"
    inputs = {"x": np.array(["first", "b"])}
    one, other = model(text), model(text.replace("{0}", "{1}"))
    assert bisect(one, one, inputs.__getitem__, Tolerances()).divergences == ()
    seen = bisect(one, other, inputs.__getitem__, Tolerances()).divergences[0]
    assert (seen.tensor, seen.report.reason) == ("y", "1 of 1 strings differ")


# --- bodies -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "old", "new", "branch", "tensor"),
    [
        (True, "p = Sqrt (a)", "p = Sin (a)", "then_branch", "p"),
        (False, "s = Exp (t)", "s = Sin (t)", "else_branch", "s"),
    ],
)
def test_a_fault_in_a_branch_is_found_inside_it(flag: bool, old: str, new: str, branch: str, tensor: str) -> None:
    inputs = {"flag": np.array(flag)}
    seen = first(BRANCH, BRANCH.replace(old, new), inputs)
    assert seen.path == (f"If 'b' {branch}",)
    assert seen.tensor == tensor
    assert seen.place == f"If 'b' {branch} > tensor '{tensor}'"
    assert search(BRANCH, BRANCH.replace(old, new), {"flag": np.array(not flag)}).divergences == ()


def test_a_branch_whose_names_all_changed_is_matched_by_its_outputs() -> None:
    other = BRANCH.replace("p = Sqrt (a)  q = Neg (p)  r = Exp (q)", "k = Sqrt (a)  l = Abs (k)  m = Exp (l)")
    other = other.replace("(float[4] r)", "(float[4] m)")
    seen = first(BRANCH, other, {"flag": np.array(True)})
    assert seen.tensor == "r"
    assert seen.after == ("a",)
    assert seen.between_b == ("Sqrt 'k'", "Abs 'l'", "Exp 'm'")


def test_a_condition_that_differs_is_told() -> None:
    text = BRANCH.replace("b = If (flag)", "no = Not (flag)\n b = If (no)")
    found = search(BRANCH, text, {"flag": np.array(True)})
    assert found.divergences[0].tensor == "b"
    assert any("its condition is True in A and False in B" in note for note in found.notes)


def test_the_first_iteration_that_differs_is_named() -> None:
    # from the third on, whose number is 2, the step is larger
    other = LOOP.replace(
        "step = Mul (n, two)",
        "plain = Mul (n, two)\n late = Equal (i, third)\n f = Cast <to = 1> (late)\n"
        " e = Mul (f, extra)\n step = Add (plain, e)",
    )
    seen = first(LOOP, other)
    assert seen.place == "Loop 'y' iteration 3 > tensor 'step'"
    assert seen.between_a == ("Mul 'step'",)
    assert seen.inherent


def test_another_number_of_iterations_is_told() -> None:
    found = search(LOOP, LOOP.replace("count = {5}", "count = {4}"))
    assert found.divergences[0].tensor == "y"
    assert any("it ends after 4 iterations in B alone" in note for note in found.notes)


def test_a_loop_that_ends_earlier_by_its_condition_differs_in_the_condition() -> None:
    other = LOOP.replace("still = Identity (on)", "still = Less (i, third)")
    seen = first(LOOP, other)
    assert seen.place == "Loop 'y' iteration 3 > tensor 'still'"


def test_a_fault_in_a_scan_is_found_inside_it() -> None:
    rows = np.array([[0, 0], [0, 0], [1, 2], [3, 4]], np.float32)
    assert search(SCAN, SCAN, {"rows": rows}).divergences == ()
    seen = first(SCAN, SCAN.replace("Neg (row)", "Sin (row)"), {"rows": rows})
    assert seen.place == "Scan 'y' iteration 3 > tensor 'half'"


def test_a_scan_that_runs_backwards_meets_the_last_row_first() -> None:
    text = SCAN.replace("num_scan_inputs = 1,", "num_scan_inputs = 1, scan_input_directions = [1],")
    rows = np.array([[1, 2], [0, 0], [1, 2], [0, 0]], np.float32)
    seen = first(text, text.replace("Neg (row)", "Sin (row)"), {"rows": rows})
    assert seen.path == ("Scan 'y' iteration 2",)


def test_a_branch_in_a_loop_is_entered_too() -> None:
    text = LOOP.replace(
        "step = Mul (n, two)",
        "at = Equal (i, third)\n step = If (at) <then_branch = g1 () => (float p) { p = Mul (n, two) }, "
        "else_branch = g2 () => (float q) { q = Add (n, n) }>",
    )
    assert search(text, text).divergences == ()
    seen = first(text, text.replace("p = Mul (n, two)", "p = Sub (n, two)"))
    assert seen.place == "Loop 'y' iteration 3 > If 'step' then_branch > tensor 'p'"


def test_a_branch_that_became_plain_nodes_is_compared_as_a_whole() -> None:
    flat = "g (float[4] x, bool flag) => (float[4] y) { a = Abs (x)  q = Sin (a)  b = Exp (q)  y = Neg (b) }"
    seen = first(BRANCH, flat, {"flag": np.array(True)})
    assert seen.tensor == "b"
    assert (seen.path, seen.between_a) == ((), ("If 'b'",))


# --- one step at a time -----------------------------------------------------------------------------------------


def test_a_tensor_is_let_go_when_its_last_reader_has_run() -> None:
    outline = Outline(model(CHAIN))
    steps = Steps(outline, {"x": np.ones(4, np.float32)}, ["a", "y"])
    steps.get("y")
    assert set(steps._values) == {"a", "y"}
    steps.release(["a"])
    assert set(steps._values) == {"y"}


def test_what_depends_on_a_difference_is_not_computed_unless_outputs_are_asked_for() -> None:
    one, other = model(CHAIN), model(CHAIN.replace("Abs (x)", "Neg (x)"))
    given = {"x": np.ones(4, np.float32)}
    assert bisect(one, other, given.__getitem__, Tolerances()).outputs == ()
    assert bisect(one, other, given.__getitem__, Tolerances()).compared == 1
    assert len(bisect(one, other, given.__getitem__, Tolerances(), outputs=True).outputs) == 1


def test_what_only_an_abandoned_tensor_would_need_is_let_go() -> None:
    text = "g (float[4] x) => (float[4] y) { a = Abs (x)  u = Neg (a)  v = Add (u, a)  b = Exp (v)  y = Sin (a) }"
    steps = Steps(Outline(model(text)), {"x": np.ones(4, np.float32)}, ["a", "b", "y"])
    steps.get("a")
    steps.release(["a"])
    steps.abandon("b")
    assert set(steps._values) == {"a"}
    steps.get("y")
    assert set(steps._values) == {"y"}


def test_equal_nodes_of_two_models_run_once() -> None:
    one, other = Outline(model(CHAIN)), Outline(model(CHAIN.replace("Neg (b)", "Exp (b)")))
    given = {"x": np.ones(4, np.float32)}
    a = Steps(one, given, ["a", "b", "c"])
    b = Steps(other, given, ["a", "b", "c"], a)
    for name in ("a", "b", "c"):
        shared = a.get(name) is b.get(name)
        assert shared == b.is_shared(name, name) == (name != "c")


def test_what_was_taken_over_is_not_told_from_the_values_of_another_input() -> None:
    one = Outline(model(CHAIN))
    a = Steps(one, {"x": np.ones(4, np.float32)}, ["a"])
    b = Steps(one, {"x": np.zeros(4, np.float32)}, ["a"], a)
    assert a.get("a") is not b.get("a")
    assert not b.is_shared("a", "a")


def test_nodes_of_another_operator_set_are_not_taken_over() -> None:
    one = model(CHAIN)
    newer = ModelProto()
    newer.CopyFrom(one.proto)
    newer.opset_import[0].version = 18
    given = {"x": np.ones(4, np.float32)}
    a = Steps(Outline(one), given, ["a"])
    b = Steps(Outline(Model(newer)), given, ["a"], a)
    assert a.get("a") is not b.get("a")


MEMORY = """
import re
from pathlib import Path
import numpy as np
from onnx import helper, TensorProto
from graphsurgery.debugging.bisect import bisect
from graphsurgery.gate.equivalence import Tolerances
from graphsurgery.graph.model import Model

def chain(op):
    ops = ["Abs"] * 100 + [op] + ["Abs"] * 100
    nodes = [helper.make_node(each, [f"t{i}"], [f"t{i + 1}"]) for i, each in enumerate(ops)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2_000_000]) for name in ("t0", f"t{len(ops)}")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    return Model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))

# not ru_maxrss, which begins with that of the process that started this one
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
x = {"t0": np.linspace(-1, 1, 2_000_000, dtype=np.float32)}
small = {"t0": x["t0"]}
bisect(chain("Neg"), chain("Neg"), x.__getitem__, Tolerances())
print(bisect(chain("Neg"), chain("Sin"), x.__getitem__, Tolerances()).divergences[0].tensor, peak())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the standard library does not tell the peak")
def test_memory_does_not_grow_with_the_number_of_tensors() -> None:
    # 201 tensors of 8 MB in each model: 3.2 GB if they were all kept
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    tensor, peak = done.stdout.split()
    assert tensor == "t101"
    assert int(peak) < 600


# --- inputs -----------------------------------------------------------------------------------------------------


def test_inputs_of_unknown_size_are_asked_for() -> None:
    open_size = model(CHAIN.replace("(float[4] x)", "(float[n] x)"))
    with pytest.raises(InputError, match=r"input 'x' is float32 of shape .*; give --inputs"):
        list(read_samples(open_size, None))


def test_an_input_that_only_b_has_and_nothing_gives_is_the_users_fault(tmp_path: Path) -> None:
    other = "g (float[4] x, float[4] more) => (float[4] y) { y = Add (x, more) }"
    for name, text in (("a.onnx", CHAIN), ("b.onnx", other)):
        onnx.save(model(text).proto, tmp_path / name)
    with pytest.raises(InputError, match="no value for input 'more'"):
        bisect_files(tmp_path / "a.onnx", tmp_path / "b.onnx", None, Tolerances(), Silent())


def test_three_random_samples_are_made_up() -> None:
    samples = list(read_samples(model(CHAIN), None))
    assert [name for name, _ in samples] == ["random 0", "random 1", "random 2"]
    assert not np.array_equal(samples[0][1]("x"), samples[1][1]("x"))


def test_a_folder_without_tensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds neither capture\.json nor \.npy files"):
        list(read_samples(model(CHAIN), tmp_path))


# --- the command ------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> Callable[[str, str], tuple[Path, Path]]:
    def write(a: str, b: str) -> tuple[Path, Path]:
        for name, text in (("a.onnx", a), ("b.onnx", b)):
            onnx.save(model(text).proto, tmp_path / name)
        return tmp_path / "a.onnx", tmp_path / "b.onnx"

    return write


def test_equal_models_end_with_0(cli: Cli, files: Callable[[str, str], tuple[Path, Path]]) -> None:
    outcome = cli("bisect", *files(CHAIN, CHAIN))
    assert outcome.code == 0, outcome.err
    assert "no difference: 4 tensors compared" in outcome.out


def test_a_difference_ends_with_1_and_names_the_place(
    cli: Cli, files: Callable[[str, str], tuple[Path, Path]], tmp_path: Path
) -> None:
    report = tmp_path / "found.json"
    other = BRANCH.replace("Sqrt (a)", "Sin (a)")
    a, b = files(BRANCH, other)
    np.save(tmp_path / "x.npy", np.ones(4, np.float32))
    np.save(tmp_path / "flag.npy", np.array(True))
    outcome = cli("bisect", a, b, "--inputs", tmp_path, "--json", report)
    assert outcome.code == 1
    assert outcome.last_line.startswith("different: If 'b' then_branch > tensor 'p' (Sqrt 'p' in A, Sin 'p' in B): ")
    content = json.loads(report.read_text(encoding="utf-8"))
    assert content["verdict"] == "different"
    assert content["divergences"][0]["path"] == ["If 'b' then_branch"]
    assert content["divergences"][0]["inherent"] is True
    table = " ".join(outcome.out.split())
    assert "made here: on the same values it differs as well" in table
    assert max(map(len, outcome.out.splitlines())) <= 80


def test_standard_output_holds_the_json_alone(cli: Cli, files: Callable[[str, str], tuple[Path, Path]]) -> None:
    outcome = cli("bisect", *files(CHAIN, CHAIN.replace("Sqrt", "Exp")), "--json", "-")
    assert outcome.code == 1
    assert json.loads(outcome.out)["divergences"][0]["tensor"] == "b"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("missing.onnx", "b.onnx"), "missing.onnx: can't be read"),
        (("a.onnx", "b.onnx", "--inputs", "missing"), "missing: holds neither"),
        (("a.onnx", "b.onnx", "--tolerance", "b"), "--tolerance b"),
        (("a.onnx",), "Missing argument"),
    ],
)
def test_a_wrong_bisect_is_one_line(
    cli: Cli,
    files: Callable[[str, str], tuple[Path, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    files(CHAIN, CHAIN)
    monkeypatch.chdir(tmp_path)
    outcome = cli("bisect", *arguments)
    assert outcome.code == 2
    assert outcome.last_line.startswith("error: ")
    assert said in outcome.last_line


def test_help_shows_an_example(cli: Cli) -> None:
    outcome = cli("bisect", "--help")
    assert "Example: python -m graphsurgery bisect" in " ".join(outcome.out.replace("│", " ").split())


# --- a whole detector -------------------------------------------------------------------------------------------


def whole(uncut: Applied) -> Model:
    return Model.load(uncut.folder / "shapes.onnx")


def with_scaled_weight(source: Model, number: int, factor: float) -> tuple[Model, str]:
    """Return the model with the weight of one Conv scaled, and what that Conv writes."""
    proto = ModelProto()
    proto.CopyFrom(source.proto)
    node = [node for node in proto.graph.node if node.op_type == "Conv"][number]
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name == node.input[1])
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(factor), weight.name))
    return Model(proto), node.output[0]


@pytest.mark.parametrize("number", [0, 7, -1])
def test_a_scaled_weight_of_the_detector_is_found(cli: Cli, uncut: Applied, tmp_path: Path, number: int) -> None:
    changed, tensor = with_scaled_weight(whole(uncut), number, 1.01)
    changed.save(tmp_path / "b.onnx")
    report = tmp_path / "found.json"
    outcome = cli(
        *("bisect", uncut.folder / "shapes.onnx", tmp_path / "b.onnx"),
        *("--inputs", uncut.model_io, "--json", report),
    )
    assert outcome.code == 1, outcome.err
    found = json.loads(report.read_text(encoding="utf-8"))["divergences"]
    assert found[0]["tensor"] == tensor
    assert found[0]["inherent"] is True
    assert "the constant input 1" in found[0]["changes"][0]


def test_a_changed_attribute_of_the_detector_is_found(uncut: Applied) -> None:
    source = whole(uncut)
    proto = ModelProto()
    proto.CopyFrom(source.proto)
    node = next(node for node in proto.graph.node if node.op_type == "RoiAlign")
    ratio = next(attribute for attribute in node.attribute if attribute.name == "sampling_ratio")
    ratio.CopyFrom(helper.make_attribute("sampling_ratio", ratio.i + 1))
    load = next(iter(read_samples(source, uncut.model_io)))[1]
    found = bisect(source, Model(proto), load, Tolerances())
    assert found.divergences[0].tensor == node.output[0]
    assert any(change.startswith("sampling_ratio: ") for change in found.divergences[0].changes)


def test_an_exact_pass_over_the_detector_makes_no_difference(uncut: Applied) -> None:
    source = whole(uncut)
    after = apply_pass(discover().get("replace-unit-maxpool")(), source).model
    assert after.fingerprint != source.fingerprint
    load = next(iter(read_samples(source, uncut.model_io)))[1]
    found = bisect(source, after, load, Tolerances())
    assert found.divergences == ()
    assert found.compared > 400


@pytest.mark.parametrize("held", [helper.make_attribute("value", 1), helper.make_attribute("value_int", [1.5])])
def test_a_constant_that_holds_something_else_is_none(held: onnx.AttributeProto) -> None:
    node = helper.make_node("Constant", [], ["c"])
    node.attribute.append(held)
    assert constant_of(node) is None
