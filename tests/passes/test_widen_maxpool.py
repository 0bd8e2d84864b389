import numpy as np
import pytest

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.passes.widen_maxpool import WidenMaxpool
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
UNIT = f"""
    {HEAD}
    g (float[1, 2, 8, 10] x) => (float[1, 2, 4, 5] y) {{
        y = MaxPool <kernel_shape = [1, 1], strides = [2, 2]> (x)
    }}"""


def test_widens_a_unit_window_and_keeps_the_stride() -> None:
    assert_rewrites(
        WidenMaxpool(),
        UNIT,
        f"""
        {HEAD}
        g (float[1, 2, 8, 10] x) => (float[1, 2, 4, 5] y) {{
            y = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]> (x)
        }}""",
    )


@pytest.mark.parametrize("kernel", [3, 5])
def test_every_element_becomes_the_maximum_of_its_neighbourhood(kernel: int) -> None:
    x = np.random.default_rng(0).standard_normal((1, 2, 8, 10)).astype(np.float32)
    got = session.run(apply_pass(WidenMaxpool(kernel), Model(parse(UNIT))).model.proto, {"x": x})["y"]
    r = kernel // 2
    padded = np.pad(x, ((0, 0), (0, 0), (r, r), (r, r)), constant_values=-np.inf)
    for i in range(4):
        for j in range(5):
            window = padded[:, :, 2 * i : 2 * i + kernel, 2 * j : 2 * j + kernel]
            np.testing.assert_array_equal(got[:, :, i, j], window.max((2, 3)))


def test_works_inside_an_if_body() -> None:
    def body(pool: str) -> str:
        return f"""
        {HEAD}
        g (bool c, float[1, 2, 8, 10] x) => (float[1, 2, 4, 5] y) {{
            y = If (c) <
                then_branch = t () => (float[1, 2, 4, 5] a) {{ a = MaxPool <{pool}> (x) }},
                else_branch = e () => (float[1, 2, 4, 5] b) {{
                    b = AveragePool <kernel_shape = [1, 1], strides = [2, 2]> (x)
                }}
            >
        }}"""

    assert_rewrites(
        WidenMaxpool(),
        body("kernel_shape = [1, 1], strides = [2, 2]"),
        body("kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]"),
    )


@pytest.mark.parametrize(
    ("pool", "shapes", "reason"),
    [
        ("kernel_shape = [2, 2], strides = [2, 2]", "4, 5", "the kernel is 2x2"),
        ("kernel_shape = [1, 1], pads = [1, 1, 1, 1]", "10, 12", "it pads"),
        ("kernel_shape = [1, 1], strides = [2, 2], ceil_mode = 1", "4, 5", "rounds up"),
        ('kernel_shape = [1, 1], auto_pad = "SAME_UPPER"', "8, 10", "it pads"),
    ],
)
def test_leaves_other_windows_alone(pool: str, shapes: str, reason: str) -> None:
    text = f"""
        {HEAD}
        g (float[1, 2, 8, 10] x) => (float[1, 2, {shapes}] y) {{
            y = MaxPool <{pool}> (x)
        }}"""
    assert_untouched(WidenMaxpool(), text, reason)


def test_leaves_a_one_dimensional_window_alone() -> None:
    text = f"""
        {HEAD}
        g (float[1, 2, 8] x) => (float[1, 2, 4] y) {{
            y = MaxPool <kernel_shape = [1], strides = [2]> (x)
        }}"""
    assert_untouched(WidenMaxpool(), text, "1 dimensions")


def test_leaves_a_pool_whose_indices_are_read_alone() -> None:
    text = f"""
        {HEAD}
        g (float[1, 2, 8, 10] x) => (float[1, 2, 4, 5] y, int64[1, 2, 4, 5] z) {{
            y, z = MaxPool <kernel_shape = [1, 1], strides = [2, 2]> (x)
        }}"""
    assert_untouched(WidenMaxpool(), text, "indices")


@pytest.mark.parametrize("kernel", [1, 2, 4, -3])
def test_refuses_a_kernel_that_has_no_centre(kernel: int) -> None:
    with pytest.raises(ValueError, match="odd"):
        WidenMaxpool(kernel)


@fuzz(lambda build: WidenMaxpool(kernel=build.choice([3, 5])))
def test_any_widened_pool_keeps_its_size(build: Builder) -> list[str]:
    x = build.input([build.integer(1, 2), build.integer(1, 3), build.integer(1, 6), build.integer(1, 6)], build.dtype())
    attributes = {
        "kernel_shape": build.choice([[1, 1], [1, 2], [3, 3]]),
        "strides": build.choice([None, [2, 2], [1, 3]]),
        "auto_pad": build.choice([None, "VALID", "SAME_LOWER"]),
        "ceil_mode": build.choice([None, 0, 1]) if build.opset >= 10 else None,
    }
    return [build.node("MaxPool", [x], **attributes)]
