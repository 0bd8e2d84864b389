import numpy as np
import pytest

from graphsurgery.passes.fuse_layernorm import FuseLayernorm
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

EPSILON = "float epsilon = {0.00001}"
PARAMETERS = "float[4] gamma = {1, 2, 3, 4}, float[4] beta = {5, 6, 7, 8}"
CONSTANTS = f"{EPSILON}, {PARAMETERS}, float two = {{2}}, int64[1] last = {{-1}}"
LAYER = "LayerNormalization <axis: int = -1, epsilon: float = 0.00001, stash_type: int = 1>"
SQUARE = "s = Pow (d, two)"
QUOTIENT = "q = Sqrt (e)  n = Div (d, q)"
REST = "g = Mul (n, gamma)  y = Add (g, beta)"


def model(
    body: str, constants: str = "", x: str = "float[n, m, 4] x", y: str = "float[n, m, 4] y", opset: int = 17
) -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g ({x}) => ({y}) <{constants}> {{
            {body}
        }}"""


def pattern(
    square: str = SQUARE,
    total: str = "e = Add (v, epsilon)",
    quotient: str = QUOTIENT,
    rest: str = REST,
    axes: str = "-1",
    opset: int = 17,
    axes_of_variance: str = "",
) -> str:
    def mean(tensor: str, given: str) -> str:
        if opset >= 18:
            return f"ReduceMean ({tensor}, last)"
        return f"ReduceMean <axes: ints = [{given}]> ({tensor})"

    average, variance = mean("x", axes), mean("s", axes_of_variance or axes)
    return f"a = {average}  d = Sub (x, a)  {square}  v = {variance}  {total}  {quotient}  {rest}"


AFTER = model(f"y = {LAYER} (x, gamma, beta)", PARAMETERS)


@pytest.mark.parametrize("square", [SQUARE, "s = Mul (d, d)"])
@pytest.mark.parametrize("total", ["e = Add (v, epsilon)", "e = Add (epsilon, v)"])
@pytest.mark.parametrize(
    "quotient",
    [QUOTIENT, "q = Sqrt (e)  r = Reciprocal (q)  n = Mul (d, r)", "q = Sqrt (e)  r = Reciprocal (q)  n = Mul (r, d)"],
)
@pytest.mark.parametrize("rest", [REST, "g = Mul (gamma, n)  y = Add (beta, g)"])
def test_nine_operators_become_one(square: str, total: str, quotient: str, rest: str) -> None:
    text = pattern(square, total, quotient, rest)
    used = [name for name in ("two",) if f", {name})" in text]
    constants = ", ".join([EPSILON, PARAMETERS, *("float two = {2}" for _ in used)])
    assert_rewrites(FuseLayernorm(), model(text, constants), AFTER)


@pytest.mark.parametrize("opset", [18, 24])
def test_axes_that_are_an_input_are_read(opset: int) -> None:
    before = model(pattern(opset=opset), CONSTANTS, opset=opset)
    assert_rewrites(FuseLayernorm(), before, AFTER.replace("17", str(opset)))


@pytest.mark.parametrize(("axes", "of_variance"), [("1, 2", "1, 2"), ("-2, -1", "2, 1"), ("2, -2", "1, -1")])
def test_takes_several_axes(axes: str, of_variance: str) -> None:
    sizes, constants = (
        "float[n, 2, 2]",
        f"{EPSILON}, float[2, 2] gamma = {{1, 2, 3, 4}}, float[2, 2] beta = {{5, 6, 7, 8}}",
    )
    before = model(
        pattern("s = Mul (d, d)", axes=axes, axes_of_variance=of_variance), constants, f"{sizes} x", f"{sizes} y"
    )
    after = model(
        f"y = {LAYER.replace('-1', '-2')} (x, gamma, beta)",
        constants.replace(f"{EPSILON}, ", ""),
        f"{sizes} x",
        f"{sizes} y",
    )
    assert_rewrites(FuseLayernorm(), before, after)


@pytest.mark.parametrize("rest", ["y = Mul (n, gamma)", "g = Mul (n, gamma)  y = Add (g, x)"])
def test_beta_may_be_missing(rest: str) -> None:
    before = model(pattern("s = Mul (d, d)", rest=rest), f"{EPSILON}, float[4] gamma = {{1, 2, 3, 4}}")
    layer = f"{LAYER} (x, gamma)"
    after = f"y = {layer}" if "Add" not in rest else f"g = {layer}  y = Add (g, x)"
    assert_rewrites(FuseLayernorm(), before, model(after, "float[4] gamma = {1, 2, 3, 4}"))


@pytest.mark.parametrize("gamma", ["float gamma = {3}", "float[1] gamma = {3}", "float[1, 1, 1] gamma = {3}"])
def test_repeats_a_gamma_that_is_the_same_for_all(gamma: str) -> None:
    before = model(pattern("s = Mul (d, d)", rest="y = Mul (n, gamma)"), f"{EPSILON}, {gamma}")
    after = model(f"y = {LAYER} (x, gamma_2)", "float[4] gamma_2 = {3, 3, 3, 3}")
    assert_rewrites(FuseLayernorm(), before, after)


def test_a_gamma_that_a_caller_may_override_stays_an_input() -> None:
    x = "float[n, m, 4] x, float[4] gamma, float[4] beta"
    before = model(pattern("s = Mul (d, d)"), CONSTANTS.split(", float two")[0], x)
    assert_rewrites(FuseLayernorm(), before, model(f"y = {LAYER} (x, gamma, beta)", PARAMETERS, x))


def test_works_inside_an_if_body() -> None:
    def body(nodes: str, constants: str) -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool p, float[2, 4] x) => (float[2, 4] z) <{constants}> {{
            z = If (p) <
                then_branch = t () => (float[2, 4] y) {{ {nodes} }},
                else_branch = e () => (float[2, 4] u) {{ u = Identity (x) }}
            >
        }}"""

    before = body(pattern("s = Mul (d, d)"), f"{EPSILON}, {PARAMETERS}")
    assert_rewrites(FuseLayernorm(), before, body(f"y = {LAYER} (x, gamma, beta)", PARAMETERS))


