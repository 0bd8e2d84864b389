import numpy as np
import pytest

from graphsurgery.passes.lower_layernorm import LowerLayernorm
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz


def model(body: str, constants: str = "", kind: str = "float", opset: int = 17, y: str = "") -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g ({kind}[2, n, 4] x, {kind}[4] s, {kind}[4] b) => ({kind}[2, n, 4] y{y}) <{constants}> {{
            {body}
        }}"""


def unfolded(x: str = "x", axes: str = "[-1]", means_of: str = "x", opset: int = 17) -> str:
    def mean(tensor: str) -> str:
        if opset >= 18:
            return f"ReduceMean <keepdims: int = 1> ({tensor}, {means_of})"
        return f"ReduceMean <axes: ints = {axes}, keepdims: int = 1> ({tensor})"

    return f"""
            y_mean = {mean(x)}
            y_centred = Sub ({x}, y_mean)
            y_square = Mul (y_centred, y_centred)
            y_variance = {mean("y_square")}
            y_variance_epsilon = Add (y_variance, y_epsilon)
            y_deviation = Sqrt (y_variance_epsilon)
            y_normal = Div (y_centred, y_deviation)"""


SCALED = "\n            y_scaled = Mul (y_normal, s)  y = Add (y_scaled, b)"
EPSILON = "float y_epsilon = {0.00001}"


def test_becomes_what_it_stands_for() -> None:
    assert_rewrites(LowerLayernorm(), model("y = LayerNormalization (x, s, b)"), model(unfolded() + SCALED, EPSILON))


@pytest.mark.parametrize("opset", [18, 24])
def test_axes_become_an_input(opset: int) -> None:
    after = model(
        unfolded(opset=opset).replace("(x, x)", "(x, y_axes)").replace("y_square, x)", "y_square, y_axes_2)") + SCALED,
        f"{EPSILON}, int64[1] y_axes = {{-1}}, int64[1] y_axes_2 = {{-1}}",
        opset=opset,
    )
    assert_rewrites(LowerLayernorm(), model("y = LayerNormalization (x, s, b)", opset=opset), after)


@pytest.mark.parametrize(("axis", "axes"), [(1, "[-2, -1]"), (-2, "[-2, -1]"), (0, "[-3, -2, -1]"), (2, "[-1]")])
def test_takes_all_axes_from_the_first(axis: int, axes: str) -> None:
    before = model(f"y = LayerNormalization <axis: int = {axis}> (x, s, b)")
    assert_rewrites(LowerLayernorm(), before, model(unfolded(axes=axes) + SCALED, EPSILON))


@pytest.mark.parametrize("layer", ["LayerNormalization (x, s)", "LayerNormalization (x, s, )"])
def test_bias_may_be_missing(layer: str) -> None:
    assert_rewrites(LowerLayernorm(), model(f"y = {layer}"), model(unfolded() + "  y = Mul (y_normal, s)", EPSILON))


def test_takes_epsilon_over() -> None:
    before = model("y = LayerNormalization <epsilon: float = 0.5> (x, s, b)")
    assert_rewrites(LowerLayernorm(), before, model(unfolded() + SCALED, "float y_epsilon = {0.5}"))


def test_normalises_float16_in_float32() -> None:
    body = "y_float32 = Cast <to: int = 1> (x)" + unfolded("y_float32")
    after = body + "  y_float16 = Cast <to: int = 10> (y_normal)" + SCALED.replace("y_normal", "y_float16")
    before = model("y = LayerNormalization (x, s, b)", kind="float16")
    large = {"x": np.full((2, 3, 4), 500, np.float16), "s": np.ones(4, np.float16), "b": np.ones(4, np.float16)}
    large["x"][:, :, 0] = -500  # its square is no float16
    assert_rewrites(LowerLayernorm(), before, model(after, EPSILON, "float16"), large)


def test_outputs_that_nothing_reads_go() -> None:
    text = model("y, mean, inverse = LayerNormalization (x, s, b)")
    assert_rewrites(LowerLayernorm(), text, model(unfolded() + SCALED, EPSILON))


def test_works_inside_an_if_body() -> None:
    def body(nodes: str, constants: str = "") -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool p, float[2, 4] x, float[4] s, float[4] b) => (float[2, 4] z) {{
            z = If (p) <
                then_branch = t () => (float[2, 4] y) {constants} {{ {nodes} }},
                else_branch = e () => (float[2, 4] u) {{ u = Identity (x) }}
            >
        }}"""

    after = body(unfolded() + SCALED, f"<{EPSILON}>")
    assert_rewrites(LowerLayernorm(), body("y = LayerNormalization (x, s, b)"), after)


@pytest.mark.parametrize(
    ("layer", "more"),
    [
        ("y, m = LayerNormalization (x, s, b)", ", float[2, n, 1] m"),
        ("y, , m = LayerNormalization (x, s, b)", ", float[2, n, 1] m"),
        ("y, k = LayerNormalization (x, s, b)  m = Neg (k)", ", float[2, n, 1] m"),
    ],
)
def test_leaves_a_layer_alone_whose_statistics_are_read(layer: str, more: str) -> None:
    assert_untouched(LowerLayernorm(), model(layer, y=more), "is read")


def test_leaves_statistics_of_another_type_alone() -> None:
    text = model("y = LayerNormalization <stash_type: int = 16> (x, s, b)")
    assert_untouched(LowerLayernorm(), text, "its statistics are BFLOAT16")


@pytest.mark.parametrize(("kind", "name"), [("double", "float64"), ("bfloat16", "bfloat16")])
def test_leaves_other_elements_alone(kind: str, name: str) -> None:
    text = model("y = LayerNormalization (x, s, b)", kind=kind)
    assert_untouched(LowerLayernorm(), text, f"its elements are {name}")


def test_leaves_elements_of_unknown_type_alone() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[2, 4] x, float[4] s) => (float[n, 4] z) {
            a = mine.Split (x)
            y = LayerNormalization (a, s)
            z = mine.Join (y)
        }"""
    assert_untouched(LowerLayernorm(), text, "of unknown type")


def test_leaves_an_axis_from_the_front_of_unknown_rank_alone() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[2, 4] x, float[4] s, int64[k] size) => (float z) {
            a = Reshape (x, size)
            y = LayerNormalization <axis: int = 1> (a, s)
            z = ReduceMean <keepdims: int = 0> (y)
        }"""
    assert_untouched(LowerLayernorm(), text, "the rank of its input is not known")


@fuzz(LowerLayernorm(), opsets=(17, 18, 21))
def test_any_layer_normalisation_is_unfolded(build: Builder) -> list[str]:
    shape = build.shape(rank=(1, 4))
    dtype = build.dtype((np.float32, np.float32, np.float16, np.float64))
    axis = build.choice([None, *range(-len(shape), len(shape))])
    own = shape[-1 if axis is None else axis :]
    tensor = build.choice([build.input, build.weight])
    inputs = [build.input(shape, dtype), tensor(own, dtype), tensor(own, dtype)]
    count = build.integer(2, 3)
    stash, epsilon = build.choice([None, 1]), build.choice([None, 1e-3, 1.0])
    if build.chance(4):
        written = build.node("LayerNormalization", inputs, outputs=3, axis=axis, stash_type=stash, epsilon=epsilon)
        return [written[0], *written[1 : build.choice([1, 1, 3])]]
    return [build.node("LayerNormalization", inputs[:count], axis=axis, stash_type=stash, epsilon=epsilon)]
