from typing import Any

import numpy as np
import pytest

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.passes.lower_convtranspose import LowerConvtranspose
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
# two input channels, two filters of 2 x 2
W = "float[2, 2, 2, 2] w = {1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15, 16, 17, 18}, float[2] b = {-1, -2}"
ATTRIBUTES = "dilations = [1, 1], group = 1, kernel_shape = [1, 1], pads = [0, 0, 0, 0], strides = [1, 1]"
CRD = "float[8, 2, 1, 1] y_blocks = {1, 11, 2, 12, 3, 13, 4, 14, 5, 15, 6, 16, 7, 17, 8, 18}"
DCR = "float[8, 2, 1, 1] y_blocks = {1, 11, 5, 15, 2, 12, 6, 16, 3, 13, 7, 17, 4, 14, 8, 18}"


def text(weights: str, nodes: str, opset: int = 17, y: str = "float[N, 2, 6, 8]") -> str:
    head = f'<ir_version: 8, opset_import: ["": {opset}]>'
    return f"{head} g (float[N, 2, 3, 4] x) => ({y} y) <{weights}> {{ {nodes} }}"


BEFORE = "y = ConvTranspose <strides = [2, 2]> (x, w, b)"


@pytest.mark.parametrize("opset", [11, 13, 22])
def test_becomes_a_conv_and_depth_to_space(opset: int) -> None:
    after = (
        f'y_deep = Conv <{ATTRIBUTES}> (x, y_blocks, y_bias) y = DepthToSpace <blocksize = 2, mode = "CRD"> (y_deep)'
    )
    bias = "float[8] y_bias = {-1, -1, -1, -1, -2, -2, -2, -2}"
    assert_rewrites(LowerConvtranspose(), text(W, BEFORE, opset), text(f"{CRD}, {bias}", after, opset))


@pytest.mark.parametrize(("opset", "mode"), [(7, ""), (10, ""), (11, ', mode = "DCR"'), (17, ', mode = "DCR"')])
def test_the_other_order_of_channels_suits_every_operator_set(opset: int, mode: str) -> None:
    after = f"y_deep = Conv <{ATTRIBUTES}> (x, y_blocks, y_bias) y = DepthToSpace <blocksize = 2{mode}> (y_deep)"
    bias = "float[8] y_bias = {-1, -2, -1, -2, -1, -2, -1, -2}"
    assert_rewrites(LowerConvtranspose("DCR"), text(W, BEFORE, opset), text(f"{DCR}, {bias}", after, opset))


def test_without_a_bias_there_is_none_and_what_reads_the_output_goes_on_reading_it() -> None:
    after = f'y_deep = Conv <{ATTRIBUTES}> (x, y_blocks) y = DepthToSpace <blocksize = 2, mode = "CRD"> (y_deep)'
    readers = "u = Relu (y) z = Add (u, y)"

    def outputs(model: str) -> str:
        return model.replace(" y) <", " y, float[N, 2, 6, 8] z) <")

    before = text(W.partition(", float[2] b")[0], f"{BEFORE.replace(', b', '')} {readers}")
    assert_rewrites(LowerConvtranspose(), outputs(before), outputs(text(CRD, f"{after} {readers}")))


@pytest.mark.parametrize("mode", ["CRD", "DCR"])
@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("pads", ["", 'auto_pad = "SAME_UPPER", ', 'auto_pad = "VALID", ', "pads = [0, 0, 0, 0], "])
def test_every_square_kernel_as_wide_as_its_stride_gives_the_same_bits(size: int, mode: str, pads: str) -> None:
    generator = np.random.default_rng(size)
    weight = generator.integers(-9, 9, (2, 3, size, size))
    values = ", ".join(map(str, weight.ravel()))
    model = Model(
        parse(
            text(
                f"float[2, 3, {size}, {size}] w = {{{values}}}, float[3] b = {{1, 20, 300}}",
                f"y = ConvTranspose <{pads}strides = [{size}, {size}], kernel_shape = [{size}, {size}]> (x, w, b)",
                y="float[N, 3, P, Q]",
            )
        )
    )
    after = apply_pass(LowerConvtranspose(mode), model).model.proto
    assert [node.op_type for node in after.graph.node] == ["Conv", "DepthToSpace"]
    x = generator.integers(-9, 9, (2, 2, 3, 4)).astype(np.float32)
    expected, got = (session.run(each, {"x": x})["y"] for each in (model.proto, after))
    np.testing.assert_array_equal(got, expected)
    blocks = np.einsum("nchw,cmij->nmhiwj", x, weight).reshape(2, 3, 3 * size, 4 * size)
    np.testing.assert_array_equal(got, blocks + np.float32([1, 20, 300]).reshape(3, 1, 1))


