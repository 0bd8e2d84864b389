import pytest

from graphsurgery.passes.drop_unread_taps import DropUnreadTaps
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

PASS = DropUnreadTaps()
NINE = "<float[1, 1, 3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}>"


def model(body: str, weights: str = NINE, size: str = "4, 2", more: str = "") -> str:
    ends = f"(float[1, 1, {size}] x{more}) => (float[1, 1, {size}] y)"
    return f'<ir_version: 8, opset_import: ["": 17]> g {ends} {weights} {{ {body} }}'


def test_of_a_dilation_beyond_the_image_the_centre_is_left() -> None:
    after = model(
        "y = Conv <dilations = [1, 1], pads = [0, 0, 0, 0], kernel_shape = [1, 1]> (x, w_read)",
        "<float[1, 1, 1, 1] w_read = {5}>",
    )
    assert_rewrites(PASS, model("y = Conv <dilations = [4, 4], pads = [4, 4, 4, 4]> (x, w)"), after)


def test_along_one_axis_alone() -> None:
    after = model(
        "y = Conv <dilations = [2, 1], pads = [2, 0, 2, 0], kernel_shape = [3, 1]> (x, w_read)",
        "<float[1, 1, 3, 1] w_read = {2, 5, 8}>",
    )
    assert_rewrites(PASS, model("y = Conv <dilations = [2, 2], pads = [2, 2, 2, 2]> (x, w)"), after)


@pytest.mark.parametrize(
    ("body", "size", "reason"),
    [
        ("y = Conv <pads = [1, 1, 1, 1]> (x, w)", "4, 2", None),
        (
            "y = Conv <dilations = [9, 9], pads = [9, 9, 9, 9]> (x, w)",
            "H, W",
            "the size of its input is not known, or 0",
        ),
    ],
)
def test_leaves_what_reads_all_or_is_not_known_alone(body: str, size: str, reason: str | None) -> None:
    assert_untouched(PASS, model(body, size=size), reason)


def test_leaves_computed_weights_alone() -> None:
    body = "y = Conv <dilations = [4, 4], pads = [4, 4, 4, 4]> (x, w)"
    assert_untouched(PASS, model(body, "", more=", float[1, 1, 3, 3] w"), "the weights of the Conv are not constant")


def test_leaves_a_conv_that_reads_padding_alone_alone() -> None:
    ends = "(float[1, 1, 1] x) => (float[1, 1, 1] y)"
    body, weights = "y = Conv <pads = [1, 2], strides = [9]> (x, w)", "<float[1, 1, 1] w = {1}>"
    text = f'<ir_version: 8, opset_import: ["": 17]> g {ends} {weights} {{ {body} }}'
    assert_untouched(PASS, text, "none of its taps reads an element")


@fuzz(PASS)
def test_any_conv_computes_the_same(build: Builder) -> list[str]:
    spatial = build.shape(rank=(1, 2), sizes=(1, 6))
    kernel = [build.integer(1, 5) for _ in spatial]
    x = build.input([build.integer(1, 2), 2, *spatial])
    pads = [build.integer(0, 8) for _ in range(2 * len(spatial))]
    strides, dilations = ([build.integer(1, 4) for _ in spatial] for _ in range(2))
    rank = len(spatial)
    spans = [(size - 1) * apart + 1 for size, apart in zip(kernel, dilations, strict=True)]
    if any(spatial[axis] + pads[axis] + pads[axis + rank] < spans[axis] for axis in range(rank)):
        build.reject()
    own = build.weight([2, 2, *kernel])
    return [build.node("Conv", [x, own], pads=pads, strides=strides, dilations=dilations)]
