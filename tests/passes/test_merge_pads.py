from typing import Any

import numpy as np
import pytest

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.passes.merge_pads import MergePads
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

W = "float[1, 2, 3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 8, 7, 6, 5, 4, 3, 2, 1}"
PADS = "int64[8] p = {0, 0, 1, 0, 0, 0, 2, 1}"  # one row above, two below, one column on the right
INFINITY = "float v = {-inf}"
TALL = "float[1, 2, 7, 6]"


def text(weights: str, nodes: str, x: str = "float[1, 2, 6, 6]", y: str = "float[A, B, C, D]", opset: int = 17) -> str:
    head = f'<ir_version: 8, opset_import: ["": {opset}]>'
    held = f"<{weights}> " if weights else ""
    return f"{head} g ({x} x) => ({y} y) {held}{{ {nodes} }}"


@pytest.mark.parametrize("opset", [7, 10, 11, 13, 17, 18, 21])
def test_merges_zeros_into_the_pads_of_a_conv(opset: int) -> None:
    conv = "Conv <pads = [1, 1, 1, 1], strides = [2, 2]>"
    if opset < 11:
        before = text(W, f"h = Pad <pads = [0, 0, 1, 0, 0, 0, 2, 1]> (x) y = {conv} (h, w)", opset=opset)
    else:
        before = text(f"{W}, {PADS}", f"h = Pad (x, p) y = {conv} (h, w)", opset=opset)
    assert_rewrites(
        MergePads(), before, text(W, "y = Conv <pads = [2, 1, 3, 2], strides = [2, 2]> (x, w)", opset=opset)
    )


@pytest.mark.parametrize(
    ("pads", "rest", "inputs"),
    [
        ("int64[4] p = {1, 0, 2, 1}", "int64[2] a = {2, 3}", "x, p, , a"),
        ("int64[4] p = {0, 1, 1, 2}", "int64[2] a = {-1, -2}, float v = {0}", "x, p, v, a"),
        ("int64[6] p = {0, 1, 0, 1, 2, 0}", "int64[3] a = {3, 2, 1}", "x, p, , a"),
    ],
)
def test_reads_the_axes_of_a_pad(pads: str, rest: str, inputs: str) -> None:
    assert_rewrites(
        MergePads(),
        text(f"{W}, {pads}, {rest}", f"h = Pad ({inputs}) y = Conv (h, w)", opset=18),
        text(W, "y = Conv <pads = [1, 0, 2, 1]> (x, w)", opset=18),
    )


@pytest.mark.parametrize(
    ("auto", "pads"),
    [("SAME_UPPER", "[1, 1, 3, 2]"), ("SAME_LOWER", "[2, 1, 2, 2]"), ("VALID", "[1, 0, 2, 1]")],
)
def test_writes_out_what_auto_pad_means_for_the_padded_size(auto: str, pads: str) -> None:
    # padded it has 10 x 7: with strides of 2, the kernel of 3 needs one row and two columns more
    assert_rewrites(
        MergePads(),
        text(f"{W}, {PADS}", f'h = Pad (x, p) y = Conv <auto_pad = "{auto}", strides = [2, 2]> (h, w)', TALL),
        text(W, f"y = Conv <pads = {pads}, strides = [2, 2]> (x, w)", TALL),
    )


@pytest.mark.parametrize("attributes", ["", ", count_include_pad = 1", ", count_include_pad = 1, pads = [1, 1, 0, 0]"])
@pytest.mark.parametrize("opset", [11, 19])
def test_an_average_pool_counts_the_zeros(attributes: str, opset: int) -> None:
    pads = "[2, 1, 2, 1]" if "pads" in attributes else "[1, 0, 2, 1]"
    assert_rewrites(
        MergePads(),
        text(PADS, f"h = Pad (x, p) y = AveragePool <kernel_shape = [3, 3]{attributes}> (h)", opset=opset),
        text("", f"y = AveragePool <count_include_pad = 1, kernel_shape = [3, 3], pads = {pads}> (x)", opset=opset),
    )


@pytest.mark.parametrize(
    ("before", "weights", "value"),
    [
        ("", ", float v = {-inf}", ", v"),
        ("", ", float v = {-3.4028235e38}", ", v"),
        ("r = Relu (x)", "", ""),
        ("r = Relu (x)", ", float v = {-5}", ", v"),
        ("r = Sigmoid (x)", "", ""),
        ("r = Clip (x, k, )", ", float k = {0}", ""),
    ],
)
def test_a_max_pool_is_indifferent_to_what_is_never_the_maximum(before: str, weights: str, value: str) -> None:
    data = "r" if before else "x"
    kept = weights.removeprefix(", ") if "k = " in weights else ""
    assert_rewrites(
        MergePads(),
        text(PADS + weights, f"{before} h = Pad ({data}, p{value}) y = MaxPool <kernel_shape = [3, 3]> (h)"),
        text(kept, f"{before} y = MaxPool <kernel_shape = [3, 3], pads = [1, 0, 2, 1]> ({data})"),
    )


