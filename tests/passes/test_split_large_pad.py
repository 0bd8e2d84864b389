import pytest

from graphsurgery.passes.split_large_pad import SplitLargePad
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

PASS = SplitLargePad(most=1)


def model(body: str, w: str = "float[1, 1, 5, 5] w", y: str = "float[1, 1, 4, 4] y", weights: str = "") -> str:
    ends = f"(float[1, 1, 4, 4] x{w and ', '}{w}) => ({y})"
    return f'<ir_version: 8, opset_import: ["": 17, "my": 1]> g {ends} <{weights}> {{ {body} }}'


def test_what_is_too_many_goes_into_a_pad() -> None:
    after = model(
        "y_padded = Pad (x, y_pads)  y = Conv <pads = [1, 1, 1, 1]> (y_padded, w)",
        weights="int64[8] y_pads = {0, 0, 1, 1, 0, 0, 1, 1}",
    )
    assert_rewrites(PASS, model("y = Conv <pads = [2, 2, 2, 2]> (x, w)"), after)


def test_what_is_not_alike_on_both_sides_goes_into_a_pad() -> None:
    pool = "AveragePool <kernel_shape = [3, 2], count_include_pad = 1, pads = [{0}, 0, 1, {1}]> ({2})"
    after = model(
        f"y_padded = Pad (x, y_pads)  y = {pool.format(1, 0, 'y_padded')}",
        w="",
        weights="int64[8] y_pads = {0, 0, 0, 0, 0, 0, 0, 1}",
    )
    assert_rewrites(SplitLargePad(symmetric=True), model(f"y = {pool.format(1, 1, 'x')}", w=""), after)


def test_leaves_what_fits_alone() -> None:
    assert_untouched(SplitLargePad(), model("y = Conv <pads = [2, 2, 2, 2]> (x, w)"), None)


def test_leaves_a_pool_that_does_not_count_its_pads_alone() -> None:
    pool = "y = AveragePool <kernel_shape = [5, 5], pads = [2, 2, 2, 2]{0}> (x)"
    assert_untouched(PASS, model(pool.format(""), w=""), "it doesn't count what it pads, or rounds up")
    rounds = pool.format(", count_include_pad = 1, ceil_mode = 1")
    assert_untouched(PASS, model(rounds, w=""), "it doesn't count what it pads, or rounds up")


def test_leaves_an_unknown_window_and_type_alone() -> None:
    open_ = model("y = Conv <pads = [2, 2, 2, 2]> (x, w)", w="float[1, 1, K, K] w")
    assert_untouched(PASS, open_, "its window is not known")
    odd = model("a = my.Odd (x)  y = Conv <pads = [2, 2, 2, 2]> (a, w)")
    assert_untouched(PASS, odd, "its elements are of unknown type")


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="most must be 0 or more, not -1"):
        SplitLargePad(most=-1)


def drawn(build: Builder) -> list[str]:
    rank = build.integer(1, 2)
    spatial = [build.integer(5, 7) for _ in range(rank)]
    x, pads = build.input([build.integer(1, 2), 2, *spatial]), [build.integer(0, 2) for _ in range(2 * rank)]
    auto_pad = build.choice([None, "SAME_UPPER", "VALID"]) if build.chance(3) else None
    attrs = {"pads": None if auto_pad else pads, "auto_pad": auto_pad, "strides": build.choice([None, [2] * rank])}
    if build.chance(3):
        return [
            build.node("AveragePool", [x], kernel_shape=[3] * rank, count_include_pad=build.choice([1, 0]), **attrs)
        ]
    own = build.weight([2, 2, *(build.integer(1, 4) for _ in range(rank))])
    return [build.node("Conv", [x, own], dilations=None if auto_pad else build.choice([None, [2] * rank]), **attrs)]


@fuzz(PASS)
def test_any_padded_layer_computes_the_same(build: Builder) -> list[str]:
    return drawn(build)


@fuzz(SplitLargePad(symmetric=True))
def test_so_it_does_with_sides_alike(build: Builder) -> list[str]:
    return drawn(build)
