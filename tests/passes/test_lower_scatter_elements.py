import numpy as np
import onnx
import pytest

from graphsurgery.graph.model import Model
from graphsurgery.passes.lower_scatter_elements import LowerScatterElements
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_same_outputs, assert_untouched, parse, random_inputs
from graphsurgery.testing.fuzzing import Builder, fuzz

WEIGHTS = "int64[2, 1, 1] rows = {4, 1}, int64[3] spread = {2, 3, 2}"
SPREAD = "indices = Expand (rows, spread)"
INPUTS = "float[5, 3, 2] data, float[2, 3, 2] updates"


def model(
    nodes: str, weights: str = WEIGHTS, inputs: str = INPUTS, y: str = "float[5, 3, 2] y", opset: int = 17
) -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g ({inputs}) => ({y}) <{weights}> {{
            {nodes}
        }}"""


def scattered(attributes: str = "<axis = 0>", spread: str = SPREAD, **rest: object) -> str:
    return model(f"{spread} y = ScatterElements {attributes} (data, indices, updates)", **rest)  # type: ignore[arg-type]


BY_ROW = """
    y_column = Reshape (rows, y_shape)
    y_count = Slice (spread, y_start, y_end)
    y_wanted = Concat <axis = 0> (y_count, y_end)
    y_rows = Expand (y_column, y_wanted)
    y = ScatterND (data, y_rows, updates)"""
MADE = "int64[1] y_start = {0}, int64[1] y_end = {1}, int64[2] y_shape = {-1, 1}"
AFTER = model(BY_ROW, f"{WEIGHTS}, {MADE}")


@pytest.mark.parametrize("attributes", ["<axis = 0>", "<axis = -3>", "", '<axis = 0, reduction = "none">'])
def test_rows_that_are_spread_over_the_elements_are_written_as_rows(attributes: str) -> None:
    assert_rewrites(LowerScatterElements(), scattered(attributes), AFTER)


@pytest.mark.parametrize("opset", [11, 13, 16, 18, 21])
def test_it_is_the_same_in_every_operator_set(opset: int) -> None:
    after = model(BY_ROW, f"{WEIGHTS}, {MADE}", opset=opset)
    assert_rewrites(LowerScatterElements(), scattered("<axis = 0>", opset=opset), after)


def test_row_numbers_can_be_computed_and_their_number_unknown() -> None:
    inputs = "float[5, 3, 2] data, float[N, 3, 2] updates, int64[M, 1, 1] rows"
    weights = "int64[2] rest = {3, 2}, int64[1] one_end = {1}, int64[1] zero = {0}"
    shape = """
        all = Shape (updates)
        n = Slice (all, zero, one_end)
        spread = Concat <axis = 0> (n, rest)"""
    before = scattered("<axis = 0>", f"{shape} {SPREAD}", inputs=inputs, weights=weights)
    after = model(f"{shape} {BY_ROW}", f"{weights}, {MADE}", inputs)
    for numbers, count in (([4, 0, 2], 3), ([-1, 1], 2), ([3], 1), ([], 0)):
        given = random_inputs(parse(before))
        given["updates"] = np.random.default_rng(1).standard_normal((count, 3, 2)).astype(np.float32)
        given["rows"] = np.array(numbers, np.int64).reshape(-1, 1, 1)
        assert_rewrites(LowerScatterElements(), before, after, given)


def test_it_fires_in_an_if_body() -> None:
    body = f"""then () => (float[5, 3, 2] written) {{
                rows = Constant <value = int64[2, 1, 1] {{4, 1}}> ()
                spread = Constant <value_ints = [2, 3, 2]> ()
                {SPREAD}
                written = ScatterElements (data, indices, updates)
            }}"""
    other = "other () => (float[5, 3, 2] same) { same = Identity (data) }"
    before = parse(model(f"y = If (which) <then_branch = {body}, else_branch = {other}>", "", f"bool which, {INPUTS}"))
    lowered = apply_pass(LowerScatterElements(), Model(before)).model.proto
    assert "ScatterND" in onnx.printer.to_text(lowered)
    for which in (True, False):
        assert_same_outputs(before, lowered, {**random_inputs(before), "which": np.array(which)})


def test_indices_that_others_read_stay() -> None:
    y = "float[5, 3, 2] y, int64[2, 3, 2] indices"
    after = model(f"{SPREAD} {BY_ROW}", f"{WEIGHTS}, {MADE}", y=y)
    assert_rewrites(LowerScatterElements(), scattered(y=y), after)


@pytest.mark.parametrize("reduction", ["add", "mul", "max", "min"])
def test_what_combines_values_is_left_alone(reduction: str) -> None:
    before = scattered(f'<axis = 0, reduction = "{reduction}">', opset=18)
    assert_untouched(LowerScatterElements(), before, "it combines what is written with what is there")


@pytest.mark.parametrize(
    ("axis", "weights"),
    [(1, "int64[1, 2, 1] rows = {2, 1}, int64[3] spread = {2, 2, 2}"), (-1, WEIGHTS)],
)
def test_another_axis_is_left_alone(axis: int, weights: str) -> None:
    inputs = "float[5, 5, 5] data, float[2, K, 2] updates"
    before = scattered(f"<axis = {axis}>", weights=weights, inputs=inputs, y="float[5, 5, 5] y")
    assert_untouched(LowerScatterElements(), before, "it writes along another axis than the first")


def test_indices_that_nothing_spreads_are_left_alone() -> None:
    inputs = f"{INPUTS}, int64[2, 3, 2] indices"
    assert_untouched(LowerScatterElements(), scattered(spread="", inputs=inputs), "are not spread by an Expand")


@pytest.mark.parametrize(
    "weights",
    [
        "int64[2, 3, 1] rows = {4, 0, 1, 1, 2, 0}, int64[3] spread = {2, 3, 2}",
        "int64[3, 2] rows = {4, 0, 1, 1, 2, 0}, int64[3] spread = {2, 3, 2}",
        "int64[2, 3, 2] rows = {4, 0, 1, 1, 2, 0, 3, 2, 3, 1, 4, 2}, int64[1] spread = {1}",
    ],
)
def test_indices_that_differ_within_a_row_are_left_alone(weights: str) -> None:
    assert_untouched(LowerScatterElements(), scattered(weights=weights), "its indices are no row numbers")


def test_a_shape_that_says_nothing_of_the_rows_is_left_alone() -> None:
    weights = "int64[2, 1, 1] rows = {4, 1}, int64[2] spread = {3, 2}"
    assert_untouched(LowerScatterElements(), scattered(weights=weights), "its indices are no row numbers")


def test_rows_that_are_narrower_than_those_of_the_data_are_left_alone() -> None:
    inputs = "float[5, 4, 2] data, float[2, 3, 2] updates"
    before = scattered(inputs=inputs, y="float[5, 4, 2] y")
    assert_untouched(LowerScatterElements(), before, "not known to be as large as those of its data")


def test_rows_of_unknown_size_are_left_alone() -> None:
    before = scattered(inputs="float[5, K, 2] data, float[2, 3, 2] updates", y="float[5, K, 2] y")
    assert_untouched(LowerScatterElements(), before, "not known to be as large as those of its data")


def test_data_of_unknown_rank_is_left_alone() -> None:
    before = parse(scattered())
    before.graph.input[0].type.tensor_type.ClearField("shape")
    before.graph.output[0].type.tensor_type.ClearField("shape")
    assert_untouched(LowerScatterElements(), before, "nothing tells the shapes of its data")


def test_indices_of_32_bits_are_left_alone() -> None:
    weights = "int32[2, 1, 1] rows = {4, 1}, int64[3] spread = {2, 3, 2}"
    assert_untouched(LowerScatterElements(), scattered(weights=weights), "its indices are not int64")


@fuzz(LowerScatterElements())
def test_any_scatter_computes_the_same(build: Builder) -> list[str]:
    if build.opset < 11:
        build.reject()
    sizes = build.shape(rank=(2, 4))
    count = build.integer(1, sizes[0])
    spread = [count, *sizes[1:]]
    if build.chance(8):
        spread[-1] = build.integer(1, sizes[-1])
    numbers = np.array([(3 * row) % sizes[0] for row in range(sizes[0])])
    numbers = numbers if len(set(numbers.tolist())) == sizes[0] else np.arange(sizes[0])[::-1]
    numbers = numbers[:count] - (sizes[0] if build.chance(4) else 0)
    kind = build.choice([np.int64, np.int64, np.int64, np.int32])
    rows = build.constant(numbers.astype(kind).reshape(-1, *[1] * (len(sizes) - 1)))
    indices = build.node("Expand", [rows, build.constant(np.array(spread))])
    data = build.input(sizes)
    axis = build.choice([None, 0, -len(sizes)])
    return [build.node("ScatterElements", [data, indices, build.input(spread)], axis=axis)]
