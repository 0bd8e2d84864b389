import numpy as np
import pytest

from graphsurgery.passes.fuse_hardswish import FuseHardswish
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

PASS = FuseHardswish()
SIXTH = "alpha = 0.16666667, beta = 0.5"
WEIGHTS = "float zero = {0}, float three = {3}, float six = {6}"
SIXTH_TOO = f"{WEIGHTS}, float sixth = {{0.16666667}}"
CLIP = "s = Add (x, three) c = Clip (s, zero, six)"


def model(
    body: str, weights: str = "", kind: str = "float", opset: int = 14, outputs: str = "", shape: str = "n, 3"
) -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}, "mine": 1]>
        g ({kind}[{shape}] x) => ({kind}[{shape}] y{outputs}) {f"<{weights}>" if weights else ""} {{
            {body}
        }}"""


@pytest.mark.parametrize("kind", ["float", "float16"])
@pytest.mark.parametrize("product", ["Mul (x, h)", "Mul (h, x)"])
@pytest.mark.parametrize("opset", [14, 22])
def test_a_product_with_the_hard_sigmoid_becomes_one_node(kind: str, product: str, opset: int) -> None:
    before = model(f"h = HardSigmoid <{SIXTH}> (x) y = {product}", kind=kind, opset=opset)
    assert_rewrites(PASS, before, model("y = HardSwish (x)", kind=kind, opset=opset))


@pytest.mark.parametrize(
    "body",
    [
        f"{CLIP} p = Mul (x, c) y = Div (p, six)",
        f"{CLIP} p = Mul (c, x) y = Mul (p, sixth)",
        f"{CLIP} p = Mul (c, x) y = Mul (sixth, p)",
        f"{CLIP} p = Div (c, six) y = Mul (x, p)",
        f"{CLIP} p = Mul (c, sixth) y = Mul (p, x)",
        f"{CLIP} p = Div (x, six) y = Mul (p, c)",
        f"{CLIP} p = Mul (sixth, x) y = Mul (c, p)",
        "s = Add (three, x) c = Clip (s, zero, six) p = Mul (x, c) y = Div (p, six)",
    ],
)
def test_a_clip_with_its_factors_in_any_order_becomes_one_node(body: str) -> None:
    weights = SIXTH_TOO if "sixth" in body else WEIGHTS
    assert_rewrites(PASS, model(body, weights), model("y = HardSwish (x)"))


def test_looks_no_further_than_x_where_that_is_a_product_itself() -> None:
    def text(end: str, weights: str) -> str:
        return model(f"a = Mul (x, half) {end}", weights)

    end = f"{CLIP} p = Mul (x, c) y = Div (p, six)".replace("(x,", "(a,")
    assert_rewrites(
        PASS, text(end, f"float half = {{0.5}}, {WEIGHTS}"), text("y = HardSwish (a)", "float half = {0.5}")
    )


def test_works_inside_an_if_body_and_where_other_nodes_read_x() -> None:
    def body(op: str) -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 14]>
        g (bool c, float[n, 3] x) => (float[n, 3] y, float[n, 3] z) {{
            y = If (c) <
                then_branch = t () => (float[n, 3] a) {{ {op} }},
                else_branch = e () => (float[n, 3] b) {{ b = Neg (x) }}
            >
            z = Neg (x)
        }}"""

    before = body(f"h = HardSigmoid <{SIXTH}> (x) a = Mul (x, h)")
    assert_rewrites(PASS, before, body("a = HardSwish (x)"), {"c": np.array(True), "x": np.float32([[1, -2, 3]])})


@pytest.mark.parametrize(
    "body", [f"h = HardSigmoid <{SIXTH}> (x) y = Mul (x, h)", "s = Add (x, three) c = Clip (s, zero, six) "]
)
def test_leaves_older_operator_sets_alone(body: str) -> None:
    body += " p = Mul (x, c) y = Div (p, six)" if "Clip" in body else ""
    assert_untouched(PASS, model(body, WEIGHTS, opset=13), "operator set 14")


@pytest.mark.parametrize("extra", ["c", "p", "s"])
def test_leaves_tensors_inside_that_are_outputs_alone(extra: str) -> None:
    text = model(f"{CLIP} p = Mul (x, c) y = Div (p, six)", WEIGHTS, outputs=f", float[n, 3] {extra}")
    assert_untouched(PASS, text, "read by another node")


def test_leaves_a_gate_that_others_read_alone() -> None:
    text = model(f"h = HardSigmoid <{SIXTH}> (x) y = Mul (x, h) z = Neg (h)", outputs=", float[n, 3] z")
    assert_untouched(PASS, text, "read by another node")


