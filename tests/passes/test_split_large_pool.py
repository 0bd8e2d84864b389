import pytest

from graphsurgery.passes.split_large_pool import SplitLargePool
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

HEAD = '<ir_version: 8, opset_import: ["": 17]>'


def model(body: str, x: str = "float[1, 2, 32, 56] x", y: str = "float[1, 2, h, w] y") -> str:
    return f"""
        {HEAD}
        g ({x}) => ({y}) {{
            {body}
        }}"""


def step(op: str, kernel: str, strides: str = "") -> str:
    return f"{op} <kernel_shape = [{kernel}], pads = [0, 0, 0, 0], strides = [{strides or kernel}]>"


@pytest.mark.parametrize("op", ["AveragePool", "MaxPool"])
def test_a_global_pool_becomes_two_that_tile(op: str) -> None:
    after = model(f"y_step1 = {step(op, '8, 8')} (x) y = {step(op, '4, 7')} (y_step1)")
    assert_rewrites(SplitLargePool(), model(f"y = Global{op} (x)"), after)


def test_the_batch_and_the_channels_of_a_global_pool_may_be_open() -> None:
    x, y = "float[n, c, 3, 12] x", "float[n, c, 1, 1] y"
    after = model(f"y_step1 = {step('AveragePool', '3, 6')} (x) y = {step('AveragePool', '1, 2')} (y_step1)", x, y)
    assert_rewrites(SplitLargePool(), model("y = GlobalAveragePool (x)", x, y), after)


def test_one_long_side_is_split_and_the_other_keeps_its_overlap() -> None:
    after = model(f"""
            y_step1 = {step("AveragePool", "6, 3", "6, 2")} (x)
            y = {step("AveragePool", "2, 1", "2, 1")} (y_step1)""")
    before = model("y = AveragePool <kernel_shape = [12, 3], strides = [12, 2], count_include_pad = 1> (x)")
    assert_rewrites(SplitLargePool(), before, after)


def test_what_the_windows_leave_out_at_the_end_stays_out() -> None:
    x = "float[n, c, 27, 35] x"
    after = model(f"y_step1 = {step('MaxPool', '5, 5')} (x) y = {step('MaxPool', '2, 2')} (y_step1)", x)
    before = model("y = MaxPool <kernel_shape = [10, 10], strides = [10, 10]> (x)", x)
    assert_rewrites(SplitLargePool(), before, after)


def test_a_window_over_everything_tiles_whatever_its_stride() -> None:
    after = model(f"y_step1 = {step('AveragePool', '8, 8')} (x) y = {step('AveragePool', '4, 7')} (y_step1)")
    before = model('y = AveragePool <kernel_shape = [32, 56], auto_pad = "VALID", ceil_mode = 1> (x)')
    assert_rewrites(SplitLargePool(), before, after)


def test_same_padding_that_pads_nothing_is_none() -> None:
    after = model(f"y_step1 = {step('AveragePool', '8, 7')} (x) y = {step('AveragePool', '2, 4')} (y_step1)")
    attributes = 'kernel_shape = [16, 28], strides = [16, 28], auto_pad = "SAME_UPPER"'
    assert_rewrites(SplitLargePool(), model(f"y = AveragePool <{attributes}> (x)"), after)


def test_takes_as_many_steps_as_it_needs() -> None:
    steps = "".join(
        f"{end} = AveragePool <kernel_shape = [{size}], pads = [0, 0], strides = [{size}]> ({begin}) "
        for begin, size, end in (("x", 3, "y_step1"), ("y_step1", 3, "y_step2"), ("y_step2", 2, "y"))
    )
    x, y = "float[1, 2, 18] x", "float[1, 2, 1] y"
    assert_rewrites(SplitLargePool(largest=3), model("y = GlobalAveragePool (x)", x, y), model(steps, x, y))


def test_a_shared_input_and_the_size_of_an_inner_tensor_do_not_matter() -> None:
    y = "float[1, 2, 1, 1] y, float[1, 2, 32, 56] z"
    x = "float[1, 2, 32, 56] x"
    after = f"a = Relu (x) y_step1 = {step('MaxPool', '8, 8')} (a) y = {step('MaxPool', '4, 7')} (y_step1) z = Neg (a)"
    assert_rewrites(SplitLargePool(), model("a = Relu (x) y = GlobalMaxPool (a) z = Neg (a)", x, y), model(after, x, y))


def test_works_inside_an_if_body() -> None:
    def inside(body: str) -> str:
        return f"""
        {HEAD}
        g (bool c, float[1, 2, 32, 56] x) => (float[1, 2, 1, 1] y) {{
            y = If (c) <
                then_branch = t () => (float[1, 2, 1, 1] a) {{ {body} }},
                else_branch = e () => (float[1, 2, 1, 1] b) {{ b = ReduceMax <axes = [2, 3]> (x) }}
            >
        }}"""

    after = f"a_step1 = {step('AveragePool', '8, 8')} (x) a = {step('AveragePool', '4, 7')} (a_step1)"
    assert_rewrites(SplitLargePool(), inside("a = GlobalAveragePool (x)"), inside(after))


