import numpy as np

from graphsurgery.passes.split_multi_axis_slice import SplitMultiAxisSlice
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

Y = "float[2, 2, 4] y"


def model(nodes: str, weights: str = "", opset: int = 17, x: str = "float[2, 3, 6] x", y: str = Y) -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g ({x}) => ({y}) <{weights}> {{
            {nodes}
        }}"""


def bounds(starts: str, ends: str, axes: str, steps: str = "") -> str:
    lists = {"s": starts, "e": ends, "a": axes} | ({"t": steps} if steps else {})
    return ", ".join(f"int64[{len(text.split(','))}] {name} = {{{text}}}" for name, text in lists.items())


CHAIN = """int64[1] y_starts = {0}, int64[1] y_ends = {2}, int64[1] y_axes = {1},
           int64[1] y_starts_2 = {1}, int64[1] y_ends_2 = {5}, int64[1] y_axes_2 = {2}"""
CHAINED = """y_slice = Slice (x, y_starts, y_ends, y_axes)
            y = Slice (y_slice, y_starts_2, y_ends_2, y_axes_2)"""


def test_each_axis_gets_a_slice() -> None:
    before = model("y = Slice (x, s, e, a)", bounds("0, 1", "2, 5", "1, 2"))
    assert_rewrites(SplitMultiAxisSlice(), before, model(CHAINED, CHAIN))


def test_bounds_may_be_attributes() -> None:
    before = model("y = Slice <axes = [1, 2], starts = [0, 1], ends = [2, 5]> (x)", opset=9)
    after = model(
        """y_slice = Slice <axes = [1], starts = [0], ends = [2]> (x)
            y = Slice <axes = [2], starts = [1], ends = [5]> (y_slice)""",
        opset=9,
    )
    assert_rewrites(SplitMultiAxisSlice(), before, after)


def test_steps_and_negative_bounds_go_with_their_axis() -> None:
    y = "float[2, 2, 3] y"
    before = model("y = Slice (x, s, e, a, t)", bounds("0, -1", "2, -7", "-2, -1", "1, -2"), y=y)
    weights = """int64[1] y_starts = {0}, int64[1] y_ends = {2}, int64[1] y_axes = {-2}, int64[1] y_starts_2 = {-1},
                 int64[1] y_ends_2 = {-7}, int64[1] y_axes_2 = {-1}, int64[1] y_steps = {-2}"""
    nodes = """y_slice = Slice (x, y_starts, y_ends, y_axes)
            y = Slice (y_slice, y_starts_2, y_ends_2, y_axes_2, y_steps)"""
    assert_rewrites(SplitMultiAxisSlice(), before, model(nodes, weights, y=y))


def test_axes_that_are_not_written_are_the_first_ones() -> None:
    x, y = "float[3, 6] x", "float[2, 4] y"
    weights = "int64[2] s = {0, 1}, int64[2] e = {2, 5}"
    after = CHAIN.replace("y_axes = {1}", "y_axes = {0}").replace("y_axes_2 = {2}", "y_axes_2 = {1}")
    assert_rewrites(
        SplitMultiAxisSlice(), model("y = Slice (x, s, e)", weights, x=x, y=y), model(CHAINED, after, x=x, y=y)
    )


def test_an_axis_that_is_taken_whole_gets_no_slice() -> None:
    y = "float[2, 3, 4] y"
    weights = bounds("0, 1", "9223372036854775807, 5", "1, 2")
    after = "int64[1] y_starts = {1}, int64[1] y_ends = {5}, int64[1] y_axes = {2}"
    assert_rewrites(
        SplitMultiAxisSlice(),
        model("y = Slice (x, s, e, a)", weights, y=y),
        model("y = Slice (x, y_starts, y_ends, y_axes)", after, y=y),
    )


def test_one_slice_stays_where_all_axes_are_taken_whole() -> None:
    y = "float[2, 3, 6] y"
    weights = bounds("0, 0", "2147483647, 2147483647", "1, 2")
    after = "int64[1] y_starts = {0}, int64[1] y_ends = {2147483647}, int64[1] y_axes = {1}"
    assert_rewrites(
        SplitMultiAxisSlice(),
        model("y = Slice (x, s, e, a)", weights, y=y),
        model("y = Slice (x, y_starts, y_ends, y_axes)", after, y=y),
    )


def test_sizes_need_not_be_known_and_other_readers_stay() -> None:
    x, y = "float[n, c, w] x", "float[n, c2, w2] y, float[n, c, w] r, float[n, c2, w2] z"
    before = model("y = Slice (x, s, e, a)\nr = Relu (x)\nz = Neg (y)", bounds("0, 1", "2, 5", "1, 2"), x=x, y=y)
    assert_rewrites(SplitMultiAxisSlice(), before, model(f"{CHAINED}\nr = Relu (x)\nz = Neg (y)", CHAIN, x=x, y=y))


def test_works_inside_an_if_body() -> None:
    def body(nodes: str, weights: str) -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[2, 3, 6] x) => (float[2, 2, 4] z) {{
            z = If (c) <
                then_branch = t () => (float[2, 2, 4] y) <{weights}> {{ {nodes} }},
                else_branch = e () => (float[2, 2, 4] d) {{
                    k = Constant <value_ints = [2, 2, 4]> ()
                    d = ConstantOfShape (k)
                }}
            >
        }}"""

    before = body("y = Slice (x, s, e, a)", bounds("0, 1", "2, 5", "1, 2"))
    assert_rewrites(SplitMultiAxisSlice(), before, body(CHAINED, CHAIN))


