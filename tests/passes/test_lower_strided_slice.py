import numpy as np
import onnx
import pytest

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.passes.lower_strided_slice import LowerStridedSlice
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz


def model(
    nodes: str, weights: str = "", x: str = "float[2, 8, 6] x", y: str = "float[2, 4, 6] y", opset: int = 17
) -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g ({x}) => ({y}) <{weights}> {{
            {nodes}
        }}"""


def strided(start: str, end: str, axis: str, step: str, **rest: object) -> str:
    lists = {"s": start, "e": end, "a": axis, "t": step}
    weights = ", ".join(f"int64[{len(text.split(','))}] {name} = {{{text}}}" for name, text in lists.items())
    return model("y = Slice (x, s, e, a, t)", weights, **rest)  # type: ignore[arg-type]


def sliced(name: str, start: int, end: int, axis: int) -> str:
    """Weights of one Slice; `name` is y, or y with a number behind the colon."""
    prefix, _, number = name.partition(":")
    return ", ".join(
        f"int64[1] {prefix}_{kind}{number} = {{{value}}}"
        for kind, value in (("starts", start), ("ends", end), ("axes", axis))
    )


@pytest.mark.parametrize(("start", "phase"), [(0, 0), (1, 1)])
def test_the_step_becomes_part_of_the_next_axis(start: int, phase: int) -> None:
    weights = f"int64[3] y_shape = {{2, 4, 12}}, {sliced('y', 6 * phase, 6 * phase + 6, 2)}"
    nodes = """y_reshape = Reshape (x, y_shape)
            y = Slice (y_reshape, y_starts, y_ends, y_axes)"""
    assert_rewrites(LowerStridedSlice(), strided(str(start), "8", "1", "2"), model(nodes, weights))


LAST = """y_reshape = Reshape (x, y_shape)
            y_slice = Slice (y_reshape, y_starts, y_ends, y_axes)
            y = Reshape (y_slice, y_shape_2)"""


def test_the_last_axis_becomes_part_of_the_one_before() -> None:
    y = "float[2, 8, 2] y"
    weights = f"int64[3] y_shape = {{2, 16, 3}}, {sliced('y', 1, 2, 2)}, int64[3] y_shape_2 = {{2, 8, 2}}"
    assert_rewrites(LowerStridedSlice(), strided("1", "6", "-1", "3", y=y), model(LAST, weights, y=y))


def test_a_vector_becomes_a_matrix() -> None:
    x, y = "float[6] x", "float[3] y"
    weights = f"int64[2] y_shape = {{3, 2}}, {sliced('y', 0, 1, 1)}, int64[1] y_shape_2 = {{3}}"
    assert_rewrites(LowerStridedSlice(), strided("0", "6", "0", "2", x=x, y=y), model(LAST, weights, x=x, y=y))


def test_sizes_that_are_not_known_are_copied() -> None:
    x, y = "float[n, 8, 6, m] x", "float[n, 8, 2, m] y"
    assert_untouched(LowerStridedSlice(), strided("1", "6", "2", "3", x=x, y=y), "the size of axis 3, behind")
    weights = f"int64[4] y_shape = {{0, 4, 12, 0}}, {sliced('y', 0, 6, 2)}"
    nodes = """y_reshape = Reshape (x, y_shape)
            y = Slice (y_reshape, y_starts, y_ends, y_axes)"""
    y = "float[n, 4, 6, m] y"
    assert_rewrites(LowerStridedSlice(), strided("0", "8", "1", "2", x=x, y=y), model(nodes, weights, x=x, y=y))


def test_the_last_axis_becomes_two_where_the_one_before_is_not_known() -> None:
    x, y = "float[n, m, 6] x", "float[n, m, 2] y"
    weights = f"int64[4] y_shape = {{0, 0, 2, 3}}, {sliced('y', 1, 2, 3)}, int64[3] y_shape_2 = {{0, 0, 2}}"
    assert_rewrites(LowerStridedSlice(), strided("1", "6", "2", "3", x=x, y=y), model(LAST, weights, x=x, y=y))


def test_what_the_steps_do_not_reach_is_cropped_with_the_axes_of_step_1() -> None:
    y = "float[2, 3, 4] y"
    before = strided("1, 2", "5, 8", "2, 1", "1, 2", x="float[2, 9, 6] x", y=y)
    weights = f"""int64[2] y_starts = {{2, 1}}, int64[2] y_ends = {{8, 5}}, int64[2] y_axes = {{1, 2}},
                  int64[3] y_shape = {{2, 3, 8}}, {sliced("y:_2", 0, 4, 2)}"""
    nodes = """y_slice = Slice (x, y_starts, y_ends, y_axes)
            y_reshape = Reshape (y_slice, y_shape)
            y = Slice (y_reshape, y_starts_2, y_ends_2, y_axes_2)"""
    assert_rewrites(LowerStridedSlice(), before, model(nodes, weights, x="float[2, 9, 6] x", y=y))


@pytest.mark.parametrize("opset", [10, 17])
def test_pads_where_nothing_can_be_cropped(opset: int) -> None:
    x, y = "float[2, 7, 6] x", "float[2, 4, 6] y"
    pad = "y_pad = Pad (x, y_pads)" if opset > 10 else "y_pad = Pad <pads = [0, 0, 0, 0, 1, 0]> (x)"
    pads = ", int64[6] y_pads = {0, 0, 0, 0, 1, 0}" if opset > 10 else ""
    weights = f"int64[3] y_shape = {{2, 4, 12}}, {sliced('y', 0, 6, 2)}{pads}"
    nodes = f"""{pad}
            y_reshape = Reshape (y_pad, y_shape)
            y = Slice (y_reshape, y_starts, y_ends, y_axes)"""
    before = strided("0", "7", "1", "2", x=x, y=y, opset=opset)
    assert_rewrites(LowerStridedSlice(), before, model(nodes, weights, x=x, y=y, opset=opset))


def test_groups_begin_before_the_first_element_rather_than_pad() -> None:
    # elements 2, 5 of 7: groups of three from 1 on, of which each gives its second element
    x, y = "float[7, 2] x", "float[2, 2] y"
    weights = f"{sliced('y', 1, 7, 0)}, int64[2] y_shape = {{2, 6}}, {sliced('y:_2', 2, 4, 1)}"
    nodes = """y_slice = Slice (x, y_starts, y_ends, y_axes)
            y_reshape = Reshape (y_slice, y_shape)
            y = Slice (y_reshape, y_starts_2, y_ends_2, y_axes_2)"""
    assert_rewrites(LowerStridedSlice(), strided("2", "7", "0", "3", x=x, y=y), model(nodes, weights, x=x, y=y))


@pytest.mark.parametrize(("end", "count"), [("3", 1), ("2", 0)])
def test_one_element_or_none_needs_no_step(end: str, count: int) -> None:
    y = f"float[2, {count}, 6] y"
    start = 2 * count
    after = model("y = Slice (x, y_starts, y_ends, y_axes)", sliced("y", start, start + count, 1), y=y)
    assert_rewrites(LowerStridedSlice(), strided("2", end, "1", "5", y=y), after)


def test_an_axis_of_size_1_needs_no_step_either() -> None:
    x = "float[1, 4] x"
    after = model("y = Slice (x, y_starts, y_ends, y_axes)", sliced("y", 0, 2**63 - 1, 0), x, "float[1, 4] y")
    assert_rewrites(LowerStridedSlice(), strided("0", "9", "0", "2", x=x, y="float[1, 4] y"), after)


def test_several_axes_with_steps_come_one_after_the_other() -> None:
    proto = parse(strided("1, 0, -5", "8, 6, 9", "1, 2, 0", "2, 4, 2", x="float[5, 7, 6] x", y="float[3, 3, 2] y"))
    got = apply_pass(LowerStridedSlice(), Model(proto)).model.proto
    assert [node.op_type for node in got.graph.node].count("Reshape") == 4
    x = np.random.default_rng(0).standard_normal((5, 7, 6)).astype(np.float32)
    np.testing.assert_array_equal(session.run(got, {"x": x})["y"], x[::2, 1::2, ::4])


def test_an_empty_axis_elsewhere_stays_empty() -> None:
    x, y = "float[0, 8, 0] x", "float[0, 4, 0] y"
    got = apply_pass(LowerStridedSlice(), Model(parse(strided("0", "8", "1", "2", x=x, y=y)))).model.proto
    onnx.checker.check_model(got, full_check=True)
    assert [node.op_type for node in got.graph.node] == ["Reshape", "Slice"]
    assert session.run(got, {"x": np.zeros((0, 8, 0), np.float32)})["y"].shape == (0, 4, 0)


def test_works_inside_an_if_body_and_keeps_other_readers() -> None:
    def body(nodes: str, weights: str) -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[2, 8, 6] x) => (float[2, 4, 6] z, float[2, 8, 6] r) {{
            r = Relu (x)
            z = If (c) <
                then_branch = t () => (float[2, 4, 6] y) <{weights}> {{ {nodes} }},
                else_branch = e () => (float[2, 4, 6] d) {{
                    k = Constant <value_ints = [2, 4, 6]> ()
                    d = ConstantOfShape (k)
                }}
            >
        }}"""

    before = body("y = Slice (x, s, e, a, t)", "int64[1] s = {0}, int64[1] e = {8}, int64[1] a = {1}, int64[1] t = {2}")
    nodes = """y_reshape = Reshape (x, y_shape)
            y = Slice (y_reshape, y_starts, y_ends, y_axes)"""
    after = body(nodes, f"int64[3] y_shape = {{2, 4, 12}}, {sliced('y', 0, 6, 2)}")
    assert_rewrites(LowerStridedSlice(), before, after)


