from collections.abc import Sequence
from typing import Literal

import numpy as np
import onnx
import pytest

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.passes.lower_focus import LowerFocus
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

YOLOV5 = [(0, 0), (1, 0), (0, 1), (1, 1)]
ROWS_FIRST = [(0, 0), (0, 1), (1, 0), (1, 1)]
X, Y = "float[1, 2, 6, 4] x", "float[1, 8, 3, 2] y"
CONV = "dilations = [1, 1], group = 1, kernel_shape = [2, 2], pads = [0, 0, 0, 0], strides = [2, 2]"
END = 2**63 - 1


def model(nodes: str, weights: str = "", x: str = X, y: str = Y) -> str:
    return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g ({x}) => ({y}) <{weights}> {{
            {nodes}
        }}"""


def parts(corners: Sequence[tuple[int, int]]) -> str:
    """Return the parts as PyTorch exports them: rows first, then columns, each a Slice of one axis."""
    return "\n".join(
        f"r{part} = Slice (x, s{row}, e, a2, t)\np{part} = Slice (r{part}, s{column}, e, a3, t)"
        for part, (row, column) in enumerate(corners)
    )


def bounds(end: int = END) -> str:
    return f"""int64[1] s0 = {{0}}, int64[1] s1 = {{1}}, int64[1] e = {{{end}}}, int64[1] t = {{2}},
             int64[1] a2 = {{2}}, int64[1] a3 = {{-1}}"""


def focus(corners: Sequence[tuple[int, int]], x: str = X, y: str = Y, end: int = END, axis: int = 1) -> str:
    return model(f"{parts(corners)}\ny = Concat <axis = {axis}> (p0, p1, p2, p3)", bounds(end), x, y)


def taps(corners: Sequence[tuple[int, int]]) -> str:
    weight = np.zeros((8, 2, 2, 2), int)
    for channel in range(8):
        weight[channel, channel % 2, corners[channel // 2][0], corners[channel // 2][1]] = 1
    return f"float[8, 2, 2, 2] y_taps = {{{', '.join(map(str, weight.ravel()))}}}"


@pytest.mark.parametrize("corners", [YOLOV5, ROWS_FIRST, [(1, 1), (0, 1), (1, 0), (0, 0)]])
def test_becomes_a_conv_with_one_tap_for_each_channel(corners: Sequence[tuple[int, int]]) -> None:
    assert_rewrites(LowerFocus(), focus(corners), model(f"y = Conv <{CONV}> (x, y_taps)", taps(corners)))


def test_becomes_space_to_depth_where_the_order_is_the_same() -> None:
    after = model("y = SpaceToDepth <blocksize = 2> (x)", "")
    assert_rewrites(LowerFocus("space-to-depth"), focus(ROWS_FIRST), after)


def test_a_gather_restores_the_order_behind_space_to_depth() -> None:
    nodes = """y_blocks = SpaceToDepth <blocksize = 2> (x)
            y = Gather <axis = 1> (y_blocks, y_order)"""
    after = model(nodes, "int64[8] y_order = {0, 1, 4, 5, 2, 3, 6, 7}")
    assert_rewrites(LowerFocus("space-to-depth"), focus(YOLOV5), after)


@pytest.mark.parametrize("by", ["conv", "space-to-depth"])
@pytest.mark.parametrize("corners", [YOLOV5, [(1, 1), (0, 0), (1, 0), (0, 1)]])
def test_every_element_is_equal_to_the_last_bit(by: str, corners: Sequence[tuple[int, int]]) -> None:
    got = apply_pass(LowerFocus(by), Model(parse(focus(corners)))).model.proto  # type: ignore[arg-type]
    assert not {"Slice", "Concat"} & {node.op_type for node in got.graph.node}
    x = np.random.default_rng(0).standard_normal((1, 2, 6, 4)).astype(np.float32) * 1e3
    expected = np.concatenate([x[..., row::2, column::2] for row, column in corners], axis=1)
    np.testing.assert_array_equal(session.run(got, {"x": x})["y"], expected)


def test_parts_may_share_a_slice_or_take_both_axes_at_once() -> None:
    # the second one takes four axes, two of them whole
    shared = f"int64[1] s0 = {{0}}, int64[1] e = {{{END}}}, int64[1] a2 = {{2}}, int64[1] t = {{2}}"
    both = f"""int64[4] ss = {{0, 0, 1, 0}}, int64[4] ee = {{{END}, {END}, {END}, {END}}},
               int64[4] aa = {{0, 1, -2, 3}}, int64[4] tt = {{1, 1, 2, 2}}"""
    weights = f"{shared}, int64[1] s1 = {{1}}, int64[1] a3 = {{3}}, {both}"
    nodes = """r0 = Slice (x, s0, e, a2, t)
            p0 = Slice (r0, s0, e, a3, t)
            p1 = Slice (x, ss, ee, aa, tt)
            p2 = Slice (r0, s1, e, a3, t)
            r3 = Slice (x, s1, e, a3, t)
            p3 = Slice (r3, s1, e, a2, t)
            y = Concat <axis = -3> (p0, p1, p2, p3)
            r = Relu (r0)"""
    y = f"{Y}, float[1, 2, 3, 4] r"
    after = f"r0 = Slice (x, s0, e, a2, t)\ny = Conv <{CONV}> (x, y_taps)\nr = Relu (r0)"
    assert_rewrites(LowerFocus(), model(nodes, weights, y=y), model(after, f"{shared}, {taps(YOLOV5)}", y=y))


def test_a_slice_before_the_focus_stays() -> None:
    before = "q = Slice (x, s1, e, a1)"
    nodes = f"{before}\n{parts(YOLOV5).replace('(x, ', '(q, ')}\ny = Concat <axis = 1> (p0, p1, p2, p3)"
    weights = f"{bounds()}, int64[1] a1 = {{1}}"
    got = apply_pass(LowerFocus(), Model(parse(model(nodes, weights, y="float[1, 4, 3, 2] y")))).model.proto
    assert [node.op_type for node in got.graph.node] == ["Slice", "Conv"]


@pytest.mark.parametrize("end", [6, 5])
def test_slices_that_end_at_a_number_count_where_the_size_is_known(end: int) -> None:
    # of 6 elements, 0, 2, 4 are all before 5, but 1, 3, 5 are not
    x, y = "float[1, 2, 6, 6] x", "float[1, 8, 3, 3] y"
    if end == 6:
        after = model(f"y = Conv <{CONV}> (x, y_taps)", taps(YOLOV5), x, y)
        assert_rewrites(LowerFocus(), focus(YOLOV5, x, y, end), after)
    else:
        text = focus(YOLOV5, x, "float[1, 8, h, w] y", end)
        assert_untouched(LowerFocus(), text, "an even height and width")


def test_the_size_of_the_image_need_not_be_known() -> None:
    x, y = "float[n, 2, h, w] x", "float[n, 8, h2, w2] y"
    after = model(f"y = Conv <{CONV}> (x, y_taps)", taps(YOLOV5), x, y)
    assert_rewrites(LowerFocus(), focus(YOLOV5, x, y), after)
    assert_untouched(LowerFocus(), focus(YOLOV5, x, y, end=6), "an even height and width")


def test_channels_need_not_be_known_for_space_to_depth_alone() -> None:
    x, y = "float[n, c, 6, 4] x", "float[n, c4, 3, 2] y"
    assert_untouched(LowerFocus(), focus(ROWS_FIRST, x, y), "number of channels")
    assert_untouched(LowerFocus("space-to-depth"), focus(YOLOV5, x, y), "number of channels")
    after = model("y = SpaceToDepth <blocksize = 2> (x)", "", x, y)
    assert_rewrites(LowerFocus("space-to-depth"), focus(ROWS_FIRST, x, y), after)


def test_the_taps_have_the_type_of_the_data() -> None:
    text = focus(YOLOV5, X.replace("float", "float16"), Y.replace("float", "float16"))
    got = apply_pass(LowerFocus(), Model(parse(text))).model.proto
    onnx.checker.check_model(got, full_check=True)
    (weight,) = [onnx.numpy_helper.to_array(tensor) for tensor in got.graph.initializer if "taps" in tensor.name]
    assert weight.dtype == np.float16


@pytest.mark.parametrize(("by", "dtype"), [("conv", "double"), ("conv", "int32"), ("space-to-depth", "int32")])
def test_leaves_types_alone_that_its_operator_does_not_run_on(
    by: Literal["conv", "space-to-depth"], dtype: str
) -> None:
    text = focus(YOLOV5, X.replace("float", dtype), Y.replace("float", dtype))
    assert_untouched(LowerFocus(by), text, "its elements are")


def test_works_inside_an_if_body() -> None:
    def body(nodes: str, weights: str) -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool c, {X}) => (float[1, 8, 3, 2] z) {{
            z = If (c) <
                then_branch = t () => ({Y}) <{weights}> {{ {nodes} }},
                else_branch = e () => (float[1, 8, 3, 2] d) {{
                    k = Constant <value_ints = [1, 8, 3, 2]> ()
                    d = ConstantOfShape (k)
                }}
            >
        }}"""

    before = body(f"{parts(YOLOV5)}\ny = Concat <axis = 1> (p0, p1, p2, p3)", bounds())
    assert_rewrites(LowerFocus(), before, body(f"y = Conv <{CONV}> (x, y_taps)", taps(YOLOV5)))


