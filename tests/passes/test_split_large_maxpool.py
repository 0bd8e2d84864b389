import numpy as np
import pytest

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.passes.split_large_maxpool import SplitLargeMaxpool
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

HEAD = '<ir_version: 8, opset_import: ["": 17]>'


def model(body: str, x: str = "float[1, 2, 7, 9] x", y: str = "float[1, 2, h, w] y") -> str:
    return f"""
        {HEAD}
        g ({x}) => ({y}) {{
            {body}
        }}"""


def step(kernel: str, pads: str) -> str:
    return f"MaxPool <kernel_shape = [{kernel}], pads = [{pads}], strides = [1, 1]>"


def test_a_window_of_five_becomes_two_of_three() -> None:
    before = model("y = MaxPool <kernel_shape = [5, 5], pads = [2, 2, 2, 2]> (x)")
    after = model(f"y_step1 = {step('3, 3', '1, 1, 1, 1')} (x) y = {step('3, 3', '1, 1, 1, 1')} (y_step1)")
    assert_rewrites(SplitLargeMaxpool(), before, after)


@pytest.mark.parametrize(
    "attributes",
    ['auto_pad = "SAME_UPPER"', 'auto_pad = "SAME_LOWER"', "pads = [2, 2, 2, 2], ceil_mode = 1, dilations = [1, 1]"],
)
def test_same_padding_needs_no_size_at_stride_one(attributes: str) -> None:
    before = model(f"y = MaxPool <kernel_shape = [5, 5], strides = [1, 1], {attributes}> (x)", "float[n, c, a, b] x")
    after = model(
        f"y_step1 = {step('3, 3', '1, 1, 1, 1')} (x) y = {step('3, 3', '1, 1, 1, 1')} (y_step1)", "float[n, c, a, b] x"
    )
    assert_rewrites(SplitLargeMaxpool(), before, after, {"x": np.arange(70, dtype=np.float32).reshape(1, 2, 5, 7)})


@pytest.mark.parametrize("attributes", ["", ', auto_pad = "VALID"', ", pads = [0, 0, 0, 0]"])
def test_an_unpadded_window_that_is_not_square_needs_a_step_for_its_long_side_alone(attributes: str) -> None:
    before = model(f"y = MaxPool <kernel_shape = [3, 7]{attributes}> (x)")
    after = model(f"""
            y_step1 = {step("3, 3", "0, 0, 0, 0")} (x)
            y_step2 = {step("1, 3", "0, 0, 0, 0")} (y_step1)
            y = {step("1, 3", "0, 0, 0, 0")} (y_step2)""")
    assert_rewrites(SplitLargeMaxpool(), before, after)


def test_an_even_window_and_lopsided_pads_are_shared_out() -> None:
    before = model("y = MaxPool <kernel_shape = [6, 6], pads = [0, 5, 3, 1]> (x)")
    after = model(f"""
            y_step1 = {step("3, 3", "0, 2, 2, 1")} (x)
            y_step2 = {step("3, 3", "0, 2, 1, 0")} (y_step1)
            y = {step("2, 2", "0, 1, 0, 0")} (y_step2)""")
    assert_rewrites(SplitLargeMaxpool(), before, after)


def test_a_larger_limit_takes_fewer_steps() -> None:
    before = model("y = MaxPool <kernel_shape = [13, 13], pads = [6, 6, 6, 6]> (x)")
    after = model(f"""
            y_step1 = {step("5, 5", "2, 2, 2, 2")} (x)
            y_step2 = {step("5, 5", "2, 2, 2, 2")} (y_step1)
            y = {step("5, 5", "2, 2, 2, 2")} (y_step2)""")
    assert_rewrites(SplitLargeMaxpool(largest=5), before, after)


@pytest.mark.parametrize("dtype", ["double", "int8", "uint8"])
def test_takes_any_type(dtype: str) -> None:
    x, y = f"{dtype}[1, 2, 7, 9] x", f"{dtype}[1, 2, h, w] y"
    before = model("y = MaxPool <kernel_shape = [5, 5], pads = [2, 2, 2, 2]> (x)", x, y)
    after = model(f"y_step1 = {step('3, 3', '1, 1, 1, 1')} (x) y = {step('3, 3', '1, 1, 1, 1')} (y_step1)", x, y)
    assert_rewrites(SplitLargeMaxpool(), before, after)


def test_padding_stays_below_every_value() -> None:
    proto = parse(model("y = MaxPool <kernel_shape = [7, 7], pads = [3, 3, 3, 3]> (x)"))
    x = -1e30 - np.arange(126, dtype=np.float32).reshape(1, 2, 7, 9) * 1e25
    got = session.run(apply_pass(SplitLargeMaxpool(), Model(proto)).model.proto, {"x": x})["y"]
    np.testing.assert_array_equal(got, session.run(proto, {"x": x})["y"])


def test_every_pad_of_every_small_window_agrees() -> None:
    x = np.random.default_rng(0).permutation(6).astype(np.float32)
    for kernel in range(4, 8):
        for begin in range(kernel):
            for end in range(kernel):
                for size in range(max(1, kernel - begin - end), 7):
                    text = f"""
                        {HEAD}
                        g (float[1, 1, {size}] x) => (float[1, 1, m] y) {{
                            y = MaxPool <kernel_shape = [{kernel}], pads = [{begin}, {end}]> (x)
                        }}"""
                    feed = {"x": x[None, None, :size]}
                    got = apply_pass(SplitLargeMaxpool(), Model(parse(text))).model.proto
                    assert len(got.graph.node) > 1
                    np.testing.assert_array_equal(session.run(got, feed)["y"], session.run(parse(text), feed)["y"])


