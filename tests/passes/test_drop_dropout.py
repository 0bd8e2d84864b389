import numpy as np
import onnx
import pytest

from graphsurgery.graph.model import Model
from graphsurgery.passes.drop_dropout import DropDropout
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

WEIGHTS = "float half = {0.5}, float zero = {0.0}, bool yes = {1}, bool no = {0}"


def model(dropout: str, opset: int = 17, inputs: str = "", mask: str = "", outputs: str = "") -> str:
    """Return a Dropout of a, which is read by Relu, with every weight that it may ask for."""
    return f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g (float[2, 3] x{inputs}) => (float[2, 3] y{outputs}) <{WEIGHTS}> {{
            a = Neg (x)
            b{mask} = {dropout}
            y = Relu (b)
        }}"""


@pytest.mark.parametrize(
    ("opset", "dropout"),
    [
        (6, "Dropout <is_test = 1, ratio = 0.5> (a)"),
        (7, "Dropout (a)"),
        (10, "Dropout <ratio = 0.3> (a)"),
        (12, "Dropout (a)"),
        (13, "Dropout <seed = 3> (a, half)"),
        (17, "Dropout (a, half, no)"),
        (17, "Dropout (a, , no)"),
        (22, "Dropout (a, zero, yes)"),
    ],
)
def test_goes_where_it_does_not_train(opset: int, dropout: str) -> None:
    got = apply_pass(DropDropout(), Model(parse(model(dropout, opset)))).model.proto
    onnx.checker.check_model(got, full_check=True)
    assert [(node.op_type, list(node.input)) for node in got.graph.node] == [("Neg", ["x"]), ("Relu", ["a"])]


def test_what_it_wrote_is_what_it_read() -> None:
    before = """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[2, 3] x) => (float[2, 3] y, float[2, 3] z) {
            a = Neg (x)
            y, mask = Dropout (a)
            z = Abs (a)
        }"""
    after = """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[2, 3] x) => (float[2, 3] y, float[2, 3] z) { y = Neg (x) z = Abs (y) }"""
    assert_rewrites(DropDropout(), before, after)


def test_goes_inside_a_body() -> None:
    def body(then: str) -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[2] x) => (float[2] y) {{
            y = If (c) <
                then_branch = t () => (float[2] p) {{ {then} }},
                else_branch = e () => (float[2] q) {{ q = Abs (x) }}
            >
        }}"""

    assert_rewrites(DropDropout(), body("a = Dropout (x) p = Neg (a)"), body("p = Neg (x)"))
    assert_rewrites(DropDropout(), body("p = Dropout (x)"), body("p = Identity (x)"))


@pytest.mark.parametrize(
    ("opset", "dropout"),
    [
        (6, "Dropout <ratio = 0.5> (a)"),
        (6, "Dropout <is_test = 0> (a)"),
        (12, "Dropout (a, half, yes)"),
        (17, "Dropout (a, , yes)"),
    ],
)
def test_stays_where_it_trains(opset: int, dropout: str) -> None:
    assert_untouched(DropDropout(), model(dropout, opset), "it trains")


def test_stays_where_the_mode_is_an_input() -> None:
    assert_untouched(DropDropout(), model("Dropout (a, half, mode)", inputs=", bool mode"), "is not constant")


def test_stays_where_a_caller_may_override_the_mode() -> None:
    assert_untouched(DropDropout(), model("Dropout (a, half, no)", inputs=", bool no"), "is not constant")


def test_a_ratio_that_a_caller_may_override_counts_for_nothing() -> None:
    text = model("Dropout (a, zero, yes)", inputs=", float zero")
    assert_untouched(DropDropout(), text, "it trains")


def test_stays_where_its_mask_is_read() -> None:
    text = model("Dropout (a)", mask=", mask", outputs=", bool[2, 3] mask")
    assert_untouched(DropDropout(), text, "its mask is read")
    read = model("Dropout (a)", mask=", mask", outputs=", bool[2, 3] z").replace("y = Relu", "z = Not (mask) y = Relu")
    assert_untouched(DropDropout(), read, "its mask is read")


def test_becomes_an_identity_between_an_input_and_an_output() -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Dropout (x) }'
    assert_rewrites(DropDropout(), text, text.replace("Dropout", "Identity"))


def test_leaves_a_custom_operator_of_that_name_alone() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[2] x) => (float[2] y) { a = mine.Dropout (x) y = Relu (a) }"""
    assert_untouched(DropDropout(), text, None)


@fuzz(DropDropout())
def test_any_dropout_in_inference_passes_its_input_on(build: Builder) -> list[str]:
    x = build.input(build.shape(rank=(1, 4)), build.dtype())
    for _ in range(build.integer(0, 2)):
        x = build.node(build.choice(["Neg", "Abs"]), [x])
    inputs, ratio = [x], None
    if build.opset >= 12:
        if build.chance(2):
            inputs.append(build.constant(np.float32(build.choice([0.5, 0.0, 0.9])), overridable=True))
        if build.chance(2):
            inputs = [*inputs, *[""] * (2 - len(inputs)), build.constant(np.array(False), overridable=True)]
    else:
        ratio = build.choice([None, 0.5, 0.0])
    written = build.node("Dropout", inputs, outputs=build.choice([1, 1, 2]), ratio=ratio)
    y, *mask = written if isinstance(written, list) else [written]
    return [build.node("Neg", [y]) if build.chance(2) else y, *(mask if build.chance(4) else [])]
