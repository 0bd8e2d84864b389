import json
from typing import Any

import numpy as np
import pytest

from graphsurgery.devices import session
from graphsurgery.errors import PassError
from graphsurgery.graph.model import Model
from graphsurgery.graph.notes import as_captured
from graphsurgery.graph.view import table
from graphsurgery.passes.cast_outputs import CastOutputs
from graphsurgery.rewrite import TYPES_NOTE, Applied, apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse

HEAD = '<ir_version: 8, opset_import: ["": 17]>'


def model(nodes: str, outputs: str, inputs: str = "float[2, 5] x, int64[3] n", weights: str = "") -> str:
    return f"{HEAD} g ({inputs}) => ({outputs}) {f'<{weights}>' if weights else ''} {{ {nodes} }}"


def narrowed(**outputs: str) -> CastOutputs:
    return CastOutputs(outputs)


def note(applied: Applied) -> Any:
    return json.loads(table(applied.model.graph()).metadata.get(TYPES_NOTE, "null"))


LABELS = "labels = ArgMax <axis = 1, keepdims = 0> (x)"


def test_an_output_keeps_its_name_behind_a_cast() -> None:
    applied = assert_rewrites(
        narrowed(labels="int32"),
        model(LABELS, "int64[2] labels"),
        model(f"{LABELS.replace('labels', 'labels_int64')}  labels = Cast <to = 6> (labels_int64)", "int32[2] labels"),
        outputs_agree=False,
    )
    assert note(applied) == {"labels": ["int64", "int32"]}


def test_other_readers_read_what_they_read() -> None:
    after = f"{LABELS.replace('labels', 'labels_int64')}  y = Add (labels_int64, labels_int64)"
    assert_rewrites(
        narrowed(labels="int32"),
        model(f"{LABELS}  y = Add (labels, labels)", "int64[2] labels, int64[2] y"),
        model(f"{after}  labels = Cast <to = 6> (labels_int64)", "int32[2] labels, int64[2] y"),
        outputs_agree=False,
    )


def test_a_pattern_passes_over_other_types() -> None:
    before = model(f"{LABELS}  y = Neg (x)  m = Neg (n)", "float[2, 5] y, int64[2] labels, int64[3] m")
    proto = apply_pass(CastOutputs({"*": "int32"}), Model(parse(before))).model.proto
    assert [info.type.tensor_type.elem_type for info in proto.graph.output] == [1, 6, 6]


def test_the_first_pattern_that_fits_decides() -> None:
    before = model(f"{LABELS}  m = Neg (n)", "int64[2] labels, int64[3] m")
    proto = apply_pass(CastOutputs({"labels": "int64", "*": "int32"}), Model(parse(before))).model.proto
    assert [info.type.tensor_type.elem_type for info in proto.graph.output] == [7, 6]


def test_the_way_back_leaves_nothing_behind() -> None:
    before = Model(parse(model(LABELS, "int64[2] labels")))
    there = apply_pass(narrowed(labels="int32"), before)
    back = apply_pass(narrowed(labels="int64"), there.model)
    assert [node.op_type for node in back.model.proto.graph.node] == ["ArgMax"]
    assert back.model.proto.graph.output == before.proto.graph.output
    assert note(back) is None


def test_int32_may_become_int64() -> None:
    applied = assert_rewrites(
        narrowed(y="int64"),
        model("y = Neg (n)", "int32[3] y", "int32[3] n"),
        model("y_int32 = Neg (n)  y = Cast <to = 7> (y_int32)", "int64[3] y", "int32[3] n"),
        outputs_agree=False,
    )
    assert note(applied) == {"y": ["int32", "int64"]}


@pytest.mark.parametrize("outputs", [{"labels": "int64"}, {"*": "int64"}])
def test_leaves_outputs_of_that_type_alone(outputs: dict[str, str]) -> None:
    assert_untouched(CastOutputs(outputs), model(f"{LABELS}  y = Neg (x)", "int64[2] labels, float[2, 5] y"), None)


@pytest.mark.parametrize(
    ("outputs", "nodes", "kinds", "message"),
    [
        ({"label": "int32"}, LABELS, "int64[2] labels", "there is no output 'label'. Nearest: labels"),
        ({"y*": "int32"}, LABELS, "int64[2] labels", r"there is no output 'y\*'"),
        ({"y": "int32"}, "y = Neg (x)", "float[2, 5] y", "output 'y' is float32, not int32 or int64"),
        ({"n": "int32"}, LABELS, "int64[2] labels, int64[3] n", "output 'n' is an input or a constant"),
        (
            {"y": "int32"},
            f"{LABELS}  y = Mul (labels, k)",
            "int64[2] y",
            "the values of 'y' may be from 0 to 2[0-9]{10}",
        ),
    ],
)
def test_ends_the_run_at_what_can_not_be(outputs: dict[str, str], nodes: str, kinds: str, message: str) -> None:
    text = model(nodes, kinds, weights="int64 k = {5000000000}" if "k)" in nodes else "")
    proto = parse(text)
    with pytest.raises(PassError, match=message):
        apply_pass(CastOutputs(outputs), Model(proto))


def test_refuses_other_types() -> None:
    with pytest.raises(ValueError, match="'labels' is to be int8; it may be int32 or int64"):
        CastOutputs({"labels": "int8"})


@pytest.mark.parametrize(("given", "fits"), [([1, -7, 2**31 - 1], True), ([1, 2, 2**31], False)])
def test_the_gate_sees_the_numbers_in_the_type_that_was_captured(given: list[int], fits: bool) -> None:
    before = Model(parse(model("y = Abs (n)  m = Neg (y)", "int64[3] y, int64[3] m", "int64[3] n")))
    after = apply_pass(narrowed(y="int32"), before).model
    values = {"n": np.array(given)}
    expected, got = (session.run(each.proto, values) for each in (before, after))
    assert got["y"].dtype == np.int32
    seen = as_captured(after.proto, got)
    assert seen["y"].dtype == np.int64
    assert np.array_equal(seen["y"], expected["y"]) == fits
    assert np.array_equal(seen["m"], expected["m"])


def test_a_number_that_the_captured_type_can_not_hold_keeps_its_type() -> None:
    before = Model(parse(model("y = Neg (n)", "int32[3] y", "int32[3] n")))
    after = apply_pass(narrowed(y="int64"), before).model
    assert as_captured(after.proto, {"y": np.array([1, 2**40])})["y"].dtype == np.int64
    assert as_captured(after.proto, {"y": np.array([1, 2**30])})["y"].dtype == np.int32
