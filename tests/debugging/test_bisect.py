"""Faults put into models on purpose: the place that bisect names is the place where the fault was put."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

from debugging.faulty_models import CHAIN, FOLDED, TWO_LAYERS, first, model, search
from graphsurgery.capture.samples import Sample
from graphsurgery.debugging import failure
from graphsurgery.errors import InputError
from graphsurgery.graph.model import Model
from graphsurgery.graph.outline import Outline
from graphsurgery.rewrite import BATCH_NOTE, apply_pass
from graphsurgery.rewrite.registry import discover


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
    hint, found = failure.record(before, after, sample, tmp_path / "failed", lambda done, total: None)
    assert hint.startswith("first difference: tensor 'y' (Neg 'y' in A, Abs 'y' in B): ")
    assert found is not None
    assert found.tensor == "y"


def test_a_failed_run_fills_up_the_rows_of_a_frozen_batch_and_leaves_its_parameters_whole(tmp_path: Path) -> None:
    text = "g (float[N, 2] x, float[2, 4] p) => (float[N, 4] y) { h = MatMul (x, p)  y = Abs (h) }"
    before, after = model(text), model(text.replace("N", "3").replace("Abs", "Neg"))
    helper.set_model_props(after.proto, {BATCH_NOTE: json.dumps({"size": 3, "parameters": ["p"]})})
    given = {"x": np.ones((1, 2), np.float32), "p": np.arange(8, dtype=np.float32).reshape(2, 4)}
    (tmp_path / "1").mkdir()
    for name, value in given.items():
        np.save(tmp_path / "1" / f"{name}.npy", value)
    sample = Sample("1", tmp_path / "1", None, 1, 1)
    hint, _ = failure.record(before, after, sample, tmp_path / "failed", lambda done, total: None)
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
