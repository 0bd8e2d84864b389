from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphsurgery.graph.model import Model
from graphsurgery.passes.lower_batchnorm import LowerBatchnorm
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

# scale 3 and 4 over a deviation of 2 and 4: times 1.5 and 1, plus 5 - 1.5 * 2 = 2 and 6 - 8 = -2
PARAMETERS = "float[2] s = {3, 4}, float[2] b = {5, 6}, float[2] m = {2, 8}, float[2] v = {4, 16}"
NORM = "BatchNormalization <epsilon = 0.0> (x, s, b, m, v)"


def text(x: str, weights: str, nodes: str, y: str | None = None, opset: int = 17) -> str:
    head = f'<ir_version: 8, opset_import: ["": {opset}]>'
    return f"{head} g ({x} x) => ({y or x} y) <{weights}> {{ {nodes} }}"


@pytest.mark.parametrize("opset", [7, 9, 14, 15, 22])
@pytest.mark.parametrize("rank", [3, 4, 5])
def test_becomes_a_depthwise_conv_with_every_attribute_written_out(rank: int, opset: int) -> None:
    ones = ["1"] * (rank - 2)
    window = f"dilations = [{', '.join(ones)}], group = 2, kernel_shape = [{', '.join(ones)}]"
    window += f", pads = [{', '.join(['0'] * 2 * len(ones))}], strides = [{', '.join(ones)}]"
    shape = f"float[N, 2, {', '.join(['3'] * (rank - 2))}]"
    assert_rewrites(
        LowerBatchnorm(),
        text(shape, PARAMETERS, f"y = {NORM}", opset=opset),
        text(
            shape,
            f"float[2, 1, {', '.join(ones)}] y_scale = {{1.5, 1}}, float[2] y_shift = {{2, -2}}",
            f"y = Conv <{window}> (x, y_scale, y_shift)",
            opset=opset,
        ),
    )


ATTRIBUTES = "dilations = [1], group = 2, kernel_shape = [1], pads = [0, 0], strides = [1]"
LOWERED = f"Conv <{ATTRIBUTES}> (x, y_scale, y_shift)"
WEIGHTS = "float[2, 1, 1] y_scale = {1.5, 1}, float[2] y_shift = {2, -2}"


def test_what_it_reads_and_writes_may_be_read_elsewhere() -> None:
    before = text("float[1, 2, 4]", PARAMETERS, f"y = {NORM} z = Relu (y) u = Neg (x)").replace(
        "(float[1, 2, 4] y)", "(float[1, 2, 4] y, float[1, 2, 4] z, float[1, 2, 4] u)"
    )
    after = before.replace(NORM, LOWERED).replace(PARAMETERS, WEIGHTS)
    assert_rewrites(LowerBatchnorm(), before, after)


def test_works_inside_an_if_body() -> None:
    def body(weights: str, node: str) -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool t, float[1, 2, 4] x) => (float[1, 2, 4] r) {{
            r = If (t) <
                then_branch = a () => (float[1, 2, 4] y) <{weights}> {{ y = {node} }},
                else_branch = e () => (float[1, 2, 4] q) {{ q = Relu (x) }}
            >
        }}"""

    assert_rewrites(LowerBatchnorm(), body(PARAMETERS, NORM), body(WEIGHTS, LOWERED))


def test_the_conv_has_the_type_of_the_data_whatever_that_of_the_parameters() -> None:
    before = Model(parse(text("float16[1, 2, 4]", PARAMETERS, f"y = {NORM}")))
    after = apply_pass(LowerBatchnorm(), before).model.proto
    onnx.checker.check_model(after, full_check=True)
    weights = [numpy_helper.to_array(tensor) for tensor in after.graph.initializer]
    assert [tensor.dtype for tensor in weights] == [np.float16] * 2
    assert sorted(tensor.ravel().tolist() for tensor in weights) == [[1.5, 1], [2, -2]]


TRAINING = "y, k, l = BatchNormalization <training_mode = 1> (x, s, b, m, v)"


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (text("float[1, 2, 4]", PARAMETERS, TRAINING), "in training mode"),
        (text("float[1, 2, 4]", PARAMETERS, "y, k, l = BatchNormalization (x, s, b, m, v)", opset=9), "as in training"),
        (text("float[1, 2, 4]", PARAMETERS, "y = BatchNormalization (x, s, b, m, v)", opset=6), "is_test is 0"),
        (text("float[1, 2, 4]", PARAMETERS, f"t = Relu (s) y = {NORM.replace('s,', 't,')}"), "are not constant"),
        (text("float[1, 2, 4]", PARAMETERS.replace("{4, 16}", "{4, 0}"), f"y = {NORM}"), "not finite"),
        (text("float[1, 2, 4]", PARAMETERS, f"y = {NORM.replace('epsilon = 0.0', 'spatial = 0')}", opset=7), "spatial"),
        (text("float[4, 2]", PARAMETERS, f"y = {NORM}"), "the rank of its input is 2, not 3 or 4 or 5"),
        (text("float[1, 2, 1, 1, 1, 4]", PARAMETERS, f"y = {NORM}"), "the rank of its input is 6, not 3 or 4 or 5"),
        (text("float[]", PARAMETERS, f"y = {NORM}"), "the rank of its input is not known"),
        (text("bfloat16[1, 2, 4]", PARAMETERS, f"y = {NORM}"), "its elements are bfloat16"),
        (text("float[1, 2, 0]", PARAMETERS, f"y = {NORM}"), "its input is empty"),
        (text("float16[1, 2, 4]", PARAMETERS.replace("{3, 4}", "{3e6, 4}"), f"y = {NORM}"), "range of float16"),
    ],
)
def test_leaves_alone(before: str, reason: str) -> None:
    assert_untouched(LowerBatchnorm(), before, reason)


def test_leaves_one_alone_whose_parameters_may_be_overridden() -> None:
    before = text("float[1, 2, 4]", PARAMETERS.replace("float[2] s = {3, 4}, ", ""), f"y = {NORM}")
    assert_untouched(LowerBatchnorm(), before.replace(" x)", " x, float[2] s = {3, 4})"), "are not constant")


@fuzz(LowerBatchnorm())
def test_any_norm_computes_the_same_as_a_conv(build: Builder) -> list[str]:
    # before opset 14 the reference evaluator takes every norm to be in training (onnx pull request 8442), and only it
    # runs other types
    dtype = build.dtype() if build.opset >= 14 else np.dtype(np.float32)
    channels, spatial = build.integer(1, 4), build.integer(0, 4)
    x = build.input([build.integer(0, 2), channels, *(build.integer(1, 4) for _ in range(spatial))], dtype)
    if build.chance(3):
        x = build.node("Relu", [x])
    kinds: list[Any] = [dtype, dtype]  # of scale and bias, and of mean and variance
    if build.opset >= 15:
        kinds = [build.choice([dtype, np.dtype(np.float32)]) for _ in kinds]
    scale, bias = (build.weight([channels], kinds[0]) for _ in range(2))
    mean = build.weight([channels], kinds[1])
    epsilon = build.choice([0.0, 0.75])
    deviation = np.array([build.choice([1, 2, 4]) for _ in range(channels)])
    variance = build.constant((deviation**2 - epsilon).astype(kinds[1]))
    return [build.node("BatchNormalization", [x, scale, bias, mean, variance], epsilon=epsilon)]
