from typing import Any

import pytest

from graphsurgery.passes.merge_pads import MergePads
from graphsurgery.passes.split_maxpool_pads import SplitMaxpoolPads
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz


def text(nodes: str, weights: str = "", y: str = "float[1, 2, 4, 4] y", opset: int = 17) -> str:
    held = f"<{weights}> " if weights else ""
    return f'<ir_version: 8, opset_import: ["": {opset}]> g (float[1, 2, 7, 8] x) => ({y}) {held}{{ {nodes} }}'


POOL = "MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]>"
BARE = "MaxPool <kernel_shape = [3, 3], pads = [0, 0, 0, 0], strides = [2, 2]>"
PADS = "int64[8] y_pads = {0, 0, 1, 1, 0, 0, 1, 1}"


@pytest.mark.parametrize("before", ["Relu (x)", "Sigmoid (x)", "Clip (x, low)"])
def test_zeros_stand_for_what_a_pool_does_not_read(before: str) -> None:
    low = "float low = {0}" if "low" in before else ""
    weights = ", ".join(filter(None, (low, PADS)))
    assert_rewrites(
        SplitMaxpoolPads(),
        text(f"h = {before} y = {POOL} (h)", low),
        text(f"h = {before} y_pad = Pad (h, y_pads) y = {BARE} (y_pad)", weights),
    )


def test_pads_were_an_attribute_once() -> None:
    pad = "Pad <pads = [0, 0, 1, 1, 0, 0, 1, 1]>"
    before = text(f"h = Relu (x) y = {POOL} (h)", opset=10)
    assert_rewrites(SplitMaxpoolPads(), before, text(f"h = Relu (x) y_pad = {pad} (h) y = {BARE} (y_pad)", opset=10))


def test_auto_pad_is_written_out() -> None:
    # seven rows need one more on either side, eight columns one at the end
    assert_rewrites(
        SplitMaxpoolPads(),
        text('h = Relu (x) y = MaxPool <auto_pad = "SAME_UPPER", kernel_shape = [3, 3], strides = [2, 2]> (h)'),
        text(f"h = Relu (x) y_pad = Pad (h, y_pads) y = {BARE} (y_pad)", "int64[8] y_pads = {0, 0, 1, 0, 0, 0, 1, 1}"),
    )


def test_merge_pads_is_the_way_back() -> None:
    split = text(f"h = Relu (x) y_pad = Pad (h, y_pads) y = {BARE} (y_pad)", PADS)
    assert_rewrites(MergePads(), split, text(f"h = Relu (x) y = {POOL} (h)"))


@pytest.mark.parametrize(
    ("nodes", "y", "reason"),
    [
        (f"h = Relu (x) y = {BARE} (h)", "float[1, 2, 3, 3] y", None),
        (f"y = {POOL} (x)", "float[1, 2, 4, 4] y", "may hold negative numbers"),
        (f"h = LeakyRelu (x) y = {POOL} (h)", "float[1, 2, 4, 4] y", "may hold negative numbers"),
        (f"h = Relu (x) y, i = {POOL} (h)", "float[1, 2, 4, 4] y, int64[1, 2, 4, 4] i", "indices of the maxima"),
        (f"h = Relu (x) y = {POOL.replace('>', ', ceil_mode = 1>')} (h)", "float[1, 2, 4, 5] y", "rounds up"),
        (f"h = Relu (x) y = {POOL.replace('>', ', dilations = [2, 2]>')} (h)", "float[1, 2, 3, 3] y", "dilates"),
    ],
)
def test_leaves_other_pools_alone(nodes: str, y: str, reason: str | None) -> None:
    assert_untouched(SplitMaxpoolPads(), text(nodes, y=y), reason)


@fuzz(SplitMaxpoolPads())
def test_any_pool_computes_the_same(build: Builder) -> list[str]:
    spatial = build.integer(1, 3)
    x = build.input([build.integer(1, 2), 2, *(build.integer(3, 6) for _ in range(spatial))])
    x = build.node(build.choice(["Relu", "Sigmoid", "Relu", "Neg"]), [x])
    kernel = [build.integer(1, 3) for _ in range(spatial)]
    written: dict[str, Any] = {"kernel_shape": kernel, "strides": [build.integer(1, 3) for _ in range(spatial)]}
    if build.chance(4):
        written["auto_pad"] = build.choice(["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
    else:
        pads = [build.integer(0, 2) for _ in kernel * 2]
        written["pads"] = [min(pad, size - 1) for pad, size in zip(pads, kernel * 2, strict=True)]
    if build.opset >= 10:
        written["ceil_mode"] = build.choice([None, 0, 0, 1])
        written["dilations"] = build.choice([None, None, [build.integer(1, 2) for _ in range(spatial)]])
    pooled = build.node("MaxPool", [x], **written)
    return [pooled] if isinstance(pooled, str) else pooled
