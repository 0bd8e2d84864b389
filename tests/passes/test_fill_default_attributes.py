import numpy as np
import onnx
import pytest

from graphsurgery.graph.model import Model
from graphsurgery.passes.fill_default_attributes import FillDefaultAttributes
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

FULL = "dilations = [1, 1], group = 1, kernel_shape = [3, 2], pads = [0, 0, 0, 0], strides = [1, 1]"
W = "<float[2, 1, 3, 2] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}>"


def conv(attributes: str = "", weights: str = W, x: str = "float[1, 1, 7, 8] x", opset: int = 17) -> str:
    written = f"<{attributes}>" if attributes else ""
    return f"""
        <ir_version: 8, opset_import: ["": {opset}, "my": 1]>
        g ({x}) => (float[A, B, C, D] y) {weights} {{ y = Conv {written} (x, w) }}"""


def pool(op: str, attributes: str, opset: int, x: str = "float[1, 1, 7, 8] x") -> str:
    return f"""
        <ir_version: 4, opset_import: ["": {opset}]>
        g ({x}) => (float[A, B, C, D] y) {{ y = {op} <{attributes}> (x) }}"""


def test_writes_out_all_of_a_conv() -> None:
    assert_rewrites(FillDefaultAttributes(), conv(), conv(FULL))


def test_writes_only_what_is_left_out() -> None:
    given = "strides = [2, 1], pads = [1, 0, 0, 1]"
    after = FULL.replace("strides = [1, 1]", "strides = [2, 1]").replace("[0, 0, 0, 0]", "[1, 0, 0, 1]")
    assert_rewrites(FillDefaultAttributes(), conv(given), conv(after))


def test_finds_the_kernel_behind_a_dequantizelinear() -> None:
    def model(attributes: str) -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[1, 1, 7, 8] x) => (float[A, B, C, D] y)
          <int8[2, 1, 3, 2] q = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}}, float s = {{0.5}}, int8 z = {{0}}> {{
            w = DequantizeLinear <axis = 0> (q, s, z)
            y = Conv <{attributes}> (x, w)
        }}"""

    assert_rewrites(FillDefaultAttributes(), model("group = 1"), model(FULL))


def test_finds_the_kernel_of_a_weight_that_a_caller_may_override() -> None:
    before, after = (conv(a, x="float[1, 1, 7, 8] x, float[2, 1, 3, 2] w") for a in ("", FULL))
    assert_rewrites(FillDefaultAttributes(), before, after)


def test_finds_the_kernel_of_a_qlinearconv_in_its_fourth_input() -> None:
    def model(attributes: str) -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (uint8[1, 1, 7, 8] x) => (uint8[A, B, C, D] y)
          <uint8[1, 1, 3, 2] w = {{1, 2, 3, 4, 5, 6}}, float s = {{1.0}}, uint8 z = {{0}}> {{
            y = QLinearConv {attributes} (x, s, z, w, s, z, s, z)
        }}"""

    assert_rewrites(FillDefaultAttributes(), model(""), model(f"<{FULL}>"))


@pytest.mark.parametrize(
    ("auto_pad", "pads"),
    [("SAME_UPPER", "[1, 0, 1, 0]"), ("SAME_LOWER", "[1, 0, 1, 0]"), ("VALID", "[0, 0, 0, 0]")],
)
def test_auto_pad_becomes_pads(auto_pad: str, pads: str) -> None:
    after = FULL.replace("[0, 0, 0, 0]", pads).replace("strides = [1, 1]", "strides = [2, 2]")
    assert_rewrites(FillDefaultAttributes(), conv(f'auto_pad = "{auto_pad}", strides = [2, 2]'), conv(after))


def test_an_odd_pad_goes_to_the_side_that_auto_pad_names() -> None:
    for auto_pad, pads in (("SAME_UPPER", "[1, 0, 1, 1]"), ("SAME_LOWER", "[1, 1, 1, 0]")):
        after = FULL.replace("[0, 0, 0, 0]", pads)
        assert_rewrites(FillDefaultAttributes(), conv(f'auto_pad = "{auto_pad}"'), conv(after))


def test_an_auto_pad_that_is_said_to_be_none_stays() -> None:
    after = f'auto_pad = "NOTSET", {FULL}'
    assert_rewrites(FillDefaultAttributes(), conv('auto_pad = "NOTSET"'), conv(after))


def test_a_convtranspose_has_an_output_padding_and_its_own_auto_pad() -> None:
    def model(attributes: str) -> str:
        return conv(attributes).replace("Conv", "ConvTranspose").replace("[2, 1, 3, 2]", "[1, 2, 3, 2]")

    full = "dilations = [1, 1], group = 1, kernel_shape = [3, 2], output_padding = [0, 0], "
    assert_rewrites(FillDefaultAttributes(), model(""), model(f"{full}pads = [0, 0, 0, 0], strides = [1, 1]"))
    same = 'auto_pad = "SAME_UPPER", strides = [1, 2]'
    assert_rewrites(FillDefaultAttributes(), model(same), model(f"{full}pads = [1, 0, 1, 0], strides = [1, 2]"))