def test_works_inside_an_if_body() -> None:
    def body(weights: str, nodes: str) -> str:
        return f"""
        {HEAD}
        g (bool t, float[1, 2, 3, 4] x) => (float[1, 2, 6, 8] r) {{
            r = If (t) <
                then_branch = a () => (float[1, 2, 6, 8] y) <{weights}> {{ {nodes} }},
                else_branch = e () => (float[1, 2, 6, 8] q) {{
                    d = Concat <axis = 1> (x, x, x, x)
                    q = DepthToSpace <blocksize = 2> (d)
                }}
            >
        }}"""

    after = (
        f'y_deep = Conv <{ATTRIBUTES}> (x, y_blocks, y_bias) y = DepthToSpace <blocksize = 2, mode = "CRD"> (y_deep)'
    )
    bias = "float[8] y_bias = {-1, -1, -1, -1, -2, -2, -2, -2}"
    assert_rewrites(LowerConvtranspose(), body(W, BEFORE), body(f"{CRD}, {bias}", after))


ONES = "1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1"


@pytest.mark.parametrize(
    ("weights", "attributes", "reason"),
    [
        (W, "", "the kernel is 2x2, the strides are 1x1"),
        (W, "strides = [3, 3]", "the strides are 3x3"),
        (f"float[2, 2, 1, 3] w = {{{ONES}}}", "strides = [1, 3]", "not a square"),
        ("float[2, 2, 1, 1] w = {1, 2, 3, 4}", "strides = [1, 1]", "the kernel is 1x1"),
        ("float[2, 2, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}", "strides = [2]", "it has 1 dimensions"),
        (W, "strides = [2, 2], pads = [1, 1, 1, 1]", "it pads or dilates"),
        (W, "strides = [2, 2], dilations = [2, 2]", "it pads or dilates"),
        (W, "strides = [2, 2], output_padding = [1, 1]", "it sets the size of its output"),
        (W, "strides = [2, 2], output_shape = [6, 8]", "it sets the size of its output"),
        (W, "strides = [2, 2], group = 2", "it has groups"),
    ],
)
def test_leaves_alone(weights: str, attributes: str, reason: str) -> None:
    before = text(weights, f"y = ConvTranspose <{attributes}> (x, w)".replace("<> ", ""), y="float[A, B, C, D]")
    assert_untouched(LowerConvtranspose(), before, reason)


@pytest.mark.parametrize("name", ["w", "b"])
def test_leaves_weights_that_may_be_overridden_alone(name: str) -> None:
    weights = {"w": W.partition(", float[2] b")[0], "b": "float[2] b = {-1, -2}"}
    before = text(weights["b" if name == "w" else "w"], BEFORE).replace(" x)", f" x, {weights[name]})")
    kind = "weights" if name == "w" else "bias"
    assert_untouched(LowerConvtranspose(), before, f"the {kind} of the ConvTranspose")


@pytest.mark.parametrize("opset", [7, 10])
def test_says_which_mode_an_old_operator_set_takes(opset: int) -> None:
    assert_untouched(LowerConvtranspose(), text(W, BEFORE, opset), "`mode: DCR` does without it")


def test_refuses_a_mode_that_depth_to_space_does_not_know() -> None:
    with pytest.raises(ValueError, match="mode must be one of CRD, DCR"):
        LowerConvtranspose("RCD")  # type: ignore[arg-type]


@fuzz(lambda build: LowerConvtranspose(build.choice(["CRD", "DCR"])))
def test_any_transposed_conv_computes_the_same(build: Builder) -> list[str]:
    dtype = build.dtype()
    spatial, size, group = 1 if build.chance(10) else 2, build.choice([2, 2, 3, 4, 1]), 2 if build.chance(10) else 1
    inputs, outputs = group * build.integer(1, 3), build.integer(1, 3)
    x = build.input([build.integer(0, 2), inputs, *(build.integer(1, 4) for _ in range(spatial))], dtype)
    kernel, strides = [size] * spatial, [size] * spatial
    if build.chance(10):
        kernel[0] += 1
    if build.chance(10):
        strides[-1] += 1
    weights = [build.weight([inputs, outputs, *kernel], dtype)]
    if build.chance(2):
        weights.append(build.weight([outputs * group], dtype))
    written: dict[str, Any] = {
        "strides": None if size == 1 else strides,
        "kernel_shape": build.choice([None, kernel]),
        "group": build.choice([None, group]) if group == 1 else group,
        "dilations": [2] * spatial if build.chance(10) else build.choice([None, [1] * spatial]),
        "output_padding": [1] * spatial if build.chance(10) else build.choice([None, [0] * spatial]),
    }
    if build.chance(2):
        written["auto_pad"] = build.choice(["VALID", "SAME_UPPER", "SAME_LOWER", "NOTSET"])
    else:
        written["pads"] = build.choice([None, [0] * 2 * spatial, [1] * 2 * spatial])
    return [build.node("ConvTranspose", [x, *weights], **written)]
