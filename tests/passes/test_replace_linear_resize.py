import numpy as np
import pytest

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.passes.replace_linear_resize import ReplaceLinearResize
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

X, Y = "float[1, 2, 3, 4] x", "float[1, 2, 6, 12] y"
SCALES = "s = Constant <value = float[4] {1, 1, 2, 3}> ()"
DEFAULT = 'coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"'


def model(body: str, x: str = X, y: str = Y, opset: int = 17) -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g ({x}) => ({y}) {{
            {body}
        }}"""


@pytest.mark.parametrize("how", ["", ', coordinate_transformation_mode = "align_corners"', ", exclude_outside = 1"])
def test_becomes_nearest(how: str) -> None:
    before = model(f'{SCALES} y = Resize <mode = "linear"{how}> (x, , s)')
    assert_rewrites(ReplaceLinearResize(), before, model(f'{SCALES} y = Resize <mode = "nearest", {DEFAULT}> (x, , s)'))


def test_coordinates_and_rounding_may_be_chosen() -> None:
    how = 'coordinate_transformation_mode = "half_pixel", nearest_mode = "round_prefer_floor"'
    assert_rewrites(
        ReplaceLinearResize("half_pixel", "round_prefer_floor"),
        model(f'{SCALES} y = Resize <mode = "linear"> (x, , s)'),
        model(f'{SCALES} y = Resize <mode = "nearest", {how}> (x, , s)'),
    )


@pytest.mark.parametrize(
    ("resize", "opset"),
    [
        ('Upsample <scales = [1.0, 1.0, 2.0, 3.0], mode = "M"> (x)', 7),
        ('Upsample <mode = "M"> (x, s)', 9),
        ('Resize <mode = "M"> (x, s)', 10),
    ],
)
def test_older_operator_sets_know_one_way_only(resize: str, opset: int) -> None:
    scales = "" if opset == 7 else SCALES
    before, after = (model(f"{scales} y = {resize.replace('M', mode)}", opset=opset) for mode in ("linear", "nearest"))
    assert_rewrites(ReplaceLinearResize(), before, after)
    assert_untouched(ReplaceLinearResize("half_pixel"), before, f"operator set {opset} knows asymmetric and floor only")


def test_what_decides_upon_the_size_stays_and_smoothing_goes() -> None:
    sizes = "s = Constant <value = int64[2] {6, 12}> ()"
    kept = 'axes = [2, 3], keep_aspect_ratio_policy = "not_larger"'
    before = f'{sizes} y = Resize <mode = "linear", antialias = 1, {kept}> (x, , , s)'
    after = f'{sizes} y = Resize <mode = "nearest", {kept}, {DEFAULT}> (x, , , s)'
    y = "float[1, 2, h, w] y"
    assert_rewrites(ReplaceLinearResize(), model(before, y=y, opset=18), model(after, y=y, opset=18))


def test_both_ways_repeat_each_element_where_the_factor_is_whole() -> None:
    x = np.random.default_rng(0).standard_normal((1, 2, 3, 4)).astype(np.float32)
    linear = Model(parse(model(f'{SCALES} y = Resize <mode = "linear"> (x, , s)')))
    for pass_ in (ReplaceLinearResize(), ReplaceLinearResize("half_pixel", "round_prefer_floor")):
        got = session.run(apply_pass(pass_, linear).model.proto, {"x": x})["y"]
        np.testing.assert_array_equal(got, x.repeat(2, 2).repeat(3, 3))


def test_works_inside_an_if_body() -> None:
    def inside(how: str) -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool c, {X}) => ({Y}) {{
            y = If (c) <
                then_branch = t () => (float[1, 2, 6, 12] a) {{ {SCALES} a = Resize <{how}> (x, , s) }},
                else_branch = e () => (float[1, 2, 6, 12] b) {{ k = Constant <value = int64[4] {{1, 1, 2, 3}}> ()
                                                              b = Tile (x, k) }}
            >
        }}"""

    assert_rewrites(ReplaceLinearResize(), inside('mode = "linear"'), inside(f'mode = "nearest", {DEFAULT}'))