@pytest.mark.parametrize(
    ("op", "opset", "more"),
    [
        ("MaxPool", 7, ""),
        ("MaxPool", 9, "storage_order = 0, "),
        ("MaxPool", 12, "ceil_mode = 0, dilations = [1, 1], storage_order = 0, "),
        ("AveragePool", 9, "count_include_pad = 0, "),
        ("AveragePool", 17, "ceil_mode = 0, count_include_pad = 0, "),
        ("AveragePool", 19, "ceil_mode = 0, count_include_pad = 0, dilations = [1, 1], "),
        ("LpPool", 17, "p = 2, "),
        ("LpPool", 18, "ceil_mode = 0, dilations = [1, 1], p = 2, "),
    ],
)
def test_writes_only_what_the_operator_set_has(op: str, opset: int, more: str) -> None:
    after = f"{more}kernel_shape = [3, 2], pads = [0, 0, 0, 0], strides = [1, 1]"
    before = pool(op, "kernel_shape = [3, 2]", opset)
    assert_rewrites(FillDefaultAttributes(), before, pool(op, after, opset))


def test_fills_other_operators_when_told_to() -> None:
    def model(attributes: str) -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[2, 3] x) => (float[2, 3] y) {{
            a = LeakyRelu <alpha = 0.01> (x)
            y = Softmax {attributes} (a)
        }}"""

    assert_rewrites(FillDefaultAttributes(("Soft*",)), model(""), model("<axis = -1>"))
    assert_untouched(FillDefaultAttributes(), model(""), None)


def test_a_default_in_single_precision_is_written_once() -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = LeakyRelu (x) }'
    after = apply_pass(FillDefaultAttributes(("*",)), Model(parse(text))).model
    (attribute,) = after.proto.graph.node[0].attribute
    assert attribute.type == onnx.AttributeProto.FLOAT
    assert attribute.f == np.float32(0.01)
    assert apply_pass(FillDefaultAttributes(("*",)), after).model.fingerprint == after.fingerprint


def test_works_inside_an_if_body() -> None:
    def model(attributes: str) -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[1, 1, 7, 8] x) => (float[A, B, C, D] y) {W} {{
            y = If (c) <
                then_branch = t () => (float[A, B, C, D] a) {{ a = Conv <{attributes}> (x, w) }},
                else_branch = e () => (float[A, B, C, D] b) {{ b = Identity (x) }}
            >
        }}"""

    assert_rewrites(FillDefaultAttributes(), model("group = 1"), model(FULL))


def test_what_can_not_be_told_does_not_keep_the_rest_from_being_written() -> None:
    before = conv('auto_pad = "SAME_UPPER", strides = [2, 2]', x="float[1, 1, H, 8] x")
    after = FULL.replace("pads = [0, 0, 0, 0]", 'auto_pad = "SAME_UPPER"').replace("strides = [1", "strides = [2")
    after = after.replace("strides = [2, 1]", "strides = [2, 2]")
    applied = assert_rewrites(FillDefaultAttributes(), before, conv(after, x="float[1, 1, H, 8] x"))
    (skip,) = applied.skips
    assert skip.reason.startswith("its auto_pad SAME_UPPER depends on a size that is not known")


BARE = FULL.replace("kernel_shape = [3, 2], ", "").replace("pads = [0, 0, 0, 0], ", "")
SIZED = FULL.replace("pads = [0, 0, 0, 0], ", "")
STRIDED = FULL.replace("pads = [0, 0, 0, 0], strides = [1, 1]", "strides = [2, 2]")
POOL = "ceil_mode = 1, dilations = [1, 1], kernel_shape = [3, 2], storage_order = 0, strides = [1, 1]"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (conv("group = 1", weights="", x="float[1, 1, 7, 8] x, float[M, N, H, W] w"), "shape of its weight"),
        (conv(f'auto_pad = "SAME_UPPER", {STRIDED}', x="float[1, 1, H, 8] x"), "a size that is not known"),
        (conv(f'auto_pad = "VALID", {FULL}'), "both pads and auto_pad"),
        (pool("MaxPool", f'auto_pad = "SAME_UPPER", {POOL}', 17), "both auto_pad and ceil_mode"),
        (
            pool("MaxPool", f'auto_pad = "SAME_UPPER", {POOL}'.replace("= 1", "= 0").replace("[1, 1]", "[2, 2]"), 17),
            "read in different ways",
        ),
        (
            conv(f'auto_pad = "SAME_LOWER", {STRIDED.replace("[2, 2]", "[5, 4]")}', x="float[1, 1, 9, 8] x"),
            "read in different ways",
        ),
        (
            conv(f"output_padding = [0, 0], output_shape = [9, 9], {SIZED}").replace("Conv", "ConvTranspose"),
            "follow from output_shape",
        ),
        (
            conv(f'auto_pad = "SAME_UPPER", output_padding = [1, 0], {SIZED}').replace("Conv", "ConvTranspose"),
            "both auto_pad and output_padding",
        ),
        (
            conv(f'auto_pad = "SAME_UPPER", output_padding = [0, 0], {SIZED}').replace("Conv", "ConvTranspose"),
            "does not split evenly",
        ),
    ],
)
def test_says_what_it_can_not_tell(text: str, reason: str) -> None:
    assert_untouched(FillDefaultAttributes(), text, reason)


