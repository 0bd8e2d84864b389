import numpy as np
import pytest

from graphsurgery.passes.merge_duplicates import MergeDuplicates
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

PASS = MergeDuplicates()


def model(body: str, weights: str = "", outputs: str = "float[2, 3] y") -> str:
    return f"""
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[2, 3] x) => ({outputs}) <{weights}> {{ {body} }}"""


def test_what_is_computed_twice_is_computed_once() -> None:
    before = model("a = Relu (x) b = Relu (x) c = Neg (b) y = Add (a, c)")
    assert_rewrites(PASS, before, model("b = Relu (x) c = Neg (b) y = Add (b, c)"))


def test_a_row_of_equal_nodes_becomes_one() -> None:
    before = model("a = Relu (x) b = Relu (x) c = Neg (a) d = Neg (b) y = Mul (c, d)")
    assert_rewrites(PASS, before, model("b = Relu (x) d = Neg (b) y = Mul (d, d)"))


def test_constants_are_equal_by_their_values() -> None:
    before = model("a = Mul (x, v) b = Mul (x, w) y = Add (a, b)", "float[3] v = {1, 2, 3}, float[3] w = {1, 2, 3}")
    assert_rewrites(PASS, before, model("b = Mul (x, w) y = Add (b, b)", "float[3] w = {1, 2, 3}"))


@pytest.mark.parametrize(
    "body",
    [
        "a = Mul (x, v) b = Mul (x, w) y = Add (a, b)",
        "a = Sub (x, v) b = Sub (v, x) y = Add (a, b)",
        "a = Elu <alpha = 2.0> (x) b = Elu <alpha = 3.0> (x) y = Add (a, b)",
        "a = mine.Relu (x) b = mine.Relu (x) y = Add (a, b)",
        "a = RandomUniformLike (x) b = RandomUniformLike (x) y = Add (a, b)",
        "a = RandomNormalLike (x) b = RandomNormalLike (x) y = Add (a, b)",
        "a = Bernoulli (x) b = Bernoulli (x) y = Add (a, b)",
        "a = Relu (x) b = Abs (x) y = Add (a, b)",
    ],
)
def test_leaves_alone_what_differs_or_draws_or_is_not_known(body: str) -> None:
    assert_untouched(PASS, model(body, "float[3] v = {1, 2, 3}, float[3] w = {1, 2, 4}"), None)


def test_where_both_are_outputs_an_identity_stays() -> None:
    outputs = "float[2, 3] y, float[2, 3] z"
    after = model("z = Relu (x) y = Identity (z)", outputs=outputs)
    assert_rewrites(PASS, model("y = Relu (x) z = Relu (x)", outputs=outputs), after)


def test_all_outputs_of_a_node_are_read_from_its_twin() -> None:
    weights = "int64[1] k = {2}"
    before = model(
        "v, i = TopK (x, k) w, j = TopK (x, k) a = Add (v, w) n = Add (i, j) m = Cast <to = 1> (n) y = Mul (a, m)",
        weights,
        "float[2, 2] y",
    )
    after = model(
        "w, j = TopK (x, k) a = Add (w, w) n = Add (j, j) m = Cast <to = 1> (n) y = Mul (a, m)",
        weights,
        "float[2, 2] y",
    )
    assert_rewrites(PASS, before, after, {"x": np.array([[3, 1, 2], [4, 6, 5]], np.float32)})


@fuzz(PASS)
def test_any_graph_with_equal_nodes_computes_the_same(build: Builder) -> list[str]:
    shape = build.shape(rank=(1, 3))
    x = build.input(shape)
    weights = [build.weight(shape), build.weight(shape)]
    ends = [x]
    for _ in range(build.integer(2, 6)):
        op = build.choice(["Relu", "Neg", "Mul"])
        read = build.choice(ends[-2:])
        ends.append(build.node(op, [read, build.choice(weights)] if op == "Mul" else [read]))
    return ends[-3:]
