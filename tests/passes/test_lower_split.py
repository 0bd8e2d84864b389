import numpy as np
import pytest

from graphsurgery.passes.lower_split import LowerSplit
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz


def split(opset: int, node: str, weights: str = "", x: str = "float[2, 5] x", outputs: str = "") -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g ({x}) => ({outputs or "float[2, 2] a, float[2, 3] b"}) <{weights}> {{
            {node}
        }}"""


def sliced(opset: int, *parts: tuple[str, int, int], x: str = "float[2, 5] x", outputs: str = "", axis: int = 1) -> str:
    weights = ", ".join(
        f"int64[1] {name}_starts = {{{start}}}, int64[1] {name}_ends = {{{end}}}, int64[1] {name}_axes = {{{axis}}}"
        for name, start, end in parts
    )
    nodes = "\n".join(f"{name} = Slice (x, {name}_starts, {name}_ends, {name}_axes)" for name, _, _ in parts)
    return split(opset, nodes, weights, x, outputs)


def test_each_part_becomes_a_slice() -> None:
    before = split(17, "a, b = Split <axis = 1> (x, s)", "int64[2] s = {2, 3}")
    assert_rewrites(LowerSplit(), before, sliced(17, ("a", 0, 2), ("b", 2, 5)))


def test_an_axis_from_the_back_is_counted_from_the_front() -> None:
    before = split(17, "a, b = Split <axis = -1> (x, s)", "int64[2] s = {2, 3}")
    assert_rewrites(LowerSplit(), before, sliced(17, ("a", 0, 2), ("b", 2, 5)))


def test_finds_the_sizes_in_the_attribute_before_operator_set_13() -> None:
    before = split(11, "a, b = Split <axis = 1, split = [2, 3]> (x)")
    assert_rewrites(LowerSplit(), before, sliced(11, ("a", 0, 2), ("b", 2, 5)))


def test_writes_bounds_as_attributes_before_operator_set_10() -> None:
    after = split(
        9,
        """
            a = Slice <axes = [1], ends = [2], starts = [0]> (x)
            b = Slice <axes = [1], ends = [5], starts = [2]> (x)""",
    )
    assert_rewrites(LowerSplit(), split(9, "a, b = Split <axis = 1, split = [2, 3]> (x)"), after)


@pytest.mark.parametrize(("opset", "attribute"), [(11, ""), (13, ""), (18, "<num_outputs = 2>")])
def test_parts_without_sizes_are_equal(opset: int, attribute: str) -> None:
    x, outputs = "float[4, 3] x", "float[2, 3] a, float[2, 3] b"
    before = split(opset, f"a, b = Split {attribute} (x)", x=x, outputs=outputs)
    assert_rewrites(LowerSplit(), before, sliced(opset, ("a", 0, 2), ("b", 2, 4), x=x, outputs=outputs, axis=0))


def test_the_last_part_may_be_smaller_from_operator_set_18_on() -> None:
    outputs = "float[2, 2] a, float[2, 2] b, float[2, 1] c"
    before = split(18, "a, b, c = Split <axis = 1, num_outputs = 3> (x)", outputs=outputs)
    assert_rewrites(LowerSplit(), before, sliced(18, ("a", 0, 2), ("b", 2, 4), ("c", 4, 5), outputs=outputs))


def test_a_part_that_nothing_reads_gets_no_slice() -> None:
    before = split(17, "a, b = Split <axis = 1> (x, s)", "int64[2] s = {2, 3}", outputs="float[2, 3] b")
    assert_rewrites(LowerSplit(), before, sliced(17, ("b", 2, 5), outputs="float[2, 3] b"))


@pytest.mark.parametrize("outputs", ["float[2, 2] a, float[2, 2] c, float[2, 3] b", "float[2, 2] c, float[2, 3] b"])
def test_a_part_may_be_read_or_be_an_output_or_both(outputs: str) -> None:
    before = split(17, "a, b = Split <axis = 1> (x, s)\nc = Neg (a)", "int64[2] s = {2, 3}", outputs=outputs)
    weights = """int64[1] a_starts = {0}, int64[1] a_ends = {2}, int64[1] a_axes = {1},
                 int64[1] b_starts = {2}, int64[1] b_ends = {5}, int64[1] b_axes = {1}"""
    nodes = "a = Slice (x, a_starts, a_ends, a_axes)\nc = Neg (a)\nb = Slice (x, b_starts, b_ends, b_axes)"
    assert_rewrites(LowerSplit(), before, split(17, nodes, weights, outputs=outputs))


def test_sizes_that_are_given_need_no_shape() -> None:
    # nothing infers the shape of what a custom operator writes
    head = '<ir_version: 8, opset_import: ["": 17, "mine": 1]>'
    before = f"""
        {head}
        g (float[2, 5] x) => (float[2, 3] b) <int64[2] s = {{2, 3}}> {{
            y = mine.Foo (x)
            a, b = Split <axis = -1> (y, s)
        }}"""
    after = f"""
        {head}
        g (float[2, 5] x) => (float[2, 3] b)
            <int64[1] b_starts = {{2}}, int64[1] b_ends = {{5}}, int64[1] b_axes = {{-1}}> {{
            y = mine.Foo (x)
            b = Slice (y, b_starts, b_ends, b_axes)
        }}"""
    assert_rewrites(LowerSplit(), before, after, outputs_agree=False)


def test_works_inside_an_if_body() -> None:
    def body(nodes: str, weights: str = "") -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[2, 4] x) => (float[2, 2] y) {{
            y = If (c) <
                then_branch = t () => (float[2, 2] a) {weights} {{ {nodes} }},
                else_branch = e () => (float[2, 2] d) {{
                    k = Constant <value_ints = [0, 1]> ()
                    d = Gather <axis = 1> (x, k)
                }}
            >
        }}"""

    weights = "<int64[1] a_starts = {0}, int64[1] a_ends = {2}, int64[1] a_axes = {1}>"
    after = body("a = Slice (x, a_starts, a_ends, a_axes)", weights)
    assert_rewrites(LowerSplit(), body("a, b = Split <axis = 1> (x)"), after)


