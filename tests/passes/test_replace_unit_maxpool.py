from typing import Literal

import numpy as np
import onnx
import pytest

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.passes.replace_unit_maxpool import ReplaceUnitMaxpool
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
UNIT = "kernel_shape = [1, 1], strides = [2, 2]"
CONV = "dilations = [1, 1], group = 2, kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]"
TAPS = "float[2, 1, 3, 3] y_centre_tap = {0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0}"


def pool(attributes: str, x: str = "float[1, 2, 7, 10] x", y: str = "float[1, 2, 4, 5] y") -> str:
    return f"""
        {HEAD}
        g ({x}) => ({y}) {{
            y = MaxPool <{attributes}> (x)
        }}"""


def test_becomes_a_depthwise_conv_with_one_tap() -> None:
    after = f"""
        {HEAD}
        g (float[1, 2, 7, 10] x) => (float[1, 2, 4, 5] y) <{TAPS}> {{
            y = Conv <{CONV}> (x, y_centre_tap)
        }}"""
    assert_rewrites(ReplaceUnitMaxpool(), pool(UNIT), after)


def test_becomes_a_depthwise_conv_with_a_window_of_one() -> None:
    after = f"""
        {HEAD}
        g (float[1, 2, 7, 10] x) => (float[1, 2, 4, 5] y) <float[2, 1, 1, 1] y_centre_tap = {{1, 1}}> {{
            y = Conv <dilations = [1, 1], group = 2, kernel_shape = [1, 1], pads = [0, 0, 0, 0], strides = [2, 2]>
                (x, y_centre_tap)
        }}"""
    assert_rewrites(ReplaceUnitMaxpool(kernel=1), pool(UNIT), after)


def test_becomes_an_average_of_one_element() -> None:
    after = f"""
        {HEAD}
        g (float[1, 2, 7, 10] x) => (float[1, 2, 4, 5] y) {{
            y = AveragePool <kernel_shape = [1, 1], pads = [0, 0, 0, 0], strides = [2, 2]> (x)
        }}"""
    assert_rewrites(ReplaceUnitMaxpool(by="averagepool"), pool(UNIT), after)


@pytest.mark.parametrize(
    "pass_", [ReplaceUnitMaxpool(), ReplaceUnitMaxpool("conv", 1), ReplaceUnitMaxpool("averagepool")]
)
@pytest.mark.parametrize("strides", ["", ", strides = [1, 1]", ", strides = [3, 2]"])
def test_every_element_is_equal_to_the_last_bit(pass_: ReplaceUnitMaxpool, strides: str) -> None:
    model = Model(parse(pool(f"kernel_shape = [1, 1]{strides}", y="float[1, 2, h, w] y")))
    x = np.random.default_rng(0).standard_normal((1, 2, 7, 10)).astype(np.float32) * 1e3
    got = apply_pass(pass_, model).model.proto
    assert "MaxPool" not in {node.op_type for node in got.graph.node}
    np.testing.assert_array_equal(session.run(got, {"x": x})["y"], session.run(model.proto, {"x": x})["y"])


@pytest.mark.parametrize("by", ["conv", "averagepool"])
def test_leaves_double_alone(by: Literal["conv", "averagepool"]) -> None:
    text = pool(UNIT, "double[1, 2, 7, 10] x", "double[1, 2, 4, 5] y")
    assert_untouched(ReplaceUnitMaxpool(by), text, "its elements are float64")


def test_the_weight_has_the_type_of_the_data() -> None:
    text = pool(UNIT, "float16[1, 2, 7, 10] x", "float16[1, 2, 4, 5] y")
    got = apply_pass(ReplaceUnitMaxpool(), Model(parse(text))).model.proto
    onnx.checker.check_model(got, full_check=True)
    (weight,) = [onnx.numpy_helper.to_array(tensor) for tensor in got.graph.initializer]
    assert weight.dtype == np.float16
    assert weight.sum() == 2
    np.testing.assert_array_equal(weight[:, :, 1, 1], 1)


@pytest.mark.parametrize(
    ("weight", "op"),
    [
        ("float[2, 3, 1, 1] w = {1, 2, 3, 4, 5, 6}", "Conv"),
        ("float[3, 2, 1, 1] w = {1, 2, 3, 4, 5, 6}", "ConvTranspose"),
    ],
)
def test_finds_type_and_channels_in_a_weight_where_no_shape_is_written_down(weight: str, op: str) -> None:
    def model(end: str, extra: str = "") -> str:
        return f"""
        {HEAD}
        g (float[1, 3, 7, 10] x) => (float[1, 2, 4, 5] y) <{weight}{extra}> {{
            c = {op} (x, w)
            r = Relu (c)
            y = {end}
        }}"""

    assert_rewrites(
        ReplaceUnitMaxpool(), model(f"MaxPool <{UNIT}> (r)"), model(f"Conv <{CONV}> (r, y_centre_tap)", f", {TAPS}")
    )


