import numpy as np
import pytest

from graphsurgery.passes.lower_resize_sizes import LowerResizeSizes
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

X, Y = "float[1, 2, 4, 8] x", "float[p, q, h, w] y"
COORDINATES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"]


def model(body: str, x: str = X, y: str = Y, opset: int = 17, weights: str = "") -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g ({x}) => ({y}) {weights} {{
            {body}
        }}"""


def sizes(values: str, attributes: str = 'mode = "nearest"', x: str = X, opset: int = 17) -> str:
    count = len(values.split(","))
    body = f"s = Constant <value = int64[{count}] {{{values}}}> () y = Resize <{attributes}> (x, , , s)"
    return model(body, x, opset=opset)


def scales(values: str, attributes: str, x: str = X, opset: int = 17) -> str:
    weights = f"<float[4] y_scales = {{{values}}}>"
    return model(f"y = Resize <{attributes}> (x, , y_scales)", x, opset=opset, weights=weights)


@pytest.mark.parametrize(
    ("after", "factors"),
    [
        ("1, 2, 8, 16", "1, 1, 2, 2"),
        ("1, 2, 12, 8", "1, 1, 3, 1"),
        ("1, 2, 2, 2", "1, 1, 0.5, 0.25"),
        ("1, 2, 6, 9", "1, 1, 1.5, 1.125"),
        ("1, 2, 4, 8", "1, 1, 1, 1"),
    ],
)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_sizes_become_factors(after: str, factors: str, mode: str) -> None:
    attributes = f'mode = "{mode}"'
    assert_rewrites(LowerResizeSizes(), sizes(after, attributes), scales(factors, attributes))


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("rest", ['mode = "nearest", nearest_mode = "ceil"', 'mode = "linear"', 'mode = "cubic"'])
@pytest.mark.parametrize(("after", "factors"), [("1, 2, 8, 16", "1, 1, 2, 2"), ("1, 2, 2, 7", "1, 1, 0.5, 0.875")])
def test_every_coordinate_mode_gives_the_same(coordinates: str, rest: str, after: str, factors: str) -> None:
    attributes = f'coordinate_transformation_mode = "{coordinates}", {rest}'
    assert_rewrites(LowerResizeSizes(), sizes(after, attributes, opset=19), scales(factors, attributes, opset=19))


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_smoothing_gives_the_same(mode: str) -> None:
    attributes = f'mode = "{mode}", antialias = 1'
    assert_rewrites(
        LowerResizeSizes(), sizes("1, 2, 2, 6", attributes, opset=18), scales("1, 1, 0.5, 0.75", attributes, opset=18)
    )


def test_axes_are_written_out_and_other_sizes_may_be_open() -> None:
    x = "float[n, c, 4, 8] x"
    attributes = 'axes = [-1, 2], keep_aspect_ratio_policy = "stretch", mode = "linear"'
    before = sizes("16, 8", attributes, x, 18)
    feed = {"x": np.random.default_rng(0).standard_normal((2, 3, 4, 8)).astype(np.float32)}
    assert_rewrites(LowerResizeSizes(), before, scales("1, 1, 2, 2", 'mode = "linear"', x, 18), feed)


def test_the_empty_inputs_of_operator_set_11_are_kept_or_replaced() -> None:
    head = "r = Constant <value = float[0] {}> ()"
    before = f"{head} s = Constant <value = int64[4] {{1, 2, 8, 8}}> () y = Resize (x, r, r, s)"
    after = model(f"{head} y = Resize (x, r, y_scales)", opset=11, weights="<float[4] y_scales = {1, 1, 2, 1}>")
    assert_rewrites(LowerResizeSizes(), model(before, opset=11), after)


def test_sizes_that_others_read_too_stay() -> None:
    head = "s = Constant <value = int64[4] {1, 2, 8, 8}> ()"
    y = f"{Y}, int64[4] z, float[1, 2, 4, 8] a"
    before = model(f"{head} a = Neg (x) y = Resize (a, , , s) z = Neg (s)", y=y)
    after = model(
        f"{head} a = Neg (x) y = Resize (a, , y_scales) z = Neg (s)", y=y, weights="<float[4] y_scales = {1, 1, 2, 1}>"
    )
    assert_rewrites(LowerResizeSizes(), before, after)


def test_works_inside_an_if_body() -> None:
    def inside(body: str, weights: str = "") -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool c, {X}) => (float[1, 2, 8, 8] y) {{
            y = If (c) <
                then_branch = t () => (float[1, 2, 8, 8] a) {weights} {{ {body} }},
                else_branch = e () => (float[1, 2, 8, 8] b) {{ b = Concat <axis = 2> (x, x) }}
            >
        }}"""

    before = inside("s = Constant <value = int64[4] {1, 2, 8, 8}> () a = Resize (x, , , s)")
    after = inside("a = Resize (x, , a_scales)", "<float[4] a_scales = {1, 1, 2, 1}>")
    assert_rewrites(LowerResizeSizes(), before, after)