@pytest.mark.parametrize("minimum", ["<min = 0.0, max = 6.0>", "<min = 1.0>"])
def test_reads_the_bounds_of_an_old_clip(minimum: str) -> None:
    pad = "h = Pad <pads = [0, 0, 1, 0, 0, 0, 2, 1]> (r)"
    assert_rewrites(
        MergePads(),
        text("", f"r = Clip {minimum} (x) {pad} y = MaxPool <kernel_shape = [3, 3]> (h)", opset=10),
        text("", f"r = Clip {minimum} (x) y = MaxPool <kernel_shape = [3, 3], pads = [1, 0, 2, 1]> (r)", opset=10),
    )


def test_zero_is_the_smallest_unsigned_number() -> None:
    assert_rewrites(
        MergePads(),
        text(PADS, "h = Pad (x, p) y = MaxPool <kernel_shape = [3, 3]> (h)", "uint8[1, 2, 6, 6]", "uint8[A, B, C, D]"),
        text(
            "", "y = MaxPool <kernel_shape = [3, 3], pads = [1, 0, 2, 1]> (x)", "uint8[1, 2, 6, 6]", "uint8[A, B, C, D]"
        ),
    )


@pytest.mark.parametrize("opset", [10, 11, 18])
def test_two_pads_become_one(opset: int) -> None:
    if opset < 11:
        second = 'Pad <mode = "constant", pads = [1, 0, 0, 3, 0, 0, 0, 1], value = 2.0>'
        merged = 'Pad <mode = "constant", pads = [1, 0, 1, 3, 0, 0, 2, 2], value = 2.0>'
        first = "Pad <pads = [0, 0, 1, 0, 0, 0, 2, 1], value = 2.0>"
        before = text("", f"h = {first} (x) y = {second} (h)", opset=opset)
        after = text("", f"y = {merged} (x)", opset=opset)
    else:
        weights = f"{PADS}, int64[8] q = {{1, 0, 0, 3, 0, 0, 0, 1}}, float v = {{2}}, float u = {{2}}"
        before = text(weights, "h = Pad (x, p, v) y = Pad (h, q, u)", opset=opset)
        after = text("int64[8] y_pads = {1, 0, 1, 3, 0, 0, 2, 2}, float u = {2}", "y = Pad (x, y_pads, u)", opset=opset)
    assert_rewrites(MergePads(), before, after)


def test_two_pads_of_different_axes_become_one_of_all_axes() -> None:
    assert_rewrites(
        MergePads(),
        text(
            "int64[2] p = {1, 2}, int64[1] a = {3}, int64[2] q = {4, 5}, int64[1] b = {-2}",
            "h = Pad (x, p, , a) y = Pad (h, q, , b)",
            opset=18,
        ),
        text("int64[8] y_pads = {0, 0, 4, 1, 0, 0, 5, 2}", "y = Pad (x, y_pads)", opset=18),
    )


def test_a_pad_that_others_read_stays_for_them() -> None:
    outputs = "(float[A, B, C, D] y, float[1, 2, 9, 7] h, float[A, B, C, D] z)"
    before = text(f"{W}, {PADS}", "h = Pad (x, p) y = Conv (h, w) z = Relu (h)")
    after = text(f"{W}, {PADS}", "h = Pad (x, p) y = Conv <pads = [1, 0, 2, 1]> (x, w) z = Relu (h)")
    assert_rewrites(MergePads(), *(each.replace("(float[A, B, C, D] y)", outputs) for each in (before, after)))


