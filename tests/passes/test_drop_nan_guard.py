import numpy as np
import pytest

from graphsurgery.passes.drop_nan_guard import DropNanGuard
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

GUARD = "nan = IsNaN (s)  y = Where (nan, zero, s)"
ZERO = "float zero = {0}"


def model(
    body: str, weights: str = ZERO, inputs: str = "", opset: int = 17, y: str = "float[2, 3, 3] y", kind: str = "float"
) -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g ({kind}[2, 3, 4] q, {kind}[2, 4, 3] k{inputs}) => ({y}) {f"<{weights}>" if weights else ""} {{
            scores = MatMul (q, k) {body}
        }}"""


def guarded(body: str, weights: str = ZERO, **rest: object) -> str:
    return model(f"{body}  {GUARD}", weights, **rest)  # type: ignore[arg-type]


def test_the_guard_behind_scores_that_nothing_masks_goes() -> None:
    before = guarded("s = Softmax <axis = -1> (scores)")
    assert_rewrites(DropNanGuard(), before, model("y = Softmax <axis = -1> (scores)", ""))


@pytest.mark.parametrize("opset", [13, 17, 21])
def test_a_mask_computed_from_booleans_is_finite(opset: int) -> None:
    mask = "m = Cast <to = 1> (seen)  l = Sub (one, m)  n = Mul (l, least)  masked = Add (scores, n)"
    weights = "float one = {1}, float least = {-3.4028235e38}"
    options = {"inputs": ", bool[2, 1, 3] seen", "opset": opset}
    before = guarded(f"{mask}  s = Softmax <axis = 2> (masked)", f"{ZERO}, {weights}", **options)
    after = model(f"{mask}  y = Softmax <axis = 2> (masked)", weights, **options)  # type: ignore[arg-type]
    assert_rewrites(DropNanGuard(), before, after)


INF = "float[3, 3] causal = {0, -inf, -inf, 0, 0, -inf, 0, 0, 0}"


def test_a_constant_mask_that_leaves_one_number_in_each_row_will_do() -> None:
    body = "masked = Add (causal, scores)"
    before = guarded(f"{body}  s = Softmax <axis = 2> (masked)", f"{ZERO}, {INF}")
    assert_rewrites(DropNanGuard(), before, model(f"{body}  y = Softmax <axis = 2> (masked)", INF))


def test_a_condition_that_leaves_one_number_in_each_row_will_do() -> None:
    weights = "bool[3, 3] kept = {1, 0, 0, 1, 1, 0, 1, 1, 1}, float least = {-inf}"
    body = "masked = Where (kept, scores, least)"
    before = guarded(f"{body}  s = Softmax <axis = 2> (masked)", f"{ZERO}, {weights}")
    assert_rewrites(DropNanGuard(), before, model(f"{body}  y = Softmax <axis = 2> (masked)", weights))


def test_a_mask_is_looked_at_along_the_axis_of_the_softmax() -> None:
    weights = "float[3, 3] causal = {-inf, -inf, -inf, 0, 0, 0, 0, 0, 0}"
    body = "masked = Add (causal, scores)"
    assert_untouched(
        DropNanGuard(),
        guarded(f"{body}  s = Softmax <axis = 2> (masked)", f"{ZERO}, {weights}"),
        "a row of its mask is -inf throughout",
    )
    before = guarded(f"{body}  s = Softmax <axis = 1> (masked)", f"{ZERO}, {weights}")
    assert_rewrites(DropNanGuard(), before, model(f"{body}  y = Softmax <axis = 1> (masked)", weights))


def test_two_masks_that_leave_nothing_together_are_refused() -> None:
    weights = f"{ZERO}, {INF}, float[3, 3] other = {{-inf, 0, 0, 0, 0, 0, 0, 0, 0}}"
    body = "a = Add (causal, scores)  b = Add (a, other)  s = Softmax <axis = 2> (b)"
    assert_untouched(DropNanGuard(), guarded(body, weights), "a row of its mask is -inf throughout")


def test_two_masks_of_the_lowest_number_overflow_and_are_refused() -> None:
    weights = f"{ZERO}, float[3, 3] low = {{{', '.join(['-3.4028235e38'] * 9)}}}"
    body = "a = Add (low, scores)  b = Add (a, low)  s = Softmax <axis = 2> (b)"
    assert_untouched(DropNanGuard(), guarded(body, weights), "may overflow to an infinity")


def test_a_mask_of_the_lowest_number_in_half_precision_is_refused() -> None:
    weights = "float16 zero = {0}, float most = {-65504}"  # the text format takes bits for a float16
    body = "low = Cast <to = 10> (most)  b = Add (scores, low)  s = Softmax <axis = 2> (b)"
    given = guarded(body, weights, y="float16[2, 3, 3] y", kind="float16")
    assert_untouched(DropNanGuard(), given, "may overflow to an infinity")


@pytest.mark.parametrize(
    ("mask", "why"),
    [
        ("m = Identity (mask)", "'m', which it is computed from, is not known to be finite"),
        ("m = Where (seen, nothing, least)", "'m', which it is computed from, may be infinite"),
        ("m = Log (mask)", "'m', which it is computed from, is not known to be finite"),
    ],
)
def test_a_mask_of_which_nothing_tells_that_it_is_finite_is_refused(mask: str, why: str) -> None:
    inputs = ", float[2, 3, 3] mask, bool[2, 3, 3] seen"
    weights = f"{ZERO}, float nothing = {{0}}, float least = {{-inf}}"
    body = f"{mask}  b = Add (scores, m)  s = Softmax <axis = 2> (b)"
    assert_untouched(DropNanGuard(), guarded(body, weights, inputs=inputs), why)


def test_rows_of_more_than_one_axis_with_a_mask_are_refused() -> None:
    body = "b = Add (scores, causal)  s = Softmax <axis = 1> (b)"
    given = guarded(body, f"{ZERO}, {INF}", opset=12)
    assert_untouched(DropNanGuard(), given, "its rows are all axes from 1 on")


@pytest.mark.parametrize(
    ("zero", "why"),
    [("float zero = {1}", "in place of NaN is not 0"), ("float[1, 1, 1, 1] zero = {0}", "may be larger")],
)
def test_what_is_no_plain_zero_is_refused(zero: str, why: str) -> None:
    y = "float[1, 2, 3, 3] y" if "1, 1" in zero else "float[2, 3, 3] y"
    assert_untouched(DropNanGuard(), guarded("s = Softmax <axis = 2> (scores)", zero, y=y), why)


def test_a_guard_of_something_else_is_left_alone() -> None:
    body = "s = Softmax <axis = 2> (scores)  nan = IsNaN (scores)  y = Where (nan, zero, s)"
    assert_untouched(DropNanGuard(), model(body), None)


@fuzz(DropNanGuard())
def test_any_attention_computes_the_same(build: Builder) -> list[str]:
    if build.opset < 9:
        build.reject()
    rank, kind = build.integer(2, 4), build.dtype([np.float32, np.float16, np.float64])
    shape = [*build.shape(rank=(rank - 2, rank - 2)), build.integer(1, 3), build.integer(1, 3)]
    inner = build.integer(1, 3)
    q, k = build.input([*shape[:-1], inner], kind), build.input([*shape[:-2], inner, shape[-1]], kind)
    x = build.node("MatMul", [q, k])
    for _ in range(build.integer(0, 2)):
        own = [size if build.chance(2) else 1 for size in shape][build.integer(0, rank) :]
        values = build.choice([[-np.inf, 0.0, 1.0], [-1e4, 0.0, 0.0], [float(np.finfo(kind).min), 0.0, 0.0]])
        mask = np.array([values[build.integer(0, 2)] for _ in range(int(np.prod(own)))], kind).reshape(own)
        if build.chance(3):
            x = build.node("Where", [build.constant(np.isneginf(mask)), build.constant(np.array(-np.inf, kind)), x])
        else:
            x = build.node("Add", [x, build.constant(mask)])
    s = build.node("Softmax", [x], axis=build.choice([None, -1, rank - 1, 0]))
    zero = build.constant(np.zeros([1] * build.integer(0, 1), kind))
    return [build.node("Where", [build.node("IsNaN", [s]), zero, s])]
