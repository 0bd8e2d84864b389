from graphsurgery.passes.widen_even_conv import WidenEvenConv
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

PASS = WidenEvenConv()


def model(body: str, weights: str = "", ends: str = "(float[1, 1, 4, 4] x) => (float[1, 1, 3, 4] y)") -> str:
    return f'<ir_version: 8, opset_import: ["": 17]> g {ends} {weights} {{ {body} }}'


def test_an_even_side_gets_a_row_of_zeros_and_one_more_pad() -> None:
    before = model("y = Conv <pads = [0, 1, 0, 1]> (x, w)", "<float[1, 1, 2, 3] w = {1, 2, 3, 4, 5, 6}>")
    after = model(
        "y = Conv <pads = [0, 1, 1, 1], kernel_shape = [3, 3]> (x, w_odd)",
        "<float[1, 1, 3, 3] w_odd = {1, 2, 3, 4, 5, 6, 0, 0, 0}>",
    )
    assert_rewrites(PASS, before, after)


def test_a_dilated_kernel_reaches_as_far_as_its_dilation() -> None:
    ends = "(float[1, 1, 4, 4] x) => (float[1, 1, 2, 4] y)"
    before = model("y = Conv <dilations = [2, 1]> (x, w)", "<float[1, 1, 2, 1] w = {1, 2}>", ends)
    after = model(
        "y = Conv <dilations = [2, 1], kernel_shape = [3, 1], pads = [0, 0, 2, 0]> (x, w_odd)",
        "<float[1, 1, 3, 1] w_odd = {1, 2, 0}>",
        ends,
    )
    assert_rewrites(PASS, before, after)


def test_leaves_odd_kernels_and_computed_weights_alone() -> None:
    assert_untouched(PASS, model("y = Conv <pads = [1, 1, 0, 0]> (x, w)", "<float[1, 1, 1, 1] w = {1}>"), None)
    computed = model("y = Conv (x, w)", ends="(float[1, 1, 4, 4] x, float[1, 1, 2, 2] w) => (float[1, 1, 3, 3] y)")
    assert_untouched(PASS, computed, "the weights of the Conv are not constant")


def test_leaves_an_auto_pad_that_depends_on_an_open_size_alone() -> None:
    ends = "(float[1, 1, H, W] x) => (float[1, 1, H, W] y)"
    open_ = model('y = Conv <auto_pad = "SAME_UPPER"> (x, w)', "<float[1, 1, 2, 2] w = {1, 2, 3, 4}>", ends)
    assert_untouched(PASS, open_, "its auto_pad depends on a size that is not")


@fuzz(PASS)
def test_any_even_conv_computes_the_same(build: Builder) -> list[str]:
    groups, spatial = build.integer(1, 2), build.shape(rank=(1, 2), sizes=(3, 7))
    kernel = [build.integer(1, 4) for _ in spatial]
    x = build.input([build.integer(1, 2), 2 * groups, *spatial])
    own = [build.weight([2 * groups, 2, *kernel])]
    if build.chance(2):
        own.append(build.weight([2 * groups]))
    pads = build.choice([None, [1] * 2 * len(spatial)])
    auto_pad = build.choice([None, "SAME_UPPER", "SAME_LOWER", "VALID"]) if pads is None else None
    strides, dilations = (build.choice([None, [2] * len(spatial)]) for _ in range(2))
    attrs = {"pads": pads, "auto_pad": auto_pad, "strides": strides, "dilations": dilations}
    return [build.node("Conv", [x, *own], group=groups, **attrs)]
