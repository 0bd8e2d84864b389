import numpy as np
import onnx
import pytest

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.passes.lower_nearest_resize import LowerNearestResize
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

X, Y = "float[1, 2, 3, 4] x", "float[1, 2, 6, 12] y"
SCALES = "s = Constant <value = float[4] {1, 1, 2, 3}> ()"
SIZES = "s = Constant <value = int64[4] {1, 2, 6, 12}> ()"
EMPTY = "r = Constant <value = float[0] {}> ()"
FLOOR = 'coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"'
REPEATING = [  # coordinates, rounding, the largest factor
    ("asymmetric", "floor", 9),
    ("half_pixel", "round_prefer_floor", 9),
    ("half_pixel", "round_prefer_ceil", 9),
    ("pytorch_half_pixel", "round_prefer_floor", 9),
    ("pytorch_half_pixel", "round_prefer_ceil", 9),
    ("half_pixel_symmetric", "round_prefer_floor", 9),
    ("half_pixel_symmetric", "round_prefer_ceil", 9),
    ("asymmetric", "round_prefer_floor", 2),
    ("align_corners", "round_prefer_floor", 2),
    ("align_corners", "round_prefer_ceil", 2),
]
OTHERS = [
    *[(how, "ceil") for how in ("asymmetric", "half_pixel", "align_corners", "half_pixel_symmetric")],
    *[(how, "floor") for how in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "align_corners")],
    *[(how, "round_prefer_floor") for how in ("asymmetric", "align_corners")],  # for three
    *[(how, "round_prefer_ceil") for how in ("asymmetric", "align_corners")],
]


