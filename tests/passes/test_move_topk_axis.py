import numpy as np

from graphsurgery.passes.move_topk_axis import MoveTopkAxis
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz


def model(body: str, ends: str = "(float[2, 3, 9] x) => (float[2, 3, 4] y, int64[2, 3, 4] i)") -> str:
    return f'<ir_version: 8, opset_import: ["": 17, "my": 1]> g {ends} <int64[1] k = {{4}}> {{ {body} }}'


def test_it_works_along_the_height_between_transposes() -> None:
    after = model(
        """
        y_turned = Transpose <perm = [0, 2, 1]> (x)
        y_found, y_found_1 = TopK <axis = 1> (y_turned, k)
        y = Transpose <perm = [0, 2, 1]> (y_found)
        i = Transpose <perm = [0, 2, 1]> (y_found_1)"""
    )
    assert_rewrites(MoveTopkAxis(), model("y, i = TopK (x, k)"), after)


def test_one_whose_values_nobody_wants_has_indices_alone() -> None:
    after = model(
        """
        i_of_turned = Transpose <perm = [0, 2, 1]> (x)
        i_of_found, i_of_found_1 = TopK <axis = 1> (i_of_turned, k)
        i = Transpose <perm = [0, 2, 1]> (i_of_found_1)""",
        "(float[2, 3, 9] x) => (int64[2, 3, 4] i)",
    )
    before = model("v, i = TopK (x, k)", "(float[2, 3, 9] x) => (int64[2, 3, 4] i)")
    assert_rewrites(MoveTopkAxis(), before, after.replace("i_of", "v"))


def test_leaves_one_along_the_height_and_a_vector_alone() -> None:
    height = "(float[2, 9, 3] x) => (float[2, 4, 3] y, int64[2, 4, 3] i)"
    assert_untouched(MoveTopkAxis(), model("y, i = TopK <axis = 1> (x, k)", height), None)
    vector = "(float[9] x) => (float[4] y, int64[4] i)"
    assert_untouched(MoveTopkAxis(), model("y, i = TopK (x, k)", vector), "of 1 axes there is none to exchange with -2")
    assert_untouched(MoveTopkAxis(), model("a = my.Odd (x)  y, i = TopK (a, k)"), "the rank of its input is not known")


@fuzz(MoveTopkAxis())
def test_any_topk_computes_the_same(build: Builder) -> list[str]:
    shape = build.shape(rank=(1, 4), sizes=(2, 5))
    axis = build.choice([None, -1, 0, len(shape) - 1])
    k = build.integer(1, shape[-1 if axis is None else axis])
    x = build.input(shape, build.dtype())
    if build.opset < 10:
        return build.node("TopK", [x], outputs=2, axis=axis, k=k)
    kept = build.constant(np.array([k], np.int64))
    largest = build.choice([None, 0, 1]) if build.opset >= 11 else None
    return build.node("TopK", [x, kept], outputs=2, axis=axis, largest=largest)