def test_works_inside_an_if_body_on_a_pad_outside() -> None:
    def whole(weights: str, pad: str, conv: str) -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool t, float[1, 2, 6, 6] x) => (float[A, B, C, D] y) <{weights}> {{
            {pad}
            y = If (t) <
                then_branch = a () => (float[A, B, C, D] r) {{ r = {conv} }},
                else_branch = e () => (float[A, B, C, D] q) {{ q = Relu (x) }}
            >
        }}"""

    assert_rewrites(
        MergePads(),
        whole(f"{W}, {PADS}", "h = Pad (x, p)", "Conv (h, w)"),
        whole(W, "", "Conv <pads = [1, 0, 2, 1]> (x, w)"),
    )


CONV = "y = Conv (h, w)"
MAX = "y = MaxPool <kernel_shape = [3, 3]> (h)"
INDICES = "z, i = MaxPool <kernel_shape = [3, 3]> (h) c = Cast <to = 1> (i) y = Add (z, c)"
MEAN = "y = AveragePool <kernel_shape = [3, 3]> (h)"
WP = f"{W}, {PADS}"


@pytest.mark.parametrize(
    ("weights", "nodes", "reason"),
    [
        (WP, f'h = Pad <mode = "reflect"> (x, p) {CONV}', "has the mode reflect"),
        (W, f"k = Shape (x) p = Concat <axis = 0> (k, k) h = Pad (x, p) {CONV}", "that is not constant"),
        (WP, f"v = ReduceMax <keepdims = 0> (x) h = Pad (x, p, v) {CONV}", "that is not constant"),
        (f"{W}, int64[8] p = {{0, 0, 1, 0, 0, 0, -1, 0}}", f"h = Pad (x, p) {CONV}", "one of its pads is negative"),
        (f"{W}, int64[8] p = {{1, 0, 1, 0, 0, 0, 0, 0}}", f"h = Pad (x, p) {CONV}", "pads the batch or the channels"),
        (f"{W}, int64[8] p = {{0, 0, 0, 0, 0, 1, 0, 0}}", f"h = Pad (x, p) {MEAN}", "pads the batch or the channels"),
        (f"{WP}, float v = {{1}}", f"h = Pad (x, p, v) {CONV}", "fills in 1.0, not zero"),
        (f"{WP}, {INFINITY}", f"h = Pad (x, p, v) {MEAN}", "fills in -inf, not zero"),
        (PADS, f"h = Pad (x, p) {MAX}", "may be above the maximum"),
        (f"{PADS}, float v = {{1}}", f"r = Relu (x) h = Pad (r, p, v) {MAX}", "fills in 1.0, which may be above"),
        (f"{PADS}, float k = {{-1}}", f"r = Clip (x, k) h = Pad (r, p) {MAX}", "may be above the maximum"),
        (PADS, f"r = Clip (x) h = Pad (r, p) {MAX}", "may be above the maximum"),
        (f"{PADS}, {INFINITY}", f"h = Pad (x, p, v) {MAX.replace('<', '<ceil_mode = 1, ')}", "it rounds up or dilates"),
        (PADS, f"h = Pad (x, p) {MEAN.replace('<', '<ceil_mode = 1, ')}", "it rounds up or dilates"),
        (f"{PADS}, {INFINITY}", f"h = Pad (x, p, v) {MAX.replace('<', '<dilations = [2, 2], ')}", "or dilates"),
        (f"{PADS}, {INFINITY}", f"h = Pad (x, p, v) {MAX.replace('3, 3', '2, 2')}", "as much as its kernel is wide"),
        (PADS, f"h = Pad (x, p) {MEAN.replace('<', '<pads = [1, 0, 0, 0], ')}", "does not count that"),
        (f"{PADS}, {INFINITY}", f"h = Pad (x, p, v) {INDICES}", "indices of the maxima"),
        (f"{PADS}, float v = {{1}}, float u = {{2}}", "h = Pad (x, p, v) y = Pad (h, p, u)", "it fills in 2.0"),
        (PADS, 'h = Pad (x, p) y = Pad <mode = "edge"> (h, p)', "it has the mode edge"),
        (f"{PADS}, int64[8] q = {{0, 0, -1, 0, 0, 0, 0, 0}}", "h = Pad (x, p) y = Pad (h, q)", "it crops"),
        (f"{PADS}, int64[8] q = {{0, 0, -1, 0, 0, 0, 0, 0}}", "h = Pad (x, q) y = Pad (h, p)", "before it crops"),
    ],
)  # fmt: skip
def test_leaves_alone(weights: str, nodes: str, reason: str) -> None:
    assert_untouched(MergePads(), text(weights, nodes), reason)


def test_leaves_an_auto_pad_alone_that_depends_on_an_unknown_size() -> None:
    nodes = 'h = Pad (x, p) y = Conv <auto_pad = "SAME_UPPER"> (h, w)'
    assert_untouched(MergePads(), text(WP, nodes, "float[1, 2, 6, K]"), "its auto_pad depends on a size")


def test_leaves_a_pad_alone_whose_rank_is_not_known() -> None:
    weights = "int64[2] p = {1, 1}, int64[1] a = {-1}"
    nodes = "k = Reshape (x, n) h = Pad (k, p, , a) y = Pad (h, p, , a)"
    before = text(weights, nodes, "float[N]", opset=18).replace(" x)", " x, int64[R] n)")
    assert_untouched(MergePads(), before, "the rank of its input is not known")


def test_leaves_pads_that_may_be_overridden_alone() -> None:
    before = text(W, f"h = Pad (x, p) {CONV}").replace(" x)", f" x, {PADS})")
    assert_untouched(MergePads(), before, "that is not constant")


def test_leaves_a_pad_alone_that_is_all_there_is() -> None:
    before = text(f"{PADS}, {INFINITY}", f"h = Pad (x, p, v) {MAX}", "float[1, 2, 0, 6]")
    assert_untouched(MergePads(), before, "its input is empty")


@pytest.mark.parametrize("nodes", ["h = Relu (x) y = Conv (h, w)", "h = Pad (x, p) y = Relu (h)"])
def test_does_not_look_at_other_nodes(nodes: str) -> None:
    assert_untouched(MergePads(), text(WP, nodes), None)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_window_of_pads_alone_is_what_it_was(size: int) -> None:
    # strides and pads so that the first windows of the Conv lie outside the image
    model = Model(
        parse(
            text(
                f"{W}, int64[8] p = {{0, 0, 4, 4, 0, 0, 5, 3}}, float[1] b = {{7}}",
                "h = Pad (x, p) y = Conv <pads = [1, 0, 0, 1], strides = [2, 3]> (h, w, b)",
                "float[1, 2, H, W]",
            )
        )
    )
    after = apply_pass(MergePads(), model).model.proto
    assert [node.op_type for node in after.graph.node] == ["Conv"]
    x = np.random.default_rng(0).integers(-9, 9, (1, 2, size, size)).astype(np.float32)
    expected, got = (session.run(each, {"x": x})["y"] for each in (model.proto, after))
    np.testing.assert_array_equal(got, expected)


def any_pad(build: Builder, x: str, rank: int, dtype: np.dtype[Any]) -> str:
    """Draw a Pad; most pad the spatial axes alone, with zeros or the smallest number."""
    lowest: float = np.iinfo(dtype).min if dtype.kind in "iu" else -np.inf
    value = build.choice([None, 0, 0, lowest, lowest, 1])
    mode = "edge" if build.chance(12) else build.choice([None, "constant"])
    axes = list(range(2, rank)) if build.opset >= 18 and build.chance(3) else list(range(rank))
    pads = [build.integer(0, 2) if axis > 1 or build.chance(12) else 0 for axis in axes * 2]
    if build.chance(12):
        pads[-1] = -1
    if build.opset < 11:
        return build.node("Pad", [x], pads=pads, mode=mode, value=None if value is None else float(value))
    inputs = [x, build.constant(np.array(pads))]
    if value is not None or len(axes) < rank:
        inputs.append("" if value is None else build.constant(np.array(value, dtype), overridable=True))
    if len(axes) < rank:
        inputs.append(build.constant(np.array(axes) - rank * build.integer(0, 1)))
    return build.node("Pad", inputs, mode=mode)


@fuzz(MergePads())
def test_any_pad_before_a_window_computes_the_same(build: Builder) -> list[str]:
    op = build.choice(["Conv", "AveragePool", "MaxPool", "Pad"])
    dtype = build.dtype()
    if op == "MaxPool" and build.opset >= 12 and build.chance(3):
        dtype = np.dtype(build.choice([np.uint8, np.int8]))
    spatial, channels = build.integer(1, 3), build.integer(1, 3)
    x = build.input([build.integer(1, 2), channels, *(build.integer(3, 6) for _ in range(spatial))], dtype)
    if dtype.kind == "f" and build.chance(2):
        x = build.node(build.choice(["Relu", "Sigmoid", "Abs", "Neg"]), [x])
    x = any_pad(build, x, 2 + spatial, dtype)
    if op == "Pad":
        return [any_pad(build, x, 2 + spatial, dtype)]
    kernel = [build.integer(1, 3) for _ in range(spatial)]
    written: dict[str, Any] = {"kernel_shape": kernel, "strides": [build.integer(1, 3) for _ in range(spatial)]}
    if build.chance(3):
        written["auto_pad"] = build.choice(["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
    else:
        written["pads"] = build.choice([None, [build.integer(0, size - 1) for size in kernel * 2]])
    if op == "Conv" or (op == "MaxPool" and build.opset >= 10) or build.opset >= 19:
        written["dilations"] = build.choice([None, None, [build.integer(1, 2) for _ in range(spatial)]])
    if op == "Conv":
        return [build.node(op, [x, build.weight([2, channels, *kernel], dtype)], **written)]
    if build.opset >= 10:
        written["ceil_mode"] = build.choice([None, 0, 1])
    if op == "AveragePool":
        written["count_include_pad"] = build.choice([None, 0, 1])
        return [build.node(op, [x], **written)]
    pooled = build.node(op, [x], outputs=build.choice([1, 1, 2]), **written)
    return [pooled] if isinstance(pooled, str) else pooled
