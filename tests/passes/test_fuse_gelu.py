import math

import numpy as np
import pytest

from graphsurgery.graph.model import Model
from graphsurgery.passes.fuse_gelu import FuseGelu
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

CONSTANTS = {
    "half": 0.5, "one": 1, "two": 2, "three": 3, "root": 1.4142135381698608, "inverse": 0.7071067690849304,
    "scale": 0.7978845608028654, "cubic": 0.044715, "low": 0.7978,
}  # fmt: skip
ERF = "v = Div (x, root)  f = Erf (v)  a = Add (f, one)  "
HALVES = ["p = Mul (x, a)  y = Mul (p, half)", "p = Mul (x, half)  y = Mul (p, a)", "p = Mul (a, half)  y = Mul (x, p)"]
HALVES += ["p = Mul (x, a)  y = Div (p, two)", "h = Mul (x, half)  p = Mul (h, f)  y = Add (p, h)"]
CUBE = "c = Pow (x, three)  "
SUM = "k = Mul (c, cubic)  s = Add (x, k)  "
TANH = "v = Mul (s, scale)  f = Tanh (v)  a = Add (f, one)  "


def model(body: str, kind: str = "float", opset: int = 20, shape: str = "[n, 3]", y: str = "", kept: str = "") -> str:
    used = [name for name in CONSTANTS if f" {name})" in body or f"({name}," in body]
    constants = ", ".join(f"{kind} {name} = {{{CONSTANTS[name]:.17g}}}" for name in used)
    constants = f"<{constants}>" if used else ""
    return f"""
        <ir_version: 9, opset_import: ["": {opset}]>
        g ({kind}{shape} x) => ({kind}{shape} y{y}) {constants} {{
            {body}
        }}"""


def gelu(approximate: str = "none", opset: int = 20, kind: str = "float") -> str:
    return model(f'y = Gelu <approximate: string = "{approximate}"> (x)', opset=opset, kind=kind)


@pytest.mark.parametrize("argument", ["v = Div (x, root)", "v = Mul (x, inverse)", "v = Mul (inverse, x)"])
@pytest.mark.parametrize("total", ["a = Add (f, one)", "a = Add (one, f)"])
@pytest.mark.parametrize("product", HALVES)
def test_the_exact_form_in_any_order_becomes_gelu(argument: str, total: str, product: str) -> None:
    total = "" if ", f)" in product else f"{total}  "
    assert_rewrites(FuseGelu(), model(f"{argument}  f = Erf (v)  {total}{product}"), gelu())


@pytest.mark.parametrize(
    "argument",
    [
        CUBE + SUM,
        "q = Mul (x, x)  c = Mul (q, x)  " + SUM,
        "q = Mul (x, x)  c = Mul (x, q)  k = Mul (cubic, c)  s = Add (k, x)  ",
        "q = Pow (x, two)  k = Mul (q, cubic)  e = Add (k, one)  s = Mul (x, e)  ",
        "k = Mul (x, cubic)  q = Mul (k, x)  e = Add (one, q)  s = Mul (e, x)  ",
    ],
)
@pytest.mark.parametrize("product", HALVES[:3])
def test_the_form_with_tanh_in_any_order_becomes_gelu(argument: str, product: str) -> None:
    assert_rewrites(FuseGelu(), model(argument + TANH + product), gelu("tanh"))


@pytest.mark.parametrize("opset", [20, 24])
@pytest.mark.parametrize("kind", ["float", "double"])
def test_takes_each_type_with_its_precision(opset: int, kind: str) -> None:
    body = "v = Mul (x, inverse)  f = Erf (v)  a = Add (f, one)  " + HALVES[0]
    before = model(body, kind, opset).replace("0.70710676908493042", f"{math.sqrt(0.5):.17g}")
    assert_rewrites(FuseGelu(), before, gelu(opset=opset, kind=kind), outputs_agree=kind == "float")


def test_works_inside_an_if_body_and_on_a_shared_input() -> None:
    def body(nodes: str, constants: str = "") -> str:
        return f"""
        <ir_version: 9, opset_import: ["": 20]>
        g (bool p0, float[2, 3] u) => (float[2, 3] z, float[2, 3] x) {constants} {{
            x = Mul (u, u)
            z = If (p0) <
                then_branch = t () => (float[2, 3] y) {{ {nodes} }},
                else_branch = e () => (float[2, 3] w) {{ w = Neg (x) }}
            >
        }}"""

    before = body(ERF + HALVES[0], "<float root = {1.41421354}, float one = {1}, float half = {0.5}>")
    assert_rewrites(FuseGelu(), before, body('y = Gelu <approximate: string = "none"> (x)'))


def test_leaves_older_operator_sets_alone() -> None:
    assert_untouched(FuseGelu(), model(ERF + HALVES[0], opset=19), "Gelu needs operator set 20")