def test_leaves_what_is_complete_and_what_is_not_onnx_alone() -> None:
    assert_untouched(FillDefaultAttributes(), conv(FULL), None)
    assert_untouched(FillDefaultAttributes(), conv().replace("Conv", "my.Conv"), None)


def test_leaves_attributes_that_the_reference_evaluator_does_not_take_alone() -> None:
    pow_ = '<ir_version: 4, opset_import: ["": 6]> g (float[2] x) => (float[2] y) { y = Pow (x, x) }'
    cast = '<ir_version: 9, opset_import: ["": 19]> g (float[2] x) => (float[2] y) { y = CastLike (x, x) }'
    for text in (pow_, cast):
        assert_untouched(FillDefaultAttributes(("*",)), text, None)


def test_leaves_attributes_without_a_default_and_those_of_an_rnn_alone() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[2, 3] x) => (float[3, 2] y) { y = Transpose (x) }"""
    assert_untouched(FillDefaultAttributes(("*",)), text, None)
    text = """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[5, 1, 2] x, float[1, 3, 2] w, float[1, 3, 3] r) => (float[A, B, C, D] y) { y = RNN (x, w, r) }"""
    (node,) = apply_pass(FillDefaultAttributes(("RNN",)), Model(parse(text))).model.proto.graph.node
    assert {attribute.name for attribute in node.attribute} == {"direction", "layout"}


def test_refuses_an_operator_that_onnx_does_not_have() -> None:
    with pytest.raises(ValueError, match=r"no operator 'Convv'\. Did you mean 'Conv'\?"):
        FillDefaultAttributes(("Convv",))


@fuzz(FillDefaultAttributes(), opsets=(7, 9, 11, 13, 17, 18, 19, 21, 22))
def test_any_window_computes_the_same(build: Builder) -> list[str]:
    rank = build.choice([2, 1, 2, 3])
    kernel = [build.integer(1, 3) for _ in range(rank)]
    dilations = build.choice([None, None, [1] * rank, [2] * rank])
    # what comes out of an input smaller than the window is not agreed upon
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilations or [1] * rank, strict=True)]
    spatial = [build.integer(max(3, size), 7) for size in reach]
    op = build.choice(["Conv", "MaxPool", "AveragePool", "ConvTranspose", "LpPool"])
    group, channels = build.choice([1, 1, 2]), 2
    auto_pad = build.choice([None, None, "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])
    # onnxruntime has few of these operators for float64, and the reference evaluator reads auto_pad otherwise
    x = build.input([build.integer(1, 2), channels, *spatial], np.float32 if auto_pad else build.dtype())
    attributes: dict[str, object] = {
        "auto_pad": auto_pad,
        "strides": build.choice([None, [1] * rank, [2] * rank, [build.integer(1, 3) for _ in range(rank)]]),
        "dilations": dilations,
        "pads": build.choice([None, [build.integer(0, 1) for _ in range(2 * rank)]]),
        "kernel_shape": kernel,
    }
    if op in ("Conv", "ConvTranspose"):
        inner = [2, channels // group] if op == "Conv" else [channels, 2]
        weight = build.weight([*inner, *kernel])
        if build.opset >= 13 and build.chance(3):
            scale = build.constant(np.array(0.5, np.float32))
            weight = build.node("DequantizeLinear", [build.weight([*inner, *kernel], np.int8), scale])
        attributes["group"] = build.choice([group, None]) if group == 1 else group
        if build.chance(2):
            del attributes["kernel_shape"]
        if op == "ConvTranspose" and build.chance(4):
            attributes["output_padding"] = [build.integer(0, 1) for _ in range(rank)]
        return [build.node(op, [x, weight], **attributes)]
    if op == "AveragePool":
        attributes["count_include_pad"] = build.choice([None, 0, 1])
    if build.opset >= 19:
        attributes["ceil_mode"] = build.choice([None, None, 0, 1])
    elif not (op == "MaxPool" and build.opset >= 10):
        attributes["dilations"] = None
    return [build.node(op, [x], **attributes)]
