import numpy as np
import onnx
import pytest

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.passes.lower_groupnorm import LowerGroupnorm
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

LAYER = "GroupNormalization <num_groups: int = 2>"
INSTANCES = "InstanceNormalization <epsilon: float = 0.00001>"
ONES = "float[2] y_ones = {1, 1}, float[2] y_zeros = {0, 0}"
SIZES = "int64[3] y_groups = {0, 2, 6}, int64[4] y_size = {0, 4, 3, 1}"
AFFINE = "float[4] scale = {1, 2, 3, 4}, float[4] bias = {5, 6, 7, 8}"
COLUMNS = "float[4, 1, 1] scale_2 = {1, 2, 3, 4}, float[4, 1, 1] bias_2 = {5, 6, 7, 8}"


def model(body: str, constants: str, x: str = "float[n, 4, 3, 1] x", opset: int = 21) -> str:
    y = x.split(",")[0].split("[")[0] + "[" + x.partition("[")[2].partition("]")[0] + "] y"
    return f"""
        <ir_version: 10, opset_import: ["": {opset}]>
        g ({x}) => ({y}) <{constants}> {{
            {body}
        }}"""


def groups(x: str = "x", own: str = "y_ones, y_zeros", size: str = "y_size") -> str:
    return f"""
            y_grouped = Reshape ({x}, y_groups)
            y_normal = {INSTANCES} (y_grouped, {own})
            y_spread = Reshape (y_normal, {size})"""


@pytest.mark.parametrize("opset", [21, 24])
def test_channels_are_scaled_behind_the_normalised_groups(opset: int) -> None:
    after = groups() + "\n            y_scaled = Mul (y_spread, scale_2)  y = Add (y_scaled, bias_2)"
    before = model(f"y = {LAYER} (x, scale, bias)", AFFINE, opset=opset)
    assert_rewrites(LowerGroupnorm(), before, model(after, f"{ONES}, {SIZES}, {COLUMNS}", opset=opset))


@pytest.mark.parametrize("opset", [18, 20])
def test_groups_are_scaled_while_they_are_normalised(opset: int) -> None:
    affine = "float[2] scale = {1, 2}, float[2] bias = {5, 6}"
    after = groups(own="scale, bias").replace("y_spread", "y")
    before = model(f"y = {LAYER} (x, scale, bias)", affine, opset=opset)
    assert_rewrites(LowerGroupnorm(), before, model(after, f"{affine}, {SIZES}", opset=opset))


def test_float16_is_normalised_in_float32() -> None:
    # the text gives 1 in float16 by its bits
    ones = "float16[4] scale = {15360, 15360, 15360, 15360}, float16[4] bias = {15360, 15360, 15360, 15360}"
    columns = ones.replace("[4] scale", "[4, 1, 1] scale_2").replace("[4] bias", "[4, 1, 1] bias_2")
    body = "y_float32 = Cast <to: int = 1> (x)" + groups("y_float32")
    end = (
        "  y_float16 = Cast <to: int = 10> (y_spread)  y_scaled = Mul (y_float16, scale_2)  y = Add (y_scaled, bias_2)"
    )
    x = "float16[n, 4, 3, 1] x"
    before = model(f"y = {LAYER} (x, scale, bias)", ones, x)
    large = np.full((1, 4, 3, 1), 500, np.float16)
    large[:, :, 0] = -500  # its square is no float16
    assert_rewrites(LowerGroupnorm(), before, model(body + end, f"{ONES}, {SIZES}, {columns}", x), {"x": large})


@pytest.mark.parametrize("opset", [18, 20])
def test_float16_stays_what_it_is_where_no_attribute_says_otherwise(opset: int) -> None:
    affine, x = "float16[2] scale = {15360, 15360}, float16[2] bias = {0, 0}", "float16[n, 4, 3, 1] x"
    after = groups(own="scale, bias").replace("y_spread", "y")
    before = model(f"y = {LAYER} (x, scale, bias)", affine, x, opset)
    # the reference of onnxruntime rounds each step to float16
    assert_rewrites(LowerGroupnorm(), before, model(after, f"{affine}, {SIZES}", x, opset), outputs_agree=False)


def test_takes_sizes_that_are_open_from_the_input() -> None:
    x = "float[n, 4, h, w] x"
    after = groups(size="y_size") + "\n            y_scaled = Mul (y_spread, scale_2)  y = Add (y_scaled, bias_2)"
    after = after.replace("y_spread = ", "y_size = Shape (x)  y_spread = ")
    constants = f"{ONES}, int64[3] y_groups = {{0, 2, -1}}, {COLUMNS}"
    before = model(f"y = {LAYER} (x, scale, bias)", AFFINE, x)
    assert_rewrites(LowerGroupnorm(), before, model(after, constants, x))


def test_scales_that_a_caller_may_override_are_reshaped_at_run_time() -> None:
    x = "float[n, 4, 3, 1] x, float[4] scale, float[4] bias"
    after = (
        groups()
        + """
            scale_column = Reshape (scale, scale_size)
            y_scaled = Mul (y_spread, scale_column)
            bias_column = Reshape (bias, bias_size)
            y = Add (y_scaled, bias_column)"""
    )
    constants = f"{ONES}, {SIZES}, int64[3] scale_size = {{-1, 1, 1}}, int64[3] bias_size = {{-1, 1, 1}}"
    before = model(f"y = {LAYER} (x, scale, bias)", "", x)
    assert_rewrites(LowerGroupnorm(), before, model(after, constants, x))