@pytest.mark.parametrize("inside", ["v", "f", "a", "p"])
def test_leaves_a_pattern_alone_that_is_read_inside(inside: str) -> None:
    for more, y in ((f"  z = Neg ({inside})", "z"), ("", inside)):
        text = model(ERF + HALVES[0] + more, y=f", float[n, 3] {y}")
        assert_untouched(FuseGelu(), text, "read by another node too, or is a graph output")


@pytest.mark.parametrize(
    "body",
    [
        CUBE + SUM + TANH.replace("scale", "low") + HALVES[0],
        ERF + "p = Mul (x, a)  y = Mul (p, root)",
        ERF + "y = Mul (x, a)",
        ERF.replace("root", "two") + HALVES[0],
        ERF.replace("one", "two") + HALVES[0],
    ],
)
def test_leaves_other_constants_alone(body: str) -> None:
    assert_untouched(FuseGelu(), model(body), "a constant differs from GELU's by")


def test_a_constant_with_the_digits_of_float32_is_not_precise_enough_for_float64() -> None:
    assert_untouched(FuseGelu(), model(ERF + HALVES[0], "double"), "a constant differs from GELU's by")


@pytest.mark.parametrize("name", ["half", "one", "root"])
def test_a_constant_that_is_no_number_makes_no_gelu(name: str) -> None:
    text = model(ERF + HALVES[0]).replace(f"float {name} = {{{CONSTANTS[name]:.17g}}}", f"float {name} = {{nan}}")
    assert "nan" in text
    assert all(node.op_type != "Gelu" for node in apply_pass(FuseGelu(), Model(parse(text))).model.proto.graph.node)


def test_leaves_elements_of_unknown_type_alone() -> None:
    text = model(ERF.replace("(x,", "(b,") + "p = Mul (b, a)  q = Mul (p, half)  y = mine.Join (q)")
    text = text.replace("20]", '20, "mine": 1]').replace("v = Div", "b = mine.Split (x)  v = Div")
    assert_untouched(FuseGelu(), text, "of unknown type")


def test_leaves_a_constant_alone_that_adds_dimensions() -> None:
    text = (
        model(ERF + HALVES[0], shape="[n]")
        .replace("float half", "float[1, 1] half")
        .replace("float[n] y", "float[m, n] y")
    )
    assert_untouched(FuseGelu(), text, "a constant of rank 2 may add dimensions")


@pytest.mark.parametrize(
    "body",
    [
        "y = Tanh (x)",
        "y = Erf (x)",
        "f = Tanh (x)  a = Add (f, one)  " + HALVES[0],
        ERF + "p = Mul (a, half)  y = Mul (p, p)",
    ],
)
def test_does_not_look_at_other_formulas(body: str) -> None:
    assert_untouched(FuseGelu(), model(body), None)


@fuzz(FuseGelu(), opsets=(17, 20, 20, 21, 22, 23))
def test_any_form_of_gelu_is_fused(build: Builder) -> list[str]:
    shape = build.shape(rank=(0, 4))
    dtype = build.dtype((np.float32, np.float32, np.float32, np.float64, np.float16))

    def number(value: float) -> str:
        factor = build.choice([1.0] * 60 + [1.001, 1.1])
        rank = build.choice([0] * 30 + [1, len(shape), len(shape) + 1])
        return build.constant(np.full([1] * rank, value * factor, dtype))

    def both(op: str, first: str, second: str) -> str:
        return str(build.node(op, [first, second] if build.chance(2) else [second, first]))

    def product(*factors: str) -> str:
        rest = list(factors)
        while len(rest) > 1:
            first = rest.pop(build.integer(0, len(rest) - 1))
            second = rest.pop(build.integer(0, len(rest) - 1))
            rest.append(both("Mul", first, second))
        return rest[0]

    x = build.input(shape, dtype, scale=0.25)  # from -1 to 1: further down 1 + f cancels, and its rounding shows
    if build.chance(3):
        x = build.node("Mul", [x, x])
    if build.chance(2):
        halved = build.node("Div", [x, number(math.sqrt(2))])
        f = build.node("Erf", [halved if build.chance(2) else product(x, number(math.sqrt(0.5)))])
    else:
        power = [build.node("Pow", [x, number(3)])] if build.chance(2) else [x, x, x]
        if build.chance(2):
            inner = [both("Add", x, product(number(0.044715), *power))]
        else:
            inner = [x, both("Add", number(1), product(number(0.044715), x, x))]
        f = build.node("Tanh", [product(number(math.sqrt(2 / math.pi)), *inner)])
    if build.chance(4):
        half = product(x, number(0.5))
        return [both("Add", half, product(half, f))]
    return [product(x, number(0.5), both("Add", f, number(1)))]