def model(body: str, x: str = X, y: str = Y, opset: int = 17, weights: str = "") -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g ({x}) => ({y}) {weights} {{
            {body}
        }}"""


def after(x: str = X, y: str = Y, opset: int = 17) -> str:
    attributes = (
        "dilations = [1, 1], group = 2, kernel_shape = [2, 3], output_padding = [0, 0], pads = [0, 0, 0, 0], "
        "strides = [2, 3]"
    )
    ones = f"<float[2, 1, 2, 3] y_ones = {{{', '.join('1' * 12)}}}>"
    return model(f"y = ConvTranspose <{attributes}> (x, y_ones)", x, y, opset, ones)


def test_becomes_a_depthwise_convtranspose_of_ones() -> None:
    assert_rewrites(LowerNearestResize(), model(f"{SCALES} y = Resize <{FLOOR}> (x, , s)"), after())


def test_the_default_of_operator_set_11_repeats_as_well() -> None:
    assert_rewrites(LowerNearestResize(), model(f"{SIZES} y = Resize (x, , , s)"), after())


def test_batch_and_size_may_be_open() -> None:
    x, y = "float[n, 2, h, w] x", "float[n, 2, p, q] y"
    assert_rewrites(LowerNearestResize(), model(f"{SCALES} y = Resize <{FLOOR}> (x, , s)", x, y), after(x, y))


@pytest.mark.parametrize(
    ("resize", "opset"),
    [
        ("Upsample <scales = [1.0, 1.0, 2.0, 3.0]> (x)", 7),
        ("Upsample (x, s)", 9),
        ("Resize (x, s)", 10),
        ("Resize (x, r, s)", 11),
        (f"Resize <{FLOOR}> (x, , s)", 13),
        ("Resize (x, , s)", 21),
        ('Resize <nearest_mode = "floor", coordinate_transformation_mode = "tf_half_pixel_for_nn"> (x, r, s)', 11),
    ],
)
def test_reads_the_factors_in_every_operator_set(resize: str, opset: int) -> None:
    before = model(f"{SCALES} {EMPTY} y = {resize}", opset=opset)
    assert_rewrites(LowerNearestResize(), before, after(opset=opset))


@pytest.mark.parametrize(
    "values", ["float[2] {3, 2}> () y = Resize <A> (x, , s)", "int64[2] {12, 6}> () y = Resize <A> (x, , , s)"]
)
def test_reads_the_factors_of_some_axes(values: str) -> None:
    body = f"s = Constant <value = {values.replace('A', 'axes = [-1, 2]')}"
    assert_rewrites(LowerNearestResize(), model(body, opset=18), after(opset=18))


@pytest.mark.parametrize(("coordinates", "rounding", "largest"), REPEATING)
def test_these_coordinates_and_roundings_repeat_every_element(coordinates: str, rounding: str, largest: int) -> None:
    how = f'coordinate_transformation_mode = "{coordinates}", nearest_mode = "{rounding}"'
    for height in range(1, largest + 1):
        for width in (1, largest):
            if height == width == 1:
                continue
            text = f"""
                <ir_version: 8, opset_import: ["": 19]>
                g (float[1, 2, 300, 7] x) => (float[1, 2, h, w] y) {{
                    s = Constant <value = float[4] {{1, 1, {height}, {width}}}> ()
                    y = Resize <{how}> (x, , s)
                }}"""
            x = np.random.default_rng(0).standard_normal((1, 2, 300, 7)).astype(np.float32)
            got = apply_pass(LowerNearestResize(), Model(parse(text))).model.proto
            assert [node.op_type for node in got.graph.node] == ["ConvTranspose"]
            repeated = x.repeat(height, 2).repeat(width, 3)
            np.testing.assert_array_equal(session.run(parse(text), {"x": x})["y"], repeated)
            np.testing.assert_array_equal(session.run(got, {"x": x})["y"], repeated)


@pytest.mark.parametrize(("coordinates", "rounding"), OTHERS)
def test_leaves_other_coordinates_and_roundings_alone(coordinates: str, rounding: str) -> None:
    how = f'coordinate_transformation_mode = "{coordinates}", nearest_mode = "{rounding}"'
    text = model(f"{SCALES} y = Resize <{how}> (x, , s)", opset=19)
    assert_untouched(LowerNearestResize(), text, f"{coordinates} with {rounding}")
    x = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    got = session.run(parse(text), {"x": x})["y"]
    assert not np.array_equal(got, x.repeat(2, 2).repeat(3, 3)), "it could be lowered"


@pytest.mark.parametrize("size", ["1025", "w"])
def test_leaves_aligned_corners_alone_where_float32_may_not_tell_the_element(size: str) -> None:
    how = 'coordinate_transformation_mode = "align_corners"'
    body = f"s = Constant <value = float[4] {{1, 1, 2, 2}}> () y = Resize <{how}> (x, , s)"
    text = model(body, f"float[1, 2, 3, {size}] x", "float[1, 2, 6, v] y")
    assert_untouched(LowerNearestResize(), text, "not for sure")


def test_infinities_stay_where_they_are() -> None:
    text = model(f"{SCALES} y = Resize <{FLOOR}> (x, , s)")
    x = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    x[0, 0, 1, 1:] = np.inf, -np.inf, np.nan
    got = apply_pass(LowerNearestResize(), Model(parse(text))).model.proto
    np.testing.assert_array_equal(session.run(got, {"x": x})["y"], x.repeat(2, 2).repeat(3, 3))


@pytest.mark.parametrize("dtype", ["float16", "double"])
def test_the_weight_has_the_type_of_the_data(dtype: str) -> None:
    text = model(f"{SCALES} y = Resize <{FLOOR}> (x, , s)", f"{dtype}[1, 2, 3, 4] x", f"{dtype}[1, 2, 6, 12] y")
    got = apply_pass(LowerNearestResize(), Model(parse(text))).model.proto
    onnx.checker.check_model(got, full_check=True)
    (weight,) = [onnx.numpy_helper.to_array(tensor) for tensor in got.graph.initializer]
    assert weight.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(weight, np.ones((2, 1, 2, 3)))


def test_works_inside_an_if_body_and_on_a_shared_tensor() -> None:
    def inside(body: str, weights: str = "") -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool c, {X}) => ({Y}, float[1, 2, 3, 4] z) {{
            a = Neg (x)
            z = Relu (a)
            y = If (c) <
                then_branch = t () => (float[1, 2, 6, 12] o) {weights} {{ {body} }},
                else_branch = e () => (float[1, 2, 6, 12] p) {{ k = Constant <value = int64[4] {{1, 1, 2, 3}}> ()
                                                              p = Tile (a, k) }}
            >
        }}"""

    attributes = after().split("<")[3].split(">")[0]
    ones = f"<float[2, 1, 2, 3] o_ones = {{{', '.join('1' * 12)}}}>"
    assert_rewrites(
        LowerNearestResize(),
        inside(f"{SCALES} o = Resize <{FLOOR}> (a, , s)"),
        inside(f"o = ConvTranspose <{attributes}> (a, o_ones)", ones),
    )


def test_leaves_interpolation_and_smoothing_alone() -> None:
    for mode in ("linear", "cubic"):
        text = model(f'{SCALES} y = Resize <mode = "{mode}"> (x, , s)')
        assert_untouched(LowerNearestResize(), text, f"it is {mode}")
    assert_untouched(LowerNearestResize(), model(f"{SCALES} y = Resize <antialias = 1> (x, , s)", opset=18), "smooths")


def test_leaves_factors_that_are_not_known_alone() -> None:
    text = f"""
        <ir_version: 8, opset_import: ["": 17]>
        g ({X}, float[4] s) => (float[p, q, h, w] y) {{
            y = Resize <{FLOOR}> (x, , s)
        }}"""
    assert_untouched(LowerNearestResize(), text, "not constant")
    text = model(f"{SIZES} y = Resize <{FLOOR}> (x, , , s)", "float[1, 2, h, 4] x", "float[1, 2, 6, 12] y")
    assert_untouched(LowerNearestResize(), text, "axis 2")


def test_leaves_crops_alone() -> None:
    how = 'coordinate_transformation_mode = "tf_crop_and_resize", nearest_mode = "floor"'
    roi = "r = Constant <value = float[8] {0, 0, 0, 0, 1, 1, 1, 1}> ()"
    assert_untouched(LowerNearestResize(), model(f"{SCALES} {roi} y = Resize <{how}> (x, r, s)"), "crops")


