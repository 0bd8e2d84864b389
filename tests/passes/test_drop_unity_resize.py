import numpy as np
import pytest

from graphsurgery.passes.drop_unity_resize import DropUnityResize
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

X, Y = "float[1, 2, 3, 4] x", "float[1, 2, 3, 4] y"
ONES = "s = Constant <value = float[4] {1, 1, 1, 1}> ()"
SIZES = "s = Constant <value = int64[4] {1, 2, 3, 4}> ()"
EMPTY = "r = Constant <value = float[0] {}> ()"


def model(body: str, x: str = X, y: str = Y, opset: int = 17) -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g ({x}) => ({y}) {{
            {body}
        }}"""


def after(x: str = X, y: str = Y, opset: int = 17) -> str:
    return model("a = Neg (x) y = Relu (a)", x, y, opset)


def test_factors_of_one_leave_nothing_to_do() -> None:
    assert_rewrites(DropUnityResize(), model(f"{ONES} a = Neg (x) b = Resize (a, , s) y = Relu (b)"), after())


def test_the_sizes_that_it_has_already_leave_nothing_to_do() -> None:
    body = f"{SIZES} a = Neg (x) b = Resize <mode = 'cubic'> (a, , , s) y = Relu (b)".replace("'", '"')
    assert_rewrites(DropUnityResize(), model(body), after())


def test_factors_of_one_need_no_size() -> None:
    x, y = "float[n, c, h, w] x", "float[n, c, h, w] y"
    body = f"{ONES} a = Neg (x) b = Resize (a, , s) y = Relu (b)"
    assert_rewrites(DropUnityResize(), model(body, x, y), after(x, y))


@pytest.mark.parametrize(
    ("resize", "opset"),
    [
        ("Upsample <scales = [1.0, 1.0, 1.0, 1.0]> (a)", 7),
        ("Upsample (a, s)", 9),
        ("Resize (a, s)", 10),
        ("Resize (a, r, s)", 11),
        ("Resize (a, , s)", 13),
        ("Resize (a, , s)", 21),
    ],
)
def test_reads_the_factors_in_every_operator_set(resize: str, opset: int) -> None:
    body = f"{ONES} {EMPTY} a = Neg (x) b = {resize} y = Relu (b)"
    assert_rewrites(DropUnityResize(), model(body, opset=opset), after(opset=opset))


def test_reads_sizes_beside_empty_scales_in_operator_set_11() -> None:
    body = f"{SIZES} {EMPTY} a = Neg (x) b = Resize (a, r, r, s) y = Relu (b)"
    assert_rewrites(DropUnityResize(), model(body, opset=11), after(opset=11))


def test_the_sizes_of_some_axes_need_the_size_of_no_other() -> None:
    x, y = "float[n, c, 3, 4] x", "float[n, c, 3, 4] y"
    sizes = "s = Constant <value = int64[2] {4, 3}> ()"
    attributes = 'axes = [-1, 2], keep_aspect_ratio_policy = "stretch"'
    body = f"{sizes} a = Neg (x) b = Resize <{attributes}> (a, , , s) y = Relu (b)"
    assert_rewrites(DropUnityResize(), model(body, x, y, 18), after(x, y, 18))


def test_leaves_a_kept_aspect_ratio_alone() -> None:
    text = model(f'{SIZES} y = Resize <keep_aspect_ratio_policy = "not_larger"> (x, , , s)', opset=18)
    assert_untouched(DropUnityResize(), text, "aspect ratio")


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("rounding", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
@pytest.mark.parametrize(
    "coordinates", ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners", "half_pixel_symmetric"]
)
def test_coordinates_and_rounding_do_not_matter(mode: str, rounding: str, coordinates: str) -> None:
    how = f'mode = "{mode}", coordinate_transformation_mode = "{coordinates}", nearest_mode = "{rounding}"'
    body = f"{ONES} a = Neg (x) b = Resize <{how}> (a, , s) y = Relu (b)"
    assert_rewrites(DropUnityResize(), model(body, opset=19), after(opset=19))


def test_an_output_of_the_graph_keeps_its_name() -> None:
    body = f"{ONES} a = Neg (x) y = Resize (a, , s)"
    assert_rewrites(DropUnityResize(), model(body), model("y = Neg (x)"))


def test_works_inside_an_if_body_and_on_a_shared_tensor() -> None:
    def inside(body: str) -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool c, {X}) => ({Y}) {{
            y = If (c) <
                then_branch = t () => (float[1, 2, 3, 4] z) {{ {body} }},
                else_branch = e () => (float[1, 2, 3, 4] o) {{ o = Neg (x) }}
            >
        }}"""

    before = inside(f"{ONES} a = Neg (x) b = Resize (a, , s) z = Add (a, b)")
    assert_rewrites(DropUnityResize(), before, inside("a = Neg (x) z = Add (a, a)"))


def test_leaves_a_resize_that_resizes_alone() -> None:
    text = model(f"{ONES.replace('1, 1}', '2, 1}')} y = Resize (x, , s)", y="float[1, 2, 6, 4] y")
    assert_untouched(DropUnityResize(), text, "it resizes by 1 x 1 x 2 x 1")