@pytest.mark.parametrize("inside", ["a", "d", "s", "v", "e", "q"])
def test_leaves_a_pattern_alone_that_is_read_inside(inside: str) -> None:
    for more, y in ((f"  z = Neg ({inside})", "z"), ("", inside)):
        before = model(pattern() + more, CONSTANTS, y=f"float[n, m, 4] y, float[n, m, k] {y}")
        assert_untouched(FuseLayernorm(), before, "read by another node too, or is a graph output")


@pytest.mark.parametrize("inside", ["n", "g"])
def test_keeps_to_what_nothing_else_reads_behind_the_quotient(inside: str) -> None:
    constants = f"{EPSILON}, {PARAMETERS}"
    before = model(pattern("s = Mul (d, d)"), constants, y=f"float[n, m, 4] y, float[n, m, 4] {inside}")
    if inside == "n":
        return assert_untouched(FuseLayernorm(), before, "no Mul behind it alone")
    after = model(f"g = {LAYER} (x, gamma)  y = Add (g, beta)", PARAMETERS, y="float[n, m, 4] y, float[n, m, 4] g")
    assert_rewrites(FuseLayernorm(), before, after)


def changed(old: str, new: str) -> str:
    text = model(pattern(), CONSTANTS)
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (model(pattern(), CONSTANTS, opset=16), "needs operator set 17"),
        (changed("0.00001", "0"), "its epsilon is not positive"),
        (changed("float", "double"), "its elements are float64"),
        (changed("[n, m, 4]", "[n, m, k]"), "are not all known"),
        (model(pattern(axes="1"), CONSTANTS), "not over the last axes"),
        (model(pattern(axes="0, 2"), CONSTANTS), "not over the last axes"),
        (model(pattern(axes="-1", axes_of_variance="1, 2"), CONSTANTS), "not over the same axes"),
        (changed("<axes: ints = [-1]>", ""), "do not write out their axes"),
        (changed("float[4] gamma = {1, 2, 3, 4}", "float[4, 1] gamma = {1, 2, 3, 4}"), "no Mul behind it alone"),
        (changed("float[4] gamma", "float[1, 1, 1, 4] gamma"), "no Mul behind it alone"),
        (changed("float epsilon", "float[1, 1, 1, 1] epsilon"), "a constant of more dimensions"),
        (model(pattern(rest="y = Relu (n)"), CONSTANTS), "no Mul behind it alone"),
    ],
)
def test_leaves_what_is_no_layer_normalisation_alone(text: str, reason: str) -> None:
    y = "float[a, b, c] y" if "[4, 1]" in text else "float[a, b, c, d] y"
    text = text.replace("float[n, m, 4] y", y) if "[4, 1]" in text or "1, 1, " in text else text
    assert_untouched(FuseLayernorm(), text, reason)


