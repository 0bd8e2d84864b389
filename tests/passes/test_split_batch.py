import numpy as np
import pytest

from graphsurgery.passes.split_batch import SplitBatch
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

SLICED = """
    x_image_{0} = Slice (x, x_{0}_starts, x_{0}_ends, x_{0}_axes)"""
BOUNDS = "int64[1] x_{0}_starts = {{{0}}}, int64[1] x_{0}_ends = {{{1}}}, int64[1] x_{0}_axes = {{0}}"


def model(body: str, weights: str = "", ends: str = "(float[2, 1, 4] x) => (float[2, 4] y)") -> str:
    return f'<ir_version: 8, opset_import: ["": 17, "my": 1]> g {ends} <{weights}> {{ {body} }}'


def test_each_image_has_a_branch_of_its_own() -> None:
    before = model("a = Conv (x, w)  y = Reshape (a, s)", "float[1, 1, 1] w = {3}, int64[2] s = {2, 4}")
    after = model(
        f"""
        {SLICED.format(0)}
        {SLICED.format(1)}
        a_image_0 = Conv (x_image_0, w)
        a_image_1 = Conv (x_image_1, w)
        y_image_0 = Reshape (a_image_0, y_image_0_shape)
        y_image_1 = Reshape (a_image_1, y_image_1_shape)
        y = Concat <axis = 0> (y_image_0, y_image_1)""",
        f"""float[1, 1, 1] w = {{3}}, {BOUNDS.format(0, 1)}, {BOUNDS.format(1, 2)},
            int64[2] y_image_0_shape = {{1, 4}}, int64[2] y_image_1_shape = {{1, 4}}""",
    )
    assert_rewrites(SplitBatch(), before, after)


@pytest.mark.parametrize(
    ("body", "weights", "ends", "reason"),
    [
        ("y = Relu (x)", "", "(float[1, 4] x) => (float[1, 4] y)", "no batch in common"),
        ("y = Relu (x)", "", "(float[N, 4] x) => (float[N, 4] y)", "no batch in common"),
        ("y = Relu (x)", "", "(float[32, 4] x) => (float[32, 4] y)", "the batch of 32 is larger than 16"),
        ("y = Softmax <axis = 0> (x)", "", "(float[2, 4] x) => (float[2, 4] y)", "it mixes images: it works along"),
        ("y = my.Odd (x)", "", "(float[2, 4] x) => (float[2, 4] y)", "it is not known to keep the rows"),
        (
            "s = Shape (x)  y = Reshape (x, s)",
            "",
            "(float[2, 4] x) => (float[2, 4] y)",
            "a parameter is computed from the batch",
        ),
        ("y = Reshape (x, s)", "", "(float[2, 4] x, int64[2] s) => (float[2, 4] y)", "its target depends"),
        ("y = Add (x, w)", "float[2, 1] w = {1, 2}", "(float[2, 4] x) => (float[2, 4] y)", "differs from row to row"),
    ],
)
def test_leaves_what_has_no_branches_alone(body: str, weights: str, ends: str, reason: str) -> None:
    assert_untouched(SplitBatch(), model(body, weights, ends), reason)


def test_leaves_an_operator_set_without_a_concat_of_all_types_alone() -> None:
    old = model("y = Not (x)", ends="(bool[2, 4] x) => (bool[2, 4] y)").replace('"": 17', '"": 3')
    assert_untouched(SplitBatch(), old, "in operator set 3")


@fuzz(SplitBatch())
def test_any_batch_computes_the_same(build: Builder) -> list[str]:
    size, sizes = build.integer(2, 3), [build.integer(2, 4) for _ in range(2)]
    x = build.input([size, 2, *sizes])
    ends = [build.node("Conv", [x, build.weight([2, 2, 1, 1])])]
    for _ in range(build.integer(0, 3)):
        data = build.choice(ends)
        kind = build.choice(["Relu", "MaxPool", "Add", "Split", "Concat", "Scale"])
        if kind == "Relu":
            ends.append(build.node("Relu", [data]))
        elif kind == "MaxPool":
            ends.append(build.node("MaxPool", [data], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
        elif kind == "Scale":
            ends.append(build.node("Mul", [data, build.weight([2, 1, 1])]))
        elif kind == "Add":
            ends.append(build.node("Add", [data, build.choice(ends)]))
        elif kind == "Concat":
            joined = build.node("Concat", [data, build.choice(ends)], axis=1)
            ends.append(build.node("Conv", [joined, build.weight([2, 4, 1, 1])]))
        elif build.opset < 18:
            parts = build.node("Split", [data], outputs=2, axis=1)
            ends.append(build.node("Concat", parts[::-1], axis=1))
    flat = [size, -1] if build.chance(2) else [-1, 2 * sizes[0] * sizes[1]]
    return [build.node("Reshape", [ends[-1], build.constant(np.array(flat, np.int64))])]