def test_takes_epsilon_over_and_a_channel_for_each_group() -> None:
    layer = "GroupNormalization <num_groups: int = 4, epsilon: float = 0.5> (x, scale, bias)"
    got = apply_pass(LowerGroupnorm(), Model(parse(model(f"y = {layer}", AFFINE)))).model.proto
    x = np.random.default_rng(0).standard_normal((2, 4, 3, 1)).astype(np.float32)
    spread = (x - x.mean((2, 3), keepdims=True)) / np.sqrt(x.var((2, 3), keepdims=True) + 0.5)
    scale, bias = (np.float32([[[1]], [[2]], [[3]], [[4]]]) + add for add in (0, 4))
    np.testing.assert_allclose(session.run(got, {"x": x})["y"], spread * scale + bias, rtol=1e-4)


def test_an_empty_batch_stays_empty() -> None:
    got = apply_pass(LowerGroupnorm(), Model(parse(model(f"y = {LAYER} (x, scale, bias)", AFFINE)))).model.proto
    assert session.run(got, {"x": np.ones((0, 4, 3, 1), np.float32)})["y"].shape == (0, 4, 3, 1)


def test_works_inside_an_if_body() -> None:
    def body(nodes: str, constants: str, then: str = "") -> str:
        return f"""
        <ir_version: 10, opset_import: ["": 21]>
        g (bool p, float[n, 4, 3, 1] x) => (float[n, 4, 3, 1] z) {constants} {{
            z = If (p) <
                then_branch = t () => (float[n, 4, 3, 1] y) {then} {{ {nodes} }},
                else_branch = e () => (float[n, 4, 3, 1] u) {{ u = Identity (x) }}
            >
        }}"""

    after = groups() + "\n            y_scaled = Mul (y_spread, scale_2)  y = Add (y_scaled, bias_2)"
    before = body(f"y = {LAYER} (x, scale, bias)", f"<{AFFINE}>")
    groups_first = f"<{SIZES.split(', int64[4]')[0]}, {ONES}, int64[4]{SIZES.split('int64[4]')[1]}, {COLUMNS}>"
    assert_rewrites(LowerGroupnorm(), before, body(after, "", groups_first))


FOUR = "float[n, 4, 3, 1] x"


@pytest.mark.parametrize(
    ("layer", "x", "affine", "reason"),
    [
        (LAYER, FOUR.replace("float", "bfloat16"), "bfloat16[4] scale, bfloat16[4] bias", "its elements are bfloat16"),
        (LAYER, FOUR.replace("float", "double"), "double[4] scale, double[4] bias", "its elements are float64"),
        (LAYER.replace(">", ", stash_type: int = 16>"), FOUR, "float[4] scale, float[4] bias", "another type"),
        (LAYER.replace("2", "3"), FOUR, "float[4] scale, float[4] bias", "4 channels can't be split into 3"),
        (LAYER, "float[n, 4, 0, 1] x", "float[4] scale, float[4] bias", "has no elements"),
        (LAYER, FOUR, "float[2] scale, float[2] bias", "not of shape [4]"),
    ],
)
def test_leaves_other_layers_alone(layer: str, x: str, affine: str, reason: str) -> None:
    assert_untouched(LowerGroupnorm(), model(f"y = {layer} (x, scale, bias)", "", f"{x}, {affine}"), reason)


def test_leaves_one_value_per_channel_alone_where_there_must_be_one_per_group() -> None:
    text = model(f"y = {LAYER} (x, scale, bias)", "", f"{FOUR}, float[4] scale, float[4] bias", 18)
    assert_untouched(LowerGroupnorm(), text, "not of shape [2]")


def test_leaves_elements_of_unknown_type_alone() -> None:
    text = """
        <ir_version: 10, opset_import: ["": 21, "mine": 1]>
        g (float[2, 4] x, float[4] scale, float[4] bias) => (float[2, 4] z) {
            a = mine.Split (x)
            y = GroupNormalization <num_groups: int = 2> (a, scale, bias)
            z = mine.Join (y)
        }"""
    assert_untouched(LowerGroupnorm(), text, "of unknown type")


def test_leaves_an_input_of_unknown_rank_alone() -> None:
    text = """
        <ir_version: 10, opset_import: ["": 21]>
        g (float[2, 4] x, int64[k] size, float[4] scale, float[4] bias) => (float z) {
            a = Reshape (x, size)
            y = GroupNormalization <num_groups: int = 2> (a, scale, bias)
            z = ReduceMean <keepdims: int = 0> (y)
        }"""
    assert_untouched(LowerGroupnorm(), text, "the rank of its input is not known")


# the checker takes no model with the deprecated operator of version 18, so that nothing can be drawn with it
@fuzz(LowerGroupnorm(), opsets=(21, 22, 23))
def test_any_group_normalisation_is_one_of_instances(build: Builder) -> list[str]:
    groups, each = build.integer(1, 3), build.integer(1, 3)
    channels = groups * each + (1 if build.chance(10) else 0)
    dtype = build.dtype((np.float32, np.float32, np.float16, np.float64))
    stash = build.choice([None, 1, 11 if dtype == np.float64 else 1])
    shape = [build.integer(1, 3), channels, *build.shape(rank=(0, 3))]
    x = build.input(shape, dtype)
    affine = [build.choice([build.weight, build.input])([channels], dtype) for _ in range(2)]
    epsilon = build.choice([None, 0.5, 1e-3])
    y = build.node("GroupNormalization", [x, *affine], num_groups=groups, epsilon=epsilon, stash_type=stash)
    # ONNX infers nothing of a GroupNormalization, and an output must have a type and a shape
    typed = build.node("Cast", [y], to=onnx.helper.np_dtype_to_tensor_dtype(dtype))
    return [build.node("Reshape", [typed, build.constant(np.array(shape, np.int64))])]