def test_leaves_a_factor_that_only_rounds_to_one_alone() -> None:
    text = model(f"{ONES.replace('1}', '1.2}')} y = Resize (x, , s)")
    assert_untouched(DropUnityResize(), text, "it resizes by")


def test_leaves_values_that_may_change_alone() -> None:
    text = f"""
        <ir_version: 8, opset_import: ["": 17]>
        g ({X}, float[4] s) => ({Y}) <float[4] s = {{1, 1, 1, 1}}> {{
            y = Resize (x, , s)
        }}"""
    assert_untouched(DropUnityResize(), text, "not constant")


@pytest.mark.parametrize(
    ("x", "reason"),
    [("float[n, 2, 3, 4] x", "axis 0"), ("float[1, 2, 3, w] x", "axis 3"), ("float[1, 2, 0, 4] x", "axis 2")],
)
def test_leaves_sizes_alone_where_the_size_before_is_not_known(x: str, reason: str) -> None:
    text = model(f"{SIZES} a = Neg (x) b = Resize (a, , , s) y = Relu (b)", x, "float[p, q, r, s] y")
    assert_untouched(DropUnityResize(), text, reason)


def test_leaves_crops_alone() -> None:
    roi = "r = Constant <value = float[8] {0, 0, 0, 0, 1, 1, 0.5, 1}> ()"
    body = f"{ONES} {roi} y = Resize <coordinate_transformation_mode = 'tf_crop_and_resize'> (x, r, s)"
    assert_untouched(DropUnityResize(), model(body.replace("'", '"'), y="float[1, 2, h, w] y"), "crops")


@pytest.mark.parametrize(
    ("mode", "rounding"), [("linear", "floor"), ("nearest", "ceil"), ("nearest", "round_prefer_ceil")]
)
def test_leaves_a_shift_by_half_a_pixel_alone(mode: str, rounding: str) -> None:
    how = f'mode = "{mode}", nearest_mode = "{rounding}", coordinate_transformation_mode = "tf_half_pixel_for_nn"'
    body = f"{ONES} {EMPTY} y = Resize <{how}> (x, r, s)"
    assert_untouched(DropUnityResize(), model(body, opset=11), "half a pixel further")


def test_a_shift_by_half_a_pixel_that_is_rounded_down_is_none() -> None:
    how = 'mode = "nearest", nearest_mode = "floor", coordinate_transformation_mode = "tf_half_pixel_for_nn"'
    body = f"{ONES} {EMPTY} a = Neg (x) b = Resize <{how}> (a, r, s) y = Relu (b)"
    assert_rewrites(DropUnityResize(), model(body, opset=11), after(opset=11))


def test_leaves_smoothing_alone() -> None:
    text = model(f'{ONES} y = Resize <mode = "linear", antialias = 1> (x, , s)', opset=18)
    assert_untouched(DropUnityResize(), text, "smooths")


def test_becomes_an_identity_between_an_input_and_an_output() -> None:
    assert_rewrites(DropUnityResize(), model(f"{ONES} y = Resize (x, , s)"), model("y = Identity (x)"))


@fuzz(DropUnityResize(), opsets=(7, 9, 10, 11, 13, 18, 19, 21))
def test_any_resize_computes_the_same(build: Builder) -> list[str]:
    rank = build.choice([4, 4, 2, 3])
    shape = build.shape((rank, rank))
    mode = build.choice(["nearest", "linear"] if build.opset < 11 else ["nearest", "linear", "cubic"])
    x = build.node("Neg", [build.input(shape)])
    wanted = [1.0] * rank if not build.chance(4) else [build.choice([1.0, 1.2, 2.0]) for _ in shape]
    if build.opset < 9:
        return [build.node("Abs", [build.node("Upsample", [x], scales=wanted, mode=mode)])]
    if build.opset < 11:
        scales = build.constant(np.array(wanted, np.float32), overridable=True)
        op = "Upsample" if build.opset == 9 else "Resize"
        return [build.node("Abs", [build.node(op, [x, scales], mode=mode)])]
    axes = None
    if build.opset >= 18 and build.chance(2):
        axes = build.choice([[rank - 1], [-1, 0], list(range(rank))])
    picked = range(rank) if axes is None else axes
    empty = build.constant(np.zeros(0, np.float32)) if build.opset < 13 else ""
    if build.chance(2):
        inputs = [x, empty, build.constant(np.array([wanted[axis] for axis in picked], np.float32), overridable=True)]
    else:
        sizes = np.array([int(shape[axis] * wanted[axis]) for axis in picked], np.int64)
        inputs = [x, empty, empty, build.constant(sizes, overridable=True)]
    coordinates = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", None]
    if build.opset < 13:
        coordinates.append("tf_half_pixel_for_nn")
    if build.opset >= 19:
        coordinates.append("half_pixel_symmetric")
    y = build.node(
        "Resize",
        inputs,
        mode=mode,
        axes=axes,
        coordinate_transformation_mode=build.choice(coordinates),
        nearest_mode=build.choice(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil", None]),
        keep_aspect_ratio_policy=build.choice([None, "stretch", "not_larger"]) if build.opset >= 18 else None,
        exclude_outside=build.choice([None, 1]) if mode == "cubic" else None,
    )
    return [build.node("Abs", [y])]