@pytest.mark.parametrize(
    ("body", "x"),
    [
        ("y = GlobalAveragePool (x)", "float[1, 2, 8, 7] x"),
        ("y = AveragePool <kernel_shape = [8, 8]> (x)", "float[1, 2, 32, 56] x"),
        ("y = ReduceMean <axes = [2, 3]> (x)", "float[1, 2, 32, 56] x"),
    ],
)
def test_leaves_small_windows_and_other_operators_alone(body: str, x: str) -> None:
    assert_untouched(SplitLargePool(), model(body, x), None)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y = AveragePool <kernel_shape = [10, 10], strides = [5, 10]> (x)", "overlap or leave gaps"),
        ("y = MaxPool <kernel_shape = [10, 10], strides = [11, 10]> (x)", "overlap or leave gaps"),
        ("y = AveragePool <kernel_shape = [26, 2], strides = [26, 2]> (x)", "26 has a prime factor above 8"),
        (
            "y = AveragePool <kernel_shape = [10, 10], strides = [10, 10], pads = [1, 0, 0, 0]> (x)",
            "it pads or dilates",
        ),
        (
            'y = AveragePool <kernel_shape = [10, 10], strides = [10, 10], auto_pad = "SAME_UPPER"> (x)',
            "it pads or dilates",
        ),
        ("y = MaxPool <kernel_shape = [10, 10], strides = [10, 10], dilations = [2, 1]> (x)", "it pads or dilates"),
        ("y = AveragePool <kernel_shape = [10, 10], strides = [10, 10], ceil_mode = 1> (x)", "rounds up"),
        ("y = AveragePool <kernel_shape = [16, 3], strides = [16, 2], ceil_mode = 1> (x)", "rounds up"),
    ],
)
def test_leaves_windows_that_do_not_tile_alone(body: str, reason: str) -> None:
    assert_untouched(SplitLargePool(), model(body), reason)


@pytest.mark.parametrize(
    ("sizes", "reason"), [("h, 56", "not known"), ("32, w", "not known"), ("8, 56", "larger"), ("32, 1", "larger")]
)
def test_leaves_a_window_that_may_not_fit_alone(sizes: str, reason: str) -> None:
    text = model("y = AveragePool <kernel_shape = [10, 2], strides = [10, 2]> (x)", f"float[1, 2, {sizes}] x")
    assert_untouched(SplitLargePool(), text, reason)


@pytest.mark.parametrize(("op", "sizes"), [("Average", "h, 56"), ("Max", "32, w"), ("Average", "0, 56")])
def test_leaves_a_global_pool_of_unknown_size_alone(op: str, sizes: str) -> None:
    text = model(f"y = Global{op}Pool (x)", f"float[1, 2, {sizes}] x", "float[1, 2, 1, 1] y")
    assert_untouched(SplitLargePool(), text, "not known")


def test_leaves_a_global_pool_over_a_large_prime_alone() -> None:
    assert_untouched(SplitLargePool(), model("y = GlobalMaxPool (x)", "float[1, 2, 13, 5] x"), "13 has a prime factor")


def test_leaves_a_pool_whose_indices_are_read_alone() -> None:
    body = "y, i = MaxPool <kernel_shape = [10, 10], strides = [10, 10]> (x) z = Neg (i)"
    assert_untouched(SplitLargePool(), model(body, y="float[1, 2, h, w] y, int64[1, 2, h, w] z"), "indices")


def test_refuses_a_limit_that_nothing_can_be_split_to() -> None:
    with pytest.raises(ValueError, match="largest"):
        SplitLargePool(largest=1)


@fuzz(lambda build: SplitLargePool(largest=build.choice([3, 2, 5, 8])))
def test_any_pool_computes_the_same(build: Builder) -> list[str]:
    rank = build.choice([2, 1, 3])
    op = build.choice(["AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool"])
    x = build.input([build.integer(1, 2), build.integer(1, 3), *build.shape((rank, rank), (1, 12))])
    if "Average" in op or build.chance(3):  # a mean of 0 would have to be equal to the last bit
        x = build.node("Abs", [x])
    if op.startswith("Global"):
        return [build.node(op, [x])]
    kernel = build.shape((rank, rank), (1, 12))
    others = build.shape((rank, rank), (1, 4))
    since_10 = op == "MaxPool" or build.opset >= 11
    auto_pad = build.choice([None, None, "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])
    pads = [build.chance(12) * 1 for _ in kernel * 2]
    y = build.node(
        op,
        [x],
        outputs=build.choice([1, 1, 2]) if op == "MaxPool" else 1,
        kernel_shape=kernel,
        strides=build.choice([kernel, kernel, others, None]),
        auto_pad=auto_pad,
        pads=pads if auto_pad in (None, "NOTSET") and build.chance(2) else None,
        ceil_mode=build.choice([None, 0, 1]) if since_10 and build.opset >= 10 else None,
        count_include_pad=build.choice([None, 1]) if op == "AveragePool" else None,
    )
    return y[: build.integer(1, 2)] if isinstance(y, list) else [y]
