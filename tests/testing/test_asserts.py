"""The asserts that all tests of passes rely on: each must fail when it should."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from onnx import ModelProto, helper, numpy_helper

from graphsurgery import graph as graphs
from graphsurgery.rewrite import Editor, GraphPass
from graphsurgery.testing import assert_rewrites, assert_same_outputs, assert_untouched, parse, random_inputs

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
TEXT = f"""{HEAD}
    g (float[2] x, bool c) => (float[2] y) <float[2] w = {{1, 2}}> {{
        k = Constant <value = float[2] {{3, 4}}> ()
        a = Add (x, w)
        b = Add (a, k)
        y = If (c) <
            then_branch = t () => (float[2] p) <float[2] v = {{5, 6}}> {{ p = Add (b, v) }},
            else_branch = e () => (float[2] q) {{ q = Neg (b) }}
        >
    }}"""


def exactly(do: Callable[[gs.Graph, Editor], object], effect_: str = "exact") -> GraphPass:
    @dataclass(frozen=True)
    class Do(GraphPass):
        name = "do"
        effect = effect_  # type: ignore[assignment]
        what: Callable[[gs.Graph, Editor], object] = field(default=do)

        def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
            self.what(graph, edit)

    return Do()


def named(graph: gs.Graph, output: str) -> gs.Node:
    return next(n for n in graphs.walk_nodes(graph) if n.outputs[0].name == output)


def operator(output: str, op: str) -> Callable[[gs.Graph, Editor], object]:
    def do(graph: gs.Graph, edit: Editor) -> None:
        named(graph, output).op = op

    return do


def values(output: str, index: int) -> Callable[[gs.Graph, Editor], object]:
    def do(graph: gs.Graph, edit: Editor) -> None:
        value = graphs.constant(named(graph, output).inputs[index])
        assert value is not None
        value[0] = np.nextafter(value[0], np.float32(100))

    return do


def attribute(graph: gs.Graph, edit: Editor) -> None:
    named(graph, "b").attrs["new"] = 1


def output_name(graph: gs.Graph, edit: Editor) -> None:
    graph.outputs[0].name = "z"


def input_type(graph: gs.Graph, edit: Editor) -> None:
    graph.inputs[0].shape = ["n"]


def opset(graph: gs.Graph, edit: Editor) -> None:
    graph.opset = 18


def constant_attribute(graph: gs.Graph, edit: Editor) -> None:
    value = named(graph, "k").attrs["value"].values
    value[0] = np.nextafter(value[0], np.float32(100))


CHANGES = {
    "an operator": operator("b", "Mul"),
    "an operator in a body": operator("q", "Abs"),
    "the last bit of a weight": values("a", 1),
    "the last bit of a weight in a body": values("p", 1),
    "the last bit of a constant": constant_attribute,
    "an attribute": attribute,
    "the name of an output": output_name,
    "the type of an input": input_type,
    "the opset": opset,
}


@pytest.mark.parametrize("change", CHANGES)
def test_sees_that_a_model_is_not_untouched(change: str) -> None:
    with pytest.raises(AssertionError, match="expected no change"):
        assert_untouched(exactly(CHANGES[change]), TEXT, None)


@pytest.mark.parametrize("change", CHANGES)
def test_sees_that_a_rewrite_gives_something_else(change: str) -> None:
    with pytest.raises(AssertionError, match="--- expected"):
        assert_rewrites(exactly(CHANGES[change], "approximate"), TEXT, TEXT)


def test_names_of_nodes_and_doc_strings_do_not_count() -> None:
    def describe(graph: gs.Graph, edit: Editor) -> None:
        for node in graphs.walk_nodes(graph):
            node.name = "n"
        graph.name, graph.doc_string = "h", "text"
        edit.infer_shapes()

    assert_untouched(exactly(describe), TEXT, None)


def test_a_refusal_must_give_the_reason() -> None:
    def refuse(graph: gs.Graph, edit: Editor) -> None:
        edit.skip(None, "too hot")

    assert_untouched(exactly(refuse), TEXT, "hot")
    with pytest.raises(AssertionError, match="no refusal says 'cold'"):
        assert_untouched(exactly(refuse), TEXT, "cold")
    with pytest.raises(AssertionError, match="none of its business"):
        assert_untouched(exactly(refuse), TEXT, None)
    with pytest.raises(AssertionError, match="no refusal says 'hot'"):
        assert_untouched(exactly(lambda graph, edit: None), TEXT, "hot")


ADD = f"{HEAD} g (float[2] x) => (float[2] y) {{ y = Add (x, x) }}"
MUL = f"{HEAD} g (float[2] x) => (float[2] y) {{ y = Mul (x, x) }}"


def test_an_exact_pass_must_keep_the_numbers() -> None:
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_rewrites(exactly(operator("y", "Mul")), ADD, MUL)
    assert_rewrites(exactly(operator("y", "Mul"), "approximate"), ADD, MUL)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_rewrites(exactly(operator("y", "Mul"), "approximate"), ADD, MUL, outputs_agree=True)
    twos = {"x": np.array([2, 0], np.float32)}
    assert_rewrites(exactly(operator("y", "Mul")), ADD, MUL, twos)


def test_a_second_run_must_change_nothing() -> None:
    def one_more(graph: gs.Graph, edit: Editor) -> None:
        edit.set_input(graph.nodes[-1], 0, edit.emit("Relu", [graph.nodes[-1].inputs[0]], hint="r"))

    before = f"{HEAD} g (float[2] x) => (float[2] y) {{ y = Abs (x) }}"
    after = f"{HEAD} g (float[2] x) => (float[2] y) {{ r = Relu (x)  y = Abs (r) }}"
    with pytest.raises(AssertionError, match="a second run changes it again"):
        assert_rewrites(exactly(one_more, "approximate"), before, after)


def test_the_result_must_be_valid() -> None:
    after = f"{HEAD} g (float[2] x) => (float[2] y) {{ y = NoSuchOperator (x, x) }}"
    with pytest.raises(Exception, match="No Op registered for NoSuchOperator"):
        assert_rewrites(exactly(operator("y", "NoSuchOperator"), "approximate"), ADD, after)


# --- numbers ------------------------------------------------------------------------------------------------------


def giving(*outputs: np.ndarray, names: str = "yz") -> ModelProto:
    nodes = [helper.make_node("Identity", [f"k{n}"], [n]) for n, _ in zip(names, outputs, strict=False)]
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(o.dtype), o.shape)
        for n, o in zip(names, outputs, strict=False)
    ]
    weights = [numpy_helper.from_array(o, f"k{n}") for n, o in zip(names, outputs, strict=False)]
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(helper.make_graph(nodes, "g", [], infos, weights), opset_imports=opsets, ir_version=8)


ONE = np.array([1, np.nan, np.inf, -np.inf], np.float32)


@pytest.mark.parametrize(
    "other",
    [
        np.array([1.0001, np.nan, np.inf, -np.inf], np.float32),
        np.array([1, 0, np.inf, -np.inf], np.float32),
        np.array([1, np.nan, np.inf, np.inf], np.float32),
        np.array([1, np.nan, 1e30, -np.inf], np.float32),
        np.array([np.nan, np.nan, np.inf, -np.inf], np.float32),
        ONE.astype(np.float64),
        ONE.reshape(1, 4),
        ONE[:3],
    ],
)
def test_other_outputs_are_not_the_same(other: np.ndarray) -> None:
    assert_same_outputs(giving(ONE), giving(ONE))
    with pytest.raises(AssertionError):
        assert_same_outputs(giving(ONE), giving(other))


def test_a_rounding_is_allowed_in_floats_and_none_in_integers() -> None:
    assert_same_outputs(giving(np.array([1, 1e-9], np.float32)), giving(np.array([1 + 5e-6, 0], np.float32)))
    big = np.array([10**9], np.int64)
    with pytest.raises(AssertionError):
        assert_same_outputs(giving(big), giving(big + 1))


def test_outputs_must_have_the_same_names_in_the_same_order() -> None:
    with pytest.raises(AssertionError, match="outputs"):
        assert_same_outputs(giving(ONE), giving(ONE, names="z"))
    with pytest.raises(AssertionError, match="outputs"):
        assert_same_outputs(giving(ONE), giving(ONE, ONE))
    with pytest.raises(AssertionError, match="outputs"):
        assert_same_outputs(giving(ONE, ONE), giving(ONE, ONE, names="zy"))


def test_random_inputs_fit_the_model_and_repeat() -> None:
    inputs = "float[n, 3] x, int64[2] i, bool[4] b, float16[] h, float[1] w"
    model = parse(f"{HEAD} g ({inputs}) => (float[n, 3] y) {{ y = Add (x, w) }}")
    model.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "w"))
    one, two = random_inputs(model), random_inputs(model)
    kinds = {name: (str(value.dtype), value.shape) for name, value in one.items()}
    assert kinds == {"x": ("float32", (2, 3)), "i": ("int64", (2,)), "b": ("bool", (4,)), "h": ("float16", ())}
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name])
    assert not np.array_equal(one["x"], random_inputs(model, seed=1)["x"])