def test_works_inside_an_if_body() -> None:
    def body(pool_: str, taps: str = "") -> str:
        return f"""
        {HEAD}
        g (bool c, float[1, 2, 7, 10] x) => (float[1, 2, 4, 5] y) {{
            y = If (c) <
                then_branch = t () => (float[1, 2, 4, 5] a) {taps} {{ a = {pool_} }},
                else_branch = e () => (float[1, 2, 4, 5] b) {{
                    b = AveragePool <kernel_shape = [1, 1], strides = [2, 2]> (x)
                }}
            >
        }}"""

    taps = f"<{TAPS.replace('y_centre', 'a_centre')}>"
    assert_rewrites(ReplaceUnitMaxpool(), body(f"MaxPool <{UNIT}> (x)"), body(f"Conv <{CONV}> (x, a_centre_tap)", taps))


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ("kernel_shape = [2, 2], strides = [2, 2]", "the kernel is 2x2"),
        ("kernel_shape = [1, 3], strides = [2, 2]", "the kernel is 1x3"),
        ("kernel_shape = [1, 1], pads = [1, 1, 1, 1]", "it pads"),
        ("kernel_shape = [1, 1], dilations = [2, 2]", "dilates"),
        ("kernel_shape = [1, 1], strides = [2, 2], ceil_mode = 1", "rounds up"),
        ('kernel_shape = [1, 1], auto_pad = "SAME_UPPER"', "it pads"),
    ],
)
@pytest.mark.parametrize("by", ["conv", "averagepool"])
def test_leaves_other_windows_alone(attributes: str, reason: str, by: str) -> None:
    assert_untouched(ReplaceUnitMaxpool(by), pool(attributes, y="float[1, 2, h, w] y"), reason)  # type: ignore[arg-type]


def test_leaves_a_one_dimensional_window_alone() -> None:
    text = pool("kernel_shape = [1], strides = [2]", "float[1, 2, 8] x", "float[1, 2, 4] y")
    assert_untouched(ReplaceUnitMaxpool(), text, "1 dimensions")


def test_leaves_a_pool_whose_indices_are_read_alone() -> None:
    text = f"""
        {HEAD}
        g (float[1, 2, 8, 10] x) => (float[1, 2, 4, 5] y, int64[1, 2, 4, 5] z) {{
            y, z = MaxPool <{UNIT}> (x)
        }}"""
    assert_untouched(ReplaceUnitMaxpool(), text, "indices")


def test_leaves_integers_alone() -> None:
    text = pool(UNIT, "uint8[1, 2, 7, 10] x", "uint8[1, 2, 4, 5] y")
    assert_untouched(ReplaceUnitMaxpool(), text, "its elements are uint8")


def test_leaves_elements_of_unknown_type_alone() -> None:
    text = f"""
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[1, 2, 7, 10] x) => (float[1, 2, 4, 5] y) {{
            a = mine.Unknown (x)
            b = MaxPool <{UNIT}> (a)
            y = mine.Unknown (b)
        }}"""
    assert_untouched(ReplaceUnitMaxpool(), text, "of unknown type")


def test_an_unknown_number_of_channels_stops_the_conv_only() -> None:
    text = pool(UNIT, "float[1, c, 7, 10] x", "float[1, c, 4, 5] y")
    assert_untouched(ReplaceUnitMaxpool(), text, "number of channels")
    got = apply_pass(ReplaceUnitMaxpool(by="averagepool"), Model(parse(text))).model.proto
    assert [node.op_type for node in got.graph.node] == ["AveragePool"]


def test_leaves_a_custom_operator_of_that_name_alone() -> None:
    text = f"""
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[1, 2, 7, 10] x) => (float[1, 2, 4, 5] y) {{
            y = mine.MaxPool <{UNIT}> (x)
        }}"""
    assert_untouched(ReplaceUnitMaxpool(), text, None)


@pytest.mark.parametrize(("options", "word"), [({"kernel": 5}, "kernel"), ({"by": "gemm"}, "by must be")])
def test_refuses_options_that_it_does_not_know(options: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        ReplaceUnitMaxpool(**options)  # type: ignore[arg-type]


@fuzz(lambda build: ReplaceUnitMaxpool(by=build.choice(["conv", "averagepool"]), kernel=build.choice([1, 3])))
def test_any_unit_pool_picks_the_same_elements(build: Builder) -> list[str]:
    rank = build.choice([2, 2, 2, 1, 3])
    x = build.input([build.integer(1, 2), *(build.integer(1, 6) for _ in range(rank + 1))], build.dtype())
    if build.chance(2):
        x = build.node(build.choice(["Relu", "Neg", "Sigmoid"]), [x])
    attributes = {
        "kernel_shape": [2 if build.chance(9) else 1 for _ in range(rank)],
        "strides": build.choice([None, [2] * rank, [1] * rank, [3] * rank]),
        "pads": build.choice([None, None, [0] * 2 * rank, [0] * rank + [1] * rank]),
        "auto_pad": build.choice([None, None, None, "VALID", "SAME_UPPER"]),
        "ceil_mode": build.choice([None, None, 0, 1]) if build.opset >= 10 else None,
        "dilations": build.choice([None, None, [1] * rank, [2] * rank]) if build.opset >= 10 else None,
    }
    if attributes["pads"] and attributes["auto_pad"]:
        build.reject()
    return [build.node("MaxPool", [x], **attributes)]
