import numpy as np
import pytest

from graphsurgery.passes.lower_gather import LowerGather
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz


def model(nodes: str, weights: str, x: str = "float[2, 5, 3] x", y: str = "float[2, 3] y", opset: int = 17) -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g ({x}) => ({y}) <{weights}> {{
            {nodes}
        }}"""


def gather(index: str, weight_type: str = "int64", axis: int = 1, **rest: object) -> str:
    return model(f"y = Gather <axis = {axis}> (x, i)", f"{weight_type} i = {{{index}}}", **rest)  # type: ignore[arg-type]


def sliced(start: int, end: int, axis: int = 1) -> str:
    return f"int64[1] y_starts = {{{start}}}, int64[1] y_ends = {{{end}}}, int64[1] y_axes = {{{axis}}}"


PICKED = """y_slice = Slice (x, y_starts, y_ends, y_axes)
            y = Squeeze (y_slice, y_axes_2)"""
SLICED = "y = Slice (x, y_starts, y_ends, y_axes)"


@pytest.mark.parametrize(("index", "kind", "axis"), [("2", "int64", 1), ("2", "int32", -2), ("-3", "int64", 1)])
def test_one_index_becomes_a_slice_and_a_squeeze(index: str, kind: str, axis: int) -> None:
    after = model(PICKED, f"{sliced(2, 3)}, int64[1] y_axes_2 = {{1}}")
    assert_rewrites(LowerGather(), gather(index, kind, axis), after)


@pytest.mark.parametrize(("opset", "index"), [(9, "2"), (11, "-3")])
def test_axes_are_attributes_in_older_operator_sets(opset: int, index: str) -> None:
    taken = "<axes = [1], ends = [3], starts = [2]> (x)" if opset < 10 else "(x, y_starts, y_ends, y_axes)"
    nodes = f"""y_slice = Slice {taken}
            y = Squeeze <axes = [1]> (y_slice)"""
    after = model(nodes, "" if opset < 10 else sliced(2, 3), opset=opset)
    assert_rewrites(LowerGather(), gather(index, opset=opset), after)


def test_the_first_axis_is_the_default() -> None:
    x, y = "float[5, 3] x", "float[3] y"
    before = model("y = Gather (x, i)", "int64 i = {4}", x, y)
    assert_rewrites(LowerGather(), before, model(PICKED, f"{sliced(4, 5, 0)}, int64[1] y_axes_2 = {{0}}", x, y))


@pytest.mark.parametrize(
    ("indices", "start", "end"),
    [("2", 2, 3), ("-1", 4, 5), ("1, 2, 3", 1, 4), ("3, -1", 3, 5), ("-5, 1", 0, 2)],
)
def test_a_list_of_neighbours_becomes_a_slice(indices: str, start: int, end: int) -> None:
    y = f"float[2, {end - start}, 3] y"
    before = gather(indices, f"int64[{end - start}]", y=y)
    assert_rewrites(LowerGather(), before, model(SLICED, sliced(start, end), y=y))


@pytest.mark.parametrize(
    ("indices", "start", "end"), [("1, 2", 1, 3), ("-3, -2", -3, -1), ("-2, -1", -2, 9223372036854775807)]
)
def test_the_size_of_the_axis_need_not_be_known(indices: str, start: int, end: int) -> None:
    x, y = "float[a, b, c] x", "float[a, 2, c] y"
    before = gather(indices, "int64[2]", x=x, y=y)
    inputs = {"x": np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)}
    assert_rewrites(LowerGather(), before, model(SLICED, sliced(start, end), x, y), inputs)


def test_a_shared_tensor_and_an_output_keep_their_names() -> None:
    y = "float[2, 3] y, float[2, 5, 3] r, float[2, 3] z"
    rest = "\nr = Relu (x)\nz = Neg (y)"
    before = model(f"y = Gather <axis = 1> (x, i){rest}", "int64 i = {2}", y=y)
    assert_rewrites(LowerGather(), before, model(PICKED + rest, f"{sliced(2, 3)}, int64[1] y_axes_2 = {{1}}", y=y))


def test_takes_strings_too() -> None:
    x, y = "string[2, 5] x", "string[2] y"
    after = model(PICKED, f"{sliced(2, 3)}, int64[1] y_axes_2 = {{1}}", x, y)
    inputs = {"x": np.array([list("abcde"), list("fghij")], dtype=object)}
    assert_rewrites(LowerGather(), gather("2", x=x, y=y), after, inputs)


def test_works_inside_an_if_body() -> None:
    def body(nodes: str, weights: str) -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[2, 5, 3] x) => (float[2, 3] z) {{
            z = If (c) <
                then_branch = t () => (float[2, 3] y) <{weights}> {{ {nodes} }},
                else_branch = e () => (float[2, 3] d) {{
                    k = Constant <value_ints = [2, 3]> ()
                    d = ConstantOfShape (k)
                }}
            >
        }}"""

    before = body("y = Gather <axis = 1> (x, i)", "int64 i = {2}")
    assert_rewrites(LowerGather(), before, body(PICKED, f"{sliced(2, 3)}, int64[1] y_axes_2 = {{1}}"))


