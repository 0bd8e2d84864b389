import numpy as np
import onnx
from onnx import helper, numpy_helper

from graphsurgery.graph.model import Model
from graphsurgery.passes.drop_initializer_inputs import DropInitializerInputs
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

WEIGHTS = "<float[2] w = {1, 2}, float[2] v = {3, 4}>"
NODES = "{ a = Add (x, w) y = Mul (a, v) }"


def model(inputs: str, version: int = 8) -> str:
    return f"""
        <ir_version: {version}, opset_import: ["": 9]>
        g (float[2] x{inputs}) => (float[2] y) {WEIGHTS} {NODES}"""


def test_initializers_are_no_inputs_any_more() -> None:
    assert_rewrites(DropInitializerInputs(), model(", float[2] w, float[2] v"), model(""))


def test_a_model_of_ir_version_3_becomes_one_of_version_4() -> None:
    assert_rewrites(DropInitializerInputs(), model(", float[2] w, float[2] v", 3), model("", 4))


def test_those_to_keep_stay() -> None:
    pass_ = DropInitializerInputs(keep=("v*",))
    got = assert_rewrites(pass_, model(", float[2] w, float[2] v", 3), model(", float[2] v", 4))
    assert [skip.reason for skip in got.skips] == ["'v' stays an input, as asked for"]


def test_where_all_are_kept_nothing_changes() -> None:
    pass_ = DropInitializerInputs(keep=("*",))
    assert_untouched(pass_, model(", float[2] w, float[2] v", 3), "'w' stays an input")


def test_a_pattern_that_keeps_nothing_is_told_of() -> None:
    assert_untouched(DropInitializerInputs(keep=("x",)), model(""), "is called 'x'")


def test_leaves_a_model_without_such_inputs_alone() -> None:
    assert_untouched(DropInitializerInputs(), model(""), None)


def test_one_that_a_body_reads_is_dropped_too() -> None:
    def nested(inputs: str) -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[2] x{inputs}) => (float[2] y) <float[2] w = {{1, 2}}> {{
            y = If (c) <
                then_branch = t () => (float[2] p) {{ p = Add (x, w) }},
                else_branch = e () => (float[2] q) {{ q = Mul (x, w) }}
            >
        }}"""

    got = apply_pass(DropInitializerInputs(), Model(onnx.parser.parse_model(nested(", float[2] w")))).model
    onnx.checker.check_model(got.proto, full_check=True)
    assert got.inputs == [info.name for info in got.proto.graph.input] == ["c", "x"]


def test_one_that_is_an_output_as_well_is_dropped_too() -> None:
    def both(inputs: str) -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[2] x{inputs}) => (float[2] y, float[2] w) <float[2] w = {{1, 2}}> {{ y = Add (x, w) }}"""

    assert_rewrites(DropInitializerInputs(), both(", float[2] w"), both(""))


def test_a_sparse_one_is_dropped_too() -> None:
    values = numpy_helper.from_array(np.float32([5]), "w")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.int64([1]), "indices"), [3])
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [3]) for name in "xwy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", ends[:2], ends[2:])
    graph.sparse_initializer.append(sparse)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    got = apply_pass(DropInitializerInputs(), Model(proto)).model.proto
    assert [info.name for info in got.graph.input] == ["x"]
    assert list(got.graph.sparse_initializer) == [sparse]


@fuzz(DropInitializerInputs())
def test_what_nobody_overrides_can_be_a_constant(build: Builder) -> list[str]:
    # a drawn input of integers is given the value that it has anyway
    shape = build.shape(rank=(0, 2))
    x = build.input(shape, np.int64)
    for _ in range(build.integer(3, 8)):
        x = build.node(build.choice(["Add", "Sub"]), [x, build.weight(shape, np.int64)])
    return [x]
