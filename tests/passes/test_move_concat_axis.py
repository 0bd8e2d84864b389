from graphsurgery.passes.move_concat_axis import MoveConcatAxis
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz


def model(body: str, ends: str = "(float[1, 2, 3] x, float[4, 2, 3] z) => (float[5, 2, 3] y)") -> str:
    return f'<ir_version: 8, opset_import: ["": 17, "my": 1]> g {ends} {{ {body} }}'


def test_it_works_along_the_other_axis_between_transposes() -> None:
    after = model(
        """
        y_turned = Transpose <perm = [1, 0, 2]> (x)
        y_turned_2 = Transpose <perm = [1, 0, 2]> (z)
        y_joined = Concat <axis = 1> (y_turned, y_turned_2)
        y = Transpose <perm = [1, 0, 2]> (y_joined)"""
    )
    assert_rewrites(MoveConcatAxis(), model("y = Concat <axis = -3> (x, z)"), after)


def test_leaves_other_axes_alone() -> None:
    text = model("y = Concat <axis = 2> (x, x)", "(float[1, 2, 3] x) => (float[1, 2, 6] y)")
    assert_untouched(MoveConcatAxis(), text, None)


def test_leaves_one_whose_rank_is_unknown_or_too_small_alone() -> None:
    unknown = model("a = my.Odd (x)  b = my.Odd (z)  y = Concat <axis = 0> (a, b)")
    assert_untouched(MoveConcatAxis(), unknown, "the rank of its input is not known")
    small = model("y = Concat <axis = 0> (x, x)", "(float[1] x) => (float[2] y)")
    assert_untouched(MoveConcatAxis(), small, "of 1 axes there are no 0 and 1")


@fuzz(MoveConcatAxis())
def test_any_concat_computes_the_same(build: Builder) -> list[str]:
    shape, dtype = build.shape(rank=(1, 4)), build.dtype()
    axis = build.choice([0, -len(shape), len(shape) - 1])
    shapes = [[*shape] for _ in range(build.integer(1, 3))]
    for each in shapes:
        each[axis] = build.integer(1, 3)
    inputs = [build.input(each, dtype) if build.chance(2) else build.weight(each, dtype) for each in shapes]
    return [build.node("Concat", inputs, axis=axis)]