def test_leaves_steps_of_1_alone() -> None:
    assert_untouched(LowerStridedSlice(), strided("0", "4", "1", "1"), None)
    assert_untouched(LowerStridedSlice(), model("y = Slice (x, s, e)", x="float[2, 8] x, int64[1] s, int64[1] e"), None)


@pytest.mark.parametrize("name", ["s", "t"])
def test_leaves_bounds_that_a_caller_may_override_alone(name: str) -> None:
    text = strided("0", "8", "1", "2", x=f"float[2, 8, 6] x, int64[1] {name}", y="float[2, n, 6] y")
    assert_untouched(LowerStridedSlice(), text, "not constant")


def test_leaves_negative_steps_alone() -> None:
    assert_untouched(LowerStridedSlice(), strided("7", "-9", "1", "-2"), "negative")


@pytest.mark.parametrize("axes", ["1, 1", "1, 3"])
def test_leaves_axes_that_are_not_right_alone(axes: str) -> None:
    text = f"""
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[2, 8, 6] x) => (float[a, b, c] y)
            <int64[2] s = {{0, 0}}, int64[2] e = {{8, 8}}, int64[2] a = {{{axes}}}, int64[2] t = {{2, 1}}> {{
            w = Slice (x, s, e, a, t)
            y = mine.Foo (w)
        }}"""
    assert_untouched(LowerStridedSlice(), text, "not right for 3 axes")


