import numpy as np
import pytest

from graphsurgery.passes.resize_mode import ResizeMode
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

ASYMMETRIC = 'coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"'
HALF_PIXEL = 'coordinate_transformation_mode = "half_pixel", nearest_mode = "round_prefer_floor"'


def model(attributes: str, scales: str = "1, 1, 2, 3", mode: str = "nearest", opset: int = 17) -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g (float[1, 2, 3, 4] x) => (float[1, 2, h, w] y) <float[4] s = {{{scales}}}> {{
            y = Resize <{attributes}, mode = "{mode}"> (x, , s)
        }}"""


def test_either_way_becomes_the_other() -> None:
    assert_rewrites(ResizeMode(), model(HALF_PIXEL), model(ASYMMETRIC))
    assert_rewrites(ResizeMode(to="half_pixel"), model(ASYMMETRIC), model(HALF_PIXEL))


def test_all_ways_that_repeat_are_taken() -> None:
    ceil = HALF_PIXEL.replace("prefer_floor", "prefer_ceil")
    assert_rewrites(ResizeMode(to="half_pixel"), model(ceil), model(HALF_PIXEL))


def test_half_pixel_rounds_as_the_compiler_wants_it() -> None:
    ceil = HALF_PIXEL.replace("prefer_floor", "prefer_ceil")
    pass_ = ResizeMode(to="half_pixel", rounding="round_prefer_ceil")
    assert_rewrites(pass_, model(ASYMMETRIC), model(ceil))
    assert_rewrites(pass_, model(HALF_PIXEL), model(ceil))
    assert_untouched(pass_, model(ceil), None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (model(HALF_PIXEL, "1, 1, 1.5, 2"), "not by whole numbers"),
        (model(HALF_PIXEL, mode="linear"), "it is linear"),
        (model(HALF_PIXEL.replace("round_prefer_floor", "floor")), "does not repeat each element equally often"),
    ],
)
def test_leaves_alone_what_is_another_resize(text: str, reason: str) -> None:
    assert_untouched(ResizeMode(), text, reason)


def test_leaves_what_is_so_already_alone() -> None:
    assert_untouched(ResizeMode(), model(ASYMMETRIC, "1, 1, 1.5, 2"), None)


@fuzz(ResizeMode(to="half_pixel"), opsets=(11, 13, 18, 19))
def test_any_resize_computes_the_same(build: Builder) -> list[str]:
    x = build.input(build.shape(rank=(4, 4)))
    scales = np.array([1, 1, build.choice([1, 2, 3, 1.5]), build.integer(1, 4)], np.float32)
    how = build.choice([None, "asymmetric", "half_pixel", "align_corners"])
    rounding = build.choice([None, "floor", "ceil", "round_prefer_ceil"])
    inputs = [x, "", build.constant(scales)]
    return [build.node("Resize", inputs, mode="nearest", coordinate_transformation_mode=how, nearest_mode=rounding)]