@pytest.mark.parametrize("attributes", ["", "<alpha = 0.16666667, beta = 0.4>", "<alpha = 0.167>"])
def test_leaves_other_slopes_alone(attributes: str) -> None:
    assert_untouched(PASS, model(f"h = HardSigmoid {attributes} (x) y = Mul (x, h)"), "its HardSigmoid has alpha")


@pytest.mark.parametrize(
    "body",
    [
        "s = Add (x, three) c = Clip (s, zero, three) p = Mul (x, c) y = Div (p, six)",
        "s = Add (x, six) c = Clip (s, zero, six) p = Mul (x, c) y = Div (p, six)",
        "s = Add (x, three) c = Clip (s, zero) p = Mul (x, c) y = Div (p, six)",
        "s = Add (x, three) c = Clip (s, zero, six) p = Mul (x, c) y = Div (p, three)",
        "s = Add (x, three) c = Clip (s, zero, six) p = Mul (x, c) y = Div (six, p)",
        "s = Add (x, three) c = Clip (s, zero, six) p = Mul (s, c) y = Div (p, six)",
        "s = Add (x, three) c = Clip (s, zero, six) p = Mul (c, c) y = Div (p, six)",
        "s = Add (x, three) c = Clip (s, zero, six) p = Div (x, c) y = Mul (p, sixth)",
        "s = Add (x, three) c = Clip (s, zero, six) p = Mul (x, c) q = Div (c, six) y = Mul (p, q)",
    ],
)
def test_other_arithmetic_around_a_clip_is_none_of_its_business(body: str) -> None:
    assert_untouched(PASS, model(body, SIXTH_TOO), None)


def test_a_constant_that_a_caller_may_override_is_no_match() -> None:
    text = f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[n, 3] x, float six) => (float[n, 3] y) <{WEIGHTS}> {{
            {CLIP}
            p = Mul (x, c)
            y = Div (p, six)
        }}"""
    assert_untouched(PASS, text, None)


def test_leaves_float64_and_unknown_types_alone() -> None:
    body = f"h = HardSigmoid <{SIXTH}> (x) y = Mul (x, h)"
    assert_untouched(PASS, model(body, kind="double"), "float64")
    body = f"a = mine.Unknown (x) h = HardSigmoid <{SIXTH}> (a) b = Mul (a, h) y = mine.Unknown (b)"
    assert_untouched(PASS, model(body), "of unknown type")


@pytest.mark.parametrize(
    ("constant", "part"),
    [("three = {3}", "float[1, 1, 1] three = {3}"), ("six = {6}", "float[1, 1, 1] six = {6}")],
)
def test_leaves_constants_that_add_a_dimension_alone(constant: str, part: str) -> None:
    weights = WEIGHTS.replace(f"float {constant}", part)
    body = "s = Add (x, three) c = Clip (s, zero, q) p = Mul (x, c) t = Div (p, six) y = Squeeze (t, axis)"
    text = model(body, f"{weights}, float q = {{6}}, int64[1] axis = {{0}}")
    assert_untouched(PASS, text, "rank 3 may add dimensions")


@fuzz(FuseHardswish(), opsets=(9, 13, 14, 17, 21, 22))
def test_any_hardswish_in_parts_computes_the_same(build: Builder) -> list[str]:
    kind = build.dtype([np.float32, np.float32, np.float16])
    x = build.input(build.shape(), kind)
    if build.chance(3):
        x = build.node("Mul", [x, x])
    if build.chance(3):
        attributes = {"alpha": build.choice([1 / 6, 1 / 6, None, 0.2]), "beta": build.choice([0.5, None, 0.4])}
        parts = [x, build.node("HardSigmoid", [x], **attributes)]
        return [build.node("Mul", parts[:: build.choice([1, -1])])]

    def number(value: float) -> str:
        return build.constant(np.full([1] * build.choice([0, 0, 1, 2]), value, kind), overridable=True)

    def times(a: str, b: str) -> str:
        return build.node("Mul", [a, b][:: build.choice([1, -1])])

    def part(tensor: str) -> str:
        return build.node("Div", [tensor, number(6)]) if build.chance(2) else times(tensor, number(1 / 6))

    shifted = build.node("Add", [x, number(3)][:: build.choice([1, -1])])
    if build.opset < 11:
        clip = build.node("Clip", [shifted], min=0.0, max=6.0)
    else:
        clip = build.node("Clip", [shifted, *(build.constant(np.array(bound, kind)) for bound in (0, 6))])
    order = build.choice(["last", "x", "clip", "both"])
    if order == "last":
        return [part(times(x, clip))]
    return [times(part(x) if order in ("x", "both") else x, part(clip) if order in ("clip", "both") else clip)]