def test_a_shared_input_and_an_unread_list_of_indices_do_not_matter() -> None:
    body = "y, i = MaxPool <kernel_shape = [5, 5]> (x) z = MaxPool <kernel_shape = [2, 2]> (x)"
    steps = f"y_step1 = {step('3, 3', '0, 0, 0, 0')} (x) y = {step('3, 3', '0, 0, 0, 0')} (y_step1)"
    y = "float[1, 2, h, w] y, float[1, 2, p, q] z"
    after = model(f"{steps} z = MaxPool <kernel_shape = [2, 2]> (x)", y=y)
    assert_rewrites(SplitLargeMaxpool(), model(body, y=y), after)


def test_works_inside_an_if_body() -> None:
    def inside(body: str) -> str:
        return f"""
        {HEAD}
        g (bool c, float[1, 2, 7, 9] x) => (float[1, 2, 3, 5] y) {{
            y = If (c) <
                then_branch = t () => (float[1, 2, 3, 5] a) {{ {body} }},
                else_branch = e () => (float[1, 2, 3, 5] b) {{ b = AveragePool <kernel_shape = [5, 5]> (x) }}
            >
        }}"""

    after = f"a_step1 = {step('3, 3', '0, 0, 0, 0')} (x) a = {step('3, 3', '0, 0, 0, 0')} (a_step1)"
    assert_rewrites(SplitLargeMaxpool(), inside("a = MaxPool <kernel_shape = [5, 5]> (x)"), inside(after))


def test_leaves_a_small_window_alone() -> None:
    text = model("y = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)")
    assert_untouched(SplitLargeMaxpool(), text, None)


@pytest.mark.parametrize("attributes", ["strides = [2, 1]", "dilations = [1, 2], kernel_shape = [5, 3]"])
def test_leaves_strides_and_dilations_alone(attributes: str) -> None:
    kernel = "" if "kernel" in attributes else "kernel_shape = [5, 5], "
    assert_untouched(SplitLargeMaxpool(), model(f"y = MaxPool <{kernel}{attributes}> (x)"), "stride, or dilates")


def test_leaves_a_pool_whose_indices_are_read_alone() -> None:
    text = model("y, i = MaxPool <kernel_shape = [5, 5]> (x)", y="float[1, 2, 3, 5] y, int64[1, 2, 3, 5] i")
    assert_untouched(SplitLargeMaxpool(), text, "indices")


@pytest.mark.parametrize("attributes", ["pads = [5, 0, 0, 0]", "pads = [-1, 0, 0, 0]", "pads = [1, 1]"])
def test_leaves_attributes_that_make_no_sense_alone(attributes: str) -> None:
    text = model(f"y = MaxPool <kernel_shape = [5, 5], {attributes}> (x)")
    assert_untouched(SplitLargeMaxpool(), text, "contradict")


@pytest.mark.parametrize("x", ["float[1, 2, h, 9] x", "float[1, 2, 3, 9] x"])
def test_leaves_a_window_that_may_not_fit_alone(x: str) -> None:
    text = model("y = MaxPool <kernel_shape = [5, 5], pads = [1, 0, 0, 0]> (x)", x)
    assert_untouched(SplitLargeMaxpool(), text, "nothing tells that its window fits")


def test_leaves_a_custom_operator_of_that_name_alone() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[1, 2, 7, 9] x) => (float[1, 2, 3, 5] y) {
            y = mine.MaxPool <kernel_shape = [5, 5]> (x)
        }"""
    assert_untouched(SplitLargeMaxpool(), text, None)


def test_refuses_a_limit_that_nothing_can_be_split_to() -> None:
    with pytest.raises(ValueError, match="largest"):
        SplitLargeMaxpool(largest=1)


@fuzz(lambda build: SplitLargeMaxpool(largest=build.choice([3, 2, 4, 5])))
def test_any_maxpool_computes_the_same(build: Builder) -> list[str]:
    rank = build.choice([2, 1, 3])
    dtype = build.dtype([np.float32, np.float32, np.float64, np.uint8] if build.opset >= 12 else [np.float32])
    sizes = (3, 7) if rank == 3 else (3, 12)
    x = build.input([build.integer(1, 2), build.integer(1, 3), *build.shape((rank, rank), sizes)], dtype)
    kernel = build.shape((rank, rank), (1, 7))
    auto_pad = build.choice([None, None, "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])
    pads = [build.integer(0, size - 1) for size in kernel * 2]
    ones, twos = [1] * rank, build.shape((rank, rank), (1, 2))
    y = build.node(
        "MaxPool",
        [x],
        outputs=build.choice([1, 1, 2]),
        kernel_shape=kernel,
        auto_pad=auto_pad,
        pads=pads if auto_pad in (None, "NOTSET") and build.chance(2) else None,
        strides=build.choice([None, ones, ones, twos]),
        dilations=build.choice([None, ones, twos]) if build.opset >= 10 else None,
        ceil_mode=build.choice([None, 0, 1]) if build.opset >= 10 else None,
    )
    return y[: build.integer(1, 2)] if isinstance(y, list) else [y]