def test_leaves_a_tensor_without_four_axes_alone() -> None:
    x, y = "float[1, 2, 6, 4, 6] x", "float[1, 8, 3, 4, 3] y"
    assert_untouched(LowerFocus(), focus(YOLOV5, x, y), "four axes")


def test_leaves_a_concat_along_another_axis_alone() -> None:
    text = focus(YOLOV5, y="float[4, 2, 3, 2] y", axis=0)
    assert_untouched(LowerFocus(), text, "along the channels")


def test_leaves_an_odd_image_alone() -> None:
    # every part starts at 0, so all have the same size even though the height is odd
    text = focus([(0, 0), (0, 0), (0, 1), (0, 1)], "float[1, 2, 5, 4] x")
    assert_untouched(LowerFocus(), text, "an even height and width")


def test_leaves_two_parts_that_are_the_same_alone() -> None:
    assert_untouched(LowerFocus(), focus([(0, 0), (1, 0), (1, 0), (1, 1)]), "the same")


def test_leaves_integers_to_space_to_depth() -> None:
    text = focus(ROWS_FIRST, X.replace("float", "uint8"), Y.replace("float", "uint8"))
    assert_untouched(LowerFocus(), text, "uint8")
    got = apply_pass(LowerFocus("space-to-depth"), Model(parse(text))).model.proto
    assert [node.op_type for node in got.graph.node] == ["SpaceToDepth"]


