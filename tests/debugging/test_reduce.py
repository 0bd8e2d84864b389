"""Passes that break something on purpose: what is left of the model is what the fault takes, and no more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper

from debugging.faulty_passes import (
    BRANCH,
    HEAD,
    LONG,
    BreakFar,
    BreakInIf,
    BreakPair,
    Crash,
    CrashGraph,
    FoldWrongly,
    Invalid,
    NotRunnable,
    OnlyOpenSizes,
    Scale,
    SinBecomesCos,
    Stop,
    operators,
    reduced,
)
from graphsurgery.debugging.breaks import break_whole
from graphsurgery.debugging.reduce import configured
from graphsurgery.errors import InputError
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.graph import is_op, producer
from graphsurgery.graph.model import Model
from graphsurgery.rewrite import Editor, NodePass, Pass
from graphsurgery.testing import parse

# --- what is left -----------------------------------------------------------------------------------------------


def test_one_node_is_left_of_a_fault_in_one_node(tmp_path: Path) -> None:
    found = reduced(tmp_path, LONG, SinBecomesCos())
    assert operators(found) == ["Sin"]
    assert found is not None
    assert found.nodes == 8
    assert found.broken.kind == "difference"
    assert list(found.given) == found.model.inputs == ["d"]
    assert found.expected is not None
    np.testing.assert_allclose(found.expected["e"], np.sin(found.given["d"]), rtol=1e-6)


def test_a_fault_behind_right_folds_is_what_is_left(tmp_path: Path) -> None:
    text = """
    g (float[4] x) => (float[4] y) <float a = {2}, float b = {5}, float c = {3}, float d = {7}> {
        conv1 = Mul (x, a)
        bn1 = Mul (conv1, b)
        e = Exp (bn1)
        conv2 = Mul (e, c)
        bn2 = Mul (conv2, d)
        y = Neg (bn2)
    }"""
    found = reduced(tmp_path, text, FoldWrongly())
    assert operators(found) in (["Mul", "Mul"], ["Mul", "Mul", "Neg"])
    assert found is not None
    assert sorted(float(numpy_helper.to_array(w)) for w in found.model.proto.graph.initializer) == [3, 7]


def test_the_inputs_are_what_the_whole_model_computes_there(tmp_path: Path) -> None:
    x = np.linspace(0.1, 2, 6, dtype=np.float32).reshape(2, 3)
    found = reduced(tmp_path, LONG, SinBecomesCos(), x=x, z=x)
    assert found is not None
    np.testing.assert_allclose(found.given["d"], -np.exp(np.sqrt(x)), rtol=1e-6)
    assert found.sample == "sample"


def test_neighbours_that_the_fault_needs_stay(tmp_path: Path) -> None:
    assert operators(reduced(tmp_path, LONG, BreakPair())) == ["Exp", "Neg", "Sin"]


def test_nodes_between_that_the_fault_does_not_need_are_short_circuited(tmp_path: Path) -> None:
    assert operators(reduced(tmp_path, LONG, BreakFar())) == ["Exp", "Tanh"]


def test_a_crash_stays_a_crash(tmp_path: Path) -> None:
    found = reduced(tmp_path, LONG, Crash())
    assert operators(found) == ["Neg", "Sin"]
    assert found is not None
    assert (found.broken.kind, found.broken.mark, found.broken.after) == ("crash", "KeyError", None)


def test_a_crash_of_another_kind_is_another_fault(tmp_path: Path) -> None:
    found = reduced(tmp_path, LONG, CrashGraph())
    assert operators(found) == ["Neg", "Sin"]
    assert found is not None
    assert found.broken.mark == "KeyError"


def test_a_pass_that_stops_the_run_is_reduced(tmp_path: Path) -> None:
    found = reduced(tmp_path, LONG, Stop())
    assert operators(found) == ["Sin"]
    assert found is not None
    assert found.broken.kind == "stop"


@pytest.mark.parametrize("pass_", [Invalid(), NotRunnable()])
def test_a_model_that_does_not_run_any_more_is_reduced(tmp_path: Path, pass_: Pass) -> None:
    found = reduced(tmp_path, LONG, pass_)
    assert operators(found) == ["Sin"]
    assert found is not None
    assert found.broken.kind == "invalid"
    assert found.broken.after is not None


def test_open_sizes_stay_open_where_the_fault_needs_them(tmp_path: Path) -> None:
    text = LONG.replace("float[2, 3]", "float[n, 3]")
    x = np.ones((2, 3), np.float32)
    found = reduced(tmp_path, text, OnlyOpenSizes(), x=x, z=x)
    assert operators(found) == ["Sin"]
    assert found is not None
    sizes = found.model.proto.graph.input[0].type.tensor_type.shape.dim
    assert not sizes[0].HasField("dim_value")


def test_sizes_are_written_out_where_that_does_not_matter(tmp_path: Path) -> None:
    text = LONG.replace("float[2, 3]", "float[n, 3]")
    x = np.ones((2, 3), np.float32)
    found = reduced(tmp_path, text, SinBecomesCos(), x=x, z=x)
    assert found is not None
    ends = (*found.model.proto.graph.input, *found.model.proto.graph.output)
    assert all([dim.dim_value for dim in end.type.tensor_type.shape.dim] == [2, 3] for end in ends)


def test_a_fault_in_a_branch_is_cut_out_of_it(tmp_path: Path) -> None:
    found = reduced(tmp_path, BRANCH, SinBecomesCos(), x=np.ones(4, np.float32), on=[True])
    assert operators(found) == ["Sin"]
    assert found is not None
    assert found.path == ("If 'b' then_branch",)


def test_a_fault_that_needs_the_branch_keeps_it_and_empties_it(tmp_path: Path) -> None:
    found = reduced(tmp_path, BRANCH, BreakInIf(), x=np.ones(4, np.float32), on=[True])
    assert operators(found)[0] == "If"
    assert sorted(operators(found)) == ["Exp", "If", "Neg"]
    assert found is not None
    assert found.path == ()


def test_weights_come_along_and_no_others(tmp_path: Path) -> None:
    text = """
    g (float[2] x) => (float[2] y)
    <float[2] w = {1, 2}, float[2] v = {3, 4}> {
        k = Constant <value_floats = [5.0, 6.0]> ()
        a = Add (x, v)
        b = Mul (a, w)
        c = Sub (b, k)
        s = Sin (c)
        y = Add (s, v)
    }"""

    @dataclass(frozen=True)
    class BreakSub(NodePass):
        name = "break-sub"
        effect = "exact"

        def rewrite(self, node: gs.Node, edit: Editor) -> None:
            if is_op(node, "Sub") and is_op(producer(node.inputs[0]), "Mul"):
                edit.replace(node, "Add", list(node.inputs))

    found = reduced(tmp_path, text, BreakSub())
    assert operators(found) == ["Constant", "Mul", "Sub"]
    assert found is not None
    assert [tensor.name for tensor in found.model.proto.graph.initializer] == ["w"]


def test_a_pass_that_breaks_nothing_gives_nothing(tmp_path: Path) -> None:
    assert reduced(tmp_path, LONG, Scale()) is None
    assert operators(reduced(tmp_path, LONG, Scale(by=1.5))) == ["Neg"]


def test_a_difference_within_the_tolerance_is_none(tmp_path: Path) -> None:
    model = Model(parse(HEAD + LONG.strip()))
    given = {name: np.ones((2, 3), np.float32) for name in ("x", "z")}
    strict, _ = break_whole(Scale(by=1.001), model, given, Tolerances())
    loose, _ = break_whole(Scale(by=1.001), model, given, Tolerances.parse({"*": 0.1}))
    assert strict is not None
    assert loose is None


# --- options ----------------------------------------------------------------------------------------------------


def test_options_are_read_as_in_a_recipe() -> None:
    assert configured("freeze-batch", ["size=7"]).size == 7  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["size"], "--option size: write it as --option NAME=VALUE"),
        (["size=many"], "--option size=many: "),
        (["sise=7"], "Did you mean 'size'?"),
        (["size=7", "size=8"], "is given twice"),
        ([], "needs the option 'size'"),
    ],
)
def test_a_wrong_option_is_refused(options: list[str], said: str) -> None:
    with pytest.raises(InputError, match="option") as refusal:
        configured("freeze-batch", options)
    assert said in str(refusal.value)
