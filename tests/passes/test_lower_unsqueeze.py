import numpy as np
import pytest

from graphsurgery.passes.lower_unsqueeze import LowerUnsqueeze
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

X, Y = "float[2, 3] x", "float[1, 2, 1, 3] y"
BOTH = LowerUnsqueeze(squeeze=True)


def model(nodes: str, weights: str = "", x: str = X, y: str = Y, opset: int = 17) -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g ({x}) => ({y}) <{weights}> {{
            {nodes}
        }}"""


def change(op: str, axes: str, x: str = X, y: str = Y, opset: int = 17) -> str:
    if opset < 13:
        return model(f"y = {op} <axes = [{axes}]> (x)", "", x, y, opset)
    count = len(axes.split(",")) if axes else 0
    return model(f"y = {op} (x, a)", f"int64[{count}] a = {{{axes}}}", x, y, opset)


def reshape(shape: str, x: str = X, y: str = Y, opset: int = 17) -> str:
    count = len(shape.split(",")) if shape else 0
    return model("y = Reshape (x, y_shape)", f"int64[{count}] y_shape = {{{shape}}}", x, y, opset)


@pytest.mark.parametrize("opset", [7, 11, 13, 17])
@pytest.mark.parametrize("axes", ["0, 2", "2, 0"])
def test_becomes_a_reshape(axes: str, opset: int) -> None:
    assert_rewrites(LowerUnsqueeze(), change("Unsqueeze", axes, opset=opset), reshape("1, 2, 1, 3", opset=opset))


@pytest.mark.parametrize("opset", [11, 17])
def test_axes_count_from_the_back_of_the_result(opset: int) -> None:
    before = change("Unsqueeze", "-2, 0", opset=opset)
    assert_rewrites(LowerUnsqueeze(), before, reshape("1, 2, 1, 3", opset=opset))


def test_a_scalar_becomes_a_list() -> None:
    x, y = "float x", "float[1, 1] y"
    assert_rewrites(LowerUnsqueeze(), change("Unsqueeze", "0, 1", x, y), reshape("1, 1", x, y))


@pytest.mark.parametrize(
    ("axes", "x", "y", "shape"),
    [
        ("2", "float[n, m] x", "float[n, m, 1] y", "0, 0, 1"),
        ("1", "float[n, 3] x", "float[n, 1, 3] y", "0, 1, 3"),
        ("0", "float[n, 3] x", "float[1, n, 3] y", "1, -1, 3"),
        ("2", "float[n, 0] x", "float[n, 0, 1] y", "0, 0, 1"),
    ],
)
def test_sizes_that_are_not_known_are_copied_or_computed(axes: str, x: str, y: str, shape: str) -> None:
    assert_rewrites(LowerUnsqueeze(), change("Unsqueeze", axes, x, y), reshape(shape, x, y))


@pytest.mark.parametrize("opset", [11, 17])
def test_a_squeeze_becomes_a_reshape_where_that_is_wanted(opset: int) -> None:
    x, y = "float[2, 1, 3, 1] x", "float[2, 3] y"
    before = change("Squeeze", "-1, 1", x, y, opset)
    assert_rewrites(BOTH, before, reshape("2, 3", x, y, opset))
    assert_untouched(LowerUnsqueeze(), before, None)


def test_a_squeeze_without_axes_drops_every_axis_of_size_1() -> None:
    x, y = "float[2, 1, 3, 1] x", "float[2, 3] y"
    assert_rewrites(BOTH, model("y = Squeeze (x)", "", x, y), reshape("2, 3", x, y))
    omitted = model('y = Squeeze (x, "")', "", x, y)  # which ONNX Runtime does not take for absent
    assert_rewrites(BOTH, omitted, reshape("2, 3", x, y), outputs_agree=False)


def test_a_squeeze_may_leave_a_scalar() -> None:
    x, y = "float[1, 1] x", "float y"
    assert_rewrites(BOTH, model("y = Squeeze (x)", "", x, y), reshape("", x, y))


def test_a_squeeze_computes_one_size_that_is_not_known() -> None:
    x, y = "float[1, n, 3] x", "float[n, 3] y"
    assert_rewrites(BOTH, change("Squeeze", "0", x, y), reshape("-1, 3", x, y))


def test_a_shared_tensor_and_an_output_keep_their_names() -> None:
    y = f"{Y}, float[2, 3] r, float[1, 2, 1, 3] z"
    rest = "\nr = Relu (x)\nz = Neg (y)"
    before = model(f"y = Unsqueeze (x, a){rest}", "int64[2] a = {0, 2}", y=y)
    after = model(f"y = Reshape (x, y_shape){rest}", "int64[4] y_shape = {1, 2, 1, 3}", y=y)
    assert_rewrites(LowerUnsqueeze(), before, after)


def test_works_inside_an_if_body() -> None:
    def body(nodes: str, weights: str) -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[2, 3] x) => (float[1, 2, 1, 3] z) {{
            z = If (c) <
                then_branch = t () => (float[1, 2, 1, 3] y) <{weights}> {{ {nodes} }},
                else_branch = e () => (float[1, 2, 1, 3] d) {{
                    k = Constant <value_ints = [1, 2, 1, 3]> ()
                    d = ConstantOfShape (k)
                }}
            >
        }}"""

    before = body("y = Unsqueeze (x, a)", "int64[2] a = {0, 2}")
    assert_rewrites(LowerUnsqueeze(), before, body("y = Reshape (x, y_shape)", "int64[4] y_shape = {1, 2, 1, 3}"))


