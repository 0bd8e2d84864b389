import numpy as np
import pytest
from onnx.numpy_helper import to_array

from graphsurgery.graph.model import Model
from graphsurgery.passes.lower_pad import LowerPad
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz


def model(body: str, weights: str = "", x: str = "float[1, 4] x", y: str = "float[1, 7] y", opset: int = 19) -> str:
    return f'<ir_version: 9, opset_import: ["": {opset}, "my": 1]> g ({x}) => ({y}) <{weights}> {{ {body} }}'


def test_a_reflection_is_a_slice_for_each_row() -> None:
    before = model('y = Pad <mode = "reflect"> (x, p)', "int64[4] p = {0, 2, 0, 1}")
    graph = apply_pass(LowerPad(), Model(parse(before))).model.proto.graph
    assert [node.op_type for node in graph.node] == ["Slice", "Slice", "Slice", "Concat"]
    held = {each.name: to_array(each).item() for each in graph.initializer}
    assert [(held[node.input[1]], held[node.input[2]]) for node in graph.node[:3]] == [(2, 3), (1, 2), (-2, -1)]


def test_an_edge_is_one_slice_read_as_often_as_it_is_padded() -> None:
    after = model(
        """
        y_before_1 = Slice (x, y_before_1_starts, y_before_1_ends, y_before_1_axes)
        y = Concat <axis = 1> (y_before_1, y_before_1, y_before_1, x)""",
        "int64[1] y_before_1_starts = {0}, int64[1] y_before_1_ends = {1}, int64[1] y_before_1_axes = {1}",
    )
    assert_rewrites(LowerPad(), model('y = Pad <mode = "edge"> (x, p)', "int64[4] p = {0, 3, 0, 0}"), after)


def test_a_wrap_is_one_slice() -> None:
    after = model(
        """
        y_behind_1 = Slice (x, y_behind_1_starts, y_behind_1_ends, y_behind_1_axes)
        y = Concat <axis = 1> (x, y_behind_1)""",
        "int64[1] y_behind_1_starts = {0}, int64[1] y_behind_1_ends = {3}, int64[1] y_behind_1_axes = {1}",
    )
    assert_rewrites(LowerPad(), model('y = Pad <mode = "wrap"> (x, p)', "int64[4] p = {0, 0, 0, 3}"), after)


def test_one_value_is_an_initializer_where_that_is_asked_for() -> None:
    before = model("y = Pad (x, p, v)", "int64[2] p = {1, 1}, float v = {9}", "float[2] x", "float[4] y")
    after = model(
        "y = Concat <axis = 0> (y_before_0, x, y_behind_0)",
        "float[1] y_before_0 = {9}, float[1] y_behind_0 = {9}",
        "float[2] x",
        "float[4] y",
    )
    assert_rewrites(LowerPad(constant=True), before, after)
    assert_untouched(LowerPad(), before, "it pads with one value")


@pytest.mark.parametrize(
    ("pads", "x", "mode", "reason"),
    [
        ("0, 0, 0, 0", "float[1, 4] x", "edge", "it pads nothing"),
        ("0, -1, 0, 4", "float[1, 4] x", "edge", "it crops"),
        ("0, 3, 0, 0", "float[1, N] x", "reflect", "axis 1 is not known to have the 4 rows that it copies"),
        ("0, 65, 0, 0", "float[1, 99] x", "reflect", "it pads 65 along axis 1"),
    ],
)
def test_leaves_what_it_can_not_copy_alone(pads: str, x: str, mode: str, reason: str) -> None:
    text = model(f'y = Pad <mode = "{mode}"> (x, p)', f"int64[4] p = {{{pads}}}", x, "float[1, M] y")
    assert_untouched(LowerPad(), text, reason)


def test_leaves_computed_pads_and_an_unknown_rank_alone() -> None:
    computed = model('y = Pad <mode = "edge"> (x, p)', x="float[1, 4] x, int64[4] p")
    assert_untouched(LowerPad(), computed, "it has pads or a value that is not constant")
    unknown = model('a = my.Odd (x)  y = Pad <mode = "edge"> (a, p)', "int64[4] p = {0, 1, 0, 1}")
    assert_untouched(LowerPad(), unknown, "the rank of its input is not known")


def drawn(build: Builder, modes: list[str]) -> list[str]:
    mode = build.choice([*modes, *(["wrap"] if build.opset >= 19 and "edge" in modes else [])])
    shape = build.shape(rank=(1, 4), sizes=(1, 4))
    pads = [build.choice([0, 1, 2, 3]) for _ in shape * 2]
    if mode in ("reflect", "wrap"):
        pads = [min(pad, size - (mode == "reflect")) for pad, size in zip(pads, shape * 2, strict=True)]
    x = build.input(shape, build.dtype([np.float32, np.float64, np.int64] if build.opset >= 11 else [np.float32]))
    if build.opset < 11:
        return [build.node("Pad", [x], mode=mode, pads=pads)]
    return [build.node("Pad", [x, build.constant(np.array(pads, np.int64))], mode=mode)]


@fuzz(LowerPad())
def test_any_pad_that_copies_computes_the_same(build: Builder) -> list[str]:
    return drawn(build, ["reflect", "edge"])


@fuzz(LowerPad(constant=True))
def test_any_pad_with_one_value_computes_the_same(build: Builder) -> list[str]:
    return drawn(build, ["constant"])
