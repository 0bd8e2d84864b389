import pytest

from graphsurgery.passes.split_conv_stride import SplitConvStride
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

POOL = "MaxPool <kernel_shape = [1, 1], pads = [0, 0, 0, 0], strides = [{0}, {1}]>"


def model(body: str, w: str = "float[1, 1, 3, 3] w", y: str = "float[1, 1, 3, 2] y", kind: str = "float") -> str:
    ends = f"({kind}[1, 1, 11, 6] x, {w}) => ({y})"
    return f'<ir_version: 8, opset_import: ["": 17, "my": 1]> g {ends} {{ {body} }}'


def test_a_stride_of_4_becomes_two_pools_of_2() -> None:
    after = model(
        f"""
        y_dense = Conv <strides = [1, 1], pads = [0, 0, 0, 0]> (x, w)
        y_sparser = {POOL.format(2, 2)} (y_dense)
        y = {POOL.format(2, 1)} (y_sparser)"""
    )
    assert_rewrites(SplitConvStride(conv=1), model("y = Conv <strides = [4, 2]> (x, w)"), after)


def test_the_conv_keeps_what_it_may_have() -> None:
    before = model("y = Conv <strides = [4, 3], pads = [1, 1, 0, 0]> (x, w)")
    after = model(
        f"""
        y_dense = Conv <strides = [2, 1], pads = [1, 1, 0, 0]> (x, w)
        y = {POOL.format(2, 3)} (y_dense)"""
    )
    assert_rewrites(SplitConvStride(conv=2, pool=3), before, after)


def test_leaves_small_strides_and_large_primes_alone() -> None:
    assert_untouched(SplitConvStride(conv=4), model("y = Conv <strides = [4, 2]> (x, w)"), None)
    assert_untouched(SplitConvStride(), model("y = Conv <strides = [2, 2]> (x, w)", y="float[1, 1, 5, 2] y"), None)
    prime = model("y = Conv <strides = [5, 1]> (x, w)", y="float[1, 1, 2, 4] y")
    assert_untouched(SplitConvStride(), prime, "a stride has the factor 5, which no MaxPool of stride 2")


def test_leaves_an_unknown_window_and_type_alone() -> None:
    kernel = model("y = Conv <strides = [4, 2]> (x, w)", w="float[1, 1, K, K] w")
    assert_untouched(SplitConvStride(), kernel, "its window is not known")
    kind = model("a = my.Odd (x)  y = Conv <strides = [4, 2]> (a, w)")
    assert_untouched(SplitConvStride(), kind, "its elements are of unknown type")


def test_options_are_checked() -> None:
    for options in ({"conv": 0}, {"pool": 1}):
        with pytest.raises(ValueError, match="conv must be 1 or more and pool 2 or more"):
            SplitConvStride(**options)


def drawn(build: Builder) -> list[str]:
    spatial = build.shape(rank=(1, 3), sizes=(4, 9))
    kernel = [build.integer(1, 3) for _ in spatial]
    x = build.input([build.integer(1, 2), 2, *spatial])
    own = [build.weight([2, 2, *kernel])]
    pads = build.choice([None, [1] * 2 * len(spatial)])
    auto_pad = build.choice([None, "SAME_UPPER", "SAME_LOWER", "VALID"]) if pads is None else None
    strides = [build.choice([4, 2, 3, 1, 6]) for _ in spatial]
    return [build.node("Conv", [x, *own], pads=pads, auto_pad=auto_pad, strides=strides)]


@fuzz(SplitConvStride(conv=1))
def test_any_conv_computes_the_same(build: Builder) -> list[str]:
    return drawn(build)


@fuzz(SplitConvStride(conv=2, pool=3))
def test_so_it_does_with_a_stride_of_its_own(build: Builder) -> list[str]:
    return drawn(build)