@pytest.mark.parametrize("scales", ["1, 1, 2, 1.5", "1, 1, 0.5, 2", "1, 2, 2, 2", "2, 1, 1, 2"])
def test_leaves_other_factors_alone(scales: str) -> None:
    body = f"s = Constant <value = float[4] {{{scales}}}> () y = Resize <{FLOOR}> (x, , s)"
    shown = f"it resizes by {scales.replace(',', ' x')}, not"
    assert_untouched(LowerNearestResize(), model(body, y="float[n, c, h, w] y"), shown)


def test_leaves_other_ranks_alone() -> None:
    body = f"s = Constant <value = float[3] {{1, 1, 2}}> () y = Resize <{FLOOR}> (x, , s)"
    assert_untouched(
        LowerNearestResize(), model(body, "float[1, 2, 3] x", "float[1, 2, 6] y"), "it resizes by 1 x 1 x 2"
    )


def test_leaves_a_resize_to_the_same_size_alone() -> None:
    body = f"s = Constant <value = float[4] {{1, 1, 1, 1}}> () y = Resize <{FLOOR}> (x, , s)"
    assert_untouched(LowerNearestResize(), model(body, y="float[1, 2, 3, 4] y"), "drop-unity-resize")


def test_leaves_integers_alone() -> None:
    text = model(f"{SCALES} y = Resize <{FLOOR}> (x, , s)", "uint8[1, 2, 3, 4] x", "uint8[1, 2, 6, 12] y")
    assert_untouched(LowerNearestResize(), text, "its elements are uint8")


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        ("float[1, c, 3, 4] x", "channels"),
        ("float[1, 0, 3, 4] x", "no elements"),
        ("float[1, 2, 0, 4] x", "no elements"),
    ],
)
def test_leaves_unknown_channels_and_empty_images_alone(x: str, reason: str) -> None:
    text = model(f"{SCALES} y = Resize <{FLOOR}> (x, , s)", x, "float[1, d, h, w] y")
    assert_untouched(LowerNearestResize(), text, reason)


def test_leaves_a_custom_operator_of_that_name_alone() -> None:
    text = f"""
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g ({X}) => ({Y}) {{
            {SCALES} y = mine.Resize <{FLOOR}> (x, s, s)
        }}"""
    assert_untouched(LowerNearestResize(), text, None)


@fuzz(LowerNearestResize(), opsets=(7, 9, 10, 11, 13, 18, 19, 21))
def test_any_nearest_resize_computes_the_same(build: Builder) -> list[str]:
    rank = build.choice([4, 4, 4, 4, 3])
    dtype = build.dtype([np.float32, np.float32, np.float16, np.float64, np.int32])
    # the reference evaluator, which judges the other types, has no ConvTranspose of an empty batch
    shape = [build.integer(dtype != np.float32, 2), *build.shape((rank - 1, rank - 1), (1, 6))]
    mode = build.choice(["nearest", "nearest", "nearest", "linear"])
    x = build.input(shape, dtype)
    if build.chance(2):
        x = build.node("Neg", [x])
    wanted = [1.0, 1.0, *(build.choice([2.0, 1.0, 3.0, 5.0]) for _ in shape[2:])]
    if build.chance(5):
        wanted[build.integer(0, rank - 1)] = build.choice([1.5, 2.0, 0.5] if build.opset > 9 else [1.5, 2.0])
    if build.opset < 9:
        return [build.node("Upsample", [x], scales=wanted, mode=mode)]
    if build.opset < 11:
        scales = build.constant(np.array(wanted, np.float32), overridable=True)
        return [build.node("Upsample" if build.opset == 9 else "Resize", [x, scales], mode=mode)]
    axes = build.choice([[rank - 2, rank - 1], [-1, -2], list(range(rank))]) if build.opset >= 18 else None
    axes = None if build.chance(2) else axes
    picked = range(rank) if axes is None else axes
    empty = build.constant(np.zeros(0, np.float32)) if build.opset < 13 else ""
    if build.chance(2):
        inputs = [x, empty, build.constant(np.array([wanted[axis] for axis in picked], np.float32), overridable=True)]
    else:
        sizes = np.array([int(shape[axis] * wanted[axis]) for axis in picked], np.int64)
        inputs = [x, empty, empty, build.constant(sizes, overridable=True)]
    coordinates = ["asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners", None]
    if build.opset < 13:
        coordinates.append("tf_half_pixel_for_nn")
    if build.opset >= 19:
        coordinates.append("half_pixel_symmetric")
    policies = [None, None, "stretch", "not_larger", "not_smaller"] if build.opset >= 18 else [None]
    return [
        build.node(
            "Resize",
            inputs,
            mode=build.choice([mode, None]),
            axes=axes,
            coordinate_transformation_mode=build.choice(coordinates),
            nearest_mode=build.choice(["round_prefer_floor", "floor", "round_prefer_ceil", "ceil", None]),
            keep_aspect_ratio_policy=build.choice(policies),
        )
    ]
