"""The facts that limits are about: of each kind of node, of shapes that are open, and of nodes without such a thing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from graphsurgery.targets.asked import ABSENT
from graphsurgery.targets.facts import FACTS, attributes_of, fact_of, inputs_of
from targets.nodes import asked

CONV = "g (float[2, 6, 9, 12] x, float[8, 6, 3, 5] w) => (float[2, 8, h, v] y) {{ y = Conv{} (x, w) }}"
DEPTHWISE = "g (float[1, 6, 9, 12] x, float[{}, 1, 3, 3] w) => (float[n, c, h, v] y) {{ y = Conv <group = {}> (x, w) }}"
OPEN = "g (float[n, c, h, 12] x, float[8, 6, 3, 5] w) => (float[n, 8, a, b] y) { y = Conv (x, w) }"
POOL = "g (float[1, 2, 9, 9] x) => (float[1, 2, a, b] y) {{ y = MaxPool <{}> (x) }}"
RELU = "g (float[2, 3] x) => (float[2, 3] y) { y = Relu (x) }"
SLICE = """g (float[4, 6, 8] x) => (float[a, b, c] y) <int64[2] s = {{0, 1}}, int64[2] e = {{9, 9}},
    int64[2] a = {{{}}}, int64[2] t = {{1, 2}}> {{ y = Slice (x, s, e, a, t) }}"""
RESIZE = """g (float[1, 2, 4, 6] x) => (float[1, 2, a, b] y) <float[4] s = {{{}}}> {{
    y = Resize <mode = "nearest"> (x, , s) }}"""


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (CONV.format(""), {"kernel": (3, 5), "kernel_shape_text": "3x5", "kernel_area": 15, "square_kernel": False}),
        (
            CONV.format(" <strides = [2, 1], dilations = [2, 1], pads = [1, 2, 1, 0]>"),
            {"stride": (2, 1), "equal_strides": False, "dilation": (2, 1), "pad": (1, 2, 1, 0)}
            | {"symmetric_pads": False, "kernel_span": (5, 5), "kernel_span_area": 25, "span_height": 5},
        ),
        (CONV.format(' <auto_pad = "SAME_UPPER">'), {"pad": (1, 2, 1, 2), "symmetric_pads": True, "same_pads": True}),
        (CONV.format(" <strides = [2, 2], pads = [1, 1, 1, 2]>"), {"same_pads": True}),  # 9x12: the end of 12 needs one
        (CONV.format(" <strides = [2, 2], pads = [1, 2, 1, 2]>"), {"same_pads": False}),
        (CONV.format(""), {"batch": 2, "channels": 6, "height": 9, "width": 12, "area": 108, "out_channels": 8}),
        (CONV.format(""), {"rank": 4, "second_rank": 4, "third_rank": ABSENT, "ranks": (4, 4, 4), "inputs": 2}),
        (CONV.format(""), {"groups": 1, "depthwise": False, "is_layer": True, "static": True, "type": "float32"}),
        (CONV.format(""), {"types": ("float32",) * 3, "outputs": 1}),
        (DEPTHWISE.format(6, 6), {"groups": 6, "depthwise": True}),
        (DEPTHWISE.format(12, 6), {"depthwise": True, "out_channels": 12}),
        (DEPTHWISE.format(6, 1).replace("6, 1, 3", "6, 6, 3"), {"depthwise": False}),
        (POOL.format("kernel_shape = [1, 1]"), {"kernel": (1, 1), "stride": (1, 1), "pad": (0,) * 4, "groups": 1}),
        (RELU, {"kernel": ABSENT, "groups": ABSENT, "depthwise": ABSENT, "step": ABSENT, "scale": ABSENT}),
        (RELU, {"padded_axes": ABSENT, "permutation": ABSENT, "is_layer": False, "batch": ABSENT, "broadcast": ABSENT}),
        (RELU, {"height": 2, "width": 3, "channels": 3, "at_an_end": True}),
        (OPEN, {"static": False, "batch": None, "channels": None, "height": None, "area": None, "sizes": None}),
        (OPEN, {"width": 12, "kernel": (3, 5), "depthwise": False, "rank": 4, "ranks": (4, 4, 4)}),
        (OPEN.replace("Conv (", 'Conv <auto_pad = "SAME_LOWER"> ('), {"pad": None, "kernel": None}),
        (OPEN.replace("Conv (", "Conv <group = 6> ("), {"depthwise": None}),
        (SLICE.format("1, 2"), {"along": (1, 2), "along_from_end": (-2, -1), "step": (1, 2), "axis_count": 2}),
        (SLICE.format("-1, 0"), {"along": (2, 0), "along_from_end": (-1, -3)}),
        (SLICE.format("-1, 7"), {"along": None, "axis_count": None}),
        (RESIZE.format("1, 1, 2, 4"), {"scale": (2.0, 4.0), "whole_scale": True, "power_of_two_scale": True}),
        (RESIZE.format("1, 1, 2, 4"), {"equal_scale": False, "resized_axes": (2, 3)}),
        (RESIZE.format("1, 1, 3, 3"), {"power_of_two_scale": False, "equal_scale": True}),
        (
            RESIZE.format("1, 1, 1.5, 1"),
            {"scale": (1.5,), "whole_scale": False, "resized_axes": (2,), "resized_axis_count": 1},
        ),
        (RESIZE.format("1, 1, 1, 1"), {"scale": (1.0,), "whole_scale": True, "equal_scale": True, "resized_axes": ()}),
    ],
)
def test_a_fact_of_a_node(body: str, wanted: dict[str, object]) -> None:
    node = asked(body)
    assert {name: fact_of(node, name) for name in wanted} == wanted


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        ("1, 3, 4, 4", "1, 3, 4, 4", "none"),
        ("1, 3, 4, 4", "1", "scalar"),
        ("1", "1, 3, 4, 4", "scalar"),
        ("1, 3, 4, 4", "1, 3, 1, 1", "channels"),
        ("1, 3, 4, 4", "3, 1, 1", "channels"),
        ("1, 3, 4, 4", "1, 1, 4, 4", "other"),
        ("1, 3, 4, n", "1, 3, 4, 4", None),
    ],
)
def test_how_two_inputs_are_laid_over_each_other(one: str, other: str, wanted: str | None) -> None:
    body = f"g (float[{one}] a, float[{other}] b) => (float[o, p, q, r] y) {{ y = Add (a, b) }}"
    assert fact_of(asked(body), "broadcast") == wanted


@pytest.mark.parametrize(
    ("opset", "node", "along"),
    [
        (17, "Softmax", (2,)),
        (17, "Softmax <axis = 1>", (1,)),
        (11, "Softmax", (1,)),
        (17, "ReduceMean <axes = [-1, 1]>", (2, 1)),
        (17, "ReduceMean", (0, 1, 2)),
        (17, "Flatten", (1,)),
    ],
)
def test_the_axes_that_an_operator_works_along(opset: int, node: str, along: tuple[int, ...]) -> None:
    body = f"g (float[2, 3, 4] x) => (float[a, b, c] y) {{ y = {node} (x) }}"
    assert fact_of(asked(body, opset), "along") == along
    assert fact_of(asked(body, opset), "axis_count") == len(along)


def test_axes_that_are_computed_are_not_known() -> None:
    body = "g (float[2, 3, 4] x, int64[1] a) => (float[b, c, d] y) { y = ReduceMean (x, a) }"
    assert fact_of(asked(body, 18), "along") is None
    body = "g (float[2, 3] x, int64[1] s, int64[1] e) => (float[b, c] y) { y = Slice (x, s, e) }"
    assert [fact_of(asked(body), name) for name in ("step", "along", "starts")] == [None] * 3


@pytest.mark.parametrize(("perm", "wanted"), [("", "2,1,0"), (" <perm = [0, 2, 1]>", "0,2,1")])
def test_the_permutation_of_a_transpose(perm: str, wanted: str) -> None:
    body = f"g (float[2, 3, 4] x) => (float[a, b, c] y) {{ y = Transpose{perm} (x) }}"
    assert fact_of(asked(body), "permutation") == wanted


def test_the_axes_that_a_pad_pads() -> None:
    body = """g (float[1, 2, 3] x) => (float[a, b, c] y) <int64[6] p = {0, 0, 1, 0, 2, 0}> { y = Pad (x, p) }"""
    assert fact_of(asked(body), "padded_axes") == (1, 2)
    assert fact_of(asked(body), "padded_axes_from_end") == (-2, -1)
    body = """g (float[1, 2, 3] x) => (float[a, b, c] y) <int64[2] p = {0, 1}, int64[1] a = {-1}> {
        y = Pad (x, p, , a) }"""
    assert fact_of(asked(body, 18), "padded_axes") == (2,)
    assert fact_of(asked("g (float[1, 2] x, int64[4] p) => (float[a, b] y) { y = Pad (x, p) }"), "padded_axes") is None


def test_what_stands_between_two_nodes_is_at_no_end() -> None:
    body = "g (float[2] x) => (float[2] y) { a = Relu (x)\n b = Cast <to = 1> (a)\n y = Relu (b) }"
    assert fact_of(asked(body), "at_an_end") is True
    body = body.replace("y = Relu (b)", "c = Neg (b)\n y = Relu (b)")
    node = asked(body)
    cast = next(found for found in node.node.inputs[0].inputs)
    assert fact_of(type(node)(cast, 17), "at_an_end") is False


def test_a_product_of_facts() -> None:
    node = asked(CONV.format(""))
    assert fact_of(node, "width * channels") == 72
    assert fact_of(node, "kernel * batch") == 30
    assert fact_of(node, "width * step") is ABSENT
    assert fact_of(node, "width * auto_pad") is ABSENT
    assert fact_of(asked(OPEN), "width * channels") is None


def test_an_attribute_has_its_default_and_an_input_its_value() -> None:
    node = asked(RESIZE.format("1, 1, 2, 2"))
    assert fact_of(node, "coordinate_transformation_mode") == "half_pixel"
    assert fact_of(node, "mode") == "nearest"
    assert fact_of(node, "scales") == (1, 1, 2, 2)
    assert fact_of(node, "roi") is ABSENT
    assert fact_of(node, "axes") is ABSENT  # not in this operator set
    clip = "g (float[2] x, float m) => (float[2] y) <float l = {-1}> { y = Clip (x, l, m) }"
    assert [fact_of(asked(clip), name) for name in ("min", "max")] == [(-1.0,), None]
    old = "g (float[2] x) => (float[2] y) { y = Clip <max = 6.0> (x) }"
    assert fact_of(asked(old, 6), "max") == 6.0


def test_the_names_of_attributes_and_inputs_are_those_of_all_versions() -> None:
    assert {"axes", "starts"} <= attributes_of("Slice")  # of operator set 1
    assert ("data", "starts", "ends", "axes", "steps") in inputs_of("Slice")
    assert not attributes_of("NoSuchThing")
    assert not inputs_of("NoSuchThing")


def test_the_table_in_the_documentation_is_what_the_facts_say() -> None:
    page = (Path(__file__).parents[2] / "docs" / "targets.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", page[page.index("<!-- facts -->") :], re.MULTILINE)
    assert rows == [(name, said) for name, (said, _) in FACTS.items()]
