from graphsurgery.passes.split_grouped_conv import SplitGroupedConv
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

PASS = SplitGroupedConv()


def model(body: str, weights: str = "", x: str = "float[1, 4, 3, 3] x", y: str = "float[1, 2, 3, 3] y") -> str:
    return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g ({x}) => ({y}) <{weights}> {{ {body} }}"""


def test_each_group_becomes_a_conv_of_its_own() -> None:
    before = model("y = Conv <group = 2> (x, w, b)", "float[2, 2, 1, 1] w = {1, 2, 3, 4}, float[2] b = {5, 6}")
    after = model(
        """
        y_read_0 = Slice (x, y_0_starts, y_0_ends, y_0_axes)
        y_group_0 = Conv <group = 1> (y_read_0, y_w_0, y_b_0)
        y_read_1 = Slice (x, y_1_starts, y_1_ends, y_1_axes)
        y_group_1 = Conv <group = 1> (y_read_1, y_w_1, y_b_1)
        y = Concat <axis = 1> (y_group_0, y_group_1)""",
        """int64[1] y_0_starts = {0}, int64[1] y_0_ends = {2}, int64[1] y_0_axes = {1},
           float[1, 2, 1, 1] y_w_0 = {1, 2}, float[1] y_b_0 = {5},
           int64[1] y_1_starts = {2}, int64[1] y_1_ends = {4}, int64[1] y_1_axes = {1},
           float[1, 2, 1, 1] y_w_1 = {3, 4}, float[1] y_b_1 = {6}""",
    )
    assert_rewrites(PASS, before, after)


def test_leaves_a_conv_of_one_group_and_a_depthwise_one_alone() -> None:
    one = model("y = Conv (x, w)", "float[2, 4, 1, 1] w = {1, 2, 3, 4, 5, 6, 7, 8}")
    assert_untouched(PASS, one, None)
    depthwise = model("y = Conv <group = 4> (x, w)", "float[4, 1, 1, 1] w = {1, 2, 3, 4}", y="float[1, 4, 3, 3] y")
    assert_untouched(PASS, depthwise, "it is depthwise")


def test_leaves_computed_weights_and_many_groups_alone() -> None:
    computed = model("y = Conv <group = 2> (x, w)", x="float[1, 4, 3, 3] x, float[2, 2, 1, 1] w")
    assert_untouched(PASS, computed, "the weights of the Conv are not constant")
    many = model("y = Conv <group = 2> (x, w)", "float[2, 2, 1, 1] w = {1, 2, 3, 4}")
    assert_untouched(SplitGroupedConv(most=1), many, "it has 2 groups, more than 1")


@fuzz(PASS)
def test_any_grouped_conv_computes_the_same(build: Builder) -> list[str]:
    groups, read, written = build.integer(1, 3), build.integer(1, 3), build.integer(1, 2)
    spatial = build.shape(rank=(1, 2), sizes=(3, 5))
    kernel = [build.integer(1, 3) for _ in spatial]
    x = build.input([build.integer(1, 2), groups * read, *spatial])
    own = [build.weight([groups * written, read, *kernel])]
    if build.chance(1):
        own.append(build.weight([groups * written]))
    pads = build.choice([None, [1] * 2 * len(spatial)])
    return [build.node("Conv", [x, *own], group=groups, pads=pads, strides=build.choice([None, [2] * len(spatial)]))]