def test_leaves_an_unknown_rank_alone() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[2, 8] x) => (float[2, 4] y)
            <int64[1] s = {0}, int64[1] e = {8}, int64[1] a = {1}, int64[1] t = {2}> {
            w = mine.Foo (x)
            y = Slice (w, s, e, a, t)
        }"""
    assert_untouched(LowerStridedSlice(), text, "rank")


def test_leaves_an_axis_of_unknown_size_alone() -> None:
    text = strided("0", "8", "1", "2", x="float[2, n, 6] x", y="float[2, m, 6] y")
    assert_untouched(LowerStridedSlice(), text, "axis 1, which it takes in steps")


@pytest.mark.parametrize(("dtype", "opset"), [("int32", 10), ("bool", 12), ("string", 17)])
def test_leaves_what_pad_does_not_take_alone(dtype: str, opset: int) -> None:
    text = strided("0", "7", "1", "2", x=f"{dtype}[2, 7, 6] x", y=f"{dtype}[2, 4, 6] y", opset=opset)
    assert_untouched(LowerStridedSlice(), text, "padding is needed")


def test_leaves_a_custom_operator_of_that_name_alone() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[8] x) => (float[4] y) {
            y = mine.Slice <steps = [2], axes = [0], starts = [0], ends = [8]> (x)
        }"""
    assert_untouched(LowerStridedSlice(), text, None)


@fuzz(LowerStridedSlice(), opsets=(10, 11, 12, 13, 17, 18, 21))
def test_any_strided_slice_computes_the_same(build: Builder) -> list[str]:
    shape = build.shape(rank=(1, 4), sizes=(1, 9))
    axes = [axis for axis in range(len(shape)) if not build.chance(3)] or [len(shape) - 1]
    if build.chance(2):
        axes.reverse()
    starts = [build.choice([0, build.integer(-10, 10)]) for _ in axes]
    ends = [build.choice([2**31 - 1, build.integer(-10, 10)]) for _ in axes]
    steps = [build.choice([2, 1, 3, 2, 4, 2, -1 if build.chance(4) else 2]) for _ in axes]
    written = [axis - len(shape) if build.opset >= 11 and build.chance(3) else axis for axis in axes]
    x = build.input(shape, build.dtype([np.float32, np.float16, np.int64, np.bool_]))
    kind = build.choice([np.int64, np.int32])
    return [
        build.node("Slice", [x, *(build.constant(np.array(each, kind)) for each in (starts, ends, written, steps))])
    ]