def test_leaves_means_that_drop_their_axes_alone() -> None:
    text = pattern().replace("<axes: ints = [-1]> (x)", "<axes: ints = [-1], keepdims: int = 0> (x)")
    assert_untouched(FuseLayernorm(), model(text, CONSTANTS, "float[4, 4] x", "float[4, 4] y"), "or drop them")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{2}", "{3}"),
        ("Sub (x, a)", "Sub (a, x)"),
        ("Div (d, q)", "Div (q, d)"),
        ("Sqrt", "Exp"),
        ("Sub (x, a)", "Sub (two, a)"),
    ],
)
def test_does_not_look_at_other_quotients(old: str, new: str) -> None:
    assert_untouched(FuseLayernorm(), changed(old, new), None)


@fuzz(FuseLayernorm(), opsets=(13, 17, 17, 18, 21))
def test_any_layer_normalisation_is_fused(build: Builder) -> list[str]:
    shape = build.shape(rank=(1, 4))
    rank = len(shape)
    dtype = build.dtype([np.float32] * 8 + [np.float16, np.float64])
    x = build.input(shape, dtype)

    def mean(tensor: str, axes: list[int]) -> str:
        keep = build.choice([None, 1, 1, 1, 0]) if build.chance(3) else 1
        if build.chance(12):
            return build.node("ReduceMean", [tensor], keepdims=keep)
        if build.opset < 18:
            return build.node("ReduceMean", [tensor], axes=axes, keepdims=keep)
        return build.node("ReduceMean", [tensor, build.constant(np.array(axes, np.int64))], keepdims=keep)

    def pair(first: str, second: str) -> list[str]:
        return [first, second] if build.chance(2) else [second, first]

    def number(value: float) -> str:
        return build.constant(np.full([1] * build.choice([0, 0, 0, 0, 0, 0, 1, rank, rank + 1]), value, dtype))

    count = build.integer(1, rank)
    axes = list(range(rank - count, rank))
    if build.chance(8):
        axes = [build.integer(0, rank - 1)]
    axes = [axis - rank * build.choice([0, 1]) for axis in (axes if build.chance(2) else axes[::-1])]
    d = build.node("Sub", [x, mean(x, axes)])
    square = build.node("Mul", [d, d]) if build.chance(2) else build.node("Pow", [d, number(2)])
    total = build.node("Add", pair(mean(square, axes), number(build.choice([1e-5, 1.0, 0.5, 1e-3]))))
    root = build.node("Sqrt", [total])
    if build.chance(2):
        n = build.node("Div", [d, root])
    else:
        n = build.node("Mul", pair(d, build.node("Reciprocal", [root])))
    own = shape[rank - count :]
    shapes = [own] * 9 + [shape, own[1:], [], [1] * rank, [1, *own], [1, 1, *shape]]
    tensor = build.choice([build.weight, build.weight, build.input])
    y = build.node("Mul", pair(n, tensor(build.choice(shapes), dtype)))
    return [build.node("Add", pair(y, build.choice([build.weight, build.input])(build.choice(shapes), dtype)))]
