import numpy as np

from graphsurgery.passes.lower_instancenorm import LowerInstancenorm
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

PASS = LowerInstancenorm()
OWN = "float[2] s = {1, 2}, float[2] b = {0.5, -1}"


def model(body: str, weights: str = OWN, x: str = "float[n, 2, 3, 4] x", y: str = "float[n, 2, 3, 4] y") -> str:
    return f"""
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g ({x}) => ({y}) <{weights}> {{ {body} }}"""


def test_becomes_what_it_stands_for() -> None:
    after = model(
        """
        y_mean = ReduceMean <axes = [2, 3], keepdims = 1> (x)
        y_centred = Sub (x, y_mean)
        y_square = Mul (y_centred, y_centred)
        y_variance = ReduceMean <axes = [2, 3], keepdims = 1> (y_square)
        y_variance_epsilon = Add (y_variance, y_epsilon)
        y_deviation = Sqrt (y_variance_epsilon)
        y_normal = Div (y_centred, y_deviation)
        y_scaled = Mul (y_normal, s_2)
        y = Add (y_scaled, b_2)""",
        "float y_epsilon = {0.001}, float[2, 1, 1] s_2 = {1, 2}, float[2, 1, 1] b_2 = {0.5, -1}",
    )
    assert_rewrites(PASS, model("y = InstanceNormalization <epsilon = 0.001> (x, s, b)"), after)


def test_leaves_an_input_without_elements_behind_the_channels_alone() -> None:
    text = model("y = InstanceNormalization (x, s, b)", x="float[n, 2] x", y="float[n, 2] y")
    assert_untouched(PASS, text, "has no axes behind the channels")


def test_leaves_what_is_not_known_alone() -> None:
    assert_untouched(PASS, model("a = mine.Foo (x) y = InstanceNormalization (a, s, b)"), "of unknown type")


@fuzz(PASS)
def test_any_instance_normalization_computes_the_same(build: Builder) -> list[str]:
    shape, dtype = build.shape(rank=(3, 4)), build.dtype([np.float32, np.float16])
    own = [build.weight([shape[1]], dtype), build.weight([shape[1]], dtype)]
    x = build.input(shape, dtype)
    return [build.node("InstanceNormalization", [x, *own], epsilon=build.choice([None, 0.1]))]