@pytest.mark.parametrize("x", ["float[2, 5, 3] x, int64 i", "float[2, 5, 3] x, int64[1] j"])
def test_leaves_indices_that_may_change_alone(x: str) -> None:
    nodes = "y = Gather <axis = 1> (x, i)" if "int64 i" in x else "k = Neg (j)\ny = Gather <axis = 1> (x, k)"
    y = "float[2, 3] y" if "int64 i" in x else "float[2, 1, 3] y"
    assert_untouched(LowerGather(), model(nodes, "int64 i = {2}", x, y), "not constant")


def test_leaves_a_table_of_indices_alone() -> None:
    text = gather("0, 1, 2, 3", "int64[2, 2]", y="float[2, 2, 2, 3] y")
    assert_untouched(LowerGather(), text, "[2, 2]")


def test_leaves_no_indices_alone() -> None:
    assert_untouched(LowerGather(), gather("", "int64[0]", y="float[2, 0, 3] y"), "[0]")


@pytest.mark.parametrize("indices", ["0, 2", "2, 1", "1, 1", "-1, 0"])
def test_leaves_indices_that_are_no_neighbours_alone(indices: str) -> None:
    assert_untouched(LowerGather(), gather(indices, "int64[2]", y="float[2, 2, 3] y"), "neighbours")


@pytest.mark.parametrize("index", ["5", "-6"])
def test_leaves_an_index_out_of_range_alone(index: str) -> None:
    assert_untouched(LowerGather(), gather(index), "out of range")


def test_leaves_indices_from_both_ends_of_an_unknown_axis_alone() -> None:
    text = gather("-1, 0", "int64[2]", x="float[2, n, 3] x", y="float[2, 2, 3] y")
    assert_untouched(LowerGather(), text, "both ends")


@pytest.mark.parametrize(("opset", "fires"), [(10, False), (11, True)])
def test_an_axis_from_the_back_of_an_unknown_rank_needs_operator_set_11(opset: int, fires: bool) -> None:
    def text(nodes: str, weights: str) -> str:
        return f"""
        <ir_version: 8, opset_import: ["": {opset}, "mine": 1]>
        g (float[2, 5] x) => (float[m] y) <{weights}> {{
            w = mine.Foo (x)
            {nodes}
        }}"""

    before = text("y = Gather <axis = -1> (w, i)", "int64[1] i = {2}")
    if fires:
        after = text("y = Slice (w, y_starts, y_ends, y_axes)", sliced(2, 3, -1))
        assert_rewrites(LowerGather(), before, after, outputs_agree=False)
    else:
        assert_untouched(LowerGather(), before, "which axis")


def test_leaves_a_custom_operator_of_that_name_alone() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[2, 4] x) => (float[4] y) <int64 i = {1}> {
            y = mine.Gather (x, i)
        }"""
    assert_untouched(LowerGather(), text, None)


def test_runs_of_neighbours_become_slices_and_a_concat() -> None:
    before = model("y = Gather <axis = 1> (x, i)", "int64[3] i = {4, 0, 1}", y="float[2, 3, 3] y")
    after = model(
        """
        y_run_0 = Slice (x, y_0_starts, y_0_ends, y_0_axes)
        y_run_1 = Slice (x, y_1_starts, y_1_ends, y_1_axes)
        y = Concat <axis = 1> (y_run_0, y_run_1)""",
        ", ".join(sliced(*run).replace("y_", f"y_{number}_") for number, run in enumerate([(4, 5), (0, 2)])),
        y="float[2, 3, 3] y",
    )
    assert_rewrites(LowerGather(most=2), before, after)
    assert_untouched(LowerGather(most=1), before, "its indices are not neighbours in ascending order")
    more = before.replace("int64[3] i = {4, 0, 1}", "int64[3] i = {4, 2, 0}")
    assert_untouched(LowerGather(most=2), more, "its indices are 3 runs of neighbours")


@fuzz(LowerGather(most=3))
def test_any_gather_of_several_runs_computes_the_same(build: Builder) -> list[str]:
    return drawn(build)


@fuzz(LowerGather())
def test_any_gather_computes_the_same(build: Builder) -> list[str]:
    return drawn(build)


def drawn(build: Builder) -> list[str]:
    shape = build.shape(rank=(1, 4))
    axis = build.integer(0, len(shape) - 1)
    size = shape[axis]
    first = build.integer(0, size - 1)
    indices = list(range(first, build.integer(first, size - 1) + 1))
    if build.chance(6):
        indices = [build.integer(0, size - 1) for _ in indices]
    indices = [index - size if build.opset >= 11 and build.chance(4) else index for index in indices]
    kind = build.choice([np.int64, np.int32])
    held = np.array(indices[0] if build.chance(3) else indices, kind)
    if build.chance(8):
        held = held.reshape(1, -1)
    x = build.input(shape, build.dtype([np.float32, np.float16, np.int64, np.bool_]))
    written = build.choice([axis, axis - len(shape) if build.opset >= 11 else axis, None if axis == 0 else axis])
    return [build.node("Gather", [x, build.constant(held)], axis=written)]