def test_leaves_computed_sizes_alone() -> None:
    node = "s = Cast <to = 7> (f)\na, b = Split <axis = 1> (x, s)"
    assert_untouched(LowerSplit(), split(17, node, x="float[2, 5] x, float[2] f"), "not constant")


def test_leaves_sizes_that_a_caller_may_override_alone() -> None:
    text = split(17, "a, b = Split <axis = 1> (x, s)", "int64[2] s = {2, 3}", x="float[2, 5] x, int64[2] s")
    assert_untouched(LowerSplit(), text, "not constant")


def test_leaves_equal_parts_of_an_axis_of_unknown_size_alone() -> None:
    text = split(17, "a, b = Split <axis = 1> (x)", x="float[2, n] x", outputs="float[2, m] a, float[2, m] b")
    assert_untouched(LowerSplit(), text, "axis 1 is not known")


def test_leaves_unequal_parts_without_sizes_alone_before_operator_set_18() -> None:
    text = split(17, "a, b = Split <axis = 1> (x)", outputs="float[2, m] a, float[2, n] b")
    assert_untouched(LowerSplit(), text, "size 5 can't be cut into 2")


def test_leaves_parts_that_do_not_fit_alone() -> None:
    outputs = "float[2, m] a, float[2, m] b, float[2, m] c, float[2, m] d"
    text = split(18, "a, b, c, d = Split <axis = 1, num_outputs = 4> (x)", outputs=outputs)
    assert_untouched(LowerSplit(), text, "size 5 can't be cut into 4")


def test_leaves_an_axis_from_the_back_alone_where_the_rank_is_unknown_before_operator_set_11() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 9, "mine": 1]>
        g (float[2, 5] x) => (float[2, 3] b) {
            y = mine.Foo (x)
            a, b = Split <axis = -1, split = [2, 3]> (y)
        }"""
    assert_untouched(LowerSplit(), text, "which axis")


def test_leaves_more_sizes_than_outputs_alone() -> None:
    text = split(17, "a, b = Split <axis = 1> (x, s)", "int64[3] s = {2, 2, 1}", outputs="float[2, m] a, float[2, k] b")
    assert_untouched(LowerSplit(), text, "2 outputs for 3 parts")


def test_leaves_a_custom_operator_of_that_name_alone() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[2, 4] x) => (float[2, 2] a, float[2, 2] b) {
            a, b = mine.Split <axis = 1> (x)
        }"""
    assert_untouched(LowerSplit(), text, None)


@fuzz(LowerSplit())
def test_any_split_computes_the_same(build: Builder) -> list[str]:
    sizes = [build.integer(0, 3) for _ in range(build.integer(1, 4))]
    equal = build.chance(2)
    if equal:
        sizes = [build.integer(1, 2)] * len(sizes)
    shape = build.shape(rank=(1, 4))
    axis = build.integer(0, len(shape) - 1)
    shape[axis] = max(1, sum(sizes) - (build.integer(0, 2) if equal and build.opset >= 18 else 0))
    x = build.input(shape, build.dtype([np.float32, np.float16, np.int64, np.bool_]))
    written = build.choice([axis, axis - len(shape) if build.opset >= 11 else axis, None if axis == 0 else axis])
    if equal:
        parts = len(sizes) if build.opset >= 18 else None
        outs = build.node("Split", [x], outputs=len(sizes), axis=written, num_outputs=parts)
    elif build.opset >= 13:
        outs = build.node("Split", [x, build.constant(np.array(sizes))], outputs=len(sizes), axis=written)
    else:
        outs = build.node("Split", [x], outputs=len(sizes), axis=written, split=sizes)
    parts = [outs] if isinstance(outs, str) else outs
    return [build.choice(parts), *[part for part in parts if build.chance(2)]]