@pytest.mark.parametrize("op", ["Squeeze", "Unsqueeze"])
@pytest.mark.parametrize("name", ["a", "b"])
def test_leaves_axes_that_may_change_alone(op: str, name: str) -> None:
    nodes = f"y = {op} (x, a)" if name == "a" else f"c = Abs (b)\ny = {op} (x, c)"
    text = model(nodes, "int64[1] a = {0}", f"float[1, 2, 3] x, int64[1] {name}", "float[k, l, m, n] y")
    assert_untouched(BOTH, text, "not constant")


def test_leaves_an_unknown_rank_alone() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[2] x) => (float[1, 2] y) <int64[1] a = {0}> {
            w = mine.Foo (x)
            y = Unsqueeze (w, a)
        }"""
    assert_untouched(LowerUnsqueeze(), text, "rank")


@pytest.mark.parametrize("axes", ["0, 0", "0, 4", "0, -4"])
def test_leaves_axes_that_are_not_right_alone(axes: str) -> None:
    text = f"""
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[2, 3] x) => (float[a] y) <int64[2] a = {{{axes}}}> {{
            w = Unsqueeze (x, a)
            y = mine.Foo (w)
        }}"""
    assert_untouched(LowerUnsqueeze(), text, "not right for 4 axes")


@pytest.mark.parametrize("x", ["float[n, m] x", "float[n, 0] x", "float[0, 3] x"])
def test_leaves_sizes_alone_that_a_reshape_can_not_tell(x: str) -> None:
    text = change("Unsqueeze", "0", x, "float[1, a, b] y")
    assert_untouched(LowerUnsqueeze(), text, "can't be written down")


def test_leaves_a_size_alone_where_another_one_may_be_0() -> None:
    # copied and computed: a Reshape can't compute a size next to one that turns out 0
    text = change("Unsqueeze", "1", "float[n, m] x", "float[n, 1, m] y")
    assert_untouched(LowerUnsqueeze(), text, "can't be written down")


def test_leaves_a_squeeze_without_axes_alone_where_sizes_are_not_known() -> None:
    text = model("y = Squeeze (x)", "", "float[1, n] x", "float[n] y")
    assert_untouched(BOTH, text, "not all sizes are known")


def test_leaves_an_empty_list_of_axes_alone() -> None:
    assert_untouched(BOTH, change("Squeeze", "", "float[1, 2] x", "float[a, b] y"), "read as none or as all")


def test_leaves_axes_of_a_squeeze_out_of_order_alone_before_operator_set_11() -> None:
    x, y = "float[1, 3, 1, 1, 4] x", "float[3, 1, 4] y"
    assert_untouched(BOTH, change("Squeeze", "3, 0", x, y, opset=10), "not in order")
    assert_rewrites(BOTH, change("Squeeze", "3, 0", x, y, opset=11), reshape("3, 1, 4", x, y, opset=11))


def test_leaves_the_computation_of_a_shape_alone() -> None:
    assert_untouched(LowerUnsqueeze(), change("Unsqueeze", "0", "int64 x", "int64[1] y"), "computation of a shape")
    assert_untouched(BOTH, change("Squeeze", "0", "int64[1] x", "int64 y"), "computation of a shape")


def test_leaves_a_custom_operator_of_that_name_alone() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[4] x) => (float[1, 4] y) {
            y = mine.Unsqueeze <axes = [0]> (x)
        }"""
    assert_untouched(LowerUnsqueeze(), text, None)


def change_axes(build: Builder, op: str, data: str, axes: list[int], rank: int) -> str:
    if build.opset >= 11:
        axes = [axis - rank if build.chance(3) else axis for axis in axes]
    if build.opset < 13:
        return build.node(op, [data], axes=axes)
    return build.node(op, [data, build.constant(np.array(axes, np.int64))])


@fuzz(lambda build: LowerUnsqueeze(squeeze=build.chance(2)))
def test_any_unsqueeze_and_squeeze_compute_the_same(build: Builder) -> list[str]:
    shape = build.shape(rank=(0, 3), sizes=(0 if build.chance(4) else 1, 4))
    x = build.input(shape, build.dtype([np.float32, np.float16, np.int64, np.bool_]))
    rank = len(shape) + build.integer(1, 2)
    axes = [axis for axis in range(rank) if build.chance(2)][: rank - len(shape)]
    axes += [axis for axis in range(rank) if axis not in axes][: rank - len(shape) - len(axes)]
    axes.sort()
    if build.opset >= 13 and build.chance(3):  # before, ONNX's reference evaluator inserts them one after the other
        axes.reverse()
    y = change_axes(build, "Unsqueeze", x, axes, rank)
    if build.chance(2):
        return [y]
    if build.chance(3):
        return [build.node("Squeeze", [y])]
    return [change_axes(build, "Squeeze", y, [axis for axis in axes if not build.chance(3)] or axes, rank)]