def test_leaves_a_nearest_one_alone() -> None:
    assert_untouched(ReplaceLinearResize(), model(f"{SCALES} y = Resize (x, , s)"), None)
    assert_untouched(ReplaceLinearResize(), model(f'{SCALES} y = Resize <mode = "nearest"> (x, , s)'), None)


def test_leaves_a_cubic_one_alone() -> None:
    assert_untouched(ReplaceLinearResize(), model(f'{SCALES} y = Resize <mode = "cubic"> (x, , s)'), "it is cubic")


def test_leaves_crops_alone() -> None:
    how = 'mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize"'
    roi = "r = Constant <value = float[8] {0, 0, 0, 0, 1, 1, 1, 1}> ()"
    assert_untouched(ReplaceLinearResize(), model(f"{SCALES} {roi} y = Resize <{how}> (x, r, s)"), "crops")


def test_leaves_a_custom_operator_of_that_name_alone() -> None:
    text = f"""
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g ({X}) => ({Y}) {{
            {SCALES} y = mine.Resize <mode = "linear"> (x, s, s)
        }}"""
    assert_untouched(ReplaceLinearResize(), text, None)


@pytest.mark.parametrize(
    ("options", "word"), [({"coordinates": "align_corners"}, "coordinates"), ({"rounding": "ceil"}, "rounding")]
)
def test_refuses_what_accelerators_get_wrong(options: dict[str, str], word: str) -> None:
    with pytest.raises(ValueError, match=f"{word} must be one of"):
        ReplaceLinearResize(**options)  # type: ignore[arg-type]


def _drawn(build: Builder) -> ReplaceLinearResize:
    rounding = build.choice(["floor", "round_prefer_floor", "round_prefer_ceil"])
    return ReplaceLinearResize(build.choice(["asymmetric", "half_pixel", "pytorch_half_pixel"]), rounding)  # type: ignore[arg-type]


@fuzz(_drawn, opsets=(7, 9, 10, 11, 13, 18, 19, 21))
def test_any_linear_resize_keeps_its_size(build: Builder) -> list[str]:
    rank = build.choice([4, 4, 2, 3])
    shape = build.shape((rank, rank), (1, 6))
    x = build.input(shape)
    mode = build.choice(["linear", "linear", "linear", "nearest"])
    wanted = [build.choice([1.0, 2.0, 1.3, 3.0]) if axis > rank - 3 else 1.0 for axis in range(rank)]
    if build.opset < 9:
        return [build.node("Upsample", [x], scales=wanted, mode=mode)]
    if build.opset < 11:
        scales = build.constant(np.array(wanted, np.float32), overridable=True)
        return [build.node("Upsample" if build.opset == 9 else "Resize", [x, scales], mode=mode)]
    axes = build.choice([None, [rank - 1], list(range(rank))]) if build.opset >= 18 else None
    picked = range(rank) if axes is None else axes
    empty = build.constant(np.zeros(0, np.float32)) if build.opset < 13 else ""
    if build.chance(2):
        inputs = [x, empty, build.constant(np.array([wanted[axis] for axis in picked], np.float32), overridable=True)]
    else:
        sizes = np.array([int(shape[axis] * wanted[axis]) for axis in picked], np.int64)
        inputs = [x, empty, empty, build.constant(sizes, overridable=True)]
    since_18 = build.opset >= 18
    coordinates = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", None]
    return [
        build.node(
            "Resize",
            inputs,
            mode=mode,
            axes=axes,
            coordinate_transformation_mode=build.choice(coordinates),
            keep_aspect_ratio_policy=build.choice([None, "stretch", "not_larger"]) if since_18 else None,
            antialias=build.choice([None, 0, 1]) if since_18 and mode == "linear" else None,
        )
    ]