def test_leaves_a_slice_of_one_axis_alone() -> None:
    text = model("y = Slice (x, s, e, a)", bounds("1", "5", "2"), y="float[2, 3, 4] y")
    assert_untouched(SplitMultiAxisSlice(), text, None)


def test_leaves_computed_bounds_alone() -> None:
    weights = "int64[2] e = {2, 5}, int64[2] a = {1, 2}"
    text = model("y = Slice (x, s, e, a)", weights, x="float[2, 3, 6] x, int64[2] s", y="float[2, b, c] y")
    assert_untouched(SplitMultiAxisSlice(), text, "not constant")


def test_leaves_bounds_that_a_caller_may_override_alone() -> None:
    text = model(
        "y = Slice (x, s, e, a)",
        bounds("0, 1", "2, 5", "1, 2"),
        x="float[2, 3, 6] x, int64[2] e",
        y="float[2, b, c] y",
    )
    assert_untouched(SplitMultiAxisSlice(), text, "not constant")


def test_does_not_look_at_computed_bounds_of_one_axis() -> None:
    text = model("y = Slice (x, s, e)", "int64[1] e = {2}", x="float[2, 3, 6] x, int64[1] s", y="float[a, 3, 6] y")
    assert_untouched(SplitMultiAxisSlice(), text, None)


def test_leaves_an_axis_that_stands_twice_alone() -> None:
    text = model("y = Slice (x, s, e, a)", bounds("0, 1", "2, 2", "1, 1"), y="float[2, b, 6] y")
    assert_untouched(SplitMultiAxisSlice(), text, "stands twice")


def test_leaves_a_custom_operator_of_that_name_alone() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[2, 3] x) => (float[1, 1] y) {
            y = mine.Slice <axes = [0, 1], starts = [0, 1], ends = [1, 2]> (x)
        }"""
    assert_untouched(SplitMultiAxisSlice(), text, None)


def draw_slice(build: Builder, data: str, shape: list[int], steps: tuple[int, ...], axes: list[int]) -> str:
    """Draw a Slice of any bounds, far out of range ones included, in the form of the operator set."""
    far = 2**63 - 1
    taken = [
        (build.choice([0, build.integer(-7, 7)]), build.choice([far, build.integer(-7, 7)]), build.choice(steps))
        for _ in axes
    ]
    starts, ends, strides = (list(column) for column in zip(*taken, strict=True))
    counted = [axis - len(shape) if build.opset >= 11 and build.chance(3) else axis for axis in axes]
    if build.opset < 10:
        return build.node("Slice", [data], axes=counted, starts=starts, ends=ends)
    kind = build.choice([np.int64, np.int64, np.int32])
    ends = [min(end, int(np.iinfo(kind).max)) for end in ends]
    inputs = [data, *(build.constant(np.array(values, kind)) for values in (starts, ends, counted))]
    if set(strides) != {1} or build.chance(3):
        inputs.append(build.constant(np.array(strides, kind)))
    return build.node("Slice", inputs)


@fuzz(SplitMultiAxisSlice())
def test_any_slice_computes_the_same(build: Builder) -> list[str]:
    shape = build.shape(rank=(1, 4))
    axes = [axis for axis in range(len(shape)) if not build.chance(3)] or [0]
    if build.chance(2):
        axes.reverse()
    x = build.input(shape, build.dtype([np.float32, np.float16, np.int64, np.bool_]))
    return [draw_slice(build, x, shape, (1, 1, 2, -1, 3), axes)]
