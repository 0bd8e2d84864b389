import numpy as np
import pytest

from graphsurgery.passes.lower_column_gather import LowerColumnGather
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz


def model(nodes: str, x: str = "float[5, 4] x", y: str = "float[5] y", weights: str = "int64 i = {2}") -> str:
    return f'<ir_version: 8, opset_import: ["": 17, "my": 1]> g ({x}) => ({y}) <{weights}> {{ {nodes} }}'


TRANSPOSED = "x_transposed = Transpose <perm = [1, 0]> (x)"
ROW = f"{TRANSPOSED}  y = Gather <axis = 0> (x_transposed, i)"


@pytest.mark.parametrize(("axis", "index"), [(1, "int64 i = {2}"), (-1, "int32 i = {2}"), (1, "int64 i = {-1}")])
def test_a_column_becomes_a_row_of_the_transposed_tensor(axis: int, index: str) -> None:
    before = model(f"y = Gather <axis = {axis}> (x, i)", weights=index)
    assert_rewrites(LowerColumnGather(), before, model(ROW, weights=index))


def test_the_index_may_be_computed() -> None:
    x = "float[5, 4] x, int64[a, b] s"
    inputs = {"x": np.arange(20, dtype=np.float32).reshape(5, 4), "s": np.zeros((1, 1), np.int64)}
    nodes, weights = "i = Size (s)", "int64 unused = {0}"
    before = model(f"{nodes}  y = Gather <axis = 1> (x, i)", x, weights=weights)
    assert_rewrites(LowerColumnGather(), before, model(f"{nodes}  {ROW}", x, weights=weights), inputs)


def test_columns_of_one_tensor_share_a_transpose() -> None:
    y, weights = "float[5] y, float[5] z", "int64 i = {2}, int64 j = {0}"
    before = model("y = Gather <axis = 1> (x, i)  z = Gather <axis = 1> (x, j)", y=y, weights=weights)
    after = model(f"{ROW}  z = Gather <axis = 0> (x_transposed, j)", y=y, weights=weights)
    assert_rewrites(LowerColumnGather(), before, after)


def test_a_transpose_that_is_there_is_taken() -> None:
    y = "float[5] y, float[4, 5] t"
    before = model("y = Gather <axis = 1> (x, i)  t = Transpose (x)", y=y)
    assert_rewrites(LowerColumnGather(), before, model("t = Transpose (x)  y = Gather <axis = 0> (t, i)", y=y))


def test_other_axes_keep_their_order() -> None:
    x, y = "float[2, 3, 4] x", "float[2, 4] y"
    moved = "x_transposed = Transpose <perm = [1, 0, 2]> (x)"
    after = model(f"{moved}  y = Gather <axis = 0> (x_transposed, i)", x, y)
    before = model("y = Gather <axis = 1> (x, i)", x, y)
    assert_rewrites(LowerColumnGather(axes=(1,)), before, after)
    assert_untouched(LowerColumnGather(), before, None)


def test_works_inside_a_body_of_its_own() -> None:
    def text(nodes: str) -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[5, 4] x) => (float[5] z) <int64 i = {{2}}> {{
            z = If (c) <
                then_branch = t () => (float[5] y) {{ {nodes} }},
                else_branch = e () => (float[5] d) {{ d = ReduceSum <keepdims = 0> (x, k) }}
            >
        }}""".replace("<int64 i = {2}>", "<int64 i = {2}, int64[1] k = {1}>")

    assert_rewrites(LowerColumnGather(), text("y = Gather <axis = 1> (x, i)"), text(ROW))


@pytest.mark.parametrize("nodes", ["y = Gather (x, i)", "y = Gather <axis = -2> (x, i)", "y = my.Gather (x, i)"])
def test_leaves_a_row_and_other_operators_alone(nodes: str) -> None:
    assert_untouched(LowerColumnGather(axes=(0, -1)), model(nodes, y="float[n] y"), None)


@pytest.mark.parametrize(
    ("index", "x", "reason"),
    [
        ("int64[2] i = {2, 0}", "float[5, 4] x", "the shape [2], is no scalar"),
        ("int64[1] i = {2}", "float[5, 4] x", "the shape [1], is no scalar"),
        ("int64 i = {2}", "float[5, 4] z", "rank of its input is not known"),
    ],
)
def test_leaves_alone_what_it_can_not_transpose(index: str, x: str, reason: str) -> None:
    made = "x = my.Custom (z)" if x.endswith("z") else ""
    text = model(f"{made} y = Gather <axis = 1> (x, i)", x, "float[n, m] y", index)
    assert_untouched(LowerColumnGather(), text, reason)


@fuzz(LowerColumnGather(axes=(1, -1)))
def test_any_gather_computes_the_same(build: Builder) -> list[str]:
    shape = build.shape(rank=(1, 4))
    axis = build.integer(0, len(shape) - 1)
    x = build.input(shape, build.dtype([np.float32, np.float16, np.int64, np.bool_]))
    index = np.array(build.integer(0, shape[axis] - 1), build.choice([np.int64, np.int32]))
    held = build.constant(index.reshape(1) if build.chance(6) else index)
    written = build.choice([axis, axis - len(shape) if build.opset >= 11 else axis])
    ends = [build.node("Gather", [x, held], axis=written)]
    if build.chance(3):
        ends.append(build.node("Gather", [x, held], axis=axis))
    return ends
