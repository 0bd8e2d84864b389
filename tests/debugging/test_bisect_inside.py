"""What bisect says of random nodes, sequences and text, and of faults inside branches and loops."""

from __future__ import annotations

import numpy as np
import pytest

from debugging.faulty_models import BRANCH, LOOP, SCAN, first, model, search
from graphsurgery.debugging.bisect import bisect
from graphsurgery.gate.tolerances import Tolerances

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