def test_leaves_a_part_that_is_cropped_between_its_slices_alone() -> None:
    cropped = parts(YOLOV5).replace("p1 = Slice (r1,", "q1 = Slice (r1, s1, e, a1)\np1 = Slice (q1,")
    nodes = f"{cropped}\ny = Concat <axis = 1> (p0, p1, p2, p3)"
    text = model(nodes, f"{bounds()}, int64[1] a1 = {{1}}", y="float[1, 7, 3, 2] y")
    assert_untouched(LowerFocus(), text, "an even height and width")


def test_leaves_bounds_that_a_caller_may_override_alone() -> None:
    assert_untouched(LowerFocus(), focus(YOLOV5, f"{X}, int64[1] s1"), None)


def test_does_not_look_at_slices_of_two_tensors() -> None:
    text = focus(YOLOV5, f"{X}, float[1, 2, 6, 4] w").replace("r3 = Slice (x,", "r3 = Slice (w,")
    assert_untouched(LowerFocus(), text, None)


def test_does_not_look_at_another_concat() -> None:
    text = model("y = Concat <axis = 1> (x, x, x, x)", "", y="float[1, 8, 6, 4] y")
    assert_untouched(LowerFocus(), text, None)


def test_refuses_an_operator_that_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="by must be"):
        LowerFocus("gather")  # type: ignore[arg-type]


@fuzz(
    lambda build: LowerFocus(build.choice(["conv", "space-to-depth"])),  # type: ignore[arg-type]
    opsets=(10, 11, 13, 17, 18, 21),
)
def test_any_focus_computes_the_same(build: Builder) -> list[str]:
    size = [2 * build.integer(1, 3) + build.chance(12) for _ in range(2)]
    shape = [build.integer(1, 2), build.integer(1, 3), *size]
    x = build.input(shape, build.dtype([np.float32, np.float32, np.int32]))
    corners = [(0, 0), (1, 0), (0, 1), (1, 1)]
    if not build.chance(3):
        corners = [corners.pop(build.integer(0, len(corners) - 1)) for _ in range(4)]
    if build.chance(12):
        corners[0] = corners[1]

    def part(data: str, axes: list[int], starts: Sequence[int]) -> str:
        if build.chance(8):
            axes, starts = [1, *axes], [0, *starts]
        ends = [build.choice([END, 2**31 - 1, shape[axis], shape[axis] - build.chance(12)]) for axis in axes]
        written = [axis - 4 if build.opset >= 11 and build.chance(3) else axis for axis in axes]
        steps = [1 if axis == 1 else 2 for axis in axes]
        return build.node("Slice", [data, *(build.constant(np.array(v)) for v in (starts, ends, written, steps))])

    shared = part(x, [2], [0]) if build.chance(3) else None
    parts = []
    for row, column in corners:
        if shared and row == 0:
            parts.append(part(shared, [3], [column]))
        elif build.chance(2):
            parts.append(part(x, [2, 3], [row, column]))
        elif build.chance(2):
            parts.append(part(part(x, [2], [row]), [3], [column]))
        else:
            parts.append(part(part(x, [3], [column]), [2], [row]))
    return [build.node("Concat", parts, axis=build.choice([1, 1, -3 if build.opset >= 11 else 1, 0]))]