@pytest.mark.parametrize("opset", [10, 13])
def test_leaves_factors_as_they_are(opset: int) -> None:
    inputs = "x, s" if opset == 10 else "x, , s"
    body = f"s = Constant <value = float[4] {{1, 1, 2, 2}}> () y = Resize ({inputs})"
    assert_untouched(LowerResizeSizes(), model(body, opset=opset), None)


def test_leaves_sizes_that_are_not_constant_alone() -> None:
    text = f"""
        <ir_version: 8, opset_import: ["": 17]>
        g ({X}, int64[4] s) => ({Y}) <int64[4] s = {{1, 2, 8, 8}}> {{
            y = Resize (x, , , s)
        }}"""
    assert_untouched(LowerResizeSizes(), text, "not constant")


def test_leaves_scales_and_sizes_together_alone() -> None:
    body = "s = Constant <value = int64[1] {8}> () f = Constant <value = float[1] {2}> () y = Resize (x, , f, s)"
    assert_untouched(LowerResizeSizes(), model(body, "float[4] x", "float[8] y"), "both")


@pytest.mark.parametrize("x", ["float[n, 2, 4, 8] x", "float[1, 2, 4, w] x", "float[1, 2, 0, 8] x"])
def test_leaves_an_unknown_size_alone(x: str) -> None:
    assert_untouched(LowerResizeSizes(), sizes("1, 2, 8, 8", x=x), "is not known")


def test_leaves_an_unknown_rank_alone() -> None:
    text = f"""
        <ir_version: 8, opset_import: ["": 17]>
        g ({X}, int64[n] k) => ({Y}) {{
            s = Constant <value = int64[4] {{1, 2, 8, 8}}> ()
            a = Reshape (x, k)
            y = Resize (a, , , s)
        }}"""
    assert_untouched(LowerResizeSizes(), text, "rank")


@pytest.mark.parametrize("x", ["float[1, 2, 3, 8] x", "float[1, 2, 5, 8] x"])
def test_leaves_a_factor_that_float32_rounds_alone(x: str) -> None:
    assert_untouched(LowerResizeSizes(), sizes("1, 2, 7, 8", x=x), "float32 does not hold its factor 7/")


def test_leaves_crops_alone() -> None:
    attributes = 'coordinate_transformation_mode = "tf_crop_and_resize"'
    body = (
        "r = Constant <value = float[8] {0, 0, 0, 0, 1, 1, 0.5, 1}> () s = Constant <value = int64[4] {1, 2, 8, 8}> ()"
    )
    assert_untouched(LowerResizeSizes(), model(f"{body} y = Resize <{attributes}> (x, r, , s)"), "crops")


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
@pytest.mark.parametrize(("after", "axes"), [("1, 2, 8, 8", "0, 1, 2, 3"), ("8, 16", "-2, -1")])
def test_leaves_a_kept_aspect_ratio_alone(policy: str, after: str, axes: str) -> None:
    text = sizes(after, f'axes = [{axes}], keep_aspect_ratio_policy = "{policy}"', opset=18)
    assert_untouched(LowerResizeSizes(), text, "aspect ratio")


@fuzz(LowerResizeSizes(), opsets=(11, 13, 17, 18, 19, 21))
def test_any_resize_by_sizes_computes_the_same(build: Builder) -> list[str]:
    rank = build.choice([4, 4, 2, 3])
    shape = build.shape((rank, rank), (1, 8))
    mode = build.choice(["nearest", "linear", "cubic"])
    x = build.input(shape, build.dtype([np.float32, np.float32, np.uint8]))
    wanted = [build.choice([1.0, 2.0, 0.5, 1.5, 3.0, 0.75]) if axis > rank - 3 else 1.0 for axis in range(rank)]
    axes = build.choice([None, [-2, -1], [rank - 1], list(range(rank))]) if build.opset >= 18 else None
    picked = range(rank) if axes is None else axes
    empty = build.constant(np.zeros(0, np.float32)) if build.opset < 13 else ""
    after = np.array([max(1, int(shape[axis] * wanted[axis])) for axis in picked], np.int64)
    coordinates = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", None]
    if build.opset < 13:
        coordinates.append("tf_half_pixel_for_nn")
    if build.opset >= 19:
        coordinates.append("half_pixel_symmetric")
    since_18 = build.opset >= 18
    return [
        build.node(
            "Resize",
            [x, empty, empty, build.constant(after, overridable=True)],
            mode=mode,
            axes=axes,
            coordinate_transformation_mode=build.choice(coordinates),
            nearest_mode=build.choice(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil", None]),
            keep_aspect_ratio_policy=build.choice([None, "stretch", "not_larger"]) if since_18 else None,
            antialias=build.choice([None, 0, 1]) if since_18 and mode != "nearest" else None,
            exclude_outside=build.choice([None, 1]) if mode == "cubic" else None,
            cubic_coeff_a=build.choice([None, -0.5]) if mode == "cubic" else None,
        )
    ]
