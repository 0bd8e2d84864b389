import pytest

from graphsurgery.passes.split_concat import SplitConcat
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz


def model(body: str, y: str = "float[2, 5] y") -> str:
    return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[2, 1] a, float[2, 1] b, float[2, 1] c, float[2, 1] d, float[2, 1] e) => ({y}) {{ {body} }}"""


BEFORE = model("y = Concat <axis = 1> (a, b, c, d, e)")


def test_neighbours_are_joined_in_pairs() -> None:
    after = model("""
        y_joined = Concat <axis = 1> (a, b)
        y_joined_2 = Concat <axis = 1> (c, d)
        y_joined_3 = Concat <axis = 1> (y_joined, y_joined_2)
        y = Concat <axis = 1> (y_joined_3, e)""")
    assert_rewrites(SplitConcat(), BEFORE, after)


def test_a_concat_may_take_as_many_as_is_said() -> None:
    after = model("""
        y_joined = Concat <axis = 1> (a, b, c, d)
        y = Concat <axis = 1> (y_joined, e)""")
    assert_rewrites(SplitConcat(most=4), BEFORE, after)
    assert_untouched(SplitConcat(most=5), BEFORE, None)


def test_fewer_than_two_is_refused() -> None:
    with pytest.raises(ValueError, match="most is 1"):
        SplitConcat(most=1)


@fuzz(SplitConcat())
def test_any_concat_computes_the_same(build: Builder) -> list[str]:
    shape = build.shape(rank=(1, 3), sizes=(1, 3))
    axis = build.integer(0, len(shape) - 1)
    parts = []
    for _ in range(build.integer(1, 7)):
        own = list(shape)
        own[axis] = build.integer(1, 3)
        parts.append(build.input(own) if build.chance(1) else build.weight(own))
    return [build.node("Concat", parts, axis=axis)]
