import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from graphsurgery.graph.model import Model
from graphsurgery.passes.lift_constants import LiftConstants
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_same_outputs, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

HEAD = '<ir_version: 8, opset_import: ["": 17]>'


def lifted(text: str) -> onnx.ModelProto:
    model = Model(parse(text))
    got = apply_pass(LiftConstants(), model).model.proto
    onnx.checker.check_model(got, full_check=True)
    assert_same_outputs(model.proto, got)
    return got


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("value = float[2] {1, 2}", np.float32([1, 2])),
        ("value = float {3}", np.float32(3)),
        ("value = int64[0] {}", np.zeros(0, np.int64)),
        ("value_float = 1.5", np.float32(1.5)),
        ("value_floats = [1.5, 2.5]", np.float32([1.5, 2.5])),
        ("value_int = 7", np.int64(7)),
        ("value_ints = [7, 8]", np.int64([7, 8])),
    ],
)
def test_becomes_an_initializer_of_the_same_name(attribute: str, value: np.ndarray) -> None:
    size = 1 if value.shape == (0,) else 2
    nodes = f"w = Constant <{attribute}> () v = Cast <to = 1> (w) y = Add (x, v)"
    got = lifted(f"{HEAD} g (float[{size}] x) => (float[k] y) {{ {nodes} }}")
    (initializer,) = got.graph.initializer
    array = numpy_helper.to_array(initializer)
    assert (initializer.name, array.dtype, array.shape) == ("w", value.dtype, value.shape)
    np.testing.assert_array_equal(array, value)
    assert [node.op_type for node in got.graph.node] == ["Cast", "Add"]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("value_string", "1.5", np.array("1.5", object)),
        ("value_strings", ["1.5", "2"], np.array(["1.5", "2"], object)),
        ("value", numpy_helper.from_array(np.array(["3"], object), "t"), np.array(["3"], object)),
    ],
)
def test_strings_become_an_initializer_too(name: str, value: object, expected: np.ndarray) -> None:
    constant = helper.make_node("Constant", [], ["w"], **{name: value})
    cast = helper.make_node("Cast", ["w"], ["y"], to=onnx.TensorProto.FLOAT)
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, expected.shape)
    graph = helper.make_graph([constant, cast], "g", [], [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    got = apply_pass(LiftConstants(), Model(model)).model.proto
    onnx.checker.check_model(got, full_check=True)
    assert_same_outputs(model, got)
    assert [node.op_type for node in got.graph.node] == ["Cast"]
    np.testing.assert_array_equal(numpy_helper.to_array(got.graph.initializer[0]).astype(str), expected.astype(str))


def test_readers_in_a_body_find_it_in_the_graph_around_them_or_get_their_own() -> None:
    def model(outer: str, inner: str, weights: str = "", own: str = "") -> str:
        return f"""
        {HEAD}
        g (bool c, float[2] x) => (float[2] y) {weights} {{
            {outer}
            z = Add (x, a)
            y = If (c) <
                then_branch = t () => (float[2] p) {own} {{ {inner} s = Add (x, b) p = Mul (s, a) }},
                else_branch = e () => (float[2] q) {{ q = Mul (z, a) }}
            >
        }}"""

    a, b = "float[2] {1, 2}", "float[2] {3, 4}"
    assert_rewrites(
        LiftConstants(),
        model(f"a = Constant <value = {a}> ()", f"b = Constant <value = {b}> ()"),
        model("", "", "<float[2] a = {1, 2}>", "<float[2] b = {3, 4}>"),
    )


def test_one_that_only_bodies_read_lands_in_them() -> None:
    def model(outer: str, own: str = "") -> str:
        return f"""
        {HEAD}
        g (bool c, float[2] x) => (float[2] y) {{
            {outer}
            y = If (c) <
                then_branch = t () => (float[2] p) {own} {{ p = Add (x, a) }},
                else_branch = e () => (float[2] q) {own} {{ q = Mul (x, a) }}
            >
        }}"""

    before = model("a = Constant <value = float[2] {1, 2}> ()")
    assert_rewrites(LiftConstants(), before, model("", "<float[2] a = {1, 2}>"))


def test_a_model_of_ir_version_3_becomes_one_of_version_4() -> None:
    text = """
        <ir_version: 3, opset_import: ["": 9]>
        g (float[2] x) => (float[2] y) { w = Constant <value = float[2] {1, 2}> () y = Add (x, w) }"""
    assert lifted(text).ir_version == 4


def test_stays_where_it_is_an_output() -> None:
    text = f"""
        {HEAD}
        g (float[2] x) => (float[2] y, float[2] w) {{ w = Constant <value = float[2] {{1, 2}}> () y = Add (x, w) }}"""
    assert_untouched(LiftConstants(), text, "its value is an output")


def test_stays_where_it_is_the_output_of_a_body() -> None:
    text = f"""
        {HEAD}
        g (bool c, float x) => (float y) {{
            y = If (c) <
                then_branch = t () => (float p) {{ p = Constant <value_float = 1.0> () }},
                else_branch = e () => (float q) {{ q = Neg (x) }}
            >
        }}"""
    assert_untouched(LiftConstants(), text, "its value is an output")


def test_stays_where_it_is_sparse() -> None:
    values = numpy_helper.from_array(np.float32([5]), "values")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.int64([1]), "indices"), [3])
    nodes = [
        helper.make_node("Constant", [], ["w"], sparse_value=sparse),
        helper.make_node("Add", ["x", "w"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [3]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert_untouched(LiftConstants(), model, "its value is sparse")


def test_leaves_a_custom_operator_of_that_name_alone() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[2] x) => (float[2] y) { w = mine.Constant <value_float = 1.0> () y = Add (x, w) }"""
    assert_untouched(LiftConstants(), text, None)


@fuzz(LiftConstants())
def test_any_constant_can_be_lifted(build: Builder) -> list[str]:
    shape, dtype = build.shape(rank=(0, 3)), build.dtype((np.float32, np.int64, np.float64))
    known = [build.input(shape, dtype)]
    for _ in range(build.integer(1, 4)):
        known.append(build.weight(shape, dtype))
    if build.opset >= 12 and dtype == np.float32:
        known.append(build.node("Constant", [], value_float=2.0))
    ends = []
    for _ in range(build.integer(1, 3)):
        ends.append(build.node(build.choice(["Add", "Sub"]), [build.choice(known), build.choice(known)]))
    return ends
